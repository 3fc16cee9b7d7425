//! A subject in a place: whole runs of DreamVideo-2 folders against a plain PyTorch form of the method on the same random weights and noise
//! (goldens: `tests/reference/dreamvideo2.py`), and what a user can ask of them.

use crate::cli::enhance::{assert_frames, write_video};
use crate::cli::parity::read;
use crate::cli::program::{Done, Program};
use crate::common::{assert_close, golden, thin, tiny};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;

const KIND: &str = "tiny-dv2";
const PROMPT: &str = "a red ball rolls";

fn program() -> Program {
    let program = Program::new();
    tiny::write_picture_model(KIND, &program.path("model"));
    program
}

/// The reference's path, as Peekaboo writes boxes.
fn write_boxes(program: &Program, frames: usize) {
    let at = |i: usize| {
        let u = i as f64 / (frames.max(2) - 1) as f64;
        json!([0.05 + 0.5 * u, 0.1 + 0.3 * u, 0.35 + 0.5 * u, 0.55 + 0.35 * u])
    };
    let mut boxes: Vec<Value> = (0..frames).map(at).collect();
    if frames > 3 {
        boxes[frames - 2] = Value::Null;
    }
    fs::write(program.path("boxes.json"), json!({ "bboxes": boxes }).to_string()).unwrap();
}

fn json(done: Done) -> Value {
    serde_json::from_str(&done.success().stdout()).unwrap()
}

struct Case {
    name: &'static str,
    frames: usize,
    cells: (usize, usize),
    steps: &'static str,
    flags: &'static [&'static str],
}

const SUBJECT: [&str; 2] = ["--subject-image", "picture/frame-000000.png"];
const BOXES: [&str; 2] = ["--boxes", "boxes.json"];
const CASES: [Case; 5] = [
    Case { name: "both", frames: 5, cells: (6, 10), steps: "3", flags: &[SUBJECT[0], SUBJECT[1], BOXES[0], BOXES[1]] },
    Case { name: "subject", frames: 4, cells: (5, 7), steps: "2", flags: &SUBJECT },
    Case { name: "boxes", frames: 6, cells: (8, 8), steps: "3", flags: &[BOXES[0], BOXES[1], "--guidance-scale", "5"] },
    Case {
        name: "alone",
        frames: 3,
        cells: (6, 6),
        steps: "2",
        flags: &[SUBJECT[0], SUBJECT[1], BOXES[0], BOXES[1], "--guidance-scale", "1", "--lambda-m", "0.25"],
    },
    Case { name: "nothing", frames: 3, cells: (6, 6), steps: "2", flags: &[] },
];

#[test]
fn whole_runs_equal_the_reference() {
    let golden = golden("dreamvideo2/run");
    for Case { name, frames, cells: (h, w), steps, flags } in CASES {
        let program = program();
        let noise = tiny::unit(&format!("dv2/{name}/noise"), &[1, frames, 4, h, w]);
        candle_core::safetensors::save(&HashMap::from([("noise", noise)]), program.path("noise.safetensors")).unwrap();
        write_boxes(&program, frames);
        write_video(&program, "picture", &tiny::unit(&format!("dv2/{name}/picture"), &[1, 3, 8 * h, 8 * w]));
        let (size, count) = (format!("{}x{}", 8 * w, 8 * h), frames.to_string());
        let files = ["--init-noise", "noise.safetensors", "--save-latents", "latents.safetensors", "-o", "out/"];
        let how = ["generate", PROMPT, "--model", "model", "--size", &size, "--frames", &count, "--steps", steps];
        program.run(&[&how[..], flags, &files].concat()).success();
        let latents = read(&program.path("latents.safetensors"), "latents").squeeze(0).unwrap();
        assert_close(name, &thin(&latents), &golden[&format!("{name}/latents")], 1e-4);
        assert_frames(name, &program.path("out"), 0..frames, &golden[&format!("{name}/frames")]);
    }
}

const QUICK: [&str; 10] = ["--model", "model", "--size", "48x48", "--frames", "4", "--steps", "2", "--seed", "5"];

