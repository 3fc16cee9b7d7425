//! vidgen: long, controlled video generation from the command line.
//!
//! Weights in the diffusers folder layout go in, a video file comes out. The crate is one straight line, and each
//! room of it is one step of that line:
//!
//! ```text
//! storyboard file -> Storyboard -> Job (resolved, validated once)
//!  -> TextEncoder: Conditioning per prompt            (load, use, drop; cached on disk)
//!  -> latent timeline filled by noise, ChunkPlan over it
//!  -> for each step:  for each Pass of the plan: windows -> Denoiser(input, Hooks) -> guidance -> Blend.accumulate
//!                     Scheduler.step on the whole timeline
//!  -> Autoencoder.decode, chunk by chunk, caches carried -> bounded channel -> FrameSink thread -> MP4 + manifest
//! ```
//!
//! The denoising loop is written once, in [`pipelines::denoise`]. A mode (one prompt, several prompts, ...) is a small
//! file beside it that builds a plan and a stack of attention processors for that loop.
//!
//! # Rooms
//!
//! | room | what it holds |
//! |---|---|
//! | [`cli`] | clap types, one file per command: what was typed |
//! | [`job`] | what it means; bad input dies here, before any weight is loaded |
//! | [`recipe`] | the files of `configs/`: defaults of a method on an architecture, and which one a model has |
//! | [`storyboard`] | scenes in order, and the readers that make them |
//! | [`weights`] | where weights come from, their names, their dtype; the only room that opens weight files |
//! | [`noise`] | seeded noise by (seed, stream, absolute latent frame, step); nothing else draws random numbers |
//! | [`guidance`] | classifier-free guidance and its schedules |
//! | [`nn`] | what candle lacks or does slowly, a plain version beside each fast one |
//! | [`attention`] | the seam between models and controls: processors, hooks, sites, branches |
//! | [`processors`] | one control per file |
//! | [`text`] | tokenizers and text encoders |
//! | [`models`] | the networks |
//! | [`schedulers`] | noise schedules and samplers |
//! | [`timeline`] | the long latent video, its windows, their blending |
//! | [`pipelines`] | the loop, and the modes that feed it |
//! | [`video`] | frames in, files out |
//! | [`run`] | manifest, progress, events |
//! | [`disk`] | files that are whole or not there |
//! | [`words`] | values read from words, wherever they are written |
//! | [`eval`] | metrics |
//!
//! Dependencies point one way: `cli -> job -> pipelines -> {text, models, schedulers, timeline, processors, video, run}`
//! and `models, processors -> attention -> nn -> candle`. Models and processors never see each other. A test reads the
//! `use` lines and holds this.
//!
//! # Dimension letters
//!
//! | letter | is |
//! |---|---|
//! | B | rows of a batch: branches that go through a network together |
//! | N | attention heads |
//! | L | tokens of a sequence (text and video), or of a text |
//! | D | width of a head, or of a token |
//! | F | frames (latent frames where latents are meant) |
//! | T | frames inside the autoencoder's feature maps |
//! | C | channels |
//! | H, W | height, width |

#![cfg_attr(test, allow(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod attention;
pub mod cli;
pub mod eval;
pub mod guidance;
pub mod job;
pub mod models;
pub mod noise;
pub mod pipelines;
pub mod processors;
pub mod recipe;
pub mod run;
pub mod schedulers;
pub mod storyboard;
pub mod text;
pub mod timeline;
pub mod weights;

pub use vidgen_base::{disk, words};
pub use {vidgen_nn as nn, vidgen_video as video};
