//! Attention without the score matrix (online softmax, arXiv 2205.14135). A task takes some queries of one head and goes
//! through the keys in blocks. Vectors hold queries side by side: scores are `K Q^T`, so a key is broadcast, the softmax needs
//! no sums across a vector, and in `V^T P` the values are broadcast. Keys and values are read in place.

use super::simd::{Kernel, Simd, dispatch};
use super::steps::Every;
use super::tile;
use super::{Target, View, filled, with_scratch};
use crate::scores::{Damp, NONE};
use rayon::prelude::*;

/// Queries of one task: a multiple of every instruction set's `VECTORS` vectors.
const QUERIES: usize = 96;
/// The same where there are many, each task of which goes through all keys: farther than the table of pages reaches.
const MANY_QUERIES: usize = 4 * QUERIES;
/// Queries that are many.
const MANY: usize = 4096;
/// Keys of one block: their scores stay in the first-level cache.
const KEYS: usize = 64;
/// Vectors of queries that go through a block together.
const VECTORS: usize = 3;

/// One call, on `[B, N, L, D]` with any strides.
pub struct Attention<'a> {
    pub q: View<'a>,
    pub k: View<'a>,
    pub v: Option<View<'a>>,
    pub scale: f64,
    pub bias: Option<Table<'a>>,
    pub damp: Option<&'a Damp>,
}

/// What is added to scores: `[B, S, J]`, by sort of query and by key.
#[derive(Clone, Copy)]
pub struct Table<'a> {
    pub values: &'a [f32],
    /// Values of an entry of the batch.
    pub entry: usize,
    /// The first of the J keys, and how many they are.
    pub first: usize,
    pub keys: usize,
    /// Of the queries.
    pub sorts: &'a [u32],
}

impl Table<'_> {
    /// The value of a query and a key, in units of the exponent of two; none where the key is not of the table.
    #[inline(always)]
    fn value(&self, query: usize, key: usize) -> f32 {
        match (self.sorts[query], key.wrapping_sub(self.first)) {
            (NONE, _) => 0.0,
            (sort, key) if key < self.keys => self.values[sort as usize * self.keys + key] * std::f32::consts::LOG2_E,
            _ => 0.0,
        }
    }

    fn touches(&self, start: usize, count: usize) -> bool {
        start < self.first + self.keys && self.first < start + count
    }
}

impl Attention<'_> {
    /// Whether queries of one place of the batch axis lie farther from each other than those of different places: frames that
    /// attend to each other at each position lie so. Values are then laid out in the same way.
    pub fn turned(&self) -> bool {
        matches!((self.q.dims, self.q.strides), (&[b, _, l, _], &[along_b, _, along_l, _]) if b > 1 && l > 1 && along_l > along_b)
    }
}

/// What [`Attention::run`] found; parts that were not asked for are empty.
pub struct Found {
    /// `[B, Lq, N, Dv]`, heads of a token side by side; `[Lq, B, N, Dv]` where the call is [`Attention::turned`].
    pub values: Vec<f32>,
    pub turned: bool,
    /// `[B, N, Lq]`.
    pub log_sums: Vec<f32>,
    /// `[B, N, Lq, J]`.
    pub probed: Vec<f32>,
}

