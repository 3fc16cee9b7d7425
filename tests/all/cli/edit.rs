//! Edits: against a plain loop around diffusers' modules (goldens: `tests/reference/edit.py`), the laws, and what users type.

use crate::cli::parity::{read, write_noise};
use crate::cli::program::{Done, Program};
use crate::common::{assert_close, golden, relative_l2, tiny};
use candle_core::Tensor;

const PROMPT: &str = "a red ball rolls";
const TWO: [&str; 2] = [PROMPT, "a red box rests"];
const SHARE: &str = "kv-share:layers=1-2,steps=1-2";

/// A directory with a tiny model.
fn program(kind: &str) -> Program {
    let program = Program::new();
    tiny::write_folder(kind, kind, &program.path("model"));
    program
}

/// A command with the settings of the goldens.
fn run(program: &Program, what: &[&str], flags: &[&str]) -> Done {
    let fixed = ["--model", "model", "--steps", "4", "--guidance-scale", "6", "--size", "48x32", "--text-cache", "off"];
    let out = ["--save-latents", "latents.safetensors", "-y", "-o", "frames/"];
    program.run(&[what, &fixed, &out, flags].concat())
}

fn latents(program: &Program, what: &[&str], flags: &[&str]) -> Tensor {
    run(program, what, flags).success();
    read(&program.path("latents.safetensors"), "latents")
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// The run of two prompts whose record edits are then given.
fn story(program: &Program, flags: &[&str]) -> Tensor {
    std::fs::write(program.path("story.txt"), TWO.join("\n")).unwrap();
    latents(program, &["multi-prompt", "story.txt"], &[flags, &["-o", "story/"]].concat())
}

#[test]
fn edits_of_one_window_equal_the_reference() {
    let golden = golden("pipeline/edit");
    for (name, kind, scheduler, edits, share) in [
        ("swap", "2b", "ddim", &["--swap", "red=>blue"][..], SHARE),
        ("swap-5b", "5b", "dpm", &["--swap", "red=>big blue"], "kv-share:layers=0,2,steps=0-2"),
        ("reweight", "2b", "dpm", &["--reweight", "ball:0.25"], ""),
        ("reweight-5b", "5b", "ddim", &["--reweight", "red:-1", "--reweight", "rolls:3"], ""),
        ("both", "2b", "ddim", &["--swap", "red=>big blue", "--reweight", "ball:0.25", "--reweight", "blue:2"], SHARE),
    ] {
        let program = program(&format!("tiny-{kind}"));
        let want = &golden[name];
        write_noise(&program.path("noise.safetensors"), want.dims().try_into().unwrap());
        let how = ["--scheduler", scheduler, "--init-noise", "noise.safetensors"];
        let share = if share.is_empty() { vec![] } else { vec!["--attn-proc", share] };
        let got = latents(&program, &["edit", PROMPT], &[edits, &how, &share].concat());
        assert_close(name, &got, want, 1e-5);
        if name == "swap" {
            let source = latents(&program, &["generate", PROMPT], &how);
            assert_close("source", &source, &golden["source"], 1e-5);
        }
    }
}

#[test]
fn edits_of_several_windows_equal_the_reference() {
    let golden = golden("pipeline/edit");
    for (name, kind, scheduler, edit, share, overlap, transitions) in [
        ("swap-windows", "2b", "ddim", ["--swap", "red=>blue"], SHARE, "2", "1"),
        ("reweight-windows", "5b", "dpm", ["--reweight", "box:0.25"], "kv-share:layers=1,steps=1-2", "1", "0"),
    ] {
        let program = program(&format!("tiny-{kind}"));
        let want = &golden[name];
        write_noise(&program.path("noise.safetensors"), want.dims().try_into().unwrap());
        let windows = ["--overlap", overlap, "--transition-windows", transitions, "--attn-proc", share];
        let how = ["--scheduler", scheduler, "--init-noise", "noise.safetensors"];
        let source = story(&program, &[&windows[..], &how].concat());
        let got = latents(&program, &["edit", "story"], &edit);
        assert_close(name, &got, want, 1e-5);
        assert!(relative_l2(&got, &source) > 1e-2);
    }
}

#[test]
fn an_edit_that_changes_nothing_is_the_original_bit_for_bit() {
    let program = program("tiny-5b");
    let seed = ["--seed", "3"];
    let plain = latents(&program, &["generate", PROMPT], &seed);
    let share = ["--attn-proc", SHARE];
    for (edit, share) in [
        (&["--swap", "red=>red"][..], &share[..]),
        (&["--reweight", "ball:1"], &[]),
        (&["--swap", "red=>red", "--reweight", "ball:1"], &share),
        (&["--swap", "red=>red", "--side-by-side"], &share),
        (&["--swap", "red=>red", "--guidance-scale", "6"], &["--attn-proc", "kv-share"]),
    ] {
        let edited = latents(&program, &["edit", PROMPT], &[&seed, edit, share].concat());
        assert_eq!(values(&edited), values(&plain), "{edit:?}");
    }
    // several windows, with and without sharing among them
    for flags in [&["--attn-proc", SHARE, "--transition-windows", "1"][..], &["--transition", "blend"]] {
        let source = story(&program, &[&seed, flags].concat());
        let swap = ["--swap", "red=>red", "--attn-proc", SHARE];
        for edit in [&swap[..], &["--reweight", "box:1"]] {
            let edited = latents(&program, &["edit", "story"], edit);
            assert_eq!(values(&edited), values(&source), "{flags:?} {edit:?}");
        }
    }
}

#[test]
fn a_video_is_edited_from_its_record() {
    let program = Program::new();
    let small = ["--steps", "2", "--frames", "5", "--size", "48x32", "--text-cache", "off"];
    let prompt = "a red ball rolls in a green meadow";
    program.run(&[&["generate", prompt, "--seed", "7", "-o", "ball.mp4"][..], &small].concat()).success();
    let edited = |words: &[&str]| program.run(&[&["edit"], words, &["--text-cache", "off"]].concat()).success();
    edited(&["ball.mp4", "--swap", "red=>blue", "--swap", "green=>", "-o", "blue/"]);
    let by_prompt = ["edit", prompt, "--seed", "7", "--swap", "green=>", "--swap", "red=>blue", "-o", "same/"];
    program.run(&[&by_prompt[..], &small].concat()).success();
    let frame =
        |folder: &str, index: usize| image::open(program.path(folder).join(format!("frame-{index:06}.png"))).unwrap();
    for index in 0..5 {
        assert_eq!(frame("blue", index), frame("same", index));
    }
    // its record says what was done, and can be edited on
    let record = program.run(&["inspect", "blue", "--json"]).success().stdout();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["command"], "edit");
    assert_eq!(record["prompts"][0], "a blue ball rolls in a meadow");
    assert_eq!(record["settings"]["source_prompts"][0], prompt);
    assert_eq!(record["settings"]["swap"], serde_json::json!(["red=>blue", "green=>"]));
    assert_eq!(record["settings"]["reads_source"], "layers=5,steps=0");
    let shown = program.run(&["inspect", "blue"]).success().stdout();
    assert!(shown.contains("made by") && shown.contains(" edit") && shown.contains("red=>blue"), "{shown}");
    edited(&["blue", "--swap", "red=>yellow", "--reweight", "ball:0.5", "--side-by-side", "-o", "on.mp4"]);
    let record = program.run(&["inspect", "on.mp4.json", "--json"]).success().stdout();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["prompts"][0], "a yellow ball rolls in a meadow");
    assert_eq!(
        (&record["settings"]["side_by_side"], &record["settings"]["reweight"][0]),
        (&true.into(), &"ball:0.5".into())
    );

    // the original on the left, as it was
    edited(&["ball.mp4", "--swap", "red=>blue", "--swap", "green=>", "--side-by-side", "-o", "both/"]);
    program.run(&[&["generate", prompt, "--seed", "7", "-o", "ball/"][..], &small].concat()).success();
    for index in 0..5 {
        let both = frame("both", index);
        assert_eq!(both.crop_imm(0, 0, 48, 32), frame("ball", index));
        assert_eq!(both.crop_imm(48, 0, 48, 32), frame("blue", index));
    }
    // an edited version without a name does not take the original's
    let named = edited(&["ball.mp4.json", "--reweight", "ball:0.5", "--json"]).stdout();
    assert!(named.contains("a-red-ball-rolls-in-a-green-meadow-7-edit.mp4"), "{named}");
}

