//! Convolution without a matrix of patches. A task takes a tile of output positions of one frame, copies what they see of the
//! input into its work space once (borders become zeros there), and adds up all taps and channels in registers ([`sums`]). In
//! the work space a tap is a constant distance, so positions run on over row ends; the few that fall between rows are computed
//! and dropped.
//!
//! A stride is handled by copying each residue class of rows and columns into a plane of its own. Doubling the image before
//! a 3x3 convolution is four 2x2 convolutions with summed weights, one per parity of the output position (the same sums,
//! 16 multiplications in place of 36).

mod sums;

use super::simd::{self, MAX_LANES, Simd, dispatch};
use super::{Lines, Target, View, filled, with_scratch};
use rayon::prelude::*;
use sums::Sums;

/// Numbers of work space that a tile's input should fit in (1 MiB, a usual second-level cache).
const WORKSPACE: usize = 160 << 10;
/// Columns of a tile where a row does not fit.
const COLUMNS: usize = 96;
/// Weights in the order of use, made once.
#[derive(Debug)]
pub struct Packed {
    /// `[phase][block][kt, in, k, k][shape.block]`; output channels beyond the last are zero.
    weight: Lines,
    bias: Vec<f32>,
    shape: Shape,
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    input: usize,
    output: usize,
    kt: usize,
    /// Width and height of the kernel (after the split into phases).
    k: usize,
    stride: usize,
    padding: usize,
    /// 1, or 2 where the image is doubled: there are `up * up` phases.
    up: usize,
    /// Output channels of one block of packed weights.
    block: usize,
}

impl Shape {
    fn depth(&self) -> usize {
        self.kt * self.input * self.k * self.k
    }

    fn planes(&self) -> usize {
        self.kt * self.input * self.stride * self.stride
    }

    fn blocks(&self) -> usize {
        self.output.div_ceil(self.block)
    }

    fn out(&self, size: usize) -> usize {
        if self.up == 2 { 2 * size } else { (size + 2 * self.padding - self.k) / self.stride + 1 }
    }
}

impl Packed {
    /// `weight` is `[output, input, kt, k, k]`, `bias` has `output` numbers or none.
    pub fn new(
        weight: &[f32],
        bias: &[f32],
        (output, input, kt, k): (usize, usize, usize, usize),
        stride: usize,
        padding: usize,
    ) -> Self {
        assert_eq!(weight.len(), output * input * kt * k * k);
        let block = sums::block(simd::lanes(), output);
        let shape = Shape { input, output, kt, k, stride, padding, up: 1, block };
        let mut packed = Lines::zeros(shape.blocks() * shape.depth() * block);
        for o in 0..output {
            for i in 0..input {
                for t in 0..kt {
                    for tap in 0..k * k {
                        let depth = (t * input + i) * k * k + tap;
                        let at = ((o / block) * shape.depth() + depth) * block + o % block;
                        packed.numbers_mut()[at] = weight[((o * input + i) * kt + t) * k * k + tap];
                    }
                }
            }
        }
        Self { weight: packed, bias: padded(bias, shape), shape }
    }

    /// What makes the form of these weights that doubles the image (nearest neighbour) first: for 3x3 kernels in one frame with
    /// stride 1 and padding 1.
    pub fn doubled(&self) -> Option<impl FnOnce() -> Packed> {
        let Shape { kt: 1, k: 3, stride: 1, padding: 1, up: 1, .. } = self.shape else { return None };
        Some(|| {
            let shape = Shape { k: 2, up: 2, ..self.shape };
            let block = shape.block;
            let (from, to) = (self.shape.depth() * block, shape.depth() * block);
            let mut weight = Lines::zeros(4 * shape.blocks() * to);
            for (py, px, ky, kx) in (0..36_usize).map(|i| (i / 18, i / 9 % 2, i / 3 % 3, i % 3)) {
                // Around row 2y + py of the doubled image, tap ky - 1 falls on source row y + ceil((py + ky) / 2) - 1, and the
                // rows that a phase sees begin at y + py - 1.
                let (ty, tx) = ((py + ky).div_ceil(2) - py, (px + kx).div_ceil(2) - px);
                for (index, channel) in (0..shape.blocks() * shape.input).map(|i| (i / shape.input, i % shape.input)) {
                    let tap = index * from + (channel * 9 + ky * 3 + kx) * block;
                    let sum = ((py * 2 + px) * shape.blocks() + index) * to + (channel * 4 + ty * 2 + tx) * block;
                    let taps = &self.weight.numbers()[tap..tap + block];
                    for (sum, tap) in weight.numbers_mut()[sum..].iter_mut().zip(taps) {
                        *sum += tap;
                    }
                }
            }
            Packed { weight, bias: self.bias.clone(), shape }
        })
    }

    pub fn input(&self) -> usize {
        self.shape.input
    }

