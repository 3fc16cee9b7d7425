//! What a model is, for `vidgen model info`: parts, parameters, stored types, native size, and what is missing or damaged.
//! Headers and configurations are read, weights are not.

use super::error::{ModelError, Result};
use super::files::{SCHEDULER, TOKENIZERS, tokenizers};
use super::part::Part;
use super::{ModelFolder, ToDownload, json, nearly};
use crate::models::architecture::{Native, PartClass, Role};
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::collections::BTreeMap;

/// What a model is. Serializes to the object that `--json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelInfo {
    pub name: String,
    /// Where its files are.
    pub place: String,
    /// Commit of a hub model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Pipeline class.
    pub class: String,
    /// Size, length and rate it was made for; none when the configurations that say so cannot be read.
    pub native: Option<Native>,
    /// In the order of a run: tokenizer, text encoder, transformer, scheduler, VAE.
    pub parts: Vec<PartInfo>,
    pub parameters: u64,
    /// Stored size of all weights.
    pub bytes: u64,
    /// No part is missing or damaged.
    pub complete: bool,
    /// What a run would have to fetch first; none where everything is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download: Option<ToDownload>,
}

/// One part of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartInfo {
    pub name: String,
    pub class: Option<String>,
    pub state: PartState,
    /// What is wrong with it, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    pub parameters: u64,
    /// Stored size of its weights.
    pub bytes: u64,
    /// Number of parameters stored in each type, by the names of safetensors.
    pub dtypes: BTreeMap<String, u64>,
    /// Its weight files, or what there is instead of weights.
    pub files: Vec<FileInfo>,
    /// Other forms of its weights that are there and not used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PartState {
    Present,
    Missing,
    Damaged,
}

/// A file of a part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileInfo {
    /// Path inside the model.
    pub path: String,
    pub bytes: u64,
}

/// Describes a model. What is missing or damaged is part of the description, not an error.
pub fn info(model: &ModelFolder) -> ModelInfo {
    let there = |part: &&PartClass| part.required || !model.0.source.list(part.name).is_empty();
    let parts: Vec<PartInfo> = model.family().parts.iter().filter(there).map(|part| described(model, part)).collect();
    ModelInfo {
        name: model.name().to_owned(),
        place: model.place(),
        revision: model.revision().map(str::to_owned),
        class: model.class().to_owned(),
        native: model.native().ok(),
        parameters: parts.iter().map(|part| part.parameters).sum(),
        bytes: parts.iter().map(|part| part.bytes).sum(),
        complete: parts.iter().all(|part| part.state == PartState::Present),
        download: model.to_download(),
        parts,
    }
}

impl PartInfo {
    fn new(name: &str, class: Option<String>, found: Result<Option<()>>, missing: impl FnOnce() -> ModelError) -> Self {
        let (state, problem) = match found {
            Ok(Some(())) => (PartState::Present, None),
            Ok(None) => (PartState::Missing, Some(missing().to_string())),
            Err(error) => (PartState::Damaged, Some(error.to_string())),
        };
        Self {
            name: name.to_owned(),
            class,
            state,
            problem,
            parameters: 0,
            bytes: 0,
            dtypes: BTreeMap::new(),
            files: Vec::new(),
            ignored: Vec::new(),
        }
    }

    fn with_files(mut self, model: &ModelFolder, paths: &[&str]) -> Self {
        let source = &model.0.source;
        let files = paths.iter().filter(|path| source.has(path));
        self.files =
            files.filter_map(|path| Some(FileInfo { path: (*path).to_owned(), bytes: source.size(path)? })).collect();
        self
    }
}

fn described(model: &ModelFolder, part: &PartClass) -> PartInfo {
    match part.role {
        Role::Tokenizer => tokenizer(model),
        Role::Scheduler => scheduler(model),
        _ => weighted(model, part.name),
    }
}

/// A part with weights.
fn weighted(model: &ModelFolder, name: &str) -> PartInfo {
    let source = &model.0.source;
    let config = format!("{name}/config.json");
    let opened = Part::open(source, name);
    let checked = match &opened {
        Ok(Some(_)) => {
            json::<Value>(source, &config).and_then(|_| super::check_class(source, model.family(), name)).map(Some)
        }
        Ok(None) => Ok(None),
        Err(error) => Err(error.clone()),
    };
    let mut info = PartInfo::new(name, class(model, name, &config), checked, || nearly::missing(&model.0.source, name));
    if let Ok(Some(part)) = opened {
        info.parameters = part.elements();
        info.bytes = part.bytes();
        info.dtypes = part.dtypes().into_iter().map(|(dtype, elements)| (dtype.to_string(), elements)).collect();
        info.files = part.files().map(|(path, bytes)| FileInfo { path: path.to_owned(), bytes }).collect();
        info.ignored = part.ignored().to_vec();
    }
    info
}

