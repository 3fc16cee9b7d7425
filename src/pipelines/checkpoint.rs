//! Checkpoints of a run: written while it is in progress, read when it is resumed.
//!
//! Saved are the timelines of a segment between two steps with the states of their samplers, denoised ones, and (see
//! [`super::frame_cache`]) decoded frames. Everything else follows from the plan: noise is computed again for any step, and no control has state from one
//! step to the next. So a resumed run equals one that was never interrupted, byte for byte.
//!
//! The run directory is created when there is something to save: at the first checkpoint that is due, when the run is
//! interrupted, or when the first timeline is done. A directory that cannot be written does not end the run.

use super::denoise::{StepHook, StepInfo};
use super::extend::Context as Before;
use super::record::{CONTROLNET, hashes};
use super::segment::kept;
use super::state::{SamplerState, pack, unpack, unpack_kept};
use crate::interpolation::Interpolator;
use crate::job::values::{Every, OnInterrupt};
use crate::job::{Anchor, Foreground, Job, Stage, Timeline};
use crate::run::directory::{self, Plan, RunDir, RunLocked, RunReadOnly};
use crate::run::journal::{Record, SCHEMA, StoredFile};
use crate::run::{Code, Event, Failure, Observer, Phase, WithCode, interrupt};
use crate::video::{Fault, VideoError};
use crate::weights::{bytes_of, tensors_of};
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Finished latents are synced to disk if losing them would lose at least this much work.
const AT_STAKE: Duration = Duration::from_secs(10);

/// Checkpoints of a kind that are kept: one more than needed, in case the last is damaged.
pub(super) const STAY: usize = 2;

/// A place where decoding can be resumed.
#[derive(Debug, Clone)]
pub struct FramesPoint {
    pub part: usize,
    pub chunks: usize,
    pub bytes: u64,
    pub blake3: String,
    pub caches: Option<StoredFile>,
}

/// A denoised timeline.
enum Done {
    Here(Tensor),
    /// In the directory: of videos whose chunks are not all in memory.
    Kept(StoredFile),
}

/// Saves the progress of one run, and finds it again when the run is resumed.
pub struct Checkpointer<'a> {
    job: &'a Job,
    /// The current stage.
    stage: usize,
    dir: Option<RunDir>,
    /// Denoised timelines by part: parts are the segments of all stages, counted through.
    done: BTreeMap<usize, Done>,
    /// Timelines between steps: part, steps done, file; the newest last.
    steps: Vec<(usize, usize, StoredFile)>,
    /// Places in the decode, the newest last.
    pub(super) frames: Vec<FramesPoint>,
    /// When everything was last saved.
    safe: Instant,
    /// When the last step or chunk ended.
    tick: Instant,
    told: bool,
    /// What the present timeline goes on from.
    before: Option<Before>,
    /// The estimate of an interrupted timeline.
    draft: Option<Tensor>,
}

impl<'a> Checkpointer<'a> {
    /// Looks for an earlier run of the same plan where that is asked for.
    ///
    /// # Errors
    /// When another process works on it, or it cannot be written. What is damaged is told, and the run begins where it still can.
    pub fn begin(job: &'a Job, observer: &mut dyn Observer) -> Result<Self, Failure> {
        let now = Instant::now();
        let mut checkpoints = Self {
            job,
            stage: 0,
            dir: None,
            done: BTreeMap::new(),
            steps: Vec::new(),
            frames: Vec::new(),
            safe: now,
            tick: now,
            told: false,
            before: None,
            draft: None,
        };
        let rules = &job.keep;
        let Some(root) = &rules.root else {
            if rules.resume {
                let message = "--resume: there is no user directory to look for runs in: give --work-dir";
                return Err(Failure::message(Code::Usage, message));
            }
            return Ok(checkpoints);
        };
        if !rules.resume && !root.exists() {
            return Ok(checkpoints); // the common case costs nothing
        }
        let path = root.join(directory::id(&identity(job).code(Code::Model)?));
        let mut warn = |message: String| observer.event(&Event::Warning(message));
        if !path.exists() {
            if rules.resume {
                let (seed, root) = (job.seed, root.display());
                warn(format!("no run of this plan with seed {seed} is kept in {root}: beginning anew"))?;
            }
            return Ok(checkpoints);
        }
        if !rules.resume {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = directory::short(&name);
            warn(format!(
                "an earlier run of this plan is kept as {name}; it is replaced by this one: --resume would go on with it"
            ))?;
            return Ok(checkpoints);
        }
        match RunDir::open(&path) {
            Ok(opened) => {
                for warning in opened.warnings {
                    warn(warning)?;
                }
                checkpoints.take(opened.dir, opened.records, observer)?;
            }
            Err(error) if error.is::<RunLocked>() || error.is::<RunReadOnly>() => return Err(error.into()),
            Err(error) => warn(format!("{error:#}: beginning anew"))?,
        }
        Ok(checkpoints)
    }

