//! The innermost multiplication of all products: a register tile of `M` rows times `N` vectors, `a` broadcast, `b` loaded.

use super::pairs::halves;
use super::simd::{MAX_LANES, Simd};
use super::steps::Steps;

/// `sum[m] + sum over i < k of a[m * am + i * ak] * b[steps.at(i) ..]`, each row as `N` vectors.
///
/// # Safety
/// For all `m < M` and `i < k`, `a` must be readable at `m * am + i * ak`, and `b` at `steps.at(i)` and the `N * LANES`
/// numbers from there on.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, const M: usize, const N: usize>(
    s: S,
    k: usize,
    a: (*const f32, usize, usize),
    b: (*const f32, impl Steps),
    mut sum: [[S::V; N]; M],
) -> [[S::V; N]; M] {
    // SAFETY: passed on.
    unsafe {
        if !s.multiply(k, a, b, &mut sum) {
            plain(s, k, a, b, &mut sum);
        }
    }
    sum
}

/// `sum[m] + sum over i < steps.len() of a[steps[i] + m] * b[i * N * LANES ..]`, each row as `N` vectors: [`multiply`] where the
/// numbers that are broadcast are neighbours, and the vectors lie one after the other.
///
/// # Safety
/// For all `i`, `a` must be readable at `steps[i]` and the `M` numbers from there on, and `b` at `i * N * LANES` and the
/// `N * LANES` from there on.
#[inline(always)]
pub(super) unsafe fn multiply_places<S: Simd, const M: usize, const N: usize>(
    s: S,
    (a, steps): (*const f32, &[usize]),
    b: *const f32,
    mut sum: [[S::V; N]; M],
) -> [[S::V; N]; M] {
    // SAFETY: passed on.
    if unsafe { s.multiply_places((a, steps), b, &mut sum) } {
        return sum;
    }
    for (i, &step) in steps.iter().enumerate() {
        // SAFETY: all reads are the caller's promise.
        unsafe {
            let from = b.add(i * N * S::LANES);
            let mut b = [s.splat(0.0); N];
            for (n, b) in b.iter_mut().enumerate() {
                *b = s.load(from.add(n * S::LANES));
            }
            for (m, sum) in sum.iter_mut().enumerate() {
                let a = s.splat(*a.add(step + m));
                for (sum, &b) in sum.iter_mut().zip(&b) {
                    *sum = s.fma(a, b, *sum);
                }
            }
        }
    }
    sum
}

/// [`multiply`] of pairs of bf16 numbers, each pair in the place of a number: `sum` gets the products of the first ones and those of
/// the second ones.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn multiply_pairs<S: Simd, const M: usize, const N: usize>(
    s: S,
    (a, am, ak): (*const f32, usize, usize),
    (b, steps): (*const f32, &[usize]),
    mut sum: [[S::V; N]; M],
) -> [[S::V; N]; M] {
    // SAFETY: passed on.
    if unsafe { s.multiply_pairs((a, am, ak), (b, steps), &mut sum) } {
        return sum;
    }
    for (i, &step) in steps.iter().enumerate() {
        for n in 0..N {
            // SAFETY: all reads are the caller's promise.
            let pairs = s.to_array(unsafe { s.load(b.add(step + n * S::LANES)) });
            let (mut first, mut second) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
            for ((first, second), &pair) in first.iter_mut().zip(&mut second).zip(&pairs) {
                [*first, *second] = halves(pair);
            }
            for (m, sum) in sum.iter_mut().enumerate() {
                // SAFETY: as above.
                let [even, odd] = halves(unsafe { *a.add(m * am + i * ak) });
                sum[n] = s.fma(s.splat(even), s.get(&first), s.fma(s.splat(odd), s.get(&second), sum[n]));
            }
        }
    }
    sum
}

/// [`multiply`] as the compiler arranges it.
#[inline(always)]
unsafe fn plain<S: Simd, const M: usize, const N: usize>(
    s: S,
    k: usize,
    (a, am, ak): (*const f32, usize, usize),
    (b, steps): (*const f32, impl Steps),
    sum: &mut [[S::V; N]; M],
) {
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
}
