//! The plan and the cost of a job before anything is loaded: what `vidgen plan` and `--dry-run` print.

use super::work;
use crate::job::{Job, Need, SceneTime, Segment, Stage, UncondText, free_memory, relay_weights};
use crate::models::architecture::Role;
use crate::run::{Outline, Speed};
use crate::timeline::TextMix;
use crate::video::{Format, PixelFormat};
use crate::weights::ToDownload;
use anyhow::Result;
use candle_core::DType;
use serde::Serialize;
use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;

/// A plan with its price.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forecast {
    pub command: &'static str,
    #[serde(flatten)]
    pub outline: Outline,
    /// The name of the recipe.
    pub recipe: String,
    /// The attention kernel.
    pub attention: &'static str,
    pub windows: Vec<WindowRow>,
    /// Whether they are chunks, each of which sees frames of the one before it as they were decoded.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub chunks: bool,
    /// Who listens when, where scenes share texts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub relay: Vec<RelayRow>,
    /// Steps that are not computed, where there are some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheRow>,
    /// Of the longest window, those of its text included.
    pub tokens: usize,
    /// Passes of windows through layers, over all steps, both halves of guidance as one.
    pub layer_windows: u64,
    /// The same as the method's own program makes them.
    pub reference_layer_windows: u64,
    pub flops: Flops,
    pub memory: Memory,
    /// Where weights that are not in use are kept, as `--offload` says.
    pub offload: String,
    /// What has to be fetched from the hub first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download: Option<ToDownload>,
    pub disk: Disk,
    /// None for devices and dtypes that the measurement does not cover.
    pub seconds: Option<Seconds>,
    pub output: PathBuf,
    /// Whether the output is there already.
    pub exists: bool,
    pub warnings: Vec<String>,
}

/// One window of the plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WindowRow {
    /// From 0; a second one enhances the frames of the first.
    pub stage: usize,
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

/// Steps that are not computed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CacheRow {
    pub method: String,
    /// The steps that are, from 0.
    pub computed: Vec<usize>,
    pub steps: usize,
    /// Bytes that they keep for the others.
    pub kept: u64,
}

/// A scene that shares texts with others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RelayRow {
    pub segment: usize,
    /// From 1.
    pub scene: usize,
    /// Frames of its segment; the end is not of it.
    pub frames: (usize, usize),
    pub latent_frames: (usize, usize),
    /// How much its words count in each latent frame of the segment, 0 to 1.
    pub weights: Vec<f64>,
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
    /// Of host memory, for offloaded weights.
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
    ///
    /// # Errors
    /// Weights that cannot be looked at.
    pub fn new(job: &Job, speed: Option<&Speed>) -> Result<Self> {
        let stages = || job.stages.iter();
        let denoising: Vec<_> = stages().map(work::denoising).collect();
        let most = |bytes: fn(&Need) -> u64| stages().map(|stage| bytes(&stage.need)).max().unwrap_or(0);
        let Stage { model, size, compute, .. } = job.first();
        let (channels, height, width) = job.last().size.latents;
        let kept: usize = job.last().segments.iter().map(|segment| segment.plan.keep - segment.padding).sum();
        let windows: Vec<WindowRow> = stages().enumerate().flat_map(|(index, stage)| windows(index, stage)).collect();
        let longest = windows.iter().filter(|row| row.stage == 0).map(|row| row.end - row.start).max().unwrap_or(0);
        let measured = stages().all(|stage| stage.compute.device.is_cpu() && stage.compute.dtype == DType::F32);
        Ok(Self {
            command: job.command.name(),
            outline: outline(job),
            recipe: model.recipe.clone(),
            attention: compute.attention.name(),
            windows,
            chunks: job.first().method.streaming.is_some(),
            cache: job.first().cache.as_ref().map(|cache| CacheRow {
                method: cache.method.to_string(),
                computed: (0..cache.computed.len()).filter(|&step| cache.computed[step]).collect(),
                steps: cache.computed.len(),
                kept: job.first().kept_bytes(),
            }),
            relay: job
                .first()
                .segments
                .iter()
                .enumerate()
                .flat_map(|(index, part)| relay(index, part, job.first()))
                .collect(),
            tokens: model.architecture.tokens(longest, (size.latents.1, size.latents.2)),
            layer_windows: denoising.iter().map(|work| work.layer_windows).sum::<f64>().round() as u64,
            reference_layer_windows: stages().map(work::reference_layer_windows).sum::<f64>() as u64,
            flops: Flops {
                denoise: 2.0 * denoising.iter().map(work::Denoising::total).sum::<f64>(),
                decode: 2.0
                    * (stages().map(|stage| work::decoding(stage).total()).sum::<f64>() + work::interpolation(job)),
            },
            memory: Memory {
                text: most(|need| need.text),
                denoise: most(|need| need.denoise),
                decode: most(|need| need.decode),
                peak: job.peak(),
                available: free_memory(&compute.device),
                host: most(|need| need.host),
            },
            offload: compute.offload.to_string(),
            download: model.folder.to_download(),
            disk: Disk { latents: (kept * channels * height * width * 4) as u64, output: written(job) },
            seconds: speed.filter(|_| measured).map(|speed| seconds(job, speed)).transpose()?,
            output: job.output.video.path.clone(),
            exists: job.output.video.path.exists(),
            warnings: job.warnings.clone(),
        })
    }
}

