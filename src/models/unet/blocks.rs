//! The units of a UNet: levels of the way down, the middle, levels of the way up; after diffusers' `CrossAttnDownBlock2D`,
//! `DownBlock2D`, `UNetMidBlock2DCrossAttn`, `CrossAttnUpBlock2D` and `UpBlock2D`, and those that end in `3D`.

use super::config::UNetConfig;
use super::temporal::{TemporalConvLayer, TransformerTemporal};
use super::transformer::Transformer2D;
use super::walk::Walk;
use crate::models::blocks2d::{ResnetBlock2D, ResnetSizes, Upsample2D};
use crate::nn::conv::{Conv2d, conv2d};
use candle_core::{Result, bail};
use candle_nn::VarBuilder;

/// A residual block, and attention after it where its level has some. In a video UNet each is followed by its counterpart in
/// time.
#[derive(Debug)]
pub(super) struct Layer {
    resnet: ResnetBlock2D,
    temp_conv: Option<TemporalConvLayer>,
    attention: Option<Transformer2D>,
    temp_attention: Option<TransformerTemporal>,
}

/// A unit.
#[derive(Debug)]
pub(super) enum Unit {
    Down { layers: Vec<Layer>, downsampler: Option<Conv2d> },
    Mid { layers: Vec<Layer> }, // two, attention in the first
    Up { layers: Vec<Layer>, upsampler: Option<Upsample2D> },
}

/// What a layer is: its index in its unit, its level, the channels that enter it, and its index among the network's places of
/// attention, where it is one.
struct Form {
    index: usize,
    level: usize,
    before: usize,
    attention: Option<usize>,
}

impl Layer {
    fn load(config: &UNetConfig, form: &Form, vb: &VarBuilder) -> Result<Self> {
        let Form { index, level, before, attention } = *form;
        let (channels, groups) = (config.block_out_channels[level], config.norm_num_groups);
        let part = |name: &str| vb.pp(name).pp(index);
        let (time, eps) = (Some(config.time_width()), config.norm_eps);
        let sizes = ResnetSizes { in_channels: before, out_channels: channels, time, groups, eps };
        let in_time = |layer: usize| {
            let heads = config.temporal_heads(level)?;
            // `transformer_in` is the first place
            Some(TransformerTemporal::load(channels, heads, groups, layer + 1, part("temp_attentions")))
        };
        let convolved = || TemporalConvLayer::load(channels, groups, part("temp_convs"));
        Ok(Self {
            resnet: ResnetBlock2D::load(sizes, part("resnets"))?,
            temp_conv: config.is_video().then(convolved).transpose()?,
            attention: attention
                .map(|layer| Transformer2D::load(config, level, layer, part("attentions")))
                .transpose()?,
            temp_attention: attention.and_then(in_time).transpose()?,
        })
    }

    /// Takes all rows through; with `skip` of what the way down has kept last, too.
    fn run(&self, walk: &mut Walk, skip: bool) -> Result<()> {
        walk.resnet(&self.resnet, skip)?;
        if let Some(temp_conv) = &self.temp_conv {
            walk.each(|x| temp_conv.forward(x))?;
        }
        if let Some(attention) = &self.attention {
            walk.attend(attention)?;
        }
        if let Some(temp_attention) = &self.temp_attention {
            walk.attend_in_time(temp_attention)?;
        }
        Ok(())
    }
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
            let attention = attends.then_some(first + index);
            Layer::load(config, &Form { index, level, before, attention }, &vb)
        };
        let halving = || conv2d(own, own, 3, 2, 1, true, vb.pp("downsamplers.0.conv"));
        Ok(Self::Down {
            layers: (0..config.layers_per_block).map(layer).collect::<Result<_>>()?,
            downsampler: (level + 1 < channels.len()).then(halving).transpose()?,
        })
    }

    fn load_mid(config: &UNetConfig, vb: VarBuilder) -> Result<Self> {
        let level = config.levels() - 1;
        let layer = |index: usize| {
            let (before, attention) = (config.block_out_channels[level], config.layers_down() - 1);
            let attention = (index == 0).then_some(attention);
            Layer::load(config, &Form { index, level, before, attention }, &vb)
        };
        Ok(Self::Mid { layers: (0..2).map(layer).collect::<Result<_>>()? })
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
            let attention = attends.then_some(first + index);
            Layer::load(config, &Form { index, level, before: before + skip, attention }, &vb)
        };
        Ok(Self::Up {
            layers: (0..layers).map(layer).collect::<Result<_>>()?,
            upsampler: (level > 0).then(|| Upsample2D::load(own, vb.pp("upsamplers.0"))).transpose()?,
        })
    }

    /// The last layer of the way up alone, on what an earlier step kept before it and the first of what this way down has kept
    /// (DeepCache, arXiv 2312.00858, branch 0).
    pub(super) fn run_last(&self, walk: &mut Walk) -> Result<()> {
        let Self::Up { layers, .. } = self else { bail!("the last unit is none of the way up") };
        walk.take_deep()?;
        layers.last().map_or(Ok(()), |layer| layer.run(walk, true))
    }

    /// Takes all rows through. After the way down its keepings are offered to the controls, then what the middle gives.
    pub(super) fn run(&self, walk: &mut Walk) -> Result<()> {
        match self {
            Self::Down { layers, downsampler } => {
                for layer in layers {
                    layer.run(walk, false)?;
                    walk.keep();
                }
                if let Some(downsampler) = downsampler {
                    walk.each(|x| downsampler.forward(x))?;
                    walk.keep();
                }
            }
            Self::Mid { layers } => layers.iter().try_for_each(|layer| layer.run(walk, false))?,
            Self::Up { layers, upsampler } => {
                for (index, layer) in layers.iter().enumerate() {
                    if upsampler.is_none() && index + 1 == layers.len() {
                        walk.keep_deep()?;
                    }
                    layer.run(walk, true)?;
                }
                if let Some(upsampler) = upsampler {
                    walk.enlarge(upsampler)?;
                }
            }
        }
        Ok(())
    }
}
