//! Prompts to video: one prompt and one window (`generate`), several prompts over overlapping windows (`multi-prompt`), or
//! windows that go on from a given video (`extend`). They differ in their plan, and in what is known of the timeline.

use super::checkpoint::Checkpointer;
use super::control;
use super::draws::Draws;
use super::extend::{self, Context};
use super::footage;
use super::frames::{as_they_come, draft, frames, keep, sweep};
use super::given;
use super::latents::{Prepared, latents, noise, write_latents};
use super::loaded::Loaded;
use super::placed;
use super::record::record;
use super::refine::{Made, refined};
use super::segment::alone;
use super::streaming::{Sinks, stream};
use super::texts::encode;
use crate::estimate::outline;
use crate::job::values::OnInterrupt;
use crate::job::{Job, Stage};
use crate::run::manifest::{Manifest, RunFacts, Stopwatch};
use crate::run::{Code, Event, Failure, Observer, Plan, WithCode, interrupt};
use crate::video::{Fit, Format, Frame, Spool, Written};
use crate::weights::TensorWriter;
use candle_core::Tensor;
use serde_json::json;

/// What a run has made.
#[derive(Debug)]
pub struct Outcome {
    pub video: Written,
    pub manifest: Manifest,
}

impl Outcome {
    /// What `--json` prints: where the video is, and the record of the run.
    pub fn json(&self) -> serde_json::Value {
        let Written { path, codec, bytes, frames, warnings } = &self.video;
        json!({
            "output": path.to_string_lossy(), "codec": codec, "bytes": bytes, "frames": frames, "warnings": warnings,
            "manifest": self.manifest,
        })
    }
}

/// Makes the video of a job. Partial files are gone when it fails; what was done is kept until the video is whole, and the
/// error says how to go on.
pub fn run(job: &Job, loaded: &mut Loaded, observer: &mut dyn Observer) -> Result<Outcome, Failure> {
    // on a thread of the pool, where an operation begins at once instead of waiting for one to wake
    rayon::scope(|_| run_in_pool(job, loaded, observer))
}

fn run_in_pool(job: &Job, loaded: &mut Loaded, observer: &mut dyn Observer) -> Result<Outcome, Failure> {
    // nothing is to be saved where everything is discarded: such a run ends at once
    let _attention = (job.keep.on_interrupt != OnInterrupt::Discard).then(interrupt::attend);
    for warning in &job.warnings {
        observer.event(&Event::Warning(warning.clone()))?;
    }
    observer.event(&Event::Plan(Box::new(plan(job))))?;
    sweep(job, observer)?;
    let mut checkpoints = Checkpointer::begin(job, observer)?;
    let mut watch = Stopwatch::new(observer);
    match made(job, loaded, &mut checkpoints, &mut watch) {
        Ok((video, mut manifest)) => {
            let offload = Some(job.first().compute.offload.to_string());
            manifest.run = Some(RunFacts { offload, ..watch.facts(job.machine.threads) });
            if job.output.manifest.writes_sidecar()
                && let Some(path) =
                    manifest.write_sidecar(&video.path, job.output.video.overwrite).code(Code::Failed)?
            {
                observer.event(&Event::Saved { kind: "manifest", path })?;
            }
            checkpoints.finish(&video.path.to_string_lossy(), observer)?;
            Ok(Outcome { video, manifest })
        }
        Err(failure) if failure.code == Code::Interrupted => Err(match checkpoints.draft() {
            None => failure,
            Some((stage, latents)) => drafted(job, stage, loaded, &latents, failure, observer),
        }),
        Err(failure) => Err(checkpoints.failed(failure)),
    }
}

/// Stage after stage, from the texts to the closed file.
fn made(
    job: &Job,
    loaded: &mut Loaded,
    checkpoints: &mut Checkpointer,
    watch: &mut Stopwatch,
) -> Result<(Written, Manifest), Failure> {
    checkpoints.heard()?;
    if job.last().method.streaming.is_some() {
        return chunks(job, loaded, checkpoints, watch);
    }
    let context = extend::context(job.first(), watch)?;
    let known = context.clone().or(extend::first_frame(job.first(), watch)?);
    let mut made = Made::Latents(Vec::new());
    for index in 0..job.stages.len() {
        made = stage(job, index, made, known.as_ref(), loaded, checkpoints, watch)?;
    }
    let Made::Latents(latents) = made else { return Err(anyhow::anyhow!("the last stage made no latents").into()) };
    if let Some(path) = &job.output.latents {
        write_latents(path, &alone(job.last(), &latents)?).code(Code::Failed)?;
        watch.event(&Event::Saved { kind: "latents", path: path.clone() })?;
    }
    let mut manifest = record(job).code(Code::Model)?;
    extend::note(job.first(), context.as_ref(), &mut manifest)?;
    let video = frames(job, loaded, &latents, &manifest, checkpoints, watch);
    let video = video.map_err(|failure| match failure.code {
        Code::Encoder if !checkpoints.holds_latents() => {
            keep(job, &alone(job.last(), &latents).unwrap_or(latents.clone()), failure)
        }
        _ => failure,
    })?;
    for warning in &video.warnings {
        watch.event(&Event::Warning(warning.clone()))?;
    }
    watch.event(&Event::Saved { kind: "video", path: video.path.clone() })?;
    Ok((video, manifest))
}

