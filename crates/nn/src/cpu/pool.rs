//! Maximum pooling: rows first, which are vectors, then what is left along them.

use super::{Target, filled};
use rayon::prelude::*;

/// One axis: places of the input that an output sees, its length already clipped to the input.
#[derive(Debug, Clone)]
pub struct Axis {
    /// First place of each output, and one beyond the last.
    pub ranges: Vec<(usize, usize)>,
    pub input: usize,
}

/// The largest numbers of `x` `[T, C, H, W]` as `[T', C, H', W']`, by the axes of T, H and W.
pub fn max(x: &[f32], channels: usize, [time, rows, columns]: &[Axis; 3]) -> Vec<f32> {
    let (height, width) = (rows.input, columns.input);
    let (out_h, out_w) = (rows.ranges.len(), columns.ranges.len());
    let plane = |frame: usize, channel: usize| &x[(frame * channels + channel) * height * width..][..height * width];
    let run = |target: Target| {
        (0..time.ranges.len() * channels).into_par_iter().for_each(|task| {
            let (t, channel) = (task / channels, task % channels);
            // SAFETY: every plane of the result has its own part.
            let to = unsafe { target.part(task * out_h * out_w, out_h * out_w) };
            let mut row = vec![0.0f32; width];
            for (to, &(top, bottom)) in to.chunks_exact_mut(out_w).zip(&rows.ranges) {
                row.fill(f32::NEG_INFINITY);
                for frame in time.ranges[t].0..time.ranges[t].1 {
                    for y in top..bottom {
                        let from = &plane(frame, channel)[y * width..][..width];
                        row.iter_mut().zip(from).for_each(|(most, &value)| *most = most.max(value));
                    }
                }
                if width == 2 * out_w && columns.ranges[0] == (0, 2) && columns.ranges[out_w - 1].1 == width {
                    for (to, pair) in to.iter_mut().zip(row.chunks_exact(2)) {
                        to.write(pair[0].max(pair[1]));
                    }
                    continue;
                }
                for (to, &(left, right)) in to.iter_mut().zip(&columns.ranges) {
                    to.write(row[left..right].iter().copied().fold(f32::NEG_INFINITY, f32::max));
                }
            }
        });
    };
    // SAFETY: the planes cover the result, and every number of a plane is written.
    unsafe { filled(time.ranges.len() * channels * out_h * out_w, run) }
}
