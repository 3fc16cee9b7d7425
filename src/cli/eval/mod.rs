//! `eval`: numbers about finished videos.

mod page;
mod sets;
mod show;

use super::Report;
use super::settle::{set_threads, start};
use crate::eval::clip::ClipEmbedder;
use crate::eval::faces::Faces;
use crate::eval::fvd::Logits;
use crate::eval::judge::Judge;
use crate::eval::layout::Layout;
use crate::eval::perceptual::{Perceptual, TOO_SMALL};
use crate::eval::report::{Evaluation, Metric, Metrics, ReferenceComparison, Requirement, SCHEMA, means};
use crate::eval::warping::{FlowSource, OtherLength};
use crate::eval::{Evaluator, Story, frame_by_frame};
use crate::interpolation::Interpolator;
use crate::job::{self, values::DeviceSpec};
use crate::models::NotFinite;
use crate::run::{Code, Event, Failure, Manifest, Observer, WithCode, print, read_text};
use crate::storyboard::{Form, Storyboard};
use crate::video::{self, Fault, Limits};
use crate::weights::NetworkFolder;
use anyhow::{Context, anyhow};
use clap::builder::FalseyValueParser;
use serde::Deserialize;
use sets::Reference;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;

const EXAMPLES: &str = "\
Examples:
  vidgen eval seasons.mp4
  vidgen eval seasons.mp4 --judge toyland
  vidgen eval ours/ baseline/ --clip ./clip-vit-base-patch32 --means
  vidgen eval new.mp4 --against old.mp4
  vidgen eval ours/ --fvd real/
  vidgen eval ours/ --report page.html
  vidgen eval clip.mp4 --clip openai/clip-vit-base-patch32@REVISION -p \"a panda plays the guitar\"
  vidgen eval out/ --judge toyland --fail-below cscv=0.8 --fail-above seam=1.5
  vidgen eval out/ --json > results.json; vidgen eval results.json other.json --means

Metrics: cscv, motion_smoothness, text_image, flicker, seam, worst_seam, judge (and judge_colour, \
judge_shape, judge_motion, judge_place, judge_time), present, lpips_neighbours, flow, flow_deviation, reidentification, scuts; with --flow \
warp_error, flow_mean, mawe and mawe_paper; with --against also \
psnr, ssim and lpips. docs/eval.md has the formulas.

Motion smoothness is measured with RIFE where its file is, else with block matching, in place of \
VBench's interpolator, so it compares only with what was measured in the same way.

