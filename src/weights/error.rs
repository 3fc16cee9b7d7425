//! The one error type of this module, so that a caller can tell a missing or damaged model from any other failure.

use std::fmt;

/// A model that is missing, damaged or not of a supported kind. One line: what, where, what to do.
///
/// Every error of this module is one, found by `error.downcast_ref::<ModelError>()` or in the chain of an `anyhow::Error`;
/// the command line ends with exit code 3 for it. Errors of a `VarBuilder` are candle errors of the same text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelError(String);

impl ModelError {
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// Names the place before the message.
    pub(super) fn within(self, place: &str) -> Self {
        Self(format!("{place}: {}", self.0))
    }
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ModelError {}

pub(super) type Result<T> = std::result::Result<T, ModelError>;

/// Returns early with a [`ModelError`] of a formatted message.
macro_rules! refuse {
    ($($message:tt)*) => {
        return Err($crate::weights::ModelError::new(format!($($message)*)))
    };
}
pub(super) use refuse;
