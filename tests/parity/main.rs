//! Equality with the reference implementations on the same random weights; goldens come from `tests/reference/`.

#[path = "../common/mod.rs"]
mod common;

mod attention;
mod clip;
mod judge;
mod schedulers;
mod text;
mod tiny;
mod transformer;
mod vae;
