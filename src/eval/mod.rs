//! Metrics of finished videos.
//!
//! [`Evaluator`] computes all of them from the frames of one video, one at a time. Without a network: [`frames`] (flicker,
//! seams, PSNR, SSIM), [`motion`] (smoothness), [`scene_cuts`] and, along a flow, [`warping`]. With one that embeds frames: CSCV and the fit of texts, by [`clip`], or
//! by [`judge`], the small network that says what a Toyland video shows. Which frame belongs to which prompt, and where
//! windows meet, is read out of the record in the video ([`layout`]). [`toyland`] holds the world that the embedded model
//! knows: its words, and which combinations its training never saw.

pub mod clip;
mod evaluator;
pub mod faces;
pub mod frames;
pub mod fvd;
pub mod judge;
pub mod layout;
pub mod motion;
pub mod perceptual;
pub mod report;
mod resize;
pub mod scene_cuts;
pub mod toyland;
pub mod warping;

pub use evaluator::{Evaluator, Story, frame_by_frame};
