//! StreamingT2V's networks against the plain PyTorch of `training/streaming.py` (goldens: `tests/reference/streaming.py`).

use crate::common::{assert_close, golden, golden_dir, thin, tiny};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde::de::DeserializeOwned;
use std::rc::Rc;
use vidgen::attention::{AttentionProcessor, Branch, Feature, Half, Hooks, Pass};
use vidgen::models::clip::{ImageEncoder, VisionConfig, anchor};
use vidgen::models::unet::streaming::{
    Cam, CamConfig, Mergers, Mixers, Resampler, ResamplerConfig, StreamingUNetConfig,
};
use vidgen::models::unet::{UNet3DConditionModel, UNet3DConfig};
use vidgen::models::{Denoiser, Row};
use vidgen::nn::sdpa::Sdpa;
use vidgen::processors::mix::Mix;
use vidgen::processors::{FeatureResiduals, Residual};

const KIND: &str = "tiny-stream";
const LIMIT: f64 = 1e-5;
const CHUNK: usize = 6;
const BEFORE: usize = 2;
const TEXT: usize = 24;
const IMAGE: usize = 3;
/// Height and width of latents, frames, timestep.
const CASES: [(usize, usize, usize, f64); 3] = [(5, 7, CHUNK, 981.0), (4, 6, CHUNK, 1.0), (3, 2, 9, 501.0)];

fn config<T: DeserializeOwned>(part: &str) -> T {
    let path = golden_dir().join(KIND).join(part).join("config.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn weights(part: &str) -> VarBuilder<'static> {
    VarBuilder::from_tensors(tiny::tensors(KIND, part, KIND), DType::F32, &Device::Cpu)
}

fn cam() -> Cam {
    Cam::load(&config::<CamConfig>("cam"), &weights("cam")).unwrap()
}

fn hooks<'a>(rows: usize, stack: &'a mut [Box<dyn AttentionProcessor>]) -> Hooks<'a> {
    let branches = (0..rows).map(|index| Branch::new(Half::COND, index, index)).collect();
    Hooks::new(Pass { step: 0, steps: 1 }, branches, vec![], stack, Sdpa::default(), 2).unwrap()
}

#[test]
fn anchors_are_prepared_and_become_tokens() {
    let golden = golden("streaming/parts");
    let mut last = None;
    for (h, w) in [(12, 12), (9, 7), (13, 12), (16, 10), (40, 56), (96, 23)] {
        let frame = tiny::unit(&format!("streaming/anchor/{h}x{w}"), &[1, 3, h, w]).squeeze(0).unwrap();
        let prepared = anchor::prepared(&frame, 12).unwrap();
        let name = format!("anchor/{h}x{w}/prepared");
        assert_close(&name, &prepared.squeeze(0).unwrap(), &golden[&name], LIMIT);
        last = Some(prepared);
    }
    let grey = Tensor::zeros((3, 40, 56), DType::F32, &Device::Cpu).unwrap();
    let grey = anchor::prepared(&grey, 12).unwrap();
    let encoder = ImageEncoder::load(&config::<VisionConfig>("image_encoder"), 14, weights("image_encoder")).unwrap();
    let resampler = Resampler::load(&config::<ResamplerConfig>("resampler"), &weights("resampler")).unwrap();
    for (name, pixels) in [("picture", last.unwrap()), ("grey", grey)] {
        let embedding = encoder.forward(&pixels).unwrap();
        assert_close(name, &embedding.squeeze(0).unwrap(), &golden[&format!("tower/{name}")], LIMIT);
        assert_close(name, &resampler.forward(&embedding).unwrap(), &golden[&format!("resampler/{name}")], LIMIT);
    }
}

