//! The first stage: prompts become embeddings.

use crate::job::values::TextCacheAt;
use crate::job::{Job, UncondText};
use crate::run::{Code, Event, Failure, Observer, Phase, WithCode};
use crate::text::{Encoded, NotFinite, TextCache, encode_all};
use anyhow::Context;
use candle_core::Tensor;

/// One embedding for each prompt, and that of the unconditional half.
pub struct Texts {
    /// `[L, D]` each, in the order of the job's prompts; after the source's those of an edit.
    pub prompts: Vec<Tensor>,
    /// `[L, D]`.
    pub uncond: Tensor,
}

/// Encodes the texts of a job; the encoder is gone afterwards.
pub fn encode(job: &Job, observer: &mut dyn Observer) -> Result<Texts, Failure> {
    observer.event(&Event::Phase { phase: Phase::Encode, of: 0, what: "prompts".into() })?;
    let cache = match &job.text_cache {
        Some(TextCacheAt::Folder(folder)) => TextCache::open(Some(folder.clone())),
        _ => TextCache::off(),
    };
    let length = job.transformer.max_text_seq_length;
    let edited = job.controls.edit.iter().flat_map(|edit| &edit.prompts);
    let mut texts: Vec<&str> = job.prompts.iter().chain(edited).map(String::as_str).collect();
    if let UncondText::Text(text) = &job.uncond {
        texts.push(text);
    }
    let encoded = match encode_all(&job.model, &texts, length, job.text_dtype, &job.device, &cache) {
        Err(error) if error.is::<NotFinite>() => return Err(Failure::new(Code::Numbers, error)),
        encoded => encoded.code(Code::Model)?,
    };
    for (text, Encoded { tokens, .. }) in texts.iter().zip(&encoded) {
        if let Some(cut) = &tokens.cut {
            let message =
                format!("the prompt is longer than {length} tokens; this part is not read: {cut:?} (of {text:?})");
            observer.event(&Event::Warning(message))?;
        }
    }
    if let Some(warning) = cache.take_warning() {
        observer.event(&Event::Warning(warning))?;
    }
    let mut prompts: Vec<Tensor> = encoded.into_iter().map(|encoded| encoded.embedding).collect();
    let width = prompts.first().map_or(Ok(0), |embedding| embedding.dim(1))?;
    if width != job.transformer.text_embed_dim {
        let wanted = job.transformer.text_embed_dim;
        let message = format!(
            "{}: the text encoder gives {width} values for a token and the transformer takes {wanted}: these parts are not \
             of one model",
            job.model.place()
        );
        return Err(Failure::message(Code::Model, message));
    }
    let uncond = match job.uncond {
        UncondText::Text(_) => prompts.pop().context("no unconditional text")?,
        UncondText::Zeros => prompts[0].zeros_like()?,
    };
    Ok(Texts { prompts, uncond })
}
