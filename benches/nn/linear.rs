//! Linear layers at Toyland's sizes.

use crate::{Case, Run, Sizes, random};
use std::hint::black_box;
use vidgen::nn::linear::Linear;

pub const CASES: &[Case] = &[
    Case { op: "linear", sizes: &[("rows", 1468), ("in", 192), ("out", 576)] },
    Case { op: "linear", sizes: &[("rows", 1468), ("in", 768), ("out", 192)] },
    Case { op: "linear_gelu", sizes: &[("rows", 1468), ("in", 192), ("out", 768)] },
];

pub fn make(op: &str, sizes: &Sizes) -> Option<Run> {
    if !matches!(op, "linear" | "linear_gelu") {
        return None;
    }
    let [rows, input, output] = ["rows", "in", "out"].map(|name| sizes.get(name));
    let layer = Linear::new(random(&[output, input]), Some(random(&[output]))).unwrap();
    let x = random(&[rows, input]);
    let gelu = op == "linear_gelu";
    Some(Box::new(move || {
        drop(black_box(if gelu { layer.forward_gelu_tanh(&x) } else { layer.forward(&x) }.unwrap()));
    }))
}
