//! Scene cuts are PySceneDetect 0.7.2's, warp errors those of a plain form of `mawe.py`; goldens by `tests/reference/scene_cuts.py`.

use crate::common::golden;
use candle_core::{DType, Tensor};
use vidgen::eval::scene_cuts::SceneCuts;
use vidgen::eval::warping::{self, FlowSource};
use vidgen::video::Frame;

/// Width, height, lengths of scenes.
const SMALL: (usize, usize, &[usize]) = (96, 64, &[20, 14, 30, 16, 9]);
const LARGE: (usize, usize, &[usize]) = (333, 517, &[16, 15, 21]);
const WIDE: (usize, usize, &[usize]) = (640, 120, &[30, 30]);

fn frames((width, height, lengths): (usize, usize, &[usize])) -> Vec<Frame> {
    let scenes = lengths.iter().enumerate().flat_map(|(scene, &length)| vec![scene; length]);
    let frame = |(t, scene): (usize, usize)| {
        let value = |i: usize| {
            let (x, y, c) = (i / 3 % width, i / 3 / width, i % 3);
            ((x * (3 + scene) + y * (5 - scene) + c * 61 * (scene + 1) + t * 2 + ((x * y) >> 5)) % 256) as u8
        };
        Frame { width, height, data: (0..width * height * 3).map(value).collect() }
    };
    scenes.enumerate().map(frame).collect()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn cuts_and_scores_are_those_of_pyscenedetect() {
    let golden = golden("scene_cuts");
    for (name, video) in [("small", SMALL), ("large", LARGE), ("wide", WIDE)] {
        let mut seen = SceneCuts::default();
        frames(video).iter().for_each(|frame| seen.push(frame));
        let want = numbers(&golden[&format!("{name}.scores")]);
        assert_eq!(seen.scores().len(), want.len());
        let worst = seen.scores().iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-12, "{name}: {worst}");
        let cuts: Vec<f64> = seen.cuts().iter().map(|&cut| cut as f64).collect();
        assert_eq!(cuts, numbers(&golden[&format!("{name}.cuts")]), "{name}");
    }
}

#[test]
fn warp_errors_are_those_of_the_reference() {
    let golden = golden("scene_cuts");
    let source = FlowSource::Given(golden["flow"].to_dtype(DType::F32).unwrap());
    let frames = frames(SMALL);
    let pairs = frames.windows(2).enumerate();
    let pairs: Vec<_> = pairs.map(|(at, pair)| warping::pair(&source, at, &pair[0], &pair[1]).unwrap()).collect();
    let got = warping::summed(&pairs).unwrap();
    let got = [got.error, got.motion, got.mawe.unwrap(), got.mawe_paper.unwrap()];
    for (got, want) in got.iter().zip(numbers(&golden["mawe"])) {
        assert!((got - want).abs() <= 1e-6 * want, "{got} {want}");
    }
    assert!(warping::pair(&source, frames.len() - 1, &frames[0], &frames[1]).is_err());
    assert!(source.covers(frames.len()).is_ok() && source.covers(frames.len() + 1).is_err());
}

#[test]
fn the_built_in_flow_explains_a_shift() {
    let texture = |shift: usize| {
        let value = |i: usize| {
            let (x, y) = ((i / 3 % 96 + 64 - shift) as f64, (i / 3 / 96) as f64);
            (128.0 + 60.0 * (x * 0.37).sin() + 60.0 * (y * 0.53 + x * 0.21).cos()) as u8
        };
        Frame { width: 96, height: 64, data: (0..96 * 64 * 3).map(value).collect() }
    };
    let moved = warping::pair(&FlowSource::Builtin, 0, &texture(0), &texture(3)).unwrap();
    // all but the blocks that leave the picture
    assert!((2.6..=3.2).contains(&moved.motion) && moved.error < 200.0, "{moved:?}");
    let still = warping::pair(&FlowSource::Builtin, 0, &texture(0), &texture(0)).unwrap();
    assert_eq!((still.motion, still.error), (0.0, 0.0));
}
