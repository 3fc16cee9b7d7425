//! `model info`, `model list`: what models are, and which are at hand.

use super::table::{aligned, headed};
use super::{Report, settle};
use crate::job;
use crate::job::values::Precision;
use crate::models::architecture::Native;
use crate::run::{Code, Failure, WithCode, human_bytes, print};
use crate::weights::{
    self, Conversion, ConversionError, Listed, ModelFolder, ModelInfo, PartInfo, PartState, ToDownload,
};
use clap::Subcommand;
use clap::builder::FalseyValueParser;
use safetensors::Dtype;
use std::path::PathBuf;

const INFO: &str = "\
Examples:
  vidgen model info toyland
  vidgen model info ./model
  vidgen model info org/model --offline --json

Headers and configurations are read, weights are not. The exit code is 3 when a part is missing or damaged.";

const CONVERT: &str = "\
Examples:
  vidgen model convert ./model-with-bin-files -o ./model
  vidgen model convert v1-5-pruned.ckpt -o v1-5.safetensors --dtype f16
  vidgen model convert streaming_t2v.ckpt --base ./text-to-video-ms-1.7b -o ./streaming

Nothing in a pickle is run: opcodes are read as data, and of all classes only those of tensors mean anything.";

const MODEL: &str = "\
Examples:
  vidgen model list
  vidgen model info org/model";

const LIST: &str = "\
Examples:
  vidgen model list
  vidgen model list --json | jq -r '.models[].name'";

#[derive(Debug, clap::Args)]
#[command(after_help = MODEL)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Parts, parameters, stored types, native size, and what is missing or damaged
    #[command(after_help = INFO)]
    Info {
        /// toyland (built in), a folder in diffusers' layout, a hub id ORG/NAME[@REVISION] or a known name
        #[arg(value_name = "MODEL", default_value = weights::EMBEDDED, env = "VIDGEN_MODEL", hide_env = true)]
        model: String,
        /// Never use the network
        #[arg(long, value_parser = FalseyValueParser::new())]
        offline: bool,
    },
    /// The built-in model, and those in the hub's cache
    #[command(after_help = LIST)]
    List,
    /// Make safetensors of weights that are pickles (.bin, .ckpt, .pth), or a folder of a checkpoint of StreamingT2V or VidXTend
    #[command(after_help = CONVERT)]
    Convert(Convert),
}

#[derive(Debug, clap::Args)]
struct Convert {
    /// A folder in diffusers' or transformers' layout, or a file of tensors
    #[arg(value_name = "FILE|DIR")]
    input: PathBuf,
    /// The folder, or for a single file of tensors the .safetensors file, to make
    #[arg(short, long, value_name = "DIR|FILE")]
    output: PathBuf,
    /// The text-to-video folder that a streaming checkpoint was trained from
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// The image encoder of a checkpoint that has none: a folder of transformers, or a file of OpenCLIP
    #[arg(long, value_name = "FILE|DIR")]
    image_encoder: Option<PathBuf>,
    /// Dtype of the written floats: f32, bf16 or f16 [default: that of the file; f16 for streaming checkpoints]
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<Precision>,
}

impl Convert {
    fn run(&self, json: bool) -> Result<(), Failure> {
        let dtype = match self.dtype {
            None | Some(Precision::Auto) => None,
            Some(Precision::F32) => Some(Dtype::F32),
            Some(Precision::Bf16) => Some(Dtype::BF16),
            Some(Precision::F16) => Some(Dtype::F16),
        };
        let conversion = Conversion {
            input: &self.input,
            base: self.base.as_deref(),
            image_encoder: self.image_encoder.as_deref(),
            output: &self.output,
            dtype,
        };
        let files = conversion.run().map_err(|error| match error {
            ConversionError::Usage(message) => Failure::message(Code::Usage, message),
            ConversionError::Model(error) => Failure::new(Code::Model, error),
        })?;
        if json {
            return print(&to_json(&serde_json::json!({ "output": self.output, "files": files }))?);
        }
        let rows: Vec<[String; 3]> = std::iter::once(["file", "tensors", "size"].map(str::to_owned))
            .chain(files.iter().map(|file| [file.path.clone(), file.tensors.to_string(), human_bytes(file.bytes)]))
            .collect();
        print(&format!("{}{}\n", headed(&rows), self.output.display()))
    }
}

/// Prints what was asked for, as a table or as JSON.
pub fn run(args: Args, report: &Report) -> Result<(), Failure> {
    let json = report.json;
    match args.action {
        Action::Info { model, offline } => {
            weights::only_look();
            let model = ModelFolder::open(&model, offline).code(Code::Model)?;
            let info = weights::info(&model);
            // what keeps it from being read is among the problems of the parts
            let recipe = job::recipe_of(&model).ok();
            print(&if json { to_json(&Described { info: &info, recipe })? } else { describe(&info, recipe) })?;
            match info.parts.iter().find_map(|part| part.problem.as_deref()) {
                None => Ok(()),
                Some(problem) => Err(Failure::message(Code::Model, problem)),
            }
        }
        Action::Convert(convert) => {
            settle::start(report)?;
            convert.run(json)
        }
        Action::List => {
            let models = weights::list();
            print(&if json { to_json(&serde_json::json!({ "models": models }))? } else { table(&models) })
        }
    }
}

