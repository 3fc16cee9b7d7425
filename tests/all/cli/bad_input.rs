//! Bad input gets one line (what, where, what to do), the right exit code, and leaves no file behind.

use crate::cli::program::{Done, Program};
use crate::common::tiny;
use candle_core::{Device, Tensor};
use std::fs;
use std::path::Path;

/// A directory with a tiny model, in which nothing may appear.
struct Place {
    program: Program,
    before: Vec<String>,
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "home");
    names.sort();
    names
}

impl Place {
    fn new(prepare: impl FnOnce(&Program)) -> Self {
        let program = Program::new();
        tiny::write_folder("tiny-2b", "tiny-2b", &program.path("model"));
        prepare(&program);
        let before = names(&program.path(""));
        Self { program, before }
    }

    /// Runs `generate` with a quick model; whatever happens, nothing is left.
    #[track_caller]
    fn generate(&self, words: &[&str]) -> Done {
        self.run(&[&["generate", "a red ball", "--model", "model", "-o", "out.gif"], words].concat())
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> Done {
        let done = self.program.run(words);
        assert_eq!(names(&self.program.path("")), self.before, "{words:?} left something behind: {}", done.stderr());
        done
    }
}

const TRANSFORMER: &str = "model/transformer/diffusion_pytorch_model.safetensors";

/// Rewrites a part's weights.
fn change(program: &Program, part: &str, edit: impl FnOnce(&mut std::collections::HashMap<String, Tensor>)) {
    let mut tensors = tiny::tensors("tiny-2b", part, "tiny-2b");
    edit(&mut tensors);
    let stem = if part == "text_encoder" { "model" } else { "diffusion_pytorch_model" };
    let file = program.path(format!("model/{part}/{stem}.safetensors"));
    candle_core::safetensors::save(&tensors, file).unwrap();
}

fn edit_json(program: &Program, path: &str, key: &str, value: serde_json::Value) {
    let path = program.path(path);
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json[key] = value;
    fs::write(path, json.to_string()).unwrap();
}

#[test]
fn weights_that_are_missing_or_broken() {
    let place = Place::new(|program| fs::remove_file(program.path(TRANSFORMER)).unwrap());
    place.generate(&[]).error(3, &["transformer", "missing"]);

    let place = Place::new(|program| {
        let bytes = fs::read(program.path(TRANSFORMER)).unwrap();
        fs::write(program.path(TRANSFORMER), &bytes[..bytes.len() - 1000]).unwrap();
    });
    place.generate(&[]).error(3, &["diffusion_pytorch_model.safetensors", "truncated"]);

    let place = Place::new(|program| fs::write(program.path(TRANSFORMER), b"").unwrap());
    place.generate(&[]).error(3, &["transformer", "diffusion_pytorch_model.safetensors"]);

    let place = Place::new(|program| {
        change(program, "transformer", |tensors| {
            let wrong = Tensor::zeros((7, 5), candle_core::DType::F32, &Device::Cpu).unwrap();
            tensors.insert("proj_out.weight".to_owned(), wrong);
        });
    });
    place.generate(&[]).error(3, &["proj_out.weight", "[7, 5]", "[16, 48]"]);

    let place = Place::new(|program| {
        change(program, "vae", |tensors| drop(tensors.remove("decoder.conv_in.conv.weight").unwrap()));
    });
    place.generate(&["--steps", "1", "--frames", "1"]).error(3, &["decoder.conv_in.conv.weight", "vae"]);
}

#[test]
fn weights_that_do_not_fit_their_configuration() {
    for (key, value, words) in
        [("num_layers", 4, &["transformer_blocks.3"][..]), ("time_embed_dim", 25, &["time_embedding", "25", "24"])]
    {
        let place = Place::new(|program| edit_json(program, "model/transformer/config.json", key, value.into()));
        place.generate(&[]).error(3, words);
    }
}

#[test]
fn values_that_are_no_numbers_and_videos_that_are_black() {
    let place = Place::new(|program| {
        change(program, "text_encoder", |tensors| {
            let norm = tensors["encoder.final_layer_norm.weight"].affine(f64::NAN, 0.0).unwrap();
            tensors.insert("encoder.final_layer_norm.weight".to_owned(), norm);
        });
    });
    place.generate(&["--steps", "1", "--size", "32x32"]).error(5, &["text encoder", "not finite"]);
    let place = Place::new(|program| {
        change(program, "transformer", |tensors| {
            let bias = tensors["proj_out.bias"].affine(f64::NAN, 0.0).unwrap();
            tensors.insert("proj_out.bias".to_owned(), bias);
        });
    });
    place.generate(&["--steps", "2", "--size", "32x32"]).error(5, &["denoiser", "step 1"]);
    let place = Place::new(|program| {
        change(program, "vae", |tensors| {
            let bias = tensors["decoder.conv_out.conv.bias"].affine(0.0, -1e4).unwrap();
            tensors.insert("decoder.conv_out.conv.bias".to_owned(), bias);
        });
    });
    place.generate(&["--steps", "1", "--size", "32x32"]).error(5, &["vae", "black"]);
}

#[test]
fn folders_that_are_no_model() {
    let place = Place::new(|program| fs::create_dir(program.path("empty")).unwrap());
    place.run(&["generate", "x", "--model", "empty"]).error(3, &["empty", "model_index.json"]);
    place.run(&["generate", "x", "--model", "nowhere"]).error(3, &["nowhere", "no such folder"]);
    place.run(&["generate", "x", "--model", "toylnd"]).error(3, &["did you mean toyland"]);
    place.run(&["generate", "x", "--model", "org/name", "--offline"]).error(3, &["org/name", "network is off"]);

    for part in ["transformer", "vae", "text_encoder", "tokenizer", "scheduler"] {
        let place = Place::new(|program| fs::remove_dir_all(program.path(format!("model/{part}"))).unwrap());
        place.generate(&["--steps", "1", "--frames", "1"]).error(3, &[part]);
    }
}

#[test]
fn pickles_are_refused_and_never_opened() {
    let place = Place::new(|program| {
        fs::remove_file(program.path(TRANSFORMER)).unwrap();
        // a directory cannot be read: had it been opened, the message would be another
        fs::create_dir(program.path("model/transformer/diffusion_pytorch_model.bin")).unwrap();
    });
    place.generate(&[]).error(3, &["diffusion_pytorch_model.bin", "pickle"]);
    let place = Place::new(|program| fs::write(program.path("weights.pt"), "x").unwrap());
    place.run(&["generate", "x", "--model", "weights.pt"]).error(3, &["weights.pt", "pickle"]);
}

#[test]
fn configurations_of_other_kinds() {
    for (path, key, value, words) in [
        ("model_index.json", "_class_name", "FluxPipeline", &["model_index.json", "FluxPipeline"]),
        ("transformer/config.json", "_class_name", "WanTransformer3DModel", &["transformer", "WanTransformer3DModel"]),
        ("vae/config.json", "_class_name", "AutoencoderKL", &["vae", "AutoencoderKL"]),
        ("text_encoder/config.json", "model_type", "bert", &["text_encoder", "bert"]),
        (
            "scheduler/scheduler_config.json",
            "_class_name",
            "HeunDiscreteScheduler",
            &["scheduler", "HeunDiscreteScheduler"],
        ),
        ("scheduler/scheduler_config.json", "prediction_type", "flow", &["prediction_type", "flow"]),
    ] {
        let place = Place::new(|program| edit_json(program, &format!("model/{path}"), key, value.into()));
        place.generate(&["--steps", "1", "--frames", "1"]).error(3, words);
    }
    let place = Place::new(|program| edit_json(program, "model/transformer/config.json", "num_layers", 0.into()));
    place.generate(&[]).error(3, &["num_layers"]);
    let place = Place::new(|program| edit_json(program, "model/vae/config.json", "latent_channels", "many".into()));
    place.generate(&[]).error(3, &["vae/config.json", "latent_channels"]);
    let place = Place::new(|program| fs::write(program.path("model/vae/config.json"), "{").unwrap());
    place.generate(&[]).error(3, &["vae/config.json"]);
}

#[test]
fn prompts_that_are_none() {
    let place = Place::new(|program| {
        fs::write(program.path("empty.txt"), "").unwrap();
        fs::write(program.path("comments.txt"), "# a\n\n# b\n").unwrap();
        fs::write(program.path("latin.txt"), b"a red ball\na caf\xe9 at night\n").unwrap();
        fs::write(program.path("utf16.txt"), b"\xff\xfea\0").unwrap();
        fs::write(program.path("two.toml"), "[[scene]]\nprompt = \"a\"\n[[scene]]\npromt = \"b\"\n").unwrap();
        fs::write(program.path("none.toml"), "seed = 1\n").unwrap();
        fs::write(program.path("attention.toml"), "[[scene]]\nprompt = \"a\"\ntransition = \"attention\"\n").unwrap();
    });
    let story = |file: &str| place.run(&["multi-prompt", file, "--model", "model"]);
    story("empty.txt").error(2, &["empty.txt"]);
    story("comments.txt").error(2, &["comments.txt"]);
    story("latin.txt").error(2, &["latin.txt:2", "0xe9", "UTF-8"]);
    story("utf16.txt").error(2, &["utf16.txt", "UTF-8"]);
    story("two.toml").error(2, &["two.toml", "promt", "prompt"]);
    story("none.toml").error(2, &["none.toml", "scene"]);
    story("attention.toml").error(2, &["attention.toml", "attention"]);
    story("nowhere.txt").error(2, &["nowhere.txt"]);
    story("model").error(2, &["model", "directory"]);
    place.run(&["multi-prompt", "--model", "model"]).error(2, &["prompt"]);
    place.run(&["multi-prompt", "-", "--model", "model"]).error(2, &["standard input"]);
    place.run(&["generate", "--model", "model"]).error(2, &["PROMPT"]);
    place.run(&["generate", " ", "--model", "model"]).error(2, &["prompt", "empty"]);
    place.run(&["generate", "a", "b", "--model", "model"]).error(2, &["'b'"]);
    place.run(&["generate", "-p", "a", "-p", "b", "--model", "model"]).error(2, &["multi-prompt"]);
}

#[test]
fn words_that_flags_do_not_know() {
    let place = Place::new(|_| ());
    for (flag, word, words) in [
        ("--scheduler", "ddin", &["ddim"][..]),
        ("--schedule", "sta", &["sat"]),
        ("--uncond", "zeroes", &["zeros"]),
        ("--blend", "rope", &["repo"]),
        ("--parity", "difusers", &["diffusers"]),
        ("--dtype", "f61", &["f16"]),
        ("--attention", "flash", &["flash2", "sdpa"]),
        ("--device", "gpu", &["cuda"]),
        ("--vae-tiling", "maybe", &["auto"]),
        ("--manifest", "sidecars", &["sidecar"]),
        ("--progress", "bars", &["bar"]),
        ("--color", "sometimes", &["always"]),
        ("--codec", "divx", &["h264"]),
        ("--pix-fmt", "yuv421p", &["yuv420p"]),
        ("--guidance-scale", "strong", &["wave:6"]),
        ("--seed", "lucky", &["random"]),
        ("--size", "large", &["144x96"]),
        ("--fps", "fast", &["8"]),
        ("--duration", "long", &["6s"]),
        ("--steps", "1.5", &["--steps"]),
        ("--eta", "x", &["--eta"]),
    ] {
        let done = place.generate(&[flag, word]);
        done.error(2, &[&[flag, word], words].concat());
    }
    place.generate(&["--sed", "1"]).error(2, &["--sed", "--seed"]);
    place.run(&["genrate", "x"]).error(2, &["genrate", "generate"]);
}

#[test]
fn sizes_and_lengths_that_cannot_be() {
    let place = Place::new(|_| ());
    place.generate(&["--size", "40x32"]).error(2, &["40", "16", "32 or 48"]);
    place.generate(&["--width", "33"]).error(2, &["--width 33", "32 or 48"]);
    place.generate(&["--height", "0"]).error(2, &["--height 0"]);
    place.generate(&["--size", "99999999x16"]).error(2, &["99999999"]);
    place.generate(&["--size", "18446744073709551615x16"]).error(2, &["18446744073709551615"]);
    place.generate(&["--frames", "0"]).error(2, &["--frames", "0"]);
    place.generate(&["--frames", "999999999"]).error(2, &["999999999"]);
    place.generate(&["--frames", "99999999999999999999999"]).error(2, &["99999999999999999999999"]);
    place.generate(&["--frames", "-5"]).error(2, &["-5"]);
    place.generate(&["--duration", "0"]).error(2, &["--duration"]);
    place.generate(&["--duration", "1e300"]).error(2, &["--duration"]);
    place.generate(&["--frames", "9", "--duration", "2"]).error(2, &["--frames", "--duration"]);
    place.generate(&["--steps", "0"]).error(2, &["--steps 0"]);
    place.generate(&["--steps", "1001"]).error(2, &["--steps 1001", "1000"]);
    place.generate(&["--fps", "0"]).error(2, &["--fps"]);
    place.generate(&["--threads", "0"]).error(2, &["--threads 0"]);
    place.generate(&["--num-videos", "0"]).error(2, &["--num-videos 0"]);
    let story =
        |words: &[&str]| place.run(&[&["multi-prompt", "-p", "a", "-p", "b", "--model", "model"], words].concat());
    story(&["--overlap", "3"]).error(2, &["overlap", "3"]);
    story(&["--overlap", "99999999999"]).error(2, &["overlap", "99999999999"]);
    story(&["--transition-windows", "99999999999"]).error(2, &["windows"]);
    story(&["--frames", "9"]).error(2, &["9", "frames", "at least"]);
}

#[test]
fn devices_and_memory_that_are_not_there() {
    let place = Place::new(|_| ());
    if !candle_core::utils::cuda_is_available() {
        place.generate(&["--device", "cuda"]).error(2, &["cuda", "--device cpu"]);
    }
    place.generate(&["--device", "cuda:99"]).error(2, &["cuda", "--device cpu"]);
    place.generate(&["--device", "cuda:x"]).error(2, &["cuda:x"]);
    place.generate(&["--size", "8192x8192", "--frames", "4001"]).error(4, &["transformer", "GB", "smaller size"]);
}

#[test]
fn outputs_that_cannot_be() {
    let place = Place::new(|program| {
        fs::create_dir(program.path("folder")).unwrap();
        fs::write(program.path("there.gif"), "kept").unwrap();
        fs::write(program.path("file"), "").unwrap();
        fs::write(program.path("beside.gif.json"), "kept").unwrap();
    });
    let to = |output: &str| place.generate(&["-o", output]);
    to("folder").error(2, &["folder", "directory", "folder/"]);
    to("nowhere/a.gif").error(2, &["nowhere"]);
    to("file/a.gif").error(2, &["file"]);
    to("a.avi").error(2, &[".avi", ".mp4"]);
    to("a").error(2, &["a.mp4"]);
    to("").error(2, &["empty"]);
    to("{nome}.gif").error(2, &["{nome}", "{model}"]);
    to("there.gif").error(2, &["there.gif", "-y"]);
    assert_eq!(fs::read(place.program.path("there.gif")).unwrap(), b"kept");
    to("beside.gif").error(2, &["beside.gif.json", "-y"]);
    assert_eq!(fs::read(place.program.path("beside.gif.json")).unwrap(), b"kept");
    to("/proc/a.gif").error(2, &["/proc"]);
    place.generate(&["-o", "a.gif", "--save-latents", "nowhere/l.safetensors"]).error(2, &["nowhere"]);
    place.generate(&["-o", "a.gif", "--save-latents", "folder"]).error(2, &["folder", "directory"]);
    place.generate(&["-o", "a.gif", "--save-latents", "file"]).error(2, &["file", "-y"]);
}

#[test]
fn flags_without_an_effect_are_errors() {
    let place = Place::new(|_| ());
    place.generate(&["--overlap", "1"]).error(2, &["--overlap", "multi-prompt"]);
    place.generate(&["--blend", "paper"]).error(2, &["--blend", "multi-prompt"]);
    place.generate(&["--eta", "0.5", "--scheduler", "dpm"]).error(2, &["--eta", "ddim"]);
    place.generate(&["-n", "x", "--uncond", "zeros"]).error(2, &["--negative-prompt", "--uncond"]);
    place.generate(&["-n", "x", "--guidance-scale", "1"]).error(2, &["--negative-prompt", "--guidance-scale"]);
    place.generate(&["--vae-tiling", "off", "--vae-tile-size", "64x64"]).error(2, &["--vae-tile-size", "--vae-tiling"]);
    place.generate(&["--attention", "flash2"]).error(2, &["--attention flash2", "--attention sdpa"]);
    place.generate(&["--attention", "flash3"]).error(2, &["--attention flash3", "--attention sdpa"]);
    place.generate(&["-o", "a.gif", "--crf", "20"]).error(2, &["--crf", "GIF"]);
    place.generate(&["-o", "-", "--json"]).error(2, &["--json", "standard output"]);
    place.generate(&["-o", "a.y4m", "--manifest", "embed"]).error(2, &["--manifest embed", "y4m"]);
    place.generate(&["-o", "-", "--manifest", "sidecar"]).error(2, &["--manifest sidecar", "standard output"]);
    place.generate(&["-o", "-", "--num-videos", "2"]).error(2, &["--num-videos"]);
    place.generate(&["-q", "-v"]).error(2, &["--quiet", "--verbose"]);
    place.generate(&["--size", "32x32", "--width", "32"]).error(2, &["--size", "--width"]);
}

#[test]
fn noise_that_does_not_fit() {
    let save = |program: &Program, name: &str, tensors: &[(&str, &[usize])]| {
        let tensors: std::collections::HashMap<String, Tensor> =
            tensors.iter().map(|(name, shape)| ((*name).to_owned(), tiny::unit(name, shape))).collect();
        candle_core::safetensors::save(&tensors, program.path(name)).unwrap();
    };
    let place = Place::new(|program| {
        save(program, "good.safetensors", &[("noise", &[1, 3, 4, 4, 4])]);
        save(program, "short.safetensors", &[("noise", &[1, 2, 4, 4, 4])]);
        save(program, "other.safetensors", &[("latents", &[1, 3, 4, 4, 4])]);
        fs::write(program.path("text.safetensors"), "text").unwrap();
    });
    let from = |file: &str, words: &[&str]| {
        let what = ["--size", "32x32", "--frames", "9", "--steps", "2", "--init-noise", file];
        place.generate(&[&what[..], words].concat())
    };
    from("short.safetensors", &[]).error(2, &["short.safetensors", "[1, 2, 4, 4, 4]", "[1, 3, 4, 4, 4]"]);
    from("other.safetensors", &[]).error(2, &["other.safetensors", "noise"]);
    from("text.safetensors", &[]).error(2, &["text.safetensors"]);
    from("none.safetensors", &[]).error(2, &["none.safetensors"]);
    from("good.safetensors", &["--scheduler", "dpm"]).error(2, &["step_noise", "ddim"]);
    from("good.safetensors", &["--num-videos", "2"]).error(2, &["--num-videos"]);
}
