//! One block of STIV's transformer: attention within each frame, in time, on the text, and a feed-forward part. The first and the
//! last stand behind an adaptive norm that all blocks share, but for a table of each; norms without weights stand before and, as
//! sandwiches, behind all but the attention on the text.

use super::config::StivConfig;
use super::positions::Positions;
use crate::attention::{Feature, Hooks, Layout, Qkv, Site, SiteKind, inner_ranges};
use crate::models::layers::FeedForward;
use crate::nn::compute_dtype;
use crate::nn::linear::{Linear, linear, linear_joined};
use crate::nn::norm::{Modulation, gate_residual, layer_norm, layer_norm_modulate};
use crate::nn::rope::{Halves, rms_norm_rope};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// Attention of tokens on tokens, or on a text.
#[derive(Debug)]
struct Attention {
    to_q: Linear, // to_q; with to_k and to_v where the keys are those of the queries' tokens
    to_kv: Option<Linear>,
    norms: Option<(Tensor, Tensor)>, // norm_q, norm_k
    to_out: Linear,                  // to_out.0
    heads: usize,
    head_dim: usize,
    eps: f64,
    path: String,
}

impl Attention {
    /// `text`: whether keys and values are a text's.
    fn load(config: &StivConfig, text: bool, vb: VarBuilder) -> Result<Self> {
        let (dim, head_dim) = (config.inner_dim(), config.attention_head_dim);
        let [q, k, v] = ["to_q", "to_k", "to_v"].map(|name| vb.pp(name));
        let (to_q, to_kv) = if text {
            (linear(dim, dim, true, q)?, Some(linear_joined(dim, dim, true, &[k, v])?))
        } else {
            (linear_joined(dim, dim, true, &[q, k, v])?, None)
        };
        let dtype = compute_dtype(vb.dtype(), vb.device());
        let norm = |name: &str| vb.pp(name).get(head_dim, "weight")?.to_dtype(dtype);
        let norms = config.qk_norm.is_some().then(|| Ok::<_, candle_core::Error>((norm("norm_q")?, norm("norm_k")?)));
        Ok(Self {
            to_q,
            to_kv,
            norms: norms.transpose()?,
            to_out: linear(dim, dim, true, vb.pp("to_out.0"))?,
            heads: config.num_attention_heads,
            head_dim,
            eps: config.norm_eps,
            path: vb.prefix(),
        })
    }

    fn qkv(&self, q: &Tensor, k: &Tensor, v: Tensor, rotary: Option<&Halves>) -> Result<Qkv> {
        let norms = self.norms.as_ref();
        Ok(Qkv {
            q: rms_norm_rope(q, norms.map(|(q, _)| q), self.eps, rotary)?,
            k: rms_norm_rope(k, norms.map(|(_, k)| k), self.eps, rotary)?,
            v,
            scale: 1.0 / (self.head_dim as f64).sqrt(),
            scores: Default::default(),
        })
    }

    /// Part `index` of `x`, whose last axis is `[parts, N, d]`, as `[batch, N, L, d]`.
    fn heads(&self, x: &Tensor, (batch, tokens): (usize, usize), parts: usize, index: usize) -> Result<Tensor> {
        let x = x.reshape((batch, tokens, parts, self.heads, self.head_dim))?;
        x.narrow(2, index, 1)?.squeeze(2)?.transpose(1, 2)
    }

    /// The output of `y`, whose storage is that of `[B, L, N, d]`, as `[B, L, D]`.
    fn out(&self, y: &Tensor, shape: (usize, usize)) -> Result<Tensor> {
        let (b, l) = shape;
        self.to_out.forward(&y.contiguous()?.reshape((b, l, self.heads * self.head_dim))?)
    }

