//! The denoising loop, written once. Every mode is some timelines with their windows and texts, and a stack of attention
//! processors for this loop.
//!
//! Each step asks the network about every window, guides, blends the overlapping estimates per latent frame and takes one
//! sampler step on each whole timeline. What is blended is the guided prediction: on one timeline that is the same as
//! blending estimates of the clean video, which DiTCtrl does (spec section 3), because the sampler's map from one to the
//! other is the same for all windows.

use super::draws::Draws;
use super::known::{Known, Seen, Unseen};
use super::rows::{self, RowPlan};
use super::state::{SamplerState, TimelineState};
use crate::attention::{AttentionProcessor, Branch, Change, Half, Hooks, Kept, KeptRow, Pass, Reuse};
use crate::guidance::{self, Rule};
use crate::job::{Sharing, Timeline};
use crate::models::{Added, Denoiser, Row, Time};
use crate::nn::sdpa::Sdpa;
use crate::noise::{Noise, Stream};
use crate::run::{Clock, Code, Event, Failure, Observer, Phase};
use crate::schedulers::{Scheduler, Table};
use crate::timeline::{Blend, BlendMode};
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use std::cell::RefCell;
use std::ops::Range;

/// Channels, height and width of the latents.
pub type LatentShape = (usize, usize, usize);

/// Rows of a pass that share a batch, in the denoiser and in the networks beside it.
pub const MICRO_BATCH: usize = 2;

/// Where the noise of a run comes from.
#[derive(Debug, Clone)]
pub enum NoiseSource {
    Seeded(Noise),
    /// Every frame has that of the first.
    Shared(Noise),
    /// The same, but that noise of a segment's first `window` frames is used again for those after them, `stride` at a time
    /// ([`Noise::used_again`]).
    UsedAgain {
        noise: Noise,
        window: usize,
        stride: usize,
    },
    /// Given tensors: `initial` `[F, C, H, W]` and, for samplers that add noise, `steps` `[steps, F, C, H, W]`; where F is 1 all frames
    /// have the same. Of an image model in motion `initial` has the anchors of the segments, and `frames` `[F, C, H, W]` what
    /// each frame gets over moved latents.
    Given {
        initial: Tensor,
        frames: Option<Tensor>,
        steps: Option<Tensor>,
        /// The step of the run that `steps` begins with.
        first: usize,
        /// That of the draw of a picture beside the latents, `[1, 1, C, H, W]`.
        image: Option<Tensor>,
    },
}

impl NoiseSource {
    /// Noise of the first step for some absolute latent frames, those of a segment, `[F, C, H, W]`.
    fn initial(&self, frames: Range<usize>, shape: LatentShape, device: &Device) -> Result<Tensor> {
        Ok(match self {
            Self::Seeded(noise) => noise.latents(Stream::Initial, frames, 0, shape, device)?,
            Self::Shared(noise) => repeated(&noise.latents(Stream::Initial, 0..1, 0, shape, device)?, frames.len())?,
            Self::UsedAgain { noise, window, stride } => {
                let first = frames.start;
                let own = noise.latents(Stream::Initial, first..first + frames.len().min(*window), 0, shape, device)?;
                let sources = noise.used_again(frames, *window, *stride).into_iter();
                let sources: Vec<u32> = sources.map(|source| (source - first) as u32).collect();
                own.index_select(&Tensor::new(sources, device)?, 0)?
            }
            Self::Given { initial, .. } => of_frames(initial, frames)?.to_device(device)?,
        })
    }

    /// Noise of the anchor of segment `index`, whose first frame is `start`: `[1, C, H, W]`.
    pub fn anchor(&self, index: usize, start: usize, shape: LatentShape, device: &Device) -> Result<Tensor> {
        let at = if matches!(self, Self::Given { .. }) { index } else { start };
        self.initial(at..at + 1, shape, device)
    }

