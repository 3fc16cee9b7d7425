//! How much memory a stage needs, network by network, before anything is loaded, and what is done to make it fit.
//!
//! Networks follow each other and are dropped before the next is loaded, so the need is that of the largest. The estimate counts weights and
//! the largest activations; on the built-in model it is within a fifth of the peak (`make bench-plan`).

use super::settings::Settings;
use super::stage::{Compute, Need, Stage};
use super::streaming::Streaming;
use super::values::{MemorySize, Offload, Tiling};
use crate::attention::SiteKind;
use crate::models::architecture::{Role, WindowRows};
use crate::nn::{compute_dtype, sdpa::Sdpa};
use crate::processors::Ranges;
use crate::run::{self, Code, Failure, human_bytes};
use crate::storyboard::Feed;
use crate::text::encoder_class;
use crate::weights::{self, Part};
use anyhow::Result;
use candle_core::{DType, Device};
use std::collections::BTreeMap;

/// The program itself, its threads and buffers, as measured on the built-in model.
const BASE: u64 = 64 << 20;

/// The modes of `--offload` that `auto` chooses from, in this order.
const MODES: [Offload; 4] = [Offload::None, Offload::Model, Offload::Block, Offload::Disk];

/// Bytes of what a control network has seen of its pictures that are kept from pass to pass; what is more is seen anew.
pub const KEPT_HINTS: usize = 256 << 20;

/// Blocks of a transformer that are alive at once where they are streamed.
const ALIVE: u64 = 2;

/// The memory that a job may use.
struct Budget {
    /// Bytes of the device; none where it cannot be known and no limit was given.
    device: Option<u64>,
    /// The limit that was asked for, where it is less than what is free.
    asked: Option<MemorySize>,
    /// Bytes of host memory, for offloaded weights.
    host: Option<u64>,
}

impl Budget {
    fn new(stage: &Stage, asked: Option<MemorySize>) -> Self {
        let free = free(&stage.compute.device);
        let asked = asked.filter(|asked| free.is_none_or(|free| asked.0 <= free));
        Self { device: asked.map(|asked| asked.0).or(free), asked, host: run::available_memory() }
    }

    /// Whether a job fits with its weights offloaded like this. Where networks stay from one video to the next they are all
    /// there in the end.
    fn holds(&self, stage: &Stage, offload: Offload) -> Result<bool> {
        let need = need(stage, offload)?;
        let stay = match offload {
            Offload::None => {
                let transformer =
                    weights(&stage.model.part(Role::Denoiser)?, stage.compute.dtype, &stage.compute.device);
                let vae = stage.model.part(Role::Autoencoder)?.bytes_as(stage.compute.vae_dtype);
                need.base + (need.denoise + vae).max(need.decode + transformer)
            }
            _ => 0,
        };
        let device = self.device.is_none_or(|bytes| need.peak().max(stay) <= bytes);
        Ok(device && (need.host == 0 || self.host.is_none_or(|bytes| need.host <= bytes)))
    }

    /// The first mode with which a job fits.
    fn first(&self, stage: &Stage) -> Result<Option<Offload>> {
        for mode in MODES {
            if self.holds(stage, mode)? {
                return Ok(Some(mode));
            }
        }
        Ok(None)
    }
}

/// Free memory of a device in bytes; none where it cannot be known.
pub fn free(device: &Device) -> Option<u64> {
    if device.is_cpu() { run::available_memory() } else { weights::free_memory(device) }
}

/// Chooses offloading where it is left to the program, and refuses what does not fit all the same.
pub(super) fn settle(stage: &mut Stage, settings: &Settings, warnings: &mut Vec<String>) -> Result<()> {
    let budget = Budget::new(stage, settings.max_vram);
    stage.compute.offload = match settings.offload.unwrap_or(Offload::Auto) {
        Offload::Auto => budget.first(stage)?.unwrap_or(Offload::Disk), // which takes the least
        asked => asked,
    };
    stage.need = need(stage, stage.compute.offload)?;
    warnings.extend(check(stage, &budget)?);
    Ok(())
}

