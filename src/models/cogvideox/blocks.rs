//! One block of the transformer: joint attention and a feed-forward layer, each behind an adaptive layer norm with weights
//! of its own for text and video. After diffusers' `CogVideoXBlock`.

use super::config::TransformerConfig;
use super::positions::Positions;
use super::time::Times;
use crate::attention::{Hooks, Qkv, Site};
use crate::models::layers::{FeedForward, LayerNorm, affine};
use crate::nn::linear::{Linear, linear, linear_joined};
use crate::nn::norm::{Modulation, gate_residual, layer_norm_modulate};
use crate::nn::rope::qk_norm_rope;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// Adaptive layer norm that also gives the gate of what follows: diffusers' `CogVideoXLayerNormZero`.
#[derive(Debug)]
struct LayerNormZero {
    linear: Linear,
    norm: LayerNorm,
}

impl LayerNormZero {
    fn load(config: &TransformerConfig, vb: VarBuilder) -> Result<Self> {
        let dim = config.inner_dim();
        let norm = LayerNorm::load(dim, config.norm_elementwise_affine, config.norm_eps, vb.pp("norm"))?;
        Ok(Self { linear: linear(config.time_embed_dim, 6 * dim, true, vb.pp("linear"))?, norm })
    }

    /// Modulated tokens and the gates, each with the number of tokens it is for.
    fn forward(&self, x: &Tensor, times: &Times, text: usize) -> Result<(Tensor, Vec<(usize, Tensor)>)> {
        let chunks = |emb: &Tensor| self.linear.forward(emb)?.chunk(6, 1); // each [1, D] or [B, D]
        let of_text = chunks(&times.text)?;
        let mut parts = vec![(text, of_text[3..].to_vec())];
        for (tokens, emb) in &times.video {
            let own = if emb.id() == times.text.id() { of_text.clone() } else { chunks(emb)? };
            parts.push((*tokens, own[..3].to_vec()));
        }
        let modulation = |(tokens, part): &(usize, Vec<Tensor>)| Modulation {
            tokens: *tokens,
            shift: part[0].clone(),
            scale: part[1].clone(),
        };
        let modulations: Vec<Modulation> = parts.iter().map(modulation).collect();
        let x = layer_norm_modulate(x, self.norm.weight(), self.norm.bias(), self.norm.eps(), &modulations)?;
        Ok((x, parts.into_iter().map(|(tokens, mut part)| (tokens, part.swap_remove(2))).collect()))
    }
}

/// Epsilon of the norms of queries and keys.
const QK_EPS: f64 = 1e-6;

#[derive(Debug)]
struct Attention {
    to_qkv: Linear,           // to_q, to_k, to_v in one
    norm_q: (Tensor, Tensor), // weight, bias
    norm_k: (Tensor, Tensor),
    to_out: Linear,
    heads: usize,
    head_dim: usize,
}

impl Attention {
    fn load(config: &TransformerConfig, vb: VarBuilder) -> Result<Self> {
        let (dim, head_dim) = (config.inner_dim(), config.attention_head_dim);
        let parts = [vb.pp("to_q"), vb.pp("to_k"), vb.pp("to_v")];
        let norm = |vb: VarBuilder| affine(head_dim, &vb);
        Ok(Self {
            to_qkv: linear_joined(dim, dim, config.attention_bias, &parts)?,
            norm_q: norm(vb.pp("norm_q"))?,
            norm_k: norm(vb.pp("norm_k"))?,
            to_out: linear(dim, dim, true, vb.pp("to_out.0"))?,
            heads: config.num_attention_heads,
            head_dim,
        })
    }

    fn forward(&self, x: &Tensor, positions: &Positions, site: &Site, hooks: &mut Hooks) -> Result<Tensor> {
        let (b, l, _) = x.dims3()?;
        let qkv = self.to_qkv.forward(x)?.reshape((b, l, 3, self.heads, self.head_dim))?;
        let head = |index| qkv.narrow(2, index, 1)?.squeeze(2)?.transpose(1, 2); // [B, N, L, D]
        let rotary = match positions {
            Positions::Sincos(_) => None,
            Positions::Rotary { cos, sin } => Some((cos, sin)), // over the text as well, where they change nothing
        };
        let [q, k] = [(0, &self.norm_q), (1, &self.norm_k)]
            .map(|(index, (weight, bias))| qk_norm_rope(&head(index)?, weight, bias, QK_EPS, rotary, 0));
        let qkv =
            Qkv { q: q?, k: k?, v: head(2)?, scale: 1.0 / (self.head_dim as f64).sqrt(), scores: Default::default() };
        let y = hooks.attend(qkv, site)?; // [B, N, L, D]
        self.to_out.forward(&y.transpose(1, 2)?.contiguous()?.reshape((b, l, self.heads * self.head_dim))?)
    }
}

/// One layer.
#[derive(Debug)]
pub(super) struct Block {
    norm1: LayerNormZero,
    attn1: Attention,
    norm2: LayerNormZero,
    ff: FeedForward,
    pub(super) path: String,
}

impl Block {
    pub(super) fn load(config: &TransformerConfig, index: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            norm1: LayerNormZero::load(config, vb.pp("norm1"))?,
            attn1: Attention::load(config, vb.pp("attn1"))?,
            norm2: LayerNormZero::load(config, vb.pp("norm2"))?,
            ff: FeedForward::load(config.inner_dim(), vb.pp("ff"))?,
            path: format!("transformer_blocks.{index}.attn1"),
        })
    }

    /// `x` is the joint sequence `[B, L, D]`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        times: &Times,
        positions: &Positions,
        site: &Site,
        hooks: &mut Hooks,
    ) -> Result<Tensor> {
        let text = site.text.end;
        let (normed, gates) = self.norm1.forward(x, times, text)?;
        let x = gate_residual(x, &self.attn1.forward(&normed, positions, site, hooks)?, &gates)?;
        let (normed, gates) = self.norm2.forward(&x, times, text)?;
        gate_residual(&x, &self.ff.forward(&normed)?, &gates)
    }
}
