//! What is asked of an autoencoder: frames to latents in the denoiser's scale, and back, chunk by chunk.

use candle_core::{DType, Result, Tensor};
use std::fmt::Debug;
use std::ops::Range;

/// How a decode goes about it.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodeOptions {
    /// Latent frames at a time; the first chunk takes the remainder as well.
    pub chunk: usize,
    /// Cut frames larger than a tile into tiles.
    pub tile: Option<TileOptions>,
    pub single_frame: SingleFrameRule,
}

/// Which chunks keep their first latent frame a single frame, where latent frames stand for several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SingleFrameRule {
    /// The first chunk of the video.
    FirstChunk,
    /// Every chunk with an odd number of latent frames, no other: diffusers' rule.
    OddChunks,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self { chunk: 2, tile: None, single_frame: SingleFrameRule::FirstChunk }
    }
}

impl DecodeOptions {
    /// The chunks of a video of so many latent frames.
    pub fn chunks(&self, latent_frames: usize) -> Vec<Range<usize>> {
        chunks(latent_frames, self.chunk)
    }

    /// The number of frames that some chunks become, where a latent frame that begins nothing stands for `ratio`.
    pub fn frames_of(&self, ratio: usize, chunks: &[Range<usize>]) -> usize {
        let begins = |chunk: &&Range<usize>| match self.single_frame {
            SingleFrameRule::FirstChunk => chunk.start == 0,
            SingleFrameRule::OddChunks => chunk.len() % 2 == 1,
        };
        let singles = chunks.iter().filter(begins).count();
        ratio * (chunks.iter().map(Range::len).sum::<usize>() - singles) + singles
    }
}

/// How an encode goes about it.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodeOptions {
    /// Frames at a time, a multiple of the temporal ratio; the first chunk takes the remainder as well.
    pub chunk: usize,
    /// Cut frames larger than a tile into tiles.
    pub tile: Option<TileOptions>,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self { chunk: 8, tile: None }
    }
}

/// Size and overlap of the tiles that a frame too large to work on whole is cut into.
#[derive(Debug, Clone, PartialEq)]
pub struct TileOptions {
    /// Height of a tile in pixels (rounded down to whole latent cells).
    pub sample_height: usize,
    pub sample_width: usize,
    /// The part of a tile's height that it shares with the next tile, 0 to 1 (1 excluded).
    pub overlap_factor_h: f64,
    pub overlap_factor_w: f64,
}

/// What a decode needs besides the weights, in numbers of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeMemory {
    /// In the caches, from the first chunk to the end of the video.
    pub caches: usize,
    /// In the largest feature map.
    pub map: usize,
    /// Alive at once beside the caches.
    pub alive: usize,
}

/// Ranges of `size`, the first with the remainder on top.
pub fn chunks(count: usize, size: usize) -> Vec<Range<usize>> {
    let size = size.max(1);
    let first = if count < size { count } else { size + count % size };
    let rest = (first..count).step_by(size).map(|start| start..start + size);
    std::iter::once(0..first).chain(rest).filter(|chunk| !chunk.is_empty()).collect()
}

/// The diagonal Gaussian an encoded video stands for; `[F, C, h, w]`, f32, before the scaling factor. After diffusers'
/// `DiagonalGaussianDistribution`.
#[derive(Debug, Clone)]
pub struct LatentDistribution {
    pub mean: Tensor,
    /// Natural logarithm of the variance, clamped to [-30, 20].
    pub logvar: Tensor,
}

impl LatentDistribution {
    /// From the encoder's output `[F, 2C, h, w]`.
    pub fn from_moments(moments: &Tensor) -> Result<Self> {
        let moments = moments.to_dtype(DType::F32)?;
        let channels = moments.dim(1)? / 2;
        let mean = moments.narrow(1, 0, channels)?.contiguous()?;
        let logvar = moments.narrow(1, channels, channels)?.contiguous()?.clamp(-30f64, 20f64)?;
        Ok(Self { mean, logvar })
    }

    /// The most likely latents.
    pub fn mode(&self) -> Tensor {
        self.mean.clone()
    }

    /// `mean + std * noise`; `noise` is standard normal, of the shape of `mean`.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        &self.mean + (self.logvar.affine(0.5, 0.0)?.exp()? * noise)?
    }
}

/// An autoencoder of videos, or of pictures that takes a video frame by frame. Latents are in the scale that the denoiser
/// works in: what the autoencoder's own configuration multiplies or adds happens inside.
pub trait Autoencoder: Debug + Send + Sync {
    /// The most likely latents `[F, C, h, w]` of a video `[T, 3, H, W]` in -1 to 1: the mean of what the encoder says, so that
    /// nothing is drawn.
    ///
    /// # Errors
    /// When it was loaded without its encoder, and for sizes that it does not take.
    fn encode(&self, video: &Tensor, options: &EncodeOptions) -> Result<Tensor>;

