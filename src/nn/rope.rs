//! Rotary position embedding.

use candle_core::{D, Result, Tensor};

/// Rotates interleaved pairs of the last axis: `x` is `[B, N, L, D]`, `cos` and `sin` are `[L, D/2]`.
///
/// Pair `(x[2i], x[2i+1])` becomes `(x[2i] cos[i] - x[2i+1] sin[i], x[2i+1] cos[i] + x[2i] sin[i])`, which is diffusers'
/// `apply_rotary_emb` with `use_real_unbind_dim = -1`.
pub fn rope_interleaved(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (b, n, l, d) = x.dims4()?;
    let pairs = x.reshape((b, n, l, d / 2, 2))?;
    let (even, odd) = (pairs.narrow(D::Minus1, 0, 1)?.squeeze(4)?, pairs.narrow(D::Minus1, 1, 1)?.squeeze(4)?);
    let first = (even.broadcast_mul(cos)? - odd.broadcast_mul(sin)?)?;
    let second = (odd.broadcast_mul(cos)? + even.broadcast_mul(sin)?)?;
    Tensor::stack(&[first, second], 4)?.reshape((b, n, l, d))
}
