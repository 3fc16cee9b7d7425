//! Attention at the size of Toyland's layers; the operands lie as a joined projection leaves them. `sdpa_bf16`: with products in bf16
//! where the CPU has them. `cross`: queries of frames on the keys of a text.

use crate::{Case, Run, Sizes, random};
use std::hint::black_box;
use vidgen_nn::sdpa::Sdpa;

pub const CASES: &[Case] = &[
    Case { op: "sdpa", sizes: &[("b", 2), ("n", 3), ("l", 734), ("d", 64)] },
    Case { op: "cross", sizes: &[("b", 2), ("n", 8), ("l", 1024), ("keys", 77), ("d", 80)] },
    Case { op: "sdpa_bf16", sizes: &[("b", 2), ("n", 3), ("l", 734), ("d", 64)] },
];

pub fn make(op: &str, sizes: &Sizes) -> Option<Run> {
    if op == "cross" {
        let [b, n, l, keys, d] = ["b", "n", "l", "keys", "d"].map(|name| sizes.get(name));
        let part = |tokens| random(&[b, tokens, n, d]).transpose(1, 2).unwrap();
        let (q, k, v, sdpa) = (part(l), part(keys), part(keys), Sdpa::default());
        return Some(Box::new(move || drop(black_box(sdpa.attend(&q, &k, &v, 0.125).unwrap()))));
    }
    if !matches!(op, "sdpa" | "sdpa_bf16") {
        return None;
    }
    let [b, n, l, d] = ["b", "n", "l", "d"].map(|name| sizes.get(name));
    let qkv = random(&[b, l, 3, n, d]);
    let [q, k, v] = [0, 1, 2].map(|i| qkv.narrow(2, i, 1).unwrap().squeeze(2).unwrap().transpose(1, 2).unwrap());
    let sdpa = Sdpa { bf16: op == "sdpa_bf16", ..Sdpa::default() };
    Some(Box::new(move || drop(black_box(sdpa.attend(&q, &k, &v, 0.125).unwrap()))))
}
