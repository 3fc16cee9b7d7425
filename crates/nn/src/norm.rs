//! Normalisations, alone and fused with the operations that always follow them.

use super::cpu;
use super::cpu::rows::{self, LayerNorm, Part};
use super::size;
use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::VarBuilder;

/// Layer norm over the last axis with f32 statistics; `weight` and `bias` are `[D]`.
pub fn layer_norm(x: &Tensor, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    match fast_layer_norm(x, weight, bias, eps, &[])? {
        Some(y) => Ok(y),
        None => plain_layer_norm(x, weight, bias, eps),
    }
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
    match fast_layer_norm(x, weight, bias, eps, parts)? {
        Some(y) => Ok(y),
        None => plain_modulate(&plain_layer_norm(x, weight, bias, eps)?, parts),
    }
}

/// `residual + gate * x` on `[B, L, D]`, each range of tokens with its own gate `[B, D]`.
pub fn gate_residual(residual: &Tensor, x: &Tensor, gates: &[(usize, Tensor)]) -> Result<Tensor> {
    match fast_gate_residual(residual, x, gates)? {
        Some(y) => Ok(y),
        None => plain_gate_residual(residual, x, gates),
    }
}

/// A group norm with its weights: `C` channels in `groups`, whose affine map is `[C]`.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    groups: usize,
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl GroupNorm {
    /// `weight` and `bias` of the checkpoint.
    pub fn load(channels: usize, groups: usize, eps: f64, vb: VarBuilder) -> Result<Self> {
        Self::new(groups, vb.get(channels, "weight")?, vb.get(channels, "bias")?, eps)
    }

    /// # Errors
    /// When the channels cannot be parted into so many groups.
    pub fn new(groups: usize, weight: Tensor, bias: Tensor, eps: f64) -> Result<Self> {
        let channels = weight.dims1()?;
        if groups == 0 || !channels.is_multiple_of(groups) || bias.dims() != [channels] {
            bail!("a group norm of {channels} channels in {groups} groups with a bias of {:?}", bias.dims())
        }
        Ok(Self { groups, weight, bias, eps })
    }

    /// Of `[T, C, H, W]` that is `samples` videos of as many frames one after the other, each with statistics of its own: `T`
    /// for a network of images, 1 for the frames of one video together.
    pub fn forward(&self, x: &Tensor, samples: usize) -> Result<Tensor> {
        self.run(x, samples, false)
    }

    /// [`GroupNorm::forward`], then SiLU.
    pub fn forward_silu(&self, x: &Tensor, samples: usize) -> Result<Tensor> {
        self.run(x, samples, true)
    }

    fn run(&self, x: &Tensor, samples: usize, silu: bool) -> Result<Tensor> {
        let (t, c, h, w) = x.dims4()?;
        if samples == 0 || t % samples != 0 {
            bail!("a group norm of {t} frames of {samples} samples")
        }
        if cpu::takes(x)
            && let Some(y) =
                fast_group_norm(x, (samples, self.groups), (&self.weight, &self.bias), self.eps, silu, None)?
        {
            return Ok(y);
        }
        // samples as groups of one: their channels beside each other, frame by frame
        let beside = x.reshape((samples, t / samples, c, h, w))?.transpose(0, 1)?;
        let beside = beside.reshape((t / samples, samples * c, h, w))?;
        let [weight, bias] = [&self.weight, &self.bias].map(|affine| affine.repeat(samples));
        let (groups, weight, bias) = (samples * self.groups, weight?, bias?);
        let norm = if silu { group_norm_silu } else { group_norm };
        let y = norm(&beside, groups, &weight, &bias, self.eps)?;
        y.reshape((t / samples, samples, c, h, w))?.transpose(0, 1)?.reshape((t, c, h, w))
    }
}

/// Group norm of `[T, C, H, W]` whose statistics span all T frames of the tensor together (the autoencoder's group norm
/// sees `[1, C, T, H, W]`); `weight` and `bias` are `[C]`.
pub fn group_norm(x: &Tensor, groups: usize, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    match fast_group_norm(x, (1, groups), (weight, bias), eps, false, None)? {
        Some(y) => Ok(y),
        None => plain_group_norm(x, groups, weight, bias, eps),
    }
}

