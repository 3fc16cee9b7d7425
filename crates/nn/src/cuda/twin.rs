//! A twin of each kernel, in plain Rust in host memory: the same arguments, blocks, masks and order of additions.
//!
//! It takes a [`Launch`] as the driver does: arguments by position, matched with the names in the kernel's source. Every access
//! is checked, so that a wrong stride, order or grid is a failed test and not a corrupted memory.

use super::launch::{Arg, Launch};
use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use std::collections::HashMap;

const SOURCES: [&str; 3] =
    [include_str!("kernels/attention.py"), include_str!("kernels/rows.py"), include_str!("kernels/group_norm.py")];

/// Names of the arguments of a kernel in order, and of those that are compiled in.
pub fn parameters(entry: &str) -> (Vec<&'static str>, Vec<&'static str>) {
    let head = format!("\ndef {entry}(");
    let list = SOURCES.iter().find_map(|source| Some(source.split_once(&head)?.1.split_once("):")?.0)).unwrap();
    let (constants, names): (Vec<_>, Vec<_>) =
        list.split(',').map(str::trim).filter(|name| !name.is_empty()).partition(|name| name.contains("constexpr"));
    (names, constants.into_iter().map(|name| name.split(':').next().unwrap()).collect())
}

/// One launch under way.
struct Call {
    args: HashMap<&'static str, Arg>,
    blocks: HashMap<&'static str, usize>,
    dtype: DType,
    /// All numbers of the inputs' allocations, and where each tensor starts.
    inputs: Vec<(Vec<f32>, usize)>,
    outputs: Vec<Vec<f32>>,
}

/// What the kernel writes: the outputs, as tensors of the launch's types.
pub fn run(launch: &Launch) -> Vec<Tensor> {
    let facts = launch.ptx.facts().unwrap();
    let (names, constants) = parameters(facts.entry);
    assert_eq!(names.len(), launch.args.len(), "{}: {names:?}", facts.entry);
    let mut call = Call {
        args: names.into_iter().zip(launch.args.iter().copied()).collect(),
        blocks: constants.into_iter().map(|name| (name, facts.block(name).unwrap())).collect(),
        dtype: launch.inputs[0].dtype(),
        inputs: launch.inputs.iter().map(numbers).collect(),
        outputs: launch.outputs.iter().map(|(_, dims)| vec![f32::NAN; dims.iter().product()]).collect(),
    };
    let program: fn(&mut Call, [usize; 3], [usize; 3]) = match facts.entry {
        "attention" => attention,
        "probe" => probe,
        "layer_norm_modulate" => layer_norm_modulate,
        "gate_residual" => gate_residual,
        "bias_gelu" => bias_gelu,
        "qk_norm_rope" => qk_norm_rope,
        "group_moments" => group_moments,
        "group_totals" => group_totals,
        "group_apply" => group_apply,
        entry => panic!("no twin of {entry}"),
    };
    let [x, y, z] = launch.grid.map(|axis| axis as usize);
    for block in (0..z).flat_map(|k| (0..y).flat_map(move |j| (0..x).map(move |i| [i, j, k]))) {
        program(&mut call, block, [x, y, z]);
    }
    let outputs = call.outputs.into_iter().zip(&launch.outputs);
    outputs
        .map(|(values, (dtype, dims))| {
            assert!(values.iter().all(|value| !value.is_nan()), "{}: not all was written", facts.entry);
            Tensor::from_vec(values, &dims[..], &Device::Cpu).unwrap().to_dtype(*dtype).unwrap()
        })
        .collect()
}

fn numbers(x: &Tensor) -> (Vec<f32>, usize) {
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { panic!("not in host memory") };
    let values = match storage {
        CpuStorage::F32(values) => values.clone(),
        CpuStorage::F16(values) => values.iter().map(|x| x.to_f32()).collect(),
        CpuStorage::BF16(values) => values.iter().map(|x| x.to_f32()).collect(),
        CpuStorage::U32(values) => values.iter().map(|&x| x as f32).collect(),
        other => panic!("no kernel takes {other:?}"),
    };
    (values, layout.start_offset())
}

impl Call {
    fn size(&self, name: &str) -> usize {
        match self.args[name] {
            Arg::I32(value) => value as usize,
            Arg::I64(value) => value as usize,
            other => panic!("{name} is {other:?}"),
        }
    }

