//! Noise becomes latents, segment by segment.

use super::checkpoint::Checkpointer;
use super::clip_noise::by_clip;
use super::control::{self, Pictures};
use super::controls;
use super::denoise::{
    Denoising, Input, MICRO_BATCH, Network, NoiseSource, Reporting, Sampling, StepCache, StepHook, denoise,
};
use super::draws::Draws;
use super::extend::Context;
use super::feed;
use super::given;
use super::loaded::Loaded;
use super::placed::Subject;
use super::preview::Previewer;
use super::segment::kept;
use super::smoothing::{self, smoothed};
use super::state::{SamplerState, TimelineState};
use super::texts::Texts;
use super::word_maps::of_segment;
use super::zero_shot::{self, Before};
use crate::attention::{AttentionProcessor, Change, Kept};
use crate::estimate::work;
use crate::guidance::Rule;
use crate::job::values::FrameNoise;
use crate::job::{Compute, Foreground, FreeNoise, Job, Maps, MotionPlan, Smoothing, Stage, Timeline};
use crate::models::Denoiser;
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

/// The noise of a stage, read and checked before anything is loaded where it is given.
pub fn noise(stage: &Stage, seed: u64) -> Result<NoiseSource> {
    let shares = stage.method.zero_shot.as_ref().map_or(Some(FrameNoise::Independent), |zero| zero.noise);
    let Some(path) = &stage.input.noise else {
        let noise = Noise::new(seed);
        return Ok(match stage.method.free_noise {
            Some(FreeNoise { window, stride }) => NoiseSource::UsedAgain { noise, window, stride },
            None if shares == Some(FrameNoise::Shared) => NoiseSource::Shared(noise),
            None => NoiseSource::Seeded(noise),
        });
    };
    if let Some(names) = stage.clip_names() {
        return by_clip(stage, path, &names);
    }
    let shown = path.display();
    let mut tensors = read_tensors(path)?;
    let frames: usize = stage.segments.iter().map(|segment| segment.plan.frames).sum();
    let (c, h, w) = stage.size.latents;
    let sampler = &stage.sampler;
    // of so many frames, the first number that it may be
    let mut take = |name: &str, ahead: &[usize], counts: &[usize]| {
        let Some(tensor) = tensors.remove(name) else { return Ok(None) };
        let shape = |&count: &usize| [ahead, &[count, c, h, w]].concat();
        let shapes: Vec<Vec<usize>> = counts.iter().map(shape).collect();
        if shapes.iter().any(|shape| tensor.dims() == shape) {
            return Ok(Some(tensor));
        }
        let shapes: Vec<String> = shapes.iter().map(|shape| format!("{shape:?}")).collect();
        bail!("{shown}: {name} has shape {:?}, this run needs {}", tensor.dims(), shapes.join(" or "))
    };
    let moved = stage.method.zero_shot.as_ref().is_some_and(|zero| zero.motion.is_some());
    let first: &[usize] = match shares {
        _ if moved => &[stage.segments.len()],
        Some(FrameNoise::Independent) => &[frames],
        Some(FrameNoise::Shared) => &[1],
        None => &[frames, 1],
    };
    let Some(initial) = take("noise", &[1], first)? else { bail!("{shown}: holds no tensor named noise") };
    let own = if moved { take("frame_noise", &[1], &[frames])? } else { None };
    ensure!(
        own.is_some() || !moved,
        "{shown}: holds no frame_noise, which a video in motion needs: add it, or use --motion none"
    );
    let frames_noise = own.map(|own| own.squeeze(0)).transpose()?;
    let each: &[usize] = if stage.method.zero_shot.is_some() { &[frames, 1] } else { &[frames] };
    let taken = sampler.steps - stage.input.first_step(sampler.steps);
    let steps = take("step_noise", &[taken, 1], each)?.map(|steps| steps.squeeze(1)).transpose()?;
    let scheduler = sampler.build()?;
    let needed = (0..sampler.steps).any(|step| scheduler.needs_noise(step));
    ensure!(
        steps.is_some() || !needed,
        "{shown}: holds no step_noise, and {} adds noise at every step: add it, or use --scheduler {}",
        sampler.kind,
        if sampler.schedule.is_flow() { "euler" } else { "ddim" }
    );
    let image = tensors.remove("image_noise");
    Ok(NoiseSource::Given {
        initial: initial.squeeze(0)?,
        frames: frames_noise,
        steps,
        first: sampler.steps - taken,
        image,
    })
}