    /// Noise of a frame over latents that were moved to it, `[1, C, H, W]`.
    ///
    /// # Errors
    /// Given noise without it.
    pub fn frame(&self, frame: usize, shape: LatentShape, device: &Device) -> Result<Tensor> {
        match self {
            Self::Seeded(noise) | Self::Shared(noise) | Self::UsedAgain { noise, .. } => {
                Ok(noise.latents(Stream::Frame, frame..frame + 1, 0, shape, device)?)
            }
            Self::Given { frames, .. } => {
                let frames = frames.as_ref().context("the given noise holds no frame_noise")?;
                Ok(frames.narrow(0, frame, 1)?.to_device(device)?)
            }
        }
    }

    /// Noise of the draw of a picture that stands beside the latents, `[1, C, H, W]` on the CPU.
    ///
    /// # Errors
    /// Given noise without it, or of another shape.
    pub fn image(&self, (c, h, w): LatentShape) -> Result<Tensor> {
        match self {
            Self::Seeded(noise) | Self::Shared(noise) | Self::UsedAgain { noise, .. } => {
                Ok(noise.latents(Stream::Encode, 0..1, 0, (c, h, w), &Device::Cpu)?)
            }
            Self::Given { image, .. } => {
                let image = image.as_ref().context("the given noise holds no image_noise, which a picture needs")?;
                let (shape, wanted) = (image.dims(), [1, 1, c, h, w]);
                anyhow::ensure!(shape == wanted, "image_noise has shape {shape:?}, this run needs {wanted:?}");
                Ok(image.squeeze(0)?)
            }
        }
    }

    /// Noise that enters a step.
    fn step(&self, step: usize, frames: Range<usize>, shape: LatentShape, device: &Device) -> Result<Tensor> {
        match self {
            Self::Seeded(noise) | Self::UsedAgain { noise, .. } => {
                Ok(noise.latents(Stream::Step, frames, step as u64, shape, device)?)
            }
            Self::Shared(noise) => {
                repeated(&noise.latents(Stream::Step, 0..1, step as u64, shape, device)?, frames.len())
            }
            Self::Given { steps: Some(steps), first, .. } => {
                Ok(of_frames(&steps.get(step - first)?, frames)?.to_device(device)?)
            }
            // noise from two sources would be neither run
            Self::Given { steps: None, .. } => {
                anyhow::bail!("this sampler adds noise at step {step}, and the given noise holds no step_noise")
            }
        }
    }
}

/// One frame's noise for each of `frames`.
fn repeated(one: &Tensor, frames: usize) -> Result<Tensor> {
    Ok(one.repeat((frames, 1, 1, 1))?)
}

/// Given noise of some frames.
fn of_frames(given: &Tensor, frames: Range<usize>) -> Result<Tensor> {
    match given.dim(0)? {
        1 => repeated(given, frames.len()),
        _ => Ok(given.narrow(0, frames.start, frames.len())?),
    }
}

/// What a hook sees after a step.
pub struct StepInfo<'a> {
    /// Which of the video's segments it is.
    pub part: usize,
    /// Steps that are done.
    pub done: usize,
    pub steps: usize,
    /// What the run could go on from.
    pub state: &'a dyn Fn() -> SamplerState,
    /// The estimates of the clean timelines at the step just done.
    pub estimates: &'a dyn Fn() -> Result<Vec<Tensor>>,
}

/// Called after each step: to save it, or to show it.
pub trait StepHook {
    /// An error stops the run: that is how an interruption reaches the loop.
    fn step(&mut self, done: &StepInfo, observer: &mut dyn Observer) -> Result<()>;
}

/// Does nothing.
impl StepHook for () {
    fn step(&mut self, _: &StepInfo, _: &mut dyn Observer) -> Result<()> {
        Ok(())
    }
}

/// The network, and how it is asked.
pub struct Network<'a> {
    pub denoiser: &'a dyn Denoiser,
    pub stack: &'a mut [Box<dyn AttentionProcessor>],
    pub kernel: Sdpa,
    /// Rows that may share a batch.
    pub micro_batch: usize,
    pub device: &'a Device,
}

