//! Videos that follow given pictures: whole runs against diffusers' pipeline with ControlNets on the same random weights, pictures and
//! noise (goldens: `tests/reference/control.py`), and what a user can ask of them.

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

const PROMPT: &str = "a blue ball rolls";

/// A model with a control network, another model without one, and a second network.
fn program() -> Program {
    let program = Program::new();
    tiny::write_picture_model("tiny-sd1", &program.path("model"));
    let second = program.path("second");
    fs::create_dir_all(&second).unwrap();
    fs::copy(golden_dir().join("tiny-sd1/controlnet_1/config.json"), second.join("config.json")).unwrap();
    let weights = tiny::tensors("tiny-sd1", "controlnet_1", "tiny-sd1");
    candle_core::safetensors::save(&weights, second.join("diffusion_pytorch_model.safetensors")).unwrap();
    program
}

fn bytes(name: &str, shape: &[usize]) -> Vec<u8> {
    let values = tiny::unit(name, shape).flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.iter().map(|value| ((f64::from(*value) + 1.0) / 2.0 * 256.0).floor() as u8).collect()
}

/// The pictures of the reference.
fn pictures(name: &str, frames: usize, (height, width): (usize, usize)) -> Vec<Frame> {
    let all = bytes(name, &[frames, height, width, 3]);
    all.chunks_exact(height * width * 3).map(|data| Frame { width, height, data: data.to_vec() }).collect()
}

/// Its coarse ones.
fn blobs(name: &str, frames: usize, (height, width): (usize, usize)) -> Vec<Frame> {
    let coarse = |frame: &Frame| {
        let at = |index: usize| 3 * (index / width / 4 * frame.width + index % width / 4);
        let data = (0..height * width).flat_map(|index| frame.data[at(index)..at(index) + 3].to_vec()).collect();
        Frame { width, height, data }
    };
    pictures(name, frames, (height.div_ceil(4), width.div_ceil(4))).iter().map(coarse).collect()
}

fn write_all(folder: &Path, frames: &[Frame]) {
    fs::remove_dir_all(folder).ok();
    fs::create_dir_all(folder).unwrap();
    for (index, frame) in frames.iter().enumerate() {
        let picture = image::RgbImage::from_raw(frame.width as u32, frame.height as u32, frame.data.clone()).unwrap();
        picture.save(folder.join(format!("{index:03}.png"))).unwrap();
    }
}

struct Case {
    cells: (usize, usize),
    frames: usize,
    steps: &'static str,
    shared: bool,
    words: &'static [&'static str],
}

fn case(name: &str) -> Case {
    let (cells, frames, steps, shared, words): (_, _, _, _, &[&str]) = match name {
        "one" => ((9, 7), 5, "6", true, &["--control", "map:0"]),
        "two" => (
            (6, 8),
            4,
            "5",
            false,
            &[
                "--control",
                "pose:0:0.75",
                "--control",
                "depth:1:0.5",
                "--control-model",
                "depth=second",
                "--noise",
                "independent",
            ],
        ),
        "alone" => ((6, 8), 3, "4", true, &["--control", "depth:0:1.5", "--guidance-scale", "1"]),
        "canny" => ((6, 8), 3, "4", true, &["--control", "canny:0", "--canny", "300,700"]),
        _ => ((6, 8), 6, "4", true, &["--control", "map:0", "--overlap", "0"]),
    };
    Case { cells, frames, steps, shared, words }
}

/// Runs a case of the reference; returns the latents.
fn run(program: &Program, name: &str, more: &[&str]) -> Tensor {
    let Case { cells: (h, w), frames, steps, shared, words } = case(name);
    for index in ["0", "1"] {
        let made = if name == "canny" { blobs } else { pictures };
        write_all(&program.path(index), &made(&format!("control/{index}"), frames, (8 * h, 8 * w)));
    }
    let count = if shared { 1 } else { frames };
    let tensors = HashMap::from([("noise".to_owned(), tiny::unit("control/noise", &[1, count, 4, h, w]))]);
    candle_core::safetensors::save(&tensors, program.path("noise.safetensors")).unwrap();
    let what: &[&str] = match name {
        "scenes" => &["multi-prompt", "-p", "a red ball rolls", "-p", "a green box rests"],
        _ => &["generate", PROMPT],
    };
    let with = ["--model", "model", "--steps", steps, "--init-noise", "noise.safetensors"];
    let files = ["--save-latents", "latents.safetensors", "-o", "frames/", "-y"];
    let done = program.run(&[what, words, &with, &files, more].concat()).success();
    assert!(!done.stderr().contains("resampled"), "{}", done.stderr());
    read(&program.path("latents.safetensors"), "latents")
}

