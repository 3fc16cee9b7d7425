//! The CogVideoX transformer (arXiv 2408.06072), after diffusers' `CogVideoXTransformer3DModel`: joint attention over text and
//! video tokens, each with its own adaptive layer norm, in every block.
//!
//! Different from the reference in form only. Text and video are kept as one joint sequence from embedding to output, since
//! every weight but the modulation serves both. Rows are kept apart and meet in a batch only where they need each other
//! (see [`crate::attention`]). A model with an `ofs` embedding gets the value 2 that diffusers' image-to-video pipeline uses.

use super::blocks::Block;
use super::config::TransformerConfig;
use super::positions::{Grid, Positions};
use super::time::{RowTimes, Times};
use crate::attention::{Feature, Hooks, Layout, Reuse, Site, SiteKind, inner_ranges};
use crate::models::layers::{LayerNorm, TimestepEmbedding, timestep_sinusoid};
use crate::models::stream::Stream;
use crate::models::{Denoiser, Row};
use crate::nn::act::silu;
use crate::nn::compute_dtype;
use crate::nn::linear::{Linear, linear};
use crate::nn::norm::{Modulation, layer_norm_modulate};
use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use std::sync::Mutex;

/// The denoiser of all CogVideoX models.
#[derive(Debug)]
pub struct Transformer {
    config: TransformerConfig,
    patch_proj: Linear, // patch_embed.proj, a strided convolution or a linear layer: the same matrix
    text_proj: Linear,  // patch_embed.text_proj
    /// patch_embed.pos_embedding, of texts and of a whole clip, `[1, L, D]`
    learned: Option<Tensor>,
    time_embedding: TimestepEmbedding,
    ofs_embedding: Option<TimestepEmbedding>,
    transformer_blocks: Stream<Block>,
    norm_final: LayerNorm,
    norm_out: (Linear, LayerNorm),
    proj_out: Linear,
    dtype: DType,
    device: Device,
    /// Tables of the last grid: all windows of a run have the same.
    positions: Mutex<Option<((usize, Grid), Positions)>>,
}

impl Transformer {
    /// Loads the weights under diffusers' names; the network computes in the builder's dtype, on the CPU in f32.
    pub fn load(config: &TransformerConfig, vb: VarBuilder) -> Result<Self> {
        Self::load_with(config, vb, |vb| {
            Stream::resident(config.num_layers, |layer| Block::load(config, layer, vb.pp(layer)))
        })
    }

    /// [`Transformer::load`], but of the blocks no more than two are in memory at a time: each is read from `vb` again when
    /// its turn comes, ahead of it, on another thread. The results are the same.
    pub fn load_streamed(config: &TransformerConfig, vb: VarBuilder<'static>) -> Result<Self> {
        Self::load_with(config, vb, |vb| {
            let (config, device) = (config.clone(), vb.device().clone());
            Stream::streamed(config.num_layers, &device, move |layer| Block::load(&config, layer, vb.pp(layer)))
        })
    }

