//! 3x3 convolutions of many channels by minimal filtering, F(4x4, 3x3) of Winograd (Lavin and Gray, arXiv 1509.09308): four by
//! four outputs from six by six inputs with 36 products per pair of channels in place of 144.
//!
//! The points of the transforms are 0, ±sqrt(1/2), ±sqrt 2 and infinity, which are balanced: a sum is off by 1.2e-6 to 1.7e-6
//! (relative L2, 320 channels; a sum of 9 x 320 products in order by 0.4e-6). With the usual 0, ±1, ±2 it would be 3e-6.
//!
//! The input is transformed first, for all channels, as many tiles at a time as fit into [`HELD`]. Then a task takes some output
//! channels and some tiles, a slice of the input channels after the other: it transforms the slice's weights (from nine numbers
//! to 36, which no memory could hold for a whole network), multiplies them at each of the 36 points, and at the end transforms
//! the sums to outputs. Weights in half precision stay in them until then; all sums are f32.

use super::conv::After;
use super::simd::{self, Kernel, MAX_LANES, Simd, dispatch};
use super::steps::Every;
use super::{Lines, Target, View, filled, tile, with_scratch};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Outputs of a tile along an axis.
const OUT: usize = 4;
/// Inputs that it sees.
const IN: usize = 6;
/// Points at which transforms are multiplied.
const POINTS: usize = IN * IN;
/// Output channels whose weights lie together.
const BLOCK: usize = 16;
/// Blocks of them in a task.
const BLOCKS: usize = 2;
/// Output channels of a tile of registers, where there are 32.
const FEW: usize = 8;
/// Vectors of tiles in a tile of registers.
const VECTORS: usize = 3;
/// Panels (of so many vectors) in a task.
const PANELS: usize = 2;
/// Input channels of a slice: its weights and the sums of a task stay in the second-level cache.
const SLICE: usize = 48;
/// Numbers of the transformed input that are held at a time: they stay in the third-level cache.
const HELD: usize = 2 << 20;
/// Numbers between the points, so that one place at all points is not in one set of the first-level cache.
const APART: usize = 16;
/// Input channels that a task transforms.
const CHANNELS: usize = 16;

/// Weights in the order of use.
#[derive(Debug)]
pub struct Winograd {
    weight: Numbers,
    bias: Vec<f32>,
    input: usize,
    output: usize,
}

/// `[blocks][input][9][BLOCK]`, zero beyond the last output channel.
#[derive(Debug)]
enum Numbers {
    F32(Lines),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

/// What the weights are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    F32,
    F16,
    Bf16,
}

/// How the frames are cut into tiles, which are counted row by row, frame after frame.
#[derive(Debug, Clone, Copy)]
struct Grid {
    frames: usize,
    height: usize,
    width: usize,
    down: usize,
    across: usize,
}

/// Tiles next to each other in a row, and where they lie in a panel.
struct Run {
    frame: usize,
    down: usize,
    across: usize,
    tiles: usize,
    lane: usize,
}

/// A few vectors of tiles.
#[derive(Debug, Clone, Copy)]
struct Panel {
    /// First vector, of all.
    first: usize,
    vectors: usize,
    /// Where its transformed input begins among those held.
    start: usize,
}

/// Numbers of all points, of which each has so many.
fn points(each: usize) -> usize {
    POINTS * (each + APART)
}

impl Grid {
    fn tiles(&self) -> usize {
        self.frames * self.down * self.across
    }

    /// The tiles of a panel; there are none in its last lanes where the tiles end before.
    fn runs(&self, panel: Panel, lanes: usize) -> Vec<Run> {
        let (mut tile, end) = (panel.first * lanes, self.tiles().min((panel.first + panel.vectors) * lanes));
        let mut runs = Vec::new();
        while tile < end {
            let (across, row) = (tile % self.across, tile / self.across);
            let tiles = (self.across - across).min(end - tile);
            let lane = tile - panel.first * lanes;
            runs.push(Run { frame: row / self.down, down: row % self.down, across, tiles, lane });
            tile += tiles;
        }
        runs
    }
}

