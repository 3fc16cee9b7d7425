//! Where weights come from, their names and their dtype: the only room that opens weight files.
//!
//! A model is a folder in the diffusers layout (`model_index.json`, and one directory for each part), wherever it lives: in
//! the binary, in a folder, in the hub's cache. All are read by the same code. Weights are safetensors; pickles are refused
//! and never opened. Opening a model reads its configuration files, opening a part the headers of its weight files;
//! weights are read when a network asks for them, one tensor at a time.
//!
//! Everything here comes from outside: sizes are checked before memory is taken, names of files stay inside the model,
//! and what is wrong is said in one line that names the file and what to do ([`ModelError`]).

mod backend;
mod convert;
mod embedded;
mod error;
mod files;
mod header;
mod part;
mod source;
mod tensor_cache;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;

pub use embedded::EMBEDDED;
pub use error::ModelError;
pub use part::{Part, TensorInfo};
pub use tensor_cache::TensorCache;

use error::{Result, refuse};
use serde::de::DeserializeOwned;
use source::Source;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Pipeline classes (`_class_name` of `model_index.json`) that this program runs.
pub const PIPELINES: [&str; 1] = ["CogVideoXPipeline"];

const MODEL_INDEX: &str = "model_index.json";

/// A model in the diffusers folder layout, wherever it lives. Cheap to clone. Opening reads no weights.
#[derive(Clone)]
pub struct ModelFolder(Arc<Inner>);

struct Inner {
    name: String,
    source: Source,
    index: ModelIndex,
    /// Parts opened so far: their headers are read and their files hashed once.
    parts: Mutex<HashMap<String, Part>>,
}

/// `model_index.json`.
#[derive(Debug, serde::Deserialize)]
struct ModelIndex {
    #[serde(rename = "_class_name")]
    class: String,
}

impl ModelFolder {
    /// Opens a model: `toyland` (in the binary), a folder, or a name that the hub knows.
    pub fn open(spec: &str, offline: bool) -> anyhow::Result<Self> {
        let _ = offline;
        if spec == EMBEDDED {
            return Ok(Self::embedded());
        }
        Self::folder(Path::new(spec))
    }

    /// The model inside the binary.
    pub fn embedded() -> Self {
        let source = Source::Embedded { name: EMBEDDED, files: embedded::TOYLAND };
        // a test opens it
        Self::from_source(EMBEDDED.to_owned(), source).expect("the embedded model is well formed")
    }

    /// A folder of this machine.
    pub fn folder(path: &Path) -> anyhow::Result<Self> {
        Ok(Self::from_folder(path.display().to_string(), path)?)
    }

    fn from_folder(name: String, path: &Path) -> Result<Self> {
        let shown = path.display();
        if !path.is_dir() {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            match () {
                _ if files::is_pickle(&file) => return Err(part::pickled(&shown.to_string())),
                _ if path.exists() => {
                    refuse!("{shown}: a file, not a model folder; give the folder with {MODEL_INDEX} in it")
                }
                _ => refuse!("{shown}: no such folder"),
            }
        }
        Self::from_source(name, Source::Folder(path.to_owned()))
    }

    fn from_source(name: String, source: Source) -> Result<Self> {
        if !source.has(MODEL_INDEX) {
            refuse!("{}: no such file; a model folder of diffusers has one", source.show(MODEL_INDEX));
        }
        let index: ModelIndex = json(&source, MODEL_INDEX)?;
        if !PIPELINES.contains(&index.class.as_str()) {
            let (place, class) = (source.show(MODEL_INDEX), &index.class);
            refuse!("{place}: pipeline class {class:?} is not supported; supported: {}", PIPELINES.join(", "));
        }
        Ok(Self(Arc::new(Inner { name, source, index, parts: Mutex::default() })))
    }

    /// The name the model was opened by, for messages and the manifest.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Where the model's files are, for messages.
    pub fn place(&self) -> String {
        self.0.source.place()
    }

    /// The pipeline class, one of [`PIPELINES`].
    pub fn class(&self) -> &str {
        &self.0.index.class
    }

    /// Whether the model has a file of this path (`tokenizer/spiece.model`).
    pub fn has(&self, path: &str) -> bool {
        self.0.source.has(path)
    }

    /// A small file as a whole: a configuration, a tokenizer. At most 64 MiB.
    pub fn read(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        Ok(self.0.source.read(path, files::SMALL_FILE)?)
    }

    /// A JSON file. Errors name the file and the key.
    pub fn json<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        Ok(json(&self.0.source, path)?)
    }

    /// A part with weights: `transformer`, `vae`, `text_encoder`. Reads the headers of its weight files; errors when the part
    /// is missing, damaged or pickled.
    pub fn part(&self, name: &str) -> anyhow::Result<Part> {
        let mut parts = self.0.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = parts.get(name) {
            return Ok(part.clone());
        }
        let Some(part) = Part::open(&self.0.source, name)? else { return Err(self.missing(name).into()) };
        parts.insert(name.to_owned(), part.clone());
        Ok(part)
    }

    /// The error of a part without weights.
    fn missing(&self, name: &str) -> ModelError {
        let source = &self.0.source;
        if !source::is_inside(name) {
            return ModelError::new(format!("{name:?} is not the name of a part of {}", source.place()));
        }
        let looked = ["diffusion_pytorch_model.safetensors", "model.safetensors"].join(", ");
        ModelError::new(format!(
            "{}: part {name:?} is missing: looked for {looked}, their .fp16 and .bf16 forms and their index files",
            source.show(name)
        ))
    }
}

/// Reads a JSON file; errors name the file and the key.
fn json<T: DeserializeOwned>(source: &Source, path: &str) -> Result<T> {
    let text = source.read(path, files::SMALL_FILE)?;
    let mut reader = serde_json::Deserializer::from_slice(&text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let key = error.path().to_string();
        let key = if key == "." { String::new() } else { format!("key {key:?}: ") };
        ModelError::new(format!("{}: {key}{}", source.show(path), error.inner()))
    })?;
    match reader.end() {
        Ok(()) => Ok(value),
        Err(error) => refuse!("{}: {error}", source.show(path)),
    }
}
