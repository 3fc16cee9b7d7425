//! Long videos from one prompt, and given videos continued.

use crate::cli::parity::read;
use crate::cli::program::{Done, Program};
use crate::common::{assert_close, golden, tiny};
use candle_core::Tensor;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

fn program(kind: &str) -> Program {
    let program = Program::new();
    tiny::write_folder(kind, kind, &program.path("model"));
    program
}

const TINY: [&str; 8] = ["--model", "model", "--steps", "2", "--size", "48x32", "--text-cache", "off"];

fn tiny_run(program: &Program, words: &[&str]) -> Done {
    program.run(&[words, &TINY, &["-y"]].concat())
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The pictures of a directory in order, as they are in the files.
fn pictures(folder: &Path) -> Vec<Vec<u8>> {
    let mut names: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|name| name.extension().is_some_and(|suffix| suffix == "png"));
    names.sort();
    names.iter().map(|name| image::open(name).unwrap().to_rgb8().into_raw()).collect()
}

/// Mean absolute difference of neighbouring frames.
fn steps(frames: &[Vec<u8>]) -> Vec<f64> {
    let apart = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>();
    frames.windows(2).map(|pair| apart(&pair[0], &pair[1]) / pair[0].len() as f64).collect()
}

#[test]
fn a_long_video_of_one_prompt_is_its_windows() {
    let program = program("tiny-2b");
    let how = ["--frames", "30", "--seed", "4", "--overlap", "2", "--save-latents"];
    let extend = ["extend", "a red ball rolls", "-o", "a/"];
    tiny_run(&program, &[&extend[..], &how, &["a.safetensors"]].concat()).success();
    let multi = ["multi-prompt", "-p", "a red ball rolls", "-o", "b/"];
    tiny_run(&program, &[&multi[..], &how, &["b.safetensors"]].concat()).success();
    assert_eq!(pictures(&program.path("a")).len(), 30);
    assert!(pictures(&program.path("a")) == pictures(&program.path("b")));
    assert!(fs::read(program.path("a.safetensors")).unwrap() == fs::read(program.path("b.safetensors")).unwrap());
    tiny_run(&program, &["extend", "a red ball rolls", "-o", "c/"]).error(2, &["--duration", "--frames"]);
}

/// What is given comes out bit for bit as latents, whatever the sampler, the positions and the blend, over several windows.
#[test]
fn given_latents_are_kept_bit_for_bit() {
    for kind in ["tiny-2b", "tiny-5b", "tiny-1.5"] {
        let program = program(kind);
        let given = ["generate", "a red ball", "--frames", "13", "-o", "given/", "--seed", "1"];
        tiny_run(&program, &[&given[..], &["--save-latents", "given.safetensors"]].concat()).success();
        let given = read(&program.path("given.safetensors"), "latents");
        let frames = given.dim(1).unwrap();
        for (scheduler, blend, overlap, table) in
            [("ddim", "repo", "2", "diffusers"), ("dpm", "paper", "1", "sat"), ("dpm", "repo", "2", "diffusers")]
        {
            let how = ["--scheduler", scheduler, "--blend", blend, "--overlap", overlap, "--schedule", table];
            let what = ["extend", "given.safetensors", "a blue box", "--frames", "18", "--seed", "2"];
            let out = ["-o", "out/", "--save-latents", "out.safetensors", "--attn-proc", "kv-share:layers=1-2"];
            let out = if overlap == "2" { &out[..] } else { &out[..4] };
            tiny_run(&program, &[&what[..], &how, out].concat()).success();
            let whole = read(&program.path("out.safetensors"), "latents");
            assert_eq!(whole.dim(1).unwrap(), frames + 5, "{kind}");
            let kept = whole.narrow(1, 0, frames).unwrap();
            assert!(values(&kept) == values(&given), "{kind} {scheduler} {blend}");
            assert_eq!(pictures(&program.path("out")).len(), 4 * (frames - 1) + 1 + 18);
        }
        // the same frames without those that are given
        let only = ["extend", "given.safetensors", "a blue box", "--frames", "18", "--seed", "2", "--overlap", "2"];
        tiny_run(&program, &[&only[..], &["-o", "whole/"]].concat()).success();
        tiny_run(&program, &[&only[..], &["-o", "only/", "--only-new"]].concat()).success();
        let (whole, only) = (pictures(&program.path("whole")), pictures(&program.path("only")));
        assert_eq!(only.len(), 18);
        assert!(whole[whole.len() - 18..] == only[..], "{kind}");
    }
}

