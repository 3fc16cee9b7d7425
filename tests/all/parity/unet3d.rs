//! The video UNet against diffusers (goldens: `tests/reference/unet3d.py`).

use crate::common::{assert_close, golden, golden_dir, thin, tiny};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use std::cell::RefCell;
use std::rc::Rc;
use vidgen::attention::{AttentionProcessor, AttentionSite, Branch, Half, Hooks, Next, Pass, Qkv, SiteKind};
use vidgen::models::unet::{UNet3DConditionModel, UNet3DConfig};
use vidgen::models::{Denoiser, Row, Time};
use vidgen::nn::sdpa::Sdpa;
use vidgen::processors;

const KINDS: [&str; 2] = ["tiny-ms", "tiny-zs"];
const LIMIT: f64 = 1e-5;
const CASES: [(&str, f64); 3] = [("1x9x7", 981.0), ("5x8x12", 1.0), ("24x5x3", 501.0)];

type Stack = Vec<Box<dyn AttentionProcessor>>;

fn config(kind: &str) -> UNet3DConfig {
    let path = golden_dir().join(kind).join("unet").join("config.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn unet(kind: &str, dtype: DType, streamed: bool) -> (UNet3DConfig, UNet3DConditionModel) {
    let config = config(kind);
    let vb = VarBuilder::from_tensors(tiny::tensors(kind, "unet", kind), dtype, &Device::Cpu);
    let model = UNet3DConditionModel::load(&config, vb, streamed).unwrap();
    (config, model)
}

/// `kind/FxHxW` to the row of that case, as the reference makes it.
fn row(config: &UNet3DConfig, case: &str, time: f64) -> Row {
    let size: Vec<usize> = case.rsplit_once('/').unwrap().1.split('x').map(|n| n.parse().unwrap()).collect();
    let latents = tiny::unit(&format!("{case}/latents"), &[size[0], 4, size[1], size[2]]);
    let text = tiny::unit(&format!("{case}/text"), &[1, 24, config.cross_attention_dim]);
    Row::new(latents, text.get(0).unwrap(), time)
}

fn forward(model: &UNet3DConditionModel, rows: &[Row], micro_batch: usize, stack: &mut Stack) -> Vec<Tensor> {
    let branches = (0..rows.len()).map(|index| Branch::new(Half::COND, index, index)).collect();
    let pass = Pass { step: 0, steps: 1 };
    let mut hooks = Hooks::new(pass, branches, vec![], stack, Sdpa::default(), micro_batch).unwrap();
    let done = model.forward(rows, &mut hooks).unwrap();
    hooks.finish().unwrap();
    done
}

#[test]
fn the_unet_equals_diffusers() {
    let golden = golden("unet3d/forward");
    for kind in KINDS {
        for streamed in [false, true] {
            let (config, model) = unet(kind, DType::F32, streamed);
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

/// FreeNoise: every place of attention in time by windows, diffusers' own block the reference.
#[test]
fn windows_in_time_equal_diffusers() {
    let golden = golden("unet3d/forward");
    let (case, time) = CASES[2];
    for kind in KINDS {
        let (config, model) = unet(kind, DType::F32, false);
        let whole = row(&config, &format!("{kind}/{case}"), time);
        for (size, stride) in [(8, 3), (5, 2)] {
            let spec = processors::parse(&format!("window:size={size},stride={stride}")).unwrap();
            let mut stack = processors::build(&[spec], &NoWords).unwrap().processors;
            let name = format!("freenoise/{kind}/{case}/{size}-{stride}");
            let rows = [whole.clone(), whole.clone()];
            for got in forward(&model, &rows, 2, &mut stack) {
                assert_close(&name, &thin(&got), &golden[&name], LIMIT);
            }
        }
        // a window of all frames is none
        let spec = processors::parse("window:size=24").unwrap();
        let mut stack = processors::build(&[spec], &NoWords).unwrap().processors;
        let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let got = forward(&model, std::slice::from_ref(&whole), 1, &mut stack).remove(0);
        let plain = forward(&model, std::slice::from_ref(&whole), 1, &mut Stack::new()).remove(0);
        assert_eq!(values(&got), values(&plain));
    }
}

/// Frames with texts of their own, beside a row with one: as if each text were that of all frames, as far as frames do not
/// see each other.
#[test]
fn frames_read_their_texts() {
    let (config, model) = unet(KINDS[0], DType::F32, false);
    let whole = row(&config, "tiny-ms/5x8x12", 500.0);
    let other = tiny::unit("other", whole.context.dims());
    let texts = Tensor::stack(&[&whole.context, &other], 0).unwrap();
    let of_frames =
        |frames: &[usize]| Row { context: texts.clone(), frame_texts: Some(frames.to_vec()), ..whole.clone() };
    let plain = forward(&model, &[whole.clone(), Row { context: other, ..whole.clone() }], 1, &mut Stack::new());
    for micro_batch in [1, 4] {
        let rows = [of_frames(&[0; 5]), whole.clone(), of_frames(&[1; 5]), of_frames(&[0, 0, 1, 1, 1])];
        let got = forward(&model, &rows, micro_batch, &mut Stack::new());
        for (row, text) in [(0, 0), (1, 0), (2, 1)] {
            assert_close("one text", &got[row], &plain[text], 1e-6);
        }
        let apart =
            |a: &Tensor, b: &Tensor| (a - b).unwrap().abs().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(apart(&got[3], &plain[0]) > 1e-3 && apart(&got[3], &plain[1]) > 1e-3);
    }
    for (row, word) in [
        (of_frames(&[0; 4]), "5 latent frames"),
        (of_frames(&[0, 0, 0, 0, 2]), "5 latent frames"),
        (Row { context: whole.context.clone(), ..of_frames(&[0; 5]) }, "does not fit the UNet"),
    ] {
        let mut stack = Stack::new();
        let branches = vec![Branch::new(Half::COND, 0, 0)];
        let mut hooks =
            Hooks::new(Pass { step: 0, steps: 1 }, branches, vec![], &mut stack, Sdpa::default(), 1).unwrap();
        let error = model.forward(&[row], &mut hooks).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn half_precision_stays_near() {
    let golden = golden("unet3d/forward");
    for kind in KINDS {
        for (dtype, limit) in [(DType::BF16, 5e-2), (DType::F16, 5e-3)] {
            let (config, model) = unet(kind, dtype, false);
            let (case, time) = CASES[1];
            let name = format!("{kind}/{case}/t{time}");
            let got = forward(&model, &[row(&config, &format!("{kind}/{case}"), time)], 1, &mut Stack::new());
            assert_close(&format!("{name} {dtype:?}"), &thin(&got[0]), &golden[&name], limit);
        }
    }
}

/// Rows of other frame counts and times, in one batch or each by itself.
#[test]
fn rows_do_not_see_each_other() {
    let (config, model) = unet(KINDS[0], DType::F32, false);
    let whole = row(&config, "tiny-ms/5x8x12", 500.0);
    let part = |start: usize, len: usize, time: f64| {
        let latents = whole.latents.narrow(0, start, len).unwrap();
        Row { latents, time: Time::One(time), ..whole.clone() }
    };
    let rows = [part(0, 1, 500.0), part(0, 5, 20.0), part(1, 3, 500.0), part(0, 5, 20.0)];
    let alone: Vec<Tensor> =
        rows.iter().map(|row| forward(&model, std::slice::from_ref(row), 1, &mut Stack::new()).remove(0)).collect();
    for micro_batch in [1, 2, 4] {
        for (got, want) in forward(&model, &rows, micro_batch, &mut Stack::new()).iter().zip(&alone) {
            assert_close("a row", got, want, 1e-6);
        }
    }
    // frames of a row do
    let cut = forward(&model, &[part(0, 4, 20.0)], 1, &mut Stack::new()).remove(0);
    let apart = (cut - alone[1].narrow(0, 0, 4).unwrap()).unwrap().abs().unwrap().mean_all().unwrap();
    assert!(apart.to_scalar::<f32>().unwrap() > 1e-3);
}

/// Notes the places of attention.
struct Noting(Rc<RefCell<Vec<String>>>);

impl AttentionProcessor for Noting {
    fn attend(&mut self, qkv: Qkv, site: &AttentionSite, next: &mut Next) -> candle_core::Result<Tensor> {
        let (kind, layer, layers) = (site.kind, site.layer, site.layers);
        assert_eq!((site.inner.len(), qkv.q.dim(0)?), (site.rows.len(), site.inner.last().unwrap().end));
        let (frames, height, width) = site.grid;
        match kind {
            SiteKind::Temporal => {
                assert_eq!((qkv.q.dim(2)?, qkv.k.dim(2)?, site.inner[0].len()), (frames, frames, height * width));
            }
            _ => assert_eq!((qkv.q.dim(2)?, site.inner[0].len()), (height * width, frames)),
        }
        self.0.borrow_mut().push(format!("{kind:?} {layer}/{layers} {}", site.path));
        next.attend(qkv, site)
    }
}

#[test]
fn places_are_numbered_as_they_run() {
    let (config, model) = unet(KINDS[0], DType::F32, false);
    let planar = config.planar("unet").unwrap();
    let seen = Rc::new(RefCell::new(Vec::new()));
    forward(&model, &[row(&config, "tiny-ms/5x8x12", 1.0)], 1, &mut vec![Box::new(Noting(seen.clone()))]);
    let seen = seen.take();
    assert_eq!(seen.len(), 2 * planar.layers() + planar.temporal_layers());
    assert_eq!(
        seen[..6],
        [
            "Temporal 0/24 transformer_in.transformer_blocks.0.attn1",
            "Temporal 1/24 transformer_in.transformer_blocks.0.attn2",
            "SelfSpatial 0/11 down_blocks.0.attentions.0.transformer_blocks.0.attn1",
            "Cross 0/11 down_blocks.0.attentions.0.transformer_blocks.0.attn2",
            "Temporal 2/24 down_blocks.0.temp_attentions.0.transformer_blocks.0.attn1",
            "Temporal 3/24 down_blocks.0.temp_attentions.0.transformer_blocks.0.attn2",
        ]
    );
    assert_eq!(seen[seen.len() - 1], "Temporal 23/24 up_blocks.2.temp_attentions.2.transformer_blocks.0.attn2");
}