fn generate(program: &Program, more: &[&str]) -> Done {
    program.run(&[&["generate", PROMPT][..], &QUICK, more].concat())
}

#[test]
fn nothing_given_is_the_plain_model_and_what_is_given_is_seen() {
    let program = program();
    write_boxes(&program, 4);
    write_video(&program, "picture", &tiny::unit("dv2/other/picture", &[1, 3, 48, 48]));
    // the same folder as one of ModelScope's
    fs::create_dir(program.path("plain")).unwrap();
    for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
        std::os::unix::fs::symlink(program.path("model").join(part), program.path("plain").join(part)).unwrap();
    }
    let index = fs::read_to_string(program.path("model/model_index.json")).unwrap();
    let mut index: Value = serde_json::from_str(&index).unwrap();
    index["_class_name"] = json!("TextToVideoSDPipeline");
    fs::write(program.path("plain/model_index.json"), index.to_string()).unwrap();
    let frame = |folder: &str| fs::read(program.path(format!("{folder}/frame-000002.png"))).unwrap();
    generate(&program, &["-o", "a/"]).success();
    generate(&program, &["--model", "plain", "-o", "b/"]).success();
    assert_eq!(frame("a"), frame("b"));
    generate(&program, &["--boxes", "boxes.json", "-o", "c/"]).success();
    generate(&program, &["--subject-image", SUBJECT[1], "-o", "d/"]).success();
    // a weight of 1 outside is no mask at all
    generate(&program, &["--subject-image", SUBJECT[1], "--boxes", "boxes.json", "--lambda-m", "0", "-o", "e/"])
        .success();
    generate(&program, &["--subject-image", SUBJECT[1], "--boxes", "boxes.json", "--lambda-m", "1", "-o", "f/"])
        .success();
    let all = ["a", "c", "d", "e", "f"].map(frame);
    assert!((0..5).all(|i| (0..i).all(|j| all[i] != all[j])));
}

#[test]
fn a_record_makes_the_video_again_and_a_plan_says_what_it_takes() {
    let program = program();
    write_boxes(&program, 4);
    write_video(&program, "picture", &tiny::unit("dv2/other/picture", &[1, 3, 48, 48]));
    let given = ["--subject-image", SUBJECT[1], "--boxes", "boxes.json"];
    generate(&program, &[&given[..], &["-o", "a/"]].concat()).success();
    let record = json(program.run(&["inspect", "a/", "--json"]));
    let settings = &record["settings"];
    assert_eq!(
        (settings["boxes"].as_array().map(Vec::len), &settings["lambda_m"]),
        (Some(4), &json!(0.75)),
        "{record}"
    );
    assert!(
        settings["subject_image"]["blake3"].is_string() && record["model"]["hashes"]["reference_attention"].is_string()
    );
    program.run(&["rerun", "a/", "--check"]).success();
    let plan = json(program.run(&[&["plan", PROMPT][..], &QUICK, &given, &["--json"]].concat()));
    let plain = json(program.run(&[&["plan", PROMPT][..], &QUICK, &["--json"]].concat()));
    let memory = |plan: &Value| plan["memory"]["denoise"].as_u64().or(plan["memory"]["peak"].as_u64());
    assert!(memory(&plan) > memory(&plain), "{plan}");
}

