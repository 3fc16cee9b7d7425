//! The kernels' arguments and their twins, without a GPU: what is launched, and what the same blocks compute on the CPU.

use super::attention::{attention, probe};
use super::groups::Groups;
use super::launch::{Arg, Launch};
use super::ptx::{Ptx, pick, table};
use super::rows;
use super::twin;
use crate::cpu::tests::{assert_close, random};
use crate::kernel::Kernel;
use crate::norm::{self, Modulation};
use crate::rope::qk_norm_rope;
use crate::sdpa::Sdpa;
use candle_core::{DType, Device, Tensor};

const AMPERE: (i32, i32) = (8, 6);
const HOPPER: (i32, i32) = (9, 0);

/// The `.param` kinds of a kernel in order: `p` pointer, `i` 32 bits, `l` 64 bits, `f` f32.
fn kinds(ptx: &Ptx) -> String {
    let list = ptx.text.split_once(".visible .entry ").unwrap().1.split_once('\n').unwrap().1;
    let params = list.split(")\n").next().unwrap().lines();
    params
        .map(|line| match line.trim() {
            line if line.starts_with(".param .u64 .ptr ") => 'p',
            line if line.starts_with(".param .u64 ") => 'l',
            line if line.starts_with(".param .u32 ") => 'i',
            line if line.starts_with(".param .f32 ") => 'f',
            line => panic!("{}: {line}", ptx.name),
        })
        .collect()
}

/// The launch agrees with the compiled kernel; then what its twin computes, in f32.
fn run(launch: &Launch) -> Vec<Tensor> {
    let given: String = launch
        .args
        .iter()
        .map(|arg| match arg {
            Arg::Input(_) | Arg::Output(_) => 'p',
            Arg::I32(_) => 'i',
            Arg::I64(_) => 'l',
            Arg::F32(_) => 'f',
        })
        .collect();
    assert_eq!(given + "pp", kinds(launch.ptx), "{}", launch.ptx.name);
    twin::run(launch).into_iter().map(|x| x.to_dtype(DType::F32).unwrap()).collect()
}

#[test]
fn every_kernel_is_what_its_first_line_says() {
    let table = table().unwrap();
    let bytes: usize = table.iter().map(|ptx| ptx.text.len()).sum();
    assert!(table.len() == 41 && bytes < 1_500_000, "{} kernels, {bytes} bytes", table.len());
    for ptx in table {
        let (name, facts, text) = (ptx.module(), ptx.facts().unwrap(), &ptx.text);
        let has = |line: &str| assert!(text.lines().any(|found| found == line), "{name}: no {line}");
        has(".version 8.0"); // drivers from 525 on read it
        has(&format!(".target {}", ptx.arch));
        has(&format!(".reqntid {}", 32 * facts.warps));
        assert!(text.contains(&format!(".visible .entry {}(", facts.entry)), "{name}");
        let most = if ptx.arch == "sm_80" { 99 } else { 227 };
        assert!(facts.shared <= most << 10, "{name}: {} bytes of shared memory", facts.shared);
        let (parameters, constants) = twin::parameters(facts.entry);
        assert_eq!(kinds(ptx).len(), parameters.len() + 2, "{name}"); // and two pointers of Triton's own
        constants.iter().for_each(|constant| assert!(facts.block(constant).is_ok(), "{name}: {constant}"));
        assert!(facts.block("WIDTH").is_err());
    }
    let arch = |name, capability| pick(name, capability).unwrap().map(|ptx| ptx.arch.as_str());
    assert_eq!(arch("attention_64_bf16", HOPPER), Some("sm_90a"));
    assert_eq!(arch("attention_64_bf16", (10, 0)), Some("sm_80"));
    assert_eq!(arch("attention_96_bf16", HOPPER), Some("sm_80"));
    assert_eq!(arch("attention_64_bf16", (7, 5)), None);
}