    fn load_with<'a>(
        config: &TransformerConfig,
        vb: VarBuilder<'a>,
        blocks: impl FnOnce(VarBuilder<'a>) -> Result<Stream<Block>>,
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
        let learned = config.use_learned_positional_embeddings.then(|| {
            let tokens = config.max_text_seq_length + config.learned_grid().iter().product::<usize>();
            let table = vb.pp("patch_embed").get((1, tokens, dim), "pos_embedding")?;
            table.to_dtype(compute_dtype(vb.dtype(), vb.device()))
        });
        let ofs = config.ofs_embed_dim.map(|dim| TimestepEmbedding::load(dim, dim, vb.pp("ofs_embedding")));
        let out_dim = config.out_channels * patch * patch * config.patch_size_t.unwrap_or(1);
        Ok(Self {
            patch_proj,
            learned: learned.transpose()?,
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

    fn grid(&self, row: &Row) -> Result<Grid> {
        let (f, c, h, w) = row.latents.dims4()?;
        let channels = c + row.concat.as_ref().map_or(Ok(0), |concat| concat.dim(1))?;
        let (patch, patch_t) = (self.config.patch_size, self.config.patch_size_t.unwrap_or(1));
        if channels != self.config.in_channels || f % patch_t != 0 || h % patch != 0 || w % patch != 0 {
            bail!(
                "latents {:?} do not fit the transformer: {} channels, frames in multiples of {patch_t}, sides of {patch}",
                [f, channels, h, w],
                self.config.in_channels
            )
        }
        let grid = (f / patch_t, h / patch, w / patch);
        if self.learned.is_some() {
            let ([most, rows, columns], text) = (self.config.learned_grid(), row.context.dim(0)?);
            if grid.0 > most || (grid.1, grid.2) != (rows, columns) || text != self.config.max_text_seq_length {
                bail!(
                    "tokens {grid:?} behind a text of {text}: positions are learned for {most} frames of {rows} by {columns}"
                )
            }
        }
        Ok(grid)
    }

    /// One row's joint sequence of text and patches, `[1, L, D]`.
    fn embed(&self, row: &Row, (f, h, w): Grid, positions: &Positions) -> Result<Tensor> {
        let (p, pt, c) = (self.config.patch_size, self.config.patch_size_t.unwrap_or(1), self.config.in_channels);
        let text = self.text_proj.forward(&row.context.to_dtype(self.dtype)?.unsqueeze(0)?)?;
        let latents = match &row.concat {
            None => row.latents.clone(),
            Some(concat) => Tensor::cat(&[&row.latents, concat], 1)?,
        };
        let patches = latents.to_dtype(self.dtype)?.reshape(&[f, pt, c, h, p, w, p])?;
        let patches = patches.permute(vec![0, 3, 5, 2, 1, 4, 6])?.reshape((1, f * h * w, c * pt * p * p))?;
        let x = Tensor::cat(&[text, self.patch_proj.forward(&patches)?], 1)?;
        if let Some(learned) = &self.learned {
            return &x + learned.narrow(1, 0, x.dim(1)?)?; // a shorter clip has the first of them
        }
        match positions {
            Positions::Sincos(table) => x + table,
            Positions::Rotary { .. } => Ok(x),
        }
    }

    /// The prediction of one row, `[F, C, H, W]` in f32, from its joint sequence `[1, L, D]`.
    fn output(&self, x: &Tensor, times: &Times, text: usize, (f, h, w): Grid) -> Result<Tensor> {
        let (p, pt, c) = (self.config.patch_size, self.config.patch_size_t.unwrap_or(1), self.config.out_channels);
        let x = self.norm_final.forward(&x.narrow(1, text, f * h * w)?.contiguous()?)?;
        let (linear, norm) = &self.norm_out;
        let part = |(tokens, emb): &(usize, Tensor)| {
            let chunks = linear.forward(emb)?.chunk(2, 1)?;
            Ok(Modulation { tokens: *tokens, shift: chunks[0].clone(), scale: chunks[1].clone() })
        };
        let parts = times.video.iter().map(part).collect::<Result<Vec<_>>>()?;
        let x = layer_norm_modulate(&x, norm.weight(), norm.bias(), norm.eps(), &parts)?;
        let x = self.proj_out.forward(&x)?.to_dtype(DType::F32)?.reshape(&[f, h, w, c, pt, p, p])?;
        x.permute(vec![0, 4, 3, 1, 5, 2, 6])?.reshape((f * pt, c, h * p, w * p))
    }
}

impl Denoiser for Transformer {
    fn forward(&self, rows: &[Row], hooks: &mut Hooks) -> Result<Vec<Tensor>> {
        let Some(first) = rows.first() else { return Ok(Vec::new()) };
        let (grid, text) = (self.grid(first)?, first.context.dim(0)?);
        hooks.begin(rows)?;
        for row in rows {
            if row.latents.shape() != first.latents.shape() || row.context.shape() != first.context.shape() {
                bail!("rows of one pass differ in shape: {:?} and {:?}", row.latents.shape(), first.latents.shape())
            }
            if row.added.is_some() || row.frame_texts.is_some() || self.grid(row)? != grid {
                bail!("this transformer takes latents, concatenated latents, times and text; a row has something else")
            }
        }
        let mut times = RowTimes::new(rows, (grid.0, grid.1 * grid.2), |time| self.time(time))?;
        let positions = self.positions(text, grid)?;
        let mut state = rows.iter().map(|row| self.embed(row, grid, &positions)).collect::<Result<Vec<_>>>()?;
        let reuse = hooks.reuse();
        if reuse == Reuse::Take {
            let output = |(row, x): (usize, &Tensor)| {
                let x = (x + hooks.taken(row, x)?)?;
                self.output(&x, times.row(row), text, grid)
            };
            return state.iter().enumerate().map(output).collect();
        }
        // what enters the blocks, to know what they add
        let mut entered = if reuse == Reuse::Keep { state.clone() } else { Vec::new() };
        let layers = self.transformer_blocks.len();
        for layer in 0..layers {
            let block = self.transformer_blocks.get(layer)?;
            if let Some(sources) = hooks.fork(layer)? {
                state = sources.iter().map(|&row| state[row].clone()).collect();
                entered = sources.iter().filter_map(|&row| entered.get(row).cloned()).collect();
                times.fork(&sources);
            }
            for group in hooks.groups() {
                let inner = inner_ranges(group.iter().map(|_| 1));
                let site = Site {
                    network: 0,
                    layer,
                    layers,
                    kind: SiteKind::Joint,
                    path: &block.path,
                    text: 0..text,
                    grid,
                    inner: &inner,
                    rows: &group,
                };
                let x = match group.as_slice() {
                    [row] => state[*row].clone(),
                    rows => Tensor::cat(&rows.iter().map(|&row| &state[row]).collect::<Vec<_>>(), 0)?,
                };
                let x = block.forward(&x, &times.group(&group)?, &positions, &site, hooks)?;
                let x = hooks.inject(x, Feature::Block(layer), Layout::Tokens, &site)?;
                for (index, &row) in group.iter().enumerate() {
                    state[row] = x.narrow(0, index, 1)?;
                }
            }
        }
        if let Some(sources) = hooks.fork(layers)? {
            state = sources.iter().map(|&row| state[row].clone()).collect(); // rows that were sources only end here
            entered = sources.iter().filter_map(|&row| entered.get(row).cloned()).collect();
            times.fork(&sources);
        }
        if reuse == Reuse::Keep {
            let added = state.iter().zip(&entered).map(|(after, before)| after - before).collect::<Result<Vec<_>>>()?;
            hooks.keep(&added)?;
        }
        state.iter().enumerate().map(|(row, x)| self.output(x, times.row(row), text, grid)).collect()
    }
}
