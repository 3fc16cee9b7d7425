//! The vectors of x86-64.

use super::super::pairs::dot;
use super::super::steps::{Places, Steps};
use super::{Kernel, Simd};
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

#[derive(Clone, Copy)]
pub struct Avx512(());

#[derive(Clone, Copy)]
pub struct Avx2(());

/// # Safety
/// The CPU must have AVX-512 F and DQ.
#[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
pub unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx512(()))
}

/// # Safety
/// The CPU must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx2(()))
}

// SAFETY of every block below: a token of the type exists only in `run_avx512` or `run_avx2`, whose callers have checked that
// the CPU has the instructions; loads and stores pass their own condition on to the caller.

impl Simd for Avx512 {
    const LANES: usize = 16;
    const WIDE: bool = true;
    type V = __m512;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, v: __m512, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    fn get(self, from: &[f32]) -> __m512 {
        match from.len() {
            16.. => unsafe { _mm512_loadu_ps(from.as_ptr()) },
            some => unsafe { _mm512_maskz_loadu_ps((1 << some) - 1, from.as_ptr()) },
        }
    }
    #[inline(always)]
    fn put(self, v: __m512, to: &mut [MaybeUninit<f32>]) {
        match to.len() {
            16.. => unsafe { _mm512_storeu_ps(to.as_mut_ptr().cast(), v) },
            some => unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr().cast(), (1 << some) - 1, v) },
        }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn scale2(self, a: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    fn swap_pairs(self, a: __m512) -> __m512 {
        unsafe { _mm512_permute_ps::<0b10_11_00_01>(a) }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(v) }
    }
    #[inline(always)]
    unsafe fn load_twice(self, from: *const f32) -> __m512 {
        unsafe {
            let half = _mm512_castps256_ps512(_mm256_loadu_ps(from));
            _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), half)
        }
    }
    #[inline(always)]
    fn fma_alternating(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmaddsub_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn multiply_pairs<const M: usize, const N: usize>(
        self,
        a: (*const f32, usize, usize),
        b: (*const f32, &[usize]),
        sum: &mut [[__m512; N]; M],
    ) -> bool {
        let here = dot::is_here();
        if here {
            unsafe { dot::multiply(a, b, sum) };
        }
        here
    }
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    const WIDE: bool = false;
    type V = __m256;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, v: __m256, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, v) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn scale2(self, a: __m256, n: __m256) -> __m256 {
        unsafe {
            let exponent = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
            _mm256_mul_ps(a, _mm256_castsi256_ps(exponent))
        }
    }
    #[inline(always)]
    fn swap_pairs(self, a: __m256) -> __m256 {
        unsafe { _mm256_permute_ps::<0b10_11_00_01>(a) }
    }
    #[inline(always)]
    unsafe fn load_twice(self, from: *const f32) -> __m256 {
        unsafe {
            let half = _mm256_castps128_ps256(_mm_loadu_ps(from));
            _mm256_permutevar8x32_ps(half, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3))
        }
    }
    #[inline(always)]
    fn fma_alternating(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmaddsub_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn multiply<const M: usize, const N: usize>(
        self,
        k: usize,
        a: (*const f32, usize, usize),
        b: (*const f32, impl Steps),
        sum: &mut [[__m256; N]; M],
    ) -> bool {
        let fits = M == 4 && N == 3;
        if fits {
            unsafe {
                multiply_4x3(k, a, (b.0, b.1.places()), &mut *std::ptr::from_mut(sum).cast::<[[__m256; 3]; 4]>())
            };
        }
        fits
    }
    #[inline(always)]
    unsafe fn multiply_places<const M: usize, const N: usize>(
        self,
        a: (*const f32, &[usize]),
        b: *const f32,
        sum: &mut [[__m256; N]; M],
    ) -> bool {
        let fits = M == 6 && N == 2;
        if fits {
            unsafe { multiply_6x2(a, b, &mut *std::ptr::from_mut(sum).cast::<[[__m256; 2]; 6]>()) };
        }
        fits
    }
}

