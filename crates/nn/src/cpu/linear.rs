//! `x W^T + b` with the weights packed once: a panel holds a few vectors of output columns, input by input, so that a register
//! tile broadcasts rows of `x` as they lie. A task takes a block of rows through its panels, a slice of the inputs at a time:
//! the slice of `x` stays in the second-level cache, that of a panel in the first.
//!
//! Weights in half precision stay in them: a task widens a slice of a panel when its rows come to it. The arithmetic is that of
//! f32 weights with the same values, to the last bit.

use super::act::Act;
use super::simd::{self, Kernel, Simd, dispatch};
use super::steps::Every;
use super::tile;
use super::{Lines, Target, filled, with_scratch};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Vectors of a register tile.
const VECTORS: usize = 3;
/// Rows of one task.
const ROWS: usize = 128;
/// Most inputs of one slice.
const SLICE: usize = 320;
/// Tasks to aim at where there are few rows.
const TASKS: usize = 16;

/// Weights in the order of use.
#[derive(Debug)]
pub struct Packed {
    weight: Panels,
    bias: Vec<f32>,
    /// Columns of a panel: as many as a register tile has.
    panel: usize,
    input: usize,
    output: usize,
}

/// `[panels][input][panel]`, zero beyond the last column.
#[derive(Debug)]
enum Panels {
    F32(Lines),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

/// Weights as they come, `[output, input]`.
#[derive(Debug, Clone, Copy)]
pub enum Matrix<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

impl Packed {
    /// `weight` is `[output, input]`; `bias` has `output` numbers or none.
    pub fn new(weight: Matrix, bias: &[f32], output: usize, input: usize) -> Self {
        assert!(bias.is_empty() || bias.len() == output);
        let panel = VECTORS * simd::lanes();
        let panels = output.div_ceil(panel);
        let len = panels * panel * input;
        let shape = (output, input, panel);
        let weight = match weight {
            Matrix::F32(weight) => {
                let mut packed = Lines::zeros(len);
                pack(weight, shape, &mut packed.numbers_mut()[..len]);
                Panels::F32(packed)
            }
            Matrix::F16(weight) => {
                let mut packed = vec![f16::ZERO; len];
                pack(weight, shape, &mut packed);
                Panels::F16(packed)
            }
            Matrix::Bf16(weight) => {
                let mut packed = vec![bf16::ZERO; len];
                pack(weight, shape, &mut packed);
                Panels::Bf16(packed)
            }
        };
        let mut bias = bias.to_vec();
        bias.resize(panels * panel, 0.0);
        Self { weight, bias, panel, input, output }
    }

    pub fn input(&self) -> usize {
        self.input
    }

    pub fn output(&self) -> usize {
        self.output
    }

    /// `x` is `[rows, input]`; returns `[rows, output]`, activated if so asked.
    pub fn run(&self, x: &[f32], rows: usize, act: Option<Act>) -> Vec<f32> {
        assert_eq!(x.len(), rows * self.input);
        let run = |target: Target| {
            tasks((rows, ROWS), self.output.div_ceil(self.panel), |rows, panels| {
                let task = Task {
                    packed: self,
                    x: &x[rows.start * self.input..rows.end * self.input],
                    first: rows.start,
                    rows: rows.len(),
                    panels,
                    act,
                    target,
                };
                let wide = if matches!(self.weight, Panels::F32(_)) { 0 } else { SLICE.min(self.input) * self.panel };
                with_scratch(wide, |work| dispatch(Run { task: &task, wide: work }));
            });
        };
        // SAFETY: the tasks cover all rows and panels, and a task writes all columns of its panels in its rows.
        unsafe { filled(rows * self.output, run) }
    }
}

/// Runs `task` for blocks of `height` rows with all panels, or, where there are few rows, with some of them at a time.
pub(super) fn tasks((rows, height): (usize, usize), panels: usize, task: impl Fn(Range<usize>, Range<usize>) + Sync) {
    let blocks = rows.div_ceil(height);
    let together = panels.div_ceil(TASKS.div_ceil(blocks.max(1))).max(1);
    let groups = panels.div_ceil(together);
    (0..blocks * groups).into_par_iter().for_each(|index| {
        let (first, group) = (index / groups * height, index % groups);
        task(first..rows.min(first + height), group * together..panels.min((group + 1) * together));
    });
}

/// Columns of `weight` side by side, input by input. `shape`: output, input, columns of a panel.
fn pack<T: Copy + Send + Sync>(weight: &[T], (output, input, panel): (usize, usize, usize), packed: &mut [T]) {
    assert_eq!(weight.len(), output * input);
    if input == 0 {
        return;
    }
    packed.par_chunks_exact_mut(input * panel).enumerate().for_each(|(index, to)| {
        let rows = weight[index * panel * input..].chunks_exact(input).take(panel);
        for (column, row) in rows.enumerate() {
            for (i, &value) in row.iter().enumerate() {
                to[i * panel + column] = value;
            }
        }
    });
}

/// Some rows and some panels.
struct Task<'a> {
    packed: &'a Packed,
    x: &'a [f32],
    first: usize,
    rows: usize,
    panels: Range<usize>,
    act: Option<Act>,
    target: Target,
}

