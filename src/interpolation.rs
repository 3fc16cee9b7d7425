//! Frames between frames, and how far things move from one to the next, by a network (RIFE, arXiv 2011.06294).

use crate::models::NotFinite;
use crate::models::rife::{Between, Rife};
use crate::video::Frame;
use crate::weights::Measure;
use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use std::path::{Path, PathBuf};

/// The name of the network's file where `make metrics` leaves it.
const FILE: &str = "rife-v3.9.safetensors";
/// For reports.
pub const NETWORK: &str = "RIFE 3.9 (flow blocks)";

/// The network, loaded.
#[derive(Debug, Clone)]
pub struct Interpolator {
    network: Rife,
    device: Device,
    /// Where it came from.
    pub file: String,
}

impl Interpolator {
    /// From the given file, else from the one that `make metrics` left, if it did. Errors that lie in the file are
    /// [`crate::weights::ModelError`]s.
    pub fn open(given: Option<&Path>, device: &Device) -> Result<Option<Self>> {
        let Some(measure) = Measure::open(given, FILE)? else { return Ok(None) };
        let file = measure.path.display().to_string();
        Ok(Some(Self { network: measure.build(device, Rife::new)?, device: device.clone(), file }))
    }

    /// Where the file of [`Interpolator::open`] is, if `make metrics` left one.
    pub fn place() -> Option<PathBuf> {
        Measure::place(FILE)
    }

    /// What the network says of the time half way between two frames of one size.
    pub fn between(&self, a: &Frame, b: &Frame) -> Result<Between> {
        Ok(self.network.between(&self.picture(a)?, &self.picture(b)?, 0.5)?)
    }

    /// The frame half way between two.
    pub fn middle(&self, a: &Frame, b: &Frame) -> Result<Frame> {
        let planes = self.between(a, b)?.picture.squeeze(0)?; // [3, H, W]
        let values = planes.permute((1, 2, 0))?.contiguous()?.flatten_all()?.to_vec1::<f32>()?;
        ensure!(values.iter().all(|value| value.is_finite()), NotFinite("RIFE"));
        let data = values.iter().map(|&value| (value * 255.0).round().clamp(0.0, 255.0) as u8).collect();
        Ok(Frame { width: a.width, height: a.height, data })
    }

    /// How far the pixels move from one frame to the next, in pixels: the mean length of the flow. At the time of a frame itself
    /// the network's flow says nothing; seen from half way, the way to the later frame less that to the earlier one is the whole.
    pub fn flow(&self, a: &Frame, b: &Frame) -> Result<f64> {
        let flow = self.between(a, b)?.flow;
        let whole = (flow.narrow(1, 2, 2)? - flow.narrow(1, 0, 2)?)?;
        let mean = whole.sqr()?.sum(1)?.sqrt()?.mean_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        ensure!(mean.is_finite(), NotFinite("RIFE"));
        Ok(mean)
    }

    /// `[1, 3, H, W]` in 0..1.
    fn picture(&self, frame: &Frame) -> Result<Tensor> {
        Ok(Tensor::from_vec(frame.planes(), (1, 3, frame.height, frame.width), &self.device)?)
    }
}

/// Stands before the consumer of frames and puts interpolated ones between those that pass: `factor` frames for each one but the
/// last. Each half-way frame is made of its two neighbours, first of those that pass, then of those just made.
pub struct Inserter<'a> {
    network: Option<(&'a Interpolator, usize)>,
    take: &'a mut dyn FnMut(Frame) -> Result<()>,
    last: Option<Frame>,
}

impl<'a> Inserter<'a> {
    /// `network`: with the factor, a power of two; without one frames pass as they are.
    pub fn new(network: Option<(&'a Interpolator, usize)>, take: &'a mut dyn FnMut(Frame) -> Result<()>) -> Self {
        Self { network, take, last: None }
    }

    /// The next frame. Across a `cut` nothing is between two frames: the earlier one stays, so that times are kept.
    pub fn write(&mut self, frame: Frame, cut: bool) -> Result<()> {
        let Some((network, factor)) = self.network else { return (self.take)(frame) };
        match self.last.take() {
            Some(last) if cut => (1..factor).try_for_each(|_| (self.take)(last.clone()))?,
            Some(last) => self.between(network, &last, &frame, factor)?,
            None => {}
        }
        (self.take)(frame.clone())?;
        self.last = Some(frame);
        Ok(())
    }

    fn between(&mut self, network: &Interpolator, a: &Frame, b: &Frame, factor: usize) -> Result<()> {
        if factor < 2 {
            return Ok(());
        }
        let middle = network.middle(a, b)?;
        self.between(network, a, &middle, factor / 2)?;
        (self.take)(middle.clone())?;
        self.between(network, &middle, b, factor / 2)
    }
}
