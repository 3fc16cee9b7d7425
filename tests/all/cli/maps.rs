//! Attention maps: against the whole softmax of diffusers' modules (goldens: `tests/reference/maps.py`), what is written, and
//! what users type.

use crate::cli::parity::{read, write_noise};
use crate::cli::program::{Done, Program};
use crate::common::{assert_close, golden, tiny};
use candle_core::{Device, Tensor};
use std::collections::HashMap;

const PROMPT: &str = "a red ball rolls";
/// Toyland, small.
const SMALL: [&str; 8] = ["--steps", "2", "--frames", "9", "--size", "48x32", "--text-cache", "off"];

fn raw(program: &Program, folder: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(program.path(folder).join("maps.safetensors"), &Device::Cpu).unwrap()
}

fn files(program: &Program, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(program.path(folder)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn maps_are_parts_of_the_whole_softmax() {
    let golden = golden("pipeline/maps");
    let program = Program::new();
    tiny::write_folder("tiny-5b", "tiny-5b", &program.path("model"));
    write_noise(&program.path("noise.safetensors"), &[1, 3, 4, 4, 6]);
    let how = ["--model", "model", "--scheduler", "ddim", "--guidance-scale", "6", "--init-noise", "noise.safetensors"];
    let what = ["--steps", "4", "--size", "48x32", "--frames", "9", "--text-cache", "off", "-y", "-o", "maps/"];
    let looked = ["--map-steps", "0,2-3", "--layers", "all"];
    for flags in [
        &["--words", "red", "--words", "ball"][..],
        &["--view", "text"],
        // of nine frames the fifth is the last of the second latent frame
        &["--view", "spatial", "--frame", "4"],
        // the last of three columns of 16 pixels, the second of two rows
        &["--view", "temporal", "--at", "40,20"],
    ] {
        for (mean, more) in [("mean", &[][..]), ("layer", &["--single-layer"])] {
            program.run(&[&["attn-map", PROMPT][..], &how, &what, &looked, flags, more].concat()).success();
            let maps = raw(&program, "maps");
            assert_eq!(maps.len(), 9, "{:?}", maps.keys());
            for (name, map) in &maps {
                let want = &golden[&format!("{mean}/{}", name.trim_end_matches("/window-0"))];
                assert_close(&format!("{mean} {name}"), map, want, 1e-5);
            }
        }
    }
}

#[test]
fn maps_of_a_run_are_seen_without_changing_it() {
    let program = Program::new();
    let prompt = "a red ball rolls in a green meadow";
    let record = ["generate", prompt, "--seed", "7", "-o", "ball.mp4", "--save-latents", "a.safetensors"];
    program.run(&[&record[..], &SMALL].concat()).success();
    let words = ["--words", "red ball", "--words", "meadow"];
    let done = program.run(
        &[&["attn-map", "ball.mp4", "--text-cache", "off", "-o", "maps/", "--progress", "json"][..], &words].concat(),
    );
    let done = done.success();
    // the middle step of two, layers 3, 4 and 5 of six
    let want = ["maps.safetensors", "words-step1-layer3.png", "words-step1-layer4.png", "words-step1-layer5.png"];
    assert_eq!(files(&program, "maps"), want);
    assert!(done.stdout().lines().all(|line| program.path(line).is_file()), "{}", done.stdout());
    assert!(!done.stderr().contains("\"decode\""), "nothing is decoded where no frames are wanted");
    let maps = raw(&program, "maps");
    assert_eq!(maps["words/step-1/layer-4"].dims(), [2, 3, 2, 3]);
    // a run whose maps are looked at makes the same frames
    let overlay =
        [&["attn-map", prompt, "--seed", "7", "--overlay", "-o", "more/", "--json"][..], &words, &SMALL].concat();
    let done = program.run(&overlay).success();
    let object: serde_json::Value = serde_json::from_str(&done.stdout()).unwrap();
    assert_eq!((&object["words"][0], &object["layers"]), (&"red ball".into(), &serde_json::json!([3, 4, 5])));
    assert_eq!(object["files"].as_array().unwrap().len(), 6);
    for (name, map) in raw(&program, "more") {
        let values = |map: &Tensor| map.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&map), values(&maps[&name]), "{name}");
    }
    for name in ["overlay-red-ball.mp4", "overlay-meadow.mp4"] {
        let video = vidgen::video::read(&program.path("more").join(name), &vidgen::video::Limits::default()).unwrap();
        assert_eq!((video.width(), video.height(), video.count()), (48, 32, 9), "{name}");
    }
    let again = program.run(&[&["attn-map", "ball.mp4", "--text-cache", "off", "-o", "maps/"][..], &words].concat());
    again.error(2, &["exists", "-y"]);
}

