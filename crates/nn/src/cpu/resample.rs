//! Bilinear resizing and warping, plane by plane.

use super::{Target, filled};
use rayon::prelude::*;

/// Where an output lies between two places of the input.
#[derive(Debug, Clone, Copy)]
pub struct Between {
    pub first: usize,
    pub second: usize,
    /// Share of the second.
    pub share: f32,
}

/// Planes of `width` columns, each interpolated from rows and columns between the old ones.
pub fn bilinear(x: &[f32], (height, width): (usize, usize), rows: &[Between], columns: &[Between]) -> Vec<f32> {
    let plane = height * width;
    let out = rows.len() * columns.len();
    let run = |target: Target| {
        x.par_chunks(plane).enumerate().for_each(|(task, from)| {
            // SAFETY: every plane of the result has its own part.
            let to = unsafe { target.part(task * out, out) };
            let mut mixed = vec![0.0f32; width];
            for (to, row) in to.chunks_exact_mut(columns.len()).zip(rows) {
                let (upper, lower) = (&from[row.first * width..][..width], &from[row.second * width..][..width]);
                let pairs = mixed.iter_mut().zip(upper.iter().zip(lower));
                pairs.for_each(|(mixed, (&a, &b))| *mixed = a + (b - a) * row.share);
                for (to, column) in to.iter_mut().zip(columns) {
                    let (a, b) = (mixed[column.first], mixed[column.second]);
                    to.write(a + (b - a) * column.share);
                }
            }
        });
    };
    // SAFETY: the planes cover the result, and every number of a plane is written.
    unsafe { filled(x.len() / plane * out, run) }
}

/// One frame `[C, H, W]` seen along `flow` `[2, H, W]`: each position takes what lies `flow` further, x then y; places outside
/// are those at the border.
pub fn warp(x: &[f32], flow: &[f32], (height, width): (usize, usize)) -> Vec<f32> {
    let plane = height * width;
    let (last_x, last_y) = ((width - 1) as f32, (height - 1) as f32);
    let corners = |i: usize| {
        let fx = ((i % width) as f32 + flow[i]).clamp(0.0, last_x);
        let fy = ((i / width) as f32 + flow[plane + i]).clamp(0.0, last_y);
        // what is no number stays where it is
        let (fx, fy) = (if fx.is_nan() { 0.0 } else { fx }, if fy.is_nan() { 0.0 } else { fy });
        let (x0, y0) = (fx as usize, fy as usize);
        let (x1, y1) = ((x0 + 1).min(width - 1), (y0 + 1).min(height - 1));
        ([y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1], fx - x0 as f32, fy - y0 as f32)
    };
    let seen: Vec<_> = (0..plane).into_par_iter().map(corners).collect();
    let run = |target: Target| {
        x.par_chunks(plane).enumerate().for_each(|(channel, from)| {
            // SAFETY: every channel of the result has its own part.
            let to = unsafe { target.part(channel * plane, plane) };
            for (to, (at, dx, dy)) in to.iter_mut().zip(&seen) {
                let [a, b, c, d] = at.map(|at| from[at]);
                let (upper, lower) = (a + (b - a) * dx, c + (d - c) * dx);
                to.write(upper + (lower - upper) * dy);
            }
        });
    };
    // SAFETY: the channels cover the result.
    unsafe { filled(x.len(), run) }
}