/// The encoder's side against diffusers: the latents of a given video are those of its encoder, scaled.
#[test]
fn a_given_video_is_encoded_as_diffusers_does() {
    let program = program("tiny-2b");
    let frames = golden("pipeline/tiny-2b-ddim").remove("frames").unwrap(); // [9, 32, 48, 3]
    fs::create_dir(program.path("given")).unwrap();
    for (index, frame) in frames.chunk(9, 0).unwrap().iter().enumerate() {
        let pixels = frame.flatten_all().unwrap().to_vec1::<u8>().unwrap();
        let image = image::RgbImage::from_raw(48, 32, pixels).unwrap();
        image.save(program.path(format!("given/{index}.png"))).unwrap();
    }
    let words = ["extend", "given/", "a red ball", "--frames", "4", "--overlap", "2", "-o", "out/", "--json"];
    let done = tiny_run(&program, &[&words[..], &["--save-latents", "out.safetensors"]].concat()).success();
    let latents = read(&program.path("out.safetensors"), "latents");
    let want = golden("pipeline/extend").remove("latents").unwrap(); // tests/reference/extend.py
    assert_close("context", &latents.narrow(1, 0, 2).unwrap(), &want, 1e-5);
    // the given frames come first, untouched, and are counted
    let out = pictures(&program.path("out"));
    assert_eq!(out.len(), 9 + 4);
    assert!(out[..9] == pictures(&program.path("given"))[..]);
    let result: Value = serde_json::from_str(&done.stdout()).unwrap();
    let context = &result["manifest"]["settings"]["context"];
    assert_eq!((context["frames"].as_u64(), context["latent_frames"].as_u64()), (Some(9), Some(2)), "{context}");
    assert_eq!((result["frames"].as_u64(), context["blake3"].as_str().unwrap().len()), (Some(13), 64));
}

#[test]
fn every_readable_video_goes_on() {
    let program = program("tiny-2b");
    let suffixes: &[&str] = if cfg!(feature = "video") {
        &["a.mp4", "a.webm", "a.gif", "a.y4m", "frames/"]
    } else {
        &["a.gif", "a.y4m", "frames/"]
    };
    for name in suffixes {
        let given = ["generate", "a red ball", "--frames", "6", "--fps", "12", "--seed", "1", "-o", name];
        tiny_run(&program, &given).success();
        let words = ["extend", name, "a blue box", "--frames", "5", "--fps", "12", "-o", "out/", "--json"];
        let done = tiny_run(&program, &words).success();
        let result: Value = serde_json::from_str(&done.stdout()).unwrap();
        assert_eq!(result["frames"], 11, "{name}");
        assert_eq!(result["manifest"]["settings"]["context"]["latent_frames"], 2, "{name}");
    }
    // one picture is a video as well
    let only = ["extend", "frames/frame-000003.png", "a blue box", "--duration", "0.5s", "-o", "out/", "--only-new"];
    tiny_run(&program, &only).success();
    assert_eq!(pictures(&program.path("out")).len(), 4);
    // several scenes: the given frames are before the first
    let scenes = ["extend", "--video", "a.gif", "-p", "a blue box", "-p", "a red ball", "--frames", "21", "-o", "out/"];
    tiny_run(&program, &[&scenes[..], &["--overlap", "1", "--transition-windows", "0"]].concat()).success();
    assert_eq!(pictures(&program.path("out")).len(), 6 + 21);
}

#[test]
fn a_record_says_how_to_go_on() {
    let program = program("tiny-2b");
    let given = ["multi-prompt", "-p", "a blue box", "-p", "a red ball", "--transition", "cut", "--model", "model"];
    let how =
        ["--steps", "3", "--size", "48x32", "--frames", "10", "--seed", "7", "--guidance-scale", "2.5", "-o", "a.gif"];
    program.run(&[&given[..], &how, &["--style", "at night", "--fps", "10"]].concat()).success();
    let done = program.run(&["extend", "a.gif", "--frames", "3", "-o", "b.gif", "--json"]).success();
    let result: Value = serde_json::from_str(&done.stdout()).unwrap();
    let manifest = &result["manifest"];
    assert_eq!(manifest["prompts"][0], "a red ball, at night");
    assert_eq!((&manifest["seed"], &manifest["settings"]["steps"]), (&8.into(), &3.into()));
    assert_eq!(manifest["settings"]["guidance_scale"], "2.5");
    assert_eq!((&manifest["settings"]["width"], &manifest["settings"]["fps"]), (&48.into(), &"10".into()));
    assert_eq!((&result["frames"], &manifest["settings"]["frames"]), (&13.into(), &13.into()));
    // what is typed outweighs it
    let words =
        ["extend", "a.gif", "a green box", "--seed", "1", "--steps", "1", "--frames", "2", "-o", "c.gif", "--json"];
    let result: Value = serde_json::from_str(&program.run(&words).success().stdout()).unwrap();
    let manifest = &result["manifest"];
    assert_eq!((&manifest["seed"], &manifest["settings"]["steps"]), (&1.into(), &1.into()));
    assert_eq!(manifest["prompts"][0], "a green box, at night");
    // and what it continues is in the record of what follows
    assert_eq!(manifest["request"]["settings"]["video"], "a.gif");
    assert_eq!(manifest["settings"]["context"]["video"], "a.gif");
}

