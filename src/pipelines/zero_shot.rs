//! Where the frames of an image model begin (Text2Video-Zero, arXiv 2303.13439; spec/text2video-zero.md 2): the first frame is
//! denoised alone for some steps, its latents are moved for every other frame, and noise takes all of them back to an earlier
//! step, from which the loop goes on with all frames.
//!
//! A given picture is the anchor where there is one (spec 10.1): its latents under one noise at every step are what the other
//! frames come from and attend to, and at the end the first frame is the picture as the autoencoder has it.
//!
//! Unlike the reference the first frame of the video is the anchor itself, the anchor takes no more steps alone than the
//! motion needs, and noise belongs to a frame, not to a chunk: so chunks change nothing.

use super::denoise::{Denoising, Input, Network, Reporting, Sampling, StepHook, StepInfo, denoise};
use super::state::{SamplerState, TimelineState};
use crate::job::{MotionPlan, Stage, Timeline};
use crate::run::{Code, Failure, Observer, interrupt};
use crate::timeline::{ChunkPlan, moved};
use anyhow::{Context, Result};
use candle_core::Tensor;
use std::ops::Range;

/// Keeps the last timeline's latents before a step, and stops where the user interrupts.
#[derive(Default)]
pub struct Before {
    step: usize,
    latents: Option<Tensor>,
}

impl StepHook for Before {
    fn step(&mut self, done: &StepInfo, _: &mut dyn Observer) -> Result<()> {
        if done.done == self.step {
            self.latents = (done.state)().timelines.pop().map(|timeline| timeline.latents);
        }
        if interrupt::asked() {
            return Err(Failure::message(Code::Interrupted, "interrupted: nothing unfinished was kept").into());
        }
        Ok(())
    }
}

/// The state from which the loop goes on with all frames of segment `index`, which are `frames` among all of the video.
/// `anchor`: what the timeline of [`anchor`] consists of.
pub fn begin(
    plan: &MotionPlan,
    (index, frames): (usize, Range<usize>),
    (network, sampling): (Network, Sampling),
    anchor: Input,
    uncond: &Tensor,
    observer: &mut dyn Observer,
) -> Result<SamplerState> {
    let (device, shape, noise) = (network.device, sampling.shape, sampling.noise);
    let initial = noise.anchor(index, frames.start, shape, device)?;
    let (first, moving) = match &anchor.known {
        // a given picture is under this noise at every step, whatever the network says of it
        Some(known) => {
            let at = |step: usize| anchor.scheduler.noised(step, &known.latents, &initial);
            (at(plan.first)?, at(plan.moved)?)
        }
        None => alone(plan, initial, (network, sampling), anchor, uncond, observer)?,
    };
    let mut all = vec![first];
    for frame in 1..frames.len() {
        let own = noise.frame(frames.start + frame, shape, device)?;
        all.push(away(plan, frame, &moving, &own)?);
    }
    let latents = Tensor::cat(&all, 0)?;
    Ok(SamplerState {
        done: plan.first,
        timelines: vec![TimelineState { latents, scheduler: None, free: None }],
        kept: Vec::new(),
    })
}

/// The anchor's latents before the step that all frames take first, and before the one at which they are moved, from its noise.
fn alone(
    plan: &MotionPlan,
    noise: Tensor,
    (network, sampling): (Network, Sampling),
    anchor: Input,
    uncond: &Tensor,
    observer: &mut dyn Observer,
) -> Result<(Tensor, Tensor)> {
    let latents = (noise * anchor.scheduler.init_noise_sigma())?;
    let mut before = Before { step: plan.first, latents: (plan.first == 0).then(|| latents.clone()) };
    let moving = denoise(
        Denoising {
            network,
            sampling: Sampling { first: 0, until: plan.moved, sharing: None, caching: None, ..sampling },
            timelines: vec![anchor],
            uncond,
            from: Some(SamplerState {
                done: 0,
                timelines: vec![TimelineState { latents, scheduler: None, free: None }],
                kept: Vec::new(),
            }),
            reporting: Reporting { hook: &mut before, part: 0, steps: (0, plan.moved), begins: true, after: 0.0 },
        },
        observer,
    )?
    .remove(0);
    let first = before.latents.context("the anchor has no latents at the first step of the motion")?;
    Ok((first, moving))
}

/// `sqrt(p) W(x) + sqrt(1 - p) noise`, W the motion of `frame`.
fn away(plan: &MotionPlan, frame: usize, anchor: &Tensor, noise: &Tensor) -> candle_core::Result<Tensor> {
    let moved = moved(anchor, plan.path.at(plan.motion, frame))?;
    (moved * plan.signal.sqrt())? + (noise * (1.0 - plan.signal).sqrt())?
}

/// The anchor alone, on the text of a segment's first frame.
pub fn anchor(stage: &Stage, index: usize) -> Timeline {
    let plan = &stage.segments[index].plan;
    let text = plan.windows.first().map_or(0, |window| window.text);
    Timeline::output(ChunkPlan { texts: vec![plan.texts[text]], ..ChunkPlan::single(1) })
}
