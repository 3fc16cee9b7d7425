//! Normalisations, alone and fused with what always follows them.

use candle_core::{D, DType, Result, Tensor};

/// Layer norm over the last axis with f32 statistics; `weight` and `bias` are `[D]`.
pub fn layer_norm(x: &Tensor, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = x.to_dtype(DType::F32)?;
    let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
    let mut y = x.broadcast_div(&(variance + eps)?.sqrt()?)?.to_dtype(dtype)?;
    if let Some(weight) = weight {
        y = y.broadcast_mul(weight)?;
    }
    if let Some(bias) = bias {
        y = y.broadcast_add(bias)?;
    }
    Ok(y)
}

/// One range of tokens with its own modulation; tensors are `[B, D]`.
#[derive(Debug, Clone)]
pub struct Modulation {
    /// Number of tokens it covers; the ranges of a call follow each other and cover the sequence.
    pub tokens: usize,
    pub shift: Tensor,
    pub scale: Tensor,
}

/// `layer_norm(x) * (1 + scale) + shift` on `[B, L, D]`, each range of tokens with its own scale and shift (adaLN).
pub fn layer_norm_modulate(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
    parts: &[Modulation],
) -> Result<Tensor> {
    let x = layer_norm(x, weight, bias, eps)?;
    let mut start = 0;
    let mut done = Vec::with_capacity(parts.len());
    for part in parts {
        let x = x.narrow(1, start, part.tokens)?;
        let x = x.broadcast_mul(&(part.scale.unsqueeze(1)? + 1.0)?)?.broadcast_add(&part.shift.unsqueeze(1)?)?;
        done.push(x);
        start += part.tokens;
    }
    Tensor::cat(&done, 1)
}

/// `residual + gate * x` on `[B, L, D]`, each range of tokens with its own gate `[B, D]`.
pub fn gate_residual(residual: &Tensor, x: &Tensor, gates: &[(usize, Tensor)]) -> Result<Tensor> {
    let mut start = 0;
    let mut done = Vec::with_capacity(gates.len());
    for (tokens, gate) in gates {
        let x = x.narrow(1, start, *tokens)?.broadcast_mul(&gate.unsqueeze(1)?)?;
        done.push((residual.narrow(1, start, *tokens)? + x)?);
        start += tokens;
    }
    Tensor::cat(&done, 1)
}

/// Group norm of `[T, C, H, W]` whose statistics span all T frames of the tensor together (the autoencoder's group norm
/// sees `[1, C, T, H, W]`); `weight` and `bias` are `[C]`.
pub fn group_norm(x: &Tensor, groups: usize, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let (t, c, h, w) = x.dims4()?;
    let dtype = x.dtype();
    let grouped = x.to_dtype(DType::F32)?.reshape((t, groups, c / groups * h, w))?;
    // axis by axis: one f32 sum over millions of values would lose two digits
    let mean = |x: &Tensor| x.mean_keepdim(3)?.mean_keepdim(2)?.mean_keepdim(0);
    let grouped = grouped.broadcast_sub(&mean(&grouped)?)?;
    let variance = mean(&grouped.sqr()?)?; // [1, groups, 1, 1]
    let y = grouped.broadcast_div(&(variance + eps)?.sqrt()?)?.reshape((t, c, h, w))?.to_dtype(dtype)?;
    y.broadcast_mul(&weight.reshape((1, c, 1, 1))?)?.broadcast_add(&bias.reshape((1, c, 1, 1))?)
}

/// [`group_norm`], then SiLU.
pub fn group_norm_silu(x: &Tensor, groups: usize, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    super::act::silu(&group_norm(x, groups, weight, bias, eps)?)
}

/// `silu(group_norm(x) * scale + shift)` of `[T, C, H, W]`, where `scale` and `shift` are maps `[f, C, h, w]` on a coarser
/// grid: frame `t` of `x` reads frame `frames[t]` of the maps, each cell enlarged to `H/h` by `W/w` (both whole numbers).
#[allow(clippy::too_many_arguments)] // the arguments of a norm and of its condition
pub fn spatial_norm_silu(
    x: &Tensor,
    groups: usize,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    scale: &Tensor,
    shift: &Tensor,
    frames: &[u32],
) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    let frames = Tensor::new(frames, x.device())?;
    let enlarged = |map: &Tensor| map.upsample_nearest2d(h, w)?.index_select(&frames, 0);
    let y = group_norm(x, groups, weight, bias, eps)?.mul(&enlarged(scale)?)?.add(&enlarged(shift)?)?;
    super::act::silu(&y)
}
