//! A kernel launch as data: grid and arguments, as the driver gets them.

use super::ptx::{KernelInfo, Ptx, pick, suffix};
use candle_core::{D, DType, Result, Tensor};

/// Compute capability, major and minor.
pub type Capability = (i32, i32);

/// An argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arg {
    /// The first number of an input.
    Input(usize),
    /// An output, which is contiguous.
    Output(usize),
    I32(i32),
    I64(i64),
    F32(f32),
}

/// A launch of one kernel: its arguments in the order of the kernel's source.
#[derive(Debug, Clone)]
pub struct Launch {
    pub ptx: &'static Ptx,
    pub grid: [u32; 3],
    pub args: Vec<Arg>,
    pub inputs: Vec<Tensor>,
    pub outputs: Vec<(DType, Vec<usize>)>,
}

/// What the kernels rely on, in bytes: all pointers are multiples.
const POINTER: usize = 16;
/// What the kernels rely on, in numbers: sizes of rows and strides are multiples.
pub const EIGHT: usize = 8;
/// Most blocks along the second and third axis of a grid.
const BLOCKS: usize = 65_535;

/// The kernel `stem_DTYPE` and its facts.
pub fn kernel(stem: &str, dtype: DType, capability: Capability) -> Result<Option<(&'static Ptx, KernelInfo<'static>)>> {
    let Some(suffix) = suffix(dtype) else { return Ok(None) };
    match pick(&format!("{stem}_{suffix}"), capability)? {
        Some(ptx) => Ok(Some((ptx, ptx.facts()?))),
        None => Ok(None),
    }
}

/// The grid, if the driver takes it.
pub fn grid(x: usize, y: usize, z: usize) -> Option<[u32; 3]> {
    let fits = (1..=i32::MAX as usize).contains(&x) && [y, z].iter().all(|axis| (1..=BLOCKS).contains(axis));
    fits.then_some([x as u32, y as u32, z as u32])
}

/// Sizes as a kernel counts them.
pub fn i32s<const N: usize>(values: [usize; N]) -> Option<[Arg; N]> {
    values.iter().all(|&value| i32::try_from(value).is_ok()).then(|| values.map(|value| Arg::I32(value as i32)))
}

/// Whether a tensor starts where the kernels rely on it. (Allocations do; a view may start anywhere.)
pub fn aligned(x: &Tensor) -> bool {
    (x.layout().start_offset() * x.dtype().size_in_bytes()).is_multiple_of(POINTER)
}

/// The tensor, or a copy without gaps that starts where a kernel relies on it.
pub fn whole(x: &Tensor) -> Result<Tensor> {
    if x.is_contiguous() && aligned(x) { Ok(x.clone()) } else { x.force_contiguous() }
}

/// [`whole`] of a tensor with strides that a kernel takes as they are: the last axis without gaps, the others in multiples of
/// eight. The strides of the result; those of axes with a single place are 0.
pub fn strided(x: &Tensor) -> Result<(Tensor, Vec<usize>)> {
    let strides = |x: &Tensor| -> Vec<usize> {
        x.dims().iter().zip(x.stride()).map(|(&dim, &stride)| if dim == 1 { 0 } else { stride }).collect()
    };
    let found = strides(x);
    let last = x.rank() - 1;
    let dense = found[last] == usize::from(x.dims()[last] != 1);
    let fits = found[..last].iter().all(|stride| stride.is_multiple_of(EIGHT)) && dense && aligned(x);
    if fits {
        return Ok((x.clone(), found));
    }
    let x = x.force_contiguous()?;
    let found = strides(&x);
    Ok((x, found))
}

/// Whether rows of this tensor have a size that the kernels take.
pub fn rows_fit(x: &Tensor) -> bool {
    x.elem_count() > 0 && x.dim(D::Minus1).is_ok_and(|dim| dim.is_multiple_of(EIGHT))
}
