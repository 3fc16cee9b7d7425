//! The norm of queries and keys, and the rotary position embedding that comes after it.

use super::cpu::{self, rms, rows};
use super::norm::layer_norm;
use candle_core::{D, DType, Result, Tensor, bail};

/// Layer norm over the last axis (`weight` and `bias` are `[D]`), then the rotation of all tokens but the first `text`: `x`
/// is `[B, N, L, D]` with any strides, `rotary` holds cosines and sines `[L - text, D/2]` in f32.
///
/// Pair `(x[2i], x[2i+1])` becomes `(x[2i] cos[i] - x[2i+1] sin[i], x[2i+1] cos[i] + x[2i] sin[i])`, which is diffusers'
/// `apply_rotary_emb` with `use_real_unbind_dim = -1`.
///
/// From the fast versions the result's storage is that of `[B, L, N, D]`, which their attention reads as it is.
pub fn qk_norm_rope(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    rotary: Option<(&Tensor, &Tensor)>,
    text: usize,
) -> Result<Tensor> {
    if let Some(y) = fast(x, (weight, bias, eps), rotary, text)? {
        return Ok(y);
    }
    let y = layer_norm(&x.contiguous()?, Some(weight), Some(bias), eps)?;
    let Some((cos, sin)) = rotary else { return Ok(y) };
    let l = y.dim(2)?;
    let turned = plain_rope(&y.narrow(2, text, l - text)?.to_dtype(DType::F32)?, cos, sin)?.to_dtype(y.dtype())?;
    if text == 0 { Ok(turned) } else { Tensor::cat(&[y.narrow(2, 0, text)?, turned], 2) }
}

fn plain_rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (b, n, l, d) = x.dims4()?;
    let pairs = x.reshape((b, n, l, d / 2, 2))?;
    let (even, odd) = (pairs.narrow(D::Minus1, 0, 1)?.squeeze(4)?, pairs.narrow(D::Minus1, 1, 1)?.squeeze(4)?);
    let first = (even.broadcast_mul(cos)? - odd.broadcast_mul(sin)?)?;
    let second = (odd.broadcast_mul(cos)? + even.broadcast_mul(sin)?)?;
    Tensor::stack(&[first, second], 4)?.reshape((b, n, l, d))
}

/// The fast version, where the tensors allow it.
fn fast(
    x: &Tensor,
    (weight, bias, eps): (&Tensor, &Tensor, f64),
    rotary: Option<(&Tensor, &Tensor)>,
    text: usize,
) -> Result<Option<Tensor>> {
    #[cfg(feature = "cuda")]
    if let Some(y) = super::cuda::qk_norm_rope(x, (weight, bias, eps), rotary, text)? {
        return Ok(Some(y));
    }
    let (b, n, l, d) = x.dims4()?;
    if x.elem_count() == 0 || weight.dims() != [d] || bias.dims() != [d] {
        return Ok(None);
    }
    let x = if x.stride()[3] == 1 { x.clone() } else { x.contiguous()? };
    let mut tensors = vec![x, weight.contiguous()?, bias.contiguous()?];
    if let Some((cos, sin)) = rotary {
        if text > l || d % 2 != 0 || cos.dims() != [l - text, d / 2] || sin.dims() != cos.dims() {
            return Ok(None);
        }
        tensors.extend([cos.contiguous()?, sin.contiguous()?]);
    }
    if !tensors.iter().all(cpu::takes) {
        return Ok(None);
    }
    let values = cpu::with_views(&tensors.iter().collect::<Vec<_>>(), |views| {
        let slices: Vec<&[f32]> = views[1..].iter().filter_map(cpu::View::contiguous).collect();
        let norm = rows::LayerNorm { weight: Some(slices[0]), bias: Some(slices[1]), eps };
        let rotary = rotary.map(|_| (slices[2], slices[3]));
        Ok(rows::Heads { norm, rotary, text }.run(views[0]))
    })?;
    Tensor::from_vec(values, (b, l, n, d), tensors[0].device())?.transpose(1, 2).map(Some)
}

/// Rotary positions whose pairs are the halves of an axis: `x[j]` and `x[j + n/2]` of each axis of n numbers.
#[derive(Debug, Clone)]
pub struct Halves {
    /// `[L, D/2]` in f32: those of the first axis, then those of the next.
    pub cos: Tensor,
    pub sin: Tensor,
    /// The widths n, even, together D.
    pub axes: Vec<usize>,
}