/// How what it says becomes steps.
pub struct Sampling<'a> {
    pub rule: &'a Rule,
    /// The program whose schedule is followed; dynamic guidance depends on it.
    pub table: Table,
    pub blend: BlendMode,
    /// Where windows are written over each other in place of a blend: what they leave to those before them.
    pub draws: Option<&'a Draws>,
    /// Where joined windows share keys and values; the stack then has the control that does.
    pub sharing: Option<&'a Sharing>,
    pub noise: &'a NoiseSource,
    pub shape: LatentShape,
    /// The first step that is taken: 0, but where something is refined.
    pub first: usize,
    /// The step before which it ends: the last one's end, but for those who only want to watch some.
    pub until: usize,
    /// Steps that are not computed.
    pub caching: Option<StepCache<'a>>,
}

/// Which steps are computed, where not all are, and what they leave for the others.
#[derive(Clone, Copy)]
pub struct StepCache<'a> {
    /// By step.
    pub computed: &'a [bool],
    pub kept: &'a RefCell<Kept>,
    /// What a step that is not computed takes of one that is.
    pub cost: f64,
    /// Where it is measured how what is kept changes: then every step keeps it.
    pub measured: Option<&'a RefCell<Vec<Change>>>,
}

impl StepCache<'_> {
    fn reuse(&self, step: usize) -> Reuse {
        match (self.computed.get(step), self.computed.get(step + 1)) {
            (Some(false), _) => Reuse::Take,
            // nobody takes it
            (_, Some(true)) | (_, None) if self.measured.is_none() => Reuse::Off,
            _ => Reuse::Keep,
        }
    }

    /// What the next step takes.
    fn kept(&self, done: usize) -> Vec<(KeptRow, Tensor)> {
        match self.reuse(done) {
            Reuse::Take => self.kept.borrow().rows().map(|(row, tensor)| (row, tensor.clone())).collect(),
            _ => Vec::new(),
        }
    }
}

/// A timeline, and what its rows are made of.
pub struct Input<'a> {
    pub timeline: &'a Timeline,
    /// One embedding `[L, D]` for each of its plan's texts.
    pub texts: Vec<Tensor>,
    /// What stands behind its latents on the channel axis, `[F, C', H, W]`; zeros in halves that see no image.
    pub concat: Option<Tensor>,
    /// What the network is told of it beside time and text.
    pub told: Option<Told>,
    /// Its first frame among all of the video, for noise that does not depend on how a video is cut.
    pub start: usize,
    /// Frames that are known already; of a timeline at a time of its own, all.
    pub known: Option<Known>,
    /// What it begins with under the noise of the first step, `[F, C, H, W]`, instead of noise alone.
    pub refined: Option<Tensor>,
    pub scheduler: Box<dyn Scheduler>,
}

/// What a network is told of a timeline beside time and text.
#[derive(Debug, Clone)]
pub struct Told {
    /// Each of its texts as one vector `[D]`; empty where the network takes none.
    pub pooled: Vec<Tensor>,
    /// The same of the halves that see no text.
    pub no_text: Option<Tensor>,
    /// By window, the numbers of its clip.
    pub numbers: Vec<Vec<f64>>,
}

/// What is called after each step, and what the progress of the run is made from.
pub struct Reporting<'a> {
    pub hook: &'a mut dyn StepHook,
    /// Which of the video's segments this is.
    pub part: usize,
    /// Steps of the segments before it, and of all.
    pub steps: (usize, usize),
    /// Whether it is the first one that is worked on.
    pub begins: bool,
    /// Work that follows the loop, in steps; for the remaining time.
    pub after: f64,
}

/// Everything the loop works with.
pub struct Denoising<'a> {
    pub network: Network<'a>,
    pub sampling: Sampling<'a>,
    /// In the order of the plan; one of them is the output.
    pub timelines: Vec<Input<'a>>,
    /// The embedding `[L, D]` of the halves that see no text.
    pub uncond: &'a Tensor,
    /// Where to go on; none from the beginning.
    pub from: Option<SamplerState>,
    pub reporting: Reporting<'a>,
}

