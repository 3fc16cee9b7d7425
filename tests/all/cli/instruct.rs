//! Given videos changed as they are told: whole runs against diffusers' pipeline on the same random weights, frames and noise
//! (goldens: `tests/reference/instruct.py`), and what a user can ask of them.

use crate::cli::parity::{frames, read};
use crate::cli::program::Program;
use crate::cli::resume::disturbed;
use crate::common::{assert_close, golden, golden_dir, thin, tiny};
use candle_core::{DType, Tensor};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use vidgen::video::Frame;

const TOLD: &str = "a blue ball rolls";

/// A model with a folder inside that shares its parts.
fn program() -> Program {
    let program = Program::new();
    let model = program.path("model");
    tiny::write_picture_model("tiny-sd1", &model);
    let golden = golden_dir().join("tiny-sd1/instruct");
    for file in ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"] {
        let target = model.join("instruct").join(file);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(golden.join(file), target).unwrap();
    }
    let weights = tiny::tensors("tiny-sd1", "instruct/unet", "tiny-sd1");
    let path = model.join("instruct/unet/diffusion_pytorch_model.safetensors");
    candle_core::safetensors::save(&weights, path).unwrap();
    program
}

/// Writes the frames of `tests/reference/instruct.py` as pictures.
fn write_video(folder: &Path, frames: usize, (height, width): (usize, usize)) {
    let values = tiny::unit("instruct/video", &[frames, height, width, 3]).flatten_all().unwrap();
    let byte = |value: &f32| ((f64::from(*value) + 1.0) / 2.0 * 256.0).floor() as u8;
    let bytes: Vec<u8> = values.to_vec1::<f32>().unwrap().iter().map(byte).collect();
    fs::create_dir_all(folder).unwrap();
    for (index, frame) in bytes.chunks_exact(height * width * 3).enumerate() {
        let picture = image::RgbImage::from_raw(width as u32, height as u32, frame.to_vec()).unwrap();
        picture.save(folder.join(format!("{index:03}.png"))).unwrap();
    }
}

struct Case {
    cells: (usize, usize),
    frames: usize,
    steps: usize,
    flags: &'static [&'static str],
}

fn case(name: &str) -> Case {
    let (cells, frames, steps, flags): (_, _, _, &[&str]) = match name {
        "plain" => ((9, 7), 5, 6, &[]),
        "shared" => (
            (6, 8),
            4,
            5,
            &[
                "--guidance-scale",
                "3",
                "--image-guidance-scale",
                "1",
                "--negative-prompt",
                "a red box",
                "--noise",
                "shared",
            ],
        ),
        "alone" => ((6, 8), 3, 4, &["--guidance-scale", "1", "--image-guidance-scale", "7"]),
        _ => ((6, 8), 1, 1, &[]),
    };
    Case { cells, frames, steps, flags }
}

/// Runs a case of the reference; returns the latents.
fn run(program: &Program, name: &str, more: &[&str]) -> Tensor {
    let Case { cells: (h, w), frames, steps, flags } = case(name);
    write_video(&program.path("given"), frames, (8 * h, 8 * w));
    let count = if name == "shared" { 1 } else { frames };
    let step_noise = tiny::unit("instruct/step_noise", &[steps, 1, count, 4, h, w]);
    let tensors = HashMap::from([
        ("noise".to_owned(), tiny::unit("instruct/noise", &[1, count, 4, h, w])),
        ("step_noise".to_owned(), step_noise),
    ]);
    candle_core::safetensors::save(&tensors, program.path("noise.safetensors")).unwrap();
    let steps = steps.to_string();
    let what = ["edit", "given", "--instruct", TOLD, "--model", "model/instruct", "--steps", &steps];
    let files = ["--init-noise", "noise.safetensors", "--save-latents", "latents.safetensors", "-o", "frames/", "-y"];
    program.run(&[&what[..], flags, &files, more].concat()).success();
    read(&program.path("latents.safetensors"), "latents")
}

