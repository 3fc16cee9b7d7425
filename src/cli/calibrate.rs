//! `calibrate`: what `--cache` decides by, measured of a model.

use super::Report;
use super::settle::prepare;
use crate::job::values::{DeviceSpec, ManifestMode, MemorySize, Precision, Seed, Size, TextCacheAt};
use crate::job::{self, Command, Settings};
use crate::models::architecture::Role;
use crate::pipelines::{StepChange, fit, step_changes};
use crate::run::ratios::{self, Measured};
use crate::run::{Code, Failure, WithCode, print};
use crate::storyboard::Storyboard;
use serde_json::json;

const EXAMPLES: &str = "\
Examples:
  vidgen calibrate --cache ./model
  vidgen calibrate --cache toyland --steps 20 \"a red ball rolls to the right in a green meadow on a sunny day\"

One run is made and nothing is written but the measurement, which --cache mag finds by the hash of the weights. Printed are the \
coefficients of --cache tea, for a recipe or the flag.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_override_self = true)]
pub struct Calibrate {
    /// The model whose steps are measured for --cache: as for --model of the other commands
    #[arg(long, value_name = "NAME|DIR")]
    cache: String,
    /// The prompt of the run; several, one after the other, for a mean over them
    #[arg(value_name = "PROMPT")]
    prompt: Vec<String>,
    /// Denoising steps [default: the model's]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Width and height in pixels, as 144x96 [default: the model's]
    #[arg(long, value_name = "WxH")]
    size: Option<Size>,
    /// Frames of the run [default: the model's]
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    /// Seed of the run
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Where to compute: auto, cpu, cuda, cuda:N or metal
    #[arg(short, long, value_name = "NAME")]
    device: Option<DeviceSpec>,
    /// Dtype: auto, f32, bf16 or f16
    #[arg(long, value_name = "NAME")]
    dtype: Option<Precision>,
    /// Limit on the device's memory, as 12GB
    #[arg(long, value_name = "SIZE")]
    max_vram: Option<MemorySize>,
    /// CPU threads [default: physical cores]
    #[arg(short = 'j', long, value_name = "N")]
    threads: Option<usize>,
    /// Never use the network
    #[arg(long, value_parser = clap::builder::FalseyValueParser::new())]
    offline: bool,
}

/// Something with a movement, in words that most models know.
const PROMPT: &str = "a red ball rolls to the right in a green meadow on a sunny day";

impl Calibrate {
    pub fn run(self, report: &Report) -> Result<(), Failure> {
        let settings = Settings {
            model: Some(self.cache),
            steps: self.steps,
            size: self.size,
            frames: self.frames,
            seed: Some(Seed::Fixed(self.seed)),
            device: self.device,
            dtype: self.dtype,
            max_vram: self.max_vram,
            threads: self.threads,
            offline: Some(self.offline),
            output: Some("-".to_owned()),
            manifest: Some(ManifestMode::None),
            text_cache: Some(TextCacheAt::Off),
            ..Settings::default()
        };
        prepare(&settings, report)?;
        let prompts = if self.prompt.is_empty() { vec![PROMPT.to_owned()] } else { self.prompt };
        let (mut points, mut sums, mut hash) = (Vec::new(), Vec::<f64>::new(), String::new());
        for prompt in &prompts {
            let storyboard = Storyboard::from_prompts(std::slice::from_ref(prompt))?;
            let jobs = job::resolve(Command::Generate, settings.clone(), storyboard)?;
            let Some(job) = jobs.first() else { return Err(Failure::message(Code::Failed, "nothing to measure")) };
            let changes = step_changes(job, &mut *report.observer()?)?;
            sums.resize(changes.len(), 0.0);
            for (sum, change) in sums.iter_mut().zip(&changes) {
                *sum += change.ratio / prompts.len() as f64;
            }
            points.extend(changes.iter().skip(1).map(|StepChange { signal, difference, .. }| (*signal, *difference)));
            hash = job.first().model.part(Role::Denoiser).and_then(|part| part.hash()).code(Code::Model)?;
        }
        let measured = Measured { ratios: sums };
        let file = ratios::keep(&hash, &measured)?;
        let coefficients = fit(&points);
        if report.json {
            let object = json!({
                "tea": coefficients,
                "ratios": measured.ratios,
                "points": points,
                "weights": hash,
                "file": file,
            });
            return print(&format!("{object}\n"));
        }
        let [a, b, c, d, e] = coefficients;
        print(&format!(
            "tea   coefficients={a:.6}/{b:.6}/{c:.6}/{d:.6}/{e:.6}\nmag   {} ratios in {}\n",
            measured.ratios.len(),
            file.display()
        ))
    }
}
