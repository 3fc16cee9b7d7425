//! A toy UNet without weights for the laws: two levels with a skip each, and in every block attention within frames, on the
//! text and over frames, each a layer of its kind. It calls the seam where a real UNet would. Rows may differ in frames:
//! a row of one frame at time 0 stands beside others.
//!
//! Blocks and layers count alike: 0 and 1 go down, 2 is the middle, 3 and 4 go up.

use super::kv_bank::LayerSize;
use super::testing::{Network, random};
use crate::attention::{
    AttentionProcessor, Branch, Feature, Fork, Hooks, Layout, Pass, Qkv, Row, Site, SiteKind, Time, inner_ranges,
};
use crate::nn::sdpa::Sdpa;
use candle_core::{Result, Tensor};
use std::ops::Range;

const BLOCKS: usize = 5;
const MIDDLE: usize = 2;
const HEADS: usize = 2;
const WIDTH: usize = 4;
const CHANNELS: usize = HEADS * WIDTH;

#[derive(Debug, Clone)]
pub struct ToyUnet {
    pub text: usize,
    /// Frames, height and width of the latents; the second level has half the height and width.
    pub grid: (usize, usize, usize),
    pub network: usize,
    /// Whether frames attend to each other: without, it is a network of images.
    pub temporal: bool,
    pub micro_batch: usize,
    pub kernel: Sdpa,
}

impl Default for ToyUnet {
    fn default() -> Self {
        Self { text: 5, grid: (3, 2, 4), network: 0, temporal: true, micro_batch: 1, kernel: Sdpa::default() }
    }
}

/// What the network keeps of a row between blocks; maps are `[F, C, H, W]`.
#[derive(Clone)]
struct State {
    hidden: Tensor,
    skips: Vec<Tensor>,
    text: Tensor,
    times: Tensor, // [F, 1, 1, 1]
}

/// The rows of one batch: their indices, the frames of each as a range of the batch, their grid.
struct Batch<'a> {
    rows: &'a [usize],
    frames: Vec<Range<usize>>,
    grid: (usize, usize, usize),
}

fn matrix(network: usize, block: usize, part: u64) -> Tensor {
    (random(5000 + 1000 * network as u64 + 16 * block as u64 + part, &[CHANNELS, CHANNELS]) * 0.4).unwrap()
}

/// `[B, L, C]` through a matrix to `[B, N, L, D]`, not contiguous.
fn heads(x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    let (b, l, _) = x.dims3()?;
    x.contiguous()?.broadcast_matmul(matrix)?.reshape((b, l, HEADS, WIDTH))?.transpose(1, 2)
}

/// `[B, C, H, W]` to `[B, H W, C]`.
fn tokens(x: &Tensor) -> Result<Tensor> {
    x.flatten_from(2)?.transpose(1, 2)?.contiguous()
}

impl ToyUnet {
    /// A companion: one frame, at time 0.
    pub fn still(&self, seed: u64) -> Row {
        let mut row = ToyUnet { grid: (1, self.grid.1, self.grid.2), ..self.clone() }.input(seed, 1).remove(0);
        row.time = Time::Frames(vec![0.0]);
        row
    }

    /// The layers of attention within frames.
    pub fn spatial_layers(&self) -> Vec<LayerSize> {
        let (frames, height, width) = self.grid;
        let level = |block| if block == 1 || block == MIDDLE || block == 3 { 2 } else { 1 };
        let grid = |block| (frames, height / level(block), width / level(block));
        (0..BLOCKS).map(|block| LayerSize { channels: CHANNELS, grid: grid(block) }).collect()
    }

    fn start(&self, row: &Row) -> Result<State> {
        let frames = row.latents.dim(0)?;
        let times = match &row.time {
            Time::One(time) => vec![*time as f32; frames],
            Time::Frames(times) => times.iter().map(|&time| time as f32).collect(),
        };
        let times = (Tensor::from_vec(times, (frames, 1, 1, 1), row.latents.device())? * 0.01)?;
        Ok(State { hidden: row.latents.clone(), skips: Vec::new(), text: row.context.clone(), times })
    }