/// [`group_norm`], then SiLU.
pub fn group_norm_silu(x: &Tensor, groups: usize, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    match fast_group_norm(x, (1, groups), (weight, bias), eps, true, None)? {
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
    match fast_group_norm(x, (1, groups), (weight, bias), eps, true, Some((scale, shift, frames)))? {
        Some(y) => Ok(y),
        None => {
            let norm = plain_group_norm(x, groups, weight, bias, eps)?;
            plain_condition(&norm, scale, shift, frames)
        }
    }
}

pub(super) fn plain_layer_norm(x: &Tensor, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    size::check("the input of a layer norm", x.device(), x.dims())?;
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

fn plain_modulate(x: &Tensor, parts: &[Modulation]) -> Result<Tensor> {
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

fn plain_gate_residual(residual: &Tensor, x: &Tensor, gates: &[(usize, Tensor)]) -> Result<Tensor> {
    size::check("the input of a gated residual", x.device(), x.dims())?;
    let mut start = 0;
    let mut done = Vec::with_capacity(gates.len());
    for (tokens, gate) in gates {
        let x = x.narrow(1, start, *tokens)?.broadcast_mul(&gate.unsqueeze(1)?)?;
        done.push((residual.narrow(1, start, *tokens)? + x)?);
        start += tokens;
    }
    Tensor::cat(&done, 1)
}

fn plain_group_norm(x: &Tensor, groups: usize, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let (t, c, h, w) = x.dims4()?;
    size::check("the input of a group norm", x.device(), x.dims())?;
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

/// The fast version, where the tensors allow it; with `parts` of a `[B, L, D]`.
fn fast_layer_norm(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
    parts: &[Modulation],
) -> Result<Option<Tensor>> {
    #[cfg(feature = "cuda")]
    if let Some(y) = super::cuda::layer_norm(x, weight, bias, eps, parts)? {
        return Ok(Some(y));
    }
    let d = x.dim(D::Minus1)?;
    let batch = if parts.is_empty() { 1 } else { x.dims3()?.0 };
    let covered: usize = parts.iter().map(|part| part.tokens).sum();
    if x.elem_count() == 0 || (!parts.is_empty() && covered != x.dim(1)?) {
        return Ok(None);
    }
    let mut tensors = vec![x.contiguous()?];
    for affine in [weight, bias].into_iter().flatten() {
        if affine.dims() != [d] {
            return Ok(None);
        }
        tensors.push(affine.contiguous()?);
    }
    for part in parts {
        for map in [&part.shift, &part.scale] {
            let Ok(map) = map.broadcast_as((batch, d)) else { return Ok(None) };
            tensors.push(map.contiguous()?);
        }
    }
    if !tensors.iter().all(cpu::takes) {
        return Ok(None);
    }
    let values = cpu::with_slices(&tensors.iter().collect::<Vec<_>>(), |slices| {
        let mut rest = slices[1..].iter().copied();
        let norm = LayerNorm { weight: weight.and_then(|_| rest.next()), bias: bias.and_then(|_| rest.next()), eps };
        let maps: Vec<_> = rest.collect();
        let parts = parts.iter().zip(maps.chunks_exact(2));
        let parts: Vec<_> =
            parts.map(|(part, maps)| Part { tokens: part.tokens, shift: maps[0], scale: maps[1] }).collect();
        Ok(norm.run(slices[0], batch, d, &parts))
    })?;
    Tensor::from_vec(values, x.shape(), x.device()).map(Some)
}

/// The fast version, where the tensors allow it.
fn fast_gate_residual(residual: &Tensor, x: &Tensor, gates: &[(usize, Tensor)]) -> Result<Option<Tensor>> {
    #[cfg(feature = "cuda")]
    if let Some(y) = super::cuda::gate_residual(residual, x, gates)? {
        return Ok(Some(y));
    }
    let (b, l, d) = x.dims3()?;
    let covered: usize = gates.iter().map(|(tokens, _)| tokens).sum();
    if residual.dims() != x.dims() || covered != l || x.elem_count() == 0 {
        return Ok(None);
    }
    let mut tensors = vec![residual.contiguous()?, x.contiguous()?];
    for (_, gate) in gates {
        let Ok(gate) = gate.broadcast_as((b, d)) else { return Ok(None) };
        tensors.push(gate.contiguous()?);
    }
    if !tensors.iter().all(cpu::takes) {
        return Ok(None);
    }
    let values = cpu::with_slices(&tensors.iter().collect::<Vec<_>>(), |slices| {
        let gates: Vec<_> = gates.iter().zip(&slices[2..]).map(|((tokens, _), gate)| (*tokens, *gate)).collect();
        Ok(rows::gate_residual(slices[0], slices[1], b, d, &gates))
    })?;
    Tensor::from_vec(values, x.shape(), x.device()).map(Some)
}

/// The fast version, where the tensors allow it; a GPU has none for several samples.
fn fast_group_norm(
    x: &Tensor,
    (samples, groups): (usize, usize),
    (weight, bias): (&Tensor, &Tensor),
    eps: f64,
    silu: bool,
    condition: Option<(&Tensor, &Tensor, &[u32])>,
) -> Result<Option<Tensor>> {
    #[cfg(feature = "cuda")]
    if samples == 1
        && let Some(y) = super::cuda::group_norm(x, groups, (weight, bias), eps, silu, condition)?
    {
        return Ok(Some(y));
    }
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
        let norm = cpu::norm::GroupNorm { samples, groups, weight: slices[1], bias: slices[2], eps, silu };
        let condition =
            condition.map(|(_, _, frames)| cpu::norm::Condition { scale: slices[3], shift: slices[4], size, frames });
        Ok(norm.run(slices[0], (t, c, h, w), condition.as_ref()))
    })?;
    Tensor::from_vec(values, (t, c, h, w), x.device()).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::on_each_isa;
    use crate::cpu::tests::{assert_close, random};

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
    fn samples_have_statistics_of_their_own() {
        on_each_isa(|isa| {
            for (samples, frames, c, h, w, groups) in
                [(1, 3, 8, 5, 7, 4), (4, 1, 6, 3, 5, 3), (3, 2, 8, 4, 4, 2), (2, 1, 64, 40, 33, 32), (2, 5, 2, 1, 1, 1)]
            {
                let (weight, bias) = (random(&[c]), random(&[c, 1]).squeeze(1).unwrap());
                let norm = GroupNorm::new(groups, weight.clone(), bias.clone(), 1e-5).unwrap();
                let x = (random(&[samples * frames, c, h, w]) + 2.0).unwrap();
                let of_sample = |i| plain_group_norm(&x.narrow(0, i * frames, frames)?, groups, &weight, &bias, 1e-5);
                let want = (0..samples).map(of_sample).collect::<Result<Vec<_>>>().unwrap();
                let want = Tensor::cat(&want, 0).unwrap();
                let what = format!("{isa:?} {samples} of {frames}x{c}x{h}x{w} in {groups}");
                assert_close(&what, &norm.forward(&x, samples).unwrap(), &want, 2e-6);
                assert_close(&what, &norm.forward_silu(&x, samples).unwrap(), &want.silu().unwrap(), 2e-6);
                // in the number type of no fast version
                let turn = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
                let norm = GroupNorm::new(groups, turn(&weight), turn(&bias), 1e-5).unwrap();
                let got = norm.forward(&turn(&x), samples).unwrap().to_dtype(DType::F32).unwrap();
                assert_close(&what, &got, &want, 2e-6);
            }
        });
        let weight = random(&[4]);
        assert!(GroupNorm::new(3, weight.clone(), weight.clone(), 1e-5).is_err());
        let norm = GroupNorm::new(2, weight.clone(), weight, 1e-5).unwrap();
        assert!(norm.forward(&random(&[3, 4, 2, 2]), 2).is_err());
        assert!(norm.forward(&random(&[3, 4, 2, 2]), 0).is_err());
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
    fn rows_equal_their_plain_versions() {
        on_each_isa(|isa| {
            for (b, split, d) in
                [(1, [1, 0], 1), (2, [3, 5], 8), (1, [32, 70], 192), (3, [0, 2], 33), (2, [17, 200], 48)]
            {
                let l = split[0] + split[1];
                let what = format!("{isa:?} {b}x{l}x{d}");
                let (weight, bias) = (random(&[d]), random(&[d, 1]).squeeze(1).unwrap());
                let x = (random(&[b, l, d]) + 2.0).unwrap();
                let limit = if d == 1 { 1.0 } else { 2e-6 };
                for (weight, bias) in
                    [(Some(&weight), Some(&bias)), (None, None), (Some(&weight), None), (None, Some(&bias))]
                {
                    let want = plain_layer_norm(&x, weight, bias, 1e-5).unwrap();
                    if d > 1 || bias.is_some() {
                        assert_close(&what, &layer_norm(&x, weight, bias, 1e-5).unwrap(), &want, limit);
                    }
                    // Chunks of one projection, as a network has them; the second part shared by all rows.
                    let chunks = random(&[b, 3 * d]).chunk(3, 1).unwrap();
                    let whole = random(&[1, d]);
                    let parts = [
                        Modulation { tokens: split[0], shift: chunks[0].clone(), scale: chunks[1].clone() },
                        Modulation { tokens: split[1], shift: whole.clone(), scale: chunks[2].clone() },
                    ];
                    let want = plain_modulate(&want, &parts).unwrap();
                    assert_close(&what, &layer_norm_modulate(&x, weight, bias, 1e-5, &parts).unwrap(), &want, limit);
                    let gates = [(split[0], chunks[1].clone()), (split[1], whole)];
                    let other = random(&[b, d, l]).transpose(1, 2).unwrap();
                    let want = plain_gate_residual(&x, &other, &gates).unwrap();
                    assert_close(&what, &gate_residual(&x, &other, &gates).unwrap(), &want, 1e-6);
                }
            }
        });
        let x = random(&[1, 5, 8]);
        assert!(gate_residual(&x, &x, &[(6, random(&[1, 8]))]).is_err());
        assert!(gate_residual(&x, &x, &[(5, random(&[2, 8]))]).is_err());
        assert!(layer_norm(&x, Some(&random(&[7])), None, 1e-5).is_err());
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