impl Panel {
    /// So many vectors in panels of about the same size; `each`: numbers of a vector at a point.
    fn cut(vectors: Range<usize>, each: usize) -> Vec<Panel> {
        let count = vectors.len().div_ceil(VECTORS);
        let place = |i: usize| i * vectors.len() / count;
        let panel = |i: usize| {
            let start = POINTS * (place(i) * each + i * APART);
            Panel { first: vectors.start + place(i), vectors: place(i + 1) - place(i), start }
        };
        (0..count).map(panel).collect()
    }
}

impl Winograd {
    /// `weight` is `[output, input, 3, 3]`, of numbers that `kept` holds without loss; `bias` has `output` numbers or none.
    pub fn new(weight: &[f32], bias: &[f32], (output, input): (usize, usize), kept: Kept) -> Self {
        assert!(weight.len() == output * input * 9 && (bias.is_empty() || bias.len() == output));
        let blocks = output.div_ceil(BLOCK);
        let mut packed = Lines::zeros(blocks * input * 9 * BLOCK);
        let len = blocks * input * 9 * BLOCK;
        for (o, taps) in weight.chunks_exact((input * 9).max(1)).enumerate() {
            let block = &mut packed.numbers_mut()[o / BLOCK * input * 9 * BLOCK..];
            for (i, &tap) in taps.iter().enumerate() {
                block[i * BLOCK + o % BLOCK] = tap;
            }
        }
        let weight = match kept {
            Kept::F32 => Numbers::F32(packed),
            Kept::F16 => Numbers::F16(packed.numbers()[..len].iter().map(|&x| f16::from_f32(x)).collect()),
            Kept::Bf16 => Numbers::Bf16(packed.numbers()[..len].iter().map(|&x| bf16::from_f32(x)).collect()),
        };
        let mut bias = bias.to_vec();
        bias.resize(blocks * BLOCK, 0.0);
        Self { weight, bias, input, output }
    }

    pub fn input(&self) -> usize {
        self.input
    }

    pub fn output(&self) -> usize {
        self.output
    }

    /// Convolves frames, each `[C, H, W]` with any strides, with zeros around them. Returns `[T, C, H, W]`, or none if frames or
    /// `after` do not fit.
    pub fn run(&self, frames: &[View], after: After) -> Option<Vec<f32>> {
        let &[channels, height, width] = frames.first()?.dims else { return None };
        let len = frames.len() * self.output * height * width;
        let fits = frames.iter().all(|frame| frame.dims == frames[0].dims) && channels == self.input;
        if !fits || after.add.is_some_and(|add| add.len() != len) {
            return None;
        }
        if height * width == 0 || after.slopes.is_some_and(|slopes| slopes.len() != self.output) {
            return None;
        }
        let grid =
            Grid { frames: frames.len(), height, width, down: height.div_ceil(OUT), across: width.div_ceil(OUT) };
        let lanes = simd::lanes();
        let vectors = grid.tiles().div_ceil(lanes);
        let group = VECTORS * PANELS;
        let most = (HELD / (POINTS * self.input * lanes * group).max(1)).max(1) * group;
        let run = |target: Target| {
            for first in (0..vectors).step_by(most) {
                let panels = Panel::cut(first..vectors.min(first + most), self.input * lanes);
                let seen = self.transformed(frames, grid, &panels, lanes);
                let blocks = self.output.div_ceil(BLOCK);
                let groups = panels.len().div_ceil(PANELS);
                (0..blocks.div_ceil(BLOCKS) * groups).into_par_iter().for_each(|index| {
                    let (some, first_panel) = (index / groups * BLOCKS, index % groups * PANELS);
                    let panels = &panels[first_panel..panels.len().min(first_panel + PANELS)];
                    let blocks = some..blocks.min(some + BLOCKS);
                    let channels = blocks.len() * BLOCK;
                    let sums = panels.iter().map(|panel| points(channels * panel.vectors * lanes)).sum();
                    let weights = points(SLICE.min(self.input) * channels);
                    with_scratch(weights + sums + SLICE * 9 * BLOCK, |work| {
                        let (weights, rest) = work.split_at_mut(weights);
                        let (sums, wide) = rest.split_at_mut(sums);
                        let task = Task { winograd: self, grid, seen: &seen, panels, blocks, after, target };
                        dispatch(Product { task, weights, sums, wide });
                    });
                });
            }
        };
        // SAFETY: the groups of blocks and of panels cover all channels of all tiles, the tiles all positions.
        Some(unsafe { filled(len, run) })
    }