/// Maps that are recorded in a run.
pub struct Recording<'a> {
    /// Steps to take; all for those who want the latents as well.
    pub until: usize,
    pub maps: &'a Maps,
    /// What was seen of each segment.
    pub kept: RefCell<Vec<Vec<RecordedMap>>>,
}

/// The input of the loop of a stage.
pub struct Prepared<'a> {
    pub texts: &'a Texts,
    pub noise: &'a NoiseSource,
    /// Where windows are written over each other.
    pub draws: Option<&'a Draws>,
    /// What is known of the video that it continues, or of its first frame.
    pub context: Option<&'a Context>,
    /// What stands beside the latents of the video on the channel axis, `[F, C', H, W]`.
    pub concat: Option<&'a Tensor>,
    /// The latents of the frames that are given in the place of noise, `[K, C, H, W]`.
    pub given: Option<&'a Tensor>,
    /// What the control networks of the stage see.
    pub pictures: &'a Pictures,
    /// The latents of the picture of a subject that is put into the video.
    pub subject: Option<&'a Tensor>,
    /// By segment, the latents `[F, C, H, W]` of the frames that it refines, on its whole timeline.
    pub refined: Option<&'a [Tensor]>,
    /// Where it is measured how much what is kept of a step changes to the next.
    pub measured: Option<&'a RefCell<Vec<Change>>>,
}

