//! Videos of StreamingT2V folders: whole runs against a plain PyTorch form of the method on the same random weights and noise (goldens:
//! `tests/reference/streaming.py`), and what a user can ask of them.

use crate::cli::enhance::{assert_frames, write_video};
use crate::cli::parity::read;
use crate::cli::program::Program;
use crate::cli::resume::disturbed;
use crate::common::{assert_close, golden, thin, tiny};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const KIND: &str = "tiny-stream";
const PROMPT: &str = "a red ball rolls";
/// Frames of a chunk, and of those the ones that are seen again.
const CHUNK: usize = 6;
const BEFORE: usize = 2;

fn program() -> Program {
    let program = Program::new();
    tiny::write_picture_model(KIND, &program.path("model"));
    program
}

struct Case {
    name: &'static str,
    cells: (usize, usize),
    frames: usize,
    /// Of chunks but the first.
    steps: usize,
    flags: &'static [&'static str],
    /// Frames of a given video.
    given: usize,
}

const CASES: [Case; 5] = [
    Case { name: "stream", cells: (5, 7), frames: 13, steps: 3, flags: &["--first-steps", "5"], given: 0 },
    Case {
        name: "alone",
        cells: (4, 4),
        frames: 10,
        steps: 2,
        flags: &["--first-steps", "4", "--guidance-scale", "1"],
        given: 0,
    },
    Case { name: "none", cells: (4, 6), frames: 10, steps: 3, flags: &["--anchor", "none"], given: 0 },
    Case {
        name: "later",
        cells: (4, 4),
        frames: 11,
        steps: 2,
        flags: &["--anchor", "frame:3", "--first-steps", "3"],
        given: 0,
    },
    Case { name: "extend", cells: (4, 6), frames: 7, steps: 3, flags: &[], given: 5 },
];

fn write_noise(program: &Program, case: &Case) {
    let Case { name, cells: (h, w), frames, steps, given, .. } = *case;
    let new = CHUNK - BEFORE;
    let (chunks, streamed) = match given {
        0 => (1 + (frames - CHUNK).div_ceil(new), (frames - CHUNK).div_ceil(new)),
        _ => (frames.div_ceil(new), frames.div_ceil(new)),
    };
    let tensors = HashMap::from([
        ("noise".to_owned(), tiny::unit(&format!("streaming/{name}/noise"), &[chunks, CHUNK, 4, h, w])),
        (
            "step_noise".to_owned(),
            tiny::unit(&format!("streaming/{name}/step_noise"), &[streamed, steps, CHUNK, 4, h, w]),
        ),
    ]);
    candle_core::safetensors::save(&tensors, program.path("noise.safetensors")).unwrap();
}

#[test]
fn whole_runs_equal_the_reference() {
    let golden = golden("streaming/run");
    for case in CASES {
        let Case { name, cells: (h, w), frames, steps, flags, given } = case;
        let program = program();
        write_noise(&program, &case);
        let (size, steps, count) = (format!("{}x{}", 8 * w, 8 * h), steps.to_string(), frames.to_string());
        let files = ["--init-noise", "noise.safetensors", "--save-latents", "latents.safetensors", "-o", "out/"];
        let how = ["--model", "model", "--size", &size, "--steps", &steps, "--frames", &count, "--fps", "8"];
        let what = if given > 0 { vec!["extend", "in", PROMPT] } else { vec!["generate", PROMPT] };
        if given > 0 {
            write_video(&program, "in", &tiny::unit(&format!("streaming/{name}/video"), &[given, 3, 8 * h, 8 * w]));
        }
        program.run(&[&what[..], &how, flags, &files].concat()).success();
        let latents = read(&program.path("latents.safetensors"), "latents").squeeze(0).unwrap();
        assert_close(name, &thin(&latents), &golden[&format!("{name}/latents")], 1e-4);
        assert_frames(name, &program.path("out"), given..given + frames, &golden[&format!("{name}/frames")]);
        for at in 0..given {
            let frame = |folder: &str| image::open(program.path(format!("{folder}/frame-{at:06}.png"))).unwrap();
            assert_eq!(frame("in").to_rgb8(), frame("out").to_rgb8(), "given frames come first");
        }
    }
}

