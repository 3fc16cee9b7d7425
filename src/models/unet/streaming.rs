//! What StreamingT2V (arXiv 2403.14773, sections 4.1 and 4.2) puts beside a text-to-video UNet, so that a chunk goes on from the one before it:
//! CAM, a copy of the way down that sees the frames before; mergers, in which a chunk's features read CAM's; mixers, which bring an anchor frame
//! into the text; and the resampler, which makes tokens of the anchor. Names of weights are those of the published checkpoint (spec/streamingt2v.md
//! 2 to 4).
//!
//! The main network is [`super::UNet3DConditionModel`] itself: mergers and mixers act at its sites, as controls.

use super::blocks::Unit;
use super::controlnet::Hint;
use super::{Entrance, Row, UNet3DConfig, UNetConfig};
use crate::attention::Hooks;
use crate::models::layers::{LayerNorm, affine};
use crate::nn::act::silu;
use crate::nn::conv::Conv3d;
use crate::nn::linear::{Linear, linear};
use crate::nn::norm::GroupNorm;
use crate::nn::sdpa::Sdpa;
use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;
use serde::Deserialize;

/// Of the norm before a merger's attention, and of a mixer's.
const GROUP_NORM_EPS: f64 = 1e-6;
const LAYER_NORM_EPS: f64 = 1e-5;

/// The main network's `config.json`: a text-to-video UNet's keys, and its own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct StreamingUNetConfig {
    #[serde(flatten)]
    pub unet: UNet3DConfig,
    #[serde(default = "merger_head_dim")]
    pub merger_head_dim: usize,
    #[serde(default = "merger_norm_num_groups")]
    pub merger_norm_num_groups: usize,
    /// Tokens of the text, and those of the anchor behind them.
    #[serde(default = "text_tokens")]
    pub text_tokens: usize,
    #[serde(default = "image_tokens")]
    pub image_tokens: usize,
}

fn merger_head_dim() -> usize {
    64
}

fn merger_norm_num_groups() -> usize {
    32
}

fn text_tokens() -> usize {
    77
}

fn image_tokens() -> usize {
    16
}

/// Frames of a chunk read CAM's features of the frames before, place by place; nothing says which frame is which.
#[derive(Debug)]
struct Merger {
    norm: GroupNorm,
    proj_in: Linear,
    to_q: Linear, // attention.to_q
    to_k: Linear,
    to_v: Linear,
    to_out: Linear, // attention.to_out.0
    proj_out: Linear,
    heads: usize,
}

impl Merger {
    /// From the weights at `temporal_transformer`.
    fn load(channels: usize, head_dim: usize, groups: usize, vb: VarBuilder) -> Result<Self> {
        if head_dim == 0 || !channels.is_multiple_of(head_dim) {
            bail!("unet config: merger_head_dim is {head_dim}, which does not divide {channels} channels")
        }
        let (weight, bias) = affine(channels, &vb.pp("norm"))?;
        let layer = |name: &str, bias: bool| linear(channels, channels, bias, vb.pp(name));
        Ok(Self {
            norm: GroupNorm::new(groups, weight, bias, GROUP_NORM_EPS)?,
            proj_in: layer("proj_in", true)?,
            to_q: layer("attention.to_q", false)?,
            to_k: layer("attention.to_k", false)?,
            to_v: layer("attention.to_v", false)?,
            to_out: layer("attention.to_out.0", true)?,
            proj_out: layer("proj_out", true)?,
            heads: channels / head_dim,
        })
    }

