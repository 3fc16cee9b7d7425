//! Motion smoothness: how well a frame is predicted from its two neighbours.
//!
//! After VBench (arXiv 2311.17982): odd frames are dropped, interpolated from their even neighbours, and compared,
//! (255 - mean |I - I'|) / 255. VBench makes them with AMT-S, a learned interpolator whose weights are not available here.
//! Instead, frames are interpolated along classical motion vectors: for each block of 8 x 8 pixels the vector v is sought along which
//! the frame before at p - v and the frame after at p + v are most alike, and their mean there is the prediction. It follows
//! shifts of whole pixels within [`reach`], not rotation, zoom or uncovered areas, so its scores lie below those of AMT-S
//! and only compare with each other.

use crate::video::Frame;
use rayon::prelude::*;

/// Told in reports.
pub const INTERPOLATOR: &str =
    "block matching along straight motion (8x8 pixels); not AMT-S, so not comparable with VBench's numbers";

const BLOCK: usize = 8;

/// Longest step along an axis between neighbouring frames, in pixels: a 32nd of the short side, 4 to 16.
pub fn reach(width: usize, height: usize) -> usize {
    (width.min(height) / 32).clamp(4, 16)
}

/// Mean absolute error of `middle` made from the frames around it, in levels. All frames have one size.
pub fn error(before: &Frame, middle: &Frame, after: &Frame) -> f64 {
    let (width, height) = (middle.width, middle.height);
    let search =
        BlockSearch { before: luma(before), after: luma(after), width, height, steps: steps(reach(width, height)) };
    let doubled: u64 = (0..height.div_ceil(BLOCK))
        .into_par_iter()
        .map(|row| {
            let y = row * BLOCK..((row + 1) * BLOCK).min(height);
            let columns = (0..width.div_ceil(BLOCK)).map(|column| {
                let x = column * BLOCK..((column + 1) * BLOCK).min(width);
                let (dx, dy) = search.vector(&x, &y, From::Middle);
                let mut sum = 0;
                for y in y.clone() {
                    let at = |dx: isize, dy: isize| {
                        let start = (y.wrapping_add_signed(dy) * width + x.start.wrapping_add_signed(dx)) * 3;
                        start..start + x.len() * 3
                    };
                    let (a, b) = (&before.data[at(-dx, -dy)], &after.data[at(dx, dy)]);
                    let pairs = a.iter().zip(b).zip(&middle.data[at(0, 0)]);
                    sum += pairs
                        .map(|((&a, &b), &m)| u64::from((2 * u16::from(m)).abs_diff(u16::from(a) + u16::from(b))))
                        .sum::<u64>();
                }
                sum
            });
            columns.sum::<u64>()
        })
        .sum();
    doubled as f64 / 2.0 / middle.data.len().max(1) as f64
}

/// The score of the errors of all odd frames; none without one.
pub fn smoothness(errors: &[f64]) -> Option<f64> {
    super::frames::mean(errors).map(|mean| (255.0 - mean) / 255.0)
}

/// The way from a frame to the next, `[2, H, W]`, x and y in whole pixels: of each block, to where the next frame is most like it.
pub fn forward(a: &Frame, b: &Frame) -> Vec<f32> {
    let (width, height) = (a.width, a.height);
    let search = BlockSearch { before: luma(a), after: luma(b), width, height, steps: steps(2 * reach(width, height)) };
    let rows: Vec<Vec<(isize, isize)>> = (0..height.div_ceil(BLOCK))
        .into_par_iter()
        .map(|row| {
            let y = row * BLOCK..((row + 1) * BLOCK).min(height);
            let columns = (0..width.div_ceil(BLOCK)).map(|column| column * BLOCK..((column + 1) * BLOCK).min(width));
            columns.map(|x| search.vector(&x, &y, From::Start)).collect()
        })
        .collect();
    let step = |x: usize, y: usize| rows[y / BLOCK][x / BLOCK];
    let across = (0..width * height).map(|at| step(at % width, at / width).0 as f32);
    across.chain((0..width * height).map(|at| step(at % width, at / width).1 as f32)).collect()
}

fn luma(frame: &Frame) -> Vec<u8> {
    let weigh = |p: &[u8]| ((77 * u32::from(p[0]) + 150 * u32::from(p[1]) + 29 * u32::from(p[2])) >> 8) as u8;
    frame.data.chunks_exact(3).map(weigh).collect()
}

