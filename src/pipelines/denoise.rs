//! The denoising loop, written once. Every mode is a plan of windows, the texts they are asked for and a stack of attention
//! processors for this loop.
//!
//! Each step asks the network about every window, guides, blends the overlapping estimates per latent frame and takes one
//! sampler step on the whole timeline. What is blended is the guided prediction: on one timeline that is the same as
//! blending estimates of the clean video, which DiTCtrl does (spec section 3), because the sampler's map from one to the
//! other is the same for all windows.

use super::rows::{self, Lines, RowPlan};
use crate::attention::{AttentionProcessor, Hooks, Pass};
use crate::guidance::{self, Rule};
use crate::job::Sharing;
use crate::models::{Denoiser, Row};
use crate::nn::sdpa::Sdpa;
use crate::noise::{Noise, Stream};
use crate::run::{Clock, Code, Event, Failure, Observer, Phase};
use crate::schedulers::{Scheduler, Table};
use crate::timeline::{Blend, BlendMode, ChunkPlan};
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use std::ops::Range;

/// Channels, height and width of the latents.
pub type LatentShape = (usize, usize, usize);

/// Where the noise of a run comes from.
#[derive(Debug, Clone)]
pub enum NoiseSource {
    Seeded(Noise),
    /// Given tensors: `initial` `[F, C, H, W]` and, for samplers that add noise, `steps` `[steps, F, C, H, W]`.
    Given {
        initial: Tensor,
        steps: Option<Tensor>,
    },
}

impl NoiseSource {
    /// Noise of the first step for some absolute latent frames, `[F, C, H, W]`.
    fn initial(&self, frames: Range<usize>, shape: LatentShape, device: &Device) -> Result<Tensor> {
        Ok(match self {
            Self::Seeded(noise) => noise.latents(Stream::Initial, frames, 0, shape, device)?,
            Self::Given { initial, .. } => initial.narrow(0, frames.start, frames.len())?.to_device(device)?,
        })
    }

    /// Noise that enters a step.
    fn step(&self, step: usize, frames: Range<usize>, shape: LatentShape, device: &Device) -> Result<Tensor> {
        match self {
            Self::Seeded(noise) => Ok(noise.latents(Stream::Step, frames, step as u64, shape, device)?),
            Self::Given { steps: Some(steps), .. } => {
                Ok(steps.get(step)?.narrow(0, frames.start, frames.len())?.to_device(device)?)
            }
            // noise from two sources would be neither run
            Self::Given { steps: None, .. } => {
                anyhow::bail!("this sampler adds noise at step {step}, and the given noise holds no step_noise")
            }
        }
    }
}

/// Frames of the timeline that are known, such as the end of a video that is continued. In every step the estimate of
/// them is what they are, so they are under the right noise in all windows that see them; and they come out bit for bit.
#[derive(Debug, Clone)]
pub struct Fixed {
    /// The first of them on the timeline.
    pub start: usize,
    /// `[F, C, H, W]` in f32, scaled, on the device of the run.
    pub latents: Tensor,
}

impl Fixed {
    /// The known frames of a tensor over the timeline.
    pub fn of(&self, timeline: &Tensor) -> Result<Tensor> {
        Ok(timeline.narrow(0, self.start, self.latents.dim(0)?)?)
    }

    /// Which frames of a stretch of the timeline are known, counted from its start.
    fn within(&self, stretch: Range<usize>) -> Vec<usize> {
        let known = self.start..self.start + self.latents.dims().first().copied().unwrap_or(0);
        stretch.clone().filter(|frame| known.contains(frame)).map(|frame| frame - stretch.start).collect()
    }

    /// Puts values in the place of the known frames, in `timeline` itself, which nobody else may hold.
    fn put(&self, timeline: &Tensor, values: &Tensor) -> Result<()> {
        Ok(timeline.slice_set(&values.contiguous()?, 0, self.start)?)
    }
}

/// A timeline between two steps.
#[derive(Debug, Clone)]
pub struct SamplerState {
    /// Steps that are done.
    pub done: usize,
    /// `[F, C, H, W]` in f32.
    pub timeline: Tensor,
    /// The state of the sampler, as [`Scheduler::state`] gives it.
    pub scheduler: Option<Tensor>,
}