#[test]
fn runs_equal_diffusers() {
    let golden = golden("sd/control");
    for name in ["one", "two", "alone", "canny", "scenes"] {
        let program = program();
        let latents = run(&program, name, &[]);
        assert_close(name, &latents, &golden[&format!("{name}/latents")], 1e-4);
        let made = frames(&program.path("frames")).permute((0, 3, 1, 2)).unwrap().to_dtype(DType::F32).unwrap();
        let wanted = (&golden[&format!("{name}/frames")] * 255.0).unwrap();
        let apart = (thin(&made) - wanted).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(apart <= 1.0, "{name}: {apart} of 255");
    }
}

/// The same pixels as OpenCV's, whatever the size, the colours and the thresholds.
#[test]
fn edges_are_those_of_opencv() {
    let golden = golden("sd/control");
    let values = |name: &str| golden[name].flatten_all().unwrap().to_vec1::<u8>().unwrap();
    let sizes =
        [(48, 64, 100, 200), (23, 31, 300, 700), (17, 9, 0, 0), (1, 40, 50, 90), (40, 1, 50, 90), (33, 50, 500, 800)];
    for (index, (height, width, low, high)) in sizes.into_iter().enumerate() {
        for (kind, made) in [("fine", pictures as fn(&str, usize, (usize, usize)) -> Vec<Frame>), ("coarse", blobs)] {
            let frame = made(&format!("edges/{index}"), 1, (height, width)).remove(0);
            assert!(frame.canny(low, high) == values(&format!("edges/{kind}/{index}")), "{kind} {index}");
        }
    }
    for (index, (low, high)) in [(20, 60), (100, 200)].into_iter().enumerate() {
        let data = values(&format!("smooth/{index}/picture"));
        let found = Frame { width: 83, height: 61, data }.canny(low, high);
        assert!(found == values(&format!("smooth/{index}/edges")), "smooth {index}");
    }
}

#[test]
fn chunks_change_no_frame() {
    let program = program();
    for name in ["one", "two"] {
        let whole = run(&program, name, &[]);
        for chunk in ["1", "3", "8"] {
            assert_close(chunk, &run(&program, name, &["--chunk", chunk]), &whole, 1e-5);
        }
    }
}

/// Every network's frames attend to the first frame that it saw itself, where frames attend to it at all.
#[test]
fn what_acts_on_frames_acts_in_the_control_network() {
    let program = program();
    let whole = run(&program, "one", &[]);
    let plain = run(&program, "one", &["--attn-proc", "none"]);
    let first = |latents: &Tensor| latents.narrow(1, 0, 1).unwrap();
    assert_close("the anchor", &first(&plain), &first(&whole), 1e-5);
    let apart = (&whole - &plain).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(apart > 1e-2, "{apart}");
    // a control that weighs nothing is none, and two add up
    let of = |more: &[&str]| latents(&program, &[more, &["--size", "56x72", "--frames", "3"]].concat());
    let nothing = of(&["--control", "map:0:0"]);
    assert_close("weight", &nothing, &of(&["--control", "map:1:0"]), 1e-6);
    let full = of(&["--control", "map:0"]);
    assert!((&full - &nothing).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() > 1e-2);
    assert_close("sum", &of(&["--control", "map:0:0.25", "--control", "depth:0:0.75"]), &full, 1e-4);
}

const QUICK: [&str; 8] = ["--model", "model", "--steps", "3", "--seed", "5", "--chunk", "2"];

fn generate(program: &Program, more: &[&str]) -> Value {
    let what = ["generate", PROMPT, "--json", "-y", "-o", "a.gif"];
    let done = program.run(&[&what[..], &QUICK, more].concat()).success();
    serde_json::from_str(&done.stdout()).unwrap()
}

fn latents(program: &Program, more: &[&str]) -> Tensor {
    generate(program, &[&["--save-latents", "latents.safetensors"], more].concat());
    read(&program.path("latents.safetensors"), "latents")
}

/// 12 frames of 64x48 at 8 a second.
fn write_y4m(path: &Path) {
    let header = b"YUV4MPEG2 W64 H48 F8:1 Ip C420jpeg\n".to_vec();
    let frames =
        (0..12u8).flat_map(|frame| [&b"FRAME\n"[..], &vec![20 * frame + 10; 64 * 48], &[128; 2 * 32 * 24]].concat());
    fs::write(path, header.into_iter().chain(frames).collect::<Vec<u8>>()).unwrap();
}