/// Runs the steps; returns the denoised timelines, each `[F, C, H, W]` in f32.
pub fn denoise(run: Denoising, observer: &mut dyn Observer) -> Result<Vec<Tensor>> {
    let Denoising { mut network, sampling, timelines, uncond, from, reporting } = run;
    let plan: Vec<Timeline> = timelines.iter().map(|input| input.timeline.clone()).collect();
    let timesteps = timelines.last().context("no timeline")?.scheduler.timesteps().to_vec();
    let first = from.as_ref().map_or(sampling.first, |state| state.done);
    let (states, kept) = from.map_or_else(Default::default, |state| (state.timelines, state.kept));
    if let Some(caching) = &sampling.caching {
        caching.kept.borrow_mut().restore(kept);
    }
    let mut states = states.into_iter();
    let mut tracks = Vec::with_capacity(timelines.len());
    for input in timelines {
        tracks.push(Track::begin(input, states.next(), &sampling, network.device)?);
    }
    let steps = sampling.until.min(timesteps.len());
    let cost = |step| match &sampling.caching {
        Some(caching) if caching.reuse(step) == Reuse::Take => caching.cost,
        _ => 1.0,
    };
    let mut clock = Clock::new((0..steps).map(cost).collect(), first, reporting.steps, reporting.after);
    if reporting.begins {
        let (before, of) = reporting.steps;
        let what = match before + first {
            0 => String::new(),
            done => format!("from step {}", done + 1),
        };
        observer.event(&Event::Phase { phase: Phase::Denoise, of, what })?;
    }
    for (step, &timestep) in timesteps.iter().enumerate().take(steps).skip(first) {
        let at = guidance::Step { index: step, count: timesteps.len(), timestep, table: sampling.table };
        let halves = sampling.rule.halves(&at);
        let layers = sampling.sharing.and_then(|sharing| sharing.at(step));
        if let Some(draws) = sampling.draws {
            for track in &mut tracks {
                let left = draws.at(step, &track.input.timeline.plan);
                track.blend.iter_mut().for_each(|blend| blend.leave(&left));
            }
        }
        let passes = rows::passes(&plan, step, halves, layers, |timeline, window| tracks[timeline].entering(window));
        tracks.iter_mut().for_each(|track| track.last = None); // no memory that a pass could use
        let again = tracks.last().and_then(|track| track.input.scheduler.again_at(step));
        for pass in &passes {
            ask(&mut network, &sampling, &at, pass.clone(), &mut tracks, uncond)?;
        }
        if let Some(timestep) = again {
            for track in tracks.iter_mut().filter(|track| track.moves(step)) {
                track.look_ahead(step)?;
            }
            for pass in passes {
                ask(&mut network, &sampling, &guidance::Step { timestep, ..at }, pass, &mut tracks, uncond)?;
            }
        }
        if let Some((caching, measured)) = sampling.caching.and_then(|caching| Some((caching, caching.measured?))) {
            measured.borrow_mut().extend(caching.kept.borrow_mut().changed());
        }
        for track in tracks.iter_mut().filter(|track| track.moves(step)) {
            track.advance(step, &sampling, network.device)?;
        }
        observer.event(&clock.step(step))?;
        let state = || SamplerState {
            done: step + 1,
            timelines: tracks.iter().map(Track::state).collect(),
            kept: sampling.caching.map_or_else(Vec::new, |caching| caching.kept(step + 1)),
        };
        let estimates = || tracks.iter().map(|track| track.estimate(step)).collect();
        let done = StepInfo {
            part: reporting.part,
            done: step + 1,
            steps: timesteps.len(),
            state: &state,
            estimates: &estimates,
        };
        reporting.hook.step(&done, observer)?;
    }
    tracks.into_iter().map(Track::finish).collect()
}

