//! Text-to-video folders (ModelScope, ZeroScope): whole runs against diffusers' pipeline on the same random weights and noise
//! (goldens: `tests/reference/unet3d.py`), and what a user can ask of them.

use crate::cli::parity::read;
use crate::cli::program::Program;
use crate::common::{assert_close, golden, thin, tiny};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use vidgen::noise::{Noise, Stream};

fn program(kind: &str) -> Program {
    let program = Program::new();
    tiny::write_picture_model(kind, &program.path("model"));
    program
}

/// A run of the reference.
struct Case {
    name: &'static str,
    kind: &'static str,
    frames: usize,
    size: &'static str,
    /// Height and width of the latents.
    cells: (usize, usize),
    steps: usize,
    flags: &'static [&'static str],
}

const CASES: [Case; 8] = [
    Case { name: "ddim", kind: "tiny-ms", frames: 5, size: "56x72", cells: (9, 7), steps: 6, flags: &[] },
    Case {
        name: "dpm",
        kind: "tiny-ms",
        frames: 4,
        size: "48x64",
        cells: (8, 6),
        steps: 7,
        flags: &["--scheduler", "dpmpp-2m"],
    },
    Case {
        name: "alone",
        kind: "tiny-ms",
        frames: 3,
        size: "48x64",
        cells: (8, 6),
        steps: 7,
        flags: &["--guidance-scale", "1"],
    },
    Case { name: "eta", kind: "tiny-ms", frames: 4, size: "48x64", cells: (8, 6), steps: 5, flags: &["--eta", "0.7"] },
    Case {
        name: "one",
        kind: "tiny-zs",
        frames: 1,
        size: "40x24",
        cells: (6, 10),
        steps: 4,
        flags: &["--scheduler", "dpmpp-2m", "--guidance-scale", "1"],
    },
    Case { name: "wide", kind: "tiny-zs", frames: 7, size: "40x24", cells: (6, 10), steps: 5, flags: &[] },
    Case {
        name: "freenoise",
        kind: "tiny-zs",
        frames: 11,
        size: "40x24",
        cells: (6, 10),
        steps: 4,
        flags: &["--window", "6", "--stride", "2"],
    },
    Case {
        name: "scenes",
        kind: "tiny-zs",
        frames: 13,
        size: "40x24",
        cells: (6, 10),
        steps: 4,
        flags: &["--method", "freenoise", "--window", "6", "--stride", "2", "--overlap", "2"],
    },
];

const STORY: [&str; 3] = ["a red ball rolls", "a blue ball rolls", "a green box rests"];

/// Writes the noise of a run of the reference, that of its steps too where it has some.
fn write_noise(program: &Program, name: &str, frames: usize, (h, w): (usize, usize), steps: usize) {
    let noise = tiny::unit(&format!("unet3d/{name}/noise"), &[1, frames, 4, h, w]);
    let step = |step| tiny::unit(&format!("unet3d/{name}/step_noise/{step}"), &[1, frames, 4, h, w]);
    let step_noise = Tensor::stack(&(0..steps).map(step).collect::<Vec<_>>(), 0).unwrap();
    let tensors = HashMap::from([("noise".to_owned(), noise), ("step_noise".to_owned(), step_noise)]);
    candle_core::safetensors::save(&tensors, program.path("noise.safetensors")).unwrap();
}

/// The frames of a folder of PNGs, `[F, 3, H, W]` in 0 to 1.
fn pictures(program: &Program, frames: usize) -> Tensor {
    let frame = |index: usize| {
        let picture = image::open(program.path(format!("frames/frame-{index:06}.png"))).unwrap().to_rgb8();
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let values: Vec<f32> = picture.into_raw().into_iter().map(|value| f32::from(value) / 255.0).collect();
        Tensor::from_vec(values, (height, width, 3), &Device::Cpu).unwrap().permute((2, 0, 1)).unwrap()
    };
    Tensor::stack(&(0..frames).map(frame).collect::<Vec<_>>(), 0).unwrap()
}

