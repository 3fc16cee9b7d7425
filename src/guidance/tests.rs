//! Rules against numbers worked out by hand, or by the formulas in f64.

use super::*;
use candle_core::Device;

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_slice(values, (1, values.len(), 1, 1), &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    values(tensor).into_iter().map(f32::to_bits).collect()
}

fn near(got: &Tensor, want: &[f64]) {
    let got = values(got);
    assert_eq!(got.len(), want.len());
    assert!(got.iter().zip(want).all(|(got, want)| (f64::from(*got) - want).abs() < 2e-5), "{got:?} not {want:?}");
}

const STEP: Step = Step { index: 0, count: 4, timestep: 999.0, table: Table::Diffusers };

fn constant(scale: f64) -> GuidanceSchedule {
    GuidanceSchedule::Constant(scale)
}

fn outputs<'a>(parts: &[(Half, &'a Tensor)]) -> Vec<Output<'a>> {
    parts.iter().map(|&(half, prediction)| Output { half, prediction }).collect()
}

fn sit(text: f64, image: f64) -> Rule {
    Rule::ThreePart { text: constant(text), image, text_decides: false }
}

#[test]
fn classifier_free_guidance_is_the_formula_and_nothing_at_one() {
    let (uncond, cond) = (tensor(&[1.0, -2.0, 0.3]), tensor(&[2.0, 1.0, 0.1]));
    let both = outputs(&[(Half::UNCOND, &uncond), (Half::COND, &cond)]);
    let guided = |scale| Rule::classifier_free(constant(scale)).combine(&STEP, &both, &[]);
    assert_eq!(values(&guided(6.0).unwrap()), [7.0, 16.0, 0.3 + 6.0 * (0.1f32 - 0.3)]);
    assert_eq!(bits(&guided(1.0).unwrap()), bits(&cond));
    assert_eq!(bits(&classifier_free(&uncond, &cond, 1.0).unwrap()), bits(&cond));
    let error = Rule::classifier_free(constant(6.0)).combine(&STEP, &both[1..], &[]).unwrap_err().to_string();
    assert!(error.contains("is missing"), "{error}");
}

#[test]
fn halves_are_those_that_the_formula_names() {
    let halves = |rule: &Rule| rule.halves(&STEP).to_vec();
    let jit = |scale| Rule::ClassifierFree { scale: constant(scale), null: Half::NONE };
    let pix2pix = |text| Rule::ThreePart { text: constant(text), image: 1.5, text_decides: true };
    assert_eq!(halves(&Rule::classifier_free(constant(6.0))), [Half::UNCOND, Half::COND]);
    assert_eq!(halves(&jit(6.0)), [Half::NONE, Half::COND]);
    assert_eq!(halves(&pix2pix(7.5)), [Half::NONE, Half::UNCOND, Half::COND]);
    assert_eq!(halves(&sit(1.0, 1.5)), [Half::NONE, Half::UNCOND, Half::COND]);
    for alone in [Rule::classifier_free(constant(1.0)), jit(0.5), pix2pix(1.0)] {
        assert_eq!(halves(&alone), [Half::COND]);
        assert_eq!(alone.most_halves(4), 1);
        let over = Rule::Renormalised { rule: Box::new(alone.clone()), clamp: false };
        assert_eq!(halves(&over), [Half::COND]);
        let cond = tensor(&[0.1, 0.7]);
        let got = over.combine(&STEP, &outputs(&[(Half::COND, &cond)]), &[]).unwrap();
        assert_eq!(bits(&got), bits(&cond));
    }
    let ramp = Rule::classifier_free(GuidanceSchedule::Ramp { from: 1.0, to: 6.0 });
    assert_eq!((halves(&ramp).len(), ramp.most_halves(4), sit(7.5, 1.5).most_halves(1)), (1, 2, 3));
}

#[test]
fn three_parts_are_those_of_the_specification() {
    // spec/stiv.md (d): F none (1, 0), F image (2, .5), F both (1, 1), s1 = 1.5, s2 = 7.5 -> (-5.0, 4.5)
    let (none, image, both) = (tensor(&[1.0, 0.0]), tensor(&[2.0, 0.5]), tensor(&[1.0, 1.0]));
    let all = outputs(&[(Half::NONE, &none), (Half::UNCOND, &image), (Half::COND, &both)]);
    assert_eq!(values(&sit(7.5, 1.5).combine(&STEP, &all, &[]).unwrap()), [-5.0, 4.5]);
    // spec/text2video-zero.md 14.6: scales of 1 give the whole prediction exactly
    assert_eq!(bits(&sit(1.0, 1.0).combine(&STEP, &all, &[]).unwrap()), bits(&both));
    // one scale for both is JIT
    let jit = Rule::ClassifierFree { scale: constant(7.5), null: Half::NONE };
    near(&sit(7.5, 7.5).combine(&STEP, &all, &[]).unwrap(), &[1.0, 7.5]);
    near(&jit.combine(&STEP, &all, &[]).unwrap(), &[1.0, 7.5]);
    assert!(sit(7.5, 1.5).combine(&STEP, &all[1..], &[]).unwrap_err().to_string().contains("half without conditions"));
}

