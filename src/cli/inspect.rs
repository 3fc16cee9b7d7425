//! `inspect`: the record of a run.

use super::table::{aligned_within, plain, terminal, wrapped};
use crate::run::{Failure, Manifest, human_bytes, print, time::human_seconds};
use crate::video::Rate;
use serde_json::Value;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  vidgen inspect seasons.mp4
  vidgen inspect seasons.mp4 --json | jq .settings.steps
  vidgen inspect frames/

What decides the frames is in the video itself (.mp4, .webm, .gif, a directory of PNGs); how the run went is in the \
sidecar OUTPUT.json beside it.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A video of vidgen, a directory of PNGs, or a sidecar (.json)
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Prints the record, for people or as it is.
pub fn run(args: Args, json: bool) -> Result<(), Failure> {
    let manifest = Manifest::read(&args.file)?;
    if json {
        return print(&manifest.sidecar_json()?);
    }
    // of a sidecar, that of the video beside it
    let sidecar = args.file.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("json"));
    let video = if sidecar { args.file.with_extension("") } else { args.file };
    let bytes = video.metadata().ok().filter(|found| found.is_file()).map(|found| found.len());
    print(&describe(&manifest, bytes, terminal()))
}

/// A value without the quotes of JSON; none of what only programs read: lists of numbers, windows, texts by weight.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Object(_) => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(list) if list.is_empty() => None,
        Value::Array(list) => {
            let words = list.iter().map(|value| value.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()?;
            Some(words.join(", "))
        }
        other => Some(other.to_string()),
    }
}

/// What is to be seen, how long it is and what made it come first; then the settings. `bytes`: of the video's file; `columns`: of the
/// terminal.
fn describe(manifest: &Manifest, bytes: Option<u64>, columns: usize) -> String {
    const NAME: usize = 19;
    /// Told in the lines before the settings.
    const TOLD: [&str; 9] = ["seed", "model", "prompt", "prompts", "width", "height", "frames", "fps", "steps"];
    let mut rows: Vec<[String; 2]> = Vec::new();
    // someone may have sent the file
    let mut row =
        |name: &str, value: &str| rows.push([format!("{:<NAME$}", plain(name)), plain(&value.replace('\n', " "))]);
    let setting = |name: &str| manifest.settings.get(name).and_then(shown);
    let mut video: Vec<String> = Vec::new();
    video.extend(setting("width").zip(setting("height")).map(|(width, height)| format!("{width}x{height}")));
    if let Some(frames) = setting("frames") {
        video.push(format!("{frames} frame{}", if frames == "1" { "" } else { "s" }));
        if let Some((fps, number)) = setting("fps").and_then(|fps| Some((fps.clone(), fps.parse::<Rate>().ok()?))) {
            let seconds = frames.parse::<f64>().unwrap_or_default() / number.as_f64();
            video.push(format!("{seconds:.1} s at {fps} per second"));
        }
    }
    video.extend(bytes.map(human_bytes));
    if !video.is_empty() {
        row("video", &video.join(", "));
    }
    for (index, prompt) in manifest.prompts.iter().enumerate() {
        let name = if manifest.prompts.len() == 1 { "prompt".to_owned() } else { format!("prompt {}", index + 1) };
        row(&name, prompt);
    }
    row("model", &[manifest.model.name.as_str(), manifest.model.revision.as_deref().unwrap_or_default()].join(" "));
    row("seed", &manifest.seed.to_string());
    if let Some(steps) = setting("steps") {
        row("steps", &steps);
    }
    if let Some(facts) = &manifest.run {
        let seconds = &facts.seconds;
        let stages = [
            ("load", seconds.load),
            ("encode", seconds.encode),
            ("denoise", seconds.denoise),
            ("decode", seconds.decode),
            ("mux", seconds.mux),
        ];
        let stages: Vec<String> = stages
            .into_iter()
            .filter(|(_, seconds)| *seconds > 0.0)
            .map(|(stage, seconds)| format!("{stage} {}", human_seconds(seconds)))
            .collect();
        row("took", &format!("{} ({})", human_seconds(seconds.total), stages.join(", ")));
        row("started", &facts.started);
        row("machine", &format!("{}, {}, {} threads", facts.cpu, facts.os, facts.threads));
        if let Some(bytes) = facts.peak_memory {
            row("peak memory", &human_bytes(bytes));
        }
        if let Some(offload) = &facts.offload {
            row("offload", offload);
        }
    }
    row("made by", &format!("vidgen {} {}", manifest.version, manifest.command));
    let output = &manifest.output;
    let details = [output.pix_fmt.clone(), output.crf.map(|crf| format!("crf {crf}"))];
    row(
        "encoder",
        &std::iter::once(output.codec.clone()).chain(details.into_iter().flatten()).collect::<Vec<_>>().join(", "),
    );
    for (name, value) in manifest.settings.iter().filter(|(name, _)| !TOLD.contains(&name.as_str())) {
        if let Some(value) = shown(value) {
            row(&name.replace('_', " "), &value);
        }
    }
    let table = aligned_within(columns, &rows);
    format!("{table}\n{}", wrapped(columns, "Windows, hashes of the weights and everything else: --json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"schema": "vidgen.manifest.v1", "version": "0.1.0", "command": "multi-prompt",
        "prompts": ["a ball\u001b[31m", "a box\nin the snow"], "seed": 18446744073709551615,
        "model": {"name": "org/m", "revision": "abc", "class": "ToyPipeline", "hashes": {"text_encoder": "12"}},
        "settings": {"width": 144, "height": 96, "frames": 49, "fps": "8", "steps": 50, "guidance_scale": "wave:6",
            "negative_prompt": null, "seed": 1, "joined": [[false]], "attn_proc": ["a", "b"]},
        "output": {"codec": "libx264", "pix_fmt": "yuv420p", "crf": 17}}"#;

    #[test]
    fn a_record_is_a_table() {
        let record = Manifest::parse(RECORD).unwrap();
        let text = describe(&record, Some(1_400_000), usize::MAX);
        let want = "\
video                144x96, 49 frames, 6.1 s at 8 per second, 1.4 MB
prompt 1             a ball\u{fffd}[31m
prompt 2             a box in the snow
model                org/m abc
seed                 18446744073709551615
steps                50
made by              vidgen 0.1.0 multi-prompt
encoder              libx264, yuv420p, crf 17
guidance scale       wave:6
attn proc            a, b

Windows, hashes of the weights and everything else: --json
";
        assert_eq!(text, want);
        let narrow = describe(&record, Some(1_400_000), 40);
        assert!(narrow.lines().all(|line| line.chars().count() <= 40), "{narrow}");
    }
}
