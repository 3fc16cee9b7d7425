//! The encoder half of T5 ("Exploring the Limits of Transfer Learning", Raffel et al. 2020; T5 1.1), as
//! `T5EncoderModel` of transformers computes it. No attention mask: diffusers' pipelines give none, so the padding takes
//! part like any other token.
//!
//! Deliberately different: blocks are loaded one after the other, each is used for all texts and dropped before the next
//! (T5-XXL takes 19 GB in f32, one of its 24 blocks 0.8 GB). On the CPU the arithmetic is f32 whatever the dtype. candle's
//! own `t5.rs` holds all weights at once, has no bf16 on the CPU, and knows no activation but ReLU without a gate.

use super::encoder::{EncoderClass, TextEncoder};
use crate::nn::act;
use crate::nn::linear::{Linear, linear};
use crate::weights::{ModelError, Part};
use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use candle_nn::ops::{rms_norm, softmax_last_dim};
use serde::Deserialize;

/// What `text_encoder/config.json` says of the network. Missing keys have the values of transformers' `T5Config`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct T5Config {
    pub model_type: String,
    pub vocab_size: usize,
    pub d_model: usize,
    pub d_kv: usize,
    pub d_ff: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub relative_attention_num_buckets: usize,
    pub relative_attention_max_distance: usize,
    pub layer_norm_epsilon: f64,
    pub feed_forward_proj: String,
}

impl Default for T5Config {
    fn default() -> Self {
        Self {
            model_type: String::new(),
            vocab_size: 32128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: "relu".to_string(),
        }
    }
}

impl T5Config {
    /// Refuses what is not a T5, and values that make no network.
    fn check(&self) -> std::result::Result<(), String> {
        match self.model_type.as_str() {
            "t5" => {}
            "" => return Err("key \"model_type\" is missing; a T5 text encoder has \"t5\"".to_string()),
            other => {
                return Err(format!("model_type {other:?} is not a text encoder of this program; supported: \"t5\""));
            }
        }
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("d_ff", self.d_ff),
            ("num_layers", self.num_layers),
            ("num_heads", self.num_heads),
        ];
        if let Some((key, value)) = sizes.into_iter().find(|&(_, value)| value == 0 || value > 1 << 20) {
            return Err(format!("{key} is {value}"));
        }
        let (buckets, distance) = (self.relative_attention_num_buckets, self.relative_attention_max_distance);
        if !(4..1 << 20).contains(&buckets) || distance <= buckets / 4 || distance > 1 << 30 {
            return Err(format!("{buckets} relative attention buckets with a distance of {distance}"));
        }
        if !(self.layer_norm_epsilon >= 0.0 && self.layer_norm_epsilon < 1.0) {
            return Err(format!("layer_norm_epsilon is {}", self.layer_norm_epsilon));
        }
        self.feed_forward().map(|_| ())
    }

    fn feed_forward(&self) -> std::result::Result<(bool, Activation), String> {
        let (gated, name) = match self.feed_forward_proj.strip_prefix("gated-") {
            Some(name) => (true, name),
            None => (false, self.feed_forward_proj.as_str()),
        };
        let activation = match name {
            "gelu" if gated => Activation::GeluTanh, // the tanh form by an old habit of T5's configurations
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            "silu" | "swish" => Activation::Silu,
            _ => return Err(format!("feed_forward_proj {:?} is not known", self.feed_forward_proj)),
        };
        Ok((gated, activation))
    }

    /// The bucket of each relative position `key - query` in `-(length - 1)..length`, in that order.
    fn buckets(&self, length: usize) -> Vec<u32> {
        let half = self.relative_attention_num_buckets / 2;
        let exact = half / 2;
        let log_range = (self.relative_attention_max_distance as f64 / exact as f64).ln() as f32;
        let bucket = |distance: usize| {
            if distance < exact {
                return distance;
            }
            // f32, as the reference: a bucket's edge depends on the rounding
            let further = (distance as f32 / exact as f32).ln() / log_range * (half - exact) as f32;
            (exact + further as usize).min(half - 1)
        };
        let before = (1..length).rev().map(bucket);
        let after = (1..length).map(|distance| half + bucket(distance));
        before.chain(std::iter::once(0)).chain(after).map(|bucket| bucket as u32).collect()
    }
}

#[derive(Debug, Clone, Copy)]
enum Activation {
    Relu,
    Gelu,
    GeluTanh,
    Silu,
}

impl Activation {
    fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Relu => x.relu(),
            Self::Gelu => x.gelu_erf(),
            Self::GeluTanh => act::gelu_tanh(x),
            Self::Silu => act::silu(x),
        }
    }
}

/// A T5 text encoder. On the CPU it computes in f32 whatever the dtype.
pub struct T5Encoder {
    config: T5Config,
    vb: VarBuilder<'static>,
}

