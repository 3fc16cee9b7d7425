//! `extend`: one long video from one prompt, or a given video continued.

use super::render::{Dry, render};
use super::settle::Recorded;
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
    /// The picture that a video by keyframes begins with, of a model that was trained for them
    #[arg(short, long, value_name = "FILE", conflicts_with = "video")]
    image: Option<PathBuf>,
    /// Leave the given video's own frames out of the output
    #[arg(long, num_args = 0, default_missing_value = "true", value_parser = FalseyValueParser::new())]
    only_new: Option<bool>,
    /// How the given video's frames become those of another shape: crop, pad or stretch [default: stretch]
    #[arg(long, value_name = "HOW")]
    fit: Option<Fit>,
    #[command(flatten)]
    dry: Dry,
    #[command(flatten)]
    settings: Recorded,
}

impl Extend {
    pub fn run(self, report: &Report) -> Result<(), Failure> {
        let settings = self.settings.settings();
        let root = resume::work_dir(settings.work_dir.clone(), report)?.or_else(directory::default_root);
        let run_of = |word: &Path| kept_run(root.as_deref(), word);
        let names_a_video = |word: &Path| names_a_file(word) || run_of(word).is_some();
        let typed = Typed { first: self.first, second: self.second, prompts: self.prompt, video: self.video };
        let Meant { video, prompts } = typed.meant(names_a_video)?;
        let given =
            Settings { video, image: self.image, only_new: self.only_new, fit: self.fit, ..Settings::default() };
        let mut settings = given.or(settings);
        let mut storyboard = storyboard(self.script, self.prompt_file, &prompts)?;
        if let Some(storyboard) = &mut storyboard {
            settings = settings.or(job::script_settings(storyboard)?);
        }
        if let Some(path) = settings.video.clone() {
            let new_prompt = storyboard.is_some();
            let before = match run_of(&path) {
                Some(run) => Some(of_run(&run).code(Code::Usage)?),
                None if path.exists() => record(&path, new_prompt, report)?,
                None => {
                    let shown = path.display();
                    return Err(usage(format!(
                        "{shown}: no such file, and no kept run of that name (`vidgen runs` lists them)"
                    )));
                }
            };
            if let Some(Before { latents, request, seed, weights }) = before {
                settings.video = latents.or(settings.video);
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

/// The words and flags that say what is continued and with which prompts.
#[derive(Debug, Clone, Default)]
struct Typed {
    first: Option<OsString>,
    second: Option<String>,
    prompts: Vec<String>,
    video: Option<PathBuf>,
}

/// What it means.
#[derive(Debug, PartialEq)]
struct Meant {
    video: Option<PathBuf>,
    prompts: Vec<String>,
}

impl Typed {
    /// Of two words the first is the video. A single one is the video where it names one and no flag does, else the prompt.
    fn meant(self, names_a_video: impl Fn(&Path) -> bool) -> Result<Meant, Failure> {
        let Self { first, second, prompts, video } = self;
        let Some(first) = first else { return Ok(Meant { video, prompts }) };
        if let Some(second) = second {
            return Ok(Meant { video: Some(first.into()), prompts: vec![second] });
        }
        if video.is_none() && names_a_video(Path::new(&first)) {
            return Ok(Meant { video: Some(first.into()), prompts });
        }
        match first.into_string() {
            Ok(text) if prompts.is_empty() => Ok(Meant { video, prompts: vec![text] }),
            Ok(text) => Err(usage(format!("{text:?} is no file, and --prompt gives the prompts: leave out one"))),
            Err(name) => Err(usage(format!("{}: no such file", name.display()))),
        }
    }
}

/// What follows, where it is said.
fn storyboard(
    script: Option<PathBuf>,
    prompt_file: Option<PathBuf>,
    prompts: &[String],
) -> Result<Option<Storyboard>, Failure> {
    let files = [(script, Form::Script), (prompt_file, Form::Lines)];
    match files.into_iter().find_map(|(path, form)| Some((path?, form))) {
        Some(_) if !prompts.is_empty() => Err(usage("a prompt and a file of scenes: leave out one")),
        Some((path, form)) => Ok(Some(Storyboard::read(&path, form)?)),
        None if prompts.is_empty() => Ok(None),
        None => Ok(Some(Storyboard::from_prompts(prompts)?)),
    }
}

/// What made the video that is continued.
struct Before {
    /// A kept run's, which are continued in the video's place.
    latents: Option<PathBuf>,
    request: Request,
    seed: u64,
    weights: Weights,
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

/// A kept run: its latents, what it was asked for, its seed and its weights.
fn of_run(run: &Path) -> anyhow::Result<Before> {
    let (latents, plan) = directory::latents(run)?;
    let mut request = Request::from_json(&plan.request).with_context(|| run.display().to_string())?;
    // a relative path was meant from where the run was begun
    let there = request.settings.model.as_deref().map(|model| plan.folder.join(model)).filter(|path| path.exists());
    if let Some(path) = there.and_then(|path| path.to_str().map(str::to_owned)) {
        request.settings.model = Some(path);
    }
    let Some(Seed::Fixed(seed)) = request.settings.seed else { bail!("{}: its plan names no seed", run.display()) };
    let weights = serde_json::from_value(plan.identity["weights"].clone()).unwrap_or_default();
    Ok(Before { latents: Some(latents), request, seed, weights })
}

/// What a video was asked for and its seed, by the record in it or beside it; none where another program made it. A record
/// that cannot be used is told about, or refused where there is no `new_prompt`.
fn record(path: &Path, new_prompt: bool, report: &Report) -> Result<Option<Before>, Failure> {
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
        Ok(request) => Ok(Some(Before { latents: None, request, seed: manifest.seed, weights: manifest.model.hashes })),
        Err(error) if new_prompt => unused(format!("{}: {error:#}", path.display())),
        Err(error) => Err(Failure::new(Code::Usage, error.context(path.display().to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_a_video_a_prompt_or_both() {
        let meant = |first: &str, second: Option<&str>, prompts: &[&str], video: Option<&str>| {
            let typed = Typed {
                first: Some(first.into()),
                second: second.map(str::to_owned),
                prompts: prompts.iter().map(|&prompt| prompt.to_owned()).collect(),
                video: video.map(PathBuf::from),
            };
            let meant = typed.meant(|word| word == Path::new("clip.mp4"));
            meant.map(|Meant { video, prompts }| (video.map(|path| path.display().to_string()), prompts.join("|")))
        };
        let is = |video: Option<&str>, prompts: &str| (video.map(str::to_owned), prompts.to_owned());
        let clip = Some("clip.mp4");
        assert_eq!(meant("clip.mp4", None, &[], None).unwrap(), is(clip, ""));
        assert_eq!(meant("a ball", None, &[], None).unwrap(), is(None, "a ball"));
        assert_eq!(meant("any", Some("a ball"), &[], None).unwrap(), is(Some("any"), "a ball"), "the first of two");
        assert_eq!(meant("clip.mp4", None, &["a", "b"], None).unwrap(), is(clip, "a|b"));
        assert_eq!(meant("clip.mp4", None, &[], Some("x.gif")).unwrap(), is(Some("x.gif"), "clip.mp4"));
        let both = meant("a ball", None, &["a box"], None).unwrap_err();
        assert!(both.line().contains("leave out one"), "{}", both.line());
        assert_eq!(Typed::default().meant(|_| true).unwrap(), Meant { video: None, prompts: Vec::new() });
    }
}
