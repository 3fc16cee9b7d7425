//! Prompts become embeddings.

use crate::job::values::TextCacheAt;
use crate::job::{Compute, Machine, Stage, UncondText};
use crate::run::{Code, Event, Failure, Observer, Phase, WithCode};
use crate::text::{Encoded, NotFinite, TextCache, encode_all};
use anyhow::Context;
use candle_core::Tensor;

/// One embedding for each prompt, and that of the unconditional half.
pub struct Texts {
    /// `[L, D]` each, in the order of [`Stage::texts`].
    pub prompts: Vec<Tensor>,
    /// `[L, D]`.
    pub uncond: Tensor,
    /// Each prompt as one vector `[D]`; empty where the network takes none.
    pub pooled: Vec<Tensor>,
    /// The same of the unconditional half.
    pub no_text: Option<Tensor>,
}

/// What is said of words that the vocabulary does not have.
fn not_understood(text: &str, unknown: &[String]) -> Option<String> {
    const SHOWN: usize = 8;
    let words = text.split_whitespace().count();
    let more = unknown.len().saturating_sub(SHOWN);
    let shown = unknown.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    match unknown.len() {
        0 => None,
        count if count == words => Some(format!(
            "the model knows no word of the prompt {text:?}: the video is of anything; write it in English"
        )),
        _ => Some(format!("the model does not know these words of {text:?}: {shown}{more}; say it with others")),
    }
}

/// Encodes the texts of a stage; the encoder is gone afterwards.
pub fn encode(stage: &Stage, machine: &Machine, observer: &mut dyn Observer) -> Result<Texts, Failure> {
    observer.event(&Event::Phase { phase: Phase::Encode, of: 0, what: "prompts".into() })?;
    let cache = match &machine.text_cache {
        Some(TextCacheAt::Folder(folder)) => TextCache::open(Some(folder.clone())),
        _ => TextCache::off(),
    };
    let spec = stage.model.architecture.text();
    let mut texts: Vec<&str> = stage.texts().collect();
    if let UncondText::Text(text) = &stage.text.uncond {
        texts.push(text);
    }
    let Compute { device, text_dtype, .. } = &stage.compute;
    let encoded = match encode_all(&stage.model.folder, spec, &texts, *text_dtype, device, &cache) {
        Err(error) if error.is::<NotFinite>() => return Err(Failure::new(Code::Numbers, error)),
        encoded => encoded.code(Code::Model)?,
    };
    for (text, Encoded { tokens, .. }) in texts.iter().zip(&encoded) {
        if let Some(cut) = &tokens.cut {
            let message = format!(
                "the prompt is longer than {} tokens; this part is not read: {cut:?} (of {text:?})",
                spec.length
            );
            observer.event(&Event::Warning(message))?;
        }
        if let Some(message) = not_understood(text, &tokens.unknown) {
            observer.event(&Event::Warning(message))?;
        }
    }
    if let Some(warning) = cache.take_warning() {
        observer.event(&Event::Warning(warning))?;
    }
    let end = |encoded: &Encoded| encoded.embedding.get(encoded.tokens.end());
    let pooled: candle_core::Result<Vec<Tensor>> = encoded.iter().filter(|_| spec.pooled).map(end).collect();
    let mut pooled = pooled.map_err(anyhow::Error::from)?;
    let mut prompts: Vec<Tensor> = encoded.into_iter().map(|encoded| encoded.embedding).collect();
    let width = prompts.first().map_or(Ok(0), |embedding| embedding.dim(1))?;
    if width != spec.width {
        let wanted = spec.width;
        let message = format!(
            "{}: the text encoder gives {width} values for a token and the transformer takes {wanted}: these parts are not \
             of one model",
            stage.model.folder.place()
        );
        return Err(Failure::message(Code::Model, message));
    }
    let (uncond, no_text) = match stage.text.uncond {
        UncondText::Text(_) => (prompts.pop().context("no unconditional text")?, pooled.pop()),
        UncondText::Zeros => (prompts[0].zeros_like()?, pooled.first().map(Tensor::zeros_like).transpose()?),
    };
    Ok(Texts { prompts, uncond, pooled, no_text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_not_known_are_told() {
        let said = |text: &str, unknown: &[&str]| {
            not_understood(text, &unknown.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(said("a ball", &[]), None);
        assert!(said("a zyx ball", &["zyx"]).unwrap().contains("these words of \"a zyx ball\": zyx;"));
        assert!(said("红色的球", &["红色的球"]).unwrap().contains("no word"));
        let many: Vec<String> = (0..12).map(|number| format!("w{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(said(&format!("a {}", many.join(" ")), &many).unwrap().contains("w7 and 4 more"));
    }
}
