//! Videos of image models: whole runs against diffusers' parts on the same random weights and noise (goldens:
//! `tests/reference/zero_shot.py`), and what a user can ask of them.

use crate::cli::parity::read;
use crate::cli::program::Program;
use crate::common::{assert_close, golden, tiny};
use candle_core::Tensor;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

fn program(kind: &str) -> Program {
    let program = Program::new();
    tiny::write_picture_model(kind, &program.path("model"));
    program
}

/// Writes the noise of `tests/reference/zero_shot.py`: of the anchor alone where frames are moved.
fn write_noise(path: &Path, frames: usize, (h, w): (usize, usize), moved: bool) {
    let noise = tiny::unit("zero-shot/noise", &[1, if moved { 1 } else { frames }, 4, h, w]);
    let mut tensors = HashMap::from([("noise".to_owned(), noise)]);
    if moved {
        tensors.insert("frame_noise".to_owned(), tiny::unit("zero-shot/frame_noise", &[1, frames, 4, h, w]));
    }
    candle_core::safetensors::save(&tensors, path).unwrap();
}

/// The masks of the reference.
fn write_masks(folder: &Path, frames: usize, (height, width): (usize, usize)) {
    let small = tiny::unit("zero-shot/masks", &[frames, height / 16, width / 16]);
    fs::create_dir_all(folder).unwrap();
    for frame in 0..frames {
        let rows = small.get(frame).unwrap().to_vec2::<f32>().unwrap();
        let grey =
            |x: u32, y: u32| image::Luma([if rows[y as usize / 16][x as usize / 16] > 0.8 { 255u8 } else { 40 }]);
        image::GrayImage::from_fn(width as u32, height as u32, grey)
            .save(folder.join(format!("{frame:05}.png")))
            .unwrap();
    }
}

/// The given picture of the reference: squares of 8 pixels.
fn write_picture(path: &Path, (height, width): (usize, usize)) {
    let squares = tiny::unit("zero-shot/picture", &[height / 8, width / 8, 3]);
    let squares = squares.clamp(-1f32, 1f32).unwrap().to_vec3::<f32>().unwrap();
    let pixel = |x: u32, y: u32| {
        let square = &squares[y as usize / 8][x as usize / 8];
        image::Rgb([0, 1, 2].map(|channel| ((square[channel] + 1.0) * 100.0) as u8))
    };
    image::RgbImage::from_fn(width as u32, height as u32, pixel).save(path).unwrap();
}

const STORY: [&str; 3] = ["a red ball rolls", "a blue ball rolls", "a green box rests"];

/// Runs a case of the reference; returns the latents.
fn run(program: &Program, case: &str, more: &[&str]) -> Tensor {
    let (size, frames, steps, flags): (_, usize, _, &[&str]) = match case {
        "text" => ("56x72", 5, "20", &["--motion", "-12,5.5"]),
        "steps" => ("40x24", 3, "12", &["--motion", "40,0", "--motion-steps", "600..900"]),
        "dpm" => ("64x48", 4, "12", &["--motion-steps", "750..925", "--scheduler", "dpmpp-2m"]),
        "none" => ("64x48", 3, "6", &["--motion", "none"]),
        "independent" => ("64x48", 3, "6", &["--motion", "none", "--attn-proc", "none"]),
        "scenes" => ("64x48", 10, "20", &["--overlap", "2"]),
        "smooth" => {
            write_masks(&program.path("masks"), 4, (96, 112));
            ("112x96", 4, "20", &["--motion", "60,-40", "--smooth-background", "0.6", "--mask", "masks"])
        }
        _ if case.starts_with("picture") => {
            write_picture(&program.path("first.png"), (48, 64));
            match case {
                "picture" => ("64x48", 3, "20", &["--motion", "30,-20", "--first-frame", "first.png"]),
                "picture-none" => ("64x48", 3, "6", &["--motion", "none", "--first-frame", "first.png"]),
                _ => {
                    let flags = &[
                        "--motion",
                        "30,-20",
                        "--first-frame",
                        "first.png",
                        "--motion-steps",
                        "750..925",
                        "--scheduler",
                        "dpmpp-2m",
                    ];
                    ("64x48", 3, "12", flags)
                }
            }
        }
        _ => ("64x48", 2, "20", &["--guidance-scale", "1"]),
    };
    let ratio = if case == "steps" { 4 } else { 8 };
    let (width, height) = size.split_once('x').unwrap();
    let cells = (height.parse::<usize>().unwrap() / ratio, width.parse::<usize>().unwrap() / ratio);
    write_noise(&program.path("noise.safetensors"), frames, cells, !flags.contains(&"none"));
    let count = frames.to_string();
    let what = if case == "scenes" {
        fs::write(program.path("story.txt"), STORY.join("\n")).unwrap();
        vec!["multi-prompt", "story.txt"]
    } else {
        vec!["generate", STORY[0]]
    };
    let how = ["--model", "model", "--size", size, "--frames", &count, "--steps", steps];
    let files = ["--init-noise", "noise.safetensors", "--save-latents", "latents.safetensors", "-o", "frames/", "-y"];
    program.run(&[&what[..], &how, flags, &files, more].concat()).success();
    read(&program.path("latents.safetensors"), "latents")
}