impl Attention<'_> {
    /// None if the shapes do not fit each other, or a column is no key.
    pub fn run(&self, log_sums: bool, columns: Option<&[u32]>) -> Option<Found> {
        let (&[b, n, l, d], &[kb, kn, keys, kd]) = (self.q.dims, self.k.dims) else { return None };
        let width = match self.v.map(|v| v.dims) {
            Some(&[vb, vn, vl, dv]) if (vb, vn, vl) == (b, n, keys) => dv,
            Some(_) => return None,
            None => 0,
        };
        let columns = columns.unwrap_or_default();
        let empty = [&self.q, &self.k].into_iter().chain(&self.v).any(|view| view.dims.contains(&0));
        if (kb, kn, kd) != (b, n, d) || empty || columns.iter().any(|&column| column as usize >= keys) {
            return None;
        }
        let queries = if l < MANY { QUERIES } else { MANY_QUERIES };
        let tasks = l.div_ceil(queries);
        let turned = self.turned();
        let log_sums = if log_sums { b * n * l } else { 0 };
        let run = |values: Target, log_sums: Target, probed: Target| {
            (0..b * n * tasks).into_par_iter().for_each(|i| {
                let (task, head) = (i % tasks, i / tasks);
                let start = task * queries;
                let at = |view: &View<'_>| head / n * view.strides[0] + head % n * view.strides[1];
                let v = self.v.as_ref().map(|v| (&v.data[at(v)..], v.strides[2], v.strides[3]));
                let space = Space { queries, d, width };
                with_scratch(space.total(), |work| {
                    dispatch(Task {
                        q: &self.q.data[at(&self.q) + start * self.q.strides[2]..],
                        q_strides: (self.q.strides[2], self.q.strides[3]),
                        k: (&self.k.data[at(&self.k)..], self.k.strides[2], self.k.strides[3]),
                        v: v.unwrap_or((&[], 0, 0)),
                        keys,
                        space,
                        rows: queries.min(l - start),
                        scale: (self.scale * std::f64::consts::LOG2_E) as f32,
                        row: if turned { start * b * n + head } else { (head / n * l + start) * n + head % n },
                        step: if turned { b * n } else { n },
                        plain_row: head * l + start,
                        columns,
                        bias: self.bias.map(|bias| Table {
                            values: &bias.values[head / n * bias.entry..][..bias.entry],
                            sorts: &bias.sorts[start..],
                            ..bias
                        }),
                        damp: self.damp.map(|damp| (damp, &damp.queries[start..])),
                        values,
                        log_sums,
                        probed,
                        work,
                    });
                });
            });
        };
        // SAFETY: the tasks cover all rows of all heads, and a task writes its rows of each result that is not empty.
        unsafe {
            let (mut sums, mut probed) = (Vec::new(), Vec::new());
            let values = filled(b * l * n * width, |values| {
                sums = filled(log_sums, |log_sums| {
                    probed = filled(b * n * l * columns.len(), |probed| run(values, log_sums, probed));
                });
            });
            Some(Found { values, turned, log_sums: sums, probed })
        }
    }
}

/// How a task's work space is laid out.
#[derive(Clone, Copy)]
struct Space {
    queries: usize,
    d: usize,
    width: usize,
}

impl Space {
    fn total(&self) -> usize {
        self.queries * (self.d + self.width + 2) + KEYS * (QUERIES + self.d)
    }
}

/// Some queries of one head.
struct Task<'a> {
    q: &'a [f32],
    q_strides: (usize, usize),
    k: (&'a [f32], usize, usize),
    v: (&'a [f32], usize, usize),
    keys: usize,
    space: Space,
    rows: usize,
    /// In units of the exponent of two.
    scale: f32,
    /// Row of `values` of the first query, and the distance to the next one's.
    row: usize,
    step: usize,
    /// Row of the other results.
    plain_row: usize,
    columns: &'a [u32],
    /// Of this entry of the batch and these queries.
    bias: Option<Table<'a>>,
    damp: Option<(&'a Damp, &'a [u32])>,
    values: Target,
    log_sums: Target,
    probed: Target,
    work: &'a mut [f32],
}

/// What belongs to the queries of one group of vectors, each row `pitch` numbers.
struct Group<'a> {
    /// The first of the queries.
    first: usize,
    q: &'a [f32],
    /// Weighted sums of values so far.
    sums: &'a mut [f32],
    /// Largest score so far.
    largest: &'a mut [f32],
    /// Sum of the exponentials so far, relative to the largest.
    total: &'a mut [f32],
}

