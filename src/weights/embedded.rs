//! The model inside the binary. It is a diffusers folder like any other (`models/toyland`), loaded by the same code.

use super::source::Embedded;

/// Name of the embedded model, and the default of the command line.
pub const EMBEDDED: &str = "toyland";

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../models/toyland/", $path)))),*]
    };
}

pub(super) static TOYLAND: Embedded = files![
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
];