/// RMS norm over the last axis (`weight` is `[D]`; none leaves it out), then the rotation: `x` is `[B, N, L, D]` with any strides. A
/// pair `(a, b)` becomes `(a cos - b sin, b cos + a sin)`.
///
/// From the fast version the result lies as attention reads it best: as `[B, L, N, D]`, or as `[L, B, N, D]` where `x` lies so.
pub fn rms_norm_rope(x: &Tensor, weight: Option<&Tensor>, eps: f64, rotary: Option<&Halves>) -> Result<Tensor> {
    let (b, n, l, d) = x.dims4()?;
    if let Some(Halves { cos, sin, axes }) = rotary
        && (cos.dims() != [l, d / 2]
            || sin.dims() != cos.dims()
            || axes.iter().sum::<usize>() != d
            || axes.iter().any(|axis| axis % 2 != 0))
    {
        bail!("rotary tables {:?} of axes {axes:?} for {l} tokens with heads of {d}", cos.dims())
    }
    if weight.is_some_and(|weight| weight.dims() != [d]) {
        bail!("a norm of {:?} for heads of {d}", weight.map(Tensor::dims))
    }
    if weight.is_none() && rotary.is_none() {
        return Ok(x.clone());
    }
    let x = if x.stride()[3] == 1 || d <= 1 { x.clone() } else { x.contiguous()? };
    let mut tensors = vec![x.clone()];
    tensors.extend(weight.map(Tensor::contiguous).transpose()?);
    if let Some(Halves { cos, sin, .. }) = rotary {
        tensors.extend([cos.contiguous()?, sin.contiguous()?]);
    }
    if x.elem_count() == 0 || !tensors.iter().all(cpu::takes) {
        return plain_rms_norm_rope(&x, weight, eps, rotary);
    }
    let (values, turned) = cpu::with_views(&tensors.iter().collect::<Vec<_>>(), |views| {
        let mut slices = views[1..].iter().filter_map(cpu::View::contiguous);
        let weight = weight.and_then(|_| slices.next());
        let rotary = rotary.and_then(|rotary| Some((slices.next()?, slices.next()?, rotary.axes.as_slice())));
        let heads = rms::RmsHeads { weight, eps: eps as f32, rotary };
        Ok((heads.run(views[0]), rms::turned(&views[0])))
    })?;
    if turned {
        return Tensor::from_vec(values, (l, b, n, d), x.device())?.permute((1, 2, 0, 3));
    }
    Tensor::from_vec(values, (b, l, n, d), x.device())?.transpose(1, 2)
}

