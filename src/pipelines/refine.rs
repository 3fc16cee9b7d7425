//! What a stage makes of the frames of the one before it: they are resampled to its size and encoded, and its loop begins
//! with them under noise (SDEdit, arXiv 2108.01073). How much noise is said by [`crate::job::Input::strength`].

use super::decode::{Decoder, decode};
use super::encode::Encoder;
use super::frame_cache::FrameCache;
use super::loaded::Loaded;
use crate::job::{Segment, Stage};
use crate::models::architecture::Role;
use crate::run::{Event, Failure, Observer, Phase};
use crate::video::{Fit, Frame, Spool};
use anyhow::Context;
use candle_core::Tensor;

/// What a stage hands to the next one.
pub enum Made {
    /// By segment, its latents `[F, C, H, W]`.
    Latents(Vec<Tensor>),
    /// Its frames in the size of the next stage, which has one segment.
    Frames(Spool),
}

/// By segment, the latents `[F, C, H, W]` of the whole timeline of `stage`, from what the stage `before` it made. Frames
/// wait on disk, so that only those of one segment are in memory at a time.
pub fn refined(
    before: &Stage,
    stage: &Stage,
    made: Made,
    loaded: &mut Loaded,
    observer: &mut dyn Observer,
) -> Result<Vec<Tensor>, Failure> {
    let spools = match made {
        Made::Latents(latents) => decoded(before, stage, &latents, loaded, observer)?,
        Made::Frames(spool) => vec![spool],
    };
    let mut encoder = Encoder::load(stage, observer)?;
    let mut refined = Vec::with_capacity(spools.len());
    for (segment, spool) in stage.segments.iter().zip(spools) {
        let mut frames = spool.frames()?;
        let frames = std::iter::from_fn(|| frames.next().transpose());
        let latents = encoder.encode(frames, segment.frames, "frames of the stage before", observer)?;
        refined.push(on_timeline(&latents.context("a segment has other frames in the next stage")?, segment)?);
    }
    Ok(refined)
}

/// By segment, the frames of latents in the size of the stage that is next.
fn decoded(
    before: &Stage,
    stage: &Stage,
    latents: &[Tensor],
    loaded: &mut Loaded,
    observer: &mut dyn Observer,
) -> Result<Vec<Spool>, Failure> {
    let (width, height) = (stage.size.width, stage.size.height);
    let what = before.model.architecture.part(Role::Autoencoder).into();
    observer.event(&Event::Phase { phase: Phase::Load, of: 0, what })?;
    let mut spools = Vec::with_capacity(latents.len());
    let vae = loaded.decoder(before)?;
    let decoder = Decoder::new(before, &*vae);
    for (part, latents) in latents.iter().enumerate() {
        let latents = latents.to_device(&before.compute.device)?;
        let mut spool = Spool::new()?;
        let mut keep = |frame: Frame| spool.push(&frame.fitted(width, height, Fit::default()));
        let frames = (part, 0..before.segments[part].frames);
        decode(&decoder, &latents, frames, &mut FrameCache::off(), &mut keep, observer)?;
        spools.push(spool);
    }
    Ok(spools)
}

/// Latents of a segment's frames on its whole timeline: padding in front repeats the first, what windows reach beyond the end
/// the last.
fn on_timeline(latents: &Tensor, segment: &Segment) -> candle_core::Result<Tensor> {
    let last = latents.dim(0)?.saturating_sub(1);
    let at = |frame: usize| frame.saturating_sub(segment.padding).min(last) as u32;
    let frames: Vec<u32> = (0..segment.plan.frames).map(at).collect();
    latents.index_select(&Tensor::new(frames, latents.device())?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::ChunkPlan;
    use candle_core::Device;

    #[test]
    fn ends_are_repeated_on_the_timeline() {
        let segment = Segment {
            plan: ChunkPlan::single(6),
            padding: 1,
            context: 0,
            feed: None,
            frames: 3,
            fade: 0,
            given: Vec::new(),
            relay: None,
        };
        let latents = Tensor::new(&[5f32, 6.0, 7.0], &Device::Cpu).unwrap().reshape((3, 1, 1, 1)).unwrap();
        let line = on_timeline(&latents, &segment).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(line, [5.0, 5.0, 6.0, 7.0, 7.0, 7.0]);
    }
}
