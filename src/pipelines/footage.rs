//! The frames of a given video as a network takes them beside its latents.

use super::encode::Encoder;
use crate::job::{Footage, Stage};
use crate::run::{Code, Event, Failure, Observer, Phase};
use crate::video::{self, Frame, Limits};
use anyhow::{Context, Result, ensure};
use candle_core::Tensor;

/// Frames that are encoded at a time; each is encoded by itself.
const CHUNK: usize = 8;

/// The latents `[F, C, H, W]` of the frames that a stage changes, in f32 on the CPU: the encoder's mean, NOT scaled, as
/// InstructPix2Pix was trained on. None where it changes none.
pub fn pictures(stage: &Stage, observer: &mut dyn Observer) -> Result<Option<Tensor>, Failure> {
    let Some(instruct) = &stage.instruct else { return Ok(None) };
    let encoder = Encoder::load(stage, observer)?;
    let of = instruct.footage.frames.len().div_ceil(CHUNK);
    observer.event(&Event::Phase { phase: Phase::Encode, of: 0, what: "given video".into() })?;
    let mut parts = Vec::with_capacity(of);
    let mut waiting = Vec::with_capacity(CHUNK);
    let mut frames = frames(stage, &instruct.footage)?.peekable();
    while let Some(frame) = frames.next() {
        waiting.push(frame?);
        if waiting.len() == CHUNK || frames.peek().is_none() {
            parts.push((encoder.latents(&waiting)? / encoder.scaling_factor())?);
            waiting.clear();
        }
    }
    let latents = Tensor::cat(&parts, 0)?;
    if !latents.flatten_all()?.to_vec1::<f32>()?.iter().all(|value| value.is_finite()) {
        let shown = instruct.footage.path.display();
        return Err(Failure::message(
            Code::Numbers,
            format!("{shown}: NaN or infinity in its latents: try --dtype f32"),
        ));
    }
    Ok(Some(latents))
}

/// The frames in the size of the stage, one by one.
fn frames<'a>(stage: &'a Stage, footage: &'a Footage) -> Result<impl Iterator<Item = Result<Frame>> + 'a> {
    let mut reader = video::read(&footage.path, &Limits::default())?;
    let (mut at, mut last) = (0, None::<Frame>);
    Ok(footage.frames.iter().map(move |&number| {
        while at <= number {
            last = reader.next().transpose()?;
            ensure!(last.is_some(), "{}: has changed since the run began", footage.path.display());
            at += 1;
        }
        let frame = last.clone().context("no frame")?;
        Ok(frame.bilinear(stage.size.width, stage.size.height))
    }))
}