    /// `x` `[F, C, H, W]` with what it finds in `memory` `[S, C, H, W]`, in the shape of `x`.
    fn forward(&self, x: &Tensor, memory: &Tensor) -> Result<Tensor> {
        let (frames, c, h, w) = x.dims4()?;
        if memory.dims().get(1..) != Some(&[c, h, w][..]) {
            bail!("a memory of {:?} for features of {:?}", memory.dims(), x.dims())
        }
        let queries = self.to_q.forward(&self.proj_in.forward(&places(&self.norm.forward(x, 1)?)?)?)?;
        let memory = places(memory)?;
        let heads = |x: Tensor| {
            let (n, l, c) = x.dims3()?;
            x.reshape((n, l, self.heads, c / self.heads))?.transpose(1, 2)?.contiguous()
        };
        let (q, k, v) = (heads(queries)?, heads(self.to_k.forward(&memory)?)?, heads(self.to_v.forward(&memory)?)?);
        let scale = 1.0 / ((c / self.heads) as f64).sqrt();
        let y = Sdpa::default().attend(&q, &k, &v, scale)?.transpose(1, 2)?.contiguous()?;
        let y = self.proj_out.forward(&self.to_out.forward(&y.reshape((h * w, frames, c))?)?)?; // [HW, F, C]
        x + y.permute((1, 2, 0))?.contiguous()?.reshape((frames, c, h, w))?
    }
}

/// `[F, C, H, W]` as `[HW, F, C]`.
fn places(x: &Tensor) -> Result<Tensor> {
    x.flatten_from(2)?.permute((2, 0, 1))?.contiguous()
}

/// All mergers of a network.
#[derive(Debug)]
pub struct Mergers {
    skips: Vec<Merger>,
    mid: Merger,
}

impl Mergers {
    /// From the weights at `cross_attention_merger_down_blocks` and `cross_attention_merger_mid_block`.
    pub fn load(config: &StreamingUNetConfig, vb: &VarBuilder) -> Result<Self> {
        let planar = config.unet.planar("unet")?;
        let load = |channels: usize, name: String| {
            let vb = vb.pp(name).pp("temporal_transformer");
            Merger::load(channels, config.merger_head_dim, config.merger_norm_num_groups, vb)
        };
        let skips = planar.skips().into_iter().enumerate();
        let skips =
            skips.map(|(index, channels)| load(channels, format!("cross_attention_merger_down_blocks.{index}")));
        let deepest = planar.block_out_channels[planar.levels() - 1];
        Ok(Self {
            skips: skips.collect::<Result<_>>()?,
            mid: load(deepest, "cross_attention_merger_mid_block".into())?,
        })
    }

    /// What the way down has kept at `index`, merged with CAM's of the same place: `[F, C, H, W]` and `[S, C, H, W]`.
    pub fn skip(&self, index: usize, x: &Tensor, memory: &Tensor) -> Result<Tensor> {
        match self.skips.get(index) {
            Some(merger) => merger.forward(x, memory),
            None => bail!("there is no merger for skip {index}"),
        }
    }

    /// The same of what the middle gives.
    pub fn mid(&self, x: &Tensor, memory: &Tensor) -> Result<Tensor> {
        self.mid.forward(x, memory)
    }
}

/// Brings the anchor's tokens into the text of one attention: `text + silu(alpha) norm(conv(text and tokens))`, where the convolution runs along
/// the values of a token and takes tokens for channels.
#[derive(Debug)]
struct Mixer {
    conv: Conv3d,
    conv_ln: LayerNorm,
    /// `silu(alpha)`.
    share: f64,
}

/// The mixers of all attentions to the text, in the order in which they run.
#[derive(Debug)]
pub struct Mixers {
    all: Vec<Mixer>,
    text_tokens: usize,
}

impl Mixers {
    /// From `conv`, `conv_ln` and `alpha` of each attention to the text.
    pub fn load(config: &StreamingUNetConfig, vb: &VarBuilder) -> Result<Self> {
        let planar = config.unet.planar("unet")?;
        let (text, all, dim) =
            (config.text_tokens, config.text_tokens + config.image_tokens, planar.cross_attention_dim);
        if text == 0 || config.image_tokens == 0 || all > 1 << 16 {
            bail!("unet config: text_tokens is {text}, image_tokens is {}; 1 and more are right", config.image_tokens)
        }
        let load = |path: String| {
            let vb = vb.pp(path).pp("transformer_blocks.0.attn2");
            let alpha = f64::from(vb.get((), "alpha")?.to_dtype(DType::F32)?.to_scalar::<f32>()?);
            Ok(Mixer {
                conv: along_values(all, text, vb.pp("conv"))?,
                conv_ln: LayerNorm::load(dim, true, LAYER_NORM_EPS, vb.pp("conv_ln"))?,
                share: alpha / (1.0 + (-alpha).exp()),
            })
        };
        let all = planar.attention_paths().into_iter().map(load).collect::<Result<_>>()?;
        Ok(Self { all, text_tokens: text })
    }