/// All steps within reach, the shorter first, so that of equals the shortest is taken.
fn steps(reach: usize) -> Vec<(isize, isize)> {
    let reach = reach as isize;
    let mut steps: Vec<_> = (-reach..=reach).flat_map(|dy| (-reach..=reach).map(move |dx| (dx, dy))).collect();
    steps.sort_by_key(|(dx, dy)| dx * dx + dy * dy);
    steps
}

struct BlockSearch {
    before: Vec<u8>,
    after: Vec<u8>,
    width: usize,
    height: usize,
    steps: Vec<(isize, isize)>,
}

/// Where a block stands on its way.
#[derive(Clone, Copy)]
enum From {
    /// In the frame before.
    Start,
    /// Half way, between the two frames.
    Middle,
}

impl BlockSearch {
    /// The step along which a block's past and future are most alike; a longer one must be better by a little, or flat
    /// places would wander.
    fn vector(&self, x: &std::ops::Range<usize>, y: &std::ops::Range<usize>, from: From) -> (isize, isize) {
        let back = match from {
            From::Start => 0,
            From::Middle => -1,
        };
        let pixels = (x.len() * y.len()) as u32;
        let mut best = ((0, 0), u32::MAX);
        for &(dx, dy) in &self.steps {
            let inside = |range: &std::ops::Range<usize>, step: isize, end: usize| {
                [back * step, step].into_iter().all(|step| {
                    range.start.checked_add_signed(step).is_some() && range.end.saturating_add_signed(step) <= end
                })
            };
            if !inside(x, dx, self.width) || !inside(y, dy, self.height) {
                continue;
            }
            let mut cost = pixels * (dx.unsigned_abs() + dy.unsigned_abs()) as u32 / 32;
            for y in y.clone() {
                if cost >= best.1 {
                    break;
                }
                let at = |dx: isize, dy: isize| {
                    let start = y.wrapping_add_signed(dy) * self.width + x.start.wrapping_add_signed(dx);
                    start..start + x.len()
                };
                let pairs = self.before[at(back * dx, back * dy)].iter().zip(&self.after[at(dx, dy)]);
                cost += pairs.map(|(a, b)| u32::from(a.abs_diff(*b))).sum::<u32>();
            }
            if cost < best.1 {
                best = ((dx, dy), cost);
            }
        }
        best.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A textured picture moved by whole pixels.
    fn moved(dx: usize, dy: usize) -> Frame {
        let (width, height) = (160, 128);
        let level = |x: usize, y: usize, c: usize| {
            let (x, y) = ((x + 64 - dx) as f64, (y + 64 - dy) as f64);
            (128.0 + 60.0 * (x * 0.37 + c as f64).sin() + 60.0 * (y * 0.53 + x * 0.21).cos()) as u8
        };
        let data = (0..width * height * 3).map(|i| level(i / 3 % width, i / 3 / width, i % 3)).collect();
        Frame { width, height, data }
    }

    #[test]
    fn standing_still_and_even_motion_are_smooth() {
        assert_eq!(error(&moved(0, 0), &moved(0, 0), &moved(0, 0)), 0.0);
        let even = error(&moved(0, 0), &moved(3, 2), &moved(6, 4));
        let plain: f64 = {
            // without motion: the mean of the two at the same place
            let (a, m, b) = (moved(0, 0), moved(3, 2), moved(6, 4));
            let pairs = a.data.iter().zip(&b.data).zip(&m.data);
            pairs.map(|((&a, &b), &m)| (f64::from(m) - (f64::from(a) + f64::from(b)) / 2.0).abs()).sum::<f64>()
                / m.data.len() as f64
        };
        // blocks at the rim, which would look beyond it, are left
        assert!(even < plain / 3.0, "{even} of {plain}");
        let jump = error(&moved(0, 0), &moved(9, 1), &moved(6, 4));
        assert!(jump > 2.0 * even, "{jump} of {even}");
    }

    #[test]
    fn frames_smaller_than_a_block_are_measured() {
        let frame = |level: u8| Frame { width: 3, height: 2, data: vec![level; 18] };
        assert_eq!(error(&frame(10), &frame(20), &frame(16)), 7.0);
        assert_eq!(smoothness(&[51.0, 0.0]), Some(0.9));
        assert_eq!(smoothness(&[]), None);
    }
}
