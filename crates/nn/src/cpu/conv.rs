//! Convolution without a matrix of patches. A task takes a tile of output positions of one frame. A slice of the input's
//! channels after the other, it copies their inputs into its work space (borders become zeros there) and adds up its taps
//! for all output channels in registers ([`sums`]). In the work space a tap is a constant distance, so positions run on over
//! row ends; the few that fall between rows are computed and dropped. A 1x1 convolution has no borders: its positions are one
//! row, read where they lie.
//!
//! A stride is handled by copying each residue class of rows and columns into a plane of its own. Doubling the image before
//! a 3x3 convolution is four 2x2 convolutions with summed weights, one per parity of the output position (the same sums,
//! 16 multiplications in place of 36).
//!
//! In bf16, a plane of the work space holds pairs of channels, each pair in the place of a number, and so do the weights; all else is
//! the same.

mod sums;

use super::pairs;
use super::simd::{self, MAX_LANES, Simd, dispatch};
use super::{Lines, Target, View, filled, with_scratch};
use rayon::prelude::*;
use std::ops::Range;
use sums::{Slice, Sums};

/// Numbers that a tile sees of one slice of channels: they stay in the second-level cache while all output channels are made.
const WORKSPACE: usize = 64 << 10;
/// Numbers of a tile's sums, where they are made in slices.
const SUMS: usize = 512 << 10;
/// Rows of a tile that are worth cutting rows into strips.
const ROWS: usize = 4;

/// Weights in the order of use, made once.
#[derive(Debug)]
pub struct Packed {
    /// `[phase][block][kt, in, k, k][shape.block]`; output channels beyond the last are zero.
    weight: Lines,
    bias: Vec<f32>,
    /// Channels of the input.
    channels: usize,
    shape: Shape,
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    /// Planes of a frame that an output sees: its channels, or pairs of them.
    input: usize,
    /// Whether the products are those of bf16 numbers, which come in pairs of channels.
    paired: bool,
    output: usize,
    kt: usize,
    /// Width and height of the kernel (after the split into phases).
    k: usize,
    stride: usize,
    padding: usize,
    /// Distance of neighbouring taps.
    dilation: usize,
    /// 1, or 2 where the image is doubled: there are `up * up` phases.
    up: usize,
    /// Output channels of one block of packed weights.
    block: usize,
}

impl Shape {
    fn depth(&self) -> usize {
        self.kt * self.input * self.k * self.k
    }

    /// Channels that an output sees, of all frames.
    fn channels(&self) -> usize {
        self.kt * self.input
    }

    /// Planes in the work space for one of them.
    fn classes(&self) -> usize {
        self.stride * self.stride
    }

    /// Whether an output sees one position.
    fn is_pointwise(&self) -> bool {
        matches!(self, Shape { kt: 1, k: 1, stride: 1, padding: 0, up: 1, .. })
    }

    fn blocks(&self) -> usize {
        self.output.div_ceil(self.block)
    }

    /// Positions from the first tap to the last, both included.
    fn span(&self) -> usize {
        (self.k - 1) * self.dilation + 1
    }

    fn out(&self, size: usize) -> usize {
        if self.up == 2 { 2 * size } else { (size + 2 * self.padding - self.span()) / self.stride + 1 }
    }
}

/// Where the kernel stands.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    pub stride: usize,
    /// Zeros on each side.
    pub padding: usize,
    /// Distance of neighbouring taps; a stride goes with 1 only.
    pub dilation: usize,
}

impl Default for Form {
    fn default() -> Self {
        Self { stride: 1, padding: 0, dilation: 1 }
    }
}

/// What happens to the sums before they are written.
#[derive(Debug, Clone, Copy, Default)]
pub struct After<'a> {
    /// Below zero a channel is multiplied by its number: 0 is ReLU.
    pub slopes: Option<&'a [f32]>,
    /// Then this is added, of the shape of the result.
    pub add: Option<&'a [f32]>,
}