fn tokenizer(model: &ModelFolder) -> PartInfo {
    let source = &model.0.source;
    let there = TOKENIZERS.into_iter().find(|files| files.iter().all(|path| source.has(path)));
    let checked = |path: &&str| match source.size(path) {
        _ if path.ends_with(".json") => json::<IgnoredAny>(source, path).map(drop),
        Some(1..) => Ok(()),
        _ => Err(ModelError::new(format!("{}: the file is empty; download it again", source.show(path)))),
    };
    let found = there.map(|files| files.iter().try_for_each(checked)).transpose();
    let missing = || ModelError::new(format!("{}: no tokenizer: looked for {}", source.place(), tokenizers()));
    PartInfo::new("tokenizer", class(model, "tokenizer", "tokenizer/tokenizer_config.json"), found, missing)
        .with_files(model, &TOKENIZERS.concat())
}

fn scheduler(model: &ModelFolder) -> PartInfo {
    let source = &model.0.source;
    let found = if source.has(SCHEDULER) { json::<Value>(source, SCHEDULER).map(|_| Some(())) } else { Ok(None) };
    let missing = || ModelError::new(format!("{}: no such file", source.show(SCHEDULER)));
    PartInfo::new("scheduler", class(model, "scheduler", SCHEDULER), found, missing).with_files(model, &[SCHEDULER])
}

/// The class of a part by its own configuration, else by the model index.
fn class(model: &ModelFolder, name: &str, config: &str) -> Option<String> {
    let own: Value = json(&model.0.source, config).unwrap_or_default();
    let named =
        [&own["_class_name"], &own["architectures"][0], &own["tokenizer_class"], &model.0.index.entries[name][1]];
    named.into_iter().find_map(|value| value.as_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::tests::{folder, message, open, small};
    use serde_json::json;

    #[test]
    fn the_embedded_model_is_complete() {
        let info = info(&ModelFolder::embedded());
        assert_eq!(info.native, Some(Native { width: 144, height: 96, frames: 49, fps: 8 }));
        assert!(info.complete);
        let parts: Vec<_> = info
            .parts
            .iter()
            .map(|part| (part.name.as_str(), part.class.as_deref().unwrap(), part.parameters))
            .collect();
        let family = ModelFolder::embedded().family();
        let class = |role| family.parts.iter().find(|part| part.role == role).unwrap().classes[0];
        let expected = [
            ("tokenizer", "T5TokenizerFast", 0),
            ("text_encoder", "T5EncoderModel", 344_192),
            ("transformer", class(Role::Denoiser), 4_582_816),
            ("scheduler", family.schedulers[0].class, 0),
            ("vae", class(Role::Autoencoder), 2_033_059),
        ];
        assert_eq!(parts, expected);
        assert_eq!((info.parameters, info.bytes), (6_960_067, 2 * 6_960_067));
        let value = serde_json::to_value(&info).unwrap();
        assert_eq!(value["parts"][2]["dtypes"], json!({"F16": 4_582_816}));
        assert_eq!(value["parts"][2]["files"][0]["path"], "transformer/diffusion_pytorch_model.safetensors");
        assert_eq!((&value["parts"][2]["state"], &value["native"]["fps"]), (&json!("present"), &json!(8)));
    }

    #[test]
    fn missing_and_damaged_parts_are_described() {
        let files: [(&str, &[u8]); 6] = [
            (
                "transformer/config.json",
                br#"{"sample_width":170,"sample_height":96,"sample_frames":81,"patch_size_t":2}"#,
            ),
            ("transformer/diffusion_pytorch_model.safetensors", &small()[..60]),
            ("vae/config.json", br#"{"_class_name":"AutoencoderKL","block_out_channels":[1,2,3,4]}"#),
            ("vae/diffusion_pytorch_model.safetensors", &small()),
            ("text_encoder/pytorch_model.bin", b"junk"),
            ("tokenizer/tokenizer.json", b"{"),
        ];
        let folder = folder(&files);
        let model = open(&folder).unwrap();
        let info = info(&model);
        assert!(!info.complete);
        assert_eq!(info.native, Some(Native { width: 1360, height: 768, frames: 81, fps: 16 }));
        let states: Vec<_> = info.parts.iter().map(|part| (part.name.as_str(), part.state)).collect();
        use PartState::{Damaged, Missing};
        let expected = [
            ("tokenizer", Damaged),
            ("text_encoder", Damaged),
            ("transformer", Damaged),
            ("scheduler", Missing),
            ("vae", Damaged),
        ];
        assert_eq!(states, expected);
        let says = [
            "tokenizer.json",
            "pytorch_model.bin: pickled",
            "announces a header",
            "scheduler_config.json",
            "AutoencoderKL",
        ];
        for (part, says) in info.parts.iter().zip(says) {
            assert!(part.problem.as_deref().unwrap().contains(says), "{part:?}");
        }
        // a part of another class is not loaded either
        let text = message(model.part("vae").map(drop));
        assert!(text.contains("vae/config.json: _class_name \"AutoencoderKL\" is not supported"), "{text}");

        let empty = crate::weights::tests::folder(&[]);
        let info = super::info(&open(&empty).unwrap());
        assert!(info.native.is_none() && info.parts.iter().all(|part| part.state == Missing), "{info:?}");
    }
}
