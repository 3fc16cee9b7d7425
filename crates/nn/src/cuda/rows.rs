//! Launches of the kernels on rows of token sequences.

use super::launch::{Arg, Capability, EIGHT, Launch, grid, i32s, kernel, rows_fit, strided, whole};
use crate::norm::Modulation;
use candle_core::{D, DType, Result, Tensor};

/// Layer norm over the last axis of `x`; with `parts` (two at most) of a `[B, L, D]`, modulated.
pub fn layer_norm(
    capability: Capability,
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
    parts: &[Modulation],
) -> Result<Option<Launch>> {
    let (rank, dim) = (x.rank(), x.dim(D::Minus1)?);
    if !rows_fit(x) || parts.len() > 2 || (!parts.is_empty() && rank != 3) {
        return Ok(None);
    }
    let batch = if parts.is_empty() { 1 } else { x.dim(0)? };
    let rows = x.elem_count() / dim;
    let length = rows / batch;
    if !parts.is_empty() && parts.iter().map(|part| part.tokens).sum::<usize>() != length {
        return Ok(None);
    }
    let Some((ptx, _)) = kernel("layer_norm_modulate", x.dtype(), capability)? else { return Ok(None) };
    let mut inputs = vec![whole(x)?];
    let mut args = vec![Arg::Input(0)];
    for affine in [weight, bias] {
        match affine {
            Some(affine) if affine.dims() != [dim] || affine.dtype() != x.dtype() => return Ok(None),
            Some(affine) => {
                args.push(Arg::Input(inputs.len()));
                inputs.push(whole(affine)?);
            }
            None => args.push(Arg::Input(0)), // not read
        }
    }
    let mut steps = Vec::with_capacity(4);
    for map in parts.iter().flat_map(|part| [&part.shift, &part.scale]) {
        let Some((map, step)) = per_batch(map, batch, dim, x.dtype())? else { return Ok(None) };
        args.push(Arg::Input(inputs.len()));
        inputs.push(map);
        steps.push(step);
    }
    args.resize(3 + 4, Arg::Input(0));
    steps.resize(4, Arg::I64(0));
    args.push(Arg::Output(0));
    let first = parts.first().map_or(0, |part| part.tokens);
    let flags = [usize::from(weight.is_some()), usize::from(bias.is_some())];
    let sizes = i32s([length, dim, first, parts.len(), flags[0], flags[1]]);
    let (Some(grid), Some(sizes)) = (grid(rows, 1, 1), sizes) else { return Ok(None) };
    args.extend(sizes);
    args.extend(steps);
    args.push(Arg::F32(eps as f32));
    Ok(Some(Launch { ptx, grid, args, inputs, outputs: vec![(x.dtype(), x.dims().to_vec())] }))
}

/// `residual + gate * x` on `[B, L, D]`, with one gate or two.
pub fn gate_residual(
    capability: Capability,
    residual: &Tensor,
    x: &Tensor,
    gates: &[(usize, Tensor)],
) -> Result<Option<Launch>> {
    let (batch, length, dim) = x.dims3()?;
    let covered: usize = gates.iter().map(|(tokens, _)| tokens).sum();
    let fits = residual.dims() == x.dims() && residual.dtype() == x.dtype() && rows_fit(x) && covered == length;
    if !fits || gates.is_empty() || gates.len() > 2 {
        return Ok(None);
    }
    let Some((ptx, facts)) = kernel("gate_residual", x.dtype(), capability)? else { return Ok(None) };
    let mut inputs = vec![whole(residual)?, whole(x)?];
    let mut steps = Vec::with_capacity(2);
    for (_, gate) in [&gates[0], &gates[gates.len() - 1]] {
        let Some((gate, step)) = per_batch(gate, batch, dim, x.dtype())? else { return Ok(None) };
        inputs.push(gate);
        steps.push(step);
    }
    let blocks = grid(batch * length, dim.div_ceil(facts.block("BLOCK")?), 1);
    let (Some(grid), Some(sizes)) = (blocks, i32s([length, dim, gates[0].0])) else { return Ok(None) };
    let mut args: Vec<Arg> = (0..4).map(Arg::Input).collect();
    args.push(Arg::Output(0));
    args.extend(sizes);
    args.extend(steps);
    Ok(Some(Launch { ptx, grid, args, inputs, outputs: vec![(x.dtype(), x.dims().to_vec())] }))
}

