//! The networks. A model knows its weights and where its sites are; it does not know steps, prompts, other branches or
//! processors.

pub mod clip;
pub mod cogvideox;
pub mod layers;
pub mod stream;

use crate::attention::Hooks;
use candle_core::{Result, Tensor};

/// One row of a pass: what the network is asked about.
#[derive(Debug, Clone)]
pub struct DenoiserRow {
    /// Noisy latents `[F, C, H, W]`.
    pub latents: Tensor,
    /// Text embeddings `[L, D]`.
    pub text: Tensor,
}

/// A video denoiser: noisy latents, text and a timestep in, a prediction out.
pub trait Denoiser {
    /// Predictions `[F, C, H, W]` in f32, one for each row the pass ends with (forks may have changed their number). Rows
    /// go through the network layer-major: all rows pass one layer before the next. The timestep is the pass's.
    fn forward(&self, rows: &[DenoiserRow], hooks: &mut Hooks) -> Result<Vec<Tensor>>;
}