    pub fn output(&self) -> usize {
        self.shape.output
    }

    pub fn taps(&self) -> usize {
        self.shape.kt
    }

    /// Height and width of the result for those of the input; none if the kernel does not fit.
    pub fn size(&self, height: usize, width: usize) -> Option<(usize, usize)> {
        let fits = |size: usize| size > 0 && size + 2 * self.shape.padding >= self.shape.k;
        (fits(height) && fits(width)).then(|| (self.shape.out(height), self.shape.out(width)))
    }

    /// Convolves frames, each `[C, H, W]` with any strides; every output frame sees `kt` consecutive ones. `add`, of the shape
    /// of the result, is added to it. Returns `[T, C, H, W]`, or none if the kernel does not fit the frames.
    pub fn run(&self, frames: &[View], add: Option<&[f32]>) -> Option<Vec<f32>> {
        let shape = self.shape;
        let &[channels, height, width] = frames.first()?.dims else { return None };
        let out = self.size(height, width)?;
        if channels != shape.input || frames.len() < shape.kt || frames.iter().any(|frame| frame.dims != frames[0].dims)
        {
            return None;
        }
        let count = frames.len() + 1 - shape.kt;
        let len = count * shape.output * out.0 * out.1;
        if add.is_some_and(|add| add.len() != len) {
            return None;
        }
        // Tiles are cut in phase positions: the input's own grid where the image is doubled.
        let (rows, columns) = (out.0 / shape.up, out.1 / shape.up);
        let cut = Cut::new(shape, rows, columns);
        let steps = cut.steps(shape);
        debug_assert!(steps.iter().all(|step| step + (shape.up - 1) * (cut.pitch() + 1) + cut.rows * cut.pitch()
            <= cut.reach + shape.planes() * cut.plane()));
        let run = |target| {
            (0..count * cut.bands * cut.strips).into_par_iter().for_each(|task| {
                let (strip, rest) = (task % cut.strips, task / cut.strips);
                let (band, frame) = (rest % cut.bands, rest / cut.bands);
                let (y, x) = (band * cut.rows, strip * cut.columns);
                let tile = Tile {
                    packed: self,
                    cut: &cut,
                    steps: &steps,
                    frame,
                    y,
                    x,
                    rows: cut.rows.min(rows - y),
                    columns: cut.columns.min(columns - x),
                    out,
                    add,
                    target,
                };
                // A vector of positions may run over the last one.
                let space = shape.planes() * cut.plane() + MAX_LANES;
                let sums = sums::space(&tile);
                with_scratch(space + sums, |work| {
                    let (work, rest) = work.split_at_mut(space);
                    tile.copy(&frames[frame..frame + shape.kt], work);
                    dispatch(Sums { tile: &tile, seen: work, work: &mut rest[..sums] });
                });
            });
        };
        // SAFETY: the tiles of all frames cover the result, and a tile writes all channels of its positions.
        Some(unsafe { filled(len, run) })
    }
}

fn padded(bias: &[f32], shape: Shape) -> Vec<f32> {
    assert!(bias.is_empty() || bias.len() == shape.output);
    let mut bias = bias.to_vec();
    bias.resize(shape.blocks() * shape.block, 0.0);
    bias
}

/// How a frame is cut into tiles (by the shape alone), and how a tile lies in the work space.
struct Cut {
    rows: usize,
    columns: usize,
    bands: usize,
    strips: usize,
    /// Rows or columns of a plane beyond the positions.
    reach: usize,
}

impl Cut {
    fn new(shape: Shape, rows: usize, columns: usize) -> Self {
        let reach = (shape.k - 1) / shape.stride + shape.up - 1;
        let per_row = |columns: usize| shape.planes() * (columns + reach);
        let mut width = columns;
        if per_row(width) * (reach + 4) > WORKSPACE {
            width = columns.div_ceil(columns.div_ceil(COLUMNS)); // equal strips near the wished width
        }
        let most = (WORKSPACE / per_row(width)).saturating_sub(reach).clamp(1, rows);
        let height = rows.div_ceil(rows.div_ceil(most));
        Self { rows: height, columns: width, bands: rows.div_ceil(height), strips: columns.div_ceil(width), reach }
    }

    /// Distance of neighbouring rows in the work space.
    fn pitch(&self) -> usize {
        self.columns + self.reach
    }

    /// Numbers of one plane.
    fn plane(&self) -> usize {
        self.pitch() * (self.rows + self.reach)
    }

    /// Where each tap of each channel lies in the work space, from the output position.
    fn steps(&self, shape: Shape) -> Vec<usize> {
        let mut steps = Vec::with_capacity(shape.depth());
        for channel in 0..shape.kt * shape.input {
            for (ky, kx) in (0..shape.k * shape.k).map(|tap| (tap / shape.k, tap % shape.k)) {
                let class = (ky % shape.stride) * shape.stride + kx % shape.stride;
                let plane = channel * shape.stride * shape.stride + class;
                steps.push(plane * self.plane() + ky / shape.stride * self.pitch() + kx / shape.stride);
            }
        }
        steps
    }
}

