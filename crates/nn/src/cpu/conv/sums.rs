//! The sums of a tile, in one of two shapes of registers: a few output channels times a few vectors of neighbouring positions,
//! or a few positions times two vectors of channels. The first is for any number of channels, and reads the work space at all
//! alignments; the second reads weights in whole cache lines and numbers of the work space one by one, and its results have to
//! be turned. With 32 registers the first is faster, with 16 the second.

use super::super::simd::{Kernel, MAX_LANES, Simd};
use super::super::tile;
use super::{Shape, Tile};

/// Taps of all channels of a slice: what they see of a few positions stays in the first-level cache.
const SLICE: usize = 576;
/// The same where channels are in the vectors: their weights stay there as well.
const SLICE_MANY: usize = 288;
/// Channels of a block whose positions are in vectors.
const FEW: usize = 8;
/// Channels of a block that are in vectors themselves.
const MANY: usize = 16;
/// Positions of a tile of registers with them.
const POSITIONS: usize = 6;
/// Positions whose results are turned before they are written.
const RUN: usize = 16 * POSITIONS;

/// Output channels of one block of weights, for vectors of `lanes` numbers.
pub(super) fn block(lanes: usize, output: usize, paired: bool) -> usize {
    if lanes < MAX_LANES && output.is_multiple_of(MANY) && !paired { MANY } else { FEW }
}

/// Some of the channels that an output sees, with all their taps.
#[derive(Clone, Copy)]
pub(super) struct Slice {
    pub first: usize,
    pub channels: usize,
    last: bool,
}

/// All channels in slices of about the same size.
pub(super) fn slices(shape: Shape) -> impl Iterator<Item = Slice> {
    let channels = shape.channels();
    let slice = if shape.block == MANY { SLICE_MANY } else { SLICE };
    let count = (channels * shape.k * shape.k).div_ceil(slice).clamp(1, channels.max(1));
    let place = move |i: usize| i * channels / count;
    (0..count).map(move |i| Slice { first: place(i), channels: place(i + 1) - place(i), last: i + 1 == count })
}

/// Numbers of work space that the sums of a tile need.
pub(super) fn space(tile: &Tile) -> usize {
    let shape = tile.packed.shape;
    let partial = slices(shape).any(|slice| !slice.last);
    turned(shape) + if partial { shape.up * shape.up * shape.blocks() * shape.block * positions(tile) } else { 0 }
}

/// Those of them, at the beginning, in which results wait to be written.
fn turned(Shape { up, block, .. }: Shape) -> usize {
    if block == MANY { up * MANY * RUN } else { 0 }
}

/// A few more positions than a tile has: whole vectors and whole tiles of registers.
fn positions(tile: &Tile) -> usize {
    (tile.rows * tile.cut.pitch()).next_multiple_of(3 * MAX_LANES)
}

/// What a slice adds to the sums of a tile.
pub(super) struct Sums<'a> {
    pub tile: &'a Tile<'a>,
    pub slice: Slice,
    /// What the tile sees of the slice.
    pub seen: &'a [f32],
    /// Where its taps lie there, from the output position.
    pub steps: &'a [usize],
    /// Results that wait to be written, and the sums so far, where they are made in slices.
    pub work: &'a mut [f32],
}

/// Which outputs are made: channels from `first` of a block on, of the phases `(py, ..)`.
#[derive(Clone, Copy)]
struct Part {
    block: usize,
    first: usize,
    py: usize,
}

