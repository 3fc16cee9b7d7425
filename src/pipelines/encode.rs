//! Frames become latents.

use crate::job::Stage;
use crate::models::Autoencoder;
use crate::models::architecture::Role;
use crate::models::autoencoder::EncodeOptions;
use crate::run::{Code, Event, Failure, Observer, Phase, WithCode};
use crate::video::Frame;
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// The autoencoder of a stage, loaded with its encoder.
pub struct Encoder<'a> {
    stage: &'a Stage,
    vae: Arc<dyn Autoencoder>,
}

impl<'a> Encoder<'a> {
    /// # Errors
    /// Weights that cannot be read ([`Code::Model`]).
    pub fn load(stage: &'a Stage, observer: &mut dyn Observer) -> Result<Self, Failure> {
        let what = stage.model.architecture.part(Role::Autoencoder).into();
        observer.event(&Event::Phase { phase: Phase::Load, of: 0, what })?;
        let part = stage.model.part(Role::Autoencoder).code(Code::Model)?;
        let vb = part.var_builder(stage.compute.vae_dtype, &stage.compute.device).code(Code::Model)?;
        Ok(Self { stage, vae: stage.model.architecture.load_autoencoder(vb, true).code(Code::Model)? })
    }

    /// The most likely latents `[K, C, H, W]` of `count` frames in the size of the stage, in f32 on the CPU, scaled; none where
    /// there are fewer or more frames.
    pub fn encode(
        &mut self,
        frames: impl Iterator<Item = Result<Frame>>,
        count: usize,
        what: &str,
        observer: &mut dyn Observer,
    ) -> Result<Option<Tensor>> {
        observer.event(&Event::Phase { phase: Phase::Encode, of: 0, what: what.into() })?;
        let frames = frames.collect::<Result<Vec<Frame>>>()?;
        if frames.len() != count {
            return Ok(None);
        }
        self.latents(&frames).map(Some)
    }

    /// The same of frames that are there.
    pub fn latents(&self, frames: &[Frame]) -> Result<Tensor> {
        let mut values = Vec::with_capacity(frames.iter().map(|frame| frame.data.len()).sum());
        for frame in frames {
            let plane = |channel| frame.data.iter().skip(channel).step_by(3).map(|&byte| f32::from(byte) / 127.5 - 1.0);
            values.extend((0..3).flat_map(plane));
        }
        self.pixels(values, frames.len())
    }

    /// The latents `[1, C, H, W]` of one picture as a draw: the encoder's mean with `noise` of its deviation, scaled as networks
    /// were trained that take them beside noise.
    pub fn drawn(&self, frame: &Frame, noise: &Tensor) -> Result<Tensor> {
        let values = frame.planes().into_iter().map(|value| 2.0 * value - 1.0).collect();
        let picture = Tensor::from_vec(values, (1, 3, self.stage.size.height, self.stage.size.width), &Device::Cpu)?;
        let options = EncodeOptions { tile: self.stage.decode.tile.clone(), ..EncodeOptions::default() };
        let latents = self.vae.encode_drawn(&picture, &noise.to_device(&self.stage.compute.device)?, &options)?;
        Ok(latents.to_device(&Device::Cpu)?.to_dtype(DType::F32)?)
    }

    /// The same of `count` frames as values from -1 to 1, `[T, 3, H, W]`.
    pub fn pixels(&self, values: Vec<f32>, count: usize) -> Result<Tensor> {
        let (width, height) = (self.stage.size.width, self.stage.size.height);
        let video = Tensor::from_vec(values, (count, 3, height, width), &Device::Cpu)?; // [T, 3, H, W]
        let options = EncodeOptions { tile: self.stage.decode.tile.clone(), ..EncodeOptions::default() };
        let latents = self.vae.encode(&video, &options)?;
        Ok(latents.to_device(&Device::Cpu)?.to_dtype(DType::F32)?)
    }

    /// What the latents are multiplied by after the encoder.
    pub fn scaling_factor(&self) -> f64 {
        self.vae.scaling_factor()
    }
}