/// T5's encoders (it overflows in f16).
pub(super) static CLASS: EncoderClass = EncoderClass {
    model_type: "t5",
    blocks: &["encoder.block."],
    open: |part, dtype, device| Ok(Box::new(T5Encoder::open(part, dtype, device)?)),
};

impl T5Encoder {
    /// The text encoder that a part is. `dtype` is f32 or bf16.
    pub fn open(part: &Part, dtype: DType, device: &Device) -> anyhow::Result<Self> {
        let config: T5Config = part.config()?;
        config.check().map_err(|reason| ModelError::new(format!("{}: {reason}", part.config_place())))?;
        let vb = part.var_builder_compact(compute_dtype(dtype, device)?, device)?;
        Ok(Self { config, vb })
    }

    /// From a configuration and the tensors by transformers' names; computes in the builder's dtype.
    pub fn new(config: T5Config, vb: VarBuilder<'static>) -> anyhow::Result<Self> {
        config.check().map_err(anyhow::Error::msg)?;
        compute_dtype(vb.dtype(), vb.device())?;
        Ok(Self { config, vb })
    }

    /// `[L, D]` each.
    fn embed(&self, texts: &[&[u32]]) -> Result<Vec<Tensor>> {
        let (config, vb) = (&self.config, &self.vb);
        let names = ["shared", "encoder.embed_tokens"];
        let name = names.into_iter().find(|name| vb.contains_tensor(&format!("{name}.weight"))).unwrap_or(names[0]);
        let table = vb.pp(name).get((config.vocab_size, config.d_model), "weight")?;
        let embed = |ids: &&[u32]| {
            if let Some(id) = ids.iter().find(|&&id| id as usize >= config.vocab_size) {
                bail!(
                    "text encoder: token id {id}, but its vocabulary ends at {}; the tokenizer is another's",
                    config.vocab_size
                )
            }
            if ids.is_empty() {
                bail!("text encoder: a text of no tokens")
            }
            table.index_select(&Tensor::new(*ids, vb.device())?, 0)?.to_dtype(vb.dtype())
        };
        texts.iter().map(embed).collect()
    }
}

impl TextEncoder for T5Encoder {
    fn width(&self) -> usize {
        self.config.d_model
    }

    fn dtype(&self) -> DType {
        self.vb.dtype()
    }

    fn fingerprint(&self) -> String {
        format!("{:?}", self.config)
    }

    fn encode_all(&self, texts: &[&[u32]]) -> Result<Vec<Tensor>> {
        let (config, vb) = (&self.config, &self.vb);
        let mut hidden = self.embed(texts)?;
        let encoder = vb.pp("encoder");
        let table = (config.relative_attention_num_buckets, config.num_heads);
        let table = encoder.pp("block.0.layer.0.SelfAttention.relative_attention_bias").get(table, "weight")?;
        let table = table.to_dtype(vb.dtype())?;
        let mut bias: Option<Tensor> = None;
        for layer in 0..config.num_layers {
            let block = Block::load(config, encoder.pp(format!("block.{layer}")))?;
            for x in &mut hidden {
                let length = x.dim(0)?;
                let bias = match &mut bias {
                    Some(bias) if bias.dim(1)? == length => bias,
                    other => other.insert(position_bias(config, &table, length)?),
                };
                *x = block.forward(x, bias)?;
            }
        }
        let norm = encoder.pp("final_layer_norm").get(config.d_model, "weight")?;
        let eps = config.layer_norm_epsilon as f32;
        hidden.iter().map(|x| rms_norm(x, &norm, eps)?.to_dtype(DType::F32)).collect()
    }
}

/// What the arithmetic is done in.
fn compute_dtype(dtype: DType, device: &Device) -> anyhow::Result<DType> {
    match dtype {
        DType::F32 | DType::BF16 => Ok(crate::nn::compute_dtype(dtype, device)),
        other => anyhow::bail!("the text encoder runs in f32 or bf16, not {}", other.as_str()),
    }
}

/// `[N, L, L]`: what is added to the scores of query i and key j, by the bucket of j - i.
fn position_bias(config: &T5Config, table: &Tensor, length: usize) -> Result<Tensor> {
    let buckets = config.buckets(length);
    let rows = (0..length).flat_map(|query| &buckets[length - 1 - query..2 * length - 1 - query]).copied();
    let rows = Tensor::from_iter(rows, table.device())?;
    let bias = table.index_select(&rows, 0)?; // [L * L, N]
    bias.reshape((length, length, config.num_heads))?.permute((2, 0, 1))?.contiguous()
}

/// One block: `x + attention(norm(x))`, then `x + feed_forward(norm(x))`.
struct Block {
    attention_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    heads: usize,
    feed_forward_norm: Tensor,
    /// Empty without a gate.
    gate: Option<Linear>,
    wi: Linear,
    wo: Linear,
    activation: Activation,
    eps: f32,
}

