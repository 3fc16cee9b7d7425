//! Paths of FreeTraj's examples, for frames of 16.

use crate::{Boxes, Rect, finished, mix};
use anyhow::Result;
use vidgen_base::words::unknown;

const SIDE: f64 = 0.3;

type Corners = &'static [(f64, f64, f64)];

/// Frame, and the box's left and top edge.
const PATHS: [(&str, Corners); 7] = [
    ("diagonal", &[(0.0, 0.0, 0.0), (15.0, 0.7, 0.7)]),
    ("anti-diagonal", &[(0.0, 0.7, 0.0), (15.0, 0.0, 0.7)]),
    ("l", &[(0.0, 0.1, 0.1), (6.0, 0.1, 0.6), (15.0, 0.6, 0.6)]),
    ("reverse-l", &[(0.0, 0.6, 0.6), (6.0, 0.6, 0.1), (15.0, 0.1, 0.1)]),
    ("v", &[(0.0, 0.0, 0.0), (7.0, 0.7 * 7.0 / 15.0, 0.7), (8.0, 0.7 * 8.0 / 15.0, 0.7), (15.0, 0.7, 0.0)]),
    ("there-and-back", &[(0.0, 0.1, 0.35), (7.0, 0.6, 0.35), (8.0, 0.6, 0.35), (15.0, 0.1, 0.35)]),
    ("triangle", &[(0.0, 0.35, 0.1), (5.0, 0.6, 0.6), (10.0, 0.1, 0.6), (15.0, 0.35, 0.1)]),
];

/// Their names.
pub const PRESETS: [&str; 7] = ["diagonal", "anti-diagonal", "l", "reverse-l", "v", "there-and-back", "triangle"];

/// The boxes of a preset, its times stretched to the clip's.
pub fn preset(name: &str, frames: usize) -> Result<Boxes> {
    let Some((_, corners)) = PATHS.iter().find(|(known, _)| *known == name) else {
        return Err(unknown("preset", name, &PRESETS));
    };
    let scale = frames.saturating_sub(1) as f64 / 15.0;
    let at = |index: usize| -> Rect {
        let here = index as f64;
        let next = corners.iter().position(|(frame, ..)| frame * scale >= here).unwrap_or(corners.len() - 1);
        let ((a, x0, y0), (b, x1, y1)) = (corners[next.saturating_sub(1)], corners[next]);
        let w = if b > a && scale > 0.0 { (here - a * scale) / ((b - a) * scale) } else { 0.0 };
        let (x, y) = (mix(x0, x1, w), mix(y0, y1, w));
        [x, y, x + SIDE, y + SIDE]
    };
    finished((0..frames).map(|index| Some(at(index))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_pass_through_their_corners() {
        let close = |rect: Option<Rect>, x: f64, y: f64| {
            let rect = rect.unwrap();
            (rect[0] - x).abs() < 1e-12 && (rect[1] - y).abs() < 1e-12
        };
        let l = preset("l", 16).unwrap();
        assert!(close(l[0], 0.1, 0.1) && close(l[6], 0.1, 0.6) && close(l[15], 0.6, 0.6), "{l:?}");
        let v = preset("v", 31).unwrap();
        assert!(close(v[14], 0.7 * 7.0 / 15.0, 0.7) && close(v[16], 0.7 * 8.0 / 15.0, 0.7) && close(v[30], 0.7, 0.0));
        assert_eq!(PATHS.map(|(name, _)| name), PRESETS);
        for name in PRESETS {
            assert_eq!(preset(name, 1).unwrap().len(), 1);
        }
        assert!(preset("diagnal", 16).unwrap_err().to_string().contains("did you mean diagonal"));
    }
}
