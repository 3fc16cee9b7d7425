//! Normalisations at the sizes of the Toyland autoencoder.

use crate::{Case, Run, Sizes, random};
use std::hint::black_box;
use vidgen::nn::norm::{group_norm_silu, spatial_norm_silu};

pub const CASES: &[Case] = &[
    Case { op: "group_norm_silu", sizes: &[("t", 8), ("c", 16), ("h", 96), ("w", 144), ("groups", 8)] },
    Case { op: "spatial_norm_silu", sizes: &[("t", 8), ("c", 16), ("h", 96), ("w", 144), ("groups", 8), ("times", 8)] },
];

pub fn make(op: &str, sizes: &Sizes) -> Option<Run> {
    match op {
        "group_norm_silu" | "spatial_norm_silu" => {
            let [t, c, h, w, groups] = ["t", "c", "h", "w", "groups"].map(|name| sizes.get(name));
            let (x, weight, bias) = (random(&[t, c, h, w]), random(&[c]), random(&[c]));
            if op == "group_norm_silu" {
                return Some(Box::new(move || {
                    drop(black_box(group_norm_silu(&x, groups, &weight, &bias, 1e-6).unwrap()));
                }));
            }
            let times = sizes.get("times");
            let (scale, shift) = (random(&[1, c, h / times, w / times]), random(&[1, c, h / times, w / times]));
            let frames = vec![0; t];
            Some(Box::new(move || {
                let y = spatial_norm_silu(&x, groups, &weight, &bias, 1e-6, &scale, &shift, &frames);
                drop(black_box(y.unwrap()));
            }))
        }
        _ => None,
    }
}
