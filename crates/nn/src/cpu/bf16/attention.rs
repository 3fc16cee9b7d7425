//! [`cpu::attention`](super::super::attention) with products in bf16 (AVX512_BF16), sums and softmax in f32. Queries lie side by
//! side in the vectors there too, in pairs of their numbers. Keys and values are rounded once, for some heads at a time: keys in
//! pairs of their numbers, values in pairs of keys, since a step of `V^T P` takes two keys. What rounding loses is that of
//! PyTorch's attention in bf16: q, k, v, and the exponentials, relative to the largest so far.

use super::super::attention::{Attention, Found};
use super::super::pairs::dot::{bits, interleaved, is_here, pair, round};
use super::super::{Target, View, filled, with_scratch};
use half::bf16;
use rayon::prelude::*;
use std::arch::x86_64::*;

/// Numbers of a vector.
const LANES: usize = 16;
/// Vectors of queries that go through a block of keys together.
const VECTORS: usize = 3;
/// Queries of a group.
const PITCH: usize = VECTORS * LANES;
/// Queries of one task.
const QUERIES: usize = 2 * PITCH;
/// Keys of one block: their scores stay in the first-level cache.
const KEYS: usize = 64;
/// Rows of a tile of registers.
const ROWS: usize = 8;
/// Bytes of keys and values that are rounded at a time.
const BUDGET: usize = 16 << 20;

/// The sizes of a call.
#[derive(Clone, Copy)]
struct Shape {
    heads: usize,
    rows: usize,
    keys: usize,
    /// Numbers of a query, and of a value.
    d: usize,
    dv: usize,
}

impl Shape {
    /// Pairs of a query's numbers.
    fn pairs(&self) -> usize {
        self.d.div_ceil(2)
    }

    /// Numbers of a value in whole tiles.
    fn width(&self) -> usize {
        self.dv.next_multiple_of(ROWS)
    }

    fn blocks(&self) -> usize {
        self.keys.div_ceil(KEYS)
    }

    /// Pairs of a block's keys, and of its values.
    fn block(&self) -> (usize, usize) {
        (KEYS * self.pairs(), KEYS / 2 * self.width())
    }

    /// Numbers that a copy of two rows takes.
    fn copies(&self) -> usize {
        2 * self.d.max(self.dv)
    }
}

/// None where the CPU cannot, or the shapes do not fit each other.
pub fn attend(call: &Attention, log_sums: bool) -> Option<Found> {
    let (&[b, n, l, d], &[kb, kn, keys, kd]) = (call.q.dims, call.k.dims) else { return None };
    let v = call.v?;
    let &[vb, vn, vl, dv] = v.dims else { return None };
    let empty = [&call.q, &call.k, &v].into_iter().any(|view| view.dims.contains(&0));
    if !is_here() || empty || (kb, kn, kd) != (b, n, d) || (vb, vn, vl) != (b, n, keys) {
        return None;
    }
    let shape = Shape { heads: n, rows: l, keys, d, dv };
    let (of_keys, of_values) = shape.block();
    let blocks = shape.blocks();
    let together = (BUDGET / (4 * (of_keys + of_values) * blocks)).clamp(1, b * n);
    let mut rounded = vec![0_u32; together * blocks * of_keys];
    let mut paired = vec![0_u32; together * blocks * of_values];
    let tasks = l.div_ceil(QUERIES);
    let mut run = |values: Target, log_sums: Target| {
        for first in (0..b * n).step_by(together) {
            let count = together.min(b * n - first);
            let parts = rounded.par_chunks_exact_mut(of_keys).zip(paired.par_chunks_exact_mut(of_values));
            parts.enumerate().take(count * blocks).with_min_len(4).for_each(|(i, (to_keys, to_values))| {
                let (head, start) = (first + i / blocks, i % blocks * KEYS);
                with_scratch(shape.copies(), |copies| {
                    // SAFETY: `is_here`.
                    unsafe {
                        round_keys(shape, of_head(&call.k, head, n), start, copies, to_keys);
                        pair_values(shape, of_head(&v, head, n), start, copies, to_values);
                    }
                });
            });
            (0..count * tasks).into_par_iter().for_each(|i| {
                let (head, start) = (i / tasks, i % tasks * QUERIES);
                let task = Task {
                    shape,
                    q: of_head(&call.q, first + head, n),
                    scale: (call.scale * std::f64::consts::LOG2_E) as f32,
                    k: &rounded[head * blocks * of_keys..][..blocks * of_keys],
                    v: &paired[head * blocks * of_values..][..blocks * of_values],
                    head: first + head,
                    first: start,
                    live: QUERIES.min(l - start),
                    turned: call.turned().then_some(b),
                    values,
                    log_sums,
                };
                // SAFETY: `is_here`.
                with_scratch(task.space(), |work| unsafe { task.run(work) });
            });
        }
    };
    let mut sums = Vec::new();
    // SAFETY: the tasks cover all rows of all heads, and a task writes its rows of each result that is not empty.
    let values = unsafe {
        filled(b * l * n * dv, |values| sums = filled(if log_sums { b * n * l } else { 0 }, |sums| run(values, sums)))
    };
    Some(Found { values, turned: call.turned(), log_sums: sums, probed: Vec::new() })
}

