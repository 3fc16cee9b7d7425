//! The causal autoencoder of CogVideoX (arXiv 2408.06072, section 2.1), after diffusers' `AutoencoderKLCogVideoX`.
//!
//! Videos are worked through in chunks of time, as in the reference: causal convolutions carry their last input frames
//! from chunk to chunk (`ConvCache`), so that memory does not grow with the video. The norms' statistics span one chunk:
//! another chunk size gives slightly different frames, and the reference's (2 latent frames, the first chunk taking the
//! remainder) is the default.
//!
//! Deliberately different from the reference: frames are handed out chunk by chunk; the chunk that begins the video is
//! known as such, so that every number F of latent frames gives `4 (F - 1) + 1` frames (the reference makes `4 F` of an
//! even one; [`SingleFrameRule::OddChunks`] is its rule).

mod blocks;
mod config;
mod decoder;
mod encoder;

pub use crate::models::autoencoder::{
    DecodeMemory, DecodeOptions, EncodeOptions, LatentDistribution, SingleFrameRule, TileOptions,
};
pub use config::VaeConfig;

use crate::models::autoencoder::{self, Decoding, chunks};
use crate::models::tiling::Grid;
use crate::nn::compute_dtype;
use crate::nn::conv::{Conv3d, conv3d};
use blocks::ConvCache;
use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use decoder::Decoder3D;
use encoder::Encoder3D;

/// `AutoencoderKLCogVideoX`.
#[derive(Debug)]
pub struct AutoencoderKLCogVideoX {
    config: VaeConfig,
    encoder: Option<Encoder3D>,      // encoder
    decoder: Decoder3D,              // decoder
    quant_conv: Option<Conv3d>,      // quant_conv
    post_quant_conv: Option<Conv3d>, // post_quant_conv
    dtype: DType,
    device: Device,
}

impl AutoencoderKLCogVideoX {
    /// Loads both halves; they compute in the dtype of `vb`, on the CPU in f32 but for products
    /// in bf16. Errors name the configuration key or the tensor.
    pub fn load(config: &VaeConfig, vb: VarBuilder) -> Result<Self> {
        let mut autoencoder = Self::load_decoder(config, vb.clone())?;
        let moments = 2 * config.latent_channels;
        autoencoder.encoder = Some(Encoder3D::load(config, vb.pp("encoder"))?);
        autoencoder.quant_conv =
            config.use_quant_conv.then(|| conv3d(moments, moments, 1, 1, vb.pp("quant_conv"))).transpose()?;
        Ok(autoencoder)
    }

    /// Loads what decoding needs and no more.
    pub fn load_decoder(config: &VaeConfig, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let latent = config.latent_channels;
        Ok(Self {
            decoder: Decoder3D::load(config, vb.pp("decoder"))?,
            encoder: None,
            quant_conv: None,
            post_quant_conv: config
                .use_post_quant_conv
                .then(|| conv3d(latent, latent, 1, 1, vb.pp("post_quant_conv")))
                .transpose()?,
            dtype: compute_dtype(vb.dtype(), vb.device()),
            device: vb.device().clone(),
            config: config.clone(),
        })
    }

    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Decodes latents `[F, C, h, w]`, already divided by the scaling factor. Frames go to `sink` chunk by chunk, in order, as
    /// f32 `[T, 3, H, W]` in about -1 to 1; an error of the sink ends the decode and is returned.
    pub fn decode(
        &self,
        latents: &Tensor,
        options: &DecodeOptions,
        sink: &mut dyn FnMut(Tensor) -> Result<()>,
    ) -> Result<()> {
        let (frames, _, height, width) = latents.dims4()?;
        if frames == 0 {
            bail!("there are no latent frames to decode")
        }
        let mut session = self.session(height, width, options)?;
        for chunk in options.chunks(frames) {
            sink(session.next(&latents.narrow(0, chunk.start, chunk.len())?)?)?;
        }
        Ok(())
    }