#[test]
fn runs_equal_diffusers() {
    let golden = golden("sd/zero_shot");
    for case in [
        "text",
        "steps",
        "dpm",
        "none",
        "independent",
        "scenes",
        "smooth",
        "alone",
        "picture",
        "picture-dpm",
        "picture-none",
    ] {
        let program = program(if case == "steps" { "tiny-sd2" } else { "tiny-sd1" });
        let latents = run(&program, case, &[]);
        assert_close(case, &latents, &golden[&format!("{case}/latents")], 1e-4);
    }
}

#[test]
fn chunks_change_no_frame() {
    let program = program("tiny-sd1");
    let whole = run(&program, "scenes", &[]);
    for chunk in ["1", "3"] {
        let latents = run(&program, "scenes", &["--chunk", chunk]);
        assert_close(chunk, &latents, &whole, 1e-5);
    }
}

/// The first frame is the anchor: it depends on no other, and none depends on how many there are.
#[test]
fn a_longer_video_begins_with_the_shorter_one() {
    let program = program("tiny-sd1");
    let video = |frames: &str| {
        let how = ["--model", "model", "--size", "64x48", "--frames", frames, "--steps", "20", "--seed", "4"];
        let files = ["--save-latents", "latents.safetensors", "-o", "frames/", "-y"];
        program.run(&[&["generate", STORY[0]][..], &how, &files].concat()).success();
        read(&program.path("latents.safetensors"), "latents")
    };
    let (short, long) = (video("3"), video("12"));
    assert_close("frames", &long.narrow(1, 0, 3).unwrap(), &short, 1e-5);
}

/// Where the foreground is everything nothing changes, the first frame never does, and where it is nothing the frames are alike.
#[test]
fn a_background_is_smoothed_where_no_mask_is() {
    let program = program("tiny-sd1");
    let masks = |value: u8, count: u32| {
        let folder = program.path("masks");
        fs::remove_dir_all(&folder).ok();
        fs::create_dir_all(&folder).unwrap();
        for index in 0..count {
            image::GrayImage::from_pixel(9, 7, image::Luma([value]))
                .save(folder.join(format!("{index:05}.png")))
                .unwrap();
        }
    };
    let how =
        ["--model", "model", "--size", "64x48", "--frames", "3", "--steps", "20", "--seed", "4", "-o", "a.gif", "-y"];
    let video = |more: &[&str]| {
        let words = [&["generate", STORY[0], "--save-latents", "latents.safetensors"][..], &how, more].concat();
        program.run(&words).success();
        read(&program.path("latents.safetensors"), "latents")
    };
    let plain = video(&[]);
    let smooth = ["--smooth-background", "0.9", "--mask", "masks"];
    masks(255, 3);
    assert_close("foreground", &video(&smooth), &plain, 1e-6);
    masks(0, 3);
    let smoothed = video(&smooth);
    assert_close("anchor", &smoothed.narrow(1, 0, 1).unwrap(), &plain.narrow(1, 0, 1).unwrap(), 1e-6);
    let apart = |latents: &Tensor| {
        let frame = |index: usize| latents.narrow(1, index, 1).unwrap();
        (frame(1) - frame(2)).unwrap().sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap()
    };
    assert!(apart(&smoothed) < 0.8 * apart(&plain), "{} and {}", apart(&smoothed), apart(&plain));
    program.run(&["rerun", "a.gif", "--check"]).success();
    let refused = |more: &[&str], words: &[&str]| {
        program.run(&[&["generate", STORY[0]][..], &how, more].concat()).error(2, words);
    };
    refused(
        &["--smooth-background", "0.5", "--mask", "masks", "--control", "map:masks"],
        &["--smooth-background", "--control"],
    );
    masks(0, 2);
    refused(&smooth, &["2 masks for 3 frames", "--frames 2"]);
    refused(&["--smooth-background", "0.5"], &["--subject WORDS", "--mask DIR", "vidgen mask"]);
    refused(&["--mask", "masks"], &["--mask has no effect without --smooth-background"]);
    refused(&["--smooth-background", "1.5", "--mask", "masks"], &["--smooth-background 1.5", "up to 1"]);
    refused(&["--smooth-background", "0.5", "--mask", "masks", "--motion", "none"], &["--motion none"]);
}

