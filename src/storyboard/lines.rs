//! Plain text: one prompt per line, in order. Blank lines and lines that begin with `#` are left out.

use super::Storyboard;
use super::read::{MOST_SCENES, check_count, plain, prompt};
use anyhow::{Context, Result, ensure};

/// `name` is the file's, for messages.
pub(super) fn parse(name: &str, text: &str) -> Result<Storyboard> {
    let lines = text.split('\n').enumerate().map(|(index, line)| (index + 1, line.trim()));
    let lines: Vec<_> = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect();
    ensure!(!lines.is_empty(), "{name}: no prompt in it; write one prompt per line");
    check_count(lines.len()).with_context(|| format!("{name}:{}", lines[lines.len().min(MOST_SCENES + 1) - 1].0))?;
    let scene = |(number, line): (usize, &str)| prompt(line).map(plain).with_context(|| format!("{name}:{number}"));
    let scenes = lines.into_iter().map(scene).collect::<Result<_>>()?;
    Ok(Storyboard { scenes, settings: toml::Table::new() })
}
