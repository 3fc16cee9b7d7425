//! ControlNet (arXiv 2302.05543), after diffusers' `ControlNetModel`: a copy of a UNet's way down and middle that also sees a
//! picture of what is wanted (edges, a pose, depth), and says what is to be added to what the UNet's way down keeps and to
//! what its middle gives.

use super::blocks::Unit;
use super::config::UNetConfig;
use super::{Entrance, Row, work};
use crate::attention::Hooks;
use crate::models::architecture::{ControlArchitecture, LayerShape, RowWork, WindowRows};
use crate::models::control::{ControlNetwork, Residuals};
use crate::nn::act::silu;
use crate::nn::conv::{Conv2d, conv2d};
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use serde::Deserialize;
use std::sync::Arc;

/// Its `config.json`: a UNet's keys, those of its way up aside, and its own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct ControlNetConfig {
    #[serde(flatten)]
    pub unet: UNetConfig,
    /// Channels of the picture.
    pub conditioning_channels: usize,
    pub conditioning_embedding_out_channels: Vec<usize>,
    pub controlnet_conditioning_channel_order: ChannelOrder,
}

/// The order of a picture's channels that the network was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelOrder {
    Rgb,
    Bgr,
}

const CLASS: &str = "ControlNetModel";

impl Default for ControlNetConfig {
    fn default() -> Self {
        Self {
            unet: UNetConfig { class_name: CLASS.to_owned(), ..UNetConfig::default() },
            conditioning_channels: 3,
            conditioning_embedding_out_channels: vec![16, 32, 96, 256],
            controlnet_conditioning_channel_order: ChannelOrder::Rgb,
        }
    }
}

impl ControlNetConfig {
    /// Refuses, in one line that names the key, what this implementation does not compute, and sizes no network has.
    pub fn check(&self) -> Result<()> {
        let class = &self.unet.class_name;
        if class != CLASS {
            bail!("control model config: _class_name is {class:?}; only {CLASS} is supported")
        }
        self.unet.check("control model", false)?;
        let channels = &self.conditioning_embedding_out_channels;
        if !(1..=8).contains(&channels.len()) || channels.iter().any(|&channels| !(1..=1 << 14).contains(&channels)) {
            bail!(
                "control model config: conditioning_embedding_out_channels is {channels:?}; 1 to 8 widths are supported"
            )
        }
        if self.conditioning_channels != 3 {
            let found = self.conditioning_channels;
            bail!("control model config: conditioning_channels is {found}; pictures have 3")
        }
        Ok(())
    }

    /// Pixels of a latent cell.
    pub fn ratio(&self) -> usize {
        1 << (self.conditioning_embedding_out_channels.len().max(1) - 1)
    }

    /// The first key in which it does not fit a UNet, with both values, in words.
    pub fn misfit(&self, unet: &UNetConfig) -> Option<String> {
        let own = &self.unet;
        let keys = [
            ("in_channels", format!("{}", own.in_channels), format!("{}", unet.in_channels)),
            ("block_out_channels", format!("{:?}", own.block_out_channels), format!("{:?}", unet.block_out_channels)),
            ("layers_per_block", format!("{}", own.layers_per_block), format!("{}", unet.layers_per_block)),
            ("cross_attention_dim", format!("{}", own.cross_attention_dim), format!("{}", unet.cross_attention_dim)),
        ];
        let (key, own, others) = keys.into_iter().find(|(_, own, others)| own != others)?;
        Some(format!("{key} is {own}, and the model's UNet has {others}"))
    }
}

impl ControlArchitecture for ControlNetConfig {
    fn layers(&self, frames: usize, cells: (usize, usize)) -> Vec<LayerShape> {
        work::layers_down(&self.unet, frames, cells)
    }

    fn row_work(&self, text: usize, frames: usize, cells: (usize, usize)) -> RowWork {
        work::row_down(&self.unet, text, frames, cells)
    }

    fn row_memory(&self, rows: WindowRows, element: u64) -> (u64, u64) {
        let memory = work::memory(&self.unet, rows, element, 0);
        let ratio = self.ratio();
        let pixels = (rows.frames * rows.cells.0 * rows.cells.1 * ratio * ratio) as u64;
        let largest = self.conditioning_embedding_out_channels[0].max(self.conditioning_channels) as u64;
        // a map of a picture's size, before and after a convolution and while it is activated
        let hint = 3 * pixels * largest * element;
        (memory.activations.max(hint), rows.halves as u64 * memory.state)
    }

