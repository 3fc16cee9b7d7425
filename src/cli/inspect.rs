//! `inspect`: the record of a run.

use crate::run::{Failure, Manifest, human_bytes, print, time::human_seconds};
use serde_json::Value;
use std::fmt::Write;
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
    print(&if json { manifest.sidecar_json()? } else { describe(&manifest) })
}

/// A value without the quotes of JSON; lists of windows may be long, and are whole in the JSON.
fn shown(value: &Value) -> String {
    const MOST: usize = 100;
    match value {
        Value::String(text) => text.clone(),
        other => match other.to_string() {
            text if text.chars().count() > MOST => text.chars().take(MOST).chain(" ...".chars()).collect(),
            text => text,
        },
    }
}

/// The text of a file someone may have sent, on a terminal: without control characters.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn describe(manifest: &Manifest) -> String {
    const COLUMN: usize = 20;
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        let value = value.replace('\n', " ");
        // writing to a String cannot fail
        let _ = writeln!(text, "{}", format!("{name:<COLUMN$} {value}").trim_end());
    };
    row("made by", &format!("vidgen {} {}", manifest.version, manifest.command));
    row("model", &[manifest.model.name.as_str(), manifest.model.revision.as_deref().unwrap_or_default()].join(" "));
    for (index, prompt) in manifest.prompts.iter().enumerate() {
        let name = if manifest.prompts.len() == 1 { "prompt".to_owned() } else { format!("prompt {}", index + 1) };
        row(&name, prompt);
    }
    row("seed", &manifest.seed.to_string());
    for (name, value) in &manifest.settings {
        let told = ["seed", "model", "prompt", "prompts"].contains(&name.as_str());
        if !told && !value.is_null() {
            row(&name.replace('_', " "), &shown(value));
        }
    }
    let output = &manifest.output;
    let details = [output.pix_fmt.clone(), output.crf.map(|crf| format!("crf {crf}"))];
    row(
        "encoder",
        &std::iter::once(output.codec.clone()).chain(details.into_iter().flatten()).collect::<Vec<_>>().join(", "),
    );
    for (part, hash) in &manifest.model.hashes {
        row(&format!("{} blake3", part.replace('_', " ")), hash);
    }
    if let Some(facts) = &manifest.run {
        row("started", &facts.started);
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
        if let Some(bytes) = facts.peak_memory {
            row("peak memory", &human_bytes(bytes));
        }
        if let Some(offload) = &facts.offload {
            row("offload", offload);
        }
        row("machine", &format!("{}, {}, {} threads", facts.cpu, facts.os, facts.threads));
    }
    plain(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"schema": "vidgen.manifest.v1", "version": "0.1.0", "command": "multi-prompt",
        "prompts": ["a ball\u001b[31m", "a box\nin the snow"], "seed": 18446744073709551615,
        "model": {"name": "org/m", "revision": "abc", "class": "CogVideoXPipeline", "hashes": {"text_encoder": "12"}},
        "settings": {"steps": 50, "guidance_scale": "wave:6", "negative_prompt": null, "seed": 1},
        "output": {"codec": "libx264", "pix_fmt": "yuv420p", "crf": 17}}"#;

    #[test]
    fn a_record_is_a_table() {
        let text = describe(&Manifest::parse(RECORD).unwrap());
        let want = "\
made by              vidgen 0.1.0 multi-prompt
model                org/m abc
prompt 1             a ball\u{fffd}[31m
prompt 2             a box in the snow
seed                 18446744073709551615
steps                50
guidance scale       wave:6
encoder              libx264, yuv420p, crf 17
text encoder blake3  12
";
        assert_eq!(text, want);
    }
}
