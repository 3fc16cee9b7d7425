//! Lengths, transitions and forms of storyboards through the program: how many frames come out, and which.

use crate::cli::program::{Done, Program};
use crate::common::tiny;
use candle_core::{Device, Tensor};
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

/// A directory with a tiny model: windows of 3 latent frames, 9 frames of video.
fn program() -> Program {
    let program = Program::new();
    tiny::write_folder("tiny-2b", "tiny-2b", &program.path("model"));
    program
}

const FIXED: [&str; 14] = [
    "--model",
    "model",
    "--steps",
    "1",
    "--guidance-scale",
    "1",
    "--size",
    "32x32",
    "--text-cache",
    "off",
    "--seed",
    "3",
    "-y",
    "--quiet",
];

fn run(program: &Program, words: &[&str]) -> Done {
    let out = ["--save-latents", "latents.safetensors", "-o", "frames/"];
    program.run(&[&["multi-prompt"][..], words, &FIXED, &out].concat())
}

/// Grey-scale means would hide a mistake: all bytes of all frames, in order.
fn frames(program: &Program) -> Vec<Vec<u8>> {
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(program.path("frames")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|name| name.extension().is_some_and(|suffix| suffix == "png"));
    names.sort();
    names.iter().map(|name| image::open(name).unwrap().to_rgb8().into_raw()).collect()
}

/// Frames of a run that must succeed, with latents that are all finite.
fn count(program: &Program, words: &[&str]) -> usize {
    run(program, words).success();
    let latents = candle_core::safetensors::load(program.path("latents.safetensors"), &Device::Cpu).unwrap();
    let values: Vec<f32> = latents["latents"].flatten_all().and_then(|x: Tensor| x.to_vec1()).unwrap();
    assert!(values.iter().all(|value| value.is_finite()));
    frames(program).len()
}

#[test]
fn edge_cases_make_the_right_frames() {
    let program = program();
    let prompts = |count: usize| [["-p", "a red ball"], ["-p", "a blue ball"], ["-p", "a star"]][..count].concat();
    // overlap, transition windows, prompts: windows S, latent frames 3 + (S - 1)(3 - overlap)
    for (overlap, transitions, prompts_given, latent_frames) in [
        ("2", "2", 1, 3),
        ("2", "0", 2, 4), // even
        ("2", "1", 2, 5),
        ("1", "1", 3, 11),
        ("1", "2", 2, 9),
        ("0", "0", 2, 6), // nothing shared, and even
        ("0", "1", 3, 15),
        ("2", "2", 3, 9), // all but one frame shared
    ] {
        let windows = ["--overlap", overlap, "--transition-windows", transitions];
        let got = count(&program, &[&prompts(prompts_given)[..], &windows].concat());
        assert_eq!(
            got,
            4 * (latent_frames - 1) + 1,
            "overlap {overlap}, {transitions} windows, {prompts_given} prompts"
        );
    }
    // lengths that fit no window, one that is shorter than any, and the same for two prompts
    for frames in ["1", "2", "5", "10", "14", "31"] {
        assert_eq!(
            count(&program, &[&prompts(1)[..], &["--frames", frames]].concat()),
            frames.parse::<usize>().unwrap()
        );
    }
    for frames in ["10", "13", "22", "30"] {
        let flags = ["--frames", frames, "--overlap", "2", "--transition-windows", "0"];
        assert_eq!(count(&program, &[&prompts(2)[..], &flags].concat()), frames.parse::<usize>().unwrap());
    }
    let flags = ["--frames", "5", "--overlap", "1", "--transition-windows", "0"];
    run(&program, &[&prompts(2)[..], &flags].concat())
        .error(2, &["2 prompts", "need at least 13 frames; 5 were asked"]);
    for flags in [["--overlap", "3"], ["--overlap", "99"]] {
        run(&program, &[&prompts(2)[..], &flags].concat()).error(2, &["does not leave a window of 3 room to move"]);
    }
    run(&program, &[&prompts(2)[..], &["--transition-windows", "9999999"]].concat())
        .error(2, &["windows are more than"]);
}

#[test]
fn a_fade_mixes_the_frames_of_two_cut_scenes() {
    let program = program();
    let prompts = ["-p", "a red ball", "-p", "a blue ball"];
    assert_eq!(count(&program, &[&prompts[..], &["--transition", "cut"]].concat()), 18);
    let cut = frames(&program);
    assert_eq!(count(&program, &[&prompts[..], &["--transition", "fade:3"]].concat()), 15);
    let faded = frames(&program);
    assert_eq!((&faded[..6], &faded[9..]), (&cut[..6], &cut[12..]));
    for j in 0..3 {
        let mixed =
            |(old, new): (&u8, &u8)| f64::from(*old) * (3 - j) as f64 / 4.0 + f64::from(*new) * (j + 1) as f64 / 4.0;
        let wanted = cut[6 + j].iter().zip(&cut[9 + j]).map(mixed);
        assert!(
            faded[6 + j].iter().zip(wanted).all(|(got, wanted)| (f64::from(*got) - wanted).abs() <= 0.5),
            "frame {j}"
        );
        assert!(faded[6 + j] != cut[6 + j] && faded[6 + j] != cut[9 + j]);
    }
    // a second, in frames of the file
    assert_eq!(count(&program, &[&prompts[..], &["--transition", "fade", "--fps", "4"]].concat()), 14);
    // lengths that are asked for are exact
    for frames in ["8", "17", "40"] {
        let flags = ["--transition", "fade:5", "--frames", frames];
        assert_eq!(count(&program, &[&prompts[..], &flags].concat()), frames.parse::<usize>().unwrap());
    }
    let story = "[defaults]\nduration = \"1s\"\ntransition = { kind = \"fade\", frames = 4 }\n[[scene]]\nprompt = \"a red ball\"\n\
                 [[scene]]\nprompt = \"a blue ball\"\n[[scene]]\nprompt = \"a star\"\ntransition = \"cut\"\n";
    std::fs::write(program.path("story.toml"), story).unwrap();
    assert_eq!(count(&program, &["story.toml"]), 24);
    assert_eq!(count(&program, &["story.toml", "--duration", "5s"]), 40);
    run(&program, &[&prompts[..], &["--transition", "fade:10"]].concat())
        .error(2, &["scene 1", "a fade of 10 frames is too long for its 9", "fade:4"]);
    run(&program, &[&prompts[..], &["--transition", "fade:x"]].concat()).error(2, &["1 to 1000 frames, as fade:8"]);
}