    fn hint_work(&self, frames: usize, (height, width): (usize, usize)) -> f64 {
        let channels = &self.conditioning_embedding_out_channels;
        let ratio = self.ratio();
        let area = |level: usize| (frames * height * width * ratio * ratio) as f64 / 4f64.powi(level as i32);
        let conv = |from: usize, to: usize, level: usize| 9.0 * (from * to) as f64 * area(level);
        let inside = channels.windows(2).enumerate();
        let inside = inside.map(|(level, pair)| conv(pair[0], pair[0], level) + conv(pair[0], pair[1], level + 1));
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        conv(self.conditioning_channels, first, 0)
            + inside.sum::<f64>()
            + conv(last, self.unet.block_out_channels[0], channels.len() - 1)
    }

    fn hint_bytes(&self, (height, width): (usize, usize)) -> u64 {
        4 * (self.unet.block_out_channels[0] * height * width) as u64
    }

    fn load(&self, vb: VarBuilder) -> Result<Arc<dyn ControlNetwork>> {
        Ok(Arc::new(ControlNet::load(self, vb)?))
    }
}

/// The picture's way to the width of the network's first convolution: `controlnet_cond_embedding`.
#[derive(Debug)]
pub(super) struct Hint {
    conv_in: Conv2d,
    blocks: Vec<Conv2d>,
    conv_out: Conv2d,
}

impl Hint {
    /// `channels`: of its levels, after each of which but the last it halves. `from`, `to`: those of the picture and of the network.
    pub(super) fn load(channels: &[usize], (from, to): (usize, usize), vb: VarBuilder) -> Result<Self> {
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let mut blocks = Vec::with_capacity(2 * channels.len());
        for pair in channels.windows(2) {
            let block = |index: usize| vb.pp("blocks").pp(index);
            blocks.push(conv2d(pair[0], pair[0], 3, 1, 1, true, block(blocks.len()))?);
            blocks.push(conv2d(pair[0], pair[1], 3, 2, 1, true, block(blocks.len()))?);
        }
        Ok(Self {
            conv_in: conv2d(from, first, 3, 1, 1, true, vb.pp("conv_in"))?,
            blocks,
            conv_out: conv2d(last, to, 3, 1, 1, true, vb.pp("conv_out"))?,
        })
    }

    pub(super) fn forward(&self, picture: &Tensor) -> Result<Tensor> {
        let mut x = silu(&self.conv_in.forward(picture)?)?;
        for block in &self.blocks {
            x = silu(&block.forward(&x)?)?;
        }
        self.conv_out.forward(&x)
    }
}

/// `ControlNetModel`.
#[derive(Debug)]
pub struct ControlNet {
    entrance: Entrance,
    /// None where the network is given what another one has seen.
    hint: Option<Hint>,
    units: Vec<Unit>, // down_blocks, mid_block
    controlnet_down_blocks: Vec<Conv2d>,
    controlnet_mid_block: Conv2d,
    order: ChannelOrder,
}

impl ControlNet {
    /// Loads the network; errors name the configuration's key or the tensor.
    pub fn load(config: &ControlNetConfig, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let widths = (config.conditioning_channels, config.unet.block_out_channels[0]);
        let hint = vb.pp("controlnet_cond_embedding");
        let hint = Hint::load(&config.conditioning_embedding_out_channels, widths, hint)?;
        Ok(Self { hint: Some(hint), ..Self::load_without_hint(config, vb)? })
    }

    /// Loads a network that has no way in for pictures: its hints are made by another one.
    pub fn load_without_hint(config: &ControlNetConfig, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let unet = &config.unet;
        let zero = |channels: usize, vb: VarBuilder| conv2d(channels, channels, 1, 1, 0, true, vb);
        let skips = unet.skips().into_iter().enumerate();
        let skips = skips.map(|(index, channels)| zero(channels, vb.pp("controlnet_down_blocks").pp(index)));
        let deepest = unet.block_out_channels[unet.levels() - 1];
        Ok(Self {
            entrance: Entrance::load(unet, &vb)?,
            hint: None,
            units: (0..Unit::count(unet, false)).map(|index| Unit::load(unet, index, &vb)).collect::<Result<_>>()?,
            controlnet_down_blocks: skips.collect::<Result<_>>()?,
            controlnet_mid_block: zero(deepest, vb.pp("controlnet_mid_block"))?,
            order: config.controlnet_conditioning_channel_order,
        })
    }
}

