//! How much arithmetic a job takes: multiply-adds of the matrix products and convolutions, which are nearly all of it. For
//! the remaining time that is told while it runs.

use super::{Job, Segment};
use crate::models::cogvideox::transformer::TransformerConfig;
use crate::models::cogvideox::vae::VaeConfig;

/// Multiply-adds of one denoising step, both halves of guidance.
pub fn step(job: &Job) -> f64 {
    let config = &job.transformer;
    let windows = job.segments.iter().flat_map(|segment| &segment.plan.windows);
    windows.map(|window| 2.0 * forward(config, tokens(job, window.len))).sum::<f64>() * (1.0 + twice(job))
}

/// The share of the work that is done twice because a window is source and target: of steps times layers, for inner windows.
fn twice(job: &Job) -> f64 {
    let Some(sharing) = &job.controls.sharing else { return 0.0 };
    let depth = job.transformer.num_layers;
    let layers = (0..job.steps).filter_map(|step| Some(depth - sharing.at(step)?.start())).sum::<usize>();
    let inner = |segment: &Segment| {
        segment.plan.windows.windows(2).filter(|pair| pair.iter().all(|window| window.joined)).count()
    };
    let windows: usize = job.segments.iter().map(|segment| segment.plan.windows.len()).sum();
    let inner: usize = job.segments.iter().map(inner).sum();
    layers as f64 / (job.steps * depth) as f64 * inner as f64 / windows as f64
}

/// Multiply-adds of decoding the whole video.
pub fn decode(job: &Job) -> f64 {
    let (_, height, width) = job.latents;
    job.segments.iter().map(|segment| decoder(&job.vae, segment.plan.keep - segment.padding, height * width)).sum()
}

fn tokens(job: &Job, frames: usize) -> f64 {
    let (_, height, width) = job.latents;
    let patch = job.transformer.patch_size.pow(2) * job.transformer.patch_size_t.unwrap_or(1);
    (job.transformer.max_text_seq_length + frames * height * width / patch) as f64
}

/// Of one row: projections (4 D^2), feed-forward (8 D^2) and attention (2 L D) for each token and layer.
fn forward(config: &TransformerConfig, tokens: f64) -> f64 {
    let dim = config.inner_dim() as f64;
    config.num_layers as f64 * tokens * (12.0 * dim * dim + 2.0 * tokens * dim)
}

/// Of the decoder: its 3x3x3 convolutions, two in each residual block, at the sizes of its blocks.
fn decoder(config: &VaeConfig, frames: usize, pixels: usize) -> f64 {
    let channels: Vec<f64> = config.block_out_channels.iter().rev().map(|&channels| channels as f64).collect();
    let doublings = config.temporal_ratio().ilog2() as usize;
    let (mut frames, mut pixels) = (frames as f64, pixels as f64);
    let mut before = channels[0];
    let mut sum = 27.0 * frames * pixels * before * (config.latent_channels as f64 + 4.0 * before);
    for (block, &channels) in channels.iter().enumerate() {
        let blocks = config.layers_per_block as f64 + 1.0;
        let first = before * channels + channels * channels;
        sum += 27.0 * frames * pixels * (first + (blocks - 1.0) * 2.0 * channels * channels);
        if block + 1 < config.block_out_channels.len() {
            frames *= if block < doublings { 2.0 } else { 1.0 };
            pixels *= 4.0;
            sum += 9.0 * frames * pixels * channels * channels;
        }
        before = channels;
    }
    sum + 27.0 * frames * pixels * before * config.out_channels as f64
}