/// The loop over a sum whose next vectors of `b` are found by `$next` (their place goes to `t`).
macro_rules! loop_4x3 {
    ($k:expr, ($a:expr, $am:expr, $ak:expr), $sum:expr, [$($next:literal),*], $($operands:tt)*) => {{
        let [[s00, s01, s02], [s10, s11, s12], [s20, s21, s22], [s30, s31, s32]] = $sum;
        std::arch::asm!(
            "2:",
            $($next,)*
            "vmovups {b0}, [{t}]",
            "vmovups {b1}, [{t} + 32]",
            "vmovups {b2}, [{t} + 64]",
            "vbroadcastss {x}, [{a}]",
            "vfmadd231ps {s00}, {x}, {b0}",
            "vfmadd231ps {s01}, {x}, {b1}",
            "vfmadd231ps {s02}, {x}, {b2}",
            "vbroadcastss {x}, [{a} + 4 * {am}]",
            "vfmadd231ps {s10}, {x}, {b0}",
            "vfmadd231ps {s11}, {x}, {b1}",
            "vfmadd231ps {s12}, {x}, {b2}",
            "vbroadcastss {x}, [{a} + 8 * {am}]",
            "vfmadd231ps {s20}, {x}, {b0}",
            "vfmadd231ps {s21}, {x}, {b1}",
            "vfmadd231ps {s22}, {x}, {b2}",
            "vbroadcastss {x}, [{last}]",
            "vfmadd231ps {s30}, {x}, {b0}",
            "vfmadd231ps {s31}, {x}, {b1}",
            "vfmadd231ps {s32}, {x}, {b2}",
            "lea {a}, [{a} + 4 * {ak}]",
            "lea {last}, [{last} + 4 * {ak}]",
            "dec {k}",
            "jnz 2b",
            k = inout(reg) $k => _,
            a = inout(reg) $a => _,
            last = inout(reg) $a.wrapping_add(3 * $am) => _,
            am = in(reg) $am,
            ak = in(reg) $ak,
            t = out(reg) _,
            b0 = out(ymm_reg) _, b1 = out(ymm_reg) _, b2 = out(ymm_reg) _, x = out(ymm_reg) _,
            s00 = inout(ymm_reg) *s00, s01 = inout(ymm_reg) *s01, s02 = inout(ymm_reg) *s02,
            s10 = inout(ymm_reg) *s10, s11 = inout(ymm_reg) *s11, s12 = inout(ymm_reg) *s12,
            s20 = inout(ymm_reg) *s20, s21 = inout(ymm_reg) *s21, s22 = inout(ymm_reg) *s22,
            s30 = inout(ymm_reg) *s30, s31 = inout(ymm_reg) *s31, s32 = inout(ymm_reg) *s32,
            $($operands)*
            options(pure, readonly, nostack),
        )
    }};
}

/// The largest tile, which needs all sixteen registers. The compiler loads the next row's number early and keeps sums in
/// memory for want of a seventeenth, at half the speed, so the loop is written out.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_4x3(
    k: usize,
    (a, am, ak): (*const f32, usize, usize),
    (b, steps): (*const f32, Places<'_>),
    sum: &mut [[__m256; 3]; 4],
) {
    if k == 0 {
        return;
    }
    unsafe {
        match steps {
            Places::Every(pitch) => loop_4x3!(k, (a, am, ak), sum, ["mov {t}, {b}", "lea {b}, [{b} + 4 * {pitch}]"],
                b = inout(reg) b => _, pitch = in(reg) pitch,),
            Places::Listed(steps) => loop_4x3!(k, (a, am, ak), sum,
                ["mov {t}, [{steps}]", "lea {t}, [{b} + 4 * {t}]", "add {steps}, 8"],
                b = in(reg) b, steps = inout(reg) steps.as_ptr() => _,),
        }
    }
}

/// Six numbers that lie side by side, two vectors that follow each other at every step. As [`multiply_4x3`], with a register to
/// spare.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_6x2((a, steps): (*const f32, &[usize]), b: *const f32, sum: &mut [[__m256; 2]; 6]) {
    if steps.is_empty() {
        return;
    }
    let [[s00, s01], [s10, s11], [s20, s21], [s30, s31], [s40, s41], [s50, s51]] = sum;
    unsafe {
        std::arch::asm!(
            "2:",
            "mov {t}, [{steps}]",
            "lea {t}, [{a} + 4 * {t}]",
            "vmovups {b0}, [{b}]",
            "vmovups {b1}, [{b} + 32]",
            "vbroadcastss {x}, [{t}]",
            "vfmadd231ps {s00}, {x}, {b0}",
            "vfmadd231ps {s01}, {x}, {b1}",
            "vbroadcastss {y}, [{t} + 4]",
            "vfmadd231ps {s10}, {y}, {b0}",
            "vfmadd231ps {s11}, {y}, {b1}",
            "vbroadcastss {x}, [{t} + 8]",
            "vfmadd231ps {s20}, {x}, {b0}",
            "vfmadd231ps {s21}, {x}, {b1}",
            "vbroadcastss {y}, [{t} + 12]",
            "vfmadd231ps {s30}, {y}, {b0}",
            "vfmadd231ps {s31}, {y}, {b1}",
            "vbroadcastss {x}, [{t} + 16]",
            "vfmadd231ps {s40}, {x}, {b0}",
            "vfmadd231ps {s41}, {x}, {b1}",
            "vbroadcastss {y}, [{t} + 20]",
            "vfmadd231ps {s50}, {y}, {b0}",
            "vfmadd231ps {s51}, {y}, {b1}",
            "add {steps}, 8",
            "add {b}, 64",
            "dec {k}",
            "jnz 2b",
            k = inout(reg) steps.len() => _,
            a = in(reg) a,
            steps = inout(reg) steps.as_ptr() => _,
            b = inout(reg) b => _,
            t = out(reg) _,
            b0 = out(ymm_reg) _, b1 = out(ymm_reg) _, x = out(ymm_reg) _, y = out(ymm_reg) _,
            s00 = inout(ymm_reg) *s00, s01 = inout(ymm_reg) *s01,
            s10 = inout(ymm_reg) *s10, s11 = inout(ymm_reg) *s11,
            s20 = inout(ymm_reg) *s20, s21 = inout(ymm_reg) *s21,
            s30 = inout(ymm_reg) *s30, s31 = inout(ymm_reg) *s31,
            s40 = inout(ymm_reg) *s40, s41 = inout(ymm_reg) *s41,
            s50 = inout(ymm_reg) *s50, s51 = inout(ymm_reg) *s51,
            options(pure, readonly, nostack),
        )
    }
}
