//! The last stage: latents become frames, chunk by chunk, and frames are handed on as they come.

use super::frame_cache::{Begun, FrameCache};
use crate::job::Stage;
use crate::models::architecture::LatentGeometry;
use crate::models::autoencoder::{Autoencoder, DecodeOptions};
use crate::run::{Code, Event, Failure, Observer, Phase};
use crate::video::Frame;
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use std::ops::Range;

/// A frame whose brightest value is below this counts as black.
const BLACK: u8 = 4;

/// Refuses a video of which `brightest` is the brightest value.
pub fn check_bright(brightest: u8) -> Result<()> {
    if brightest < BLACK {
        let message = "vae: every frame is black: try --dtype f32 or another --seed";
        return Err(Failure::message(Code::Numbers, message).into());
    }
    Ok(())
}

/// What decodes the latents of a stage, and how.
#[derive(Clone, Copy)]
pub struct Decoder<'a> {
    vae: &'a dyn Autoencoder,
    geometry: &'a LatentGeometry,
    options: &'a DecodeOptions,
}

impl<'a> Decoder<'a> {
    pub fn new(stage: &'a Stage, vae: &'a dyn Autoencoder) -> Self {
        Self { vae, geometry: stage.model.architecture.geometry(), options: &stage.decode }
    }
}

/// Decodes `latents` `[F, C, H, W]` (scaled as the denoiser has them), timeline `part` of the video, and hands the frames in
/// the range `frames` to `take`: those that the cache has first, the others by way of it.
///
/// Values that are not finite, and a video without a single frame that is not black, are a failure
/// ([`Code::Numbers`]): no user wants that file.
pub fn decode(
    decoder: &Decoder,
    latents: &Tensor,
    (part, frames): (usize, Range<usize>),
    cache: &mut FrameCache,
    take: &mut dyn FnMut(Frame) -> Result<()>,
    observer: &mut dyn Observer,
) -> Result<()> {
    let Decoder { vae, geometry, options } = *decoder;
    let (count, _, h, w) = latents.dims4()?;
    let (height, width) = (h * geometry.spatial_ratio, w * geometry.spatial_ratio);
    let chunks = options.chunks(count);
    let of = chunks.len();
    let mut session = vae.decoding(h, w, options)?;
    let begun = cache.begin(part, (frames.len(), width * height * 3), of, &mut *session)?;
    let Begun { frames: kept, chunks: done } = begun;
    let mut seen = options.frames_of(geometry.time.ratio, &chunks[..done]);
    let what = if done > 0 { format!("from part {}", done + 1) } else { String::new() };
    observer.event(&Event::Phase { phase: Phase::Decode, of, what })?;
    let mut brightest = 0;
    let mut bright = |frame: &Frame| brightest = brightest.max(frame.data.iter().copied().max().unwrap_or(0));
    for _ in 0..kept {
        let frame = cache.kept(width, height)?;
        bright(&frame);
        take(frame)?;
    }
    for (index, chunk) in chunks.into_iter().enumerate().skip(done) {
        let pixels = session.decode(&latents.narrow(0, chunk.start, chunk.len())?)?;
        for frame in to_frames(&pixels, index)? {
            if frames.contains(&seen) {
                bright(&frame);
                cache.push(&frame, observer)?;
                take(frame)?;
            }
            seen += 1;
        }
        observer.event(&Event::Chunk { phase: Phase::Decode, index, of })?;
        cache.chunk(part, (index + 1, of), &*session, observer)?;
    }
    check_bright(brightest)
}

/// `[T, 3, H, W]` in [-1, 1] to RGB bytes: `round(255 clamp((x + 1)/2))`, as diffusers' `VideoProcessor` does.
pub fn to_frames(chunk: &Tensor, index: usize) -> Result<Vec<Frame>> {
    let (t, c, height, width) = chunk.dims4()?;
    anyhow::ensure!(c == 3, "the autoencoder gave {c} channels instead of 3");
    let values = chunk.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    if !values.iter().all(|value| value.is_finite()) {
        let message = format!("vae: NaN or infinity in decoded chunk {}: try --dtype f32 or another --seed", index + 1);
        return Err(Failure::message(Code::Numbers, message).into());
    }
    let plane = height * width;
    let frame = |t: usize| {
        let planes = &values[t * 3 * plane..(t + 1) * 3 * plane];
        let byte = |value: f32| ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
        let pixel = |i: usize| [byte(planes[i]), byte(planes[plane + i]), byte(planes[2 * plane + i])];
        Frame { width, height, data: (0..plane).flat_map(pixel).collect() }
    };
    Ok((0..t).map(frame).collect())
}
