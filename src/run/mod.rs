//! What surrounds a run: events and progress, its record, exit codes; and its directory and journal, from which an
//! interrupted run is resumed.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "opens files")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "speaks to the user")]

mod clock;
pub mod config;
pub mod directory;
#[cfg(test)]
mod directory_tests;
mod event;
mod exit;
mod folders;
pub mod frames;
pub mod interrupt;
pub mod journal;
pub mod log;
pub mod manifest;
mod memory;
pub mod progress;
pub mod ratios;
pub mod speed;
mod stdout;
mod text;
pub mod time;

pub use clock::Clock;
pub use event::{Event, Fetched, Observer, Outline, Phase, Plan};
pub use exit::{Code, Failure, WithCode};
pub use folders::{Folders, at_home, free_disk, writable};
pub use manifest::Manifest;
pub use memory::{available_memory, human_bytes, peak_memory};
pub use speed::Speed;
pub use stdout::print;
pub use text::read_text;