    /// The latents of a picture `[T, 3, H, W]` that a network takes beside noise, as one draw of what the encoder says:
    /// `mean + std * noise`, `noise` of the shape of the latents, in the scale that such networks were trained on.
    ///
    /// # Errors
    /// As [`Autoencoder::encode`].
    fn encode_drawn(&self, video: &Tensor, noise: &Tensor, options: &EncodeOptions) -> Result<Tensor>;

    /// What [`Autoencoder::encode`] multiplies the encoder's mean by: the denoiser's scale over the encoder's own.
    fn scaling_factor(&self) -> f64;

    /// A decode whose latents of `height` by `width` cells arrive chunk by chunk.
    fn decoding<'a>(&'a self, height: usize, width: usize, options: &DecodeOptions) -> Result<Box<dyn Decoding + 'a>>;
}

/// A running decode.
pub trait Decoding {
    /// Decodes the next latent frames `[f, C, h, w]` to f32 frames `[T, 3, H, W]`. After an error the decode is of no use.
    fn decode(&mut self, latents: &Tensor) -> Result<Tensor>;

    /// What it remembers from chunk to chunk, by tile; nothing where frames do not depend on each other.
    fn state(&self) -> Vec<Vec<Tensor>>;

    /// Goes on from the state of another decode of the same options and size.
    fn restore(&mut self, state: Vec<Vec<Tensor>>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Doubles each cell, in a scale of its own.
    #[derive(Debug)]
    struct PerFrame;

    struct Doubling;

    impl Autoencoder for PerFrame {
        fn encode(&self, video: &Tensor, _: &EncodeOptions) -> Result<Tensor> {
            video.avg_pool2d(2)? * 0.5
        }

        fn encode_drawn(&self, video: &Tensor, noise: &Tensor, options: &EncodeOptions) -> Result<Tensor> {
            self.encode(video, options)? + noise
        }

        fn scaling_factor(&self) -> f64 {
            0.5
        }

        fn decoding<'a>(&'a self, _: usize, _: usize, _: &DecodeOptions) -> Result<Box<dyn Decoding + 'a>> {
            Ok(Box::new(Doubling))
        }
    }

    impl Decoding for Doubling {
        fn decode(&mut self, latents: &Tensor) -> Result<Tensor> {
            let (_, _, h, w) = latents.dims4()?;
            (latents * 2.0)?.upsample_nearest2d(2 * h, 2 * w)
        }

        fn state(&self) -> Vec<Vec<Tensor>> {
            Vec::new()
        }

        fn restore(&mut self, state: Vec<Vec<Tensor>>) -> Result<()> {
            if state.iter().any(|tile| !tile.is_empty()) {
                candle_core::bail!("frames that do not depend on each other have no state")
            }
            Ok(())
        }
    }

    #[test]
    fn an_autoencoder_of_pictures_serves_in_any_chunks_and_goes_on_without_a_state() {
        let video = Tensor::randn(0f32, 1f32, (5, 3, 4, 6), &candle_core::Device::Cpu).unwrap();
        let latents = PerFrame.encode(&video, &EncodeOptions::default()).unwrap();
        let decode = |options: DecodeOptions| {
            let mut frames = Vec::new();
            let mut session = PerFrame.decoding(2, 3, &options).unwrap();
            for chunk in options.chunks(5) {
                frames.push(session.decode(&latents.narrow(0, chunk.start, chunk.len()).unwrap()).unwrap());
                let state = session.state();
                session = PerFrame.decoding(2, 3, &options).unwrap();
                session.restore(state).unwrap();
            }
            Tensor::cat(&frames, 0).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let whole = decode(DecodeOptions { chunk: 5, ..DecodeOptions::default() });
        assert_eq!(decode(DecodeOptions::default()), whole);
        assert_eq!(DecodeOptions::default().frames_of(1, &DecodeOptions::default().chunks(5)), 5);
    }

    #[test]
    fn a_sample_is_the_mean_plus_noise_times_the_deviation() {
        let moments = Tensor::new(&[[[[0.5f32]], [[-40.0]], [[2.0]], [[40.0]]]], &candle_core::Device::Cpu).unwrap();
        let moments = moments.reshape((1, 4, 1, 1)).unwrap();
        let latents = LatentDistribution::from_moments(&moments).unwrap();
        let list = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(list(&latents.mode()), [0.5, -40.0]);
        assert_eq!(list(&latents.logvar), [2.0, 20.0]);
        let noise = Tensor::new(&[1f32, -1.0], &candle_core::Device::Cpu).unwrap().reshape((1, 2, 1, 1)).unwrap();
        let sample = list(&latents.sample(&noise).unwrap());
        assert!((sample[0] - (0.5 + 1f32.exp())).abs() < 1e-5);
        assert!((sample[1] - (-40.0 - 10f32.exp())).abs() < 1e-1);
    }
}
