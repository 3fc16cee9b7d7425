//! Queries and keys of transformers whose heads have an RMS norm and rotary positions in halves: one pass over memory, in which a
//! head stays in registers and the first-level cache between its norm and its rotation.

use super::simd::{Kernel, Simd, dispatch};
use super::{Target, View, filled};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Numbers of one task.
const TASK: usize = 32 << 10;

/// What is done to each head of each token.
#[derive(Clone, Copy)]
pub struct RmsHeads<'a> {
    /// Of the norm; none where there is none.
    pub weight: Option<&'a [f32]>,
    pub eps: f32,
    /// Cosines and sines `[L, D/2]` each, and the widths of the axes, each of which has its pairs for itself.
    pub rotary: Option<(&'a [f32], &'a [f32], &'a [usize])>,
}

/// Whether tokens of one sequence lie farther from each other than those of several.
pub fn turned(x: &View) -> bool {
    matches!((x.dims, x.strides), (&[b, _, l, _], &[along_b, _, along_l, _]) if b > 1 && l > 1 && along_l > along_b)
}

impl RmsHeads<'_> {
    /// `x` is `[B, N, L, D]` with the numbers of a head side by side; returns `[B, L, N, D]`, or `[L, B, N, D]` where `x` is
    /// [`turned`].
    pub fn run(&self, x: View) -> Vec<f32> {
        let (&[b, n, l, d], &[along_b, along_n, along_l, along_d]) = (x.dims, x.strides) else {
            unreachable!("heads have four axes")
        };
        assert!(along_d == 1 || d <= 1);
        assert!(self.weight.is_none_or(|weight| weight.len() == d));
        if let Some((cos, sin, axes)) = self.rotary {
            assert!(axes.iter().all(|axis| axis % 2 == 0) && axes.iter().sum::<usize>() == d);
            assert!(cos.len() == l * d / 2 && sin.len() == cos.len());
        }
        let turned = turned(&x);
        let most = (TASK / (n * d).max(1)).max(1);
        let run = |target: Target| {
            (0..(b * l).div_ceil(most)).into_par_iter().for_each(|task| {
                let (first, end) = (task * most, (b * l).min((task + 1) * most));
                // SAFETY: every token is in one task.
                let to = unsafe { target.part(first * n * d, (end - first) * n * d) };
                let place = |token: usize| if turned { (token % b, token / b) } else { (token / l, token % l) };
                for (token, to) in (first..end).zip(to.chunks_exact_mut(n * d)) {
                    let (batch, row) = place(token);
                    let from = &x.data[batch * along_b + row * along_l..];
                    dispatch(Token { from, along: along_n, to, d, row, of: *self });
                }
            });
        };
        // SAFETY: the tasks cover all tokens, and a token's heads are all written.
        unsafe { filled(b * n * l * d, run) }
    }
}

/// The heads of one token.
struct Token<'a> {
    from: &'a [f32],
    /// From head to head.
    along: usize,
    to: &'a mut [MaybeUninit<f32>],
    d: usize,
    row: usize,
    of: RmsHeads<'a>,
}

impl Kernel for Token<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (d, RmsHeads { weight, eps, rotary }) = (self.d, self.of);
        for (head, to) in self.to.chunks_exact_mut(d).enumerate() {
            let from = &self.from[head * self.along..][..d];
            let factor = match weight {
                None => s.splat(1.0),
                Some(_) => {
                    let squares = from.chunks(S::LANES).fold(s.splat(0.0), |sum, x| s.fma(s.get(x), s.get(x), sum));
                    s.splat(1.0 / (s.sum(squares) / d as f32 + eps).sqrt())
                }
            };
            let normed = |at: usize, len: usize| {
                let x = s.mul(s.get(&from[at..at + len]), factor);
                weight.map_or(x, |weight| s.mul(x, s.get(&weight[at..at + len])))
            };
            let Some((cos, sin, axes)) = rotary else {
                for (i, to) in to.chunks_mut(S::LANES).enumerate() {
                    s.put(normed(i * S::LANES, to.len()), to);
                }
                continue;
            };
            let tables = self.row * d / 2..(self.row + 1) * d / 2;
            let (cos, sin) = (&cos[tables.clone()], &sin[tables]);
            let mut start = 0;
            for half in axes.iter().map(|axis| axis / 2) {
                let (low, high) = to[start..start + 2 * half].split_at_mut(half);
                for (i, (low, high)) in low.chunks_mut(S::LANES).zip(high.chunks_mut(S::LANES)).enumerate() {
                    let (at, len) = (i * S::LANES, low.len());
                    let (a, b) = (normed(start + at, len), normed(start + half + at, len));
                    let table = start / 2 + at..start / 2 + at + len;
                    let (cos, sin) = (s.get(&cos[table.clone()]), s.get(&sin[table]));
                    s.put(s.sub(s.mul(a, cos), s.mul(b, sin)), low);
                    s.put(s.fma(b, cos, s.mul(a, sin)), high);
                }
                start += 2 * half;
            }
        }
    }
}