/// Which frames are followed, at which rate, and how large the video is.
#[test]
fn controls_decide_length_rate_and_size() {
    let program = program();
    write_y4m(&program.path("given.y4m"));
    write_all(&program.path("one"), &pictures("control/0", 1, (48, 64)));
    write_all(&program.path("few"), &pictures("control/0", 3, (48, 64)));
    write_all(&program.path("large"), &blobs("control/0", 2, (120, 200)));
    let of = |more: &[&str]| {
        let settings = generate(&program, more)["manifest"]["settings"].clone();
        let size = (settings["width"].as_u64().unwrap(), settings["height"].as_u64().unwrap());
        (settings["frames"].as_u64().unwrap(), settings["fps"].as_str().unwrap().to_owned(), size)
    };
    let own = (64, 48);
    assert_eq!(of(&["--control", "canny:given.y4m"]), (12, "8".into(), own));
    assert_eq!(of(&["--control", "map:given.y4m", "--start", "0.5", "--end", "1s"]), (4, "8".into(), own));
    assert_eq!(of(&["--control", "map:given.y4m", "--fps", "4", "--frames", "3"]), (3, "4".into(), own));
    assert_eq!(of(&["--control", "depth:few"]), (3, "4".into(), own));
    // a picture says nothing of time
    assert_eq!(of(&["--control", "depth:one/000.png"]), (8, "4".into(), own));
    assert_eq!(of(&["--control", "depth:one/000.png", "--frames", "2", "--size", "48x64"]), (2, "4".into(), (48, 64)));
    assert_eq!(of(&["--control", "map:one/000.png", "--control", "map:few"]), (3, "4".into(), own));
    let said = program.run(&[&["generate", PROMPT, "--control", "canny:large", "-o", "b.gif"][..], &QUICK].concat());
    let said = said.success().stderr();
    assert!(said.contains("large is 200x120: its frames are resampled to 128x64"), "{said}");
    // it stands for as many as there are
    write_all(&program.path("same"), &vec![pictures("control/0", 1, (48, 64)).remove(0); 3]);
    let same = latents(&program, &["--control", "map:same"]);
    assert_close("one picture", &latents(&program, &["--control", "map:one", "--frames", "3"]), &same, 1e-6);
    // the first frames of a longer one
    let few = latents(&program, &["--control", "map:few", "--frames", "2"]);
    let all = latents(&program, &["--control", "map:few"]);
    assert_close("the first", &few, &all.narrow(1, 0, 2).unwrap(), 1e-5);
    let independent = latents(&program, &["--control", "map:few", "--noise", "independent"]);
    assert!((independent - all).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() > 1e-2);
}

/// Scenes with a fade between them show at each moment what was given for it.
#[test]
fn scenes_follow_their_own_stretch() {
    let program = program();
    write_all(&program.path("given"), &pictures("control/0", 6, (48, 64)));
    let scenes = ["multi-prompt", "-p", PROMPT, "-p", PROMPT, "--control", "map:given", "--json", "-y", "-o", "a.gif"];
    let of = |transition: &str| {
        let more = ["--transition", transition, "--save-latents", "latents.safetensors"];
        let done = program.run(&[&scenes[..], &QUICK, &more].concat()).success();
        let done: Value = serde_json::from_str(&done.stdout()).unwrap();
        assert_eq!(done["frames"].as_u64(), Some(6), "{transition}");
        read(&program.path("latents.safetensors"), "latents")
    };
    // the first frame of a scene attends to itself: as a video of what was given from there on
    let anchor = |first: usize| {
        let rest = pictures("control/0", 6, (48, 64));
        write_all(&program.path(format!("from{first}")), &rest[first..]);
        let control = format!("map:from{first}");
        latents(&program, &["--control", &control]).narrow(1, 0, 1).unwrap()
    };
    assert_close("cut", &of("cut").narrow(1, 3, 1).unwrap(), &anchor(3), 1e-5);
    // a fade of two begins one frame before the second scene, and the first goes on to its end
    let faded = of("fade:2");
    assert_eq!(faded.dim(1).unwrap(), 8);
    assert_close("fade", &faded.narrow(1, 4, 1).unwrap(), &anchor(2), 1e-5);
}