#[test]
fn attention_equals_its_plain_version() {
    let sdpa = Sdpa { kernel: Kernel::Math, ..Sdpa::default() };
    for (dtype, capability, b, n, queries, keys, dim, limit) in [
        (DType::F16, AMPERE, 1, 2, 5, 9, 64, 1e-3),
        (DType::BF16, HOPPER, 2, 2, 130, 157, 64, 5e-3),
        (DType::BF16, AMPERE, 2, 1, 33, 64, 40, 5e-3),
        (DType::F16, AMPERE, 1, 2, 17, 31, 80, 1e-3),
        (DType::F16, HOPPER, 1, 1, 20, 65, 88, 1e-3),
        (DType::BF16, HOPPER, 1, 2, 12, 140, 128, 5e-3),
        (DType::F16, AMPERE, 2, 1, 1, 1, 104, 1e-3),
        (DType::F16, AMPERE, 1, 1, 9, 40, 160, 1e-3),
        (DType::F16, AMPERE, 1, 1, 9, 40, 8, 1e-3),
    ] {
        let what = format!("{dtype:?} {b}x{n}x{queries} on {keys}, {dim}");
        // as a projection leaves them; keys and values of one row for all; and with gaps that no kernel takes
        let joined = random(&[b, queries, 3, n, dim]).to_dtype(dtype).unwrap();
        let q = joined.narrow(2, 1, 1).unwrap().squeeze(2).unwrap().transpose(1, 2).unwrap();
        let whole = |seed: usize| random(&[1, n, keys, dim + 8 * seed]).narrow(3, 8 * seed, dim).unwrap();
        let [k, v] = [1, 2].map(|seed| whole(seed).to_dtype(dtype).unwrap().broadcast_as((b, n, keys, dim)).unwrap());
        let turned = random(&[b, n, dim, keys]).to_dtype(dtype).unwrap().transpose(2, 3).unwrap();
        for k in [k, turned] {
            let launch = attention(capability, &q, &k, &v, 0.6).unwrap().unwrap();
            let done = run(&launch);
            let [q32, k32, v32] = [&q, &k, &v].map(|x| x.to_dtype(DType::F32).unwrap());
            let (want, sums) = sdpa.attend_with_log_sum_exp(&q32, &k32, &v32, 0.6).unwrap();
            assert_close(&what, &done[0].transpose(1, 2).unwrap(), &want, limit);
            assert_close(&what, &done[1], &sums, 1e-5);

            let columns: Vec<u32> = (0..keys.min(19) as u32).map(|i| (i * 7) % keys as u32).collect();
            let columns = Tensor::new(columns, &Device::Cpu).unwrap();
            let launch = probe(capability, &q, &k, 0.6, &columns, &done[1]).unwrap().unwrap();
            let want = sdpa.probe(&q32, &k32, 0.6, &columns).unwrap();
            assert_close(&what, &run(&launch)[0], &want, 1e-5);
        }
    }
}

#[test]
fn what_the_attention_kernels_cannot_take_is_left() {
    let x = |dims: &[usize], dtype| random(dims).to_dtype(dtype).unwrap();
    let (q, other) = (x(&[1, 2, 4, 64], DType::BF16), x(&[1, 2, 4, 64], DType::F16));
    let none = |capability, q: &Tensor, k: &Tensor, v: &Tensor| {
        assert!(attention(capability, q, k, v, 1.0).unwrap().is_none(), "{q:?} {k:?} {v:?}");
    };
    none((7, 5), &q, &q, &q);
    none(AMPERE, &q, &q, &other);
    none(AMPERE, &q, &q.narrow(2, 0, 3).unwrap(), &q);
    for dims in [[1, 2, 4, 60], [1, 2, 4, 168], [1, 2, 4, 256]] {
        let q = x(&dims, DType::BF16);
        none(AMPERE, &q, &q, &q);
    }
    let q = x(&[1, 2, 4, 64], DType::F32);
    none(AMPERE, &q, &q, &q);
    // a grid that no driver takes
    let wide = x(&[1, 1, 1, 8], DType::F16).broadcast_as((70_000, 1, 1, 8)).unwrap();
    none(AMPERE, &wide, &wide, &wide);
    // a view that starts where a vector of numbers does not
    let odd = x(&[1, 1, 4, 72], DType::F16).narrow(3, 4, 64).unwrap();
    let launch = attention(AMPERE, &odd, &odd, &odd, 1.0).unwrap().unwrap();
    assert!(launch.inputs.iter().all(|x| x.layout().start_offset() == 0));
}

#[test]
fn full_size_launches_fit() {
    // a model of 5B parameters at 49 frames of 480x720: 17,776 tokens, 48 heads of 64; tensors that are never made
    let one = Tensor::zeros((1, 1, 1, 64), DType::BF16, &Device::Cpu).unwrap();
    let q = one.broadcast_as((2, 48, 17_776, 64)).unwrap();
    let launch = attention(HOPPER, &q, &q, &q, 0.125).unwrap().unwrap();
    assert_eq!(launch.grid, [17_776_u32.div_ceil(128), 96, 1]);
    assert_eq!(launch.outputs[0].1, [2, 17_776, 48, 64]);
    // 145 frames of 768x1360 would be 157,620 tokens
    let long = one.broadcast_as((2, 48, 157_620, 64)).unwrap();
    assert!(attention(AMPERE, &long, &long, &long, 0.125).unwrap().is_some());
}