/// `gelu_tanh(x + bias)`, `bias` along the last axis.
pub fn bias_gelu(capability: Capability, x: &Tensor, bias: &Tensor) -> Result<Option<Launch>> {
    let dim = x.dim(D::Minus1)?;
    if !rows_fit(x) || bias.dims() != [dim] || bias.dtype() != x.dtype() {
        return Ok(None);
    }
    let Some((ptx, facts)) = kernel("bias_gelu", x.dtype(), capability)? else { return Ok(None) };
    let blocks = grid(x.elem_count() / dim, dim.div_ceil(facts.block("BLOCK")?), 1);
    let (Some(grid), Some([dim])) = (blocks, i32s([dim])) else { return Ok(None) };
    let args = vec![Arg::Input(0), Arg::Input(1), Arg::Output(0), dim];
    let inputs = vec![whole(x)?, whole(bias)?];
    Ok(Some(Launch { ptx, grid, args, inputs, outputs: vec![(x.dtype(), x.dims().to_vec())] }))
}

/// Layer norm of the heads of `x` `[B, N, L, D]` and their rotation from token `text` on: `[B, L, N, D]`.
pub fn qk_norm_rope(
    capability: Capability,
    x: &Tensor,
    (weight, bias, eps): (&Tensor, &Tensor, f64),
    rotary: Option<(&Tensor, &Tensor)>,
    text: usize,
) -> Result<Option<Launch>> {
    let (b, n, length, dim) = x.dims4()?;
    let affine = [weight, bias].iter().all(|affine| affine.dims() == [dim] && affine.dtype() == x.dtype());
    if !rows_fit(x) || dim > 128 || !affine || text > length {
        return Ok(None);
    }
    let block = if dim <= 64 { 64 } else { 128 };
    let stem = format!("qk_norm_rope_{block}");
    let Some((ptx, facts)) = kernel(&stem, x.dtype(), capability)? else { return Ok(None) };
    let (x, strides) = strided(x)?;
    let mut inputs = vec![x, whole(weight)?, whole(bias)?];
    let mut args: Vec<Arg> = (0..3).map(Arg::Input).collect();
    match rotary {
        Some((cos, sin)) => {
            let table = |x: &Tensor| x.dims() == [length - text, dim / 2] && x.dtype() == DType::F32;
            if !table(cos) || !table(sin) {
                return Ok(None);
            }
            inputs.extend([whole(cos)?, whole(sin)?]);
            args.extend([Arg::Input(3), Arg::Input(4)]);
        }
        None => args.extend([Arg::Input(0); 2]), // not read
    }
    args.push(Arg::Output(0));
    let rows = b * n * length;
    args.push(Arg::I64(rows as i64));
    let sizes = i32s([n, length, dim, text, usize::from(rotary.is_some())]);
    let (Some(grid), Some(sizes)) = (grid(rows.div_ceil(facts.block("ROWS")?), 1, 1), sizes) else { return Ok(None) };
    args.extend(sizes);
    args.extend(strides[..3].iter().map(|&stride| Arg::I64(stride as i64)));
    args.push(Arg::F32(eps as f32));
    let outputs = vec![(inputs[0].dtype(), vec![b, length, n, dim])];
    Ok(Some(Launch { ptx, grid, args, inputs, outputs }))
}

/// A map `[B, D]` or `[1, D]` and its stride from one batch row to the next.
fn per_batch(map: &Tensor, batch: usize, dim: usize, dtype: DType) -> Result<Option<(Tensor, Arg)>> {
    if map.dtype() != dtype || !dim.is_multiple_of(EIGHT) {
        return Ok(None);
    }
    let Ok(map) = map.broadcast_as((batch, dim)) else { return Ok(None) };
    let (map, strides) = strided(&map)?;
    Ok(Some((map, Arg::I64(strides[0] as i64))))
}
