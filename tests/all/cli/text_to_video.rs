//! Text-to-video folders (ModelScope, ZeroScope): whole runs against diffusers' pipeline on the same random weights and noise
//! (goldens: `tests/reference/unet3d.py`), and what a user can ask of them.

use crate::cli::parity::read;
use crate::cli::program::Program;
use crate::common::{assert_close, golden, thin, tiny};
use candle_core::{Device, Tensor};
use std::collections::HashMap;

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

const CASES: [Case; 6] = [
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
];

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
        program.run(&[&["generate", "a red ball rolls"][..], &how, flags, &files].concat()).success();
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
