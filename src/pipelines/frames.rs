//! The last stage: latents become frames, and frames a video.

use super::decode::decode;
use super::extend;
use super::fade::Fades;
use super::latents::write_latents;
use super::loaded::Loaded;
use crate::job::Job;
use crate::run::manifest::Manifest;
use crate::run::{Code, Event, Failure, Observer, Phase, WithCode};
use crate::video::{self, Fault, VideoError, Written};
use candle_core::Tensor;
use std::path::{Path, PathBuf};

/// Decodes the latents of all segments into the output of the job.
pub fn frames(
    job: &Job,
    loaded: &mut Loaded,
    latents: &[Tensor],
    manifest: &Manifest,
    observer: &mut dyn Observer,
) -> Result<Written, Failure> {
    observer.event(&Event::Phase { phase: Phase::Load, of: 0, what: "vae".into() })?;
    let vae = loaded.decoder(job)?;
    let mut output = job.output.clone();
    output.metadata = job.manifest.embeds().then(|| manifest.embedded_json()).transpose()?;
    let mut writer = video::open(&output).code(Code::Encoder)?;
    extend::write_given(job, &mut writer)?;
    let mut write = |frame| writer.write(frame);
    let mut fades = Fades::new(&mut write);
    for (index, (latents, segment)) in latents.iter().zip(&job.segments).enumerate() {
        let latents = latents.to_device(&job.device)?;
        let wanted = extend::wanted(job, index);
        fades.begin(segment.fade, wanted.len(), job.segments.get(index + 1).map_or(0, |next| next.fade))?;
        let mut take = |frame| fades.write(frame);
        decode(&*vae, &latents, &job.decode, wanted, &mut take, observer).map_err(|error| {
            match video::fault(&error) {
                Some(_) => Failure::new(Code::Encoder, error),
                None => error.into(),
            }
        })?;
    }
    observer.event(&Event::Phase { phase: Phase::Mux, of: 0, what: String::new() })?;
    writer.finish().code(Code::Encoder)
}

/// Saves the latents of a run whose video could not be written: beside the output, or where there is room.
pub fn keep(job: &Job, latents: &[Tensor], failure: Failure) -> Failure {
    let gone = failure.find::<VideoError>().is_some_and(|error| error.fault == Fault::BrokenPipe);
    if gone || job.save_latents.is_some() {
        return failure;
    }
    let name = format!("vidgen-{}.latents.safetensors", job.seed);
    let beside = job.output.path.parent().map(Path::to_path_buf).unwrap_or_default();
    for folder in [beside, std::env::temp_dir(), PathBuf::from(".")] {
        let path = folder.join(&name);
        if write_latents(&path, latents).is_ok() {
            let message = format!("{}; the latents are kept in {}", failure.line(), path.display());
            return Failure::message(failure.code, message);
        }
    }
    Failure::message(failure.code, format!("{}; the latents could not be kept either", failure.line()))
}
