//! Loading speed: stored half-precision weights to f32 on the CPU, this program's reader beside candle's own.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use vidgen::weights::ModelFolder;

const ROWS: usize = 4096;
const TENSORS: usize = 8;

/// A folder with one part of eight f16 tensors of 32 MiB, and the path of its weight file.
fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model_index.json"), r#"{"_class_name":"CogVideoXPipeline"}"#).unwrap();
    std::fs::create_dir(folder.path().join("transformer")).unwrap();
    let values: Vec<f32> = (0..ROWS * ROWS).map(|index| (index as f32 * 0.01).sin()).collect();
    let tensor =
        candle_core::Tensor::from_vec(values, (ROWS, ROWS), &Device::Cpu).unwrap().to_dtype(DType::F16).unwrap();
    let tensors = (0..TENSORS).map(|index| (format!("blocks.{index}.weight"), tensor.clone())).collect();
    let file = folder.path().join("transformer/diffusion_pytorch_model.safetensors");
    candle_core::safetensors::save(&tensors, &file).unwrap();
    (folder, file)
}

fn all(vb: &VarBuilder) {
    for index in 0..TENSORS {
        black_box(vb.pp("blocks").pp(index).get((ROWS, ROWS), "weight").unwrap());
    }
}

fn load(criterion: &mut Criterion) {
    let (folder, file) = folder();
    let mut group = criterion.benchmark_group("load f16 as f32");
    group.throughput(Throughput::Bytes((TENSORS * ROWS * ROWS * 2) as u64)).sample_size(10);
    group.bench_function("vidgen", |bencher| {
        bencher.iter(|| {
            let part = ModelFolder::folder(folder.path()).unwrap().part("transformer").unwrap();
            all(&part.var_builder(DType::F32, &Device::Cpu).unwrap());
        })
    });
    group.bench_function("candle", |bencher| {
        // SAFETY: the file is ours and nobody writes to it
        bencher
            .iter(|| all(&unsafe { VarBuilder::from_mmaped_safetensors(&[&file], DType::F32, &Device::Cpu) }.unwrap()))
    });
    group.finish();

    let part = || ModelFolder::folder(folder.path()).unwrap().part("transformer").unwrap();
    let mut group = criterion.benchmark_group("hash");
    group.throughput(Throughput::Bytes((TENSORS * ROWS * ROWS * 2) as u64)).sample_size(10);
    group.bench_function("vidgen", |bencher| bencher.iter(|| black_box(part().hash().unwrap())));
    group.finish();

    let mut group = criterion.benchmark_group("embedded model");
    group.bench_function("load as f32", |bencher| {
        bencher.iter(|| {
            let model = ModelFolder::embedded();
            for part in ["transformer", "vae", "text_encoder"] {
                let part = model.part(part).unwrap();
                let vb = part.var_builder(DType::F32, &Device::Cpu).unwrap();
                for info in part.tensors().unwrap() {
                    black_box(vb.get(info.shape, &info.name).unwrap());
                }
            }
        })
    });
    group.finish();
}

criterion_group!(benches, load);
criterion_main!(benches);
