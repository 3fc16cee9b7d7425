//! The units of a UNet: levels of the way down, the middle, levels of the way up; after diffusers' `CrossAttnDownBlock2D`,
//! `DownBlock2D`, `UNetMidBlock2DCrossAttn`, `CrossAttnUpBlock2D` and `UpBlock2D`.

use super::config::UNetConfig;
use super::transformer::Transformer2D;
use super::walk::Walk;
use crate::models::blocks2d::{ResnetBlock2D, ResnetSizes, Upsample2D};
use crate::nn::conv::{Conv2d, conv2d};
use candle_core::Result;
use candle_nn::VarBuilder;

/// A residual block, and attention after it where its level has some.
#[derive(Debug)]
pub(super) struct Layer {
    resnet: ResnetBlock2D,
    attention: Option<Transformer2D>,
}

/// A unit.
#[derive(Debug)]
pub(super) enum Unit {
    Down { layers: Vec<Layer>, downsampler: Option<Conv2d> },
    Mid { resnets: Vec<ResnetBlock2D>, attention: Box<Transformer2D> }, // attention after the first
    Up { layers: Vec<Layer>, upsampler: Option<Upsample2D> },
}

fn resnet(config: &UNetConfig, in_channels: usize, out_channels: usize, vb: VarBuilder) -> Result<ResnetBlock2D> {
    let (time, groups, eps) = (Some(config.time_width()), config.norm_num_groups, config.norm_eps);
    ResnetBlock2D::load(ResnetSizes { in_channels, out_channels, time, groups, eps }, vb)
}

impl Unit {
    /// How many a network has: with its way up, or without.
    pub(super) fn count(config: &UNetConfig, has_up: bool) -> usize {
        let levels = config.levels();
        if has_up { 2 * levels + 1 } else { levels + 1 }
    }

    /// Loads unit `index`, in the order in which they run, from the weights of the network.
    pub(super) fn load(config: &UNetConfig, index: usize, vb: &VarBuilder) -> Result<Self> {
        let levels = config.levels();
        match index {
            level if level < levels => Self::load_down(config, level, vb.pp("down_blocks").pp(level)),
            middle if middle == levels => Self::load_mid(config, vb.pp("mid_block")),
            index => {
                let block = index - levels - 1;
                Self::load_up(config, block, vb.pp("up_blocks").pp(block))
            }
        }
    }

    fn load_down(config: &UNetConfig, level: usize, vb: VarBuilder) -> Result<Self> {
        let channels = &config.block_out_channels;
        let own = channels[level];
        let attends = config.attends_down(level);
        let first = config.layers_per_block * (0..level).filter(|&level| config.attends_down(level)).count();
        let layer = |index: usize| {
            let before = if index == 0 { channels[level.saturating_sub(1)] } else { own };
            let attention = || Transformer2D::load(config, level, first + index, vb.pp("attentions").pp(index));
            Ok(Layer {
                resnet: resnet(config, before, own, vb.pp("resnets").pp(index))?,
                attention: attends.then(attention).transpose()?,
            })
        };
        let halving = || conv2d(own, own, 3, 2, 1, true, vb.pp("downsamplers.0.conv"));
        Ok(Self::Down {
            layers: (0..config.layers_per_block).map(layer).collect::<Result<_>>()?,
            downsampler: (level + 1 < channels.len()).then(halving).transpose()?,
        })
    }

    fn load_mid(config: &UNetConfig, vb: VarBuilder) -> Result<Self> {
        let level = config.levels() - 1;
        let channels = config.block_out_channels[level];
        let one = |index: usize| resnet(config, channels, channels, vb.pp("resnets").pp(index));
        let attention = Transformer2D::load(config, level, config.layers_down() - 1, vb.pp("attentions.0"))?;
        Ok(Self::Mid { resnets: vec![one(0)?, one(1)?], attention: Box::new(attention) })
    }

    fn load_up(config: &UNetConfig, block: usize, vb: VarBuilder) -> Result<Self> {
        let (channels, levels) = (&config.block_out_channels, config.levels());
        let level = levels - 1 - block;
        let own = channels[level];
        let attends = config.attends_up(block);
        let layers = config.layers_per_block + 1;
        let first = config.layers_down() + layers * (0..block).filter(|&block| config.attends_up(block)).count();
        // what the way down kept at this level, the last first; its first is of the level above
        let skips = config.skips();
        let taken = block * layers;
        let layer = |index: usize| {
            let skip = skips[skips.len() - 1 - taken - index];
            let before = if index > 0 { own } else { channels[(level + 1).min(levels - 1)] };
            let attention = || Transformer2D::load(config, level, first + index, vb.pp("attentions").pp(index));
            Ok(Layer {
                resnet: resnet(config, before + skip, own, vb.pp("resnets").pp(index))?,
                attention: attends.then(attention).transpose()?,
            })
        };
        Ok(Self::Up {
            layers: (0..layers).map(layer).collect::<Result<_>>()?,
            upsampler: (level > 0).then(|| Upsample2D::load(own, vb.pp("upsamplers.0"))).transpose()?,
        })
    }

    /// Takes all rows through. After the way down its keepings are offered to the controls, then what the middle gives.
    pub(super) fn run(&self, walk: &mut Walk) -> Result<()> {
        match self {
            Self::Down { layers, downsampler } => {
                for Layer { resnet, attention } in layers {
                    walk.resnet(resnet, false)?;
                    attention.as_ref().map_or(Ok(()), |attention| walk.attend(attention))?;
                    walk.keep();
                }
                if let Some(downsampler) = downsampler {
                    walk.each(|x| downsampler.forward(x))?;
                    walk.keep();
                }
            }
            Self::Mid { resnets, attention } => {
                for (index, resnet) in resnets.iter().enumerate() {
                    walk.resnet(resnet, false)?;
                    if index == 0 {
                        walk.attend(attention)?;
                    }
                }
            }
            Self::Up { layers, upsampler } => {
                for Layer { resnet, attention } in layers {
                    walk.resnet(resnet, true)?;
                    attention.as_ref().map_or(Ok(()), |attention| walk.attend(attention))?;
                }
                if let Some(upsampler) = upsampler {
                    walk.enlarge(upsampler)?;
                }
            }
        }
        Ok(())
    }
}