/// What a hook sees after a step.
pub struct StepInfo<'a> {
    /// Which of the video's timelines it is.
    pub part: usize,
    /// Steps that are done.
    pub done: usize,
    pub steps: usize,
    pub timeline: &'a Tensor,
    pub scheduler: &'a dyn Scheduler,
    /// The estimate of the clean timeline at the step just done.
    pub estimate: &'a dyn Fn() -> candle_core::Result<Tensor>,
}

/// Called after each step of a timeline: to save it, or to show it.
pub trait StepHook {
    /// Called after each step. An error stops the run: that is how an interruption reaches the loop.
    fn step(&mut self, at: &StepInfo, observer: &mut dyn Observer) -> Result<()>;
}

/// Does nothing.
impl StepHook for () {
    fn step(&mut self, _: &StepInfo, _: &mut dyn Observer) -> Result<()> {
        Ok(())
    }
}

/// A video and its edited version, denoised together: the plan, its texts and the latents are those of both, one after the
/// other ([`ChunkPlan::twice`]). Both start from the same noise, and the same noise enters their steps.
pub struct Pair<'a> {
    /// Where the edited version reads keys and values of the other; the stack then has the control that does.
    pub reading: &'a Sharing,
    /// Steps in which the other version is needed.
    pub steps: usize,
}

impl Pair<'_> {
    fn at(&self, step: usize) -> Lines {
        Lines::Two { reading: self.reading.at(step).is_some(), source: step < self.steps }
    }
}

/// Everything the loop works with.
pub struct Denoising<'a> {
    pub denoiser: &'a dyn Denoiser,
    pub scheduler: &'a mut dyn Scheduler,
    pub plan: &'a ChunkPlan,
    /// One embedding `[L, D]` for each of the plan's texts.
    pub texts: &'a [Tensor],
    /// The embedding `[L, D]` of the halves that see no text.
    pub uncond: &'a Tensor,
    pub rule: &'a Rule,
    /// The program whose schedule is followed; dynamic guidance depends on it.
    pub table: Table,
    pub blend: BlendMode,
    pub noise: &'a NoiseSource,
    /// The timeline's first frame among all of the video, for noise that does not depend on how a video is cut.
    pub start: usize,
    /// Frames that are known already.
    pub fixed: Option<&'a Fixed>,
    /// Where to go on; none from the beginning.
    pub from: Option<SamplerState>,
    pub keeper: &'a mut dyn StepHook,
    pub shape: LatentShape,
    pub device: &'a Device,
    /// Where joined windows share keys and values; the stack then has the control that does.
    pub sharing: Option<&'a Sharing>,
    pub pair: Option<Pair<'a>>,
    pub stack: &'a mut [Box<dyn AttentionProcessor>],
    pub kernel: Sdpa,
    /// Rows that may share a batch.
    pub micro_batch: usize,
    /// Steps that are taken: all, but for those who only want to watch some.
    pub until: usize,
    /// Which of the video's timelines this is, of how many; for the progress that is told.
    pub part: (usize, usize),
    /// Whether it is the first one that is worked on.
    pub begins: bool,
    /// Work that follows the loop, in steps; for the remaining time that is told.
    pub after: f64,
}

