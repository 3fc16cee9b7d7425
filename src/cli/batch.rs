//! `batch`: many jobs from one file, each network loaded once.

use super::report::{Report, Reporting};
use super::settle::{self, Recorded};
use super::table::headed_rows;
use crate::batch::{self, Around, Asked, Checked, Fault, File, Item, Root, Shard, Todo};
use crate::job::Settings;
use crate::pipelines::{self, Loaded};
use crate::run::time::human_seconds;
use crate::run::{Code, Event, Failure, Observer, WithCode, human_bytes, print};
use crate::storyboard::read_text;
use crate::weights::{self, ToDownload};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

const EXAMPLES: &str = "\
Examples:
  vidgen batch jobs.jsonl
  vidgen batch jobs.toml --output-root renders --steps 20
  vidgen batch jobs.toml --dry-run
  vidgen batch jobs.jsonl --shard 2/4
  jq -c '{prompt: .caption, id: .name}' captions.jsonl | vidgen batch - -o '{id}-{seed}.mp4'

A line of JSON is a job: {\"id\": \"a1\", \"prompt\": [\"..\", \"..\"], \"seed\": 7, \"output\": \"a1.mp4\"}. Keys are the names of flags \
with underscores; a list for a key that takes one value makes a job for each. Videos that are there already, made from the \
same settings, are skipped. See docs/batch.md.";

/// Bytes of a jobs file.
const MOST_BYTES: usize = 64 << 20;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_override_self = true)]
pub struct Args {
    /// Jobs, one JSON object per line, or a .toml file of [[job]]s; - for JSON lines on standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Do one part of several, as 2/4 (from 1); a number of parts alone takes the part from JOB_COMPLETION_INDEX [default:
    /// the part of a Slurm job array, else all]
    #[arg(long, value_name = "PART/PARTS")]
    shard: Option<Asked>,
    /// Directory that outputs are relative to and cannot leave [default: the working directory]
    #[arg(long, value_name = "DIR")]
    output_root: Option<PathBuf>,
    /// Check every job, say what would be done, and do nothing
    #[arg(long, value_parser = clap::builder::FalseyValueParser::new())]
    dry_run: bool,
    #[command(flatten)]
    settings: Recorded,
}

/// Flags of this command that are no settings.
fn flags() -> Vec<String> {
    let command = <Args as clap::Args>::augment_args(clap::Command::new("batch"));
    let command = <Reporting as clap::Args>::augment_args(command);
    let own = command.get_arguments().filter(|arg| Settings::group(arg.get_id().as_str()).is_none());
    own.filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
}

/// The outcome of a job.
struct Done<'a> {
    item: &'a Item,
    state: &'static str,
    seconds: f64,
    failure: Option<Failure>,
}

/// Checks the whole file, then makes the videos of this part of it, whatever becomes of single ones.
pub fn run(args: Args, report: &Report) -> Result<(), Failure> {
    if args.dry_run {
        weights::only_look();
    }
    let above = args.settings.settings();
    settle::prepare(&above, report)?;
    let shard = Shard::settle(args.shard, |name| std::env::var(name).ok()).code(Code::Usage)?;
    let (name, text) = read_text(&args.file, MOST_BYTES)?;
    let toml = args.file.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("toml"));
    let around = Around { above, below: report.settings()? };
    let mut root = Root::new(args.output_root).code(Code::Usage)?;

    let _kept = weights::keep_open();
    let file = File { text: &text, toml, folder: &batch::folder(&args.file), flags: &flags() };
    let Checked { items, total, faults } = batch::check(file, &around, &mut root, shard);
    let mut observer = report.observer()?;
    if !faults.is_empty() {
        root.leave();
        return Err(mistakes(&name, faults, &mut *observer)?);
    }
    if total == 0 {
        root.leave();
        return Err(Failure::message(Code::Usage, format!("{name}: no jobs")));
    }
    if args.dry_run {
        root.leave();
        let mut done = Vec::with_capacity(items.len());
        for (item, todo) in &items {
            let state = if *todo == Todo::Skip { "skip" } else { "render" };
            done.push(Done { item, state, seconds: 0.0, failure: None });
        }
        tell(&done, shard, total, 0.0, report.json)?;
        return if report.json { Ok(()) } else { print(&downloads(&done)) };
    }

    let began = Instant::now();
    let renders = items.iter().filter(|(_, todo)| *todo == Todo::Render).count();
    let mut loaded = Loaded::for_jobs(renders > 1);
    let mut done: Vec<Done> = Vec::with_capacity(items.len());
    for (index, (item, todo)) in items.iter().enumerate() {
        observer.event(&Event::Job { id: item.id.to_string(), index, of: items.len() })?;
        let since = Instant::now();
        let (state, failure) = match todo {
            Todo::Skip => {
                let message = format!("{} is there already: skipped", item.output.display());
                observer.event(&Event::Warning(message))?;
                ("skipped", None)
            }
            Todo::Render => {
                match item.job(&around, &mut root).and_then(|job| pipelines::run(&job, &mut loaded, &mut *observer)) {
                    Ok(_) => ("done", None),
                    Err(failure) if failure.code == Code::Interrupted => ("interrupted", Some(failure)),
                    Err(failure) => {
                        observer.event(&Event::Error { code: failure.code as i32, message: failure.line() })?;
                        ("failed", Some(failure))
                    }
                }
            }
        };
        done.push(Done { item, state, seconds: since.elapsed().as_secs_f64(), failure });
        if state == "interrupted" {
            break;
        }
    }
    drop(observer);
    tell(&done, shard, total, began.elapsed().as_secs_f64(), report.json)?;
    if let Some(Done { item, failure: Some(failure), state: "interrupted", .. }) = done.last() {
        let message = format!("{}: {}; with the whole batch: the same command with --resume", item.id, failure.line());
        return Err(Failure::message(failure.code, message));
    }
    let failed = done.iter().filter_map(|done| Some((done.item, done.failure.as_ref()?)));
    match failed.clone().next() {
        None => Ok(()),
        Some((first, failure)) => {
            let message = format!(
                "{} of {} jobs failed, the first: {}: {}",
                failed.count(),
                items.len(),
                first.id,
                failure.line()
            );
            Err(Failure::message(failure.code, message))
        }
    }
}