fn to_json(value: &impl serde::Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string_pretty(value).map_err(anyhow::Error::from)? + "\n")
}

/// `1.69 B`, `9.2 M`: numbers of parameters.
fn parameters(count: u64) -> String {
    match count as f64 {
        n if n >= 1e9 => format!("{:.2} B", n / 1e9),
        n if n >= 1e6 => format!("{:.1} M", n / 1e6),
        n if n >= 1e3 => format!("{:.1} k", n / 1e3),
        _ => count.to_string(),
    }
}

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Described<'a> {
    #[serde(flatten)]
    info: &'a ModelInfo,
    /// The one that its runs follow where none is chosen.
    recipe: Option<String>,
}

fn describe(info: &ModelInfo, recipe: Option<String>) -> String {
    let mut facts = vec![["model".to_owned(), info.name.clone()]];
    if info.place != info.name {
        facts.push(["place".to_owned(), info.place.clone()]);
    }
    facts.extend(info.revision.iter().map(|revision| ["revision".to_owned(), revision.clone()]));
    facts.push(["pipeline".to_owned(), info.class.clone()]);
    facts.extend(info.native.iter().map(|native| {
        let Native { width, height, frames, fps } = native;
        ["made for".to_owned(), format!("{width}x{height}, {frames} frames at {fps} per second")]
    }));
    facts.extend(recipe.map(|recipe| ["recipe".to_owned(), recipe]));
    facts.push([
        "weights".to_owned(),
        format!("{} parameters, {}", parameters(info.parameters), human_bytes(info.bytes)),
    ]);

    facts.extend(info.download.iter().map(|ToDownload { files, bytes }| {
        let files = format!("{files} file{}", if *files == 1 { "" } else { "s" });
        ["to download".to_owned(), format!("{}, {files}: the first run fetches them", human_bytes(*bytes))]
    }));

    let head = ["part", "state", "class", "parameters", "stored as", "size"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(info.parts.iter().map(row)).collect();
    let problems = info.parts.iter().filter_map(|part| part.problem.as_ref());
    let problems: String = problems.map(|problem| format!("! {problem}\n")).collect();
    let ignored = info.parts.iter().flat_map(|part| &part.ignored);
    let ignored: String = ignored.map(|path| format!("not used: {path}\n")).collect();
    let rest = [problems, ignored].concat();
    let gap = if rest.is_empty() { "" } else { "\n" };
    format!("{}\n{}{gap}{rest}", aligned(&facts), headed(&rows))
}

fn row(part: &PartInfo) -> [String; 6] {
    let state = match part.state {
        PartState::Present => "present",
        PartState::Missing => "MISSING",
        PartState::Damaged => "DAMAGED",
    };
    let weighted = part.parameters > 0;
    let shown = |text: String| if weighted { text } else { "-".to_owned() };
    let dtypes = part.dtypes.keys().map(String::as_str).collect::<Vec<_>>().join(" ");
    [
        part.name.clone(),
        state.to_owned(),
        part.class.clone().unwrap_or_else(|| "-".to_owned()),
        shown(parameters(part.parameters)),
        shown(dtypes),
        shown(human_bytes(part.bytes)),
    ]
}

fn table(models: &[Listed]) -> String {
    let head = ["model", "size", "state"].map(str::to_owned);
    let row = |model: &Listed| {
        let state = model.problem.clone().unwrap_or_else(|| "ready".to_owned());
        [model.name.clone(), human_bytes(model.bytes), state]
    };
    headed(&std::iter::once(head).chain(models.iter().map(row)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_model_is_described() {
        let info = weights::info(&ModelFolder::embedded());
        let text = describe(&info, job::recipe_of(&ModelFolder::embedded()).ok());
        assert!(text.contains("\nmade for  144x96, 49 frames at 8 per second\nrecipe    toyland\n"), "{text}");
        for part in ["tokenizer", "text_encoder", "transformer", "scheduler", "vae"] {
            let line = text.lines().find(|line| line.starts_with(part)).unwrap();
            assert!(line.contains("present"), "{line}");
        }
        assert!(!text.contains('!'));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut info = weights::info(&ModelFolder::embedded());
        info.parts[4].state = PartState::Damaged;
        info.parts[4].problem = Some("vae/x: truncated".to_owned());
        let text = describe(&info, None);
        assert!(text.contains("DAMAGED") && text.ends_with("\n! vae/x: truncated\n"), "{text}");
    }

    #[test]
    fn numbers_of_parameters_are_readable() {
        assert_eq!([999, 1500, 9_234_567, 1_693_000_000].map(parameters), ["999", "1.5 k", "9.2 M", "1.69 B"]);
    }
}