    fn site<'a>(
        &self,
        kind: SiteKind,
        block: usize,
        batch: &Batch,
        rows: &'a [usize],
        inner: &'a [Range<usize>],
    ) -> Site<'a> {
        let text = if kind == SiteKind::Cross { 0..self.text } else { 0..0 };
        let (network, grid) = (self.network, batch.grid);
        Site { network, layer: block, layers: BLOCKS, kind, path: "toy unet", text, grid, inner, rows }
    }

    /// What attention adds to `x` `[B, L, C]`; keys and values of `context` where there is one, else of `x`.
    fn attention(&self, x: &Tensor, context: Option<[Tensor; 2]>, site: &Site, hooks: &mut Hooks) -> Result<Tensor> {
        let part = 4 * site.kind as u64;
        let matrix = |index| matrix(site.network, site.layer, part + index);
        let [k, v] = match context {
            Some(context) => context,
            None => [heads(x, &matrix(1))?, heads(x, &matrix(2))?],
        };
        let qkv =
            Qkv { q: heads(x, &matrix(0))?, k, v, scale: 1.0 / (WIDTH as f64).sqrt(), scores: Default::default() };
        let y = hooks.attend(qkv, site)?.transpose(1, 2)?.reshape(x.shape())?;
        hooks.inject(y.broadcast_matmul(&matrix(3))?, Feature::Attended(site.kind), Layout::Tokens, site)
    }

    /// Queries of frames on keys of the text, of which each row has one.
    fn cross(&self, x: &Tensor, texts: Tensor, site: &Site, hooks: &mut Hooks) -> Result<Tensor> {
        let texts = hooks.context(texts, site)?;
        let repeat = |part| {
            let all = heads(&texts, &matrix(site.network, site.layer, 4 * site.kind as u64 + part))?;
            let of_row = |(row, inner): (usize, &Range<usize>)| all.narrow(0, row, 1)?.repeat((inner.len(), 1, 1, 1));
            Tensor::cat(&site.inner.iter().enumerate().map(of_row).collect::<Result<Vec<_>>>()?, 0)
        };
        self.attention(x, Some([repeat(1)?, repeat(2)?]), site, hooks)
    }

    /// Frames of each position among themselves, rows of as many frames together.
    fn temporal(&self, x: &Tensor, block: usize, batch: &Batch, hooks: &mut Hooks) -> Result<Tensor> {
        let places = x.dim(1)?;
        let mut parts: Vec<Option<Tensor>> = vec![None; batch.rows.len()];
        while let Some(first) = parts.iter().position(Option::is_none) {
            let frames = batch.frames[first].len();
            let same: Vec<usize> = (0..parts.len()).filter(|&index| batch.frames[index].len() == frames).collect();
            let rows: Vec<usize> = same.iter().map(|&index| batch.rows[index]).collect();
            let of_row = |&index: &usize| x.narrow(0, batch.frames[index].start, frames)?.transpose(0, 1);
            let y = Tensor::cat(&same.iter().map(of_row).collect::<Result<Vec<_>>>()?, 0)?; // [rows HW, F, C]
            let inner = inner_ranges(same.iter().map(|_| places));
            let site = self.site(SiteKind::Temporal, block, batch, &rows, &inner);
            let y = hooks.in_stretches(&y, &site, |y, frames, hooks| {
                let site = Site { grid: (frames, site.grid.1, site.grid.2), ..site.clone() };
                self.attention(y, None, &site, hooks)
            })?;
            for (index, inner) in same.into_iter().zip(inner) {
                parts[index] = Some(y.narrow(0, inner.start, places)?.transpose(0, 1)?);
            }
        }
        Tensor::cat(&parts.into_iter().flatten().collect::<Vec<_>>(), 0)
    }

    fn block(&self, block: usize, states: &mut [State], rows: &[usize], hooks: &mut Hooks) -> Result<()> {
        let of = |part: fn(&State) -> &Tensor, states: &[State]| {
            Tensor::cat(&rows.iter().map(|&row| part(&states[row])).collect::<Vec<_>>(), 0)
        };
        let mut hidden = of(|state| &state.hidden, states)?;
        let frames = rows.iter().map(|&row| states[row].hidden.dim(0)).collect::<Result<Vec<_>>>()?;
        let longest = frames.iter().copied().max().unwrap_or(0);
        let (_, channels, height, width) = hidden.dims4()?;
        let batch = Batch { rows, frames: inner_ranges(frames), grid: (longest, height, width) };
        let site = |kind| self.site(kind, block, &batch, rows, &batch.frames);

        if block == MIDDLE {
            for skip in 0..states[rows[0]].skips.len() {
                let maps = Tensor::cat(&rows.iter().map(|&row| &states[row].skips[skip]).collect::<Vec<_>>(), 0)?;
                let grid = (longest, maps.dim(2)?, maps.dim(3)?);
                let site = Site { grid, ..site(SiteKind::SelfSpatial) };
                let maps = hooks.inject(maps, Feature::Skip(skip), Layout::Maps, &site)?;
                for (&row, frames) in rows.iter().zip(&batch.frames) {
                    states[row].skips[skip] = maps.narrow(0, frames.start, frames.len())?;
                }
            }
        }
        hidden = hidden.broadcast_add(&of(|state| &state.times, states)?)?;
        let mut x = tokens(&hidden)?;
        x = (&x + self.attention(&x, None, &site(SiteKind::SelfSpatial), hooks)?)?;
        let texts = Tensor::stack(&rows.iter().map(|&row| &states[row].text).collect::<Vec<_>>(), 0)?;
        x = (&x + self.cross(&x, texts, &site(SiteKind::Cross), hooks)?)?;
        if self.temporal {
            x = (&x + self.temporal(&x, block, &batch, hooks)?)?;
        }
        let maps = x.transpose(1, 2)?.reshape(((), channels, height, width))?;
        let feature = if block == MIDDLE { Feature::Mid } else { Feature::Block(block) };
        let maps = hooks.inject(maps, feature, Layout::Maps, &site(SiteKind::Temporal))?;
        for (&row, frames) in rows.iter().zip(&batch.frames) {
            states[row].hidden = maps.narrow(0, frames.start, frames.len())?;
        }
        Ok(())
    }
}

