//! Metrics of finished videos.
//!
//! [`toyland`] holds the world that the embedded model knows: its words, and which combinations its training never saw.
//! [`judge`] is the small network that says what a Toyland video shows.

pub mod judge;
pub mod toyland;
