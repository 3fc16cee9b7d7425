//! LPIPS between frames: how different they look, by a network.

use crate::models::NotFinite;
use crate::models::lpips::{Features, LEAST_SIDE, Lpips};
use crate::video::Frame;
use crate::weights::Measure;
use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use std::path::Path;

/// The name of the network's file where `make metrics` leaves it.
const FILE: &str = "lpips-alexnet.safetensors";
/// For reports.
pub const NETWORK: &str = "LPIPS v0.1 on AlexNet";
/// Why a frame has no distance.
pub const TOO_SMALL: &str = "LPIPS needs frames of 31 pixels on each side";

/// The network, loaded.
#[derive(Debug, Clone)]
pub struct Perceptual {
    network: Lpips,
    device: Device,
    /// Where it came from.
    pub file: String,
}

impl Perceptual {
    /// From the given file, else from the one that `make metrics` left, if it did. Errors that lie in the file are
    /// [`crate::weights::ModelError`]s.
    pub fn open(given: Option<&Path>, device: &Device) -> Result<Option<Self>> {
        let Some(measure) = Measure::open(given, FILE)? else { return Ok(None) };
        let file = measure.path.display().to_string();
        Ok(Some(Self { network: measure.build(device, Lpips::new)?, device: device.clone(), file }))
    }

    /// What the network sees of a frame; none of one that is too small for it.
    pub fn look(&self, frame: &Frame) -> Result<Option<Features>> {
        let (width, height) = (frame.width, frame.height);
        if width.min(height) < LEAST_SIDE {
            return Ok(None);
        }
        let channel = |c: usize| frame.data.iter().skip(c).step_by(3).map(|&value| f32::from(value) / 127.5 - 1.0);
        let pixels: Vec<f32> = (0..3).flat_map(channel).collect();
        let pixels = Tensor::from_vec(pixels, (1, 3, height, width), &self.device)?;
        Ok(Some(self.network.features(&pixels)?))
    }

    /// 0 for equal frames.
    pub fn distance(&self, a: &Features, b: &Features) -> Result<f64> {
        let distance = self.network.distance(a, b)?;
        ensure!(distance.is_finite(), NotFinite("LPIPS"));
        Ok(distance)
    }
}
