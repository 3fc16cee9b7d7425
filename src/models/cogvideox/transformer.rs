//! The CogVideoX transformer (arXiv 2408.06072), after diffusers' `CogVideoXTransformer3DModel`: joint attention over text and
//! video tokens, each with its own adaptive layer norm, in every block.
//!
//! Different from the reference in form only. Text and video are kept as one joint sequence from embedding to output, since
//! every weight but the modulation serves both. Rows are kept apart and meet in a batch only where they need each other
//! (see [`crate::attention`]). A model with an `ofs` embedding gets the value 2 that diffusers' image-to-video pipeline uses.

use super::blocks::Blocks;
use super::positions::{Grid, Positions, timestep_sinusoid};
use crate::attention::{Feature, Hooks, Qkv, Site, SiteKind};
use crate::models::{Denoiser, DenoiserRow};
use crate::nn::act::silu;
use crate::nn::compute_dtype;
use crate::nn::linear::{Linear, linear, linear_joined};
use crate::nn::norm::{Modulation, gate_residual, layer_norm, layer_norm_modulate};
use crate::nn::rope::qk_norm_rope;
use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use serde::Deserialize;
use std::sync::Mutex;

/// `transformer/config.json`; the defaults are diffusers'.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct TransformerConfig {
    pub _class_name: String,
    pub num_attention_heads: usize,
    pub attention_head_dim: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f64,
    pub time_embed_dim: usize,
    pub ofs_embed_dim: Option<usize>,
    pub text_embed_dim: usize,
    pub num_layers: usize,
    pub attention_bias: bool,
    /// Latent pixels.
    pub sample_width: usize,
    /// Latent pixels.
    pub sample_height: usize,
    /// Frames of video, although diffusers documents them as latent frames: 49 stands for 13 latent frames.
    pub sample_frames: usize,
    pub patch_size: usize,
    pub patch_size_t: Option<usize>,
    pub temporal_compression_ratio: usize,
    pub max_text_seq_length: usize,
    pub activation_fn: String,
    pub timestep_activation_fn: String,
    pub norm_elementwise_affine: bool,
    pub norm_eps: f64,
    pub spatial_interpolation_scale: f64,
    pub temporal_interpolation_scale: f64,
    pub use_rotary_positional_embeddings: bool,
    pub use_learned_positional_embeddings: bool,
    pub patch_bias: bool,
}

impl Default for TransformerConfig {
    fn default() -> Self {
        Self {
            _class_name: "CogVideoXTransformer3DModel".into(),
            num_attention_heads: 30,
            attention_head_dim: 64,
            in_channels: 16,
            out_channels: 16,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            time_embed_dim: 512,
            ofs_embed_dim: None,
            text_embed_dim: 4096,
            num_layers: 30,
            attention_bias: true,
            sample_width: 90,
            sample_height: 60,
            sample_frames: 49,
            patch_size: 2,
            patch_size_t: None,
            temporal_compression_ratio: 4,
            max_text_seq_length: 226,
            activation_fn: "gelu-approximate".into(),
            timestep_activation_fn: "silu".into(),
            norm_elementwise_affine: true,
            norm_eps: 1e-5,
            spatial_interpolation_scale: 1.875,
            temporal_interpolation_scale: 1.0,
            use_rotary_positional_embeddings: false,
            use_learned_positional_embeddings: false,
            patch_bias: true,
        }
    }
}