/// Words say where the foreground is by what attends to them: nothing of it is smoothed where everything attends enough, and with a
/// higher threshold more is.
#[test]
fn words_say_where_the_foreground_is() {
    let program = program("tiny-sd1");
    let how =
        ["--model", "model", "--size", "160x128", "--frames", "3", "--steps", "20", "--seed", "4", "-o", "a.gif", "-y"];
    let video = |more: &[&str]| {
        let words = [&["generate", STORY[0], "--save-latents", "latents.safetensors"][..], &how, more].concat();
        program.run(&words).success();
        read(&program.path("latents.safetensors"), "latents")
    };
    let plain = video(&[]);
    let smooth = ["--smooth-background", "0.9", "--subject", "ball"];
    let all = [&smooth[..], &["--mask-threshold", "0"]].concat();
    assert_close("foreground", &video(&all), &plain, 1e-6);
    let some = video(&[&smooth[..], &["--mask-threshold", "1"]].concat());
    assert_close("anchor", &some.narrow(1, 0, 1).unwrap(), &plain.narrow(1, 0, 1).unwrap(), 1e-6);
    let apart = |latents: &Tensor| {
        let frame = |index: usize| latents.narrow(1, index, 1).unwrap();
        (frame(1) - frame(2)).unwrap().sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap()
    };
    assert!(apart(&some) < 0.9 * apart(&plain), "{} and {}", apart(&some), apart(&plain));
    program.run(&["rerun", "a.gif", "--check"]).success();
    // in chunks the same, and in a story whose scenes do not all have the word
    let chunked = [&smooth[..], &["--mask-threshold", "1", "--chunk", "1"]].concat();
    assert_close("chunks", &video(&chunked), &some, 1e-5);
    fs::write(program.path("story.txt"), STORY.join("\n")).unwrap();
    let story = [
        &["multi-prompt", "story.txt", "--model", "model", "--size", "64x48", "--frames", "6", "--steps", "20"][..],
        &smooth,
    ];
    program.run(&[&story.concat()[..], &["-o", "b.gif"]].concat()).success();
    let refused = |more: &[&str], words: &[&str]| {
        program.run(&[&["generate", STORY[0]][..], &how, more].concat()).error(2, words);
    };
    refused(&["--smooth-background", "0.9", "--subject", "cat"], &["--subject", "\"cat\" is not in the prompt"]);
    refused(&[&smooth[..], &["--mask", "masks"]].concat(), &["--mask and --subject"]);
    refused(&[&smooth[..], &["--mask-threshold", "1.5"]].concat(), &["--mask-threshold 1.5", "0 and 1"]);
    refused(&["--subject", "ball"], &["--subject has no effect"]);
}

