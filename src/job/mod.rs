//! From what was asked for to what it means.

pub mod settings;
pub mod values;
