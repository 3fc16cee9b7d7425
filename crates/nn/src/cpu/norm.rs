//! Group norm with what follows it: one pass for the statistics, one for everything else.

use super::simd::{Kernel, Simd, dispatch};
use super::{Target, filled, with_scratch};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Numbers whose mean and spread are taken together; they stay in the first-level cache between the two passes.
const BLOCK: usize = 4096;
/// Blocks of one task.
const TASK: usize = 16;

/// The affine map of each channel and the groups it is normalised in.
pub struct GroupNorm<'a> {
    /// Equal runs of frames, each with statistics of its own.
    pub samples: usize,
    pub groups: usize,
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub eps: f64,
    pub silu: bool,
}

/// A map on a coarser grid, `[f, C, h, w]`, and the frame of it that each frame of the input reads.
pub struct Condition<'a> {
    pub scale: &'a [f32],
    pub shift: &'a [f32],
    pub size: (usize, usize),
    pub frames: &'a [u32],
}

impl GroupNorm<'_> {
    /// `x` is `[T, C, H, W]`, the statistics span the frames of a sample. The condition's frames and sizes must fit.
    pub fn run(
        &self,
        x: &[f32],
        (t, c, h, w): (usize, usize, usize, usize),
        condition: Option<&Condition>,
    ) -> Vec<f32> {
        assert!(x.len() == t * c * h * w && self.weight.len() == c && self.bias.len() == c && c % self.groups == 0);
        assert!(self.samples > 0 && t % self.samples == 0);
        if let Some(Condition { scale, shift, size, frames }) = condition {
            let known = scale.len() / (c * size.0 * size.1).max(1);
            assert!(scale.len() == shift.len() && h % size.0 == 0 && w % size.1 == 0);
            assert!(frames.len() == t && frames.iter().all(|&frame| (frame as usize) < known));
        }
        let statistics = self.statistics(x, t);
        let plane = h * w;
        let run = |target: Target| {
            let least = (BLOCK * TASK / plane.max(1)).max(1);
            (0..t * c).into_par_iter().with_min_len(least).for_each(|i| {
                let (frame, channel) = (i / c, i % c);
                let sample = frame / (t / self.samples);
                let (mean, inverse) = statistics[sample * self.groups + channel / (c / self.groups)];
                let affine = Affine { mean, factor: inverse * self.weight[channel], offset: self.bias[channel] };
                let from = &x[i * plane..(i + 1) * plane];
                // SAFETY: every plane is one task's own.
                let to = unsafe { target.part(i * plane, plane) };
                let Some(condition) = condition else {
                    return dispatch(Apply { affine, silu: self.silu, from, to });
                };
                let (ch, cw) = condition.size;
                let at = (condition.frames[frame] as usize * c + channel) * ch * cw;
                with_scratch(2 * w, |rows| {
                    let (scale, shift) = (&condition.scale[at..at + ch * cw], &condition.shift[at..at + ch * cw]);
                    let rows = &mut rows[..2 * w];
                    dispatch(Conditioned {
                        affine,
                        silu: self.silu,
                        from,
                        to,
                        scale,
                        shift,
                        rows,
                        width: w,
                        cells: cw,
                    });
                });
            });
        };
        // SAFETY: the planes cover the result, and both kernels write all of a plane.
        unsafe { filled(x.len(), run) }
    }

    /// Mean and inverse deviation of each group of each sample.
    fn statistics(&self, x: &[f32], t: usize) -> Vec<(f32, f32)> {
        let run = x.len() / (t * self.groups).max(1); // the channels of one group in one frame lie together
        let tasks = run.div_ceil(BLOCK * TASK);
        let frames = t / self.samples;
        let parts: Vec<Moments> = (0..self.groups * t * tasks)
            .into_par_iter()
            .with_min_len((BLOCK * TASK / run.max(1)).max(1))
            .map(|i| {
                let (task, rest) = (i % tasks, i / tasks);
                let (frame, rest) = (rest % frames, rest / frames);
                let (group, sample) = (rest % self.groups, rest / self.groups);
                let x = &x[((sample * frames + frame) * self.groups + group) * run..][..run];
                dispatch(Measure(&x[task * BLOCK * TASK..run.min((task + 1) * BLOCK * TASK)]))
            })
            .collect();
        parts
            .chunks((frames * tasks).max(1))
            .map(|parts| {
                let all = parts.iter().fold(Moments::default(), |all, part| all.joined(part));
                (all.mean as f32, (1.0 / (all.squares / all.count + self.eps).sqrt()) as f32)
            })
            .collect()
    }
}

/// Number, mean and sum of squared differences from the mean.
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn joined(self, other: &Moments) -> Moments {
        let count = self.count + other.count;
        if count == 0.0 {
            return self;
        }
        let apart = other.mean - self.mean;
        let mean = self.mean + apart * other.count / count;
        let squares = self.squares + other.squares + apart * apart * self.count * other.count / count;
        Moments { count, mean, squares }
    }
}