/// The denoised latents of each segment, `[F, C, H, W]`, as [`kept`] has them; those of the first begin with what is given.
/// Those that `checkpoints` holds are not made again.
pub fn latents(
    job: &Job,
    stage: &Stage,
    loaded: &mut Loaded,
    prepared: &Prepared,
    mut checkpoints: Option<&mut Checkpointer>,
    recording: Option<&Recording>,
    observer: &mut dyn Observer,
) -> Result<Vec<Tensor>, Failure> {
    let heard = |checkpoints: &Option<&mut Checkpointer>| checkpoints.as_ref().map_or(Ok(()), |kept| kept.heard());
    heard(&checkpoints)?;
    let what = stage.model.architecture.part(Role::Denoiser).into();
    observer.event(&Event::Phase { phase: Phase::Load, of: 0, what })?;
    let denoiser = loaded.denoiser(stage)?;
    let networks = loaded.control_networks(stage)?;
    let subject = Subject::new(stage, &*denoiser, prepared.texts, prepared.subject, &kernel(stage))?;
    heard(&checkpoints)?;
    let mut done = Vec::with_capacity(stage.segments.len());
    let after = work::after(stage, &speed::kept(job.machine.threads).unwrap_or(Speed::TYPICAL));
    let mut previewer = Previewer::new(job, stage);
    let (rule, mut begins) = (stage.rule(), true);
    let mut start = 0;
    for (index, segment) in stage.segments.iter().enumerate() {
        let before = start;
        start += segment.plan.frames;
        if let Some(latents) = checkpoints.as_ref().and_then(|checkpoints| checkpoints.finished(index)) {
            done.push(latents);
            continue;
        }
        let timelines = stage.timelines(segment);
        let fed = feed::fed(stage, index, done.last(), loaded, observer)?;
        let begins_given = index == 0 && stage.input.first_frame.is_some();
        let context = fed.as_ref().or(prepared.context.filter(|_| segment.context > 0 || begins_given));
        let mut from = None;
        if let Some(checkpoints) = &mut checkpoints {
            from = checkpoints.point(index, &timelines, observer)?;
            checkpoints.goes_on_from(context.cloned());
        }
        let mut stack = controls::stack(stage, &timelines, recording.map(|recording| recording.maps))?;
        if let [timeline] = timelines.as_slice() {
            let beside = (networks.as_slice(), prepared.pictures);
            let residual = control::processor(stage, index, beside, timeline, kernel(stage))?;
            stack.processors.extend(residual.map(|residual| Box::new(residual) as Box<dyn AttentionProcessor>));
        }
        stack.processors.extend(subject.iter().flat_map(|subject| subject.processors(&kernel(stage))));
        let mut nobody = ();
        let steps: &mut dyn StepHook = match &mut checkpoints {
            Some(checkpoints) => &mut **checkpoints,
            None => &mut nobody,
        };
        let until = recording.map_or(stage.sampler.steps, |recording| recording.until);
        let reporting = Reporting {
            hook: &mut previewer.then(steps),
            part: index,
            steps: (index * until, stage.segments.len() * until),
            begins: std::mem::take(&mut begins),
            after,
        };
        let motion = stage.method.zero_shot.as_ref().and_then(|zero_shot| zero_shot.motion.as_ref());
        if let (None, Some(motion)) = (&from, motion) {
            let part = MovedPart { stage, index, start: before, denoiser: &*denoiser, rule: &rule, prepared, context };
            from = Some(part.begin(motion, until, observer)?);
        }
        let inputs = timelines.iter().map(|timeline| input(stage, (index, before), timeline, prepared, context));
        let measured = prepared.measured;
        let store = RefCell::new(match measured {
            Some(_) => Kept::measuring(),
            None => Kept::stored_as(stage.kept_dtype()),
        });
        let computed = computed(stage, prepared, recording);
        let cost = work::taken_cost(stage);
        let caching = computed.as_deref().map(|computed| StepCache { computed, kept: &store, cost, measured });
        let run = Denoising {
            network: network(stage, &*denoiser, &mut stack.processors),
            sampling: Sampling { caching, ..sampling(stage, &rule, prepared, until) },
            timelines: inputs.collect::<Result<_>>()?,
            uncond: &prepared.texts.uncond,
            from,
            reporting,
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

/// A segment of an image model's video in motion.
struct MovedPart<'a> {
    stage: &'a Stage,
    index: usize,
    /// Its first frame among all.
    start: usize,
    denoiser: &'a dyn Denoiser,
    rule: &'a Rule,
    prepared: &'a Prepared<'a>,
    context: Option<&'a Context>,
}

impl MovedPart<'_> {
    /// What the loop goes on from with all frames.
    fn begin(&self, motion: &MotionPlan, until: usize, observer: &mut dyn Observer) -> Result<SamplerState> {
        let &Self { stage, index, start, denoiser, rule, prepared, context } = self;
        let anchor = zero_shot::anchor(stage, index);
        // a stack of its own: the steps of the two overlap
        let mut stack = controls::stack(stage, std::slice::from_ref(&anchor), None)?;
        let own = input(stage, (index, start), &anchor, prepared, context)?;
        let how = sampling(stage, rule, prepared, until);
        let network = network(stage, denoiser, &mut stack.processors);
        let place = (index, start..start + stage.segments[index].plan.frames);
        let mut state = zero_shot::begin(motion, place, (network, how), own, &prepared.texts.uncond, observer)?;
        if let (Some(smoothing), [timeline]) = (&motion.smoothing, state.timelines.as_mut_slice()) {
            let masks = self.masks(smoothing, timeline.clone(), motion.first, observer)?;
            timeline.latents = smoothed(motion, smoothing, &masks, &timeline.latents)?;
        }
        Ok(state)
    }

    /// The foregrounds of the frames, which without smoothing would go on from `plain` at step `first`.
    fn masks(
        &self,
        smoothing: &Smoothing,
        plain: TimelineState,
        first: usize,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Tensor>> {
        let &Self { stage, index, start, denoiser, rule, prepared, context } = self;
        let ((_, height, width), device) = (stage.size.latents, &stage.compute.device);
        let (threshold, maps) = match (&smoothing.foreground, Maps::of_foreground(stage)?) {
            (Foreground::Words { threshold, .. }, Some(maps)) => (*threshold, maps),
            (Foreground::Pictures { file, .. }, _) => {
                let shown = stage.first_shown(index);
                let frames = shown..shown + stage.segments[index].plan.frames;
                return smoothing::of_pictures(file, frames, (height, width), device);
            }
            _ => bail!("nothing says where the foreground is"),
        };
        let timelines = stage.timelines(&stage.segments[index]);
        let mut stack = controls::stack(stage, &timelines, Some(&maps))?;
        let inputs = timelines.iter().map(|timeline| input(stage, (index, start), timeline, prepared, context));
        let until = maps.until(stage.sampler.steps);
        let run = Denoising {
            network: network(stage, denoiser, &mut stack.processors),
            sampling: sampling(stage, rule, prepared, until),
            timelines: inputs.collect::<Result<_>>()?,
            uncond: &prepared.texts.uncond,
            from: Some(SamplerState { done: first, timelines: vec![plain], kept: Vec::new() }),
            reporting: Reporting { hook: &mut Before::default(), part: 0, steps: (0, until), begins: true, after: 0.0 },
        };
        denoise(run, observer)?;
        let seen: Vec<Tensor> = of_segment(stage, index, stack.take_maps())?.into_values().collect();
        smoothing::of_words(&seen, threshold, (height, width), device)
    }
}

/// By step, whether it is computed, where not all are; steps whose maps are recorded always.
fn computed(stage: &Stage, prepared: &Prepared, recording: Option<&Recording>) -> Option<Vec<bool>> {
    if prepared.measured.is_some() {
        return Some(vec![true; stage.sampler.steps]);
    }
    let mut computed = stage.cache.as_ref()?.computed.clone();
    let steps = computed.len();
    for step in recording.into_iter().flat_map(|recording| recording.maps.steps.below(steps)) {
        computed[step] = true;
    }
    Some(computed)
}

/// How the network of a stage is asked.
fn network<'a>(
    stage: &'a Stage,
    denoiser: &'a dyn Denoiser,
    stack: &'a mut [Box<dyn AttentionProcessor>],
) -> Network<'a> {
    Network { denoiser, stack, kernel: kernel(stage), micro_batch: MICRO_BATCH, device: &stage.compute.device }
}

