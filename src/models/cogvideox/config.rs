//! `transformer/config.json` of `CogVideoXTransformer3DModel`: its keys, diffusers' defaults, and what of it is refused.

use candle_core::{Result, bail};
use serde::Deserialize;

/// `transformer/config.json`; the defaults are diffusers'.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct TransformerConfig {
    pub _class_name: String,
    pub num_attention_heads: usize,
    pub attention_head_dim: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f64,
    pub time_embed_dim: usize,
    pub ofs_embed_dim: Option<usize>,
    pub text_embed_dim: usize,
    pub num_layers: usize,
    pub attention_bias: bool,
    /// Latent pixels.
    pub sample_width: usize,
    /// Latent pixels.
    pub sample_height: usize,
    /// Frames of video, although diffusers documents them as latent frames: 49 stands for 13 latent frames.
    pub sample_frames: usize,
    pub patch_size: usize,
    pub patch_size_t: Option<usize>,
    pub temporal_compression_ratio: usize,
    pub max_text_seq_length: usize,
    pub activation_fn: String,
    pub timestep_activation_fn: String,
    pub norm_elementwise_affine: bool,
    pub norm_eps: f64,
    pub spatial_interpolation_scale: f64,
    pub temporal_interpolation_scale: f64,
    pub use_rotary_positional_embeddings: bool,
    pub use_learned_positional_embeddings: bool,
    pub patch_bias: bool,
    /// The frequency of rotary positions in time, from 1, that is lowered in windows longer than its period; no file says it.
    #[serde(skip)]
    pub riflex: Option<usize>,
}

impl Default for TransformerConfig {
    fn default() -> Self {
        Self {
            _class_name: "CogVideoXTransformer3DModel".into(),
            num_attention_heads: 30,
            attention_head_dim: 64,
            in_channels: 16,
            out_channels: 16,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            time_embed_dim: 512,
            ofs_embed_dim: None,
            text_embed_dim: 4096,
            num_layers: 30,
            attention_bias: true,
            sample_width: 90,
            sample_height: 60,
            sample_frames: 49,
            patch_size: 2,
            patch_size_t: None,
            temporal_compression_ratio: 4,
            max_text_seq_length: 226,
            activation_fn: "gelu-approximate".into(),
            timestep_activation_fn: "silu".into(),
            norm_elementwise_affine: true,
            norm_eps: 1e-5,
            spatial_interpolation_scale: 1.875,
            temporal_interpolation_scale: 1.0,
            use_rotary_positional_embeddings: false,
            use_learned_positional_embeddings: false,
            patch_bias: true,
            riflex: None,
        }
    }
}

impl TransformerConfig {
    /// Width of a token, D.
    pub fn inner_dim(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Latent frames of the window the model was trained on.
    pub fn window(&self) -> usize {
        (self.sample_frames - 1) / self.temporal_compression_ratio + 1
    }

    /// Frames, height and width in tokens of the clip that learned positions are of.
    pub fn learned_grid(&self) -> [usize; 3] {
        let patch_t = self.patch_size_t.unwrap_or(1);
        [self.window().div_ceil(patch_t), self.sample_height / self.patch_size, self.sample_width / self.patch_size]
    }

    /// Whether it takes the latents of a picture beside the noise.
    pub fn takes_picture(&self) -> bool {
        self.in_channels == 2 * self.out_channels
    }

    /// Refuses what this implementation does not compute, and sizes no network has.
    pub fn check(&self) -> Result<()> {
        if self._class_name != "CogVideoXTransformer3DModel" {
            bail!(
                "transformer/config.json: class {} is not supported (CogVideoXTransformer3DModel is)",
                self._class_name
            )
        }
        for (key, value, known) in [
            ("activation_fn", &self.activation_fn, "gelu-approximate"),
            ("timestep_activation_fn", &self.timestep_activation_fn, "silu"),
        ] {
            if value != known {
                bail!("transformer/config.json: {key} = {value:?} is not supported ({known:?} is)")
            }
        }
        for (key, value, most) in [
            ("num_attention_heads", self.num_attention_heads, 1 << 10),
            ("attention_head_dim", self.attention_head_dim, 1 << 10),
            ("in_channels", self.in_channels, 1 << 10),
            ("out_channels", self.out_channels, 1 << 10),
            ("time_embed_dim", self.time_embed_dim, 1 << 16),
            ("text_embed_dim", self.text_embed_dim, 1 << 16),
            ("num_layers", self.num_layers, 1 << 10),
            ("sample_width", self.sample_width, 1 << 14),
            ("sample_height", self.sample_height, 1 << 14),
            ("sample_frames", self.sample_frames, 1 << 16),
            ("patch_size", self.patch_size, 1 << 6),
            ("patch_size_t", self.patch_size_t.unwrap_or(1), 1 << 6),
            ("temporal_compression_ratio", self.temporal_compression_ratio, 1 << 6),
            ("max_text_seq_length", self.max_text_seq_length, 1 << 16),
        ] {
            if value == 0 || value > most {
                bail!("transformer/config.json: {key} = {value} is out of range (1 to {most})")
            }
        }
        for (key, value) in [
            ("spatial_interpolation_scale", self.spatial_interpolation_scale),
            ("temporal_interpolation_scale", self.temporal_interpolation_scale),
        ] {
            if !(value.is_finite() && value > 0.0) {
                bail!("transformer/config.json: {key} = {value} must be positive")
            }
        }
        Ok(())
    }
}
