//! Latents that are there already to a video: another format, quality or rate without denoising again.

use super::checkpoint::read_latents;
use super::extend;
use super::frames::{again, sweep};
use super::loaded::Loaded;
use super::record::record;
use super::text_to_video::{Outcome, plan};
use crate::job::Job;
use crate::models::architecture::Role;
use crate::run::directory::RunDir;
use crate::run::manifest::Stopwatch;
use crate::run::{Code, Event, Failure, Observer, WithCode};
use anyhow::{Context, Result};
use candle_core::Tensor;
use std::path::Path;

/// The latents that the run in a directory keeps, `[F, C, H, W]` for each segment of the job.
///
/// # Errors
/// Latents that are not there yet, or damaged; weights of the autoencoder that are not the run's.
pub fn kept_latents(path: &Path, job: &Job) -> Result<Vec<Tensor>, Failure> {
    let opened = RunDir::open(path)?;
    let shown = path.display();
    let (stage, first) = (job.last(), job.first_part(job.stages.len() - 1));
    let part = stage.model.architecture.part(Role::Autoencoder);
    let hash = stage.model.folder.part(part).and_then(|part| part.hash()).code(Code::Model)?;
    let identity = &opened.plan.identity;
    let weights =
        if job.stages.len() > 1 { &identity["stages"][job.stages.len() - 2][0] } else { &identity["weights"] };
    if weights[part].as_str() != Some(&hash) {
        let message =
            format!("{shown}: the weights of the {part} of {} are not those of the run", stage.model.folder.place());
        return Err(Failure::message(Code::Model, message));
    }
    let read = |part: usize| read_latents(job, part, &opened.dir, opened.latents(part)?);
    let latents = (first..job.parts()).map(read).collect::<Result<_>>();
    Ok(latents.with_context(|| shown.to_string())?)
}

/// Makes the video of a job from its latents.
pub fn decode_again(
    job: &Job,
    loaded: &mut Loaded,
    latents: &[Tensor],
    observer: &mut dyn Observer,
) -> Result<Outcome, Failure> {
    for warning in &job.warnings {
        observer.event(&Event::Warning(warning.clone()))?;
    }
    observer.event(&Event::Plan(Box::new(plan(job))))?;
    sweep(job, observer)?;
    let mut watch = Stopwatch::new(observer);
    let context = extend::context(job.first(), &mut watch)?;
    let mut manifest = record(job).code(Code::Model)?;
    extend::note(job.first(), context.as_ref(), &mut manifest)?;
    let video = again(job, loaded, latents, &manifest, &mut watch)?;
    for warning in &video.warnings {
        watch.event(&Event::Warning(warning.clone()))?;
    }
    watch.event(&Event::Saved { kind: "video", path: video.path.clone() })?;
    manifest.run = Some(watch.facts(job.machine.threads));
    if job.output.manifest.writes_sidecar()
        && let Some(path) = manifest.write_sidecar(&video.path, job.output.video.overwrite).code(Code::Failed)?
    {
        observer.event(&Event::Saved { kind: "manifest", path })?;
    }
    Ok(Outcome { video, manifest })
}
