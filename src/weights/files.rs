//! Which files hold the weights of a part, by the names diffusers and transformers give them.
//!
//! `diffusion_pytorch_model` is diffusers' name and `model` transformers'; each as one file or as shards with an index. Where
//! a folder has both forms, the one that the library of that name would load wins: the shards for diffusers, the single
//! file for transformers. Where a folder has several precisions, the plain name wins over `.fp16`, that over `.bf16`.

use super::error::{Result, refuse};
use super::source::Source;
use crate::models::architecture::Family;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Most bytes of a configuration, index or tokenizer file.
pub(super) const SMALL_FILE: u64 = 64 << 20;
/// Most shards of one part.
const SHARD_LIMIT: usize = 1024;
const VARIANTS: [&str; 3] = ["", ".fp16", ".bf16"];
/// What pickled weights are called; they are named in the error, never opened.
const PICKLES: [&str; 6] = ["bin", "ckpt", "pt", "pth", "pkl", "pickle"];

pub(super) use super::single::{SCHEDULER, TOKENIZERS};

/// [`TOKENIZERS`] in words.
pub(super) fn tokenizers() -> String {
    TOKENIZERS.map(|files| files.join(" with ")).join(" or ")
}

/// The weight files of a part.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Layout {
    /// Path inside the model.
    Single(String),
    /// Path of the index inside the model.
    Sharded(String),
}

impl Layout {
    pub fn path(&self) -> &str {
        match self {
            Self::Single(path) | Self::Sharded(path) => path,
        }
    }
}

/// The path of a part's file; the part of no name is the folder itself.
pub(super) fn inside(part: &str, file: &str) -> String {
    if part.is_empty() { file.to_owned() } else { format!("{part}/{file}") }
}

/// All names under which the weights of a part may lie, the one that wins first.
pub(super) fn candidates(part: &str) -> Vec<Layout> {
    let mut all = Vec::new();
    for variant in VARIANTS {
        let single = |base: &str| Layout::Single(inside(part, &format!("{base}{variant}.safetensors")));
        // the variant stands before `.json` in today's names, before `.index` in older ones of diffusers
        let index = |base: &str| Layout::Sharded(inside(part, &format!("{base}.safetensors.index{variant}.json")));
        all.extend([index("diffusion_pytorch_model")]);
        if !variant.is_empty() {
            let older = format!("diffusion_pytorch_model.safetensors{variant}.index.json");
            all.push(Layout::Sharded(inside(part, &older)));
        }
        all.extend([single("diffusion_pytorch_model"), single("model"), index("model")]);
    }
    all
}

/// Finds the weights among what `has` says is there. Also says which other forms are there and not used.
pub(super) fn locate(part: &str, has: impl Fn(&str) -> bool) -> Option<(Layout, Vec<String>)> {
    let mut found = candidates(part).into_iter().filter(|layout| has(layout.path()));
    let winner = found.next()?;
    Some((winner, found.map(|layout| layout.path().to_owned()).collect()))
}

/// What one part lacks to be complete; empty when nothing. Looks at names and index files only.
pub(super) fn missing_of(source: &Source, part: &str) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    let config = inside(part, "config.json");
    missing.extend((!source.has(&config)).then_some(config));
    match locate(part, |path| source.has(path)) {
        Some((Layout::Single(_), _)) => {}
        Some((Layout::Sharded(path), _)) => {
            let shards = Index::read(source, &path)?;
            let shards = shards.shards().into_iter().map(|shard| inside(part, shard));
            missing.extend(shards.filter(|path| !source.has(path)));
        }
        None => missing.push(inside(part, "*.safetensors")),
    }
    Ok(missing)
}

/// What a model folder of a kind lacks to be complete; empty when nothing. Looks at names and index files only.
pub(super) fn missing(source: &Source, family: &Family) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    for part in family.weighted().filter(|part| part.required) {
        missing.extend(missing_of(source, part.name)?);
    }
    if !TOKENIZERS.iter().any(|files| files.iter().all(|path| source.has(path))) {
        missing.push(tokenizers());
    }
    missing.extend((!source.has(SCHEDULER)).then(|| SCHEDULER.to_owned()));
    Ok(missing)
}

/// Pickled weights among the file names of a part.
pub(super) fn pickles(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).filter(|name| is_pickle(name)).collect()
}

/// Whether a file name is one of pickled weights.
pub(super) fn is_pickle(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, suffix)| PICKLES.contains(&suffix.to_ascii_lowercase().as_str()))
}

/// An index of shards: in which file each tensor is.
#[derive(Debug)]
pub(super) struct Index {
    pub tensors: BTreeMap<String, String>,
}

impl Index {
    pub fn read(source: &Source, path: &str) -> Result<Self> {
        Self::parse(&source.read(path, SMALL_FILE)?).map_err(|error| error.within(&source.show(path)))
    }

    /// Reads and checks the text of an index. Errors do not name the file: the caller does.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let index: RawIndex = match serde_json::from_slice(text) {
            Ok(index) => index,
            Err(error) => refuse!("not an index of shards ({error}); download the file again"),
        };
        let WeightMap(entries) = index.weight_map;
        let mut tensors = BTreeMap::new();
        for (tensor, file) in entries {
            if file.contains('/') || !super::source::is_inside(&file) {
                refuse!("shard {file:?} of tensor {tensor:?} is outside the folder; the index was made wrongly");
            }
            if is_pickle(&file) {
                refuse!(
                    "shard {file:?} is a pickle, which can run code and is never opened; `vidgen model convert` makes \
                     safetensors of it"
                );
            }
            if !file.ends_with(".safetensors") {
                refuse!("shard {file:?} of tensor {tensor:?} is not a .safetensors file");
            }
            if tensors.insert(tensor.clone(), file).is_some() {
                refuse!("tensor {tensor:?} stands twice in the index");
            }
        }
        let index = Self { tensors };
        match index.shards().len() {
            0 => refuse!("the index names no shards; download the file again"),
            shards if shards > SHARD_LIMIT => refuse!("the index names {shards} shards, the limit is {SHARD_LIMIT}"),
            _ => Ok(index),
        }
    }

    /// File names of the shards, in order.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.tensors.values().map(String::as_str).collect()
    }
}

#[derive(serde::Deserialize)]
struct RawIndex {
    weight_map: WeightMap,
}

/// Keeps repeated names, which a map would hide.
struct WeightMap(Vec<(String, String)>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = WeightMap;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensor names and file names")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<WeightMap, M::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(WeightMap(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
