//! The salient part of a frame: masks of a video's subject without a user's mask, and boxes around it.
//!
//! The network is U²-Netp, which is inside the binary (`models/u2netp`, Apache-2.0). A frame is brought to 320 x 320, divided by
//! its largest number and normalised by ImageNet's mean and deviation; what comes out is stretched to 0..1, as the network's
//! authors do, and brought to the frame's size. Their stretching makes a mask of noise out of a scene without a subject: where
//! nothing has a probability of [`LEAST`], the mask is empty.

mod boxes;
mod mask;

pub use boxes::{Bounds, bounds, smoothed};
pub use mask::{Mask, THRESHOLD};

use crate::models::u2net::{SIDE, U2Net};
use crate::nn::resample::resize_bilinear;
use crate::video::Frame;
use crate::weights;
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};

/// The network, for records and messages.
pub const NETWORK: &str = "u2netp (embedded)";
/// Below this probability everywhere, nothing stands out.
pub const LEAST: f32 = 0.3;
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// The network, loaded.
#[derive(Debug, Clone)]
pub struct Saliency {
    network: U2Net,
    device: Device,
}

impl Saliency {
    /// The one inside the binary, in f32.
    pub fn embedded(device: &Device) -> Result<Self> {
        let network = weights::u2netp(device).and_then(|vb| Ok(U2Net::new(vb)?)).context("the embedded u2netp")?;
        Ok(Self { network, device: device.clone() })
    }

    /// Probabilities `[1, 1, 320, 320]` of a frame of that size, as the network gives them.
    pub fn probabilities(&self, frame: &Frame) -> Result<Tensor> {
        ensure!((frame.width, frame.height) == (SIDE, SIDE), "a frame of {}x{}", frame.width, frame.height);
        let most = f32::from(frame.data.iter().copied().max().unwrap_or(0)).max(1.0);
        let channel = |c: usize| {
            let values = frame.data.iter().skip(c).step_by(3);
            values.map(move |&value| (f32::from(value) / most - MEAN[c]) / STD[c])
        };
        let pixels: Vec<f32> = (0..3).flat_map(channel).collect();
        Ok(self.network.forward(&Tensor::from_vec(pixels, (1, 3, SIDE, SIDE), &self.device)?)?)
    }

    /// The mask of a frame of any size. Errors: an empty frame, and numbers of the network that are not finite.
    pub fn mask(&self, frame: &Frame) -> Result<Mask> {
        let (width, height) = (frame.width, frame.height);
        ensure!(width > 0 && height > 0, "an empty frame");
        let seen = self.probabilities(&frame.clone().resized(SIDE, SIDE))?;
        let values = seen.flatten_all()?.to_vec1::<f32>()?;
        ensure!(values.iter().all(|value| value.is_finite()), "u2netp gave values that are not finite");
        let (least, most) = values.iter().fold((f32::MAX, 0f32), |(least, most), &x| (least.min(x), most.max(x)));
        if most < LEAST {
            return Ok(Mask { width, height, data: vec![0; width * height] });
        }
        let stretched = ((seen - f64::from(least))? / f64::from((most - least).max(f32::EPSILON)))?;
        let whole =
            resize_bilinear(&stretched, height, width)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let data = whole.iter().map(|&value| (value * 255.0).round().clamp(0.0, 255.0) as u8).collect();
        Ok(Mask { width, height, data })
    }
}