    /// Takes over what a directory holds.
    fn take(&mut self, dir: RunDir, records: Vec<Record>, observer: &mut dyn Observer) -> Result<()> {
        let parts = self.job.parts();
        for record in records {
            match record {
                Record::Step { part, .. } | Record::Frames { part, .. } if part >= parts => {} // not of this run
                Record::Begun { .. } | Record::Finished { .. } => {}
                Record::Step { part, done, file } => self.steps.push((part, done, file)),
                Record::Frames { part, chunks, bytes, blake3, caches } => {
                    self.frames.push(FramesPoint { part, chunks, bytes, blake3, caches });
                }
                Record::Latents { part, file } if self.job.part(part).is_some_and(|(stage, _)| chunked(stage)) => {
                    self.done.insert(part, Done::Kept(file));
                }
                Record::Latents { part, file } => match read_latents(self.job, part, &dir, &file) {
                    Ok(latents) => {
                        self.done.insert(part, Done::Here(latents));
                    }
                    Err(error) => observer.event(&Event::Warning(format!("{error:#}: these latents are made anew")))?,
                },
            }
        }
        self.steps.retain(|(part, ..)| !self.done.contains_key(part));
        // the files of older ones are gone
        self.steps.drain(..self.steps.len().saturating_sub(STAY));
        self.frames.drain(..self.frames.len().saturating_sub(STAY));
        self.attach(dir);
        Ok(())
    }

    fn attach(&mut self, dir: RunDir) {
        match self.job.keep.on_interrupt {
            OnInterrupt::Discard => interrupt::discard(Some(dir.path().to_owned())),
            _ => interrupt::hint(Some(format!("interrupted; to go on: {}", self.command(&dir)))),
        }
        self.dir = Some(dir);
    }

    /// The command that resumes the run.
    fn command(&self, dir: &RunDir) -> String {
        let place = match &self.job.keep.root {
            Some(root) if self.job.keep.named => format!(" --work-dir {}", root.display()),
            _ => String::new(),
        };
        format!("vidgen resume {}{place}", dir.name())
    }

    /// Selects the stage that the following calls are about.
    pub fn enter(&mut self, stage: usize) {
        self.stage = stage;
    }

