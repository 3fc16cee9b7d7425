//! Stable Diffusion's networks against diffusers and transformers (goldens: `tests/reference/sd.py`).

use crate::common::{assert_close, golden, golden_dir, thin, tiny};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use vidgen::attention::{AttentionProcessor, AttentionSite, Branch, Fork, Half, Hooks, Next, Pass, Qkv, SiteKind};
use vidgen::models::autoencoder::{DecodeOptions, EncodeOptions, TileOptions};
use vidgen::models::autoencoder_kl::{AutoencoderKL, VaeConfig};
use vidgen::models::control::{ControlNetwork, Residuals};
use vidgen::models::unet::controlnet::{ChannelOrder, ControlNet, ControlNetConfig};
use vidgen::models::unet::{UNet2DConditionModel, UNetConfig};
use vidgen::models::{Autoencoder, Denoiser, Row, Time};
use vidgen::nn::sdpa::Sdpa;
use vidgen::processors::{self, FeatureResiduals, Residual};
use vidgen::text::{ClipEncoder, TextEncoder, Tokenizer};

const KINDS: [&str; 2] = ["tiny-sd1", "tiny-sd2"];
const LIMIT: f64 = 1e-5;

fn config<T: serde::de::DeserializeOwned>(kind: &str, part: &str) -> T {
    let path = golden_dir().join(kind).join(part).join("config.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn builder(tensors: HashMap<String, Tensor>, dtype: DType) -> VarBuilder<'static> {
    VarBuilder::from_tensors(tensors, dtype, &Device::Cpu)
}

const TEXTS: [&str; 8] = [
    "a red ball rolls to the right in a green meadow on a sunny day",
    "The Dark  Knight's horse, in 1080p: don't!",
    "",
    "Café crème brûlée à Zürich — 東京の夜",
    "hello! a RED ball!! <|endoftext|> and more",
    "a <|ENDOFTEXT|> b",
    "it's 12,5 mm\t wide\n— naïve Ünïcode",
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen one two three four \
     five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen ",
];

fn tokenizer(kind: &str) -> Tokenizer {
    let read = |name: &str| {
        let folder = if name.starts_with("vocab") || name.starts_with("merges") { "clip" } else { kind };
        let folder = if folder == kind { golden_dir().join(kind).join("tokenizer") } else { golden_dir().join(folder) };
        Ok(std::fs::read(folder.join(name)).ok())
    };
    Tokenizer::from_files(&read).unwrap()
}

#[test]
fn token_ids_equal_transformers() {
    let golden = golden("sd/text");
    for kind in KINDS {
        let (tokenizer, want) = (tokenizer(kind), &golden[&format!("{kind}/ids")]);
        for (index, text) in TEXTS.iter().enumerate() {
            let tokens = tokenizer.encode(text, 24).unwrap();
            assert_eq!(tokens.ids, want.get(index).unwrap().to_vec1::<u32>().unwrap(), "{kind} {text:?}");
            assert_eq!(tokens.cut.is_some(), [3, 6, 7].contains(&index), "{kind} {text:?}: {:?}", tokens.cut);
        }
    }
}

#[test]
fn texts_equal_transformers() {
    let golden = golden("sd/text");
    for kind in KINDS {
        let (ids, want) = (&golden[&format!("{kind}/ids")], &golden[&format!("{kind}/hidden")]);
        let ids: Vec<Vec<u32>> = [0, 1, 2, 4].map(|text| ids.get(text).unwrap().to_vec1().unwrap()).to_vec();
        let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let tensors = tiny::tensors(kind, "text_encoder", kind);
        let mut bare: HashMap<String, Tensor> =
            tensors.iter().map(|(name, x)| (name.strip_prefix("text_model.").unwrap().to_owned(), x.clone())).collect();
        let places = Tensor::arange(0i64, 24, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        bare.insert("embeddings.position_ids".to_owned(), places);
        for (names, tensors) in [("with their prefix", tensors), ("without it", bare)] {
            let encoder = ClipEncoder::new(config(kind, "text_encoder"), builder(tensors, DType::F32)).unwrap();
            let got = Tensor::stack(&encoder.encode_all(&ids).unwrap(), 0).unwrap();
            assert_close(&format!("{kind}, names {names}"), &got, want, LIMIT);
            let error = encoder.encode(&[0; 25]).unwrap_err().to_string();
            assert!(error.contains("25 tokens") && error.contains("1 to 24"), "{error}");
            assert!(encoder.encode(&[100_000]).unwrap_err().to_string().contains("token id 100000"));
        }
    }
}

fn autoencoder(kind: &str, tensors: HashMap<String, Tensor>) -> AutoencoderKL {
    let config: VaeConfig = config(kind, "vae");
    AutoencoderKL::load(&config, builder(tensors, DType::F32), true).unwrap()
}

/// The names that attention had in older files, and its layers as 1x1 convolutions.
fn old_names(tensors: &HashMap<String, Tensor>, convolutions: bool) -> HashMap<String, Tensor> {
    let renamed = tensors.iter().map(|(name, tensor)| {
        let pairs = [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")];
        let pair = pairs.iter().find(|(new, _)| name.contains(new));
        let tensor = match pair {
            Some(_) if convolutions && tensor.rank() == 2 => tensor.unsqueeze(2).unwrap().unsqueeze(3).unwrap(),
            _ => tensor.clone(),
        };
        (pair.map_or(name.clone(), |(new, old)| name.replace(new, old)), tensor)
    });
    renamed.collect()
}

fn decode(vae: &AutoencoderKL, latents: &Tensor, options: &DecodeOptions) -> Tensor {
    let (frames, _, h, w) = latents.dims4().unwrap();
    let latents = (latents * vae.scaling_factor()).unwrap();
    let mut session = vae.decoding(h, w, options).unwrap();
    let chunks = options.chunks(frames).into_iter();
    let frames = chunks.map(|chunk| session.decode(&latents.narrow(0, chunk.start, chunk.len()).unwrap()).unwrap());
    Tensor::cat(&frames.collect::<Vec<_>>(), 0).unwrap()
}

#[test]
fn pictures_equal_diffusers() {
    let golden = golden("sd/vae");
    for (kind, unit) in KINDS.into_iter().zip([8, 4]) {
        let tensors = tiny::tensors(kind, "vae", kind);
        let variants = [tensors.clone(), old_names(&tensors, false), old_names(&tensors, true)];
        let models = variants.map(|tensors| autoencoder(kind, tensors));
        for (h, w) in [(9, 7), (4, 6)] {
            let name = format!("{kind}/{h}x{w}");
            let video = tiny::unit(&format!("{name}/video"), &[2, 3, h * unit, w * unit]);
            let latents = tiny::unit(&format!("{name}/latents"), &[2, 4, h, w]);
            for vae in &models {
                let check = |what: &str, got: &Tensor| {
                    assert_close(&format!("{name}/{what}"), &thin(got), &golden[&format!("{name}/{what}")], LIMIT);
                };
                let whole = vae.distribution(&video, &EncodeOptions::default()).unwrap();
                check("mean", &whole.mean);
                check("logvar", &whole.logvar);
                check("frames", &decode(vae, &latents, &DecodeOptions::default()));
                let tile = TileOptions {
                    sample_height: 4 * unit,
                    sample_width: 4 * unit,
                    overlap_factor_h: 0.25,
                    overlap_factor_w: 0.25,
                };
                check(
                    "tiled",
                    &decode(vae, &latents, &DecodeOptions { tile: Some(tile.clone()), ..DecodeOptions::default() }),
                );
                let tiled = EncodeOptions { tile: Some(tile), ..EncodeOptions::default() };
                check("tiled-mean", &vae.distribution(&video, &tiled).unwrap().mean);
                let scaled = vae.encode(&video, &EncodeOptions::default()).unwrap();
                assert_close("scaled", &scaled, &(&whole.mean * vae.scaling_factor()).unwrap(), 1e-7);
            }
        }
    }
}

#[test]
fn frames_of_a_decode_do_not_depend_on_each_other() {
    let vae = autoencoder(KINDS[0], tiny::tensors(KINDS[0], "vae", KINDS[0]));
    let latents = tiny::unit("frames", &[3, 4, 3, 5]);
    let values = |x: Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let decoded = |chunk| values(decode(&vae, &latents, &DecodeOptions { chunk, ..DecodeOptions::default() }));
    assert_eq!(decoded(1), decoded(3));
    let mut session = vae.decoding(3, 5, &DecodeOptions::default()).unwrap();
    assert!(session.state().is_empty());
    assert!(session.decode(&tiny::unit("other", &[1, 4, 3, 4])).unwrap_err().to_string().contains("4x3x5"));
    let half = AutoencoderKL::load(
        &config(KINDS[0], "vae"),
        builder(tiny::tensors(KINDS[0], "vae", KINDS[0]), DType::F32),
        false,
    );
    let error = half.unwrap().encode(&tiny::unit("video", &[1, 3, 8, 8]), &EncodeOptions::default()).unwrap_err();
    assert!(error.to_string().contains("without its encoder"), "{error}");
}

fn unet(kind: &str, streamed: bool) -> (UNetConfig, UNet2DConditionModel) {
    let config: UNetConfig = config(kind, "unet");
    let vb = builder(tiny::tensors(kind, "unet", kind), DType::F32);
    let model = UNet2DConditionModel::load(&config, vb, streamed).unwrap();
    (config, model)
}

/// `kind/FxHxW` to the row of that case, as `tests/reference/sd.py` makes it.
fn row(config: &UNetConfig, case: &str, time: f64) -> Row {
    let size: Vec<usize> = case.rsplit_once('/').unwrap().1.split('x').map(|n| n.parse().unwrap()).collect();
    let latents = tiny::unit(&format!("{case}/latents"), &[size[0], 4, size[1], size[2]]);
    let text = tiny::unit(&format!("{case}/text"), &[1, 24, config.cross_attention_dim]);
    Row::new(latents, text.get(0).unwrap(), time)
}

fn branches(count: usize) -> Vec<Branch> {
    (0..count).map(|index| Branch::new(Half::COND, index, index)).collect()
}

fn forward(model: &UNet2DConditionModel, rows: &[Row], micro_batch: usize, stack: &mut Stack) -> Vec<Tensor> {
    let pass = Pass { step: 0, steps: 1 };
    let mut hooks = Hooks::new(pass, branches(rows.len()), vec![], stack, Sdpa::default(), micro_batch).unwrap();
    let done = model.forward(rows, &mut hooks).unwrap();
    hooks.finish().unwrap();
    done
}

type Stack = Vec<Box<dyn AttentionProcessor>>;
const CASES: [(&str, f64); 3] = [("1x9x7", 981.0), ("2x8x12", 1.0), ("3x5x11", 832.5)];

#[test]
fn the_unet_equals_diffusers() {
    let golden = golden("sd/unet");
    for kind in KINDS {
        for streamed in [false, true] {
            let (config, model) = unet(kind, streamed);
            for (case, time) in CASES {
                let rows = [row(&config, &format!("{kind}/{case}"), time)];
                let name = format!("{kind}/{case}/t{time}");
                let got = forward(&model, &rows, 1, &mut Stack::new());
                assert_close(&name, &thin(&got[0]), &golden[&name], LIMIT);
            }
        }
    }
}

struct NoWords;

impl processors::Setting for NoWords {
    fn positions(&self, _word: &str) -> anyhow::Result<Vec<Vec<u32>>> {
        Ok(Vec::new())
    }
}

/// Text2Video-Zero's attention, in both halves of the guidance: every frame reads the first.
#[test]
fn frames_that_read_the_first_equal_diffusers() {
    let golden = golden("sd/unet");
    let (case, time) = CASES[2];
    for kind in KINDS {
        let (config, model) = unet(kind, false);
        let name = format!("{kind}/{case}");
        let cond = row(&config, &name, time);
        let other = tiny::unit(&format!("{name}/other-text"), &[1, 24, config.cross_attention_dim]);
        let uncond = Row { context: other.get(0).unwrap(), ..cond.clone() };
        let name = format!("cross-frame/{name}/t{time}");
        for micro_batch in [1, 2] {
            let spec = processors::parse("cross-frame").unwrap();
            let mut stack = processors::build(&[spec], &NoWords).unwrap().processors;
            let got = forward(&model, &[uncond.clone(), cond.clone()], micro_batch, &mut stack);
            let got = Tensor::stack(&got.iter().map(thin).collect::<Vec<_>>(), 0).unwrap();
            assert_close(&name, &got, &golden[&name], LIMIT);
        }
    }
}

/// Rows of other frame counts and times, in one batch or each by itself; frames in one row or in several.
#[test]
fn rows_and_frames_do_not_see_each_other() {
    let (config, model) = unet(KINDS[0], false);
    let whole = row(&config, "tiny-sd1/3x5x11", 500.0);
    let part = |start: usize, len: usize, time: f64| {
        let latents = whole.latents.narrow(0, start, len).unwrap();
        Row { latents, time: Time::One(time), ..whole.clone() }
    };
    let expected = forward(&model, std::slice::from_ref(&whole), 1, &mut Stack::new()).remove(0);
    let other = forward(&model, &[part(0, 2, 20.0)], 1, &mut Stack::new()).remove(0);
    for micro_batch in [1, 2, 3] {
        let rows = [part(0, 1, 500.0), part(0, 2, 20.0), part(1, 2, 500.0)];
        let got = forward(&model, &rows, micro_batch, &mut Stack::new());
        assert_close("the first frame", &got[0], &expected.narrow(0, 0, 1).unwrap(), 1e-6);
        assert_close("at another time", &got[1], &other, 1e-6);
        assert_close("the others", &got[2], &expected.narrow(0, 1, 2).unwrap(), 1e-6);
    }
    let times = Row { time: Time::Frames(vec![500.0, 20.0, 500.0]), ..whole.clone() };
    let got = forward(&model, &[times], 1, &mut Stack::new()).remove(0);
    assert_close("times of frames", &got.narrow(0, 1, 1).unwrap(), &other.narrow(0, 1, 1).unwrap(), 1e-6);
    assert_close("times of frames", &got.narrow(0, 2, 1).unwrap(), &expected.narrow(0, 2, 1).unwrap(), 1e-6);

    // latents behind others on the channel axis are the network's further channels
    let split = |from, len| whole.latents.narrow(1, from, len).unwrap();
    let parts = Row { latents: split(0, 3), concat: Some(split(3, 1)), ..whole.clone() };
    let got = forward(&model, &[parts], 1, &mut Stack::new()).remove(0);
    assert_close("concatenated", &got, &expected, 1e-7);
}

/// On the way down, in the middle, on the way up and before the output: a row takes what it has kept along.
#[test]
fn a_fork_continues_the_rows_it_names() {
    let (config, model) = unet(KINDS[0], false);
    let rows = [("1x9x7", 981.0), ("1x9x7", 1.0)].map(|(case, time)| row(&config, &format!("tiny-sd1/{case}"), time));
    let whole = forward(&model, &rows, 1, &mut Stack::new());
    let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for layer in [0, 3, 4, 6, config.layers()] {
        let branch = |index: usize| Branch::new(Half::COND, index, index);
        let fork = Fork { layer, rows: vec![(1, branch(1)), (0, branch(0)), (1, branch(1))] };
        let (pass, mut stack) = (Pass { step: 0, steps: 1 }, Stack::new());
        let mut hooks = Hooks::new(pass, branches(2), vec![fork], &mut stack, Sdpa::default(), 1).unwrap();
        let forked = model.forward(&rows, &mut hooks).unwrap();
        hooks.finish().unwrap();
        let of = [1, 0, 1].map(|row: usize| values(&whole[row]));
        assert!(forked.iter().map(values).eq(of), "before layer {layer}");
    }
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let (config, model) = unet(KINDS[0], false);
    let whole = row(&config, "tiny-sd1/3x5x11", 500.0);
    for (row, word) in [
        (Row { concat: Some(whole.latents.clone()), ..whole.clone() }, "takes 4 channels"),
        (Row { context: tiny::unit("text", &[24, 7]), ..whole.clone() }, "24 values for a token"),
        (Row { time: Time::Frames(vec![1.0]), ..whole.clone() }, "1 times for a row of 3 latent frames"),
        (Row { added: Some(Default::default()), ..whole.clone() }, "something else"),
    ] {
        let mut stack = Stack::new();
        let pass = Pass { step: 0, steps: 1 };
        let mut hooks = Hooks::new(pass, branches(1), vec![], &mut stack, Sdpa::default(), 1).unwrap();
        let error = model.forward(&[row], &mut hooks).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

/// Notes the places of attention.
#[derive(Default)]
struct Noting(Rc<RefCell<Vec<String>>>);

impl AttentionProcessor for Noting {
    fn attend(&mut self, qkv: Qkv, site: &AttentionSite, next: &mut Next) -> candle_core::Result<Tensor> {
        let (kind, layer, layers) = (site.kind, site.layer, site.layers);
        assert_eq!((site.inner.len(), qkv.q.dim(0)?), (site.rows.len(), site.inner.last().unwrap().end));
        assert_eq!(qkv.q.dim(2)?, site.grid.1 * site.grid.2);
        assert_eq!(qkv.k.dim(2)?, if kind == SiteKind::Cross { site.text.len() } else { qkv.q.dim(2)? });
        self.0.borrow_mut().push(format!("{} {kind:?} {layer}/{layers} {}", site.network, site.path));
        next.attend(qkv, site)
    }
}

fn controlnet(config: &ControlNetConfig) -> ControlNet {
    let kind = KINDS[0];
    ControlNet::load(config, builder(tiny::tensors(kind, "controlnet", kind), DType::F32)).unwrap()
}

fn controlled(control: &ControlNet, rows: &[Row], hints: &[Tensor], scale: f64, stack: &mut Stack) -> Vec<Residuals> {
    let pass = Pass { step: 0, steps: 1 };
    let mut hooks = Hooks::new(pass, branches(rows.len()), vec![], stack, Sdpa::default(), 2).unwrap();
    let residuals = control.forward(rows, hints, scale, 1, &mut hooks).unwrap();
    hooks.finish().unwrap();
    residuals
}

#[test]
fn a_controlled_unet_equals_diffusers() {
    let golden = golden("sd/controlnet");
    let (config, model) = unet(KINDS[0], false);
    let control_config: ControlNetConfig = self::config(KINDS[0], "controlnet");
    assert_eq!((control_config.ratio(), control_config.misfit(&config)), (8, None));
    let control = controlnet(&control_config);
    let bgr = ControlNetConfig { controlnet_conditioning_channel_order: ChannelOrder::Bgr, ..control_config };
    let swapped = controlnet(&bgr);
    for (case, time) in &CASES[..2] {
        let rows = [row(&config, &format!("tiny-sd1/{case}"), *time)];
        let (frames, _, h, w) = rows[0].latents.dims4().unwrap();
        let picture = tiny::unit(&format!("tiny-sd1/{case}/picture"), &[frames, 3, 8 * h, 8 * w]);
        let picture = ((picture / 2.0).unwrap() + 0.5).unwrap();
        let hint = control.hint(&picture).unwrap();
        let mirrored = picture.index_select(&Tensor::new(&[2u32, 1, 0], &Device::Cpu).unwrap(), 1).unwrap();
        assert_close("channels in the other order", &swapped.hint(&mirrored).unwrap(), &hint, 1e-7);
        let residuals = controlled(&control, &rows, &[hint], 0.8, &mut Stack::new());
        let all = residuals[0].skips.iter().chain([&residuals[0].mid]);
        for (index, residual) in all.enumerate() {
            let name = format!("tiny-sd1/{case}/t{time}/residual/{index}");
            let got = thin(residual);
            let got = got.narrow(0, 0, got.dim(0).unwrap().min(200)).unwrap();
            assert_close(&name, &got, &golden[&name], LIMIT);
        }
        // spec/text2video-zero.md 14.5
        let nothing = residuals[0].skips.iter().map(|skip| skip.zeros_like().unwrap()).collect();
        let nothing = vec![FeatureResiduals { skips: nothing, mid: Some(residuals[0].mid.zeros_like().unwrap()) }];
        let mut stack: Stack = vec![Box::new(Residual::new(Box::new(move |_, _, _| Ok(nothing.clone()))))];
        let plain = forward(&model, &rows, 1, &mut Stack::new()).remove(0);
        let same = forward(&model, &rows, 1, &mut stack).remove(0);
        let values = |x: Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(same), values(plain));
        let twice = residuals[0].plus(&residuals[0]).unwrap();
        assert_close("a sum", &twice.mid, &(&residuals[0].mid * 2.0).unwrap(), 1e-7);
        let added = residuals.into_iter().map(|Residuals { skips, mid }| FeatureResiduals { skips, mid: Some(mid) });
        let added: Vec<FeatureResiduals> = added.collect();
        let mut stack: Stack = vec![Box::new(Residual::new(Box::new(move |_, _, _| Ok(added.clone()))))];
        let name = format!("tiny-sd1/{case}/t{time}/sample");
        assert_close(&name, &thin(&forward(&model, &rows, 1, &mut stack)[0]), &golden[&name], LIMIT);
    }
}

#[test]
fn places_are_numbered_as_they_run() {
    let (config, model) = unet(KINDS[0], false);
    let rows = [row(&config, "tiny-sd1/1x9x7", 1.0)];
    let seen = Rc::new(RefCell::new(Vec::new()));
    forward(&model, &rows, 1, &mut vec![Box::new(Noting(seen.clone()))]);
    let of_unet = seen.take();
    assert_eq!(of_unet.len(), 2 * config.layers());
    let up = "0 Cross 10/11 up_blocks.2.attentions.2.transformer_blocks.0.attn2";
    assert_eq!(
        (of_unet[0].as_str(), of_unet[21].as_str()),
        ("0 SelfSpatial 0/11 down_blocks.0.attentions.0.transformer_blocks.0.attn1", up)
    );
    assert_eq!(of_unet[8], "0 SelfSpatial 4/11 mid_block.attentions.0.transformer_blocks.0.attn1");

    let control_config: ControlNetConfig = self::config(KINDS[0], "controlnet");
    let control = controlnet(&control_config);
    let hint = control.hint(&tiny::unit("picture", &[1, 3, 72, 56])).unwrap();
    let mut stack: Stack = vec![Box::new(Noting(seen.clone()))];
    controlled(&control, &rows, &[hint], 1.0, &mut stack);
    let of_control = seen.take();
    assert_eq!(of_control.len(), 2 * control_config.unet.layers_down());
    assert_eq!(of_control[9], "1 Cross 4/5 mid_block.attentions.0.transformer_blocks.0.attn2");
}

#[test]
fn half_precision_stays_near() {
    let [unets, vaes] = ["sd/unet", "sd/vae"].map(golden);
    for kind in KINDS {
        for (dtype, limit) in [(DType::BF16, 5e-2), (DType::F16, 5e-3)] {
            let config: UNetConfig = config(kind, "unet");
            let vb = builder(tiny::tensors(kind, "unet", kind), dtype);
            let model = UNet2DConditionModel::load(&config, vb, false).unwrap();
            let (case, time) = CASES[1];
            let rows = [row(&config, &format!("{kind}/{case}"), time)];
            let name = format!("{kind}/{case}/t{time}");
            let got = forward(&model, &rows, 1, &mut Stack::new());
            assert_close(&format!("{name} {dtype:?}"), &thin(&got[0]), &unets[&name], limit);

            let vae: VaeConfig = self::config(kind, "vae");
            let vae = AutoencoderKL::load(&vae, builder(tiny::tensors(kind, "vae", kind), dtype), true).unwrap();
            let name = format!("{kind}/4x6");
            let latents = tiny::unit(&format!("{name}/latents"), &[2, 4, 4, 6]);
            let frames = decode(&vae, &latents, &DecodeOptions::default());
            assert_close(&format!("{name} {dtype:?}"), &thin(&frames), &vaes[&format!("{name}/frames")], limit);
        }
    }
}
