//! What is inside the binary: the network of masks, and small models, which are diffusers folders like any other (`models/`),
//! loaded by the same code.

use super::source::{Embedded, Source};
use candle_core::{DType, Device};
use candle_nn::VarBuilder;

/// Name of the embedded model that is the default of the command line.
pub const EMBEDDED: &str = "toyland";

macro_rules! files {
    ($folder:literal: $($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../models/", $folder, "/", $path)))),*]
    };
}

/// The models by their names. One whose name has a slash lies in the folder of the one before it.
pub(super) static MODELS: [(&str, Embedded); 3] =
    [(EMBEDDED, TOYLAND), ("toyland-image", TOYLAND_IMAGE), ("toyland-image/instruct", TOYLAND_INSTRUCT)];

/// The files of the model of a name.
pub(super) fn named(name: &str) -> Option<Source> {
    let found = MODELS.iter().find(|(known, _)| *known == name);
    found.map(|&(name, files)| Source::Embedded { name, files })
}

const TOYLAND: Embedded = files![
    "toyland":
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

const TOYLAND_IMAGE: Embedded = files![
    "toyland-image":
    "controlnet/config.json",
    "controlnet/diffusion_pytorch_model.safetensors",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
];

const TOYLAND_INSTRUCT: Embedded = files![
    "toyland-image/instruct":
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
];

static U2NETP: &[u8] = include_bytes!("../../models/u2netp/model.safetensors");

/// The weights of U²-Netp, in f32.
pub fn u2netp(device: &Device) -> anyhow::Result<VarBuilder<'static>> {
    Ok(VarBuilder::from_slice_safetensors(U2NETP, DType::F32, device)?)
}