impl ControlNetwork for ControlNet {
    fn hint(&self, pictures: &Tensor) -> Result<Tensor> {
        let pictures = pictures.to_device(&self.entrance.device)?.to_dtype(self.entrance.dtype)?;
        let pictures = match self.order {
            ChannelOrder::Rgb => pictures.contiguous()?,
            ChannelOrder::Bgr => pictures.index_select(&Tensor::new(&[2u32, 1, 0], pictures.device())?, 1)?,
        };
        match &self.hint {
            Some(hint) => hint.forward(&pictures),
            None => bail!("this control model sees no pictures"),
        }
    }

    fn forward(
        &self,
        rows: &[Row],
        hints: &[Tensor],
        conditioning_scale: f64,
        network: usize,
        hooks: &mut Hooks,
    ) -> Result<Vec<Residuals>> {
        if rows.len() != hints.len() {
            bail!("{} hints for {} rows of the control model", hints.len(), rows.len())
        }
        hooks.begin(rows)?;
        let enter = |(row, hint): (&Row, &Tensor)| {
            let hidden = self.entrance.enter(row)?;
            if hidden.dims() != hint.dims() {
                bail!("a control picture of {:?} for latents of {:?}", hint.dims(), row.latents.dims())
            }
            hidden + hint
        };
        let hidden = rows.iter().zip(hints).map(enter).collect::<Result<Vec<_>>>()?;
        let layers = self.entrance.config.layers_down();
        let mut walk = self.entrance.walk(rows, hidden, hooks, (network, layers))?;
        for unit in &self.units {
            unit.run(&mut walk)?;
        }
        let scaled = |conv: &Conv2d, x: &Tensor| conv.forward(&x.contiguous()?)? * conditioning_scale;
        let residuals = walk.finish()?.into_iter().map(|(mid, skips)| {
            let skips = self.controlnet_down_blocks.iter().zip(&skips).map(|(conv, skip)| scaled(conv, skip));
            Ok(Residuals { skips: skips.collect::<Result<_>>()?, mid: scaled(&self.controlnet_mid_block, &mid)? })
        });
        residuals.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(changes: &str) -> ControlNetConfig {
        let named = if changes.contains("_class_name") { "" } else { r#""_class_name": "ControlNetModel", "# };
        serde_json::from_str(&format!("{{{named}{changes}}}")).unwrap()
    }

    #[test]
    fn the_published_form_is_taken_and_others_are_refused_by_name() {
        let published = r#""_class_name": "ControlNetModel", "attention_head_dim": 8, "cross_attention_dim": 768,
            "conditioning_embedding_out_channels": [16, 32, 96, 256], "global_pool_conditions": false,
            "controlnet_conditioning_channel_order": "rgb", "norm_num_groups": 32, "up_block_types": []"#;
        let config = parse(published);
        config.check().unwrap();
        assert_eq!((config.ratio(), config.unet.layers_down()), (8, 7));
        assert_eq!(config.misfit(&UNetConfig { cross_attention_dim: 768, ..UNetConfig::default() }), None);
        let misfit = config.misfit(&UNetConfig { cross_attention_dim: 1024, ..UNetConfig::default() }).unwrap();
        assert_eq!(misfit, "cross_attention_dim is 768, and the model's UNet has 1024");
        for (changes, named) in [
            (r#""_class_name": "ControlNetXSAdapter""#, "ControlNetXSAdapter"),
            (r#""global_pool_conditions": true"#, "global_pool_conditions"),
            (r#""conditioning_channels": 1"#, "conditioning_channels is 1"),
            (r#""conditioning_embedding_out_channels": []"#, "conditioning_embedding_out_channels"),
            (r#""attention_head_dim": 7"#, "attention_head_dim is 7"),
        ] {
            let error = parse(changes).check().unwrap_err().to_string();
            assert!(error.contains(named) && error.starts_with("control model config: "), "{changes}: {error}");
        }
        let wrong = serde_json::from_str::<ControlNetConfig>(r#"{"controlnet_conditioning_channel_order": "grb"}"#);
        assert!(wrong.unwrap_err().to_string().contains("rgb"));
    }
}