/// Runs the steps; returns the denoised timeline `[F, C, H, W]` in f32.
pub fn denoise(run: Denoising, observer: &mut dyn Observer) -> Result<Tensor> {
    let Denoising { denoiser, scheduler, plan, texts, uncond, stack, keeper, .. } = run;
    let timesteps = scheduler.timesteps().to_vec();
    let lines = if run.pair.is_some() { 2 } else { 1 };
    let frames = run.start..run.start + plan.frames / lines;
    let of_all = |noise: Tensor| if lines == 1 { Ok(noise) } else { Tensor::cat(&vec![noise; lines], 0) };
    let (first, mut timeline) = match run.from {
        Some(SamplerState { done, timeline, scheduler: state }) => {
            scheduler.restore(state);
            (done, timeline)
        }
        None => {
            let noise = of_all(run.noise.initial(frames.clone(), run.shape, run.device)?)?;
            let timeline = (noise * scheduler.init_noise_sigma())?;
            if let Some(fixed) = run.fixed {
                fixed.put(&timeline, &scheduler.noised(0, &fixed.latents, &fixed.of(&timeline)?)?)?;
            }
            (0, timeline)
        }
    };
    let mut blend = Blend::lines(plan, run.blend, lines);
    let steps = run.until.min(timesteps.len());
    let mut clock = Clock::new(steps, first, run.part, run.after);
    if run.begins {
        let of = steps * run.part.1;
        let what = match run.part.0 * steps + first {
            0 => String::new(),
            done => format!("from step {}", done + 1),
        };
        observer.event(&Event::Phase { phase: Phase::Denoise, of, what })?;
    }
    for (step, &timestep) in timesteps.iter().enumerate().take(steps).skip(first) {
        let pass = Pass { step, steps: timesteps.len() };
        let at = guidance::Step { index: step, count: timesteps.len(), timestep, table: run.table };
        let halves = run.rule.halves(&at);
        let layers = run.sharing.and_then(|sharing| sharing.at(step));
        let lines = run.pair.as_ref().map_or(Lines::One, |pair| pair.at(step));
        let passes = rows::passes(plan, lines, halves, layers, |window| blend.estimates(window));
        for RowPlan { rows, forks, estimates } in passes {
            let inputs = rows
                .iter()
                .map(|row| {
                    let window = &plan.windows[row.window];
                    let text = if row.half.text { &texts[row.prompt] } else { uncond };
                    Ok(Row::new(timeline.narrow(0, window.start, window.len)?, text.clone(), timestep))
                })
                .collect::<Result<Vec<_>>>()?;
            let mut hooks = Hooks::new(pass, rows, forks, stack, run.kernel.clone(), run.micro_batch)?;
            let outputs = denoiser.forward(&inputs, &mut hooks).with_context(|| format!("step {}", step + 1))?;
            hooks.finish()?;
            for estimate in estimates {
                let parts = halves.iter().zip(&estimate.rows);
                let parts: Vec<_> =
                    parts.map(|(&half, &row)| guidance::Output { half, prediction: &outputs[row] }).collect();
                let window = &plan.windows[estimate.window];
                let known = run.fixed.map_or_else(Vec::new, |fixed| fixed.within(window.start..window.end()));
                let prediction = run.rule.combine(&at, &parts, &known)?;
                match estimate.kind {
                    Some(kind) => blend.accumulate_estimate(estimate.window, kind, &prediction)?,
                    None => blend.accumulate(estimate.window, &prediction)?,
                }
            }
        }
        let prediction = blend.finish()?;
        check_finite(&prediction, step, "transformer")?;
        if let Some(fixed) = run.fixed {
            let known = scheduler.predict_from_x0(step, &fixed.latents, &fixed.of(&timeline)?)?;
            fixed.put(&prediction, &known)?;
        }
        let noise = scheduler
            .needs_noise(step)
            .then(|| anyhow::Ok(of_all(run.noise.step(step, frames.clone(), run.shape, run.device)?)?))
            .transpose()?;
        let before = timeline;
        timeline = scheduler.step(step, &prediction, &before, noise.as_ref())?;
        check_finite(&timeline, step, "scheduler")?;
        observer.event(&clock.step(step))?;
        let at = StepInfo {
            part: run.part.0,
            done: step + 1,
            steps: timesteps.len(),
            timeline: &timeline,
            scheduler: &*scheduler,
            estimate: &|| scheduler.predict_x0(step, &prediction, &before),
        };
        keeper.step(&at, observer)?;
    }
    if let Some(fixed) = run.fixed {
        fixed.put(&timeline, &fixed.latents)?; // without what the steps have rounded
    }
    Ok(timeline)
}

/// NaN and infinity never become a video: the run stops and names where they came from.
fn check_finite(latents: &Tensor, step: usize, module: &str) -> Result<()> {
    let values = latents.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    if values.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    let step = step + 1;
    let message = format!("{module}: NaN or infinity in the latents at step {step}: try --dtype f32 or another --seed");
    Err(Failure::message(Code::Numbers, message).into())
}
