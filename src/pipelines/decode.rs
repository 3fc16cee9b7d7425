//! The last stage: latents become frames, chunk by chunk, and frames are handed on as they come.

use crate::models::cogvideox::vae::{Autoencoder, DecodeOptions};
use crate::run::{Code, Event, Failure, Observer, Phase};
use crate::video::Frame;
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use std::ops::Range;

/// A frame whose brightest value is below this counts as black.
const BLACK: u8 = 4;

/// Decodes `latents` `[F, C, H, W]` (scaled as the denoiser has them) and hands the frames in the range `frames` to `take`.
///
/// Values that are not finite, and a video without a single frame that is not black, are a failure
/// ([`Code::Numbers`]): no user wants that file.
pub fn decode(
    vae: &Autoencoder,
    latents: &Tensor,
    options: &DecodeOptions,
    frames: Range<usize>,
    take: &mut dyn FnMut(Frame) -> Result<()>,
    observer: &mut dyn Observer,
) -> Result<()> {
    let latents = (latents / vae.config().scaling_factor)?;
    let of = options.chunks(latents.dim(0)?).len();
    observer.event(&Event::Phase { phase: Phase::Decode, of, what: String::new() })?;
    let (mut index, mut seen, mut brightest) = (0, 0, 0);
    let mut failure = None;
    let decoded = vae.decode(&latents, options, &mut |chunk| {
        let mut step = || -> Result<()> {
            for frame in to_frames(&chunk, index)? {
                if frames.contains(&seen) {
                    brightest = brightest.max(frame.data.iter().copied().max().unwrap_or(0));
                    take(frame)?;
                }
                seen += 1;
            }
            observer.event(&Event::Chunk { phase: Phase::Decode, index, of })?;
            index += 1;
            Ok(())
        };
        step().map_err(|error| {
            let message = error.to_string();
            failure = Some(error); // candle's error type would lose the exit code
            candle_core::Error::Msg(message)
        })
    });
    if let Some(failure) = failure {
        return Err(failure);
    }
    decoded?;
    if brightest < BLACK {
        let message = "vae: every frame is black: try --dtype f32 or another --seed";
        return Err(Failure::message(Code::Numbers, message).into());
    }
    Ok(())
}

/// `[T, 3, H, W]` in [-1, 1] to RGB bytes: `round(255 clamp((x + 1)/2))`, as diffusers' `VideoProcessor` does.
fn to_frames(chunk: &Tensor, index: usize) -> Result<Vec<Frame>> {
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
