//! The judge says what the PyTorch module it was trained as says, on the shipped weights; goldens by `tests/reference/judge.py`.

use crate::common::{assert_close, golden};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use vidgen::eval::judge::{Answer, EMBEDDING, Judge, VideoFindings};
use vidgen::video::Frame;

const LIMIT: f64 = 1e-5;

fn check(name: &str, frames: &[Frame], golden: &HashMap<String, Tensor>) -> VideoFindings {
    let verdict = Judge::embedded(&Device::Cpu).unwrap().judge(frames).unwrap();
    let want = |key: &str| golden.get(&format!("{name}/{key}")).unwrap_or_else(|| panic!("no {name}/{key}"));
    let close = |key: &str, values: Vec<f32>| {
        let want = want(key);
        assert_close(
            &format!("{name} {key}"),
            &Tensor::from_vec(values, want.shape(), &Device::Cpu).unwrap(),
            want,
            LIMIT,
        );
    };
    let answers: [(&str, &Answer); 5] = [
        ("colour", &verdict.colour),
        ("shape", &verdict.shape),
        ("motion", &verdict.motion),
        ("place", &verdict.place),
        ("time", &verdict.time),
    ];
    for (key, answer) in answers {
        close(key, answer.probabilities.clone());
    }
    assert_eq!(verdict.frames.len(), frames.len());
    assert!(verdict.frames.iter().all(|frame| frame.embedding.len() == EMBEDDING));
    close("box", verdict.frames.iter().flat_map(|frame| frame.bounds).collect());
    close("presence", verdict.frames.iter().map(|frame| frame.presence).collect());
    close("embedding", verdict.frames.iter().flat_map(|frame| frame.embedding.clone()).collect());
    verdict
}

#[test]
fn a_rendered_clip_of_another_size() {
    let golden = golden("judge");
    let clip = &golden["clip/frames"]; // [T, H, W, 3]
    let (count, height, width, _) = clip.dims4().unwrap();
    let bytes = clip.flatten_all().unwrap().to_vec1::<u8>().unwrap();
    let frames: Vec<Frame> =
        bytes.chunks(height * width * 3).map(|data| Frame { width, height, data: data.to_vec() }).collect();
    assert_eq!(frames.len(), count);
    let verdict = check("clip", &frames, &golden);
    assert_eq!(verdict.frames.len(), 20); // more than one window
}

#[test]
fn a_pattern() {
    let (width, height) = (144, 96);
    let byte = |t: usize, i: usize| ((t * 31 + i * 7 + i / 1000) % 251) as u8;
    let frame = |t: usize| Frame { width, height, data: (0..width * height * 3).map(|i| byte(t, i)).collect() };
    check("pattern", &(0..9).map(frame).collect::<Vec<_>>(), &golden("judge"));
}
