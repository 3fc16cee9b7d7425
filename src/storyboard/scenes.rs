//! What every reader makes scenes of, within the bounds that hold for all files.

use super::Scene;
use anyhow::{Result, bail, ensure};

/// Bytes of one prompt, and of one line of a file of prompts. Text encoders read a few hundred words.
pub(super) const MOST_PROMPT: usize = 16 << 10;
pub(super) const MOST_SCENES: usize = 10_000;

/// A prompt as it will be used: trimmed, on one line.
pub(super) fn prompt(text: &str) -> Result<String> {
    ensure!(
        text.len() <= MOST_PROMPT,
        "{} bytes are too long for a prompt: prompts go up to {MOST_PROMPT}",
        text.len()
    );
    let prompt = if text.contains(['\n', '\r']) {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    } else {
        text.trim().to_owned()
    };
    // marks of editors that nobody sees: a space of no width, and that of byte order where files were joined
    let prompt = prompt.trim_matches(|c: char| c.is_whitespace() || ['\u{200b}', '\u{2060}', '\u{feff}'].contains(&c));
    let prompt = prompt.to_owned();
    ensure!(!prompt.is_empty(), "an empty prompt: write what is to be seen");
    if let Some(control) = prompt.chars().find(|c| c.is_control() && *c != '\t') {
        bail!("control character U+{:04X} in a prompt: is this a text file?", u32::from(control))
    }
    Ok(prompt)
}

/// Refuses more scenes than a video may have.
pub(super) fn check_count(scenes: usize) -> Result<()> {
    ensure!(scenes <= MOST_SCENES, "{scenes} scenes are more than the {MOST_SCENES} that a video may have");
    Ok(())
}

/// A scene that says nothing but its prompt.
pub(super) fn plain(prompt: String) -> Scene {
    Scene { prompt, ..Scene::default() }
}