    /// What the panels see, `[POINTS, input, vectors * lanes]` of each after the other, the points [`APART`].
    fn transformed(&self, frames: &[View], grid: Grid, panels: &[Panel], lanes: usize) -> Vec<f32> {
        let len = panels.iter().map(|panel| points(self.input * panel.vectors * lanes)).sum();
        let parts = self.input.div_ceil(CHANNELS);
        let run = |to: Target| {
            (0..panels.len() * parts).into_par_iter().for_each(|index| {
                let (panel, part) = (panels[index / parts], index % parts);
                let runs = grid.runs(panel, lanes);
                let width = panel.vectors * lanes;
                let step = self.input * width + APART;
                if part == 0 {
                    for point in 0..POINTS {
                        // SAFETY: what lies between the points is the first task's.
                        let between = unsafe { to.part(panel.start + (point + 1) * step - APART, APART) };
                        between.fill(MaybeUninit::new(0.0));
                    }
                }
                with_scratch(POINTS * width, |work| {
                    let work = &mut work[..POINTS * width];
                    for channel in part * CHANNELS..self.input.min((part + 1) * CHANNELS) {
                        work.fill(0.0);
                        for run in &runs {
                            copy(&frames[run.frame], channel, grid, run, width, work);
                        }
                        let start = panel.start + channel * width;
                        dispatch(TransformInput { seen: work, width, to, start, step });
                    }
                });
            });
        };
        // SAFETY: a task writes all points of its channels in its panel, and the tasks cover both.
        unsafe { filled(len, run) }
    }
}

/// Copies what the tiles of a run see of a channel: `[IN, IN, width]`, zeros where nothing is written.
fn copy(frame: &View, channel: usize, grid: Grid, run: &Run, width: usize, to: &mut [f32]) {
    let &[along_c, along_y, along_x] = frame.strides else { return };
    for i in 0..IN {
        // in coordinates with a zero around the image
        let Some(y) = (OUT * run.down + i).checked_sub(1).filter(|&y| y < grid.height) else { continue };
        let row = &frame.data[channel * along_c + y * along_y..];
        for j in 0..IN {
            let lo = usize::from(run.across == 0 && j == 0); // left of the image
            let Some(last) = grid.width.checked_sub(j).map(|room| room / OUT) else { continue };
            let hi = run.tiles.min((last + 1).saturating_sub(run.across));
            if lo >= hi {
                continue;
            }
            let to = &mut to[(i * IN + j) * width + run.lane..];
            let from = row[(OUT * (run.across + lo) + j - 1) * along_x..].iter().step_by(OUT * along_x.max(1));
            if along_x == 0 {
                to[lo..hi].fill(row[0]);
                continue;
            }
            for (to, &from) in to[lo..hi].iter_mut().zip(from) {
                *to = from;
            }
        }
    }
}

