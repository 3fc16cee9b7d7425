//! Products in bf16, sums in f32, for networks that run in bf16: linear layers here, with the tiles of AMX ([`amx`]) or
//! the instructions of AVX512_BF16 ([`dot`]), and [`attention`] with the latter.
//!
//! In a linear layer a block is 32 rows by 32 columns, and a step of it 32 inputs. The values of a row are rounded to bf16 when a task
//! begins. What the instructions do to a block is also written in plain code, `plain`, which is their specification and with which
//! everything around them is tested on CPUs that lack them.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(target_arch = "x86_64")]
mod attention;
#[cfg(target_arch = "x86_64")]
mod dot;

use super::act::Act;
use super::linear::tasks;
#[cfg(target_arch = "x86_64")]
use super::pairs;
use super::simd::{Kernel, Simd, dispatch};
use super::{Target, filled, with_scratch};
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// Rows and columns of a block.
const SIDE: usize = 32;
/// Inputs of a step.
const DEPTH: usize = 32;
/// Rows of one task: with them, their inputs stay in the second-level cache.
const ROWS: usize = 64;

/// The weights of one step of a block: pairs of inputs, each of them for all columns, as the instructions want them.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Step([[bf16; 2 * SIDE]; DEPTH / 2]);

/// Sums of a block: `[row][column]`.
#[repr(C, align(64))]
struct Sums([[f32; SIDE]; SIDE]);

/// Computes the sums of the first `live` rows of a block; the other ones are left with anything.
///
/// # Safety
/// `rows` must be readable for `SIDE` rows of `steps.len() * DEPTH` numbers, `pitch` numbers apart.
type Block = unsafe fn(rows: *const bf16, pitch: usize, live: usize, steps: &[Step], sums: &mut Sums);

/// What a CPU has for bf16.
#[derive(Debug, Clone, Copy)]
struct Instructions {
    name: &'static str,
    block: Block,
    /// Rounds to the nearest number, ties to even.
    round: unsafe fn(&[f32], &mut [bf16]),
}

/// The instructions of [`plain`] code.
#[cfg(test)]
const PLAIN: Instructions = Instructions {
    name: "plain",
    block: plain,
    round: |from, to| half::slice::HalfFloatSliceExt::convert_from_f32_slice(to, from),
};

/// All that this CPU has, the best first.
fn available() -> impl Iterator<Item = Instructions> {
    let mut all = Vec::new();
    #[cfg(target_arch = "x86_64")]
    if pairs::dot::is_here() {
        #[cfg(target_os = "linux")]
        if amx::is_here() {
            all.push(Instructions { name: "amx", block: amx::block, round: pairs::dot::round });
        }
        all.push(Instructions { name: "avx512_bf16", block: dot::block, round: pairs::dot::round });
    }
    all.into_iter()
}

/// What multiplies bf16 here.
pub fn name() -> Option<&'static str> {
    available().next().map(|instructions| instructions.name)
}

