//! The networks of faces are those of npm's @vladmandic/face-api 1.7.15; goldens by `tests/reference/faces.mjs`.

use crate::common::{golden, relative_l2};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use std::collections::HashMap;
use std::path::Path;
use vidgen::models::faces::{
    DETECTOR_MEAN, DETECTOR_SIDE, FACE_MEAN, FACE_SIDE, FaceDetector, FaceEmbedder, FaceLandmarks, LANDMARKS_SIDE,
};

/// Largest relative L2 distance.
const LIMIT: f64 = 1e-5;

fn picture(side: usize, mean: [f32; 3]) -> Tensor {
    let byte = |x: usize, y: usize, c: usize| (x * (2 + c) + y * 3 + (x * y) / 40 + c * 70) % 256;
    let value = |i: usize| {
        let (c, y, x) = (i / (side * side), i / side % side, i % side);
        (byte(x, y, c) as f32 - mean[c]) / 255.0
    };
    let values: Vec<f32> = (0..3 * side * side).map(value).collect();
    Tensor::from_vec(values, (1, 3, side, side), &Device::Cpu).unwrap()
}

fn check(name: &str, tensors: HashMap<String, Tensor>) {
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let detector = FaceDetector::new(vb.pp("detector")).unwrap();
    let landmarks = FaceLandmarks::new(vb.pp("landmarks")).unwrap();
    let embedder = FaceEmbedder::new(vb.pp("recognition")).unwrap();
    let outputs = [
        ("detector", detector.forward(&picture(DETECTOR_SIDE, DETECTOR_MEAN)).unwrap()),
        ("landmarks", landmarks.forward(&picture(LANDMARKS_SIDE, FACE_MEAN)).unwrap()),
        ("recognition", embedder.forward(&picture(FACE_SIDE, FACE_MEAN)).unwrap()),
    ];
    for (part, got) in outputs {
        let distance = relative_l2(&got, &golden("faces")[&format!("{name}.{part}")]);
        println!("{name} {part}: {distance:.1e}");
        assert!(distance <= LIMIT, "{name} {part}: {distance}");
    }
}

#[test]
fn networks_of_few_channels() {
    let golden = golden("faces");
    let weights = golden.iter();
    let weights = weights.filter_map(|(name, x)| Some((name.strip_prefix("small.weights.")?.to_owned(), x.clone())));
    check("small", weights.collect());
}

/// With the published weights, where `VIDGEN_METRICS` names the directory that `make metrics` filled.
#[test]
fn the_published_networks() {
    let Some(folder) = std::env::var_os("VIDGEN_METRICS") else { return };
    check("real", candle_core::safetensors::load(Path::new(&folder).join("faces.safetensors"), &Device::Cpu).unwrap());
}

#[test]
fn faces_that_overlap_are_one() {
    // one anchor of two neighbouring cells, and one far away
    let mut values = vec![0f32; 25 * 13 * 13];
    values.chunks_exact_mut(169).skip(4).step_by(5).for_each(|scores| scores.fill(-9.0));
    for (place, score) in [(6 * 13 + 6, 2.0), (6 * 13 + 7, 3.0), (13 + 1, 1.0)] {
        values[(5 + 4) * 169 + place] = score;
    }
    let output = Tensor::from_vec(values, (1, 25, 13, 13), &Device::Cpu).unwrap();
    let found = FaceDetector::faces(&output, 0.5, 0.4).unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    let middle = (found[0].bounds[0] + found[0].bounds[2]) / 2.0;
    assert!((middle - 7.5 / 13.0).abs() < 1e-9 && found[0].score > found[1].score);
}