Exit code 7: a threshold is not kept. When some videos cannot be read the others are evaluated all \
the same, and the exit code is that of the first that could not.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Videos (.mp4 .webm .gif .y4m), directories of pictures, directories of videos, or results of eval --json (.json)
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Compare with this video, frame by frame; or with those of the same names in this directory of videos
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
    /// See with CLIP ViT-B/32 (or another CLIP of OpenAI's kind): a folder in transformers' layout, or a hub id
    /// ORG/NAME[@REVISION]
    #[arg(long, value_name = "MODEL", help_heading = "Networks")]
    clip: Option<String>,
    /// See with the small judge in the binary, which knows videos of one kind
    #[arg(long, value_name = "NAME", value_parser = ["toyland"], help_heading = "Networks")]
    judge: Option<String>,
    /// See with LPIPS: the file that `make metrics` makes [default: that file, where it is]
    #[arg(long, value_name = "FILE", help_heading = "Networks")]
    lpips: Option<PathBuf>,
    /// Predict frames and flow with RIFE: the file that `make metrics` makes [default: that file, where it is]
    #[arg(long, value_name = "FILE", help_heading = "Networks")]
    rife: Option<PathBuf>,
    /// Tell persons apart, for the score of re-identification: the file that `make metrics` makes [default: that file, where it is]
    #[arg(long, value_name = "FILE", help_heading = "Networks")]
    faces: Option<PathBuf>,
    /// Warp frames onto the next, for warp_error and mawe: builtin (estimated here), or a safetensors file with flow [F-1, 2, H, W] in
    /// pixels, from each frame to the next, of one video
    #[arg(long, value_name = "FILE", help_heading = "Networks")]
    flow: Option<String>,
    /// Frechet video distance of each set of videos to those of this directory
    #[arg(long, value_name = "DIR", help_heading = "Networks")]
    fvd: Option<PathBuf>,
    /// See whole videos with I3D, for --fvd: the file that `make metrics` makes [default: that file, where it is]
    #[arg(long, value_name = "FILE", requires = "fvd", help_heading = "Networks")]
    i3d: Option<PathBuf>,
    /// A prompt, again for each scene, in order; instead of those in the video's record
    #[arg(short, long, value_name = "TEXT", alias = "prompts", group = "texts", help_heading = "Prompts")]
    prompt: Vec<String>,
    /// Prompts from a file, as multi-prompt reads it
    #[arg(long, value_name = "FILE", group = "texts", alias = "prompts-file", help_heading = "Prompts")]
    prompt_file: Option<PathBuf>,
    /// Only means: one row for each directory or file of results
    #[arg(long, help_heading = "Results")]
    means: bool,
    /// A page to look at: strips of frames, curves over time and the table, in one HTML file that needs no network
    #[arg(long, value_name = "FILE.html", help_heading = "Results")]
    report: Option<PathBuf>,
    /// Replace the file of --report
    #[arg(short = 'y', long, requires = "report", help_heading = "Results", value_parser = FalseyValueParser::new())]
    overwrite: bool,
    /// Lists of the numbers of single frames in the JSON
    #[arg(long, help_heading = "Results")]
    per_frame: bool,
    /// Exit with 7 when the mean over all videos is below; may be repeated
    #[arg(long, value_name = "METRIC=X", help_heading = "Results")]
    fail_below: Vec<Threshold>,
    /// Exit with 7 when the mean over all videos is above; may be repeated
    #[arg(long, value_name = "METRIC=X", help_heading = "Results")]
    fail_above: Vec<Threshold>,
    /// Where to compute: auto, cpu, cuda, cuda:N or metal
    #[arg(short, long, value_name = "NAME", default_value = "auto", help_heading = "Networks")]
    device: DeviceSpec,
    /// CPU threads [default: physical cores]
    #[arg(short = 'j', long, value_name = "N", short_alias = 't', help_heading = "Networks")]
    threads: Option<usize>,
    /// Never use the network
    #[arg(long, help_heading = "Networks", value_parser = FalseyValueParser::new())]
    offline: bool,
}

/// A metric and a number.
#[derive(Debug, Clone, Copy)]
struct Threshold {
    metric: Metric,
    value: f64,
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let (metric, value) = word.split_once('=').ok_or("give METRIC=X, as in cscv=0.8")?;
        let number = value.parse().ok().filter(|value: &f64| value.is_finite());
        Ok(Self { metric: metric.parse()?, value: number.ok_or(format!("{value:?} is not a number"))? })
    }
}

/// Videos that are told together.
struct Set {
    /// Directory, or file of results; none for single videos.
    name: Option<String>,
    videos: Vec<Evaluation>,
    /// What I3D sees, for `--fvd`.
    logits: Vec<Logits>,
}

impl Set {
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("files")
    }
}

/// A video that could not be evaluated.
struct Failed {
    file: String,
    failure: Failure,
}

/// What was asked for, opened.
struct Work<'a> {
    args: &'a Args,
    evaluator: Evaluator,
    /// The network's name and commit.
    clip: Option<(String, Option<String>)>,
    prompts: Vec<String>,
    /// The one other video of `--against`, once it is known.
    reference: Option<Evaluation>,
    fvd: Option<Reference>,
    /// Files of this run's videos; others came from results.
    measured: BTreeSet<String>,
    observer: Box<dyn Observer>,
    failed: Vec<Failed>,
}

