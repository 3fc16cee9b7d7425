//! Ctrl-C (and SIGTERM): unfinished files go, and the process ends at once.

use super::event::Event;
use super::exit::Code;
use anyhow::{Context, Result};
use std::io::Write;

/// From now on an interruption runs `cleanup` and ends the process with [`Code::Interrupted`]. To be called once. With
/// `json` the last line on standard error is an event.
pub fn install(json: bool, cleanup: impl Fn() + Send + 'static) -> Result<()> {
    let handler = move || {
        cleanup();
        let message = "interrupted: nothing unfinished was kept".to_owned();
        let code = Code::Interrupted as i32;
        let line = match json {
            true => Event::Error { code, message }.json().to_string(),
            false => format!("\n{message}"), // below the bar, or the terminal's ^C
        };
        // a closed standard error is no reason to go on
        let _ = writeln!(std::io::stderr(), "{line}");
        std::process::exit(code);
    };
    ctrlc::set_handler(handler).context("cannot listen for Ctrl-C")
}