/// The transform of six inputs.
#[inline(always)]
fn of_input<S: Simd>(s: S, d: [S::V; IN]) -> [S::V; IN] {
    let even = s.fma(d[2], s.splat(-2.0), d[4]);
    let odd = s.fma(d[1], s.splat(-SQRT_2), s.mul(d[3], s.splat(FRAC_1_SQRT_2)));
    let wide_even = s.fma(d[2], s.splat(-0.5), d[4]);
    let wide_odd = s.fma(d[3], s.splat(SQRT_2), s.mul(d[1], s.splat(-FRAC_1_SQRT_2)));
    [
        s.add(s.fma(d[2], s.splat(-2.5), d[4]), d[0]),
        s.add(even, odd),
        s.sub(even, odd),
        s.add(wide_even, wide_odd),
        s.sub(wide_even, wide_odd),
        s.add(s.fma(d[3], s.splat(-2.5), d[5]), d[1]),
    ]
}

/// The transform of three weights.
#[inline(always)]
fn of_weights<S: Simd>(s: S, g: [S::V; 3]) -> [S::V; IN] {
    let even = s.fma(g[0], s.splat(-2.0 / 3.0), s.mul(g[2], s.splat(-1.0 / 3.0)));
    let odd = s.mul(g[1], s.splat(-SQRT_2 / 3.0));
    let wide_even = s.fma(g[0], s.splat(1.0 / 6.0), s.mul(g[2], s.splat(1.0 / 3.0)));
    let wide_odd = s.mul(g[1], s.splat(SQRT_2 / 6.0));
    [g[0], s.add(even, odd), s.sub(even, odd), s.add(wide_even, wide_odd), s.sub(wide_even, wide_odd), g[2]]
}

/// Four outputs from their transform.
#[inline(always)]
fn to_outputs<S: Simd>(s: S, m: [S::V; IN]) -> [S::V; OUT] {
    let (sum, difference) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
    let (wide_sum, wide_difference) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
    [
        s.add(s.add(m[0], sum), wide_sum),
        s.fma(wide_difference, s.splat(SQRT_2), s.mul(difference, s.splat(FRAC_1_SQRT_2))),
        s.fma(wide_sum, s.splat(2.0), s.mul(sum, s.splat(0.5))),
        s.add(s.fma(wide_difference, s.splat(2.0 * SQRT_2), s.mul(difference, s.splat(0.5 * FRAC_1_SQRT_2))), m[5]),
    ]
}

struct TransformInput<'a> {
    /// `[IN, IN, width]`.
    seen: &'a [f32],
    width: usize,
    to: Target,
    /// Where the first point is written, and how far from there the next.
    start: usize,
    step: usize,
}

impl Kernel for TransformInput<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let zero = s.splat(0.0);
        for at in (0..self.width).step_by(S::LANES) {
            let mut half = [[zero; IN]; IN]; // by column of the tile, transformed along it
            for (j, half) in half.iter_mut().enumerate() {
                let mut column = [zero; IN];
                for (i, number) in column.iter_mut().enumerate() {
                    *number = s.get(&self.seen[(i * IN + j) * self.width + at..]);
                }
                *half = of_input(s, column);
            }
            for i in 0..IN {
                let mut row = [zero; IN];
                for (number, half) in row.iter_mut().zip(&half) {
                    *number = half[i];
                }
                for (j, &number) in of_input(s, row).iter().enumerate() {
                    let start = self.start + (i * IN + j) * self.step + at;
                    // SAFETY: a channel of a panel is one task's own.
                    s.put(number, unsafe { self.to.part(start, S::LANES) });
                }
            }
        }
    }
}

/// Some output channels of some tiles.
struct Task<'a> {
    winograd: &'a Winograd,
    grid: Grid,
    /// The transformed input.
    seen: &'a [f32],
    panels: &'a [Panel],
    blocks: Range<usize>,
    after: After<'a>,
    target: Target,
}

