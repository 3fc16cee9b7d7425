//! Steps that are not computed: against plain forms around diffusers' modules (goldens: `tests/reference/cache.py`), what is told of
//! them, and that such runs are repeated and resumed.

use crate::cli::parity::read;
use crate::cli::program::Program;
use crate::cli::resume::disturbed;
use crate::common::{assert_close, golden, tiny};
use candle_core::Tensor;
use serde_json::Value;
use std::collections::HashMap;
use std::fs;

const PROMPT: &str = "a red ball rolls to the right";
const TEA: [(&str, &str); 2] = [
    ("2b", "tea:threshold=2.5,coefficients=0/0/0/1/0"),
    ("5b", "tea:threshold=2.3,coefficients=0.05/-0.25/0.5/0.75/0.01"),
];

fn program(kind: &str) -> Program {
    let program = Program::new();
    tiny::write_folder(kind, kind, &program.path("model"));
    program
}

fn computed(plan: &Value) -> Vec<usize> {
    plan["cache"]["computed"].as_array().unwrap().iter().map(|step| step.as_u64().unwrap() as usize).collect()
}

fn json(program: &Program, words: &[&str]) -> Value {
    serde_json::from_str(&program.run(&[words, &["--json"]].concat()).success().stdout()).unwrap()
}

#[test]
fn skipped_blocks_equal_the_plain_form() {
    let golden = golden("pipeline/cache");
    for (name, cache) in TEA {
        let program = program(&format!("tiny-{name}"));
        let want = &golden[&format!("tea/{name}")];
        let noise = tiny::unit("pipeline/noise", want.dims());
        candle_core::safetensors::save(&HashMap::from([("noise", noise)]), program.path("noise.safetensors")).unwrap();
        let how =
            ["--model", "model", "--scheduler", "ddim", "--steps", "10", "--guidance-scale", "6", "--uncond", "zeros"];
        let what = ["--size", "48x32", "--frames", "9", "--text-cache", "off", "--cache", cache];
        let files = ["--init-noise", "noise.safetensors", "--save-latents", "latents.safetensors", "-y", "-o", "out/"];
        program.run(&[&["generate", PROMPT][..], &how, &what, &files].concat()).success();
        assert_close(name, &read(&program.path("latents.safetensors"), "latents"), want, 1e-4);
        let steps = golden[&format!("computed/{name}")].to_vec1::<u8>().unwrap();
        let steps: Vec<usize> = (0..steps.len()).filter(|&step| steps[step] == 1).collect();
        let plan = json(&program, &[&["plan", PROMPT][..], &how, &what].concat());
        assert_eq!(computed(&plan), steps, "{name}");
        assert_eq!(plan["layer_windows"].as_u64(), Some(3 * steps.len() as u64));
        // two rows of twelve tokens of text and 18 of video, in f32
        let dim = if name == "2b" { 48 } else { 80 };
        assert_eq!(plan["cache"]["kept"].as_u64(), Some(2 * (12 + 18) * dim * 4));
    }
}

#[test]
fn the_last_layer_alone_equals_the_plain_form() {
    let program = Program::new();
    tiny::write_picture_model("tiny-sd1", &program.path("model"));
    let want = &golden("pipeline/cache")["deep/sd1"];
    let noise = tiny::unit("zero-shot/noise", want.dims());
    candle_core::safetensors::save(&HashMap::from([("noise", noise)]), program.path("noise.safetensors")).unwrap();
    let how = ["--model", "model", "--size", "64x48", "--frames", "3", "--steps", "6", "--motion", "none"];
    let files = ["--init-noise", "noise.safetensors", "--save-latents", "latents.safetensors", "-y", "-o", "out/"];
    let run = |cache: &[&str]| {
        program.run(&[&["generate", "a red ball rolls"][..], &how, &files, cache].concat()).success();
        read(&program.path("latents.safetensors"), "latents")
    };
    assert_close("deep:2", &run(&["--cache", "deep:2"]), want, 1e-4);
    assert_close("in chunks", &run(&["--cache", "deep:2", "--chunk", "1"]), want, 1e-4);
    let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(values(&run(&["--cache", "deep:1"])), values(&run(&[])));
    let plan = |cache: &str| json(&program, &[&["plan", "a red ball rolls"][..], &how, &["--cache", cache]].concat());
    assert_eq!(computed(&plan("deep:4")), [0, 4]);
    let work = |cache: &str| plan(cache)["flops"]["denoise"].as_f64().unwrap();
    assert!(work("deep:3") < 0.8 * work("off") && work("deep:3") > work("off") / 3.0);
}

const STORY: [&str; 5] = ["multi-prompt", "-p", "a red ball", "-p", "a blue ball"];
const SMALL: [&str; 10] =
    ["--model", "model", "--size", "32x32", "--steps", "10", "--seed", "3", "--text-cache", "off"];