/// A slice of the inputs.
#[derive(Clone, Copy)]
struct Slice {
    start: usize,
    len: usize,
    last: bool,
}

/// A task and the work space for a slice of a panel in f32, where the weights are not.
struct Run<'a> {
    task: &'a Task<'a>,
    wide: &'a mut [f32],
}

impl Kernel for Run<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { task, wide } = self;
        let Packed { input, output, panel: width, .. } = *task.packed;
        let count = input.div_ceil(SLICE).max(1); // slices of about the same size
        for index in 0..count {
            let start = index * input / count;
            let len = (index + 1) * input / count - start;
            let slice = Slice { start, len, last: index + 1 == count };
            for panel in task.panels.clone() {
                let weight = task
                    .packed
                    .weight
                    .slice((panel * input + start) * width..(panel * input + start + len) * width, wide);
                // Narrower vectors than it was packed for fill a panel in several rounds.
                let mut column = 0;
                let live = width.min(output - panel * width);
                while column < live {
                    match (live - column).div_ceil(S::LANES) {
                        1 => task.column::<S, 1>(s, slice, weight, panel, column),
                        2 => task.column::<S, 2>(s, slice, weight, panel, column),
                        _ => task.column::<S, VECTORS>(s, slice, weight, panel, column),
                    }
                    column += VECTORS * S::LANES;
                }
            }
        }
    }
}

impl Panels {
    /// Some weights in f32; `wide` is where they go if they are not yet.
    #[inline(always)]
    fn slice<'a>(&'a self, range: Range<usize>, wide: &'a mut [f32]) -> &'a [f32] {
        match self {
            Self::F32(weight) => &weight.numbers()[range],
            Self::F16(weight) => {
                let wide = &mut wide[..range.len()];
                weight[range].convert_to_f32_slice(wide);
                wide
            }
            Self::Bf16(weight) => {
                let wide = &mut wide[..range.len()];
                for (wide, value) in wide.iter_mut().zip(&weight[range]) {
                    *wide = f32::from_bits(u32::from(value.to_bits()) << 16); // the upper half of an f32
                }
                wide
            }
        }
    }
}

impl Task<'_> {
    /// All rows of `N` vectors of columns.
    #[inline(always)]
    fn column<S: Simd, const N: usize>(&self, s: S, slice: Slice, weight: &[f32], panel: usize, column: usize) {
        let mut row = 0;
        if S::WIDE {
            while row + 8 <= self.rows {
                self.tile::<S, 8, N>(s, slice, weight, (panel, column), row);
                row += 8;
            }
        }
        while row + 4 <= self.rows {
            self.tile::<S, 4, N>(s, slice, weight, (panel, column), row);
            row += 4;
        }
        while row < self.rows {
            self.tile::<S, 1, N>(s, slice, weight, (panel, column), row);
            row += 1;
        }
    }

    /// `M` rows of `N` vectors of columns: what they had so far (the bias at first) plus the slice.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(
        &self,
        s: S,
        slice: Slice,
        weight: &[f32],
        (panel, column): (usize, usize),
        row: usize,
    ) {
        let Packed { input, output, panel: pitch, .. } = *self.packed;
        let from = panel * pitch + column;
        let width = (N * S::LANES).min(output - from);
        let mut sums = [[s.splat(0.0); N]; M];
        for (m, sums) in sums.iter_mut().enumerate() {
            if slice.start == 0 {
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = s.get(&self.packed.bias[from + n * S::LANES..]);
                }
            } else {
                let so_far = self.place(row + m, from, width);
                for (sum, so_far) in sums.iter_mut().zip(so_far.chunks(S::LANES)) {
                    // SAFETY: the first slice wrote these numbers.
                    *sum = s.get(unsafe { so_far.assume_init_ref() });
                }
            }
        }
        let x = &self.x[row * input + slice.start..];
        let weight = &weight[column..];
        assert!(slice.len == 0 || x.len() >= (M - 1) * input + slice.len);
        assert!(slice.len == 0 || weight.len() >= (slice.len - 1) * pitch + N * S::LANES);
        // SAFETY: both lengths were just checked.
        let sums = unsafe {
            tile::multiply::<S, M, N>(s, slice.len, (x.as_ptr(), input, 1), (weight.as_ptr(), Every(pitch)), sums)
        };
        for (m, sums) in sums.iter().enumerate() {
            for (&sum, to) in sums.iter().zip(self.place(row + m, from, width).chunks_mut(S::LANES)) {
                let sum = match self.act {
                    Some(act) if slice.last => act.of(s, sum),
                    _ => sum,
                };
                s.put(sum, to);
            }
        }
    }

    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // one task is one thread, and no two of its parts live at once
    fn place(&self, row: usize, column: usize, width: usize) -> &mut [MaybeUninit<f32>] {
        // SAFETY: rows and panels belong to one task, which holds one part at a time.
        unsafe { self.target.part((self.first + row) * self.packed.output + column, width) }
    }
}
