//! Launches of the attention kernels.

use super::launch::{Arg, Capability, EIGHT, Launch, grid, i32s, kernel, strided};
use candle_core::{DType, Result, Tensor};
use std::f64::consts::LOG2_E;

/// Sizes of heads that kernels were compiled for; smaller ones are filled up with zeros.
const HEADS: [usize; 5] = [64, 80, 96, 128, 160];

/// `softmax(q k^T scale) v` as `[B, Lq, N, D]`, and the log-sum-exps `[B, N, Lq]` in f32: q `[B, N, Lq, D]`, k and v
/// `[B, N, Lk, D]` with any strides, in f16 or bf16.
pub fn attention(capability: Capability, q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Option<Launch>> {
    let (b, n, queries, dim) = q.dims4()?;
    let keys = k.dims4()?.2;
    if k.dims() != [b, n, keys, dim] || v.dims() != k.dims() || !takes(&[q, k, v]) {
        return Ok(None);
    }
    let Some(head) = HEADS.into_iter().find(|&head| dim <= head) else { return Ok(None) };
    let Some((ptx, facts)) = kernel(&format!("attention_{head}"), q.dtype(), capability)? else { return Ok(None) };
    let mut inputs = Vec::with_capacity(3);
    let mut steps = Vec::with_capacity(9);
    for x in [q, k, v] {
        let (x, strides) = strided(x)?;
        let Some(found) = head_strides(&x, &strides) else { return Ok(None) };
        steps.extend(found);
        inputs.push(x);
    }
    let blocks = queries.div_ceil(facts.block("BLOCK_M")?);
    let (Some(grid), Some(sizes)) = (grid(blocks, b * n, 1), i32s([n, queries, keys, dim])) else { return Ok(None) };
    let tensors = [Arg::Input(0), Arg::Input(1), Arg::Input(2), Arg::Output(0), Arg::Output(1)];
    let mut args = tensors.to_vec();
    args.push(Arg::F32((scale * LOG2_E) as f32));
    args.extend(sizes);
    args.extend(steps);
    let outputs = vec![(q.dtype(), vec![b, queries, n, dim]), (DType::F32, vec![b, n, queries])];
    Ok(Some(Launch { ptx, grid, args, inputs, outputs }))
}

/// The probabilities `[B, N, Lq, J]` in f32 of the keys `columns` (u32 `[J]`), by the log-sum-exps of [`attention`];
/// NaN for a key that there is not.
pub fn probe(
    capability: Capability,
    q: &Tensor,
    k: &Tensor,
    scale: f64,
    columns: &Tensor,
    sums: &Tensor,
) -> Result<Option<Launch>> {
    let (b, n, queries, dim) = q.dims4()?;
    let keys = k.dims4()?.2;
    let count = columns.dims1()?;
    if k.dims() != [b, n, keys, dim] || !takes(&[q, k]) || columns.dtype() != DType::U32 || count == 0 {
        return Ok(None);
    }
    let Some((ptx, facts)) = kernel("probe", q.dtype(), capability)? else { return Ok(None) };
    let ((q, q_strides), (k, k_strides)) = (strided(q)?, strided(k)?);
    let (Some(q_steps), Some(k_steps)) = (head_strides(&q, &q_strides), head_strides(&k, &k_strides)) else {
        return Ok(None);
    };
    let (m, j) = (facts.block("BLOCK_M")?, facts.block("BLOCK_J")?);
    let Some(grid) = grid(queries.div_ceil(m), count.div_ceil(j), b * n) else { return Ok(None) };
    let Some(sizes) = i32s([n, queries, keys, count, dim]) else { return Ok(None) };
    let tensors = [Arg::Input(0), Arg::Input(1), Arg::Input(2), Arg::Input(3), Arg::Output(0)];
    let mut args = tensors.to_vec();
    args.push(Arg::F32(scale as f32));
    args.extend(sizes);
    args.extend(q_steps);
    args.extend(k_steps);
    let inputs = vec![q.clone(), k, super::launch::whole(columns)?, super::launch::whole(sums)?];
    Ok(Some(Launch { ptx, grid, args, inputs, outputs: vec![(DType::F32, vec![b, n, queries, count])] }))
}

fn takes(tensors: &[&Tensor]) -> bool {
    let dtype = tensors[0].dtype();
    matches!(dtype, DType::F16 | DType::BF16)
        && tensors.iter().all(|x| x.dtype() == dtype && x.elem_count() > 0)
        && tensors[0].dims().last().is_some_and(|dim| dim.is_multiple_of(EIGHT))
}

/// Strides of batch, head and token; the numbers of one head must lie within 2^31 of each other.
fn head_strides(x: &Tensor, strides: &[usize]) -> Option<[Arg; 3]> {
    let (&[_, _, length, dim], &[batch, head, token, _]) = (x.dims(), strides) else { return None };
    i32::try_from(length * token + dim).ok()?;
    Some([Arg::I64(batch as i64), Arg::I64(head as i64), Arg::I32(token as i32)])
}
