//! A vision transformer (arXiv 2010.11929) as DINO (arXiv 2104.14294) has it: transformers' `ViTModel`, whose class token after the last norm says
//! what a picture shows.

use super::clip::{Activation, Layer, LayerNames, Patches, Tower};
use super::layers::LayerNorm;
use crate::nn::compute_dtype;
use crate::nn::linear::Linear;
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use serde::Deserialize;

/// Its `config.json`; what is left out has transformers' default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct ViTConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_channels: usize,
    /// Side of the square pictures, in pixels.
    pub image_size: usize,
    pub patch_size: usize,
    pub hidden_act: String,
    pub layer_norm_eps: f64,
    pub qkv_bias: bool,
}

impl Default for ViTConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 16,
            hidden_act: "gelu".to_owned(),
            layer_norm_eps: 1e-12,
            qkv_bias: true,
        }
    }
}

impl ViTConfig {
    /// The sizes of its layers, checked.
    ///
    /// # Errors
    /// What is not computed and sizes no such network has, by their keys.
    pub fn tower(&self) -> Result<Tower> {
        for (key, value) in [("image_size", self.image_size), ("patch_size", self.patch_size)] {
            if !(1..=1 << 12).contains(&value) {
                bail!("key {key:?}: {value} is not within 1 and 4096")
            }
        }
        if self.patch_size > self.image_size || self.num_channels != 3 || !self.qkv_bias {
            bail!(
                "patch_size {}, image_size {}, num_channels {}, qkv_bias {}: no tower of this kind",
                self.patch_size,
                self.image_size,
                self.num_channels,
                self.qkv_bias
            )
        }
        let Some(activation) = Activation::by_name(&self.hidden_act) else {
            bail!("key \"hidden_act\": {:?} is not supported; known are gelu and quick_gelu", self.hidden_act)
        };
        let tower = Tower {
            width: self.hidden_size,
            inner: self.intermediate_size,
            heads: self.num_attention_heads,
            layers: self.num_hidden_layers,
            activation,
            eps: self.layer_norm_eps,
        };
        tower.check("")?;
        Ok(tower)
    }
}

/// Where ViT's layers keep their weights.
const NAMES: LayerNames = LayerNames {
    norms: ["layernorm_before", "layernorm_after"],
    qkv: ["attention.attention.query", "attention.attention.key", "attention.attention.value"],
    out: "attention.output.dense",
    inner: ["intermediate.dense", "output.dense"],
};

/// `ViTModel`.
#[derive(Debug)]
pub struct ViT {
    embeddings: Patches, // cls_token, patch_embeddings.projection, position_embeddings
    layers: Vec<Layer>,  // encoder.layer
    layernorm: LayerNorm,
}

impl ViT {
    /// # Errors
    /// Those of [`ViTConfig::tower`], and tensors that are missing or of another shape.
    pub fn load(config: &ViTConfig, vb: &VarBuilder) -> Result<Self> {
        let tower = config.tower()?;
        let dtype = compute_dtype(vb.dtype(), vb.device());
        let (width, patch, patches) = (tower.width, config.patch_size, config.image_size / config.patch_size);
        let embeddings = vb.pp("embeddings");
        let projection = embeddings.pp("patch_embeddings.projection");
        let kernel = projection.get((width, 3, patch, patch), "weight")?.reshape((width, 3 * patch * patch))?;
        let positions = embeddings.get((1, patches * patches + 1, width), "position_embeddings")?;
        let layers = (0..tower.layers).map(|layer| Layer::load_named(&tower, &NAMES, vb.pp("encoder.layer").pp(layer)));
        Ok(Self {
            embeddings: Patches {
                class: embeddings.get((1, 1, width), "cls_token")?.flatten_all()?.to_dtype(dtype)?,
                projection: Linear::new(kernel, Some(projection.get(width, "bias")?), vb.dtype())?,
                positions: positions.squeeze(0)?.to_dtype(dtype)?,
                patch,
                side: patches,
            },
            layers: layers.collect::<Result<_>>()?,
            layernorm: LayerNorm::load(width, true, tower.eps, vb.pp("layernorm"))?,
        })
    }

    /// The class token after the last norm, `[B, D]`, of `[B, 3, S, S]`.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let mut x = self.embeddings.forward(pixels)?;
        for layer in &self.layers {
            x = layer.forward(&x, None)?;
        }
        self.layernorm.forward(&x.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_such_network_has_is_refused_by_name() {
        let config = |changes: &str| serde_json::from_str::<ViTConfig>(&format!("{{{changes}}}")).unwrap();
        assert_eq!(config("").tower().unwrap().layers, 12);
        for (changes, named) in [
            (r#""hidden_act": "relu""#, "hidden_act"),
            (r#""patch_size": 0"#, "patch_size"),
            (r#""qkv_bias": false"#, "qkv_bias false"),
            (r#""num_attention_heads": 5"#, "num_attention_heads"),
        ] {
            assert!(config(changes).tower().unwrap_err().to_string().contains(named), "{changes}");
        }
    }
}