/// One pass through the network; its estimates go to the timelines they are of.
fn ask(
    network: &mut Network,
    sampling: &Sampling,
    at: &guidance::Step,
    pass: RowPlan,
    tracks: &mut [Track],
    uncond: &Tensor,
) -> Result<()> {
    let RowPlan { rows, forks, estimates } = pass;
    let inputs: Vec<Row> =
        rows.iter().map(|branch| tracks[branch.timeline].row(branch, at.timestep, uncond)).collect::<Result<_>>()?;
    let pass = Pass { step: at.index, steps: at.count };
    let mut kept = sampling.caching.map(|caching| (caching.kept.borrow_mut(), caching.reuse(at.index)));
    let mut hooks = Hooks::new(pass, rows, forks, network.stack, network.kernel.clone(), network.micro_batch)?;
    if let Some((kept, reuse)) = &mut kept {
        hooks = hooks.with_kept(kept, *reuse);
    }
    let outputs = network.denoiser.forward(&inputs, &mut hooks).with_context(|| format!("step {}", at.index + 1))?;
    hooks.finish()?;
    drop(kept);
    for estimate in estimates {
        let parts = sampling.rule.halves(at).iter().zip(&estimate.rows);
        let parts: Vec<_> = parts.map(|(&half, &row)| guidance::Output { half, prediction: &outputs[row] }).collect();
        let track = &mut tracks[estimate.timeline];
        for output in &parts {
            track.hear(estimate.window, output.half, output.prediction)?;
        }
        let prediction = sampling.rule.combine(at, &parts, &track.known(estimate.window))?;
        let Some(blend) = &mut track.blend else { continue };
        match estimate.kind {
            Some(kind) => blend.accumulate_estimate(estimate.window, kind, &prediction)?,
            None => blend.accumulate(estimate.window, &prediction)?,
        }
    }
    Ok(())
}

/// A timeline at work.
struct Track<'a> {
    input: Input<'a>,
    latents: Tensor,
    /// None where no step changes it.
    blend: Option<Blend>,
    /// What passes see that see no image, where frames are given.
    unseen: Option<Unseen>,
    /// Where a step looks a second time: what the first prediction leads to.
    ahead: Option<Ahead>,
    /// The prediction of the last step, and the latents before it.
    last: Option<(Tensor, Tensor)>,
}

/// A step between its first look at the network and its second.
struct Ahead {
    latents: Tensor,
    prediction: Tensor,
    /// Of [`Unseen`].
    free: Option<(Tensor, Tensor)>,
}

impl<'a> Track<'a> {
    fn begin(mut input: Input<'a>, from: Option<TimelineState>, sampling: &Sampling, device: &Device) -> Result<Self> {
        let plan = &input.timeline.plan;
        if input.timeline.time.is_some() {
            let known = input.known.as_ref().filter(|known| known.latents.dims().first() == Some(&plan.frames));
            let latents = known.context("a timeline at a time of its own is not known")?.latents.clone();
            return Ok(Self { input, latents, blend: None, unseen: None, ahead: None, last: None });
        }
        let blend = match sampling.draws {
            Some(_) => Blend::overwriting(plan),
            None => Blend::new(plan, sampling.blend),
        };
        let blend = Some(blend);
        input.scheduler.begin_at(sampling.first);
        let noise = || sampling.noise.initial(input.frames(), sampling.shape, device);
        if let Some(TimelineState { latents, scheduler, free }) = from {
            let given = input.known.as_ref().filter(|known| known.seen != Seen::Noised);
            let unseen = given.map(|known| Unseen::new(known, &noise()?, free)).transpose()?.flatten();
            input.scheduler.restore(scheduler);
            return Ok(Self { input, latents, blend, unseen, ahead: None, last: None });
        }
        let noise = noise()?;
        let unseen = input.known.as_ref().map(|known| Unseen::new(known, &noise, None)).transpose()?.flatten();
        let latents = match &input.refined {
            Some(refined) => input.scheduler.noised(sampling.first, refined, &noise)?,
            None => (noise * input.scheduler.init_noise_sigma())?,
        };
        match &input.known {
            Some(known) if known.seen == Seen::Noised => {
                known.put(&latents, &input.scheduler.noised(0, &known.latents, &known.of(&latents)?)?)?;
            }
            Some(known) => known.put(&latents, &known.latents)?,
            None => {}
        }
        Ok(Self { input, latents, blend, unseen, ahead: None, last: None })
    }

