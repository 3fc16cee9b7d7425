//! Edges of a picture as OpenCV's `Canny` finds them (aperture 3, L1 norm), in integers: the same pixels as there. Networks that were
//! trained on edges were trained on these.

use super::Frame;

/// The tangent of 22.5 degrees in 2^-15.
const TAN: i32 = 13573;
/// Not an edge; perhaps one, where it is connected to one; one.
const NONE: u8 = 0;
const WEAK: u8 = 1;
const EDGE: u8 = 2;

impl Frame {
    /// 255 at edges and 0 elsewhere, row by row: one value for each pixel. Of the gradient `|dx| + |dy|` more than `high` makes an edge,
    /// and more than `low` one where it goes on from an edge.
    pub fn canny(&self, low: i32, high: i32) -> Vec<u8> {
        let (width, height) = (self.width, self.height);
        let gradients = gradients(self);
        let stride = width + 2;
        let magnitude = |at: usize| gradients[at].0.abs() + gradients[at].1.abs();
        let mut kinds = vec![NONE; gradients.len()];
        let mut found = Vec::new();
        for y in 1..=height {
            for x in 1..=width {
                let at = y * stride + x;
                let here = magnitude(at);
                if here <= low || !peak(gradients[at], here, |dx, dy| magnitude(offset(at, dx, dy, stride))) {
                    continue;
                }
                kinds[at] = WEAK;
                if here > high {
                    kinds[at] = EDGE;
                    found.push(at);
                }
            }
        }
        while let Some(at) = found.pop() {
            for (dx, dy) in [(-1, -1), (0, -1), (1, -1), (-1, 0), (1, 0), (-1, 1), (0, 1), (1, 1)] {
                let near = offset(at, dx, dy, stride);
                if kinds[near] == WEAK {
                    kinds[near] = EDGE;
                    found.push(near);
                }
            }
        }
        let rows = kinds.chunks_exact(stride).skip(1).take(height);
        rows.flat_map(|row| row[1..=width].iter().map(|&kind| if kind == EDGE { 255 } else { 0 })).collect()
    }
}

/// The place beside another; both are within the border.
fn offset(at: usize, dx: isize, dy: isize, stride: usize) -> usize {
    at.wrapping_add_signed(dy * stride as isize + dx)
}

/// Whether a gradient is larger than those before and behind it in its own direction.
fn peak((dx, dy): (i32, i32), here: i32, near: impl Fn(isize, isize) -> i32) -> bool {
    let (across, down) = (dx.abs(), dy.abs() << 15);
    let flat = across * TAN;
    if down < flat {
        return here > near(-1, 0) && here >= near(1, 0);
    }
    if down > flat + (across << 16) {
        return here > near(0, -1) && here >= near(0, 1);
    }
    let side = if (dx < 0) == (dy < 0) { 1 } else { -1 };
    here > near(-side, -1) && here > near(side, 1)
}

/// Sobel's derivatives across and down, of the channel in which they are the largest together, with a border of nothing: `height + 2`
/// rows of `width + 2`. Outside the picture its border goes on.
fn gradients(frame: &Frame) -> Vec<(i32, i32)> {
    let (width, height) = (frame.width, frame.height);
    let mut made = vec![(0, 0); (width + 2) * (height + 2)];
    let inside = |at: usize, by: isize, count: usize| at.saturating_add_signed(by).min(count - 1);
    for y in 0..height {
        let rows = [-1, 0, 1].map(|by| 3 * width * inside(y, by, height));
        for x in 0..width {
            let columns = [-1, 0, 1].map(|by| 3 * inside(x, by, width));
            let mut best = (0, 0);
            for channel in 0..3 {
                let value = |row: usize, column: usize| i32::from(frame.data[rows[row] + columns[column] + channel]);
                let dx = value(0, 2) - value(0, 0) + 2 * (value(1, 2) - value(1, 0)) + value(2, 2) - value(2, 0);
                let dy = value(2, 0) - value(0, 0) + 2 * (value(2, 1) - value(0, 1)) + value(2, 2) - value(0, 2);
                let (found, most): (i32, i32) = (dx.abs() + dy.abs(), i32::abs(best.0) + i32::abs(best.1));
                if channel == 0 || found > most {
                    best = (dx, dy);
                }
            }
            made[(y + 1) * (width + 2) + x + 1] = best;
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_one_line_and_a_slope_is_none() {
        let of = |value: fn(usize) -> u8, width: usize| {
            let row: Vec<u8> = (0..width).flat_map(|x| [value(x); 3]).collect();
            Frame { width, height: 5, data: row.repeat(5) }.canny(100, 200)
        };
        let step = of(|x| if x < 4 { 0 } else { 255 }, 8);
        assert!(step.chunks(8).all(|row| row == [0, 0, 0, 255, 0, 0, 0, 0]), "{step:?}");
        assert!(of(|x| 5 * x as u8, 8).iter().all(|&value| value == 0));
        // one pixel has neighbours only beyond its border
        assert_eq!(Frame { width: 1, height: 1, data: vec![9; 3] }.canny(0, 0), [0]);
    }

    #[test]
    fn what_is_weak_counts_beside_what_is_strong() {
        // an edge whose contrast falls from row to row
        let row = |y: usize| (0..8).flat_map(move |x| [if x < 4 { 0 } else { (250 - 30 * y) as u8 }; 3]);
        let frame = Frame { width: 8, height: 8, data: (0..8).flat_map(row).collect() };
        let rows = |low: i32, high: i32| frame.canny(low, high).chunks(8).filter(|row| row[4] == 255).count();
        assert_eq!(rows(900, 900), 3);
        assert_eq!(rows(400, 900), rows(400, 400));
        assert_eq!(rows(400, 900), 7);
    }
}