impl Block {
    fn load(config: &T5Config, vb: VarBuilder) -> Result<Self> {
        let T5Config { d_model, d_ff, .. } = *config;
        let inner = config.num_heads * config.d_kv;
        let (attention, feed_forward) = (vb.pp("layer.0"), vb.pp("layer.1"));
        let (projection, dense) = (attention.pp("SelfAttention"), feed_forward.pp("DenseReluDense"));
        let (gated, activation) = config.feed_forward().map_err(candle_core::Error::msg)?;
        Ok(Self {
            attention_norm: attention.pp("layer_norm").get(d_model, "weight")?,
            q: linear(d_model, inner, false, projection.pp("q"))?,
            k: linear(d_model, inner, false, projection.pp("k"))?,
            v: linear(d_model, inner, false, projection.pp("v"))?,
            o: linear(inner, d_model, false, projection.pp("o"))?,
            heads: config.num_heads,
            feed_forward_norm: feed_forward.pp("layer_norm").get(d_model, "weight")?,
            gate: gated.then(|| linear(d_model, d_ff, false, dense.pp("wi_0"))).transpose()?,
            wi: linear(d_model, d_ff, false, dense.pp(if gated { "wi_1" } else { "wi" }))?,
            wo: linear(d_ff, d_model, false, dense.pp("wo"))?,
            activation,
            eps: config.layer_norm_epsilon as f32,
        })
    }

    /// `[L, D]` to `[L, D]`.
    fn forward(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let length = x.dim(0)?;
        let normed = rms_norm(x, &self.attention_norm, self.eps)?;
        let heads = |x: Tensor| x.reshape((length, self.heads, ()))?.transpose(0, 1)?.contiguous(); // [N, L, D / N]
        let q = heads(self.q.forward(&normed)?)?;
        let k = heads(self.k.forward(&normed)?)?;
        let v = heads(self.v.forward(&normed)?)?;
        let scores = (q.matmul(&k.t()?)? + bias)?; // [N, L, L]; T5 has no scale
        let attended = softmax_last_dim(&scores)?.matmul(&v)?;
        let attended = attended.transpose(0, 1)?.flatten_from(1)?; // [L, N * d_kv]
        let x = (x + self.o.forward(&attended)?)?;

        let normed = rms_norm(&x, &self.feed_forward_norm, self.eps)?;
        let hidden = self.wi.forward(&normed)?;
        let hidden = match &self.gate {
            Some(gate) => (self.activation.forward(&gate.forward(&normed)?)? * hidden)?,
            None => self.activation.forward(&hidden)?,
        };
        x + self.wo.forward(&hidden)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> T5Config {
        T5Config { model_type: "t5".to_string(), ..T5Config::default() }
    }

    #[test]
    fn buckets_equal_transformers() {
        #[derive(Deserialize)]
        struct Case {
            buckets: usize,
            distance: usize,
            /// Least distance and bucket.
            edges: Vec<(usize, u32)>,
        }
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/golden/text/buckets.json")).unwrap();
        for Case { buckets, distance, edges } in cases {
            let config = T5Config {
                relative_attention_num_buckets: buckets,
                relative_attention_max_distance: distance,
                ..config()
            };
            config.check().unwrap();
            let got = config.buckets(1200);
            for distance in 0..1200 {
                let want = edges.iter().rev().find(|edge| edge.0 <= distance).unwrap().1;
                assert_eq!(got[1199 - distance], want, "{distance} before, of {buckets} buckets");
                if distance > 0 {
                    assert_eq!(
                        got[1199 + distance],
                        want + buckets as u32 / 2,
                        "{distance} after, of {buckets} buckets"
                    );
                }
            }
        }
    }

    #[test]
    fn other_networks_are_refused() {
        let error = |change: &dyn Fn(&mut T5Config)| {
            let mut config = config();
            change(&mut config);
            config.check().unwrap_err()
        };
        assert!(config().check().is_ok());
        assert!(error(&|config| config.model_type = "clip_text_model".to_string()).contains("\"clip_text_model\""));
        assert!(error(&|config| config.model_type.clear()).contains("model_type"));
        assert!(error(&|config| config.d_kv = 0).contains("d_kv is 0"));
        assert!(error(&|config| config.vocab_size = usize::MAX).contains("vocab_size"));
        assert!(error(&|config| config.relative_attention_num_buckets = 3).contains("3 relative attention buckets"));
        assert!(error(&|config| config.relative_attention_max_distance = 8).contains("distance of 8"));
        assert!(error(&|config| config.layer_norm_epsilon = f64::NAN).contains("layer_norm_epsilon"));
        assert!(error(&|config| config.feed_forward_proj = "gated-tanh".to_string()).contains("gated-tanh"));
    }

    #[test]
    fn dtypes() {
        assert_eq!(compute_dtype(DType::BF16, &Device::Cpu).unwrap(), DType::F32);
        assert!(compute_dtype(DType::F16, &Device::Cpu).unwrap_err().to_string().contains("f16"));
        let vb = VarBuilder::zeros(DType::F16, &Device::Cpu);
        assert!(T5Encoder::new(config(), vb).is_err());
    }
}
