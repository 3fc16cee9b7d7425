//! The program as a process: what users type and what they get.

#[path = "../common/mod.rs"]
mod common;

mod parity;
mod program;