impl Packed {
    /// `weight` is `[output, input, kt, k, k]`, `bias` has `output` numbers or none. With `paired`, weights and input are rounded to bf16;
    /// sums are f32.
    pub fn new(
        weight: &[f32],
        bias: &[f32],
        (output, input, kt, k): (usize, usize, usize, usize),
        Form { stride, padding, dilation }: Form,
        paired: bool,
    ) -> Self {
        assert_eq!(weight.len(), output * input * kt * k * k);
        assert!(dilation == 1 || stride == 1 && dilation > 0, "a dilated convolution with a stride");
        let block = sums::block(simd::lanes(), output, paired);
        let planes = if paired { input.div_ceil(2) } else { input };
        let shape = Shape { input: planes, paired, output, kt, k, stride, padding, dilation, up: 1, block };
        let mut packed = Lines::zeros(shape.blocks() * shape.depth() * block);
        if paired {
            let of =
                |o: usize, i: usize, at: usize| if i < input { weight[(o * input + i) * kt * k * k + at] } else { 0.0 };
            for (o, plane, at) in triples(output, planes, kt * k * k) {
                let depth = (at / (k * k) * planes + plane) * k * k + at % (k * k);
                let place = ((o / block) * shape.depth() + depth) * block + o % block;
                let pair = &mut packed.numbers_mut()[place..=place];
                pairs::pair(&[of(o, 2 * plane, at)], &[of(o, 2 * plane + 1, at)], pair);
            }
            return Self { weight: packed, bias: padded(bias, shape), channels: input, shape };
        }
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
        Self { weight: packed, bias: padded(bias, shape), channels: input, shape }
    }

