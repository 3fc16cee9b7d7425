//! What every part of vidgen stands on.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "opens files")]

pub mod disk;
pub mod words;