    /// What it adds to `x` `[B, T S, D]`: each frame's tokens attend to each other.
    fn in_frames(&self, x: &Tensor, at: &Place, rotary: &Halves, hooks: &mut Hooks) -> Result<Tensor> {
        let (b, l, _) = x.dims3()?;
        let (frames, height, width) = at.grid;
        let batch = (b * frames, height * width);
        let projected = self.to_q.forward(x)?;
        let [q, k, v] = [0, 1, 2].map(|part| self.heads(&projected, batch, 3, part));
        let inner = inner_ranges(at.rows.iter().map(|_| frames));
        let site = Site { inner: &inner, ..at.site(SiteKind::SelfSpatial, &self.path) };
        let y = hooks.attend(self.qkv(&q?, &k?, v?, Some(rotary))?, &site)?; // [B T, N, S, d]
        let y = self.out(&y.transpose(1, 2)?, (b, l))?;
        hooks.inject(y, Feature::Attended(SiteKind::SelfSpatial), Layout::Tokens, &site)
    }

    /// The same: the frames of each place attend to each other. A row's tokens stay where they lie.
    fn in_time(&self, x: &Tensor, at: &Place, rotary: &Halves, hooks: &mut Hooks) -> Result<Tensor> {
        let (b, l, _) = x.dims3()?;
        let (frames, height, width) = at.grid;
        let places = height * width;
        let projected = self.to_q.forward(x)?.reshape(&[b, frames, places, 3, self.heads, self.head_dim])?;
        let part = |index: usize| {
            let part = projected.narrow(3, index, 1)?.squeeze(3)?; // [B, T, S, N, d]
            match b {
                1 => part.squeeze(0)?.permute((1, 2, 0, 3)),
                _ => part.permute((0, 2, 3, 1, 4))?.reshape((b * places, self.heads, frames, self.head_dim)),
            }
        };
        let inner = inner_ranges(at.rows.iter().map(|_| places));
        let site = Site { inner: &inner, ..at.site(SiteKind::Temporal, &self.path) };
        let y = hooks.attend(self.qkv(&part(0)?, &part(1)?, part(2)?, Some(rotary))?, &site)?; // [B S, N, T, d]
        let y = match b {
            1 => y.permute((2, 0, 1, 3))?,
            _ => y.reshape((b, places, self.heads, frames, self.head_dim))?.permute((0, 3, 1, 2, 4))?,
        };
        let y = self.out(&y, (b, l))?;
        hooks.inject(y, Feature::Attended(SiteKind::Temporal), Layout::Tokens, &site)
    }

    /// The same: all tokens attend to the text `[B, Lt, D]`.
    fn on_text(&self, x: &Tensor, text: &Tensor, at: &Place, hooks: &mut Hooks) -> Result<Tensor> {
        let (b, l, _) = x.dims3()?;
        let tokens = text.dim(1)?;
        let inner = inner_ranges(at.rows.iter().map(|_| 1));
        let site = Site { inner: &inner, text: 0..tokens, ..at.site(SiteKind::Cross, &self.path) };
        let q = self.heads(&self.to_q.forward(x)?, (b, l), 1, 0)?;
        let text = hooks.context(text.clone(), &site)?;
        let keys = self.to_kv.as_ref().unwrap_or(&self.to_q).forward(&text)?;
        let [k, v] = [0, 1].map(|part| self.heads(&keys, (b, tokens), 2, part));
        let y = hooks.attend(self.qkv(&q, &k?, v?, None)?, &site)?; // [B, N, T S, d]
        let y = self.out(&y.transpose(1, 2)?, (b, l))?;
        hooks.inject(y, Feature::Attended(SiteKind::Cross), Layout::Tokens, &site)
    }
}

/// Where a micro-batch of rows stands in the network.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub layer: usize,
    pub layers: usize,
    /// Frames, height and width in tokens.
    pub grid: (usize, usize, usize),
    pub rows: &'a [usize],
}

impl<'a> Place<'a> {
    fn site(&self, kind: SiteKind, path: &'a str) -> Site<'a> {
        let Self { layer, layers, grid, rows } = *self;
        Site { network: 0, layer, layers, kind, path, text: 0..0, grid, inner: &[], rows }
    }

    /// That of the block itself.
    pub fn block(&self) -> Site<'a> {
        self.site(SiteKind::SelfSpatial, "transformer_blocks")
    }
}

