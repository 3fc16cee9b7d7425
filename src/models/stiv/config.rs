//! `transformer/config.json` of `StivTransformer3DModel`: its keys, their defaults, and what of it is refused.

use candle_core::{Result, bail};
use serde::Deserialize;

/// A number that the network is told beside the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Micro {
    /// Height of the output in pixels.
    H,
    W,
    CropTop,
    CropLeft,
    /// Frames of the original video from one frame to the next.
    Stride,
    /// Frames of video in the clip.
    Frames,
}

/// What the network's output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    DataMinusNoise,
    NoiseMinusData,
}

/// Which end of time is 0 to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum TimeDirection {
    #[serde(rename = "noise_at_0")]
    Noise,
    #[serde(rename = "data_at_0")]
    Data,
}

/// What time given frames are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CondTime {
    /// That of all others.
    Shared,
    /// That of data.
    Clean,
}

/// The configuration. Keys without a default here must be there; unknown ones are not looked at.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct StivConfig {
    pub num_layers: usize,
    pub num_attention_heads: usize,
    pub attention_head_dim: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    /// Values of a token of the text.
    pub caption_channels: usize,
    /// Values of the text as one vector.
    pub pooled_projection_dim: usize,
    #[serde(default = "two")]
    pub patch_size: usize,
    #[serde(default = "two")]
    pub patch_size_t: usize,
    #[serde(default = "mlp_ratio")]
    pub mlp_ratio: f64,
    #[serde(default = "norm_eps")]
    pub norm_eps: f64,
    #[serde(default = "qk_norm")]
    pub qk_norm: Option<String>,
    #[serde(default = "yes")]
    pub sandwich_norm: bool,
    #[serde(default = "yes")]
    pub temporal_gate: bool,
    #[serde(default = "yes")]
    pub adaln_tables: bool,
    #[serde(default = "micro_conditions")]
    pub micro_conditions: Vec<Micro>,
    #[serde(default = "rope_theta")]
    pub rope_theta: f64,
    /// Numbers of a head that turn with the row and with the column.
    pub rope_axes_dim: [usize; 2],
    /// Factors on positions in time, rows and columns.
    #[serde(default = "ones")]
    pub rope_interpolation: [f64; 3],
    /// Latent frames, height and width of the clips that it was trained on.
    pub sample_size: [usize; 3],
    #[serde(default = "prediction")]
    pub prediction: Prediction,
    #[serde(default = "time_direction")]
    pub time_direction: TimeDirection,
    #[serde(default = "timestep_scale")]
    pub timestep_scale: f64,
    #[serde(default = "cond_time")]
    pub cond_time: CondTime,
    #[serde(default = "one")]
    pub sampling_stride: usize,
    #[serde(default = "keyframe_stride")]
    pub keyframe_stride: usize,
    /// How often training left the given frames out.
    #[serde(default)]
    pub image_drop: f64,
    #[serde(default)]
    pub trained_tasks: Vec<String>,
}

fn one() -> usize {
    1
}

fn two() -> usize {
    2
}

fn yes() -> bool {
    true
}

fn ones() -> [f64; 3] {
    [1.0; 3]
}

fn mlp_ratio() -> f64 {
    4.0
}

fn norm_eps() -> f64 {
    1e-6
}

fn rope_theta() -> f64 {
    1e4
}

fn timestep_scale() -> f64 {
    1000.0
}

fn keyframe_stride() -> usize {
    20
}

const RMS_NORM: &str = "rms_norm";

#[allow(clippy::unnecessary_wraps, reason = "a key that says null has no norm")]
fn qk_norm() -> Option<String> {
    Some(RMS_NORM.to_owned())
}

fn micro_conditions() -> Vec<Micro> {
    vec![Micro::H, Micro::W, Micro::CropTop, Micro::CropLeft, Micro::Stride, Micro::Frames]
}

fn prediction() -> Prediction {
    Prediction::DataMinusNoise
}

fn time_direction() -> TimeDirection {
    TimeDirection::Noise
}

fn cond_time() -> CondTime {
    CondTime::Shared
}

