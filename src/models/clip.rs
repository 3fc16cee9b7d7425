//! CLIP (arXiv 2103.00020): images and texts in one space. The networks are candle-transformers', with transformers' names
//! of configurations and weights.
//!
//! [`Clip::images`] gives what transformers calls `pooler_output` beside `image_embeds`: the class token after the last
//! LayerNorm, before its projection into the common space.

use candle_core::{DType, IndexOp, Result, Tensor, bail};
use candle_nn::{Linear, Module, VarBuilder, linear_no_bias};
use candle_transformers::models::clip::text_model::{Activation, ClipTextConfig, ClipTextTransformer};
use candle_transformers::models::clip::vision_model::{ClipVisionConfig, ClipVisionTransformer};
use serde::Deserialize;

/// The one activation of OpenAI's weights, which is all that the networks have.
const ACTIVATION: &str = "quick_gelu";
const LAYER_NORM_EPS: f64 = 1e-5;

/// `config.json`; what it leaves out has transformers' default.
#[derive(Debug, Clone, Deserialize)]
pub struct ClipConfig {
    #[serde(default)]
    pub text_config: TextConfig,
    #[serde(default)]
    pub vision_config: VisionConfig,
    /// Width of the common space.
    #[serde(default = "projection_dim")]
    pub projection_dim: usize,
}

fn projection_dim() -> usize {
    512
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct TextConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    pub hidden_act: String,
    pub layer_norm_eps: f64,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: ACTIVATION.to_owned(),
            layer_norm_eps: LAYER_NORM_EPS,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct VisionConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_channels: usize,
    /// Side of the square images, in pixels.
    pub image_size: usize,
    pub patch_size: usize,
    pub hidden_act: String,
    pub layer_norm_eps: f64,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: ACTIVATION.to_owned(),
            layer_norm_eps: LAYER_NORM_EPS,
        }
    }
}

impl ClipConfig {
    /// Errors: sizes that no such network has, and activations that are not built; they name the key.
    pub fn check(&self) -> Result<()> {
        let (text, vision) = (&self.text_config, &self.vision_config);
        for (key, value, most) in [
            ("projection_dim", self.projection_dim, 1 << 16),
            ("text_config.vocab_size", text.vocab_size, 1 << 24),
            ("text_config.hidden_size", text.hidden_size, 1 << 16),
            ("text_config.intermediate_size", text.intermediate_size, 1 << 20),
            ("text_config.num_hidden_layers", text.num_hidden_layers, 1 << 10),
            ("text_config.num_attention_heads", text.num_attention_heads, text.hidden_size),
            ("text_config.max_position_embeddings", text.max_position_embeddings, 1 << 16),
            ("vision_config.hidden_size", vision.hidden_size, 1 << 16),
            ("vision_config.intermediate_size", vision.intermediate_size, 1 << 20),
            ("vision_config.num_hidden_layers", vision.num_hidden_layers, 1 << 10),
            ("vision_config.num_attention_heads", vision.num_attention_heads, vision.hidden_size),
            ("vision_config.image_size", vision.image_size, 1 << 12),
            ("vision_config.patch_size", vision.patch_size, vision.image_size),
        ] {
            if value == 0 || value > most {
                bail!("key {key:?}: {value} is not within 1 and {most}")
            }
        }
        if vision.num_channels != 3 {
            bail!("key \"vision_config.num_channels\": {} instead of 3", vision.num_channels)
        }
        for (tower, width, heads, act, eps) in [
            ("text_config", text.hidden_size, text.num_attention_heads, &text.hidden_act, text.layer_norm_eps),
            (
                "vision_config",
                vision.hidden_size,
                vision.num_attention_heads,
                &vision.hidden_act,
                vision.layer_norm_eps,
            ),
        ] {
            if width % heads != 0 {
                bail!("key \"{tower}.num_attention_heads\": {heads} do not divide the width {width}")
            }
            if act != ACTIVATION {
                bail!("key \"{tower}.hidden_act\": {act:?} is not supported; supported: {ACTIVATION}")
            }
            if eps != LAYER_NORM_EPS {
                bail!("key \"{tower}.layer_norm_eps\": {eps} is not supported; supported: {LAYER_NORM_EPS}")
            }
        }
        Ok(())
    }
}