/// `[L, D]` of one head, and its strides.
type Head<'a> = (&'a [f32], usize, usize);

fn of_head<'a>(view: &View<'a>, head: usize, heads: usize) -> Head<'a> {
    let at = head / heads * view.strides[0] + head % heads * view.strides[1];
    (&view.data[at..], view.strides[2], view.strides[3])
}

/// The `len` numbers of a row, where they lie or copied.
fn row<'a>((data, down, along): Head<'a>, row: usize, len: usize, copy: &'a mut [f32]) -> &'a [f32] {
    let data = &data[row * down..];
    if along == 1 {
        return &data[..len];
    }
    for (i, to) in copy[..len].iter_mut().enumerate() {
        *to = data[i * along];
    }
    &copy[..len]
}

/// Numbers as the pairs that fill their place.
fn as_pairs(numbers: &mut [f32]) -> &mut [u32] {
    // SAFETY: of one size and alignment, without invalid values.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), numbers.len()) }
}

/// The other way round.
fn as_numbers(pairs: &mut [u32]) -> &mut [f32] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts_mut(pairs.as_mut_ptr().cast(), pairs.len()) }
}

/// Pairs as their halves, the first one low.
fn as_halves(pairs: &mut [u32]) -> &mut [bf16] {
    // SAFETY: twice the numbers of half the size, of a type without invalid values.
    unsafe { std::slice::from_raw_parts_mut(pairs.as_mut_ptr().cast(), 2 * pairs.len()) }
}

/// Rounds the keys of a block; zeros follow the last one.
///
/// # Safety
/// [`is_here`] must have said so.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn round_keys(shape: Shape, k: Head, start: usize, copies: &mut [f32], to: &mut [u32]) {
    for (key, to) in (start..).zip(to.chunks_exact_mut(shape.pairs())) {
        to[shape.pairs() - 1] = 0;
        if key < shape.keys {
            // SAFETY: promised by the caller.
            unsafe { round(row(k, key, shape.d, copies), &mut as_halves(to)[..shape.d]) };
        } else {
            to.fill(0);
        }
    }
}

/// Rounds the values of a block, two keys in a pair; zeros follow the last one.
///
/// # Safety
/// [`is_here`] must have said so.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pair_values(shape: Shape, v: Head, start: usize, copies: &mut [f32], to: &mut [u32]) {
    let (even_copy, odd_copy) = copies.split_at_mut(shape.dv);
    for (index, to) in to.chunks_exact_mut(shape.width()).enumerate() {
        let key = start + 2 * index;
        let (to, beyond) = to.split_at_mut(shape.dv);
        beyond.fill(0);
        if key >= shape.keys {
            to.fill(0);
            continue;
        }
        let even = row(v, key, shape.dv, even_copy);
        let odd = if key + 1 < shape.keys { row(v, key + 1, shape.dv, odd_copy) } else { &[] };
        // SAFETY: promised by the caller.
        unsafe { pair(even, odd, as_numbers(to)) };
    }
}

/// `2^x` for `x` up to zero, to five digits: it is rounded to three afterwards.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn exp2(x: __m512) -> __m512 {
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
    let r = _mm512_sub_ps(x, n);
    let mut p = _mm512_set1_ps(9.570_1e-3);
    for c in [0.055_917_86, 0.240_247_45, 0.693_121_8, 0.999_999_3] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    _mm512_scalef_ps(p, n)
}

/// Some queries of one head.
struct Task<'a> {
    shape: Shape,
    q: Head<'a>,
    /// In units of the exponent of two.
    scale: f32,
    k: &'a [u32],
    v: &'a [u32],
    head: usize,
    first: usize,
    live: usize,
    /// The size of the batch, where values lie as [`Attention::turned`] says.
    turned: Option<usize>,
    values: Target,
    log_sums: Target,
}

/// What belongs to the queries of one group, each row `PITCH` numbers.
struct Group<'a> {
    q: &'a [u32],
    /// Weighted sums of values so far.
    sums: &'a mut [f32],
    /// Largest score so far.
    largest: &'a mut [f32],
    /// Sum of the exponentials so far, relative to the largest.
    total: &'a mut [f32],
}

