//! `plan`, and `--dry-run` of the commands that render: what would be done and what it would take.

use super::{
    Report, settle,
    table::{aligned, headed, plain},
    words,
};
use crate::estimate::{CacheRow, Forecast, RelayRow, calibrate};
use crate::job::{self, Command};
use crate::job::{Job, Settings, check_single};
use crate::run::time::human_seconds;
use crate::run::{Code, Failure, Outline, Speed, human_bytes, print, progress, speed};
use crate::storyboard::{Form, Storyboard};
use crate::weights::{self, ToDownload};
use std::fmt::Write;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  vidgen plan prompts/seasons.txt
  vidgen plan \"a red ball rolls to the right\" --steps 20 --size 288x192
  vidgen plan -p \"a red ball in the snow\" -p \"a red ball in the desert\" --json | jq .seconds.total
  vidgen plan story.toml --model ./model

The first plan on a machine measures it for a second or two and keeps the result in the user's cache directory.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_override_self = true)]
pub struct Args {
    /// A prompt, a file of prompts, or a scene script (.toml); - for standard input
    #[arg(value_name = "PROMPT|FILE", conflicts_with = "prompt", required_unless_present = "prompt")]
    input: Option<String>,
    /// A prompt; give it again for each scene, in order
    #[arg(short, long, value_name = "TEXT", alias = "prompts")]
    prompt: Vec<String>,
    #[command(flatten)]
    measure: Measure,
    #[command(flatten)]
    settings: Settings,
}

/// How the machine's speed is known.
#[derive(Debug, Clone, clap::Args)]
pub struct Measure {
    /// Measure the speed of this machine again, for the estimate of a plan
    #[arg(long, value_parser = clap::builder::FalseyValueParser::new())]
    pub recalibrate: bool,
}

/// Plans what the commands that render would do with the same words: one prompt is a clip, several are a video.
pub fn run(args: Args, report: &Report) -> Result<(), Failure> {
    let (command, storyboard) = match args.input {
        Some(input) if input == "-" || words::is_file(&input) => {
            (Command::MultiPrompt, Storyboard::read(&PathBuf::from(input), Form::Auto)?)
        }
        Some(prompt) => (Command::Generate, Storyboard::from_prompts(&[prompt])?),
        None if args.prompt.len() == 1 => (Command::Generate, Storyboard::from_prompts(&args.prompt)?),
        None => (Command::MultiPrompt, Storyboard::from_prompts(&args.prompt)?),
    };
    if command == Command::Generate {
        check_single(&storyboard.scenes, &args.settings)?;
    }
    weights::only_look();
    settle::prepare(&args.settings, report)?;
    let (settings, storyboard) = settle::settled(args.settings, storyboard, report)?;
    show(&job::resolve(command, settings.over_existing(), storyboard)?, &args.measure, report)
}

/// Prints the plans of jobs, as tables or as one JSON object on a line each.
pub fn show(jobs: &[Job], measure: &Measure, report: &Report) -> Result<(), Failure> {
    let speed = match jobs.first().filter(|job| job.first().compute.device.is_cpu()) {
        None => None,
        Some(job) => Some(known_speed(job.machine.threads, measure.recalibrate)?),
    };
    let plans = jobs.iter().map(|job| Ok(Forecast::new(job, speed.as_ref())?)).collect::<Result<Vec<_>, Failure>>()?;
    if report.json {
        let lines =
            plans.iter().map(|plan| Ok(format!("{}\n", serde_json::to_string(plan).map_err(anyhow::Error::from)?)));
        return print(&lines.collect::<Result<String, Failure>>()?);
    }
    let Some(first) = plans.first() else { return Err(Failure::message(Code::Failed, "nothing to plan")) };
    let mut text = describe(first);
    if plans.len() > 1 {
        let total: Option<f64> = plans.iter().map(|plan| Some(plan.seconds?.total)).sum();
        let total = total.map_or("unknown".to_owned(), human_seconds);
        let _ = writeln!(text, "\n{} videos like this one, with other seeds: {total} together", plans.len());
    }
    print(&text)
}

/// The speed of this machine, measured if it is not known.
fn known_speed(threads: usize, again: bool) -> Result<Speed, Failure> {
    if let Some(speed) = speed::kept(threads).filter(|_| !again) {
        return Ok(speed);
    }
    let measured = calibrate()?;
    // a plan without a cache directory is a plan all the same: the next one measures again
    let _ = speed::keep(threads, measured);
    Ok(measured)
}

