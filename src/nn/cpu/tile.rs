//! The multiplication at the bottom of everything: a register tile of `M` rows times `N` vectors, `a` broadcast, `b` loaded.

use super::simd::Simd;

/// Where the vectors of each step of a sum begin.
pub(super) trait Steps: Copy {
    /// # Safety
    /// `i` must be below the number of steps.
    unsafe fn at(self, i: usize) -> usize;
}

impl Steps for &[usize] {
    #[inline(always)]
    unsafe fn at(self, i: usize) -> usize {
        // SAFETY: promised by the caller.
        unsafe { *self.get_unchecked(i) }
    }
}

/// `start[m] + sum over i < k of a[m * am + i * ak] * b[steps.at(i) ..]`, each row as `N` vectors.
///
/// # Safety
/// For all `m < M` and `i < k`, `a` must be readable at `m * am + i * ak`, and `b` at `steps.at(i)` and the `N * LANES`
/// numbers from there on.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, const M: usize, const N: usize>(
    s: S,
    k: usize,
    (a, am, ak): (*const f32, usize, usize),
    (b, steps): (*const f32, impl Steps),
    start: [S::V; M],
) -> [[S::V; N]; M] {
    let mut sum = [[s.splat(0.0); N]; M];
    for (sum, start) in sum.iter_mut().zip(start) {
        *sum = [start; N];
    }
    for i in 0..k {
        // SAFETY: all reads are the caller's promise.
        unsafe {
            let from = b.add(steps.at(i));
            let mut b = [s.splat(0.0); N];
            for (n, b) in b.iter_mut().enumerate() {
                *b = s.load(from.add(n * S::LANES));
            }
            let a = a.add(i * ak);
            for (m, sum) in sum.iter_mut().enumerate() {
                let a = s.splat(*a.add(m * am));
                for (sum, &b) in sum.iter_mut().zip(&b) {
                    *sum = s.fma(a, b, *sum);
                }
            }
        }
    }
    sum
}