    /// What makes the form of these weights that doubles the image (nearest neighbour) first: for 3x3 kernels in one frame with
    /// stride 1 and padding 1.
    pub fn doubled(&self) -> Option<impl FnOnce() -> Packed> {
        let Shape { kt: 1, k: 3, stride: 1, padding: 1, dilation: 1, up: 1, .. } = self.shape else { return None };
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
                    for (sum, &tap) in weight.numbers_mut()[sum..].iter_mut().zip(taps) {
                        *sum = if shape.paired { pairs::add_pairs(*sum, tap) } else { *sum + tap };
                    }
                }
            }
            Packed { weight, bias: self.bias.clone(), channels: self.channels, shape }
        })
    }

    pub fn input(&self) -> usize {
        self.channels
    }

    pub fn output(&self) -> usize {
        self.shape.output
    }

    pub fn taps(&self) -> usize {
        self.shape.kt
    }

    /// Height and width of the result for those of the input; none if the kernel does not fit.
    pub fn size(&self, height: usize, width: usize) -> Option<(usize, usize)> {
        let fits = |size: usize| size > 0 && size + 2 * self.shape.padding >= self.shape.span();
        (fits(height) && fits(width)).then(|| (self.shape.out(height), self.shape.out(width)))
    }

    /// Convolves frames, each `[C, H, W]` with any strides; every output frame sees `kt` consecutive ones. Returns `[T, C, H, W]`, or none if the kernel does not fit the frames.
    pub fn run(&self, frames: &[View], after: After) -> Option<Vec<f32>> {
        let shape = self.shape;
        let &[channels, height, width] = frames.first()?.dims else { return None };
        let out = self.size(height, width)?;
        if channels != self.channels
            || frames.len() < shape.kt
            || frames.iter().any(|frame| frame.dims != frames[0].dims)
        {
            return None;
        }
        if shape.is_pointwise()
            && height > 1
            && let Some(rows) = frames.iter().map(one_row).collect::<Option<Vec<_>>>()
        {
            let dims = [channels, 1, height * width];
            let frames: Vec<_> = rows.iter().map(|(data, strides)| View { data, dims: &dims, strides }).collect();
            return self.run(&frames, after);
        }
        let count = frames.len() + 1 - shape.kt;
        let len = count * shape.output * out.0 * out.1;
        if after.add.is_some_and(|add| add.len() != len)
            || after.slopes.is_some_and(|slopes| slopes.len() != shape.output)
        {
            return None;
        }
        // Tiles are cut in phase positions: the input's own grid where the image is doubled.
        let (rows, columns) = (out.0 / shape.up, out.1 / shape.up);
        let cut = Cut::new(shape, rows, columns);
        let steps = cut.steps(shape);
        debug_assert!(steps.iter().all(|step| step + (shape.up - 1) * (cut.pitch() + 1) + cut.rows * cut.pitch()
            <= cut.reach + cut.planes * cut.plane()));
        let run = |target| {
            (0..count * cut.bands * cut.strips).into_par_iter().for_each(|task| {
                let (strip, rest) = (task % cut.strips, task / cut.strips);
                let (band, frame) = (rest % cut.bands, rest / cut.bands);
                let (y, x) = (band * cut.rows, strip * cut.columns);
                let tile = Tile {
                    packed: self,
                    cut: &cut,
                    frame,
                    y,
                    x,
                    rows: cut.rows.min(rows - y),
                    columns: cut.columns.min(columns - x),
                    out,
                    after,
                    target,
                };
                let frames = &frames[frame..frame + shape.kt];
                // A vector of positions may run over the last one.
                let space = cut.planes * cut.plane() + MAX_LANES;
                let sums = sums::space(&tile);
                with_scratch(space + sums + 2 * cut.pitch(), |work| {
                    let (work, rest) = work.split_at_mut(space);
                    let (rest, rows) = rest.split_at_mut(sums);
                    for slice in sums::slices(shape) {
                        match tile.in_place(frames, slice) {
                            Some((seen, steps)) => {
                                dispatch(Sums { tile: &tile, slice, seen, steps: &steps, work: rest })
                            }
                            None => {
                                tile.copy(frames, slice, work, rows);
                                dispatch(Sums { tile: &tile, slice, seen: work, steps: &steps, work: rest });
                            }
                        }
                    }
                });
            });
        };
        // SAFETY: the tiles of all frames cover the result, and a tile writes all channels of its positions.
        Some(unsafe { filled(len, run) })
    }
}

/// A frame `[C, H, W]` as `[C, 1, H * W]`: its numbers and strides, if its rows follow each other.
fn one_row<'a>(frame: &View<'a>) -> Option<(&'a [f32], [usize; 3])> {
    let (&[_, _, width], &[along_c, along_y, 1]) = (frame.dims, frame.strides) else { return None };
    (along_y == width).then_some((frame.data, [along_c, width, 1]))
}

/// All of `(a, b, c)` below the numbers given.
fn triples(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a * b * c).map(move |i| (i / (b * c), i / c % b, i % c))
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
    /// Planes of the largest slice.
    planes: usize,
}

impl Cut {
    fn new(shape: Shape, rows: usize, columns: usize) -> Self {
        let reach = (shape.span() - 1) / shape.stride + shape.up - 1;
        let planes = shape.classes() * sums::slices(shape).map(|slice| slice.channels).max().unwrap_or(0);
        // as many columns as leave room for a few rows
        let room = WORKSPACE / planes.max(1);
        let most = (room / (reach + rows.min(ROWS))).saturating_sub(reach).max(1);
        let width = columns.div_ceil(columns.div_ceil(most));
        let summed = shape.up * shape.up * shape.blocks() * shape.block * (width + reach);
        let most = (room / (width + reach)).saturating_sub(reach).min(SUMS / summed.max(1)).clamp(1, rows);
        let height = rows.div_ceil(rows.div_ceil(most));
        Self {
            rows: height,
            columns: width,
            bands: rows.div_ceil(height),
            strips: columns.div_ceil(width),
            reach,
            planes,
        }
    }