/// A kept run is continued as its latents in a file are, by its name, its directory, or `last`.
#[test]
fn a_kept_run_goes_on() {
    let program = program("tiny-2b");
    let words = [
        "generate",
        "a red ball",
        "--model",
        "model",
        "--steps",
        "2",
        "--size",
        "48x32",
        "--frames",
        "5",
        "--seed",
        "7",
    ];
    let kept = ["--keep", "--work-dir", "runs", "--save-latents", "a.safetensors", "-o", "a/"];
    program.run(&[&words[..], &kept].concat()).success();
    let how = ["--steps", "2", "--frames", "3", "--seed", "8", "--model", "model", "--size", "48x32"];
    program.run(&[&["extend", "a.safetensors", "a red ball", "-o", "b/"], &how[..]].concat()).success();
    let runs: Value = serde_json::from_str(&program.run(&["runs", "--json", "--work-dir", "runs"]).stdout()).unwrap();
    let (id, path) = (runs[0]["id"].as_str().unwrap(), runs[0]["path"].as_str().unwrap());
    for (at, run) in ["last", &id[..6], path].into_iter().enumerate() {
        let out = format!("c{at}/");
        program.run(&["extend", run, "--frames", "3", "--work-dir", "runs", "-o", &out]).success();
        assert!(pictures(&program.path("b")) == pictures(&program.path(&out)), "{run}");
    }
    // where runs are kept may stand in the project's file
    fs::write(program.path("vidgen.toml"), "work_dir = \"runs\"\n").unwrap();
    program.run(&["extend", "last", "--frames", "3", "-o", "f/"]).success();
    assert!(pictures(&program.path("b")) == pictures(&program.path("f")));
    fs::remove_file(program.path("vidgen.toml")).unwrap();
    // a run of two timelines, one that is not done, and a damaged one
    let cut = ["multi-prompt", "-p", "x", "-p", "y", "--transition", "cut", "--keep", "--work-dir", "two", "-o", "d/"];
    tiny_run(&program, &[&cut[..], &["--frames", "6"]].concat()).success();
    let extend = |dir: &str| program.run(&["extend", "last", "z", "--model", "model", "--work-dir", dir, "-o", "e/"]);
    extend("two").error(2, &["2 timelines", "continue its video"]);
    fs::write(program.path(path).join("latents-0.safetensors"), "this is no tensor").unwrap();
    extend("runs").error(2, &["latents-0.safetensors"]);
    extend("none").error(2, &["last", "no such file"]);
}