/// Decodes in tiles, in all stages, where whole frames need more than was asked for; returns whether it does. What happens to
/// be free decides nothing here: tiles show in the frames, and a command is to make the same video tomorrow. Records say that
/// there are tiles, not why.
pub(super) fn tile(stages: &mut [Stage], settings: &Settings, warnings: &mut Vec<String>) -> Result<bool> {
    let Some(asked) = settings.max_vram else { return Ok(false) };
    let mut large = false;
    for stage in stages.iter() {
        large |= stage.decode.tile.is_none() && base(stage) + decode(stage)? > asked.0;
    }
    if !large || settings.vae_tiling.unwrap_or(Tiling::Auto) != Tiling::Auto {
        return Ok(false);
    }
    for stage in stages {
        let tile = stage.model.architecture.tile();
        stage.decode.tile.get_or_insert(tile);
    }
    warnings.push(format!("frames are decoded in tiles, to stay below --max-vram {asked}"));
    Ok(true)
}

/// Estimates a job with its weights offloaded like this.
fn need(stage: &Stage, offload: Offload) -> Result<Need> {
    let (weights, host) = transformer(stage, Role::Denoiser, offload)?;
    // weights that wait for the CPU wait in the memory in which it computes
    let (weights, host) = if stage.compute.device.is_cpu() { (weights + host, 0) } else { (weights, host) };
    let decode = decode(stage)?;
    // scenes that hand over frames are decoded while the denoiser waits
    let beside = if stage.segments.iter().any(|segment| segment.feed == Some(Feed::Frames)) { decode } else { 0 };
    let denoise = match &stage.method.streaming {
        Some(streaming) => chunks(stage, streaming, weights, offload)? + decode,
        None => weights + control_networks(stage) + placed(stage)? + activations(stage) + stage.kept_bytes() + beside,
    };
    Ok(Need { text: text(stage)?, denoise, decode, base: base(stage), host })
}

/// What chunks that go on from each other need beside the decoder, which waits for each: the first one's network, then what sees the
/// anchor, then the others' network of so many `weights` with the one that sees the frames before.
fn chunks(stage: &Stage, streaming: &Streaming, weights: u64, offload: Offload) -> Result<u64> {
    let Compute { dtype, device, .. } = &stage.compute;
    let of = |role: Role| Ok::<_, anyhow::Error>(self::weights(&stage.model.part(role)?, *dtype, device));
    let activations = activations(stage);
    let mut most = 0;
    if streaming.first.is_some() {
        let (first, host) = transformer(stage, Role::FirstDenoiser, offload)?;
        most = first + if device.is_cpu() { host } else { 0 } + activations;
    }
    if stage.segments.len() > usize::from(streaming.first.is_some()) {
        let (_, height, width) = stage.size.latents;
        let element = compute_dtype(*dtype, device).size_in_bytes() as u64;
        let rows = stage.rule().most_halves(stage.sampler.steps);
        let beside = stage.model.architecture.streaming().map(|own| own.row_memory((height, width), rows, element));
        let others = weights + of(Role::Memory)? + beside.unwrap_or(0) + activations;
        most = most.max(others).max(of(Role::ImageEncoder)? + of(Role::Resampler)?);
    }
    Ok(most)
}