impl Task<'_> {
    fn channels(&self) -> usize {
        self.blocks.len() * BLOCK
    }

    /// Writes outputs of a channel, `[OUT, OUT, width]` of a panel's tiles.
    fn write(&self, channel: usize, panel: Panel, lanes: usize, outputs: &[f32]) {
        let (grid, width) = (self.grid, panel.vectors * lanes);
        let slope = self.after.slopes.map(|slopes| slopes[channel]);
        for run in grid.runs(panel, lanes) {
            let plane = (run.frame * self.winograd.output + channel) * grid.height;
            let x = OUT * run.across;
            let len = (OUT * run.tiles).min(grid.width - x);
            for i in 0..OUT.min(grid.height - OUT * run.down) {
                let start = (plane + OUT * run.down + i) * grid.width + x;
                // SAFETY: a row of a tile belongs to one task.
                let to = unsafe { self.target.part(start, len) };
                let rows: [&[f32]; OUT] = [0, 1, 2, 3].map(|j| &outputs[(i * OUT + j) * width + run.lane..]);
                for (tile, to) in to.chunks_mut(OUT).enumerate() {
                    for (to, row) in to.iter_mut().zip(rows) {
                        to.write(row[tile]);
                    }
                }
                if slope.is_none() && self.after.add.is_none() {
                    continue;
                }
                let add = self.after.add.map(|add| &add[start..start + len]);
                for (x, to) in to.iter_mut().enumerate() {
                    // SAFETY: it was written above.
                    let value = unsafe { to.assume_init() };
                    let value = slope.map_or(value, |slope| value.max(0.0) + slope * value.min(0.0));
                    to.write(add.map_or(value, |add| value + add[x]));
                }
            }
        }
    }
}

struct Product<'a> {
    task: Task<'a>,
    /// `[POINTS, SLICE, channels]` of the present slice.
    weights: &'a mut [f32],
    /// `[POINTS, channels, width]` of each panel.
    sums: &'a mut [f32],
    /// Room for the weights of a slice of a block in f32.
    wide: &'a mut [f32],
}