#[test]
fn a_record_makes_the_video_again() {
    let program = program();
    write_all(&program.path("given"), &blobs("control/0", 3, (48, 64)));
    let controls = ["--control", "canny:given:0.5", "--control", "pose:given", "--control-model", "pose=second"];
    generate(&program, &controls);
    program.run(&["rerun", "a.gif", "--check"]).success();
    let told = program.run(&["inspect", "a.gif", "--json"]).success().stdout();
    let told: Value = serde_json::from_str(&told).unwrap();
    let (settings, hashes) = (&told["settings"], &told["model"]["hashes"]);
    assert_eq!((settings["guidance_scale"].as_str(), settings["noise"].as_str()), (Some("9"), Some("shared")));
    let control = |index: usize| {
        let control = &settings["control"][index];
        ["kind", "file", "model", "canny"].map(|key| control[key].as_str().map(str::to_owned))
    };
    let own = |text: &str| Some(text.to_owned());
    assert_eq!(control(0), [own("canny"), own("given"), own("model/controlnet"), own("100,200")]);
    assert_eq!(control(1), [own("pose"), own("given"), own("second"), None]);
    assert_eq!(settings["control"][0]["weight"].as_f64(), Some(0.5));
    assert!(hashes["controlnet"].is_string() && hashes["controlnet"] != hashes["controlnet_1"], "{hashes}");
    // another network is another video
    fs::copy(program.path("model/controlnet/diffusion_pytorch_model.safetensors"), program.path("kept.safetensors"))
        .unwrap();
    let mut weights = candle_core::safetensors::load(
        program.path("second/diffusion_pytorch_model.safetensors"),
        &candle_core::Device::Cpu,
    )
    .unwrap();
    let name = "controlnet_mid_block.bias";
    let changed = (&weights[name] + 1.0).unwrap();
    weights.insert(name.to_owned(), changed);
    candle_core::safetensors::save(&weights, program.path("second/diffusion_pytorch_model.safetensors")).unwrap();
    program.run(&["rerun", "a.gif", "--check"]).error(3, &["controlnet_1"]);
}

#[test]
fn plans_count_the_control_networks() {
    let program = program();
    write_all(&program.path("given"), &blobs("control/0", 3, (48, 64)));
    let plan = |more: &[&str]| -> Value {
        let what = ["generate", PROMPT, "--dry-run", "--json", "--frames", "3", "--size", "64x48"];
        serde_json::from_str(&program.run(&[&what[..], &QUICK, more].concat()).success().stdout()).unwrap()
    };
    let plain = plan(&["--motion", "none"]);
    let one = plan(&["--control", "map:given"]);
    let two = plan(&[
        "--control",
        "map:given",
        "--control",
        "pose:given",
        "--control-model",
        "pose=second",
        "--control-model",
        "map=second",
    ]);
    let of = |plan: &Value, table: &str| plan[table]["denoise"].as_f64().unwrap();
    for table in ["flops", "memory"] {
        assert!(of(&plain, table) < of(&one, table) && of(&one, table) < of(&two, table), "{table}");
    }
    // two are twice as much beside the denoiser as one
    let (first, second) = (of(&one, "flops") - of(&plain, "flops"), of(&two, "flops") - of(&plain, "flops"));
    assert!((1.7..2.3).contains(&(second / first)), "{first} {second}");
    assert_eq!(one["recipe"].as_str(), Some("stable-diffusion"));
}

#[test]
fn a_run_that_was_interrupted_goes_on_to_the_same_bytes() {
    let program = program();
    write_all(&program.path("given"), &blobs("control/0", 3, (48, 64)));
    let words = |output: &'static str| {
        let what = ["generate", PROMPT, "--control", "canny:given", "--model", "model", "--seed", "5", "--steps", "12"];
        [&what[..], &["--checkpoint-every", "1", "--progress", "json", "-o", output]].concat()
    };
    program.run(&words("whole.gif")).success();
    let (events, code) = disturbed(&program, &words("a.gif"), "step", 4, libc::SIGINT);
    assert_eq!(code, Some(130), "{events:?}");
    let said = program.run(&["resume", "last", "--progress", "json"]).success().stderr();
    assert!(said.contains("from step "), "{said}");
    assert!(fs::read(program.path("a.gif")).unwrap() == fs::read(program.path("whole.gif")).unwrap());
    // other pictures are another run
    let (_, code) = disturbed(&program, &words("b.gif"), "step", 4, libc::SIGINT);
    assert_eq!(code, Some(130));
    fs::copy(program.path("given/000.png"), program.path("given/002.png")).unwrap();
    program.run(&["resume", "last"]).error(1, &["the pictures of --control are others"]);
}