/// Attention with products in bf16, where there is a kernel for it and the shapes fit.
pub fn attend(call: &super::attention::Attention, log_sums: bool) -> Option<super::attention::Found> {
    #[cfg(target_arch = "x86_64")]
    return attention::attend(call, log_sums);
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// Weights in the order of use.
#[derive(Debug)]
pub struct Tiled {
    /// `[panel][step]`; zero beyond the last column and the last input.
    weight: Vec<Step>,
    bias: Vec<f32>,
    input: usize,
    output: usize,
    instructions: Instructions,
}

impl Tiled {
    /// `weight` is `[output, input]`; `bias` has `output` numbers or none. None where the CPU has nothing for bf16, or the
    /// system keeps it to itself.
    pub fn new(weight: &[bf16], bias: &[f32], output: usize, input: usize) -> Option<Self> {
        Some(Self::with(available().next()?, weight, bias, output, input))
    }

    fn with(instructions: Instructions, weight: &[bf16], bias: &[f32], output: usize, input: usize) -> Self {
        assert!(weight.len() == output * input && (bias.is_empty() || bias.len() == output));
        let (panels, steps) = (output.div_ceil(SIDE), input.div_ceil(DEPTH));
        let mut packed = vec![Step([[bf16::ZERO; 2 * SIDE]; DEPTH / 2]); panels * steps];
        if input > 0 {
            packed.par_chunks_exact_mut(steps).enumerate().for_each(|(panel, steps)| {
                for (column, row) in weight.chunks_exact(input).skip(panel * SIDE).take(SIDE).enumerate() {
                    for (i, &value) in row.iter().enumerate() {
                        steps[i / DEPTH].0[i % DEPTH / 2][2 * column + i % 2] = value;
                    }
                }
            });
        }
        let mut bias = bias.to_vec();
        bias.resize(panels * SIDE, 0.0);
        Self { weight: packed, bias, input, output, instructions }
    }

    pub fn input(&self) -> usize {
        self.input
    }

    pub fn output(&self) -> usize {
        self.output
    }

    fn steps(&self) -> usize {
        self.input.div_ceil(DEPTH)
    }

    /// `x` is `[rows, input]`; returns `[rows, output]`, activated if so asked.
    pub fn run(&self, x: &[f32], rows: usize, act: Option<Act>) -> Vec<f32> {
        assert_eq!(x.len(), rows * self.input);
        let pitch = self.steps() * DEPTH;
        let run = |target: Target| {
            tasks((rows, ROWS), self.output.div_ceil(SIDE), |rows, panels| {
                let height = rows.len().next_multiple_of(SIDE);
                // two bf16 fill the place of an f32
                with_scratch(height * pitch / 2, |work| {
                    // SAFETY: half the numbers of half the size, of a type without invalid values or alignment of its own.
                    let halves =
                        unsafe { std::slice::from_raw_parts_mut(work.as_mut_ptr().cast::<bf16>(), height * pitch) };
                    self.round(&x[rows.start * self.input..rows.end * self.input], halves);
                    self.task(halves, rows, panels, act, target);
                });
            });
        };
        // SAFETY: the tasks cover all rows and panels, and a task writes all columns of its panels in its rows.
        unsafe { filled(rows * self.output, run) }
    }

    /// Rows as bf16, with zeros up to a whole number of steps and of blocks.
    fn round(&self, x: &[f32], halves: &mut [bf16]) {
        let pitch = self.steps() * DEPTH;
        for (row, to) in halves.chunks_exact_mut(pitch.max(1)).enumerate() {
            let from = x.get(row * self.input..(row + 1) * self.input).unwrap_or_default();
            let (numbers, rest) = to.split_at_mut(from.len());
            // SAFETY: `available` gives what the CPU has.
            unsafe { (self.instructions.round)(from, numbers) };
            rest.fill(bf16::ZERO);
        }
    }

    fn task(&self, halves: &[bf16], rows: Range<usize>, panels: Range<usize>, act: Option<Act>, target: Target) {
        let (steps, pitch) = (self.steps(), self.steps() * DEPTH);
        let mut sums = Sums([[0.0; SIDE]; SIDE]);
        for panel in panels {
            let steps = &self.weight[panel * steps..][..steps];
            for row in rows.clone().step_by(SIDE) {
                let halves = &halves[(row - rows.start) * pitch..];
                let live = SIDE.min(rows.end - row);
                // SAFETY: `halves` has SIDE rows, padded to whole steps; `available` gives what the CPU has.
                unsafe { (self.instructions.block)(halves.as_ptr(), pitch, live, steps, &mut sums) };
                dispatch(Finish { tiled: self, sums: &sums.0[..live], row, panel, act, target });
            }
        }
    }
}

/// A block of sums becomes a block of results.
struct Finish<'a> {
    tiled: &'a Tiled,
    sums: &'a [[f32; SIDE]],
    row: usize,
    panel: usize,
    act: Option<Act>,
    target: Target,
}

