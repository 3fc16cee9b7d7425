//! The transformer that both towers are made of: pre-norm layers of self-attention and a feed-forward part, under
//! transformers' names (`CLIPEncoderLayer`).

use crate::models::layers::LayerNorm;
use crate::nn::act::{gelu, silu};
use crate::nn::linear::{Linear, linear, linear_joined};
use crate::nn::sdpa::Sdpa;
use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use candle_nn::ops::softmax_last_dim;

/// The activation of the feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(1.702 x)`: OpenAI's.
    QuickGelu,
    /// The exact one: OpenCLIP's.
    Gelu,
}

impl Activation {
    /// By transformers' `hidden_act`.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "quick_gelu" => Some(Self::QuickGelu),
            "gelu" => Some(Self::Gelu),
            _ => None,
        }
    }

    fn forward(self, x: &Tensor) -> Result<Tensor> {
        const SLOPE: f64 = 1.702;
        match self {
            Self::QuickGelu => silu(&(x * SLOPE)?)? / SLOPE,
            Self::Gelu => gelu(x),
        }
    }
}

/// Sizes of a tower's layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tower {
    pub width: usize,
    /// Inside the feed-forward part.
    pub inner: usize,
    pub heads: usize,
    pub layers: usize,
    pub activation: Activation,
    pub eps: f64,
}

/// One layer; names are CLIP's.
#[derive(Debug)]
pub struct Layer {
    layer_norm1: LayerNorm,
    qkv: Linear,      // self_attn.q_proj, k_proj, v_proj
    out_proj: Linear, // self_attn.out_proj
    layer_norm2: LayerNorm,
    fc1: Linear, // mlp.fc1
    fc2: Linear, // mlp.fc2
    heads: usize,
    activation: Activation,
}

/// Where a layer's weights are.
#[derive(Debug)]
pub struct LayerNames {
    /// Before attention, and before the feed-forward part.
    pub norms: [&'static str; 2],
    pub qkv: [&'static str; 3],
    pub out: &'static str,
    pub inner: [&'static str; 2],
}

const CLIP: LayerNames = LayerNames {
    norms: ["layer_norm1", "layer_norm2"],
    qkv: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    out: "self_attn.out_proj",
    inner: ["mlp.fc1", "mlp.fc2"],
};

impl Layer {
    /// From the weights at `layers.N`.
    pub fn load(tower: &Tower, vb: VarBuilder) -> Result<Self> {
        Self::load_named(tower, &CLIP, vb)
    }

    /// A layer of the same form under other names.
    pub fn load_named(tower: &Tower, names: &LayerNames, vb: VarBuilder) -> Result<Self> {
        let Tower { width, inner, heads, activation, eps, .. } = *tower;
        let norm = |name: &str| LayerNorm::load(width, true, eps, vb.pp(name));
        Ok(Self {
            layer_norm1: norm(names.norms[0])?,
            qkv: linear_joined(width, width, true, &names.qkv.map(|name| vb.pp(name)))?,
            out_proj: linear(width, width, true, vb.pp(names.out))?,
            layer_norm2: norm(names.norms[1])?,
            fc1: linear(width, inner, true, vb.pp(names.inner[0]))?,
            fc2: linear(inner, width, true, vb.pp(names.inner[1]))?,
            heads,
            activation,
        })
    }

    /// `[B, L, D]` to the same; `mask` `[L, L]` is added to the scores.
    pub fn forward(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let x = (x + self.attend(&self.layer_norm1.forward(x)?, mask)?)?;
        let inner = self.activation.forward(&self.fc1.forward(&self.layer_norm2.forward(&x)?)?)?;
        x + self.fc2.forward(&inner)?
    }

    fn attend(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let (b, l, width) = x.dims3()?;
        let head_dim = width / self.heads;
        let qkv = self.qkv.forward(x)?.reshape((b, l, 3, self.heads, head_dim))?;
        let head = |index| qkv.narrow(2, index, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous(); // [B, N, L, D / N]
        let (q, k, v) = (head(0)?, head(1)?, head(2)?);
        let scale = 1.0 / (head_dim as f64).sqrt();
        let y = match mask {
            None => Sdpa::default().attend(&q, &k, &v, scale)?,
            // a text is short: its scores are few
            Some(mask) => {
                let scores = (q.matmul(&k.t()?)? * scale)?.broadcast_add(mask)?;
                softmax_last_dim(&scores)?.matmul(&v)?
            }
        };
        self.out_proj.forward(&y.transpose(1, 2)?.contiguous()?.reshape((b, l, width))?)
    }
}

/// `[L, L]`: nothing where a token sees another, minus infinity where that one comes later.
pub fn causal_mask(length: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let place = |at: usize| if at % length > at / length { f32::NEG_INFINITY } else { 0.0 };
    Tensor::from_iter((0..length * length).map(place), device)?.reshape((length, length))?.to_dtype(dtype)
}

impl Tower {
    /// Refuses sizes that no such network has. `section` stands before the key in messages: `text_config.`.
    pub(crate) fn check(&self, section: &str) -> Result<()> {
        for (key, value, most) in [
            ("hidden_size", self.width, 1 << 16),
            ("intermediate_size", self.inner, 1 << 20),
            ("num_hidden_layers", self.layers, 1 << 10),
            ("num_attention_heads", self.heads, self.width),
        ] {
            check_size(&format!("{section}{key}"), value, most)?;
        }
        if !self.width.is_multiple_of(self.heads) {
            bail!("key \"{section}num_attention_heads\": {} do not divide the width {}", self.heads, self.width)
        }
        if !(self.eps > 0.0 && self.eps < 1.0) {
            bail!("key \"{section}layer_norm_eps\": {} is not above 0 and below 1", self.eps)
        }
        Ok(())
    }
}

/// Refuses a size that is not within 1 and `most`, by its key.
pub(super) fn check_size(key: &str, value: usize, most: usize) -> Result<()> {
    if value == 0 || value > most {
        bail!("key {key:?}: {value} is not within 1 and {most}")
    }
    Ok(())
}
