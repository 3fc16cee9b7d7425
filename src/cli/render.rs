//! `generate` and `multi-prompt`: from prompts to a video; and the end that `extend` shares with them.

use super::Report;
use super::plan::{self, Measure};
use super::report::settings_files;
use super::usage::hidden;
use crate::disk;
use crate::job::values::ManifestMode;
use crate::job::{self, Command, Job, Settings};
use crate::pipelines::{self, Loaded, Outcome};
use crate::run::{Code, Event, Failure, WithCode, interrupt, print, progress};
use crate::storyboard::{Form, Storyboard};
use crate::video::{Fault, Format, VideoError};
use crate::weights;
use anyhow::Context;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

const GENERATE: &str = "\
Examples:
  vidgen generate \"a blue car moves to the right on a city street at night\" -o car.mp4
  vidgen generate -p \"a yellow star rests in the snow\" --seed 7 --steps 20 -o frames/
  vidgen generate --model ./CogVideoX-2b \"a panda plays the guitar\" --size 720x480 --device cuda";

const MULTI_PROMPT: &str = "\
Examples:
  vidgen multi-prompt prompts/seasons.txt -o seasons.mp4
  vidgen multi-prompt -p \"a red ball rests in the snow\" -p \"a red ball rests in the desert\" -o two.mp4
  vidgen multi-prompt story.toml --num-videos 3 -o 'story-{seed}.mp4'
  vidgen multi-prompt -p \"a red ball; a blue box; a yellow star\" --split ';' --transition fade:8 -o three.mp4
  cat prompts.txt | vidgen multi-prompt - -o out.mp4

A prompt file is plain text, one prompt per line, with a time before each ([00:00-00:06] ..) or none; blank lines and lines \
that begin with # are left out. A .toml, .json or .yaml file is a scene script, a list of prompts by frame, or a case file \
of DiTCtrl: see docs/scripts.md.";

/// Flags that have no effect on a single window.
const OF_WINDOWS: [&str; 7] =
    ["transition", "overlap", "transition_windows", "hold", "blend", "subject", "mask_threshold"];

#[derive(Debug, clap::Args)]
#[command(after_help = GENERATE, args_override_self = true, mut_args = |arg| hidden(arg, &OF_WINDOWS))]
pub struct Generate {
    /// What is to be seen
    #[arg(value_name = "PROMPT", conflicts_with = "prompt", required_unless_present = "prompt")]
    text: Option<String>,
    /// What is to be seen
    #[arg(short, long, value_name = "TEXT", alias = "prompts")]
    prompt: Vec<String>,
    /// The same as --manifest none
    #[arg(long, hide = true, conflicts_with = "manifest")]
    no_metadata: bool,
    #[command(flatten)]
    dry: Dry,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, clap::Args)]
#[command(after_help = MULTI_PROMPT, args_override_self = true)]
pub struct MultiPrompt {
    /// Prompts, one per line, or a scene script (.toml, .json, .yaml); - for standard input
    #[arg(value_name = "FILE", group = "scenes")]
    file: Option<PathBuf>,
    /// A prompt; give it again for each scene, in order
    #[arg(short, long, value_name = "TEXT", alias = "prompts", group = "scenes")]
    prompt: Vec<String>,
    /// A scene script, whatever its name; - for standard input
    #[arg(long, value_name = "FILE", group = "scenes")]
    #[arg(aliases = ["scenes", "scenes-file", "custom-config"])]
    script: Option<PathBuf>,
    /// Prompts, one per line, whatever the file's name; - for standard input
    #[arg(long, value_name = "FILE", group = "scenes")]
    #[arg(alias = "prompts-file")]
    prompt_file: Option<PathBuf>,
    /// What parts several prompts in one text or line, as ';'
    #[arg(long, value_name = "TEXT")]
    split: Option<String>,
    /// The same as --manifest none
    #[arg(long, hide = true, conflicts_with = "manifest")]
    no_metadata: bool,
    #[command(flatten)]
    dry: Dry,
    #[command(flatten)]
    settings: Settings,
}

/// Asking before doing.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Dry {
    /// Say what would be done and what it would take, and do nothing
    #[arg(long, value_parser = clap::builder::FalseyValueParser::new())]
    dry_run: bool,
    #[command(flatten)]
    measure: Measure,
}

impl Dry {
    /// How the machine's speed is known, for a plan, if that is what was asked for.
    pub(super) fn asked(&self) -> Result<Option<&Measure>, Failure> {
        match (self.dry_run, self.measure.recalibrate) {
            (true, _) => {
                weights::only_look();
                Ok(Some(&self.measure))
            }
            (false, false) => Ok(None),
            (false, true) => {
                let message = "--recalibrate has no effect without --dry-run: add it, or use plan";
                Err(Failure::message(Code::Usage, message))
            }
        }
    }
}

impl Generate {
    pub fn run(self, report: &Report) -> Result<(), Failure> {
        if let Some(file) = self.text.as_ref().filter(|text| plan::is_file(text)) {
            let message = format!(
                "{file} is the name of a file: for the prompts in it, vidgen multi-prompt {file}; as a prompt, --prompt {file:?}"
            );
            return Err(Failure::message(Code::Usage, message));
        }
        let prompts: Vec<String> = self.text.into_iter().chain(self.prompt).collect();
        let storyboard = Storyboard::from_prompts(&prompts)?;
        job::check_single(&storyboard.scenes, &self.settings)?;
        render(Command::Generate, recorded(self.settings, self.no_metadata), storyboard, &self.dry, report)
    }
}

