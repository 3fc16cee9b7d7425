//! A whole model, or one network, in one file of another program's names, read as a folder in diffusers' layout. What a model's file
//! does not hold comes from beside it: the tokenizer's folder, which there must be, and a scheduler's configuration, where there is one.

use super::error::{ModelError, Result, refuse};
use super::header::{Entry, Header};
use crate::models::original::{Original, Renamed, Shapes};
use crate::models::registry;
use std::collections::BTreeMap;
use std::path::PathBuf;

pub(super) const SCHEDULER: &str = "scheduler/scheduler_config.json";
const TOKENIZER: &str = "tokenizer";
/// A tokenizer is the files of one of these.
pub(super) const TOKENIZERS: [&[&str]; 3] =
    [&["tokenizer/tokenizer.json"], &["tokenizer/spiece.model"], &["tokenizer/vocab.json", "tokenizer/merges.txt"]];

/// The file, and what it stands for.
#[derive(Debug)]
pub(super) struct Single {
    /// The directory it lies in.
    pub folder: PathBuf,
    /// Its name there.
    pub file: String,
    /// Of the whole file.
    pub bytes: u64,
    pub header: Header,
    /// Configurations that follow from it and do not lie beside it, by their paths in the folder.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Its tensors by part.
    pub parts: BTreeMap<&'static str, Vec<Entry>>,
}

impl Single {
    /// What a file of this header stands for as a model. `has`: whether a path is there beside it. Errors do not name the file: the
    /// caller does.
    pub fn model(place: (PathBuf, String), header: (Header, u64), has: impl Fn(&str) -> bool) -> Result<Self> {
        let original = registry::original(&shapes(&header.0)).map_err(|error| ModelError::new(format!("{error:#}")))?;
        let Some(original) = original else {
            refuse!(
                "a file, not a model folder, and no checkpoint in the layout of Stable Diffusion's own programs (no tensor begins with \
                 model.diffusion_model.); give the folder with model_index.json in it"
            )
        };
        let mut single = Self::new(place, header, original)?;
        if !TOKENIZERS.iter().any(|files| files.iter().all(|path| has(path))) {
            refuse!(
                "such a file holds no tokenizer; put a folder {TOKENIZER:?} beside it, with vocab.json and merges.txt of a model folder of \
                 the same kind"
            )
        }
        single.files.retain(|path, _| !(may_lie_beside(path) && has(path)));
        Ok(single)
    }

    /// What it stands for as one network of a class. Errors do not name the file.
    pub fn network(place: (PathBuf, String), header: (Header, u64), class: &str) -> Result<Self> {
        let original = registry::original_network(class, &shapes(&header.0));
        match original.map_err(|error| ModelError::new(format!("{error:#}")))? {
            Some(original) => Self::new(place, header, original),
            None => refuse!(
                "a file, not a folder, and no {class} in the layout of its own program (no tensor begins with input_hint_block. or \
                 control_model.input_hint_block.); give the folder with config.json in it"
            ),
        }
    }

    fn new((folder, file): (PathBuf, String), (header, bytes): (Header, u64), original: Original) -> Result<Self> {
        let by_name: BTreeMap<&str, &Entry> = header.entries.iter().map(|entry| (entry.name.as_str(), entry)).collect();
        let mut parts = BTreeMap::<&str, Vec<Entry>>::new();
        for renamed in original.tensors {
            let Some(entry) = by_name.get(renamed.of.as_str()) else { continue };
            parts.entry(renamed.part).or_default().push(taken(entry, renamed)?);
        }
        let files = original.files.into_iter().map(|(path, value)| (path, value.to_string().into_bytes())).collect();
        Ok(Self { folder, file, bytes, header, files, parts })
    }

    /// Names of the configurations in a directory of the folder.
    pub fn names(&self, directory: &str) -> impl Iterator<Item = String> {
        let inside = move |path: &String| path.strip_prefix(directory)?.strip_prefix('/').map(str::to_owned);
        self.files.keys().filter_map(inside)
    }

    /// Whether a path of the folder is the file itself, or may be a file beside it.
    pub fn may_be_on_disk(&self, path: &str) -> bool {
        path == self.file || may_lie_beside(path) && !self.files.contains_key(path)
    }
}

fn shapes(header: &Header) -> Shapes {
    header.entries.iter().map(|entry| (entry.name.clone(), entry.shape.clone())).collect()
}

/// What is read beside the file.
pub(super) fn may_lie_beside(path: &str) -> bool {
    path == SCHEDULER || path == TOKENIZER || path.strip_prefix(TOKENIZER).is_some_and(|rest| rest.starts_with('/'))
}

/// A tensor by its new name, or some of its rows.
fn taken(entry: &Entry, renamed: Renamed) -> Result<Entry> {
    let Renamed { name, rows, shape, of, .. } = renamed;
    let mut range = entry.range.clone();
    if let Some((first, count)) = rows {
        let all = entry.shape.first().copied().unwrap_or(0);
        let row = range.len().checked_div(all).unwrap_or(0);
        if first.checked_add(count).is_none_or(|end| end > all) || row * all != range.len() {
            refuse!("tensor {of:?} has {all} rows, and rows {first} to {} are wanted", first.saturating_add(count));
        }
        range = range.start + first * row..range.start + (first + count) * row;
    }
    let taken = Entry { name, dtype: entry.dtype, shape, range };
    if taken.elements().checked_mul(taken.dtype.bitsize() as u64) != Some(taken.range.len() as u64 * 8) {
        refuse!("tensor {of:?} has shape {:?}, and {:?} is wanted", entry.shape, taken.shape);
    }
    Ok(taken)
}
