//! Whole runs against diffusers' pipeline on the same random weights and noise (goldens: `tests/reference/pipeline.py`).

use crate::cli::program::Program;
use crate::common::{assert_close, golden, tiny};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const PROMPT: &str = "a red ball rolls to the right";
const STEPS: usize = 4;

/// The noise of `tests/reference/pipeline.py` for `frames` latent frames.
pub fn write_noise(path: &Path, shape: &[usize; 5]) {
    let steps: Vec<Tensor> = (0..STEPS).map(|step| tiny::unit(&format!("pipeline/step_noise/{step}"), shape)).collect();
    let tensors = HashMap::from([
        ("noise".to_owned(), tiny::unit("pipeline/noise", shape)),
        ("step_noise".to_owned(), Tensor::stack(&steps, 0).unwrap()),
    ]);
    candle_core::safetensors::save(&tensors, path).unwrap();
}

pub fn read(path: &Path, name: &str) -> Tensor {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap().remove(name).unwrap()
}

/// The frames of a directory of PNGs, `[T, H, W, 3]`.
pub fn frames(folder: &Path) -> Tensor {
    let mut names: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|name| name.extension().is_some_and(|suffix| suffix == "png"));
    names.sort();
    let frame = |path: &PathBuf| {
        let image = image::open(path).unwrap().to_rgb8();
        let (width, height) = (image.width() as usize, image.height() as usize);
        Tensor::from_vec(image.into_raw(), (height, width, 3), &Device::Cpu).unwrap()
    };
    Tensor::stack(&names.iter().map(frame).collect::<Vec<_>>(), 0).unwrap()
}

fn bytes(frames: &Tensor) -> Vec<u8> {
    frames.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn single_clips_equal_diffusers() {
    for (kind, size, noise) in [
        ("tiny-2b", "48x32", [1, 3, 4, 4, 6]),
        ("tiny-5b", "32x48", [1, 3, 4, 6, 4]),
        ("tiny-1.5", "48x32", [1, 4, 4, 4, 6]),
    ] {
        for scheduler in ["ddim", "dpm"] {
            let program = Program::new();
            tiny::write_folder(kind, kind, &program.path("model"));
            write_noise(&program.path("noise.safetensors"), &noise);
            let how = ["--model", "model", "--parity", "diffusers", "--scheduler", scheduler, "--steps", "4"];
            let what = ["--guidance-scale", "6", "--size", size, "--frames", "9", "--init-noise", "noise.safetensors"];
            let out = ["--save-latents", "latents.safetensors", "-o", "frames/"];
            program.run(&[&["generate", PROMPT][..], &how, &what, &out].concat()).success();
            let want = golden(&format!("pipeline/{kind}-{scheduler}"));
            let latents = read(&program.path("latents.safetensors"), "latents");
            assert_close(&format!("{kind} {scheduler} latents"), &latents, &want["latents"], 1e-4);
            let (got, want) = (frames(&program.path("frames")), &want["frames"]);
            assert_eq!(got.dims(), want.dims());
            let worst = bytes(&got).iter().zip(bytes(want)).map(|(a, b)| a.abs_diff(b)).max().unwrap();
            println!("{kind} {scheduler} frames: worst difference {worst}/255");
            assert!(worst <= 1, "{kind} {scheduler}: a frame differs by {worst}/255");
        }
    }
}

#[test]
fn windows_equal_the_reference_schedule() {
    let golden = golden("pipeline/multi-prompt");
    let story = ["a red ball rolls", "a blue ball rolls", "a green box rests"];
    for (name, overlap, transitions, blend) in [
        ("tiny-2b/ddim/2", "1", "0", "repo"),
        ("tiny-2b/ddim/3", "2", "1", "repo"),
        ("tiny-2b/ddim/3/paper", "2", "1", "paper"),
        ("tiny-5b/dpm/3", "1", "2", "repo"),
    ] {
        let parts: Vec<&str> = name.split('/').collect();
        let (kind, scheduler, prompts) = (parts[0], parts[1], parts[2].parse::<usize>().unwrap());
        let program = Program::new();
        tiny::write_folder(kind, kind, &program.path("model"));
        std::fs::write(program.path("story.txt"), story[..prompts].join("\n")).unwrap();
        let want = &golden[name];
        let shape: [usize; 5] = want.dims().try_into().unwrap();
        write_noise(&program.path("noise.safetensors"), &shape);
        let how = ["--model", "model", "--scheduler", scheduler, "--steps", "4", "--guidance-scale", "6"];
        let windows = ["--overlap", overlap, "--transition-windows", transitions, "--blend", blend];
        let noise = ["--transition", "blend", "--size", "48x32", "--init-noise", "noise.safetensors"];
        let out = ["--save-latents", "latents.safetensors", "-o", "frames/"];
        program.run(&[&["multi-prompt", "story.txt"][..], &how, &windows, &noise, &out].concat()).success();
        let latents = read(&program.path("latents.safetensors"), "latents");
        assert_close(name, &latents, want, 1e-4);
        assert_eq!(frames(&program.path("frames")).dim(0).unwrap(), 4 * (shape[1] - 1) + 1, "no frame is lost");
    }
}

#[test]
fn one_window_of_multi_prompt_is_generate() {
    let program = Program::new();
    tiny::write_folder("tiny-2b", "tiny-2b", &program.path("model"));
    std::fs::write(program.path("one.txt"), PROMPT).unwrap();
    let rest = ["--model", "model", "--steps", "3", "--seed", "5", "--size", "48x32"];
    let save = |name| ["--save-latents", name];
    program.run(&[&["generate", PROMPT, "-o", "a/"][..], &rest, &save("a.safetensors")].concat()).success();
    program.run(&[&["multi-prompt", "one.txt", "-o", "b/"][..], &rest, &save("b.safetensors")].concat()).success();
    let latents = |name: &str| std::fs::read(program.path(name)).unwrap();
    assert_eq!(latents("a.safetensors"), latents("b.safetensors"));
    let pixels = |folder| bytes(&frames(&program.path(folder)));
    assert_eq!(pixels("a"), pixels("b"));
}
