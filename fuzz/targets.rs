//! The bodies of the fuzz targets: each feeds bytes to one reader of files of unknown origin, as the program does. A reader may
//! refuse; it may not panic, hang, or take memory that the bytes do not justify.
//!
//! `cargo fuzz run NAME` runs one under libFuzzer; `tests/all/fuzzing.rs` runs all over their corpora with a few thousand seeded
//! mutations, without instrumentation, in the ordinary test suite.

use std::hint::black_box;
use std::path::Path;
use vidgen::batch as jobs;
use vidgen::job::{self, Request};
use vidgen::models::autoencoder_kl;
use vidgen::models::clip::ClipConfig;
use vidgen::models::cogvideox::config::TransformerConfig;
use vidgen::models::cogvideox::vae::VaeConfig;
use vidgen::models::unet::UNetConfig;
use vidgen::models::unet::controlnet::ControlNetConfig;
use vidgen::recipe::{self, Choice};
use vidgen::run::Manifest;
use vidgen::run::journal::{self, Journal};
use vidgen::schedulers::{self, ScheduleKeys, SchedulerKind, Table};
use vidgen::storyboard::{Form, Storyboard};
use vidgen::text::Tokenizer;
use vidgen::weights;

/// Takes bytes of unknown origin.
pub type Target = fn(&[u8]);

/// Targets by their names.
pub const TARGETS: [(&str, Target); 10] = [
    ("safetensors", safetensors),
    ("checkpoint", checkpoint),
    ("spiece", spiece),
    ("tokenizer_json", tokenizer_json),
    ("storyboard", storyboard),
    ("settings", settings),
    ("model_config", model_config),
    ("manifest", manifest),
    ("journal", journal),
    ("batch", batch),
];

/// Headers of weight files, and the index of shards.
pub fn safetensors(data: &[u8]) {
    let _ = black_box(weights::check_safetensors(data));
    let _ = black_box(weights::check_index(data));
}

/// Files of torch.save, and pickles alone.
pub fn checkpoint(data: &[u8]) {
    let _ = black_box(weights::check_checkpoint(data));
}

/// A SentencePiece vocabulary, and a prompt through it.
pub fn spiece(data: &[u8]) {
    tokenizer("spiece.model", data);
}

pub fn tokenizer_json(data: &[u8]) {
    tokenizer("tokenizer.json", data);
}

fn tokenizer(file: &str, data: &[u8]) {
    let read = |name: &str| Ok((name == file).then(|| data.to_vec()));
    let Ok(tokenizer) = Tokenizer::from_files(&read) else { return };
    const PROMPT: &str = "A red ball, rolling\u{2026} \u{e9}\u{1f534} </s>";
    if let Ok(tokens) = tokenizer.encode(PROMPT, 12) {
        let _ = black_box(tokens.find(PROMPT, "red ball"));
    }
}

/// The readers of scenes: the first byte chooses the form.
pub fn storyboard(data: &[u8]) {
    let Some((&form, text)) = data.split_first() else { return };
    let names = ["a.txt", "a.toml", "a.json", "a.yaml", "-"];
    let path = Path::new(names[usize::from(form) % names.len()]);
    if let Ok(storyboard) = Storyboard::from_bytes(path, text, Form::Auto) {
        let _ = black_box(storyboard.split(";"));
    }
}

/// Project files, the settings of scripts, and recipes.
pub fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(table) = toml::from_str(text) {
        let _ = black_box(job::read_settings(table));
        let own = Choice::Text(text.to_owned());
        let _ = black_box(recipe::find(Some(&own), &TransformerConfig::default().recipe_key()));
    }
}

/// The configurations in a model folder.
pub fn model_config(data: &[u8]) {
    if let Ok(config) = serde_json::from_slice::<TransformerConfig>(data) {
        let _ = black_box(config.check());
    }
    if let Ok(config) = serde_json::from_slice::<VaeConfig>(data) {
        let _ = black_box(config.validate());
    }
    if let Ok(config) = serde_json::from_slice::<UNetConfig>(data) {
        let _ = black_box(config.check("unet", true));
    }
    if let Ok(config) = serde_json::from_slice::<ControlNetConfig>(data) {
        let _ = black_box(config.check());
    }
    if let Ok(config) = serde_json::from_slice::<autoencoder_kl::VaeConfig>(data) {
        let _ = black_box(config.check());
    }
    if let Ok(config) = serde_json::from_slice::<ClipConfig>(data) {
        let _ = black_box(config.towers());
    }
    let keys = serde_json::from_slice::<ScheduleKeys>(data).map_err(anyhow::Error::from);
    if let Ok(config) = keys.and_then(|keys| keys.config(&schedulers::CLASSES, None)) {
        let euler = [SchedulerKind::Euler, SchedulerKind::EulerAncestral];
        let others = [SchedulerKind::Dpmpp2m, SchedulerKind::UniPc, SchedulerKind::Lcm];
        for kind in [&[SchedulerKind::Ddim, SchedulerKind::Dpmpp2mSde][..], &euler, &others].concat() {
            let _ = black_box(schedulers::build(&config, kind, Table::Diffusers, 3, 0.0).map(|_| ()));
        }
    }
}

/// The record of a run, in a video or beside it.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(manifest) = Manifest::parse(text) {
        let _ = black_box(Request::of_manifest(&manifest));
    }
}

/// The journal of a run directory: as it is, and with the checksums that its lines should have.
pub fn journal(data: &[u8]) {
    let _ = black_box(Journal::read(data));
    let Ok(text) = std::str::from_utf8(data) else { return };
    let sealed: String = text.lines().map(|line| journal::line(line.get(17..).unwrap_or(line))).collect();
    let _ = black_box(Journal::read(sealed.as_bytes()));
}

/// The jobs of a batch, sweeps written out: the first byte chooses JSON lines or TOML.
pub fn batch(data: &[u8]) {
    let Some((&form, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let mut entries = Vec::new();
    let faults = black_box(jobs::read(text, form % 2 == 1, Path::new("there"), &[], |entry| entries.push(entry)));
    assert!(entries.len() <= jobs::MOST_JOBS && faults.iter().all(|fault| fault.line >= 1));
}