    fn real(&self, name: &str) -> f32 {
        let Arg::F32(value) = self.args[name] else { panic!("{name} is no f32") };
        value
    }

    fn load(&self, name: &str, at: usize) -> f32 {
        match self.args[name] {
            Arg::Input(i) => self.inputs[i].0[self.inputs[i].1 + at],
            Arg::Output(i) => self.outputs[i][at],
            other => panic!("{name} is {other:?}"),
        }
    }

    /// A number that is left out where `keep` is false.
    fn masked(&self, name: &str, keep: bool, other: f32, at: impl FnOnce() -> usize) -> f32 {
        if keep { self.load(name, at()) } else { other }
    }

    fn store(&mut self, name: &str, at: usize, value: f32) {
        let Arg::Output(i) = self.args[name] else { panic!("{name} is no output") };
        assert!(self.outputs[i][at].is_nan(), "{name}: {at} is written twice");
        self.outputs[i][at] = value;
    }

    /// As the inputs' type holds it.
    fn rounded(&self, value: f32) -> f32 {
        match self.dtype {
            DType::F16 => half::f16::from_f32(value).to_f32(),
            DType::BF16 => half::bf16::from_f32(value).to_f32(),
            _ => value,
        }
    }
}

fn attention(call: &mut Call, [x, y, _]: [usize; 3], _: [usize; 3]) {
    let [m_block, n_block, d0, d1] = ["BLOCK_M", "BLOCK_N", "D0", "D1"].map(|name| call.blocks[name]);
    let [heads, queries, keys, dim] = ["heads", "queries", "keys", "dim"].map(|name| call.size(name));
    let (batch, head) = (y / heads, y % heads);
    let start = |b: &str, n: &str| batch * call.size(b) + head * call.size(n);
    let (q, k, v) = (start("qb", "qn"), start("kb", "kn"), start("vb", "vn"));
    let [ql, kl, vl] = ["ql", "kl", "vl"].map(|name| call.size(name));
    for row in (x * m_block..(x + 1) * m_block).filter(|row| *row < queries) {
        let read = |i: usize| call.masked("q", i < dim, 0.0, || q + row * ql + i);
        let query: Vec<f32> = (0..d0 + d1).map(read).collect();
        let (mut most, mut sum, mut acc) = (f32::NEG_INFINITY, 0.0_f32, vec![0.0_f32; d0 + d1]);
        for first in (0..keys).step_by(n_block) {
            let score = |col: usize| {
                let key = |i: usize| call.masked("k", col < keys && i < dim, 0.0, || k + col * kl + i);
                let dot: f32 = (0..d0 + d1).map(|i| query[i] * key(i)).sum();
                if col < keys { dot * call.real("scale_log2") } else { f32::NEG_INFINITY }
            };
            let scores: Vec<f32> = (first..first + n_block).map(score).collect();
            let higher = scores.iter().copied().fold(most, f32::max);
            let p: Vec<f32> = scores.iter().map(|score| (score - higher).exp2()).collect();
            let shrink = (most - higher).exp2();
            sum = sum * shrink + p.iter().sum::<f32>();
            for (i, acc) in acc.iter_mut().enumerate() {
                let value = |j: usize| {
                    call.masked("v", first + j < keys && i < dim, 0.0, || v + (first + j) * vl + i) * call.rounded(p[j])
                };
                *acc = *acc * shrink + (0..n_block).map(value).sum::<f32>();
            }
            most = higher;
        }
        let place = ((batch * queries + row) * heads + head) * dim;
        acc[..dim].iter().enumerate().for_each(|(i, acc)| call.store("out", place + i, acc / sum));
        let total = (most + sum.log2()) * std::f32::consts::LN_2;
        call.store("sums", (batch * heads + head) * queries + row, total);
    }
}

