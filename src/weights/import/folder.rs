//! Folders in the layout of diffusers or transformers whose weights are pickles: the same folder with safetensors.

use super::checkpoint::{self, Stored};
use super::{Output, Tensors, text_file};
use crate::weights::error::{Result, refuse};
use crate::weights::files::{self, Index, Layout, SMALL_FILE};
use crate::weights::source::Source;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Names of weights without their suffix, and what the safetensors are called: diffusers' and transformers' ways.
const STEMS: [(&str, &str); 2] = [("diffusion_pytorch_model", "diffusion_pytorch_model"), ("pytorch_model", "model")];

/// Converts the folder itself and the folders in it, one level deep.
pub fn convert(source: &Source, output: &mut Output) -> Result<()> {
    if !source.has("model_index.json") && !source.has("config.json") {
        refuse!("{}: neither model_index.json nor config.json: no model in the layout of diffusers", source.place());
    }
    let Source::Folder(folder) = source else { refuse!("{}: not a folder", source.place()) };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let parts = entries.filter(|entry| entry.path().is_dir());
    let mut parts: Vec<String> = parts.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    parts.retain(|part| !part.starts_with('.'));
    parts.sort();
    parts.insert(0, String::new());
    for part in &parts {
        for name in source.list(part).iter().filter(|name| text_file(name) && !name.contains(".index.")) {
            output.copy(source, &files::inside(part, name))?;
        }
        if let Some((stem, tensors)) = tensors(source, part)? {
            output.write(&files::inside(part, &format!("{stem}.safetensors")), tensors)?;
        }
    }
    if output.files.is_empty() {
        refuse!("{}: holds no weights", source.place());
    }
    Ok(())
}

/// The tensors of a part and what its file is called without its suffix; none of a part without weights.
pub fn tensors(source: &Source, part: &str) -> Result<Option<(&'static str, Tensors)>> {
    let place = |name: &str| std::path::PathBuf::from(source.show(&files::inside(part, name)));
    if let Some((layout, _)) = files::locate(part, |path| source.has(path)) {
        let stem = if layout.path().contains(STEMS[0].0) { STEMS[0].1 } else { STEMS[1].1 };
        let all = match &layout {
            Layout::Single(path) => vec![source.show(path).into()],
            Layout::Sharded(path) => Index::read(source, path)?.shards().into_iter().map(place).collect(),
        };
        return Ok(Some((stem, joined(&all)?)));
    }
    let names = source.list(part);
    for (stem, written) in STEMS {
        for variant in ["", ".fp16", ".bf16"] {
            let single = format!("{stem}{variant}.bin");
            let indices = [format!("{stem}.bin.index{variant}.json"), format!("{stem}.bin{variant}.index.json")];
            let files = match indices.iter().find(|name| names.contains(name)) {
                Some(index) => shards(source, &files::inside(part, index))?.iter().map(|name| place(name)).collect(),
                None if names.contains(&single) => vec![place(&single)],
                None => continue,
            };
            return Ok(Some((written, joined(&files)?)));
        }
    }
    Ok(None)
}

/// The tensors of several files, each of which has others.
fn joined(files: &[std::path::PathBuf]) -> Result<Tensors> {
    let mut all: BTreeMap<String, Stored> = BTreeMap::new();
    for file in files {
        for (name, tensor) in checkpoint::open(file)? {
            if all.insert(name.clone(), tensor).is_some() {
                refuse!("{}: tensor {name:?} is in another file of the part as well", file.display());
            }
        }
    }
    Ok(all)
}

/// The files of an index of pickled shards.
fn shards(source: &Source, path: &str) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Shards {
        weight_map: BTreeMap<String, String>,
    }
    let text = source.read(path, SMALL_FILE)?;
    let shown = source.show(path);
    let index: Shards = match serde_json::from_slice(&text) {
        Ok(index) => index,
        Err(error) => refuse!("{shown}: not an index of shards ({error})"),
    };
    let files: BTreeSet<String> = index.weight_map.into_values().collect();
    if let Some(file) = files.iter().find(|file| file.contains(['/', '\\']) || !files::is_pickle(file)) {
        refuse!("{shown}: shard {file:?} is no file of pickled weights in the folder");
    }
    Ok(files)
}
