//! Prompts to video: one prompt and one window (`generate`), several prompts over overlapping windows (`multi-prompt`), or
//! windows that go on from a given video (`extend`). They differ in their plan, and in what is known of the timeline.

use super::extend;
use super::frames::{frames, keep};
use super::latents::{latents, noise, write_latents};
use super::loaded::Loaded;
use super::record::record;
use super::texts::encode;
use crate::job::Job;
use crate::run::manifest::{Manifest, Stopwatch};
use crate::run::{Code, Event, Failure, Observer, Plan, WithCode};
use crate::video::Written;
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

/// Makes the video of a job. Partial files are gone when it fails; the latents of a run whose video could not be written
/// are kept, and the error says where.
pub fn run(job: &Job, loaded: &mut Loaded, observer: &mut dyn Observer) -> Result<Outcome, Failure> {
    for warning in &job.warnings {
        observer.event(&Event::Warning(warning.clone()))?;
    }
    observer.event(&Event::Plan(Box::new(plan(job))))?;
    let noise = noise(job).code(Code::Usage)?;
    let mut watch = Stopwatch::new(observer);

    let texts = encode(job, &mut watch)?;
    let context = extend::context(job, &mut watch)?;
    let latents = latents(job, loaded, &texts, &noise, context.as_ref(), &mut watch)?;
    if let Some(path) = &job.save_latents {
        write_latents(path, &latents).code(Code::Failed)?;
        watch.event(&Event::Saved { kind: "latents", path: path.clone() })?;
    }

    let mut manifest = record(job).code(Code::Model)?;
    if let (Some(context), Some(given)) = (&context, &job.given) {
        manifest.settings.insert("context".to_owned(), context.record(given));
    }
    let video = frames(job, loaded, &latents, &manifest, &mut watch).map_err(|failure| match failure.code {
        Code::Encoder => keep(job, &latents, failure),
        _ => failure,
    })?;
    for warning in &video.warnings {
        watch.event(&Event::Warning(warning.clone()))?;
    }
    watch.event(&Event::Saved { kind: "video", path: video.path.clone() })?;
    manifest.run = Some(watch.facts(job.threads));
    if job.manifest.writes_sidecar()
        && let Some(path) = manifest.write_sidecar(&video.path, job.output.overwrite).code(Code::Failed)?
    {
        observer.event(&Event::Saved { kind: "manifest", path })?;
    }
    Ok(Outcome { video, manifest })
}

fn plan(job: &Job) -> Plan {
    Plan {
        model: job.model.name().to_owned(),
        prompts: job.prompts.clone(),
        width: job.width,
        height: job.height,
        frames: job.frames,
        fps: job.rules.fps,
        latent_frames: job.segments.iter().map(|segment| segment.plan.frames).sum(),
        windows: job.segments.iter().map(|segment| segment.plan.windows.len()).sum(),
        steps: job.steps,
        seed: job.seed,
        device: job.device_name(),
        dtype: job.dtype.as_str().to_owned(),
        threads: job.threads,
        memory: job.need.peak(),
        output: job.output.path.clone(),
    }
}