/// One task: output positions `y..y + rows`, `x..x + columns` of one frame, all channels.
struct Tile<'a> {
    packed: &'a Packed,
    cut: &'a Cut,
    steps: &'a [usize],
    frame: usize,
    y: usize,
    x: usize,
    rows: usize,
    columns: usize,
    out: (usize, usize),
    add: Option<&'a [f32]>,
    target: Target,
}

impl Tile<'_> {
    /// Fills the planes with what the positions see of the input; zeros follow them.
    fn copy(&self, frames: &[View], work: &mut [f32]) {
        let Shape { stride, padding, input, .. } = self.packed.shape;
        let pitch = self.cut.pitch();
        let height = self.rows + self.cut.reach;
        work[self.packed.shape.planes() * self.cut.plane()..].fill(0.0);
        for (plane, to) in work.chunks_exact_mut(self.cut.plane()).take(self.packed.shape.planes()).enumerate() {
            let (class, channel) = (plane % (stride * stride), plane / (stride * stride));
            let (dy, dx) = (class / stride, class % stride);
            let frame = &frames[channel / input];
            let &[_, rows, columns] = frame.dims else { return };
            let &[along_c, along_y, along_x] = frame.strides else { return };
            // Planes are in padded coordinates: `stride * (x + i) + dx` is column `padding` less of the image.
            let first = stride * self.x + dx;
            let from = padding.saturating_sub(first).div_ceil(stride).min(pitch);
            let until = (columns + padding).saturating_sub(first).div_ceil(stride).clamp(from, pitch);
            for (i, to) in to.chunks_exact_mut(pitch).take(height).enumerate() {
                let y = stride * (self.y + i) + dy;
                if y < padding || y - padding >= rows || from == until {
                    to.fill(0.0);
                    continue;
                }
                to[..from].fill(0.0);
                to[until..].fill(0.0);
                let row = channel % input * along_c + (y - padding) * along_y;
                let start = row + (first + stride * from - padding) * along_x;
                let along = stride * along_x;
                if along == 1 {
                    to[from..until].copy_from_slice(&frame.data[start..start + until - from]);
                } else {
                    for (i, to) in to[from..until].iter_mut().enumerate() {
                        *to = frame.data[start + i * along];
                    }
                }
            }
        }
    }

    /// Writes the results of positions `at..end` of a phase `py` of a channel. `of(px)` are those of `(py, px)`, from `at` on;
    /// what fell between rows is dropped.
    #[inline(always)]
    fn write_all<'b, S: Simd>(
        &self,
        s: S,
        (channel, py): (usize, usize),
        (at, end): (usize, usize),
        of: impl Fn(usize) -> &'b [f32],
    ) {
        let (pitch, up) = (self.cut.pitch(), self.packed.shape.up);
        let mut q = at;
        while q < end.min(self.rows * pitch) {
            let (row, x) = (q / pitch, q % pitch);
            let len = self.columns.saturating_sub(x).min(end - q);
            if len > 0 {
                let parts = [&of(0)[q - at..][..len], &of(up - 1)[q - at..][..len]];
                self.write(s, channel, (up * row + py, up * x), parts);
            }
            q = if x + len < self.columns { q + len } else { (row + 1) * pitch };
        }
    }

    /// Writes a run of results of one row; the second part is that of the other phase, where there is one.
    #[inline(always)]
    fn write<S: Simd>(&self, s: S, channel: usize, (y, x): (usize, usize), [even, odd]: [&[f32]; 2]) {
        let up = self.packed.shape.up;
        let row = (self.frame * self.packed.shape.output + channel) * self.out.0 + up * self.y + y;
        let start = row * self.out.1 + up * self.x + x;
        // SAFETY: positions belong to one tile, and a tile's phases and channels write different numbers.
        let to = unsafe { self.target.part(start, up * even.len()) };
        let add = self.add.map(|add| &add[start..start + to.len()]);
        if up == 2 {
            for (i, to) in to.iter_mut().enumerate() {
                let value = if i % 2 == 0 { even[i / 2] } else { odd[i / 2] };
                to.write(if let Some(add) = add { value + add[i] } else { value });
            }
        } else {
            for (i, to) in to.chunks_mut(S::LANES).enumerate() {
                let range = i * S::LANES..i * S::LANES + to.len();
                let mut v = s.get(&even[range.clone()]);
                if let Some(add) = add {
                    v = s.add(v, s.get(&add[range]));
                }
                s.put(v, to);
            }
        }
    }
}
