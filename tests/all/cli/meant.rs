//! What people type that is nearly right, and what they are told.

use crate::cli::program::{Done, Program};
use crate::common::tiny;
use std::fs;

fn program() -> Program {
    let program = Program::new();
    tiny::write_folder("tiny-2b", "tiny-2b", &program.path("model"));
    program
}

#[test]
fn near_misses_are_answered_with_what_was_meant() {
    let program = program();
    fs::write(program.path("prompts.txt"), "a ball\na box\n").unwrap();
    let long = "z".repeat(251) + ".gif";
    let quick = ["--model", "model", "--steps", "1", "--frames", "1", "--size", "32x32"];
    image::RgbImage::new(32, 32).save(program.path("clip.gif")).unwrap();
    let cases: [(&[&str], &[&str]); 14] = [
        (&["generate", "-"], &["standard input", "vidgen multi-prompt -"]),
        (&["generate", "clip.gif"], &["is the name of a file", "vidgen extend clip.gif"]),
        (&["generate", "a ball", "--steps", "-3"], &["'-3' for '--steps", "not a whole number"]),
        (&["multi-prompt", "a", "red", "ball"], &["-p \"a red ball\" -p .."]),
        (&["multi-prompt", "prompts.txt", "prompts.txt"], &["cat prompts.txt prompts.txt | vidgen multi-prompt -"]),
        (&["generate", "a", "red", "ball"], &["in quotes", "vidgen generate \"a red ball\""]),
        (&["multi-prompt", "a ball", "a box"], &["-p \"a ball\" -p \"a box\""]),
        (&["generate", "prompts.txt"], &["is the name of a file", "vidgen multi-prompt prompts.txt", "--prompt"]),
        (
            &["generate", "a ball", "--device", "gpu"],
            &["did you mean", if cfg!(target_os = "macos") { "metal" } else { "cuda" }],
        ),
        (&["generate", "a ball", "--device", "mps"], &["did you mean metal?"]),
        (&["generate", "a ball", "--seed", "1e3"], &["in digits", "1000"]),
        (&["generate", "a ball", "--steps", "x"], &["not a whole number"]),
        (&["generate", "a ball", "-o", &long], &["255 bytes are too long", "at most 250"]),
        (
            &["generate", "a ball", "--num-videos", "2", "--seed", "18446744073709551615"],
            &["--num-videos 2", "seeds end"],
        ),
    ];
    for (words, says) in cases {
        // the last word of a flag counts
        let words: Vec<&str> =
            words.iter().copied().chain(quick.into_iter().filter(|_| !words.contains(&"--steps"))).collect();
        program.run(&words).error(2, says);
    }
    assert!(!fs::read_dir(program.path("")).unwrap().flatten().any(|entry| entry.file_name().len() > 200));
}

#[test]
fn a_carriage_return_behind_a_variable_is_no_part_of_it() {
    let program = program();
    let words = ["generate", "a ball", "--model", "model", "--frames", "1", "--size", "32x32", "-o", "a.gif"];
    let mut command = program.command(&words);
    Done(command.env("VIDGEN_STEPS", "1\r").output().unwrap()).success();
}

#[test]
fn marks_and_words_that_are_not_read_are_told() {
    let program = program();
    let words = ["--model", "model", "--steps", "1", "--frames", "1", "--size", "32x32", "-o", "a.gif"];
    let done = program.run(&[&["generate", "a (red:1.3) ball, <lora:x:0.8>"][..], &words].concat()).success();
    assert!(
        done.stderr().contains("(red:1.3), <lora:x:0.8>") && done.stderr().contains("reweight"),
        "{}",
        done.stderr()
    );
    let plain = program.run(&[&["generate", "a red ball (at noon)"][..], &words, &["-y"]].concat()).success();
    assert!(!plain.stderr().contains("marks of another program"), "{}", plain.stderr());
}

/// `plan` says rates and counts as people do.
#[test]
fn plans_are_written_for_people() {
    let program = program();
    let words = ["plan", "a ball", "--model", "model", "--size", "32x32", "--frames", "17", "--fps", "2.6154"];
    let said = program.run(&words).success().stdout();
    assert!(said.contains("17 frames at 2.62 per second") && !said.contains("1 windows"), "{said}");
}

/// A picture of another shape: cropped, padded, or stretched with a word.
#[test]
fn the_shape_of_a_given_video_is_kept_where_that_is_asked_for() {
    let program = program();
    // red, green, green, blue from left to right
    let bands = [[255, 0, 0], [0, 255, 0], [0, 255, 0], [0, 0, 255]];
    let wide = image::RgbImage::from_fn(64, 32, |x, _| image::Rgb(bands[x as usize / 16]));
    wide.save(program.path("wide.png")).unwrap();
    let words =
        ["extend", "wide.png", "a ball", "--model", "model", "--steps", "1", "--frames", "1", "--size", "32x32", "-y"];
    let middle = |fit: &[&str]| {
        let done = program.run(&[&words[..], fit, &["-o", "out/"]].concat()).success();
        let frame = image::open(program.path("out/frame-000000.png")).unwrap().into_rgb8();
        (done.stderr(), frame.get_pixel(2, 16).0, frame.get_pixel(16, 2).0)
    };
    let (said, left, above) = middle(&[]);
    assert!(said.contains("another shape: --fit crop or --fit pad"), "{said}");
    assert_eq!((left, above), ([255, 0, 0], [0, 255, 0]));
    let (said, left, above) = middle(&["--fit", "crop"]);
    assert!(!said.contains("another shape"), "{said}");
    assert_eq!((left, above), ([0, 255, 0], [0, 255, 0]));
    assert_eq!(middle(&["--fit", "pad"]).2, [0, 0, 0]);
    program
        .run(&["extend", "a ball", "--model", "model", "--frames", "1", "--fit", "crop"])
        .error(2, &["--fit has no effect"]);
}
