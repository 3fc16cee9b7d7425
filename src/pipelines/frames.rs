//! The last stage: latents become frames, and frames a video.

use super::checkpoint::Checkpointer;
use super::decode::{Decoder, decode};
use super::extend;
use super::fade::Fades;
use super::frame_cache::FrameCache;
use super::latents::write_latents;
use super::loaded::Loaded;
use crate::disk;
use crate::interpolation::{Inserter, Interpolator};
use crate::job::{Job, Outputs, Stage};
use crate::models::architecture::Role;
use crate::run::manifest::{Manifest, sidecar_path};
use crate::run::{Code, Event, Failure, Observer, Phase, WithCode};
use crate::video::{self, Fault, Format, Frame, Output, Spool, VideoError, Written};
use anyhow::Context;
use candle_core::Tensor;
use std::cell::Cell;
use std::path::{Path, PathBuf};

/// Removes what runs that were killed have left of the files that this one writes, and says so.
pub(super) fn sweep(job: &Job, observer: &mut dyn Observer) -> anyhow::Result<()> {
    let sidecar = sidecar_path(&job.output.video.path).filter(|_| job.output.manifest.writes_sidecar());
    let preview = job.output.preview.as_ref().map(|preview| preview.path.clone());
    let others = [sidecar, job.output.latents.clone(), preview];
    let swept = others.iter().flatten().flat_map(|path| disk::sweep(path));
    for path in video::sweep_output(&job.output.video).into_iter().chain(swept) {
        let message = format!("{} was left by a run that was killed: removed", path.display());
        observer.event(&Event::Warning(message))?;
    }
    Ok(())
}

/// Decodes the latents of all segments into the output of the job; the source of an edit on the left of its edited version.
pub fn frames(
    job: &Job,
    loaded: &mut Loaded,
    latents: &[Tensor],
    manifest: &Manifest,
    checkpoints: &mut Checkpointer,
    observer: &mut dyn Observer,
) -> Result<Written, Failure> {
    let mut cache = FrameCache::new(checkpoints, observer)?;
    write(job.last(), loaded, latents, &output(job, manifest)?, &mut cache, observer)
}

/// Writes the frames of a job as `make` hands them on.
pub fn as_they_come(
    job: &Job,
    manifest: &Manifest,
    observer: &mut dyn Observer,
    make: impl FnOnce(&mut dyn FnMut(Frame) -> anyhow::Result<()>, &mut dyn Observer) -> Result<(), Failure>,
) -> Result<Written, Failure> {
    let output = output(job, manifest)?;
    let network = interpolator(&output, job.last())?;
    let mut writer = video::open(&output.video).code(Code::Encoder)?;
    let mut write = |frame| writer.write(frame);
    let mut inserter = Inserter::new(network.as_ref().map(|(network, factor)| (network, *factor)), &mut write);
    make(&mut |frame| inserter.write(frame, false), observer)?;
    observer.event(&Event::Phase { phase: Phase::Mux, of: 0, what: String::new() })?;
    writer.finish().code(Code::Encoder)
}

fn output(job: &Job, manifest: &Manifest) -> anyhow::Result<Outputs> {
    let mut output = job.output.clone();
    output.video.metadata = output.manifest.embeds().then(|| manifest.embedded_json()).transpose()?;
    Ok(output)
}

/// Decodes latents that were kept.
pub fn again(
    job: &Job,
    loaded: &mut Loaded,
    latents: &[Tensor],
    manifest: &Manifest,
    observer: &mut dyn Observer,
) -> Result<Written, Failure> {
    write(job.last(), loaded, latents, &output(job, manifest)?, &mut FrameCache::off(), observer)
}

/// A draft of the video from the latents of a stage that there are, under a name of its own: `NAME.draft.mp4` for `NAME.mp4`. Its record
/// would be that of another video, so it has none.
pub fn draft(
    job: &Job,
    stage: &Stage,
    loaded: &mut Loaded,
    latents: &[Tensor],
    observer: &mut dyn Observer,
) -> Result<Written, Failure> {
    let path = &job.output.video.path;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = match path.extension().filter(|_| job.output.video.format != Format::PngDir) {
        Some(suffix) => format!("{stem}.draft.{}", suffix.to_string_lossy()),
        None => format!("{}.draft", path.file_name().unwrap_or_default().to_string_lossy()),
    };
    let (width, height) = (stage.size.width * stage.shown(), stage.size.height);
    let path = path.with_file_name(name);
    let video = Output { path, width, height, metadata: None, overwrite: true, ..job.output.video.clone() };
    let output = Outputs { video, ..job.output.clone() };
    write(stage, loaded, latents, &output, &mut FrameCache::off(), observer)
}