    /// Distance of neighbouring rows in the work space.
    fn pitch(&self) -> usize {
        self.columns + self.reach
    }

    /// Numbers of one plane.
    fn plane(&self) -> usize {
        self.pitch() * (self.rows + self.reach)
    }

    /// Where each tap of each channel of a slice lies in the work space, from the output position.
    fn steps(&self, shape: Shape) -> Vec<usize> {
        let mut steps = Vec::with_capacity(self.planes / shape.classes() * shape.k * shape.k);
        for channel in 0..self.planes / shape.classes() {
            for (ky, kx) in (0..shape.k * shape.k).map(|tap| (tap / shape.k, tap % shape.k)) {
                let (ky, kx) = (ky * shape.dilation, kx * shape.dilation);
                let class = (ky % shape.stride) * shape.stride + kx % shape.stride;
                let plane = channel * shape.classes() + class;
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
    frame: usize,
    y: usize,
    x: usize,
    rows: usize,
    columns: usize,
    out: (usize, usize),
    after: After<'a>,
    target: Target,
}

impl Tile<'_> {
    /// What the positions see of a slice where it lies, and the steps from channel to channel: of a 1x1 convolution of one row,
    /// unless a vector of positions could run over the end. Pairs of channels lie nowhere.
    fn in_place<'a>(&self, frames: &[View<'a>], slice: Slice) -> Option<(&'a [f32], Vec<usize>)> {
        let shape = self.packed.shape;
        let (true, &[frame]) = (shape.is_pointwise() && !shape.paired, frames) else { return None };
        let (&[_, 1, _], &[along_c, _, 1]) = (frame.dims, frame.strides) else { return None };
        let steps: Vec<_> = (0..slice.channels).map(|channel| channel * along_c).collect();
        let seen = &frame.data[slice.first * along_c + self.x..];
        (steps.last()? + self.cut.columns + MAX_LANES <= seen.len()).then_some((seen, steps))
    }

    /// Fills the planes with what the positions see of a slice; zeros follow them. `rows` has room for two rows.
    fn copy(&self, frames: &[View], slice: Slice, work: &mut [f32], rows: &mut [f32]) {
        let Shape { stride, input, paired, .. } = self.packed.shape;
        let classes = self.packed.shape.classes();
        let pitch = self.cut.pitch();
        let height = self.rows + self.cut.reach;
        let planes = slice.channels * classes;
        work[planes * self.cut.plane()..].fill(0.0);
        for (plane, to) in work.chunks_exact_mut(self.cut.plane()).take(planes).enumerate() {
            let (class, channel) = (plane % classes, slice.first + plane / classes);
            let (dy, dx) = (class / stride, class % stride);
            let (frame, channel) = (&frames[channel / input], channel % input);
            let Some(columns) = self.columns(frame, dx) else { return };
            for (i, to) in to.chunks_exact_mut(pitch).take(height).enumerate() {
                let y = stride * (self.y + i) + dy;
                if paired {
                    self.pair_row(frame, channel, (y, &columns), rows, to);
                } else {
                    self.copy_row(frame, channel, (y, &columns), to);
                }
            }
        }
    }

    /// The part of a plane's row that lies inside the image, and where it begins in a row of the frame: every `stride`th number from
    /// the tile's column on and `dx` further, in padded coordinates, that is, `padding` less of the image.
    fn columns(&self, frame: &View, dx: usize) -> Option<(Range<usize>, usize)> {
        let Shape { stride, padding, .. } = self.packed.shape;
        let (&[.., columns], &[.., along_x]) = (frame.dims, frame.strides) else { return None };
        let first = stride * self.x + dx;
        let pitch = self.cut.pitch();
        let from = padding.saturating_sub(first).div_ceil(stride).min(pitch);
        let until = (columns + padding).saturating_sub(first).div_ceil(stride).clamp(from, pitch);
        Some((from..until, (first + stride * from).saturating_sub(padding) * along_x))
    }