    /// A decode whose latents of `height` by `width` cells arrive bit by bit.
    pub fn session(&self, height: usize, width: usize, options: &DecodeOptions) -> Result<DecodeSession<'_>> {
        if options.chunk == 0 {
            bail!("the autoencoder's chunk is 0; it must be at least 1 latent frame")
        }
        if height == 0 || width == 0 {
            bail!("latents of {height} by {width} cells cannot be decoded")
        }
        let grid = self.config.grid(options, height, width)?;
        let tiles = grid.as_ref().map_or(1, Grid::len);
        let caches = std::iter::repeat_with(ConvCache::default).take(tiles).collect();
        Ok(DecodeSession {
            autoencoder: self,
            single_frame: options.single_frame,
            size: (height, width),
            grid,
            caches,
            started: false,
        })
    }

    /// Encodes a video `[T, 3, H, W]` in -1 to 1; H and W are multiples of the spatial ratio. `1 + 4 n` frames give `1 + n`
    /// latent frames; other numbers are treated as the reference does (frames averaged in pairs, the first of an odd
    /// chunk apart).
    pub fn encode(&self, video: &Tensor, options: &EncodeOptions) -> Result<LatentDistribution> {
        let Some(encoder) = &self.encoder else { bail!("this autoencoder was loaded without its encoder") };
        let (frames, channels, height, width) = video.dims4()?;
        let (ratio, temporal) = (self.config.spatial_ratio(), self.config.temporal_ratio());
        if frames == 0 || channels != self.config.in_channels {
            bail!("the autoencoder encodes frames of {} channels, got {frames} of {channels}", self.config.in_channels)
        }
        if height == 0 || width == 0 || !height.is_multiple_of(ratio) || !width.is_multiple_of(ratio) {
            bail!("the autoencoder encodes frames whose sides are multiples of {ratio}, got {width}x{height}")
        }
        if options.chunk == 0 || !options.chunk.is_multiple_of(temporal) {
            bail!("the autoencoder's chunk is {} frames; it must be a multiple of {temporal}", options.chunk)
        }
        let video = video.to_device(&self.device)?.to_dtype(self.dtype)?;
        let encode = |video: &Tensor| -> Result<Tensor> {
            let mut cache = ConvCache::default();
            let mut moments = Vec::new();
            for chunk in chunks(frames, options.chunk) {
                let part = encoder.forward(&video.narrow(0, chunk.start, chunk.len())?, &mut cache)?;
                moments.push(match &self.quant_conv {
                    Some(conv) => conv.forward(&part)?,
                    None => part,
                });
            }
            Tensor::cat(&moments, 0) // [F, 2C, h, w]
        };
        let grid = match &options.tile {
            Some(tile) => Grid::new(tile, ratio, height / ratio, width / ratio)?,
            None => None,
        };
        let moments = match grid {
            // moments are small: each tile may run through all time with the one cache that is alive
            Some(grid) => {
                let tiles = grid.cut(&video, ratio)?;
                let moments = tiles.iter().map(encode).collect::<Result<Vec<_>>>()?;
                grid.join(&moments, 1)?
            }
            None => encode(&video)?,
        };
        LatentDistribution::from_moments(&moments)
    }
}

/// A running decode: the caches of one video.
#[derive(Debug)]
pub struct DecodeSession<'a> {
    autoencoder: &'a AutoencoderKLCogVideoX,
    single_frame: SingleFrameRule,
    size: (usize, usize),
    grid: Option<Grid>,
    caches: Vec<ConvCache>, // one per tile
    started: bool,
}

