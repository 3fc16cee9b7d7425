//! A square picture as tokens: a class token, then its patches, with their positions.

use crate::nn::linear::Linear;
use candle_core::{Result, Tensor};

/// What makes tokens of pictures.
#[derive(Debug)]
pub struct Patches {
    /// The class token, `[D]`.
    pub class: Tensor,
    /// A convolution whose patches do not overlap, as a product.
    pub projection: Linear,
    /// `[1 + patches, D]`, that of the class token first.
    pub positions: Tensor,
    /// Pixels of a patch's side.
    pub patch: usize,
    /// Patches of a picture's side.
    pub side: usize,
}

impl Patches {
    /// `[B, 1 + patches, D]` of `[B, 3, S, S]`.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let (b, c, _, _) = pixels.dims4()?;
        let (p, n) = (self.patch, self.side);
        let whole = pixels.narrow(2, 0, n * p)?.narrow(3, 0, n * p)?; // what fills no patch is not seen
        let patches = whole.reshape(&[b, c, n, p, n, p])?.permute(vec![0, 2, 4, 1, 3, 5])?;
        let patches = self.projection.forward(&patches.reshape((b, n * n, c * p * p))?)?;
        let class = self.class.reshape((1, 1, ()))?.broadcast_as((b, 1, patches.dim(2)?))?;
        Tensor::cat(&[&class.to_dtype(patches.dtype())?, &patches], 1)?.broadcast_add(&self.positions)
    }
}
