//! Which form a file of boxes has, by what is in it.

use crate::{Boxes, json, text};
use anyhow::{Context, Result};

/// The boxes of a file's text for a clip of so many frames.
///
/// JSON: our own (`subjects`), MotionBooth's (`bbox`), Peekaboo's (`bboxes`, also as the one record of a list), DreamVideo-Omni's
/// (`frames_info`), and what `boxes --json` and `mask --json` print (`boxes`). Text: FreeTraj's five numbers a line. Errors say the
/// line or the key, and what is wrong there.
pub fn read(content: &str, frames: usize) -> Result<Boxes> {
    let start = content.trim_start_matches('\u{feff}').trim_start();
    if start.starts_with(['{', '[']) {
        let value = serde_json::from_str(start).context("no valid JSON")?;
        return json::read(&value, frames);
    }
    text::read(start, frames)
}
