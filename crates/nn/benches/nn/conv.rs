//! Convolutions at the sizes of the Toyland autoencoder, and one of a UNet. `.._bf16`: with products in bf16 where the CPU has them.

use crate::{Case, Run, Sizes, random};
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use std::collections::HashMap;
use std::hint::black_box;
use vidgen_nn::conv::{conv2d, conv3d};

pub const CASES: &[Case] = &[
    Case { op: "conv3d", sizes: &[("cin", 16), ("cout", 16), ("t", 8), ("h", 96), ("w", 144)] },
    Case { op: "conv3d_bf16", sizes: &[("cin", 16), ("cout", 16), ("t", 8), ("h", 96), ("w", 144)] },
    Case { op: "conv3d", sizes: &[("cin", 64), ("cout", 64), ("t", 4), ("h", 12), ("w", 18)] },
    Case { op: "conv2d", sizes: &[("cin", 32), ("cout", 32), ("t", 8), ("h", 48), ("w", 72), ("k", 3), ("stride", 1)] },
    Case {
        op: "conv2d",
        sizes: &[("cin", 320), ("cout", 320), ("t", 2), ("h", 32), ("w", 32), ("k", 3), ("stride", 1)],
    },
    Case { op: "upsampled", sizes: &[("cin", 32), ("cout", 32), ("t", 8), ("h", 48), ("w", 72)] },
];

pub fn make(op: &str, sizes: &Sizes) -> Option<Run> {
    let [cin, cout, t, h, w] = ["cin", "cout", "t", "h", "w"].map(|name| sizes.0[name].as_u64().unwrap_or(0) as usize);
    let (op, dtype) = match op.strip_suffix("_bf16") {
        Some(op) => (op, DType::BF16),
        None => (op, DType::F32),
    };
    let layer = |weight: &[usize]| {
        let tensors = [("weight", random(weight)), ("bias", random(&[cout]))];
        let tensors: HashMap<_, _> = tensors.into_iter().map(|(name, tensor)| (name.to_string(), tensor)).collect();
        VarBuilder::from_tensors(tensors, dtype, &Device::Cpu)
    };
    match op {
        "conv3d" => {
            let conv = conv3d(cin, cout, 3, 3, layer(&[cout, cin, 3, 3, 3])).unwrap();
            let x = random(&[t + 2, cin, h, w]);
            Some(Box::new(move || drop(black_box(conv.forward(&x).unwrap()))))
        }
        "conv2d" => {
            let (k, stride) = (sizes.get("k"), sizes.get("stride"));
            let padding = if stride == 1 { k / 2 } else { 0 };
            let conv = conv2d(cin, cout, k, stride, padding, true, layer(&[cout, cin, k, k])).unwrap();
            let x = random(&[t, cin, h, w]);
            Some(Box::new(move || drop(black_box(conv.forward(&x).unwrap()))))
        }
        "upsampled" => {
            let conv = conv2d(cin, cout, 3, 1, 1, true, layer(&[cout, cin, 3, 3])).unwrap();
            let x = random(&[t, cin, h, w]);
            Some(Box::new(move || drop(black_box(conv.forward_upsampled(&x).unwrap()))))
        }
        _ => None,
    }
}