/// A pose is a skeleton on black; what is none is told, and followed all the same.
#[test]
fn ordinary_pictures_are_no_poses() {
    let program = program();
    image::RgbImage::from_pixel(64, 48, image::Rgb([90, 120, 60])).save(program.path("photo.png")).unwrap();
    let line = |x: u32, y: u32| image::Rgb(if x.abs_diff(y) < 3 { [255, 80, 0] } else { [0; 3] });
    image::RgbImage::from_fn(64, 48, line).save(program.path("skeleton.png")).unwrap();
    for (file, told) in [("photo.png", true), ("skeleton.png", false)] {
        let control = format!("pose:{file}");
        let what = ["generate", PROMPT, "--model", "model", "--control", &control, "--frames", "1", "--steps", "1"];
        let said = program.run(&[&what[..], &["-o", "a.gif", "-y"]].concat()).success().stderr();
        assert_eq!(said.contains("no skeletons on black"), told, "{file}: {said}");
    }
}

#[test]
fn what_cannot_be_is_said_in_one_line() {
    let program = program();
    tiny::write_picture_model("tiny-sd2", &program.path("bare"));
    write_all(&program.path("given"), &pictures("control/0", 3, (48, 64)));
    write_all(&program.path("longer"), &pictures("control/0", 5, (48, 64)));
    let refused = |more: &[&str], words: &[&str]| {
        let one = ["generate", PROMPT, "--model", "model", "-o", "a.gif"];
        program.run(&[&one[..], more].concat()).error(2, words);
    };
    let map = ["--control", "map:given"];
    let with = |more: &[&'static str]| [&map[..], more].concat();
    refused(&["--control", "given"], &["KIND:FILE"]);
    refused(&["--control", "edges:given"], &["edges", "canny, pose, depth, map"]);
    refused(&["--control", "map:none"], &["--control", "none"]);
    refused(
        &["--control", "map:given", "--control", "pose:longer"],
        &["longer: 5 frames", "given has 3", "--frames 3"],
    );
    refused(&with(&["--frames", "4"]), &["4 frames are wanted, and 3"]);
    refused(&with(&["--motion", "1,1"]), &["--motion", "--control"]);
    refused(&with(&["--canny", "1,2"]), &["--canny", "canny:FILE"]);
    refused(&with(&["--canny", "200,100"]), &["200,100", "LOW,HIGH"]);
    refused(&with(&["--control-model", "pose=second"]), &["--control-model pose=second", "no --control pose:FILE"]);
    refused(&with(&["--control", "pose:given", "--control-model", "second"]), &["map=second"]);
    refused(&with(&["--control-model", "second", "--control-model", "map=second"]), &["leave out one"]);
    refused(&with(&["--image-guidance-scale", "2"]), &["--image-guidance-scale", "--instruct"]);
    refused(&with(&["--size", "60x48"]), &["60", "multiple of 8"]);
    refused(&with(&["--start", "1"]), &["given", "--fps"]);
    refused(&["--control", "map:given/000.png", "--start", "1"], &["--start", "one picture"]);
    refused(&["--control-model", "second"], &["--control-model", "--control KIND:FILE"]);
    refused(&["--canny", "1,2"], &["--canny", "--control KIND:FILE"]);
    let bare = ["generate", PROMPT, "--model", "bare", "-o", "a.gif", "--control", "map:given"];
    program.run(&bare).error(2, &["no control model of its own", "--control-model map=DIR"]);
    // a network of another model: the key and both values
    let other = [&bare[..], &["--control-model", "second"]].concat();
    program.run(&other).error(2, &["second/config.json", "block_out_channels is [16, 24, 32]", "[16, 32, 48]"]);
    program
        .run(&[&bare[..], &["--control-model", "model"]].concat())
        .error(3, &["--control-model", "model/config.json"]);
    let video = ["generate", "a ball", "--control", "canny:given", "-o", "a.gif"];
    program.run(&video).error(2, &["--control", "--model toyland-image"]);
    let edit = ["edit", "given", "--instruct", "make it snow", "--control", "map:given", "-o", "a.gif"];
    program.run(&edit).error(2, &["--control is for videos of texts"]);
    let noise = HashMap::from([("noise".to_owned(), tiny::unit("control/noise", &[1, 2, 4, 6, 8]))]);
    candle_core::safetensors::save(&noise, program.path("noise.safetensors")).unwrap();
    refused(&with(&["--init-noise", "noise.safetensors"]), &["noise has shape [1, 2, 4, 6, 8]", "[1, 3, 4, 6, 8]"]);
}
