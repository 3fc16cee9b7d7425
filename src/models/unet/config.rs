//! `unet/config.json` of `UNet2DConditionModel`, and what a ControlNet's `config.json` shares with it: keys, diffusers'
//! defaults, and what of it is refused.

use candle_core::{Result, bail};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// One value for all levels, or one a level.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "a whole number, or a list of them")]
pub enum PerLevel {
    One(usize),
    Each(Vec<usize>),
}

impl PerLevel {
    /// That of a level.
    pub fn at(&self, level: usize) -> usize {
        match self {
            Self::One(value) => *value,
            Self::Each(values) => values.get(level).copied().unwrap_or(0),
        }
    }

    fn fits(&self, levels: usize) -> bool {
        !matches!(self, Self::Each(values) if values.len() != levels)
    }
}

/// Sides that a model was made for, in latent cells: one, or height and width.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "a whole number, or height and width")]
pub enum SampleSize {
    Square(usize),
    Sides([usize; 2]),
}

impl SampleSize {
    /// Height and width.
    pub fn sides(&self) -> (usize, usize) {
        match *self {
            Self::Square(side) => (side, side),
            Self::Sides([height, width]) => (height, width),
        }
    }
}

/// The configuration. Missing keys take diffusers' defaults; [`UNetConfig::check`] refuses what is not computed, keys that it
/// does not know included where they are not at the value that switches their feature off.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct UNetConfig {
    #[serde(rename = "_class_name")]
    pub class_name: String,
    pub sample_size: Option<SampleSize>,
    pub in_channels: usize,
    pub out_channels: usize,
    pub center_input_sample: bool,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f64,
    pub down_block_types: Vec<String>,
    pub mid_block_type: Option<String>,
    pub up_block_types: Vec<String>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub act_fn: String,
    pub norm_num_groups: usize,
    pub norm_eps: f64,
    pub cross_attention_dim: usize,
    /// The NUMBER of heads, for all its name.
    pub attention_head_dim: PerLevel,
    pub use_linear_projection: bool,
    /// Width of a head of the layers in time; none in a network of pictures. No key of this file: [`super::UNet3DConfig`] has it.
    #[serde(skip)]
    pub temporal_head_dim: Option<usize>,
    /// What else stands in the file.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

pub(super) const CROSS_DOWN: &str = "CrossAttnDownBlock2D";
pub(super) const DOWN: &str = "DownBlock2D";
pub(super) const CROSS_UP: &str = "CrossAttnUpBlock2D";
pub(super) const UP: &str = "UpBlock2D";
const MID: &str = "UNetMidBlock2DCrossAttn";

impl Default for UNetConfig {
    fn default() -> Self {
        let names = |names: [&str; 4]| names.map(str::to_owned).to_vec();
        Self {
            class_name: "UNet2DConditionModel".to_owned(),
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            center_input_sample: false,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: names([CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, DOWN]),
            mid_block_type: Some(MID.to_owned()),
            up_block_types: names([UP, CROSS_UP, CROSS_UP, CROSS_UP]),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: 2,
            act_fn: "silu".to_owned(),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: 1280,
            attention_head_dim: PerLevel::One(8),
            use_linear_projection: false,
            temporal_head_dim: None,
            others: BTreeMap::new(),
        }
    }
}

/// Keys whose feature is not built: each with the values, beside null, that leave it off.
const FEATURES: [(&str, &[&str]); 30] = [
    ("addition_embed_type", &[]),
    ("addition_embed_type_num_heads", &["64"]),
    ("addition_time_embed_dim", &[]),
    ("attention_type", &["\"default\""]),
    ("class_embed_type", &[]),
    ("class_embeddings_concat", &["false"]),
    ("conv_in_kernel", &["3"]),
    ("conv_out_kernel", &["3"]),
    ("cross_attention_norm", &[]),
    ("downsample_padding", &["1"]),
    ("dual_cross_attention", &["false"]),
    ("encoder_hid_dim", &[]),
    ("encoder_hid_dim_type", &[]),
    ("global_pool_conditions", &["false"]),
    ("mid_block_only_cross_attention", &["false"]),
    ("mid_block_scale_factor", &["1", "1.0"]),
    ("num_attention_heads", &[]),
    ("num_class_embeds", &[]),
    ("only_cross_attention", &["false"]),
    ("projection_class_embeddings_input_dim", &[]),
    ("resnet_out_scale_factor", &["1", "1.0"]),
    ("resnet_skip_time_act", &["false"]),
    ("resnet_time_scale_shift", &["\"default\""]),
    ("reverse_transformer_layers_per_block", &[]),
    ("time_cond_proj_dim", &[]),
    ("time_embedding_act_fn", &[]),
    ("time_embedding_dim", &[]),
    ("time_embedding_type", &["\"positional\""]),
    ("timestep_post_act", &[]),
    ("transformer_layers_per_block", &["1"]),
];

