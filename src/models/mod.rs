//! The networks. A model knows its weights and where its sites are; it does not know steps, prompts, other branches or
//! processors.

pub mod architecture;
pub mod autoencoder;
pub mod autoencoder_kl;
pub mod autoencoders;
pub mod blocks2d;
pub mod clip;
pub mod cogvideox;
pub mod continuation;
pub mod control;
pub mod faces;
pub mod given;
pub mod i3d;
mod latent_time;
pub mod layers;
pub mod lpips;
pub mod original;
pub mod placement;
pub mod registry;
pub mod rife;
pub mod sd;
pub mod stiv;
pub mod stream;
pub mod tiling;
pub mod u2net;
pub mod unet;
pub mod vit;

pub use crate::attention::{Added, Row, Time};
pub use architecture::Architecture;
pub use autoencoder::Autoencoder;
pub use latent_time::LatentTime;

use crate::attention::Hooks;
use candle_core::{Result, Tensor};
use std::fmt;

/// A video denoiser: noisy latents, conditions and a time in, a prediction out.
pub trait Denoiser: Send + Sync {
    /// Predictions `[F, C, H, W]` in f32, one for each row the pass ends with (forks may have changed their number). Rows
    /// go through the network layer-major: all rows pass one layer before the next.
    ///
    /// # Errors
    /// When a row has a part that the network does not take, or not in this form (see [`Row`]).
    fn forward(&self, rows: &[Row], hooks: &mut Hooks) -> Result<Vec<Tensor>>;
}

/// A network gave values that are not finite.
#[derive(Debug)]
pub struct NotFinite(pub &'static str);

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} gave values that are not finite", self.0)
    }
}

impl std::error::Error for NotFinite {}
