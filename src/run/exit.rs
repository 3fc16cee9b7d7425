//! How a run ends: exit codes, and the one line that says why.
//!
//! Inside the crate errors are `candle_core::Error` or `anyhow::Error`. Where their kind decides the exit code, the place
//! that knows the kind says so with [`WithCode::code`]; the code then travels along, also through `anyhow`, and `main`
//! turns it into the exit status. Errors without a code are [`Code::Failed`].

use std::fmt;

/// Exit status of the program. Success is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// Failed while running.
    Failed = 1,
    /// Bad usage: a flag, a prompt file, a script, a size, a device, an output path.
    Usage = 2,
    /// Model missing or damaged.
    Model = 3,
    /// Out of memory, or the estimate does not fit.
    Memory = 4,
    /// Not-a-number or an all-black result.
    Numbers = 5,
    /// The video encoder failed; latents were kept.
    Encoder = 6,
    /// A check that was asked for did not hold.
    Check = 7,
    /// Interrupted by the user.
    Interrupted = 130,
}

/// An error with the exit code it leads to.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    source: anyhow::Error,
}

impl Failure {
    pub fn new(code: Code, source: impl Into<anyhow::Error>) -> Self {
        Self { code, source: source.into() }
    }

    /// A failure that is only a message.
    pub fn message(code: Code, message: impl fmt::Display) -> Self {
        Self { code, source: anyhow::anyhow!("{message}") }
    }

    /// The first reason of a type.
    pub fn find<E: std::error::Error + Send + Sync + 'static>(&self) -> Option<&E> {
        self.source.chain().find_map(|reason| reason.downcast_ref())
    }

    /// The whole chain of reasons on one line: what, where, what to do.
    pub fn line(&self) -> String {
        let mut line = String::new();
        for reason in self.source.chain() {
            let reason = one_line(&reason.to_string());
            // outer errors of other crates often repeat what the inner ones say
            if reason.is_empty() || line.contains(&reason) {
                continue;
            }
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&reason);
        }
        line
    }
}

/// Folds a message into one line without control characters, dropping the backtrace that candle appends.
fn one_line(message: &str) -> String {
    let lines = message.lines().map(str::trim).take_while(|line| !line.starts_with("0: "));
    let text = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.chain().nth(1)
    }
}

impl From<anyhow::Error> for Failure {
    /// Keeps the code of a failure that was wrapped in `anyhow` on the way; candle's out-of-memory errors become
    /// [`Code::Memory`].
    fn from(source: anyhow::Error) -> Self {
        let marked = source.chain().find_map(|reason| reason.downcast_ref::<Self>()).map(|failure| failure.code);
        let memory = || {
            let mut reasons = source.chain().filter(|reason| reason.is::<candle_core::Error>());
            reasons.any(|reason| reason.to_string().to_ascii_lowercase().replace('_', " ").contains("out of memory"))
        };
        let code = marked.unwrap_or_else(|| if memory() { Code::Memory } else { Code::Failed });
        Self { code, source }
    }
}

impl From<candle_core::Error> for Failure {
    fn from(source: candle_core::Error) -> Self {
        anyhow::Error::from(source).into()
    }
}

impl From<std::io::Error> for Failure {
    fn from(source: std::io::Error) -> Self {
        anyhow::Error::from(source).into()
    }
}

/// Marks an error with the exit code it leads to.
pub trait WithCode<T> {
    /// `code` unless the error already carries one.
    fn code(self, code: Code) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> WithCode<T> for Result<T, E> {
    fn code(self, code: Code) -> Result<T, Failure> {
        self.map_err(|error| {
            let failure = Failure::from(error.into());
            Failure { code: if failure.code == Code::Failed { code } else { failure.code }, ..failure }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_code_survives_anyhow() {
        let inner: Result<(), Failure> = Err(Failure::message(Code::Numbers, "step 3: the latents hold NaN"));
        let outer = inner.context("denoising").context("scene 2").unwrap_err();
        let failure = Failure::from(outer);
        assert_eq!(failure.code, Code::Numbers);
        assert_eq!(failure.line(), "scene 2: denoising: step 3: the latents hold NaN");
        let again: Result<(), Failure> = Err(anyhow::Error::from(failure)).code(Code::Model);
        assert_eq!(again.unwrap_err().code, Code::Numbers);
    }

    #[test]
    fn unmarked_errors_fail_and_marks_apply() {
        assert_eq!(Failure::from(anyhow::anyhow!("x")).code, Code::Failed);
        let marked: Result<(), Failure> = Err(anyhow::anyhow!("no such folder")).code(Code::Model);
        assert_eq!(marked.unwrap_err().code, Code::Model);
        let full = candle_core::Error::Msg("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"\")".into());
        assert_eq!(Failure::from(anyhow::Error::from(full).context("layer 3")).code, Code::Memory);
    }

    #[test]
    fn messages_are_one_line() {
        let failure = Failure::message(Code::Failed, "shape mismatch\n  in \u{1b}[31mmatmul\n   0: candle\n   1: main");
        assert_eq!(failure.line(), "shape mismatch; in \u{fffd}[31mmatmul");
        let repeated = anyhow::anyhow!("file not found").context("opening x: file not found");
        assert_eq!(Failure::from(repeated).line(), "opening x: file not found");
    }
}