/// What the job makes and on what.
pub fn outline(job: &Job) -> Outline {
    let (first, last) = (job.first(), job.last());
    // what chunks only see again are no frames of the video
    let again = |segment: &Segment| if first.method.streaming.is_some() { segment.padding } else { 0 };
    Outline {
        model: first.model.folder.name().to_owned(),
        prompts: first.prompts().to_vec(),
        width: last.size.width,
        height: last.size.height,
        frames: job.output.frames(last.frames()),
        fps: job.output.video.fps.as_f64(),
        steps: first.sampler.steps,
        seed: job.seed,
        device: first.compute.device_name(),
        dtype: first.compute.dtype.as_str().to_owned(),
        threads: job.machine.threads,
        latent_frames: first.segments.iter().map(|segment| segment.plan.frames - again(segment)).sum(),
    }
}

/// The scenes of a segment that share texts.
fn relay(index: usize, segment: &Segment, stage: &Stage) -> Vec<RelayRow> {
    let (Some(relay), Some(profile)) = (&segment.relay, stage.controls.relay_profile()) else { return Vec::new() };
    let row = |time: &SceneTime| RelayRow {
        segment: index,
        scene: time.scene + 1,
        frames: time.frames,
        latent_frames: time.latent,
        weights: relay_weights(profile, time, segment.plan.keep),
    };
    relay.times.iter().map(row).collect()
}

fn windows(index: usize, stage: &Stage) -> Vec<WindowRow> {
    let shared = |prompt: usize| prompt.checked_sub(stage.text.prompts.len()).and_then(|at| stage.text.shared.get(at));
    let text = |text: &TextMix| match text {
        TextMix::Prompt(prompt) if let Some(shared) = shared(*prompt) => {
            let scenes: Vec<String> = shared.scenes.iter().map(|(scene, _)| (scene + 1).to_string()).collect();
            if scenes.is_empty() { "no prompt".to_owned() } else { format!("prompts {}", scenes.join(", ")) }
        }
        TextMix::Prompt(prompt) => format!("prompt {}", prompt + 1),
        TextMix::Between { from, to, weight } => {
            format!("prompts {} to {}, {:.0} %", from + 1, to + 1, weight * 100.0)
        }
    };
    if stage.method.streaming.is_some() {
        return chunks(index, stage, text);
    }
    let rows = stage.segments.iter().enumerate().flat_map(|(segment, part)| {
        part.plan.windows.iter().map(move |window| WindowRow {
            stage: index,
            segment,
            start: window.start,
            end: window.end(),
            text: match &part.plan.frame_texts {
                None => text(&part.plan.texts[window.text]),
                Some(_) => {
                    let of = |text: &TextMix| match text {
                        TextMix::Prompt(prompt) | TextMix::Between { to: prompt, .. } => prompt + 1,
                    };
                    let prompts: BTreeSet<usize> = part.plan.texts.iter().map(of).collect();
                    let prompts: Vec<String> = prompts.iter().map(ToString::to_string).collect();
                    format!("prompts {} by frames", prompts.join(", "))
                }
            },
            joined: window.joined,
        })
    });
    rows.collect()
}

/// Chunks by the frames of the video that they see and make.
fn chunks(index: usize, stage: &Stage, text: impl Fn(&TextMix) -> String) -> Vec<WindowRow> {
    let given = stage.input.source_video.as_ref().map_or(0, |source| source.frames);
    let rows = stage.segments.iter().enumerate().map(|(chunk, segment)| {
        let start = given + stage.first_shown(chunk) - segment.padding;
        let end = start + segment.plan.keep;
        let joined = segment.padding > 0;
        WindowRow { stage: index, segment: 0, start, end, text: text(&segment.plan.texts[0]), joined }
    });
    rows.collect()
}

/// The networks one after the other, and the file.
fn seconds(job: &Job, speed: &Speed) -> Result<Seconds> {
    let mut seconds = Seconds { load: 0.0, encode: 0.0, denoise: 0.0, decode: 0.0, mux: 0.0, total: 0.0 };
    for stage in &job.stages {
        let bytes = |role: Role| Ok::<_, anyhow::Error>(stage.model.part(role)?.bytes() as f64);
        let spec = stage.model.architecture.text();
        let text = stage.model.folder.part(spec.part)?;
        let texts: HashSet<&str> = stage.texts().collect();
        let texts = texts.len() + usize::from(matches!(stage.text.uncond, UncondText::Text(_)));
        let products = text.elements() as f64 * (texts * spec.length) as f64;
        let rate = if text.elements() > 100_000_000 { speed.linear_wide } else { speed.linear };
        seconds.load += (bytes(Role::Denoiser)? + bytes(Role::Autoencoder)?) / speed.load;
        if let Some(streaming) = &stage.method.streaming {
            let first = if streaming.first.is_some() { bytes(Role::FirstDenoiser)? } else { 0.0 };
            seconds.load += (first + bytes(Role::Memory)? + bytes(Role::ImageEncoder)?) / speed.load;
        }
        seconds.encode += text.bytes() as f64 / speed.load + products / rate;
        seconds.denoise += work::denoising(stage).seconds(speed);
        seconds.decode += work::decoding(stage).seconds(speed);
    }
    seconds.decode += work::interpolation(job) / speed.conv_wide;
    let Stage { size, .. } = job.last();
    seconds.mux = (size.width * size.height * job.output.frames(job.last().frames())) as f64 * speed.pixel;
    let Seconds { load, encode, denoise, decode, mux, .. } = seconds;
    Ok(Seconds { total: load + encode + denoise + decode + mux, ..seconds })
}

/// Bytes of the file. Exact for y4m but for some bytes at each frame. The others are what Toyland's frames take, as measured
/// (docs/plan.md): a mean over scenes and sizes, at the default quality or, for H.264, twice as much for every six below it.
fn written(job: &Job) -> u64 {
    let output = &job.output.video;
    let pixels = (output.width * output.height * job.output.frames(job.last().frames())) as f64;
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