impl TransformerConfig {
    /// Width of a token, D.
    pub fn inner_dim(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Latent frames of the window the model was trained on.
    pub fn window(&self) -> usize {
        (self.sample_frames - 1) / self.temporal_compression_ratio + 1
    }

    /// Refuses what this implementation does not compute, and sizes no network has.
    pub fn check(&self) -> Result<()> {
        if self._class_name != "CogVideoXTransformer3DModel" {
            bail!(
                "transformer/config.json: class {} is not supported (CogVideoXTransformer3DModel is)",
                self._class_name
            )
        }
        for (key, value, known) in [
            ("activation_fn", &self.activation_fn, "gelu-approximate"),
            ("timestep_activation_fn", &self.timestep_activation_fn, "silu"),
        ] {
            if value != known {
                bail!("transformer/config.json: {key} = {value:?} is not supported ({known:?} is)")
            }
        }
        if self.use_learned_positional_embeddings {
            bail!("transformer/config.json: use_learned_positional_embeddings (image-to-video models) is not supported")
        }
        for (key, value, most) in [
            ("num_attention_heads", self.num_attention_heads, 1 << 10),
            ("attention_head_dim", self.attention_head_dim, 1 << 10),
            ("in_channels", self.in_channels, 1 << 10),
            ("out_channels", self.out_channels, 1 << 10),
            ("time_embed_dim", self.time_embed_dim, 1 << 16),
            ("text_embed_dim", self.text_embed_dim, 1 << 16),
            ("num_layers", self.num_layers, 1 << 10),
            ("sample_width", self.sample_width, 1 << 14),
            ("sample_height", self.sample_height, 1 << 14),
            ("sample_frames", self.sample_frames, 1 << 16),
            ("patch_size", self.patch_size, 1 << 6),
            ("patch_size_t", self.patch_size_t.unwrap_or(1), 1 << 6),
            ("temporal_compression_ratio", self.temporal_compression_ratio, 1 << 6),
            ("max_text_seq_length", self.max_text_seq_length, 1 << 16),
        ] {
            if value == 0 || value > most {
                bail!("transformer/config.json: {key} = {value} is out of range (1 to {most})")
            }
        }
        for (key, value) in [
            ("spatial_interpolation_scale", self.spatial_interpolation_scale),
            ("temporal_interpolation_scale", self.temporal_interpolation_scale),
        ] {
            if !(value.is_finite() && value > 0.0) {
                bail!("transformer/config.json: {key} = {value} must be positive")
            }
        }
        Ok(())
    }
}

/// Weight and bias of a norm, in the numbers that are computed with.
fn pair(dim: usize, vb: &VarBuilder) -> Result<(Tensor, Tensor)> {
    let dtype = compute_dtype(vb.dtype(), vb.device());
    Ok((vb.get(dim, "weight")?.to_dtype(dtype)?, vb.get(dim, "bias")?.to_dtype(dtype)?))
}

/// Layer norm with optional affine weights.
#[derive(Debug)]
struct LayerNorm {
    affine: Option<(Tensor, Tensor)>,
    eps: f64,
}

impl LayerNorm {
    fn load(dim: usize, affine: bool, eps: f64, vb: VarBuilder) -> Result<Self> {
        let affine = affine.then(|| pair(dim, &vb));
        Ok(Self { affine: affine.transpose()?, eps })
    }

    fn weight(&self) -> Option<&Tensor> {
        self.affine.as_ref().map(|(weight, _)| weight)
    }

    fn bias(&self) -> Option<&Tensor> {
        self.affine.as_ref().map(|(_, bias)| bias)
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, self.weight(), self.bias(), self.eps)
    }
}

