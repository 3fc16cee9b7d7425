//! `x W^T + b` in bf16 with the tile registers of AMX (Intel, from Sapphire Rapids on): products of bf16 numbers, sums in f32.
//!
//! A step takes 32 inputs of 32 rows and 32 columns: two tiles of rows, two of weights, four of sums. The numbers of a row are
//! rounded to bf16 when a task begins. What the instructions do to a block is also written in plain code, [`plain`], which is
//! their specification and with which everything around them is tested on processors that lack them.

use super::act::Act;
use super::linear::tasks;
use super::simd::{Kernel, Simd, dispatch};
use super::{Target, filled, with_scratch};
use half::bf16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::ops::Range;

/// Rows and columns of a block.
const SIDE: usize = 32;
/// Inputs of a step.
const DEPTH: usize = 32;
/// Rows of one task: with them, their inputs stay in the second-level cache.
const ROWS: usize = 64;

/// The weights of one step of a block: pairs of inputs, each of them for all columns, as the instruction wants them.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Step([[bf16; 2 * SIDE]; DEPTH / 2]);

/// Sums of a block: `[row][column]`.
#[repr(C, align(64))]
struct Sums([[f32; SIDE]; SIDE]);

/// Computes the sums of one block.
///
/// # Safety
/// `rows` must be readable for `SIDE` rows of `steps.len() * DEPTH` numbers, `pitch` numbers apart.
type Block = unsafe fn(rows: *const bf16, pitch: usize, steps: &[Step], sums: &mut Sums);

/// Weights in the order of use.
#[derive(Debug)]
pub struct Tiled {
    /// `[panel][step]`; zero beyond the last column and the last input.
    weight: Vec<Step>,
    bias: Vec<f32>,
    input: usize,
    output: usize,
    block: Block,
}

impl Tiled {
    /// `weight` is `[output, input]`; `bias` has `output` numbers or none. None where the processor has no such tiles, or the
    /// system keeps them to itself.
    pub fn new(weight: &[bf16], bias: &[f32], output: usize, input: usize) -> Option<Self> {
        Some(Self::with(block()?, weight, bias, output, input))
    }

    fn with(block: Block, weight: &[bf16], bias: &[f32], output: usize, input: usize) -> Self {
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
        Self { weight: packed, bias, input, output, block }
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
            numbers.convert_from_f32_slice(from);
            rest.fill(bf16::ZERO);
        }
    }

    fn task(&self, halves: &[bf16], rows: Range<usize>, panels: Range<usize>, act: Option<Act>, target: Target) {
        let (steps, pitch) = (self.steps(), self.steps() * DEPTH);
        let mut sums = Sums([[0.0; SIDE]; SIDE]);
        for panel in panels {
            let column = panel * SIDE;
            let width = SIDE.min(self.output - column);
            for row in rows.clone().step_by(SIDE) {
                let halves = &halves[(row - rows.start) * pitch..];
                // SAFETY: `halves` has SIDE rows, padded to whole steps.
                unsafe { (self.block)(halves.as_ptr(), pitch, &self.weight[panel * steps..][..steps], &mut sums) };
                for (row, sums) in (row..rows.end).zip(&sums.0) {
                    // SAFETY: rows and panels belong to one task.
                    let to = unsafe { target.part(row * self.output + column, width) };
                    dispatch(Finish { sums, bias: &self.bias[column..], act, to });
                }
            }
        }
    }
}

/// A row of sums becomes a row of results.
struct Finish<'a> {
    sums: &'a [f32],
    bias: &'a [f32],
    act: Option<Act>,
    to: &'a mut [std::mem::MaybeUninit<f32>],
}

impl Kernel for Finish<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (i, to) in self.to.chunks_mut(S::LANES).enumerate() {
            let sum = s.add(s.get(&self.sums[i * S::LANES..]), s.get(&self.bias[i * S::LANES..]));
            s.put(self.act.map_or(sum, |act| act.of(s, sum)), to);
        }
    }
}

