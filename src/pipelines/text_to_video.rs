//! Prompts to video: one prompt and one window (`generate`), or several prompts over overlapping windows
//! (`multi-prompt`). The two differ in their plan only.

use super::controls;
use super::decode::decode;
use super::denoise::{Denoising, NoiseSource, denoise};
use super::record::record;
use crate::job::values::TextCacheAt;
use crate::job::{Job, Segment, UncondText, work};
use crate::models::cogvideox::transformer::Transformer;
use crate::models::cogvideox::vae::Autoencoder;
use crate::nn::sdpa::Sdpa;
use crate::noise::Noise;
use crate::run::manifest::{Manifest, Stopwatch};
use crate::run::{Code, Event, Failure, Observer, Phase, Plan, WithCode};
use crate::text::{Encoded, TextCache, encode_all};
use crate::timeline;
use crate::video::{self, Fault, VideoError, Written};
use crate::weights::{read_tensors, write_tensors};
use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use serde_json::json;
use std::path::{Path, PathBuf};

/// What a run has made.
#[derive(Debug)]
pub struct Outcome {
    pub video: Written,
    pub manifest: Manifest,
}

impl Outcome {
    /// What `--json` prints: where the video is, and the record of the run.
    pub fn json(&self) -> serde_json::Value {
        let Written { path, codec, bytes, frames, warnings } = &self.video;
        json!({
            "output": path.to_string_lossy(), "codec": codec, "bytes": bytes, "frames": frames, "warnings": warnings,
            "manifest": self.manifest,
        })
    }
}

/// Makes the video of a job. Partial files are gone when it fails; the latents of a run whose video could not be written
/// are kept, and the error says where.
pub fn run(job: &Job, observer: &mut dyn Observer) -> Result<Outcome, Failure> {
    for warning in &job.warnings {
        observer.event(&Event::Warning(warning.clone()))?;
    }
    observer.event(&Event::Plan(Box::new(plan(job))))?;
    let noise = noise(job).code(Code::Usage)?;
    let mut watch = Stopwatch::new(observer);

    let texts = encode(job, &mut watch)?;
    let latents = latents(job, &texts, &noise, &mut watch)?;
    if let Some(path) = &job.save_latents {
        write_latents(path, &latents).code(Code::Failed)?;
        watch.event(&Event::Saved { kind: "latents", path: path.clone() })?;
    }

    let mut manifest = record(job).code(Code::Model)?;
    let video = frames(job, &latents, &manifest, &mut watch).map_err(|failure| match failure.code {
        Code::Encoder => keep(job, &latents, failure),
        _ => failure,
    })?;
    for warning in &video.warnings {
        watch.event(&Event::Warning(warning.clone()))?;
    }
    watch.event(&Event::Saved { kind: "video", path: video.path.clone() })?;
    manifest.run = Some(watch.facts(job.threads));
    if job.manifest.writes_sidecar()
        && let Some(path) = manifest.write_sidecar(&video.path, job.output.overwrite).code(Code::Failed)?
    {
        observer.event(&Event::Saved { kind: "manifest", path })?;
    }
    Ok(Outcome { video, manifest })
}

fn plan(job: &Job) -> Plan {
    Plan {
        model: job.model.name().to_owned(),
        prompts: job.prompts.clone(),
        width: job.width,
        height: job.height,
        frames: job.frames,
        fps: job.rules.fps,
        latent_frames: job.segments.iter().map(|segment| segment.plan.frames).sum(),
        windows: job.segments.iter().map(|segment| segment.plan.windows.len()).sum(),
        steps: job.steps,
        seed: job.seed,
        device: job.device_name(),
        dtype: job.dtype.as_str().to_owned(),
        threads: job.threads,
        memory: job.need.peak(),
        output: job.output.path.clone(),
    }
}

/// One embedding for each prompt, and that of the unconditional half.
struct Texts {
    prompts: Vec<Tensor>,
    uncond: Tensor,
}

