//! Models in one file with the names of Stable Diffusion's own programs: every tensor is the one that diffusers' converters make of
//! it (goldens: `tests/reference/single_file.py`), and a run is that of the folder.

use crate::cli::parity::read;
use crate::cli::program::Program;
use crate::common::{golden_dir, tiny};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use vidgen::weights::{ModelFolder, NetworkFolder, Part};

#[derive(Deserialize)]
struct Golden {
    /// Shapes of the file.
    file: BTreeMap<String, Vec<usize>>,
    /// By part and diffusers' name.
    parts: BTreeMap<String, BTreeMap<String, Taken>>,
    configs: BTreeMap<String, BTreeMap<String, Value>>,
}

/// The name in the file, the first row where it is a part of that tensor, and its shape.
type Taken = (String, Option<usize>, Vec<usize>);

impl Golden {
    fn read(form: impl std::fmt::Display) -> Self {
        let text = fs::read(golden_dir().join(format!("sd/single-{form}.json"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// Whether the tensors of a part are the wanted ones, all of them and no others.
    fn check(&self, wanted: &BTreeMap<String, Taken>, part: &Part) {
        let tensors = part.tensors().unwrap();
        let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, wanted.keys().filter(|name| !name.contains("position_ids")).collect::<Vec<_>>());
        let vb = part.var_builder(DType::F32, &Device::Cpu).unwrap();
        for (name, (of, row, shape)) in wanted {
            let found = vb.get(shape.as_slice(), name).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let wanted = self.tensor(of, *row, shape).flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(found == wanted, "{name} of {of}");
        }
    }

    /// Writes a part as a folder of diffusers.
    fn write_part(&self, part: &str, class: &str, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        let mut config = serde_json::to_value(&self.configs[part]).unwrap();
        config["_class_name"] = class.into();
        if class.starts_with("CLIP") {
            config["model_type"] = "clip_text_model".into();
        }
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let wanted = self.parts[part].iter();
        let tensors: HashMap<String, Tensor> =
            wanted.map(|(name, (of, row, shape))| (name.clone(), self.tensor(of, *row, shape))).collect();
        let file = if class.starts_with("CLIP") { "model" } else { "diffusion_pytorch_model" };
        candle_core::safetensors::save(&tensors, folder.join(format!("{file}.safetensors"))).unwrap();
    }

    /// The tensor of a part.
    fn tensor(&self, of: &str, row: Option<usize>, shape: &[usize]) -> Tensor {
        let whole = tiny::weight(of, &self.file[of]);
        let whole = row.map_or(whole.clone(), |row| whole.narrow(0, row, shape[0]).unwrap());
        whole.contiguous().unwrap().reshape(shape).unwrap()
    }
}

fn write_tokenizer(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for name in ["vocab.json", "merges.txt"] {
        fs::copy(golden_dir().join("clip").join(name), folder.join(name)).unwrap();
    }
}

fn write_file(path: &Path, shapes: &BTreeMap<String, Vec<usize>>) {
    let tensors: HashMap<String, Tensor> =
        shapes.iter().map(|(name, shape)| (name.clone(), tiny::weight(name, shape))).collect();
    candle_core::safetensors::save(&tensors, path).unwrap();
}

#[test]
fn tensors_and_configurations_are_those_of_diffusers() {
    let program = Program::new();
    write_tokenizer(&program.path("tokenizer"));
    for (form, prediction, pad) in [(1, "epsilon", "<|endoftext|>"), (2, "v_prediction", "!")] {
        let golden = Golden::read(form);
        let path = program.path(format!("{form}.safetensors"));
        write_file(&path, &golden.file);
        let model = ModelFolder::open(path.to_str().unwrap(), true).unwrap();
        assert_eq!(model.class(), "StableDiffusionPipeline");
        for (name, wanted) in &golden.parts {
            golden.check(wanted, &model.part(name).unwrap());
        }
        for (part, keys) in &golden.configs {
            let config: Value = model.json(&format!("{part}/config.json")).unwrap();
            for (key, value) in keys {
                assert_eq!(&config[key], value, "{part} {key}");
            }
        }
        let scheduler: Value = model.json("scheduler/scheduler_config.json").unwrap();
        assert_eq!(scheduler["prediction_type"], prediction);
        assert_eq!(model.json::<Value>("tokenizer/tokenizer_config.json").unwrap()["pad_token"], pad);
        model.architecture().unwrap();
    }
}

#[test]
fn a_file_makes_the_video_of_its_folder() {
    let program = Program::new();
    let golden = Golden::read(1);
    write_file(&program.path("one.safetensors"), &golden.file);
    write_tokenizer(&program.path("tokenizer"));
    write_tokenizer(&program.path("folder/tokenizer"));
    let write = |path: &str, value: Value| {
        let path = program.path("folder").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value.to_string()).unwrap();
    };
    for (part, class) in [("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL"), ("text_encoder", "CLIPTextModel")]
    {
        golden.write_part(part, class, &program.path("folder").join(part));
    }
    write("model_index.json", serde_json::json!({"_class_name": "StableDiffusionPipeline"}));
    let scheduler = serde_json::json!({"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "set_alpha_to_one": false, "steps_offset": 1});
    write("scheduler/scheduler_config.json", scheduler.clone());
    let latents = |model: &str, more: &[&str]| {
        let how = ["generate", "a red ball", "--model", model, "--size", "16x16", "--frames", "2", "--steps", "20"];
        let files = ["--seed", "3", "--save-latents", "latents.safetensors", "-o", "a.gif", "-y"];
        program.run(&[&how[..], &files, more].concat()).success();
        read(&program.path("latents.safetensors"), "latents").flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let whole = latents("folder", &[]);
    assert_eq!(latents("one.safetensors", &[]), whole);
    program.run(&["rerun", "a.gif", "--check"]).success();
    let info = program.run(&["model", "info", "one.safetensors", "--json"]).success().stdout();
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!((info["complete"].as_bool(), info["class"].as_str()), (Some(true), Some("StableDiffusionPipeline")));
    // what lies beside it counts: a scheduler, not configurations or weights of parts
    fs::create_dir_all(program.path("scheduler")).unwrap();
    let mut other = scheduler;
    other["prediction_type"] = "v_prediction".into();
    fs::write(program.path("scheduler/scheduler_config.json"), other.to_string()).unwrap();
    assert!(latents("one.safetensors", &[]) != whole);
    fs::remove_dir_all(program.path("scheduler")).unwrap();
    for part in ["unet", "vae"] {
        fs::rename(program.path("folder").join(part), program.path(part)).unwrap();
        fs::write(program.path(part).join("config.json"), "{}").unwrap();
    }
    assert_eq!(latents("one.safetensors", &[]), whole);
}

/// A file of a control network, with the prefix of ControlNet's own program or without.
fn control_file(golden: &Golden, prefix: &str, path: &Path) {
    let rest = |name: &String| name.strip_prefix("control_model.").unwrap().to_owned();
    let tensors: HashMap<String, Tensor> =
        golden.file.iter().map(|(name, shape)| (prefix.to_owned() + &rest(name), tiny::weight(name, shape))).collect();
    candle_core::safetensors::save(&tensors, path).unwrap();
}

#[test]
fn control_networks_in_one_file_are_those_of_diffusers() {
    let program = Program::new();
    let golden = Golden::read("control");
    let one = program.path("control.safetensors");
    for prefix in ["control_model.", ""] {
        control_file(&golden, prefix, &one);
        let network = NetworkFolder::open(one.to_str().unwrap(), "ControlNetModel", true).unwrap();
        golden.check(&golden.parts[""], network.part());
        let config: Value = network.config().unwrap();
        for (key, value) in &golden.configs[""] {
            assert_eq!(&config[key], value, "{key}");
        }
    }
    // and it does in a run what its folder does
    tiny::write_picture_model("tiny-sd1", &program.path("model"));
    for (part, class) in [("unet", "UNet2DConditionModel"), ("text_encoder", "CLIPTextModel")] {
        fs::remove_dir_all(program.path("model").join(part)).unwrap();
        Golden::read(1).write_part(part, class, &program.path("model").join(part));
    }
    golden.write_part("", "ControlNetModel", &program.path("network"));
    image::RgbImage::from_fn(16, 16, |x, y| image::Rgb([(16 * x) as u8, (16 * y) as u8, 128]))
        .save(program.path("map.png"))
        .unwrap();
    let latents = |network: &str| {
        let how = ["generate", "a red ball", "--model", "model", "--size", "16x16", "--frames", "2", "--steps", "2"];
        let with = ["--control", "map:map.png", "--control-model", network, "--seed", "3"];
        let files = ["--save-latents", "latents.safetensors", "-o", "a.gif", "-y"];
        program.run(&[&how[..], &with, &files].concat()).success();
        read(&program.path("latents.safetensors"), "latents").flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(latents("control.safetensors"), latents("network"));
    program.run(&["rerun", "a.gif", "--check"]).success();
    // what is no such file says so
    let refused = |words: &[&str]| {
        let how = ["generate", "a red ball", "--model", "model", "-o", "b.gif", "--control", "map:map.png"];
        program.run(&[&how[..], &["--control-model", "control.safetensors"]].concat()).error(3, words);
    };
    write_file(&one, &Golden::read(1).file);
    refused(&["--control-model", "control.safetensors", "input_hint_block", "config.json"]);
    let mut shapes = golden.file.clone();
    shapes.remove("control_model.zero_convs.5.0.weight");
    shapes.remove("control_model.zero_convs.5.0.bias");
    write_file(&one, &shapes);
    refused(&["control.safetensors", "6 input blocks and 5 zero convolutions"]);
    fs::write(&one, "no tensors").unwrap();
    refused(&["control.safetensors", "not a safetensors file"]);
}

#[test]
fn files_that_are_no_such_model_say_why() {
    let program = Program::new();
    let mut shapes = Golden::read(1).file;
    let refused = |code: i32, words: &[&str]| {
        let one = ["generate", "a red ball", "--model", "one.safetensors", "-o", "a.gif"];
        program.run(&one).error(code, words);
    };
    write_file(&program.path("one.safetensors"), &shapes);
    refused(3, &["one.safetensors", "no tokenizer", "vocab.json"]);
    write_tokenizer(&program.path("tokenizer"));
    // one that follows instructions
    shapes.insert("model.diffusion_model.input_blocks.0.0.weight".into(), vec![32, 8, 3, 3]);
    write_file(&program.path("one.safetensors"), &shapes);
    refused(2, &["vidgen edit VIDEO --instruct", "one.safetensors"]);
    shapes.insert("model.diffusion_model.input_blocks.0.0.weight".into(), vec![32, 9, 3, 3]);
    write_file(&program.path("one.safetensors"), &shapes);
    refused(2, &["inpainting"]);
    let without = |prefix: &str| {
        let kept = shapes.iter().filter(|(name, _)| !name.starts_with(prefix));
        write_file(&program.path("one.safetensors"), &kept.map(|(n, s)| (n.clone(), s.clone())).collect());
    };
    without("cond_stage_model.");
    refused(3, &["one.safetensors", "no text encoder"]);
    without("first_stage_model.");
    refused(3, &["one.safetensors", "autoencoder of 0 levels"]);
    without("model.diffusion_model.");
    refused(3, &["one.safetensors", "no tensor begins with model.diffusion_model."]);
    shapes.insert("conditioner.embedders.0.x".into(), vec![1]);
    write_file(&program.path("one.safetensors"), &shapes);
    refused(3, &["Stable Diffusion XL"]);
    fs::write(program.path("one.safetensors"), "no tensors").unwrap();
    refused(3, &["one.safetensors", "not a safetensors file"]);
}
