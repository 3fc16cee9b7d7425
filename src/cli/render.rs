//! `generate` and `multi-prompt`: from prompts to a video; and the end that `extend` shares with them.

use super::Report;
use super::plan::{self, Measure};
use super::settle::{Recorded, prepare, settled};
use super::usage::hidden;
use super::words;
use crate::job::{self, Command, Group, Job, Settings};
use crate::pipelines::{self, Loaded, Outcome};
use crate::run::{Code, Event, Failure, print};
use crate::storyboard::{Form, Storyboard};
use crate::video::{self, Fault, Format, VideoError};
use crate::weights;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

const GENERATE: &str = "\
Examples:
  vidgen generate \"a blue car moves to the right on a city street at night\" -o car.mp4
  vidgen generate -p \"a yellow star rests in the snow\" --seed 7 --steps 20 -o frames/
  vidgen generate --model ./model \"a panda plays the guitar\" --size 720x480 --device cuda";

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

#[derive(Debug, clap::Args)]
#[command(after_help = GENERATE, args_override_self = true, mut_args = |arg| beginning(hidden(arg, of_windows)))]
pub struct Generate {
    /// What is to be seen
    #[arg(value_name = "PROMPT", conflicts_with = "prompt", required_unless_present = "prompt")]
    text: Option<String>,
    /// What is to be seen
    #[arg(short, long, value_name = "TEXT", alias = "prompts")]
    prompt: Vec<String>,
    #[command(flatten)]
    dry: Dry,
    #[command(flatten)]
    settings: Recorded,
}

#[derive(Debug, clap::Args)]
#[command(after_help = MULTI_PROMPT, args_override_self = true, mut_args = beginning)]
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
    #[command(flatten)]
    dry: Dry,
    #[command(flatten)]
    settings: Recorded,
}

/// `--dry-run` and how the speed of the machine is found.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Dry {
    /// Say what would be done and what it would take, and do nothing
    #[arg(long, value_parser = clap::builder::FalseyValueParser::new())]
    dry_run: bool,
    #[command(flatten)]
    measure: Measure,
}

impl Dry {
    /// How the speed of the machine is found for a dry run; none where it is no dry run.
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

/// Whether a setting has no effect on a single window.
fn of_windows(setting: &clap::Id) -> bool {
    Settings::group(setting.as_str()) == Some(Group::Windows)
}

/// `--image`, by which commands that give a picture otherwise mean another.
fn beginning(arg: clap::Arg) -> clap::Arg {
    if arg.get_id() == "first_frame" { arg.aliases(["image", "init-image"]) } else { arg }
}

impl Generate {
    pub fn run(self, report: &Report) -> Result<(), Failure> {
        if self.text.as_deref() == Some("-") {
            let message =
                "- is standard input, of which generate reads no prompt: vidgen multi-prompt -, or --prompt \"$(cat)\"";
            return Err(Failure::message(Code::Usage, message));
        }
        if let Some(file) = self.text.as_ref().filter(|text| words::is_file(text)) {
            let use_it = match video::metadata(Path::new(file)) {
                Ok(_) => format!("to continue the video, vidgen extend {file}; to change it, vidgen edit {file}"),
                Err(_) => format!("for the prompts in it, vidgen multi-prompt {file}"),
            };
            let message = format!("{file} is the name of a file: {use_it}; as a prompt, --prompt {file:?}");
            return Err(Failure::message(Code::Usage, message));
        }
        let prompts: Vec<String> = self.text.into_iter().chain(self.prompt).collect();
        let storyboard = Storyboard::from_prompts(&prompts)?;
        let settings = self.settings.settings();
        job::check_single(&storyboard.scenes, &settings)?;
        render(Command::Generate, settings, storyboard, &self.dry, report)
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
        render(Command::MultiPrompt, self.settings.settings(), storyboard, &self.dry, report)
    }
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
    let (settings, storyboard) = settled(settings, storyboard, report)?;
    if let Some(measure) = dry.asked()? {
        // what is there already stands in nobody's way
        return plan::show(&job::resolve(command, settings.over_existing(), storyboard)?, measure, report);
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
    if report.json && jobs.iter().any(|job| job.output.video.format == Format::Y4mStdout) {
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

/// Makes one video. None where it was there already and is left alone.
pub(super) fn one(job: &Job, loaded: &mut Loaded, report: &Report) -> Result<Option<Outcome>, Failure> {
    let mut observer = report.observer()?;
    if job.output.skip {
        let message = format!("{} exists: skipped", job.output.video.path.display());
        observer.event(&Event::Warning(message))?;
        return Ok(None);
    }
    let outcome = pipelines::run(job, loaded, &mut *observer)?;
    tell(job, &outcome, report)?;
    Ok(Some(outcome))
}

/// Prints the path of the video, or its record as JSON.
pub(super) fn tell(job: &Job, outcome: &Outcome, report: &Report) -> Result<(), Failure> {
    if job.output.video.format == Format::Y4mStdout {
        return Ok(());
    }
    if report.json {
        print(&format!("{}\n", outcome.json()))
    } else {
        print(&format!("{}\n", outcome.video.path.display()))
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
