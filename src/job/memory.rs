//! How much memory a job needs, stage by stage, before anything is loaded.
//!
//! Stages follow each other and drop what they loaded, so the need is that of the largest. The estimate counts weights and
//! the largest activations; on the built-in model it is within a fifth of the peak (`make bench-plan`).

use super::Job;
use crate::nn::sdpa::Sdpa;
use crate::run::{self, Code, Failure};
use anyhow::Result;
use candle_core::DType;

/// Bytes of each stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    pub text: u64,
    pub denoise: u64,
    pub decode: u64,
}

/// The program itself, its threads and buffers, as measured on the built-in model.
const BASE: u64 = 64 << 20;

impl Need {
    /// The largest stage.
    pub fn peak(&self) -> u64 {
        BASE + self.text.max(self.denoise).max(self.decode)
    }

    fn stage(&self) -> &'static str {
        match self.text.max(self.denoise).max(self.decode) {
            most if most == self.text => "text encoder",
            most if most == self.denoise => "transformer",
            _ => "decoder",
        }
    }
}

/// Estimates a job.
pub fn need(job: &Job) -> Result<Need> {
    Ok(Need { text: text(job)?, denoise: denoise(job)?, decode: decode(job)? })
}

/// The encoder is read block by block, so what counts is the largest tensor, the table of embeddings, and a block beside it.
fn text(job: &Job) -> Result<u64> {
    let part = job.model.part("text_encoder")?;
    let dtype = if job.device.is_cpu() { DType::F32 } else { job.text_dtype };
    let largest = part.tensors()?.iter().map(|tensor| tensor.elements()).max().unwrap_or(0);
    Ok((largest * 3 * dtype.size_in_bytes() as u64).min(2 * part.bytes_as(dtype)))
}

fn denoise(job: &Job) -> Result<u64> {
    let config = &job.transformer;
    let weights = job.model.part("transformer")?.bytes_as(job.dtype);
    let (channels, height, width) = job.latents;
    let window = job.segments.iter().flat_map(|s| &s.plan.windows).map(|w| w.len).max().unwrap_or(0);
    let patch = config.patch_size * config.patch_size * config.patch_size_t.unwrap_or(1);
    let tokens = (config.max_text_seq_length + window * height * width / patch) as u64;
    let dim = config.inner_dim() as u64;
    let element = job.dtype.size_in_bytes() as u64;
    // two rows' states; of the row at work: its norm, queries, keys, values, their rotated copies, or four times the width
    // in the feed-forward layer, before and after the activation
    let activations = tokens * dim * element * (2 * 2 + 12);
    let scores = (config.num_attention_heads as u64 * tokens * tokens * 4).min(3 * Sdpa::default().budget as u64);
    let frames: usize = job.segments.iter().map(|segment| segment.plan.frames).sum();
    // the timeline, its estimate, the last estimate, the blend's sum and the noise, in f32
    let timeline = (frames * channels * height * width) as u64 * 4 * 6;
    // an edit has the source's rows and timeline beside its own
    let lines = job.lines() as u64;
    Ok(weights + lines * (activations + timeline + shared(job, tokens * dim * element)) + scores)
}

/// What sharing adds: the states of rows that have parted, and the keys and values on their way to the next window.
/// `state`: bytes of one row's.
fn shared(job: &Job, state: u64) -> u64 {
    let (_, height, width) = job.latents;
    let plans = job.segments.iter().map(|segment| &segment.plan);
    let bank = |plan| {
        let bank = job.controls.bank(plan, job.dtype, &job.device)?;
        Some(bank.peak(&super::bank_size(plan, &job.transformer, (height, width))) as u64 + 2 * state)
    };
    plans.filter_map(bank).max().unwrap_or(0)
}

fn decode(job: &Job) -> Result<u64> {
    // about half of the autoencoder is its encoder, which is loaded where a video is given and needs as much for its maps
    let share = if job.given.is_some() { 10 } else { 6 };
    let weights = job.model.part("vae")?.bytes_as(job.vae_dtype) * share / 10;
    let (_, height, width) = job.latents;
    let frames = job.segments.iter().map(|segment| segment.plan.keep - segment.padding).max().unwrap_or(0);
    let memory = job.decode.memory(&job.vae, frames, height, width)?;
    let values = memory.caches + memory.alive;
    // frames of both sides of a fade wait for each other
    let fade = job.segments.iter().map(|segment| segment.fade).max().unwrap_or(0);
    let waiting = (2 * fade * job.width * job.height * 3) as u64;
    Ok(weights + values as u64 * job.vae_dtype.size_in_bytes() as u64 + waiting)
}

/// Refuses a job that this machine cannot hold. Memory of other devices than the CPU is theirs to tell.
pub fn check(job: &Job) -> Result<()> {
    let Some(available) = run::available_memory().filter(|_| job.device.is_cpu()) else { return Ok(()) };
    let peak = job.need.peak();
    if peak <= available {
        return Ok(());
    }
    let advice = match job.need.stage() {
        "transformer" if job.dtype == DType::F32 => "use --dtype bf16, or a smaller size",
        "decoder" if job.decode.tile.is_none() => "use --vae-tiling on, or a smaller size",
        _ => "use a smaller size or a machine with more memory",
    };
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let message = format!(
        "the {} needs about {:.1} GiB and {:.1} GiB of memory are free: {advice}",
        job.need.stage(),
        gib(peak),
        gib(available)
    );
    Err(Failure::message(Code::Memory, message).into())
}
