//! The program as a process: what users type and what they get.

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod ditctrl;
mod parity;
mod program;
