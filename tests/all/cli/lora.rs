//! LoRA files merged into the weights of a model: the weights that diffusers fuses (goldens: `tests/reference/lora.py`), and what a
//! user can ask of them.

use crate::cli::parity::read;
use crate::cli::program::Program;
use crate::cli::resume::disturbed;
use crate::common::{assert_close, golden, golden_dir, tiny};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use vidgen::weights::ModelFolder;

const FORMS: [&str; 3] = ["peft", "kohya", "older"];

/// A model, and the files of all forms.
fn program() -> Program {
    let program = Program::new();
    tiny::write_picture_model("tiny-sd1", &program.path("model"));
    for form in FORMS {
        let file = format!("lora-{form}.safetensors");
        fs::copy(golden_dir().join("sd").join(&file), program.path(format!("{form}.safetensors"))).unwrap();
    }
    program
}

#[test]
fn merged_weights_are_those_that_diffusers_fuses() {
    let program = program();
    let model = ModelFolder::open(program.path("model").to_str().unwrap(), true).unwrap();
    let golden = golden("sd/lora");
    for form in FORMS {
        let path = program.path(format!("{form}.safetensors"));
        let merged = model.with_loras(&[(&path, 0.7)]).unwrap();
        let mut changed = 0;
        for name in ["unet", "text_encoder"] {
            let (part, plain) = (merged.part(name).unwrap(), model.part(name).unwrap());
            assert_ne!(part.hash().unwrap(), plain.hash().unwrap());
            let values = |vb: &candle_nn::VarBuilder, info: &vidgen::weights::TensorInfo| {
                vb.get(info.shape.as_slice(), &info.name).unwrap().flatten_all().unwrap()
            };
            let builders = [&part, &plain].map(|part| part.var_builder(DType::F32, &Device::Cpu).unwrap());
            for info in part.tensors().unwrap() {
                let [ours, before] = builders.each_ref().map(|vb| values(vb, &info));
                match golden.get(&format!("{form}/{name}/{}", info.name)) {
                    Some(wanted) => {
                        changed += 1;
                        assert_close(&info.name, &ours.narrow(0, 0, wanted.elem_count()).unwrap(), wanted, 1e-6);
                    }
                    None => {
                        assert!(ours.to_vec1::<f32>().unwrap() == before.to_vec1::<f32>().unwrap(), "{}", info.name)
                    }
                }
            }
        }
        assert_eq!(changed, golden.keys().filter(|key| key.starts_with(form)).count());
        assert_eq!(merged.part("vae").unwrap().hash().unwrap(), model.part("vae").unwrap().hash().unwrap());
    }
}

const QUICK: [&str; 11] =
    ["generate", "a red ball", "--model", "model", "--size", "64x48", "--frames", "2", "--steps", "20", "--seed"];

#[test]
fn videos_are_those_of_the_merged_weights() {
    let program = program();
    let latents = |more: &[&str]| {
        let files = ["3", "--save-latents", "latents.safetensors", "-o", "a.gif", "-y"];
        program.run(&[&QUICK[..], &files, more].concat()).success();
        read(&program.path("latents.safetensors"), "latents").flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let plain = latents(&[]);
    assert_eq!(latents(&["--lora", "peft.safetensors:0"]), plain);
    let merged = latents(&["--lora", "kohya.safetensors:0.7"]);
    assert!(merged != plain);
    program.run(&["rerun", "a.gif", "--check"]).success();
    let record = program.run(&["inspect", "a.gif", "--json"]).success().stdout();
    let record: Value = serde_json::from_str(&record).unwrap();
    let lora = &record["settings"]["lora"][0];
    assert_eq!((lora["file"].as_str(), lora["weight"].as_f64()), (Some("kohya.safetensors"), Some(0.7)));
    assert_eq!(lora["blake3"].as_str().map(str::len), Some(64));
    assert_eq!(latents(&["--lora", "peft.safetensors:0.7"]), merged);
    assert_eq!(latents(&["--lora", "peft.safetensors:0.7", "--offload", "disk"]), merged);
    assert_eq!(latents(&["--lora", "peft.safetensors:0.7", "--offload", "block"]), merged);
    // twice is once and a half and a half
    let near = |a: &[f32], b: &[f32]| {
        let tensor = |values: &[f32]| Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
        assert_close("several", &tensor(a), &tensor(b), 1e-4);
    };
    let both = latents(&["--lora", "peft.safetensors:0.5", "--lora", "kohya.safetensors:0.2"]);
    near(&both, &merged);
    let plan = ["plan", "a red ball", "--model", "model", "--lora", "peft.safetensors", "--json"];
    program.run(&plan).success();
}

#[test]
fn a_run_goes_on_with_the_same_files_only() {
    let program = program();
    let more = ["4", "--lora", "peft.safetensors", "--checkpoint-every", "1", "--progress", "json", "-o", "a.gif"];
    let (events, code) = disturbed(&program, &[&QUICK[..], &more].concat(), "step", 4, libc::SIGINT);
    assert_eq!(code, Some(130), "{events:?}");
    let kept = fs::read(program.path("peft.safetensors")).unwrap();
    fs::copy(program.path("older.safetensors"), program.path("peft.safetensors")).unwrap();
    program.run(&["resume", "last"]).error(3, &["the weights of part", "LoRA"]);
    fs::write(program.path("peft.safetensors"), kept).unwrap();
    program.run(&["resume", "last"]).success();
}

#[test]
fn files_that_do_not_fit_say_why() {
    let program = program();
    let refused = |code: i32, lora: &str, words: &[&str]| {
        program.run(&[&QUICK[..], &["3", "-o", "a.gif", "--lora", lora]].concat()).error(code, words);
    };
    refused(3, "none.safetensors", &["--lora", "none.safetensors", "no such file"]);
    refused(2, ":0.5", &["FILE:WEIGHT"]);
    fs::write(program.path("a.pt"), "x").unwrap();
    refused(3, "a.pt", &["a.pt", "pickled"]);
    refused(3, "model/unet/diffusion_pytorch_model.safetensors", &["of its", "tensors are of no layer of this model"]);
    let save = |name: &str, change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let path = program.path("peft.safetensors");
        let mut tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        change(&mut tensors);
        candle_core::safetensors::save(&tensors, program.path(name)).unwrap();
    };
    let one = tiny::unit("x", &[2, 2]);
    save("more.safetensors", &|tensors| {
        for name in ["unet.a.lora_A.weight", "unet.b.lora_A.weight", "unet.c.hada_w1_a", "unet.d.dora_scale"] {
            tensors.insert(name.to_owned(), one.clone());
        }
    });
    refused(
        3,
        "more.safetensors",
        &["4 of its", "unet.a.lora_A.weight\", \"unet.b.lora_A.weight\", \"unet.c.hada_w1_a\";"],
    );
    let to_q = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight";
    save("half.safetensors", &|tensors| drop(tensors.remove(to_q).unwrap()));
    refused(3, "half.safetensors", &["attn1.to_q", "only one of its two factors"]);
    save("shape.safetensors", &|tensors| drop(tensors.insert(to_q.to_owned(), one.clone())));
    refused(3, "shape.safetensors", &["attn1.to_q", "[2, 2]", "[32, 32]"]);
    tiny::write_picture_model("tiny-sd2", &program.path("model"));
    refused(3, "peft.safetensors", &["peft.safetensors"]);
}