/// A given picture is the first frame, as the autoencoder has it, whatever the words; only the first video of a cut begins with it.
#[test]
fn a_video_begins_with_a_given_picture() {
    let program = program("tiny-sd1");
    write_picture(&program.path("first.png"), (48, 64));
    fs::write(program.path("story.txt"), STORY.join("\n")).unwrap();
    let how = ["--model", "model", "--steps", "20", "--seed", "4", "-o", "a.gif", "-y"];
    let latents = |what: &[&str], more: &[&str]| {
        program.run(&[what, &how, &["--save-latents", "latents.safetensors"], more].concat()).success();
        read(&program.path("latents.safetensors"), "latents")
    };
    let one = ["generate", STORY[0], "--frames", "3"];
    let picture = ["--first-frame", "first.png"];
    // the size is the picture's
    let given = latents(&one, &picture);
    assert_eq!(given.dims(), [1, 3, 4, 6, 8]);
    let first = |latents: &Tensor| latents.narrow(1, 0, 1).unwrap();
    let apart =
        |a: &Tensor, b: &Tensor| (a - b).unwrap().sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    let other = latents(&["generate", STORY[2], "--frames", "3"], &picture);
    assert_eq!(apart(&first(&given), &first(&other)), 0.0);
    assert!(apart(&given, &other) > 1e-2);
    program.run(&["rerun", "a.gif", "--check"]).success();
    let free = latents(&one, &["--size", "64x48"]);
    assert!(apart(&given, &free) > 1e-2);
    for more in
        [&["--motion", "none", "--scheduler", "euler-ancestral"][..], &["--motion", "none", "--scheduler", "lcm"]]
    {
        assert_eq!(apart(&first(&latents(&one, &[&picture[..], more].concat())), &first(&given)), 0.0);
    }
    let cut =
        latents(&["multi-prompt", "story.txt", "--frames", "6"], &[&picture[..], &["--transition", "cut"]].concat());
    assert_eq!(apart(&first(&cut), &first(&given)), 0.0);
    assert!(apart(&cut.narrow(1, 2, 1).unwrap(), &first(&given)) > 1e-2);
    let changed = program.run(&[&one[..], &how, &picture, &["--size", "32x48", "--json"]].concat()).success();
    assert!(changed.stderr().contains("first.png is 64x48: its frames are resampled to 32x48"), "{}", changed.stderr());
    let record: serde_json::Value = serde_json::from_str(&changed.stdout()).unwrap();
    let record = &record["manifest"]["settings"]["first_frame"];
    assert!(record["file"].as_str().unwrap().ends_with("first.png") && record["blake3"].is_string(), "{record}");
    // another picture in its place is noticed
    write_picture(&program.path("first.png"), (40, 64));
    assert_ne!(program.run(&["rerun", "a.gif", "--check"]).code(), 0);
}

/// The small image model in the binary: what it makes is its prompt's, and its frames are of one thing.
#[test]
fn the_image_model_inside_makes_videos() {
    let program = Program::new();
    let run = |prompt: &str, out: &str| {
        let how = ["--model", "toyland-image", "--seed", "3", "--frames", "4", "--steps", "10", "-o", out, "-y"];
        program.run(&[&["generate", prompt][..], &how].concat()).success();
        let frame =
            |index: usize| image::open(program.path(out).join(format!("frame-{index:06}.png"))).unwrap().to_rgb8();
        (0..4).map(frame).collect::<Vec<_>>()
    };
    // the mean colour of the lower half
    let ground = |frame: &image::RgbImage| {
        let below: Vec<_> = frame.rows().skip(frame.height() as usize * 2 / 3).flatten().collect();
        [0, 1, 2].map(|c| below.iter().map(|pixel| f64::from(pixel.0[c])).sum::<f64>() / below.len() as f64)
    };
    let meadow = run("a red ball in a green meadow on a sunny day", "meadow/");
    let snow = run("a red ball in the snow on a sunny day", "snow/");
    for (meadow, snow) in meadow.iter().map(ground).zip(snow.iter().map(ground)) {
        assert!(meadow[1] > 1.3 * meadow[0] && meadow[1] > 1.5 * meadow[2], "not green: {meadow:?}");
        assert!(snow.iter().all(|&value| value > 150.0), "not white: {snow:?}");
    }
}