    /// The estimates of a window that enter the blend.
    fn entering(&self, window: usize) -> &[crate::timeline::Estimate] {
        self.blend.as_ref().map_or(&[], |blend| blend.estimates(window))
    }

    /// What the network is asked about a window.
    fn row(&self, branch: &Branch, timestep: f64, uncond: &Tensor) -> Result<Row> {
        let Input { timeline, texts, concat, told, known, .. } = &self.input;
        let window = &timeline.plan.windows[branch.window];
        let frames = |x: &Tensor| x.narrow(0, window.start, window.len);
        let concat = match concat {
            Some(concat) if branch.half.image => Some(frames(concat)?),
            Some(concat) => Some(frames(concat)?.zeros_like()?),
            None => None,
        };
        let mut frame_texts = None;
        let context = match &timeline.plan.frame_texts {
            _ if !branch.half.text => uncond.clone(),
            None => texts[window.text].clone(),
            Some(of_frames) => {
                frame_texts = Some(of_frames[window.start..window.end()].to_vec());
                Tensor::stack(texts, 0)?
            }
        };
        let mut time = Time::One(timeline.time.unwrap_or(timestep));
        if let Some(Known { seen: Seen::Clean { time: Some(own), .. }, .. }) = known
            && branch.half.image
        {
            let given = self.known(branch.window);
            let of = |frame: usize| if given.contains(&frame) { *own } else { timestep };
            time = Time::Frames((0..window.len).map(of).collect());
        }
        let added = told.as_ref().map(|told| Added {
            pooled: if branch.half.text { told.pooled.get(window.text).cloned() } else { told.no_text.clone() },
            numbers: told.numbers.get(branch.window).cloned().unwrap_or_default(),
        });
        let latents = self.ahead.as_ref().map_or(&self.latents, |ahead| &ahead.latents);
        let latents = match (&self.unseen, known) {
            (Some(unseen), Some(known)) if !branch.half.image => unseen.seen(known, latents, timestep)?,
            _ => latents.clone(),
        };
        Ok(Row { concat, time, frame_texts, added, ..Row::new(frames(&latents)?, context, timestep) })
    }

    /// What the network says of a window in the pass of a half.
    fn hear(&mut self, window: usize, half: Half, prediction: &Tensor) -> Result<()> {
        let (Some(unseen), Some(known)) = (&mut self.unseen, &self.input.known) else { return Ok(()) };
        let window = &self.input.timeline.plan.windows[window];
        unseen.hear(known, half, &(window.start..window.end()), prediction)
    }

    /// Places in a window whose frames are known.
    fn known(&self, window: usize) -> Vec<usize> {
        let window = &self.input.timeline.plan.windows[window];
        self.input.known.as_ref().map_or_else(Vec::new, |known| known.within(&(window.start..window.end())))
    }

    /// Whether a step changes it.
    fn moves(&self, step: usize) -> bool {
        self.blend.is_some() && step < self.input.timeline.steps
    }

    /// Time from a step to the next; of flow matching.
    fn step_of_time(&self, step: usize) -> f64 {
        let times = self.input.scheduler.timesteps();
        times.get(step + 1).copied().unwrap_or(1.0) - times[step]
    }

