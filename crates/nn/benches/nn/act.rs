//! Activations of a million values.

use crate::{Case, Run, Sizes, random};
use std::hint::black_box;
use vidgen_nn::act::{gelu_tanh, silu};

pub const CASES: &[Case] =
    &[Case { op: "gelu_tanh", sizes: &[("count", 1 << 20)] }, Case { op: "silu", sizes: &[("count", 1 << 20)] }];

pub fn make(op: &str, sizes: &Sizes) -> Option<Run> {
    let act = match op {
        "gelu_tanh" => gelu_tanh,
        "silu" => silu,
        _ => return None,
    };
    let x = random(&[sizes.get("count")]);
    Some(Box::new(move || drop(black_box(act(&x).unwrap()))))
}