/// The condition of a micro-batch, by stretches of its tokens: how many, and a tensor of a row each.
pub(super) type Stretches = [(usize, Tensor)];

/// One layer.
#[derive(Debug)]
pub(super) struct Block {
    attn1: Attention,
    attn_temporal: Attention,
    attn2: Attention,
    ff: FeedForward,
    scale_shift_table: Option<Tensor>, // [1, 6 D]
    temporal_gate: Option<Tensor>,     // [1, D]
    sandwich: bool,
    eps: f64,
}

impl Block {
    pub(super) fn load(config: &StivConfig, vb: VarBuilder) -> Result<Self> {
        let dim = config.inner_dim();
        let dtype = compute_dtype(vb.dtype(), vb.device());
        let table =
            config.adaln_tables.then(|| vb.get((6, dim), "scale_shift_table")?.to_dtype(dtype)?.reshape((1, 6 * dim)));
        let gate = config.temporal_gate.then(|| vb.get(dim, "temporal_gate")?.to_dtype(dtype)?.reshape((1, dim)));
        Ok(Self {
            attn1: Attention::load(config, false, vb.pp("attn1"))?,
            attn_temporal: Attention::load(config, false, vb.pp("attn_temporal"))?,
            attn2: Attention::load(config, true, vb.pp("attn2"))?,
            ff: FeedForward::of(dim, config.ff_dim(), vb.pp("ff"))?,
            scale_shift_table: table.transpose()?,
            temporal_gate: gate.transpose()?,
            sandwich: config.sandwich_norm,
            eps: config.norm_eps,
        })
    }

    /// `x` with `gates` times `y`, behind a norm where there are sandwiches.
    fn add(&self, x: &Tensor, y: &Tensor, gates: &Stretches) -> Result<Tensor> {
        if self.sandwich {
            gate_residual(x, &layer_norm(y, None, None, self.eps)?, gates)
        } else {
            gate_residual(x, y, gates)
        }
    }

    /// `x` `[B, T S, D]`; `modulation` `[B, 6 D]` by stretches; `text` `[B, Lt, D]`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        modulation: &Stretches,
        text: &Tensor,
        positions: &Positions,
        (at, hooks): (&Place, &mut Hooks),
    ) -> Result<Tensor> {
        let mut of = [const { Vec::new() }; 6]; // shift, scale, gate, shift, scale, gate
        for (tokens, own) in modulation {
            let own = match &self.scale_shift_table {
                Some(table) => own.broadcast_add(table)?,
                None => own.clone(),
            };
            for (part, chunk) in of.iter_mut().zip(own.chunk(6, 1)?) {
                part.push((*tokens, chunk.contiguous()?));
            }
        }
        let [shift1, scale1, gate1, shift2, scale2, gate2] = of;
        let modulated = |x: &Tensor, shift: &Stretches, scale: &Stretches| {
            let parts = shift.iter().zip(scale).map(|((tokens, shift), (_, scale))| Modulation {
                tokens: *tokens,
                shift: shift.clone(),
                scale: scale.clone(),
            });
            layer_norm_modulate(x, None, None, self.eps, &parts.collect::<Vec<_>>())
        };
        let y = self.attn1.in_frames(&modulated(x, &shift1, &scale1)?, at, &positions.space, hooks)?;
        let x = self.add(x, &y, &gate1)?;
        let y = self.attn_temporal.in_time(&layer_norm(&x, None, None, self.eps)?, at, &positions.time, hooks)?;
        let x = match &self.temporal_gate {
            Some(gate) => self.add(&x, &y, &[(x.dim(1)?, gate.clone())])?,
            None if self.sandwich => (x + layer_norm(&y, None, None, self.eps)?)?,
            None => (x + y)?,
        };
        let x = (&x + self.attn2.on_text(&x, text, at, hooks)?)?;
        let y = self.ff.forward(&modulated(&x, &shift2, &scale2)?)?;
        self.add(&x, &y, &gate2)
    }
}