/// Evaluates, prints, checks.
pub fn run(args: Args, report: &Report) -> Result<(), Failure> {
    set_threads(args.threads);
    start(report)?;
    args.check(report)?;
    let sources = args.files.iter().map(|path| source(path)).collect::<Vec<_>>();
    let device = job::device(args.device).code(Code::Usage)?;
    let scenes = match &args.prompt_file {
        Some(path) => Storyboard::read(path, Form::Auto)?.scenes,
        None if args.prompt.is_empty() => Vec::new(),
        None => Storyboard::from_prompts(&args.prompt)?.scenes,
    };
    let mut evaluator = Evaluator::default();
    let mut clip = None;
    if let Some(spec) = &args.clip {
        let folder = NetworkFolder::open(spec, "clip", args.offline).code(Code::Model)?;
        evaluator.clip = Some(ClipEmbedder::open(&folder, &device).code(Code::Model)?);
        clip = Some((folder.name().to_owned(), folder.revision().map(str::to_owned)));
    }
    evaluator.lpips = Perceptual::open(args.lpips.as_deref(), &device).code(Code::Model)?;
    evaluator.rife = Interpolator::open(args.rife.as_deref(), &device).code(Code::Model)?;
    evaluator.flow = args.flow.as_deref().map(FlowSource::open).transpose().context("--flow").code(Code::Usage)?;
    evaluator.faces = Faces::open(args.faces.as_deref(), &device).code(Code::Model)?;
    if args.judge.is_some() {
        evaluator.judge = Some(Judge::embedded(&device)?);
    }
    let mut work = Work {
        args: &args,
        evaluator,
        clip,
        prompts: scenes.into_iter().map(|scene| scene.prompt).collect(),
        reference: None,
        fvd: None,
        measured: BTreeSet::new(),
        observer: report.observer()?,
        failed: Vec::new(),
    };
    work.fvd = Reference::open(&args, &device, &mut *work.observer)?;
    let count = sources.iter().flatten().map(|source| source.videos.len()).sum::<usize>()
        + sources.iter().filter(|source| source.is_err()).count();
    let mut sets: Vec<Set> = Vec::new();
    for (source, path) in sources.into_iter().zip(&args.files) {
        let source = match source {
            Ok(source) => source,
            Err(failure) => {
                work.fail(path, failure, count)?;
                continue;
            }
        };
        let known = sets.iter().position(|set| set.name.is_none() && source.name.is_none());
        let at = known.unwrap_or(sets.len());
        if at == sets.len() {
            sets.push(Set { name: source.name, videos: Vec::new(), logits: Vec::new() });
        }
        let set = &mut sets[at];
        set.videos.extend(source.results);
        for path in &source.videos {
            match work.video(path) {
                Ok(evaluation) => {
                    work.measured.insert(evaluation.file.clone());
                    set.videos.push(evaluation);
                    if let Some(reference) = &work.fvd {
                        set.logits.extend(reference.look(path, &mut *work.observer)?);
                    }
                }
                Err(failure) => work.fail(path, failure, count)?,
            }
        }
    }
    sets.retain(|set| !set.videos.is_empty());
    let all = || sets.iter().flat_map(|set| &set.videos);
    for evaluation in all() {
        for warning in &evaluation.warnings {
            work.observer.event(&Event::Warning(format!("{}: {warning}", evaluation.file)))?;
        }
    }
    if !sets.is_empty() || report.json {
        print(&if report.json {
            show::json(&work, &sets)?
        } else {
            show::table(&sets, args.means) + &sets::lines(&work, &sets) + &show::networks(&work)
        })?;
    }
    if let Some(path) = &args.report {
        page::write(path, &work, &sets)?;
    }
    let (means, _) = means(all().map(|evaluation| &evaluation.metrics));
    if let Some(first) = work.failed.first() {
        let line = match count {
            1 => first.failure.line(),
            _ => format!("{} of {count} videos could not be evaluated: {}", work.failed.len(), first.failure.line()),
        };
        return Err(Failure::message(first.failure.code, line));
    }
    args.keep_thresholds(&means, all().count())
}

impl Args {
    /// Refuses what cannot have an effect, before anything is read.
    fn check(&self, report: &Report) -> Result<(), Failure> {
        let usage = |message: String| Err(Failure::message(Code::Usage, message));
        if let Some(path) = &self.report {
            page::check(path, self.overwrite)?;
        }
        if self.per_frame && !report.json {
            return usage("--per-frame has no effect without --json".to_owned());
        }
        if (self.prompt_file.is_some() || !self.prompt.is_empty()) && self.clip.is_none() && self.judge.is_none() {
            return usage("prompts have no effect without --clip or --judge toyland".to_owned());
        }
        if self.threads.is_some_and(|threads| !(1..=1024).contains(&threads)) {
            return usage("--threads: give 1 to 1024".to_owned());
        }
        let results = self.files.iter().find(|path| is_results(path));
        if let (Some(path), true) = (results, self.against.is_some()) {
            return usage(format!("--against compares videos, and {} holds results: name the videos", path.display()));
        }
        for threshold in self.fail_below.iter().chain(&self.fail_above).filter(|_| results.is_none()) {
            let missing = match threshold.metric.needs() {
                Requirement::Embedder if self.clip.is_none() && self.judge.is_none() => "--clip or --judge toyland",
                Requirement::Clip if self.clip.is_none() => "--clip",
                Requirement::Judge if self.judge.is_none() => "--judge toyland",
                Requirement::Reference | Requirement::PerceptualReference if self.against.is_none() => "--against",
                Requirement::Flow if self.flow.is_none() => "--flow builtin",
                _ => continue,
            };
            return usage(format!("a threshold for {}: it needs {missing}", threshold.metric));
        }
        Ok(())
    }