impl Kernel for Task<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let pitch = VECTORS * S::LANES;
        let Space { queries, d, width } = self.space;
        let groups = self.rows.div_ceil(pitch);
        let work = std::mem::take(&mut self.work);
        let (q, work) = work.split_at_mut(queries * d);
        let (sums, work) = work.split_at_mut(queries * width);
        let (largest, work) = work.split_at_mut(queries);
        let (total, work) = work.split_at_mut(queries);
        let (scores, picked) = work.split_at_mut(KEYS * QUERIES);
        for (group, q) in q.chunks_exact_mut(pitch * d).enumerate().take(groups) {
            // vectors with queries; probed columns are computed in all
            let left = (self.rows - group * pitch).next_multiple_of(S::LANES).min(pitch);
            let lanes = if self.columns.is_empty() { left } else { pitch };
            for (i, row) in q.chunks_exact_mut(pitch).enumerate() {
                for (lane, to) in row[..lanes].iter_mut().enumerate() {
                    // Lanes beyond the last query repeat it.
                    let query = (group * pitch + lane).min(self.rows - 1);
                    *to = self.q[query * self.q_strides.0 + i * self.q_strides.1] * self.scale;
                }
            }
        }
        sums[..groups * pitch * width].fill(0.0);
        largest[..groups * pitch].fill(f32::MIN);
        total[..groups * pitch].fill(0.0);
        for start in (0..self.keys).step_by(KEYS) {
            let count = KEYS.min(self.keys - start);
            let k = (&self.k.0[start * self.k.1..], self.k.1, self.k.2);
            let v = if width > 0 { &self.v.0[start * self.v.1..] } else { &[] };
            for group in 0..groups {
                let of = Group {
                    first: group * pitch,
                    q: &q[group * pitch * d..][..pitch * d],
                    sums: &mut sums[group * pitch * width..][..pitch * width],
                    largest: &mut largest[group * pitch..][..pitch],
                    total: &mut total[group * pitch..][..pitch],
                };
                match (self.rows - group * pitch).div_ceil(S::LANES) {
                    1 => self.block::<S, 1>(s, of, k, v, (start, count), scores),
                    2 => self.block::<S, 2>(s, of, k, v, (start, count), scores),
                    _ => self.block::<S, VECTORS>(s, of, k, v, (start, count), scores),
                }
            }
        }
        for query in 0..self.rows {
            let (group, lane) = (query / pitch, query % pitch);
            if width > 0 {
                // SAFETY: a row belongs to one query of one task.
                let to = unsafe { self.values.part((self.row + query * self.step) * width, width) };
                let factor = 1.0 / total[query];
                for (i, to) in to.iter_mut().enumerate() {
                    to.write(sums[group * pitch * width + i * pitch + lane] * factor);
                }
            }
            if !self.log_sums.is_empty() {
                // SAFETY: as above.
                let to = unsafe { self.log_sums.part(self.plain_row + query, 1) };
                to[0].write((largest[query] + total[query].log2()) * std::f32::consts::LN_2);
            }
        }
        for start in (0..self.columns.len()).step_by(KEYS) {
            let columns = &self.columns[start..self.columns.len().min(start + KEYS)];
            for (row, &column) in picked.chunks_exact_mut(d).zip(columns) {
                for (i, to) in row.iter_mut().enumerate() {
                    *to = self.k.0[column as usize * self.k.1 + i * self.k.2];
                }
            }
            for group in 0..groups {
                let q = &q[group * pitch * d..][..pitch * d];
                let nothing = [s.splat(f32::MIN); VECTORS];
                let keys = || columns.iter().map(|&column| column as usize);
                if let Some(bias) = &self.bias {
                    self.begin(bias, group * pitch, keys(), pitch, scores);
                }
                let biased = self.bias.is_some();
                self.scores::<S, VECTORS>(s, q, (picked, d, 1), columns.len(), scores, nothing, biased);
                if let Some((damp, queries)) = self.damp {
                    self.damp(damp, queries, group * pitch, keys(), pitch, scores);
                }
                for query in group * pitch..self.rows.min((group + 1) * pitch) {
                    let at = (self.plain_row + query) * self.columns.len() + start;
                    // SAFETY: as above.
                    let to = unsafe { self.probed.part(at, columns.len()) };
                    for (i, to) in to.iter_mut().enumerate() {
                        let score = scores[i * pitch + query - group * pitch] - largest[query];
                        to.write(score.exp2() / total[query]);
                    }
                }
            }
        }
    }
}