impl Task<'_> {
    fn space(&self) -> usize {
        let Shape { d, .. } = self.shape;
        let pairs = self.shape.pairs();
        QUERIES * (pairs + self.shape.width() + 2)
            + KEYS * PITCH
            + KEYS / 2 * PITCH
            + (d + pairs).next_multiple_of(LANES)
    }

    /// # Safety
    /// [`is_here`] must have said so.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn run(&self, work: &mut [f32]) {
        let Shape { dv, keys, .. } = self.shape;
        let (pairs, width) = (self.shape.pairs(), self.shape.width());
        let (q, work) = work.split_at_mut(QUERIES * pairs);
        let (sums, work) = work.split_at_mut(QUERIES * width);
        let (largest, work) = work.split_at_mut(QUERIES);
        let (total, work) = work.split_at_mut(QUERIES);
        let (scores, work) = work.split_at_mut(KEYS * PITCH);
        let (chances, rest) = work.split_at_mut(KEYS / 2 * PITCH);
        let (q, chances) = (as_pairs(q), as_pairs(chances));
        // SAFETY: promised by the caller.
        unsafe { self.pack(q, rest) };
        sums.fill(0.0);
        largest.fill(f32::MIN);
        total.fill(0.0);
        let (of_keys, of_values) = self.shape.block();
        for (block, (k, v)) in self.k.chunks_exact(of_keys).zip(self.v.chunks_exact(of_values)).enumerate() {
            let count = KEYS.min(keys - block * KEYS);
            for group in 0..self.live.div_ceil(PITCH) {
                let of = Group {
                    q: &q[group * PITCH * pairs..][..PITCH * pairs],
                    sums: &mut sums[group * PITCH * width..][..PITCH * width],
                    largest: &mut largest[group * PITCH..][..PITCH],
                    total: &mut total[group * PITCH..][..PITCH],
                };
                // SAFETY: as above.
                unsafe {
                    match (self.live - group * PITCH).div_ceil(LANES) {
                        1 => self.block::<1>(of, (k, v), count, scores, chances),
                        2 => self.block::<2>(of, (k, v), count, scores, chances),
                        _ => self.block::<VECTORS>(of, (k, v), count, scores, chances),
                    }
                }
            }
        }
        let Shape { heads, rows, .. } = self.shape;
        for query in 0..self.live {
            let (group, lane) = (query / PITCH, query % PITCH);
            let place = match self.turned {
                Some(batch) => (self.first + query) * batch * heads + self.head,
                None => (self.head / heads * rows + self.first + query) * heads + self.head % heads,
            };
            // SAFETY: a row belongs to one query of one task.
            let to = unsafe { self.values.part(place * dv, dv) };
            let factor = 1.0 / total[query];
            for (i, to) in to.iter_mut().enumerate() {
                to.write(sums[group * PITCH * width + i * PITCH + lane] * factor);
            }
            if !self.log_sums.is_empty() {
                // SAFETY: as above.
                let to = unsafe { self.log_sums.part(self.head * rows + self.first + query, 1) };
                to[0].write((largest[query] + total[query].log2()) * std::f32::consts::LN_2);
            }
        }
    }

    /// The task's queries in pairs of their numbers, side by side; lanes beyond the last query repeat it.
    ///
    /// # Safety
    /// [`is_here`] must have said so.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn pack(&self, q: &mut [u32], rest: &mut [f32]) {
        let Shape { d, .. } = self.shape;
        let pairs = self.shape.pairs();
        let (copy, rest) = rest.split_at_mut(d);
        let together = &mut as_pairs(rest)[..pairs];
        for (group, q) in q.chunks_exact_mut(PITCH * pairs).enumerate().take(self.live.div_ceil(PITCH)) {
            for lane in 0..PITCH {
                let query = group * PITCH + lane;
                if query < self.live {
                    let (data, down, along) = self.q;
                    let data = &data[(self.first + query) * down..];
                    for (i, to) in copy.iter_mut().enumerate() {
                        *to = data[i * along] * self.scale;
                    }
                    together[pairs - 1] = 0;
                    // SAFETY: promised by the caller.
                    unsafe { round(copy, &mut as_halves(together)[..d]) };
                }
                for (q, &pair) in q.chunks_exact_mut(PITCH).zip(&*together) {
                    q[lane] = pair;
                }
            }
        }
    }

    /// Takes `count` keys and their values into the state of a group of `N` vectors.
    ///
    /// # Safety
    /// [`is_here`] must have said so.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn block<const N: usize>(
        &self,
        of: Group<'_>,
        (k, v): (&[u32], &[u32]),
        count: usize,
        scores: &mut [f32],
        chances: &mut [u32],
    ) {
        let (pairs, width) = (self.shape.pairs(), self.shape.width());
        let zero = _mm512_setzero_ps();
        let load = |from: &[f32], n: usize| {
            let from = &from[n * LANES..(n + 1) * LANES];
            // SAFETY: as many numbers as a vector has.
            unsafe { _mm512_loadu_ps(from.as_ptr()) }
        };
        let store = |to: &mut [f32], n: usize, v: __m512| {
            let to = &mut to[n * LANES..(n + 1) * LANES];
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
        };
        let mut before = [zero; N];
        for (n, before) in before.iter_mut().enumerate() {
            *before = load(of.largest, n);
        }
        let mut largest = before;
        for (tile, (k, scores)) in k
            .chunks_exact(ROWS * pairs)
            .zip(scores.chunks_exact_mut(ROWS * PITCH))
            .enumerate()
            .take(count.div_ceil(ROWS))
        {
            // SAFETY: promised by the caller.
            let sums = unsafe { multiply::<N>(pairs, (k, pairs, 1), of.q, [[zero; N]; ROWS]) };
            for (m, (sums, scores)) in sums.iter().zip(scores.chunks_exact_mut(PITCH)).enumerate() {
                for (n, &sum) in sums.iter().enumerate() {
                    store(scores, n, sum);
                    if tile * ROWS + m < count {
                        largest[n] = _mm512_max_ps(largest[n], sum);
                    }
                }
            }
        }
        let (mut fade, mut total) = ([zero; N], [zero; N]);
        for n in 0..N {
            fade[n] = exp2(_mm512_sub_ps(before[n], largest[n]));
            total[n] = _mm512_mul_ps(load(of.total, n), fade[n]);
            store(of.largest, n, largest[n]);
        }
        for (pair, to) in chances.chunks_exact_mut(PITCH).enumerate().take(count.div_ceil(2)) {
            let (even, odd) = scores[2 * pair * PITCH..][..2 * PITCH].split_at(PITCH);
            for n in 0..N {
                let even = exp2(_mm512_sub_ps(load(even, n), largest[n]));
                let odd = if 2 * pair + 1 < count { exp2(_mm512_sub_ps(load(odd, n), largest[n])) } else { zero };
                total[n] = _mm512_add_ps(total[n], _mm512_add_ps(even, odd));
                let to = &mut to[n * LANES..(n + 1) * LANES];
                // SAFETY: as many pairs as a vector has.
                unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), interleaved(even, odd)) };
            }
        }
        for (n, &total) in total.iter().enumerate() {
            store(of.total, n, total);
        }
        for (tile, sums) in of.sums.chunks_exact_mut(ROWS * PITCH).enumerate() {
            let mut start = [[zero; N]; ROWS];
            for (start, sums) in start.iter_mut().zip(sums.chunks_exact(PITCH)) {
                for n in 0..N {
                    start[n] = _mm512_mul_ps(load(sums, n), fade[n]);
                }
            }
            // SAFETY: promised by the caller.
            let done = unsafe { multiply::<N>(count.div_ceil(2), (&v[tile * ROWS..], 1, width), chances, start) };
            for (done, sums) in done.iter().zip(sums.chunks_exact_mut(PITCH)) {
                for (n, &done) in done.iter().enumerate() {
                    store(sums, n, done);
                }
            }
        }
    }
}

