//! The text tower: a causal transformer over the tokens of a text.

use super::encoder::{Activation, Layer, Tower, causal_mask, check_size};
use crate::models::layers::LayerNorm;
use crate::nn::compute_dtype;
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use serde::Deserialize;

/// The text tower's keys; what is left out has transformers' default. Its ids of special tokens are wrong in published
/// files and not read: the tokenizer knows them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
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
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
        }
    }
}

impl TextConfig {
    /// The sizes of its layers, checked. `section` stands before the keys in messages.
    ///
    /// # Errors
    /// Sizes that no such network has, and activations that are not built; they name the key.
    pub fn tower(&self, section: &str) -> Result<Tower> {
        check_size(&format!("{section}vocab_size"), self.vocab_size, 1 << 24)?;
        check_size(&format!("{section}max_position_embeddings"), self.max_position_embeddings, 1 << 16)?;
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

/// An activation by its name in a configuration.
pub(super) fn activation(section: &str, name: &str) -> Result<Activation> {
    match Activation::by_name(name) {
        Some(activation) => Ok(activation),
        None => bail!("key \"{section}hidden_act\": {name:?} is not supported; supported: quick_gelu, gelu"),
    }
}

/// What comes before the layers: a vector for each token, one for each place.
#[derive(Debug)]
pub struct TextEmbeddings {
    token_embedding: Tensor,
    position_embedding: Tensor,
}

impl TextEmbeddings {
    /// From the weights at `embeddings`. A stored `position_ids` is not read: places are counted.
    pub fn load(config: &TextConfig, vb: VarBuilder) -> Result<Self> {
        let dtype = compute_dtype(vb.dtype(), vb.device());
        let (vocabulary, places, width) = (config.vocab_size, config.max_position_embeddings, config.hidden_size);
        Ok(Self {
            token_embedding: vb.get((vocabulary, width), "token_embedding.weight")?,
            position_embedding: vb.get((places, width), "position_embedding.weight")?.to_dtype(dtype)?,
        })
    }

    /// `[1, L, D]` of L ids.
    ///
    /// # Errors
    /// Ids that the vocabulary does not have, no ids, and more of them than there are places.
    pub fn forward(&self, ids: &[u32]) -> Result<Tensor> {
        let (vocabulary, places) = (self.token_embedding.dim(0)?, self.position_embedding.dim(0)?);
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            bail!("text encoder: token id {id}, but its vocabulary ends at {vocabulary}; the tokenizer is another's")
        }
        if ids.is_empty() || ids.len() > places {
            bail!("text encoder: a text of {} tokens, where it takes 1 to {places}", ids.len())
        }
        let tokens = self.token_embedding.index_select(&Tensor::new(ids, self.token_embedding.device())?, 0)?;
        let positions = self.position_embedding.narrow(0, 0, ids.len())?;
        (tokens.to_dtype(positions.dtype())? + positions)?.unsqueeze(0)
    }
}

/// The tower in memory.
#[derive(Debug)]
pub struct TextTower {
    embeddings: TextEmbeddings,  // embeddings
    layers: Vec<Layer>,          // encoder.layers
    final_layer_norm: LayerNorm, // final_layer_norm
}

impl TextTower {
    /// From the weights at `text_model`; `tower` is that of the configuration.
    pub fn load(config: &TextConfig, tower: &Tower, vb: VarBuilder) -> Result<Self> {
        let layers = (0..tower.layers).map(|layer| Layer::load(tower, vb.pp("encoder.layers").pp(layer)));
        Ok(Self {
            embeddings: TextEmbeddings::load(config, vb.pp("embeddings"))?,
            layers: layers.collect::<Result<_>>()?,
            final_layer_norm: LayerNorm::load(tower.width, true, tower.eps, vb.pp("final_layer_norm"))?,
        })
    }

    /// The last hidden state after the final norm, `[1, L, D]`.
    pub fn forward(&self, ids: &[u32]) -> Result<Tensor> {
        let mut x = self.embeddings.forward(ids)?;
        let mask = causal_mask(ids.len(), x.dtype(), x.device())?;
        for layer in &self.layers {
            x = layer.forward(&x, Some(&mask))?;
        }
        self.final_layer_norm.forward(&x)
    }
}
