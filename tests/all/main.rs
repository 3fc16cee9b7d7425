//! The integration tests, one program: the whole crate is linked once.

mod cli;
mod common;
mod fuzzing;
mod house;
mod memory;
mod parity;