/// [`Block`] as the instructions' manual has it; where these differ in the order of their sums, only the last bits do.
#[cfg_attr(not(test), allow(dead_code))]
unsafe fn plain(rows: *const bf16, pitch: usize, steps: &[Step], sums: &mut Sums) {
    for (row, sums) in sums.0.iter_mut().enumerate() {
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

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use x86::block;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn block() -> Option<Block> {
    None
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod x86 {
    use super::{Block, SIDE, Step, Sums};
    use half::bf16;
    use std::arch::asm;
    use std::arch::x86_64::__cpuid_count;
    use std::sync::OnceLock;

    /// Shapes of the eight tiles: palette 1, each of 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct Shapes {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    static SHAPES: Shapes = {
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        let mut tile = 0;
        while tile < 8 {
            (row_bytes[tile], rows[tile]) = (64, 16);
            tile += 1;
        }
        Shapes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
    };

    /// The instructions, where they may be used.
    pub(super) fn block() -> Option<Block> {
        static HERE: OnceLock<bool> = OnceLock::new();
        HERE.get_or_init(|| has_tiles() && allowed()).then_some(tiles as Block)
    }

    /// Leaf 7 of CPUID: AMX-BF16 and AMX-TILE.
    fn has_tiles() -> bool {
        const WANTED: u32 = 1 << 22 | 1 << 24;
        // Leaf 0 says how many leaves there are.
        __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & WANTED == WANTED
    }

    /// Linux saves tiles only for processes that have asked (`ARCH_REQ_XCOMP_PERM`, since 5.16); all threads are then free to use
    /// them.
    fn allowed() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: the call takes two numbers and touches no memory of this process.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }

    /// tmm0..3 are the sums, 4 and 5 the rows, 6 and 7 the weights of a step. Shapes and tiles are given back at the end: a thread
    /// that holds some costs the system eight kilobytes at every switch.
    ///
    /// # Safety
    /// As [`Block`]; [`block`] must have returned it.
    unsafe fn tiles(rows: *const bf16, pitch: usize, steps: &[Step], sums: &mut Sums) {
        let sums = sums.0.as_mut_ptr().cast::<f32>();
        // SAFETY: reads SIDE rows of the steps' length and the steps, writes the sums; no other code uses tile registers.
        unsafe {
            asm!(
                "ldtilecfg [{shapes}]",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "test {count}, {count}",
                "jz 3f",
                "2:",
                "tileloadd tmm6, [{weights} + {two_lines}]",
                "tileloadd tmm7, [{weights} + {two_lines} + 64]",
                "tileloadd tmm4, [{upper} + {pitch}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{lower} + {pitch}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {upper}, 64",
                "add {lower}, 64",
                "add {weights}, {step}",
                "dec {count}",
                "jnz 2b",
                "3:",
                "tilestored [{sums} + {two_lines}], tmm0",
                "tilestored [{sums} + {two_lines} + 64], tmm1",
                "tilestored [{sums} + {two_lines} + {half}], tmm2",
                "tilestored [{sums} + {two_lines} + {half} + 64], tmm3",
                "tilerelease",
                shapes = in(reg) &raw const SHAPES,
                count = inout(reg) steps.len() => _,
                weights = inout(reg) steps.as_ptr() => _,
                upper = inout(reg) rows => _,
                lower = inout(reg) rows.wrapping_add(SIDE / 2 * pitch) => _,
                pitch = in(reg) 2 * pitch,
                two_lines = in(reg) 128_usize,
                sums = in(reg) sums,
                step = const size_of::<Step>(),
                half = const size_of::<Sums>() / 2,
                options(nostack),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::cpu::tests::{assert_close, random};
    use candle_core::{DType, Device, Tensor};

    /// The plain version: candle's product of the rounded numbers, in f32.
    fn check(block: Block, limit: f64) {
        for (rows, input, output) in [(1, 1, 1), (3, 31, 5), (33, 64, 32), (70, 100, 90), (130, 33, 65), (64, 0, 3)] {
            let rounded = |dims: &[usize]| random(dims).to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
            let (weight, x, bias) = (rounded(&[output, input]), rounded(&[rows, input]), random(&[output]));
            let halves = weight.to_dtype(DType::BF16).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let layer = Tiled::with(block, &halves, &bias.to_vec1().unwrap(), output, input);
            let numbers = x.flatten_all().unwrap().to_vec1().unwrap();
            let got = |act| Tensor::from_vec(layer.run(&numbers, rows, act), (rows, output), &Device::Cpu).unwrap();
            let product = match input {
                0 => Tensor::zeros((rows, output), DType::F32, &Device::Cpu).unwrap(),
                _ => x.matmul(&weight.t().unwrap()).unwrap(),
            };
            let want = product.broadcast_add(&bias).unwrap();
            let what = format!("{rows} rows, {input} to {output}");
            assert_close(&what, &got(None), &want, limit);
            assert_close(&what, &got(Some(Act::GeluTanh)), &want.gelu().unwrap(), limit);
        }
    }

    #[test]
    fn blocks_make_a_product_whatever_its_sides() {
        check(plain, 1e-6);
    }

    #[test]
    fn the_instructions_do_what_the_plain_version_does() {
        match super::block() {
            Some(block) => check(block, 1e-6),
            None => eprintln!("not run: this processor has no AMX for bf16"),
        }
    }

    #[test]
    fn rows_are_rounded_to_the_nearest_even() {
        let layer = Tiled::with(plain, &[bf16::ONE], &[], 1, 1);
        let (below, above) = (1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0); // between 1, 1 + 1/128 and 1 + 2/128
        assert_eq!(layer.run(&[below, above], 2, None), [1.0, 1.0 + 4.0 / 256.0]);
    }
}