impl Kernel for Sums<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let shape = self.tile.packed.shape;
        if shape.block == MANY {
            for block in 0..shape.blocks() {
                for py in 0..shape.up {
                    let part = Part { block, first: 0, py };
                    match MANY / S::LANES {
                        1 => self.channels::<S, 1>(s, part),
                        2 => self.channels::<S, 2>(s, part),
                        _ => self.channels::<S, 4>(s, part),
                    }
                }
            }
            return;
        }
        let most = if S::WIDE && shape.output <= FEW / 2 { 6 } else { 3 };
        let vectors = (self.tile.rows * self.tile.cut.pitch() - self.tile.cut.reach).div_ceil(S::LANES);
        let mut done = 0;
        // All channels of a few positions before the next: what these see stays in the first-level cache, and the weights come
        // in their order, which the CPU predicts.
        while done < vectors {
            let at = done * S::LANES;
            done += match vectors - done {
                1 => self.blocks::<S, 1>(s, at),
                2 => self.blocks::<S, 2>(s, at),
                left if left < 6 || most < 6 => self.blocks::<S, 3>(s, at),
                _ => self.blocks::<S, 6>(s, at),
            };
        }
    }
}

impl Sums<'_> {
    /// The slice's weights for a block in phase `(py, px)`.
    #[inline(always)]
    fn weights(&self, part: Part, px: usize) -> &[f32] {
        let shape = &self.tile.packed.shape;
        let taps = shape.k * shape.k * shape.block;
        let from = self.place(part, px) * shape.depth() * shape.block + self.slice.first * taps;
        &self.tile.packed.weight.numbers()[from..from + self.slice.channels * taps]
    }

    /// What a position sees in phase `(py, px)`, and where the taps lie from there.
    #[inline(always)]
    fn seen(&self, at: usize, py: usize, px: usize) -> (&[f32], &[usize]) {
        let shape = &self.tile.packed.shape;
        (&self.seen[py * self.tile.cut.pitch() + px + at..], &self.steps[..self.slice.channels * shape.k * shape.k])
    }

    /// The place of a block among those of all phases.
    #[inline(always)]
    fn place(&self, Part { block, py, .. }: Part, px: usize) -> usize {
        let shape = &self.tile.packed.shape;
        (py * shape.up + px) * shape.blocks() + block
    }

    /// Where the sums so far of a block begin in the work space.
    #[inline(always)]
    fn so_far(&self, part: Part, px: usize) -> usize {
        let shape = self.tile.packed.shape;
        turned(shape) + self.place(part, px) * shape.block * positions(self.tile)
    }

    /// Adds to all channels at `N` vectors of positions, which is returned.
    #[inline(always)]
    fn blocks<S: Simd, const N: usize>(&mut self, s: S, at: usize) -> usize {
        let shape = self.tile.packed.shape;
        for block in 0..shape.blocks() {
            let live = shape.output - block * FEW;
            for py in 0..shape.up {
                let part = Part { block, first: 0, py };
                if S::WIDE && live > FEW / 2 {
                    self.positions::<S, FEW, N>(s, part, at);
                } else {
                    self.positions::<S, { FEW / 2 }, N>(s, part, at);
                    if live > FEW / 2 {
                        self.positions::<S, { FEW / 2 }, N>(s, Part { first: FEW / 2, ..part }, at);
                    }
                }
            }
        }
        N
    }

    /// Computes a part at `N` vectors of positions: what it had so far (the bias at first) plus the slice.
    #[inline(always)]
    fn positions<S: Simd, const M: usize, const N: usize>(&mut self, s: S, part: Part, at: usize) {
        let Part { block, first, py } = part;
        let (tile, slice) = (self.tile, self.slice);
        let shape = tile.packed.shape;
        let channel = block * FEW + first;
        // those of all channels at the same positions lie together
        let together = shape.up * shape.up * shape.blocks() * FEW * at;
        let so_far = [0, shape.up - 1].map(|px| turned(shape) + together + self.place(part, px) * FEW * N * S::LANES);
        let place = |px: usize, m: usize| so_far[px] + (first + m) * N * S::LANES;
        let zero = s.splat(0.0);
        let mut sums = [[[zero; N]; M]; 2];
        for (px, sum) in sums.iter_mut().enumerate().take(shape.up) {
            for (m, sum) in sum.iter_mut().enumerate() {
                for (n, sum) in sum.iter_mut().enumerate() {
                    *sum = match slice.first {
                        0 => s.splat(tile.packed.bias[channel + m]),
                        _ => s.get(&self.work[place(px, m) + n * S::LANES..]),
                    };
                }
            }
            let weight = self.weights(part, px);
            let (from, steps) = self.seen(at, py, px);
            // SAFETY: a block holds a row of FEW >= first + M weights for each step. The largest step and
            // position stay inside the planes, or beyond them by less than the zeros appended in `copy`.
            *sum = unsafe {
                let weight = (weight.as_ptr().add(first), 1, FEW);
                if shape.paired {
                    tile::multiply_pairs::<S, M, N>(s, weight, (from.as_ptr(), steps), *sum)
                } else {
                    tile::multiply::<S, M, N>(s, steps.len(), weight, (from.as_ptr(), steps), *sum)
                }
            };
        }
        if slice.last {
            for (m, (even, odd)) in sums[0].iter().zip(&sums[1]).enumerate().take(shape.output - channel) {
                let of = |px: usize| s.numbers(if px == 0 { even } else { odd });
                tile.write_all(s, (channel + m, py), (at, at + N * S::LANES), of);
            }
            return;
        }
        for (px, sum) in sums.iter().enumerate().take(shape.up) {
            for (m, sum) in sum.iter().enumerate() {
                for (n, &sum) in sum.iter().enumerate() {
                    s.set(sum, &mut self.work[place(px, m) + n * S::LANES..]);
                }
            }
        }
    }

    /// Adds to a block of channels, in `N` vectors, at all positions, a few of them at a time.
    #[inline(always)]
    fn channels<S: Simd, const N: usize>(&mut self, s: S, part: Part) {
        let (tile, slice) = (self.tile, self.slice);
        let shape = tile.packed.shape;
        let count = tile.rows * tile.cut.pitch() - tile.cut.reach;
        for at in (0..count).step_by(POSITIONS) {
            for px in 0..shape.up {
                let so_far = self.so_far(part, px) + at * MANY;
                let mut sums = [[s.splat(0.0); N]; POSITIONS];
                for (m, sum) in sums.iter_mut().enumerate() {
                    for (n, sum) in sum.iter_mut().enumerate() {
                        *sum = match slice.first {
                            0 => s.get(&tile.packed.bias[part.block * MANY + n * S::LANES..]),
                            _ => s.get(&self.work[so_far + m * MANY + n * S::LANES..]),
                        };
                    }
                }
                let weight = self.weights(part, px);
                let (from, steps) = self.seen(at, part.py, px);
                // SAFETY: there are as many lines of MANY = N * LANES weights as steps. The largest step and position
                // stay inside the planes, or beyond them by less than the zeros appended in `copy`.
                let sums = unsafe {
                    tile::multiply_places::<S, POSITIONS, N>(s, (from.as_ptr(), steps), weight.as_ptr(), sums)
                };
                for (m, sums) in sums.iter().enumerate() {
                    if slice.last {
                        let turned = &mut self.work[px * MANY * RUN + at % RUN + m..];
                        for (c, &sum) in s.numbers(sums).iter().enumerate() {
                            turned[c * RUN] = sum;
                        }
                    } else {
                        for (n, &sum) in sums.iter().enumerate() {
                            s.set(sum, &mut self.work[so_far + m * MANY + n * S::LANES..]);
                        }
                    }
                }
            }
            let end = at + POSITIONS;
            if slice.last && (end.is_multiple_of(RUN) || end >= count) {
                for c in 0..MANY {
                    let waiting = |px: usize| &self.work[(px * MANY + c) * RUN..][..RUN];
                    tile.write_all(s, (part.block * MANY + c, part.py), (at / RUN * RUN, end), waiting);
                }
            }
        }
    }
}