struct Measure<'a>(&'a [f32]);

impl Kernel for Measure<'_> {
    type Out = Moments;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Moments {
        let mut all = Moments::default();
        for block in self.0.chunks(BLOCK) {
            let mean = sum(s, block, 0.0, false) / block.len() as f32;
            let squares = sum(s, block, mean, true);
            all =
                all.joined(&Moments { count: block.len() as f64, mean: f64::from(mean), squares: f64::from(squares) });
        }
        all
    }
}

/// Sum of `x - from`, squared if so asked.
#[inline(always)]
fn sum<S: Simd>(s: S, x: &[f32], from: f32, square: bool) -> f32 {
    let from_all = s.splat(from);
    let mut sums = [s.splat(0.0); 4];
    let mut chunks = x.chunks_exact(4 * S::LANES);
    for chunk in &mut chunks {
        for (i, sum) in sums.iter_mut().enumerate() {
            let x = s.sub(s.get(&chunk[i * S::LANES..(i + 1) * S::LANES]), from_all);
            *sum = if square { s.fma(x, x, *sum) } else { s.add(x, *sum) };
        }
    }
    let mut total = s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])));
    for &x in chunks.remainder() {
        let x = x - from;
        total += if square { x * x } else { x };
    }
    total
}

/// `(x - mean) * factor + offset`.
#[derive(Clone, Copy)]
struct Affine {
    mean: f32,
    factor: f32,
    offset: f32,
}

struct Apply<'a> {
    affine: Affine,
    silu: bool,
    from: &'a [f32],
    to: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Apply<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Affine { mean, factor, offset } = self.affine;
        let (mean, factor, offset) = (s.splat(mean), s.splat(factor), s.splat(offset));
        for (from, to) in self.from.chunks(S::LANES).zip(self.to.chunks_mut(S::LANES)) {
            let mut y = s.fma(s.sub(s.get(from), mean), factor, offset);
            if self.silu {
                y = s.gated(y, y);
            }
            s.put(y, to);
        }
    }
}

struct Conditioned<'a> {
    affine: Affine,
    silu: bool,
    from: &'a [f32],
    to: &'a mut [MaybeUninit<f32>],
    scale: &'a [f32],
    shift: &'a [f32],
    /// Space for one enlarged row of each map.
    rows: &'a mut [f32],
    width: usize,
    /// Width of the maps.
    cells: usize,
}

impl Kernel for Conditioned<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { from, to, scale, shift, .. } = self;
        if scale.len() == from.len() {
            // the maps are as large as the plane: all of it is one row
            return row(s, (self.affine, self.silu), from, to, scale, shift);
        }
        let (wide_scale, wide_shift) = self.rows.split_at_mut(self.width);
        let cell_rows = scale.len() / self.cells;
        let together = from.len() / cell_rows; // the rows of one cell
        for cell_row in 0..cell_rows {
            enlarge(&scale[cell_row * self.cells..][..self.cells], wide_scale);
            enlarge(&shift[cell_row * self.cells..][..self.cells], wide_shift);
            let from = &from[cell_row * together..][..together];
            let to = &mut to[cell_row * together..][..together];
            for (from, to) in from.chunks_exact(self.width).zip(to.chunks_exact_mut(self.width)) {
                row(s, (self.affine, self.silu), from, to, wide_scale, wide_shift);
            }
        }
    }
}

/// Normalises a row, multiplies with `scale`, adds `shift`, activates if so asked.
#[inline(always)]
fn row<S: Simd>(
    s: S,
    (Affine { mean, factor, offset }, silu): (Affine, bool),
    from: &[f32],
    to: &mut [MaybeUninit<f32>],
    scale: &[f32],
    shift: &[f32],
) {
    let (mean, factor, offset) = (s.splat(mean), s.splat(factor), s.splat(offset));
    let maps = scale.chunks(S::LANES).zip(shift.chunks(S::LANES));
    for ((from, to), (scale, shift)) in from.chunks(S::LANES).zip(to.chunks_mut(S::LANES)).zip(maps) {
        let y = s.fma(s.sub(s.get(from), mean), factor, offset);
        let mut y = s.fma(y, s.get(scale), s.get(shift));
        if silu {
            y = s.gated(y, y);
        }
        s.put(y, to);
    }
}

/// Repeats each number until the row is full.
#[inline(always)]
fn enlarge(from: &[f32], to: &mut [f32]) {
    match to.len() / from.len() {
        1 => to.copy_from_slice(from),
        2 => repeat::<2>(from, to),
        4 => repeat::<4>(from, to),
        8 => repeat::<8>(from, to),
        times => {
            for (to, &from) in to.chunks_exact_mut(times).zip(from) {
                to.fill(from);
            }
        }
    }
}

#[inline(always)]
fn repeat<const TIMES: usize>(from: &[f32], to: &mut [f32]) {
    for (to, &from) in to.chunks_exact_mut(TIMES).zip(from) {
        to.copy_from_slice(&[from; TIMES]);
    }
}