    fn stage(&self) -> &'a Stage {
        &self.job.stages[self.stage]
    }

    /// The part that a segment of the stage is.
    fn part(&self, segment: usize) -> usize {
        self.job.first_part(self.stage) + segment
    }

    /// The denoised timeline of a segment, if it is there.
    pub fn finished(&self, segment: usize) -> Option<Tensor> {
        let part = self.part(segment);
        match self.done.get(&part)? {
            Done::Here(latents) => Some(latents.clone()),
            Done::Kept(file) => read_latents(self.job, part, self.dir.as_ref()?, file).ok(),
        }
    }

    /// The same, read now; where it cannot be read it is made anew.
    pub fn chunk(&mut self, segment: usize, observer: &mut dyn Observer) -> Result<Option<Tensor>> {
        let part = self.part(segment);
        let Some(Done::Kept(file)) = self.done.get(&part) else { return Ok(self.finished(segment)) };
        let dir = self.dir.as_ref().context("no directory")?;
        match read_latents(self.job, part, dir, file) {
            Ok(latents) => Ok(Some(latents)),
            Err(error) => {
                observer.event(&Event::Warning(format!("{error:#}: these latents are made anew")))?;
                self.done.remove(&part);
                Ok(None)
            }
        }
    }

    /// What the timeline that is worked on next goes on from.
    pub fn goes_on_from(&mut self, before: Option<Before>) {
        self.before = before;
    }

    /// Whether all timelines of a stage are.
    pub fn all_finished(&self, stage: usize) -> bool {
        let first = self.job.first_part(stage);
        (first..first + self.job.stages[stage].segments.len()).all(|part| self.done.contains_key(&part))
    }

    /// The newest intact checkpoint inside a segment.
    pub fn point(
        &mut self,
        segment: usize,
        timelines: &[Timeline],
        observer: &mut dyn Observer,
    ) -> Result<Option<SamplerState>> {
        let (part, stage) = (self.part(segment), self.stage());
        while let Some((_, done, file)) = self.steps.last().filter(|(at, ..)| *at == part).cloned() {
            let read = || -> Result<SamplerState> {
                ensure!(done < stage.steps(segment), "step {done} of {}", stage.steps(segment));
                let bytes = self.dir.as_ref().context("no directory")?.get(&file)?;
                let timelines = unpack(&bytes, timelines, stage.size.latents, &stage.compute.device)?;
                let kept = unpack_kept(&bytes, &stage.compute.device)?;
                let taken = stage.cache.as_ref().and_then(|cache| cache.computed.get(done)) == Some(&false);
                ensure!(!(taken && kept.is_empty()), "holds nothing for step {done}, which is not computed");
                Ok(SamplerState { done, timelines, kept })
            };
            match read() {
                Ok(state) => return Ok(Some(state)),
                Err(error) => {
                    observer.event(&Event::Warning(format!("{error:#}: going back to what was kept before")))?;
                    self.steps.pop();
                }
            }
        }
        Ok(None)
    }

    /// The directory, which is made if there is none.
    pub(super) fn directory(&mut self) -> Result<&mut RunDir> {
        if self.dir.is_none() {
            let root = self.job.keep.root.as_ref().context("no user directory: give --work-dir")?;
            let dir = RunDir::create(root, &plan(self.job)?)?;
            self.attach(dir);
        }
        self.dir.as_mut().context("no directory")
    }

    /// The directory, if there is one.
    pub(super) fn made(&mut self) -> Option<&mut RunDir> {
        self.dir.as_mut()
    }

    /// Whether it is time, after a step or a chunk: `done` of them, and time that would be lost before the next one ends.
    pub(super) fn due(&mut self, done: usize) -> bool {
        let took = self.tick.elapsed();
        self.tick = Instant::now();
        match self.job.keep.every {
            Every::Steps(steps) => done.is_multiple_of(steps),
            Every::Time(time) => (self.safe.elapsed() + took).as_secs_f64() >= time.0,
        }
    }

    /// Everything so far is saved.
    pub(super) fn is_safe(&mut self) {
        self.safe = Instant::now();
    }

    pub(super) fn job(&self) -> &'a Job {
        self.job
    }

    /// Warns, once, that something could not be saved.
    pub(super) fn trouble(&mut self, error: &anyhow::Error, observer: &mut dyn Observer) -> Result<()> {
        if std::mem::replace(&mut self.told, true) {
            return Ok(());
        }
        observer.event(&Event::Warning(format!("the run cannot be kept: {error:#}; it goes on without")))
    }

    fn save_step(&mut self, segment: usize, state: &SamplerState) -> Result<()> {
        let part = self.part(segment);
        let (bytes, done) = (pack(&state.timelines, &state.kept)?, state.done);
        let dir = self.directory()?;
        let file = dir.put(&format!("step-{part}-{done}.safetensors"), &bytes, true)?;
        dir.note(&Record::Step { part, done, file: file.clone() }, true)?;
        self.steps.push((part, done, file));
        if self.steps.len() > STAY {
            let (.., old) = self.steps.remove(0);
            self.directory()?.drop_piece(&old);
        }
        self.is_safe();
        Ok(())
    }

    /// Keeps a timeline that is done: `[F, C, H, W]` without padding. Before it is decoded, always.
    pub fn latents(&mut self, segment: usize, latents: &Tensor, observer: &mut dyn Observer) -> Result<(), Failure> {
        let (part, stage) = (self.part(segment), self.stage());
        let saved = self.save_latents(part, latents);
        match &saved {
            // what is on disk need not be in memory as well
            Ok((_, file)) if chunked(stage) => drop(self.done.insert(part, Done::Kept(file.clone()))),
            Err(_) if chunked(stage) => {}
            _ => drop(self.done.insert(part, Done::Here(latents.clone()))),
        }
        match saved {
            Ok((path, _)) => {
                let (index, of) = (stage.steps_before(segment + 1), stage.steps_before(stage.segments.len()));
                observer.event(&Event::Checkpoint { phase: Phase::Denoise, index, of, path })?;
            }
            Err(error) => self.trouble(&error, observer)?,
        }
        // what is left is decoding, which a draft would be as well
        let decodes = self.job.keep.on_interrupt == OnInterrupt::Decode && self.all_finished(self.job.stages.len() - 1);
        if interrupt::asked() && !decodes { Err(self.interrupted()) } else { Ok(()) }
    }

    fn save_latents(&mut self, part: usize, latents: &Tensor) -> Result<(std::path::PathBuf, StoredFile)> {
        let bytes = bytes_of(&[("latents", &latents.unsqueeze(0)?.to_dtype(DType::F32)?)])?;
        let durable = self.safe.elapsed() >= AT_STAKE || matches!(self.job.keep.every, Every::Steps(_));
        let dir = self.directory()?;
        let file = dir.put(&format!("latents-{part}.safetensors"), &bytes, durable)?;
        dir.note(&Record::Latents { part, file: file.clone() }, durable)?;
        let path = dir.path().to_owned();
        for (.., old) in std::mem::take(&mut self.steps) {
            self.directory()?.drop_piece(&old);
        }
        if durable {
            self.is_safe();
        }
        Ok((path, file))
    }

    /// Ends the run if the user interrupted it, where nothing new has to be saved.
    pub fn heard(&self) -> Result<(), Failure> {
        if interrupt::asked() { Err(self.interrupted()) } else { Ok(()) }
    }

    /// The failure of an interrupted run, with the command that resumes it.
    pub fn interrupted(&self) -> Failure {
        let steps = self.steps.last().map_or(0, |(part, done, _)| self.job.steps_before(*part) + done);
        let steps = self.done.keys().map(|part| self.job.steps_before(part + 1)).max().unwrap_or(0).max(steps);
        let of = self.job.steps_before(self.job.parts());
        let message = match &self.dir {
            Some(dir) if steps == of => format!("interrupted while decoding; to go on: {}", self.command(dir)),
            Some(dir) => format!("interrupted, {steps} of {of} steps are kept; to go on: {}", self.command(dir)),
            None => "interrupted: nothing unfinished was kept".to_owned(),
        };
        Failure::message(Code::Interrupted, message)
    }

    /// The stage and the timelines of a draft of the video, where one was asked for: those that are done, and the estimate of
    /// the one that was interrupted.
    pub fn draft(&mut self) -> Option<(&'a Stage, Vec<Tensor>)> {
        let estimate = self.draft.take()?;
        let done = (0..).map_while(|segment| self.finished(segment));
        Some((self.stage(), done.chain([estimate]).collect()))
    }

    /// Whether the directory holds all latents, for runs whose video failed.
    pub fn holds_latents(&self) -> bool {
        self.dir.is_some() && self.all_finished(self.job.stages.len() - 1) && !self.told
    }

    /// A failure, with the command that resumes the run; none for a closed pipe, whose reader wants no more.
    pub fn failed(self, failure: Failure) -> Failure {
        let gone = failure.find::<VideoError>().is_some_and(|error| error.fault == Fault::BrokenPipe);
        if gone && !self.job.keep.keep {
            if let Some(dir) = self.dir {
                let _ = dir.remove(); // it would only take room
            }
            return failure;
        }
        let goes_on = matches!(failure.code, Code::Failed | Code::Memory | Code::Encoder);
        let Some(dir) = self.dir.as_ref().filter(|_| goes_on) else { return failure };
        let latents = if self.holds_latents() {
            let first = self.job.first_part(self.job.stages.len() - 1);
            format!("the latents are kept in {}; ", dir.path().join(format!("latents-{first}.safetensors")).display())
        } else {
            String::new()
        };
        let message = format!("{}; {latents}to go on: {}", failure.line(), self.command(dir));
        Failure::message(failure.code, message)
    }

    /// The video is whole.
    pub fn finish(mut self, output: &str, observer: &mut dyn Observer) -> Result<()> {
        interrupt::hint(None);
        interrupt::discard(None);
        let keep = self.job.keep.keep;
        let Some(mut dir) = self.dir.take() else { return Ok(()) };
        let path = dir.path().to_owned();
        let done = if keep {
            dir.strip();
            dir.note(&Record::Finished { output: output.to_owned() }, true)
        } else {
            dir.remove()
        };
        match done {
            Ok(()) if keep => observer.event(&Event::Saved { kind: "run", path }),
            Ok(()) => Ok(()),
            Err(error) => observer.event(&Event::Warning(format!("{error:#}"))),
        }
    }
}

