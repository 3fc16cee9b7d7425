//! Blocks of a product with the instructions of AVX512_BF16.

use super::super::pairs::dot::bits;
use super::{DEPTH, SIDE, Step, Sums};
use half::bf16;
use std::arch::x86_64::*;

/// Vectors of sums in a row of a block.
const VECTORS: usize = SIDE / 16;

/// # Safety
/// As [`super::Block`]; [`is_here`](super::super::pairs::dot::is_here) must have said so.
pub(super) unsafe fn block(rows: *const bf16, pitch: usize, live: usize, steps: &[Step], sums: &mut Sums) {
    let mut row = 0;
    while row < live {
        let sums = &mut sums.0[row..];
        // SAFETY: the tile's rows are among those of the block: the last ones may be more than are alive.
        unsafe {
            let rows = rows.add(row * pitch);
            row += match live - row {
                1 => tile::<1>(rows, pitch, steps, sums),
                2 => tile::<2>(rows, pitch, steps, sums),
                3..=4 => tile::<4>(rows, pitch, steps, sums),
                _ => tile::<8>(rows, pitch, steps, sums),
            };
        }
    }
}

/// The sums of `M` rows; returns how many these are.
///
/// # Safety
/// `rows` must be readable for `M` rows of `steps.len() * DEPTH` numbers, `pitch` numbers apart.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile<const M: usize>(rows: *const bf16, pitch: usize, steps: &[Step], sums: &mut [[f32; SIDE]]) -> usize {
    assert!(sums.len() >= M);
    let mut tile = [[_mm512_setzero_ps(); VECTORS]; M];
    let weights = steps.as_ptr().cast::<__m512i>();
    for pair in 0..steps.len() * DEPTH / 2 {
        // SAFETY: a step is as many pairs of lines, each line a vector; the rows are the caller's promise.
        unsafe {
            let mut weight = [bits(_mm512_setzero_si512()); VECTORS];
            for (n, weight) in weight.iter_mut().enumerate() {
                *weight = bits(_mm512_load_si512(weights.add(VECTORS * pair + n)));
            }
            for (m, tile) in tile.iter_mut().enumerate() {
                let both = rows.add(m * pitch + 2 * pair).cast::<i32>().read_unaligned();
                let both = bits(_mm512_set1_epi32(both));
                for (sum, &weight) in tile.iter_mut().zip(&weight) {
                    *sum = _mm512_dpbf16_ps(*sum, both, weight);
                }
            }
        }
    }
    for (tile, sums) in tile.iter().zip(sums) {
        for (&sum, to) in tile.iter().zip(sums.as_chunks_mut::<16>().0) {
            // SAFETY: sixteen numbers.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), sum) };
        }
    }
    M
}