fn write(
    stage: &Stage,
    loaded: &mut Loaded,
    latents: &[Tensor],
    output: &Outputs,
    cache: &mut FrameCache,
    observer: &mut dyn Observer,
) -> Result<Written, Failure> {
    observer.event(&Event::Phase {
        phase: Phase::Load,
        of: 0,
        what: stage.model.architecture.part(Role::Autoencoder).into(),
    })?;
    let vae = loaded.decoder(stage)?;
    let decoder = Decoder::new(stage, &*vae);
    let network = interpolator(output, stage)?;
    let mut writer = video::open(&output.video).code(Code::Encoder)?;
    let parts = latents.len();
    let mut write = |frame| writer.write(frame);
    // whether the next frame begins anew
    let cut = Cell::new(false);
    let mut inserter = Inserter::new(network.as_ref().map(|(network, factor)| (network, *factor)), &mut write);
    let mut write = |frame: Frame| inserter.write(frame, cut.take());
    let encoder = |error: anyhow::Error| match video::fault(&error) {
        Some(_) => Failure::new(Code::Encoder, error),
        None => error.into(),
    };
    extend::write_given(stage, &mut write).map_err(encoder)?;
    let only_new = stage.input.source_video.as_ref().is_some_and(|source| source.only_new);
    if let Some(latents) = extend::given_latents(stage)?.filter(|_| !only_new) {
        let (latents, part) = (latents.to_device(&stage.compute.device)?, (0, 0..latents.dim(0)?));
        decode(&decoder, &latents, part, &mut FrameCache::off(), &mut write, observer).map_err(encoder)?;
    }
    let mut fades = Fades::new(&mut write);
    for (part, latents) in latents.iter().enumerate() {
        let latents = latents.to_device(&stage.compute.device)?;
        let wanted = extend::wanted(stage, part);
        // a draft may end here: then nothing is mixed behind it
        let next = stage.segments.get(part + 1).filter(|_| part + 1 < parts);
        let segment = &stage.segments[part];
        let goes_on = segment.feed.is_some() || stage.method.streaming.is_some() || !segment.given.is_empty();
        cut.set(part > 0 && segment.fade == 0 && !goes_on);
        fades.begin(segment.fade, wanted.len(), next.map_or(0, |next| next.fade))?;
        if stage.shown() == 1 {
            let mut take = |frame| fades.write(frame);
            decode(&decoder, &latents, (part, wanted), cache, &mut take, observer).map_err(encoder)?;
            continue;
        }
        let frames = latents.dim(0)? / 2;
        let (source, edited) = (latents.narrow(0, 0, frames)?, latents.narrow(0, frames, frames)?);
        let mut spool = Spool::new()?;
        let mut wait = |frame: Frame| spool.push(&frame);
        let part = (part, wanted);
        decode(&decoder, &source, part.clone(), &mut FrameCache::off(), &mut wait, observer).map_err(encoder)?;
        let mut sources = spool.frames()?;
        let mut take = |frame: Frame| {
            let source = sources.next()?.context("the source has fewer frames than its edited version")?;
            fades.write(video::side_by_side(&[source, frame])?)
        };
        decode(&decoder, &edited, part, cache, &mut take, observer).map_err(encoder)?;
    }
    observer.event(&Event::Phase { phase: Phase::Mux, of: 0, what: String::new() })?;
    writer.finish().code(Code::Encoder)
}

/// The network that puts frames between those of a stage, and how many it makes of one; none where none are asked for.
fn interpolator(output: &Outputs, stage: &Stage) -> Result<Option<(Interpolator, usize)>, Failure> {
    let Some(factor) = output.interpolate else { return Ok(None) };
    let network = Interpolator::open(None, &stage.compute.device).code(Code::Model)?;
    let network = network.with_context(|| format!("--interpolate {factor}: RIFE's file is gone")).code(Code::Model)?;
    Ok(Some((network, factor.factor())))
}

/// Saves the latents of a run whose video could not be written: beside the output, or where there is room.
pub fn keep(job: &Job, latents: &[Tensor], failure: Failure) -> Failure {
    let gone = failure.find::<VideoError>().is_some_and(|error| error.fault == Fault::BrokenPipe);
    if gone || job.output.latents.is_some() {
        return failure;
    }
    let name = format!("vidgen-{}.latents.safetensors", job.seed);
    let beside = job.output.video.path.parent().map(Path::to_path_buf).unwrap_or_default();
    for folder in [beside, std::env::temp_dir(), PathBuf::from(".")] {
        let path = folder.join(&name);
        if write_latents(&path, latents).is_ok() {
            let message = format!("{}; the latents are kept in {}", failure.line(), path.display());
            return Failure::message(failure.code, message);
        }
    }
    Failure::message(failure.code, format!("{}; the latents could not be kept either", failure.line()))
}