fn probe(call: &mut Call, [x, y, z]: [usize; 3], _: [usize; 3]) {
    let (m_block, j_block) = (call.blocks["BLOCK_M"], call.blocks["BLOCK_J"]);
    let [heads, queries, keys] = ["heads", "queries", "keys"].map(|name| call.size(name));
    let [count, dim] = ["count", "dim"].map(|name| call.size(name));
    let (batch, head) = (z / heads, z % heads);
    let q = batch * call.size("qb") + head * call.size("qn");
    let k = batch * call.size("kb") + head * call.size("kn");
    for row in (x * m_block..(x + 1) * m_block).filter(|row| *row < queries) {
        for place in (y * j_block..(y + 1) * j_block).filter(|place| *place < count) {
            let col = call.load("columns", place) as usize;
            assert!(col < keys, "no key {col}");
            let product =
                |i| call.load("q", q + row * call.size("ql") + i) * call.load("k", k + col * call.size("kl") + i);
            let dot: f32 = (0..dim).map(product).sum();
            let at = (batch * heads + head) * queries + row;
            let p = (dot * call.real("scale") - call.load("sums", at)).exp();
            call.store("out", at * count + place, p);
        }
    }
}

/// Sum as the kernels have it: lane by lane over the blocks, then over the lanes.
fn block_sum(block: usize, count: usize, value: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = vec![0.0_f32; block];
    (0..count).for_each(|i| lanes[i % block] += value(i));
    lanes.iter().sum()
}

fn layer_norm_modulate(call: &mut Call, [row, ..]: [usize; 3], _: [usize; 3]) {
    let block = call.blocks["BLOCK"];
    let [length, dim, first, parts] = ["length", "dim", "first", "parts"].map(|name| call.size(name));
    let (batch, token) = (row / length, row % length);
    let x = |i: usize| call.load("x", row * dim + i);
    let mean = block_sum(block, dim, x) / dim as f32;
    let variance = block_sum(block, dim, |i| (x(i) - mean) * (x(i) - mean)) / dim as f32;
    let inverse = 1.0 / (variance + call.real("eps")).sqrt();
    let (one, two) = (token < first && parts > 0, token >= first && parts > 1);
    let done: Vec<f32> = (0..dim)
        .map(|i| {
            let weight = call.masked("weight", call.size("weighted") != 0, 1.0, || i);
            let bias = call.masked("bias", call.size("biased") != 0, 0.0, || i);
            let map = |zero: &str, zero_b: &str, other: &str, other_b: &str| {
                call.masked(zero, one, 0.0, || batch * call.size(zero_b) + i)
                    + call.masked(other, two, 0.0, || batch * call.size(other_b) + i)
            };
            let scale = map("scale0", "scale0_b", "scale1", "scale1_b");
            let shift = map("shift0", "shift0_b", "shift1", "shift1_b");
            ((x(i) - mean) * inverse * weight + bias) * (1.0 + scale) + shift
        })
        .collect();
    done.into_iter().enumerate().for_each(|(i, y)| call.store("out", row * dim + i, y));
}

fn gate_residual(call: &mut Call, [row, y, _]: [usize; 3], _: [usize; 3]) {
    let block = call.blocks["BLOCK"];
    let [length, dim, first] = ["length", "dim", "first"].map(|name| call.size(name));
    let (batch, early) = (row / length, row % length < first);
    for i in (y * block..(y + 1) * block).filter(|i| *i < dim) {
        let gate = if early {
            call.load("gate0", batch * call.size("gate0_b") + i)
        } else {
            call.load("gate1", batch * call.size("gate1_b") + i)
        };
        let value = call.load("residual", row * dim + i) + gate * call.load("x", row * dim + i);
        call.store("out", row * dim + i, value);
    }
}

fn bias_gelu(call: &mut Call, [row, y, _]: [usize; 3], _: [usize; 3]) {
    let (block, dim) = (call.blocks["BLOCK"], call.size("dim"));
    for i in (y * block..(y + 1) * block).filter(|i| *i < dim) {
        let x = call.load("x", row * dim + i) + call.load("bias", i);
        let z = 1.595_769 * (x + 0.044715 * x * x * x);
        call.store("out", row * dim + i, x / (1.0 + (-z).exp()));
    }
}

