//! The second stage: noise becomes latents, timeline by timeline.

use super::checkpoint::Checkpointer;
use super::controls;
use super::denoise::{Denoising, NoiseSource, Pair, StepHook, denoise};
use super::extend::Context;
use super::loaded::Loaded;
use super::preview::Previewer;
use super::texts::Texts;
use crate::job::{Job, Maps, Segment, work};
use crate::models::architecture::Role;
use crate::nn::sdpa::Sdpa;
use crate::noise::Noise;
use crate::processors::attention_map::RecordedMap;
use crate::run::{Event, Failure, Observer, Phase, Speed, speed};
use crate::timeline;
use crate::weights::{read_tensors, write_tensors};
use anyhow::{Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use std::cell::RefCell;
use std::path::Path;

/// The noise of a job, read and checked before anything is loaded where it is given.
pub fn noise(job: &Job) -> Result<NoiseSource> {
    let Some(path) = &job.init_noise else { return Ok(NoiseSource::Seeded(Noise::new(job.seed))) };
    let shown = path.display();
    let mut tensors = read_tensors(path)?;
    let frames: usize = job.segments.iter().map(|segment| segment.plan.frames).sum();
    let (c, h, w) = job.latents;
    let mut take = |name: &str, shape: &[usize]| match tensors.remove(name) {
        None => Ok(None),
        Some(tensor) if tensor.dims() == shape => Ok(Some(tensor)),
        Some(tensor) => bail!("{shown}: {name} has shape {:?}, this run needs {shape:?}", tensor.dims()),
    };
    let Some(initial) = take("noise", &[1, frames, c, h, w])? else { bail!("{shown}: holds no tensor named noise") };
    let steps = take("step_noise", &[job.steps, 1, frames, c, h, w])?.map(|steps| steps.squeeze(1)).transpose()?;
    let scheduler = crate::schedulers::build(&job.schedule, job.scheduler, job.table, job.steps, job.eta)?;
    let needed = (0..job.steps).any(|step| scheduler.needs_noise(step));
    ensure!(
        steps.is_some() || !needed,
        "{shown}: holds no step_noise, and {} adds noise at every step: add it, or use --scheduler ddim",
        job.scheduler
    );
    Ok(NoiseSource::Given { initial: initial.squeeze(0)?, steps })
}

/// Someone who looks at a run.
pub struct Watch<'a> {
    /// Steps to take; all for those who want the latents as well.
    pub until: usize,
    pub maps: &'a Maps,
    /// What was seen of each segment.
    pub kept: RefCell<Vec<Vec<RecordedMap>>>,
}

/// Who is there while latents are made.
pub enum Beside<'a, 'b> {
    /// One who keeps what is done, and ends the run where the user asks for it.
    Keeping(&'a mut Checkpointer<'b>),
    /// One who looks at it; nothing is kept.
    Watching(&'a Watch<'a>),
}

/// What is kept of a segment's timelines: without padding, on the CPU; of an edit the edited version, after its source where
/// both are to be seen.
pub fn kept(job: &Job, segment: &Segment, timelines: &Tensor) -> Result<Tensor> {
    let Segment { plan, padding, .. } = segment;
    let lines = job.lines() - job.pictures()..job.lines();
    let lines = lines.map(|line| timelines.narrow(0, line * plan.frames + padding, plan.keep - padding));
    Ok(Tensor::cat(&lines.collect::<candle_core::Result<Vec<_>>>()?, 0)?.to_device(&Device::Cpu)?)
}

/// The latents of the video alone, without those of the source of an edit beside it.
pub fn alone(job: &Job, latents: &[Tensor]) -> Result<Vec<Tensor>> {
    let last = latents.iter().map(|latents| {
        let frames = latents.dim(0)? / job.pictures();
        latents.narrow(0, latents.dim(0)? - frames, frames)
    });
    Ok(last.collect::<candle_core::Result<_>>()?)
}

