//! `extend`: one long video from one prompt, or a given video continued.

use super::render::{Dry, recorded, render};
use super::{Report, resume};
use crate::job::values::Seed;
use crate::job::{self, Command, Request, Settings};
use crate::run::{Code, Event, Failure, Manifest, WithCode, directory};
use crate::storyboard::{Form, Storyboard};
use crate::video::{self, Fit};
use crate::weights::{self, ModelFolder};
use anyhow::{Context, bail};
use clap::builder::FalseyValueParser;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  vidgen extend \"a red ball rolls to the right in a green meadow\" --duration 60s -o long.mp4
  vidgen extend clip.mp4 \"a red ball rests in the snow\" -o longer.mp4
  vidgen extend clip.mp4 --duration 10s -o longer.mp4         (clip.mp4 says what it was asked for)
  vidgen extend film.mov -p \"a car stops\" -p \"a car burns\" --size 144x96 --only-new -o next.mp4
  vidgen extend latents.safetensors \"a red ball rests\" -o longer.mp4
  vidgen extend last \"a red ball rests\" -o longer.mp4        (a run that was made with --keep)

With a video, --duration and --frames are the length of the new part; without them it is as long as the same prompts \
would be by themselves. See docs/extend.md.";

/// Suffixes of videos, to tell a missing file from a prompt.
const SUFFIXES: [&str; 9] = ["mp4", "mov", "mkv", "webm", "avi", "gif", "y4m", "png", "safetensors"];

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_override_self = true)]
pub struct Extend {
    /// A video to continue (.mp4 .webm .gif .y4m, a directory of PNGs, or latents of --save-latents), a kept run (the
    /// beginning of its name, its directory, or last), or what is to be seen
    #[arg(value_name = "VIDEO|RUN|PROMPT")]
    first: Option<OsString>,
    /// What is to be seen, after a video or run [default: what its record says]
    #[arg(value_name = "PROMPT", conflicts_with_all = ["prompt", "video"])]
    second: Option<String>,
    /// What is to be seen; again for each scene, in order
    #[arg(short, long, value_name = "TEXT", alias = "prompts", group = "scenes")]
    prompt: Vec<String>,
    /// A scene script for what follows, whatever its name; - for standard input
    #[arg(long, value_name = "FILE", group = "scenes")]
    script: Option<PathBuf>,
    /// Prompts for what follows, one per line; - for standard input
    #[arg(long, value_name = "FILE", group = "scenes")]
    prompt_file: Option<PathBuf>,
    /// The video or kept run to continue
    #[arg(long, value_name = "VIDEO|RUN")]
    video: Option<PathBuf>,
    /// Leave the given video's own frames out of the output
    #[arg(long, num_args = 0, default_missing_value = "true", value_parser = FalseyValueParser::new())]
    only_new: Option<bool>,
    /// How the given video's frames become those of another shape: crop, pad or stretch [default: stretch]
    #[arg(long, value_name = "HOW")]
    fit: Option<Fit>,
    /// The same as --manifest none
    #[arg(long, hide = true, conflicts_with = "manifest")]
    no_metadata: bool,
    #[command(flatten)]
    dry: Dry,
    #[command(flatten)]
    settings: Settings,
}

impl Extend {
    pub fn run(self, report: &Report) -> Result<(), Failure> {
        let mut prompts = self.prompt;
        let mut video = self.video;
        let root = resume::work_dir(self.settings.work_dir.clone())?.or_else(directory::default_root);
        let run_of = |word: &Path| kept_run(root.as_deref(), word);
        match (self.first, self.second) {
            (Some(first), Some(second)) => {
                video = Some(first.into());
                prompts = vec![second];
            }
            (Some(first), None)
                if video.is_none() && (names_a_file(Path::new(&first)) || run_of(Path::new(&first)).is_some()) =>
            {
                video = Some(first.into());
            }
            (Some(first), _) => match first.into_string() {
                Ok(text) if prompts.is_empty() => prompts = vec![text],
                Ok(text) => {
                    return Err(usage(format!("{text:?} is no file, and --prompt gives the prompts: leave out one")));
                }
                Err(name) => return Err(usage(format!("{}: no such file", name.display()))),
            },
            (None, _) => {}
        }
        let scripts = [(self.script, Form::Script), (self.prompt_file, Form::Lines)];
        let source = scripts.into_iter().find_map(|(path, form)| Some((path?, form)));
        if source.is_some() && !prompts.is_empty() {
            return Err(usage("a prompt and a file of scenes: leave out one"));
        }
        let mut storyboard = match &source {
            Some((path, form)) => Some(Storyboard::read(path, *form)?),
            None if prompts.is_empty() => None,
            None => Some(Storyboard::from_prompts(&prompts)?),
        };
        let mut settings = recorded(self.settings, self.no_metadata);
        settings.only_new = self.only_new.or(settings.only_new);
        settings.fit = self.fit.or(settings.fit);
        if let Some(storyboard) = &mut storyboard {
            settings = settings.or(job::script_settings(storyboard)?);
        }
        settings.video = video.or(settings.video);
        if let Some(path) = settings.video.clone() {
            let new_prompt = storyboard.is_some();
            let asked = match run_of(&path) {
                Some(run) => {
                    let (latents, request, seed, weights) = of_run(&run).code(Code::Usage)?;
                    settings.video = Some(latents);
                    Some((request, seed, weights))
                }
                None if path.exists() => record(&path, new_prompt, report)?,
                None => {
                    let shown = path.display();
                    return Err(usage(format!(
                        "{shown}: no such file, and no kept run of that name (`vidgen runs` lists them)"
                    )));
                }
            };
            if let Some((request, seed, weights)) = asked {
                let (old, scene) = job::taken_over(request, seed, new_prompt);
                settings = settings.or(old);
                same_weights(&settings, &weights, &path, report)?;
                let own = scene.map(|scene| Storyboard::checked(vec![scene])).transpose().code(Code::Usage)?;
                storyboard = storyboard.or(own);
            }
        }
        let storyboard = storyboard.ok_or_else(|| match &settings.video {
            Some(path) => {
                usage(format!("{} carries no record of what it was asked for: give a prompt", path.display()))
            }
            None => usage("no prompt: write what is to be seen, or name a video to continue"),
        })?;
        render(Command::Extend, settings, storyboard, &self.dry, report)
    }
}

