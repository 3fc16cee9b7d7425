//! What every other crate of vidgen builds on: whole files and words.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "opens files")]

pub mod disk;
pub mod words;