impl DecodeSession<'_> {
    /// Decodes the next latent frames `[f, C, h, w]` to f32 frames `[T, 3, H, W]`. After an error the session is of no use.
    pub fn next(&mut self, latents: &Tensor) -> Result<Tensor> {
        let vae = self.autoencoder;
        let (frames, channels, height, width) = latents.dims4()?;
        if frames == 0 || channels != vae.config.latent_channels || (height, width) != self.size {
            let (expected, (h, w)) = (vae.config.latent_channels, self.size);
            bail!("the autoencoder expects latents of {expected}x{h}x{w}, got {frames} of {channels}x{height}x{width}")
        }
        let first = match self.single_frame {
            SingleFrameRule::FirstChunk => !self.started,
            SingleFrameRule::OddChunks => frames % 2 == 1,
        };
        self.started = true;
        let latents = latents.to_device(&vae.device)?.to_dtype(vae.dtype)?.contiguous()?;
        let latents = match &vae.post_quant_conv {
            Some(conv) => conv.forward(&latents)?,
            None => latents,
        };
        let decode =
            |latents: &Tensor, cache: &mut ConvCache| vae.decoder.forward(latents, first, cache)?.to_dtype(DType::F32);
        match &self.grid {
            Some(grid) => {
                let tiles = grid.cut(&latents, 1)?;
                let frames = tiles.iter().zip(&mut self.caches).map(|(tile, cache)| decode(tile, cache));
                grid.join(&frames.collect::<Result<Vec<_>>>()?, vae.config.spatial_ratio())
            }
            None => decode(&latents, &mut self.caches[0]),
        }
    }

    /// What the session remembers between two chunks: for each tile the last input frames of each causal convolution.
    pub fn state(&self) -> Vec<Vec<Tensor>> {
        self.caches.iter().map(|cache| cache.contexts().to_vec()).collect()
    }

    /// Goes on from the state of another session of the same options and size.
    pub fn restore(&mut self, state: Vec<Vec<Tensor>>) -> Result<()> {
        if state.len() != self.caches.len() || state.iter().any(Vec::is_empty) {
            bail!("the state of a decode in {} tiles does not fit one in {}", state.len(), self.caches.len())
        }
        let vae = self.autoencoder;
        let place = |tensor: Tensor| tensor.to_device(&vae.device)?.to_dtype(vae.dtype);
        let caches = state.into_iter().map(|tile| tile.into_iter().map(place).collect::<Result<_>>());
        self.caches = caches.map(|tile| Ok(ConvCache::remember(tile?))).collect::<Result<_>>()?;
        self.started = true;
        Ok(())
    }

    /// Bytes that the caches hold between two chunks.
    pub fn cache_bytes(&self) -> usize {
        self.caches.iter().map(ConvCache::bytes).sum()
    }
}

/// In the denoiser's scale: `scaling_factor` times what the encoder says (diffusers' `vae.config.scaling_factor`).
impl autoencoder::Autoencoder for AutoencoderKLCogVideoX {
    fn encode(&self, video: &Tensor, options: &EncodeOptions) -> Result<Tensor> {
        Self::encode(self, video, options)?.mode() * self.config.scaling_factor
    }

    fn encode_drawn(&self, video: &Tensor, noise: &Tensor, options: &EncodeOptions) -> Result<Tensor> {
        let (drawn, scale) = (Self::encode(self, video, options)?.sample(noise)?, self.config.scaling_factor);
        if self.config.invert_scale_latents { drawn / scale } else { drawn * scale }
    }

    fn scaling_factor(&self) -> f64 {
        self.config.scaling_factor
    }

    fn decoding<'a>(&'a self, height: usize, width: usize, options: &DecodeOptions) -> Result<Box<dyn Decoding + 'a>> {
        Ok(Box::new(self.session(height, width, options)?))
    }
}

impl Decoding for DecodeSession<'_> {
    fn decode(&mut self, latents: &Tensor) -> Result<Tensor> {
        let latents = (latents / self.autoencoder.config.scaling_factor)?;
        self.next(&latents)
    }

    fn state(&self) -> Vec<Vec<Tensor>> {
        Self::state(self)
    }

    fn restore(&mut self, state: Vec<Vec<Tensor>>) -> Result<()> {
        Self::restore(self, state)
    }
}
