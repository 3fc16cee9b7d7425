//! A video once more from its own record.

use crate::cli::program::Program;
use crate::common::tiny;
use serde_json::Value;
use std::fs;

fn program() -> Program {
    let program = Program::new();
    tiny::write_folder("tiny-2b", "tiny-2b", &program.path("model"));
    program
}

const QUICK: [&str; 11] =
    ["generate", "a red ball", "--model", "model", "--steps", "2", "--frames", "6", "--size", "32x32", "-o"];

#[test]
fn every_format_that_carries_a_record_is_made_again() {
    let program = program();
    let outputs: &[&str] =
        if cfg!(feature = "video") { &["a.mp4", "a.webm", "a.gif", "a.y4m", "a/"] } else { &["a.gif", "a.y4m", "a/"] };
    for output in outputs {
        program.run(&[&QUICK[..], &[output]].concat()).success();
        let checked = program.run(&["rerun", output, "--check", "--json"]).success();
        let found: Value = serde_json::from_str(&checked.stdout()).unwrap();
        assert_eq!((found["identical"].as_bool(), found["frames"].as_u64()), (Some(true), Some(6)), "{output}");
        assert_eq!(found["same_bytes"].as_bool(), Some(!output.ends_with('/')), "{output}");
        program.run(&["rerun", output]).success();
        let name = if *output == "a/" { "a-rerun".into() } else { output.replace("a.", "a-rerun.") };
        assert!(program.path(&name).exists(), "{name}");
        if *output != "a/" {
            assert!(fs::read(program.path(output)).unwrap() == fs::read(program.path(&name)).unwrap(), "{output}");
        }
    }
    let said = program.run(&["rerun", "a.gif", "--check"]).success().stdout();
    assert_eq!(said, "identical: all 6 frames are, and so is the file\n");
    program.run(&["rerun", "a.gif.json", "--check"]).success();
    program.run(&["rerun", "a.gif", "--check", "-o", "b.gif"]).error(2, &["--check"]);
    program.run(&["rerun", "a.gif", "--steps", "3"]).error(2, &["--steps", "record"]);
    program.run(&["rerun", "none.gif"]).error(2, &["none.gif"]);
}

#[test]
fn another_video_does_not_pass() {
    let program = program();
    program.run(&[&QUICK[..], &["a/", "--seed", "1"]].concat()).success();
    let picture = fs::read_dir(program.path("a")).unwrap().map(|entry| entry.unwrap().path());
    let mut pictures: Vec<_> = picture.filter(|path| path.extension().is_some_and(|suffix| suffix == "png")).collect();
    pictures.sort();
    fs::copy(&pictures[0], &pictures[5]).unwrap();
    let failed = program.run(&["rerun", "a/", "--check"]).error(7, &["a/", "another video"]);
    assert!(failed.stdout().starts_with("frame 5: "), "{}", failed.stdout());
    program.run(&["rerun", "a/", "--check", "--min-psnr", "1"]).success();
    program.run(&["rerun", "a/", "--check", "--min-psnr", "90"]).error(7, &["90 dB"]);
    fs::remove_file(&pictures[5]).unwrap();
    program.run(&["rerun", "a/", "--check", "--min-psnr", "1"]).error(7, &["5 frames, and 6"]);
}

#[test]
fn a_check_leaves_runs_that_are_kept_alone() {
    let program = program();
    program.run(&[&QUICK[..], &["a.gif", "--keep", "--work-dir", "runs"]].concat()).success();
    fs::write(program.path("vidgen.toml"), "work_dir = \"runs\"\n").unwrap();
    let kept = || program.run(&["runs", "--json"]).success().stdout();
    let run = |text: String| serde_json::from_str::<Value>(&text).unwrap()[0]["id"].clone();
    let before = run(kept());
    assert!(before.is_string());
    let check = program.run(&["rerun", "a.gif", "--check"]).success();
    assert!(!check.stderr().contains("warning"), "{}", check.stderr());
    assert_eq!(run(kept()), before);
    program.run(&["decode", "last", "-o", "b.gif"]).success();
    program.run(&["rerun", "a.gif", "--check", "--keep"]).error(2, &["--check", "--keep"]);
    let output = program.command(&["rerun", "a.gif", "--check"]).env("VIDGEN_OUTPUT", "x.gif").output().unwrap();
    assert!(output.status.success() && !program.path("x.gif").exists());
    let again = program.run(&["rerun", "a.gif"]).success();
    assert!(again.stderr().contains("is replaced by this one"), "{}", again.stderr());
}

#[test]
fn other_weights_are_an_error_unless_they_are_wanted() {
    let program = program();
    program.run(&[&QUICK[..], &["a.gif"]].concat()).success();
    let weights = program.path("model/transformer/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    program.run(&["rerun", "a.gif", "--check"]).error(3, &["transformer", "--any-weights"]);
    let done = program.run(&["rerun", "a.gif", "--check", "--any-weights"]);
    assert!([0, 7].contains(&done.code()), "{}", done.stderr());
    fs::remove_dir_all(program.path("model")).unwrap();
    program.run(&["rerun", "a.gif", "--check"]).error(3, &["model"]);
}
