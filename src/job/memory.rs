//! How much memory a job needs, stage by stage, before anything is loaded, and what is done to make it fit.
//!
//! Stages follow each other and drop what they loaded, so the need is that of the largest. The estimate counts weights and
//! the largest activations; on the built-in model it is within a fifth of the peak (`make bench-plan`).

use super::Job;
use super::settings::Settings;
use super::values::{MemorySize, Offload, Tiling};
use crate::models::architecture::Role;
use crate::models::architecture::WindowRows;
use crate::nn::{compute_dtype, sdpa::Sdpa};
use crate::run::{self, Code, Failure, human_bytes};
use crate::text::encoder_class;
use crate::weights::{self, Part};
use anyhow::Result;
use candle_core::{DType, Device};
use std::collections::BTreeMap;

/// Bytes of each stage, on the device that computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    pub text: u64,
    pub denoise: u64,
    pub decode: u64,
    /// The program itself.
    pub base: u64,
    /// Of the host's memory, for weights that wait in it while another device computes.
    pub host: u64,
}

/// The program itself, its threads and buffers, as measured on the built-in model.
const BASE: u64 = 64 << 20;

/// The modes of `--offload` that `auto` chooses from, in this order.
const MODES: [Offload; 4] = [Offload::None, Offload::Model, Offload::Block, Offload::Disk];

/// Blocks of a transformer that are alive at once where they are streamed.
const ALIVE: u64 = 2;

impl Need {
    /// The largest stage.
    pub fn peak(&self) -> u64 {
        self.base + self.text.max(self.denoise).max(self.decode)
    }

    /// The part that needs the most.
    fn stage(&self) -> Role {
        match self.text.max(self.denoise).max(self.decode) {
            most if most == self.text => Role::TextEncoder,
            most if most == self.denoise => Role::Denoiser,
            _ => Role::Autoencoder,
        }
    }
}

/// What a job may take.
struct Budget {
    /// Bytes of the device; none where it does not tell and nothing was asked for.
    device: Option<u64>,
    /// What was asked for, where that is less than what is free.
    asked: Option<MemorySize>,
    /// Bytes of the host's memory, for weights that wait.
    host: Option<u64>,
}

impl Budget {
    fn new(job: &Job, asked: Option<MemorySize>) -> Self {
        let free = free(&job.device);
        let asked = asked.filter(|asked| free.is_none_or(|free| asked.0 <= free));
        Self { device: asked.map(|asked| asked.0).or(free), asked, host: run::available_memory() }
    }

    /// Whether a job fits with its weights offloaded like this. Where networks stay from one video to the next they are all
    /// there in the end.
    fn holds(&self, job: &Job, offload: Offload) -> Result<bool> {
        let need = need(job, offload)?;
        let stay = match offload {
            Offload::None => {
                let transformer =
                    weights(&job.model.part(job.architecture.part(Role::Denoiser))?, job.dtype, &job.device);
                let vae = job.model.part(job.architecture.part(Role::Autoencoder))?.bytes_as(job.vae_dtype);
                need.base + (need.denoise + vae).max(need.decode + transformer)
            }
            _ => 0,
        };
        let device = self.device.is_none_or(|bytes| need.peak().max(stay) <= bytes);
        Ok(device && (need.host == 0 || self.host.is_none_or(|bytes| need.host <= bytes)))
    }

    /// The first mode with which a job fits.
    fn first(&self, job: &Job) -> Result<Option<Offload>> {
        for mode in MODES {
            if self.holds(job, mode)? {
                return Ok(Some(mode));
            }
        }
        Ok(None)
    }
}

/// Memory that is free on a device, in bytes; none where it does not tell.
pub(super) fn free(device: &Device) -> Option<u64> {
    if device.is_cpu() { run::available_memory() } else { weights::free_memory(device) }
}

/// Chooses tiles and offloading where they are left to the program, and refuses what does not fit all the same.
pub(super) fn settle(job: &mut Job, settings: &Settings) -> Result<()> {
    let budget = Budget::new(job, settings.max_vram);
    tile(job, settings)?;
    job.offload = match settings.offload.unwrap_or(Offload::Auto) {
        Offload::Auto => budget.first(job)?.unwrap_or(Offload::Disk), // which takes the least
        asked => asked,
    };
    job.need = need(job, job.offload)?;
    check(job, &budget)
}

