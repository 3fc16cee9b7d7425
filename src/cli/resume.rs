//! `resume`, `runs`: runs that did not end well, or were to be kept.

use super::Report;
use super::chosen::{Choice, Chosen};
use super::source::moved;
use super::table::{plain, terminal};
use super::{render, settle};
use crate::job::{Group, Job, Request, Settings};
use crate::pipelines::{self, Loaded};
use crate::run::directory::{self, Plan, RunState, RunSummary};
use crate::run::{Code, Failure, WithCode, human_bytes, print, time::human_seconds};
use anyhow::Context;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const RESUME: &str = "\
Examples:
  vidgen resume last
  vidgen resume 3fb2c9d0
  vidgen resume last -y -o again.mp4
  vidgen resume last --model /data/model

The video is the one that the run would have made without the interruption, byte for byte. `vidgen runs` lists what can be \
resumed; --resume on the command that began a run finds it as well.";

const RUNS: &str = "\
Examples:
  vidgen runs
  vidgen runs --json | jq '.[] | select(.state == \"stopped\") | .id'
  vidgen runs --rm 3fb2c9d0
  vidgen runs --prune 30";

/// What says nothing about the frames, and where the weights are now.
#[derive(Debug)]
struct Resumed;

impl Choice for Resumed {
    const GROUPS: &'static [Group] = &[Group::Model, Group::Places, Group::Storage, Group::Run];
    const SETTLED: &'static str = "the run";
}

#[derive(Debug, clap::Args)]
#[command(after_help = RESUME, args_override_self = true)]
pub struct Resume {
    /// The run: the beginning of its name, its directory, or last
    #[arg(value_name = "RUN")]
    run: String,
    #[command(flatten)]
    settings: Chosen<Resumed>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = RUNS, args_override_self = true)]
pub struct Runs {
    /// Where runs are kept [default: vidgen/runs in the user's state directory]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Remove a run: the beginning of its name, or its directory
    #[arg(long, value_name = "RUN", conflicts_with = "prune")]
    rm: Vec<String>,
    /// Remove the runs that nobody has worked on for so many days
    #[arg(long, value_name = "DAYS")]
    prune: Option<f64>,
}

/// A run's directory and what it holds, from the working directory in which it was begun.
pub fn enter(word: &str, work_dir: Option<&Path>) -> Result<(PathBuf, Plan, Request), Failure> {
    let root = work_dir.map(Path::to_path_buf).or_else(directory::default_root);
    let path = std::path::absolute(directory::find(root.as_deref(), word).code(Code::Usage)?)?;
    let plan = directory::plan(&path)?;
    let shown = path.display();
    if path.file_name().is_none_or(|name| name != plan.id().as_str()) {
        let message = format!("{shown}: the directory was renamed: its name is {}", plan.id());
        return Err(Failure::message(Code::Usage, message));
    }
    let request = Request::from_json(&plan.request).with_context(|| shown.to_string())?;
    // relative paths are meant from there; where it is gone, from here
    let _ = std::env::set_current_dir(&plan.folder);
    Ok((path, plan, request))
}

/// Paths that were typed are meant from here, whatever the working directory of the run was.
pub fn typed(given: Settings) -> Result<Settings, Failure> {
    let output = given.output.map(absolute).transpose()?;
    // a folder of that name, or a name of the hub
    let here = given.model.as_deref().map(std::path::Path::new).filter(|path| path.exists());
    let model = match here.map(std::path::absolute).transpose()? {
        Some(path) => Some(path.to_string_lossy().into_owned()),
        None => given.model,
    };
    Ok(Settings { output, model, ..given })
}

/// The one job of a request that was begun, with the remedy for a model that is not where it was.
pub fn found(request: Request, asked: Option<&str>) -> Result<Job, Failure> {
    let recorded = asked.is_none() && request.settings.model.is_some();
    one(request).map_err(|failure| if recorded { moved(failure) } else { failure })
}

/// Where runs are looked for: where it was said now, or where the project's or the user's file says.
pub fn work_dir(given: Option<PathBuf>, report: &Report) -> Result<Option<PathBuf>, Failure> {
    Ok(given.or(report.settings()?.work_dir))
}

/// The settings of a run in the directory `path`, those that were given now first.
pub fn settings(given: Settings, before: Settings, path: &Path) -> Settings {
    let root = path.parent().map(Path::to_path_buf);
    let named = root.filter(|root| directory::default_root().as_ref() != Some(root));
    Settings { work_dir: named, ..given.or(Settings { work_dir: None, ..before }) }
}

/// The one job of a request.
pub fn one(request: Request) -> Result<Job, Failure> {
    let mut jobs = request.resolve()?;
    match (jobs.pop(), jobs.pop()) {
        (Some(job), None) => Ok(job),
        _ => Err(Failure::message(Code::Failed, "a record of several videos")),
    }
}