fn encode(job: &Job, observer: &mut dyn Observer) -> Result<Texts, Failure> {
    observer.event(&Event::Phase { phase: Phase::Encode, of: 0, what: "prompts".into() })?;
    let cache = match &job.text_cache {
        Some(TextCacheAt::Folder(folder)) => TextCache::open(Some(folder.clone())),
        _ => TextCache::off(),
    };
    let length = job.transformer.max_text_seq_length;
    let mut texts: Vec<&str> = job.prompts.iter().map(String::as_str).collect();
    if let UncondText::Text(text) = &job.uncond {
        texts.push(text);
    }
    let encoded = encode_all(&job.model, &texts, length, job.text_dtype, &job.device, &cache).code(Code::Model)?;
    for (text, Encoded { tokens, .. }) in texts.iter().zip(&encoded) {
        if let Some(cut) = &tokens.cut {
            let message =
                format!("the prompt is longer than {length} tokens; this part is not read: {cut:?} (of {text:?})");
            observer.event(&Event::Warning(message))?;
        }
    }
    if let Some(warning) = cache.take_warning() {
        observer.event(&Event::Warning(warning))?;
    }
    let mut prompts: Vec<Tensor> = encoded.into_iter().map(|encoded| encoded.embedding).collect();
    let width = prompts.first().map_or(Ok(0), |embedding| embedding.dim(1))?;
    if width != job.transformer.text_embed_dim {
        let wanted = job.transformer.text_embed_dim;
        let message = format!(
            "{}: the text encoder gives {width} values for a token and the transformer takes {wanted}: these parts are not \
             of one model",
            job.model.place()
        );
        return Err(Failure::message(Code::Model, message));
    }
    let uncond = match job.uncond {
        UncondText::Text(_) => prompts.pop().context("no unconditional text")?,
        UncondText::Zeros => prompts[0].zeros_like()?,
    };
    Ok(Texts { prompts, uncond })
}

/// The noise of a job, read and checked before anything is loaded where it is given.
fn noise(job: &Job) -> Result<NoiseSource> {
    let Some(path) = &job.init_noise else { return Ok(NoiseSource::Seeded(Noise::new(job.seed))) };
    let shown = path.display();
    let mut tensors = read_tensors(path)?;
    let frames: usize = job.segments.iter().map(|segment| segment.plan.frames).sum();
    let (c, h, w) = job.latents;
    let mut take = |name: &str, shape: &[usize]| match tensors.remove(name) {
        None => Ok(None),
        Some(tensor) if tensor.dims() == shape => Ok(Some(tensor)),
        Some(tensor) => bail!("{shown}: {name} has shape {:?}, this run needs {shape:?}", tensor.dims()),
    };
    let Some(initial) = take("noise", &[1, frames, c, h, w])? else { bail!("{shown}: holds no tensor named noise") };
    let steps = take("step_noise", &[job.steps, 1, frames, c, h, w])?.map(|steps| steps.squeeze(1)).transpose()?;
    let scheduler = crate::schedulers::build(&job.schedule, job.scheduler, job.table, job.steps, job.eta)?;
    let needed = (0..job.steps).any(|step| scheduler.needs_noise(step));
    ensure!(
        steps.is_some() || !needed,
        "{shown}: holds no step_noise, and {} adds noise at every step: add it, or use --scheduler ddim",
        job.scheduler
    );
    Ok(NoiseSource::Given { initial: initial.squeeze(0)?, steps })
}