#[test]
fn renormalisation_keeps_the_direction_and_takes_the_conditional_norm() {
    // spec/stiv.md (b): F null (1, 0), F cond (1, 1), s = 7.5: (1, 7.5) becomes (0.18691, 1.40181)
    let (null, cond) = (tensor(&[1.0, 0.0]), tensor(&[1.0, 1.0]));
    let both = outputs(&[(Half::UNCOND, &null), (Half::COND, &cond)]);
    let rule = |scale, clamp| Rule::Renormalised { rule: Box::new(Rule::classifier_free(constant(scale))), clamp };
    let got = values(&rule(7.5, false).combine(&STEP, &both, &[]).unwrap());
    assert!((got[0] - 0.18691).abs() < 5e-6 && (got[1] - 1.40181).abs() < 5e-6, "{got:?}");
    assert_eq!(values(&rule(7.5, true).combine(&STEP, &both, &[]).unwrap()), got);

    // null (2, 0), cond (1.5, .1), s = 2: (1, .2) has the smaller norm and grows, but for a clamped rule
    let (null, cond) = (tensor(&[2.0, 0.0]), tensor(&[1.5, 0.1]));
    let both = outputs(&[(Half::UNCOND, &null), (Half::COND, &cond)]);
    let factor = (1.5f64 * 1.5 + 0.01).sqrt() / (1.0f64 + 0.04).sqrt();
    near(&rule(2.0, false).combine(&STEP, &both, &[]).unwrap(), &[factor, 0.2 * factor]);
    near(&rule(2.0, true).combine(&STEP, &both, &[]).unwrap(), &[1.0, 0.2]);
}

#[test]
fn known_frames_are_in_no_norm() {
    let frames = |values: &[f32]| Tensor::from_slice(values, (2, 2, 1, 1), &Device::Cpu).unwrap();
    let (null, cond) = (frames(&[90.0, -7.0, 1.0, 0.0]), frames(&[3.0, 50.0, 1.0, 1.0]));
    let both = outputs(&[(Half::UNCOND, &null), (Half::COND, &cond)]);
    let rule = Rule::Renormalised { rule: Box::new(Rule::classifier_free(constant(7.5))), clamp: false };
    let got = values(&rule.combine(&STEP, &both, &[0]).unwrap());
    assert!((got[2] - 0.18691).abs() < 5e-6 && (got[3] - 1.40181).abs() < 5e-6, "{got:?}");
    let nothing = frames(&[0.0; 4]);
    let none = outputs(&[(Half::UNCOND, &nothing), (Half::COND, &nothing)]);
    assert_eq!(values(&rule.combine(&STEP, &none, &[]).unwrap()), [0.0; 4]);
}

#[test]
fn rescaling_takes_the_conditional_deviation() {
    // diffusers' rescale_noise_cfg with guidance_rescale 0.7: cond (1, 2, 4), uncond (0, 1, 5), s = 3: guided (3, 4, 2);
    // deviations sqrt(7/3) and 1
    let (uncond, cond) = (tensor(&[0.0, 1.0, 5.0]), tensor(&[1.0, 2.0, 4.0]));
    let both = outputs(&[(Half::UNCOND, &uncond), (Half::COND, &cond)]);
    let rule = |share| Rule::Rescaled { rule: Box::new(Rule::classifier_free(constant(3.0))), share };
    let ratio = (7.0f64 / 3.0).sqrt();
    let want: Vec<f64> = [3.0, 4.0, 2.0].iter().map(|x| 0.7 * x * ratio + 0.3 * x).collect();
    near(&rule(0.7).combine(&STEP, &both, &[]).unwrap(), &want);
    near(&rule(0.0).combine(&STEP, &both, &[]).unwrap(), &[3.0, 4.0, 2.0]);
    // and over a rule over a rule
    let rule = Rule::Renormalised { rule: Box::new(rule(0.7)), clamp: false };
    let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
    let factor = norm(&[1.0, 2.0, 4.0]) / norm(&want);
    near(&rule.combine(&STEP, &both, &[]).unwrap(), &want.iter().map(|x| factor * x).collect::<Vec<_>>());
}

/// A text scale below 1 is one like any other where both scales are asked for, and none where the text decides.
#[test]
fn small_scales_are_taken_as_they_are_where_both_count() {
    let (none, image, both) = (tensor(&[1.0, 0.0]), tensor(&[2.0, 0.5]), tensor(&[1.0, 1.0]));
    let all = outputs(&[(Half::NONE, &none), (Half::UNCOND, &image), (Half::COND, &both)]);
    // (1, 0) + 1.5 (1, .5) + 0.5 (-1, .5)
    near(&sit(0.5, 1.5).combine(&STEP, &all, &[]).unwrap(), &[2.0, 1.0]);
    let pix2pix = Rule::ThreePart { text: constant(0.5), image: 1.5, text_decides: true };
    assert_eq!(bits(&pix2pix.combine(&STEP, &all, &[]).unwrap()), bits(&both));
}
