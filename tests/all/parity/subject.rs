//! DreamVideo-2's networks against the plain PyTorch of `training/subject.py` (goldens: `tests/reference/dreamvideo2.py`).

use crate::common::{assert_close, golden, golden_dir, thin, tiny};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use vidgen::attention::{AttentionProcessor, Branch, Half, Hooks, Pass};
use vidgen::boxes::{Rect, Rule, grids, pixels};
use vidgen::models::control::ControlNetwork;
use vidgen::models::placement::SubjectAttention;
use vidgen::models::unet::controlnet::ControlNetConfig;
use vidgen::models::unet::subject::{BoxControl, BoxMotionEncoder, MotionEncoderConfig, ReferenceAttention};
use vidgen::models::unet::{UNet3DConditionModel, UNet3DConfig};
use vidgen::models::{Denoiser, Row};
use vidgen::nn::sdpa::Sdpa;
use vidgen::processors::reference::{Reference, Witness};
use vidgen::processors::{FeatureResiduals, Residual};

const KIND: &str = "tiny-dv2";
const LIMIT: f64 = 1e-5;

fn config<T: DeserializeOwned>(part: &str) -> T {
    let path = golden_dir().join(KIND).join(part).join("config.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn weights(part: &str) -> VarBuilder<'static> {
    VarBuilder::from_tensors(tiny::tensors(KIND, part, KIND), DType::F32, &Device::Cpu)
}

#[test]
fn masks_equal_the_reference() {
    let golden = golden("dreamvideo2/parts");
    let boxes: [Option<Rect>; 6] = [
        Some([0.31, 0.42, 0.38, 0.47]),
        Some([0.05, 0.1, 0.93, 0.88]),
        Some([-0.2, 0.6, 0.35, 1.4]),
        Some([0.25, 0.25, 0.75, 0.75]),
        Some([0.5, 0.1, 0.5001, 0.9]),
        None,
    ];
    for ((rows, columns), levels) in [((10, 14), 3), ((5, 7), 3), ((32, 56), 4)] {
        let size = (8 * rows, 8 * columns);
        for (name, rule) in [("coverage", Rule::Coverage), ("nearest", Rule::Nearest)] {
            for (h, w) in grids(rows, columns, levels) {
                let inside = boxes.iter().flat_map(|rect| rule.grid(rect.as_ref(), h, w, size));
                let made: Vec<f32> = inside.map(|inside| if inside { 1.0 } else { 0.75 }).collect();
                let wanted = golden[&format!("mask/{rows}x{columns}/{name}/{}", h * w)].flatten_all().unwrap();
                assert_eq!(made, wanted.to_vec1::<f32>().unwrap(), "{rows}x{columns} {name} {h}x{w}");
            }
        }
        let share = |rect: &Option<Rect>| {
            let mask = pixels(rect.as_ref(), size.0, size.1);
            mask.iter().filter(|value| **value == 255).count() as f32 / mask.len() as f32
        };
        let made: Vec<f32> = boxes.iter().map(share).collect();
        let wanted = golden[&format!("pixels/{rows}x{columns}")].to_vec1::<f32>().unwrap();
        assert!(made.iter().zip(&wanted).all(|(made, wanted)| (made - wanted).abs() < 1e-6), "{made:?} {wanted:?}");
    }
}

/// The path of the reference script.
fn path(frames: usize) -> Vec<Option<Rect>> {
    let at = |i: usize| {
        let u = i as f64 / (frames.max(2) - 1) as f64;
        Some([0.05 + 0.5 * u, 0.1 + 0.3 * u, 0.35 + 0.5 * u, 0.55 + 0.35 * u])
    };
    let mut boxes: Vec<Option<Rect>> = (0..frames).map(at).collect();
    if frames > 3 {
        boxes[frames - 2] = None;
    }
    boxes
}

fn mask(boxes: &[Option<Rect>], (height, width): (usize, usize)) -> Tensor {
    let values: Vec<f32> = boxes
        .iter()
        .flat_map(|rect| pixels(rect.as_ref(), height, width))
        .map(|value| f32::from(value / 255))
        .collect();
    Tensor::from_vec(values, (boxes.len(), 1, height, width), &Device::Cpu).unwrap()
}

fn forward(unet: &UNet3DConditionModel, row: Row, mut stack: Vec<Box<dyn AttentionProcessor>>) -> Tensor {
    let pass = Pass { step: 0, steps: 1 };
    let branch = vec![Branch::new(Half::COND, 0, 0)];
    let mut hooks = Hooks::new(pass, branch, vec![], &mut stack, Sdpa::default(), 2).unwrap();
    unet.forward(&[row], &mut hooks).unwrap().remove(0)
}

#[test]
fn one_pass_equals_the_reference() {
    let golden = golden("dreamvideo2/parts");
    let form: UNet3DConfig = config("unet");
    let unet = UNet3DConditionModel::load(&form, weights("unet"), false).unwrap();
    let reference = Rc::new(ReferenceAttention::load(&form, &weights("reference_attention")).unwrap());
    let encoder_config: MotionEncoderConfig = config("motion_encoder");
    let encoder = BoxMotionEncoder::load(&encoder_config, &weights("motion_encoder")).unwrap();
    let parts = (
        (&encoder_config, &weights("motion_encoder")),
        (&config::<ControlNetConfig>("controlnet"), weights("controlnet")),
    );
    let control = Rc::new(BoxControl::load(parts.0, parts.1).unwrap());
    for (frames, h, w, time) in [(5, 6, 10, 501.0), (1, 5, 7, 981.0), (3, 8, 8, 1.0)] {
        let name = format!("{frames}x{h}x{w}");
        let given = |what: &str, shape: &[usize]| tiny::unit(&format!("dv2/{name}/{what}"), shape);
        let (latents, subject) = (given("latents", &[frames, 4, h, w]), given("subject", &[1, 4, h, w]));
        let boxes = path(frames);
        let mask = mask(&boxes, (8 * h, 8 * w));
        let seen = encoder.forward(&mask).unwrap();
        assert_close(&name, &thin(&seen), &golden[&format!("{name}/encoder")], LIMIT);
        let text = golden_text();
        // the subject's branch
        let kept = Rc::new(RefCell::new(HashMap::new()));
        let (held, projections) = (kept.clone(), reference.clone());
        let witness = Witness::new(Box::new(move |layer, kind, u| {
            held.borrow_mut().insert((layer, kind), projections.keys(layer, kind, u)?);
            Ok(())
        }));
        let branch = unet.forward(
            &[Row::new(subject, text.clone(), 0.0)],
            &mut Hooks::new(
                Pass { step: 0, steps: 1 },
                vec![Branch::new(Half::COND, 0, 0)],
                vec![],
                &mut [Box::new(witness)],
                Sdpa::default(),
                1,
            )
            .unwrap(),
        );
        branch.unwrap();
        assert_eq!(kept.borrow().len(), 2 * reference.layers());
        for (kind, outside) in [
            ("both", "0.75"),
            ("both", "0.0"),
            ("both", "1.0"),
            ("subject", "0.75"),
            ("boxes", "0.75"),
            ("none", "0.75"),
        ] {
            let (boxed, looked) = (matches!(kind, "both" | "boxes"), matches!(kind, "both" | "subject"));
            let mut stack: Vec<Box<dyn AttentionProcessor>> = Vec::new();
            if boxed {
                let (control, hint) = (control.clone(), control.hint(&mask.repeat((1, 3, 1, 1)).unwrap()).unwrap());
                stack.push(Box::new(Residual::new(Box::new(move |pass, branches, rows| {
                    let mut none: [Box<dyn AttentionProcessor>; 0] = [];
                    let mut hooks = Hooks::new(*pass, branches.to_vec(), vec![], &mut none, Sdpa::default(), 2)?;
                    let made = control.forward(rows, std::slice::from_ref(&hint), 1.0, 1, &mut hooks)?;
                    Ok(made.into_iter().map(|one| FeatureResiduals { skips: one.skips, mid: Some(one.mid) }).collect())
                }))));
            }
            if looked {
                let (kept, reference) = (kept.clone(), reference.clone());
                let outside: f32 = outside.parse().unwrap();
                let boxes = boxed.then(|| boxes.clone());
                let weights = move |(rows, columns): (usize, usize)| {
                    let Some(boxes) = &boxes else { return Ok(None) };
                    let inside =
                        boxes.iter().flat_map(|rect| Rule::Coverage.grid(rect.as_ref(), rows, columns, (8 * h, 8 * w)));
                    let values: Vec<f32> = inside.map(|inside| if inside { 1.0 } else { outside }).collect();
                    Tensor::from_vec(values, (boxes.len(), rows * columns, 1), &Device::Cpu).map(Some)
                };
                let seeker = move |layer, kind, u: &Tensor| {
                    reference.find(layer, kind, u, &kept.borrow()[&(layer, kind)], &Sdpa::default())
                };
                stack.push(Box::new(Reference::new(Box::new(seeker), Box::new(weights))));
            }
            let made = forward(&unet, Row::new(latents.clone(), text.clone(), time), stack);
            assert_close(
                &format!("{name} {kind} {outside}"),
                &thin(&made),
                &golden[&format!("{name}/{kind}/{outside}")],
                LIMIT,
            );
        }
    }
}

/// The prompt's text, as the reference has it.
fn golden_text() -> Tensor {
    golden("dreamvideo2/parts")["text"].clone()
}
