//! `enhance`: whole runs against a plain PyTorch form of StreamingT2V's third stage on the same random weights and noise (goldens:
//! `tests/reference/streaming.py`), and what a user can ask of it.

use crate::cli::parity::read;
use crate::cli::program::Program;
use crate::cli::resume::disturbed;
use crate::common::{assert_close, golden, golden_dir, thin, tiny};
use candle_core::{DType, Tensor};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

const KIND: &str = "tiny-stream";

fn program() -> Program {
    let program = Program::new();
    write_plain(&program.path("model"));
    program
}

/// The plain network of the tiny streaming model as a folder of its own.
pub fn write_plain(model: &Path) {
    let golden = golden_dir().join(KIND);
    let parts = [
        ("base_unet", "unet", "diffusion_pytorch_model"),
        ("vae", "vae", "diffusion_pytorch_model"),
        ("text_encoder", "text_encoder", "model"),
    ];
    for (from, to, file) in parts {
        fs::create_dir_all(model.join(to)).unwrap();
        fs::copy(golden.join(from).join("config.json"), model.join(to).join("config.json")).unwrap();
        let path = model.join(to).join(format!("{file}.safetensors"));
        candle_core::safetensors::save(&tiny::tensors(KIND, from, KIND), path).unwrap();
    }
    for folder in ["scheduler", "tokenizer"] {
        fs::create_dir_all(model.join(folder)).unwrap();
        for entry in fs::read_dir(golden.join(folder)).unwrap().flatten() {
            fs::copy(entry.path(), model.join(folder).join(entry.file_name())).unwrap();
        }
    }
    for name in ["vocab.json", "merges.txt"] {
        fs::copy(golden_dir().join("clip").join(name), model.join("tokenizer").join(name)).unwrap();
    }
    let index = json!({
        "_class_name": "TextToVideoSDPipeline", "unet": ["diffusers", "UNet3DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    });
    fs::write(model.join("model_index.json"), index.to_string()).unwrap();
}

/// Writes `[F, 3, H, W]` values from -1 to 1 as a folder of pictures.
pub fn write_video(program: &Program, name: &str, values: &Tensor) {
    let (frames, _, height, width) = values.dims4().unwrap();
    fs::create_dir_all(program.path(name)).unwrap();
    for at in 0..frames {
        let frame =
            values.get(at).unwrap().permute((1, 2, 0)).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let bytes =
            frame.iter().map(|value| ((value + 1.0) * 127.5).round_ties_even().clamp(0.0, 255.0) as u8).collect();
        let picture = image::RgbImage::from_raw(width as u32, height as u32, bytes).unwrap();
        picture.save(program.path(format!("{name}/frame-{at:06}.png"))).unwrap();
    }
}

/// Fails unless some frames of a folder are a golden's thinned ones, from 0 to 1.
pub fn assert_frames(name: &str, folder: &Path, frames: Range<usize>, want: &Tensor) {
    let picture = |at: usize| {
        let picture = image::open(folder.join(format!("frame-{at:06}.png"))).unwrap().to_rgb8();
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let values: Vec<f32> = picture.into_raw().into_iter().map(|value| f32::from(value) / 255.0).collect();
        let values = Tensor::from_vec(values, (height, width, 3), &candle_core::Device::Cpu).unwrap();
        values.permute((2, 0, 1)).unwrap()
    };
    let pictures: Vec<Tensor> = frames.map(picture).collect();
    let flat = |x: &Tensor| x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (got, want) = (flat(&thin(&Tensor::stack(&pictures, 0).unwrap())), flat(want));
    let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(got.len() == want.len() && worst <= 1.01 / 255.0, "{name}: {worst}");
}

struct Case {
    name: &'static str,
    given: (usize, usize, usize),
    cells: (usize, usize),
    flags: &'static [&'static str],
}

const CASES: [Case; 3] = [
    Case {
        name: "one",
        given: (4, 24, 20),
        cells: (5, 4),
        flags: &["--size", "32x40", "--chunk", "6", "--chunk-overlap", "2", "--strength", "0.6", "--steps", "5"],
    },
    Case {
        name: "three",
        given: (11, 20, 28),
        cells: (4, 6),
        flags: &["--size", "48x32", "--chunk", "5", "--chunk-overlap", "2", "--strength", "0.5", "--steps", "7"],
    },
    Case {
        name: "whole",
        given: (7, 50, 60),
        cells: (3, 5),
        flags: &[
            "--size",
            "40x24",
            "--chunk",
            "4",
            "--chunk-overlap",
            "3",
            "--strength",
            "1",
            "--steps",
            "3",
            "--guidance-scale",
            "1",
        ],
    },
];

#[test]
fn whole_runs_equal_the_reference() {
    let golden = golden("streaming/enhance");
    for Case { name, given: (frames, height, width), cells: (h, w), flags } in CASES {
        let program = program();
        write_video(
            &program,
            "in",
            &tiny::unit(&format!("streaming/enhance/{name}/video"), &[frames, 3, height, width]),
        );
        let noise = tiny::unit(&format!("streaming/enhance/{name}/noise"), &[frames, 4, h, w]).unsqueeze(0).unwrap();
        let mut tensors = HashMap::from([("noise".to_owned(), noise)]);
        tensors.extend(golden.get(&format!("{name}/draws")).map(|draws| ("draws".to_owned(), draws.clone())));
        candle_core::safetensors::save(&tensors, program.path("noise.safetensors")).unwrap();
        let words = ["enhance", "in", "-p", "a red ball rolls", "--model", "model", "-o", "out/", "--fps", "8"];
        let files = ["--init-noise", "noise.safetensors", "--save-latents", "latents.safetensors"];
        program.run(&[&words[..], flags, &files].concat()).success();
        let latents = read(&program.path("latents.safetensors"), "latents").squeeze(0).unwrap();
        assert_close(name, &thin(&latents), &golden[&format!("{name}/latents")], 1e-4);
        assert_frames(name, &program.path("out"), 0..frames, &golden[&format!("{name}/frames")]);
    }
}

const QUICK: [&str; 12] =
    ["--model", "model", "--size", "32x32", "--steps", "2", "--chunk", "4", "--chunk-overlap", "2", "--fps", "8"];

/// Steps enough for a signal to arrive among them, each kept.
const LONG: [&str; 16] = [
    "--model",
    "model",
    "--size",
    "32x32",
    "--steps",
    "24",
    "--chunk",
    "4",
    "--chunk-overlap",
    "2",
    "--fps",
    "8",
    "--progress",
    "json",
    "--checkpoint-every",
    "1",
];

#[test]
fn no_frame_is_lost_and_a_record_makes_the_video_again() {
    let program = program();
    write_video(&program, "in", &tiny::unit("in", &[9, 3, 32, 32]));
    // without a prompt, in the name that is given where nobody says one
    let words = [&["enhance", "in", "--seed", "5", "--strength", "0.5"][..], &QUICK].concat();
    let done = program.run(&[&words[..], &["-o", "out/", "--json"]].concat()).success();
    let result: Value = serde_json::from_str(&done.stdout()).unwrap();
    let settings = &result["manifest"]["settings"];
    assert_eq!(
        (&result["frames"], &settings["strength"], &settings["blend"]),
        (&9.into(), &0.5.into(), &"paper".into())
    );
    program.run(&["rerun", "out", "--check"]).success();
    // other places where windows follow each other make another video
    let other = [&words[..], &["-o", "other/", "--blend", "repo"]].concat();
    program.run(&other).success();
    let frame = |folder: &str| fs::read(program.path(format!("{folder}/frame-000005.png"))).unwrap();
    assert_ne!(frame("out"), frame("other"));
    if cfg!(feature = "video") {
        let done = program.run(&words).success();
        assert_eq!(done.stdout(), "in-enhanced.mp4\n");
    }
}

#[test]
fn a_run_that_was_interrupted_goes_on_to_the_same_bytes() {
    let program = program();
    write_video(&program, "in", &tiny::unit("in", &[9, 3, 32, 32]));
    let words = |output| [&["enhance", "in", "--seed", "5", "--strength", "1", "-o", output][..], &LONG].concat();
    program.run(&words("whole/")).success();
    let (events, code) = disturbed(&program, &words("again/"), "step", 3, libc::SIGKILL);
    assert!(code.is_none() && events.iter().filter(|event| event["event"] == "step").count() >= 3);
    program.run(&["resume", "last"]).success();
    for at in 0..9 {
        let frame = |folder: &str| fs::read(program.path(format!("{folder}/frame-{at:06}.png"))).unwrap();
        assert_eq!(frame("whole"), frame("again"));
    }
}

#[test]
fn mistakes_are_told_in_one_line() {
    let program = program();
    write_video(&program, "in", &tiny::unit("in", &[9, 3, 32, 32]));
    let refused = |words: &[&str], parts: &[&str]| {
        program
            .run(&[&["enhance", "in", "--model", "model", "--fps", "8", "-o", "out/"], words].concat())
            .error(2, parts);
    };
    refused(&["--chunk", "4", "--chunk-overlap", "4"], &["--chunk-overlap 4"]);
    refused(&["--strength", "0"], &["--strength 0"]);
    refused(&["--strength", "0.1", "--steps", "5"], &["--strength 0.1", "give 0.2"]);
    refused(&["--size", "33x32"], &["32"]);
    refused(&["--motion", "1,1"], &["motion"]);
    program.run(&["enhance", "none.mp4", "--model", "model"]).error(2, &["none.mp4"]);
    program.run(&["enhance", "in", "--fps", "8", "-o", "out/"]).error(2, &["enhance needs a text-to-video model"]);
    let done = program.run(&["enhance", "in", "--model", "model", "--fps", "8", "--dry-run"]).success().stdout();
    assert!(done.contains("windows") || done.contains("window"), "{done}");
}