impl Kernel for Product<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let input = self.task.winograd.input;
        let count = input.div_ceil(SLICE);
        for i in 0..count {
            let slice = i * input / count..(i + 1) * input / count;
            self.transform_weights(s, &slice);
            let mut sums = 0;
            for &panel in self.task.panels {
                match panel.vectors {
                    1 => self.multiply::<S, 1>(s, panel, &slice, sums),
                    2 => self.multiply::<S, 2>(s, panel, &slice, sums),
                    _ => self.multiply::<S, VECTORS>(s, panel, &slice, sums),
                }
                sums += points(self.task.channels() * panel.vectors * S::LANES);
            }
        }
        let mut sums = 0;
        for &panel in self.task.panels {
            self.finish(s, panel, sums);
            sums += points(self.task.channels() * panel.vectors * S::LANES);
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn transform_weights<S: Simd>(&mut self, s: S, slice: &Range<usize>) {
        let zero = s.splat(0.0);
        let channels = self.task.channels();
        let input = self.task.winograd.input;
        for (index, block) in self.task.blocks.clone().enumerate() {
            let range = (block * input + slice.start) * 9 * BLOCK..(block * input + slice.end) * 9 * BLOCK;
            let from = match &self.task.winograd.weight {
                Numbers::F32(weight) => &weight.numbers()[range],
                Numbers::F16(weight) => {
                    let wide = &mut self.wide[..range.len()];
                    weight[range].convert_to_f32_slice(wide);
                    wide
                }
                Numbers::Bf16(weight) => {
                    let wide = &mut self.wide[..range.len()];
                    weight[range].convert_to_f32_slice(wide);
                    wide
                }
            };
            for (channel, taps) in from.chunks_exact(9 * BLOCK).enumerate() {
                for at in (0..BLOCK).step_by(S::LANES) {
                    let mut half = [[zero; IN]; 3]; // by column of the kernel
                    for (j, half) in half.iter_mut().enumerate() {
                        let mut column = [zero; 3];
                        for (i, number) in column.iter_mut().enumerate() {
                            *number = s.get(&taps[(i * 3 + j) * BLOCK + at..]);
                        }
                        *half = of_weights(s, column);
                    }
                    for i in 0..IN {
                        let mut row = [zero; 3];
                        for (number, half) in row.iter_mut().zip(&half) {
                            *number = half[i];
                        }
                        for (j, &number) in of_weights(s, row).iter().enumerate() {
                            let place = (i * IN + j) * (slice.len() * channels + APART)
                                + channel * channels
                                + index * BLOCK
                                + at;
                            s.set(number, &mut self.weights[place..]);
                        }
                    }
                }
            }
        }
    }

    /// Adds the products of a slice to the sums of a panel, which begin at `start`.
    #[inline(always)]
    fn multiply<S: Simd, const N: usize>(&mut self, s: S, panel: Panel, slice: &Range<usize>, start: usize) {
        for point in 0..POINTS {
            if S::WIDE {
                self.point::<S, FEW, N>(s, panel, slice, (point, start));
            } else {
                self.point::<S, { FEW / 2 }, N>(s, panel, slice, (point, start));
            }
        }
    }

    #[inline(always)]
    fn point<S: Simd, const M: usize, const N: usize>(
        &mut self,
        s: S,
        panel: Panel,
        slice: &Range<usize>,
        (point, start): (usize, usize),
    ) {
        let (channels, input, width) = (self.task.channels(), self.task.winograd.input, N * S::LANES);
        let seen = panel.start + point * (input * width + APART) + slice.start * width;
        let seen = &self.task.seen[seen..seen + slice.len() * width];
        let weights = &self.weights[point * (slice.len() * channels + APART)..][..slice.len() * channels];
        for channel in (0..channels).step_by(M) {
            let place = start + point * (channels * width + APART) + channel * width;
            let sums = &mut self.sums[place..place + M * width];
            let mut sum = [[s.splat(0.0); N]; M];
            if slice.start > 0 {
                for (m, sum) in sum.iter_mut().enumerate() {
                    for (n, sum) in sum.iter_mut().enumerate() {
                        *sum = s.get(&sums[m * width + n * S::LANES..]);
                    }
                }
            }
            // SAFETY: a row of `channels >= channel + M` weights and one of `width` inputs for each step, by the slices above.
            let sum = unsafe {
                let a = (weights.as_ptr().add(channel), 1, channels);
                tile::multiply::<S, M, N>(s, slice.len(), a, (seen.as_ptr(), Every(width)), sum)
            };
            for (m, sum) in sum.iter().enumerate() {
                for (n, &sum) in sum.iter().enumerate() {
                    s.set(sum, &mut sums[m * width + n * S::LANES..]);
                }
            }
        }
    }

    /// Transforms the sums of a panel, which begin at `start`, to outputs and writes them.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, panel: Panel, start: usize) {
        let zero = s.splat(0.0);
        let (channels, width) = (self.task.channels(), panel.vectors * S::LANES);
        let first = self.task.blocks.start * BLOCK;
        let mut outputs = [0.0; OUT * OUT * VECTORS * MAX_LANES];
        for channel in 0..channels.min(self.task.winograd.output - first) {
            let bias = s.splat(self.task.winograd.bias[first + channel]);
            for at in (0..width).step_by(S::LANES) {
                let mut half = [[zero; OUT]; IN]; // by column of the transform
                for (j, half) in half.iter_mut().enumerate() {
                    let mut column = [zero; IN];
                    for (i, number) in column.iter_mut().enumerate() {
                        let point = (i * IN + j) * (channels * width + APART);
                        *number = s.get(&self.sums[start + point + channel * width + at..]);
                    }
                    *half = to_outputs(s, column);
                }
                for i in 0..OUT {
                    let mut row = [zero; IN];
                    for (number, half) in row.iter_mut().zip(&half) {
                        *number = half[i];
                    }
                    for (j, &number) in to_outputs(s, row).iter().enumerate() {
                        s.set(s.add(number, bias), &mut outputs[(i * OUT + j) * width + at..]);
                    }
                }
            }
            self.task.write(first + channel, panel, S::LANES, &outputs);
        }
    }
}
