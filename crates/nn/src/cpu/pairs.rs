//! Pairs of bf16 numbers, each pair in the place of an f32: what [`tile`](super::tile) multiplies two at a time and `cpu::conv` makes of
//! pairs of channels.

#[cfg(target_arch = "x86_64")]
pub mod dot;

use half::bf16;

/// Numbers of both rows, rounded, in pairs; zeros take the place of what the second one lacks.
pub fn pair(even: &[f32], odd: &[f32], to: &mut [f32]) {
    assert!(even.len() == to.len() && odd.len() <= to.len());
    #[cfg(target_arch = "x86_64")]
    if dot::is_here() {
        // SAFETY: `is_here`.
        return unsafe { dot::pair(even, odd, to) };
    }
    for (i, (to, &even)) in to.iter_mut().zip(even).enumerate() {
        let halves = [even, odd.get(i).copied().unwrap_or_default()].map(|x| u32::from(bf16::from_f32(x).to_bits()));
        *to = f32::from_bits(halves[0] | halves[1] << 16);
    }
}

/// Both numbers of a [`pair`].
#[inline(always)]
pub fn halves(pair: f32) -> [f32; 2] {
    [pair.to_bits() << 16, pair.to_bits() & 0xffff_0000].map(f32::from_bits)
}

/// Sums of the halves of two pairs, rounded.
pub fn add_pairs(a: f32, b: f32) -> f32 {
    let (a, b) = (halves(a), halves(b));
    let mut sum = [0.0];
    pair(&[a[0] + b[0]], &[a[1] + b[1]], &mut sum);
    sum[0]
}
