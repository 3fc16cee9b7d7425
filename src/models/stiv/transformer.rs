//! STIV's transformer: patches of a clip of latents, blocks of attention within frames, in time and on a text, and a velocity of
//! each patch. The network is told the time, the text as one vector, and numbers such as the size and the count of frames,
//! through one adaptive norm.
//!
//! Frames that are given stand in a row's latents without noise. Where the configuration has a time of its own for them, a row
//! has times by frame ([`Time::Frames`]).

use super::blocks::{Block, Place};
use super::config::{Prediction, StivConfig, TimeDirection};
use super::positions::Positions;
use crate::attention::{Feature, Hooks, Layout};
use crate::models::layers::{Mlp, TimestepEmbedding, timestep_sinusoid};
use crate::models::stream::Stream;
use crate::models::{Denoiser, Row, Time};
use crate::nn::act::silu;
use crate::nn::compute_dtype;
use crate::nn::linear::{Linear, linear};
use crate::nn::norm::{Modulation, layer_norm, layer_norm_modulate};
use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use std::sync::Mutex;

/// Values of a sinusoid.
const SINUSOID: usize = 256;

/// Frames, height and width in tokens.
type Grid = (usize, usize, usize);

/// The denoiser.
#[derive(Debug)]
pub struct Transformer {
    config: StivConfig,
    patch: Linear,                             // pos_embed.proj
    timestep_embedder: TimestepEmbedding,      // adaln_single.emb.timestep_embedder
    pooled_embedder: TimestepEmbedding,        // adaln_single.emb.pooled_embedder
    micro_embedder: Option<TimestepEmbedding>, // adaln_single.emb.micro_embedder
    modulation: Linear,                        // adaln_single.linear
    caption_projection: Mlp,
    transformer_blocks: Stream<Block>,
    scale_shift_table: Tensor, // [1, 2 D]
    proj_out: Linear,
    dtype: DType,
    device: Device,
    /// Tables of the last grid: all clips of a run have the same.
    positions: Mutex<Option<(Grid, Positions)>>,
}

/// The condition of a row before the blocks: `[1, D]`, or by frame of tokens.
#[derive(Debug, Clone)]
struct Condition(Vec<(usize, Tensor)>);

impl Transformer {
    /// Loads the weights; the network computes in the builder's dtype, on the CPU in f32.
    pub fn load(config: &StivConfig, vb: VarBuilder) -> Result<Self> {
        Self::load_with(config, vb, |vb| Stream::resident(config.num_layers, |layer| Block::load(config, vb.pp(layer))))
    }

    /// [`Transformer::load`], but of the blocks no more than two are in memory at a time.
    pub fn load_streamed(config: &StivConfig, vb: VarBuilder<'static>) -> Result<Self> {
        Self::load_with(config, vb, |vb| {
            let (config, device) = (config.clone(), vb.device().clone());
            Stream::streamed(config.num_layers, &device, move |layer| Block::load(&config, vb.pp(layer)))
        })
    }

    fn load_with<'a>(
        config: &StivConfig,
        vb: VarBuilder<'a>,
        blocks: impl FnOnce(VarBuilder<'a>) -> Result<Stream<Block>>,
    ) -> Result<Self> {
        config.check()?;
        let (dim, p, pt) = (config.inner_dim(), config.patch_size, config.patch_size_t);
        let cells = pt * p * p;
        let dtype = compute_dtype(vb.dtype(), vb.device());
        let patch = vb.pp("pos_embed.proj");
        let weight = patch.get((dim, config.in_channels, pt, p, p), "weight")?;
        let weight = weight.reshape((dim, config.in_channels * cells))?;
        let emb = vb.pp("adaln_single.emb");
        let embedder = |width: usize, name: &str| TimestepEmbedding::load(width, dim, emb.pp(name));
        let micro = config.micro_conditions.len();
        Ok(Self {
            patch: Linear::new(weight, Some(patch.get(dim, "bias")?), vb.dtype())?,
            timestep_embedder: embedder(SINUSOID, "timestep_embedder")?,
            pooled_embedder: embedder(config.pooled_projection_dim, "pooled_embedder")?,
            micro_embedder: (micro > 0).then(|| embedder(micro * SINUSOID, "micro_embedder")).transpose()?,
            modulation: linear(dim, 6 * dim, true, vb.pp("adaln_single.linear"))?,
            caption_projection: Mlp::load(config.caption_channels, dim, vb.pp("caption_projection"))?,
            transformer_blocks: blocks(vb.pp("transformer_blocks"))?,
            scale_shift_table: vb.get((2, dim), "scale_shift_table")?.to_dtype(dtype)?.reshape((1, 2 * dim))?,
            proj_out: linear(dim, config.out_channels * cells, true, vb.pp("proj_out"))?,
            dtype,
            device: vb.device().clone(),
            positions: Mutex::new(None),
            config: config.clone(),
        })
    }