impl StepHook for Checkpointer<'_> {
    fn step(&mut self, at: &StepInfo, observer: &mut dyn Observer) -> Result<()> {
        let due = self.due(at.done);
        if at.done == at.steps {
            return Ok(()); // the latents are kept next
        }
        let asked = interrupt::asked();
        if due || asked {
            match self.save_step(at.part, &(at.state)()) {
                Ok(()) => {
                    let stage = self.stage();
                    let index = stage.steps_before(at.part) + at.done;
                    let of = stage.steps_before(stage.segments.len());
                    let path = self.directory()?.path().to_owned();
                    observer.event(&Event::Checkpoint { phase: Phase::Denoise, index, of, path })?;
                }
                Err(error) => self.trouble(&error, observer)?,
            }
        }
        if asked {
            if self.job.keep.on_interrupt == OnInterrupt::Decode {
                let (stage, segment) = (self.stage(), &self.stage().segments[at.part]);
                let estimate = kept(segment, &stage.timelines(segment), &(at.estimates)()?)?;
                self.draft = Some(match &self.before {
                    Some(before) => before.before(estimate)?,
                    None => estimate,
                });
            }
            return Err(self.interrupted().into());
        }
        Ok(())
    }
}

/// Whether a stage is made chunk by chunk.
fn chunked(stage: &Stage) -> bool {
    stage.method.streaming.is_some()
}

