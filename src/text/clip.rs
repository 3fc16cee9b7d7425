//! CLIP's text tower as a text encoder: transformers' `CLIPTextModel`, with names of tensors with or without `text_model.`.
//! A text is its last hidden state after the final norm, at all places; padding is not masked.
//!
//! Blocks are loaded one after the other, as those of T5. On the CPU the arithmetic is f32 whatever the dtype.

use super::encoder::{EncoderClass, TextEncoder};
use crate::models::clip::{Layer, TextConfig, TextEmbeddings, Tower, causal_mask};
use crate::models::layers::LayerNorm;
use crate::weights::{ModelError, Part};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;

/// A CLIP text encoder.
pub struct ClipEncoder {
    config: TextConfig,
    tower: Tower,
    /// Where its tensors are: `text_model` or the top.
    vb: VarBuilder<'static>,
}

/// OpenAI's and OpenCLIP's.
pub(super) static CLASS: EncoderClass = EncoderClass {
    model_type: "clip_text_model",
    blocks: &["text_model.encoder.layers.", "encoder.layers."],
    open: |part, dtype, device| Ok(Box::new(ClipEncoder::open(part, dtype, device)?)),
};

impl ClipEncoder {
    /// The text encoder that a part is. `dtype` is f32 or bf16.
    pub fn open(part: &Part, dtype: DType, device: &Device) -> anyhow::Result<Self> {
        let config: TextConfig = part.config()?;
        let tower = config.tower("").map_err(|error| ModelError::new(format!("{}: {error}", part.config_place())))?;
        let vb = part.var_builder_compact(crate::nn::compute_dtype(dtype, device), device)?;
        Ok(Self { config, tower, vb: inner(vb) })
    }

    /// From a configuration and the tensors by transformers' names; computes in the builder's dtype.
    pub fn new(config: TextConfig, vb: VarBuilder<'static>) -> Result<Self> {
        let tower = config.tower("")?;
        Ok(Self { config, tower, vb: inner(vb) })
    }
}

/// Where the tensors are.
fn inner(vb: VarBuilder<'static>) -> VarBuilder<'static> {
    let within = vb.pp("text_model");
    if within.contains_tensor("embeddings.token_embedding.weight") { within } else { vb }
}

impl TextEncoder for ClipEncoder {
    fn width(&self) -> usize {
        self.config.hidden_size
    }

    fn dtype(&self) -> DType {
        self.vb.dtype()
    }

    fn fingerprint(&self) -> String {
        format!("{:?}", self.config)
    }

    fn encode_all(&self, texts: &[&[u32]]) -> Result<Vec<Tensor>> {
        let embeddings = TextEmbeddings::load(&self.config, self.vb.pp("embeddings"))?;
        let mut hidden = texts.iter().map(|ids| embeddings.forward(ids)).collect::<Result<Vec<_>>>()?; // [1, L, D]
        drop(embeddings);
        for layer in 0..self.tower.layers {
            let layer = Layer::load(&self.tower, self.vb.pp("encoder.layers").pp(layer))?;
            for x in &mut hidden {
                let mask = causal_mask(x.dim(1)?, x.dtype(), x.device())?;
                *x = layer.forward(x, Some(&mask))?;
            }
        }
        let norm = LayerNorm::load(self.tower.width, true, self.tower.eps, self.vb.pp("final_layer_norm"))?;
        hidden.iter().map(|x| norm.forward(x)?.squeeze(0)?.to_dtype(DType::F32)).collect()
    }
}