#[test]
fn every_form_makes_its_video() {
    let program = program();
    let json =
        "{\"scene\": [{\"prompt\": \"a red ball\"}, {\"prompt\": \"a star\", \"transition\": \"cut\", \"frames\": 4}]}";
    for (name, text, flags, wanted) in [
        ("a.json", json, &[][..], 13),
        ("b.json", "{\"0\": \"a red ball\", \"6\": \"a star\"}", &["--transition", "cut", "--frames", "14"], 14),
        ("c.txt", "[00:00-00:01] a red ball\n[00:01-00:03] a star\n", &["--transition", "cut"], 24),
        ("d.yaml", "args:\n  is_run_isolated: True\n  prompts: [a red ball, a star]\n", &[], 18),
        (
            "e.toml",
            "[[stage]]\nprompt = \"a red ball\"\nframes = 9\n[[stage]]\nprompt = \"a star\"\nframes = 9\n\
          transition = \"fade\"\nfade_frames = 2\n",
            &[],
            18,
        ),
        ("f.txt", "a red ball; a star\na box\n", &["--split", ";", "--transition", "cut"], 27),
    ] {
        std::fs::write(program.path(name), text).unwrap();
        assert_eq!(count(&program, &[&[name][..], flags].concat()), wanted, "{name}");
        // and from standard input, by what it begins with
        let from = match name {
            "a.json" | "d.yaml" | "e.toml" => vec!["--script", "-"],
            _ => vec!["-"],
        };
        let words = [&["multi-prompt"][..], &from, flags, &FIXED, &["-o", "piped/", "--json"]].concat();
        let mut child = program.command(&words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(result["frames"], wanted, "{name}");
    }
}

/// The storyboards of `prompts/` on the embedded model, small and in one step.
#[test]
fn the_storyboards_of_the_repository_run() {
    let program = Program::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/prompts");
    let expected = [
        ("around-the-clock.toml", 241),
        ("ball.yaml", 105),
        ("by-frame.json", 64 + 64 + 49),
        ("by-time.txt", 112),
        ("colours.toml", 161),
        ("dark-knight.txt", 145),
        ("day-to-night.toml", 48 + 64 + 97 + 48),
        ("follow.yaml", 3 * 56),
        ("seasons.txt", 145),
        ("shapes.json", 4 * 32),
        ("there-and-back.json", 129),
        ("trailer.toml", 4 * 16 + 32),
        ("two-scenes.json", 64),
    ];
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), expected.len(), "one line for each file");
    for (name, frames) in expected {
        let fixed =
            ["--steps", "1", "--size", "32x32", "--text-cache", "off", "--json", "-y", "-o", "a.y4m", "--quiet"];
        let done = program.run(&[&["multi-prompt", &format!("{folder}/{name}")][..], &fixed].concat()).success();
        let result: serde_json::Value = serde_json::from_str(&done.stdout()).unwrap();
        assert_eq!(result["frames"], frames, "{name}");
    }
}

/// Memory does not grow with the number of windows: what ten prompts take beyond three is their longer timeline.
#[test]
fn ten_prompts_take_the_memory_of_three() {
    let program = Program::new();
    let peak = |prompts: usize| {
        let story = "a red ball rests in the snow\n".repeat(prompts);
        std::fs::write(program.path("story.txt"), story).unwrap();
        // sharing in all layers hands on as much as it can
        let windows = ["--transition-windows", "0", "--attn-proc", "kv-share", "--steps", "1", "--size", "96x64"];
        let out = ["--text-cache", "off", "--threads", "2", "--json", "-y", "-q", "-o", "a.y4m"];
        let done = program.run(&[&["multi-prompt", "story.txt"][..], &windows, &out].concat()).success();
        let result: serde_json::Value = serde_json::from_str(&done.stdout()).unwrap();
        let latent_frames = result["manifest"]["settings"]["latent_frames"][0].as_u64().unwrap();
        assert_eq!(latent_frames, 13 + 4 * (prompts as u64 - 1));
        // the timeline, its estimate, the last one, the blend's sum, the noise, the result: 8 channels of 8x12 in f32
        let timeline = latent_frames * 8 * 8 * 12 * 4 * 6;
        (result["manifest"]["run"]["peak_memory"].as_u64(), timeline)
    };
    let (three, before) = peak(3);
    let (ten, after) = peak(10);
    let (Some(three), Some(ten)) = (three, ten) else {
        // Linux says how much memory a process has had
        return if cfg!(target_os = "linux") {
            panic!("no peak memory in the record")
        };
    };
    let limit = three as f64 * 1.05 + (after - before) as f64;
    assert!(ten as f64 <= limit, "{ten} bytes with ten prompts, {three} with three");
}
