//! The second stage: noise becomes latents, timeline by timeline.

use super::checkpoint::Checkpointer;
use super::controls;
use super::denoise::{Denoising, Input, Network, NoiseSource, Reporting, Sampling, StepHook, denoise};
use super::extend::Context;
use super::loaded::Loaded;
use super::preview::Previewer;
use super::segment::kept;
use super::texts::Texts;
use crate::job::{Job, Maps, Segment, Timeline, work};
use crate::models::architecture::Role;
use crate::nn::sdpa::Sdpa;
use crate::noise::Noise;
use crate::processors::attention_map::RecordedMap;
use crate::run::{Event, Failure, Observer, Phase, Speed, speed};
use crate::timeline::mix;
use crate::weights::{read_tensors, write_tensors};
use anyhow::{Result, bail, ensure};
use candle_core::{DType, Tensor};
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

/// Maps that are recorded in a run.
pub struct Recording<'a> {
    /// Steps to take; all for those who want the latents as well.
    pub until: usize,
    pub maps: &'a Maps,
    /// What was seen of each segment.
    pub kept: RefCell<Vec<Vec<RecordedMap>>>,
}

/// What the latents of a job are made from.
pub struct Prepared<'a> {
    pub texts: &'a Texts,
    pub noise: &'a NoiseSource,
    /// What is known of the video that it continues.
    pub context: Option<&'a Context>,
}

/// The denoised latents of each segment, `[F, C, H, W]`, as [`kept`] has them; those of the first begin with what is given.
/// Those that `checkpoints` holds are not made again.
pub fn latents(
    job: &Job,
    loaded: &mut Loaded,
    prepared: &Prepared,
    mut checkpoints: Option<&mut Checkpointer>,
    recording: Option<&Recording>,
    observer: &mut dyn Observer,
) -> Result<Vec<Tensor>, Failure> {
    let heard = |checkpoints: &Option<&mut Checkpointer>| checkpoints.as_ref().map_or(Ok(()), |kept| kept.heard());
    heard(&checkpoints)?;
    observer.event(&Event::Phase { phase: Phase::Load, of: 0, what: job.architecture.part(Role::Denoiser).into() })?;
    let denoiser = loaded.denoiser(job)?;
    heard(&checkpoints)?;
    let mut done = Vec::with_capacity(job.segments.len());
    let mut start = 0;
    let after = work::after(job, &speed::kept(job.threads).unwrap_or(Speed::TYPICAL));
    let mut previewer = Previewer::new(job);
    let mut begins = true;
    let rule = job.rule();
    for (index, segment) in job.segments.iter().enumerate() {
        let before = start;
        start += segment.plan.frames;
        if let Some(latents) = checkpoints.as_ref().and_then(|checkpoints| checkpoints.finished(index)) {
            done.push(latents);
            continue;
        }
        let timelines = job.timelines(segment);
        let context = prepared.context.filter(|_| segment.context > 0);
        let mut from = None;
        if let Some(checkpoints) = &mut checkpoints {
            from = checkpoints.point(index, &timelines, observer)?;
            checkpoints.goes_on_from(context.cloned());
        }
        let mut stack = controls::stack(job, &timelines, recording.map(|recording| recording.maps))?;
        let mut nobody = ();
        let steps: &mut dyn StepHook = match &mut checkpoints {
            Some(checkpoints) => &mut **checkpoints,
            None => &mut nobody,
        };
        let mut shown = previewer.then(steps);
        let inputs = timelines.iter().map(|timeline| input(job, segment, timeline, prepared, before));
        let run = Denoising {
            network: Network {
                denoiser: &*denoiser,
                stack: &mut stack.processors,
                kernel: Sdpa { kernel: job.attention, bf16: job.dtype == DType::BF16, ..Sdpa::default() },
                micro_batch: 2,
                device: &job.device,
            },
            sampling: Sampling {
                rule: &rule,
                table: job.table,
                blend: job.blend,
                sharing: job.controls.sharing.as_ref(),
                noise: prepared.noise,
                shape: job.latents,
                until: recording.map_or(job.steps, |recording| recording.until),
            },
            timelines: inputs.collect::<Result<_>>()?,
            uncond: &prepared.texts.uncond,
            from,
            reporting: Reporting {
                hook: &mut shown,
                part: (index, job.segments.len()),
                begins: std::mem::take(&mut begins),
                after,
            },
        };
        let latents = kept(segment, &timelines, &denoise(run, observer)?)?;
        if let Some(recording) = recording {
            recording.kept.borrow_mut().push(stack.take_maps());
        }
        let latents = match context {
            Some(context) => context.before(latents)?,
            None => latents,
        };
        if let Some(checkpoints) = &mut checkpoints {
            checkpoints.latents(index, &latents, observer)?;
        }
        done.push(latents);
    }
    Ok(done)
}

/// What a timeline's rows are made of. `start`: its first frame among all of the video.
fn input<'a>(
    job: &Job,
    segment: &Segment,
    timeline: &'a Timeline,
    prepared: &Prepared,
    start: usize,
) -> Result<Input<'a>> {
    let texts = timeline.plan.texts.iter().map(|text| mix(&prepared.texts.prompts, text));
    let context = prepared.context.filter(|_| segment.context > 0);
    Ok(Input {
        timeline,
        texts: texts.collect::<candle_core::Result<_>>()?,
        concat: None,
        start,
        known: context.map(|context| context.known(segment, &job.device)).transpose()?,
        scheduler: crate::schedulers::build(&job.schedule, job.scheduler, job.table, job.steps, job.eta)?,
    })
}

/// Writes the latents of all segments as one timeline: `latents` `[1, F, C, H, W]` in f32.
pub fn write_latents(path: &Path, latents: &[Tensor]) -> Result<()> {
    write_tensors(path, &[("latents", &Tensor::cat(latents, 0)?.unsqueeze(0)?.to_dtype(DType::F32)?)])
}
