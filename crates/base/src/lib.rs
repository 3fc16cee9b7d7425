//! What every part of vidgen stands on.

pub mod disk;
pub mod words;