/// Floating-point operations as people write them.
fn flops(count: f64) -> String {
    let units = [(1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP")];
    let (unit, name) = units.into_iter().find(|(unit, _)| count >= *unit).unwrap_or((1e6, "MFLOP"));
    format!("{:.2} {name}", count / unit)
}

fn describe(plan: &Forecast) -> String {
    let Outline { model, device, dtype, threads, width, height, frames, fps, seed, steps, .. } = &plan.outline;
    let word = if plan.chunks { "chunk" } else { "window" };
    let mut rows: Vec<[String; 2]> = Vec::new();
    let mut row = |name: &str, value: String| rows.push([name.to_owned(), value]);
    let duration = *frames as f64 / fps;
    let attention = plan.attention;
    row("model", format!("{model} on {device} in {dtype}, attention by {attention}, {threads} threads"));
    row("recipe", plan.recipe.clone());
    row(
        "video",
        format!(
            "{width}x{height}, {frames} frames at {} per second ({duration:.1} s), seed {seed}",
            progress::rounded(*fps)
        ),
    );
    if let Some(ToDownload { files, bytes }) = plan.download {
        row("to download", format!("{} in {files} file{}", human_bytes(bytes), if files == 1 { "" } else { "s" }));
    }
    row("output", format!("{}{}", plan.output.display(), if plan.exists { " (exists)" } else { "" }));
    row(
        "latent frames",
        format!(
            "{} in {} {word}{} of {} tokens",
            plan.outline.latent_frames,
            plan.windows.len(),
            if plan.windows.len() == 1 { "" } else { "s" },
            plan.tokens
        ),
    );
    row(
        "steps",
        format!(
            "{steps}: {} windows through layers (the method's own program: {})",
            plan.layer_windows, plan.reference_layer_windows
        ),
    );
    plan.cache.iter().for_each(|cache| row("cache", skipping(cache)));
    row("arithmetic", format!("{} denoising, {} decoding", flops(plan.flops.denoise), flops(plan.flops.decode)));
    let memory = &plan.memory;
    let free = memory.available.map_or(String::new(), |bytes| format!("; {} free", human_bytes(bytes)));
    row(
        "memory",
        format!(
            "{} at most (text {}, denoising {}, decoding {}){free}",
            human_bytes(memory.peak),
            human_bytes(memory.text),
            human_bytes(memory.denoise),
            human_bytes(memory.decode)
        ),
    );
    let waiting =
        if memory.host > 0 { format!(" ({} of the host's memory)", human_bytes(memory.host)) } else { String::new() };
    row("offload", format!("{}{waiting}", plan.offload));
    let disk = &plan.disk;
    row(
        "disk",
        format!(
            "about {} for frames as plain as Toyland's, more for detailed ones (latents: {})",
            human_bytes(disk.output),
            human_bytes(disk.latents)
        ),
    );
    let time = match &plan.seconds {
        None => "unknown: only f32 on the CPU is measured".to_owned(),
        Some(seconds) => format!(
            "{} (load {}, encode {}, denoise {}, decode {}, mux {})",
            human_seconds(seconds.total),
            human_seconds(seconds.load),
            human_seconds(seconds.encode),
            human_seconds(seconds.denoise),
            human_seconds(seconds.decode),
            human_seconds(seconds.mux)
        ),
    };
    row("time", time);
    let mut text = aligned(&rows);
    for (number, prompt) in plan.outline.prompts.iter().enumerate() {
        let _ = writeln!(text, "prompt {}: {prompt}", number + 1); // writing to a String cannot fail
    }
    text.push('\n');
    text.push_str(&windows(plan));
    if !plan.relay.is_empty() {
        text.push('\n');
        text.push_str(&listening(&plan.relay));
    }
    for warning in &plan.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    text.lines().map(|line| plain(line) + "\n").collect()
}

/// The windows of a plan.
fn windows(plan: &Forecast) -> String {
    let cuts = plan.windows.iter().any(|window| window.segment > 0);
    let stages = plan.windows.iter().any(|window| window.stage > 0);
    let word = if plan.chunks { "chunk" } else { "window" };
    let head = [word, "latent frames", "text", "joined"].map(str::to_owned);
    let windows = plan.windows.iter().enumerate().map(|(index, window)| {
        let stage = if stages { format!("stage {}, ", window.stage + 1) } else { String::new() };
        let segment = if cuts { format!("part {}, ", window.segment + 1) } else { String::new() };
        let joined = match (window.joined, plan.chunks && window.stage == 0) {
            (false, _) => "",
            (true, false) => "reads the window before",
            (true, true) => "sees the frames before",
        };
        let frames = format!("{stage}{segment}{}-{}", window.start, window.end - 1);
        [(index + 1).to_string(), frames, window.text.clone(), joined.to_owned()]
    });
    headed(&std::iter::once(head).chain(windows).collect::<Vec<_>>())
}

/// Which steps are computed, and what that keeps.
fn skipping(CacheRow { method, computed, steps, kept }: &CacheRow) -> String {
    let list: Vec<String> = computed.iter().map(ToString::to_string).collect();
    let (count, list, kept) = (computed.len(), list.join(" "), human_bytes(*kept));
    format!("{method}: {count} of {steps} steps are computed ({list}); {kept} are kept")
}

/// Latent frames that a line has room for.
const COLUMNS: usize = 64;

/// Who listens when: a line for each scene, in which each place is a latent frame, or the first of a few.
fn listening(rows: &[RelayRow]) -> String {
    let cuts = rows.iter().any(|row| row.segment > 0);
    let each = rows.iter().map(|row| row.weights.len().div_ceil(COLUMNS)).max().unwrap_or(1).max(1);
    let weight = |weight: &f64| match (weight * 10.0) as usize {
        10.. => '#',
        0 if *weight >= 5e-4 => '.',
        0 => ' ',
        tenths => char::from_digit(tenths as u32, 10).unwrap_or('#'),
    };
    let every = if each == 1 { String::new() } else { format!(" (every {each})") };
    let head = ["scene", "frames", "latent frames", &format!("listens: # wholly, 9-1 tenths, . less{every}")]
        .map(str::to_owned);
    let lines = rows.iter().map(|row| {
        let segment = if cuts { format!("part {}, ", row.segment + 1) } else { String::new() };
        let range = |(start, end): (usize, usize)| format!("{start}-{}", end - 1);
        let weights: String = row.weights.iter().step_by(each).map(weight).collect();
        let end = weights.trim_end();
        [row.scene.to_string(), format!("{segment}{}", range(row.frames)), range(row.latent_frames), format!("|{end}")]
    });
    headed(&std::iter::once(head).chain(lines).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_readable() {
        assert_eq!([1.2e16, 3.4e12, 5e9, 2e5].map(flops), ["12.00 PFLOP", "3.40 TFLOP", "5.00 GFLOP", "0.20 MFLOP"]);
    }
}
