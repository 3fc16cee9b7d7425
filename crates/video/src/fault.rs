//! Kinds of errors, so that the command line can choose an exit code, ask, or exit quietly.

use std::fmt;

/// The kind of an error of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The settings or the path cannot work; found before anything is written.
    Usage,
    /// The output is there already and `overwrite` is off.
    Exists,
    /// The reader of standard output went away.
    BrokenPipe,
    /// The output's device is full.
    DiskFull,
    /// Encoding or writing failed for another reason.
    Failed,
    /// A given file cannot be read as video or exceeds the limits.
    Input,
}

/// An error of this crate: one line, and its kind.
#[derive(Debug)]
pub struct VideoError {
    pub fault: Fault,
    message: String,
}

impl fmt::Display for VideoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for VideoError {}

/// The kind of an error that came from this crate, through any context put around it.
pub fn fault(error: &anyhow::Error) -> Option<Fault> {
    error.downcast_ref::<VideoError>().map(|error| error.fault)
}

pub(super) fn error(fault: Fault, message: String) -> anyhow::Error {
    anyhow::Error::new(VideoError { fault, message })
}

pub(super) fn usage(message: String) -> anyhow::Error {
    error(Fault::Usage, message)
}

pub(super) fn failed(message: String) -> anyhow::Error {
    error(Fault::Failed, message)
}

pub(super) fn input(message: String) -> anyhow::Error {
    error(Fault::Input, message)
}

/// A write that failed, with the kind that follows from the system's answer.
pub(super) fn write_failed(what: &str, cause: &std::io::Error) -> anyhow::Error {
    use std::io::ErrorKind;
    match cause.kind() {
        ErrorKind::BrokenPipe => error(Fault::BrokenPipe, format!("{what}: the reader closed the pipe")),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            error(Fault::DiskFull, format!("cannot write {what}: no space left on the device"))
        }
        _ => failed(format!("cannot write {what}: {cause}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use std::io;

    #[test]
    fn the_kind_survives_context() {
        let result: anyhow::Result<()> = Err(usage("bad".into()));
        let error = result.context("while opening").context("in the end").unwrap_err();
        assert_eq!(fault(&error), Some(Fault::Usage));
        assert_eq!(fault(&anyhow::anyhow!("other")), None);
    }

    #[test]
    fn kinds_follow_the_system_error() {
        let kind = |kind: io::ErrorKind| fault(&write_failed("a.mp4", &kind.into()));
        assert_eq!(kind(io::ErrorKind::BrokenPipe), Some(Fault::BrokenPipe));
        assert_eq!(kind(io::ErrorKind::StorageFull), Some(Fault::DiskFull));
        assert_eq!(kind(io::ErrorKind::PermissionDenied), Some(Fault::Failed));
    }
}
