//! What candle lacks or does slowly. Each operation has a plain version, written with candle's own operations on every
//! device, which is the specification of the fast ones beside it.
//!
//! Nothing here knows a model. Feature maps of the autoencoder are `[T, C, H, W]` (frames are the batch of the
//! two-dimensional part), token sequences `[B, L, D]`, heads `[B, N, L, D]`.

pub mod act;
pub mod check;
pub mod conv;
mod cpu;
#[cfg(any(test, feature = "cuda"))]
mod cuda;
pub mod kernel;
pub mod linear;
pub mod norm;
pub mod resample;
pub mod rope;
pub mod sdpa;
pub mod size;

use candle_core::{DType, Device};

/// The instruction set that the kernels of this processor use: `avx512`, `avx2` or `plain`.
pub fn instructions() -> &'static str {
    cpu::instructions()
}

/// What a network computes in whose weights come as `dtype`: f32 on the processor, whatever numbers its weights stay in
/// ([`linear::Linear`], which alone may multiply in bf16 there).
pub fn compute_dtype(dtype: DType, device: &Device) -> DType {
    match dtype {
        DType::F16 | DType::BF16 if device.is_cpu() => DType::F32,
        other => other,
    }
}
