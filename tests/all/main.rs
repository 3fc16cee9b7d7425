//! The integration tests, one program: the whole crate is linked once.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

mod cli;
mod common;
mod fuzzing;
mod house;
mod memory;
mod parity;
