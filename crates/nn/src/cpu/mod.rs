//! The fast operations of the CPU, in f32 but for [`bf16`]. Each has its plain version in the file of the same name one level up,
//! which decides when it is used and is its specification.
//!
//! Work is cut into tasks by the shape alone, never by the number of threads, and a task adds up in a fixed order: results
//! are the same bit for bit whatever the pool. Tasks run in rayon's current pool and start no tasks of their own.

pub(super) mod act;
pub(super) mod attention;
pub(super) mod bf16;
pub(super) mod conv;
pub(super) mod linear;
pub(super) mod norm;
mod pairs;
pub(super) mod pool;
pub(super) mod resample;
pub(super) mod rms;
pub(super) mod rows;
pub(crate) mod simd;
mod steps;
mod tile;
pub(super) mod turn;
pub(super) mod winograd;

use candle_core::{DType, Result, Storage, Tensor, bail};
use std::cell::RefCell;
use std::mem::MaybeUninit;

/// The instruction set that the kernels use.
pub(super) fn instructions() -> &'static str {
    simd::Isa::best().name()
}

/// Whether the fast operations can take this tensor.
pub(super) fn takes(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// Runs `f` on the numbers of f32 tensors in host memory.
pub(super) fn with_views<R>(tensors: &[&Tensor], f: impl FnOnce(&[View<'_>]) -> Result<R>) -> Result<R> {
    let locked: Vec<_> = tensors.iter().map(|tensor| tensor.storage_and_layout()).collect();
    let mut views = Vec::with_capacity(locked.len());
    for (storage, layout) in &locked {
        let Storage::Cpu(storage) = &**storage else { bail!("a tensor is not in host memory") };
        let storage = storage.as_slice::<f32>()?;
        let (dims, strides) = (layout.dims(), layout.stride());
        if dims.contains(&0) {
            views.push(View { data: &[], dims, strides }); // its start may lie beyond the storage
            continue;
        }
        let last: usize = dims.iter().zip(strides).map(|(dim, stride)| (dim - 1) * stride).sum();
        let Some(data) = storage.get(layout.start_offset()..).filter(|data| last < data.len()) else {
            bail!("a tensor of shape {dims:?} reaches beyond its storage")
        };
        views.push(View { data, dims, strides });
    }
    f(&views)
}

/// [`with_views`] of contiguous tensors.
pub(super) fn with_slices<R>(tensors: &[&Tensor], f: impl FnOnce(&[&[f32]]) -> Result<R>) -> Result<R> {
    with_views(tensors, |views| {
        let slices: Option<Vec<_>> = views.iter().map(View::contiguous).collect();
        f(&slices.ok_or_else(|| candle_core::Error::msg("a tensor has gaps"))?)
    })
}

/// The numbers of a tensor: `data` starts at its first one. Every index that `dims` and `strides` can make is inside `data`.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub data: &'a [f32],
    pub dims: &'a [usize],
    pub strides: &'a [usize],
}

impl<'a> View<'a> {
    /// The numbers in order, if they lie without gaps.
    pub fn contiguous(&self) -> Option<&'a [f32]> {
        if self.dims.contains(&0) {
            return Some(&[]);
        }
        let mut expected = 1;
        for (&dim, &stride) in self.dims.iter().zip(self.strides).rev() {
            if dim != 1 && stride != expected {
                return None;
            }
            expected *= dim;
        }
        Some(&self.data[..expected])
    }
}

/// A vector whose numbers `f` writes, in any order and from any thread.
///
/// # Safety
/// `f` must write every number.
pub(super) unsafe fn filled(len: usize, f: impl FnOnce(Target)) -> Vec<f32> {
    let mut out = Vec::with_capacity(len);
    f(Target { start: out.as_mut_ptr(), len });
    // SAFETY: the capacity is at least `len` and the caller promises that all of it was written.
    unsafe { out.set_len(len) };
    out
}

/// Where the tasks of one operation write their shares of the result.
#[derive(Clone, Copy)]
pub(super) struct Target {
    start: *mut f32,
    len: usize,
}

// SAFETY: it is only a place; `part` makes the caller promise that threads do not share numbers.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// # Safety
    /// No two live parts may overlap.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // that is what the promise is for
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [MaybeUninit<f32>] {
        assert!(start <= self.len && len <= self.len - start, "a part ends beyond the result");
        // SAFETY: in bounds by the check above, inside the vector of `filled`, unshared by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start).cast(), len) }
    }
}

/// A cache line of numbers.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Numbers that begin with a cache line, so that a vector at a multiple of its width lies in one.
#[derive(Debug)]
struct Lines(Vec<Line>);

impl Lines {
    const fn new() -> Self {
        Self(Vec::new())
    }

    /// At least `len` zeros.
    fn zeros(len: usize) -> Self {
        Self(vec![Line([0.0; 16]); len.div_ceil(16)])
    }

    fn numbers(&self) -> &[f32] {
        // SAFETY: a line is sixteen numbers without padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 16) }
    }

    fn numbers_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * 16) }
    }
}

thread_local! {
    static SCRATCH: RefCell<Lines> = const { RefCell::new(Lines::new()) };
}

/// Runs `f` with at least `len` numbers of this thread's work space. Their values are left over from earlier calls.
pub(super) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    SCRATCH.with_borrow_mut(|lines| {
        let count = len.div_ceil(16);
        if lines.0.len() < count {
            lines.0.resize(count, Line([0.0; 16]));
        }
        f(lines.numbers_mut())
    })
}

#[cfg(test)]
pub(super) mod tests {
    use candle_core::{Device, Tensor};

    /// Numbers in [-1, 1) that depend on the shape alone.
    pub fn random(dims: &[usize]) -> Tensor {
        let mut state = dims.iter().fold(1_u64, |state, dim| state.wrapping_mul(31).wrapping_add(*dim as u64));
        let values: Vec<f32> = (0..dims.iter().product())
            .map(|_: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect();
        Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
    }

    /// Fails when the tensors differ by more than `limit` (relative L2).
    #[track_caller]
    pub fn assert_close(what: &str, got: &Tensor, want: &Tensor, limit: f64) {
        assert_eq!(got.dims(), want.dims(), "{what}");
        let [got, want] = [got, want].map(|x| x.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        let square = |x: f32| f64::from(x) * f64::from(x);
        let difference: f64 = got.iter().zip(&want).map(|(a, b)| square(a - b)).sum();
        let norm: f64 = want.iter().copied().map(square).sum();
        assert!(norm > 0.0, "{what}: nothing to compare");
        let distance = (difference / norm).sqrt();
        assert!(distance <= limit, "{what}: relative L2 {distance:.3e} > {limit:.0e}");
    }
}
