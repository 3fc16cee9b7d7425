//! Activations: one pass, vectorised.

use super::simd::{Kernel, Simd, dispatch};
use super::{Target, filled};
use rayon::prelude::*;
use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, SQRT_2};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Numbers of one task.
const TASK: usize = 16 << 10;
/// Numbers that are still in the cache when they were all written.
const NEAR: usize = 1 << 20;

#[derive(Debug, Clone, Copy)]
pub enum Act {
    Silu,
    GeluTanh,
    /// By the error function.
    Gelu,
}

impl Act {
    pub fn run(self, x: &[f32]) -> Vec<f32> {
        let run = |target: Target| {
            x.par_chunks(TASK).enumerate().for_each(|(i, from)| {
                // SAFETY: every chunk has its own part.
                let to = unsafe { target.part(i * TASK, from.len()) };
                dispatch(Map { act: self, from, to });
            });
        };
        // SAFETY: the chunks cover the result.
        unsafe { filled(x.len(), run) }
    }

    #[inline(always)]
    pub(super) fn of<S: Simd>(self, s: S, x: S::V) -> S::V {
        match self {
            Act::Silu => s.gated(x, x),
            // (1 + tanh u) / 2 is the logistic function of 2u.
            Act::GeluTanh => {
                let cubic = s.fma(s.mul(x, x), s.splat(0.044_715), s.splat(1.0));
                let twice = s.mul(s.mul(x, s.splat(SQRT_2 * FRAC_2_SQRT_PI)), cubic);
                s.gated(x, twice)
            }
            Act::Gelu => {
                // with the small side of the sum by itself: max(x, 0) - |x|/2 erfc(|x| / sqrt 2)
                let size = s.max(x, s.sub(s.splat(0.0), x));
                let small = s.mul(s.mul(size, s.splat(0.5)), erfc(s, s.mul(size, s.splat(FRAC_1_SQRT_2))));
                s.sub(s.max(x, s.splat(0.0)), small)
            }
        }
    }
}

/// `1 - erf(z)` for `z >= 0`, to 1.2e-7 of itself: Numerical Recipes' `erfcc`.
#[inline(always)]
fn erfc<S: Simd>(s: S, z: S::V) -> S::V {
    const TERMS: [f32; 9] = [
        -0.822_152_2,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ];
    let t = s.div(s.splat(1.0), s.fma(z, s.splat(0.5), s.splat(1.0)));
    let mut p = s.splat(0.170_872_77);
    for c in TERMS {
        p = s.fma(p, t, s.splat(c));
    }
    s.mul(t, s.exp(s.sub(p, s.mul(z, z))))
}

/// Rows of `2 * half` numbers to rows of `half`: the first half times the GELU of the second.
pub fn geglu(x: &[f32], half: usize) -> Vec<f32> {
    // SAFETY: all rows are written.
    unsafe { filled(x.len() / 2, |target| gate(x, half, target, 0)) }
}

/// [`geglu`] of `rows` rows that `product` makes some at a time, few enough to be in the cache still when they are gated.
pub fn geglu_of(rows: usize, half: usize, product: impl Fn(Range<usize>) -> Vec<f32>) -> Vec<f32> {
    let together = (NEAR / (2 * half).max(1)).next_multiple_of(128);
    let run = |target: Target| {
        for first in (0..rows).step_by(together) {
            let end = rows.min(first + together);
            let made = product(first..end);
            assert_eq!(made.len(), (end - first) * 2 * half);
            gate(&made, half, target, first * half);
        }
    };
    // SAFETY: the parts cover the result, and `gate` writes a number for each two of a part.
    unsafe { filled(rows * half, run) }
}

/// Writes the GEGLU of rows from `start` on.
fn gate(x: &[f32], half: usize, target: Target, start: usize) {
    let rows = (TASK / half.max(1)).max(1);
    x.par_chunks((2 * half * rows).max(1)).enumerate().for_each(|(i, from)| {
        // SAFETY: every chunk has its own part.
        let to = unsafe { target.part(start + i * rows * half, from.len() / 2) };
        dispatch(Gated { half, from, to });
    });
}

struct Gated<'a> {
    half: usize,
    from: &'a [f32],
    to: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Gated<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (from, to) in self.from.chunks_exact(2 * self.half).zip(self.to.chunks_exact_mut(self.half)) {
            let (value, gate) = from.split_at(self.half);
            let parts = value.chunks(S::LANES).zip(gate.chunks(S::LANES));
            for ((value, gate), to) in parts.zip(to.chunks_mut(S::LANES)) {
                s.put(s.mul(s.get(value), Act::Gelu.of(s, s.get(gate))), to);
            }
        }
    }
}

struct Map<'a> {
    act: Act,
    from: &'a [f32],
    to: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Map<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (from, to) in self.from.chunks(S::LANES).zip(self.to.chunks_mut(S::LANES)) {
            s.put(self.act.of(s, s.get(from)), to);
        }
    }
}