/// Decodes in tiles where whole frames need more than was asked for. What happens to be free decides nothing here: tiles
/// show in the frames, and a command is to make the same video tomorrow. Records say that there are tiles, not why.
fn tile(job: &mut Job, settings: &Settings) -> Result<()> {
    let Some(asked) = settings.max_vram else { return Ok(()) };
    let auto = settings.vae_tiling.unwrap_or(Tiling::Auto) == Tiling::Auto;
    if !auto || job.decode.tile.is_some() || base(job) + decode(job)? <= asked.0 {
        return Ok(());
    }
    job.decode.tile = Some(job.architecture.tile());
    job.request.settings.vae_tiling = Some(Tiling::On);
    job.warnings.push(format!("frames are decoded in tiles, to stay below --max-vram {asked}"));
    Ok(())
}

/// Estimates a job with its weights offloaded like this.
fn need(job: &Job, offload: Offload) -> Result<Need> {
    let (weights, host) = transformer(job, offload)?;
    // weights that wait for the CPU wait in the memory in which it computes
    let (weights, host) = if job.device.is_cpu() { (weights + host, 0) } else { (weights, host) };
    Ok(Need { text: text(job)?, denoise: weights + activations(job), decode: decode(job)?, base: base(job), host })
}

/// A device's own context is there before it says what is free.
fn base(job: &Job) -> u64 {
    if job.device.is_cpu() { BASE } else { 0 }
}

/// Bytes of all weights of a network of linear layers where it computes.
fn weights(part: &Part, dtype: DType, device: &Device) -> u64 {
    if device.is_cpu() { part.bytes_held(dtype) } else { part.bytes_as(dtype) }
}

/// Bytes of some of them.
fn share(values: u64, part: &Part, dtype: DType, device: &Device) -> u64 {
    (u128::from(values) * u128::from(weights(part, dtype, device)) / u128::from(part.elements().max(1))) as u64
}

/// Bytes of the transformer's weights: those that are alive at once, and those that wait.
fn transformer(job: &Job, offload: Offload) -> Result<(u64, u64)> {
    let part = job.model.part(job.architecture.part(Role::Denoiser))?;
    if !matches!(offload, Offload::Block | Offload::Disk) {
        return Ok((weights(&part, job.dtype, &job.device), 0));
    }
    let layers = Layers::new(&part, job.architecture.unit_prefixes())?;
    let alive = layers.rest + ALIVE * layers.block + layers.in_block;
    let held = if offload == Offload::Block { part.bytes_held(job.dtype) } else { 0 };
    Ok((share(alive, &part, job.dtype, &job.device), held))
}

/// The encoder is read block by block, after the table of embeddings, which is gone by then.
fn text(job: &Job) -> Result<u64> {
    let part = job.model.part(job.architecture.text().part)?;
    let dtype = compute_dtype(job.text_dtype, &job.device);
    let layers = Layers::new(&part, encoder_class(&part)?.blocks)?;
    Ok(share((layers.block + layers.in_block).max(2 * layers.largest), &part, dtype, &job.device))
}

/// The weights of a network of blocks, in numbers of values. A tensor is there twice while it becomes a layer.
#[derive(Default)]
struct Layers {
    /// Of the largest block.
    block: u64,
    /// The largest tensor of a block.
    in_block: u64,
    /// What is in no block.
    rest: u64,
    /// The largest tensor that is in none.
    largest: u64,
}

impl Layers {
    /// `prefixes` are those of the blocks, before their numbers.
    fn new(part: &Part, prefixes: &[&str]) -> Result<Self> {
        let mut blocks = BTreeMap::<String, u64>::new();
        let mut layers = Self::default();
        for tensor in part.tensors()? {
            let count = tensor.elements();
            let block = prefixes.iter().find_map(|prefix| {
                let number = tensor.name.strip_prefix(prefix)?.split('.').next()?;
                Some(format!("{prefix}{number}"))
            });
            match block {
                Some(block) => {
                    *blocks.entry(block).or_default() += count;
                    layers.in_block = layers.in_block.max(count);
                }
                None => {
                    layers.rest += count;
                    layers.largest = layers.largest.max(count);
                }
            }
        }
        layers.block = blocks.into_values().max().unwrap_or(0);
        Ok(layers)
    }
}