    fn keep_thresholds(&self, means: &Metrics, videos: usize) -> Result<(), Failure> {
        let below = self.fail_below.iter().map(|threshold| (threshold, "below", f64::lt as fn(&f64, &f64) -> bool));
        let above = self.fail_above.iter().map(|threshold| (threshold, "above", f64::gt as fn(&f64, &f64) -> bool));
        let broken: Vec<String> = below
            .chain(above)
            .filter_map(|(Threshold { metric, value }, side, breaks)| match means.get(metric) {
                None => Some(format!("{metric} could not be computed, so it does not keep its threshold")),
                Some(mean) => breaks(mean, value).then(|| format!("{metric} is {mean:.4}, {side} {value}")),
            })
            .collect();
        if broken.is_empty() {
            Ok(())
        } else {
            let over = if videos == 1 { String::new() } else { format!(" (means of {videos} videos)") };
            Err(Failure::message(Code::Check, broken.join("; ") + &over))
        }
    }
}

/// What one argument stands for.
struct Source {
    name: Option<String>,
    videos: Vec<PathBuf>,
    results: Vec<Evaluation>,
}

fn is_results(path: &Path) -> bool {
    path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("json"))
}

/// `name` of `a/name/` or `a/name.json`.
fn name_of(path: &Path) -> String {
    let plain: PathBuf = path.components().collect();
    let stem = if is_results(&plain) { plain.file_stem() } else { plain.file_name() };
    stem.map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn source(path: &Path) -> Result<Source, Failure> {
    if is_results(path) {
        return Ok(Source { name: Some(name_of(path)), videos: Vec::new(), results: results(path)? });
    }
    let listed = video::videos(path).map_err(of_video)?;
    let name = listed.as_ref().map(|_| name_of(path));
    Ok(Source { name, videos: listed.unwrap_or_else(|| vec![path.to_owned()]), results: Vec::new() })
}

/// Results of an earlier `eval --json`.
fn results(path: &Path) -> Result<Vec<Evaluation>, Failure> {
    const MOST_BYTES: u64 = 256 << 20;
    #[derive(Deserialize)]
    struct Results {
        schema: String,
        videos: Vec<Evaluation>,
    }
    let text = read_text(path, MOST_BYTES, "result of eval").code(Code::Usage)?;
    let shown = path.display();
    let results: Results = serde_json::from_str(&text)
        .map_err(|error| anyhow!("{shown}: no results of eval --json: {error}"))
        .code(Code::Usage)?;
    if results.schema == SCHEMA {
        Ok(results.videos)
    } else {
        let message = format!("{shown}: schema {:?} is not that of results of eval ({SCHEMA:?} is)", results.schema);
        Err(Failure::message(Code::Usage, message))
    }
}

/// The code of a video's error: what is wrong with the file is the user's to know.
fn of_video(error: anyhow::Error) -> Failure {
    let code = match video::fault(&error) {
        Some(Fault::Input | Fault::Usage) => Code::Usage,
        _ if error.chain().any(|reason| reason.is::<NotFinite>()) => Code::Numbers,
        _ if error.chain().any(|reason| reason.is::<OtherLength>()) => Code::Usage,
        _ => Code::Failed,
    };
    Err::<(), _>(error).code(code).err().unwrap_or_else(|| Failure::message(code, "no error"))
}

impl Work<'_> {
    fn fail(&mut self, path: &Path, failure: Failure, count: usize) -> Result<(), Failure> {
        let file = path.display().to_string();
        let line = failure.line();
        // every file's trouble names the file
        let failure =
            if line.contains(&file) { failure } else { Failure::message(failure.code, format!("{file}: {line}")) };
        if count > 1 {
            self.observer.event(&Event::Warning(failure.line()))?;
        }
        self.failed.push(Failed { file, failure });
        Ok(())
    }

    fn video(&mut self, path: &Path) -> Result<Evaluation, Failure> {
        let mut evaluation = self.alone(path)?;
        let Some(against) = &self.args.against else { return Ok(evaluation) };
        let (other, reference) = match video::videos(against).map_err(of_video)? {
            Some(_) => {
                let plain: PathBuf = path.components().collect();
                let other = against.join(plain.file_name().context("no name").code(Code::Usage)?);
                let reference = self.alone(&other)?;
                (other, reference)
            }
            None => {
                let known = self.reference.take();
                let reference = known.map_or_else(|| self.alone(against), Ok)?;
                self.reference = Some(reference.clone());
                (against.clone(), reference)
            }
        };
        let both = evaluation
            .metrics
            .iter()
            .filter_map(|(&metric, value)| reference.metrics.get(&metric).map(|other| (metric, value - other)));
        let mut compared = ReferenceComparison {
            file: reference.file,
            difference: both.collect(),
            metrics: reference.metrics,
            frames: None,
            note: None,
        };
        if (evaluation.width, evaluation.height) == (reference.width, reference.height) {
            let limits = Limits::default();
            let mut frames = [path, &other].map(|path| video::read(path, &limits).map_err(of_video));
            let [Ok(a), Ok(b)] = &mut frames else {
                let failure = frames.into_iter().find_map(Result::err);
                return Err(failure.unwrap_or_else(|| Failure::message(Code::Failed, "cannot be read again")));
            };
            let frames = frame_by_frame(a, b, self.evaluator.lpips.as_ref(), self.lists()).map_err(of_video)?;
            if evaluation.frames != reference.frames {
                compared.note = Some(format!("only the first {} frames are in both", frames.count));
            }
            evaluation.metrics.extend(frames.psnr.map(|psnr| (Metric::Psnr, psnr)));
            evaluation.metrics.extend(frames.ssim.map(|ssim| (Metric::Ssim, ssim)));
            evaluation.metrics.extend(frames.lpips.map(|lpips| (Metric::Lpips, lpips)));
            if frames.lpips.is_none() && self.evaluator.lpips.is_some() {
                evaluation.absent.insert(Metric::Lpips, TOO_SMALL.to_owned());
            }
            if frames.identical {
                evaluation.absent.insert(Metric::Psnr, "the frames are identical".to_owned());
            }
            compared.frames = Some(frames);
        } else {
            let sizes = [&evaluation.width, &evaluation.height, &reference.width, &reference.height];
            let [a, b, c, d] = sizes;
            let why = format!("the sizes differ ({a}x{b} and {c}x{d})");
            evaluation.absent.extend([Metric::Psnr, Metric::Ssim, Metric::Lpips].map(|metric| (metric, why.clone())));
            compared.note = Some(why);
        }
        evaluation.against = Some(compared);
        Ok(evaluation)
    }

    /// A video without regard to others.
    fn alone(&mut self, path: &Path) -> Result<Evaluation, Failure> {
        let file = path.display().to_string();
        let limits = Limits::default();
        let mut frames = video::read(path, &limits).map_err(of_video)?;
        for lost in frames.lost() {
            self.observer.event(&Event::Warning(format!("{file}: {lost}")))?;
        }
        let story = self.story(path)?;
        let evaluated = self.evaluator.evaluate(&file, &mut frames, &story, self.lists());
        evaluated.with_context(|| file.clone()).map_err(of_video)
    }

    /// Whether the numbers of single frames are wanted: the page draws them.
    fn lists(&self) -> bool {
        self.args.per_frame || self.args.report.is_some()
    }

    /// The prompts of a video and where they are: as given, else out of its record.
    fn story(&self, path: &Path) -> Result<Story, Failure> {
        let record = Manifest::read(path);
        if self.prompts.is_empty() {
            return Ok(match record {
                Ok(record) => {
                    let layout = Layout::recorded(&record.settings, record.prompts.len());
                    Story { prompts: record.prompts, layout }
                }
                Err(_) => {
                    let layout = Err("no record of vidgen is with it; prompts can be given with --prompt".to_owned());
                    Story { prompts: Vec::new(), layout }
                }
            });
        }
        let prompts = self.prompts.clone();
        let recorded = record.ok().filter(|record| record.prompts.len() == prompts.len());
        let layout = match recorded.and_then(|record| Layout::recorded(&record.settings, prompts.len()).ok()) {
            Some(layout) => layout,
            None => {
                let mut count = 0;
                for frame in video::read(path, &Limits::default()).map_err(of_video)? {
                    frame.map_err(of_video)?;
                    count += 1;
                }
                Layout::even(count, prompts.len())
            }
        };
        Ok(Story { prompts, layout: Ok(layout) })
    }
}

/// Sum and reasons by set, for both forms of the result.
fn summary(sets: &[Set]) -> (Metrics, BTreeMap<Metric, usize>) {
    means(sets.iter().flat_map(|set| &set.videos).map(|evaluation| &evaluation.metrics))
}
