//! What a job is going to do and take, before anything is loaded: what `vidgen plan` and `--dry-run` tell.

use super::{Job, Need, UncondText, memory, work};
use crate::models::architecture::Role;
use crate::run::{Outline, Speed};
use crate::timeline::TextMix;
use crate::video::{Format, PixelFormat};
use crate::weights::ToDownload;
use anyhow::Result;
use candle_core::DType;
use serde::Serialize;
use std::collections::HashSet;
use std::path::PathBuf;

/// A plan with its price.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forecast {
    pub command: &'static str,
    #[serde(flatten)]
    pub outline: Outline,
    /// The name of the recipe.
    pub recipe: String,
    /// What computes attention.
    pub attention: &'static str,
    pub windows: Vec<WindowRow>,
    /// Of the longest window, those of its text included.
    pub tokens: usize,
    /// Passes of windows through layers, over all steps, both halves of guidance as one.
    pub layer_windows: u64,
    /// The same as the method's own program makes them.
    pub reference_layer_windows: u64,
    pub flops: Flops,
    pub memory: Memory,
    /// Where the weights are that are not at work, as `--offload` has it.
    pub offload: String,
    /// What has to be fetched from the hub first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download: Option<ToDownload>,
    pub disk: Disk,
    /// None on devices and in numbers that the measurement does not cover.
    pub seconds: Option<Seconds>,
    pub output: PathBuf,
    /// Whether the output is there already.
    pub exists: bool,
    pub warnings: Vec<String>,
}

/// One window of the plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WindowRow {
    /// The stretch between two cuts that it is in, from 0.
    pub segment: usize,
    /// Latent frames of its segment.
    pub start: usize,
    pub end: usize,
    /// `prompt 1`, `prompts 1 to 2, 33 %`.
    pub text: String,
    /// Whether it reads the window before it.
    pub joined: bool,
}

/// Floating-point operations (two for a multiply-add).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Flops {
    pub denoise: f64,
    pub decode: f64,
}

/// Bytes of memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Memory {
    pub text: u64,
    pub denoise: u64,
    pub decode: u64,
    /// Of the device at the largest stage; on the CPU of the process.
    pub peak: u64,
    /// Free on the device now.
    pub available: Option<u64>,
    /// Of the host's memory, for weights that wait while another device computes.
    pub host: u64,
}

/// Bytes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Disk {
    /// With `--save-latents`.
    pub latents: u64,
    /// As Toyland's frames compress; detailed ones take several times as much.
    pub output: u64,
}

/// Seconds of each stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Seconds {
    pub load: f64,
    /// Where no prompt is in the cache of embeddings.
    pub encode: f64,
    pub denoise: f64,
    pub decode: f64,
    pub mux: f64,
    pub total: f64,
}

impl Forecast {
    /// `speed`: none where the machine was not measured.
    pub fn new(job: &Job, speed: Option<&Speed>) -> Result<Self> {
        let denoising = work::denoising(job);
        let Need { text, denoise, decode, host, .. } = job.need;
        let (channels, height, width) = job.latents;
        let kept: usize = job.segments.iter().map(|segment| segment.plan.keep - segment.padding).sum();
        let plans = || job.segments.iter().map(|segment| &segment.plan);
        let longest = plans().flat_map(|plan| &plan.windows).map(|window| window.len).max().unwrap_or(0);
        let measured = job.device.is_cpu() && job.dtype == DType::F32;
        Ok(Self {
            command: job.command.name(),
            outline: outline(job),
            recipe: job.recipe.clone(),
            attention: job.attention.name(),
            windows: windows(job),
            tokens: work::tokens(job, longest),
            layer_windows: denoising.layer_windows.round() as u64,
            reference_layer_windows: work::reference_layer_windows(job) as u64,
            flops: Flops { denoise: 2.0 * denoising.total(), decode: 2.0 * work::decoding(job).total() },
            memory: Memory { text, denoise, decode, peak: job.need.peak(), available: memory::free(&job.device), host },
            offload: job.offload.to_string(),
            download: job.model.to_download(),
            disk: Disk { latents: (kept * channels * height * width * 4) as u64, output: written(job) },
            seconds: speed.filter(|_| measured).map(|speed| seconds(job, speed)).transpose()?,
            output: job.output.path.clone(),
            exists: job.output.path.exists(),
            warnings: job.warnings.clone(),
        })
    }
}

/// What the job makes and on what.
pub fn outline(job: &Job) -> Outline {
    Outline {
        model: job.model.name().to_owned(),
        prompts: job.controls.edit.as_ref().map_or(&job.prompts, |edit| &edit.prompts).clone(),
        width: job.width,
        height: job.height,
        frames: job.frames,
        fps: job.rules.fps,
        steps: job.steps,
        seed: job.seed,
        device: job.device_name(),
        dtype: job.dtype.as_str().to_owned(),
        threads: job.threads,
        latent_frames: job.segments.iter().map(|segment| segment.plan.frames).sum(),
    }
}

fn windows(job: &Job) -> Vec<WindowRow> {
    let text = |text: &TextMix| match text {
        TextMix::Prompt(prompt) => format!("prompt {}", prompt + 1),
        TextMix::Between { from, to, weight } => {
            format!("prompts {} to {}, {:.0} %", from + 1, to + 1, weight * 100.0)
        }
    };
    let rows = job.segments.iter().enumerate().flat_map(|(segment, part)| {
        part.plan.windows.iter().map(move |window| WindowRow {
            segment,
            start: window.start,
            end: window.end(),
            text: text(&part.plan.texts[window.text]),
            joined: window.joined,
        })
    });
    rows.collect()
}

fn seconds(job: &Job, speed: &Speed) -> Result<Seconds> {
    let bytes = |part: &str| Ok::<_, anyhow::Error>(job.model.part(part)?.bytes() as f64);
    let text = job.model.part(job.architecture.text().part)?;
    let texts: HashSet<&String> = job.prompts.iter().collect();
    let texts = texts.len() + usize::from(matches!(job.uncond, UncondText::Text(_)));
    let products = text.elements() as f64 * (texts * job.architecture.text().length) as f64;
    let rate = if text.elements() > 100_000_000 { speed.linear_wide } else { speed.linear };
    let load =
        (bytes(job.architecture.part(Role::Denoiser))? + bytes(job.architecture.part(Role::Autoencoder))?) / speed.load;
    let encode = text.bytes() as f64 / speed.load + products / rate;
    let (denoise, decode) = (work::denoising(job).seconds(speed), work::decoding(job).seconds(speed));
    let mux = (job.width * job.height * job.frames) as f64 * speed.pixel;
    Ok(Seconds { load, encode, denoise, decode, mux, total: load + encode + denoise + decode + mux })
}

/// Bytes of the file. Exact for y4m but for some bytes at each frame. The others are what Toyland's frames take, as measured
/// (docs/plan.md): a mean over scenes and sizes, at the default quality or, for H.264, twice as much for every six below it.
fn written(job: &Job) -> u64 {
    let pixels = (job.width * job.shown() * job.height * job.frames) as f64;
    let output = &job.output;
    let bytes = match output.format {
        Format::Mp4 => 0.042 * 2f64.powf((17.0 - f64::from(output.crf.unwrap_or(17))) / 6.0),
        Format::Webm => 0.025,
        Format::Gif => 0.55,
        Format::PngDir => 0.92,
        Format::Y4m | Format::Y4mStdout => {
            let (columns, rows) = output.pix_fmt.unwrap_or(PixelFormat::Yuv420p).subsampling();
            1.0 + 2.0 / (columns * rows) as f64
        }
    };
    (pixels * bytes) as u64
}
