//! Stands in for FFmpeg in builds without it: every call is an error that says so.

use super::fault::{input, usage};
use super::partial::shown;
use super::source::{FrameSource, Limits};
use super::{FrameSink, Output, OutputCheck};
use anyhow::Result;
use std::path::Path;

pub(super) fn check(output: &Output) -> Result<OutputCheck> {
    Err(closed(output))
}

pub(super) fn open(output: &Output) -> Result<Box<dyn FrameSink + Send>> {
    Err(closed(output))
}

pub(super) fn read(path: &Path, _: &Limits) -> Result<Box<dyn FrameSource>> {
    Err(unreadable(path))
}

pub(super) fn metadata(path: &Path) -> Result<Option<String>> {
    Err(unreadable(path))
}

pub(super) fn library() -> Option<String> {
    None
}

pub(super) fn available() -> Vec<&'static str> {
    Vec::new()
}

fn closed(output: &Output) -> anyhow::Error {
    usage(format!(
        "{}: this build has no FFmpeg (cargo feature video) and cannot write {}: use .gif, .y4m, or NAME/ for PNGs",
        shown(output),
        output.format
    ))
}

fn unreadable(path: &Path) -> anyhow::Error {
    input(format!(
        "cannot read {}: this build has no FFmpeg (cargo feature video); it reads GIF, y4m, PNG, JPEG and directories of \
         PNGs",
        path.display()
    ))
}
