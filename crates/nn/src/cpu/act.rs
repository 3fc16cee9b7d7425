//! Activations: one pass, vectorised.

use super::simd::{Kernel, Simd, dispatch};
use super::{Target, filled};
use rayon::prelude::*;
use std::f32::consts::{FRAC_2_SQRT_PI, SQRT_2};
use std::mem::MaybeUninit;

/// Numbers of one task.
const TASK: usize = 16 << 10;

#[derive(Debug, Clone, Copy)]
pub enum Act {
    Silu,
    GeluTanh,
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