#[test]
fn runs_equal_diffusers() {
    let golden = golden("sd/instruct");
    for name in ["plain", "shared", "alone", "one"] {
        let program = program();
        let latents = run(&program, name, &[]);
        assert_close(name, &latents, &golden[&format!("{name}/latents")], 1e-4);
        let made = frames(&program.path("frames")).permute((0, 3, 1, 2)).unwrap().to_dtype(DType::F32).unwrap();
        let wanted = (&golden[&format!("{name}/frames")] * 255.0).unwrap();
        let apart = (thin(&made) - wanted).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(apart <= 1.0, "{name}: {apart} of 255");
    }
}

#[test]
fn chunks_change_no_frame_and_a_folder_may_be_named_from_outside() {
    let program = program();
    let whole = run(&program, "plain", &[]);
    for more in [["--chunk", "1"], ["--chunk", "3"], ["--model", "model"], ["--noise", "independent"]] {
        assert_close(more[1], &run(&program, "plain", &more), &whole, 1e-5);
    }
}

const QUICK: [&str; 8] = ["--model", "model", "--steps", "3", "--seed", "5", "--chunk", "2"];

fn edit(program: &Program, video: &str, more: &[&str]) -> Value {
    let what = ["edit", video, "--instruct", TOLD, "--json", "-y"];
    let done = program.run(&[&what[..], &QUICK, more].concat()).success();
    serde_json::from_str(&done.stdout()).unwrap()
}

