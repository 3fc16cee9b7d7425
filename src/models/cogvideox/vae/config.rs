//! `vae/config.json` of `AutoencoderKLCogVideoX`: its keys, diffusers' defaults, and what of it is refused.

use crate::models::autoencoder::{DecodeMemory, DecodeOptions, TileOptions};
use crate::models::tiling::Grid;
use candle_core::{Result, bail};
use serde::Deserialize;
use std::ops::Range;

/// The configuration of the autoencoder. Missing keys take diffusers' defaults, unknown keys are ignored;
/// [`VaeConfig::validate`] refuses values that this implementation would have to guess about.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Channels of the video that is encoded.
    pub in_channels: usize,
    /// Channels of the video that is decoded.
    pub out_channels: usize,
    pub down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
    pub block_out_channels: Vec<usize>,
    pub latent_channels: usize,
    pub layers_per_block: usize,
    pub act_fn: String,
    /// Epsilon of the encoder's block norms; every other norm has 1e-6.
    pub norm_eps: f64,
    pub norm_num_groups: usize,
    pub temporal_compression_ratio: f64,
    /// Height in pixels the model was made for; half of it is the default tile.
    pub sample_height: usize,
    pub sample_width: usize,
    /// The denoiser sees `latent * scaling_factor`.
    pub scaling_factor: f64,
    pub shift_factor: Option<f64>,
    pub latents_mean: Option<Vec<f64>>,
    pub latents_std: Option<Vec<f64>>,
    pub use_quant_conv: bool,
    pub use_post_quant_conv: bool,
    /// Image conditions are divided by the scaling factor instead of multiplied (CogVideoX 1.5 image to video).
    pub invert_scale_latents: bool,
    /// Not a key of diffusers' class, whose convolutions always pad time with the first frame and space with zeros.
    pub pad_mode: Option<String>,
}

const CLASS: &str = "AutoencoderKLCogVideoX";
const DOWN_BLOCK: &str = "CogVideoXDownBlock3D";
const UP_BLOCK: &str = "CogVideoXUpBlock3D";

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            class_name: String::new(),
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![DOWN_BLOCK.to_string(); 4],
            up_block_types: vec![UP_BLOCK.to_string(); 4],
            block_out_channels: vec![128, 256, 256, 512],
            latent_channels: 16,
            layers_per_block: 3,
            act_fn: "silu".to_string(),
            norm_eps: 1e-6,
            norm_num_groups: 32,
            temporal_compression_ratio: 4.0,
            sample_height: 480,
            sample_width: 720,
            scaling_factor: 1.15258426,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            use_quant_conv: false,
            use_post_quant_conv: false,
            invert_scale_latents: false,
            pad_mode: None,
        }
    }
}

