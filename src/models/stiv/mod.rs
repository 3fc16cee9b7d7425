//! STIV (arXiv 2412.07730): one transformer for videos of a text, of a text and a picture, and of several given frames, whose
//! attention is within a frame, in time, and on the text, one after the other. No weights of its authors are published; folders of
//! this layout hold weights that others trained.

mod architecture;
mod blocks;
pub mod config;
mod positions;
pub mod transformer;

pub use architecture::FAMILY;
pub use config::StivConfig;
pub use transformer::Transformer;
