//! The long latent video: which windows of it are denoised together ([`ChunkPlan`]), and how the estimates of
//! overlapping windows are combined ([`Blend`]). The latents themselves are a tensor `[F, C, H, W]` of the denoising loop.

mod blend;
mod given;
mod motion;
mod plan;

pub use blend::{Blend, BlendMode, Estimate, Share, triangle};
pub use given::{GivenClip, KeyframePlan, given_every_other};
pub use motion::{Motion, MotionPath, MotionSteps, moved};
pub use plan::{ChunkPlan, Short, Stride, TextMix, Window, mix};
