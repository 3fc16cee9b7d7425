//! Networks that stay in memory from one job to the next, where a command has several.

use crate::job::values::Offload;
use crate::job::{Compute, Stage};
use crate::models::architecture::{Role, StreamingArchitecture};
use crate::models::continuation::{AnchorEncoder, Continuation};
use crate::models::control::ControlNetwork;
use crate::models::{Autoencoder, Denoiser};
use crate::run::{Code, Failure, WithCode};
use crate::weights::MergedLora;
use anyhow::Context;
use candle_core::DType;
use candle_nn::VarBuilder;
use std::sync::Arc;

/// What was loaded for the last job. Each network is kept on its own, and only where more jobs follow and nothing is
/// offloaded: the peak memory of all others is that of the largest stage, not of all stages together.
#[derive(Default)]
pub struct Loaded {
    keep: bool,
    denoiser: Option<(Key, Arc<dyn Denoiser>)>,
    decoder: Option<(Key, Arc<dyn Autoencoder>)>,
    controls: Vec<(Key, Arc<dyn ControlNetwork>)>,
    /// Of the first chunk of a video.
    first: Option<(Key, Arc<dyn Denoiser>)>,
    continuation: Option<(Key, Arc<dyn Continuation>)>,
}

/// The model with what is merged into it and what is different of it in this run, its dtype and its device.
#[derive(PartialEq)]
struct Key(String, Vec<MergedLora>, DType, String);

impl Key {
    fn of(stage: &Stage, dtype: DType) -> Self {
        let folder = &stage.model.folder;
        let place = match stage.model.long {
            Some(long) => format!("{} {long}", folder.place()),
            None => folder.place(),
        };
        Self(place, folder.loras().to_vec(), dtype, stage.compute.device_name())
    }
}

impl Loaded {
    /// `several`: whether more than one job will ask.
    pub fn for_jobs(several: bool) -> Self {
        Self { keep: several, ..Self::default() }
    }

    /// Whether the networks of a stage stay for the next one.
    fn keeps(&self, stage: &Stage) -> bool {
        self.keep && stage.compute.offload == Offload::None
    }

    /// The denoiser of a stage.
    pub fn denoiser(&mut self, stage: &Stage) -> Result<Arc<dyn Denoiser>, Failure> {
        let key = Key::of(stage, stage.compute.dtype);
        if !self.keeps(stage) {
            (self.denoiser, self.decoder, self.first, self.continuation) = (None, None, None, None);
            self.controls.clear();
        }
        if let Some((_, network)) = self.denoiser.as_ref().filter(|(loaded, _)| *loaded == key) {
            return Ok(network.clone());
        }
        self.denoiser = None; // before the next takes memory
        let (vb, streamed) = units(stage, Role::Denoiser)?;
        let network = stage.model.architecture.load_denoiser(vb, streamed).code(Code::Model)?;
        self.denoiser = self.keeps(stage).then(|| (key, network.clone()));
        Ok(network)
    }

    /// The denoiser of the first chunk of a stage.
    pub fn first_denoiser(&mut self, stage: &Stage) -> Result<Arc<dyn Denoiser>, Failure> {
        let key = Key::of(stage, stage.compute.dtype);
        if let Some((_, network)) = self.first.as_ref().filter(|(loaded, _)| *loaded == key) {
            return Ok(network.clone());
        }
        self.first = None;
        let (vb, streamed) = units(stage, Role::FirstDenoiser)?;
        let network = streaming(stage)?.load_first(vb, streamed).code(Code::Model)?;
        self.first = self.keeps(stage).then(|| (key, network.clone()));
        Ok(network)
    }

    /// What stands beside the denoiser of a stage whose chunks go on from each other.
    pub fn continuation(&mut self, stage: &Stage) -> Result<Arc<dyn Continuation>, Failure> {
        let Compute { dtype, device, .. } = &stage.compute;
        let key = Key::of(stage, *dtype);
        if let Some((_, network)) = self.continuation.as_ref().filter(|(loaded, _)| *loaded == key) {
            return Ok(network.clone());
        }
        self.continuation = None;
        let vb = |role| stage.model.part(role)?.var_builder_compact(*dtype, device);
        let (denoiser, memory) = (vb(Role::Denoiser).code(Code::Model)?, vb(Role::Memory).code(Code::Model)?);
        let network = streaming(stage)?.load_continuation(&denoiser, &memory).code(Code::Model)?;
        self.continuation = self.keeps(stage).then(|| (key, network.clone()));
        Ok(network)
    }

    /// The control networks of a stage, in the order of its controls.
    pub fn control_networks(&mut self, stage: &Stage) -> Result<Vec<Arc<dyn ControlNetwork>>, Failure> {
        let Compute { dtype, device, .. } = &stage.compute;
        let before = std::mem::take(&mut self.controls);
        let mut networks: Vec<(Key, Arc<dyn ControlNetwork>)> = Vec::new();
        for input in &stage.method.control_inputs {
            let key = Key(input.model.part.place(), Vec::new(), *dtype, stage.compute.device_name());
            let known = networks.iter().chain(&before).find(|(known, _)| *known == key);
            let network = match known {
                Some((_, network)) => network.clone(),
                None => {
                    let vb = input.model.part.var_builder_compact(*dtype, device).code(Code::Model)?;
                    input.model.architecture.load(vb).code(Code::Model)?
                }
            };
            networks.push((key, network));
        }
        let all = networks.iter().map(|(_, network)| network.clone()).collect();
        if self.keeps(stage) {
            self.controls = networks;
        }
        Ok(all)
    }

    /// The decoder of a stage.
    pub fn decoder(&mut self, stage: &Stage) -> Result<Arc<dyn Autoencoder>, Failure> {
        let key = Key::of(stage, stage.compute.vae_dtype);
        if let Some((_, network)) = self.decoder.as_ref().filter(|(loaded, _)| *loaded == key) {
            return Ok(network.clone());
        }
        self.decoder = None;
        let part = stage.model.part(Role::Autoencoder).code(Code::Model)?;
        let vb = part.var_builder(stage.compute.vae_dtype, &stage.compute.device).code(Code::Model)?;
        let network = stage.model.architecture.load_autoencoder(vb, false).code(Code::Model)?;
        self.decoder = self.keeps(stage).then(|| (key, network.clone()));
        Ok(network)
    }
}

/// What sees anchor frames, which nobody needs any more once it has.
pub fn anchors(stage: &Stage) -> Result<Box<dyn AnchorEncoder>, Failure> {
    let Compute { dtype, device, .. } = &stage.compute;
    let vb = |role| stage.model.part(role)?.var_builder_compact(*dtype, device);
    let (encoder, resampler) = (vb(Role::ImageEncoder).code(Code::Model)?, vb(Role::Resampler).code(Code::Model)?);
    streaming(stage)?.load_anchors(encoder, &resampler).code(Code::Model)
}

fn streaming(stage: &Stage) -> Result<&dyn StreamingArchitecture, Failure> {
    Ok(stage.model.architecture.streaming().context("the chunks of this model do not go on from each other")?)
}

/// The weights of a network of units, and whether those are to be read when their turn comes.
fn units(stage: &Stage, role: Role) -> Result<(VarBuilder<'static>, bool), Failure> {
    let part = stage.model.part(role).code(Code::Model)?;
    let vb = match stage.compute.offload {
        Offload::Block => part.var_builder_holding(stage.compute.dtype, &stage.compute.device),
        _ => part.var_builder_compact(stage.compute.dtype, &stage.compute.device),
    };
    Ok((vb.code(Code::Model)?, matches!(stage.compute.offload, Offload::Block | Offload::Disk)))
}