    /// The text `[T, D]` of attention `layer` with `tokens` `[I, D]` of the anchor mixed in.
    pub fn mix(&self, layer: usize, text: &Tensor, tokens: &Tensor) -> Result<Tensor> {
        let Some(mixer) = self.all.get(layer) else { bail!("there is no mixer for attention {layer}") };
        if text.dim(0)? != self.text_tokens {
            bail!("a text of {} tokens for mixers of {}", text.dim(0)?, self.text_tokens)
        }
        let both = Tensor::cat(&[text, &tokens.to_dtype(text.dtype())?], 0)?; // [T + I, D]
        let mixed = mixer.conv_ln.forward(&convolved(&mixer.conv, &both)?)?;
        text + (mixed * mixer.share)?
    }
}

/// A convolution over three neighbours along the only axis, as one over time of maps of one cell.
fn along_values(channels: usize, out: usize, vb: VarBuilder) -> Result<Conv3d> {
    let weight = vb.get((out, channels, 3), "weight")?.reshape((out, channels, 3, 1, 1))?;
    Conv3d::new(&weight, Some(vb.get(out, "bias")?))
}

/// `[C, L]` to `[C', L]`, zeros beyond the ends.
fn convolved(conv: &Conv3d, x: &Tensor) -> Result<Tensor> {
    let (channels, _) = x.dims2()?;
    let edge = Tensor::zeros((1, channels, 1, 1), x.dtype(), x.device())?;
    let x = x.t()?.contiguous()?.unsqueeze(2)?.unsqueeze(3)?; // [L, C, 1, 1]
    conv.forward_parts(&[&edge, &x, &edge], None)?.squeeze(3)?.squeeze(2)?.t()?.contiguous()
}

/// CAM's `config.json`: a text-to-video UNet's keys, those of its way up aside, and its own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CamConfig {
    #[serde(flatten)]
    pub unet: UNet3DConfig,
    pub conditioning_channels: usize,
    pub conditioning_embedding_out_channels: Vec<usize>,
    /// Frames before a chunk that it sees.
    pub num_frames: usize,
}

impl CamConfig {
    /// Refuses, in one line that names the key, what no such network has.
    pub fn check(&self) -> Result<()> {
        let channels = &self.conditioning_embedding_out_channels;
        if !(1..=8).contains(&channels.len()) || channels.iter().any(|&channels| !(1..=1 << 14).contains(&channels)) {
            bail!("cam config: conditioning_embedding_out_channels is {channels:?}; 1 to 8 widths are supported")
        }
        if self.conditioning_channels != 3 {
            bail!("cam config: conditioning_channels is {}; pictures have 3", self.conditioning_channels)
        }
        if !(1..=1 << 10).contains(&self.num_frames) {
            bail!("cam config: num_frames is {}; it must lie between 1 and 1024", self.num_frames)
        }
        Ok(())
    }

    /// The network of pictures that it is between its layers in time.
    ///
    /// # Errors
    /// Those of [`UNet3DConfig::planar`].
    pub fn planar(&self) -> Result<UNetConfig> {
        // the way up is not there, and has no keys
        let up_block_types = vec!["UpBlock3D".to_owned(); self.unet.block_out_channels.len()];
        UNet3DConfig { up_block_types, ..self.unet.clone() }.planar("cam")
    }

    /// Pixels of a cell, in height and in width.
    pub fn ratio(&self) -> usize {
        1 << self.conditioning_embedding_out_channels.len().saturating_sub(1)
    }
}