/// A quick run: two steps a chunk.
const QUICK: [&str; 12] =
    ["--model", "model", "--size", "32x32", "--steps", "2", "--first-steps", "3", "--seed", "5", "--fps", "8"];

fn frame(program: &Program, folder: &str, at: usize) -> Vec<u8> {
    fs::read(program.path(format!("{folder}/frame-{at:06}.png"))).unwrap()
}

/// Frames of a folder that are there.
fn count(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().extension().is_some_and(|suffix| suffix == "png")).count()
}

#[test]
fn a_longer_video_begins_with_a_shorter_one_and_its_record_makes_it_again() {
    let program = program();
    let make = |frames: &str, output: &str| {
        let done =
            program.run(&[&["generate", PROMPT, "--frames", frames, "-o", output, "--json"], &QUICK[..]].concat());
        serde_json::from_str::<Value>(&done.success().stdout()).unwrap()
    };
    let short = make("9", "short/");
    make("17", "long/");
    make("4", "clip/");
    assert_eq!((count(&program.path("short")), count(&program.path("long")), count(&program.path("clip"))), (9, 17, 4));
    (0..9).for_each(|at| assert_eq!(frame(&program, "short", at), frame(&program, "long", at), "{at}"));
    (0..4).for_each(|at| assert_eq!(frame(&program, "clip", at), frame(&program, "long", at), "{at}"));
    let settings = &short["manifest"]["settings"];
    let said = |key: &str| settings[key].to_string();
    assert_eq!(
        ["chunk_frames", "frames_before", "anchor", "first_steps", "first_guidance_scale", "first_scheduler"].map(said),
        ["6", "2", "\"frame:0\"", "3", "\"9\"", "\"dpmpp-2m\""]
    );
    assert_eq!(["steps", "guidance_scale", "scheduler", "eta"].map(said), ["2", "\"7.5\"", "\"ddim\"", "1.0"]);
    program.run(&["rerun", "short", "--check"]).success();
}

#[test]
fn a_chunk_has_the_prompt_of_its_first_new_frame() {
    let program = program();
    let make = |what: &[&str], output: &str| {
        program.run(&[what, &["-o", output], &QUICK[..]].concat()).success();
    };
    make(&["generate", PROMPT, "--frames", "18"], "one/");
    // the second scene begins with frame 9, in the middle of a chunk that begins with frame 6
    make(&["multi-prompt", "-p", PROMPT, "-p", "a blue box", "--frames", "18"], "two/");
    assert_eq!(count(&program.path("two")), 18);
    (0..10).for_each(|at| assert_eq!(frame(&program, "one", at), frame(&program, "two", at), "{at}"));
    assert_ne!(frame(&program, "one", 10), frame(&program, "two", 10));
}

