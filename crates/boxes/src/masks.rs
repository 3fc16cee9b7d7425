//! Boxes as masks: on pixels, and on the cells of a network's grids.

use crate::{Rect, clipped};
use std::ops::Range;

/// How the mask of a grid follows from a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Cells of which the box covers half or more, and the one in which its centre lies: a small box is never lost.
    Coverage,
    /// The pixels' mask, looked up at the first pixel of each cell.
    Nearest,
}

impl Rule {
    /// A grid of `rows` x `columns` cells over a frame of `height` x `width` pixels, row by row: whether each cell belongs to the box.
    pub fn grid(self, rect: Option<&Rect>, rows: usize, columns: usize, (height, width): (usize, usize)) -> Vec<bool> {
        let Some([x0, y0, x1, y1]) = rect.and_then(clipped) else { return vec![false; rows * columns] };
        let cells = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        match self {
            Self::Coverage => {
                let share = |a: f64, b: f64, n: usize, i: usize| {
                    (((b * n as f64).min((i + 1) as f64)) - (a * n as f64).max(i as f64)).max(0.0)
                };
                let place = |middle: f64, n: usize| ((middle * n as f64) as usize).min(n.saturating_sub(1));
                let centre = (place((y0 + y1) / 2.0, rows), place((x0 + x1) / 2.0, columns));
                let inside =
                    |row: usize, column: usize| share(y0, y1, rows, row) * share(x0, x1, columns, column) >= 0.5;
                cells.map(|cell| cell == centre || inside(cell.0, cell.1)).collect()
            }
            Self::Nearest => {
                let (down, across) = (span(y0, y1, height), span(x0, x1, width));
                let inside = |row: usize, column: usize| {
                    down.contains(&(row * height / rows)) && across.contains(&(column * width / columns))
                };
                cells.map(|(row, column)| inside(row, column)).collect()
            }
        }
    }
}

/// The pixels of an axis of `n` between two edges, one at least.
pub fn span(a: f64, b: f64, n: usize) -> Range<usize> {
    let start = ((a * n as f64 + 1e-6).floor().max(0.0) as usize).min(n.saturating_sub(1));
    let end = ((b * n as f64 - 1e-6).ceil().max(0.0) as usize).clamp(start + 1, n.max(start + 1));
    start..end
}

/// A mask in pixels, row by row, 255 inside; black without a box.
pub fn pixels(rect: Option<&Rect>, height: usize, width: usize) -> Vec<u8> {
    let mut mask = vec![0; height * width];
    if let Some([x0, y0, x1, y1]) = rect.and_then(clipped) {
        let across = span(x0, x1, width);
        for row in span(y0, y1, height) {
            mask[row * width..][across.clone()].fill(255);
        }
    }
    mask
}

/// The box around what is brighter than 127 in a grey picture, row by row; none in a dark one.
pub fn bounds(grey: &[u8], width: usize) -> Option<Rect> {
    let side = [width as f64, (grey.len() / width.max(1)) as f64];
    extent(grey, width).map(|edges| [0, 1, 2, 3].map(|i| edges[i] as f64 / side[i % 2]))
}

/// The same in pixels: left, top, and the ends behind the last column and row.
pub fn extent(grey: &[u8], width: usize) -> Option<[usize; 4]> {
    let mut found: Option<[usize; 4]> = None;
    for (at, _) in grey.iter().enumerate().filter(|(_, value)| **value > 127) {
        let (x, y) = (at % width, at / width);
        let held = found.get_or_insert([x, y, x + 1, y + 1]);
        *held = [held[0].min(x), held[1].min(y), held[2].max(x + 1), held[3].max(y + 1)];
    }
    found
}

/// Rows and columns of the latents' grid and of each level below it, halved and rounded up.
pub fn grids(rows: usize, columns: usize, levels: usize) -> Vec<(usize, usize)> {
    std::iter::successors(Some((rows, columns)), |(rows, columns)| Some((rows.div_ceil(2), columns.div_ceil(2))))
        .take(levels)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(mask: &[bool], columns: usize) -> Vec<String> {
        mask.chunks(columns).map(|row| row.iter().map(|inside| if *inside { '#' } else { '.' }).collect()).collect()
    }

    #[test]
    fn half_a_cell_counts_and_a_small_box_keeps_its_centre() {
        let half = Rule::Coverage.grid(Some(&[0.125, 0.0, 0.75, 0.5]), 2, 4, (16, 32));
        assert_eq!(drawn(&half, 4), ["###.", "...."]);
        let small = Rule::Coverage.grid(Some(&[0.6, 0.6, 0.61, 0.61]), 2, 4, (16, 32));
        assert_eq!(drawn(&small, 4), ["....", "..#."]);
        assert_eq!(drawn(&Rule::Nearest.grid(Some(&[0.6, 0.6, 0.61, 0.61]), 2, 4, (16, 32)), 4), ["....", "...."]);
        assert!(Rule::Coverage.grid(None, 2, 4, (16, 32)).iter().all(|inside| !inside));
    }

    #[test]
    fn pixels_and_bounds_are_each_others_inverse() {
        for rect in [[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.125, 0.1]] {
            let mask = pixels(Some(&rect), 20, 16);
            assert_eq!(bounds(&mask, 16), Some(rect));
        }
        assert_eq!(pixels(Some(&[0.5, 0.5, 0.5001, 0.5001]), 4, 4).iter().filter(|value| **value > 0).count(), 1);
        assert_eq!(bounds(&[0; 12], 4), None);
    }

    #[test]
    fn levels_round_up() {
        assert_eq!(grids(10, 7, 4), [(10, 7), (5, 4), (3, 2), (2, 1)]);
    }
}