#[test]
fn rows_equal_their_plain_versions() {
    for (dtype, limit) in [(DType::F32, 2e-6), (DType::F16, 1e-3), (DType::BF16, 6e-3)] {
        for (b, split, d) in [(1, [1, 0], 8), (2, [3, 5], 1032), (1, [2, 7], 192), (3, [0, 2], 48)] {
            let l = split[0] + split[1];
            let what = format!("{dtype:?} {b}x{l}x{d}");
            let full = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
            let of = |dims: &[usize]| random(dims).to_dtype(dtype).unwrap();
            let (weight, bias) = (of(&[d]), of(&[d, 1]).squeeze(1).unwrap());
            let x = (of(&[b, l, d]) + 2.0).unwrap();
            let chunks = of(&[b, 3 * d]).chunk(3, 1).unwrap();
            let shared = of(&[1, d]);
            let part = |tokens, shift: &Tensor, scale: &Tensor| Modulation {
                tokens,
                shift: shift.clone(),
                scale: scale.clone(),
            };
            let two = [part(split[0], &chunks[0], &chunks[1]), part(split[1], &shared, &chunks[2])];
            let one = [part(l, &chunks[2], &chunks[1])];
            for (weight, bias) in
                [(Some(&weight), Some(&bias)), (None, None), (Some(&weight), None), (None, Some(&bias))]
            {
                for parts in [&two[..], &one, &[]] {
                    let launch = rows::layer_norm(AMPERE, &x, weight, bias, 1e-5, parts).unwrap().unwrap();
                    let in_full: Vec<_> =
                        parts.iter().map(|each| part(each.tokens, &full(&each.shift), &full(&each.scale))).collect();
                    let (weight, bias) = (weight.map(full), bias.map(full));
                    let x = full(&x);
                    let want = match parts {
                        [] => norm::layer_norm(&x, weight.as_ref(), bias.as_ref(), 1e-5),
                        _ => norm::layer_norm_modulate(&x, weight.as_ref(), bias.as_ref(), 1e-5, &in_full),
                    };
                    assert_close(&what, &run(&launch)[0], &want.unwrap(), limit);
                }
            }
            let other = of(&[b, d, l]).transpose(1, 2).unwrap();
            for gates in [vec![(split[0], chunks[1].clone()), (split[1], shared.clone())], vec![(l, chunks[0].clone())]]
            {
                let launch = rows::gate_residual(AMPERE, &x, &other, &gates).unwrap().unwrap();
                let gates: Vec<_> = gates.iter().map(|(tokens, gate)| (*tokens, full(gate))).collect();
                let want = norm::gate_residual(&full(&x), &full(&other), &gates).unwrap();
                assert_close(&what, &run(&launch)[0], &want, limit);
            }
            let wide = ((&x - 2.0).unwrap() * 6.0).unwrap();
            let launch = rows::bias_gelu(AMPERE, &wide, &bias).unwrap().unwrap();
            let want = full(&wide).broadcast_add(&full(&bias)).unwrap().gelu().unwrap();
            assert_close(&what, &run(&launch)[0], &want, limit);
        }
    }
    let x = random(&[1, 4, 12]);
    assert!(rows::bias_gelu(AMPERE, &x, &random(&[12])).unwrap().is_none());
    let (x, map) = (random(&[1, 4, 16]), random(&[1, 16]));
    assert!(rows::gate_residual(AMPERE, &x, &x, &[(5, map.clone())]).unwrap().is_none());
    let parts = [1, 1, 2].map(|tokens| Modulation { tokens, shift: map.clone(), scale: map.clone() });
    assert!(rows::layer_norm(AMPERE, &x, None, None, 1e-5, &parts).unwrap().is_none());
}