#[test]
fn mergers_and_mixers_equal_the_reference() {
    let golden = golden("streaming/parts");
    let config: StreamingUNetConfig = config("unet");
    let mergers = Mergers::load(&config, &weights("unet")).unwrap();
    for (name, index, width, (h, w)) in [
        ("down_blocks.1", Some(1), 16, (3, 5)),
        ("down_blocks.3", Some(3), 24, (2, 3)),
        ("mid_block", None, 24, (1, 2)),
    ] {
        for before in [BEFORE, 3] {
            let part = |what: &str, frames| {
                tiny::unit(&format!("streaming/merger/{name}/{what}/{frames}"), &[frames, width, h, w])
            };
            let (x, memory) = (part("x", CHUNK), part("memory", before));
            let merge = |memory: &Tensor| match index {
                Some(index) => mergers.skip(index, &x, memory).unwrap(),
                None => mergers.mid(&x, memory).unwrap(),
            };
            let got = merge(&memory);
            assert_close(name, &thin(&got), &golden[&format!("merger/{name}/{before}")], LIMIT);
            // which frame of the memory is which does not matter
            let order: Vec<u32> = (0..before as u32).rev().collect();
            let turned = memory.index_select(&Tensor::new(order, &Device::Cpu).unwrap(), 0).unwrap();
            assert_close(name, &merge(&turned), &got, LIMIT);
        }
    }
    let mixers = Mixers::load(&config, &weights("unet")).unwrap();
    let tokens = tiny::unit("streaming/mixer/tokens", &[1, TEXT + IMAGE, 20]).squeeze(0).unwrap();
    let (text, image) = (tokens.narrow(0, 0, TEXT).unwrap(), tokens.narrow(0, TEXT, IMAGE).unwrap());
    assert_close("mixer", &mixers.mix(0, &text, &image).unwrap(), &golden["mixer"], LIMIT);
    assert!(mixers.mix(99, &text, &image).is_err() && mixers.mix(0, &image, &image).is_err());
    let cam = cam();
    for (h, w) in [(40, 56), (24, 8)] {
        let name = format!("pixels/{h}x{w}");
        let seen = cam.look(&tiny::unit(&format!("streaming/{name}"), &[BEFORE, 3, h, w])).unwrap();
        assert_close(&name, &thin(&seen), &golden[&name], LIMIT);
    }
}

#[test]
fn chunks_equal_the_reference() {
    let golden = golden("streaming/parts");
    let (cam, cfg): (Cam, StreamingUNetConfig) = (cam(), config("unet"));
    let unet = UNet3DConditionModel::load(&cfg.unet, weights("unet"), false).unwrap();
    let (mergers, mixers) = (
        Rc::new(Mergers::load(&cfg, &weights("unet")).unwrap()),
        Rc::new(Mixers::load(&cfg, &weights("unet")).unwrap()),
    );
    for (h, w, frames, time) in CASES {
        let name = format!("{frames}x{h}x{w}/t{time}");
        let latents = tiny::unit(&format!("streaming/{name}/latents"), &[frames, 4, h, w]);
        let pixels = tiny::unit(&format!("streaming/{name}/pixels"), &[1, BEFORE, 3, 8 * h, 8 * w]).squeeze(0).unwrap();
        let tokens = tiny::unit(&format!("streaming/{name}/tokens"), &[1, TEXT + IMAGE, 20]).squeeze(0).unwrap();
        let (text, image) = (tokens.narrow(0, 0, TEXT).unwrap(), tokens.narrow(0, TEXT, IMAGE).unwrap());
        let seen = cam.look(&pixels).unwrap();
        let first = Row::new(latents.narrow(0, 0, BEFORE).unwrap(), text.clone(), time);
        let memory = cam.forward(&[first], &seen, 1, &mut hooks(1, &mut [])).unwrap().remove(0);
        for (index, feature) in memory.skips.iter().chain([&memory.mid]).enumerate() {
            let want = &golden[&format!("cam/{name}/{index}")];
            let got = thin(feature);
            assert_close(&name, &got.narrow(0, 0, got.elem_count().min(300)).unwrap(), want, LIMIT);
        }
        let memory = FeatureResiduals { skips: memory.skips, mid: Some(memory.mid) };
        for (kind, reads, mixes) in [("both", true, true), ("text", true, false), ("alone", false, true)] {
            let mut stack: Vec<Box<dyn AttentionProcessor>> = Vec::new();
            if reads {
                let (memory, mergers) = (memory.clone(), mergers.clone());
                stack.push(Box::new(Residual::read(
                    Box::new(move |_, _, rows| Ok(vec![memory.clone(); rows.len()])),
                    Box::new(move |feature, x, memory| match feature {
                        Feature::Skip(index) => mergers.skip(index, x, memory),
                        _ => mergers.mid(x, memory),
                    }),
                )));
            }
            if mixes {
                let mixers = mixers.clone();
                let mixer = Box::new(move |layer, text: &Tensor, tokens: &Tensor| mixers.mix(layer, text, tokens));
                stack.push(Box::new(Mix::new(image.clone(), image.clone(), mixer)));
            }
            let mut hooks = hooks(1, &mut stack);
            let got = unet.forward(&[Row::new(latents.clone(), text.clone(), time)], &mut hooks).unwrap();
            hooks.finish().unwrap();
            assert_close(&name, &thin(&got[0]), &golden[&format!("unet/{name}/{kind}")], LIMIT);
        }
    }
    // a plain network's keys are among those of the main one
    assert_eq!(config::<UNet3DConfig>("base_unet").block_out_channels, cfg.unet.block_out_channels);
}

