//! Activations of a million values, and GEGLU at the size of a UNet's feed-forward layers.

use crate::{Case, Run, Sizes, random};
use std::hint::black_box;
use vidgen_nn::act::{geglu, gelu_tanh, silu};

pub const CASES: &[Case] = &[
    Case { op: "gelu_tanh", sizes: &[("count", 1 << 20)] },
    Case { op: "silu", sizes: &[("count", 1 << 20)] },
    Case { op: "geglu", sizes: &[("rows", 2048), ("width", 2560)] },
];

pub fn make(op: &str, sizes: &Sizes) -> Option<Run> {
    if op == "geglu" {
        let x = random(&[sizes.get("rows"), 2 * sizes.get("width")]);
        return Some(Box::new(move || drop(black_box(geglu(&x).unwrap()))));
    }
    let act = match op {
        "gelu_tanh" => gelu_tanh,
        "silu" => silu,
        _ => return None,
    };
    let x = random(&[sizes.get("count")]);
    Some(Box::new(move || drop(black_box(act(&x).unwrap()))))
}