/// What denoising holds beside the weights.
fn activations(job: &Job) -> u64 {
    let (channels, height, width) = job.latents;
    let window = job.segments.iter().flat_map(|s| &s.plan.windows).map(|w| w.len).max().unwrap_or(0);
    let element = compute_dtype(job.dtype, &job.device).size_in_bytes() as u64;
    let rows = WindowRows { frames: window, cells: (height, width), halves: job.rule().most_halves(job.steps) };
    let memory = job.architecture.row_memory(rows, element, 3 * Sdpa::default().budget as u64);
    let frames: usize = job.segments.iter().map(|segment| segment.plan.frames).sum();
    // the timeline, its estimate, the last estimate, the blend's sum and the noise, in f32
    let timeline = (frames * channels * height * width) as u64 * 4 * 6;
    let timelines = job.segments.iter().map(|segment| job.timelines(segment).len()).max().unwrap_or(1) as u64;
    timelines * (memory.activations + timeline + shared(job, memory.state)) + memory.scores
}

/// What sharing adds: the states of rows that have parted, and the keys and values on their way to the next window.
/// `state`: bytes of one row's.
fn shared(job: &Job, state: u64) -> u64 {
    let (_, height, width) = job.latents;
    let plans = job.segments.iter().map(|segment| &segment.plan);
    let bank = |plan| {
        let bank = job.controls.bank(plan, job.dtype, &job.device)?;
        Some(
            bank.peak(&super::bank_size(plan, &*job.architecture, (height, width), job.rule().most_halves(job.steps)))
                as u64
                + 2 * state,
        )
    };
    plans.filter_map(bank).max().unwrap_or(0)
}

fn decode(job: &Job) -> Result<u64> {
    // about half of the autoencoder is its encoder, which is loaded where a video is given and needs as much for its maps
    let share = if job.given.is_some() { 10 } else { 6 };
    let weights = job.model.part(job.architecture.part(Role::Autoencoder))?.bytes_as(job.vae_dtype) * share / 10;
    let (_, height, width) = job.latents;
    let frames = job.segments.iter().map(|segment| segment.plan.keep - segment.padding).max().unwrap_or(0);
    let memory = job.architecture.decoding_memory(&job.decode, frames, (height, width))?;
    let values = memory.caches + memory.alive;
    // frames of both sides of a fade wait for each other
    let fade = job.segments.iter().map(|segment| segment.fade).max().unwrap_or(0);
    let waiting = (2 * fade * job.width * job.height * 3) as u64;
    Ok(weights + values as u64 * compute_dtype(job.vae_dtype, &job.device).size_in_bytes() as u64 + waiting)
}

/// Refuses a job that does not fit into the memory of the CPU, which the system would end without a word, or into what was
/// asked for. Another device says by itself when it is full, and the estimate was measured on the CPU: there it is a warning.
fn check(job: &mut Job, budget: &Budget) -> Result<()> {
    if let Some(host) = budget.host.filter(|&host| job.need.host > host) {
        let (needed, host) = (human_bytes(job.need.host), human_bytes(host));
        let message =
            format!("the weights that wait need {needed} of the host's memory and {host} are free: use --offload disk");
        return Err(Failure::message(Code::Memory, message).into());
    }
    let Some(bytes) = budget.device.filter(|&bytes| job.need.peak() > bytes) else { return Ok(()) };
    let stage = job.need.stage();
    let limit = match budget.asked {
        Some(asked) => format!("--max-vram is {asked}"),
        None => format!("{} of memory are free", human_bytes(bytes)),
    };
    let advice = advice(job, budget, stage)?;
    let stage = match stage {
        Role::TextEncoder => "text encoder",
        Role::Autoencoder => "decoder",
        denoiser => job.architecture.part(denoiser),
    };
    let message = format!("the {stage} needs about {} and {limit}: {advice}", human_bytes(job.need.peak()));
    if !job.device.is_cpu() && budget.asked.is_none() {
        job.warnings.push(message);
        return Ok(());
    }
    Err(Failure::message(Code::Memory, message).into())
}

fn advice(job: &Job, budget: &Budget, stage: Role) -> Result<String> {
    if let Some(mode) = budget.first(job)?.filter(|&mode| mode != job.offload) {
        return Ok(format!("use --offload {mode}"));
    }
    let part = job.model.part(job.architecture.part(Role::Denoiser))?;
    let half = weights(&part, job.dtype, &job.device).saturating_sub(weights(&part, DType::BF16, &job.device));
    Ok(match stage {
        Role::Denoiser if half > 0 => "use --dtype bf16, or a smaller size",
        Role::Autoencoder if job.decode.tile.is_none() => "use --vae-tiling on, or a smaller size",
        Role::TextEncoder => "use a machine with more memory",
        _ => "use a smaller size or a machine with more memory",
    }
    .to_owned())
}