/// The law of what is beside the network: switched off by its weights, it changes no bit.
#[test]
fn without_mixers_and_mergers_it_is_the_plain_network() {
    let (cam, cfg): (Cam, StreamingUNetConfig) = (cam(), config("unet"));
    let mut tensors = tiny::tensors(KIND, "unet", KIND);
    let off = |name: &str| name.ends_with("attn2.alpha") || name.contains("merger") && name.contains(".proj_out.");
    let zeroed =
        tensors.iter_mut().filter(|(name, _)| off(name)).map(|(_, tensor)| *tensor = tensor.zeros_like().unwrap());
    // an attention down, one in the middle and two up; the output's weight and bias of the mergers of four skips and of the middle
    assert_eq!(zeroed.count(), 4 + 2 * 5);
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let unet = UNet3DConditionModel::load(&cfg.unet, vb.clone(), false).unwrap();
    let (mergers, mixers) = (Mergers::load(&cfg, &vb).unwrap(), Mixers::load(&cfg, &vb).unwrap());
    let latents = tiny::unit("streaming/law/latents", &[CHUNK, 4, 5, 7]);
    let text = tiny::unit("streaming/law/text", &[TEXT, 20]);
    let image = tiny::unit("streaming/law/image", &[IMAGE, 20]);
    let row = Row::new(latents.clone(), text.clone(), 500.0);
    let plain = unet.forward(std::slice::from_ref(&row), &mut hooks(1, &mut [])).unwrap();
    let seen = cam.look(&tiny::unit("streaming/law/pixels", &[BEFORE, 3, 40, 56])).unwrap();
    let first = Row::new(latents.narrow(0, 0, BEFORE).unwrap(), text, 500.0);
    let memory = cam.forward(&[first], &seen, 1, &mut hooks(1, &mut [])).unwrap().remove(0);
    let memory = FeatureResiduals { skips: memory.skips, mid: Some(memory.mid) };
    let mut stack: Vec<Box<dyn AttentionProcessor>> = vec![
        Box::new(Residual::read(
            Box::new(move |_, _, rows| Ok(vec![memory.clone(); rows.len()])),
            Box::new(move |feature, x, memory| match feature {
                Feature::Skip(index) => mergers.skip(index, x, memory),
                _ => mergers.mid(x, memory),
            }),
        )),
        Box::new(Mix::new(
            image.clone(),
            image,
            Box::new(move |layer, text: &Tensor, tokens: &Tensor| mixers.mix(layer, text, tokens)),
        )),
    ];
    let got = unet.forward(&[row], &mut hooks(1, &mut stack)).unwrap();
    let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(values(&got[0]), values(&plain[0]));
}
