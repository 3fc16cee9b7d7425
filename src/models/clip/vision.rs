//! The vision tower: a transformer over the patches of a square image, with a class token before them.

use super::encoder::{Layer, Tower, check_size};
use super::patches::Patches;
use super::text::activation;
use crate::models::layers::LayerNorm;
use crate::nn::compute_dtype;
use crate::nn::linear::{Linear, linear};
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use serde::Deserialize;

/// The vision tower's keys; what is left out has transformers' default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
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
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
        }
    }
}

impl VisionConfig {
    /// The sizes of its layers, checked. `section` stands before the keys in messages.
    ///
    /// # Errors
    /// As those of [`TextConfig::tower`](super::TextConfig::tower).
    pub fn tower(&self, section: &str) -> Result<Tower> {
        check_size(&format!("{section}image_size"), self.image_size, 1 << 12)?;
        check_size(&format!("{section}patch_size"), self.patch_size, self.image_size)?;
        if self.num_channels != 3 {
            bail!("key \"{section}num_channels\": {} instead of 3", self.num_channels)
        }
        let tower = Tower {
            width: self.hidden_size,
            inner: self.intermediate_size,
            heads: self.num_attention_heads,
            layers: self.num_hidden_layers,
            activation: activation(section, &self.hidden_act)?,
            eps: self.layer_norm_eps,
        };
        tower.check(section)?;
        Ok(tower)
    }
}

/// The tower and what projects its class token: transformers' `CLIPVisionModelWithProjection`.
#[derive(Debug)]
pub struct ImageEncoder {
    vision_model: VisionTower,
    visual_projection: Linear,
}

impl ImageEncoder {
    /// # Errors
    /// Those of [`VisionConfig::tower`], and tensors that are missing or of another shape.
    pub fn load(config: &VisionConfig, projection: usize, vb: VarBuilder) -> Result<Self> {
        check_size("projection_dim", projection, 1 << 16)?;
        let tower = config.tower("")?;
        Ok(Self {
            vision_model: VisionTower::load(config, &tower, vb.pp("vision_model"))?,
            visual_projection: linear(tower.width, projection, false, vb.pp("visual_projection"))?,
        })
    }

    /// `[B, 3, S, S]`, normalised, to `[B, P]`.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        self.visual_projection.forward(&self.vision_model.forward(pixels)?)
    }
}

/// The tower in memory.
#[derive(Debug)]
pub struct VisionTower {
    embeddings: Patches,       // class_embedding, patch_embedding, position_embedding
    pre_layrnorm: LayerNorm,   // pre_layrnorm, as transformers writes it
    layers: Vec<Layer>,        // encoder.layers
    post_layernorm: LayerNorm, // post_layernorm
}

impl VisionTower {
    /// From the weights at `vision_model`; `tower` is that of the configuration.
    pub fn load(config: &VisionConfig, tower: &Tower, vb: VarBuilder) -> Result<Self> {
        let dtype = compute_dtype(vb.dtype(), vb.device());
        let (width, patch, patches) = (tower.width, config.patch_size, config.image_size / config.patch_size);
        let embeddings = vb.pp("embeddings");
        let kernel = embeddings.get((width, 3, patch, patch), "patch_embedding.weight")?;
        let kernel = kernel.reshape((width, 3 * patch * patch))?;
        let positions = embeddings.get((patches * patches + 1, width), "position_embedding.weight")?;
        let layers = (0..tower.layers).map(|layer| Layer::load(tower, vb.pp("encoder.layers").pp(layer)));
        Ok(Self {
            embeddings: Patches {
                class: embeddings.get(width, "class_embedding")?.to_dtype(dtype)?,
                projection: Linear::new(kernel, None, vb.dtype())?,
                positions: positions.to_dtype(dtype)?,
                patch,
                side: patches,
            },
            pre_layrnorm: LayerNorm::load(width, true, tower.eps, vb.pp("pre_layrnorm"))?,
            layers: layers.collect::<Result<_>>()?,
            post_layernorm: LayerNorm::load(width, true, tower.eps, vb.pp("post_layernorm"))?,
        })
    }

    /// The class token after the last norm, `[B, D]`, of `[B, 3, S, S]`.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let mut x = self.pre_layrnorm.forward(&self.embeddings.forward(pixels)?)?;
        for layer in &self.layers {
            x = layer.forward(&x, None)?;
        }
        self.post_layernorm.forward(&x.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?)
    }
}