/// The denoised latents of each segment, `[F, C, H, W]`, as [`kept`] has them; those of the first begin with what is given.
/// Those that are kept are not made again.
pub fn latents(
    job: &Job,
    loaded: &mut Loaded,
    texts: &Texts,
    noise: &NoiseSource,
    context: Option<&Context>,
    beside: Beside,
    observer: &mut dyn Observer,
) -> Result<Vec<Tensor>, Failure> {
    let (mut keeping, watch) = match beside {
        Beside::Keeping(keeping) => (Some(keeping), None),
        Beside::Watching(watch) => (None, Some(watch)),
    };
    let heard = |keeping: &Option<&mut Checkpointer>| keeping.as_ref().map_or(Ok(()), |keeping| keeping.heard());
    heard(&keeping)?;
    observer.event(&Event::Phase { phase: Phase::Load, of: 0, what: job.architecture.part(Role::Denoiser).into() })?;
    let denoiser = loaded.denoiser(job)?;
    heard(&keeping)?;
    let edit = job.controls.edit.as_ref();
    let mut done = Vec::with_capacity(job.segments.len());
    let mut start = 0;
    let speed = speed::kept(job.threads).unwrap_or(Speed::TYPICAL);
    let mut previewer = Previewer::new(job);
    let mut begins = true;
    for (index, segment) in job.segments.iter().enumerate() {
        let once = &segment.plan;
        if let Some(latents) = keeping.as_ref().and_then(|keeping| keeping.finished(index)) {
            start += once.frames;
            done.push(latents);
            continue;
        }
        let both = edit.map(|_| once.twice(job.prompts.len()));
        let plan = both.as_ref().unwrap_or(once);
        let context = context.filter(|_| segment.context > 0);
        let mut from = None;
        if let Some(keeping) = &mut keeping {
            from = keeping.point(index, observer)?;
            keeping.goes_on_from(context.cloned());
        }
        let fixed = context.map(|context| context.fixed(segment, &job.device)).transpose()?;
        let mut scheduler = crate::schedulers::build(&job.schedule, job.scheduler, job.table, job.steps, job.eta)?;
        let (c, h, w) = job.latents;
        let texts_of_plan = plan
            .texts
            .iter()
            .map(|text| timeline::mix(&texts.prompts, text))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let mut stack = controls::stack(job, plan, watch.map(|watch| watch.maps))?;
        let mut nobody = ();
        let keeper: &mut dyn StepHook = match &mut keeping {
            Some(keeping) => &mut **keeping,
            None => &mut nobody,
        };
        let mut shown = previewer.then(keeper);
        let part = Denoising {
            denoiser: &*denoiser,
            scheduler: &mut *scheduler,
            plan,
            texts: &texts_of_plan,
            uncond: &texts.uncond,
            rule: &job.rule(),
            table: job.table,
            blend: job.blend,
            noise,
            start,
            fixed: fixed.as_ref(),
            from,
            keeper: &mut shown,
            shape: (c, h, w),
            device: &job.device,
            sharing: job.controls.sharing.as_ref(),
            pair: edit.map(|edit| Pair { reading: &edit.reading, steps: edit.source_steps(job.steps) }),
            stack: &mut stack.processors,
            kernel: Sdpa { kernel: job.attention, bf16: job.dtype == DType::BF16, ..Sdpa::default() },
            micro_batch: 2,
            until: watch.map_or(job.steps, |watch| watch.until),
            part: (index, job.segments.len()),
            begins: std::mem::take(&mut begins),
            after: work::after(job, &speed),
        };
        let latents = denoise(part, observer)?;
        if let Some(watch) = watch {
            watch.kept.borrow_mut().push(stack.take_maps());
        }
        start += once.frames;
        let latents = kept(job, segment, &latents)?;
        let latents = match context {
            Some(context) => context.before(latents)?,
            None => latents,
        };
        if let Some(keeping) = &mut keeping {
            keeping.latents(index, &latents, observer)?;
        }
        done.push(latents);
    }
    Ok(done)
}

/// Writes the latents of all segments as one timeline: `latents` `[1, F, C, H, W]` in f32.
pub fn write_latents(path: &Path, latents: &[Tensor]) -> Result<()> {
    write_tensors(path, &[("latents", &Tensor::cat(latents, 0)?.unsqueeze(0)?.to_dtype(DType::F32)?)])
}