impl Network for ToyUnet {
    fn input(&self, seed: u64, count: usize) -> Vec<Row> {
        let (frames, height, width) = self.grid;
        let row = |seed| {
            Row::new(random(seed, &[frames, CHANNELS, height, width]), random(seed + 500, &[self.text, CHANNELS]), 7.0)
        };
        (0..count as u64).map(|index| row(seed + index)).collect()
    }

    fn batch(&mut self, micro_batch: usize, budget: usize) {
        (self.micro_batch, self.kernel.budget) = (micro_batch, budget);
    }

    fn forward(
        &self,
        at: Pass,
        rows: &[Row],
        branches: &[Branch],
        forks: Vec<Fork>,
        stack: &mut [Box<dyn AttentionProcessor>],
    ) -> Result<Vec<Tensor>> {
        let mut hooks = Hooks::new(at, branches.to_vec(), forks, stack, self.kernel.clone(), self.micro_batch)?;
        hooks.begin(rows)?;
        let mut states = rows.iter().map(|row| self.start(row)).collect::<Result<Vec<_>>>()?;
        for block in 0..BLOCKS {
            if let Some(sources) = hooks.fork(block)? {
                states = sources.iter().map(|&row| states[row].clone()).collect();
            }
            for state in states.iter_mut().filter(|_| block > MIDDLE) {
                let skip = state.skips.pop().unwrap();
                let (height, width) = (skip.dim(2)?, skip.dim(3)?);
                state.hidden = (state.hidden.upsample_nearest2d(height, width)? + skip)?;
            }
            for group in hooks.groups() {
                self.block(block, &mut states, &group, &mut hooks)?;
            }
            for state in states.iter_mut().filter(|_| block < MIDDLE) {
                state.skips.push(state.hidden.clone());
                if block == 0 {
                    state.hidden = state.hidden.avg_pool2d(2)?;
                }
            }
        }
        if let Some(sources) = hooks.fork(BLOCKS)? {
            states = sources.iter().map(|&row| states[row].clone()).collect();
        }
        hooks.finish()?;
        Ok(states.into_iter().map(|state| state.hidden).collect())
    }
}
