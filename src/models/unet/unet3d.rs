//! ModelScope's text-to-video UNet (arXiv 2308.06571), after diffusers' `UNet3DConditionModel`: `unet/config.json` of it, and the
//! network, which is that of pictures with layers in time between its own. They run for one frame, too.

use super::config::{CROSS_DOWN, CROSS_UP, DOWN, PerLevel, SampleSize, UP};
use super::{Denoiser, Row, UNet2DConditionModel, UNetConfig};
use crate::attention::Hooks;
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The configuration. Missing keys take diffusers' defaults; [`UNet3DConfig::planar`] refuses what is not computed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct UNet3DConfig {
    #[serde(rename = "_class_name")]
    pub class_name: String,
    pub sample_size: Option<SampleSize>,
    pub in_channels: usize,
    pub out_channels: usize,
    pub down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub act_fn: String,
    pub norm_num_groups: usize,
    pub norm_eps: f64,
    pub cross_attention_dim: usize,
    /// The WIDTH of a head, unlike the key of the same name of a UNet for pictures.
    pub attention_head_dim: usize,
    /// What else stands in the file.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

/// Types of blocks, and those of pictures that they have inside.
const DOWN_TYPES: [(&str, &str); 2] = [("CrossAttnDownBlock3D", CROSS_DOWN), ("DownBlock3D", DOWN)];
const UP_TYPES: [(&str, &str); 2] = [("CrossAttnUpBlock3D", CROSS_UP), ("UpBlock3D", UP)];

/// The widest head that a network may have.
const WIDEST: usize = 1 << 10;

impl Default for UNet3DConfig {
    fn default() -> Self {
        let names = |[cross, plain]: [(&str, &str); 2], plain_first: bool| {
            let mut names = vec![cross.0.to_owned(); 4];
            names[if plain_first { 0 } else { 3 }] = plain.0.to_owned();
            names
        };
        Self {
            class_name: "UNet3DConditionModel".to_owned(),
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            down_block_types: names(DOWN_TYPES, false),
            up_block_types: names(UP_TYPES, true),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: 2,
            act_fn: "silu".to_owned(),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: 1024,
            attention_head_dim: 64,
            others: BTreeMap::new(),
        }
    }
}

impl UNet3DConfig {
    /// The network of pictures that it is between its layers in time, with what is to be known of those.
    ///
    /// # Errors
    /// What this implementation does not compute and sizes no network has, in one line that names the key behind `part`.
    pub fn planar(&self, part: &str) -> Result<UNetConfig> {
        let names = |key: &str, types: &[String], known: [(&str, &str); 2]| {
            let of = |name: &String| match known.iter().find(|(own, _)| own == name) {
                Some((_, inside)) => Ok((*inside).to_owned()),
                None => bail!("{part} config: {key} has {name:?}; supported: {}", known.map(|(own, _)| own).join(", ")),
            };
            types.iter().map(of).collect::<Result<Vec<_>>>()
        };
        let width = self.attention_head_dim;
        if !(1..=WIDEST).contains(&width) {
            bail!(
                "{part} config: attention_head_dim is {width} (the width of a head); it must lie between 1 and {WIDEST}"
            )
        }
        for &channels in &self.block_out_channels {
            if !channels.is_multiple_of(width) {
                bail!(
                    "{part} config: attention_head_dim is {width} (the width of a head), which does not divide {channels} channels"
                )
            }
        }
        let heads = self.block_out_channels.iter().map(|channels| channels / width).collect();
        let planar = UNetConfig {
            class_name: self.class_name.clone(),
            sample_size: self.sample_size.clone(),
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            down_block_types: names("down_block_types", &self.down_block_types, DOWN_TYPES)?,
            up_block_types: names("up_block_types", &self.up_block_types, UP_TYPES)?,
            block_out_channels: self.block_out_channels.clone(),
            layers_per_block: self.layers_per_block,
            act_fn: self.act_fn.clone(),
            norm_num_groups: self.norm_num_groups,
            norm_eps: self.norm_eps,
            cross_attention_dim: self.cross_attention_dim,
            attention_head_dim: PerLevel::Each(heads),
            use_linear_projection: true,
            temporal_head_dim: Some(width),
            others: self.others.clone(),
            ..UNetConfig::default()
        };
        planar.check(part, true)?;
        Ok(planar)
    }
}