/// Two linear layers with SiLU between: diffusers' `TimestepEmbedding`.
#[derive(Debug)]
struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    fn load(in_dim: usize, dim: usize, vb: VarBuilder) -> Result<Self> {
        let linear_1 = linear(in_dim, dim, true, vb.pp("linear_1"))?;
        let linear_2 = linear(dim, dim, true, vb.pp("linear_2"))?;
        Ok(Self { linear_1, linear_2 })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear_2.forward(&silu(&self.linear_1.forward(x)?)?)
    }
}

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

    /// Modulated tokens and the gates of text and video.
    fn forward(&self, x: &Tensor, emb: &Tensor, text: usize) -> Result<(Tensor, [(usize, Tensor); 2])> {
        let video = x.dim(1)? - text;
        let chunks = self.linear.forward(emb)?.chunk(6, 1)?; // each [1, D]
        let [shift, scale, gate, text_shift, text_scale, text_gate] = chunks.as_slice() else {
            bail!("a modulation has {} chunks instead of 6", chunks.len())
        };
        let parts = [
            Modulation { tokens: text, shift: text_shift.clone(), scale: text_scale.clone() },
            Modulation { tokens: video, shift: shift.clone(), scale: scale.clone() },
        ];
        let x = layer_norm_modulate(x, self.norm.weight(), self.norm.bias(), self.norm.eps, &parts)?;
        Ok((x, [(text, text_gate.clone()), (video, gate.clone())]))
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
        let norm = |vb: VarBuilder| pair(head_dim, &vb);
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
        let qkv = Qkv { q: q?, k: k?, v: head(2)?, scale: 1.0 / (self.head_dim as f64).sqrt() };
        let y = hooks.attend(qkv, site)?; // [B, N, L, D]
        self.to_out.forward(&y.transpose(1, 2)?.contiguous()?.reshape((b, l, self.heads * self.head_dim))?)
    }
}

#[derive(Debug)]
struct FeedForward {
    proj: Linear, // net.0.proj
    out: Linear,  // net.2
}

