//! Encoder and decoder of `AutoencoderKL`, and the attention in the middle of both; after diffusers' `Encoder`, `Decoder` and
//! `UNetMidBlock2D`.

use super::config::VaeConfig;
use crate::models::blocks2d::{GroupNorm, ResnetBlock2D, ResnetSizes, Upsample2D};
use crate::nn::conv::{Conv2d, conv2d};
use crate::nn::linear::Linear;
use crate::nn::sdpa::Sdpa;
use crate::nn::turn::turned;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// Of all norms.
const EPS: f64 = 1e-6;

/// A residual block between so many channels.
fn resnet(config: &VaeConfig, in_channels: usize, out_channels: usize, vb: VarBuilder) -> Result<ResnetBlock2D> {
    let groups = config.norm_num_groups;
    ResnetBlock2D::load(ResnetSizes { in_channels, out_channels, time: None, groups, eps: EPS }, vb)
}

/// Self-attention of one head over the cells of a frame.
#[derive(Debug)]
struct Attention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear, // to_out.0
}

impl Attention {
    /// Old files call the layers `query, key, value, proj_attn`, and some have them as 1x1 convolutions.
    fn load(channels: usize, groups: usize, vb: VarBuilder) -> Result<Self> {
        let layer = |name: &str, old: &str| {
            let vb = if vb.contains_tensor(&format!("{old}.weight")) { vb.pp(old) } else { vb.pp(name) };
            let shapes = [vec![channels, channels], vec![channels, channels, 1, 1]];
            let weight = match vb.get(shapes[0].as_slice(), "weight") {
                Ok(weight) => weight,
                Err(error) => match vb.get(shapes[1].as_slice(), "weight") {
                    Ok(weight) => weight.reshape((channels, channels))?,
                    Err(_) => return Err(error),
                },
            };
            Linear::new(weight, Some(vb.get(channels, "bias")?), vb.dtype())
        };
        Ok(Self {
            group_norm: GroupNorm::load(channels, groups, EPS, vb.pp("group_norm"))?,
            to_q: layer("to_q", "query")?,
            to_k: layer("to_k", "key")?,
            to_v: layer("to_v", "value")?,
            to_out: layer("to_out.0", "proj_attn")?,
        })
    }

    /// `[1, C, H, W]` to the same.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, c, h, w) = x.dims4()?;
        let tokens = turned(&self.group_norm.forward(x)?.reshape((b, c, h * w))?)?;
        let [q, k, v] = [&self.to_q, &self.to_k, &self.to_v].map(|layer| layer.forward(&tokens)?.unsqueeze(1));
        let y = Sdpa::default().attend(&q?, &k?, &v?, 1.0 / (c as f64).sqrt())?.squeeze(1)?; // [B, L, C]
        let y = self.to_out.forward(&y.contiguous()?)?.transpose(1, 2)?.reshape((b, c, h, w))?;
        x + y
    }
}

/// Two residual blocks, with attention between them.
#[derive(Debug)]
struct MidBlock {
    resnets: [ResnetBlock2D; 2],
    attention: Option<Attention>, // attentions.0
}

impl MidBlock {
    fn load(config: &VaeConfig, channels: usize, vb: VarBuilder) -> Result<Self> {
        let one = |index: usize| resnet(config, channels, channels, vb.pp("resnets").pp(index));
        let attention = || Attention::load(channels, config.norm_num_groups, vb.pp("attentions.0"));
        Ok(Self { resnets: [one(0)?, one(1)?], attention: config.mid_block_add_attention.then(attention).transpose()? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.resnets[0].forward(x, None)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x)?;
        }
        self.resnets[1].forward(&x, None)
    }
}

/// A level of the way down.
#[derive(Debug)]
struct DownBlock {
    resnets: Vec<ResnetBlock2D>,
    downsampler: Option<Conv2d>, // downsamplers.0.conv
}

