//! Windows longer than a model's: against plain forms around diffusers' pipeline (goldens: `tests/reference/long.py`), and what is told
//! of them.

use crate::cli::parity::{read, write_noise};
use crate::cli::program::Program;
use crate::common::{assert_close, golden, relative_l2, tiny};
use candle_core::Tensor;
use serde_json::Value;

const PROMPT: &str = "a red ball rolls to the right";

fn program(kind: &str) -> Program {
    let program = Program::new();
    tiny::write_folder(kind, kind, &program.path("model"));
    program
}

fn latents(program: &Program, frames: &str, more: &[&str]) -> Tensor {
    let how = ["--model", "model", "--steps", "4", "--guidance-scale", "6", "--size", "48x32", "--scheduler", "ddim"];
    let what = ["--frames", frames, "--init-noise", "noise.safetensors", "--text-cache", "off", "--uncond", "zeros"];
    let out = ["--save-latents", "latents.safetensors", "-y", "-o", "out/"];
    program.run(&[&["generate", PROMPT][..], &how, &what, &out, more].concat()).success();
    read(&program.path("latents.safetensors"), "latents")
}

#[test]
fn long_windows_equal_the_plain_form() {
    let golden = golden("pipeline/long");
    for (name, frames, long) in [
        ("ultravico/2b", "25", "ultravico:0.7"),
        ("ultravico/5b", "25", "ultravico:alpha=0.7"),
        ("riflex/5b", "33", "riflex:k=1"),
    ] {
        let program = program(&format!("tiny-{}", name.rsplit('/').next().unwrap()));
        let want = &golden[name];
        write_noise(&program.path("noise.safetensors"), want.dims().try_into().unwrap());
        assert_close(name, &latents(&program, frames, &["--long", long]), want, 1e-4);
        assert!(relative_l2(&latents(&program, frames, &[]), want) > 1e-3, "{name} makes no difference");
    }
}

#[test]
fn a_window_is_as_long_as_asked_and_told_of() {
    let program = program("tiny-5b");
    let story = ["-p", "a red ball", "-p", "a blue ball", "--model", "model", "--size", "32x32"];
    let plan = |more: &[&str]| -> Value {
        let text = program.run(&[&["plan"][..], &story, more, &["--json"]].concat()).success().stdout();
        serde_json::from_str(&text).unwrap()
    };
    // windows of 6 latent frames, 9/13 of them shared
    let six = plan(&["--window", "6"]);
    assert_eq!((six["windows"][0]["end"].as_u64(), six["windows"][1]["start"].as_u64()), (Some(6), Some(2)));
    let warned = six["warnings"].to_string();
    assert!(warned.contains("windows of 3 latent frames") && warned.contains("riflex"), "{warned}");
    assert_eq!(plan(&["--window", "6", "--long", "riflex:k=1"])["warnings"], serde_json::json!([]));
    assert_eq!(plan(&["--window", "3"])["windows"], plan(&[])["windows"]);
    let one = [
        "generate",
        PROMPT,
        "--model",
        "model",
        "--size",
        "32x32",
        "--steps",
        "1",
        "--window",
        "5",
        "--long",
        "ultravico",
    ];
    program.run(&[&one[..], &["-o", "a.gif"]].concat()).success();
    let record: Value = serde_json::from_str(&program.run(&["inspect", "a.gif", "--json"]).success().stdout()).unwrap();
    assert_eq!(
        (&record["settings"]["frames"], &record["settings"]["long"]),
        (&17.into(), &"ultravico:alpha=0.9".into())
    );
    program.run(&["rerun", "a.gif", "--check"]).success();
}

#[test]
fn what_cannot_be_longer_is_refused() {
    let sine = program("tiny-2b");
    let refused = |more: &[&str], words: &[&str]| {
        sine.run(&[&["generate", PROMPT, "--model", "model", "-o", "a.gif"][..], more].concat()).error(2, words);
    };
    refused(&["--frames", "25", "--long", "riflex"], &["--long riflex", "rotary", "--long ultravico"]);
    refused(&["--long", "ultravico"], &["--long ultravico", "no effect", "3 latent frames"]);
    refused(&["--long", "ultraviko"], &["did you mean ultravico?"]);
    refused(&["--long", "ultravico:3", "--frames", "25"], &["alpha=3 is not a number above 0"]);
    refused(&["--window", "0"], &["--window 0: give 1 to 4096"]);
    refused(&["--window", "5", "--frames", "9"], &["--window 5", "one window, of 3"]);
    refused(&["--model", "toyland-image", "--long", "ultravico"], &["--long", "one sequence"]);
    refused(&["--model", "toyland-image", "--window", "5"], &["--window has no effect"]);
    let rotary = program("tiny-5b");
    let k = ["generate", PROMPT, "--model", "model", "-o", "a.gif", "--frames", "33", "--long", "riflex:k=9"];
    rotary.run(&k).error(2, &["k=9", "2 frequencies"]);
}