    /// Goes where the estimates lead that have come, to look a second time from there.
    fn look_ahead(&mut self, step: usize) -> Result<()> {
        let Some(blend) = &mut self.blend else { return Ok(()) };
        let prediction = blend.finish()?;
        check_finite(&prediction, (step, self.input.start), "denoiser")?;
        let latents = self.input.scheduler.step(step, &prediction, &self.latents, None)?;
        if let Some(known) = &self.input.known {
            known.put(&latents, &known.latents)?;
        }
        let time = self.step_of_time(step);
        let free = self.unseen.as_mut().map(|unseen| unseen.look_ahead(time)).transpose()?.flatten();
        self.ahead = Some(Ahead { latents, prediction, free });
        Ok(())
    }

    /// Takes a step on the estimates that have come.
    fn advance(&mut self, step: usize, sampling: &Sampling, device: &Device) -> Result<()> {
        let Some(blend) = &mut self.blend else { return Ok(()) };
        let mut prediction = blend.finish()?;
        check_finite(&prediction, (step, self.input.start), "denoiser")?;
        let time = self.step_of_time(step);
        let mut before = None;
        if let Some(Ahead { prediction: first, free, .. }) = self.ahead.take() {
            prediction = ((first + prediction)? / 2.0)?;
            before = free;
        }
        if let Some(unseen) = &mut self.unseen {
            let (free, velocity) = before.unzip();
            free.into_iter().for_each(|free| unseen.look_back(free));
            unseen.advance(time, velocity.as_ref())?;
        }
        let scheduler = &mut self.input.scheduler;
        match &self.input.known {
            Some(known) if known.seen == Seen::Noised => {
                let values = scheduler.predict_from_x0(step, &known.latents, &known.of(&self.latents)?)?;
                known.put(&prediction, &values)?;
            }
            // the estimate of what is clean is itself
            Some(known) => known.put(&prediction, &known.latents.zeros_like()?)?,
            None => {}
        }
        let noise = if scheduler.needs_noise(step) {
            Some(sampling.noise.step(step, self.input.frames(), sampling.shape, device)?)
        } else {
            None
        };
        let next = self.input.scheduler.step(step, &prediction, &self.latents, noise.as_ref())?;
        check_finite(&next, (step, self.input.start), "scheduler")?;
        if let Some(known) = self.input.known.as_ref().filter(|known| known.seen != Seen::Noised) {
            known.put(&next, &known.latents)?;
        }
        self.last = Some((prediction, std::mem::replace(&mut self.latents, next)));
        Ok(())
    }

    fn state(&self) -> TimelineState {
        let free = self.unseen.as_ref().and_then(|unseen| unseen.free().cloned());
        TimelineState { latents: self.latents.clone(), scheduler: self.input.scheduler.state(), free }
    }

    /// The estimate of the clean timeline at a step, or what it is where that step did not change it.
    fn estimate(&self, step: usize) -> Result<Tensor> {
        match self.last.as_ref().filter(|_| self.moves(step)) {
            Some((prediction, before)) => Ok(self.input.scheduler.predict_x0(step, prediction, before)?),
            None => Ok(self.latents.clone()),
        }
    }

    fn finish(self) -> Result<Tensor> {
        if let Some(known) = self.input.known.filter(|_| self.blend.is_some()) {
            known.put(&self.latents, &known.latents)?; // without what the steps have rounded
        }
        Ok(self.latents)
    }
}

impl Input<'_> {
    /// Its frames among all of the video.
    fn frames(&self) -> Range<usize> {
        self.start..self.start + self.timeline.plan.frames
    }
}

/// NaN and infinity never become a video: the run stops and names where they came from. `start`: the first of the latents' frames.
fn check_finite(latents: &Tensor, (step, start): (usize, usize), module: &str) -> Result<()> {
    let values = latents.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    let Some(at) = values.iter().position(|value| !value.is_finite()) else { return Ok(()) };
    let (step, frame) = (step + 1, start + at * latents.dim(0)? / values.len());
    let message = format!(
        "{module}: NaN or infinity in the latents at step {step}, latent frame {frame}: try --dtype f32 or bf16, or another --seed"
    );
    Err(Failure::message(Code::Numbers, message).into())
}
