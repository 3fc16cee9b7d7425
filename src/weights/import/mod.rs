//! `vidgen model convert`: weights in other forms become safetensors in the layout of diffusers. What torch.save has written is
//! read without running anything in it ([`pickle`]); tensors go from the mapped file to the written one, one at a time.
//!
//! The output is there whole or not at all.

mod checkpoint;
mod folder;
mod open_clip;
mod pickle;
mod streaming;

use super::error::{ModelError, Result, refuse};
use super::files::SMALL_FILE;
use super::source::Source;
use crate::disk::{self, Partial};
pub(super) use checkpoint::check;
use checkpoint::{Converted, Stored};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// By name.
type Tensors = BTreeMap<String, Stored>;

/// What is converted into what.
#[derive(Debug)]
pub struct Conversion<'a> {
    /// A folder, or a file of tensors.
    pub input: &'a Path,
    /// A folder of the plain network that a checkpoint was trained from: what the checkpoint does not have is its.
    pub base: Option<&'a Path>,
    /// The image encoder where the checkpoint has none: a folder of transformers, or a file of OpenCLIP.
    pub image_encoder: Option<&'a Path>,
    pub output: &'a Path,
    /// Of floats; none as each form has it (the file's own, for streaming checkpoints f16).
    pub dtype: Option<Dtype>,
}

/// A weight file that was written.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct WrittenFile {
    /// Inside the output.
    pub path: String,
    pub tensors: usize,
    pub bytes: u64,
}

/// Why nothing was converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConversionError {
    /// What was asked for does not go together.
    Usage(String),
    Model(ModelError),
}

impl From<ModelError> for ConversionError {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}

impl Conversion<'_> {
    /// # Errors
    /// Input that is none of the known forms or damaged, tensors that are missing or left over, an output that exists.
    pub fn run(&self) -> std::result::Result<Vec<WrittenFile>, ConversionError> {
        if self.output.symlink_metadata().is_ok() {
            let message = format!("{}: exists: give another place, or remove it", self.output.display());
            return Err(ConversionError::Usage(message));
        }
        if self.input.is_dir() {
            self.check(None, "a folder")?;
            let source = Source::Folder(self.input.to_owned());
            return Ok(self.folder(self.dtype, |output| folder::convert(&source, output))?);
        }
        let tensors = checkpoint::open(self.input)?;
        let layout = streaming::Layout::of(&tensors);
        self.check(layout.as_ref(), "a single file of tensors")?;
        match &layout {
            Some(layout) => {
                let floats = Some(self.dtype.unwrap_or(Dtype::F16));
                Ok(self.folder(floats, |output| streaming::convert(self, layout, tensors, output))?)
            }
            None => Ok(vec![self.file(tensors)?]),
        }
    }

    /// Whether the flags are those that the input needs.
    fn check(&self, layout: Option<&streaming::Layout>, what: &str) -> std::result::Result<(), ConversionError> {
        let shown = self.input.display();
        let name = self.output.to_string_lossy();
        let message = match layout {
            None if self.base.is_some() => format!("--base has no effect on {what}: leave it out"),
            None if self.image_encoder.is_some() => format!("--image-encoder has no effect on {what}: leave it out"),
            None if !self.input.is_dir() && !name.ends_with(".safetensors") => format!(
                "{shown}: no checkpoint of a streaming model (base_model., or unet. with controlnet.), so its tensors keep their \
                 names in one file: give -o NAME.safetensors"
            ),
            Some(_) if self.base.is_none() => format!(
                "{shown}: a checkpoint of a streaming model: give --base DIR, the folder of the network it was trained from"
            ),
            Some(layout) if layout.image_encoder.is_some() && self.image_encoder.is_some() => {
                "--image-encoder has no effect: the checkpoint has one; leave it out".to_owned()
            }
            Some(layout) if layout.image_encoder.is_none() && self.image_encoder.is_none() => format!(
                "{shown}: has no image encoder: give --image-encoder FILE (OpenCLIP's ViT-H-14), or a folder of transformers"
            ),
            _ => return Ok(()),
        };
        Err(ConversionError::Usage(message))
    }

    /// One file of tensors under the same names.
    fn file(&self, tensors: Tensors) -> Result<WrittenFile> {
        let name = self.output.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let failed = |error: std::io::Error| ModelError::new(format!("{}: {error}", self.output.display()));
        let (partial, _file) = Partial::file(self.output).map_err(failed)?;
        let written = write(partial.path(), &name, tensors, self.dtype)?;
        std::fs::rename(partial.path(), self.output).map_err(failed)?;
        Ok(written)
    }

    fn folder(&self, dtype: Option<Dtype>, fill: impl FnOnce(&mut Output) -> Result<()>) -> Result<Vec<WrittenFile>> {
        let failed = |error: std::io::Error| ModelError::new(format!("{}: {error}", self.output.display()));
        let partial = Partial::directory(self.output).map_err(failed)?;
        let mut output = Output { folder: partial.path().to_owned(), dtype, files: Vec::new() };
        fill(&mut output)?;
        std::fs::rename(partial.path(), self.output).map_err(failed)?;
        Ok(output.files)
    }
}

