//! Networks beside a denoiser that see pictures of what is wanted.

use super::Row;
use crate::attention::Hooks;
use candle_core::{Result, Tensor};

/// What a row's features are to be added to.
#[derive(Debug, Clone)]
pub struct Residuals {
    /// For what the denoiser's way down keeps, in its order: `[F, C, H, W]` each.
    pub skips: Vec<Tensor>,
    /// For what its middle gives.
    pub mid: Tensor,
}

impl Residuals {
    /// The sum of two, those of several networks.
    pub fn plus(&self, other: &Self) -> Result<Self> {
        let skips = self.skips.iter().zip(&other.skips).map(|(own, other)| own + other);
        Ok(Self { skips: skips.collect::<Result<_>>()?, mid: (&self.mid + &other.mid)? })
    }
}

/// A network that says of pictures what is to be added to a denoiser's features.
pub trait ControlNetwork: Send + Sync {
    /// What it sees of pictures `[F, 3, H, W]`, RGB in 0 to 1: `[F, C, h, w]`. It depends on no time and no text.
    fn hint(&self, pictures: &Tensor) -> Result<Tensor>;

    /// What is to be added to each row, times `conditioning_scale`. `hints`: what [`ControlNetwork::hint`] made for the frames of
    /// each row. `network` is its index in the run, from 1: that of the denoiser is 0.
    ///
    /// # Errors
    /// Rows that the network does not take, and hints that are not one for each row and of its size.
    fn forward(
        &self,
        rows: &[Row],
        hints: &[Tensor],
        conditioning_scale: f64,
        network: usize,
        hooks: &mut Hooks,
    ) -> Result<Vec<Residuals>>;
}
