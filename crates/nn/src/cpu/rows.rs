//! Operations on the rows of token sequences: layer norm with modulation, gated residual, and the normalisation and rotation
//! of queries and keys. One pass over memory each: a row stays in the first-level cache between its statistics and its result.

use super::simd::{Kernel, Simd, dispatch};
use super::{Target, View, filled, with_scratch};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Numbers of one task.
const TASK: usize = 32 << 10;

/// Tokens that share a modulation: how many, and per row of the batch `[B, D]` what `(1 + scale)` and `shift` are made of.
pub struct Part<'a> {
    pub tokens: usize,
    pub shift: &'a [f32],
    pub scale: &'a [f32],
}

/// Layer norm over rows of `d` numbers.
#[derive(Clone, Copy)]
pub struct LayerNorm<'a> {
    pub weight: Option<&'a [f32]>,
    pub bias: Option<&'a [f32]>,
    pub eps: f64,
}

/// Runs `task(batch, part, first row, rows)` for pieces of the token ranges, in parallel.
fn each_piece(batch: usize, tokens: &[usize], d: usize, task: impl Fn(usize, usize, usize, usize) + Sync) {
    let most = (TASK / d.max(1)).max(16);
    let length: usize = tokens.iter().sum();
    let mut pieces = Vec::new();
    for b in 0..batch {
        let mut start = b * length;
        for (part, &count) in tokens.iter().enumerate() {
            for first in (0..count).step_by(most) {
                pieces.push((b, part, start + first, most.min(count - first)));
            }
            start += count;
        }
    }
    pieces.into_par_iter().for_each(|(b, part, row, rows)| task(b, part, row, rows));
}

impl LayerNorm<'_> {
    /// `norm(x) * (1 + scale) + shift` on `[B, L, D]`; without parts the norm alone, of rows in any number of axes.
    pub fn run(&self, x: &[f32], batch: usize, d: usize, parts: &[Part]) -> Vec<f32> {
        let length = x.len() / (batch * d).max(1);
        assert!(x.len() == batch * length * d && self.weight.is_none_or(|weight| weight.len() == d));
        assert!(self.bias.is_none_or(|bias| bias.len() == d));
        assert!(parts.iter().all(|part| part.shift.len() == batch * d && part.scale.len() == batch * d));
        let mut tokens: Vec<usize> = parts.iter().map(|part| part.tokens).collect();
        if parts.is_empty() {
            tokens.push(length);
        }
        assert_eq!(tokens.iter().sum::<usize>(), length);
        let run = |target: Target| {
            each_piece(batch, &tokens, d, |b, part, row, rows| {
                with_scratch(2 * d, |affine| {
                    let (factor, offset) = affine[..2 * d].split_at_mut(d);
                    let part = parts.get(part).map(|part| (&part.scale[b * d..], &part.shift[b * d..]));
                    for i in 0..d {
                        let (weight, bias) = (self.weight.map_or(1.0, |w| w[i]), self.bias.map_or(0.0, |b| b[i]));
                        let (scale, shift) = part.map_or((1.0, 0.0), |(scale, shift)| (1.0 + scale[i], shift[i]));
                        factor[i] = weight * scale;
                        offset[i] = bias * scale + shift;
                    }
                    // SAFETY: every row is in one piece.
                    let to = unsafe { target.part(row * d, rows * d) };
                    dispatch(Normalise {
                        from: &x[row * d..(row + rows) * d],
                        to,
                        factor,
                        offset,
                        eps: self.eps as f32,
                    });
                });
            });
        };
        // SAFETY: the pieces cover all rows, and a task writes all of its rows.
        unsafe { filled(x.len(), run) }
    }
}

struct Normalise<'a> {
    from: &'a [f32],
    to: &'a mut [MaybeUninit<f32>],
    factor: &'a [f32],
    offset: &'a [f32],
    eps: f32,
}

impl Kernel for Normalise<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.factor.len();
        for (from, to) in self.from.chunks_exact(d).zip(self.to.chunks_exact_mut(d)) {
            let (mean, inverse) = moments(s, from, self.eps);
            let (mean, inverse) = (s.splat(mean), s.splat(inverse));
            let affine = self.factor.chunks(S::LANES).zip(self.offset.chunks(S::LANES));
            for ((from, to), (factor, offset)) in from.chunks(S::LANES).zip(to.chunks_mut(S::LANES)).zip(affine) {
                let y = s.mul(s.sub(s.get(from), mean), inverse);
                s.put(s.fma(y, s.get(factor), s.get(offset)), to);
            }
        }
    }
}

/// Mean and inverse deviation of a row.
#[inline(always)]
fn moments<S: Simd>(s: S, row: &[f32], eps: f32) -> (f32, f32) {
    let (mut even, mut odd) = (s.splat(0.0), s.splat(0.0));
    let mut pairs = row.chunks_exact(2 * S::LANES);
    for pair in &mut pairs {
        even = s.add(even, s.get(pair));
        odd = s.add(odd, s.get(&pair[S::LANES..]));
    }
    let tail = pairs.remainder();
    let mut sum = s.sum(s.add(even, odd));
    for &x in tail {
        sum += x;
    }
    let mean = sum / row.len() as f32;
    let from = s.splat(mean);
    (even, odd) = (s.splat(0.0), s.splat(0.0));
    for pair in row.chunks_exact(2 * S::LANES) {
        let (x, y) = (s.sub(s.get(pair), from), s.sub(s.get(&pair[S::LANES..]), from));
        even = s.fma(x, x, even);
        odd = s.fma(y, y, odd);
    }
    let mut square = s.sum(s.add(even, odd));
    for &x in tail {
        square += (x - mean) * (x - mean);
    }
    (mean, 1.0 / (square / row.len() as f32 + eps).sqrt())
}

