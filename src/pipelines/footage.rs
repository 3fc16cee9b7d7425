//! The frames of a given video as a network takes them beside its latents.

use super::encode::Encoder;
use crate::job::{Footage, Stage};
use crate::run::{Code, Event, Failure, Observer, Phase};
use crate::video::{self, Frame, Limits};
use anyhow::{Context, Result, ensure};
use candle_core::Tensor;

/// Frames that are encoded at a time; each is encoded by itself.
const CHUNK: usize = 8;

/// What is encoded, for those who wait.
const GIVEN: &str = "given video";

/// The latents `[F, C, H, W]` of the frames that a stage changes, in f32 on the CPU: the encoder's mean, NOT scaled, as
/// InstructPix2Pix was trained on. None where it changes none.
pub fn pictures(stage: &Stage, observer: &mut dyn Observer) -> Result<Option<Tensor>, Failure> {
    let Some(instruct) = &stage.method.instruct else { return Ok(None) };
    let size = stage.size;
    let latents = encoded(stage, &instruct.footage, GIVEN, observer, |frame| {
        signed(frame.bilinear(size.width, size.height).planes())
    })?;
    Ok(Some((latents.0 / latents.1).map_err(anyhow::Error::from)?))
}

/// The latents `[F, C, H, W]` of the frames that a stage makes anew in part, in f32 on the CPU, scaled. None where it makes none
/// anew. Frames are resampled without rounding to 8 bits.
pub fn refined(stage: &Stage, observer: &mut dyn Observer) -> Result<Option<Tensor>, Failure> {
    let Some(footage) = &stage.input.footage else { return Ok(None) };
    let size = stage.size;
    let latents = encoded(stage, footage, GIVEN, observer, |frame| signed(frame.resampled(size.width, size.height)))?;
    Ok(Some(latents.0))
}

/// The latents `[1, C, H, W]` of a picture, in f32 on the CPU, scaled.
pub fn picture(stage: &Stage, picture: &Footage, observer: &mut dyn Observer) -> Result<Tensor, Failure> {
    let size = stage.size;
    let pixels = |frame: Frame| signed(frame.bilinear(size.width, size.height).planes());
    Ok(encoded(stage, picture, "given picture", observer, pixels)?.0)
}

/// 0..1 as -1..1.
fn signed(mut values: Vec<f32>) -> Vec<f32> {
    values.iter_mut().for_each(|value| *value = 2.0 * *value - 1.0);
    values
}

/// Scaled latents of all frames of a given video, and the scale. `pixels`: a frame as `[3, H, W]` from -1 to 1 in the size of the stage.
fn encoded(
    stage: &Stage,
    footage: &Footage,
    what: &'static str,
    observer: &mut dyn Observer,
    pixels: impl Fn(Frame) -> Vec<f32>,
) -> Result<(Tensor, f64), Failure> {
    let encoder = Encoder::load(stage, observer)?;
    observer.event(&Event::Phase { phase: Phase::Encode, of: 0, what: what.into() })?;
    let mut parts = Vec::with_capacity(footage.frames.len().div_ceil(CHUNK));
    let (mut waiting, mut count) = (Vec::new(), 0);
    let mut frames = frames(footage)?.peekable();
    while let Some(frame) = frames.next() {
        waiting.extend(pixels(frame?));
        count += 1;
        if count == CHUNK || frames.peek().is_none() {
            parts.push(encoder.pixels(std::mem::take(&mut waiting), std::mem::take(&mut count))?);
        }
    }
    let latents = Tensor::cat(&parts, 0).map_err(anyhow::Error::from)?;
    let values = latents.flatten_all().and_then(|all| all.to_vec1::<f32>()).map_err(anyhow::Error::from)?;
    if !values.iter().all(|value| value.is_finite()) {
        let message = format!("{}: NaN or infinity in its latents: try --dtype f32", footage.path.display());
        return Err(Failure::message(Code::Numbers, message));
    }
    Ok((latents, encoder.scaling_factor()))
}

/// The frames, one by one.
pub fn frames(footage: &Footage) -> Result<impl Iterator<Item = Result<Frame>> + '_> {
    let mut reader = video::read(&footage.path, &Limits::default())?;
    let (mut at, mut last) = (0, None::<Frame>);
    Ok(footage.frames.iter().map(move |&number| {
        while at <= number {
            last = reader.next().transpose()?;
            ensure!(last.is_some(), "{}: has changed since the run began", footage.path.display());
            at += 1;
        }
        last.clone().context("no frame")
    }))
}
