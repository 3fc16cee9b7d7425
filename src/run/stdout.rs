//! Results on standard output.

use super::exit::Failure;
use std::io::{ErrorKind, Write, stdout};

/// Prints a result. A reader that has gone away (`vidgen inspect a.mp4 | head -1`) has what it wanted.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(anyhow::Error::from(error).context("cannot write to standard output").into())
        }
        _ => Ok(()),
    }
}