impl VaeConfig {
    /// Refuses, in one line naming the key, what this implementation does not compute.
    pub fn validate(&self) -> Result<()> {
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
        for (key, count) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
            ("layers_per_block", self.layers_per_block),
            ("norm_num_groups", self.norm_num_groups),
        ] {
            if !(1..=1 << 16).contains(&count) {
                bail!("vae config: {key} is {count}; it must lie between 1 and 65536")
            }
        }
        for &channels in &self.block_out_channels {
            if channels == 0 || !channels.is_multiple_of(self.norm_num_groups) || channels > 1 << 16 {
                bail!(
                    "vae config: block_out_channels has {channels}; it must be a multiple of norm_num_groups {} up to 65536",
                    self.norm_num_groups
                )
            }
        }
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            bail!("vae config: act_fn is {:?}; only silu (also called swish) is supported", self.act_fn)
        }
        if let Some(mode) = self.pad_mode.as_deref().filter(|mode| *mode != "first") {
            bail!("vae config: pad_mode is {mode:?}; only first is supported")
        }
        let ratio = self.temporal_compression_ratio;
        if !(0..levels).any(|level| ratio == f64::from(1 << level)) {
            bail!(
                "vae config: temporal_compression_ratio is {ratio}; with {levels} blocks it must be a power of two up to {}",
                1 << (levels - 1)
            )
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            bail!("vae config: norm_eps is {}; it must lie between 0 and 1", self.norm_eps)
        }
        if !(self.scaling_factor.is_finite() && self.scaling_factor != 0.0) {
            bail!("vae config: scaling_factor is {}; it must be a finite number other than 0", self.scaling_factor)
        }
        if self.shift_factor.is_some_and(|shift| shift != 0.0)
            || self.latents_mean.is_some()
            || self.latents_std.is_some()
        {
            bail!(
                "vae config: shift_factor, latents_mean and latents_std are not supported; CogVideoX has none of them"
            )
        }
        if self.use_quant_conv && self.out_channels != self.latent_channels {
            // diffusers sizes both by out_channels, so that they fit the latent only if it has as many channels
            bail!("vae config: use_quant_conv needs latent_channels equal to out_channels")
        }
        if self.use_post_quant_conv && self.out_channels != self.latent_channels {
            bail!("vae config: use_post_quant_conv needs latent_channels equal to out_channels")
        }
        Ok(())
    }

    /// Pixels per latent cell, in height and in width.
    pub fn spatial_ratio(&self) -> usize {
        1 << (self.block_out_channels.len().max(1) - 1)
    }

    /// Frames per latent frame (the first latent frame stands for one).
    pub fn temporal_ratio(&self) -> usize {
        self.temporal_compression_ratio as usize
    }

    /// The tiles where nobody asks for others, diffusers' defaults: half the size the model was made for, overlapping by a sixth
    /// in height and a fifth in width.
    pub fn tile(&self) -> TileOptions {
        TileOptions {
            sample_height: self.sample_height / 2,
            sample_width: self.sample_width / 2,
            overlap_factor_h: 1.0 / 6.0,
            overlap_factor_w: 1.0 / 5.0,
        }
    }

    /// What decoding so many latent frames of `height` by `width` cells needs besides the weights, known before they are
    /// loaded. The configuration must be valid; errors are those of impossible tiles.
    pub fn memory(
        &self,
        options: &DecodeOptions,
        latent_frames: usize,
        height: usize,
        width: usize,
    ) -> Result<DecodeMemory> {
        let chunks: Vec<usize> = options.chunks(latent_frames).iter().take(2).map(Range::len).collect();
        let Some(grid) = self.grid(options, height, width)? else {
            return Ok(self.tile_memory(&chunks, height, width));
        };
        let tiles = grid.sizes().map(|(height, width)| self.tile_memory(&chunks, height, width));
        Ok(tiles.fold(DecodeMemory { caches: 0, map: 0, alive: 0 }, |sum, tile| DecodeMemory {
            caches: sum.caches.saturating_add(tile.caches),
            map: sum.map.max(tile.map),
            alive: sum.alive.max(tile.alive),
        }))
    }

    /// The tiles of latents of this size; none where they are decoded whole.
    pub(super) fn grid(&self, options: &DecodeOptions, height: usize, width: usize) -> Result<Option<Grid>> {
        match &options.tile {
            Some(tile) => Grid::new(tile, self.spatial_ratio(), height, width),
            None => Ok(None),
        }
    }

    /// How many of the blocks halve or double the number of frames.
    pub(super) fn temporal_levels(&self) -> usize {
        self.temporal_ratio().max(1).ilog2() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(changes: &str) -> VaeConfig {
        let text = format!(r#"{{"_class_name": "AutoencoderKLCogVideoX", "_diffusers_version": "0.42.1"{changes}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn defaults_are_those_of_the_published_models() {
        let config = parse("");
        config.validate().unwrap();
        assert_eq!((config.spatial_ratio(), config.temporal_ratio(), config.temporal_levels()), (8, 4, 2));
        let config = parse(r#", "temporal_compression_ratio": 8, "pad_mode": "first", "act_fn": "swish""#);
        config.validate().unwrap();
        assert_eq!((config.temporal_ratio(), config.temporal_levels()), (8, 3));
    }

    #[test]
    fn tiles_are_those_of_the_reference() {
        let (tile, half) =
            (parse("").tile(), TileOptions { sample_height: 240, sample_width: 360, ..parse("").tile() });
        assert_eq!((tile.overlap_factor_h, tile.overlap_factor_w), (1.0 / 6.0, 0.2));
        assert_eq!(tile, half);
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (changes, named) in [
            (r#", "act_fn": "relu""#, "act_fn is \"relu\""),
            (r#", "pad_mode": "replicate""#, "pad_mode is \"replicate\""),
            (r#", "temporal_compression_ratio": 3"#, "temporal_compression_ratio is 3"),
            (r#", "temporal_compression_ratio": 16"#, "temporal_compression_ratio is 16"),
            (r#", "block_out_channels": []"#, "block_out_channels has 0 entries"),
            (r#", "block_out_channels": [128, 256, 512]"#, "down_block_types has 4 entries"),
            (r#", "block_out_channels": [128, 256, 256, 500]"#, "block_out_channels has 500"),
            (r#", "norm_num_groups": 0"#, "norm_num_groups is 0"),
            (r#", "scaling_factor": 0"#, "scaling_factor is 0"),
            (r#", "shift_factor": 0.1"#, "shift_factor"),
            (r#", "use_post_quant_conv": true"#, "use_post_quant_conv"),
            (r#", "up_block_types": ["UpDecoderBlock2D"]"#, "up_block_types has \"UpDecoderBlock2D\""),
        ] {
            let error = parse(changes).validate().unwrap_err().to_string();
            assert!(error.contains(named), "{changes}: {error}");
        }
        let other: VaeConfig = serde_json::from_str(r#"{"_class_name": "AutoencoderKLWan"}"#).unwrap();
        assert!(other.validate().unwrap_err().to_string().contains("AutoencoderKLWan"));
    }
}