    fn positions(&self, grid: Grid) -> Result<Positions> {
        let mut last = self.positions.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*last {
            Some((key, positions)) if *key == grid => Ok(positions.clone()),
            _ => {
                let positions = Positions::new(&self.config, grid, &self.device)?;
                *last = Some((grid, positions.clone()));
                Ok(positions)
            }
        }
    }

    fn grid(&self, row: &Row) -> Result<Grid> {
        let (f, c, h, w) = row.latents.dims4()?;
        let (p, pt) = (self.config.patch_size, self.config.patch_size_t);
        if c != self.config.in_channels || f == 0 || h % p != 0 || w % p != 0 || h == 0 || w == 0 {
            let wanted = self.config.in_channels;
            bail!("latents {:?} do not fit the transformer: {wanted} channels, sides in multiples of {p}", [f, c, h, w])
        }
        Ok((f.div_ceil(pt), h / p, w / p))
    }

    /// One row's patches, `[1, T S, D]`. Frames that do not fill the last patch repeat the last frame.
    fn embed(&self, row: &Row, (t, h, w): Grid) -> Result<Tensor> {
        let (p, pt, c) = (self.config.patch_size, self.config.patch_size_t, self.config.in_channels);
        let frames = row.latents.dim(0)?;
        let latents = match t * pt - frames {
            0 => row.latents.clone(),
            more => {
                let last = row.latents.narrow(0, frames - 1, 1)?;
                Tensor::cat(&[&row.latents, &last.repeat((more, 1, 1, 1))?], 0)?
            }
        };
        let patches = latents.to_dtype(self.dtype)?.contiguous()?.reshape(&[t, pt, c, h, p, w, p])?;
        let patches = patches.permute(vec![0, 3, 5, 2, 1, 4, 6])?.reshape((1, t * h * w, c * pt * p * p))?;
        self.patch.forward(&patches)
    }

    /// `sinusoid` of a number, `[1, 256]`.
    fn sinusoid(&self, value: f64) -> Result<Tensor> {
        timestep_sinusoid(value, SINUSOID, true, 0.0)?.to_device(&self.device)?.to_dtype(self.dtype)
    }

    /// An embedding without its mean and deviation.
    fn normed(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, None, None, self.config.norm_eps)
    }

    /// The condition of a row.
    fn condition(&self, row: &Row, (t, h, w): Grid) -> Result<Condition> {
        let added = row.added.as_ref();
        let Some(pooled) = added.and_then(|added| added.pooled.as_ref()) else {
            bail!("this transformer takes a text as one vector as well; a row has none")
        };
        let pooled = pooled.to_dtype(self.dtype)?.unsqueeze(0)?;
        let mut rest = self.normed(&self.pooled_embedder.forward(&pooled)?)?;
        if let Some(embedder) = &self.micro_embedder {
            let numbers = added.map_or(&[][..], |added| &added.numbers);
            let wanted = self.config.micro_conditions.len();
            if numbers.len() != wanted {
                bail!("this transformer takes {wanted} numbers with a clip, and a row has {}", numbers.len())
            }
            let all = numbers.iter().map(|&number| self.sinusoid(number)).collect::<Result<Vec<_>>>()?;
            rest = (rest + self.normed(&embedder.forward(&Tensor::cat(&all, 1)?)?)?)?;
        }
        let with = |time: f64| {
            // in f32, as the reference has it
            let time = match self.config.time_direction {
                TimeDirection::Noise => time as f32,
                TimeDirection::Data => 1.0 - time as f32,
            };
            let embedded = self.sinusoid(f64::from(time * self.config.timestep_scale as f32))?;
            &rest + self.normed(&self.timestep_embedder.forward(&embedded)?)?
        };
        match &row.time {
            Time::One(time) => Ok(Condition(vec![(t * h * w, with(*time)?)])),
            Time::Frames(times) => {
                let (frames, pt) = (row.latents.dim(0)?, self.config.patch_size_t);
                if times.len() != frames {
                    bail!("{} times for a row of {frames} latent frames", times.len())
                }
                // a patch has the time of its noisiest frame
                let noisiest = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
                let stretch = |times: &[f64]| Ok((h * w, with(noisiest(times))?));
                Ok(Condition(times.chunks(pt).map(stretch).collect::<Result<_>>()?))
            }
        }
    }

    /// The velocity of one row, `[F, C, H, W]` in f32.
    fn output(&self, x: &Tensor, condition: &Condition, (t, h, w): Grid, frames: usize) -> Result<Tensor> {
        let (p, pt, c) = (self.config.patch_size, self.config.patch_size_t, self.config.out_channels);
        let part = |(tokens, condition): &(usize, Tensor)| {
            let table = self.scale_shift_table.chunk(2, 1)?;
            Ok(Modulation { tokens: *tokens, shift: (condition + &table[0])?, scale: (condition + &table[1])? })
        };
        let parts = condition.0.iter().map(part).collect::<Result<Vec<_>>>()?;
        let x = layer_norm_modulate(x, None, None, self.config.norm_eps, &parts)?;
        let x = self.proj_out.forward(&x)?.to_dtype(DType::F32)?.reshape(&[t, h, w, pt, p, p, c])?;
        let x = x.permute(vec![0, 3, 6, 1, 4, 2, 5])?.reshape((t * pt, c, h * p, w * p))?;
        let x = if t * pt == frames { x } else { x.narrow(0, 0, frames)?.contiguous()? };
        match self.config.prediction {
            Prediction::DataMinusNoise => Ok(x),
            Prediction::NoiseMinusData => x.neg(),
        }
    }
}

