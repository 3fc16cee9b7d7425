//! Attention of a UNet: within each frame, of each frame on its row's text, and a gated feed-forward part; after diffusers'
//! `Transformer2DModel` with one `BasicTransformerBlock`. Linear layers and 1x1 convolutions around it are the same product.

use super::config::UNetConfig;
use crate::attention::{Feature, Hooks, Layout, Qkv, Site, SiteKind};
use crate::models::blocks2d::GroupNorm;
use crate::models::layers::{GatedFeedForward, LayerNorm};
use crate::nn::linear::{Linear, linear, linear_joined};
use crate::nn::turn::turned;
use candle_core::{Result, Tensor, TensorId, bail};
use candle_nn::VarBuilder;
use std::sync::{Mutex, PoisonError};

/// Of the norm before the block; those inside have [`NORM_EPS`].
const GROUP_NORM_EPS: f64 = 1e-6;
const NORM_EPS: f64 = 1e-5;

/// Attention of tokens on tokens, or on a text.
#[derive(Debug)]
pub(super) struct Attention {
    to_q: Linear, // to_q; with to_k and to_v where the keys are those of the queries' tokens
    to_kv: Option<Linear>,
    to_out: Linear, // to_out.0
    heads: usize,
    path: String,
    /// The last texts that were projected to keys and values, and those: texts are mostly those of the step before.
    kept: Mutex<Option<(Vec<TensorId>, Tensor)>>,
}

impl Attention {
    /// `context`: width of the text, where keys and values are a text's.
    pub(super) fn load(width: usize, context: Option<usize>, heads: usize, vb: VarBuilder) -> Result<Self> {
        let [q, k, v] = ["to_q", "to_k", "to_v"].map(|name| vb.pp(name));
        let (to_q, to_kv) = match context {
            None => (linear_joined(width, width, false, &[q, k, v])?, None),
            Some(context) => (linear(width, width, false, q)?, Some(linear_joined(context, width, false, &[k, v])?)),
        };
        let path = vb.prefix();
        Ok(Self {
            to_q,
            to_kv,
            to_out: linear(width, width, true, vb.pp("to_out.0"))?,
            heads,
            path,
            kept: Mutex::default(),
        })
    }

    /// Where its weights are, for messages.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Part `index` of `x` `[B, L, parts * D]` by heads, `[B, N, L, d]`.
    fn heads(&self, x: &Tensor, parts: usize, index: usize) -> Result<Tensor> {
        let (b, l, width) = x.dims3()?;
        let head_dim = width / parts / self.heads;
        x.reshape((b, l, parts, self.heads, head_dim))?.narrow(2, index, 1)?.squeeze(2)?.transpose(1, 2)
    }

    /// Keys and values of texts, `[rows, Lt, 2 D]`.
    fn keys(&self, to_kv: &Linear, texts: &Seen) -> Result<Tensor> {
        let Seen { texts, of } = texts;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, keys)) = kept.as_ref().filter(|(known, _)| !of.is_empty() && known == of) {
            return Ok(keys.clone());
        }
        let keys = to_kv.forward(texts)?;
        *kept = (!of.is_empty()).then(|| (of.clone(), keys.clone()));
        Ok(keys)
    }

    /// What it adds to `x` `[B, L, D]`.
    pub(super) fn forward(&self, x: &Tensor, texts: Option<&Texts>, site: &Site, hooks: &mut Hooks) -> Result<Tensor> {
        let projected = self.to_q.forward(x)?;
        let [q, k, v] = match (&self.to_kv, texts) {
            (None, _) => [0, 1, 2].map(|part| self.heads(&projected, 3, part)),
            (Some(_), None) => bail!("{}: no text", self.path),
            (Some(to_kv), Some(texts)) => {
                let keys = self.keys(to_kv, &texts.seen(site, hooks)?)?;
                let of_frames = |part| texts.spread(&self.heads(&keys, 2, part)?, site);
                [self.heads(&projected, 1, 0), of_frames(0), of_frames(1)]
            }
        };
        let q = q?;
        let scale = 1.0 / (q.dim(3)? as f64).sqrt();
        let y = hooks.attend(Qkv { q, k: k?, v: v?, scale, scores: Default::default() }, site)?; // [B, N, L, d]
        let y = self.to_out.forward(&y.transpose(1, 2)?.contiguous()?.reshape(x.shape())?)?;
        hooks.inject(y, Feature::Attended(site.kind), Layout::Tokens, site)
    }
}

/// The texts of a group of rows.
#[derive(Debug)]
pub(super) enum Texts {
    /// One a row, `[rows, Lt, Dt]`, and which tensor each was given as.
    OfRows(Tensor, Vec<TensorId>),
    /// Some, `[T, Lt, Dt]`, and which of them each frame of all rows reads.
    OfFrames(Tensor, Tensor),
}

/// Texts as they are projected.
#[derive(Debug)]
struct Seen {
    texts: Tensor,
    /// What they were made of and nothing else; empty where nobody knows.
    of: Vec<TensorId>,
}

impl Texts {
    /// Tokens of each.
    fn tokens(&self) -> Result<usize> {
        match self {
            Self::OfRows(texts, _) | Self::OfFrames(texts, _) => texts.dim(1),
        }
    }

    /// What is projected to keys and values. Controls see the texts of rows; a frame's own text is no row's.
    fn seen(&self, site: &Site, hooks: &mut Hooks) -> Result<Seen> {
        match self {
            Self::OfRows(given, of) => {
                let texts = hooks.context(given.clone(), site)?;
                let of = if texts.id() == given.id() { of.clone() } else { vec![texts.id()] };
                Ok(Seen { texts, of })
            }
            Self::OfFrames(texts, _) => Ok(Seen { texts: texts.clone(), of: Vec::new() }),
        }
    }

