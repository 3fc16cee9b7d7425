//! The autoencoder against diffusers' `AutoencoderKLCogVideoX`; goldens by `tests/reference/vae.py`.

use crate::common::{assert_close, golden, golden_dir, thin, tiny};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use std::collections::HashMap;
use vidgen::models::cogvideox::vae::{
    AutoencoderKLCogVideoX, DecodeOptions, EncodeOptions, SingleFrameRule, TileOptions, VaeConfig,
};

const LIMIT: f64 = 1e-5;

fn config(kind: &str) -> VaeConfig {
    let path = golden_dir().join(kind).join("vae/config.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn load(kind: &str, dtype: DType) -> AutoencoderKLCogVideoX {
    let vb = VarBuilder::from_tensors(tiny::tensors(kind, "vae", kind), dtype, &Device::Cpu);
    AutoencoderKLCogVideoX::load(&config(kind), vb).unwrap()
}

fn tile() -> TileOptions {
    TileOptions { sample_height: 32, sample_width: 40, overlap_factor_h: 0.25, overlap_factor_w: 0.2 }
}

fn decode(vae: &AutoencoderKLCogVideoX, latents: &Tensor, options: &DecodeOptions) -> Tensor {
    let mut frames = Vec::new();
    vae.decode(latents, options, &mut |chunk| {
        frames.push(chunk);
        Ok(())
    })
    .unwrap();
    assert_eq!(frames.len(), options.chunks(latents.dim(0).unwrap()).len());
    let frames = Tensor::cat(&frames, 0).unwrap();
    assert_eq!(
        frames.dim(0).unwrap(),
        options.frames_of(vae.config().temporal_ratio(), &options.chunks(latents.dim(0).unwrap()))
    );
    assert_eq!(frames.dtype(), DType::F32);
    frames
}

fn shape(tensor: &Tensor) -> Vec<usize> {
    tensor.to_vec1::<i64>().unwrap().into_iter().map(|size| size as usize).collect()
}

/// A model of a kind and what the reference makes of it.
struct Case {
    kind: &'static str,
    vae: AutoencoderKLCogVideoX,
    golden: HashMap<String, Tensor>,
}

fn cases(kinds: impl IntoIterator<Item = &'static str>) -> impl Iterator<Item = Case> {
    kinds.into_iter().map(|kind| Case { kind, vae: load(kind, DType::F32), golden: golden(&format!("vae/{kind}")) })
}

fn check_decode(case: &Case, name: &str, (f, h, w): (usize, usize, usize), options: &DecodeOptions) {
    let Case { kind, vae, golden } = case;
    let latents = tiny::unit(&format!("{kind}/latents/{name}"), &[f, vae.config().latent_channels, h, w]);
    let frames = decode(vae, &latents, options);
    assert_eq!(frames.dims(), shape(&golden[&format!("decode/{name}/shape")]), "{kind} {name}");
    assert_close(&format!("{kind} decode {name}"), &thin(&frames), &golden[&format!("decode/{name}")], LIMIT);
}

fn check_encode(case: &Case, name: &str, (t, h, w): (usize, usize, usize), options: &EncodeOptions) {
    let Case { kind, vae, golden } = case;
    let ratio = vae.config().spatial_ratio();
    let video = tiny::unit(&format!("{kind}/video/{name}"), &[t, vae.config().in_channels, h * ratio, w * ratio]);
    let latents = vae.encode(&video, options).unwrap();
    for (part, got) in [("mean", &latents.mean), ("logvar", &latents.logvar)] {
        assert_eq!(got.dims(), shape(&golden[&format!("encode/{name}/shape")]), "{kind} {name}");
        let what = format!("encode/{name}/{part}");
        assert_close(&format!("{kind} {what}"), &thin(got), &golden[&what], LIMIT);
    }
}

const KINDS: [&str; 4] = ["tiny-2b", "tiny-5b", "tiny-1.5", "vae-extra"];

#[test]
fn odd_lengths_decode_like_the_reference() {
    for case in cases(KINDS) {
        let options = DecodeOptions::default();
        check_decode(&case, "one", (1, 3, 4), &options);
        check_decode(&case, "three", (3, 3, 5), &options);
        check_decode(&case, "five", (5, 4, 2), &options);
        check_decode(&case, "seven", (7, 2, 3), &options);
        check_decode(&case, "first-five", (5, 4, 2), &options);
    }
}

#[test]
fn any_length_and_chunk_decodes_like_the_references_blocks() {
    for case in cases(KINDS) {
        let by = |chunk| DecodeOptions { chunk, ..Default::default() };
        check_decode(&case, "first-two", (2, 2, 3), &by(2));
        check_decode(&case, "first-four", (4, 3, 2), &by(2));
        check_decode(&case, "first-three-by-one", (3, 3, 2), &by(1));
        check_decode(&case, "first-seven-by-three", (7, 2, 2), &by(3));
        check_decode(&case, "first-five-by-eight", (5, 2, 2), &by(8));
    }
}

#[test]
fn the_references_rule_for_even_lengths_is_there_too() {
    for case in cases(KINDS) {
        let by = |chunk| DecodeOptions { chunk, single_frame: SingleFrameRule::OddChunks, ..Default::default() };
        check_decode(&case, "odd-chunks-two", (2, 2, 3), &by(2));
        check_decode(&case, "odd-chunks-four", (4, 3, 2), &by(2));
        check_decode(&case, "odd-chunks-by-three", (6, 3, 2), &by(3));
        check_decode(&case, "odd-chunks-by-one", (3, 3, 2), &by(1));
    }
}

#[test]
fn tiled_decode_equals_the_reference() {
    for case in cases(tiny::KINDS) {
        let options = DecodeOptions { tile: Some(tile()), ..Default::default() };
        check_decode(&case, "tiled", (5, 7, 9), &options);
        check_decode(&case, "tiled-wide", (3, 3, 11), &options);
        check_decode(&case, "tiled-high", (1, 9, 5), &options);
    }
}

#[test]
fn encode_equals_the_reference() {
    for case in cases(KINDS) {
        let options = EncodeOptions::default();
        check_encode(&case, "one", (1, 3, 4), &options);
        check_encode(&case, "five", (5, 2, 5), &options);
        check_encode(&case, "nine", (9, 3, 5), &options);
        check_encode(&case, "eighteen", (18, 3, 2), &options);
        check_encode(&case, "twenty-five", (25, 2, 3), &options);
    }
    for case in cases(tiny::KINDS) {
        check_encode(&case, "tiled", (17, 7, 9), &EncodeOptions { tile: Some(tile()), ..Default::default() });
    }
}

/// Weights whose norms forget what they see, so that nothing but the caches can tell one chunking from another.
fn without_statistics(kind: &str) -> AutoencoderKLCogVideoX {
    let mut tensors = tiny::tensors(kind, "vae", kind);
    for (name, tensor) in &mut tensors {
        if name.contains("norm") && name.ends_with("weight") && tensor.rank() == 1 {
            *tensor = tensor.zeros_like().unwrap();
        }
    }
    AutoencoderKLCogVideoX::load(&config(kind), VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)).unwrap()
}

