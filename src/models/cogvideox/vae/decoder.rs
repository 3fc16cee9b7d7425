//! The decoder: latent frames in, video frames out, one chunk after the other.
//!
//! After diffusers' `CogVideoXDecoder3D`, `CogVideoXUpBlock3D` and `CogVideoXUpsample3D`. Deliberately different: whether a
//! chunk begins the video (its first latent frame then stays one frame instead of becoming four) is said by the caller,
//! where the reference takes every chunk of odd length for a beginning; and frames are doubled after the convolution
//! that follows the enlarging, not before it (the convolution works on each frame alone).

use super::blocks::{CausalConv3d, Condition, ConvCache, Norm3D, ResnetBlock3D, load_resnets};
use super::config::VaeConfig;
use crate::models::autoencoder::DecodeMemory;
use crate::nn::conv::{Conv2d, conv2d};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// Doubles height, width and, where time is compressed, the number of frames.
#[derive(Debug)]
struct Upsample3D {
    conv: Conv2d, // conv
    compress_time: bool,
}

impl Upsample3D {
    fn load(channels: usize, compress_time: bool, vb: VarBuilder) -> Result<Self> {
        Ok(Self { conv: conv2d(channels, channels, 3, 1, 1, true, vb.pp("conv"))?, compress_time })
    }

    fn forward(&self, x: Tensor, first: bool) -> Result<Tensor> {
        let y = self.conv.forward_upsampled(&x)?; // [T, C, 2H, 2W]
        if !self.compress_time {
            return Ok(y);
        }
        let once = usize::from(first);
        let doubled = (2 * once..2 * y.dim(0)?).map(|frame| (frame / 2) as u32);
        let frames: Vec<u32> = (0..once as u32).chain(doubled).collect();
        y.index_select(&Tensor::new(frames, y.device())?, 0) // [2T or 2T - 1, C, 2H, 2W]
    }
}

/// Residual blocks, then an enlargement in all blocks but the last.
#[derive(Debug)]
struct UpBlock3D {
    resnets: Vec<ResnetBlock3D>,   // resnets
    upsampler: Option<Upsample3D>, // upsamplers.0
}

impl UpBlock3D {
    fn forward(&self, x: Tensor, condition: &Condition, first: bool, cache: &mut ConvCache) -> Result<Tensor> {
        let mut x = x;
        for resnet in &self.resnets {
            x = resnet.forward(x, Some(condition), cache)?;
        }
        match &self.upsampler {
            Some(upsampler) => upsampler.forward(x, first),
            None => Ok(x),
        }
    }
}

/// The decoder network.
#[derive(Debug)]
pub(super) struct Decoder3D {
    conv_in: CausalConv3d,         // conv_in
    mid_block: Vec<ResnetBlock3D>, // mid_block.resnets
    up_blocks: Vec<UpBlock3D>,     // up_blocks
    norm_out: Norm3D,              // norm_out
    conv_out: CausalConv3d,        // conv_out
}

impl Decoder3D {
    pub(super) fn load(config: &VaeConfig, vb: VarBuilder) -> Result<Self> {
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let (deepest, shallowest, levels) = (channels[0], channels[channels.len() - 1], channels.len());
        let zq = config.latent_channels;
        let mut up_blocks = Vec::with_capacity(levels);
        let mut in_channels = deepest;
        for (i, &out_channels) in channels.iter().enumerate() {
            let vb = vb.pp("up_blocks").pp(i);
            let resnets = load_resnets(config.layers_per_block + 1, in_channels, out_channels, Some(zq), config, &vb)?;
            let upsampler = (i + 1 < levels)
                .then(|| Upsample3D::load(out_channels, i < config.temporal_levels(), vb.pp("upsamplers").pp(0)))
                .transpose()?;
            up_blocks.push(UpBlock3D { resnets, upsampler });
            in_channels = out_channels;
        }
        Ok(Self {
            conv_in: CausalConv3d::load(zq, deepest, vb.pp("conv_in"))?,
            mid_block: load_resnets(2, deepest, deepest, Some(zq), config, &vb.pp("mid_block"))?,
            up_blocks,
            norm_out: Norm3D::spatial(shallowest, zq, config.norm_num_groups, vb.pp("norm_out"))?,
            conv_out: CausalConv3d::load(shallowest, config.out_channels, vb.pp("conv_out"))?,
        })
    }

    /// The next chunk of latent frames `[f, Cz, h, w]` to frames `[T, 3, H, W]`; T is `1 + r (f - 1)` for the chunk that
    /// begins the video (`first`) and `r f` for the others, r the temporal ratio.
    pub(super) fn forward(&self, latent: &Tensor, first: bool, cache: &mut ConvCache) -> Result<Tensor> {
        cache.rewind();
        let condition = Condition::new(latent, first);
        let mut x = self.conv_in.forward(latent, cache)?;
        for resnet in &self.mid_block {
            x = resnet.forward(x, Some(&condition), cache)?;
        }
        for block in &self.up_blocks {
            x = block.forward(x, &condition, first, cache)?;
        }
        let x = self.norm_out.forward_silu(&x, Some(&condition))?;
        self.conv_out.forward(&x, cache)
    }
}

impl VaeConfig {
    /// What decoding latents (or one tile of them) of `height` by `width` cells needs, in chunks of so many latent frames.
    /// Alive at once, as measured on the program's peak, are three of the largest maps in the first chunk, whose caches are still
    /// to be filled, and five in the others, which hold old and new ones.
    pub(super) fn tile_memory(&self, chunks: &[usize], height: usize, width: usize) -> DecodeMemory {
        let config = self;
        let latent_frames = chunks.first().copied().unwrap_or(0);
        let later = chunks.get(1).copied().unwrap_or(0);
        let (mut first_map, mut later_map) = (0, 0);
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let (deepest, shallowest) = (channels[0], channels[channels.len() - 1]);
        let context = 2; // frames, of each input of a 3x3x3 convolution
        let mut cells = height.saturating_mul(width);
        let mut caches = context * (config.latent_channels + 4 * deepest) * cells; // conv_in, mid_block
        let mut map = 0;
        let mut in_channels = deepest;
        for (i, &out_channels) in channels.iter().enumerate() {
            let frames = latent_frames.saturating_mul(1 << i.min(config.temporal_levels()));
            let map_of = |frames: usize| frames.saturating_mul(in_channels.max(out_channels)).saturating_mul(cells);
            map = map.max(map_of(frames));
            let doublings = 1 << i.min(config.temporal_levels());
            first_map = first_map.max(map_of((latent_frames.saturating_mul(doublings) + 1).saturating_sub(doublings)));
            later_map = later_map.max(map_of(later.saturating_mul(doublings)));
            let inputs = in_channels + (2 * config.layers_per_block + 1) * out_channels;
            caches = caches.saturating_add((context * inputs).saturating_mul(cells));
            in_channels = out_channels;
            if i + 1 < channels.len() {
                cells = cells.saturating_mul(4);
            }
        }
        caches = caches.saturating_add((context * shallowest).saturating_mul(cells)); // conv_out
        let alive = first_map.saturating_mul(3).max(later_map.saturating_mul(5));
        DecodeMemory { caches, map, alive }
    }
}
