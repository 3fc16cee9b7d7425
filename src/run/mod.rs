//! Telling the user.

mod clock;
mod event;
mod exit;
mod memory;

pub use clock::Clock;
pub use event::{Event, Observer, Phase, Plan};
pub use exit::{Code, Failure, WithCode};
pub use memory::peak_memory;
