//! A toy network without weights for the tests of this module: every layer makes queries, keys and values from the rows'
//! state by fixed random matrices, calls the seam and adds the result. It goes layer by layer, group by group, and forks,
//! as the real networks do.

use crate::attention::{
    AttentionProcessor, AttentionSite, Branch, Fork, Half, Hooks, Next, Pass, Qkv, Queries, Reference, Row, Site,
    SiteKind, Time, inner_ranges,
};
use crate::nn::sdpa::Sdpa;
use candle_core::{Device, Result, Tensor};
use std::ops::Range;
use std::sync::LazyLock;

/// Uniform values in [-1, 1) that follow from a seed.
pub fn random(seed: u64, shape: &[usize]) -> Tensor {
    let values: Vec<f32> = (1..=shape.iter().product::<usize>() as u64)
        .map(|index| {
            let z = (seed.wrapping_mul(0xD134_2543_DE82_EF95)).wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest absolute difference.
pub fn distance(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.shape(), b.shape());
    values(a).iter().zip(values(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[track_caller]
pub fn assert_near(a: &Tensor, b: &Tensor, limit: f32) {
    let distance = distance(a, b);
    assert!(distance <= limit, "{distance:e} > {limit:e}");
}

/// Bit for bit.
#[track_caller]
pub fn assert_same(a: &Tensor, b: &Tensor) {
    assert_eq!(a.shape(), b.shape());
    let differ = values(a).iter().zip(values(b)).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    assert_eq!(differ, 0, "values that differ; largest difference {:e}", distance(a, b));
}

pub const COND: Half = Half::COND;
pub const UNCOND: Half = Half::UNCOND;

pub fn branch(half: Half, window: usize, prompt: usize, reference: Option<usize>) -> Branch {
    Branch { reference: reference.map(Reference::Row), ..Branch::new(half, window, prompt) }
}

/// A row of each window in both halves.
pub fn windows(count: usize) -> Vec<Branch> {
    let of_half = |half| (0..count).map(move |window| branch(half, window, window, None));
    of_half(UNCOND).chain(of_half(COND)).collect()
}

/// The rows of all windows, then a fork before the first sharing layer into plain rows (all windows but the last) and
/// shared rows (all but the first).
pub fn fork(count: usize, layer: usize) -> Fork {
    let mut rows: Vec<(usize, Branch)> = Vec::new();
    for (half, start) in [(UNCOND, 0), (COND, count)] {
        let plain = rows.len();
        rows.extend((0..count - 1).map(|window| (start + window, branch(half, window, window, None))));
        rows.extend((1..count).map(|k| (start + k, branch(half, k, k, Some(plain + k - 1)))));
    }
    Fork { layer, rows }
}

pub fn pass(step: usize) -> Pass {
    Pass { step, steps: 10 }
}

pub fn boxed(processor: impl AttentionProcessor + 'static) -> Box<dyn AttentionProcessor> {
    Box::new(processor)
}

/// A network of the laws: made of the seam and of fixed random matrices.
pub trait Network {
    /// `count` rows of noise, text and a time.
    fn input(&self, seed: u64, count: usize) -> Vec<Row>;

    /// A whole forward pass; the state of each row it ends with.
    fn forward(
        &self,
        at: Pass,
        rows: &[Row],
        branches: &[Branch],
        forks: Vec<Fork>,
        stack: &mut [Box<dyn AttentionProcessor>],
    ) -> Result<Vec<Tensor>>;

    /// How many rows may share a batch, and the kernel's budget for scores.
    fn batch(&mut self, micro_batch: usize, budget: usize);
}

static JOINT: LazyLock<Vec<Range<usize>>> = LazyLock::new(|| inner_ranges([1; 64]));

/// Shape of the toy: text tokens in front of (or behind) a grid of video tokens.
#[derive(Debug, Clone)]
pub struct Toy {
    pub text: usize,
    pub text_behind: bool,
    pub grid: (usize, usize, usize),
    pub heads: usize,
    pub width: usize,
    pub layers: usize,
    pub micro_batch: usize,
    pub kernel: Sdpa,
}

impl Default for Toy {
    fn default() -> Self {
        let kernel = Sdpa::default();
        Self { text: 5, text_behind: false, grid: (3, 2, 3), heads: 2, width: 8, layers: 4, micro_batch: 1, kernel }
    }
}

impl Toy {
    pub fn video(&self) -> usize {
        self.grid.0 * self.grid.1 * self.grid.2
    }

    pub fn tokens(&self) -> usize {
        self.text + self.video()
    }

    pub fn text_range(&self) -> Range<usize> {
        if self.text_behind { self.video()..self.tokens() } else { 0..self.text }
    }

    pub fn video_range(&self) -> Range<usize> {
        if self.text_behind { 0..self.video() } else { self.text..self.tokens() }
    }

    fn joint(&self, row: &Row) -> Result<Tensor> {
        let dim = self.heads * self.width;
        let video = row.latents.permute((0, 2, 3, 1))?.reshape((self.video(), dim))?;
        let parts = if self.text_behind { [&video, &row.context] } else { [&row.context, &video] };
        let Time::One(time) = row.time else { panic!("the toy takes one time") };
        (Tensor::cat(&parts, 0)?.unsqueeze(0)? + 0.01 * time)?.contiguous()
    }

    /// Queries, keys and values of `rows` rows.
    pub fn qkv(&self, seed: u64, rows: usize) -> Qkv {
        let shape = [rows, self.heads, self.tokens(), self.width];
        let [q, k, v] = [0, 1, 2].map(|part| (random(seed + part, &shape) * 2.0).unwrap());
        Qkv { q, k, v, scale: 1.0 / (self.width as f64).sqrt(), scores: Default::default() }
    }

    pub fn site<'a>(&self, layer: usize, rows: &'a [usize]) -> Site<'a> {
        Site {
            network: 0,
            layer,
            layers: self.layers,
            kind: SiteKind::Joint,
            path: "toy",
            text: self.text_range(),
            grid: self.grid,
            inner: JOINT.get(..rows.len()).unwrap(),
            rows,
        }
    }

    pub fn hooks<'a>(&self, branches: &[Branch], stack: &'a mut [Box<dyn AttentionProcessor>]) -> Hooks<'a> {
        let mut hooks =
            Hooks::new(pass(3), branches.to_vec(), Vec::new(), stack, self.kernel.clone(), self.micro_batch).unwrap();
        hooks.begin(&self.input(0, branches.len())).unwrap();
        hooks
    }

    /// One attention call on all rows at once through a stack.
    pub fn attend(&self, qkv: &Qkv, branches: &[Branch], stack: &mut [Box<dyn AttentionProcessor>]) -> Result<Tensor> {
        let rows: Vec<usize> = (0..branches.len()).collect();
        self.hooks(branches, stack).attend(qkv.clone(), &self.site(0, &rows))
    }

    /// The kernel alone.
    pub fn plain(&self, qkv: &Qkv) -> Tensor {
        self.kernel.attend(&qkv.q, &qkv.k, &qkv.v, qkv.scale).unwrap()
    }
}

impl Network for Toy {
    fn input(&self, seed: u64, count: usize) -> Vec<Row> {
        let (dim, (frames, height, width)) = (self.heads * self.width, self.grid);
        let row = |seed| {
            let latents = random(seed, &[frames, dim, height, width]);
            Row::new(latents, random(seed + 500, &[self.text, dim]), 7.0)
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
        let mut state = rows.iter().map(|row| self.joint(row)).collect::<Result<Vec<_>>>()?;
        let dim = self.heads * self.width;
        for layer in 0..self.layers {
            if let Some(sources) = hooks.fork(layer)? {
                state = sources.iter().map(|&row| state[row].clone()).collect();
            }
            for group in hooks.groups() {
                let x = Tensor::cat(&group.iter().map(|&row| &state[row]).collect::<Vec<_>>(), 0)?;
                let [q, k, v] = [0, 1, 2].map(|part| {
                    let matrix = random(1000 + 3 * layer as u64 + part, &[dim, dim]);
                    let y = x.broadcast_matmul(&matrix).unwrap();
                    let y = y.reshape((group.len(), self.tokens(), self.heads, self.width)).unwrap();
                    y.transpose(1, 2).unwrap() // [B, N, L, D], not contiguous
                });
                let qkv = Qkv { q, k, v, scale: 1.0 / (self.width as f64).sqrt(), scores: Default::default() };
                let y = hooks.attend(qkv, &self.site(layer, &group))?;
                let y = (x + y.transpose(1, 2)?.reshape((group.len(), self.tokens(), dim))?)?;
                for (index, &row) in group.iter().enumerate() {
                    state[row] = y.narrow(0, index, 1)?;
                }
            }
        }
        hooks.finish()?;
        Ok(state)
    }
}

/// The whole score matrix of one call, scaled: `[B, N, L, L]`. Only tests may make it.
pub fn dense_scores(qkv: &Qkv) -> Tensor {
    let kt = qkv.k.transpose(2, 3).unwrap().contiguous().unwrap();
    (qkv.q.contiguous().unwrap().matmul(&kt).unwrap() * qkv.scale).unwrap()
}

/// The whole softmax of one call, `[B, N, L, L]`.
pub fn dense_probabilities(qkv: &Qkv) -> Tensor {
    candle_nn::ops::softmax_last_dim(&dense_scores(qkv)).unwrap()
}

/// The map of a row by the words at `columns` of the text, from the dense softmax: mean over heads, sum over columns.
pub fn dense_map(toy: &Toy, qkv: &Qkv, row: usize, columns: &[u32]) -> Vec<f32> {
    let p = dense_probabilities(qkv).narrow(0, row, 1).unwrap().mean(1).unwrap().squeeze(0).unwrap();
    let columns: Vec<u32> = columns.iter().map(|column| toy.text_range().start as u32 + column).collect();
    let map = p.index_select(&Tensor::new(columns, &Device::Cpu).unwrap(), 1).unwrap().sum(1).unwrap();
    values(&map.narrow(0, toy.video_range().start, toy.video()).unwrap())
}

/// The foreground by that map: min-max in each frame, threshold.
pub fn dense_mask(toy: &Toy, qkv: &Qkv, row: usize, columns: &[u32], threshold: f32) -> Vec<bool> {
    let mut bits = Vec::new();
    for frame in dense_map(toy, qkv, row, columns).chunks(toy.grid.1 * toy.grid.2) {
        let (min, max) = frame.iter().fold((f32::MAX, f32::MIN), |(a, b), &m| (a.min(m), b.max(m)));
        bits.extend(frame.iter().map(|m| (m - min) / (max - min + 1e-6) >= threshold));
    }
    bits
}

/// A control that does nothing.
pub struct Nothing;
impl AttentionProcessor for Nothing {}

/// A control that multiplies the result, to see where it acts.
pub struct Times(pub f64);
impl AttentionProcessor for Times {
    fn attend(&mut self, qkv: Qkv, site: &AttentionSite, next: &mut Next) -> Result<Tensor> {
        assert_eq!(site.queries, Queries::All);
        next.attend(qkv, site)? * self.0
    }
}

/// A control that shows each call to a closure and passes it on.
pub struct Spy<F>(pub F);
impl<F: FnMut(&Qkv, &AttentionSite) -> Result<()>> AttentionProcessor for Spy<F> {
    fn attend(&mut self, qkv: Qkv, site: &AttentionSite, next: &mut Next) -> Result<Tensor> {
        (self.0)(&qkv, site)?;
        next.attend(qkv, site)
    }
}