#[test]
fn a_run_that_was_killed_goes_on_to_the_same_bytes() {
    let program = program();
    let words = |output| {
        let long = ["--model", "model", "--size", "32x32", "--steps", "12", "--first-steps", "20", "--seed", "5"];
        let how =
            ["--fps", "8", "--progress", "json", "--checkpoint-every", "1", "--save-latents", "l.safetensors", "-y"];
        [&["generate", PROMPT, "--frames", "16", "-o", output][..], &long, &how].concat()
    };
    program.run(&words("whole/")).success();
    let latents = fs::read(program.path("l.safetensors")).unwrap();
    // in the first chunk, at its end, in the second and in the last
    for (step, with) in [(5, libc::SIGKILL), (20, libc::SIGKILL), (26, libc::SIGINT), (50, libc::SIGKILL)] {
        fs::remove_file(program.path("l.safetensors")).unwrap();
        let (events, code) = disturbed(&program, &words("again/"), "step", step, with);
        assert_ne!(code, Some(0), "{events:?}");
        let again = program.run(&["resume", "last", "--progress", "json"]).success().stderr();
        let taken = again.lines().filter(|line| line.contains(r#""event":"step""#)).count();
        assert!(taken <= 56 - step + 2, "{taken} of 56 steps are taken again after step {step}");
        assert_eq!(count(&program.path("again")), 16);
        (0..16)
            .for_each(|at| assert_eq!(frame(&program, "whole", at), frame(&program, "again", at), "step {step}, {at}"));
        assert!(fs::read(program.path("l.safetensors")).unwrap() == latents, "step {step}");
        fs::remove_dir_all(program.path("again")).unwrap();
        fs::remove_file(program.path("again.json")).ok();
    }
}

#[test]
fn chunks_are_written_as_they_are_made() {
    let program = program();
    let words = ["generate", PROMPT, "--frames", "22", "-o", "out/", "--progress", "json", "--model", "model"];
    let how = ["--size", "32x32", "--steps", "30", "--first-steps", "2", "--seed", "5", "--fps", "8"];
    let mut child =
        program.command(&[&words[..], &how].concat()).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut seen = Vec::new();
    for line in lines {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        // the first step of the third chunk and of the fifth
        let (chunk, step) = match event["index"].as_u64() {
            Some(index) if event["event"] == "step" && index >= 2 => ((index - 2) / 30 + 1, (index - 2) % 30),
            _ => continue,
        };
        if step > 0 || !matches!(chunk, 2 | 4) {
            continue;
        }
        let done = CHUNK + (CHUNK - BEFORE) * (chunk as usize - 1);
        let begun = Instant::now();
        let there = || {
            let folders = fs::read_dir(program.path("")).unwrap().flatten().map(|entry| entry.path());
            folders.filter(|path| path.is_dir()).map(|path| count(&path)).max().unwrap_or(0)
        };
        while there() < done && begun.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(5));
        }
        seen.push((there(), done, program.path("out").exists()));
    }
    assert!(child.wait().unwrap().success());
    assert!(seen.len() == 2 && seen.iter().all(|(there, done, whole)| there >= done && !whole), "{seen:?}");
}

#[test]
fn memory_does_not_grow_with_the_length() {
    let program = program();
    let peak = |frames: &str| {
        let words =
            ["generate", PROMPT, "--frames", frames, "-o", "a.y4m", "--json", "-y", "-j", "2", "--model", "model"];
        let how = ["--size", "32x32", "--steps", "1", "--first-steps", "1", "--save-latents", "l.safetensors"];
        let done = program.run(&[&words[..], &how].concat()).success();
        let result: Value = serde_json::from_str(&done.stdout()).unwrap();
        assert_eq!(result["frames"].to_string(), frames);
        result["manifest"]["run"]["peak_memory"].as_u64().unwrap()
    };
    let (short, long) = (peak("80"), peak("1200"));
    println!("80 frames: {short} bytes, 1200 frames: {long} bytes");
    // the frames alone would be 3.4 MB more
    assert!(long < short + (2 << 20), "{short} bytes for 80 frames, {long} for 1200");
}

#[test]
fn a_given_video_goes_on() {
    let program = program();
    write_video(&program, "in", &tiny::unit("in", &[9, 3, 32, 32]));
    let how = ["--model", "model", "--steps", "2", "--seed", "5", "--fps", "8", "--frames", "7"];
    let make = |what: &[&str], output: &str| {
        program.run(&[&["extend"], what, &["-o", output], &how[..]].concat()).success();
    };
    // the network of the first chunk is not needed
    fs::rename(program.path("model/base_unet"), program.path("base_unet")).unwrap();
    make(&["in", PROMPT], "out/");
    make(&["in", PROMPT, "--only-new", "--anchor", "image:in/frame-000000.png"], "new/");
    make(&["in", PROMPT, "--only-new", "--anchor", "none"], "none/");
    make(&["in", PROMPT, "--only-new", "--anchor", "frame:4"], "later/");
    assert_eq!((count(&program.path("out")), count(&program.path("new"))), (16, 7));
    (0..7).for_each(|at| assert_eq!(frame(&program, "out", 9 + at), frame(&program, "new", at), "{at}"));
    for other in ["none", "later"] {
        assert_ne!(frame(&program, "new", 0), frame(&program, other, 0), "{other}");
    }
    program.run(&["rerun", "out", "--check"]).success();
    program.run(&[&["generate", PROMPT, "-o", "x/"], &how[..]].concat()).error(3, &["base_unet"]);
    fs::rename(program.path("base_unet"), program.path("model/base_unet")).unwrap();
    // latents of another run, whose frames are floats
    let quick =
        [&["generate", PROMPT, "--frames", "6", "--save-latents", "l.safetensors", "-o", "six/"], &QUICK[..]].concat();
    program.run(&quick).success();
    make(&["l.safetensors", PROMPT], "on/");
    assert_eq!(count(&program.path("on")), 13);
    (0..6).for_each(|at| assert_eq!(frame(&program, "six", at), frame(&program, "on", at), "{at}"));
    // what a video of the program was asked for is taken over, but for the first chunk
    program.run(&["extend", "six", "--frames", "5", "-o", "taken/", "--anchor", "frame:1"]).success();
    assert_eq!(count(&program.path("taken")), 11);
}