/// The attention kernel of its networks.
pub(super) fn kernel(stage: &Stage) -> Sdpa {
    let Compute { dtype, attention, .. } = &stage.compute;
    Sdpa { kernel: *attention, bf16: *dtype == DType::BF16, ..Sdpa::default() }
}

/// How its predictions become steps, up to step `until`.
fn sampling<'a>(stage: &'a Stage, rule: &'a Rule, prepared: &'a Prepared, until: usize) -> Sampling<'a> {
    let &Prepared { noise, draws, .. } = prepared;
    Sampling {
        rule,
        table: stage.sampler.table,
        blend: stage.rules.blend,
        draws,
        sharing: stage.controls.sharing.as_ref(),
        noise,
        shape: stage.size.latents,
        first: stage.first_step(),
        until,
        caching: None,
    }
}

/// What a timeline of segment `index` is made of, whose first latent frame is `start` among all of the video. `context`: what
/// it goes on from.
fn input<'a>(
    stage: &Stage,
    (index, start): (usize, usize),
    timeline: &'a Timeline,
    prepared: &Prepared,
    context: Option<&Context>,
) -> Result<Input<'a>> {
    let segment = &stage.segments[index];
    let texts = timeline.plan.texts.iter().map(|text| mix(&prepared.texts.prompts, text));
    let concat =
        prepared.concat.map(|all| all.narrow(0, start, timeline.plan.frames)?.to_device(&stage.compute.device));
    let device = &stage.compute.device;
    let known = match context {
        Some(context) => Some(given::seen(stage, context.known(segment, device)?)),
        None => given::known(stage, segment, prepared.given, device)?,
    };
    Ok(Input {
        timeline,
        told: given::told(stage, &timeline.plan, prepared.texts)?,
        texts: texts.collect::<candle_core::Result<_>>()?,
        concat: concat.transpose()?,
        start,
        known,
        refined: prepared.refined.map(|refined| refined[index].to_device(&stage.compute.device)).transpose()?,
        scheduler: stage.sampler.build()?,
    })
}

/// Writes the latents of all segments as one timeline: `latents` `[1, F, C, H, W]` in f32.
pub fn write_latents(path: &Path, latents: &[Tensor]) -> Result<()> {
    write_tensors(path, &[("latents", &Tensor::cat(latents, 0)?.unsqueeze(0)?.to_dtype(DType::F32)?)])
}
