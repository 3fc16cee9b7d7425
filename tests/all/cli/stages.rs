//! Scenes that hand frames to each other, and a second stage.

use crate::cli::program::Program;
use crate::common::tiny;
use serde_json::Value;
use std::fs;

fn program() -> Program {
    let program = Program::new();
    tiny::write_folder("tiny-2b", "tiny-2b", &program.path("model"));
    program
}

const STORY: [&str; 12] =
    ["multi-prompt", "-p", "a red ball", "-p", "a blue box", "--model", "model", "--seed", "3", "--steps", "2", "-y"];

/// The frames of a y4m file without its header line.
fn frames(program: &Program, name: &str) -> Vec<u8> {
    let bytes = fs::read(program.path(name)).unwrap();
    let head = bytes.iter().position(|&byte| byte == b'\n').unwrap();
    bytes[head..].to_vec()
}

#[test]
fn a_scene_that_continues_depends_on_the_one_before_and_a_cut_does_not() {
    let program = program();
    let run = |first: &str, transition: &str, output: &str| {
        let words = [&STORY[..], &["--size", "32x32", "--frames", "18", "--transition", transition, "-o", output]];
        let mut words = words.concat();
        words[2] = first;
        program.run(&words).success();
        let all = frames(&program, output);
        all[all.len() / 2 + 1..].to_vec() // from the tenth frame on
    };
    let seen = |transition: &str| {
        let other = run("a green ball at night", transition, "b.y4m");
        (run("a red ball", transition, "a.y4m"), other)
    };
    let (cut, other) = seen("cut");
    assert_eq!(cut.len(), other.len());
    assert!(cut == other);
    let (by_frames, other) = seen("continue");
    assert!(by_frames != other && by_frames != cut);
    let (by_latents, other) = seen("continue:latents");
    assert!(by_latents != other && by_latents != by_frames);
}

#[test]
fn the_length_of_scenes_that_continue_is_what_was_asked_for() {
    let program = program();
    for frames in [18, 25, 31] {
        let count = frames.to_string();
        let flags = ["--size", "32x32", "--frames", &count, "--transition", "continue", "--json", "-o", "a.y4m"];
        let done = program.run(&[&STORY[..], &flags].concat()).success().stdout();
        let done: Value = serde_json::from_str(&done).unwrap();
        assert_eq!(done["frames"].as_u64(), Some(frames));
    }
}

#[test]
fn a_second_stage_has_its_size_its_steps_and_its_place_in_the_record() {
    let program = program();
    let one = ["generate", "a red ball", "--model", "model", "--size", "32x32", "--frames", "9", "--steps", "4"];
    let run = |more: &[&str]| {
        let words = [&one[..], &["--seed", "1", "-y", "--json", "-o", "a.y4m"], more].concat();
        let done = program.run(&words).success().stdout();
        serde_json::from_str::<Value>(&done).unwrap()
    };
    run(&[]);
    let plain = frames(&program, "a.y4m");
    let done = run(&["--enhance", "model", "--enhance-strength", "0.5"]);
    let enhanced = frames(&program, "a.y4m");
    assert!(enhanced.len() == plain.len() && enhanced != plain);
    let record = &done["manifest"]["settings"]["enhance"];
    assert_eq!(record["strength"].as_f64(), Some(0.5), "{done}");
    let done = run(&["--enhance", "model", "--enhance-strength", "1", "--enhance-size", "64x48"]);
    assert_eq!(done["frames"].as_u64(), Some(9));
    let head = fs::read(program.path("a.y4m")).unwrap();
    assert!(head.starts_with(b"YUV4MPEG2 W64 H48"));
    // a little strength changes little
    let far = |name: &[u8]| {
        name.iter().zip(&plain).map(|(&a, &b)| f64::from(a.abs_diff(b))).sum::<f64>() / plain.len() as f64
    };
    run(&["--enhance", "model", "--enhance-strength", "1"]);
    let whole = frames(&program, "a.y4m");
    assert!(whole.len() == plain.len() && whole != enhanced && far(&whole) > 0.0);
}

#[test]
fn what_a_second_stage_cannot_do_is_said_in_one_line() {
    let program = program();
    let refused = |more: &[&str], words: &[&str]| {
        let one = ["generate", "a red ball", "--model", "model", "--size", "32x32", "--frames", "9", "-o", "a.y4m"];
        program.run(&[&one[..], more].concat()).error(2, words);
    };
    refused(&["--enhance-strength", "0.5"], &["--enhance-strength has no effect without --enhance"]);
    refused(&["--enhance", "model", "--enhance-strength", "0"], &["--enhance-strength 0", "more than 0"]);
    refused(&["--enhance", "model", "--enhance-strength", "1.5"], &["--enhance-strength 1.5", "up to 1"]);
    refused(&["--enhance", "model", "--enhance-strength", "0.001"], &["that is none", "or more"]);
    refused(&["--enhance", "model", "--enhance-size", "33x32"], &["--enhance-size", "33"]);
    let one = ["generate", "a red ball", "--model", "model", "-o", "a.y4m", "--enhance", "nowhere/"];
    program.run(&one).error(3, &["--enhance", "nowhere"]);
    let story = ["--transition", "continue", "--overlap", "0", "-o", "a.y4m"];
    program.run(&[&STORY[..], &story].concat()).error(2, &["--overlap 0", "scene 2"]);
    let edit = ["edit", "a.y4m", "--swap", "ball=>box"];
    program
        .run(&[&STORY[..], &["--size", "32x32", "--frames", "18", "--transition", "continue", "-o", "a.gif"]].concat())
        .success();
    program.run(&["edit", "a.gif", edit[2], edit[3], "-o", "b.gif"]).error(2, &["continue each other", "edited"]);
    program.run(&["attn-map", "a.gif", "--words", "ball", "-o", "m/"]).error(2, &["continue each other"]);
}