#[test]
fn without_a_threshold_nothing_changes_and_shared_steps_are_computed() {
    let program = program("tiny-2b");
    let run = |more: &[&str]| {
        let out = ["--save-latents", "latents.safetensors", "-y", "-o", "a.gif"];
        program.run(&[&STORY[..], &SMALL, &out, more].concat()).success();
        read(&program.path("latents.safetensors"), "latents").flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let plain = run(&["--cache", "off"]);
    assert_eq!(plain, run(&[]));
    assert_eq!(plain, run(&["--cache", "tea:threshold=0,coefficients=0/0/0/1/0"]));
    let tea = ["--cache", TEA[0].1];
    assert_ne!(plain, run(&tea));
    program.run(&["rerun", "a.gif", "--check"]).success();
    let record = json(&program, &["inspect", "a.gif"]);
    assert_eq!(record["settings"]["cache"]["computed_steps"], serde_json::json!([0, 3, 5, 8, 9]));
    // keys and values are shared in steps 1 and 2
    let shared = [
        &["plan", "-p", "a red ball", "-p", "a blue ball", "--attn-proc", "kv-share:layers=2,steps=1-2"][..],
        &SMALL,
        &tea,
    ];
    assert_eq!(computed(&json(&program, &shared.concat())), [0, 1, 2, 3, 5, 8, 9]);
    let text = program.run(&[&["plan", "a red ball"][..], &SMALL, &tea].concat()).success().stdout();
    assert!(text.contains("5 of 10 steps are computed (0 3 5 8 9)") && text.contains("are kept"), "{text}");
}

#[test]
fn a_run_that_skips_steps_is_resumed_to_the_same_bytes() {
    let program = program("tiny-2b");
    let words = |output: &'static str| {
        let more = ["--cache", TEA[0].1, "--checkpoint-every", "1", "--progress", "json", "-o", output];
        [&STORY[..], &SMALL, &["--frames", "25"], &more].concat()
    };
    program.run(&words("whole.gif")).success();
    // step 4 is not computed
    let (events, code) = disturbed(&program, &words("a.gif"), "step", 4, libc::SIGINT);
    assert_eq!(code, Some(130), "{events:?}");
    let message = events.last().unwrap()["message"].as_str().unwrap().to_owned();
    program.run(&["resume", message.rsplit(' ').next().unwrap()]).success();
    assert!(fs::read(program.path("a.gif")).unwrap() == fs::read(program.path("whole.gif")).unwrap());
}

#[test]
fn ratios_are_measured_once_and_found_again() {
    let program = program("tiny-2b");
    let mag = ["plan", PROMPT, "--model", "model", "--size", "32x32", "--frames", "5", "--cache", "mag:0.5"];
    program.run(&mag).error(2, &["--cache mag", "vidgen calibrate --cache model"]);
    let calibrate = ["calibrate", "--cache", "model", "--size", "32x32", "--frames", "5", "--steps", "8"];
    let measured = json(&program, &calibrate);
    let ratios = measured["ratios"].as_array().unwrap();
    assert_eq!((ratios.len(), ratios[0].as_f64()), (8, Some(1.0)));
    assert!(ratios.iter().all(|ratio| ratio.as_f64().unwrap() > 0.0));
    assert_eq!((measured["tea"].as_array().unwrap().len(), measured["points"].as_array().unwrap().len()), (5, 7));
    assert!(std::path::Path::new(measured["file"].as_str().unwrap()).is_file());
    let plan = json(&program, &[&mag[..], &["--steps", "20"]].concat());
    let steps = computed(&plan);
    assert!(steps.len() < 20 && steps[..4] == [0, 1, 2, 3], "{steps:?}");
    let line = program.run(&calibrate).success().stdout();
    assert!(line.starts_with("tea   coefficients=") && line.contains("mag   8 ratios in "), "{line}");
    program.run(&["calibrate"]).error(2, &["--cache"]);
}

#[test]
fn what_cannot_be_skipped_is_refused() {
    let program = program("tiny-2b");
    let refused = |model: &str, cache: &str, words: &[&str]| {
        program.run(&["generate", "a ball", "--model", model, "--cache", cache, "-o", "a.gif"]).error(2, words);
    };
    refused("model", "tae", &["did you mean tea?"]);
    refused("model", "tea:x", &["threshold=x is not a number"]);
    refused("model", "deep:3", &["--cache deep is for networks with a way down and up", "--cache tea"]);
    refused("toyland-image", "tea", &["networks of blocks in a row", "--cache deep:3"]);
    refused("model", "deep:0", &["interval=0"]);
    let recipe = "[cache]\ntea = [1, 2, 3]\n";
    fs::write(program.path("r.toml"), recipe).unwrap();
    program.run(&["generate", "a ball", "--recipe", "r.toml"]).error(2, &["r.toml", "cache"]);
    program.run(&["calibrate", "--cache", "toyland-image"]).error(2, &["blocks in a row"]);
}
