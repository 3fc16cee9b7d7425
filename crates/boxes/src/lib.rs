//! Where a subject is in each frame of a clip, as boxes: read from files of every public form, moved along a path, and drawn as masks
//! on pixels and on a network's grids. Nothing here knows a network or opens a file.
//!
//! A box has x0, y0, x1, y1 in units of the frame's width and height, between 0 and 1; a frame without one has `None`.

mod form;
mod json;
mod masks;
mod path;
mod preset;
mod text;

pub use form::read;
pub use masks::{Rule, bounds, extent, grids, pixels, span};
pub use path::{along, between, point_list, rect};
pub use preset::{PRESETS, preset};

use anyhow::{Result, bail, ensure};

/// Left, top, right and bottom.
pub type Rect = [f64; 4];
/// Of every frame.
pub type Boxes = Vec<Option<Rect>>;

/// The most frames boxes are made for.
pub const MOST_FRAMES: usize = 100_000;

/// How far frame `index` of `frames` is along the clip, from 0 to 1.
fn share(index: usize, frames: usize) -> f64 {
    if frames > 1 { index as f64 / (frames - 1) as f64 } else { 0.0 }
}

/// `a` at 0 and `b` at 1, both exactly.
fn mix(a: f64, b: f64, w: f64) -> f64 {
    a * (1.0 - w) + b * w
}

fn mixed(a: &Rect, b: &Rect, w: f64) -> Rect {
    [0, 1, 2, 3].map(|i| mix(a[i], b[i], w))
}

/// The box inside the frame; none where nothing of it is.
pub fn clipped(rect: &Rect) -> Option<Rect> {
    let inside = rect.map(|edge| edge.clamp(0.0, 1.0));
    (inside[2] > inside[0] && inside[3] > inside[1]).then_some(inside)
}

/// The last step of every form: boxes inside the frame. Errors: no frame has one.
fn finished(boxes: Boxes) -> Result<Boxes> {
    let boxes: Boxes = boxes.iter().map(|rect| rect.as_ref().and_then(clipped)).collect();
    ensure!(boxes.iter().any(Option::is_some), "no frame has a box inside the picture");
    Ok(boxes)
}

/// One box for every frame of a list that may be shorter or longer: the last one goes on.
pub fn held(list: &[Option<Rect>], frames: usize) -> Result<Boxes> {
    let Some(last) = list.last() else { bail!("no boxes in it") };
    finished((0..frames).map(|i| *list.get(i).unwrap_or(last)).collect())
}

/// What makes a clip likely to fail, for the user to know.
pub fn warnings(boxes: &[Option<Rect>]) -> Vec<String> {
    let mut found = Vec::new();
    let centre = |rect: &Rect| ((rect[0] + rect[2]) / 2.0, (rect[1] + rect[3]) / 2.0);
    let fast = boxes.windows(2).position(|pair| match (&pair[0], &pair[1]) {
        (Some(a), Some(b)) => {
            let ((x0, y0), (x1, y1)) = (centre(a), centre(b));
            (x1 - x0).hypot(y1 - y0) > a[2] - a[0]
        }
        _ => false,
    });
    if let Some(index) = fast {
        found.push(format!(
            "from frame {index} to {} the box moves by more than its width: the subject may not follow",
            index + 1
        ));
    }
    let area = |rect: &Rect| (rect[2] - rect[0]) * (rect[3] - rect[1]);
    let of = |wanted: &dyn Fn(f64) -> bool| {
        boxes.iter().position(|rect| rect.as_ref().is_some_and(|rect| wanted(area(rect))))
    };
    if let Some(index) = of(&|area| area > 0.8) {
        found.push(format!("the box of frame {index} covers more than 80 % of the picture"));
    }
    if let Some(index) = of(&|area| area < 0.03) {
        found.push(format!("the box of frame {index} covers less than 3 % of the picture"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_end_inside_the_picture() {
        assert_eq!(clipped(&[-0.5, 0.25, 0.5, 2.0]), Some([0.0, 0.25, 0.5, 1.0]));
        assert_eq!(clipped(&[1.0, 0.0, 1.5, 1.0]), None);
        assert_eq!(held(&[Some([0.0, 0.0, 0.5, 0.5]), None], 3).unwrap(), [Some([0.0, 0.0, 0.5, 0.5]), None, None]);
        assert!(held(&[None], 2).unwrap_err().to_string().contains("no frame has a box"));
        assert!(held(&[], 2).is_err());
    }

    #[test]
    fn what_is_likely_to_fail_is_said() {
        let still = [Some([0.1, 0.1, 0.4, 0.4]), None, Some([0.6, 0.6, 0.9, 0.9])];
        assert!(warnings(&still).is_empty());
        let told = warnings(&[Some([0.0, 0.0, 0.1, 0.2]), Some([0.5, 0.0, 0.6, 0.2]), Some([0.0, 0.0, 1.0, 0.9])]);
        assert!(
            told[0].contains("frame 0 to 1") && told[1].contains("frame 2") && told[2].contains("frame 0"),
            "{told:?}"
        );
    }
}
