//! From a job to a file: the stages of the straight line, each of which loads what it needs and drops it before the next.
//!
//! Peak memory is that of the largest stage. All tensor work begins on one thread of rayon's pool; the video writer has its own
//! and gets `u8` frames only.

mod again;
mod calibrate;
mod checkpoint;
mod chunk_noise;
mod clip_noise;
mod control;
mod controls;
mod decode;
pub mod denoise;
#[cfg(test)]
mod denoise_tests;
mod draws;
mod encode;
mod extend;
mod fade;
mod feed;
mod footage;
mod frame_cache;
mod frames;
mod given;
mod known;
mod latents;
mod loaded;
mod map_pictures;
mod maps;
mod placed;
mod preview;
mod record;
mod refine;
mod rows;
#[cfg(test)]
mod schedule_tests;
mod segment;
mod smoothing;
mod state;
mod streaming;
mod text_to_video;
mod texts;
mod word_maps;
mod zero_shot;

pub use again::{decode_again, kept_latents};
pub use calibrate::{StepChange, fit, step_changes};
pub use checkpoint::differs;
pub use loaded::Loaded;
pub use maps::attention_maps;
pub use record::hashes;
pub use text_to_video::{Outcome, run};
