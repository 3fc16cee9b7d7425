//! LPIPS is that of PyPI's lpips 0.1.4; goldens by `tests/reference/lpips_alexnet.py`.

use crate::common::golden;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use std::collections::HashMap;
use std::path::Path;
use vidgen::eval::perceptual::Perceptual;
use vidgen::models::lpips::Lpips;
use vidgen::video::Frame;

const SIZES: [(usize, usize); 3] = [(64, 64), (97, 61), (144, 96)];
const LIMIT: f64 = 1e-5;

#[derive(Clone, Copy)]
enum Kind {
    Plain,
    Other,
    Shifted,
    Noisy,
}

fn frame(width: usize, height: usize, kind: Kind) -> Frame {
    let byte = |i: usize| {
        let (x, y, c) = (i / 3 % width, i / 3 / width, i % 3);
        let plain = |x: usize| (x * 5 + y * 3 * (c + 1) + (x * y) / 7 + c * 60) % 256;
        match kind {
            Kind::Plain => plain(x) as u8,
            Kind::Other => ((x * 4 + y * 3 * (c + 1) + ((x + 3) * y) / 6 + c * 50) % 256) as u8,
            Kind::Shifted => plain((x + width - 1) % width) as u8,
            Kind::Noisy => (plain(x) + i * 7919 % 37).saturating_sub(18).min(255) as u8,
        }
    };
    Frame { width, height, data: (0..width * height * 3).map(byte).collect() }
}

/// Distances in the order of the golden.
fn check(name: &str, distance: impl Fn(&Frame, &Frame) -> f64) {
    let want = golden("lpips")[&format!("{name}.distances")].to_vec1::<f32>().unwrap();
    let pairs = SIZES.into_iter().flat_map(|size| [Kind::Other, Kind::Shifted, Kind::Noisy].map(|kind| (size, kind)));
    for (((width, height), kind), want) in pairs.zip(want) {
        let got = distance(&frame(width, height, Kind::Plain), &frame(width, height, kind));
        println!("{name} {width}x{height}: {got:.6}, lpips {want:.6}");
        assert!((got - f64::from(want)).abs() <= LIMIT, "{name} {width}x{height}: {got} instead of {want}");
    }
}

#[test]
fn a_network_of_few_channels() {
    let golden = golden("lpips");
    let tensors: HashMap<String, Tensor> = golden
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix("small.")?.to_owned(), tensor.clone())))
        .collect();
    let network = Lpips::new(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)).unwrap();
    let look = |frame: &Frame| {
        let channel = |c: usize| frame.data.iter().skip(c).step_by(3).map(|&value| f32::from(value) / 127.5 - 1.0);
        let pixels: Vec<f32> = (0..3).flat_map(channel).collect();
        network.features(&Tensor::from_vec(pixels, (1, 3, frame.height, frame.width), &Device::Cpu).unwrap()).unwrap()
    };
    check("small", |a, b| network.distance(&look(a), &look(b)).unwrap());
    let tiny = Tensor::zeros((1, 3, 30, 64), DType::F32, &Device::Cpu).unwrap();
    assert!(network.features(&tiny).unwrap_err().to_string().contains("31"));
}

/// With the published weights, where `VIDGEN_METRICS` names the directory that `make metrics` filled.
#[test]
fn the_published_network() {
    let Some(folder) = std::env::var_os("VIDGEN_METRICS") else { return };
    let file = Path::new(&folder).join("lpips-alexnet.safetensors");
    let network = Perceptual::open(Some(&file), &Device::Cpu).unwrap().unwrap();
    let look = |frame: &Frame| network.look(frame).unwrap().unwrap();
    check("real", |a, b| network.distance(&look(a), &look(b)).unwrap());
}