fn plain_rms_norm_rope(x: &Tensor, weight: Option<&Tensor>, eps: f64, rotary: Option<&Halves>) -> Result<Tensor> {
    let mut y = x.to_dtype(DType::F32)?;
    if let Some(weight) = weight {
        let scale = (y.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
        y = y.broadcast_div(&scale)?.broadcast_mul(&weight.to_dtype(DType::F32)?)?;
    }
    let Some(Halves { cos, sin, axes }) = rotary else { return y.to_dtype(x.dtype()) };
    let (mut parts, mut start) = (Vec::with_capacity(2 * axes.len()), 0);
    for half in axes.iter().map(|axis| axis / 2) {
        let (a, b) = (y.narrow(3, start, half)?, y.narrow(3, start + half, half)?);
        let (cos, sin) = (cos.narrow(1, start / 2, half)?, sin.narrow(1, start / 2, half)?);
        parts.push((a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?);
        parts.push((b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?);
        start += 2 * half;
    }
    Tensor::cat(&parts, 3)?.to_dtype(x.dtype())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::on_each_isa;
    use crate::cpu::tests::{assert_close, random};

    #[test]
    fn norm_and_rotation_equal_their_plain_versions() {
        on_each_isa(|isa| {
            for (b, n, l, d, text) in [
                (1, 1, 1, 2, 0),
                (2, 3, 7, 16, 2),
                (1, 2, 40, 64, 32),
                (2, 1, 5, 10, 5),
                (1, 30, 33, 64, 0),
                (1, 2, 300, 18, 1),
            ] {
                let what = format!("{isa:?} {b}x{n}x{l}x{d}, {text} of text");
                let (weight, bias) = (random(&[d]), random(&[d, 1]).squeeze(1).unwrap());
                let (cos, sin) =
                    (random(&[l - text, d / 2]), random(&[l - text, d / 2 + 1]).narrow(1, 1, d / 2).unwrap());
                let joined = random(&[b, l, 3, n, d]);
                let strided = joined.narrow(2, 1, 1).unwrap().squeeze(2).unwrap().transpose(1, 2).unwrap();
                let turned = random(&[b, n, d, l]).transpose(2, 3).unwrap();
                for x in [random(&[b, n, l, d]), strided, turned] {
                    let whole = x.contiguous().unwrap();
                    let normed = crate::norm::plain_layer_norm(&whole, Some(&weight), Some(&bias), 1e-6).unwrap();
                    let rest = plain_rope(&normed.narrow(2, text, l - text).unwrap(), &cos, &sin).unwrap();
                    let want = Tensor::cat(&[normed.narrow(2, 0, text).unwrap(), rest], 2).unwrap();
                    // Two numbers in a row have little but their difference: their norm is ill-conditioned.
                    let limit = if d == 2 { 1e-4 } else { 2e-6 };
                    let got = qk_norm_rope(&x, &weight, &bias, 1e-6, Some((&cos, &sin)), text).unwrap();
                    assert!(got.transpose(1, 2).unwrap().is_contiguous());
                    assert_close(&what, &got, &want, limit);
                    let got = qk_norm_rope(&x, &weight, &bias, 1e-6, None, text).unwrap();
                    assert_close(&what, &got, &normed, limit);
                }
            }
        });
    }

    #[test]
    fn tables_that_do_not_fit_are_errors() {
        let (x, cos) = (random(&[1, 2, 4, 8]), random(&[3, 4]));
        let weight = random(&[8]);
        assert!(qk_norm_rope(&x, &weight, &weight, 1e-6, Some((&cos, &cos)), 0).is_err());
        assert!(qk_norm_rope(&x, &weight, &weight, 1e-6, Some((&cos, &cos)), 1).is_ok());
    }

    #[test]
    fn halves_of_axes_are_turned_after_an_rms_norm() {
        on_each_isa(|isa| {
            for (b, n, l, axes) in [
                (1, 1, 1, vec![2]),
                (3, 2, 5, vec![12, 12]),
                (2, 3, 7, vec![32, 32]),
                (4, 1, 6, vec![6, 2]),
                (2, 2, 9, vec![64]),
            ] {
                let d: usize = axes.iter().sum();
                let (weight, rotary) = (
                    random(&[d]),
                    Halves { cos: random(&[l, d / 2]), sin: random(&[l, 1, d / 2]).squeeze(1).unwrap(), axes },
                );
                let (rows, frames) = (random(&[b, l, 3, n, d]), random(&[l, b, 3, n, d]));
                let rows = rows.narrow(2, 1, 1).unwrap().squeeze(2).unwrap().transpose(1, 2).unwrap();
                let frames = frames.narrow(2, 2, 1).unwrap().squeeze(2).unwrap().permute((1, 2, 0, 3)).unwrap();
                for (x, order) in [(rows, [0, 2, 1, 3]), (frames, [2, 0, 1, 3])] {
                    for (weight, rotary) in
                        [(Some(&weight), Some(&rotary)), (Some(&weight), None), (None, Some(&rotary))]
                    {
                        let want = plain_rms_norm_rope(&x, weight, 1e-6, rotary).unwrap();
                        let got = rms_norm_rope(&x, weight, 1e-6, rotary).unwrap();
                        assert!(b == 1 || l == 1 || got.permute(order).unwrap().is_contiguous());
                        assert_close(&format!("{isa:?} {b}x{n}x{l}x{d}"), &got, &want, 2e-6);
                    }
                }
                let odd = Halves { axes: vec![d + 1], ..rotary.clone() };
                assert!(rms_norm_rope(&random(&[b, n, l, d]), None, 1e-6, Some(&odd)).is_err());
                assert!(rms_norm_rope(&random(&[b, n, l + 1, d]), None, 1e-6, Some(&rotary)).is_err());
            }
        });
    }
}