#[test]
fn without_statistics_any_chunking_gives_the_same_frames() {
    for kind in ["tiny-2b", "vae-extra"] {
        let vae = without_statistics(kind);
        let latents = tiny::unit("law", &[7, vae.config().latent_channels, 2, 3]);
        let by = |chunk| decode(&vae, &latents, &DecodeOptions { chunk, ..Default::default() });
        let whole = by(7);
        for chunk in [1, 2, 3, 4, 6] {
            assert_close(&format!("{kind} by {chunk}"), &by(chunk), &whole, 1e-6);
        }
        let ratio = vae.config().spatial_ratio();
        let video = tiny::unit("law", &[25, vae.config().in_channels, 2 * ratio, 3 * ratio]);
        let by = |chunk| vae.encode(&video, &EncodeOptions { chunk, tile: None }).unwrap().mean;
        let whole = by(24);
        for chunk in [4, 8, 12] {
            assert_close(&format!("{kind} encode by {chunk}"), &by(chunk), &whole, 1e-6);
        }
    }
}

#[test]
fn the_frames_of_a_chunk_do_not_depend_on_what_follows() {
    let vae = load("tiny-2b", DType::F32);
    let latents = tiny::unit("prefix", &[7, 4, 7, 9]);
    for tile in [None, Some(tile())] {
        let options = DecodeOptions { tile, ..Default::default() };
        let (long, short) =
            (decode(&vae, &latents, &options), decode(&vae, &latents.narrow(0, 0, 5).unwrap(), &options));
        let difference = (long.narrow(0, 0, 17).unwrap() - short).unwrap().abs().unwrap().max_all().unwrap();
        assert_eq!(difference.to_scalar::<f32>().unwrap(), 0.0);
    }
}

#[test]
fn caches_do_not_grow_and_every_length_keeps_every_frame() {
    let vae = load("tiny-2b", DType::F32);
    let latents = tiny::unit("lengths", &[6, 4, 1, 2]);
    for chunk in 1..=4 {
        for frames in 1..=6 {
            let options = DecodeOptions { chunk, ..Default::default() };
            let video = decode(&vae, &latents.narrow(0, 0, frames).unwrap(), &options);
            assert_eq!(video.dims(), [4 * (frames - 1) + 1, 3, 8, 16], "{frames} by {chunk}");
        }
    }
    let mut session = vae.session(1, 2, &DecodeOptions::default()).unwrap();
    assert_eq!(session.cache_bytes(), 0);
    session.next(&latents.narrow(0, 0, 1).unwrap()).unwrap();
    let held = session.cache_bytes();
    assert!(held > 0);
    session.next(&latents.narrow(0, 1, 3).unwrap()).unwrap();
    assert_eq!(session.cache_bytes(), held);
}