impl FeedForward {
    fn load(dim: usize, vb: VarBuilder) -> Result<Self> {
        let proj = linear(dim, 4 * dim, true, vb.pp("net.0.proj"))?;
        Ok(Self { proj, out: linear(4 * dim, dim, true, vb.pp("net.2"))? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.out.forward(&self.proj.forward_gelu_tanh(x)?)
    }
}

/// One layer.
#[derive(Debug)]
pub(super) struct Block {
    norm1: LayerNormZero,
    attn1: Attention,
    norm2: LayerNormZero,
    ff: FeedForward,
    path: String,
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

    /// `x` is the joint sequence `[B, L, D]`, `emb` the activated time embedding `[1, E]`.
    fn forward(
        &self,
        x: &Tensor,
        emb: &Tensor,
        positions: &Positions,
        site: &Site,
        hooks: &mut Hooks,
    ) -> Result<Tensor> {
        let text = site.text.end;
        let (normed, gates) = self.norm1.forward(x, emb, text)?;
        let x = gate_residual(x, &self.attn1.forward(&normed, positions, site, hooks)?, &gates)?;
        let (normed, gates) = self.norm2.forward(&x, emb, text)?;
        gate_residual(&x, &self.ff.forward(&normed)?, &gates)
    }
}

/// The denoiser of all CogVideoX models.
#[derive(Debug)]
pub struct Transformer {
    config: TransformerConfig,
    patch_proj: Linear, // patch_embed.proj, a strided convolution or a linear layer: the same matrix
    text_proj: Linear,  // patch_embed.text_proj
    time_embedding: TimestepEmbedding,
    ofs_embedding: Option<TimestepEmbedding>,
    transformer_blocks: Blocks,
    norm_final: LayerNorm,
    norm_out: (Linear, LayerNorm),
    proj_out: Linear,
    dtype: DType,
    device: Device,
    /// Tables of the last grid: all windows of a run have the same.
    positions: Mutex<Option<((usize, Grid), Positions)>>,
}

impl Transformer {
    /// Loads the weights under diffusers' names; the network computes in the builder's dtype, on the processor in f32.
    pub fn load(config: &TransformerConfig, vb: VarBuilder) -> Result<Self> {
        Self::load_with(config, vb, |vb| Blocks::resident(config, &vb))
    }

    /// [`Transformer::load`], but of the blocks no more than two are in memory at a time: each is read from `vb` again when
    /// its turn comes, ahead of it, on another thread. The results are the same.
    pub fn load_streamed(config: &TransformerConfig, vb: VarBuilder<'static>) -> Result<Self> {
        Self::load_with(config, vb, |vb| Blocks::streamed(config, vb))
    }

    fn load_with<'a>(
        config: &TransformerConfig,
        vb: VarBuilder<'a>,
        blocks: impl FnOnce(VarBuilder<'a>) -> Result<Blocks>,
    ) -> Result<Self> {
        config.check()?;
        let (dim, patch, affine, eps) =
            (config.inner_dim(), config.patch_size, config.norm_elementwise_affine, config.norm_eps);
        let patch_dim = config.in_channels * patch * patch * config.patch_size_t.unwrap_or(1);
        let patch_vb = vb.pp("patch_embed.proj");
        let patch_proj = match config.patch_size_t {
            None => {
                let weight = patch_vb.get((dim, config.in_channels, patch, patch), "weight")?;
                let bias = config.patch_bias.then(|| patch_vb.get(dim, "bias")).transpose()?;
                Linear::new(weight.reshape((dim, patch_dim))?, bias, vb.dtype())?
            }
            // has a bias whatever `patch_bias` says
            Some(_) => linear(patch_dim, dim, true, patch_vb)?,
        };
        let ofs = config.ofs_embed_dim.map(|dim| TimestepEmbedding::load(dim, dim, vb.pp("ofs_embedding")));
        let out_dim = config.out_channels * patch * patch * config.patch_size_t.unwrap_or(1);
        Ok(Self {
            patch_proj,
            text_proj: linear(config.text_embed_dim, dim, true, vb.pp("patch_embed.text_proj"))?,
            time_embedding: TimestepEmbedding::load(dim, config.time_embed_dim, vb.pp("time_embedding"))?,
            ofs_embedding: ofs.transpose()?,
            transformer_blocks: blocks(vb.pp("transformer_blocks"))?,
            norm_final: LayerNorm::load(dim, affine, eps, vb.pp("norm_final"))?,
            norm_out: (
                linear(config.time_embed_dim, 2 * dim, true, vb.pp("norm_out.linear"))?,
                LayerNorm::load(dim, affine, eps, vb.pp("norm_out.norm"))?,
            ),
            proj_out: linear(dim, out_dim, true, vb.pp("proj_out"))?,
            dtype: compute_dtype(vb.dtype(), vb.device()),
            device: vb.device().clone(),
            positions: Mutex::new(None),
            config: config.clone(),
        })
    }

    /// The activated time embedding `[1, E]` that every modulation reads.
    fn time(&self, timestep: f64) -> Result<Tensor> {
        let (flip, shift) = (self.config.flip_sin_to_cos, self.config.freq_shift);
        let embed = |value, dim, embedding: &TimestepEmbedding| {
            embedding
                .forward(&timestep_sinusoid(value, dim, flip, shift)?.to_device(&self.device)?.to_dtype(self.dtype)?)
        };
        let mut emb = embed(timestep, self.config.inner_dim(), &self.time_embedding)?;
        if let (Some(embedding), Some(dim)) = (&self.ofs_embedding, self.config.ofs_embed_dim) {
            emb = (emb + embed(2.0, dim, embedding)?)?;
        }
        silu(&emb)
    }

    fn positions(&self, text: usize, grid: Grid) -> Result<Positions> {
        let mut last = self.positions.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*last {
            Some((key, positions)) if *key == (text, grid) => Ok(positions.clone()),
            _ => {
                let positions = Positions::new(&self.config, text, grid, self.dtype, &self.device)?;
                *last = Some(((text, grid), positions.clone()));
                Ok(positions)
            }
        }
    }

    fn grid(&self, latents: &Tensor) -> Result<Grid> {
        let (f, c, h, w) = latents.dims4()?;
        let (patch, patch_t) = (self.config.patch_size, self.config.patch_size_t.unwrap_or(1));
        if c != self.config.in_channels || f % patch_t != 0 || h % patch != 0 || w % patch != 0 {
            bail!(
                "latents {:?} do not fit the transformer: {} channels, frames in multiples of {patch_t}, sides of {patch}",
                latents.shape(),
                self.config.in_channels
            )
        }
        Ok((f / patch_t, h / patch, w / patch))
    }

    /// One row's joint sequence of text and patches, `[1, L, D]`.
    fn embed(&self, row: &DenoiserRow, (f, h, w): Grid, positions: &Positions) -> Result<Tensor> {
        let (p, pt, c) = (self.config.patch_size, self.config.patch_size_t.unwrap_or(1), self.config.in_channels);
        let text = self.text_proj.forward(&row.text.to_dtype(self.dtype)?.unsqueeze(0)?)?;
        let patches = row.latents.to_dtype(self.dtype)?.reshape(&[f, pt, c, h, p, w, p])?;
        let patches = patches.permute(vec![0, 3, 5, 2, 1, 4, 6])?.reshape((1, f * h * w, c * pt * p * p))?;
        let x = Tensor::cat(&[text, self.patch_proj.forward(&patches)?], 1)?;
        match positions {
            Positions::Sincos(table) => x + table,
            Positions::Rotary { .. } => Ok(x),
        }
    }

    /// The prediction of one row, `[F, C, H, W]` in f32, from its joint sequence `[1, L, D]`.
    fn output(&self, x: &Tensor, emb: &Tensor, text: usize, (f, h, w): Grid) -> Result<Tensor> {
        let (p, pt, c) = (self.config.patch_size, self.config.patch_size_t.unwrap_or(1), self.config.out_channels);
        let x = self.norm_final.forward(&x.narrow(1, text, f * h * w)?.contiguous()?)?;
        let (linear, norm) = &self.norm_out;
        let chunks = linear.forward(emb)?.chunk(2, 1)?;
        let part = Modulation { tokens: f * h * w, shift: chunks[0].clone(), scale: chunks[1].clone() };
        let x = layer_norm_modulate(&x, norm.weight(), norm.bias(), norm.eps, &[part])?;
        let x = self.proj_out.forward(&x)?.to_dtype(DType::F32)?.reshape(&[f, h, w, c, pt, p, p])?;
        x.permute(vec![0, 4, 3, 1, 5, 2, 6])?.reshape((f * pt, c, h * p, w * p))
    }
}

impl Denoiser for Transformer {
    fn forward(&self, rows: &[DenoiserRow], hooks: &mut Hooks) -> Result<Vec<Tensor>> {
        let Some(first) = rows.first() else { return Ok(Vec::new()) };
        let (grid, text) = (self.grid(&first.latents)?, first.text.dim(0)?);
        for row in rows {
            if row.latents.shape() != first.latents.shape() || row.text.shape() != first.text.shape() {
                bail!("rows of one pass differ in shape: {:?} and {:?}", row.latents.shape(), first.latents.shape())
            }
        }
        let emb = self.time(hooks.pass().timestep)?;
        let positions = self.positions(text, grid)?;
        let mut state = rows.iter().map(|row| self.embed(row, grid, &positions)).collect::<Result<Vec<_>>>()?;
        let layers = self.transformer_blocks.len();
        for layer in 0..layers {
            let block = self.transformer_blocks.get(layer)?;
            if let Some(sources) = hooks.fork(layer)? {
                state = sources.iter().map(|&row| state[row].clone()).collect();
            }
            for group in hooks.groups() {
                let site = Site {
                    layer,
                    layers,
                    kind: SiteKind::Joint,
                    path: &block.path,
                    text: 0..text,
                    grid,
                    rows_per_branch: 1,
                    rows: &group,
                };
                let x = match group.as_slice() {
                    [row] => state[*row].clone(),
                    rows => Tensor::cat(&rows.iter().map(|&row| &state[row]).collect::<Vec<_>>(), 0)?,
                };
                let x = block.forward(&x, &emb, &positions, &site, hooks)?;
                let x = hooks.inject(x, Feature::Block(layer), &site)?;
                for (index, &row) in group.iter().enumerate() {
                    state[row] = x.narrow(0, index, 1)?;
                }
            }
        }
        if let Some(sources) = hooks.fork(layers)? {
            state = sources.iter().map(|&row| state[row].clone()).collect(); // rows that were sources only end here
        }
        state.iter().map(|x| self.output(x, &emb, text, grid)).collect()
    }
}
