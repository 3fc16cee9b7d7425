//! `--interpolate`: frames between frames.

use crate::cli::program::Program;
use crate::common::{golden, tiny};
use candle_core::Tensor;
use serde_json::Value;
use std::collections::HashMap;
use std::fs;

const RUN: [&str; 8] = ["--model", "model", "--steps", "1", "--size", "32x32", "--seed", "3"];

/// Pixels of the PNGs of a folder, in order.
fn frames(program: &Program, folder: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(program.path(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|suffix| suffix == "png")).collect();
    paths.sort();
    paths.iter().map(|path| image::open(path).unwrap().to_rgb8().into_raw()).collect()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A tiny model and, where `make metrics` would leave it, a small RIFE.
fn program() -> Program {
    let program = Program::new();
    tiny::write_folder("tiny-2b", "tiny-2b", &program.path("model"));
    let weights = golden("rife").into_iter();
    let weights: HashMap<String, Tensor> =
        weights.filter_map(|(name, x)| Some((name.strip_prefix("small.weights.")?.to_owned(), x))).collect();
    let folder = program.path("home/.local/share/vidgen/metrics");
    fs::create_dir_all(&folder).unwrap();
    candle_core::safetensors::save(&weights, folder.join("rife-v3.9.safetensors")).unwrap();
    program
}

#[test]
fn frames_are_put_between_those_that_are_made() {
    let program = program();
    let generate = |more: &[&str]| program.run(&[&["generate", "x", "--frames", "6"], more, &RUN].concat()).success();
    generate(&["-o", "plain/"]);
    let result = json(&generate(&["-o", "twice/", "--interpolate", "2x", "--json"]).stdout());
    assert_eq!((&result["frames"], &result["manifest"]["settings"]["fps"]), (&11.into(), &"16".into()), "{result}");
    generate(&["-o", "four/", "--interpolate", "4x"]);
    let (plain, twice, four) = (frames(&program, "plain"), frames(&program, "twice"), frames(&program, "four"));
    assert_eq!((plain.len(), twice.len(), four.len()), (6, 11, 21));
    assert!(plain.iter().eq(twice.iter().step_by(2)) && twice.iter().eq(four.iter().step_by(2)));
    // the network's own weights are random, so what it makes is not its neighbours
    assert!(twice[1] != twice[0] && twice[1] != twice[2]);
    let forecast = json(&generate(&["-o", "none/", "--interpolate", "2x", "--dry-run", "--json"]).stdout());
    assert_eq!(forecast["frames"], 11, "{forecast}");
    program.run(&["rerun", "twice", "--check"]).success();
}

#[test]
fn nothing_is_put_into_a_cut() {
    let program = program();
    let words = ["multi-prompt", "-p", "a", "-p", "b", "--transition", "cut", "--frames", "10", "--interpolate", "2x"];
    program.run(&[&words[..], &["-o", "cut/"], &RUN].concat()).success();
    let frames = frames(&program, "cut");
    assert_eq!(frames.len(), 19);
    // made frames 4 and 5 are on the two sides of it
    assert!(frames[9] == frames[8] && frames[9] != frames[10] && frames[7] != frames[6]);
    let seams = program.run(&["eval", "cut", "--json", "--per-frame"]).success().stdout();
    assert!(json(&seams)["videos"][0].is_object());
}

#[test]
fn it_needs_its_network_and_a_rate() {
    let program = program();
    let words = ["generate", "x", "--frames", "6", "-o", "a.gif", "--interpolate"];
    program.run(&[&words[..], &["3x"], &RUN].concat()).error(2, &["3x", "2x, 4x, 8x"]);
    program.run(&[&words[..], &["8x", "--fps", "500"], &RUN].concat()).error(2, &["--interpolate 8x", "500"]);
    fs::remove_dir_all(program.path("home/.local/share/vidgen")).unwrap();
    program.run(&[&words[..], &["2x"], &RUN].concat()).error(2, &["--interpolate 2x", "make metrics METRICS=rife"]);
}
