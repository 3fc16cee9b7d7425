//! `model convert`: what torch.save has written becomes safetensors, and nothing of it is run. Goldens by
//! `tests/reference/convert.py`.

use crate::cli::program::Program;
use crate::common::{golden_dir, relative_l2};
use candle_core::{DType, Device, Tensor};
use candle_nn::{Linear, Module, VarBuilder};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::path::Path;
use vidgen::models::clip::{VisionConfig, VisionTower};

/// Name to dtype, shape and bytes.
type Contents = BTreeMap<String, (String, Vec<usize>, Vec<u8>)>;

fn contents(path: &Path) -> Contents {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let named = tensors.iter().map(|(name, view)| {
        (name.to_owned(), (format!("{:?}", view.dtype()), view.shape().to_vec(), view.data().to_vec()))
    });
    named.collect()
}

fn program() -> Program {
    let program = Program::new();
    for name in ["plain.ckpt", "bare.bin", "clip.safetensors"] {
        fs::copy(golden_dir().join("convert").join(name), program.path(name)).unwrap();
    }
    program
}

/// Names of what is in the working directory.
fn there(program: &Program) -> Vec<String> {
    let entries = fs::read_dir(program.path("")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn tensors_are_those_that_pytorch_loads() {
    let program = program();
    let done = program.run(&["model", "convert", "plain.ckpt", "-o", "plain.safetensors", "--json"]).success();
    let told: Value = serde_json::from_str(&done.stdout()).unwrap();
    assert_eq!((&told["files"][0]["tensors"], &told["files"][0]["path"]), (&16.into(), &"plain.safetensors".into()));
    let want = contents(&golden_dir().join("convert/plain.safetensors"));
    assert_eq!(contents(&program.path("plain.safetensors")), want);
    program.run(&["model", "convert", "bare.bin", "-o", "bare.safetensors"]).success();
    assert_eq!(contents(&program.path("bare.safetensors")).len(), 3);
    // floats in another dtype, the rest as it is
    program.run(&["model", "convert", "plain.ckpt", "-o", "half.safetensors", "--dtype", "bf16"]).success();
    let half = contents(&program.path("half.safetensors"));
    assert_eq!((&half["double"].0, &half["long"].0, &half["bool"].0), (&"BF16".into(), &"I64".into(), &"BOOL".into()));
    assert_eq!(half["float"].2, want["bfloat"].2);
}

#[test]
fn usage_is_checked_and_nothing_is_left() {
    let program = program();
    let before = there(&program);
    let refused = |words: &[&str], code: i32, parts: &[&str]| {
        program.run(&[&["model", "convert"], words].concat()).error(code, parts);
        assert_eq!(there(&program), before);
    };
    refused(&["plain.ckpt", "-o", "bare.bin"], 2, &["bare.bin", "exists"]);
    refused(&["plain.ckpt", "-o", "folder"], 2, &["plain.ckpt", "-o NAME.safetensors"]);
    refused(&["plain.ckpt", "-o", "a.safetensors", "--base", "x"], 2, &["--base", "no effect"]);
    refused(&["none.ckpt", "-o", "a.safetensors"], 3, &["none.ckpt"]);
    refused(&[".", "-o", "folder"], 3, &["model_index.json"]);
    fs::write(program.path("plain.ckpt"), &fs::read(program.path("plain.ckpt")).unwrap()[..5000]).unwrap();
    refused(&["plain.ckpt", "-o", "a.safetensors"], 3, &["plain.ckpt", "zip"]);
}

#[test]
fn a_folder_of_pickles_becomes_one_of_safetensors() {
    let program = program();
    let parts = [("unet", "diffusion_pytorch_model.bin"), ("text_encoder", "pytorch_model.bin")];
    for (part, file) in parts {
        fs::create_dir_all(program.path(format!("in/{part}"))).unwrap();
        fs::copy(program.path("bare.bin"), program.path(format!("in/{part}/{file}"))).unwrap();
        fs::write(program.path(format!("in/{part}/config.json")), "{}").unwrap();
    }
    fs::create_dir(program.path("in/vae")).unwrap();
    // shards, the form of half precision beside the whole one, and a folder without weights
    fs::copy(program.path("bare.bin"), program.path("in/vae/diffusion_pytorch_model-1.bin")).unwrap();
    fs::copy(program.path("plain.ckpt"), program.path("in/unet/diffusion_pytorch_model.fp16.bin")).unwrap();
    let index = json!({ "weight_map": { "float": "diffusion_pytorch_model-1.bin" } });
    fs::write(program.path("in/vae/diffusion_pytorch_model.bin.index.json"), index.to_string()).unwrap();
    fs::create_dir(program.path("in/tokenizer")).unwrap();
    fs::write(program.path("in/tokenizer/merges.txt"), "a b\n").unwrap();
    fs::write(program.path("in/model_index.json"), "{}").unwrap();
    program.run(&["model", "convert", "in", "-o", "out"]).success();
    let want = contents(&golden_dir().join("convert/plain.safetensors"));
    for file in ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"] {
        let got = contents(&program.path(format!("out/{file}.safetensors")));
        assert!(got.len() == 3 && got.iter().all(|(name, tensor)| want[name] == *tensor), "{file}");
    }
    for file in ["model_index.json", "unet/config.json", "tokenizer/merges.txt"] {
        assert_eq!(
            fs::read(program.path(format!("in/{file}"))).unwrap(),
            fs::read(program.path(format!("out/{file}"))).unwrap()
        );
    }
    assert!(!program.path("out/vae/diffusion_pytorch_model.bin.index.json").exists());
    let outside = json!({ "weight_map": { "float": "../bare.bin" } });
    fs::write(program.path("in/vae/diffusion_pytorch_model.bin.index.json"), outside.to_string()).unwrap();
    program.run(&["model", "convert", "in", "-o", "other"]).error(3, &["../bare.bin", "no file of pickled weights"]);
    assert!(!program.path("other").exists());
}

/// A file as torch.save writes it, of a pickle and storages.
fn torch_file(path: &Path, pickle: &[u8], storages: &[(&str, &[u8])]) {
    let mut archive = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    archive.start_file("archive/data.pkl", options).unwrap();
    archive.write_all(pickle).unwrap();
    for (name, bytes) in storages {
        archive.start_file(format!("archive/data/{name}"), options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// The opcodes of a tensor of one dimension with `shown` numbers by `stride` in storage "0" of `numbers`.
fn tensor(shown: u8, stride: u8, numbers: u8) -> Vec<u8> {
    let storage =
        [&b"("[..], &text("storage"), b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), &[b'K', numbers], b"tQ"];
    let size = [b'K', shown, 0x85, b'K', stride, 0x85];
    [&b"ctorch._utils\n_rebuild_tensor_v2\n("[..], &storage.concat(), b"K\x00", &size, b"\x89}tR"].concat()
}

/// `{"state_dict": {"a": tensor, ..}, ..}`
fn pickle(inside: &[Vec<u8>], beside: &[Vec<u8>]) -> Vec<u8> {
    [&b"}("[..], &text("state_dict"), b"}(", &inside.concat(), b"u", &beside.concat(), b"u."].concat()
}

#[test]
fn nothing_in_a_pickle_is_run() {
    let program = Program::new();
    // Python would open a file for writing
    let opening = [&b"cbuiltins\nopen\n("[..], &text("made"), &text("w"), b"tR"].concat();
    let named = |value: &[u8]| [&text("a")[..], value].concat();
    let good = named(&tensor(3, 1, 3));
    torch_file(
        &program.path("beside.ckpt"),
        &pickle(std::slice::from_ref(&good), &[[text("x"), opening.clone()].concat()]),
        &[("0", &[0; 12])],
    );
    program.run(&["model", "convert", "beside.ckpt", "-o", "a.safetensors"]).success();
    assert_eq!(contents(&program.path("a.safetensors"))["a"].1, [3]);
    torch_file(&program.path("inside.ckpt"), &pickle(&[named(&opening)], &[]), &[("0", &[0; 12])]);
    let words = ["model", "convert", "inside.ckpt", "-o", "b.safetensors"];
    program.run(&words).error(3, &["inside.ckpt", "tensor \"a\"", "no tensor of numbers"]);
    assert!(!program.path("made").exists() && !program.path("b.safetensors").exists());
}

#[test]
fn sizes_are_checked_before_memory_is_taken() {
    let program = Program::new();
    let refused = |tensor: &[u8], storage: &[u8], parts: &[&str]| {
        torch_file(&program.path("x.ckpt"), &pickle(&[[&text("a")[..], tensor].concat()], &[]), &[("0", storage)]);
        program.run(&["model", "convert", "x.ckpt", "-o", "x.safetensors"]).error(3, parts);
    };
    refused(&tensor(4, 1, 3), &[0; 12], &["\"a\"", "[4]", "does not fit", "3 numbers"]);
    refused(&tensor(3, 2, 4), &[0; 16], &["does not fit"]);
    refused(&tensor(200, 0, 3), &[0; 12], &["does not fit"]);
    refused(&tensor(3, 1, 4), &[0; 12], &["12 bytes", "4 numbers"]);
    refused(&tensor(1, 1, 1)[..40], &[0; 4], &["x.ckpt"]);
}

/// Tensors of the shapes of a part of `names.json`, under a prefix.
fn part(names: &Value, part: &str, prefix: &str, into: &mut HashMap<String, Tensor>) {
    for (name, shape) in names["shapes"][part].as_object().unwrap() {
        let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
        into.insert(format!("{prefix}{name}"), Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap());
    }
}

/// A base folder and, by the specification's list of names, what a streaming checkpoint has.
fn streaming(program: &Program) -> HashMap<String, Tensor> {
    let names: Value = serde_json::from_slice(&fs::read(golden_dir().join("convert/names.json")).unwrap()).unwrap();
    for (folder, file) in [
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
        ("scheduler", ""),
    ] {
        fs::create_dir_all(program.path(format!("base/{folder}"))).unwrap();
        let config = if folder == "unet" { names["config"].clone() } else { json!({}) };
        let name = if folder == "scheduler" { "scheduler_config" } else { "config" };
        fs::write(program.path(format!("base/{folder}/{name}.json")), config.to_string()).unwrap();
        if !file.is_empty() {
            let mut tensors = HashMap::new();
            part(&names, folder, "", &mut tensors);
            let path = program.path(format!("base/{folder}/{file}.safetensors"));
            candle_core::safetensors::save(&tensors, path).unwrap();
        }
    }
    fs::create_dir(program.path("base/tokenizer")).unwrap();
    fs::write(program.path("base/tokenizer/merges.txt"), "").unwrap();
    fs::write(program.path("base/model_index.json"), r#"{"scheduler": ["diffusers", "PNDMScheduler"]}"#).unwrap();

    let mut all = HashMap::new();
    let mut unet = HashMap::new();
    part(&names, "unet", "", &mut unet);
    let cam = ["conv_in.", "time_embedding.", "transformer_in.", "down_blocks.", "mid_block."];
    for (name, tensor) in &unet {
        all.insert(format!("base_model.{name}"), tensor.clone());
        if cam.iter().any(|part| name.starts_with(part)) {
            all.insert(format!("unet.{name}"), tensor.clone());
        }
    }
    let mut add = |name: String, shape: &[usize]| {
        all.insert(name, Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap());
    };
    let skips = names["skips"].as_u64().unwrap();
    let places = (0..skips).map(|skip| format!("down_blocks.{skip}")).chain(["mid_block".to_owned()]);
    for place in places {
        let merger = format!("base_model.cross_attention_merger_{place}.temporal_transformer.");
        for name in ["norm.weight", "norm.bias", "proj_in.bias", "proj_out.bias", "attention.to_out.0.bias"] {
            add(format!("{merger}{name}"), &[8]);
        }
        let matrices =
            ["proj_in", "proj_out", "attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0"];
        matrices.iter().for_each(|name| add(format!("{merger}{name}.weight"), &[8, 8]));
    }
    for attention in names["attentions"].as_array().unwrap() {
        let mixer = format!("base_model.{}.", attention.as_str().unwrap());
        let parts: [(&str, &[usize]); 5] = [
            ("conv.weight", &[7, 9, 3]),
            ("conv.bias", &[7]),
            ("conv_ln.weight", &[6]),
            ("conv_ln.bias", &[6]),
            ("alpha", &[]),
        ];
        parts.iter().for_each(|(name, shape)| add(format!("{mixer}{name}"), shape));
    }
    let frames = "unet.controlnet_cond_embedding";
    for (name, from, to) in [
        ("conv_in", 3, 4),
        ("blocks.0", 4, 4),
        ("blocks.1", 4, 5),
        ("blocks.2", 5, 5),
        ("blocks.3", 5, 6),
        ("conv_out", 6, 8),
    ] {
        add(format!("{frames}.{name}.weight"), &[to, from, 3, 3]);
        add(format!("{frames}.{name}.bias"), &[to]);
    }
    for (layer, out, from) in [(0, 5, 12), (2, 12, 5)] {
        add(format!("resampler.context_embedding.{layer}.weight"), &[out, from]);
        add(format!("resampler.context_embedding.{layer}.bias"), &[out]);
    }
    part(&names, "vae", "vae.", &mut all);
    part(&names, "text_encoder", "text_encoder.", &mut all);
    let clip = candle_core::safetensors::load(golden_dir().join("convert/clip.safetensors"), &Device::Cpu).unwrap();
    let clip = clip.into_iter().filter(|(name, _)| !name.starts_with("golden."));
    all.extend(clip.map(|(name, tensor)| (format!("image_encoder.model.{name}"), tensor)));
    all
}

#[test]
fn a_streaming_checkpoint_becomes_a_folder() {
    let program = program();
    let tensors = streaming(&program);
    candle_core::safetensors::save(&tensors, program.path("streaming.safetensors")).unwrap();
    let words = ["model", "convert", "streaming.safetensors", "-o", "out"];
    program.run(&words).error(2, &["--base DIR"]);
    let with = [&words[..], &["--base", "base", "--dtype", "f32"]].concat();
    program
        .run(&[&with[..], &["--image-encoder", "clip.safetensors"]].concat())
        .error(2, &["--image-encoder", "no effect"]);
    let table = program.run(&with).success().stdout();
    assert!(table.contains("base_unet/diffusion_pytorch_model.safetensors"), "{table}");
    let config = |part: &str| -> Value {
        serde_json::from_slice(&fs::read(program.path(format!("out/{part}/config.json"))).unwrap()).unwrap()
    };
    let unet = config("unet");
    assert_eq!(unet["_class_name"], "StreamingUNet3DConditionModel");
    assert_eq!(
        [&unet["merger_head_dim"], &unet["text_tokens"], &unet["image_tokens"]],
        [&json!(4), &json!(7), &json!(2)]
    );
    assert_eq!(unet["block_out_channels"], json!([8, 16]));
    let cam = config("cam");
    assert_eq!(cam["conditioning_embedding_out_channels"], json!([4, 5, 6]));
    assert_eq!(
        [&cam["conditioning_channels"], &cam["num_frames"], &cam["up_block_types"]],
        [&json!(3), &json!(8), &Value::Null]
    );
    let resampler = config("resampler");
    assert_eq!(
        [&resampler["embed_dim"], &resampler["inner_dim"], &resampler["num_tokens"]],
        [&json!(12), &json!(5), &json!(2)]
    );
    let index: Value = serde_json::from_slice(&fs::read(program.path("out/model_index.json")).unwrap()).unwrap();
    assert_eq!((&index["chunk_frames"], &index["scheduler"][1]), (&json!(16), &json!("PNDMScheduler")));
    assert!(program.path("out/tokenizer/merges.txt").exists());

    // the image encoder gives what OpenCLIP gives
    let golden = candle_core::safetensors::load(program.path("clip.safetensors"), &Device::Cpu).unwrap();
    let weights =
        candle_core::safetensors::load(program.path("out/image_encoder/model.safetensors"), &Device::Cpu).unwrap();
    let vb = VarBuilder::from_tensors(weights.clone(), DType::F32, &Device::Cpu);
    let vision: VisionConfig = serde_json::from_value(config("image_encoder")).unwrap();
    let tower = VisionTower::load(&vision, &vision.tower("").unwrap(), vb.pp("vision_model")).unwrap();
    let pooled = tower.forward(&golden["golden.picture"]).unwrap();
    let embedding = Linear::new(weights["visual_projection.weight"].clone(), None).forward(&pooled).unwrap();
    let distance = relative_l2(&embedding, &golden["golden.embedding"]);
    assert!(distance < 1e-5, "{distance}");
}

#[test]
fn other_layouts_and_faults_are_told_apart() {
    let program = program();
    let tensors = streaming(&program);
    let convert = |tensors: &HashMap<String, Tensor>, more: &[&str]| {
        candle_core::safetensors::save(tensors, program.path("file.safetensors")).unwrap();
        let done =
            program.run(&[&["model", "convert", "file.safetensors", "--base", "base", "-o", "out"], more].concat());
        let made = program.path("out").exists();
        if made {
            fs::remove_dir_all(program.path("out")).unwrap();
        }
        assert_eq!(made, done.code() == 0);
        done
    };
    // VidXTend's names
    let renamed = |name: &str| match name.split_once('.') {
        Some(("base_model", rest)) => Some(format!("unet.{rest}")),
        Some(("unet", rest)) => Some(format!("controlnet.{rest}")),
        Some(("image_encoder", _)) => None,
        _ => Some(name.to_owned()),
    };
    let vidxtend: HashMap<String, Tensor> =
        tensors.iter().filter_map(|(name, tensor)| Some((renamed(name)?, tensor.clone()))).collect();
    convert(&vidxtend, &[]).error(2, &["--image-encoder"]);
    let done = convert(&vidxtend, &["--image-encoder", "clip.safetensors", "--json"]);
    assert!(done.success().stdout().contains("image_encoder/model.safetensors"));
    let without = |gone: &str| {
        let mut tensors = tensors.clone();
        tensors.retain(|name, _| !name.contains(gone));
        tensors
    };
    convert(&without("alpha"), &[]).error(3, &["unet", "lacks 4 tensors", "alpha", ".."]);
    convert(&without("unet.mid_block"), &[]).error(3, &["cam lacks"]);
    convert(&without("context_embedding.2.bias"), &[])
        .error(3, &["resampler lacks 1 tensor: context_embedding.2.bias"]);
    convert(&without("visual.transformer.resblocks.1.mlp.c_fc.bias"), &[]).error(3, &["layers.1.mlp.fc1.bias"]);
    let mut more = tensors.clone();
    more.insert("optimizer.step".to_owned(), tensors["resampler.context_embedding.2.bias"].clone());
    convert(&more, &[]).error(3, &["1 tensor: optimizer.step"]);
    let mut other = tensors.clone();
    other.insert("base_model.conv_in.bias".to_owned(), Tensor::ones(9, DType::F32, &Device::Cpu).unwrap());
    convert(&other, &[]).error(3, &["conv_in.bias", "[9]", "[8]"]);
}
