//! What a text encoder is to the rest of the program.

use crate::weights::Part;
use candle_core::{DType, Device, Result, Tensor};

/// A text encoder. Opening one maps its files and reads no weights; encoding reads them, and need not keep them.
pub trait TextEncoder {
    /// Width of an embedding, D.
    fn width(&self) -> usize;

    /// What its arithmetic is done in.
    fn dtype(&self) -> DType;

    /// All that embeddings depend on beside the weights and [`TextEncoder::dtype`]; of the key under which they are kept.
    fn fingerprint(&self) -> String;

    /// The embeddings of several texts, `[L, D]` f32 for L ids each; reads each weight once. A text's embedding does not
    /// depend on the others.
    fn encode_all(&self, texts: &[&[u32]]) -> Result<Vec<Tensor>>;

    /// The embedding of one text.
    fn encode(&self, ids: &[u32]) -> Result<Tensor> {
        Ok(self.encode_all(&[ids])?.remove(0))
    }
}

/// A kind of text encoders.
pub struct EncoderClass {
    /// `model_type` of its `config.json`.
    pub model_type: &'static str,
    /// What the names of its blocks' tensors begin with, before their numbers, in one file or another: it is read block by
    /// block.
    pub blocks: &'static [&'static str],
    /// Opens a part of this kind for a dtype, f32 or bf16. Errors name the file and the key of the configuration.
    pub open: fn(&Part, DType, &Device) -> anyhow::Result<Box<dyn TextEncoder>>,
}
