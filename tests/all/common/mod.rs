//! Helpers of the integration tests.

pub mod clip;
pub mod tiny;

use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// `tests/golden`.
pub fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The tensors of one golden file, `tests/golden/<name>.safetensors`.
pub fn golden(name: &str) -> HashMap<String, Tensor> {
    let path = golden_dir().join(format!("{name}.safetensors"));
    candle_core::safetensors::load(&path, &Device::Cpu).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Relative L2 distance of two tensors of one shape.
pub fn relative_l2(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.shape(), want.shape(), "shapes differ");
    let got = got.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let want = want.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let difference: f64 = got.iter().zip(&want).map(|(a, b)| (a - b) * (a - b)).sum();
    let norm: f64 = want.iter().map(|b| b * b).sum();
    assert!(norm > 0.0, "the reference is all zeros");
    (difference / norm).sqrt()
}

/// Fails, with the distance, when two tensors are further apart than `limit` (relative L2).
#[track_caller]
pub fn assert_close(what: &str, got: &Tensor, want: &Tensor, limit: f64) {
    let distance = relative_l2(got, want);
    println!("{what}: relative L2 {distance:.3e} (limit {limit:.0e})");
    assert!(distance <= limit, "{what}: relative L2 {distance:.3e} > {limit:.0e}");
}

/// Every p-th value, as `vae.thin` of the reference keeps them.
pub fn thin(x: &Tensor) -> Tensor {
    let values = x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let prime = |p: usize| (2..p).all(|d| !p.is_multiple_of(d));
    let fits = |p: &usize| values.len().div_ceil(*p) <= 1500;
    let step = std::iter::once(1).chain((11..).filter(|&p| prime(p))).find(fits).unwrap();
    Tensor::new(values.into_iter().step_by(step).collect::<Vec<f32>>(), &Device::Cpu).unwrap()
}