/// The video of a job whose chunks go on from each other, written as they come.
fn chunks(
    job: &Job,
    loaded: &mut Loaded,
    checkpoints: &mut Checkpointer,
    watch: &mut Stopwatch,
) -> Result<(Written, Manifest), Failure> {
    let manifest = record(job).code(Code::Model)?;
    let stage = job.last();
    let frames: usize = stage.segments.iter().map(|segment| segment.frames).sum();
    let (c, h, w) = stage.size.latents;
    let latents = job.output.latents.as_ref();
    let latents = latents.map(|path| TensorWriter::create(path, "latents", &[1, frames, c, h, w]));
    let mut latents = latents.transpose().code(Code::Failed)?;
    let video = as_they_come(job, &manifest, watch, |frames, observer| {
        let mut sinks = Sinks { frames, latents: latents.as_mut() };
        stream(job, job.stages.len() - 1, loaded, checkpoints, &mut sinks, observer)
    })?;
    if let Some((path, file)) = job.output.latents.as_ref().zip(latents) {
        file.finish().code(Code::Failed)?;
        watch.event(&Event::Saved { kind: "latents", path: path.clone() })?;
    }
    for warning in &video.warnings {
        watch.event(&Event::Warning(warning.clone()))?;
    }
    watch.event(&Event::Saved { kind: "video", path: video.path.clone() })?;
    Ok((video, manifest))
}

/// What stage `index` makes of what the stage before it made. What a later stage has finished needs no earlier one.
fn stage(
    job: &Job,
    index: usize,
    before: Made,
    context: Option<&Context>,
    loaded: &mut Loaded,
    checkpoints: &mut Checkpointer,
    watch: &mut Stopwatch,
) -> Result<Made, Failure> {
    let stage = &job.stages[index];
    checkpoints.enter(index);
    if (index + 1..job.stages.len()).any(|later| checkpoints.all_finished(later)) {
        return Ok(Made::Latents(Vec::new()));
    }
    if let (Some(next), true) = (job.stages.get(index + 1), stage.method.streaming.is_some()) {
        let mut spool = Spool::new()?;
        let (width, height) = (next.size.width, next.size.height);
        let mut frames = |frame: Frame| spool.push(&frame.fitted(width, height, Fit::default()));
        let mut sinks = Sinks { frames: &mut frames, latents: None };
        stream(job, index, loaded, checkpoints, &mut sinks, watch)?;
        return Ok(Made::Frames(spool));
    }
    if checkpoints.all_finished(index) {
        let finished = (0..stage.segments.len()).filter_map(|segment| checkpoints.finished(segment));
        return Ok(Made::Latents(finished.collect()));
    }
    // noise that made the first stage's frames would lead back to them
    let seed = job.seed.wrapping_add((index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let noise = noise(stage, seed).code(Code::Usage)?;
    let texts = encode(stage, &job.machine, watch)?;
    let draws = Draws::new(stage, seed).code(Code::Usage)?;
    let given = match &before {
        Made::Latents(before) => given::latents(stage, before, watch)?,
        Made::Frames(_) => None,
    };
    let refined = match index.checked_sub(1).filter(|_| stage.input.strength.is_some()) {
        Some(earlier) => Some(refined(&job.stages[earlier], stage, before, loaded, watch)?),
        None => footage::refined(stage, watch)?.map(|latents| vec![latents]),
    };
    let concat = match given::beside(stage, &noise, watch)? {
        Some(beside) => Some(beside),
        None => footage::pictures(stage, watch)?,
    };
    let pictures = control::pictures(stage, watch)?;
    let subject = placed::latents(stage, watch)?;
    let prepared = Prepared {
        texts: &texts,
        noise: &noise,
        draws: draws.as_ref(),
        context,
        concat: concat.as_ref(),
        given: given.as_ref(),
        pictures: &pictures,
        subject: subject.as_ref(),
        refined: refined.as_deref(),
        measured: None,
    };
    latents(job, stage, loaded, &prepared, Some(checkpoints), None, watch).map(Made::Latents)
}

/// Ends an interrupted run with a draft of its video, where one was asked for.
fn drafted(
    job: &Job,
    stage: &Stage,
    loaded: &mut Loaded,
    latents: &[Tensor],
    failure: Failure,
    observer: &mut dyn Observer,
) -> Failure {
    if job.output.video.format == Format::Y4mStdout {
        return failure; // half a video in a pipe would be taken for the video
    }
    let message = match draft(job, stage, loaded, latents, observer) {
        Ok(video) => format!("{}; a draft is in {}", failure.line(), video.path.display()),
        Err(error) => format!("{}; no draft was made: {}", failure.line(), error.line()),
    };
    Failure::message(failure.code, message)
}

/// The plan of a job, for the observer.
pub(super) fn plan(job: &Job) -> Plan {
    let segments = job.stages.iter().flat_map(|stage| &stage.segments);
    Plan {
        outline: outline(job),
        windows: segments.map(|segment| segment.plan.windows.len()).sum(),
        memory: job.peak(),
        output: job.output.video.path.clone(),
    }
}