impl Kernel for Finish<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let column = self.panel * SIDE;
        let width = SIDE.min(self.tiled.output - column);
        let bias = &self.tiled.bias[column..];
        for (row, sums) in (self.row..).zip(self.sums) {
            // SAFETY: rows and panels belong to one task, which holds one part at a time.
            let to = unsafe { self.target.part(row * self.tiled.output + column, width) };
            for (i, to) in to.chunks_mut(S::LANES).enumerate() {
                let sum = s.add(s.get(&sums[i * S::LANES..]), s.get(&bias[i * S::LANES..]));
                let result = match self.act {
                    Some(act) => act.of(s, sum),
                    None => sum,
                };
                s.put(result, to);
            }
        }
    }
}

/// [`Block`] as the manuals of the instructions have it; where these differ in the order of their sums, only the last bits do.
#[cfg(test)]
unsafe fn plain(rows: *const bf16, pitch: usize, live: usize, steps: &[Step], sums: &mut Sums) {
    for (row, sums) in sums.0.iter_mut().enumerate().take(live) {
        // SAFETY: promised by the caller.
        let row = unsafe { std::slice::from_raw_parts(rows.add(row * pitch), steps.len() * DEPTH) };
        for (column, sum) in sums.iter_mut().enumerate() {
            let pairs = steps.iter().flat_map(|step| &step.0).zip(row.chunks_exact(2));
            *sum = pairs.fold(0.0, |sum, (weights, pair)| {
                let even = weights[2 * column].to_f32() * pair[0].to_f32();
                let odd = weights[2 * column + 1].to_f32() * pair[1].to_f32();
                sum + even + odd
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::{assert_close, random};
    use candle_core::{DType, Device, Tensor};

    #[test]
    fn blocks_make_a_product_whatever_its_sides() {
        let missing = ["amx", "avx512_bf16"].into_iter().filter(|name| available().all(|here| here.name != *name));
        missing.for_each(|name| eprintln!("not run: this CPU has no {name}"));
        for instructions in available().chain([PLAIN]) {
            for (rows, input, output) in [
                (1, 1, 1),
                (2, 40, 33),
                (3, 31, 5),
                (33, 64, 32),
                (70, 100, 90),
                (130, 33, 65),
                (64, 0, 3),
                (13, 96, 64),
            ] {
                let rounded =
                    |dims: &[usize]| random(dims).to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
                let (weight, x, bias) = (rounded(&[output, input]), rounded(&[rows, input]), random(&[output]));
                let halves = weight.to_dtype(DType::BF16).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                let layer = Tiled::with(instructions, &halves, &bias.to_vec1().unwrap(), output, input);
                let numbers = x.flatten_all().unwrap().to_vec1().unwrap();
                let got = |act| Tensor::from_vec(layer.run(&numbers, rows, act), (rows, output), &Device::Cpu).unwrap();
                // The plain version: candle's product of the rounded numbers, in f32.
                let product = match input {
                    0 => Tensor::zeros((rows, output), DType::F32, &Device::Cpu).unwrap(),
                    _ => x.matmul(&weight.t().unwrap()).unwrap(),
                };
                let want = product.broadcast_add(&bias).unwrap();
                let what = format!("{} {rows} rows, {input} to {output}", instructions.name);
                assert_close(&what, &got(None), &want, 1e-6);
                assert_close(&what, &got(Some(Act::GeluTanh)), &want.gelu().unwrap(), 1e-6);
            }
        }
    }

    #[test]
    fn rows_are_rounded_to_the_nearest_even() {
        for instructions in available().chain([PLAIN]) {
            let layer = Tiled::with(instructions, &[bf16::ONE], &[], 1, 1);
            let (below, above) = (1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0); // between 1, 1 + 1/128 and 1 + 2/128
            assert_eq!(layer.run(&[below, above], 2, None), [1.0, 1.0 + 4.0 / 256.0]);
            let mut halves = [bf16::ZERO; 20];
            let numbers: Vec<f32> = (0..20).map(|i| [f32::NAN, 1e38, -3.3, 1.0 / 3.0][i % 4]).collect();
            // SAFETY: these are instructions of this CPU.
            unsafe { (instructions.round)(&numbers, &mut halves) };
            for (half, &number) in halves.iter().zip(&numbers) {
                assert!(half.is_nan() == number.is_nan() && (number.is_nan() || *half == bf16::from_f32(number)));
            }
        }
    }
}