impl Resume {
    pub fn run(self, report: &Report) -> Result<(), Failure> {
        settle::start(report)?;
        let given = typed(self.settings.0)?;
        let asked = given.model.clone();
        let (path, plan, request) = enter(&self.run, work_dir(given.work_dir.clone(), report)?.as_deref())?;
        settle::set_threads(Some(plan.threads));
        let settings = Settings { resume: Some(true), ..settings(given, request.settings.clone(), &path) };
        let mut job = found(Request { settings, ..request }, asked.as_deref())?;
        job.machine.threads = plan.threads;
        if let Some((code, what)) = pipelines::differs(&job, &plan)? {
            let message = format!("{}: cannot be continued: {what}", path.display());
            return Err(Failure::message(code, message));
        }
        render::one(&job, &mut Loaded::for_jobs(false), report).map(|_| ())
    }
}

/// An output that was typed is meant from here, whatever the working directory of the run was.
pub fn absolute(output: String) -> Result<String, Failure> {
    if output == "-" {
        return Ok(output);
    }
    let path = std::path::absolute(&output)?.to_string_lossy().into_owned();
    Ok(if output.ends_with('/') && !path.ends_with('/') { path + "/" } else { path })
}

impl Runs {
    pub fn run(self, report: &Report) -> Result<(), Failure> {
        let root = work_dir(self.work_dir, report)?.or_else(directory::default_root);
        let removed: Vec<PathBuf> = match self.prune {
            Some(days) => {
                let age = Duration::try_from_secs_f64(days * 86_400.0).context("--prune").code(Code::Usage)?;
                let old = |run: &RunSummary| run.state != RunState::Running && since(run.modified) >= age;
                let runs = root.as_deref().map(directory::list).transpose()?.unwrap_or_default();
                runs.into_iter().filter(old).map(|run| run.path).collect()
            }
            None => {
                let find = |word: &String| directory::find(root.as_deref(), word);
                self.rm.iter().map(find).collect::<Result<_, _>>().code(Code::Usage)?
            }
        };
        for path in &removed {
            directory::remove(path)?;
        }
        if self.prune.is_some() || !self.rm.is_empty() {
            let lines = removed.iter().map(|path| format!("removed {}\n", path.display()));
            return print(&if report.json {
                format!("{}\n", json!({ "removed": removed }))
            } else {
                lines.collect::<String>()
            });
        }
        let runs = root.as_deref().map(directory::list).transpose()?.unwrap_or_default();
        print(&if report.json { format!("{}\n", runs.iter().map(described).collect::<Value>()) } else { table(&runs) })
    }
}

fn since(time: SystemTime) -> Duration {
    SystemTime::now().duration_since(time).unwrap_or_default()
}

fn described(run: &RunSummary) -> Value {
    let plan = run.plan.as_ref();
    json!({
        "id": run.id,
        "path": run.path.to_string_lossy(),
        "state": run.state,
        "version": run.version,
        "steps": run.steps,
        "of": plan.map(Plan::all_steps),
        "latents": run.latents,
        "prompts": plan.map(|plan| &plan.prompts),
        "output": plan.map(|plan| plan.folder.join(&plan.output)),
        "bytes": run.bytes,
        "begun": plan.map(|plan| &plan.created),
        "age": since(run.modified).as_secs(),
    })
}

/// As much of a line as so many columns hold.
fn cut(line: &str, columns: usize) -> String {
    if line.chars().count() <= columns {
        return line.to_owned();
    }
    let kept: String = line.chars().take(columns.saturating_sub(2)).collect();
    format!("{}..", kept.trim_end())
}

/// The runs as a table for people.
fn table(runs: &[RunSummary]) -> String {
    const PROMPT: usize = 48;
    let mut rows = vec![["run", "state", "steps", "size", "last worked on", "output", "prompt"].map(str::to_owned)];
    for run in runs {
        let plan = run.plan.as_ref();
        let of = plan.map_or(0, Plan::all_steps);
        let prompt = plan.and_then(|plan| plan.prompts.first()).map_or("", String::as_str);
        let more = plan.map_or(0, |plan| plan.prompts.len().saturating_sub(1));
        let mut shown: String = prompt.chars().take(PROMPT).collect();
        if prompt.chars().count() > PROMPT {
            shown.push_str("..");
        }
        if more > 0 {
            shown.push_str(&format!(" (+{more})"));
        }
        rows.push([
            directory::short(&run.id).to_owned(),
            run.state.to_string(),
            format!("{}/{of}", run.steps),
            human_bytes(run.bytes),
            format!("{} ago", human_seconds(since(run.modified).as_secs_f64())),
            plan.map_or_else(String::new, |plan| plan.output.clone()),
            shown,
        ]);
    }
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    // a line of a terminal is not broken into two
    let columns = terminal();
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", cut(plain(&line).trim_end(), columns))
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_the_terminal() {
        assert_eq!(cut("a1b2c3d4  stopped  3/50", 40), "a1b2c3d4  stopped  3/50");
        assert_eq!(
            cut("a1b2c3d4  stopped  3/50  12 MB  2 min ago  a.mp4  a red ball", 40),
            "a1b2c3d4  stopped  3/50  12 MB  2 min.."
        );
        assert_eq!(cut("é".repeat(50).as_str(), 40).chars().count(), 40);
    }
}
