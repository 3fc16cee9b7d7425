//! Small text files written by this program, read within bounds.

use anyhow::{Context, Result, anyhow, bail};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// The text of a file of at most `most` bytes; `what` it should be, for messages.
pub fn read_text(path: &Path, most: u64, what: &str) -> Result<String> {
    let shown = || path.display().to_string();
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow!("no such file"),
        _ => anyhow!("cannot be read: {error}"),
    });
    file.with_context(shown)?.take(most.saturating_add(1)).read_to_end(&mut bytes).with_context(shown)?;
    if bytes.len() as u64 > most {
        bail!("{}: longer than {most} bytes: this is no {what}", path.display())
    }
    String::from_utf8(bytes).ok().with_context(|| format!("{}: not UTF-8, so no {what}", path.display()))
}
