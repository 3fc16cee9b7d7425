//! Operations that candle lacks or does slowly. Each operation has a plain version, written with candle's own operations on every
//! device, which is the specification of the fast ones beside it.
//!
//! Nothing here knows a model. Feature maps of the autoencoder are `[T, C, H, W]` (frames are the batch of the
//! two-dimensional part), token sequences `[B, L, D]`, heads `[B, N, L, D]`.

#![cfg_attr(test, allow(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod act;
pub mod check;
pub mod conv;
mod cpu;
#[cfg(any(test, feature = "cuda"))]
mod cuda;
pub mod kernel;
pub mod linear;
pub mod norm;
pub mod pool;
pub mod resample;
pub mod rope;
pub mod scores;
pub mod sdpa;
pub mod size;
pub mod turn;

use candle_core::{DType, Device};

/// The instruction set that the kernels use on this CPU: `avx512`, `avx2` or `plain`, and what multiplies bf16, if anything
/// does.
pub fn instructions() -> String {
    match cpu::bf16::name() {
        Some(name) => format!("{}, bf16 with {name}", cpu::instructions()),
        None => cpu::instructions().to_owned(),
    }
}

/// Tells glibc's allocator to keep what a layer frees for the next one. By default it returns memory and requests it again, and the
/// system clears, some hundred megabytes in a second, which was a tenth of a short clip. Larger blocks are the system's as before.
/// To be called before there are threads.
pub fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (what, value) in [
        (libc::M_ARENA_MAX, 1), // the heaps of further arenas end at 64 MB and are given back when they are empty
        (libc::M_MMAP_THRESHOLD, 16 << 20),
        (libc::M_TRIM_THRESHOLD, 128 << 20),
    ] {
        // SAFETY: two numbers; what the call refuses stays as it was.
        unsafe { libc::mallopt(what, value) };
    }
}

/// What a network computes in whose weights come as `dtype`: f32 on the CPU, whatever dtype its weights stay in
/// (linear layers, attention and convolutions may round what they multiply to bf16 there).
pub fn compute_dtype(dtype: DType, device: &Device) -> DType {
    match dtype {
        DType::F16 | DType::BF16 if device.is_cpu() => DType::F32,
        other => other,
    }
}
