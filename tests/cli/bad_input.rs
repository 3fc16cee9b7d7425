//! Wrong input: one clear line, the right exit code, no file left behind.

use crate::common::tiny;
use crate::program::Program;
use std::fs;
use std::path::Path;

/// A program with `model`, a tiny model, in its directory.
fn with_model() -> Program {
    let program = Program::new();
    tiny::write_folder("tiny-2b", "tiny-2b", &program.path("model"));
    program
}

/// What a run on `model` starts with.
const RUN: [&str; 9] = ["generate", "a red ball", "--model", "model", "--steps", "1", "--size", "48x32", "--seed=1"];

#[track_caller]
fn refused(program: &Program, more: &[&str], code: i32, words: &[&str]) {
    let before = names(&program.path(""));
    let mut line = RUN.to_vec();
    line.extend(["-o", "out.mp4"].iter().filter(|_| !more.contains(&"-o")));
    line.extend(more);
    program.run(&line).error(code, words);
    assert_eq!(names(&program.path("")), before, "something was left behind");
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "home"); // caches
    names.sort();
    names
}

#[test]
fn damaged_models_are_named() {
    let weights = "model/transformer/diffusion_pytorch_model.safetensors";
    let program = with_model();
    let whole = fs::read(program.path(weights)).unwrap();

    fs::write(program.path(weights), &whole[..whole.len() / 2]).unwrap();
    refused(&program, &[], 3, &["diffusion_pytorch_model.safetensors", "truncated"]);

    fs::remove_file(program.path(weights)).unwrap();
    refused(&program, &[], 3, &["transformer"]);

    fs::write(program.path("model/transformer/diffusion_pytorch_model.bin"), b"PK\x03\x04").unwrap();
    refused(&program, &[], 3, &["diffusion_pytorch_model.bin", "pickle"]);
    fs::write(program.path(weights), &whole).unwrap();

    let config = program.path("model/transformer/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"num_layers\": 3", "\"num_layers\": 4")).unwrap();
    refused(&program, &[], 3, &["transformer_blocks.3"]);
    fs::write(&config, text.replace("\"time_embed_dim\": 24", "\"time_embed_dim\": 25")).unwrap();
    refused(&program, &[], 3, &["time_embedding", "25", "24"]);
    fs::write(&config, text.replace("CogVideoXTransformer3DModel", "FluxTransformer2DModel")).unwrap();
    refused(&program, &[], 3, &["FluxTransformer2DModel"]);
    fs::write(&config, "{").unwrap();
    refused(&program, &[], 3, &["config.json"]);
    fs::write(&config, &text).unwrap();

    fs::rename(program.path("model/vae"), program.path("elsewhere")).unwrap();
    refused(&program, &[], 3, &["vae"]);
    refused(&program, &["--model", "nowhere/"], 3, &["nowhere"]);
}

#[test]
fn settings_that_cannot_work_are_refused_before_anything_is_loaded() {
    let program = with_model();
    // a damaged tokenizer would end a run that gets as far as loading with 3
    fs::write(program.path("model/tokenizer/spiece.model"), "").unwrap();
    for (more, words) in [
        (&["--size", "50x32"][..], &["--width 50", "48", "64"][..]),
        (&["--height", "0"], &["--size"]),
        (&["--frames", "0"], &["--frames"]),
        (&["--frames", "100000000"], &["--frames", "500000"]),
        (&["--steps", "0"], &["--steps"]),
        (&["--steps", "1001"], &["--steps", "1000"]),
        (&["--steps", "ten"], &["--steps", "ten"]),
        (&["--guidance-scale", "wav:6"], &["--guidance-scale", "wav:6"]),
        (&["--scheduler", "euler"], &["--scheduler", "euler"]),
        (&["--device", "cuda:9"], &["cuda"]),
        (&["--device", "gpu"], &["gpu", "cuda"]),
        (&["--overlap", "2"], &["--overlap"]),
        (&["--uncond", "zeros", "--negative-prompt", "rain"], &["--negative-prompt"]),
        (&["--fraems", "9"], &["--fraems", "--frames"]),
        (&["-o", "out.avi"], &["avi", ".mp4"]),
        (&["-o", "model"], &["model"]),
        (&["-o", "no/such/folder/out.mp4"], &["no/such/folder"]),
        (&["-o", "out-{sed}.mp4"], &["{sed}", "{seed}"]),
        (&["--init-noise", "model/model_index.json"], &["model_index.json"]),
        (&["--save-latents", "no/latents.safetensors"], &["--save-latents"]),
        (&["--threads", "0"], &["--threads"]),
        (&["--crf", "99"], &["99"]),
    ] {
        refused(&program, more, 2, words);
    }
}

