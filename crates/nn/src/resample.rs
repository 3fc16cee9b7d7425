//! Resampling.

use super::size;
use candle_core::{Result, Tensor};

/// Nearest-neighbour doubling of height and width: `[T, C, H, W]` to `[T, C, 2H, 2W]`.
pub fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    let (t, c, h, w) = x.dims4()?;
    size::check("enlarged frames", x.device(), &[t, c, 2 * h, 2 * w])?;
    x.upsample_nearest2d(2 * h, 2 * w)
}
