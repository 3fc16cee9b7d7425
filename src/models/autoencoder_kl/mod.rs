//! The autoencoder of pictures of Stable Diffusion (arXiv 2112.10752), after diffusers' `AutoencoderKL`. A video goes through it
//! frame by frame: no frame depends on another, so that there is nothing to remember from chunk to chunk, and memory
//! is that of one frame.

mod coder;
mod config;

pub use config::VaeConfig;

use super::autoencoder::{Autoencoder, DecodeOptions, Decoding, EncodeOptions, LatentDistribution};
use super::tiling::Grid;
use crate::nn::compute_dtype;
use crate::nn::conv::{Conv2d, conv2d};
use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use coder::{Decoder, Encoder};

/// `AutoencoderKL`.
#[derive(Debug)]
pub struct AutoencoderKL {
    config: VaeConfig,
    encoder: Option<Encoder>,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    decoder: Decoder,
    dtype: DType,
    device: Device,
}

impl AutoencoderKL {
    /// Loads the decoder, and the encoder where `encoder` asks for it. They compute in the dtype of `vb`, on the CPU in f32 but
    /// for products in bf16. Errors name the configuration's key or the tensor.
    pub fn load(config: &VaeConfig, vb: VarBuilder, encoder: bool) -> Result<Self> {
        config.check()?;
        let latent = config.latent_channels;
        let quant = |wanted: bool, channels: usize, name: &str| {
            wanted.then(|| conv2d(channels, channels, 1, 1, 0, true, vb.pp(name))).transpose()
        };
        Ok(Self {
            encoder: encoder.then(|| Encoder::load(config, vb.pp("encoder"))).transpose()?,
            quant_conv: quant(encoder && config.use_quant_conv, 2 * latent, "quant_conv")?,
            post_quant_conv: quant(config.use_post_quant_conv, latent, "post_quant_conv")?,
            decoder: Decoder::load(config, vb.pp("decoder"))?,
            dtype: compute_dtype(vb.dtype(), vb.device()),
            device: vb.device().clone(),
            config: config.clone(),
        })
    }

    /// The encoder's latents in the denoiser's scale.
    fn scaled(&self, latents: &Tensor) -> Result<Tensor> {
        if self.config.shift() == 0.0 {
            return latents * self.config.scaling_factor;
        }
        (latents - self.config.shift())? * self.config.scaling_factor
    }

    /// What the encoder says of a video `[F, 3, H, W]` in -1 to 1, H and W multiples of the spatial ratio: before the scaling
    /// factor. `options.chunk` has no meaning here.
    pub fn distribution(&self, video: &Tensor, options: &EncodeOptions) -> Result<LatentDistribution> {
        let Some(encoder) = &self.encoder else { bail!("this autoencoder was loaded without its encoder") };
        let (frames, channels, height, width) = video.dims4()?;
        let ratio = self.config.spatial_ratio();
        if frames == 0 || channels != self.config.in_channels {
            bail!("the autoencoder encodes frames of {} channels, got {frames} of {channels}", self.config.in_channels)
        }
        if height == 0 || width == 0 || !height.is_multiple_of(ratio) || !width.is_multiple_of(ratio) {
            bail!("the autoencoder encodes frames whose sides are multiples of {ratio}, got {width}x{height}")
        }
        let grid = self.config.grid(options.tile.as_ref(), height / ratio, width / ratio)?;
        let encode = |tile: &Tensor| {
            let moments = encoder.forward(tile)?;
            self.quant_conv.as_ref().map_or(Ok(moments.clone()), |conv| conv.forward(&moments))
        };
        let mut moments = Vec::with_capacity(frames);
        for frame in 0..frames {
            let frame = video.narrow(0, frame, 1)?.to_device(&self.device)?.to_dtype(self.dtype)?.contiguous()?;
            moments.push(by_tiles(grid.as_ref(), &frame, [ratio, 1], encode)?);
        }
        LatentDistribution::from_moments(&Tensor::cat(&moments, 0)?)
    }
}

/// Works on a frame whole, or tile by tile: `units` are pixels of a cell before and after.
fn by_tiles(
    grid: Option<&Grid>,
    frame: &Tensor,
    units: [usize; 2],
    work: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let Some(grid) = grid else { return work(frame) };
    let tiles = grid.cut(frame, units[0])?.iter().map(work).collect::<Result<Vec<_>>>()?;
    grid.join(&tiles, units[1])
}

impl Autoencoder for AutoencoderKL {
    fn encode(&self, video: &Tensor, options: &EncodeOptions) -> Result<Tensor> {
        self.scaled(&self.distribution(video, options)?.mode())
    }

    fn encode_drawn(&self, video: &Tensor, noise: &Tensor, options: &EncodeOptions) -> Result<Tensor> {
        self.scaled(&self.distribution(video, options)?.sample(noise)?)
    }

    fn scaling_factor(&self) -> f64 {
        self.config.scaling_factor
    }

    fn decoding<'a>(&'a self, height: usize, width: usize, options: &DecodeOptions) -> Result<Box<dyn Decoding + 'a>> {
        if height == 0 || width == 0 {
            bail!("latents of {height} by {width} cells cannot be decoded")
        }
        let grid = self.config.grid(options.tile.as_ref(), height, width)?;
        Ok(Box::new(FrameByFrame { autoencoder: self, size: (height, width), grid }))
    }
}

/// A decode without a memory.
struct FrameByFrame<'a> {
    autoencoder: &'a AutoencoderKL,
    size: (usize, usize),
    grid: Option<Grid>,
}

impl Decoding for FrameByFrame<'_> {
    fn decode(&mut self, latents: &Tensor) -> Result<Tensor> {
        let vae = self.autoencoder;
        let (frames, channels, height, width) = latents.dims4()?;
        if frames == 0 || channels != vae.config.latent_channels || (height, width) != self.size {
            let (expected, (h, w)) = (vae.config.latent_channels, self.size);
            bail!("the autoencoder expects latents of {expected}x{h}x{w}, got {frames} of {channels}x{height}x{width}")
        }
        let latents = (latents.to_device(&vae.device)?.to_dtype(DType::F32)? / vae.config.scaling_factor)?;
        let latents = if vae.config.shift() == 0.0 { latents } else { (latents + vae.config.shift())? };
        let decode = |tile: &Tensor| match &vae.post_quant_conv {
            Some(conv) => vae.decoder.forward(&conv.forward(tile)?)?.to_dtype(DType::F32),
            None => vae.decoder.forward(tile)?.to_dtype(DType::F32),
        };
        let mut decoded = Vec::with_capacity(frames);
        for frame in 0..frames {
            let frame = latents.narrow(0, frame, 1)?.to_dtype(vae.dtype)?.contiguous()?;
            decoded.push(by_tiles(self.grid.as_ref(), &frame, [1, vae.config.spatial_ratio()], decode)?);
        }
        Tensor::cat(&decoded, 0)
    }

    fn state(&self) -> Vec<Vec<Tensor>> {
        Vec::new()
    }

    fn restore(&mut self, state: Vec<Vec<Tensor>>) -> Result<()> {
        if state.iter().any(|tile| !tile.is_empty()) {
            bail!("the state of another autoencoder: this one works frame by frame and has none")
        }
        Ok(())
    }
}