#[test]
fn a_second_stage_makes_the_whole_video_anew() {
    let program = program();
    crate::cli::enhance::write_plain(&program.path("plain"));
    let words = |output| {
        let stage = ["--enhance", "plain", "--enhance-strength", "0.5", "--enhance-size", "48x32"];
        let how =
            ["--model", "model", "--size", "32x32", "--steps", "8", "--first-steps", "2", "--seed", "5", "--fps", "8"];
        let run = ["--frames", "11", "--progress", "json", "--checkpoint-every", "1"];
        [&["generate", PROMPT, "-o", output][..], &stage, &how, &run].concat()
    };
    program.run(&words("whole/")).success();
    assert_eq!(count(&program.path("whole")), 11);
    // in the second stage, whose steps follow those of three chunks
    let (events, code) = disturbed(&program, &words("again/"), "step", 2 + 8 + 8 + 3, libc::SIGKILL);
    assert!(code.is_none(), "{events:?}");
    program.run(&["resume", "last"]).success();
    (0..11).for_each(|at| assert_eq!(frame(&program, "whole", at), frame(&program, "again", at), "{at}"));
    let done = program.run(&[&["generate", PROMPT, "--enhance", "model", "-o", "x/"], &QUICK[..]].concat());
    done.error(2, &["--enhance", "text-to-video"]);
}

