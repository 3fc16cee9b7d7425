//! Normalisations, alone and fused with what always follows them.

use super::cpu;
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
    match fast_group_norm(x, groups, (weight, bias), eps, false, None)? {
        Some(y) => Ok(y),
        None => plain_group_norm(x, groups, weight, bias, eps),
    }
}

/// [`group_norm`], then SiLU.
pub fn group_norm_silu(x: &Tensor, groups: usize, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    match fast_group_norm(x, groups, (weight, bias), eps, true, None)? {
        Some(y) => Ok(y),
        None => super::act::silu(&plain_group_norm(x, groups, weight, bias, eps)?),
    }
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
    match fast_group_norm(x, groups, (weight, bias), eps, true, Some((scale, shift, frames)))? {
        Some(y) => Ok(y),
        None => {
            let norm = plain_group_norm(x, groups, weight, bias, eps)?;
            plain_condition(&norm, scale, shift, frames)
        }
    }
}

fn plain_group_norm(x: &Tensor, groups: usize, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
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

fn plain_condition(norm: &Tensor, scale: &Tensor, shift: &Tensor, frames: &[u32]) -> Result<Tensor> {
    let (_, _, h, w) = norm.dims4()?;
    let frames = Tensor::new(frames, norm.device())?;
    let enlarged = |map: &Tensor| map.upsample_nearest2d(h, w)?.index_select(&frames, 0);
    super::act::silu(&norm.mul(&enlarged(scale)?)?.add(&enlarged(shift)?)?)
}

/// The fast version, where the tensors allow it.
fn fast_group_norm(
    x: &Tensor,
    groups: usize,
    (weight, bias): (&Tensor, &Tensor),
    eps: f64,
    silu: bool,
    condition: Option<(&Tensor, &Tensor, &[u32])>,
) -> Result<Option<Tensor>> {
    let (t, c, h, w) = x.dims4()?;
    let shapes_fit = groups > 0 && c % groups == 0 && weight.dims() == [c] && bias.dims() == [c] && x.elem_count() > 0;
    if ![x, weight, bias].into_iter().all(cpu::takes) || !shapes_fit {
        return Ok(None);
    }
    let mut tensors = vec![x.contiguous()?, weight.contiguous()?, bias.contiguous()?];
    let mut size = (1, 1);
    if let Some((scale, shift, frames)) = condition {
        let (known, channels, rows, columns) = scale.dims4()?;
        let whole = rows > 0 && columns > 0 && h % rows == 0 && w % columns == 0;
        let inside = frames.len() == t && frames.iter().all(|&frame| (frame as usize) < known);
        if !(cpu::takes(scale) && cpu::takes(shift) && scale.dims() == shift.dims() && channels == c && whole && inside)
        {
            return Ok(None);
        }
        size = (rows, columns);
        tensors.extend([scale.contiguous()?, shift.contiguous()?]);
    }
    let values = cpu::with_slices(&tensors.iter().collect::<Vec<_>>(), |slices| {
        let norm = cpu::norm::GroupNorm { groups, weight: slices[1], bias: slices[2], eps, silu };
        let condition =
            condition.map(|(_, _, frames)| cpu::norm::Condition { scale: slices[3], shift: slices[4], size, frames });
        Ok(norm.run(slices[0], (t, c, h, w), condition.as_ref()))
    })?;
    Tensor::from_vec(values, (t, c, h, w), x.device()).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::cpu::simd::on_each_isa;
    use crate::nn::cpu::tests::{assert_close, random};

    #[test]
    fn group_norm_equals_its_plain_version() {
        on_each_isa(|isa| {
            for (t, c, h, w, groups) in [
                (1, 4, 1, 1, 2),
                (3, 8, 5, 7, 4),
                (2, 6, 33, 47, 1),
                (1, 16, 96, 144, 8),
                (13, 8, 3, 2, 8),
                (2, 2, 300, 301, 1),
            ] {
                let (weight, bias) = (random(&[c]), random(&[c, 1]).squeeze(1).unwrap());
                // A mean far from zero, as activations have it.
                let x = (random(&[t, c, h, w]) + 3.0).unwrap();
                let what = format!("{isa:?} {t}x{c}x{h}x{w} in {groups}");
                let want = plain_group_norm(&x, groups, &weight, &bias, 1e-6).unwrap();
                assert_close(&what, &group_norm(&x, groups, &weight, &bias, 1e-6).unwrap(), &want, 2e-6);
                let got = group_norm_silu(&x, groups, &weight, &bias, 1e-6).unwrap();
                assert_close(&what, &got, &want.silu().unwrap(), 2e-6);
                let turned = x.transpose(2, 3).unwrap();
                let want = want.transpose(2, 3).unwrap().contiguous().unwrap();
                assert_close(&what, &group_norm(&turned, groups, &weight, &bias, 1e-6).unwrap(), &want, 2e-6);
            }
        });
    }

    #[test]
    fn spatial_norm_equals_its_plain_version() {
        on_each_isa(|isa| {
            for (times, (h, w)) in [(1, (3, 5)), (2, (12, 18)), (3, (2, 7)), (4, (3, 9)), (8, (2, 3)), (16, (1, 1))] {
                let (weight, bias) = (random(&[8]), random(&[8, 1]).squeeze(1).unwrap());
                let x = random(&[3, 8, h * times, w * times]);
                let (scale, shift) = (random(&[2, 8, h, w]), random(&[2, 8, w, h]).transpose(2, 3).unwrap());
                let frames = [0, 1, 1];
                let norm = plain_group_norm(&x, 4, &weight, &bias, 1e-6).unwrap();
                let want = plain_condition(&norm, &scale, &shift.contiguous().unwrap(), &frames).unwrap();
                let got = spatial_norm_silu(&x, 4, &weight, &bias, 1e-6, &scale, &shift, &frames).unwrap();
                assert_close(&format!("{isa:?} times {times}"), &got, &want, 2e-6);
            }
        });
    }

    #[test]
    fn sizes_that_do_not_fit_are_errors() {
        let (weight, x) = (random(&[4]), random(&[1, 4, 6, 6]));
        let map = random(&[1, 4, 3, 3]);
        assert!(spatial_norm_silu(&x, 2, &weight, &weight, 1e-6, &map, &map, &[1]).is_err());
        assert!(spatial_norm_silu(&x, 2, &weight, &weight, 1e-6, &map, &random(&[1, 3, 3, 3]), &[0]).is_err());
        assert!(group_norm(&x, 2, &random(&[5]), &weight, 1e-6).is_err());
    }
}