    /// Keys or values of all texts `[.., N, Lt, d]` as those of the frames.
    fn spread(&self, all: &Tensor, site: &Site) -> Result<Tensor> {
        match self {
            Self::OfRows(..) => {
                let rows = site.inner.iter().enumerate();
                let rows = rows.map(|(row, inner)| all.narrow(0, row, 1)?.repeat((inner.len(), 1, 1, 1)));
                Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)
            }
            Self::OfFrames(_, frames) => all.contiguous()?.index_select(frames, 0),
        }
    }
}

/// One place of attention in a UNet.
#[derive(Debug)]
pub(super) struct Transformer2D {
    norm: GroupNorm,
    proj_in: Linear,
    norm1: LayerNorm, // transformer_blocks.0.norm1
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: GatedFeedForward,
    proj_out: Linear,
    /// Its index among the network's attention layers, in the order in which they run.
    pub(super) layer: usize,
}

/// Where a group of rows stands in a network.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub network: usize,
    /// Places of attention within frames.
    pub layers: usize,
    pub rows: &'a [usize],
    pub inner: &'a [std::ops::Range<usize>],
    /// Frames of the longest row.
    pub frames: usize,
}

impl<'a> Place<'a> {
    /// The site of a layer on maps of so many cells.
    pub fn site(&self, kind: SiteKind, layer: usize, path: &'a str, cells: (usize, usize)) -> Site<'a> {
        // in time two layers a place, and one place more: before all others
        let layers = if kind == SiteKind::Temporal { 2 * (self.layers + 1) } else { self.layers };
        Site {
            network: self.network,
            layer,
            layers,
            kind,
            path,
            text: 0..0,
            grid: (self.frames, cells.0, cells.1),
            inner: self.inner,
            rows: self.rows,
        }
    }
}

impl Transformer2D {
    /// From the weights at `attentions.N`.
    pub(super) fn load(config: &UNetConfig, level: usize, layer: usize, vb: VarBuilder) -> Result<Self> {
        let width = config.block_out_channels[level];
        let heads = config.attention_head_dim.at(level);
        let block = vb.pp("transformer_blocks.0");
        let norm = |name: &str| LayerNorm::load(width, true, NORM_EPS, block.pp(name));
        let projection = |name: &str| {
            let vb = vb.pp(name);
            let weight = if config.use_linear_projection {
                vb.get((width, width), "weight")?
            } else {
                vb.get((width, width, 1, 1), "weight")?.reshape((width, width))?
            };
            Linear::new(weight, Some(vb.get(width, "bias")?), vb.dtype())
        };
        Ok(Self {
            norm: GroupNorm::load(width, config.norm_num_groups, GROUP_NORM_EPS, vb.pp("norm"))?,
            proj_in: projection("proj_in")?,
            norm1: norm("norm1")?,
            attn1: Attention::load(width, None, heads, block.pp("attn1"))?,
            norm2: norm("norm2")?,
            attn2: Attention::load(width, Some(config.cross_attention_dim), heads, block.pp("attn2"))?,
            norm3: norm("norm3")?,
            ff: GatedFeedForward::load(width, block.pp("ff"))?,
            proj_out: projection("proj_out")?,
            layer,
        })
    }

    /// `[B, C, H, W]` to the same.
    pub(super) fn forward(&self, x: &Tensor, texts: &Texts, place: Place, hooks: &mut Hooks) -> Result<Tensor> {
        let (b, c, h, w) = x.dims4()?;
        let maps = turned(&self.norm.forward(x)?.reshape((b, c, h * w))?)?;
        let mut tokens = self.proj_in.forward(&maps)?; // [B, HW, C]
        let site = place.site(SiteKind::SelfSpatial, self.layer, &self.attn1.path, (h, w));
        let attended = self.attn1.forward(&self.norm1.forward(&tokens)?, None, &site, hooks)?;
        tokens = (tokens + attended)?;
        let site = place.site(SiteKind::Cross, self.layer, &self.attn2.path, (h, w));
        let site = Site { text: 0..texts.tokens()?, ..site };
        let attended = self.attn2.forward(&self.norm2.forward(&tokens)?, Some(texts), &site, hooks)?;
        tokens = (tokens + attended)?;
        tokens = (&tokens + self.ff.forward(&self.norm3.forward(&tokens)?)?)?;
        let y = turned(&self.proj_out.forward(&tokens)?)?.reshape((b, c, h, w))?;
        x + y
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn texts_are_projected_once() {
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
        let attention = Attention::load(4, Some(6), 2, vb).unwrap();
        let weight = Tensor::ones((8, 6), DType::F32, &Device::Cpu).unwrap();
        let to_kv = Linear::new(weight, None, DType::F32).unwrap();
        let text = |value: f64| (Tensor::ones((1, 3, 6), DType::F32, &Device::Cpu).unwrap() * value).unwrap();
        let (one, other) = (text(1.0), text(2.0));
        let first = |texts: &Tensor, of: &[&Tensor]| {
            let of = of.iter().map(|given| given.id()).collect();
            let keys = attention.keys(&to_kv, &Seen { texts: texts.clone(), of }).unwrap();
            keys.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]
        };
        assert_eq!(first(&one, &[&one]), 6.0);
        assert_eq!(first(&other, &[&one]), 6.0, "what is known is not looked at");
        assert_eq!(first(&other, &[&other]), 12.0);
        assert_eq!(first(&one, &[]), 6.0, "nobody knows what these are made of");
        assert_eq!(first(&other, &[]), 12.0);
    }
}