#[test]
fn plans_and_folders_are_described() {
    let program = program();
    let done = program.run(&[&["plan", PROMPT, "--frames", "13", "--json"], &QUICK[..]].concat()).success();
    let plan: Value = serde_json::from_str(&done.stdout()).unwrap();
    let rows: Vec<_> = plan["windows"].as_array().unwrap().iter().collect();
    let places: Vec<_> = rows.iter().map(|row| [&row["start"], &row["end"]].map(|at| at.as_u64().unwrap())).collect();
    assert_eq!(places, [[0, 6], [4, 10], [8, 13]]);
    assert!(plan["recipe"] == "streaming-t2v" && plan["seconds"]["total"].as_f64().unwrap() > 0.0);
    let text = program.run(&[&["plan", PROMPT, "--frames", "13"], &QUICK[..]].concat()).success().stdout();
    for words in ["4-9", "sees the frames before", "in 3 chunks of"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let info = program.run(&["model", "info", "model"]).success().stdout();
    for part in ["base_unet", "unet", "cam", "resampler", "image_encoder", "text_encoder", "vae", "streaming-t2v"] {
        assert!(info.contains(part), "{part}: {info}");
    }
    for part in ["cam", "resampler", "image_encoder"] {
        fs::rename(program.path(format!("model/{part}")), program.path(part)).unwrap();
        program.run(&[&["generate", PROMPT, "-o", "x/"], &QUICK[..]].concat()).error(3, &[part]);
        program.run(&["model", "info", "model"]).error(3, &[part]);
        fs::rename(program.path(part), program.path(format!("model/{part}"))).unwrap();
    }
    // a tensor of what later chunks need, told before the first one is made
    let file = program.path("model/cam/diffusion_pytorch_model.safetensors");
    let mut tensors = tiny::tensors(KIND, "cam", KIND);
    tensors.remove("mid_block.resnets.0.conv1.weight").unwrap();
    candle_core::safetensors::save(&tensors, file).unwrap();
    let done =
        program.run(&[&["generate", PROMPT, "--frames", "9", "-o", "x/", "--progress", "json"], &QUICK[..]].concat());
    assert!(!done.stderr().contains(r#""event":"step""#) && done.stderr().contains("mid_block.resnets.0.conv1.weight"));
    assert_eq!(done.code(), 3);
}

#[test]
fn mistakes_are_told_in_one_line() {
    let program = program();
    write_video(&program, "in", &tiny::unit("in", &[9, 3, 32, 32]));
    write_video(&program, "short", &tiny::unit("in", &[1, 3, 32, 32]));
    let refused = |what: &[&str], more: &[&str], words: &[&str]| {
        program.run(&[what, &["-o", "out/"], &QUICK[..], more].concat()).error(2, words);
    };
    let generate = |more: &[&str], words: &[&str]| refused(&["generate", PROMPT, "--frames", "10"], more, words);
    generate(&["--size", "36x32"], &["36", "32 or 40"]);
    generate(&["--anchor", "frame:10"], &["--anchor frame:10", "0 to 9"]);
    generate(&["--anchor", "frame:7"], &["--anchor frame:7", "first chunk", "0 to 5"]);
    generate(&["--anchor", "image:none.png"], &["--anchor image:none.png"]);
    generate(&["--anchor", "last"], &["anchor", "frame:N"]);
    generate(&["--first-steps", "0"], &["--first-steps 0"]);
    generate(&["--scheduler", "dpmpp-2m", "--eta", "1"], &["eta"]);
    generate(&["--eta", "2"], &["eta"]);
    generate(&["--method", "freenoise"], &["--method freenoise"]);
    generate(&["--window", "8"], &["--window"]);
    generate(&["--motion", "1,1"], &["--motion"]);
    generate(&["--init-noise", "none.safetensors"], &["none.safetensors"]);
    let extend = |video: &str, more: &[&str], words: &[&str]| {
        let what = [&["extend", video, PROMPT, "--frames", "5", "--model", "model", "--steps", "2", "-o", "x/"], more]
            .concat();
        program.run(&[&what[..], &["--fps", "8"]].concat()).error(2, words);
    };
    extend("short", &[], &["short", "1 frame,", "last 2"]);
    extend("in", &["--anchor", "frame:9"], &["--anchor frame:9", "0 to 8"]);
    extend("in", &["--first-steps", "5"], &["--first-steps", "no effect"]);
    extend("in", &["--overlap", "3"], &["--overlap"]);
    let scenes = ["multi-prompt", "-p", PROMPT, "-p", "a blue box"];
    refused(&scenes, &["--transition", "cut"], &["--transition"]);
    refused(&scenes, &["--frames", "1"], &["scene"]);
    let toyland = program.run(&["generate", PROMPT, "--anchor", "none", "-o", "x/"]);
    toyland.error(2, &["--anchor", "StreamingT2V"]);
    let case = &CASES[0];
    write_noise(&program, case);
    let noise = ["--init-noise", "noise.safetensors"];
    let words = ["generate", PROMPT, "--frames", "13", "--model", "model", "--size", "56x40", "-o", "out/"];
    let given = |more: &[&str], parts: &[&str]| {
        program.run(&[&words[..], &noise, more].concat()).error(2, parts);
    };
    given(&["--steps", "2"], &["noise.safetensors", "step_noise has shape [2, 3, 6, 4, 5, 7]", "[2, 2, 6, 4, 5, 7]"]);
    given(&["--steps", "3", "--frames", "20"], &["noise has shape [3, 6, 4, 5, 7]", "[5, 6, 4, 5, 7]"]);
    given(&["--steps", "3", "--first-scheduler", "euler-ancestral"], &["first chunk", "--first-scheduler"]);
}
