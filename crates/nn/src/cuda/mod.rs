//! The fast operations on NVIDIA GPUs (compute capability 8.0 and newer), in f16, bf16 and, but for attention, f32. Each has
//! its plain version in the file of the same name one level up, which decides when it is used and is its specification.
//!
//! The kernels are Triton's language, compiled ahead of time (`kernels/generate.py`); the PTX beside them, packed, is what the
//! driver compiles for the GPU at hand. What a launch consists of (grid, arguments and their order) is worked out in [`launch`],
//! [`rows`] and [`groups`] without a GPU, and `device` alone touches one. The tests let a twin of each kernel run such launches
//! in host memory; `tests/reference/cuda_kernels.py` does the same with the kernels' own source.
//!
//! An operation that cannot take its tensors answers `None`, and the plain version takes them.

mod attention;
#[cfg(feature = "cuda")]
mod device;
mod groups;
mod launch;
mod ptx;
mod rows;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;

#[cfg(feature = "cuda")]
pub(super) use device::*;

/// The newest kernels that a GPU of this compute capability takes.
#[cfg(feature = "cuda")]
pub(super) fn arch(capability: launch::Capability) -> Option<&'static str> {
    ptx::pick("attention_64_bf16", capability).ok().flatten().map(|ptx| ptx.arch.as_str())
}
