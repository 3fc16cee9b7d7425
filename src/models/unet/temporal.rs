//! What a video UNet has between the layers of a UNet for pictures, after diffusers' `TemporalConvLayer` and
//! `TransformerTemporalModel`: convolutions over time, and attention of the frames of a position among themselves. Both see all
//! frames of a row, and norms before them take its frames together. Nothing says which frame is which but the convolutions.

use super::transformer::{Attention, Place};
use crate::attention::{Hooks, SiteKind};
use crate::models::layers::{GatedFeedForward, LayerNorm, affine};
use crate::nn::conv::{Conv3d, conv3d};
use crate::nn::linear::{Linear, linear};
use crate::nn::norm::GroupNorm;
use crate::nn::turn::turned;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// Of the norms inside a temporal convolution, whatever the configuration's `norm_eps`.
const CONV_EPS: f64 = 1e-5;
/// Of the norm before attention; those inside have [`NORM_EPS`].
const GROUP_NORM_EPS: f64 = 1e-6;
const NORM_EPS: f64 = 1e-5;

fn group_norm(channels: usize, groups: usize, eps: f64, vb: VarBuilder) -> Result<GroupNorm> {
    let (weight, bias) = affine(channels, &vb)?;
    GroupNorm::new(groups, weight, bias, eps)
}

/// Four convolutions over three frames, each behind a norm and SiLU, around which the input goes.
#[derive(Debug)]
pub(super) struct TemporalConvLayer {
    stages: Vec<(GroupNorm, Conv3d)>, // conv1.0, conv1.2; conv2.0, conv2.3; ..
}

impl TemporalConvLayer {
    /// From the weights at `temp_convs.N`.
    pub(super) fn load(channels: usize, groups: usize, vb: VarBuilder) -> Result<Self> {
        let stage = |index: usize| {
            let vb = vb.pp(format!("conv{index}"));
            // a place of dropout stands before all convolutions but the first
            let conv = if index == 1 { "2" } else { "3" };
            let norm = group_norm(channels, groups, CONV_EPS, vb.pp("0"))?;
            Ok((norm, conv3d(channels, channels, 3, 1, vb.pp(conv))?))
        };
        Ok(Self { stages: (1..=4).map(stage).collect::<Result<_>>()? })
    }

    /// The frames of one row, `[F, C, H, W]` to the same; zeros stand before the first frame and behind the last.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, c, h, w) = x.dims4()?;
        let edge = Tensor::zeros((1, c, h, w), x.dtype(), x.device())?;
        let mut hidden = x.clone();
        for (index, (norm, conv)) in self.stages.iter().enumerate() {
            let residual = (index + 1 == self.stages.len()).then_some(x);
            hidden = conv.forward_parts(&[&edge, &norm.forward_silu(&hidden, 1)?, &edge], residual)?;
        }
        Ok(hidden)
    }
}

/// One place of attention in time: twice, the second where a UNet for pictures has the text, then a gated feed-forward part.
#[derive(Debug)]
pub(super) struct TransformerTemporal {
    norm: GroupNorm,
    proj_in: Linear,
    norm1: LayerNorm, // transformer_blocks.0.norm1
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: GatedFeedForward,
    proj_out: Linear,
    /// The index of its first attention among the network's layers in time, in the order in which they run.
    layer: usize,
}

impl TransformerTemporal {
    /// From the weights at `temp_attentions.N` or `transformer_in`. `heads`: their number and width, which together need not be
    /// the `channels` of the maps. `place`: its index among the network's places of attention in time.
    pub(super) fn load(
        channels: usize,
        (heads, head_dim): (usize, usize),
        groups: usize,
        place: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        let width = heads * head_dim;
        let block = vb.pp("transformer_blocks.0");
        let norm = |name: &str| LayerNorm::load(width, true, NORM_EPS, block.pp(name));
        Ok(Self {
            norm: group_norm(channels, groups, GROUP_NORM_EPS, vb.pp("norm"))?,
            proj_in: linear(channels, width, true, vb.pp("proj_in"))?,
            norm1: norm("norm1")?,
            attn1: Attention::load(width, None, heads, block.pp("attn1"))?,
            norm2: norm("norm2")?,
            attn2: Attention::load(width, None, heads, block.pp("attn2"))?,
            norm3: norm("norm3")?,
            ff: GatedFeedForward::load(width, block.pp("ff"))?,
            proj_out: linear(width, channels, true, vb.pp("proj_out"))?,
            layer: 2 * place,
        })
    }

    /// Rows of `place.frames` frames each, one after the other, `[R F, C, H, W]` to the same. `place.inner`: the positions of
    /// each row.
    pub(super) fn forward(&self, x: &Tensor, place: Place, hooks: &mut Hooks) -> Result<Tensor> {
        let (rows, frames) = (place.rows.len(), place.frames);
        let (_, c, h, w) = x.dims4()?;
        let tokens = turned(&self.norm.forward(x, rows)?.reshape((rows * frames, c, h * w))?)?;
        let tokens = tokens.reshape((rows, frames, h * w, c))?.transpose(1, 2)?.contiguous()?;
        let tokens = self.proj_in.forward(&tokens.reshape((rows * h * w, frames, c))?)?; // [R HW, F, D]
        let site = place.site(SiteKind::Temporal, self.layer, self.attn1.path(), (h, w));
        let mut tokens = hooks.in_stretches(&tokens, &site, |tokens, frames, hooks| {
            self.attended(tokens, Place { frames, ..place }, (h, w), hooks)
        })?;
        tokens = (&tokens + self.ff.forward(&self.norm3.forward(&tokens)?)?)?;
        let y = self.proj_out.forward(&tokens)?.reshape((rows, h * w, frames, c))?;
        let y = y.transpose(1, 2)?.contiguous()?.reshape((rows * frames, h * w, c))?;
        x + turned(&y)?.reshape(x.shape())?
    }

    /// Both attentions on `[R HW, F, D]`, frames that see each other.
    fn attended(&self, tokens: &Tensor, place: Place, cells: (usize, usize), hooks: &mut Hooks) -> Result<Tensor> {
        let parts = [(&self.norm1, &self.attn1), (&self.norm2, &self.attn2)];
        parts.into_iter().enumerate().try_fold(tokens.clone(), |tokens, (index, (norm, attention))| {
            let site = place.site(SiteKind::Temporal, self.layer + index, attention.path(), cells);
            &tokens + attention.forward(&norm.forward(&tokens)?, None, &site, hooks)?
        })
    }
}
