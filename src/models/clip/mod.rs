//! CLIP (arXiv 2103.00020): images and texts in one space, under transformers' names of configurations and weights. OpenAI's
//! towers and OpenCLIP's differ in sizes and activation alone.
//!
//! [`Clip::images`] gives what transformers calls `pooler_output` beside `image_embeds`: the class token after the last
//! LayerNorm, before its projection into the common space.

pub mod anchor;
mod encoder;
mod patches;
mod text;
mod vision;

pub use encoder::{Activation, Layer, LayerNames, Tower, causal_mask};
pub use patches::Patches;
pub use text::{TextConfig, TextEmbeddings, TextTower};
pub use vision::{ImageEncoder, VisionConfig, VisionTower};

use crate::nn::linear::{Linear, linear};
use candle_core::{DType, IndexOp, Result, Tensor};
use candle_nn::VarBuilder;
use encoder::check_size;
use serde::Deserialize;

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

impl ClipConfig {
    /// The sizes of the text tower and of the vision tower.
    ///
    /// # Errors
    /// Sizes that no such network has, and activations that are not built; they name the key.
    pub fn towers(&self) -> Result<[Tower; 2]> {
        check_size("projection_dim", self.projection_dim, 1 << 16)?;
        Ok([self.text_config.tower("text_config.")?, self.vision_config.tower("vision_config.")?])
    }
}

/// Both towers, in f32.
#[derive(Debug)]
pub struct Clip {
    vision_model: VisionTower,
    visual_projection: Linear,
    text_model: TextTower,
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
    /// # Errors
    /// Those of [`ClipConfig::towers`], and tensors that are missing or of another shape.
    pub fn new(config: &ClipConfig, vb: VarBuilder) -> Result<Self> {
        let [text, vision] = config.towers()?;
        let common = config.projection_dim;
        Ok(Self {
            vision_model: VisionTower::load(&config.vision_config, &vision, vb.pp("vision_model"))?,
            visual_projection: linear(vision.width, common, false, vb.pp("visual_projection"))?,
            text_model: TextTower::load(&config.text_config, &text, vb.pp("text_model"))?,
            text_projection: linear(text.width, common, false, vb.pp("text_projection"))?,
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
        let hidden = self.text_model.forward(ids)?; // [1, L, D]
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
        config.towers().unwrap();
        assert_eq!((config.vision_config.hidden_size, config.vision_config.patch_size), (768, 32));
        for (text, word) in [
            (r#"{"vision_config": {"hidden_act": "swish"}}"#, "hidden_act"),
            (r#"{"vision_config": {"image_size": 1000000}}"#, "image_size"),
            (r#"{"vision_config": {"patch_size": 0}}"#, "patch_size"),
            (r#"{"text_config": {"num_attention_heads": 7}}"#, "text_config.num_attention_heads"),
            (r#"{"text_config": {"layer_norm_eps": 2}}"#, "layer_norm_eps"),
            (r#"{"projection_dim": 0}"#, "projection_dim"),
        ] {
            let config: ClipConfig = serde_json::from_str(text).unwrap();
            assert!(config.towers().unwrap_err().to_string().contains(word), "{text}");
        }
    }
}