/// The latents of a part, `[F, C, H, W]`.
pub(super) fn read_latents(job: &Job, part: usize, dir: &RunDir, file: &StoredFile) -> Result<Tensor> {
    let (stage, segment) = job.part(part).with_context(|| format!("part {part} of {}", job.parts()))?;
    let latents = tensors_of(&dir.get(file)?)?.remove("latents").context("holds no latents")?;
    let (c, h, w) = stage.size.latents;
    let frames = (segment.plan.keep - segment.padding) * stage.shown();
    // before those of a part that goes on from given latents are the given ones
    let fits = |found: usize| found == frames || (segment.context > 0 && found > frames);
    ensure!(
        matches!(*latents.dims(), [1, found, channels, height, width] if fits(found) && (channels, height, width) == (c, h, w)),
        "latents of shape {:?} are no video of this length, which takes {:?}",
        latents.dims(),
        [1, frames, c, h, w]
    );
    Ok(latents.squeeze(0)?)
}

/// All that decides the bytes of a video: what was asked for, by which version, with which weights and dtypes.
fn identity(job: &Job) -> Result<Value> {
    let stage = job.first();
    let interpolated = job.output.interpolate.is_some();
    let later = job.stages[1..].iter();
    let later: Vec<Value> = later
        .map(|stage| Ok(json!([hashes(stage)?, stage.model.folder.configurations_hash()?])))
        .collect::<Result<_>>()?;
    Ok(json!({
        "schema": SCHEMA,
        "version": env!("CARGO_PKG_VERSION"),
        "request": job.request.of_content().json()?,
        "weights": hashes(stage)?,
        "configurations": stage.model.folder.configurations_hash()?,
        "stages": later,
        "noise": stage.input.noise.as_deref().map(directory::file_hash).transpose()?,
        "control": stage.method.control_inputs.iter().map(|i| directory::file_hash(&i.footage.path)).collect::<Result<Vec<_>>>()?,
        "anchor": anchor(stage).map(directory::file_hash).transpose()?,
        "masks": masks(stage).map(directory::file_hash).transpose()?,
        "given": given(stage).map(directory::file_hash).transpose()?,
        "first_frame": stage.input.first_frame.as_ref().map(|given| directory::file_hash(&given.path)).transpose()?,
        "pictures": pictures(stage).iter().map(|file| directory::file_hash(file)).collect::<Result<Vec<_>>>()?,
        "rife": Interpolator::place().filter(|_| interpolated).as_deref().map(directory::file_hash).transpose()?,
        "device": stage.compute.device_name(),
        "dtypes": [stage.compute.dtype.as_str(), stage.compute.text_dtype.as_str(), stage.compute.vae_dtype.as_str()],
        "attention": stage.compute.attention.name(),
        "threads": job.machine.threads,
    }))
}