impl MultiPrompt {
    pub fn run(self, report: &Report) -> Result<(), Failure> {
        let sources = [(self.file, Form::Auto), (self.script, Form::Script), (self.prompt_file, Form::Lines)];
        let source = sources.into_iter().find_map(|(path, form)| Some((path?, form)));
        let storyboard = match source {
            Some((path, form)) => Storyboard::read(&path, form)?,
            None if self.prompt.is_empty() => {
                let message = "no prompts: give a file, - for standard input, or --prompt for each scene";
                return Err(Failure::message(Code::Usage, message));
            }
            None => Storyboard::from_prompts(&self.prompt)?,
        };
        let storyboard = match self.split {
            Some(separator) => storyboard.split(&separator)?,
            None => storyboard,
        };
        render(Command::MultiPrompt, recorded(self.settings, self.no_metadata), storyboard, &self.dry, report)
    }
}

/// What comes before everything else: threads, and what an interruption does.
pub(super) fn prepare(settings: &Settings, report: &Report) -> Result<(), Failure> {
    set_threads(settings.threads);
    start(report)
}

/// Settings with those of the script and the files below them, and the storyboard without.
pub(super) fn settled(settings: Settings, mut storyboard: Storyboard) -> Result<(Settings, Storyboard), Failure> {
    let script = job::script_settings(&mut storyboard)?;
    Ok((settings.or(script).or(files()?), storyboard))
}

/// The settings of the project's file, and below them the user's.
pub(super) fn files() -> Result<Settings, Failure> {
    let mut settings = Settings::default();
    for (path, table) in settings_files()? {
        let file = job::read_settings(table).with_context(|| path.display().to_string()).code(Code::Usage)?;
        settings = settings.or(file);
    }
    Ok(settings)
}

pub(super) fn recorded(settings: Settings, no_metadata: bool) -> Settings {
    let none = no_metadata.then_some(ManifestMode::None);
    Settings { manifest: none.or(settings.manifest), ..settings }
}

/// Resolves and makes all videos of a command, and prints where they are.
pub(super) fn render(
    command: Command,
    settings: Settings,
    storyboard: Storyboard,
    dry: &Dry,
    report: &Report,
) -> Result<(), Failure> {
    prepare(&settings, report)?;
    let (settings, storyboard) = settled(settings, storyboard)?;
    if let Some(measure) = dry.asked()? {
        // what is there already stands in nobody's way
        let settings = Settings { overwrite: Some(true), skip_existing: None, ..settings };
        return plan::show(&job::resolve(command, settings, storyboard)?, measure, report);
    }
    let resolve = |overwrite: Option<bool>| {
        let settings = Settings { overwrite: overwrite.or(settings.overwrite), ..settings.clone() };
        job::resolve(command, settings, storyboard.clone())
    };
    make(&resolve, report).map(|_| ())
}

/// Makes the videos of jobs, and tells where they are. Those that were there already and are left alone are not among the
/// outcomes. `resolve`: with another word on what happens to files that are there.
pub(super) fn make(
    resolve: &dyn Fn(Option<bool>) -> Result<Vec<Job>, Failure>,
    report: &Report,
) -> Result<Vec<Outcome>, Failure> {
    let jobs = match resolve(None) {
        Err(failure)
            if failure.find::<VideoError>().is_some_and(|error| error.fault == Fault::Exists) && ask(&failure) =>
        {
            resolve(Some(true))?
        }
        jobs => jobs?,
    };
    if report.json && jobs.iter().any(|job| job.output.format == Format::Y4mStdout) {
        let message = "--json has no effect with --output -, which puts the video on standard output: leave out one";
        return Err(Failure::message(Code::Usage, message));
    }
    let mut loaded = Loaded::for_jobs(jobs.len() > 1);
    let mut made = Vec::with_capacity(jobs.len());
    for job in &jobs {
        made.extend(one(job, &mut loaded, report)?);
    }
    Ok(made)
}

/// From now on interruptions are heard.
pub(super) fn start(report: &Report) -> Result<(), Failure> {
    Ok(interrupt::install(report.progress == progress::Mode::Json, disk::remove_partials)?)
}

/// Makes one video. None where it was there already and is left alone.
pub(super) fn one(job: &Job, loaded: &mut Loaded, report: &Report) -> Result<Option<Outcome>, Failure> {
    let mut observer = report.observer()?;
    if job.skip {
        let message = format!("{} exists: skipped", job.output.path.display());
        observer.event(&Event::Warning(message))?;
        return Ok(None);
    }
    let outcome = pipelines::run(job, loaded, &mut *observer)?;
    tell(job, &outcome, report)?;
    Ok(Some(outcome))
}

/// Prints what was made.
pub(super) fn tell(job: &Job, outcome: &Outcome, report: &Report) -> Result<(), Failure> {
    if job.output.format == Format::Y4mStdout {
        return Ok(());
    }
    match report.json {
        true => print(&format!("{}\n", outcome.json())),
        false => print(&format!("{}\n", outcome.video.path.display())),
    }
}

/// Asks on a terminal whether an existing output may go.
fn ask(failure: &Failure) -> bool {
    let mut stderr = std::io::stderr();
    if !std::io::stdin().is_terminal() || !stderr.is_terminal() {
        return false;
    }
    let mut answer = String::new();
    write!(stderr, "{}; replace it? [y/N] ", failure.line()).is_ok()
        && std::io::stdin().read_line(&mut answer).is_ok()
        && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// The number of threads, for every pool that is made later.
pub(super) fn set_threads(threads: Option<usize>) {
    let Some(threads) = threads.filter(|threads| (1..=1024).contains(threads)) else { return };
    for name in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"] {
        // SAFETY: the program has one thread until the first pool is made, and no pool is made before this.
        unsafe { std::env::set_var(name, threads.to_string()) };
    }
}
