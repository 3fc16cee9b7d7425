//! The encoder: video frames in, the distribution of latent frames out.
//!
//! After diffusers' `CogVideoXEncoder3D`, `CogVideoXDownBlock3D` and `CogVideoXDownsample3D`. As there, a chunk with an odd number of frames keeps its first frame apart, and frames
//! that are halved are averaged in pairs.

use super::blocks::{CausalConv3d, ConvCache, Norm3D, ResnetBlock3D, load_resnets};
use super::config::VaeConfig;
use crate::nn::conv::{Conv2d, conv2d};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// Halves height, width and, where time is compressed, the number of frames.
#[derive(Debug)]
struct Downsample3D {
    conv: Conv2d, // conv
    compress_time: bool,
}

impl Downsample3D {
    fn load(channels: usize, compress_time: bool, vb: VarBuilder) -> Result<Self> {
        Ok(Self { conv: conv2d(channels, channels, 3, 2, 0, true, vb.pp("conv"))?, compress_time })
    }

    fn forward(&self, x: Tensor) -> Result<Tensor> {
        let x = if self.compress_time { halve_frames(x)? } else { x };
        // one zero row below and one zero column to the right
        let x = x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?; // [T, C, H + 1, W + 1]
        self.conv.forward(&x) // [T, C, H/2, W/2]
    }
}

/// Means of pairs of frames; of an odd number the first stays as it is.
fn halve_frames(x: Tensor) -> Result<Tensor> {
    let (t, c, h, w) = x.dims4()?;
    let once = t % 2;
    if t == once {
        return Ok(x);
    }
    let pairs = x.narrow(0, once, t - once)?.reshape((t / 2, 2, c, h, w))?;
    let means = ((pairs.narrow(1, 0, 1)? * 0.5)? + (pairs.narrow(1, 1, 1)? * 0.5)?)?.squeeze(1)?;
    match once {
        0 => Ok(means),
        _ => Tensor::cat(&[&x.narrow(0, 0, 1)?, &means], 0),
    }
}

/// Residual blocks, then a reduction in all blocks but the last.
#[derive(Debug)]
struct DownBlock3D {
    resnets: Vec<ResnetBlock3D>,       // resnets
    downsampler: Option<Downsample3D>, // downsamplers.0
}

/// The encoder network.
#[derive(Debug)]
pub(super) struct Encoder3D {
    conv_in: CausalConv3d,         // conv_in
    down_blocks: Vec<DownBlock3D>, // down_blocks
    mid_block: Vec<ResnetBlock3D>, // mid_block.resnets
    norm_out: Norm3D,              // norm_out
    conv_out: CausalConv3d,        // conv_out
}

impl Encoder3D {
    pub(super) fn load(config: &VaeConfig, vb: VarBuilder) -> Result<Self> {
        let channels = &config.block_out_channels;
        let (shallowest, deepest, levels) = (channels[0], channels[channels.len() - 1], channels.len());
        let mut down_blocks = Vec::with_capacity(levels);
        let mut in_channels = shallowest;
        for (i, &out_channels) in channels.iter().enumerate() {
            let vb = vb.pp("down_blocks").pp(i);
            let resnets = load_resnets(config.layers_per_block, in_channels, out_channels, None, config, &vb)?;
            let downsampler = (i + 1 < levels)
                .then(|| Downsample3D::load(out_channels, i < config.temporal_levels(), vb.pp("downsamplers").pp(0)))
                .transpose()?;
            down_blocks.push(DownBlock3D { resnets, downsampler });
            in_channels = out_channels;
        }
        Ok(Self {
            conv_in: CausalConv3d::load(config.in_channels, shallowest, vb.pp("conv_in"))?,
            down_blocks,
            mid_block: load_resnets(2, deepest, deepest, None, config, &vb.pp("mid_block"))?,
            norm_out: Norm3D::group(deepest, config.norm_num_groups, 1e-6, vb.pp("norm_out"))?,
            conv_out: CausalConv3d::load(deepest, 2 * config.latent_channels, vb.pp("conv_out"))?,
        })
    }

    /// The next chunk of frames `[T, 3, H, W]` to moments `[f, 2 Cz, h, w]`.
    pub(super) fn forward(&self, frames: &Tensor, cache: &mut ConvCache) -> Result<Tensor> {
        cache.rewind();
        let mut x = self.conv_in.forward(frames, cache)?;
        for block in &self.down_blocks {
            for resnet in &block.resnets {
                x = resnet.forward(x, None, cache)?;
            }
            if let Some(downsampler) = &block.downsampler {
                x = downsampler.forward(x)?;
            }
        }
        for resnet in &self.mid_block {
            x = resnet.forward(x, None, cache)?;
        }
        let x = self.norm_out.forward_silu(&x, None)?;
        self.conv_out.forward(&x, cache)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn frames_are_averaged_in_pairs_after_an_odd_first() {
        let frames = |count: usize| {
            let values: Vec<f32> = (0..count).map(|frame| (1 << frame) as f32).collect();
            Tensor::from_vec(values, (count, 1, 1, 1), &Device::Cpu).unwrap()
        };
        let halved = |count| halve_frames(frames(count)).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(halved(1), [1.0]);
        assert_eq!(halved(2), [1.5]);
        assert_eq!(halved(5), [1.0, 3.0, 12.0]);
        assert_eq!(halved(4), [1.5, 6.0]);
    }
}