#[test]
fn what_cannot_be_continued_is_refused() {
    let program = program("tiny-2b");
    let image = |name: &str, width, height| {
        image::RgbImage::from_pixel(width, height, image::Rgb([9, 90, 200])).save(program.path(name)).unwrap()
    };
    image("odd.png", 50, 33);
    fs::write(program.path("text.mp4"), "this is no video").unwrap();
    fs::write(program.path("broken.safetensors"), "this is no tensor").unwrap();
    let wrong = [("latents".to_owned(), tiny::unit("x", &[1, 2, 5, 4, 6]))];
    let wrong: std::collections::HashMap<_, _> = wrong.into();
    candle_core::safetensors::save(&wrong, program.path("wrong.safetensors")).unwrap();
    let base = ["--model", "model", "--steps", "1", "-o", "out/"];
    let run = |words: &[&str]| program.run(&[&["extend"], words, &base].concat());
    run(&[]).error(2, &["no prompt"]);
    run(&["none.mp4", "x"]).error(2, &["none.mp4"]);
    run(&["none.mp4"]).error(2, &["none.mp4", "no such file"]);
    run(&["odd.png"]).error(2, &["odd.png", "no record", "give a prompt"]);
    run(&["odd.png", "x"]).error(2, &["odd.png is 50x33", "multiples of 16", "48x32", "64x48", "resampled"]);
    run(&["text.mp4", "x", "--size", "48x32"]).error(2, &["text.mp4"]);
    run(&["broken.safetensors", "x"]).error(2, &["broken.safetensors"]);
    run(&["wrong.safetensors", "x"]).error(2, &["wrong.safetensors", "5 channels", "4"]);
    run(&["odd.png", "x", "--size", "48x32", "--overlap", "0"]).error(2, &["--overlap 0", "1 to 2"]);
    run(&["x", "--frames", "5", "--only-new"]).error(2, &["--only-new has no effect"]);
    run(&["x y", "-p", "z"]).error(2, &["\"x y\" is no file"]);
    let generate = program.command(&[&["generate", "x"], &base[..]].concat()).env("VIDGEN_VIDEO", "a.mp4").output();
    assert!(generate.unwrap().status.success(), "a variable of another command's flag is nothing to generate");
    fs::write(program.path("vidgen.toml"), "video = \"a.mp4\"\n").unwrap();
    program
        .run(&[&["generate", "x", "-y"], &base[..]].concat())
        .error(2, &["video is no setting of a project", "--video"]);
    fs::remove_file(program.path("vidgen.toml")).unwrap();
    let done = run(&["odd.png", "x", "--size", "48x32", "--frames", "3", "-y"]).success();
    assert!(done.stderr().contains("odd.png is 50x33: its frames are resampled to 48x32"), "{}", done.stderr());
    assert_eq!(pictures(&program.path("out")).len(), 4);
}

/// On trained weights, at the size and the steps they are made for, the new frames go on from the given ones: the seam is of the
/// size of what moves anyway, and nothing like the jump to a clip of another seed.
#[test]
fn the_seam_is_no_jump() {
    let program = Program::new();
    let prompt = "a red ball rolls to the right in a green meadow on a sunny day";
    let how = ["--text-cache", "off"];
    let given = ["generate", prompt, "--frames", "33", "--seed", "3", "-o", "given/"];
    program.run(&[&given[..], &how, &["--save-latents", "given.safetensors"]].concat()).success();
    let words = ["extend", "given.safetensors", prompt, "--frames", "8", "--seed", "4", "-o", "out/"];
    program.run(&[&words[..], &how].concat()).success();
    let other = ["generate", prompt, "--frames", "1", "--seed", "4", "-o", "other/"];
    program.run(&[&other[..], &how].concat()).success();
    let frames = pictures(&program.path("out"));
    let apart = steps(&frames);
    assert_eq!(apart.len(), 33 + 8 - 1);
    let largest = apart[..32].iter().copied().fold(0.0, f64::max);
    let jump = steps(&[frames[32].clone(), pictures(&program.path("other")).remove(0)])[0];
    println!("at the seam {:.2}, before it at most {largest:.2}, to another clip {jump:.2}", apart[32]);
    assert!(apart[32] < 2.0 * largest, "{:.2} at the seam, {largest:.2} before it", apart[32]);
    assert!(jump > 3.0 * apart[32], "{:.2} at the seam, {jump:.2} to another clip", apart[32]);
}

/// Memory does not grow with the length but by the timeline itself: some tensors of its size, and the encoder's queue.
#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_length() {
    let program = program("tiny-2b");
    let peak = |duration: &str| {
        let words = ["extend", "a red ball rolls", "--duration", duration, "-o", "a.y4m", "--json", "--seed", "1"];
        let done = program.run(&[&words[..], &TINY, &["-y", "--overlap", "2", "-j", "2"]].concat()).success();
        let result: Value = serde_json::from_str(&done.stdout()).unwrap();
        (result["frames"].as_u64().unwrap(), result["manifest"]["run"]["peak_memory"].as_u64().unwrap())
    };
    let ((short, ten), (long, sixty)) = (peak("10s"), peak("60s"));
    assert_eq!((short, long), (80, 480));
    // latent frames of 4x4x6 values in f32, in the tensors that hold a whole timeline
    let timeline = 12 * (long - short) / 4 * 4 * 4 * 6 * 4;
    println!("10 s: {ten} bytes, 60 s: {sixty} bytes, of the timeline {timeline}");
    assert!(sixty < ten + timeline + (8 << 20), "{ten} bytes for 10 s, {sixty} for 60 s");
}
