//! The commands that only read: `inspect`, `model`, `completions`, `man`.

use crate::cli::program::Program;
use crate::common::tiny;
use serde_json::Value;

fn with_video() -> Program {
    let program = Program::new();
    tiny::write_folder("tiny-2b", "tiny-2b", &program.path("model"));
    let what = ["generate", "a red ball", "--model", "model", "--steps", "2", "--frames", "5", "--size", "32x48"];
    program.run(&[&what[..], &["--seed", "42", "-o", "a.gif", "--quiet"]].concat()).success();
    program
}

#[test]
fn a_video_tells_how_it_was_made() {
    let program = with_video();
    let text = program.run(&["inspect", "a.gif"]).success().stdout();
    for row in
        ["prompt               a red ball", "seed                 42", "steps                2", "took ", "machine "]
    {
        assert!(text.contains(row), "{row:?} is not in:\n{text}");
    }
    let manifest: Value =
        serde_json::from_str(&program.run(&["inspect", "a.gif", "--json"]).success().stdout()).unwrap();
    assert_eq!(manifest["schema"], "vidgen.manifest.v1");
    assert_eq!((manifest["settings"]["width"].as_u64(), manifest["settings"]["height"].as_u64()), (Some(32), Some(48)));
    assert_eq!(manifest["model"]["hashes"]["vae"].as_str().map(str::len), Some(64));
    assert!(manifest["run"]["seconds"]["denoise"].as_f64() > Some(0.0));
    let sidecar: Value = serde_json::from_slice(&std::fs::read(program.path("a.gif.json")).unwrap()).unwrap();
    assert_eq!(sidecar, manifest);

    std::fs::remove_file(program.path("a.gif.json")).unwrap();
    let alone: Value = serde_json::from_str(&program.run(&["inspect", "a.gif", "--json"]).success().stdout()).unwrap();
    assert_eq!(alone["run"], Value::Null);
    assert_eq!(alone["settings"], manifest["settings"]);
}

#[test]
fn files_without_a_record_are_told_apart() {
    let program = Program::new();
    program.run(&["inspect", "none.mp4"]).error(2, &["none.mp4"]);
    std::fs::write(program.path("text.mp4"), "no video at all").unwrap();
    program.run(&["inspect", "text.mp4"]).error(2, &["text.mp4"]);
    std::fs::write(program.path("a.json"), "{}").unwrap();
    program.run(&["inspect", "a.json"]).error(1, &["a.json", "no record of vidgen"]);
    let foreign = image::RgbImage::new(8, 8);
    foreign.save(program.path("foreign.gif")).unwrap();
    program.run(&["inspect", "foreign.gif"]).error(1, &["foreign.gif", "another program"]);
}

#[test]
fn models_are_described() {
    let program = Program::new();
    let text = program.run(&["model", "info"]).success().stdout();
    assert!(text.starts_with("model ") && text.contains("toyland"), "{text}");
    tiny::write_folder("tiny-1.5", "tiny-1.5", &program.path("model"));
    let info: Value =
        serde_json::from_str(&program.run(&["model", "info", "model", "--json"]).success().stdout()).unwrap();
    assert_eq!(info["complete"], true);
    assert_eq!(info["native"], serde_json::json!({ "width": 112, "height": 64, "frames": 17, "fps": 16 }));
    let part = |name: &str| info["parts"].as_array().unwrap().iter().find(|part| part["name"] == name).unwrap().clone();
    let parameters: usize =
        tiny::tensors("tiny-1.5", "vae", "tiny-1.5").values().map(candle_core::Tensor::elem_count).sum();
    assert_eq!(part("vae")["parameters"].as_u64(), Some(parameters as u64));
    assert_eq!(part("transformer")["class"], "CogVideoXTransformer3DModel");
}

#[test]
fn damaged_models_are_described_and_end_with_their_code() {
    let program = Program::new();
    tiny::write_folder("tiny-2b", "tiny-2b", &program.path("model"));
    std::fs::remove_file(program.path("model/vae/diffusion_pytorch_model.safetensors")).unwrap();
    let weights = program.path("model/transformer/diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let done = program.run(&["model", "info", "model"]);
    let text = done.stdout();
    assert!(text.contains("MISSING") && text.contains("DAMAGED"), "{text}");
    done.error(3, &["transformer"]);
    let done = program.run(&["model", "info", "model", "--json"]);
    let info: Value = serde_json::from_str(&done.stdout()).unwrap();
    assert_eq!(info["complete"], false);
    program.run(&["model", "info", "nowhere"]).error(3, &["nowhere"]);
}

#[test]
fn models_at_hand_are_listed() {
    let program = Program::new();
    let text = program.run(&["model", "list"]).success().stdout();
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(text.lines().nth(1).unwrap().starts_with("toyland "), "{text}");
    assert!(text.lines().nth(2).unwrap().starts_with("toyland-image "), "{text}");

    let commit = "0123456789abcdef0123456789abcdef01234567";
    let folder = program.path("hub/models--org--tiny");
    tiny::write_folder("tiny-2b", "tiny-2b", &folder.join("snapshots").join(commit));
    std::fs::create_dir_all(folder.join("refs")).unwrap();
    std::fs::write(folder.join("refs/main"), commit).unwrap();
    let hub = program.path("hub");
    let output = program.command(&["model", "list", "--json"]).env("HF_HUB_CACHE", &hub).output().unwrap();
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> =
        list["models"].as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["toyland", "toyland-image", "toyland-image/instruct", "org/tiny"]);
    assert_eq!(list["models"][3].get("problem"), None);
    // and by that name it opens, without the network
    let mut command = program.command(&["model", "info", "org/tiny", "--offline", "--json"]);
    let output = command.env("HF_HUB_CACHE", &hub).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let info: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(info["revision"], commit);
}

#[test]
fn shells_and_man_get_what_they_need() {
    let program = Program::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = program.run(&["completions", shell]).success().stdout();
        assert!(script.contains("multi-prompt") && script.contains("guidance-scale"), "{shell}");
    }
    program.run(&["completions", "basch"]).error(2, &["basch", "bash"]);
    let page = program.run(&["man"]).success().stdout();
    assert!(page.contains(".TH vidgen 1") && page.contains("multi\\-prompt"), "{page}");
    let page = program.run(&["man", "generate"]).success().stdout();
    assert!(page.contains(".TH vidgen-generate 1") && page.contains("guidance\\-scale"), "{page}");
    program.run(&["man", "gen"]).error(2, &["gen", "generate"]);
}

#[test]
fn controls_of_attention_are_listed() {
    let program = Program::new();
    let text = program.run(&["processors"]).success().stdout();
    assert!(text.contains("kv-share") && text.contains("layers"), "{text}");
    let object: Value = serde_json::from_str(&program.run(&["processors", "--json"]).success().stdout()).unwrap();
    assert!(object["processors"].as_array().unwrap().iter().any(|entry| entry["name"] == "reweight"), "{object}");
}