/// The video that a stage goes on from or changes.
pub(super) fn given(stage: &Stage) -> Option<&Path> {
    let continued = stage.input.source_video.as_ref().map(|given| given.path.as_path());
    let refined = stage.input.footage.as_ref().map(|footage| footage.path.as_path());
    continued.or(refined).or(stage.method.instruct.as_ref().map(|instruct| instruct.footage.path.as_path()))
}

/// The picture that chunks are held to.
fn anchor(stage: &Stage) -> Option<&Path> {
    match &stage.method.streaming.as_ref()?.anchor {
        Anchor::Image(picture) => Some(&picture.path),
        _ => None,
    }
}

/// The pictures that say where the foreground is.
fn masks(stage: &Stage) -> Option<&Path> {
    match &stage.method.zero_shot.as_ref()?.smoothing()?.foreground {
        Foreground::Pictures { file, .. } => Some(file),
        Foreground::Words { .. } => None,
    }
}

/// The files of the frames that are given of a stage.
fn pictures(stage: &Stage) -> Vec<&Path> {
    stage.method.given.iter().flat_map(|given| &given.files).map(|file| file.path.as_path()).collect()
}

fn plan(job: &Job) -> Result<Plan> {
    let stage = job.first();
    Ok(Plan {
        schema: SCHEMA.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        created: directory::now(),
        folder: std::env::current_dir()?,
        prompts: stage.text.prompts.clone(),
        output: job.output.video.asked(),
        steps: (0..job.parts()).map(|part| job.steps_before(part + 1) - job.steps_before(part)).collect(),
        threads: job.machine.threads,
        identity: identity(job)?,
        request: job.request.json()?,
    })
}

/// What of a run's plan is different here and now; none if it can be gone on with.
pub fn differs(job: &Job, plan: &Plan) -> Result<Option<(Code, String)>> {
    let now = identity(job)?;
    let Some(before) = plan.identity.as_object() else { return Ok(Some((Code::Failed, "the plan is damaged".into()))) };
    let Some((key, value)) = before.iter().find(|(key, value)| now[key.as_str()] != **value) else { return Ok(None) };
    let what = match key.as_str() {
        "weights" => {
            let part = value
                .as_object()
                .and_then(|parts| parts.iter().find(|(part, hash)| now["weights"][part.as_str()] != **hash));
            let part = part.map_or("", |(part, _)| part.as_str());
            let folder = &job.first().model.folder;
            let (place, loras) = (folder.place(), !folder.loras().is_empty());
            let flag = if part.starts_with(CONTROLNET) { "--control-model" } else { "--model" };
            let loras = if loras { ", and their LoRA files by --lora" } else { "" };
            return Ok(Some((
                Code::Model,
                format!(
                    "{place}: the weights of part {part:?} are not those it was begun with: give the place of those by {flag}{loras}"
                ),
            )));
        }
        "configurations" => {
            let place = job.first().model.folder.place();
            return Ok(Some((Code::Model, format!("{place}: its configurations are not those it was begun with"))));
        }
        "stages" => "the model of --enhance is another".to_owned(),
        "rife" => "the network of --interpolate is another".to_owned(),
        "noise" => "the file of --init-noise is another".to_owned(),
        "control" => "the pictures of --control are others".to_owned(),
        "anchor" => "the picture of --anchor is another".to_owned(),
        "masks" => "the pictures of --mask are others".to_owned(),
        "given" => "the given video is another".to_owned(),
        "first_frame" => "the picture of --first-frame is another".to_owned(),
        "pictures" => "the given frames are others".to_owned(),
        "version" | "schema" => format!("it was begun by vidgen {}", plan.version),
        "request" => "what was asked for reads differently now".to_owned(),
        key => format!("{key} was {value} and is {}", now[key]),
    };
    Ok(Some((Code::Failed, what)))
}
