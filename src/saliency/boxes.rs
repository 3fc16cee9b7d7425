//! Boxes around the subject of masks.

use super::mask::{Mask, THRESHOLD};
use serde::Serialize;

/// A box: left, top, right and bottom in units of the frame's width and height; pixels up to the right and bottom edge belong
/// to it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Bounds(pub [f64; 4]);

/// The box around the largest connected part of a mask (neighbours touch at sides and corners); none of an empty one.
pub fn bounds(mask: &Mask) -> Option<Bounds> {
    let (width, height) = (mask.width, mask.height);
    let mut seen = vec![false; mask.data.len()];
    let mut best = (0, [0; 4]);
    let mut waiting = Vec::new();
    for start in 0..mask.data.len() {
        if seen[start] || mask.data[start] < THRESHOLD {
            continue;
        }
        seen[start] = true;
        waiting.push(start);
        let (mut count, mut part) = (0, [width, height, 0, 0]);
        while let Some(at) = waiting.pop() {
            let (x, y) = (at % width, at / width);
            count += 1;
            part = [part[0].min(x), part[1].min(y), part[2].max(x + 1), part[3].max(y + 1)];
            for y in y.saturating_sub(1)..(y + 2).min(height) {
                for x in x.saturating_sub(1)..(x + 2).min(width) {
                    let next = y * width + x;
                    if !seen[next] && mask.data[next] >= THRESHOLD {
                        seen[next] = true;
                        waiting.push(next);
                    }
                }
            }
        }
        if count > best.0 {
            best = (count, part);
        }
    }
    let unit = |i: usize| best.1[i] as f64 / if i.is_multiple_of(2) { width } else { height } as f64;
    (best.0 > 0).then(|| Bounds([0, 1, 2, 3].map(unit)))
}

/// Each box's edges as the median of those of three frames, its neighbours' and its own, where all three have one: a box that
/// jumps for one frame does not.
pub fn smoothed(boxes: &[Option<Bounds>]) -> Vec<Option<Bounds>> {
    let median = |i: usize, edge: usize| {
        let mut edges =
            [boxes[i - 1], boxes[i], boxes[i + 1]].map(|bounds| bounds.map_or(0.0, |bounds| bounds.0[edge]));
        edges.sort_by(f64::total_cmp);
        edges[1]
    };
    let smooth = |i: usize| {
        let inner = i > 0 && i + 1 < boxes.len() && boxes[i - 1..=i + 1].iter().all(Option::is_some);
        if inner { Some(Bounds([0, 1, 2, 3].map(|edge| median(i, edge)))) } else { boxes[i] }
    };
    (0..boxes.len()).map(smooth).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rows: &[&str]) -> Mask {
        let data = rows.concat().bytes().map(|byte| if byte == b'#' { 255 } else { 40 }).collect();
        Mask { width: rows[0].len(), height: rows.len(), data }
    }

    #[test]
    fn the_largest_part_has_the_box() {
        let seen = mask(&["##......", "##...#..", "....#...", "...###.."]);
        assert_eq!(bounds(&seen), Some(Bounds([3.0 / 8.0, 0.25, 6.0 / 8.0, 1.0])));
        assert_eq!(bounds(&mask(&["...", "..."])), None);
        assert_eq!(bounds(&mask(&["#"])), Some(Bounds([0.0, 0.0, 1.0, 1.0])));
        assert_eq!(seen.coverage(), 9.0 / 32.0);
    }

    #[test]
    fn a_box_that_jumps_for_one_frame_stays() {
        let at = |x: f64| Some(Bounds([x, 0.0, x + 0.1, 1.0]));
        let boxes = [at(0.1), at(0.8), at(0.2), None, at(0.4), at(0.9)];
        let smooth = smoothed(&boxes);
        assert_eq!(smooth[1].map(|bounds| bounds.0[0]), Some(0.2));
        assert_eq!([smooth[0], smooth[2], smooth[3], smooth[5]], [boxes[0], boxes[2], None, boxes[5]]);
        assert!(smoothed(&[]).is_empty());
    }
}
