//! Tokenizers and text encoders: from prompts to the embeddings a denoiser attends to.
//!
//! [`encode_all`] is the whole stage. Encoders are large and needed briefly: what it has encoded before it takes from
//! [`TextCache`], and it lets go of the encoder before it returns.

mod bpe;
mod cache;
mod clip;
mod encoder;
mod special;
mod spiece;
mod t5;
mod tokenizer;
mod words;

pub use cache::{TextCache, TextKey};
pub use clip::ClipEncoder;
pub use encoder::{EncoderClass, TextEncoder};
pub use t5::{T5Config, T5Encoder};
pub use tokenizer::{Tokenizer, Tokens};
pub use words::swapped;

use crate::models::architecture::TextSpec;
use crate::weights::{ModelError, ModelFolder, Part};
use anyhow::{Context, ensure};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::fmt;

/// A text as a denoiser gets it, and what became of its words.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// `[L, D]` f32.
    pub embedding: Tensor,
    pub tokens: Tokens,
}

/// A text encoder gave values that are not finite, computing in this type.
#[derive(Debug)]
pub struct NotFinite(DType);

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "the text encoder gave values that are not finite (computing in {})", self.0.as_str())?;
        if self.0 == DType::F32 { Ok(()) } else { f.write_str(": try --dtype f32") }
    }
}

impl std::error::Error for NotFinite {}

/// The kinds of text encoders, one line each.
static ENCODERS: [&EncoderClass; 2] = [&t5::CLASS, &clip::CLASS];

/// The kind of a part, by the `model_type` of its configuration.
pub fn encoder_class(part: &Part) -> anyhow::Result<&'static EncoderClass> {
    let config: serde_json::Value = part.config()?;
    let known = || ENCODERS.map(|class| format!("{:?}", class.model_type)).join(", ");
    let place = part.config_place();
    let Some(name) = config["model_type"].as_str() else {
        let known = known();
        return Err(ModelError::new(format!("{place}: key \"model_type\" is missing; supported: {known}")).into());
    };
    match ENCODERS.into_iter().find(|class| class.model_type == name) {
        Some(class) => Ok(class),
        None => {
            let known = known();
            Err(ModelError::new(format!("{place}: model_type {name:?} is no text encoder here; supported: {known}"))
                .into())
        }
    }
}

/// Encodes texts for a denoiser that takes `spec` of them, in their order; equal ones once. Weights are read only if some
/// text is not in the cache. `dtype` is f32 or bf16.
///
/// Errors: a missing or damaged tokenizer or text encoder, by file; ids that the encoder does not have; [`NotFinite`].
/// That a prompt was cut is in its tokens, that the cache cannot be written in the cache.
pub fn encode_all(
    model: &ModelFolder,
    spec: TextSpec,
    texts: &[&str],
    dtype: DType,
    device: &Device,
    cache: &TextCache,
) -> anyhow::Result<Vec<Encoded>> {
    let tokenizer = Tokenizer::open(model)?;
    let tokens = texts.iter().map(|text| tokenizer.encode(text, spec.length)).collect::<anyhow::Result<Vec<_>>>()?;
    drop(tokenizer);

    let part = model.part(spec.part)?;
    let encoder = (encoder_class(&part)?.open)(&part, dtype, device)?;
    // the hash reads all weights once
    let weights = if cache.is_off() { String::new() } else { part.hash()? };
    let key = |ids: &[u32]| TextKey::new(&weights, &*encoder, ids);

    let mut embeddings: HashMap<&[u32], Tensor> = HashMap::new();
    let mut missing: Vec<&[u32]> = Vec::new();
    for ids in tokens.iter().map(|tokens| tokens.ids.as_slice()) {
        if embeddings.contains_key(ids) || missing.contains(&ids) {
            continue;
        }
        match cache.get(&key(ids)) {
            Some(embedding) => drop(embeddings.insert(ids, embedding.to_device(device)?)),
            None => missing.push(ids),
        }
    }
    if !missing.is_empty() {
        let encoded = encoder.encode_all(&missing).context("encoding the prompts")?;
        for (ids, embedding) in missing.into_iter().zip(encoded) {
            // a sum is finite only if all its terms are
            let sum = embedding.sum_all()?.to_scalar::<f32>()?;
            ensure!(sum.is_finite(), NotFinite(encoder.dtype()));
            cache.put(&key(ids), &embedding)?;
            embeddings.insert(ids, embedding);
        }
    }
    let encoded = tokens.iter().map(|tokens| embeddings[tokens.ids.as_slice()].clone()).collect::<Vec<_>>();
    Ok(encoded.into_iter().zip(tokens).map(|(embedding, tokens)| Encoded { embedding, tokens }).collect())
}
