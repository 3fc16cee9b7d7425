//! Boxes between two, and along a line.

use crate::{Boxes, Rect, finished, mix, mixed, share};
use anyhow::{Context, Result, ensure};

/// A box that was typed: `x0,y0,x1,y1`, in units of the frame's sides.
pub fn rect(typed: &str) -> Result<Rect> {
    let numbers = numbers(typed)?;
    let made: Rect = numbers.as_slice().try_into().ok().with_context(|| {
        format!(
            "{typed:?} has {} numbers; a box has four, as 0.1,0.2,0.4,0.6 (left, top, right, bottom)",
            numbers.len()
        )
    })?;
    checked(made).with_context(|| format!("{typed:?}"))
}

/// Points that were typed: `x,y;x,y;..`, in units of the frame's sides.
pub fn point_list(typed: &str) -> Result<Vec<[f64; 2]>> {
    let point = |part: &str| -> Result<[f64; 2]> {
        let numbers = numbers(part)?;
        numbers.as_slice().try_into().ok().with_context(|| {
            format!("{part:?} has {} numbers; a point has two: a line is written as 0.2,0.5;0.8,0.5", numbers.len())
        })
    };
    typed.split(';').map(str::trim).filter(|part| !part.is_empty()).map(point).collect::<Result<Vec<_>>>().and_then(
        |points| {
            ensure!(!points.is_empty(), "no points; a line is written as 0.2,0.5;0.8,0.5");
            Ok(points)
        },
    )
}

fn numbers(typed: &str) -> Result<Vec<f64>> {
    let number = |word: &str| {
        let value: f64 = word.trim().parse().with_context(|| format!("{:?} is no number", word.trim()))?;
        ensure!(value.is_finite(), "{:?} is no finite number", word.trim());
        Ok(value)
    };
    typed.split(',').map(number).collect()
}

/// A box with its edges in order.
pub(crate) fn checked(rect: Rect) -> Result<Rect> {
    ensure!(rect.iter().all(|edge| edge.is_finite()), "a coordinate is not finite");
    ensure!(rect[2] >= rect[0], "the right edge {} lies left of the left one, {}", rect[2], rect[0]);
    ensure!(rect[3] >= rect[1], "the lower edge {} lies above the upper one, {}", rect[3], rect[1]);
    Ok(rect)
}

/// From a first box to a last one, all edges at an even speed.
pub fn between(first: &Rect, last: &Rect, frames: usize) -> Result<Boxes> {
    finished((0..frames).map(|i| Some(mixed(first, last, share(i, frames)))).collect())
}

/// A box of one size whose centre moves along a line at an even speed; the line is moved to begin at its centre.
pub fn along(first: &Rect, points: &[[f64; 2]], frames: usize) -> Result<Boxes> {
    ensure!(!points.is_empty(), "a line without points");
    let mut lengths = vec![0.0];
    for pair in points.windows(2) {
        let step = (pair[1][0] - pair[0][0]).hypot(pair[1][1] - pair[0][1]);
        lengths.push(lengths[lengths.len() - 1] + step);
    }
    let total = lengths[lengths.len() - 1];
    let keyed: Vec<(f64, [f64; 2])> = lengths.iter().copied().zip(points.iter().copied()).collect();
    finished((0..frames).map(|i| Some(moved(first, &keyed, share(i, frames) * total))).collect())
}

/// The first box, moved by as much as the line at `at` is from its beginning. `keyed` has rising places and their points.
pub(crate) fn moved(first: &Rect, keyed: &[(f64, [f64; 2])], at: f64) -> Rect {
    let next = keyed.iter().position(|(place, _)| *place >= at).unwrap_or(keyed.len() - 1);
    let (b, to) = keyed[next];
    let (a, from) = keyed[next.saturating_sub(1)];
    let w = if b > a { ((at - a) / (b - a)).clamp(0.0, 1.0) } else { 1.0 };
    let shift = [0, 1].map(|axis| mix(from[axis], to[axis], w) - keyed[0].1[axis]);
    [first[0] + shift[0], first[1] + shift[1], first[2] + shift[0], first[3] + shift[1]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(made: &Boxes, index: usize, wanted: Rect) {
        let rect = made[index].unwrap();
        assert!(rect.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{rect:?} is not {wanted:?}");
    }

    #[test]
    fn the_ends_are_exact_and_the_middle_is_half_way() {
        let (first, last) = ([0.1, 0.2, 0.3, 0.4], [0.5, 0.2, 0.9, 0.8]);
        let made = between(&first, &last, 5).unwrap();
        assert_eq!((made[0], made[4]), (Some(first), Some(last)));
        near(&made, 2, [0.3, 0.2, 0.6, 0.6]);
        assert_eq!(between(&first, &last, 1).unwrap(), [Some(first)]);
    }

    #[test]
    fn a_line_is_followed_at_an_even_speed_wherever_it_begins() {
        let first = [0.1, 0.1, 0.3, 0.3];
        // an L of 0.4 down and 0.2 to the right
        for begin in [[0.2, 0.2], [0.0, 0.0]] {
            let at = |x: f64, y: f64| [begin[0] + x, begin[1] + y];
            let made = along(&first, &[at(0.0, 0.0), at(0.0, 0.4), at(0.2, 0.4)], 7).unwrap();
            near(&made, 0, first);
            near(&made, 2, [0.1, 0.3, 0.3, 0.5]);
            near(&made, 4, [0.1, 0.5, 0.3, 0.7]);
            near(&made, 6, [0.3, 0.5, 0.5, 0.7]);
        }
        near(&along(&first, &[[0.5, 0.5]], 3).unwrap(), 2, first);
    }

    #[test]
    fn what_is_typed_wrongly_is_said() {
        assert_eq!(rect("0.1, 0.2,0.4,1.5").unwrap(), [0.1, 0.2, 0.4, 1.5]);
        for (typed, told) in [
            ("1,2,3", "3 numbers"),
            ("a,0,1,1", "\"a\" is no number"),
            ("0.5,0,0.1,1", "left of"),
            ("0,nan,1,1", "finite"),
        ] {
            let error = format!("{:#}", rect(typed).unwrap_err());
            assert!(error.contains(told), "{error}");
        }
        assert_eq!(point_list("0.1,0.2; 0.3,0.4;").unwrap(), [[0.1, 0.2], [0.3, 0.4]]);
        assert!(point_list("").is_err() && point_list("0.1").is_err());
    }
}