/// A device's own context is there before it says what is free.
fn base(stage: &Stage) -> u64 {
    if stage.compute.device.is_cpu() { BASE } else { 0 }
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
fn transformer(stage: &Stage, role: Role, offload: Offload) -> Result<(u64, u64)> {
    let part = stage.model.part(role)?;
    if !matches!(offload, Offload::Block | Offload::Disk) {
        return Ok((weights(&part, stage.compute.dtype, &stage.compute.device), 0));
    }
    let layers = Layers::new(&part, stage.model.architecture.unit_prefixes())?;
    let alive = layers.rest + ALIVE * layers.block + layers.in_block;
    let held = if offload == Offload::Block { part.bytes_held(stage.compute.dtype) } else { 0 };
    Ok((share(alive, &part, stage.compute.dtype, &stage.compute.device), held))
}

/// The encoder is read block by block, after the table of embeddings, which is gone by then.
fn text(stage: &Stage) -> Result<u64> {
    let part = stage.model.folder.part(stage.model.architecture.text().part)?;
    let dtype = compute_dtype(stage.compute.text_dtype, &stage.compute.device);
    let layers = Layers::new(&part, encoder_class(&part)?.blocks)?;
    Ok(share((layers.block + layers.in_block).max(2 * layers.largest), &part, dtype, &stage.compute.device))
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

/// Memory of denoising beside the weights.
fn activations(stage: &Stage) -> u64 {
    let (channels, height, width) = stage.size.latents;
    let window = stage.segments.iter().flat_map(|s| &s.plan.windows).map(|w| w.len).max().unwrap_or(0);
    let element = compute_dtype(stage.compute.dtype, &stage.compute.device).size_in_bytes() as u64;
    let rows =
        WindowRows { frames: window, cells: (height, width), halves: stage.rule().most_halves(stage.sampler.steps) };
    let memory = stage.model.architecture.row_memory(rows, element, 3 * Sdpa::default().budget as u64);
    let frames = stage.segments.iter().map(|segment| segment.plan.frames);
    let frames: usize = if stage.method.streaming.is_some() { frames.max().unwrap_or(0) } else { frames.sum() };
    // the timeline, its estimate, the last estimate, the blend's sum and the noise, in f32
    let timeline = (frames * channels * height * width) as u64 * 4 * 6;
    let timelines = stage.segments.iter().map(|segment| stage.timelines(segment).len()).max().unwrap_or(1) as u64;
    timelines * (memory.activations + timeline + shared(stage, memory.state)) + memory.scores
}

/// A subject and its boxes: weights, the subject's keys and values for the whole run, and what the network beside the denoiser leaves.
fn placed(stage: &Stage) -> Result<u64> {
    let (Some(placed), Some(architecture)) = (&stage.method.placed, stage.model.architecture.subject()) else {
        return Ok(0);
    };
    let Compute { dtype, device, .. } = &stage.compute;
    let (_, height, width) = stage.size.latents;
    let element = compute_dtype(*dtype, device).size_in_bytes() as u64;
    let of = |role: Role| Ok::<_, anyhow::Error>(weights(&stage.model.part(role)?, *dtype, device));
    let mut bytes = 0;
    if placed.picture.is_some() {
        let layers = stage.model.architecture.layers(SiteKind::SelfSpatial, 1, (height, width));
        let values: usize = layers.iter().map(|layer| layer.channels * layer.grid.1 * layer.grid.2).sum();
        // keys and values behind both attentions of a layer
        bytes += of(Role::Reference)? + 4 * values as u64 * element;
    }
    if let (Some(boxes), Some(control)) = (&placed.boxes, architecture.box_control()) {
        let halves = stage.rule().most_halves(stage.sampler.steps);
        let (activations, left) =
            control.row_memory(WindowRows { frames: boxes.len(), cells: (height, width), halves }, element);
        bytes += of(Role::BoxEncoder)? + of(Role::BoxControl)? + activations + left;
    }
    Ok(bytes)
}

/// What the networks of the pictures that the video follows add: their weights, the pictures, and what they leave for the denoiser.
fn control_networks(stage: &Stage) -> u64 {
    let Compute { dtype, device, .. } = &stage.compute;
    let (_, height, width) = stage.size.latents;
    let frames = stage.segments.iter().flat_map(|s| &s.plan.windows).map(|w| w.len).max().unwrap_or(0);
    let rows = WindowRows { frames, cells: (height, width), halves: stage.rule().most_halves(stage.sampler.steps) };
    let element = compute_dtype(*dtype, device).size_in_bytes() as u64;
    let (mut bytes, mut most, mut left) = (0, 0, 0);
    let mut loaded: Vec<String> = Vec::new();
    for input in &stage.method.control_inputs {
        let place = input.model.part.place();
        if !loaded.contains(&place) {
            bytes += weights(&input.model.part, *dtype, device);
            loaded.push(place);
        }
        bytes += (input.footage.frames.len() * input.planes() * stage.size.width * stage.size.height) as u64;
        let hint = input.model.architecture.hint_bytes((height, width)) * input.footage.frames.len() as u64;
        bytes += hint.min(KEPT_HINTS as u64);
        let (activations, residuals) = input.model.architecture.row_memory(rows, element);
        most = most.max(activations);
        // those of the network before it, its own, and their sum
        left = residuals * stage.method.control_inputs.len().min(3) as u64;
    }
    bytes + most + left
}

/// What sharing adds: the states of forked rows, and the banked keys and values of a window.
/// `state`: bytes of one row's.
fn shared(stage: &Stage, state: u64) -> u64 {
    let plans = stage.segments.iter().map(|segment| &segment.plan);
    let bank = |plan| {
        let bank = stage.controls.bank(plan, stage.compute.dtype, &stage.compute.device)?;
        Some(bank.peak(&stage.bank_size(plan, 0..1)) as u64 + 2 * state)
    };
    let anchor = |plan| stage.anchor_bank(&Ranges::all()).peak(&stage.bank_size(plan, 0..stage.networks())) as u64;
    if stage.method.zero_shot.is_some() {
        return plans.map(anchor).max().unwrap_or(0);
    }
    plans.filter_map(bank).max().unwrap_or(0)
}

fn decode(stage: &Stage) -> Result<u64> {
    // about half of the autoencoder is its encoder, which is loaded where a video is given and needs as much for its maps
    let given = stage.input.source_video.is_some() || stage.input.first_frame.is_some();
    let share = if given { 10 } else { 6 };
    let weights = stage.model.part(Role::Autoencoder)?.bytes_as(stage.compute.vae_dtype) * share / 10;
    let (_, height, width) = stage.size.latents;
    let frames = stage.segments.iter().map(|segment| segment.plan.keep - segment.padding).max().unwrap_or(0);
    let memory = stage.model.architecture.decoding_memory(&stage.decode, frames, (height, width))?;
    let values = memory.caches + memory.alive;
    // frames of both sides of a fade wait for each other
    let fade = stage.segments.iter().map(|segment| segment.fade).max().unwrap_or(0);
    let waiting = (2 * fade * stage.size.width * stage.size.height * 3) as u64;
    Ok(weights
        + values as u64 * compute_dtype(stage.compute.vae_dtype, &stage.compute.device).size_in_bytes() as u64
        + waiting)
}

/// Refuses a job that does not fit into the memory of the CPU, which the system would end without a word, or into what was
/// asked for. Another device says by itself when it is full, and the estimate was measured on the CPU: there it is a warning,
/// which is returned.
fn check(stage: &Stage, budget: &Budget) -> Result<Option<String>> {
    if let Some(host) = budget.host.filter(|&host| stage.need.host > host) {
        let (needed, host) = (human_bytes(stage.need.host), human_bytes(host));
        let message =
            format!("the weights that wait need {needed} of the host's memory and {host} are free: use --offload disk");
        return Err(Failure::message(Code::Memory, message).into());
    }
    let Some(bytes) = budget.device.filter(|&bytes| stage.need.peak() > bytes) else { return Ok(None) };
    let largest = stage.need.largest();
    let limit = match budget.asked {
        Some(asked) => format!("--max-vram is {asked}"),
        None => format!("{} of memory are free", human_bytes(bytes)),
    };
    let advice = advice(stage, budget, largest)?;
    let network = match largest {
        Role::TextEncoder => "text encoder",
        Role::Autoencoder => "decoder",
        denoiser => stage.model.architecture.part(denoiser),
    };
    let message = format!("the {network} needs about {} and {limit}: {advice}", human_bytes(stage.need.peak()));
    if !stage.compute.device.is_cpu() && budget.asked.is_none() {
        return Ok(Some(message));
    }
    Err(Failure::message(Code::Memory, message).into())
}

fn advice(stage: &Stage, budget: &Budget, largest: Role) -> Result<String> {
    let Compute { dtype, device, offload, .. } = &stage.compute;
    if let Some(mode) = budget.first(stage)?.filter(|mode| mode != offload) {
        return Ok(format!("use --offload {mode}"));
    }
    let part = stage.model.part(Role::Denoiser)?;
    let half = weights(&part, *dtype, device).saturating_sub(weights(&part, DType::BF16, device));
    Ok(match largest {
        Role::Denoiser if half > 0 => "use --dtype bf16, or a smaller size",
        Role::Autoencoder if stage.decode.tile.is_none() => "use --vae-tiling on, or a smaller size",
        Role::TextEncoder => "use a machine with more memory",
        _ => "use a smaller size or a machine with more memory",
    }
    .to_owned())
}