/// Which frames of the given video are changed, at which rate, and how large.
#[test]
fn a_given_video_is_cut_sampled_and_resized() {
    let program = program();
    // 12 frames of 64x48 at 8 a second
    write_video(&program.path("pictures"), 12, (48, 64));
    let header = b"YUV4MPEG2 W64 H48 F8:1 Ip C420jpeg\n".to_vec();
    let frames =
        (0..12u8).flat_map(|frame| [&b"FRAME\n"[..], &vec![20 * frame + 10; 64 * 48], &[128; 2 * 32 * 24]].concat());
    fs::write(program.path("given.y4m"), header.into_iter().chain(frames).collect::<Vec<u8>>()).unwrap();
    let of = |video: &str, more: &[&str]| {
        let done = edit(&program, video, &[more, &["-o", "a.gif"]].concat());
        let settings = &done["manifest"]["settings"];
        let size = (settings["width"].as_u64().unwrap(), settings["height"].as_u64().unwrap());
        let taken: Vec<u64> = serde_json::from_value(settings["given"]["frames"].clone()).unwrap();
        assert_eq!(done["frames"].as_u64(), Some(taken.len() as u64));
        (taken, settings["fps"].as_str().unwrap().to_owned(), size)
    };
    let own = (64, 48);
    assert_eq!(of("given.y4m", &[]), ((0..12).collect(), "8".into(), own));
    assert_eq!(of("given.y4m", &["--start", "0.5", "--end", "1s"]), (vec![4, 5, 6, 7], "8".into(), own));
    assert_eq!(of("given.y4m", &["--fps", "4", "--frames", "3"]), (vec![0, 2, 4], "4".into(), own));
    assert_eq!(of("given.y4m", &["--frames", "2", "--size", "48x64"]), (vec![0, 1], "8".into(), (48, 64)));
    assert_eq!(of("pictures", &["--frames", "2"]), (vec![0, 1], "4".into(), own));
    // longer than the 96 pixels of the model
    write_video(&program.path("large"), 2, (120, 200));
    let what = ["edit", "--video", "large", "--instruct", TOLD, "-o", "b.gif"];
    let said = program.run(&[&what[..], &QUICK].concat()).success().stderr();
    assert!(said.contains("large is 200x120: its frames are resampled to 128x64"), "{said}");
    // what is shown is what was given: another stretch makes another video, the same one the same
    let latents = |more: &[&str]| {
        let files = ["-o", "a.gif", "--save-latents", "latents.safetensors"];
        edit(&program, "given.y4m", &[&files[..], more].concat());
        read(&program.path("latents.safetensors"), "latents").flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let (early, late) = (latents(&["--end", "0.25"]), latents(&["--start", "1.25"]));
    assert!(early != late && early == latents(&["--frames", "2"]));
    assert!(latents(&["--frames", "2", "--noise", "shared"]) != early);
}

#[test]
fn a_record_makes_the_video_again() {
    let program = program();
    write_video(&program.path("given"), 3, (48, 64));
    edit(&program, "given", &["-o", "a.gif", "--negative-prompt", "a box"]);
    program.run(&["rerun", "a.gif", "--check"]).success();
    program.run(&["edit", "a.gif", "--swap", "blue=>red"]).error(2, &["--instruct again"]);
    let told = program.run(&["inspect", "a.gif", "--json"]).success().stdout();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((told["command"].as_str(), told["prompts"][0].as_str()), (Some("edit"), Some(TOLD)));
    let settings = &told["settings"];
    assert_eq!(
        (settings["image_guidance_scale"].as_f64(), settings["noise"].as_str()),
        (Some(1.5), Some("independent"))
    );
    let plan = ["edit", "given", "--instruct", TOLD, "--dry-run", "--json"];
    let plan: Value = serde_json::from_str(&program.run(&[&plan[..], &QUICK].concat()).success().stdout()).unwrap();
    assert_eq!((plan["frames"].as_u64(), plan["recipe"].as_str()), (Some(3), Some("stable-diffusion-instruct")));
}

#[test]
fn an_edit_that_was_interrupted_goes_on_to_the_same_bytes() {
    let program = program();
    write_video(&program.path("given"), 3, (48, 64));
    let words = |steps: &'static str, output: &'static str| {
        let what = ["edit", "given", "--instruct", TOLD, "--model", "model", "--seed", "5", "--checkpoint-every", "1"];
        [&what[..], &["--progress", "json", "--steps", steps, "-o", output]].concat()
    };
    program.run(&words("12", "whole.gif")).success();
    let (events, code) = disturbed(&program, &words("12", "a.gif"), "step", 4, libc::SIGINT);
    assert_eq!(code, Some(130), "{events:?}");
    let said = program.run(&["resume", "last", "--progress", "json"]).success().stderr();
    assert!(said.contains("from step "), "{said}");
    assert!(fs::read(program.path("a.gif")).unwrap() == fs::read(program.path("whole.gif")).unwrap());
    // another video is another run
    let (_, code) = disturbed(&program, &words("12", "b.gif"), "step", 4, libc::SIGINT);
    assert_eq!(code, Some(130));
    fs::copy(program.path("given/000.png"), program.path("given/002.png")).unwrap();
    program.run(&["resume", "last"]).error(1, &["the given video is another"]);
}

#[test]
fn what_cannot_be_is_said_in_one_line() {
    let program = program();
    write_video(&program.path("given"), 3, (48, 64));
    let refused = |more: &[&str], words: &[&str]| {
        let one = ["edit", "given", "--instruct", TOLD, "--model", "model", "-o", "a.gif"];
        program.run(&[&one[..], more].concat()).error(2, words);
    };
    refused(&["--image-guidance-scale", "0.5"], &["--image-guidance-scale 0.5", "1 or more"]);
    refused(&["--frames", "4"], &["4 frames are wanted, and 3"]);
    refused(&["--start", "1"], &["given", "--fps"]);
    refused(&["--fps", "3", "--start", "2"], &["no frame"]);
    refused(&["--size", "60x48"], &["60", "multiple of 8"]);
    refused(&["--motion", "1,1"], &["--motion", "--instruct"]);
    refused(&["--hold", "1"], &["--hold", "image model"]);
    refused(&["--noise", "loud"], &["shared", "independent"]);
    refused(&["--guidance-scale", "1", "--negative-prompt", "a box"], &["--negative-prompt has no effect"]);
    let told = ["--instruct", TOLD, "-o", "a.gif"];
    program.run(&[&["edit", "none.mp4", "--model", "model"][..], &told].concat()).error(2, &["none.mp4"]);
    program.run(&[&["edit", "given"][..], &told].concat()).error(2, &["follows no instruction", "toyland-image"]);
    let one = ["edit", "given", "--instruct", TOLD, "--swap", "a=>b"];
    program.run(&one).error(2, &["--instruct", "--swap"]);
    let generate = ["generate", "a ball", "--model", "model/instruct", "-o", "a.gif"];
    program.run(&generate).error(2, &["vidgen edit VIDEO --instruct", "model/instruct"]);
    let plain = ["generate", "a ball", "--model", "model", "--size", "64x48", "-o", "a.gif"];
    for (more, words) in [
        (["--image-guidance-scale", "2"], ["--image-guidance-scale", "--instruct"]),
        (["--start", "1"], ["--start", "--instruct"]),
        (["--noise", "shared"], ["--noise shared", "--instruct"]),
    ] {
        program.run(&[&plain[..], &more].concat()).error(2, &words);
    }
    // both say how many frames share their noise
    run(&program, "shared", &[]);
    refused(&["--init-noise", "noise.safetensors", "--noise", "independent", "--frames", "3"], &["noise has shape"]);
}

/// A folder has from the one around it what it names, and nothing else.
#[test]
fn parts_of_the_folder_around_are_named() {
    let program = program();
    write_video(&program.path("given"), 1, (48, 64));
    let index = program.path("model/instruct/model_index.json");
    let written: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    let refused = |code: i32, parts: Value, words: &[&str]| {
        let mut changed = written.clone();
        changed["_from_parent"] = parts;
        fs::write(&index, changed.to_string()).unwrap();
        let one =
            ["edit", "given", "--instruct", TOLD, "--model", "model/instruct", "--steps", "1", "-o", "a.gif", "-y"];
        program.run(&[&one[..]].concat()).error(code, words);
    };
    refused(3, serde_json::json!(["../.."]), &["_from_parent", "\"../..\"", "none of its parts"]);
    refused(3, serde_json::json!("vae"), &["_from_parent", "a list"]);
    refused(3, Value::Null, &["vae/config.json", "no such file"]);
    fs::remove_dir_all(program.path("model/vae")).unwrap();
    refused(3, written["_from_parent"].clone(), &["model/vae/config.json", "no such file"]);
    let mut unet: Value =
        serde_json::from_slice(&fs::read(program.path("model/instruct/unet/config.json")).unwrap()).unwrap();
    unet["in_channels"] = 9.into();
    fs::write(program.path("model/instruct/unet/config.json"), unet.to_string()).unwrap();
    tiny::write_picture_model("tiny-sd1", &program.path("model"));
    refused(2, written["_from_parent"].clone(), &["inpainting", "StableDiffusionInstructPix2PixPipeline"]);
}

/// Frames of another size are what torch's bilinear interpolation with antialias makes of them, to a level of 255.
#[test]
fn frames_are_resized_as_torch_does() {
    let values = tiny::unit("instruct/resized", &[23, 31, 3]).flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let data = values.iter().map(|value| ((f64::from(*value) + 1.0) / 2.0 * 256.0).floor() as u8).collect();
    let frame = Frame { width: 31, height: 23, data };
    let golden = golden("sd/instruct");
    for (width, height) in [(24, 16), (8, 8), (50, 40), (16, 23)] {
        let wanted = golden[&format!("resized/{width}x{height}")].flatten_all().unwrap().to_vec1::<u8>().unwrap();
        let made = frame.clone().bilinear(width, height).data;
        assert_eq!(made.len(), wanted.len());
        let apart = made.iter().zip(&wanted).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(apart <= 1, "{width}x{height}: {apart}");
    }
    assert_eq!(frame.clone().bilinear(31, 23), frame);
}