/// `sum[m] + sum over i < steps of a[m * am + i * ak] * b[i * PITCH ..]` in pairs, each row as `N` vectors.
///
/// # Safety
/// [`is_here`] must have said so.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn multiply<const N: usize>(
    steps: usize,
    (a, am, ak): (&[u32], usize, usize),
    b: &[u32],
    mut sum: [[__m512; N]; ROWS],
) -> [[__m512; N]; ROWS] {
    assert!(steps > 0 && a.len() > (ROWS - 1) * am + (steps - 1) * ak && b.len() >= (steps - 1) * PITCH + N * LANES);
    for i in 0..steps {
        // SAFETY: both lengths were just checked.
        unsafe {
            let mut vectors = [bits(_mm512_setzero_si512()); N];
            for (n, vector) in vectors.iter_mut().enumerate() {
                *vector = bits(_mm512_loadu_si512(b.as_ptr().add(i * PITCH + n * LANES).cast()));
            }
            for (m, sum) in sum.iter_mut().enumerate() {
                let pair = bits(_mm512_set1_epi32(*a.as_ptr().add(m * am + i * ak) as i32));
                for (sum, &vector) in sum.iter_mut().zip(&vectors) {
                    *sum = _mm512_dpbf16_ps(*sum, pair, vector);
                }
            }
        }
    }
    sum
}
