//! Tiny random models whose every weight follows from its name: the Rust side of `tests/reference/tiny.py`.

use candle_core::{DType, Device, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

pub const KINDS: [&str; 3] = ["tiny-2b", "tiny-5b", "tiny-1.5"];

/// Uniform values in [-1, 1) from a name, exact in f32.
pub fn unit(name: &str, shape: &[usize]) -> Tensor {
    let values: Vec<f32> = stream(name, shape.iter().product()).map(|value| value as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Matrices have unit gain, vectors named weight lie around one, biases around zero.
pub fn weight(name: &str, shape: &[usize]) -> Tensor {
    let count = shape.iter().product();
    let values: Vec<f32> = if shape.len() >= 2 {
        let gain = (3.0 / shape[1..].iter().product::<usize>() as f64).sqrt();
        stream(name, count).map(|value| (value * gain) as f32).collect()
    } else {
        let centre = if name.ends_with("weight") { 1.0 } else { 0.0 };
        stream(name, count).map(|value| (value * 0.1 + centre) as f32).collect()
    };
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn stream(name: &str, count: usize) -> impl Iterator<Item = f64> {
    let seed = name
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
    (1..=count as u64).map(move |index| {
        let z = seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let z = z ^ (z >> 31);
        (z >> 40) as f64 / f64::from(1 << 23) - 1.0
    })
}

/// All tensors of one part (`transformer`, `vae`, `text_encoder`) of a kind; `prefix` chooses the weights, normally the kind.
pub fn tensors(kind: &str, part: &str, prefix: &str) -> HashMap<String, Tensor> {
    let path = super::golden_dir().join(kind).join(part).join("shapes.json");
    let shapes: BTreeMap<String, Vec<usize>> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    shapes.into_iter().map(|(name, shape)| (name.clone(), weight(&format!("{prefix}/{part}/{name}"), &shape))).collect()
}

/// Writes a kind as a diffusers folder whose transformer has so many layers, in the dtype given.
pub fn write_deep(kind: &str, layers: usize, dtype: DType, folder: &Path) {
    write_folder(kind, kind, folder);
    let part = folder.join("transformer");
    let path = part.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["num_layers"] = layers.into();
    std::fs::write(path, config.to_string()).unwrap();
    let few = tensors(kind, "transformer", kind);
    let block = |name: &str| name.strip_prefix("transformer_blocks.0.").map(str::to_owned);
    let mut deep: HashMap<String, Tensor> = few
        .iter()
        .filter(|(name, _)| !name.starts_with("transformer_blocks."))
        .map(|(n, t)| (n.clone(), t.clone()))
        .collect();
    for (name, tensor) in few.iter().filter_map(|(name, tensor)| Some((block(name)?, tensor))) {
        for layer in 0..layers {
            let name = format!("transformer_blocks.{layer}.{name}");
            let values = weight(&format!("{kind}/transformer/{name}"), tensor.dims());
            deep.insert(name, values);
        }
    }
    let deep: HashMap<String, Tensor> =
        deep.into_iter().map(|(name, tensor)| (name, tensor.to_dtype(dtype).unwrap())).collect();
    candle_core::safetensors::save(&deep, part.join("diffusion_pytorch_model.safetensors")).unwrap();
}

/// Writes a kind as a diffusers folder.
pub fn write_folder(kind: &str, prefix: &str, folder: &Path) {
    let golden = super::golden_dir();
    for (part, weights) in [
        ("transformer", Some("diffusion_pytorch_model.safetensors")),
        ("vae", Some("diffusion_pytorch_model.safetensors")),
        ("text_encoder", Some("model.safetensors")),
        ("scheduler", None),
    ] {
        let target = folder.join(part);
        std::fs::create_dir_all(&target).unwrap();
        let config = if part == "scheduler" { "scheduler_config.json" } else { "config.json" };
        std::fs::copy(golden.join(kind).join(part).join(config), target.join(config)).unwrap();
        if let Some(file) = weights {
            candle_core::safetensors::save(&tensors(kind, part, prefix), target.join(file)).unwrap();
        }
    }
    std::fs::copy(golden.join(kind).join("model_index.json"), folder.join("model_index.json")).unwrap();
    let tokenizer = folder.join("tokenizer");
    std::fs::create_dir_all(&tokenizer).unwrap();
    for entry in std::fs::read_dir(golden.join("tokenizer")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), tokenizer.join(entry.file_name())).unwrap();
    }
}

/// Writes the tiny STIV (`tests/reference/stiv.py`) as a folder.
pub fn write_stiv(folder: &Path) {
    let (golden, kind) = (super::golden_dir(), "tiny-stiv");
    for (part, weights) in [
        ("transformer", "diffusion_pytorch_model.safetensors"),
        ("vae", "diffusion_pytorch_model.safetensors"),
        ("text_encoder", "model.safetensors"),
    ] {
        let (source, target) = (golden.join(kind).join(part), folder.join(part));
        std::fs::create_dir_all(&target).unwrap();
        std::fs::copy(source.join("config.json"), target.join("config.json")).unwrap();
        candle_core::safetensors::save(&tensors(kind, part, kind), target.join(weights)).unwrap();
    }
    for name in [
        "tokenizer/tokenizer_config.json",
        "tokenizer/special_tokens_map.json",
        "scheduler/scheduler_config.json",
        "model_index.json",
    ] {
        std::fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        std::fs::copy(golden.join(kind).join(name), folder.join(name)).unwrap();
    }
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(golden.join("clip").join(name), folder.join("tokenizer").join(name)).unwrap();
    }
}

/// Writes one of the kinds of Stable Diffusion (`tests/reference/sd.py`, `tests/reference/streaming.py`) as a diffusers folder.
pub fn write_picture_model(kind: &str, folder: &Path) {
    let golden = super::golden_dir();
    for (part, weights) in [
        ("unet", "diffusion_pytorch_model.safetensors"),
        ("vae", "diffusion_pytorch_model.safetensors"),
        ("controlnet", "diffusion_pytorch_model.safetensors"),
        ("base_unet", "diffusion_pytorch_model.safetensors"),
        ("cam", "diffusion_pytorch_model.safetensors"),
        ("resampler", "diffusion_pytorch_model.safetensors"),
        ("reference_attention", "diffusion_pytorch_model.safetensors"),
        ("motion_encoder", "diffusion_pytorch_model.safetensors"),
        ("image_encoder", "model.safetensors"),
        ("text_encoder", "model.safetensors"),
    ] {
        let (source, target) = (golden.join(kind).join(part), folder.join(part));
        if source.is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            std::fs::copy(source.join("config.json"), target.join("config.json")).unwrap();
            candle_core::safetensors::save(&tensors(kind, part, kind), target.join(weights)).unwrap();
        }
    }
    for name in
        ["tokenizer/tokenizer_config.json", "tokenizer/special_tokens_map.json", "scheduler/scheduler_config.json"]
    {
        std::fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        std::fs::copy(golden.join(kind).join(name), folder.join(name)).unwrap();
    }
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(golden.join("clip").join(name), folder.join("tokenizer").join(name)).unwrap();
    }
    std::fs::copy(golden.join(kind).join("model_index.json"), folder.join("model_index.json")).unwrap();
}
