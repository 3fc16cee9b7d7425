//! What is inside the binary: the network of masks, and small models, which are diffusers folders like any other (`models/`),
//! loaded by the same code.

use super::source::Embedded;
use candle_core::{DType, Device};
use candle_nn::VarBuilder;

/// Name of the embedded model that is the default of the command line.
pub const EMBEDDED: &str = "toyland";

macro_rules! files {
    ($folder:literal: $($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../models/", $folder, "/", $path)))),*]
    };
}

/// The models by their names.
pub(super) static MODELS: [(&str, Embedded); 2] = [(EMBEDDED, TOYLAND), ("toyland-image", TOYLAND_IMAGE)];

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

static U2NETP: &[u8] = include_bytes!("../../models/u2netp/model.safetensors");

/// The weights of U²-Netp, in f32.
pub fn u2netp(device: &Device) -> anyhow::Result<VarBuilder<'static>> {
    Ok(VarBuilder::from_slice_safetensors(U2NETP, DType::F32, device)?)
}