#[test]
fn clips_equal_diffusers() {
    let golden = golden("unet3d/run");
    for Case { name, kind, frames, size, cells, steps, flags } in CASES {
        let program = program(kind);
        write_noise(&program, name, frames, cells, steps);
        let (count, steps) = (frames.to_string(), steps.to_string());
        let how = ["--model", "model", "--size", size, "--frames", &count, "--steps", &steps];
        let files =
            ["--init-noise", "noise.safetensors", "--save-latents", "latents.safetensors", "-o", "frames/", "-y"];
        let what: &[&str] = if name == "scenes" {
            &["multi-prompt", "-p", STORY[0], "-p", STORY[1], "-p", STORY[2]]
        } else {
            &["generate", STORY[0]]
        };
        program.run(&[what, &how, flags, &files].concat()).success();
        let latents = read(&program.path("latents.safetensors"), "latents");
        assert_close(name, &latents, &golden[&format!("{name}/latents")], 1e-4);
        let (got, want) = (thin(&pictures(&program, frames)), &golden[&format!("{name}/frames")]);
        let worst = (got - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(worst <= 1.01 / 255.0, "{name}: frames are up to {worst} apart");
    }
}

#[test]
fn a_folder_says_what_a_clip_is() {
    let program = program("tiny-zs");
    let done = program.run(&["generate", "a ball", "--model", "model", "--steps", "1", "--json", "-o", "a.gif"]);
    let done: serde_json::Value = serde_json::from_str(&done.success().stdout()).unwrap();
    assert_eq!(done["frames"].as_u64(), Some(16));
    let settings = &done["manifest"]["settings"];
    let of = |name: &str| settings[name].to_string();
    assert_eq!((of("width"), of("height"), of("fps")), ("40".into(), "24".into(), "\"8\"".into()), "{settings}");
    assert_eq!((of("guidance_scale"), of("scheduler")), ("\"9\"".into(), "\"ddim\"".into()), "{settings}");
}

/// Runs a command on a tiny folder; what `--json` says of the run.
fn done(program: &Program, what: &[&str], more: &[&str]) -> serde_json::Value {
    let how = ["--model", "model", "--size", "40x24", "--steps", "2", "--seed", "5", "--json", "-y"];
    let done = program.run(&[what, &how, more].concat()).success().stdout();
    serde_json::from_str(&done).unwrap()
}

/// The method of a run, its windows and its frames.
fn method(done: &serde_json::Value) -> (Option<&str>, usize, u64) {
    let settings = &done["manifest"]["settings"];
    let windows = settings["windows"].as_array().unwrap().iter().map(|part| part.as_array().unwrap().len()).sum();
    (settings["method"].as_str(), windows, done["frames"].as_u64().unwrap())
}

#[test]
fn more_frames_than_a_clip_are_made_at_once_or_in_windows() {
    let program = program("tiny-zs");
    let out = ["-o", "a.gif"];
    let of = |what: &[&str], more: &[&str]| {
        let done = done(&program, what, &[more, &out[..]].concat());
        let (name, windows, frames) = method(&done);
        (name.map(str::to_owned), windows, frames)
    };
    let (clip, together) = (None::<String>, Some("freenoise".to_owned()));
    let generate = ["generate", "a ball"];
    assert_eq!(of(&generate, &[]), (clip.clone(), 1, 16));
    assert_eq!(of(&generate, &["--frames", "16"]), (clip.clone(), 1, 16));
    assert_eq!(of(&generate, &["--frames", "17"]), (together.clone(), 1, 17));
    assert_eq!(of(&generate, &["--frames", "9", "--method", "freenoise"]), (together.clone(), 1, 9));
    assert_eq!(of(&generate, &["--frames", "24", "--recipe", "zeroscope"]), (clip.clone(), 1, 24));
    assert_eq!(of(&generate, &["--frames", "30", "--method", "windows", "--overlap", "4"]), (clip.clone(), 3, 30));
    assert_eq!(of(&["extend", "a ball"], &["--frames", "20"]), (together.clone(), 1, 20));
    let two = ["multi-prompt", "-p", "a red ball", "-p", "a blue ball"];
    assert_eq!(of(&two, &[]), (together.clone(), 1, 32));
    assert_eq!(of(&two, &["--transition", "cut", "--frames", "9"]), (together, 2, 9));
    assert_eq!(of(&two, &["--method", "windows", "--overlap", "8", "--transition-windows", "1"]).0, clip);
}

/// The noise of the first window is used again for what follows; the record makes the same video.
#[test]
fn a_long_video_uses_its_noise_again() {
    let program = program("tiny-zs");
    let long = ["--frames", "22", "--window", "8", "--stride", "4"];
    let latents = ["--save-latents", "latents.safetensors"];
    done(&program, &["generate", "a ball"], &[&long[..], &latents, &["-o", "long.mp4"]].concat());
    let of_seed = read(&program.path("latents.safetensors"), "latents");
    program.run(&["rerun", "long.mp4", "--check"]).success();

    let noise = Noise::new(5);
    let own = noise.latents(Stream::Initial, 0..8, 0, (4, 6, 10), &Device::Cpu).unwrap();
    let sources: Vec<u32> = noise.used_again(0..22, 8, 4).into_iter().map(|source| source as u32).collect();
    let all = own.index_select(&Tensor::new(sources, &Device::Cpu).unwrap(), 0).unwrap().unsqueeze(0).unwrap();
    let file = HashMap::from([("noise".to_owned(), all)]);
    candle_core::safetensors::save(&file, program.path("noise.safetensors")).unwrap();
    let given = ["--init-noise", "noise.safetensors", "-o", "b.mp4"];
    done(&program, &["generate", "a ball"], &[&long[..], &latents, &given].concat());
    let of_file = read(&program.path("latents.safetensors"), "latents");
    assert_close("latents", &of_file, &of_seed, 1e-7);
}

/// What a run takes: windows of attention in time make more work of it, and the texts of one pass are told.
#[test]
fn plans_know_what_is_made_at_once() {
    let program = program("tiny-ms");
    let plan = |more: &[&str]| {
        let how = ["plan", "--model", "model", "--frames", "40", "--json"];
        let plan = program.run(&[&how[..], more].concat()).success().stdout();
        serde_json::from_str::<serde_json::Value>(&plan).unwrap()
    };
    let flops = |plan: &serde_json::Value| plan["flops"]["denoise"].as_f64().unwrap();
    let (four, sixteen) = (plan(&["-p", "a ball"]), plan(&["-p", "a ball", "--stride", "16"]));
    assert!(flops(&four) > 1.1 * flops(&sixteen), "{} {}", flops(&four), flops(&sixteen));
    let story = plan(&["-p", "a ball", "-p", "a box"]);
    assert_eq!(story["windows"][0]["text"], "prompts 1, 2 by frames");
    program.run(&["generate", "a ball", "--model", "model", "--frames", "2", "--steps", "2", "-o", "a.mp4"]).success();
    let refused = ["attn-map", "a.mp4", "--view", "temporal", "--at", "1,1", "-o", "maps/"];
    program.run(&refused).error(2, &["--view temporal", "--view words"]);
    program.run(&["attn-map", "a.mp4", "--words", "ball", "-o", "maps/"]).success();
}

#[test]
fn a_video_is_continued_in_windows() {
    let program = program("tiny-zs");
    done(&program, &["generate", "a ball"], &["--frames", "6", "-o", "a.mp4"]);
    for more in [&[][..], &["--method", "windows"]] {
        let how = ["extend", "a.mp4", "a blue ball", "--frames", "20", "--json", "-y", "-o", "b.mp4"];
        let done = program.run(&[&how[..], more].concat()).success().stdout();
        let done: serde_json::Value = serde_json::from_str(&done).unwrap();
        let (name, windows, frames) = method(&done);
        assert_eq!((name, frames), (None, 26));
        assert!(windows > 1);
    }
    let refused = ["extend", "a.mp4", "a blue ball", "--frames", "9", "-o", "c.mp4", "--method", "freenoise"];
    program.run(&refused).error(2, &["freenoise", "cannot go on from a video", "windows"]);
}

#[test]
fn what_cannot_be_is_said_in_one_line() {
    let program = program("tiny-zs");
    let refused = |more: &[&str], words: &[&str]| {
        let one = ["generate", "a red ball", "--model", "model", "-o", "a.gif"];
        program.run(&[&one[..], more].concat()).error(2, words);
    };
    refused(&["--method", "ditctrl"], &["--method ditctrl", "freenoise"]);
    refused(&["--method", "other"], &["--method", "freenoise"]);
    refused(&["--window", "8"], &["--window has no effect", "--method freenoise"]);
    refused(&["--stride", "8", "--method", "windows"], &["--stride has no effect", "--method windows"]);
    refused(&["--frames", "20", "--window", "8", "--stride", "9"], &["--stride 9", "1 to 8"]);
    refused(&["--frames", "20", "--window", "0"], &["--window 0"]);
    refused(&["--frames", "20", "--method", "freenoise", "--blend", "paper"], &["--blend"]);
    refused(&["--size", "42x24"], &["42", "multiple of 4", "40 or 44"]);
    refused(&["--eta", "0.5", "--scheduler", "dpmpp-2m"], &["--eta 0.5", "ddim"]);
    refused(&["--motion", "1,1"], &["--motion is for image models"]);
    let story = ["multi-prompt", "-p", "a ball", "-p", "a box", "--model", "model", "-o", "a.gif"];
    program.run(&[&story[..], &["--attn-proc", "reweight:words=ball:2"]].concat()).error(2, &["reweight", "windows"]);
    program.run(&[&story[..], &["--transition", "continue"]].concat()).error(2, &["continue"]);
    program.run(&["generate", "a ball", "--method", "freenoise", "-o", "a.gif"]).error(2, &["--method freenoise"]);
    let bare = tiny::unit("noise", &[1, 3, 4, 6, 10]);
    let file = HashMap::from([("noise".to_owned(), bare)]);
    candle_core::safetensors::save(&file, program.path("noise.safetensors")).unwrap();
    let given = ["--init-noise", "noise.safetensors", "--frames"];
    refused(&[&given[..], &["4"]].concat(), &["noise has shape [1, 3, 4, 6, 10]", "[1, 4, 4, 6, 10]"]);
    refused(&[&given[..], &["3", "--eta", "1"]].concat(), &["no step_noise"]);
}
