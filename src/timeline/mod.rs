//! The long latent video: which windows of it are denoised together ([`ChunkPlan`]), the latents themselves
//! ([`LatentTimeline`]), and how what was estimated in overlapping windows becomes one ([`Blend`]).

mod blend;
mod latents;
mod plan;

pub use blend::{Blend, BlendMode, Estimate, Share};
pub use latents::LatentTimeline;
pub use plan::{ChunkPlan, TextMix, Window, mix};