/// What CAM has seen, for the mergers: `[S, C, H, W]` each.
#[derive(Debug, Clone)]
pub struct Memory {
    pub skips: Vec<Tensor>,
    pub mid: Tensor,
}

/// The conditional attention module.
#[derive(Debug)]
pub struct Cam {
    entrance: Entrance,
    frames: Hint, // controlnet_cond_embedding
    units: Vec<Unit>,
}

impl Cam {
    /// Loads the network; errors name the configuration's key or the tensor.
    pub fn load(config: &CamConfig, vb: &VarBuilder) -> Result<Self> {
        config.check()?;
        let planar = config.planar()?;
        let widths = (config.conditioning_channels, planar.block_out_channels[0]);
        let frames = vb.pp("controlnet_cond_embedding");
        Ok(Self {
            entrance: Entrance::load(&planar, vb)?,
            frames: Hint::load(&config.conditioning_embedding_out_channels, widths, frames)?,
            units: (0..Unit::count(&planar, false))
                .map(|index| Unit::load(&planar, index, vb))
                .collect::<Result<_>>()?,
        })
    }

    /// What the network sees of the frames before a chunk, `[S, 3, H, W]` from -1 to 1: `[S, C, h, w]`. It depends on no time and no text.
    pub fn look(&self, frames: &Tensor) -> Result<Tensor> {
        self.frames.forward(&frames.to_device(&self.entrance.device)?.to_dtype(self.entrance.dtype)?.contiguous()?)
    }

    /// The memory of each row. Rows are the first frames of the noisy chunk, as many as were seen before it; `seen` is what [`Cam::look`] gives.
    ///
    /// # Errors
    /// Rows that the network does not take, of other sizes than what was seen.
    pub fn forward(&self, rows: &[Row], seen: &Tensor, network: usize, hooks: &mut Hooks) -> Result<Vec<Memory>> {
        hooks.begin(rows)?;
        let hidden = rows.iter().map(|row| self.entrance.enter(row)).collect::<Result<Vec<_>>>()?;
        let layers = self.entrance.config.layers_down();
        let mut walk = self.entrance.walk_with(rows, hidden, Some(seen), hooks, (network, layers))?;
        for unit in &self.units {
            unit.run(&mut walk)?;
        }
        Ok(walk.finish()?.into_iter().map(|(mid, skips)| Memory { skips, mid }).collect())
    }
}

/// The resampler's `config.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ResamplerConfig {
    pub embed_dim: usize,
    pub inner_dim: usize,
    pub cross_attention_dim: usize,
    pub num_tokens: usize,
}

/// Makes tokens of the embedding of an anchor frame.
#[derive(Debug)]
pub struct Resampler {
    layers: [Linear; 2], // context_embedding.0, context_embedding.2
    tokens: usize,
}

impl Resampler {
    /// # Errors
    /// Sizes that no such network has, and tensors of other shapes.
    pub fn load(config: &ResamplerConfig, vb: &VarBuilder) -> Result<Self> {
        let ResamplerConfig { embed_dim, inner_dim, cross_attention_dim, num_tokens } = *config;
        for (key, size) in [
            ("embed_dim", embed_dim),
            ("inner_dim", inner_dim),
            ("cross_attention_dim", cross_attention_dim),
            ("num_tokens", num_tokens),
        ] {
            if !(1..=1 << 16).contains(&size) {
                bail!("resampler config: {key} is {size}; it must lie between 1 and 65536")
            }
        }
        let vb = vb.pp("context_embedding");
        let first = linear(embed_dim, inner_dim, true, vb.pp(0))?;
        Ok(Self {
            layers: [first, linear(inner_dim, num_tokens * cross_attention_dim, true, vb.pp(2))?],
            tokens: num_tokens,
        })
    }

    /// `[1, E]` to `[I, D]`.
    pub fn forward(&self, embedding: &Tensor) -> Result<Tensor> {
        let tokens = self.layers[1].forward(&silu(&self.layers[0].forward(embedding)?)?)?;
        tokens.reshape((self.tokens, ()))
    }
}
