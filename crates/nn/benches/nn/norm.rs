//! Normalisations at the sizes of Toyland's networks; `group_norm_frames`: of a UNet of images, each by itself.

use crate::{Case, Run, Sizes, random};
use std::hint::black_box;
use vidgen_nn::norm::{GroupNorm, Modulation, gate_residual, group_norm_silu, layer_norm_modulate, spatial_norm_silu};

pub const CASES: &[Case] = &[
    Case { op: "group_norm_silu", sizes: &[("t", 8), ("c", 16), ("h", 96), ("w", 144), ("groups", 8)] },
    Case { op: "spatial_norm_silu", sizes: &[("t", 8), ("c", 16), ("h", 96), ("w", 144), ("groups", 8), ("times", 8)] },
    Case { op: "group_norm_frames", sizes: &[("t", 2), ("c", 320), ("h", 64), ("w", 64), ("groups", 32)] },
    Case { op: "layer_norm_modulate", sizes: &[("b", 2), ("l", 734), ("d", 192), ("text", 32)] },
    Case { op: "gate_residual", sizes: &[("b", 2), ("l", 734), ("d", 192), ("text", 32)] },
];

pub fn make(op: &str, sizes: &Sizes) -> Option<Run> {
    match op {
        "group_norm_frames" => {
            let [t, c, h, w, groups] = ["t", "c", "h", "w", "groups"].map(|name| sizes.get(name));
            let (x, norm) = (random(&[t, c, h, w]), GroupNorm::new(groups, random(&[c]), random(&[c]), 1e-5).unwrap());
            Some(Box::new(move || drop(black_box(norm.forward_silu(&x, t).unwrap()))))
        }
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
        "layer_norm_modulate" => {
            let [b, l, d, text] = ["b", "l", "d", "text"].map(|name| sizes.get(name));
            let (x, weight, bias) = (random(&[b, l, d]), random(&[d]), random(&[d]));
            let part = |tokens| Modulation { tokens, shift: random(&[b, d]), scale: random(&[b, d]) };
            let parts = [part(text), part(l - text)];
            Some(Box::new(move || {
                drop(black_box(layer_norm_modulate(&x, Some(&weight), Some(&bias), 1e-5, &parts).unwrap()));
            }))
        }
        "gate_residual" => {
            let [b, l, d, text] = ["b", "l", "d", "text"].map(|name| sizes.get(name));
            let (x, residual) = (random(&[b, l, d]), random(&[b, l, d]));
            let gates = [(text, random(&[b, d])), (l - text, random(&[b, d]))];
            Some(Box::new(move || drop(black_box(gate_residual(&residual, &x, &gates).unwrap()))))
        }
        _ => None,
    }
}