#[test]
fn maps_of_several_windows_lie_on_the_timeline() {
    let program = Program::new();
    std::fs::write(program.path("story.txt"), "a red ball rests in the snow\na red ball rests in the desert\n")
        .unwrap();
    let small =
        ["--steps", "2", "--size", "48x32", "--text-cache", "off", "--transition-windows", "0", "--overlap", "9"];
    program.run(&[&["multi-prompt", "story.txt", "--seed", "7", "-o", "story.mp4"][..], &small].concat()).success();
    let look = |flags: &[&str], folder: &str| {
        let out = format!("{folder}/");
        program
            .run(&[&["attn-map", "story.mp4", "--text-cache", "off", "--layers", "5", "-o", &out], flags].concat())
            .success();
        raw(&program, folder)
    };
    let maps = look(&["--words", "ball", "--words", "snow", "--words", "desert", "--map-steps", "0-1"], "words");
    assert_eq!(maps.len(), 2);
    let map = &maps["words/step-0/layer-5"];
    assert_eq!(map.dims(), [3, 17, 2, 3]);
    let sum = |word: usize, frames: std::ops::Range<usize>| {
        let part = map.get(word).unwrap().narrow(0, frames.start, frames.len()).unwrap();
        part.sum_all().unwrap().to_scalar::<f32>().unwrap()
    };
    // only the first window has the snow, only the second the desert; both have the ball
    assert!(sum(1, 0..13) > 0.0 && sum(2, 4..17) > 0.0 && sum(0, 0..4) > 0.0 && sum(0, 13..17) > 0.0);
    assert_eq!((sum(1, 13..17), sum(2, 0..4)), (0.0, 0.0));
    assert_eq!(look(&["--view", "text"], "text").len(), 2, "a window each");
    let spatial = look(&["--view", "spatial", "--frame", "64"], "spatial");
    assert_eq!(spatial.values().map(Tensor::dims).collect::<Vec<_>>(), [[6, 6]]);
    // an edited version's maps are its own
    program.run(&["edit", "story.mp4", "--swap", "snow=>sea", "--text-cache", "off", "-o", "sea.mp4"]).success();
    let edited = ["attn-map", "sea.mp4", "--text-cache", "off", "--layers", "5", "-o", "sea/"];
    program.run(&[&edited[..], &["--words", "sea"]].concat()).success();
    program
        .run(&[&edited[..], &["--words", "snow", "-y"]].concat())
        .error(2, &["--words", "\"snow\" is not in the prompt"]);
    assert_eq!(raw(&program, "sea").values().next().unwrap().dims(), [1, 17, 2, 3]);
    let noise = read(&program.path("sea").join("maps.safetensors"), "words/step-1/layer-5");
    assert!(noise.min_all().unwrap().to_scalar::<f32>().unwrap() >= 0.0);
}

#[test]
fn mistakes_are_told() {
    let program = Program::new();
    let run = |flags: &[&str]| -> Done { program.run(&[&["attn-map", PROMPT, "-o", "maps/"], flags, &SMALL].concat()) };
    run(&[]).error(2, &["whose maps?", "--words"]);
    run(&["--words", "cat"]).error(2, &["--words", "\"cat\" is not in the prompt", PROMPT]);
    run(&["--words", "ball", "--map-steps", "2"]).error(2, &["--map-steps", "there are 2 steps, 0-1"]);
    run(&["--words", "ball", "--layers", "6"]).error(2, &["--layers", "there are 6 layers, 0-5"]);
    run(&["--words", "ball", "--layers", "none"]).error(2, &["--layers none"]);
    run(&["--words", "ball", "--view", "text"]).error(2, &["--words has no effect"]);
    run(&["--words", "ball", "--frame", "2"]).error(2, &["--frame has no effect"]);
    run(&["--view", "spatial"]).error(2, &["which frame?"]);
    run(&["--view", "spatial", "--frame", "9"]).error(2, &["--frame 9", "0-8"]);
    run(&["--view", "temporal"]).error(2, &["which place?"]);
    run(&["--view", "temporal", "--at", "48,0"]).error(2, &["--at 48,0", "48x32"]);
    run(&["--view", "temporal", "--at", "here"]).error(2, &["is not X,Y"]);
    run(&["--view", "words", "--overlay", "--view", "text"]).error(2, &["--overlay has no effect"]);
    run(&["--view", "wordz"]).error(2, &["did you mean words?"]);
    run(&["--words", "ball", "--num-videos", "2"]).error(2, &["--num-videos"]);
    assert!(!program.path("maps").exists(), "nothing is made of a mistake");
    std::fs::write(program.path("taken"), "").unwrap();
    program
        .run(&[&["attn-map", PROMPT, "--words", "ball", "-o", "taken"][..], &SMALL].concat())
        .error(2, &["is no directory"]);
    program.run(&["attn-map", "none.mp4", "--words", "ball"]).error(2, &["none.mp4"]);
}
