//! Norm and rotation of queries, from a joined projection.

use crate::{Case, Run, Sizes, random};
use std::hint::black_box;
use vidgen_nn::rope::qk_norm_rope;

pub const CASES: &[Case] = &[
    Case { op: "qk_norm", sizes: &[("b", 2), ("n", 3), ("l", 734), ("d", 64)] },
    Case { op: "qk_norm_rope", sizes: &[("b", 2), ("n", 3), ("l", 734), ("d", 64)] },
];

pub fn make(op: &str, sizes: &Sizes) -> Option<Run> {
    if !matches!(op, "qk_norm" | "qk_norm_rope") {
        return None;
    }
    let [b, n, l, d] = ["b", "n", "l", "d"].map(|name| sizes.get(name));
    let x = random(&[b, l, 3, n, d]).narrow(2, 0, 1).unwrap().squeeze(2).unwrap().transpose(1, 2).unwrap();
    let (weight, bias, tables) = (random(&[d]), random(&[d]), [random(&[l, d / 2]), random(&[l, d / 2])]);
    let turn = op == "qk_norm_rope";
    Some(Box::new(move || {
        let rotary = turn.then_some((&tables[0], &tables[1]));
        drop(black_box(qk_norm_rope(&x, &weight, &bias, 1e-6, rotary, 0).unwrap()));
    }))
}