/// `residual + gate * x` on `[B, L, D]`; each gate is `[B, D]` and serves its number of tokens.
pub fn gate_residual(residual: &[f32], x: &[f32], batch: usize, d: usize, gates: &[(usize, &[f32])]) -> Vec<f32> {
    let tokens: Vec<usize> = gates.iter().map(|(tokens, _)| *tokens).collect();
    assert!(residual.len() == x.len() && x.len() == batch * tokens.iter().sum::<usize>() * d);
    assert!(gates.iter().all(|(_, gate)| gate.len() == batch * d));
    let run = |target: Target| {
        each_piece(batch, &tokens, d, |b, part, row, rows| {
            let range = row * d..(row + rows) * d;
            // SAFETY: every row is in one piece.
            let to = unsafe { target.part(range.start, range.len()) };
            dispatch(Gate {
                residual: &residual[range.clone()],
                x: &x[range],
                gate: &gates[part].1[b * d..(b + 1) * d],
                to,
            });
        });
    };
    // SAFETY: the pieces cover all rows.
    unsafe { filled(x.len(), run) }
}

struct Gate<'a> {
    residual: &'a [f32],
    x: &'a [f32],
    gate: &'a [f32],
    to: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Gate<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.gate.len();
        let rows = self.residual.chunks_exact(d).zip(self.x.chunks_exact(d)).zip(self.to.chunks_exact_mut(d));
        for ((residual, x), to) in rows {
            let chunks = x.chunks(S::LANES).zip(self.gate.chunks(S::LANES));
            for ((residual, (x, gate)), to) in residual.chunks(S::LANES).zip(chunks).zip(to.chunks_mut(S::LANES)) {
                s.put(s.fma(s.get(x), s.get(gate), s.get(residual)), to);
            }
        }
    }
}

/// What is done to each head of each token.
pub struct Heads<'a> {
    pub norm: LayerNorm<'a>,
    /// Cosines and sines, `[L - text, D/2]` each.
    pub rotary: Option<(&'a [f32], &'a [f32])>,
    /// Leading tokens that are not rotated.
    pub text: usize,
}

impl Heads<'_> {
    /// `x` is `[B, N, L, D]` with the numbers of a head side by side; returns `[B, L, N, D]`.
    pub fn run(&self, x: View) -> Vec<f32> {
        let (&[b, n, l, d], &[along_b, along_n, along_l, along_d]) = (x.dims, x.strides) else {
            unreachable!("heads have four axes")
        };
        assert!(along_d == 1 || d <= 1);
        if let Some((cos, sin)) = self.rotary {
            assert!(d % 2 == 0 && cos.len() == (l - self.text) * d / 2 && sin.len() == cos.len());
        }
        let affine = self.norm.weight.zip(self.norm.bias);
        assert!(affine.is_none_or(|(weight, bias)| weight.len() == d && bias.len() == d));
        let most = (TASK / (n * d).max(1)).max(1);
        let tasks = l.div_ceil(most);
        let run = |target: Target| {
            (0..b * tasks).into_par_iter().for_each(|i| {
                let (task, batch) = (i % tasks, i / tasks);
                let (first, end) = (task * most, l.min((task + 1) * most));
                // SAFETY: every token is in one task.
                let to = unsafe { target.part((batch * l + first) * n * d, (end - first) * n * d) };
                let from = &x.data[batch * along_b + first * along_l..];
                let rotary = self.rotary;
                let steps = (along_l, along_n);
                let eps = self.norm.eps as f32;
                dispatch(Tokens { from, steps, to, n, d, eps, affine, rotary, first, text: self.text });
            });
        };
        // SAFETY: the tasks cover all tokens, and a token's heads are all written.
        unsafe { filled(b * n * l * d, run) }
    }
}

/// The heads of some tokens.
struct Tokens<'a> {
    from: &'a [f32],
    /// From token to token and from head to head.
    steps: (usize, usize),
    to: &'a mut [MaybeUninit<f32>],
    n: usize,
    d: usize,
    eps: f32,
    affine: Option<(&'a [f32], &'a [f32])>,
    rotary: Option<(&'a [f32], &'a [f32])>,
    first: usize,
    text: usize,
}

impl Kernel for Tokens<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (d, pairs) = (self.d, self.d / 2);
        for (token, to) in self.to.chunks_exact_mut(self.n * d).enumerate() {
            let row = (self.first + token).checked_sub(self.text);
            let tables = match (self.rotary, row) {
                (Some((cos, sin)), Some(row)) => Some((&cos[row * pairs..][..pairs], &sin[row * pairs..][..pairs])),
                _ => None,
            };
            for (head, to) in to.chunks_exact_mut(d).enumerate() {
                let from = &self.from[token * self.steps.0 + head * self.steps.1..][..d];
                let (mean, inverse) = moments(s, from, self.eps);
                let (mean, inverse) = (s.splat(mean), s.splat(inverse));
                for (i, (from, to)) in from.chunks(S::LANES).zip(to.chunks_mut(S::LANES)).enumerate() {
                    let at = i * S::LANES;
                    let mut y = s.mul(s.sub(s.get(from), mean), inverse);
                    if let Some((weight, bias)) = self.affine {
                        y = s.fma(y, s.get(&weight[at..]), s.get(&bias[at..]));
                    }
                    if let Some((cos, sin)) = tables {
                        let (cos, sin) = (s.get_twice(&cos[at / 2..]), s.get_twice(&sin[at / 2..]));
                        y = s.fma_alternating(y, cos, s.mul(s.swap_pairs(y), sin));
                    }
                    s.put(y, to);
                }
            }
        }
    }
}
