//! What AVX512_BF16 has (AMD from Zen 4 on, Intel from Cooper Lake on): products of pairs of bf16 numbers that are added to f32
//! sums, twice the multiplications of an f32 instruction, and rounding.

use half::bf16;
use std::arch::x86_64::*;

/// Whether the CPU has the instructions.
pub fn is_here() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
}

pub fn bits(v: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { std::mem::transmute(v) }
}

/// To the nearest, ties to even.
///
/// # Safety
/// [`is_here`] must have said so.
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn round(from: &[f32], to: &mut [bf16]) {
    assert_eq!(from.len(), to.len());
    let (whole, rest) = from.as_chunks::<16>();
    let (to, to_rest) = to.as_chunks_mut::<16>();
    for (from, to) in whole.iter().zip(to) {
        // SAFETY: sixteen numbers of each kind, whose halves are 32 bytes.
        unsafe {
            let halves = _mm512_cvtneps_pbh(_mm512_loadu_ps(from.as_ptr()));
            to.as_mut_ptr().cast::<__m256bh>().write_unaligned(halves);
        }
    }
    for (&from, to) in rest.iter().zip(to_rest) {
        *to = bf16::from_f32(from);
    }
}

/// Numbers of both rows, rounded, in pairs; zeros take the place of what the second one lacks.
///
/// # Safety
/// [`is_here`] must have said so.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn pair(even: &[f32], odd: &[f32], to: &mut [f32]) {
    assert_eq!(even.len(), to.len());
    for (i, to) in to.chunks_mut(16).enumerate() {
        let get = |from: &[f32]| {
            let from = from.get(16 * i..(16 * i + to.len()).min(from.len())).unwrap_or_default();
            // SAFETY: the mask leaves out what is not there.
            unsafe { _mm512_maskz_loadu_ps(first_lanes(from.len()), from.as_ptr()) }
        };
        let pairs = interleaved(get(even), get(odd));
        // SAFETY: as above.
        unsafe { _mm512_mask_storeu_epi32(to.as_mut_ptr().cast(), first_lanes(to.len()), pairs) };
    }
}

fn first_lanes(count: usize) -> __mmask16 {
    ((1_u32 << count) - 1) as __mmask16
}

/// Numbers of both, rounded, in pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub fn interleaved(even: __m512, odd: __m512) -> __m512i {
    const ORDER: [u16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            order[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        order
    };
    // SAFETY: 32 halves, of two types without invalid values.
    let (order, both) = unsafe {
        let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(odd, even));
        (_mm512_loadu_si512(ORDER.as_ptr().cast()), both)
    };
    _mm512_permutexvar_epi16(order, both)
}

/// `tile::multiply_pairs`.
///
/// # Safety
/// As there; [`is_here`] must have said so.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512bf16")]
pub unsafe fn multiply<const M: usize, const N: usize>(
    (a, am, ak): (*const f32, usize, usize),
    (b, steps): (*const f32, &[usize]),
    sum: &mut [[__m512; N]; M],
) {
    let mut tile = *sum;
    for (i, &step) in steps.iter().enumerate() {
        // SAFETY: all reads are the caller's promise.
        unsafe {
            let mut vectors = [bits(_mm512_setzero_si512()); N];
            for (n, vector) in vectors.iter_mut().enumerate() {
                *vector = bits(_mm512_loadu_si512(b.add(step + 16 * n).cast()));
            }
            for (m, sum) in tile.iter_mut().enumerate() {
                let both = bits(_mm512_set1_epi32((*a.add(m * am + i * ak)).to_bits() as i32));
                for (sum, &vector) in sum.iter_mut().zip(&vectors) {
                    *sum = _mm512_dpbf16_ps(*sum, both, vector);
                }
            }
        }
    }
    *sum = tile;
}
