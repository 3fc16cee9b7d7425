//! Folders of image models: what is said of them.

use crate::cli::program::Program;
use crate::common::tiny;
use serde_json::Value;

fn info(program: &Program, folder: &str) -> Value {
    let text = program.run(&["model", "info", folder, "--json"]).success().stdout();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn an_image_model_is_described() {
    let program = Program::new();
    for (kind, size, parts) in [
        ("tiny-sd1", 96, &["tokenizer", "text_encoder", "unet", "controlnet", "scheduler", "vae"][..]),
        ("tiny-sd2", 48, &["tokenizer", "text_encoder", "unet", "scheduler", "vae"]),
    ] {
        tiny::write_picture_model(kind, &program.path(kind));
        let info = info(&program, kind);
        assert_eq!((&info["recipe"], &info["complete"]), (&"stable-diffusion".into(), &true.into()), "{info}");
        let native = &info["native"];
        let shown = ["width", "height", "frames", "fps"].map(|key| native[key].as_u64().unwrap());
        assert_eq!(shown, [size, size, 8, 4], "{kind}");
        let names: Vec<&str> =
            info["parts"].as_array().unwrap().iter().map(|part| part["name"].as_str().unwrap()).collect();
        assert_eq!(names, parts);
        let text = program.run(&["model", "info", kind]).success().stdout();
        assert!(text.contains("UNet2DConditionModel") && text.contains("CLIPTextModel"), "{text}");
    }
}

#[test]
fn folders_that_cannot_be_run_say_why() {
    let program = Program::new();
    tiny::write_picture_model("tiny-sd2", &program.path("model"));
    let change = |file: &str, key: &str, value: Value| {
        let path = program.path("model").join(file);
        let kept = std::fs::read(&path).unwrap();
        let mut config: Value = serde_json::from_slice(&kept).unwrap();
        config[key] = value;
        std::fs::write(&path, config.to_string()).unwrap();
        let done = program.run(&["plan", "a ball", "--model", "model"]);
        std::fs::write(&path, kept).unwrap();
        done
    };
    for (code, file, key, value, word) in [
        (3, "unet/config.json", "class_embed_type", "timestep".into(), "class_embed_type"),
        // whole, but for something else
        (2, "unet/config.json", "in_channels", 9.into(), "inpainting"),
        (3, "unet/config.json", "in_channels", 8.into(), "StableDiffusionInstructPix2PixPipeline"),
        (3, "vae/config.json", "_class_name", "AutoencoderTiny".into(), "AutoencoderTiny"),
        (3, "model_index.json", "_class_name", "StableDiffusionXLPipeline".into(), "1.x or 2.x"),
    ] {
        change(file, key, value).error(code, &[word]);
    }
    std::fs::remove_file(program.path("model/tokenizer/merges.txt")).unwrap();
    program.run(&["model", "info", "model"]).error(3, &["tokenizer/vocab.json with tokenizer/merges.txt"]);
}