/// A model folder in the making.
struct Output {
    folder: PathBuf,
    dtype: Option<Dtype>,
    files: Vec<WrittenFile>,
}

impl Output {
    fn place(&self, path: &str) -> Result<PathBuf> {
        let place = self.folder.join(path);
        match std::fs::create_dir_all(disk::parent(&place)) {
            Ok(()) => Ok(place),
            Err(error) => refuse!("{}: {error}", place.display()),
        }
    }

    /// Writes the tensors of a part; `path` is inside the model.
    fn write(&mut self, path: &str, tensors: Tensors) -> Result<()> {
        let file = write(&self.place(path)?, path, tensors, self.dtype)?;
        self.files.push(file);
        Ok(())
    }

    /// Copies a configuration or vocabulary.
    fn copy(&self, source: &Source, path: &str) -> Result<()> {
        self.text(path, &source.read(path, SMALL_FILE)?)
    }

    fn text(&self, path: &str, text: &[u8]) -> Result<()> {
        let place = self.place(path)?;
        match std::fs::write(&place, text) {
            Ok(()) => Ok(()),
            Err(error) => refuse!("{}: {error}", place.display()),
        }
    }

    fn json(&self, path: &str, value: &serde_json::Value) -> Result<()> {
        self.text(path, format!("{value:#}\n").as_bytes())
    }
}

/// Whether a name is one of a configuration, a vocabulary or a text.
fn text_file(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, suffix)| ["json", "txt", "model", "md"].contains(&suffix))
}

/// Refuses a part that lacks tensors.
fn lacking(what: &str, expected: impl Iterator<Item = String>, there: &Tensors) -> Result<()> {
    let missing: Vec<String> = expected.filter(|name| !there.contains_key(name)).collect();
    if !missing.is_empty() {
        refuse!("{what} lacks {}", some_of(&missing));
    }
    Ok(())
}

/// The first three of some tensors, and how many they are.
fn some_of(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(3).map(String::as_str).collect();
    let more = if names.len() > shown.len() { ".." } else { "" };
    format!("{} tensor{}: {}{more}", names.len(), if names.len() == 1 { "" } else { "s" }, shown.join(", "))
}

fn write(place: &Path, path: &str, tensors: Tensors, dtype: Option<Dtype>) -> Result<WrittenFile> {
    let count = tensors.len();
    // diffusers and transformers look for it
    let about = [("format".to_owned(), "pt".to_owned())].into();
    let converted = tensors.into_iter().map(|(name, tensor)| {
        let dtype = dtype.unwrap_or(tensor.dtype);
        (name, Converted::new(tensor, dtype))
    });
    match safetensors::serialize_to_file(converted, Some(about), place) {
        Ok(()) => {}
        Err(error) => refuse!("{}: {error}", place.display()),
    }
    let bytes = place.metadata().map_or(0, |data| data.len());
    Ok(WrittenFile { path: path.to_owned(), tensors: count, bytes })
}
