//! `vae/config.json` of `AutoencoderKL`: its keys, diffusers' defaults, what of it is refused, and what a decode takes.

use crate::models::architecture::{Kinds, WIDE};
use crate::models::autoencoder::{DecodeMemory, DecodeOptions, TileOptions};
use crate::models::tiling::Grid;
use candle_core::{Result, bail};
use serde::Deserialize;

/// The configuration of the autoencoder. Missing keys take diffusers' defaults; [`VaeConfig::check`] refuses what is not computed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    #[serde(rename = "_class_name")]
    pub class_name: String,
    pub in_channels: usize,
    pub out_channels: usize,
    pub down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub act_fn: String,
    pub latent_channels: usize,
    pub norm_num_groups: usize,
    /// Side in pixels the model was made for, and of the default tile.
    pub sample_size: usize,
    /// The denoiser sees `(latent - shift_factor) * scaling_factor`.
    pub scaling_factor: f64,
    pub shift_factor: Option<f64>,
    pub latents_mean: Option<Vec<f64>>,
    pub latents_std: Option<Vec<f64>>,
    pub use_quant_conv: bool,
    pub use_post_quant_conv: bool,
    pub mid_block_add_attention: bool,
}

const CLASS: &str = "AutoencoderKL";
const DOWN_BLOCK: &str = "DownEncoderBlock2D";
const UP_BLOCK: &str = "UpDecoderBlock2D";

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            class_name: CLASS.to_owned(),
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![DOWN_BLOCK.to_owned()],
            up_block_types: vec![UP_BLOCK.to_owned()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".to_owned(),
            latent_channels: 4,
            norm_num_groups: 32,
            sample_size: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

impl VaeConfig {
    /// Refuses, in one line that names the key, what this implementation does not compute, and sizes no such network has.
    pub fn check(&self) -> Result<()> {
        if self.class_name != CLASS {
            bail!("vae config: _class_name is {:?}; only {CLASS} is supported", self.class_name)
        }
        let levels = self.block_out_channels.len();
        if !(1..=8).contains(&levels) {
            bail!("vae config: block_out_channels has {levels} entries; 1 to 8 are supported")
        }
        for (key, types, known) in [
            ("down_block_types", &self.down_block_types, DOWN_BLOCK),
            ("up_block_types", &self.up_block_types, UP_BLOCK),
        ] {
            if let Some(other) = types.iter().find(|name| *name != known) {
                bail!("vae config: {key} has {other:?}; only {known} is supported")
            }
            if types.len() != levels {
                bail!("vae config: {key} has {} entries, block_out_channels has {levels}", types.len())
            }
        }
        for (key, value, most) in [
            ("latent_channels", self.latent_channels, 1 << 10),
            ("layers_per_block", self.layers_per_block, 1 << 6),
            ("norm_num_groups", self.norm_num_groups, 1 << 12),
            ("sample_size", self.sample_size, 1 << 16),
        ] {
            if !(1..=most).contains(&value) {
                bail!("vae config: {key} is {value}; it must lie between 1 and {most}")
            }
        }
        for &channels in &self.block_out_channels {
            if channels == 0 || !channels.is_multiple_of(self.norm_num_groups) || channels > 1 << 14 {
                bail!(
                    "vae config: block_out_channels has {channels}; it must be a multiple of norm_num_groups {} up to 16384",
                    self.norm_num_groups
                )
            }
        }
        if self.in_channels != 3 || self.out_channels != 3 {
            bail!("vae config: in_channels is {}, out_channels {}; frames have 3", self.in_channels, self.out_channels)
        }
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            bail!("vae config: act_fn is {:?}; only silu (also called swish) is supported", self.act_fn)
        }
        if !(self.scaling_factor.is_finite() && self.scaling_factor != 0.0) {
            bail!("vae config: scaling_factor is {}; it must be a finite number other than 0", self.scaling_factor)
        }
        if !self.shift().is_finite() {
            bail!("vae config: shift_factor is {}; it must be a finite number", self.shift())
        }
        if self.latents_mean.is_some() || self.latents_std.is_some() {
            bail!("vae config: latents_mean and latents_std are not supported")
        }
        Ok(())
    }

    /// What is taken off the encoder's latents before they are scaled.
    pub fn shift(&self) -> f64 {
        self.shift_factor.unwrap_or(0.0)
    }

    /// Pixels of a latent cell, in height and in width.
    pub fn spatial_ratio(&self) -> usize {
        1 << (self.block_out_channels.len().max(1) - 1)
    }

    /// The tiles where nobody asks for others, diffusers' defaults.
    pub fn tile(&self) -> TileOptions {
        TileOptions {
            sample_height: self.sample_size,
            sample_width: self.sample_size,
            overlap_factor_h: 0.25,
            overlap_factor_w: 0.25,
        }
    }

    /// The tiles of latents of this size; none where they are worked on whole.
    pub(super) fn grid(&self, tile: Option<&TileOptions>, height: usize, width: usize) -> Result<Option<Grid>> {
        tile.map_or(Ok(None), |tile| Grid::new(tile, self.spatial_ratio(), height, width))
    }

    /// Multiply-adds of the decoder for a frame of so many cells: its 3x3 convolutions at the sizes of its blocks.
    pub fn decoding_work(&self, cells: usize) -> Kinds {
        let mut kinds = Kinds::default();
        let mut cells = cells as f64;
        let mut add = |from: usize, to: usize, times: f64| {
            let work = times * 9.0 * (from * to) as f64;
            if from.max(to) >= WIDE.1 { kinds.wide += work } else { kinds.small += work }
        };
        let deepest = self.block_out_channels.last().copied().unwrap_or(0);
        add(self.latent_channels, deepest, cells);
        add(deepest, deepest, 4.0 * cells);
        let mut before = deepest;
        for (block, &channels) in self.block_out_channels.iter().rev().enumerate() {
            add(before, channels, cells);
            add(channels, channels, (2 * self.layers_per_block + 1) as f64 * cells);
            if block + 1 < self.block_out_channels.len() {
                cells *= 4.0;
                add(channels, channels, cells);
            }
            before = channels;
        }
        add(before, self.out_channels, cells);
        kinds
    }

    /// What decoding latents of `height` by `width` cells needs besides the weights, in numbers of values: one frame, or one
    /// of its tiles, is at work at a time. Errors are those of impossible tiles.
    pub fn memory(&self, options: &DecodeOptions, height: usize, width: usize) -> Result<DecodeMemory> {
        let tiles = match self.grid(options.tile.as_ref(), height, width)? {
            Some(grid) => grid.sizes().collect(),
            None => vec![(height, width)],
        };
        let map = tiles.into_iter().map(|(height, width)| self.largest_map(height, width)).max().unwrap_or(0);
        // a residual block holds its input, the normed map, and what the convolution makes
        Ok(DecodeMemory { caches: 0, map, alive: map.saturating_mul(4) })
    }

    fn largest_map(&self, height: usize, width: usize) -> usize {
        let mut cells = height.saturating_mul(width);
        let mut before = self.block_out_channels.last().copied().unwrap_or(0);
        let mut largest = 0;
        for &channels in self.block_out_channels.iter().rev() {
            largest = largest.max(cells.saturating_mul(before.max(channels)));
            (before, cells) = (channels, cells.saturating_mul(4));
        }
        largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(changes: &str) -> VaeConfig {
        let levels = r#""block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
            "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]"#;
        let mut config: serde_json::Value = serde_json::from_str(&format!("{{{levels}}}")).unwrap();
        let changes: serde_json::Value = serde_json::from_str(&format!("{{{changes}}}")).unwrap();
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        serde_json::from_value(config).unwrap()
    }

    #[test]
    fn the_published_form_is_taken() {
        let config = parse(r#""layers_per_block": 2, "sample_size": 512, "_class_name": "AutoencoderKL""#);
        config.check().unwrap();
        assert_eq!((config.spatial_ratio(), config.scaling_factor), (8, 0.18215));
        // 256 channels at the full size are the largest map
        assert_eq!(config.memory(&DecodeOptions::default(), 64, 64).unwrap().map, 256 * 512 * 512);
        let tile = DecodeOptions { tile: Some(config.tile()), ..DecodeOptions::default() };
        assert_eq!(config.memory(&tile, 128, 64).unwrap(), config.memory(&DecodeOptions::default(), 64, 64).unwrap());
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (changes, named) in [
            (r#""act_fn": "relu""#, "act_fn is \"relu\""),
            (r#""block_out_channels": []"#, "block_out_channels has 0 entries"),
            (r#""block_out_channels": [128, 256, 512]"#, "down_block_types has 4 entries"),
            (r#""block_out_channels": [128, 256, 512, 500]"#, "block_out_channels has 500"),
            (r#""norm_num_groups": 0"#, "norm_num_groups is 0"),
            (r#""layers_per_block": 100000"#, "layers_per_block is 100000"),
            (r#""scaling_factor": 0"#, "scaling_factor is 0"),
            (r#""latents_mean": [0.1]"#, "latents_mean"),
            (r#""latent_channels": 0"#, "latent_channels is 0"),
            (r#""out_channels": 4"#, "out_channels 4"),
            (r#""up_block_types": ["AttnUpDecoderBlock2D"]"#, "up_block_types has \"AttnUpDecoderBlock2D\""),
            (r#""_class_name": "AutoencoderTiny""#, "AutoencoderTiny"),
        ] {
            let error = parse(changes).check().unwrap_err().to_string();
            assert!(error.contains(named), "{changes}: {error}");
        }
    }
}
