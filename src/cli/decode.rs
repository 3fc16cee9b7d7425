//! `decode`: latents to video again, with other output settings.

use super::Report;
use super::chosen::{Choice, Chosen};
use super::{render, resume, settle};
use crate::job::{self, Group, Request, Settings};
use crate::pipelines::{self, Loaded};
use crate::run::{Code, Failure, WithCode};
use crate::weights::read_tensors;
use anyhow::Context;
use std::path::Path;

const EXAMPLES: &str = "\
Examples:
  vidgen decode last -o small.webm
  vidgen decode 3fb2c9d0 --crf 10 --fps 16 -o fine.mp4
  vidgen decode last --model /data/model -o moved.mp4
  vidgen decode latents.safetensors --model org/model -o clip.mp4

A run keeps its latents until its video is whole, and with --keep afterwards as well; --save-latents writes them to a file. \
A file of latents does not say where it came from, so its video carries no record.";

/// What comes after the latents.
#[derive(Debug)]
struct Decoded;

impl Choice for Decoded {
    const GROUPS: &'static [Group] =
        &[Group::Model, Group::Machine, Group::Memory, Group::Decoding, Group::Encoding, Group::Places];
    const SETTLED: &'static str = "the latents";
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_override_self = true)]
pub struct Args {
    /// A run (the beginning of its name, its directory, or last), or a file of latents (.safetensors)
    #[arg(value_name = "RUN|LATENTS")]
    source: String,
    #[command(flatten)]
    settings: Chosen<Decoded>,
}

impl Args {
    pub fn run(self, report: &Report) -> Result<(), Failure> {
        let given = self.settings.0;
        settle::prepare(&given, report)?;
        // what is typed relative is told so
        let here = given.output.as_deref().is_some_and(|output| !Path::new(output).is_absolute());
        let here = here.then(std::env::current_dir).transpose()?;
        let given = resume::typed(given)?;
        let (job, latents) = if self.source.ends_with(".safetensors") {
            file(Path::new(&self.source), given, report.settings()?.only(Decoded::GROUPS))?
        } else {
            run(&self.source, given, report)?
        };
        let mut observer = report.observer()?;
        let mut outcome = pipelines::decode_again(&job, &mut Loaded::for_jobs(false), &latents, &mut *observer)?;
        if let Some(short) = here.as_ref().and_then(|here| outcome.video.path.strip_prefix(here).ok()) {
            outcome.video.path = short.to_owned();
        }
        render::tell(&job, &outcome, report)
    }
}

type Work = (job::Job, Vec<candle_core::Tensor>);

fn run(source: &str, given: Settings, report: &Report) -> Result<Work, Failure> {
    let (path, _, request) = resume::enter(source, resume::work_dir(given.work_dir.clone(), report)?.as_deref())?;
    // the run is over, and so is what it was told about itself
    let mut settings = resume::settings(given.clone(), request.settings.clone(), &path).without(&[Group::Run]);
    if given.fps.is_some() && settings.duration.is_some() {
        // the frames are there already: another rate makes another duration
        let model = given.model.clone().or(request.settings.model.clone());
        let before = Settings { overwrite: Some(true), model, ..request.settings.clone() };
        let before = resume::one(Request { settings: before, ..request.clone() })?;
        (settings.frames, settings.duration) = (Some(before.last().frames()), None);
    }
    let job = resume::found(Request { settings, ..request }, given.model.as_deref())?;
    let latents = pipelines::kept_latents(&path, &job)?;
    Ok((job, latents))
}

/// `below`: the settings of the project's and the user's file. Where they put records and runs is about other videos.
fn file(path: &Path, given: Settings, below: Settings) -> Result<Work, Failure> {
    let shown = path.display();
    if given.manifest.is_some() {
        let message =
            "--manifest has no effect on a file of latents, which does not say where it came from: leave it out";
        return Err(Failure::message(Code::Usage, message));
    }
    let latents = read_tensors(path).code(Code::Usage)?.remove("latents");
    let latents = latents.with_context(|| format!("{shown}: holds no tensor named latents")).code(Code::Usage)?;
    let [1, frames, channels, height, width] = *latents.dims() else {
        let message = format!("{shown}: latents has shape {:?} instead of [1, F, C, H, W]", latents.dims());
        return Err(Failure::message(Code::Usage, message));
    };
    let settings = given.or(Settings { manifest: None, ..below });
    let job = job::of_latents(settings, (frames, channels, height, width)).map_err(|failure| {
        let code = failure.code;
        Failure::new(code, anyhow::Error::from(failure).context(shown.to_string()))
    })?;
    Ok((job, vec![latents.squeeze(0)?]))
}