/// Tells that a video is gone on with on other weights than those it was made with. `weights`: their hashes by part.
fn same_weights(settings: &Settings, weights: &Weights, video: &Path, report: &Report) -> Result<(), Failure> {
    let name = settings.model.as_deref().unwrap_or(weights::EMBEDDED);
    let model = ModelFolder::open(name, settings.offline.unwrap_or(false)).code(Code::Model).map_err(|failure| {
        let message = format!("{}; {} was made with it: give its place by --model", failure.line(), video.display());
        Failure::message(failure.code, message)
    })?;
    let other = |(part, hash): &(&String, &String)| {
        model.part(part).and_then(|part| part.hash()).is_ok_and(|found| found != **hash)
    };
    if model.to_download().is_none() && weights.iter().any(|entry| other(&entry)) {
        let message = format!(
            "{} was made with other weights than those of {}: what follows may look different",
            video.display(),
            model.place()
        );
        report.observer()?.event(&Event::Warning(message))?;
    }
    Ok(())
}

fn usage(message: impl std::fmt::Display) -> Failure {
    Failure::message(Code::Usage, message)
}

/// Whether a word is a file's name rather than a prompt: there is one of that name, or it ends like one.
fn names_a_file(word: &Path) -> bool {
    let suffix = word.extension().is_some_and(|suffix| SUFFIXES.iter().any(|known| suffix.eq_ignore_ascii_case(known)));
    suffix || word.as_os_str().as_encoded_bytes().ends_with(b"/") || word.exists()
}

/// The directory of the kept run that a word means, if it means one.
fn kept_run(root: Option<&Path>, word: &Path) -> Option<PathBuf> {
    let text = word.to_str().filter(|text| !text.is_empty() && !text.contains(char::is_whitespace))?;
    let run = directory::find(root, text).ok()?;
    // another file or directory of that name is meant itself
    (!word.exists() || std::path::absolute(word).is_ok_and(|word| word == run)).then_some(run)
}

/// Hashes by part.
type Weights = BTreeMap<String, String>;

/// Where a run's latents are, what it was asked for, its seed and its weights.
fn of_run(run: &Path) -> anyhow::Result<(PathBuf, Request, u64, Weights)> {
    let (latents, plan) = directory::latents(run)?;
    let mut request = Request::from_json(&plan.request).with_context(|| run.display().to_string())?;
    // a relative path was meant from where the run was begun
    let there = request.settings.model.as_deref().map(|model| plan.folder.join(model)).filter(|path| path.exists());
    if let Some(path) = there.and_then(|path| path.to_str().map(str::to_owned)) {
        request.settings.model = Some(path);
    }
    let Some(Seed::Given(seed)) = request.settings.seed else { bail!("{}: its plan names no seed", run.display()) };
    let weights = serde_json::from_value(plan.identity["weights"].clone()).unwrap_or_default();
    Ok((latents, request, seed, weights))
}

/// What a video was asked for and its seed, by the record in it or beside it; none where another program made it. A record
/// that cannot be used is told about, or refused where there is no `new_prompt`.
fn record(path: &Path, new_prompt: bool, report: &Report) -> Result<Option<(Request, u64, Weights)>, Failure> {
    if job::is_latents(path) {
        return Ok(None);
    }
    let unused = |what: String| -> Result<_, Failure> {
        report.observer()?.event(&Event::Warning(format!("{what}: no settings are taken over")))?;
        Ok(None)
    };
    let manifest = match Manifest::read(path) {
        Ok(manifest) => manifest,
        // no video at all: whoever reads it says so
        Err(failure) if failure.code == Code::Usage => return Ok(None),
        Err(failure) => {
            let ours = video::metadata(path).ok().flatten().is_some_and(|text| text.contains("vidgen.manifest."));
            return if ours { unused(failure.line()) } else { Ok(None) };
        }
    };
    match Request::of_manifest(&manifest) {
        Ok(request) => Ok(Some((request, manifest.seed, manifest.model.hashes))),
        Err(error) if new_prompt => unused(format!("{}: {error:#}", path.display())),
        Err(error) => Err(Failure::new(Code::Usage, error.context(path.display().to_string()))),
    }
}
