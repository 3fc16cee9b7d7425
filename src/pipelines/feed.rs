//! What a segment hands to the next one of its stage, which goes on from it: its last latent frames, or its last frames of
//! video, decoded and encoded again. The first latent frame of what was encoded stands for a single frame, as at the beginning
//! of any video, so the next segment begins like those that the network was trained on; latents that are handed over as they
//! are come from the middle of a video.

use super::decode::{Decoder, decode};
use super::encode::Encoder;
use super::extend::{Context, wanted};
use super::frame_cache::FrameCache;
use super::loaded::Loaded;
use crate::job::Stage;
use crate::run::{Failure, Observer};
use crate::storyboard::Feed;
use crate::video::Frame;
use anyhow::Context as _;
use candle_core::Tensor;

/// What segment `index` goes on from, given the latents `[F, C, H, W]` of the segment before it; none where it follows by a cut.
pub fn fed(
    stage: &Stage,
    index: usize,
    before: Option<&Tensor>,
    loaded: &mut Loaded,
    observer: &mut dyn Observer,
) -> Result<Option<Context>, Failure> {
    let segment = &stage.segments[index];
    let (Some(feed), Some(latents)) = (segment.feed, before) else { return Ok(None) };
    let end = wanted(stage, index - 1).end;
    let latents = match feed {
        Feed::Latents => {
            let filled = stage.rules.time.filled(end);
            latents.narrow(0, filled - segment.context, segment.context)?.contiguous()?
        }
        Feed::Frames => {
            let tail = stage.rules.video_frames(segment.context);
            let vae = loaded.decoder(stage)?;
            let mut frames: Vec<Frame> = Vec::with_capacity(tail);
            let mut keep = |frame: Frame| {
                frames.push(frame);
                Ok(())
            };
            let part = (index - 1, end - tail..end);
            let latents = latents.to_device(&stage.compute.device)?;
            decode(&Decoder::new(stage, &*vae), &latents, part, &mut FrameCache::off(), &mut keep, observer)?;
            let frames = frames.into_iter().map(Ok);
            let encoded = Encoder::load(stage, observer)?.encode(frames, tail, "end of the scene", observer)?;
            encoded.context("a scene decodes to fewer frames than it has")?
        }
    };
    Ok(Some(Context::new(None, latents)))
}