impl UNetConfig {
    /// Refuses, in one line that names the key, what this implementation does not compute, and sizes no network has. `part`
    /// stands before it. A network that ends in the middle has no way up.
    pub fn check(&self, part: &str, has_up: bool) -> Result<()> {
        for (key, off) in FEATURES {
            let value = self.others.get(key).filter(|value| !value.is_null());
            if let Some(value) = value.map(Value::to_string).filter(|value| !off.contains(&value.as_str())) {
                bail!("{part} config: {key} is {value}, which is not supported")
            }
        }
        let levels = self.block_out_channels.len();
        if !(1..=8).contains(&levels) {
            bail!("{part} config: block_out_channels has {levels} entries; 1 to 8 are supported")
        }
        let (down, up) = (&self.down_block_types, &self.up_block_types);
        for (key, types, known) in
            [("down_block_types", down, [CROSS_DOWN, DOWN]), ("up_block_types", up, [CROSS_UP, UP])]
        {
            if key == "up_block_types" && !has_up {
                continue;
            }
            if let Some(other) = types.iter().find(|name| !known.contains(&name.as_str())) {
                bail!("{part} config: {key} has {other:?}; supported: {}", known.join(", "))
            }
            if types.len() != levels {
                bail!("{part} config: {key} has {} entries, block_out_channels has {levels}", types.len())
            }
        }
        if self.mid_block_type.as_deref() != Some(MID) {
            let found = self.mid_block_type.as_deref().unwrap_or("null");
            bail!("{part} config: mid_block_type is {found}; only {MID} is supported")
        }
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            bail!("{part} config: act_fn is {:?}; only silu (also called swish) is supported", self.act_fn)
        }
        if self.center_input_sample {
            bail!("{part} config: center_input_sample is true, which is not supported")
        }
        self.check_sizes(part)
    }

    fn check_sizes(&self, part: &str) -> Result<()> {
        let (height, width) = self.sample_sides();
        for (key, value, most) in [
            ("in_channels", self.in_channels, 1 << 10),
            ("out_channels", self.out_channels, 1 << 10),
            ("layers_per_block", self.layers_per_block, 1 << 6),
            ("norm_num_groups", self.norm_num_groups, 1 << 12),
            ("cross_attention_dim", self.cross_attention_dim, 1 << 16),
            ("sample_size", height, 1 << 12),
            ("sample_size", width, 1 << 12),
        ] {
            if !(1..=most).contains(&value) {
                bail!("{part} config: {key} is {value}; it must lie between 1 and {most}")
            }
        }
        if !self.attention_head_dim.fits(self.block_out_channels.len()) {
            bail!("{part} config: attention_head_dim has not as many entries as block_out_channels")
        }
        for (level, &channels) in self.block_out_channels.iter().enumerate() {
            let (groups, heads) = (self.norm_num_groups, self.attention_head_dim.at(level));
            if channels == 0 || channels > 1 << 14 || !channels.is_multiple_of(groups) {
                bail!(
                    "{part} config: block_out_channels has {channels}; it must be a multiple of norm_num_groups {groups} up to \
                     16384"
                )
            }
            if heads == 0 || !channels.is_multiple_of(heads) {
                bail!(
                    "{part} config: attention_head_dim is {heads} (the number of heads), which does not divide {channels} \
                     channels"
                )
            }
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0 && self.freq_shift.is_finite()) {
            bail!("{part} config: norm_eps {} or freq_shift {} is out of range", self.norm_eps, self.freq_shift)
        }
        Ok(())
    }

    /// Sides of the latents the network was made for; diffusers' pipelines take 64 where the file does not say.
    pub fn sample_sides(&self) -> (usize, usize) {
        self.sample_size.as_ref().map_or((64, 64), SampleSize::sides)
    }

    /// Levels of the network.
    pub fn levels(&self) -> usize {
        self.block_out_channels.len()
    }

    /// Width of the time's embedding.
    pub fn time_width(&self) -> usize {
        4 * self.block_out_channels.first().copied().unwrap_or(0)
    }

    /// Whether it has layers in time.
    pub fn is_video(&self) -> bool {
        self.temporal_head_dim.is_some()
    }

    /// Number and width of the heads in time of a level, where there are any.
    pub fn temporal_heads(&self, level: usize) -> Option<(usize, usize)> {
        let width = self.temporal_head_dim?;
        Some((self.block_out_channels[level] / width, width))
    }

    /// Layers of attention in time: two a place, the first place before all others.
    pub fn temporal_layers(&self) -> usize {
        if self.is_video() { 2 * (self.layers() + 1) } else { 0 }
    }

    /// Whether a level of the way down has attention.
    pub fn attends_down(&self, level: usize) -> bool {
        self.down_block_types.get(level).is_some_and(|name| name == CROSS_DOWN)
    }

    /// Whether a block of the way up has attention, counted from the deepest.
    pub fn attends_up(&self, block: usize) -> bool {
        self.up_block_types.get(block).is_some_and(|name| name == CROSS_UP)
    }

    /// Attention layers on the way down and in the middle.
    pub fn layers_down(&self) -> usize {
        let attending = (0..self.levels()).filter(|&level| self.attends_down(level)).count();
        attending * self.layers_per_block + 1
    }

    /// Attention layers of the whole network, of each of its two kinds.
    pub fn layers(&self) -> usize {
        let attending = (0..self.levels()).filter(|&block| self.attends_up(block)).count();
        self.layers_down() + attending * (self.layers_per_block + 1)
    }

    /// Where the weights of each place of attention begin, in the order in which they run.
    pub fn attention_paths(&self) -> Vec<String> {
        let places = |blocks: &str, block: usize, count: usize| -> Vec<String> {
            (0..count).map(|layer| format!("{blocks}.{block}.attentions.{layer}")).collect()
        };
        let levels = 0..self.levels();
        let down = levels.clone().filter(|&level| self.attends_down(level));
        let down = down.flat_map(|level| places("down_blocks", level, self.layers_per_block));
        let up = levels.filter(|&block| self.attends_up(block));
        let up = up.flat_map(|block| places("up_blocks", block, self.layers_per_block + 1));
        down.chain(["mid_block.attentions.0".to_owned()]).chain(up).collect()
    }

    /// Channels that enter the last layer of the way up, without what the way down has kept.
    pub fn deep_channels(&self) -> usize {
        if self.layers_per_block > 0 {
            self.block_out_channels[0]
        } else {
            self.block_out_channels[1.min(self.levels() - 1)]
        }
    }

    /// Channels of what the way down keeps, in its order: after the first convolution, each layer, each halving.
    pub fn skips(&self) -> Vec<usize> {
        let mut skips = vec![self.block_out_channels[0]];
        for (level, &channels) in self.block_out_channels.iter().enumerate() {
            let halving = usize::from(level + 1 < self.levels());
            skips.extend(std::iter::repeat_n(channels, self.layers_per_block + halving));
        }
        skips
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(changes: &str) -> UNetConfig {
        serde_json::from_str(&format!("{{{changes}}}")).unwrap()
    }

    #[test]
    fn the_published_forms_are_taken() {
        let first = r#""_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "cross_attention_dim": 768,
            "attention_head_dim": 8, "downsample_padding": 1, "mid_block_scale_factor": 1, "sample_size": 64"#;
        let second = r#""attention_head_dim": [5, 10, 20, 20], "use_linear_projection": true, "upcast_attention": true,
            "cross_attention_dim": 1024, "only_cross_attention": false, "sample_size": 96, "dual_cross_attention": false"#;
        for (text, sides) in [(first, (64, 64)), (second, (96, 96)), (r#""sample_size": [40, 72]"#, (40, 72))] {
            let config = parse(text);
            config.check("unet", true).unwrap();
            assert_eq!((config.layers_down(), config.layers(), config.sample_sides()), (7, 16, sides));
            let skips = [320, 320, 320, 320, 640, 640, 640, 1280, 1280, 1280, 1280, 1280];
            assert_eq!(config.skips(), skips);
        }
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (changes, named) in [
            (r#""class_embed_type": "timestep""#, "class_embed_type is \"timestep\""),
            (r#""addition_embed_type": "text_time""#, "addition_embed_type"),
            (r#""time_cond_proj_dim": 256"#, "time_cond_proj_dim is 256"),
            (r#""encoder_hid_dim_type": "ip_image_proj""#, "encoder_hid_dim_type"),
            (r#""only_cross_attention": [true, true, true, false]"#, "only_cross_attention"),
            (r#""transformer_layers_per_block": [1, 2, 10]"#, "transformer_layers_per_block"),
            (r#""resnet_time_scale_shift": "scale_shift""#, "resnet_time_scale_shift"),
            (r#""num_attention_heads": 8"#, "num_attention_heads is 8"),
            (r#""conv_in_kernel": 1"#, "conv_in_kernel"),
            (r#""mid_block_type": null"#, "mid_block_type is null"),
            (r#""mid_block_type": "UNetMidBlock2DSimpleCrossAttn""#, "mid_block_type"),
            (r#""down_block_types": ["DownBlock2D"]"#, "down_block_types has 1 entries"),
            (r#""up_block_types": ["SimpleCrossAttnUpBlock2D"]"#, "up_block_types has \"Simple"),
            (r#""act_fn": "gelu""#, "act_fn"),
            (r#""center_input_sample": true"#, "center_input_sample"),
            (r#""block_out_channels": [320, 640, 1280, 1290]"#, "block_out_channels has 1290"),
            (r#""attention_head_dim": 7"#, "attention_head_dim is 7"),
            (r#""attention_head_dim": [8, 8]"#, "attention_head_dim has not"),
            (r#""attention_head_dim": 0"#, "attention_head_dim is 0"),
            (r#""norm_num_groups": 0"#, "norm_num_groups is 0"),
            (r#""layers_per_block": 1000"#, "layers_per_block is 1000"),
            (r#""sample_size": 0"#, "sample_size is 0"),
            (r#""norm_eps": 2.0"#, "norm_eps 2"),
        ] {
            let error = parse(changes).check("unet", true).unwrap_err().to_string();
            assert!(error.contains(named) && error.starts_with("unet config: "), "{changes}: {error}");
        }
    }
}