#[test]
fn what_cannot_be_is_said_in_one_line() {
    let program = program("tiny-sd1");
    let refused = |more: &[&str], words: &[&str]| {
        let one = ["generate", "a red ball", "--model", "model", "--size", "64x48", "-o", "a.gif"];
        program.run(&[&one[..], more].concat()).error(2, words);
    };
    refused(&["--motion-steps", "941..881"], &["--motion-steps", "881..941"]);
    refused(&["--motion-steps", "931..938", "--steps", "20"], &["--motion-steps 931..938", "more --steps", ".."]);
    refused(&["--motion", "12"], &["--motion", "X,Y"]);
    refused(&["--motion", "none", "--motion-path", "circle"], &["--motion-path has no effect with --motion none"]);
    refused(&["--scheduler", "euler-ancestral"], &["--scheduler euler-ancestral", "--motion none"]);
    refused(&["--chunk", "0"], &["--chunk 0"]);
    refused(&["--size", "60x48"], &["60", "multiple of 8"]);
    fs::write(program.path("story.txt"), STORY.join("\n")).unwrap();
    let story = ["multi-prompt", "story.txt", "--model", "model", "--size", "64x48", "-o", "a.gif"];
    program.run(&[&story[..], &["--transition", "continue"]].concat()).error(2, &["continue", "image model"]);
    program.run(&[&story[..], &["--hold", "1"]].concat()).error(2, &["--hold", "image model"]);
    program.run(&[&story[..], &["--frames", "2"]].concat()).error(2, &["no frame is left", "more --frames"]);
    program.run(&["generate", "a ball", "--motion", "1,1", "-o", "a.gif"]).error(2, &["--motion is for image models"]);
}

/// What is no number stops the run and is named with its step and frame; motion that leaves the frame is told.
#[test]
fn broken_numbers_and_far_motion_are_told() {
    let program = program("tiny-sd1");
    let mut noise = tiny::unit("zero-shot/noise", &[3, 4 * 6 * 8]).to_vec2::<f32>().unwrap();
    noise[1][7] = f32::INFINITY;
    let noise = Tensor::new(noise, &candle_core::Device::Cpu).unwrap().reshape((1, 3, 4, 6, 8)).unwrap();
    candle_core::safetensors::save(&HashMap::from([("noise", noise)]), program.path("noise.safetensors")).unwrap();
    let one = [
        "generate", STORY[0], "--model", "model", "--size", "64x48", "--frames", "3", "--steps", "20", "-o", "a.gif",
        "-y",
    ];
    let broken = ["--motion", "none", "--init-noise", "noise.safetensors"];
    program.run(&[&one[..], &broken].concat()).error(5, &["NaN or infinity", "step 1", "frame 1", "--dtype f32"]);
    let far = program.run(&[&one[..], &["--motion", "200,0"]].concat()).success().stderr();
    assert!(far.contains("from frame 2 on the motion is over half a frame"), "{far}");
    let near = program.run(&[&one[..], &["--motion", "120,0"]].concat()).success().stderr();
    assert!(!near.contains("half a frame"), "{near}");
}

#[test]
fn stories_on_image_models_have_cuts_and_fades() {
    let program = program("tiny-sd1");
    fs::write(program.path("story.txt"), STORY.join("\n")).unwrap();
    for (transition, frames) in [("blend", 24), ("attention", 24), ("cut", 24), ("fade:3", 18)] {
        let how = ["--model", "model", "--size", "64x48", "--steps", "20", "--transition", transition];
        let out = ["--json", "-o", "a.gif", "-y"];
        let done = program.run(&[&["multi-prompt", "story.txt"][..], &how, &out].concat()).success().stdout();
        let done: serde_json::Value = serde_json::from_str(&done).unwrap();
        assert_eq!(done["frames"].as_u64(), Some(frames), "{transition}");
        let settings = &done["manifest"]["settings"];
        assert_eq!((settings["motion"].as_str(), settings["chunk"].as_u64()), (Some("12,12"), Some(8)), "{settings}");
        assert_eq!(settings["motion_between_steps"], serde_json::json!([1, 2]), "{settings}");
    }
}