/// Both towers, in f32.
#[derive(Debug, Clone)]
pub struct Clip {
    vision_model: ClipVisionTransformer,
    visual_projection: Linear,
    text_model: ClipTextTransformer,
    text_projection: Linear,
}

/// Images as the network sees them.
#[derive(Debug, Clone)]
pub struct ImageFeatures {
    /// `[B, D]`: before the projection.
    pub pooled: Tensor,
    /// `[B, P]`: in the common space; not normalised.
    pub projected: Tensor,
}

impl Clip {
    /// `config` has been checked.
    pub fn new(config: &ClipConfig, vb: VarBuilder) -> Result<Self> {
        let (text, vision) = (&config.text_config, &config.vision_config);
        let vision_config = ClipVisionConfig {
            embed_dim: vision.hidden_size,
            activation: Activation::QuickGelu,
            intermediate_size: vision.intermediate_size,
            num_hidden_layers: vision.num_hidden_layers,
            num_attention_heads: vision.num_attention_heads,
            projection_dim: config.projection_dim,
            num_channels: vision.num_channels,
            image_size: vision.image_size,
            patch_size: vision.patch_size,
        };
        let text_config = ClipTextConfig {
            vocab_size: text.vocab_size,
            embed_dim: text.hidden_size,
            activation: Activation::QuickGelu,
            intermediate_size: text.intermediate_size,
            max_position_embeddings: text.max_position_embeddings,
            pad_with: None,
            num_hidden_layers: text.num_hidden_layers,
            num_attention_heads: text.num_attention_heads,
            projection_dim: config.projection_dim,
        };
        let vision_vb = vb.pp("vision_model");
        // where this one is missing the network would draw it at random
        vision_vb.get(vision.hidden_size, "embeddings.class_embedding")?;
        Ok(Self {
            vision_model: ClipVisionTransformer::new(vision_vb, &vision_config)?,
            visual_projection: linear_no_bias(vision.hidden_size, config.projection_dim, vb.pp("visual_projection"))?,
            text_model: ClipTextTransformer::new(vb.pp("text_model"), &text_config)?,
            text_projection: linear_no_bias(text.hidden_size, config.projection_dim, vb.pp("text_projection"))?,
        })
    }

    /// `pixels` is `[B, 3, S, S]` f32 with S the configuration's `image_size`, normalised by CLIP's mean and deviation.
    pub fn images(&self, pixels: &Tensor) -> Result<ImageFeatures> {
        let pooled = self.vision_model.forward(pixels)?; // [B, D]
        let projected = self.visual_projection.forward(&pooled)?; // [B, P]
        Ok(ImageFeatures { pooled, projected })
    }

    /// The text of `ids`, which end with the end of the text and are not padded: `[P]`, not normalised.
    pub fn text(&self, ids: &[u32]) -> Result<Tensor> {
        let device = self.text_projection.weight().device();
        let ids = Tensor::new(ids, device)?.unsqueeze(0)?; // [1, L]
        let hidden = self.text_model.forward_with_mask(&ids, usize::MAX)?; // [1, L, D]
        let end = hidden.i((.., hidden.dim(1)? - 1, ..))?.contiguous()?; // [1, D]
        self.text_projection.forward(&end)?.squeeze(0)?.to_dtype(DType::F32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_configuration_leaves_out_is_vit_b_32() {
        let config: ClipConfig = serde_json::from_str("{}").unwrap();
        config.check().unwrap();
        assert_eq!((config.vision_config.hidden_size, config.vision_config.patch_size), (768, 32));
        for (text, word) in [
            (r#"{"vision_config": {"hidden_act": "gelu"}}"#, "hidden_act"),
            (r#"{"vision_config": {"image_size": 1000000}}"#, "image_size"),
            (r#"{"vision_config": {"patch_size": 0}}"#, "patch_size"),
            (r#"{"text_config": {"num_attention_heads": 7}}"#, "num_attention_heads"),
            (r#"{"projection_dim": 0}"#, "projection_dim"),
        ] {
            let config: ClipConfig = serde_json::from_str(text).unwrap();
            assert!(config.check().unwrap_err().to_string().contains(word), "{text}");
        }
    }
}
