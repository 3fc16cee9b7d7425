//! Linear layers at Toyland's sizes, and a gated one of a UNet. `linear_bf16`: weights in bf16, and products where the CPU has tiles for them.

use crate::{Case, Run, Sizes, random};
use candle_core::DType;
use std::hint::black_box;
use vidgen_nn::linear::Linear;

pub const CASES: &[Case] = &[
    Case { op: "linear", sizes: &[("rows", 1468), ("in", 192), ("out", 576)] },
    Case { op: "linear", sizes: &[("rows", 1468), ("in", 768), ("out", 192)] },
    Case { op: "linear_bf16", sizes: &[("rows", 1468), ("in", 192), ("out", 576)] },
    Case { op: "linear_geglu", sizes: &[("rows", 512), ("in", 1280), ("out", 10240)] },
    Case { op: "linear_gelu", sizes: &[("rows", 1468), ("in", 192), ("out", 768)] },
];

pub fn make(op: &str, sizes: &Sizes) -> Option<Run> {
    if !matches!(op, "linear" | "linear_gelu" | "linear_geglu" | "linear_geglu_bf16" | "linear_bf16") {
        return None;
    }
    let [rows, input, output] = ["rows", "in", "out"].map(|name| sizes.get(name));
    let dtype = if op.ends_with("_bf16") { DType::BF16 } else { DType::F32 };
    let weight = random(&[output, input]).to_dtype(dtype).unwrap();
    let layer = Linear::new(weight, Some(random(&[output])), dtype).unwrap();
    let x = random(&[rows, input]);
    let forward = match op {
        "linear_gelu" => Linear::forward_gelu_tanh,
        "linear_geglu" | "linear_geglu_bf16" => Linear::forward_geglu,
        _ => Linear::forward,
    };
    Some(Box::new(move || {
        drop(black_box(forward(&layer, &x).unwrap()));
    }))
}