#[test]
fn mistakes_are_told() {
    let program = Program::new();
    std::fs::write(program.path("other.json"), "{}").unwrap();
    let small = ["--steps", "1", "--frames", "1", "--size", "48x32", "--text-cache", "off", "-o", "a/"];
    let run = |words: &[&str]| program.run(&[&["edit"], words, &small].concat());
    run(&[PROMPT]).error(2, &["nothing to edit", "--swap"]);
    run(&["--swap", "red=>blue"]).error(2, &["PROMPT"]);
    run(&[PROMPT, "--swap", "cat=>dog"]).error(2, &["--swap cat=>dog", "\"cat\" is not in the prompt", PROMPT]);
    run(&[PROMPT, "--swap", "re=>x"]).error(2, &["\"re\" is not in the prompt"]);
    run(&[PROMPT, "--reweight", "night:0.5"])
        .error(2, &["--reweight night:0.5", "\"night\" is not in the prompt", PROMPT]);
    run(&[PROMPT, "--swap", "ball=>box", "--reweight", "ball:2"])
        .error(2, &["\"ball\" is not in the prompt \"a red box rolls\""]);
    run(&[PROMPT, "--swap", "red"]).error(2, &["\"red\" is not WORDS=>WORDS"]);
    run(&[PROMPT, "--reweight", "red:much"]).error(2, &["is not WORDS:FACTOR"]);
    run(&[PROMPT, "--swap", "red=>blue", "--subject", "ball"])
        .error(2, &["--subject has no effect on a single window"]);
    run(&[PROMPT, "--swap", "red=>blue", "--overlap", "3"]).error(2, &["--overlap has no effect"]);
    run(&["none.mp4", "--swap", "red=>blue"]).error(2, &["none.mp4"]);
    run(&["other.json", "--swap", "red=>blue"]).error(1, &["other.json", "no record of vidgen"]);
    let long = "a red ball and so on ".repeat(60) + "with a cat";
    run(&[&long, "--swap", "cat=>dog"]).error(2, &["is not in what is read of the prompt"]);
    let other = crate::common::tiny::write_folder;
    other("tiny-2b", "tiny-2b", &program.path("model"));
    run(&[PROMPT, "--model", "model", "--swap", "red=>blue"])
        .error(2, &["no recipe", "3 layers", "kv-share:layers=2,steps=0"]);
    let help = program.run(&["edit", "--help"]).success().stdout();
    assert!(
        help.contains("--side-by-side") && help.contains("red=>blue") && help.contains("docs/editing.md"),
        "{help}"
    );
}