impl StivConfig {
    /// Width of a token, D.
    pub fn inner_dim(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Width inside the feed-forward part.
    pub fn ff_dim(&self) -> usize {
        (self.inner_dim() as f64 * self.mlp_ratio) as usize
    }

    /// Refuses what this implementation does not compute, and sizes no network has.
    pub fn check(&self) -> Result<()> {
        const FILE: &str = "transformer/config.json";
        let [frames, height, width] = self.sample_size;
        for (key, value, most) in [
            ("num_layers", self.num_layers, 1 << 10),
            ("num_attention_heads", self.num_attention_heads, 1 << 10),
            ("attention_head_dim", self.attention_head_dim, 1 << 10),
            ("in_channels", self.in_channels, 1 << 10),
            ("out_channels", self.out_channels, 1 << 10),
            ("caption_channels", self.caption_channels, 1 << 16),
            ("pooled_projection_dim", self.pooled_projection_dim, 1 << 16),
            ("patch_size", self.patch_size, 1 << 6),
            ("patch_size_t", self.patch_size_t, 1 << 6),
            ("sample_size", frames, 1 << 12),
            ("sample_size", height, 1 << 12),
            ("sample_size", width, 1 << 12),
            ("sampling_stride", self.sampling_stride, 1 << 16),
            ("keyframe_stride", self.keyframe_stride, 1 << 16),
        ] {
            if value == 0 || value > most {
                bail!("{FILE}: {key} = {value} is out of range (1 to {most})")
            }
        }
        for (key, value) in [
            ("mlp_ratio", self.mlp_ratio),
            ("norm_eps", self.norm_eps),
            ("rope_theta", self.rope_theta),
            ("timestep_scale", self.timestep_scale),
        ]
        .into_iter()
        .chain(self.rope_interpolation.map(|factor| ("rope_interpolation", factor)))
        {
            if !(value.is_finite() && value > 0.0 && value <= 1e9) {
                bail!("{FILE}: {key} = {value} must be positive, and at most 1e9")
            }
        }
        if !(1..=1 << 20).contains(&self.ff_dim()) {
            bail!("{FILE}: mlp_ratio = {} makes a feed-forward part of {}", self.mlp_ratio, self.ff_dim())
        }
        if self.in_channels != self.out_channels {
            bail!("{FILE}: out_channels = {} is not in_channels, {}", self.out_channels, self.in_channels)
        }
        if let Some(other) = self.qk_norm.as_deref().filter(|norm| *norm != RMS_NORM) {
            bail!("{FILE}: qk_norm = {other:?} is not supported ({RMS_NORM:?} and null are)")
        }
        if self.micro_conditions.len() > 64 {
            bail!("{FILE}: micro_conditions: {} are too many", self.micro_conditions.len())
        }
        let [rows, columns] = self.rope_axes_dim;
        let all = rows.checked_add(columns);
        if rows % 2 != 0 || columns % 2 != 0 || all != Some(self.attention_head_dim) {
            bail!(
                "{FILE}: rope_axes_dim = [{rows}, {columns}] are not two even numbers with the sum attention_head_dim, {}",
                self.attention_head_dim
            )
        }
        if !(0.0..=1.0).contains(&self.image_drop) {
            bail!("{FILE}: image_drop = {} is not between 0 and 1", self.image_drop)
        }
        if !(height.is_multiple_of(self.patch_size) && width.is_multiple_of(self.patch_size)) {
            bail!("{FILE}: sample_size = {:?} is not in patches of {}", self.sample_size, self.patch_size)
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn config(changes: &[(&str, Value)]) -> std::result::Result<StivConfig, String> {
        let mut value = json!({
            "num_layers": 12, "num_attention_heads": 6, "attention_head_dim": 64, "in_channels": 4, "out_channels": 4,
            "caption_channels": 768, "pooled_projection_dim": 768, "rope_axes_dim": [32, 32], "sample_size": [16, 8, 8],
            "num_tail_blocks": 2
        });
        for (key, change) in changes {
            value[*key] = change.clone();
        }
        let config: StivConfig = serde_json::from_value(value).map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn what_is_left_out_has_the_defaults_of_the_layout() {
        let found = config(&[]).unwrap();
        assert_eq!((found.patch_size, found.patch_size_t, found.ff_dim(), found.keyframe_stride), (2, 2, 1536, 20));
        assert_eq!(
            (found.micro_conditions.len(), found.qk_norm.as_deref(), found.norm_eps),
            (6, Some("rms_norm"), 1e-6)
        );
        assert!(found.sandwich_norm && found.temporal_gate && found.adaln_tables && found.trained_tasks.is_empty());
        let other = [
            ("qk_norm", Value::Null),
            ("micro_conditions", json!(["frames", "crop_left"])),
            ("time_direction", json!("data_at_0")),
            ("cond_time", json!("clean")),
        ];
        let found = config(&other).unwrap();
        assert_eq!((found.qk_norm, found.cond_time), (None, CondTime::Clean));
        assert_eq!(found.micro_conditions, [Micro::Frames, Micro::CropLeft]);
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (key, value) in [
            ("num_layers", json!(0)),
            ("num_attention_heads", json!(1u64 << 40)),
            ("attention_head_dim", json!(66)),
            ("rope_axes_dim", json!([31, 33])),
            ("rope_axes_dim", json!([u64::MAX, 1])),
            ("mlp_ratio", json!(-1.0)),
            ("mlp_ratio", json!(1e8)),
            ("norm_eps", json!(0)),
            ("qk_norm", json!("layer_norm")),
            ("out_channels", json!(8)),
            ("image_drop", json!(2)),
            ("sample_size", json!([16, 7, 8])),
            ("rope_interpolation", json!([1, 0, 1])),
        ] {
            let error = config(&[(key, value)]).unwrap_err();
            let named = if key == "attention_head_dim" { "rope_axes_dim" } else { key };
            assert!(error.contains(named) && error.contains("config.json"), "{error}");
        }
        for (key, value) in [("prediction", "v"), ("time_direction", "up"), ("cond_time", "none")] {
            assert!(config(&[(key, json!(value))]).unwrap_err().contains(value));
        }
    }
}