impl Task<'_> {
    /// Takes a block of keys, of which `k` and `v` begin with the first, into the state of a group.
    #[inline(always)]
    fn block<S: Simd, const N: usize>(
        &self,
        s: S,
        of: Group<'_>,
        k: (&[f32], usize, usize),
        v: &[f32],
        (start, count): (usize, usize),
        scores: &mut [f32],
    ) {
        let pitch = VECTORS * S::LANES;
        let mut before = [s.splat(0.0); N];
        for (n, before) in before.iter_mut().enumerate() {
            *before = s.get(&of.largest[n * S::LANES..]);
        }
        let biased = self.bias.filter(|bias| bias.touches(start, count));
        if let Some(bias) = biased {
            self.begin(&bias, of.first, start..start + count, pitch, scores);
        }
        let mut largest = self.scores::<S, N>(s, of.q, k, count, scores, before, biased.is_some());
        if let Some((damp, queries)) = self.damp {
            self.damp(damp, queries, of.first, start..start + count, pitch, scores);
            largest = before;
            for row in scores.chunks_exact(pitch).take(count) {
                for n in 0..N {
                    largest[n] = s.max(largest[n], s.get(&row[n * S::LANES..]));
                }
            }
        }
        let mut total = [s.splat(0.0); N];
        let mut fade = [s.splat(1.0); N];
        for n in 0..N {
            fade[n] = s.exp2(s.sub(before[n], largest[n]));
            total[n] = s.mul(s.get(&of.total[n * S::LANES..]), fade[n]);
        }
        for row in scores.chunks_exact_mut(pitch).take(count) {
            for n in 0..N {
                let part = &mut row[n * S::LANES..(n + 1) * S::LANES];
                let e = s.exp2(s.sub(s.get(part), largest[n]));
                total[n] = s.add(total[n], e);
                s.set(e, part);
            }
        }
        for n in 0..N {
            s.set(largest[n], &mut of.largest[n * S::LANES..(n + 1) * S::LANES]);
            s.set(total[n], &mut of.total[n * S::LANES..(n + 1) * S::LANES]);
        }
        let width = self.space.width;
        let mut i = 0;
        if S::WIDE {
            while i + 8 <= width {
                self.values::<S, 8, N>(s, &mut of.sums[i * pitch..(i + 8) * pitch], fade, v, i, count, scores);
                i += 8;
            }
        }
        while i + 4 <= width {
            self.values::<S, 4, N>(s, &mut of.sums[i * pitch..(i + 4) * pitch], fade, v, i, count, scores);
            i += 4;
        }
        while i < width {
            self.values::<S, 1, N>(s, &mut of.sums[i * pitch..(i + 1) * pitch], fade, v, i, count, scores);
            i += 1;
        }
    }

    /// Puts the bias of keys and of the queries from `first` on where scores are to be added to it.
    #[inline(never)]
    fn begin(&self, bias: &Table, first: usize, keys: impl Iterator<Item = usize>, pitch: usize, scores: &mut [f32]) {
        for (key, row) in keys.zip(scores.chunks_exact_mut(pitch)) {
            for (lane, to) in row.iter_mut().enumerate() {
                *to = bias.value((first + lane).min(self.rows - 1), key);
            }
        }
    }

    /// Damps the scores of keys and of the queries from `first` on.
    #[inline(never)]
    fn damp(
        &self,
        damp: &Damp,
        queries: &[u32],
        first: usize,
        keys: impl Iterator<Item = usize>,
        pitch: usize,
        scores: &mut [f32],
    ) {
        for (key, row) in keys.zip(scores.chunks_exact_mut(pitch)) {
            let key = damp.keys[key];
            for (lane, score) in row.iter_mut().enumerate() {
                if *score > 0.0 {
                    *score *= damp.factor(queries[(first + lane).min(self.rows - 1)], key);
                }
            }
        }
    }

    /// Scores of `count` keys, one row each; returns the largest of each query and of `largest`. `add`: to what is there.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // a kernel's operands
    fn scores<S: Simd, const N: usize>(
        &self,
        s: S,
        q: &[f32],
        k: (&[f32], usize, usize),
        count: usize,
        scores: &mut [f32],
        mut largest: [S::V; N],
        add: bool,
    ) -> [S::V; N] {
        let pitch = VECTORS * S::LANES;
        let mut j = 0;
        if S::WIDE {
            while j + 8 <= count {
                let to = &mut scores[j * pitch..(j + 8) * pitch];
                largest = self.key_rows::<S, 8, N>(s, q, (&k.0[j * k.1..], k.1, k.2), to, largest, add);
                j += 8;
            }
        }
        while j + 4 <= count {
            let to = &mut scores[j * pitch..(j + 4) * pitch];
            largest = self.key_rows::<S, 4, N>(s, q, (&k.0[j * k.1..], k.1, k.2), to, largest, add);
            j += 4;
        }
        while j < count {
            let to = &mut scores[j * pitch..(j + 1) * pitch];
            largest = self.key_rows::<S, 1, N>(s, q, (&k.0[j * k.1..], k.1, k.2), to, largest, add);
            j += 1;
        }
        largest
    }

    #[inline(always)]
    fn key_rows<S: Simd, const M: usize, const N: usize>(
        &self,
        s: S,
        q: &[f32],
        (k, row, along): (&[f32], usize, usize),
        scores: &mut [f32],
        mut largest: [S::V; N],
        add: bool,
    ) -> [S::V; N] {
        let (d, pitch) = (self.space.d, VECTORS * S::LANES);
        assert!(q.len() >= d * pitch && k.len() > (M - 1) * row + (d - 1) * along);
        // SAFETY: both lengths were just checked, and N <= VECTORS.
        let tile = unsafe {
            let mut start = [[s.splat(0.0); N]; M];
            if add {
                for (start, from) in start.iter_mut().zip(scores.chunks_exact(pitch)) {
                    for n in 0..N {
                        start[n] = s.get(&from[n * S::LANES..]);
                    }
                }
            }
            tile::multiply::<S, M, N>(s, d, (k.as_ptr(), row, along), (q.as_ptr(), Every(pitch)), start)
        };
        for (tile, to) in tile.iter().zip(scores.chunks_exact_mut(pitch)) {
            for n in 0..N {
                largest[n] = s.max(largest[n], tile[n]);
                s.set(tile[n], &mut to[n * S::LANES..(n + 1) * S::LANES]);
            }
        }
        largest
    }

    /// Adds the values of `M` columns from `first` on, weighted by the exponentials in `scores`, to the faded sums.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // a kernel's operands
    fn values<S: Simd, const M: usize, const N: usize>(
        &self,
        s: S,
        sums: &mut [f32],
        fade: [S::V; N],
        v: &[f32],
        first: usize,
        count: usize,
        scores: &[f32],
    ) {
        let pitch = VECTORS * S::LANES;
        let (row, along) = (self.v.1, self.v.2);
        let v = &v[first * along..];
        let mut start = [[s.splat(0.0); N]; M];
        for (start, from) in start.iter_mut().zip(sums.chunks_exact(pitch)) {
            for n in 0..N {
                start[n] = s.mul(s.get(&from[n * S::LANES..]), fade[n]);
            }
        }
        assert!(scores.len() >= count * pitch && v.len() > (M - 1) * along + (count - 1) * row);
        // SAFETY: both lengths were just checked, and N <= VECTORS.
        let tile = unsafe {
            tile::multiply::<S, M, N>(s, count, (v.as_ptr(), along, row), (scores.as_ptr(), Every(pitch)), start)
        };
        for (tile, to) in tile.iter().zip(sums.chunks_exact_mut(pitch)) {
            for n in 0..N {
                s.set(tile[n], &mut to[n * S::LANES..(n + 1) * S::LANES]);
            }
        }
    }
}