fn qk_norm_rope(call: &mut Call, [x, ..]: [usize; 3], _: [usize; 3]) {
    let (rows, half) = (call.blocks["ROWS"], call.blocks["HALF"]);
    let [heads, length, dim, text] = ["heads", "length", "dim", "text"].map(|name| call.size(name));
    for row in (x * rows..(x + 1) * rows).filter(|row| *row < call.size("rows")).collect::<Vec<_>>() {
        let (head, token, batch) = (row % heads, row / heads % length, row / heads / length);
        let start = batch * call.size("xb") + head * call.size("xn") + token * call.size("xl");
        let value = |i: usize| call.masked("x", i < dim, 0.0, || start + i);
        let mean = (0..2 * half).map(value).sum::<f32>() / dim as f32;
        let away = |i: usize| if i < dim { value(i) - mean } else { 0.0 };
        let variance = (0..2 * half).map(|i| away(i) * away(i)).sum::<f32>() / dim as f32;
        let inverse = 1.0 / (variance + call.real("eps")).sqrt();
        let y = |i: usize| away(i) * inverse * call.load("weight", i) + call.load("bias", i);
        let turns = token >= text && call.size("rotate") != 0;
        let pairs: Vec<[f32; 2]> = (0..dim / 2)
            .map(|i| {
                let place = || (token - text) * (dim / 2) + i;
                let (c, s) = (call.masked("cos", turns, 1.0, place), call.masked("sin", turns, 0.0, place));
                [y(2 * i) * c - y(2 * i + 1) * s, y(2 * i + 1) * c + y(2 * i) * s]
            })
            .collect();
        pairs.into_iter().flatten().enumerate().for_each(|(i, value)| call.store("out", row * dim + i, value));
    }
}

fn group_moments(call: &mut Call, [piece, frame, group]: [usize; 3], [_, frames, _]: [usize; 3]) {
    let (whole, block) = (call.blocks["PIECE"], call.blocks["BLOCK"]);
    let [size, pieces, groups] = ["size", "pieces", "groups"].map(|name| call.size(name));
    let count = whole.min(size - piece * whole);
    let x = |i: usize| call.load("x", (frame * groups + group) * size + piece * whole + i);
    let mean = block_sum(block, count, x) / count as f32;
    let square = block_sum(block, count, |i| (x(i) - mean) * (x(i) - mean));
    let place = (group * frames + frame) * pieces + piece;
    call.store("moments", 2 * place, mean);
    call.store("moments", 2 * place + 1, square);
}

fn group_totals(call: &mut Call, [group, ..]: [usize; 3], _: [usize; 3]) {
    let (whole, block) = (call.blocks["PIECE"], call.blocks["BLOCK"]);
    let [size, pieces, frames] = ["size", "pieces", "frames"].map(|name| call.size(name));
    let count = size as f32 * frames as f32;
    let share = |i: usize| whole.min(size - i % pieces * whole) as f32 / count;
    let moment = |i: usize, which: usize| call.load("moments", 2 * (group * frames * pieces + i) + which);
    let mean = block_sum(block, frames * pieces, |i| moment(i, 0) * share(i));
    let away = |i: usize| moment(i, 1) / count + (moment(i, 0) - mean) * (moment(i, 0) - mean) * share(i);
    let variance = block_sum(block, frames * pieces, away);
    let inverse = 1.0 / (variance + call.real("eps")).sqrt();
    call.store("totals", 2 * group, mean);
    call.store("totals", 2 * group + 1, inverse);
}

fn group_apply(call: &mut Call, [plane, y, _]: [usize; 3], _: [usize; 3]) {
    let block = call.blocks["BLOCK"];
    let [channels, per_group, size] = ["channels", "per_group", "size"].map(|name| call.size(name));
    let [height, width, rows, columns] = ["height", "width", "rows", "columns"].map(|name| call.size(name));
    let (frame, channel) = (plane / channels, plane % channels);
    let total = 2 * (channel / per_group);
    let condition = call.size("condition") != 0;
    for i in (y * block..(y + 1) * block).filter(|i| *i < size) {
        let factor = call.load("totals", total + 1) * call.load("weight", channel);
        let x = (call.load("x", plane * size + i) - call.load("totals", total)) * factor + call.load("bias", channel);
        let known = call.masked("frames", condition, 0.0, || frame) as usize;
        let cell = || {
            let cell = i / width / (height / rows) * columns + i % width / (width / columns);
            (known * channels + channel) * rows * columns + cell
        };
        let x = x * call.masked("scale", condition, 1.0, cell) + call.masked("shift", condition, 0.0, cell);
        let x = if call.size("silu") != 0 { x / (1.0 + (-x).exp()) } else { x };
        call.store("out", plane * size + i, x);
    }
}