#[test]
fn norm_and_rotation_of_heads_equal_their_plain_version() {
    for (dtype, limit) in [(DType::F32, 2e-6), (DType::F16, 1e-3), (DType::BF16, 6e-3)] {
        for (b, n, l, d, text) in
            [(1, 1, 1, 8, 0), (2, 3, 7, 64, 2), (1, 2, 9, 24, 9), (2, 1, 5, 128, 0), (1, 3, 4, 96, 1)]
        {
            let what = format!("{dtype:?} {b}x{n}x{l}x{d}, {text} of text");
            let full = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
            let of = |dims: &[usize]| random(dims).to_dtype(dtype).unwrap();
            let (weight, bias) = (of(&[d]), of(&[d, 1]).squeeze(1).unwrap());
            let cos = random(&[l - text, d / 2]);
            let sin = random(&[l - text, d / 2 + 1]).narrow(1, 1, d / 2).unwrap();
            let strided = of(&[b, l, 3, n, d]).narrow(2, 1, 1).unwrap().squeeze(2).unwrap().transpose(1, 2).unwrap();
            for x in [strided, of(&[b, n, d, l]).transpose(2, 3).unwrap()] {
                for rotary in [Some((&cos, &sin)), None] {
                    let launch = rows::qk_norm_rope(AMPERE, &x, (&weight, &bias, 1e-6), rotary, text).unwrap().unwrap();
                    let want = qk_norm_rope(&full(&x), &full(&weight), &full(&bias), 1e-6, rotary, text).unwrap();
                    let got = run(&launch)[0].transpose(1, 2).unwrap();
                    assert_close(&what, &got, &want, limit);
                }
            }
        }
    }
    let (x, weight) = (random(&[1, 1, 2, 136]), random(&[136]));
    assert!(rows::qk_norm_rope(AMPERE, &x, (&weight, &weight, 1e-6), None, 0).unwrap().is_none());
}

#[test]
fn group_norm_equals_its_plain_version() {
    for (dtype, limit) in [(DType::F32, 2e-6), (DType::F16, 1e-3), (DType::BF16, 6e-3)] {
        for (t, c, h, w, groups, times) in [
            (1, 4, 2, 4, 2, 0),
            (3, 8, 5, 9, 1, 0),
            (2, 6, 64, 96, 2, 4), // several pieces, the last one ragged
            (2, 8, 6, 10, 4, 2),
            (1, 8, 4, 4, 8, 1),
        ] {
            let what = format!("{dtype:?} {t}x{c}x{h}x{w} in {groups}, times {times}");
            let full = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
            let of = |dims: &[usize]| random(dims).to_dtype(dtype).unwrap();
            let (weight, bias) = (of(&[c]), of(&[c, 1]).squeeze(1).unwrap());
            let x = (of(&[t, c, h, w]) + 3.0).unwrap();
            let cells = (h.checked_div(times).unwrap_or(1), w.checked_div(times).unwrap_or(1));
            let (scale, shift) =
                (of(&[2, c, cells.0, cells.1]), of(&[2, c, cells.1, cells.0]).transpose(2, 3).unwrap());
            let frames: Vec<u32> = (0..t as u32).map(|frame| u32::from(frame > 0)).collect();
            let (wf, bf, xf) = (full(&weight), full(&bias), full(&x));
            for silu in [true, false] {
                let condition = (times > 0).then_some((&scale, &shift, &frames[..]));
                if condition.is_some() && !silu {
                    continue; // nothing asks for it
                }
                let norm = Groups { groups, weight: &weight, bias: &bias, eps: 1e-6, silu, condition };
                let moments = twin::run(&norm.moments(AMPERE, &x).unwrap().unwrap()).remove(0);
                let totals = twin::run(&norm.totals(AMPERE, &x, moments).unwrap().unwrap()).remove(0);
                let got = run(&norm.apply(AMPERE, &x, totals).unwrap().unwrap()).remove(0);
                let want = match (condition, silu) {
                    (Some(_), _) => {
                        norm::spatial_norm_silu(&xf, groups, &wf, &bf, 1e-6, &full(&scale), &full(&shift), &frames)
                    }
                    (None, true) => norm::group_norm_silu(&xf, groups, &wf, &bf, 1e-6),
                    (None, false) => norm::group_norm(&xf, groups, &wf, &bf, 1e-6),
                };
                assert_close(&what, &got, &want.unwrap(), limit);
            }
        }
    }
    let (x, weight) = (random(&[1, 4, 3, 3]), random(&[4]));
    let norm = Groups { groups: 4, weight: &weight, bias: &weight, eps: 1e-6, silu: true, condition: None };
    assert!(norm.moments(AMPERE, &x).unwrap().is_none(), "nine numbers are no multiple of eight");
    assert!(Groups { groups: 3, ..norm }.moments(AMPERE, &x).unwrap().is_none());
    let frames = [2];
    let map = random(&[2, 4, 3, 3]);
    let far = Groups { groups: 1, condition: Some((&map, &map, &frames)), ..norm };
    assert!(far.moments(AMPERE, &random(&[1, 4, 6, 6])).unwrap().is_none());
}