impl Condition {
    /// By stretches, what `f` makes of the conditions of some rows together, `[B, D]`.
    fn of(rows: &[&Self], f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Vec<(usize, Tensor)>> {
        let [one] = rows else {
            // rows that meet may differ in how their times are told
            let Some(most) = rows.iter().map(|row| row.0.len()).max() else { return Ok(Vec::new()) };
            let spread = |row: &Self| -> Vec<(usize, Tensor)> {
                match row.0.as_slice() {
                    [(tokens, condition)] => vec![(tokens / most, condition.clone()); most],
                    all => all.to_vec(),
                }
            };
            let rows: Vec<_> = rows.iter().map(|row| spread(row)).collect();
            let stretch = |index: usize| {
                let all: Vec<&Tensor> = rows.iter().map(|row| &row[index].1).collect();
                Ok((rows[0][index].0, f(&Tensor::cat(&all, 0)?)?))
            };
            return (0..most).map(stretch).collect();
        };
        one.0.iter().map(|(tokens, condition)| Ok((*tokens, f(condition)?))).collect()
    }
}

impl Denoiser for Transformer {
    fn forward(&self, rows: &[Row], hooks: &mut Hooks) -> Result<Vec<Tensor>> {
        let Some(first) = rows.first() else { return Ok(Vec::new()) };
        let (grid, frames) = (self.grid(first)?, first.latents.dim(0)?);
        hooks.begin(rows)?;
        for row in rows {
            if row.latents.shape() != first.latents.shape() || row.context.shape() != first.context.shape() {
                bail!("rows of one pass differ in shape: {:?} and {:?}", row.latents.shape(), first.latents.shape())
            }
            if row.concat.is_some() || row.frame_texts.is_some() {
                bail!("this transformer takes latents, times, a text and numbers; a row has something else")
            }
        }
        let mut conditions = rows.iter().map(|row| self.condition(row, grid)).collect::<Result<Vec<_>>>()?;
        let text = |row: &Row| self.caption_projection.forward(&row.context.to_dtype(self.dtype)?.unsqueeze(0)?);
        let mut texts = rows.iter().map(text).collect::<Result<Vec<_>>>()?; // [1, L, D]
        let mut state = rows.iter().map(|row| self.embed(row, grid)).collect::<Result<Vec<_>>>()?;
        let positions = self.positions(grid)?;
        let layers = self.transformer_blocks.len();
        for layer in 0..=layers {
            if let Some(sources) = hooks.fork(layer)? {
                state = sources.iter().map(|&row| state[row].clone()).collect();
                texts = sources.iter().map(|&row| texts[row].clone()).collect();
                conditions = sources.iter().map(|&row| conditions[row].clone()).collect();
            }
            if layer == layers {
                break;
            }
            let block = self.transformer_blocks.get(layer)?;
            for group in apart(hooks) {
                let all = |parts: &[Tensor]| match group.as_slice() {
                    [row] => Ok(parts[*row].clone()),
                    rows => Tensor::cat(&rows.iter().map(|&row| &parts[row]).collect::<Vec<_>>(), 0),
                };
                let of_rows: Vec<&Condition> = group.iter().map(|&row| &conditions[row]).collect();
                let modulation = Condition::of(&of_rows, |c| self.modulation.forward(&silu(c)?))?;
                let at = Place { layer, layers, grid, rows: &group };
                let x = block.forward(&all(&state)?, &modulation, &all(&texts)?, &positions, (&at, hooks))?;
                let x = hooks.inject(x, Feature::Block(layer), Layout::Tokens, &at.block())?;
                for (index, &row) in group.iter().enumerate() {
                    state[row] = x.narrow(0, index, 1)?;
                }
            }
        }
        state.iter().zip(&conditions).map(|(x, condition)| self.output(x, condition, grid, frames)).collect()
    }
}

/// The groups of rows that must meet: those that refer to no other go alone, so that the tokens of a row need not be moved for its
/// attention in time.
fn apart(hooks: &Hooks) -> Vec<Vec<usize>> {
    let branches = hooks.branches();
    let meets = |group: &[usize]| group.iter().any(|&row| branches[row].reference_row().is_some());
    let parted = hooks.groups().into_iter().flat_map(|group| match meets(&group) {
        true => vec![group],
        false => group.into_iter().map(|row| vec![row]).collect(),
    });
    parted.collect()
}