/// `UNet3DConditionModel`.
#[derive(Debug)]
pub struct UNet3DConditionModel(UNet2DConditionModel);

impl UNet3DConditionModel {
    /// As [`UNet2DConditionModel::load`].
    pub fn load(config: &UNet3DConfig, vb: VarBuilder<'static>, streamed: bool) -> Result<Self> {
        UNet2DConditionModel::load(&config.planar("unet")?, vb, streamed).map(Self)
    }
}

impl Denoiser for UNet3DConditionModel {
    fn forward(&self, rows: &[Row], hooks: &mut Hooks) -> Result<Vec<Tensor>> {
        self.0.forward(rows, hooks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(changes: &str) -> UNet3DConfig {
        serde_json::from_str(&format!("{{{changes}}}")).unwrap()
    }

    #[test]
    fn the_published_form_is_taken() {
        let published = r#""_class_name": "UNet3DConditionModel", "_diffusers_version": "0.15.0.dev0", "act_fn": "silu",
            "attention_head_dim": 64, "cross_attention_dim": 1024, "downsample_padding": 1, "mid_block_scale_factor": 1,
            "norm_eps": 1e-05, "norm_num_groups": 32, "sample_size": 32"#;
        for (text, sides) in [(published, (32, 32)), (r#""sample_size": [40, 72]"#, (40, 72))] {
            let planar = parse(text).planar("unet").unwrap();
            assert_eq!(planar.sample_sides(), sides);
            assert_eq!((planar.layers(), planar.temporal_layers(), planar.cross_attention_dim), (16, 34, 1024));
            let heads = [0, 1, 2, 3].map(|level| planar.attention_head_dim.at(level));
            assert_eq!((heads, planar.use_linear_projection), ([5, 10, 20, 20], true));
        }
        assert!(!UNetConfig::default().is_video());
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (changes, named) in [
            (
                r#""attention_head_dim": 48"#,
                "attention_head_dim is 48 (the width of a head), which does not divide 320",
            ),
            (r#""attention_head_dim": 0"#, "attention_head_dim is 0"),
            (r#""attention_head_dim": 4096"#, "attention_head_dim is 4096"),
            (r#""num_attention_heads": 8"#, "num_attention_heads is 8"),
            (r#""time_cond_proj_dim": 256"#, "time_cond_proj_dim is 256"),
            (r#""mid_block_scale_factor": 2"#, "mid_block_scale_factor is 2"),
            (r#""downsample_padding": 0"#, "downsample_padding is 0"),
            (r#""class_embed_type": "timestep""#, "class_embed_type"),
            (r#""down_block_types": ["CrossAttnDownBlock2D"]"#, "supported: CrossAttnDownBlock3D, DownBlock3D"),
            (r#""up_block_types": ["UpBlockMotion"]"#, "up_block_types has \"UpBlockMotion\""),
            (r#""down_block_types": ["DownBlock3D"]"#, "down_block_types has 1 entries"),
            (r#""act_fn": "gelu""#, "act_fn"),
            (r#""norm_num_groups": 7"#, "multiple of norm_num_groups 7"),
        ] {
            let error = parse(changes).planar("unet").unwrap_err().to_string();
            assert!(error.contains(named) && error.starts_with("unet config: "), "{changes}: {error}");
        }
        for wrong in [r#""attention_head_dim": [64, 64, 64, 64]"#, r#""norm_num_groups": null"#] {
            assert!(serde_json::from_str::<UNet3DConfig>(&format!("{{{wrong}}}")).is_err(), "{wrong}");
        }
    }
}