#[test]
fn prompt_files_that_hold_no_prompts_are_refused() {
    let program = Program::new();
    let run = |file: &str, words: &[&str]| {
        program.run(&["multi-prompt", file, "-o", "out.mp4"]).error(2, words);
    };
    run("missing.txt", &["missing.txt"]);
    fs::create_dir(program.path("folder")).unwrap();
    run("folder", &["folder"]);
    fs::write(program.path("empty.txt"), "\n# nothing\n\n").unwrap();
    run("empty.txt", &["empty.txt", "no prompt"]);
    fs::write(program.path("latin.txt"), b"a ball\na b\xe4r\n").unwrap();
    run("latin.txt", &["latin.txt", "UTF-8", "2"]);
    fs::write(program.path("script.toml"), "[[scene]]\npromt = \"a ball\"\n").unwrap();
    run("script.toml", &["script.toml", "promt", "prompt"]);
}

#[test]
fn an_existing_output_stays() {
    let program = with_model();
    fs::write(program.path("out.mp4"), "precious").unwrap();
    refused(&program, &[], 2, &["out.mp4", "-y"]);
    assert_eq!(fs::read(program.path("out.mp4")).unwrap(), b"precious");
    let mut line = RUN.to_vec();
    line.extend(["-o", "out.mp4", "--skip-existing"]);
    program.run(&line).success();
    assert_eq!(fs::read(program.path("out.mp4")).unwrap(), b"precious");
}

#[test]
fn nan_weights_stop_the_run() {
    let program = with_model();
    let path = program.path("model/transformer/diffusion_pytorch_model.safetensors");
    let mut tensors = tiny::tensors("tiny-2b", "transformer", "tiny-2b");
    let bias = tensors["proj_out.bias"].affine(f64::NAN, 0.0).unwrap();
    tensors.insert("proj_out.bias".into(), bias);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    refused(&program, &[], 5, &["transformer", "step 1"]);
}

#[test]
fn black_videos_stop_the_run() {
    let program = with_model();
    let path = program.path("model/vae/diffusion_pytorch_model.safetensors");
    let mut tensors = tiny::tensors("tiny-2b", "vae", "tiny-2b");
    let bias = tensors["decoder.conv_out.conv.bias"].affine(0.0, -1e4).unwrap();
    tensors.insert("decoder.conv_out.conv.bias".into(), bias);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    refused(&program, &[], 5, &["vae", "black"]);
}

#[test]
fn a_full_disk_keeps_the_latents() {
    let program = with_model();
    let line = [&RUN[..], &["-o", "-", "--manifest", "none"]].concat();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = program.command(&line).stdout(full).stderr(std::process::Stdio::piped()).output().unwrap();
    let done = crate::program::Done(output).error(6, &["latents are kept in", "vidgen-1.latents.safetensors"]);
    let stderr = done.stderr();
    let kept = stderr.trim().rsplit("latents are kept in ").next().unwrap().to_owned();
    let path = program.path(kept.trim());
    assert!(candle_core::safetensors::load(&path, &candle_core::Device::Cpu).unwrap().contains_key("latents"));
    fs::remove_file(path).unwrap();
}