    /// Where row `y` of a channel, in padded coordinates, begins in the frame; none beyond the image.
    fn row(&self, frame: &View, channel: usize, y: usize) -> Option<usize> {
        let y = y.checked_sub(self.packed.shape.padding).filter(|&y| y < frame.dims[1])?;
        Some(channel * frame.strides[0] + y * frame.strides[1])
    }

    /// Fills a row of a plane with row `y` of a channel.
    fn copy_row(&self, frame: &View, channel: usize, (y, columns): (usize, &(Range<usize>, usize)), to: &mut [f32]) {
        let (range, start) = (columns.0.clone(), columns.1);
        let row = self.row(frame, channel, y).filter(|_| !range.is_empty());
        let Some(row) = row else { return to.fill(0.0) };
        let along = self.packed.shape.stride * frame.strides[2];
        to[..range.start].fill(0.0);
        to[range.end..].fill(0.0);
        let to = &mut to[range];
        let from = &frame.data[row + start..=row + start + (to.len() - 1) * along];
        match along {
            0 => to.fill(from[0]),
            1 => to.copy_from_slice(from),
            2 => {
                // in a form that becomes shuffles of vectors
                for (to, from) in to.iter_mut().zip(from.chunks_exact(2)) {
                    *to = from[0];
                }
                to[to.len() - 1] = from[from.len() - 1];
            }
            _ => to.iter_mut().zip(from.iter().step_by(along)).for_each(|(to, &from)| *to = from),
        }
    }

    /// Fills a row of a plane that is a pair of channels; `rows` has room for both.
    fn pair_row(
        &self,
        frame: &View,
        pair: usize,
        (y, columns): (usize, &(Range<usize>, usize)),
        rows: &mut [f32],
        to: &mut [f32],
    ) {
        let (channel, alone) = (2 * pair, 2 * pair + 1 == self.packed.channels);
        let (range, start) = (columns.0.clone(), columns.1);
        let row = self.row(frame, channel, y).filter(|_| !range.is_empty());
        let Some(row) = row else { return to.fill(0.0) };
        if self.packed.shape.stride * frame.strides[2] == 1 {
            to[..range.start].fill(0.0);
            to[range.end..].fill(0.0);
            let of = |row: usize| &frame.data[row + start..][..range.len()];
            let odd = if alone { &[] } else { of(row + frame.strides[0]) };
            return pairs::pair(of(row), odd, &mut to[range.clone()]);
        }
        let (even, odd) = rows.split_at_mut(to.len());
        let odd = &mut odd[..if alone { 0 } else { to.len() }];
        self.copy_row(frame, channel, (y, columns), even);
        if !alone {
            self.copy_row(frame, channel + 1, (y, columns), odd);
        }
        pairs::pair(even, odd, to);
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
        let add = self.after.add.map(|add| &add[start..start + to.len()]);
        let slope = self.after.slopes.map(|slopes| slopes[channel]);
        if up == 2 {
            for (i, to) in to.iter_mut().enumerate() {
                let value = if i % 2 == 0 { even[i / 2] } else { odd[i / 2] };
                let value = slope.map_or(value, |slope| value.max(0.0) + slope * value.min(0.0));
                to.write(if let Some(add) = add { value + add[i] } else { value });
            }
        } else {
            for (i, to) in to.chunks_mut(S::LANES).enumerate() {
                let range = i * S::LANES..i * S::LANES + to.len();
                let mut v = s.get(&even[range.clone()]);
                if let Some(slope) = slope {
                    let zero = s.splat(0.0);
                    v = s.fma(s.splat(slope), s.min(v, zero), s.max(v, zero));
                }
                if let Some(add) = add {
                    v = s.add(v, s.get(&add[range]));
                }
                s.put(v, to);
            }
        }
    }
}