#[test]
fn memory_is_known_beforehand() {
    for kind in KINDS {
        let vae = load(kind, DType::F32);
        for tile in [None, Some(tile())] {
            let options = DecodeOptions { tile, ..Default::default() };
            let latents = tiny::unit("memory", &[3, vae.config().latent_channels, 5, 7]);
            let mut session = vae.session(5, 7, &options).unwrap();
            session.next(&latents).unwrap();
            let memory = vae.config().memory(&options, 7, 5, 7).unwrap();
            assert_eq!(session.cache_bytes(), 4 * memory.caches, "{kind}");
            assert!(memory.map > 0);
        }
    }
    // the published size: the first chunk's 12 frames (counted without the exception for the first) of 256 channels
    let config = VaeConfig::default();
    let memory = config.memory(&DecodeOptions::default(), 13, 60, 90).unwrap();
    assert_eq!(memory.map, 12 * 256 * 480 * 720);
    let tile = Some(config.tile());
    let tiled = config.memory(&DecodeOptions { tile, ..Default::default() }, 13, 60, 90).unwrap();
    assert_eq!(tiled.map, 12 * 256 * 240 * 360);
    assert!(tiled.caches > memory.caches);
    println!("{memory:?} {tiled:?}");
}

#[test]
fn half_precision_runs_and_gives_f32_frames() {
    let exact = load("tiny-2b", DType::F32);
    let latents = tiny::unit("half", &[3, 4, 2, 3]);
    let want = decode(&exact, &latents, &DecodeOptions::default());
    let video = tiny::unit("half video", &[5, 3, 16, 24]);
    let mean = exact.encode(&video, &EncodeOptions::default()).unwrap().mean;
    for (dtype, limit) in [(DType::F16, 1e-2), (DType::BF16, 2e-2)] {
        let vae = load("tiny-2b", dtype);
        assert_close(&format!("{dtype:?}"), &decode(&vae, &latents, &DecodeOptions::default()), &want, limit);
        let half = vae.encode(&video, &EncodeOptions::default()).unwrap().mean;
        assert_close(&format!("{dtype:?} encode"), &half, &mean, limit);
    }
}

#[test]
fn misuse_is_refused() {
    let vae = load("tiny-2b", DType::F32);
    let error = |latents: &[usize], options: DecodeOptions| {
        let latents = Tensor::zeros(latents, DType::F32, &Device::Cpu).unwrap();
        vae.decode(&latents, &options, &mut |_| Ok(())).unwrap_err().to_string()
    };
    assert!(error(&[3, 5, 2, 2], Default::default()).contains("expects latents of 4x2x2, got 3 of 5x2x2"));
    assert!(error(&[0, 4, 2, 2], Default::default()).contains("no latent frames"));
    assert!(error(&[1, 4, 0, 2], Default::default()).contains("0 by 2"));
    assert!(error(&[3, 4, 2, 2], DecodeOptions { chunk: 0, ..Default::default() }).contains("at least 1"));
    let latents = Tensor::zeros((3, 4, 2, 2), DType::F32, &Device::Cpu).unwrap();
    let stopped = vae.decode(&latents, &DecodeOptions::default(), &mut |_| candle_core::bail!("the disk is full"));
    assert!(stopped.unwrap_err().to_string().contains("the disk is full"));

    let error = |video: &[usize], options: EncodeOptions| {
        let video = Tensor::zeros(video, DType::F32, &Device::Cpu).unwrap();
        vae.encode(&video, &options).unwrap_err().to_string()
    };
    assert!(error(&[5, 3, 20, 16], Default::default()).contains("multiples of 8, got 16x20"));
    assert!(error(&[5, 1, 16, 16], Default::default()).contains("3 channels"));
    assert!(error(&[5, 3, 16, 16], EncodeOptions { chunk: 6, tile: None }).contains("multiple of 4"));

    let tensors = || VarBuilder::from_tensors(tiny::tensors("tiny-2b", "vae", "tiny-2b"), DType::F32, &Device::Cpu);
    let half = AutoencoderKLCogVideoX::load_decoder(&config("tiny-2b"), tensors()).unwrap();
    let video = Tensor::zeros((1, 3, 8, 8), DType::F32, &Device::Cpu).unwrap();
    assert!(half.encode(&video, &EncodeOptions::default()).unwrap_err().to_string().contains("without its encoder"));
    let wrong = VaeConfig { layers_per_block: 2, ..config("tiny-2b") };
    assert!(
        AutoencoderKLCogVideoX::load(&wrong, tensors())
            .unwrap_err()
            .to_string()
            .contains("decoder.up_blocks.0.resnets.2.norm1")
    );
}
