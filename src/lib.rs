//! vidgen: long, controlled video generation from the command line.
//!
//! Weights in the diffusers folder layout go in, a video file comes out. The crate is one straight line:
//!
//! ```text
//! storyboard file -> Storyboard -> Job (resolved, validated once)
//!  for each stage of the job (a network with its plan, sampler and input; mostly one):
//!  -> TextEncoder: embeddings of each prompt              (loaded, used, dropped; cached on disk)
//!  -> latent timeline filled by noise, ChunkPlan over it
//!  -> for each step:  for each Pass of the plan: windows -> Denoiser(rows, Hooks) -> guidance Rule -> Blend
//!                     Scheduler.step on the whole timeline
//!  -> Autoencoder.decode, chunk by chunk, caches carried -> bounded channel -> FrameSink thread -> MP4 + record
//! ```
//!
//! The denoising loop is written once, in [`pipelines::denoise`]. A mode (one prompt, several prompts, ...) is a small
//! file beside it that builds a plan and a stack of attention processors for that loop. `docs/architecture.md` is the same
//! map with the reasons.
//!
//! # Modules
//!
//! | module | holds |
//! |---|---|
//! | [`cli`] | clap types, one file per command: what was typed |
//! | [`job`] | what it means; bad input is refused here, before any weight is loaded |
//! | [`batch`] | files of many jobs: read, checked, shared out |
//! | [`estimate`] | what a job is going to take: arithmetic, time, and what computes |
//! | [`recipe`] | the files of `configs/`: defaults of a method on an architecture, and which one a model has |
//! | [`storyboard`] | scenes in order, and the readers that make them |
//! | [`weights`] | where weights come from, their names, their dtype; the only module that opens weight files |
//! | [`noise`] | seeded noise by (seed, stream, absolute latent frame, step); nothing else draws random numbers |
//! | [`guidance`] | which evaluations of the network a step needs, and how their outputs become one prediction |
//! | [`attention`] | the seam between models and controls: processors, hooks, sites, branches |
//! | [`processors`] | attention controls, one per file |
//! | [`text`] | tokenizers and text encoders |
//! | [`models`] | the networks |
//! | [`schedulers`] | noise schedules and samplers |
//! | [`timeline`] | the long latent video, its windows, their blending |
//! | [`pipelines`] | the loop, and the modes that feed it |
//! | [`run`] | run directory, journal, manifest, progress, exit codes |
//! | [`interpolation`] | frames between frames, by a network |
//! | [`saliency`] | what stands out in a frame: masks and boxes of a subject |
//! | [`eval`] | metrics |
//!
//! Crates of their own, which know nothing of the program: [`nn`] (operations that candle lacks or does slowly, a plain version
//! beside each fast one), [`video`] (frames in, files out, and back), [`boxes`] (where a subject is in each frame), and the base of all, [`disk`] (files that are whole or not
//! there) and [`words`](mod@words) (values read from words, wherever they are written).
//!
//! Dependencies point one way: `cli -> {batch, pipelines} -> estimate -> job -> {recipe, storyboard, run} -> {models, processors, text, weights,
//! schedulers, timeline, guidance} -> attention -> nn -> candle`. `job` says what a run is made of, stage after stage, and runs nothing; `pipelines`
//! runs jobs. Models and processors never see each other. The compiler holds this for the crates, `tests/all/house` for the
//! modules.
//!
//! # Dimension letters
//!
//! | letter | is |
//! |---|---|
//! | B | rows of a batch: branches that go through a network together |
//! | N | attention heads |
//! | L | tokens of a sequence (text and video), or of a text |
//! | D | width of a head, or of a token |
//! | F | frames; latent frames where the tensor holds latents |
//! | T | frames inside the autoencoder's feature maps |
//! | C | channels |
//! | H, W | height, width |

#![cfg_attr(test, allow(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod attention;
pub mod batch;
pub mod cli;
pub mod estimate;
pub mod eval;
pub mod guidance;
pub mod interpolation;
pub mod job;
pub mod models;
pub mod noise;
pub mod pipelines;
pub mod processors;
pub mod recipe;
pub mod run;
pub mod saliency;
pub mod schedulers;
pub mod storyboard;
pub mod text;
pub mod timeline;
pub mod weights;

pub use vidgen_base::{disk, words};
pub use {vidgen_boxes as boxes, vidgen_nn as nn, vidgen_video as video};