#[test]
fn what_cannot_be_is_one_line() {
    let program = program();
    write_boxes(&program, 4);
    write_video(&program, "picture", &tiny::unit("dv2/other/picture", &[1, 3, 48, 48]));
    fs::write(program.path("outside.json"), r#"{"bboxes": [[1.1, 0, 1.4, 0.5]]}"#).unwrap();
    let clear = image::RgbaImage::from_pixel(20, 20, image::Rgba([9, 9, 9, 0]));
    clear.save(program.path("clear.png")).unwrap();
    image::GrayImage::new(9, 9).save(program.path("mask.png")).unwrap();
    let refused = |flags: &[&str], code: i32, words: &[&str]| {
        generate(&program, &[flags, &["-o", "x.gif"]].concat()).error(code, words);
    };
    refused(&["--boxes", "outside.json"], 2, &["outside.json", "no frame has a box"]);
    refused(&["--boxes", "none.json"], 2, &["none.json"]);
    refused(&["--boxes", "boxes.json", "--frames", "21"], 2, &["--frames 21", "at most 20"]);
    refused(&["--subject-image", "clear.png"], 2, &["clear.png", "no subject"]);
    refused(&["--subject-image", "none.png"], 2, &["none.png"]);
    refused(&["--subject-image", SUBJECT[1], "--subject-mask", "mask.png"], 2, &["mask.png", "9x9", "48x48"]);
    refused(&["--subject-mask", "mask.png"], 2, &["--subject-mask", "--subject-image"]);
    refused(&["--lambda-m", "0.5"], 2, &["--lambda-m", "no effect"]);
    refused(&["--subject-image", SUBJECT[1], "--boxes", "boxes.json", "--lambda-m", "1.5"], 2, &["--lambda-m 1.5"]);
    refused(&["--boxes", "boxes.json", "--first-box", "0,0,1,1"], 2, &["--boxes", "--first-box"]);
    refused(&["--first-box", "0,0,1"], 2, &["--first-box", "3 numbers"]);
    program
        .run(&["multi-prompt", "-p", "a ball", "-p", "a box", "--model", "model", "-o", "x.gif"])
        .error(2, &["one clip of one prompt"]);
    program
        .run(&["extend", PROMPT, "--frames", "30", "--model", "model", "-o", "x.gif"])
        .error(2, &["one clip of one prompt"]);
    fs::remove_dir_all(program.path("model/reference_attention")).unwrap();
    refused(&["--subject-image", SUBJECT[1]], 2, &["reference_attention/"]);
    fs::remove_dir_all(program.path("model/motion_encoder")).unwrap();
    refused(&["--boxes", "boxes.json"], 2, &["motion_encoder/"]);
    fs::remove_dir_all(program.path("model/unet")).unwrap();
    refused(&[], 3, &["unet"]);
}

#[test]
fn boxes_are_told_drawn_and_written() {
    let program = program();
    write_boxes(&program, 4);
    let told = json(program.run(&["boxes", "boxes.json", "--frames", "5", "--json"]));
    assert_eq!((told["frames"].as_u64(), told["boxes"].as_array().map(Vec::len)), (Some(5), Some(5)), "{told}");
    assert!(told["boxes"][2].is_null() && told["boxes"][4] == told["boxes"][3]);
    program.run(&["boxes", "boxes.json", "--frames", "4", "--size", "32x16", "-o", "masks/"]).success();
    let mask = image::open(program.path("masks/00000.png")).unwrap().to_luma8();
    let inside = mask.enumerate_pixels().filter(|(.., pixel)| pixel[0] == 255).map(|(x, y, _)| (x, y));
    let inside: Vec<_> = inside.collect();
    assert_eq!((inside[0], inside[inside.len() - 1]), ((1, 1), (11, 8)));
    let again = json(program.run(&["boxes", "masks/", "--frames", "4", "--json"]));
    assert!((again["boxes"][0][0].as_f64().unwrap() - 1.0 / 32.0).abs() < 1e-12, "{again}");
    program.run(&["boxes", "preset:l", "-o", "overlay.gif"]).success();
    program.run(&["boxes", "preset:v", "--over", "overlay.gif", "-o", "twice.gif"]).success();
    for (words, told) in [
        (&["boxes"][..], "which boxes?"),
        (&["boxes", "preset:l", "--over", "overlay.gif"][..], "-o overlay.mp4"),
        (&["boxes", "preset:l", "--frames", "0"][..], "--frames"),
        (&["boxes", "preset:l", "-o", "overlay.gif"][..], "overlay.gif"),
        (&["boxes", "--first-box", "0,0,1,1", "--last-box", "0,0,1,1", "--trajectory", "0,0"][..], "leave out one"),
    ] {
        program.run(words).error(2, &[told]);
    }
}