/// A frame in, the moments of its latents out.
#[derive(Debug)]
pub(super) struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    pub(super) fn load(config: &VaeConfig, vb: VarBuilder) -> Result<Self> {
        let channels = &config.block_out_channels;
        let (shallowest, deepest) = (channels[0], channels[channels.len() - 1]);
        let mut down_blocks = Vec::with_capacity(channels.len());
        let mut before = shallowest;
        for (level, &own) in channels.iter().enumerate() {
            let vb = vb.pp("down_blocks").pp(level);
            let resnets = (0..config.layers_per_block)
                .map(|index| resnet(config, if index == 0 { before } else { own }, own, vb.pp("resnets").pp(index)));
            let last = level + 1 == channels.len();
            let halving = || conv2d(own, own, 3, 2, 0, true, vb.pp("downsamplers.0.conv"));
            down_blocks.push(DownBlock {
                resnets: resnets.collect::<Result<_>>()?,
                downsampler: (!last).then(halving).transpose()?,
            });
            before = own;
        }
        let moments = 2 * config.latent_channels;
        Ok(Self {
            conv_in: conv2d(config.in_channels, shallowest, 3, 1, 1, true, vb.pp("conv_in"))?,
            down_blocks,
            mid_block: MidBlock::load(config, deepest, vb.pp("mid_block"))?,
            conv_norm_out: GroupNorm::load(deepest, config.norm_num_groups, EPS, vb.pp("conv_norm_out"))?,
            conv_out: conv2d(deepest, moments, 3, 1, 1, true, vb.pp("conv_out"))?,
        })
    }

    /// `[1, 3, H, W]` to `[1, 2C, h, w]`.
    pub(super) fn forward(&self, frame: &Tensor) -> Result<Tensor> {
        let mut x = self.conv_in.forward(frame)?;
        for block in &self.down_blocks {
            for resnet in &block.resnets {
                x = resnet.forward(&x, None)?;
            }
            if let Some(downsampler) = &block.downsampler {
                // one zero row below and one zero column to the right
                x = downsampler.forward(&x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?)?;
            }
        }
        let x = self.mid_block.forward(&x)?;
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&x)?)
    }
}

/// A level of the way up.
#[derive(Debug)]
struct UpBlock {
    resnets: Vec<ResnetBlock2D>,
    upsampler: Option<Upsample2D>, // upsamplers.0
}

/// Latents of a frame in, the frame out.
#[derive(Debug)]
pub(super) struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    pub(super) fn load(config: &VaeConfig, vb: VarBuilder) -> Result<Self> {
        let channels = &config.block_out_channels;
        let (shallowest, deepest) = (channels[0], channels[channels.len() - 1]);
        let mut up_blocks = Vec::with_capacity(channels.len());
        let mut before = deepest;
        for (level, &own) in channels.iter().rev().enumerate() {
            let vb = vb.pp("up_blocks").pp(level);
            let resnets = (0..=config.layers_per_block)
                .map(|index| resnet(config, if index == 0 { before } else { own }, own, vb.pp("resnets").pp(index)));
            let last = level + 1 == channels.len();
            up_blocks.push(UpBlock {
                resnets: resnets.collect::<Result<_>>()?,
                upsampler: (!last).then(|| Upsample2D::load(own, vb.pp("upsamplers.0"))).transpose()?,
            });
            before = own;
        }
        Ok(Self {
            conv_in: conv2d(config.latent_channels, deepest, 3, 1, 1, true, vb.pp("conv_in"))?,
            mid_block: MidBlock::load(config, deepest, vb.pp("mid_block"))?,
            up_blocks,
            conv_norm_out: GroupNorm::load(shallowest, config.norm_num_groups, EPS, vb.pp("conv_norm_out"))?,
            conv_out: conv2d(shallowest, config.out_channels, 3, 1, 1, true, vb.pp("conv_out"))?,
        })
    }

    /// `[1, C, h, w]` to `[1, 3, H, W]`.
    pub(super) fn forward(&self, latents: &Tensor) -> Result<Tensor> {
        let mut x = self.mid_block.forward(&self.conv_in.forward(latents)?)?;
        for block in &self.up_blocks {
            for resnet in &block.resnets {
                x = resnet.forward(&x, None)?;
            }
            if let Some(upsampler) = &block.upsampler {
                let (_, _, h, w) = x.dims4()?;
                x = upsampler.forward(&x, (2 * h, 2 * w))?;
            }
        }
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&x)?)
    }
}