/// The denoised latents of each segment, `[F, C, H, W]` without padding, on the CPU.
fn latents(job: &Job, texts: &Texts, noise: &NoiseSource, observer: &mut dyn Observer) -> Result<Vec<Tensor>, Failure> {
    observer.event(&Event::Phase { phase: Phase::Load, of: 0, what: "transformer".into() })?;
    let part = job.model.part("transformer").code(Code::Model)?;
    let vb = part.var_builder(job.dtype, &job.device).code(Code::Model)?;
    let transformer = Transformer::load(&job.transformer, vb).code(Code::Model)?;
    let mut done = Vec::with_capacity(job.segments.len());
    let mut start = 0;
    for (index, Segment { plan, padding, .. }) in job.segments.iter().enumerate() {
        let mut scheduler = crate::schedulers::build(&job.schedule, job.scheduler, job.table, job.steps, job.eta)?;
        let (c, h, w) = job.latents;
        let texts_of_plan = plan
            .texts
            .iter()
            .map(|text| timeline::mix(&texts.prompts, text))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let mut stack = controls::stack(job, plan)?;
        let part = Denoising {
            denoiser: &transformer,
            scheduler: &mut *scheduler,
            plan,
            texts: &texts_of_plan,
            uncond: &texts.uncond,
            guidance: job.guidance,
            table: job.table,
            blend: job.blend,
            noise,
            start,
            shape: (c, h, w),
            device: &job.device,
            sharing: job.controls.sharing.as_ref(),
            stack: &mut stack.processors,
            kernel: Sdpa::default(),
            micro_batch: 2,
            part: (index, job.segments.len()),
            after: work::decode(job) * job.segments.len() as f64 / work::step(job),
        };
        let latents = denoise(part, observer)?;
        start += plan.frames;
        done.push(latents.narrow(0, *padding, plan.keep - padding)?.to_device(&Device::Cpu)?);
    }
    Ok(done)
}

fn frames(job: &Job, latents: &[Tensor], manifest: &Manifest, observer: &mut dyn Observer) -> Result<Written, Failure> {
    observer.event(&Event::Phase { phase: Phase::Load, of: 0, what: "vae".into() })?;
    let part = job.model.part("vae").code(Code::Model)?;
    let vb = part.var_builder(job.vae_dtype, &job.device).code(Code::Model)?;
    let vae = Autoencoder::load_decoder(&job.vae, vb).code(Code::Model)?;
    let mut output = job.output.clone();
    output.metadata = job.manifest.embeds().then(|| manifest.embedded_json()).transpose()?;
    let mut writer = video::open(&output).code(Code::Encoder)?;
    for (latents, segment) in latents.iter().zip(&job.segments) {
        let latents = latents.to_device(&job.device)?;
        decode(&vae, &latents, &job.decode, segment.frames, &mut writer, observer).map_err(
            |error| match video::fault(&error) {
                Some(_) => Failure::new(Code::Encoder, error),
                None => error.into(),
            },
        )?;
    }
    observer.event(&Event::Phase { phase: Phase::Mux, of: 0, what: String::new() })?;
    writer.finish().code(Code::Encoder)
}

fn write_latents(path: &Path, latents: &[Tensor]) -> Result<()> {
    write_tensors(path, &[("latents", &Tensor::cat(latents, 0)?.unsqueeze(0)?.to_dtype(DType::F32)?)])
}

/// Saves the latents of a run whose video could not be written: beside the output, or where there is room.
fn keep(job: &Job, latents: &[Tensor], failure: Failure) -> Failure {
    let gone = failure.find::<VideoError>().is_some_and(|error| error.fault == Fault::BrokenPipe);
    if gone || job.save_latents.is_some() {
        return failure;
    }
    let name = format!("vidgen-{}.latents.safetensors", job.seed);
    let beside = job.output.path.parent().map(Path::to_path_buf).unwrap_or_default();
    for folder in [beside, std::env::temp_dir(), PathBuf::from(".")] {
        let path = folder.join(&name);
        if write_latents(&path, latents).is_ok() {
            let message = format!("{}; the latents are kept in {}", failure.line(), path.display());
            return Failure::message(failure.code, message);
        }
    }
    Failure::message(failure.code, format!("{}; the latents could not be kept either", failure.line()))
}