/// Prints all faults but one; a single fault becomes the program's error.
fn mistakes(name: &str, mut faults: Vec<Fault>, observer: &mut dyn Observer) -> Result<Failure, Failure> {
    faults.sort_by_key(|fault| fault.line);
    let code = faults[0].code();
    if let [fault] = faults.as_slice() {
        return Ok(Failure::message(code, fault.line(name)));
    }
    for fault in &faults {
        observer.event(&Event::Error { code: fault.code() as i32, message: fault.line(name) })?;
    }
    Ok(Failure::message(code, format!("{name}: {} mistakes, nothing was rendered", faults.len())))
}

/// Models of the jobs that would have to be downloaded.
fn to_download(done: &[Done]) -> BTreeMap<String, ToDownload> {
    done.iter().filter_map(|done| Some((done.item.loads.model.clone(), done.item.loads.download?))).collect()
}

fn downloads(done: &[Done]) -> String {
    let line = |(model, ToDownload { files, bytes })| {
        format!(
            "to download first for {model}: {} in {files} file{}\n",
            human_bytes(bytes),
            if files == 1 { "" } else { "s" }
        )
    };
    to_download(done).into_iter().map(line).collect()
}

/// The summary: a table, or one object.
fn tell(done: &[Done], shard: Shard, total: usize, seconds: f64, json: bool) -> Result<(), Failure> {
    let count = |state| done.iter().filter(|done| done.state == state).count();
    if json {
        let jobs: Vec<Value> = done.iter().map(object).collect();
        let mut object = json!({
            "jobs": jobs, "total": total, "shard": { "part": shard.index + 1, "of": shard.of },
            "done": count("done"), "skipped": count("skipped"), "failed": count("failed"), "seconds": seconds,
        });
        let downloads = to_download(done);
        if !downloads.is_empty() {
            object["download"] = json!(downloads);
        }
        return print(&format!("{object}\n"));
    }
    let head = ["job", "state", "seed", "took", "output"].map(str::to_owned);
    let row = |at: usize| {
        let Some(at) = at.checked_sub(1) else { return head.clone() };
        let done = &done[at];
        let Done { item, state, seconds, failure } = done;
        let took = if *state == "done" { human_seconds(*seconds) } else { "-".to_owned() };
        let output = match failure {
            Some(failure) => failure.line(),
            None => item.output.display().to_string(),
        };
        [item.id.to_string(), (*state).to_owned(), item.seed.to_string(), took, output]
    };
    // there may be very many rows, of which none is kept
    print(&headed_rows(done.len() + 1, row))
}

fn object(done: &Done) -> Value {
    let Done { item, state, seconds, failure } = done;
    let mut object = json!({
        "id": item.id, "index": item.index, "line": item.line, "state": state, "seed": item.seed,
        "frames": item.frames, "output": item.output.to_string_lossy(), "seconds": seconds,
    });
    if let Some(failure) = failure {
        object["code"] = json!(failure.code as i32);
        object["error"] = json!(failure.line());
    }
    object
}
