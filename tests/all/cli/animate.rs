//! Videos of given frames: whole runs of a tiny STIV against the plain PyTorch of `training/stiv.py` on the same random weights and
//! noise (goldens: `tests/reference/stiv.py`), and what a user can ask of such models.

use crate::cli::parity::read;
use crate::cli::program::Program;
use crate::cli::resume::disturbed;
use crate::common::{assert_close, golden, thin, tiny};
use candle_core::Tensor;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

const PROMPT: &str = "a red ball rolls";

fn program() -> Program {
    let program = Program::new();
    tiny::write_stiv(&program.path("model"));
    program
}

/// Writes pictures of the reference as PNGs `NAME-0.png`, .. of `h` by `w` cells.
fn write_pictures(folder: &Path, name: &str, key: &str, count: usize, (h, w): (usize, usize)) {
    let (height, width) = (8 * h, 8 * w);
    let values = tiny::unit(&format!("stiv/{key}"), &[count, 3, height, width]);
    let bytes = values.permute((0, 2, 3, 1)).unwrap().flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
    for (index, values) in bytes.into_iter().enumerate() {
        let bytes = values.iter().map(|value| ((value + 1.0) * 127.5).round_ties_even().clamp(0.0, 255.0) as u8);
        let picture = image::RgbImage::from_raw(width as u32, height as u32, bytes.collect()).unwrap();
        picture.save(folder.join(format!("{name}-{index}.png"))).unwrap();
    }
}

fn write_tensors(path: &Path, tensors: Vec<(&str, Tensor)>) {
    let tensors: HashMap<String, Tensor> = tensors.into_iter().map(|(name, t)| (name.to_owned(), t)).collect();
    candle_core::safetensors::save(&tensors, path).unwrap();
}

/// The frames of a folder of PNGs, `[F, 3, H, W]` in 0 to 1.
fn shown(program: &Program, folder: &str) -> Tensor {
    let frames = crate::cli::parity::frames(&program.path(folder));
    let frames = frames.permute((0, 3, 1, 2)).unwrap().to_dtype(candle_core::DType::F32).unwrap();
    (frames / 255.0).unwrap()
}

fn compare(program: &Program, name: &str) {
    let golden = golden("stiv/run");
    let latents = read(&program.path("latents.safetensors"), "latents");
    assert_close(name, &thin(&latents), &golden[&format!("{name}/latents")], 1e-4);
    let (got, want) = (thin(&shown(program, "frames")), &golden[&format!("{name}/frames")]);
    let worst = (got - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(worst <= 1.01 / 255.0, "{name}: frames are up to {worst} apart");
}

/// A run of the reference: cells, frames, steps, what is given, and how.
type Case = (&'static str, (usize, usize), usize, usize, &'static [&'static str], &'static [&'static str]);

const CASES: [Case; 10] = [
    ("text", (4, 6), 5, 4, &[], &[]),
    ("text-heun", (4, 4), 4, 3, &[], &["--guidance-scale", "1", "--scheduler", "heun", "--shift", "1"]),
    ("image", (4, 6), 5, 4, &["--image", "given-0.png"], &[]),
    (
        "image-cfg",
        (4, 6),
        5,
        3,
        &["--image", "given-0.png"],
        &["--guidance-scale", "5", "--guidance-mode", "cfg", "--renorm", "full"],
    ),
    ("image-sit", (4, 4), 6, 4, &["--image", "given-0.png"], &["--guidance-mode", "sit", "--null-frame", "free"]),
    (
        "image-clamp",
        (2, 4),
        4,
        3,
        &["--image", "given-0.png"],
        &["--renorm", "clamp", "--scheduler", "heun", "--null-frame", "free"],
    ),
    (
        "image-sde",
        (4, 4),
        5,
        4,
        &["--image", "given-0.png"],
        &[
            "--guidance-scale",
            "3",
            "--guidance-mode",
            "sit",
            "--image-guidance",
            "2",
            "--scheduler",
            "sde-euler",
            "--eta",
            "0.7",
        ],
    ),
    ("ends", (4, 6), 5, 3, &["--image", "given-0.png", "--last-image", "given-1.png"], &[]),
    ("middle", (4, 4), 5, 3, &["--image", "given-0.png", "--keyframe", "2=given-1.png"], &["--guidance-mode", "cfg"]),
    ("predict", (4, 4), 5, 3, &["--video", "given/"], &[]),
];

#[test]
fn clips_equal_the_reference() {
    for (name, (h, w), frames, steps, given, how) in CASES {
        let program = program();
        write_pictures(&program.path(""), "given", &format!("{name}/given"), 2, (h, w));
        std::fs::create_dir_all(program.path("given")).unwrap();
        write_pictures(&program.path("given"), "frame", &format!("{name}/given"), 2, (h, w));
        let noise = tiny::unit(&format!("stiv/{name}/noise"), &[frames, 4, h, w]).unsqueeze(0).unwrap();
        let mut tensors = vec![("noise", noise)];
        if how.contains(&"sde-euler") {
            let of_steps = tiny::unit(&format!("stiv/{name}/step_noise"), &[steps, frames, 4, h, w]);
            tensors.push(("step_noise", of_steps.unsqueeze(1).unwrap()));
        }
        write_tensors(&program.path("noise.safetensors"), tensors);
        let (size, count, steps) = (format!("{}x{}", 8 * w, 8 * h), frames.to_string(), steps.to_string());
        let command = if given.is_empty() { "generate" } else { "animate" };
        let what = [command, PROMPT, "--model", "model", "--size", &size, "--frames", &count, "--steps", &steps];
        let files = ["--init-noise", "noise.safetensors", "--save-latents", "latents.safetensors", "-o", "frames/"];
        program.run(&[&what[..], given, how, &files].concat()).success();
        compare(&program, name);
    }
}

#[test]
fn a_video_has_a_frame_between_every_two() {
    for (count, clips) in [(2, 1), (4, 3)] {
        let program = program();
        std::fs::create_dir_all(program.path("video")).unwrap();
        write_pictures(&program.path("video"), "frame", &format!("denser/{count}/video"), count, (4, 4));
        let names: Vec<String> = (0..clips).map(|clip| format!("noise.{clip}")).collect();
        let noise =
            |name: &String| tiny::unit(&format!("stiv/denser/{count}/{name}"), &[4, 4, 4, 4]).unsqueeze(0).unwrap();
        let tensors = names.iter().map(|name| (name.as_str(), noise(name))).collect();
        write_tensors(&program.path("noise.safetensors"), tensors);
        let what = ["interpolate", "video/", PROMPT, "--model", "model", "--size", "32x32", "--steps", "3"];
        let files = ["--init-noise", "noise.safetensors", "--save-latents", "latents.safetensors", "-o", "frames/"];
        program.run(&[&what[..], &files].concat()).success();
        compare(&program, &format!("denser/{count}"));
    }
}

#[test]
fn long_videos_are_made_by_keyframes() {
    for (frames, image) in [(8, false), (9, true)] {
        let program = program();
        let name = format!("long/{frames}/{}", if image { "image" } else { "text" });
        write_pictures(&program.path(""), "given", &format!("{name}/given"), 1, (4, 4));
        let unit = |clip: &str, frames: usize| {
            tiny::unit(&format!("stiv/{name}/noise.{clip}"), &[frames, 4, 4, 4]).unsqueeze(0).unwrap()
        };
        let noise = vec![("noise.key", unit("key", 3)), ("noise.0", unit("0", 5)), ("noise.1", unit("1", 5))];
        write_tensors(&program.path("noise.safetensors"), noise);
        let count = frames.to_string();
        let what = ["extend", PROMPT, "--model", "model", "--size", "32x32", "--steps", "3", "--frames", &count];
        let files = ["--init-noise", "noise.safetensors", "--save-latents", "latents.safetensors", "-o", "frames/"];
        let given: &[&str] = if image { &["--image", "given-0.png"] } else { &[] };
        program.run(&[&what[..], given, &files].concat()).success();
        compare(&program, &name);
    }
}

/// A run of two steps on a tiny folder; what `--json` says of it.
fn done(program: &Program, what: &[&str]) -> Value {
    let how = ["--model", "model", "--steps", "2", "--seed", "5", "--json", "-y"];
    serde_json::from_str(&program.run(&[what, &how].concat()).success().stdout()).unwrap()
}

/// Scenes and videos go on from the end of what came before, which the next clip is given.
#[test]
fn clips_go_on_from_each_other() {
    let program = program();
    let latents = |what: &[&str]| {
        let done = done(&program, &[what, &["--save-latents", "latents.safetensors"]].concat());
        let latents = read(&program.path("latents.safetensors"), "latents").squeeze(0).unwrap();
        (latents.flatten_from(1).unwrap().to_vec2::<f32>().unwrap(), done)
    };
    let story = ["multi-prompt", "-p", PROMPT, "-p", "a blue ball rolls", "--frames", "12", "-o", "story.mp4"];
    let (frames, made) = latents(&story);
    let settings = &made["manifest"]["settings"];
    assert_eq!((made["frames"].as_u64(), settings["transition"].as_str()), (Some(12), Some("continue:latents")));
    // each of the clips after the first begins with the last two frames of the one before it, and shows them once
    assert_eq!(settings["segment_frames"].to_string(), "[5,1,3,3]");
    assert_eq!(settings["context_frames"].to_string(), "[0,2,2,2]");
    assert_eq!(frames[5..7], frames[3..5]);
    assert_eq!(settings["guidance_mode"].as_str(), Some("jit"));
    program.run(&["rerun", "story.mp4", "--check"]).success();
    let (_, made) = latents(&["extend", "story.mp4", "a green ball", "--frames", "4", "-o", "more.mp4"]);
    assert_eq!((made["frames"].as_u64(), made["manifest"]["settings"]["given_frames"].as_u64()), (Some(16), Some(12)));
    program.run(&["rerun", "more.mp4", "--check"]).success();
    let refused = [&story[..], &["--transition", "blend", "--model", "model", "-y"]].concat();
    program.run(&refused).error(2, &["transition blend", "continue, cut or fade"]);
}

/// The frame that is given is in every step what it was, and its decoded form that of the autoencoder.
#[test]
fn given_frames_stay_to_the_bit() {
    let program = program();
    write_pictures(&program.path(""), "given", "laws", 2, (4, 6));
    let of = |more: &[&str]| {
        let what =
            ["animate", "given-0.png", PROMPT, "--frames", "4", "--save-latents", "latents.safetensors", "-o", "a.gif"];
        done(&program, &[&what[..], more].concat());
        let latents = read(&program.path("latents.safetensors"), "latents").squeeze(0).unwrap();
        latents.flatten_from(1).unwrap().to_vec2::<f32>().unwrap()
    };
    let plain = of(&[]);
    for more in [
        &["--guidance-mode", "cfg"][..],
        &["--guidance-mode", "sit", "--null-frame", "free"],
        &["--scheduler", "heun", "--renorm", "full"],
        &["--scheduler", "sde-euler"],
    ] {
        let other = of(more);
        assert_eq!(other[0], plain[0], "{more:?}");
        assert_ne!(other[1..], plain[1..], "{more:?}");
    }
    // equal scales of text and image are one scale of both
    let both = of(&["--guidance-mode", "sit", "--guidance-scale", "3", "--image-guidance-scale", "3"]);
    let one = of(&["--guidance-mode", "jit", "--guidance-scale", "3"]);
    let apart = both.concat().iter().zip(one.concat()).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(apart < 1e-4, "{apart}");
    // no share of noise is none
    assert_eq!(of(&["--scheduler", "sde-euler", "--eta", "0"]), plain);
}

#[test]
fn records_make_the_same_videos_again() {
    let program = program();
    write_pictures(&program.path(""), "given", "again", 3, (4, 6));
    let made = done(&program, &["animate", "given-0.png", PROMPT, "--last-image", "given-1.png", "-o", "ends.mp4"]);
    let settings = &made["manifest"]["settings"];
    assert_eq!((made["frames"].as_u64(), made["manifest"]["command"].as_str()), (Some(5), Some("animate")));
    assert_eq!((settings["guidance_mode"].as_str(), settings["null_frame"].as_str()), (Some("jit"), Some("renoise")));
    assert_eq!(settings["given_at"].to_string(), "[[[0,0],[4,1]]]");
    assert_eq!((settings["guidance_scale"].as_str(), settings["shift"].as_f64()), (Some("7.5"), Some(3.0)));
    program.run(&["rerun", "ends.mp4", "--check"]).success();
    let predicted = done(&program, &["animate", PROMPT, "--video", "ends.mp4", "-o", "next.mp4"]);
    assert_eq!(predicted["manifest"]["settings"]["given"][0]["frames"].to_string(), "[3,4]");
    let twice = done(&program, &["interpolate", "ends.mp4", "-o", "twice.mp4"]);
    assert_eq!((twice["frames"].as_u64(), twice["manifest"]["settings"]["fps"].as_str()), (Some(9), Some("16")));
    assert_eq!(twice["manifest"]["prompts"][0].as_str(), Some(PROMPT), "the record's");
    let long = done(&program, &["extend", PROMPT, "--frames", "12", "--image", "given-2.png", "-o", "long.mp4"]);
    assert_eq!(long["frames"].as_u64(), Some(12));
    for file in ["next.mp4", "twice.mp4", "long.mp4"] {
        program.run(&["rerun", file, "--check"]).success();
    }
    // a picture that is another one is no longer the same run
    write_pictures(&program.path(""), "given", "others", 3, (4, 6));
    program.run(&["rerun", "long.mp4", "--check"]).error(7, &["another video"]);
}

#[test]
fn interrupted_runs_go_on_to_the_same_bytes() {
    let program = program();
    write_pictures(&program.path(""), "given", "resume", 1, (4, 6));
    let long = [
        "extend",
        PROMPT,
        "--model",
        "model",
        "--steps",
        "24",
        "--seed",
        "5",
        "--frames",
        "9",
        "--image",
        "given-0.png",
    ];
    let how = ["--guidance-mode", "sit", "--null-frame", "free", "--scheduler", "heun"];
    program.run(&[&long[..], &how, &["-o", "whole/"]].concat()).success();
    let whole = shown(&program, "whole");
    // in the clip of keyframes, and in both gaps
    for step in [3, 26, 50] {
        let out = ["-o", "part/", "-y", "--checkpoint-every", "1", "--progress", "json"];
        let (events, code) = disturbed(&program, &[&long[..], &how, &out].concat(), "step", step, libc::SIGINT);
        assert_eq!(code, Some(130), "{:?}", events.last());
        program.run(&["resume", "last"]).success();
        let part = shown(&program, "part");
        assert_eq!(
            part.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            whole.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        );
    }
}

#[test]
fn what_cannot_be_is_said_in_one_line() {
    let program = program();
    write_pictures(&program.path(""), "given", "refused", 2, (4, 6));
    std::fs::create_dir_all(program.path("video")).unwrap();
    write_pictures(&program.path("video"), "frame", "refused", 2, (4, 6));
    let refused = |what: &[&str], words: &[&str]| {
        program.run(&[what, &["--model", "model", "-o", "a.gif"]].concat()).error(2, words);
    };
    let animate = ["animate", "given-0.png", PROMPT];
    let with = |more: &[&'static str]| [&animate[..], more].concat();
    refused(&["animate", PROMPT, "--video", "video/", "--context", "1"], &["predict1", "t2v, ti2v, predict2"]);
    refused(&["animate", PROMPT, "--video", "given-0.png"], &["holds 1 frames", "last 2"]);
    refused(
        &["animate", PROMPT, "--video", "video/", "--last-image", "given-1.png"],
        &["--video video/", "--last-image"],
    );
    refused(&with(&["--keyframe", "0=given-1.png"]), &["--image and --keyframe 0 are both frame 0"]);
    refused(&with(&["--last-image", "given-1.png", "--keyframe", "4=given-1.png"]), &["both frame 4"]);
    refused(&with(&["--keyframe", "9=given-1.png"]), &["--keyframe 9", "0 to 4"]);
    refused(&with(&["--keyframe", "given-1.png"]), &["--keyframe", "N=FILE"]);
    refused(&with(&["--frames", "1"]), &["all 1 frames are given"]);
    refused(&with(&["--size", "44x32"]), &["44", "multiple of 16"]);
    refused(&with(&["--context", "2"]), &["--context has no effect"]);
    refused(&with(&["--image-guidance-scale", "2"]), &["--image-guidance-scale", "--guidance-mode sit"]);
    refused(&with(&["--guidance-mode", "cfg", "--null-frame", "free"]), &["--null-frame has no effect"]);
    refused(&with(&["--renorm", "full", "--guidance-scale", "1"]), &["--renorm full", "--guidance-scale 1"]);
    refused(&with(&["--scheduler", "ddim"]), &["ddim", "euler, heun or sde-euler"]);
    refused(&with(&["--eta", "0.5"]), &["--eta 0.5", "sde-euler"]);
    refused(&["animate", "video/", PROMPT], &["video/", "several frames", "--video"]);
    refused(&["animate", "none.png", PROMPT], &["none.png"]);
    refused(&["animate", PROMPT], &["no prompt"]);
    refused(&["animate", "--last-image", "given-0.png"], &["no prompt"]);
    refused(&["interpolate", "given-0.png"], &["holds one frame"]);
    refused(&["interpolate", "video/", "--frames", "9"], &["--frames", "no effect"]);
    refused(&["extend", PROMPT], &["--duration"]);
    refused(&["extend", PROMPT, "--frames", "18"], &["--frames 18", "up to 17"]);
    let generate = ["generate", PROMPT];
    for (flag, value) in
        [("--guidance-mode", "jit"), ("--guidance-mode", "sit"), ("--null-frame", "free"), ("--image-guidance", "2")]
    {
        refused(&[&generate[..], &[flag, value]].concat(), &["--"]);
    }
    refused(&[&generate[..], &["--window", "3"]].concat(), &["--window"]);
    // a model of texts alone
    program.run(&["animate", "given-0.png", PROMPT, "-o", "a.gif"]).error(2, &["takes no frames"]);
    program.run(&["interpolate", "video/", "-o", "a.gif"]).error(2, &["takes no frames"]);
    program.run(&["generate", PROMPT, "--null-frame", "free", "-o", "a.gif"]).error(2, &["--null-frame"]);
    // a folder that says it was trained for nothing
    let path = program.path("model/transformer/config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["trained_tasks"] = serde_json::json!([]);
    std::fs::write(&path, config.to_string()).unwrap();
    refused(&generate, &["not trained for t2v", "trained_tasks: none"]);
    refused(&animate, &["not trained for ti2v", "trained_tasks: none"]);
    config["num_layers"] = 3.into();
    config["trained_tasks"] = serde_json::json!(["t2v"]);
    std::fs::write(&path, config.to_string()).unwrap();
    program.run(&["generate", PROMPT, "--model", "model", "-o", "a.gif"]).error(3, &["transformer_blocks.2"]);
}

#[test]
fn plans_and_batches_know_given_frames() {
    let program = program();
    write_pictures(&program.path(""), "given", "plan", 2, (4, 6));
    let plan = |more: &[&str]| {
        let how = ["animate", "given-0.png", PROMPT, "--model", "model", "--dry-run", "--json"];
        let plan = program.run(&[&how[..], more].concat()).success().stdout();
        serde_json::from_str::<Value>(&plan).unwrap()
    };
    let flops = |plan: Value| plan["flops"]["denoise"].as_f64().unwrap();
    let (one, heun) = (flops(plan(&[])), flops(plan(&["--scheduler", "heun"])));
    assert!((heun / one - 2.0).abs() < 1e-9 && (flops(plan(&["--guidance-mode", "sit"])) / one - 1.5).abs() < 1e-9);
    let jobs = "{\"id\": \"a\", \"command\": \"animate\", \"prompt\": \"a red ball\", \"image\": \"given-0.png\", \"keyframe\": [\"2=given-1.png\"]}\n\
                {\"id\": \"b\", \"command\": \"extend\", \"prompt\": \"a red ball\", \"frames\": 7}\n";
    std::fs::write(program.path("jobs.jsonl"), jobs).unwrap();
    program.run(&["batch", "jobs.jsonl", "--model", "model", "--steps", "2", "-o", "out/{id}.mp4"]).success();
    assert!(program.path("out/a.mp4").exists() && program.path("out/b.mp4").exists());
}

/// Pictures of every sort become the frame that is meant, and what is lost of them is told.
#[test]
fn pictures_are_right_or_told() {
    let program = program();
    write_pictures(&program.path(""), "given", "sorts", 1, (4, 6));
    let plain = image::open(program.path("given-0.png")).unwrap();
    let latents = |file: &str, more: &[&str]| {
        let what = ["animate", file, PROMPT, "--model", "model", "--steps", "1", "--frames", "2", "--seed", "1"];
        let files = ["--save-latents", "latents.safetensors", "-y", "-o", "a.gif"];
        let stderr = program.run(&[&what[..], &files, more].concat()).success().stderr();
        let latents = read(&program.path("latents.safetensors"), "latents").squeeze(0).unwrap();
        (latents.get(0).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(), stderr)
    };
    let (want, said) = latents("given-0.png", &[]);
    assert!(!said.contains("scaled"), "{said}");
    let deep = image::DynamicImage::ImageRgb16(plain.to_rgb16());
    deep.save(program.path("deep.png")).unwrap();
    assert_eq!(latents("deep.png", &[]).0, want);
    let mut clear = plain.to_rgba8();
    clear.pixels_mut().for_each(|pixel| pixel[3] = 100);
    clear.save(program.path("clear.png")).unwrap();
    let (found, said) = latents("clear.png", &[]);
    assert!(found == want && said.contains("partly transparent"), "{said}");
    plain.to_rgb8().save(program.path("one.gif")).unwrap();
    latents("one.gif", &[]);
    let large = plain.resize_exact(96, 32, image::imageops::FilterType::Nearest);
    large.save(program.path("large.png")).unwrap();
    let (_, said) = latents("large.png", &[]);
    assert!(
        said.contains("large.png is 96x32: it is scaled to 96x32 and cut to 48x32, 24 pixels on the left"),
        "{said}"
    );
    let (_, said) = latents("large.png", &["--fit", "pad"]);
    assert!(said.contains("scaled to 48x16 and black to 48x32, 0 pixels on the left and 8 above"), "{said}");
}

/// A run of diffusers' image-to-video pipeline: the folder, latent frames with those that fill up patches, size, how.
type PictureCase = (&'static str, &'static str, usize, &'static str, &'static str, &'static [&'static str]);

const PICTURE_CASES: [PictureCase; 7] = [
    ("dpm", "tiny-i2v", 3, "9", "80x48", &[]),
    ("ddim", "tiny-i2v", 3, "9", "80x48", &["--scheduler", "ddim"]),
    ("short", "tiny-i2v", 2, "5", "80x48", &["--scheduler", "ddim"]),
    ("jit", "tiny-i2v", 3, "9", "80x48", &["--guidance-mode", "jit", "--renorm", "full"]),
    ("ofs", "tiny-i2v-1.5", 4, "9", "48x32", &[]),
    (
        "ofs-sit",
        "tiny-i2v-1.5",
        4,
        "9",
        "48x32",
        &["--guidance-mode", "sit", "--image-guidance-scale", "2", "--renorm", "clamp"],
    ),
    ("ofs-whole", "tiny-i2v-1.5", 4, "13", "48x32", &["--guidance-mode", "jit", "--scheduler", "ddim"]),
];

/// The picture of `tests/reference/image_to_video.py`, of another shape than the videos.
fn write_picture(program: &Program) {
    let values = tiny::unit("image-to-video/picture", &[40, 56, 3]).flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let bytes = values.iter().map(|value| ((value + 1.0) * 127.5).round_ties_even().clamp(0.0, 255.0) as u8);
    image::RgbImage::from_raw(56, 40, bytes.collect()).unwrap().save(program.path("picture.png")).unwrap();
}

#[test]
fn pictures_beside_the_noise_equal_diffusers() {
    let golden = golden("image-to-video");
    for (name, kind, padded, frames, size, how) in PICTURE_CASES {
        let program = Program::new();
        tiny::write_folder(kind, kind, &program.path("model"));
        write_picture(&program);
        let (width, height) = size.split_once('x').unwrap();
        let cells = [width, height].map(|side| side.parse::<usize>().unwrap() / 8);
        let unit = |what: &str, frames: usize| {
            tiny::unit(&format!("image-to-video/{name}/{what}"), &[1, frames, 4, cells[1], cells[0]])
        };
        let of_steps: Vec<Tensor> = (0..4).map(|step| unit(&format!("step_noise/{step}"), padded)).collect();
        let noise = vec![
            ("noise", unit("noise", padded)),
            ("image_noise", unit("image_noise", 1)),
            ("step_noise", Tensor::stack(&of_steps, 0).unwrap()),
        ];
        write_tensors(&program.path("noise.safetensors"), noise);
        let what = ["animate", "picture.png", "a red ball rolls to the right", "--model", "model", "--fit", "stretch"];
        let size =
            ["--size", size, "--frames", frames, "--steps", "4", "--parity", "diffusers", "--guidance-scale", "6"];
        let files = ["--init-noise", "noise.safetensors", "--save-latents", "latents.safetensors", "-o", "frames/"];
        program.run(&[&what[..], &size, how, &files].concat()).success();
        let latents = read(&program.path("latents.safetensors"), "latents");
        assert_close(name, &thin(&latents), &golden[&format!("{name}/latents")], 1e-4);
        if ["short", "ofs-whole"].contains(&name) {
            continue; // diffusers decodes even numbers of latent frames to more frames than there are
        }
        let (got, want) = (thin(&shown(&program, "frames")), &golden[&format!("{name}/frames")]);
        let worst = (got - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(worst <= 1.01 / 255.0, "{name}: frames are up to {worst} apart");
    }
}

#[test]
fn models_of_one_picture_say_what_they_take() {
    let program = Program::new();
    tiny::write_folder("tiny-i2v", "tiny-i2v", &program.path("model"));
    write_picture(&program);
    let refused = |what: &[&str], words: &[&str]| {
        program.run(&[what, &["--model", "model", "--steps", "2", "-o", "a.gif"]].concat()).error(2, words);
    };
    let animate = ["animate", "picture.png", "a red ball"];
    let with = |more: &[&'static str]| [&animate[..], more].concat();
    refused(&["generate", "a red ball"], &["makes videos of pictures", "vidgen animate"]);
    refused(&["multi-prompt", "-p", "a red ball", "-p", "a blue ball"], &["makes videos of pictures"]);
    refused(&with(&["--last-image", "picture.png"]), &["--last-image", "one picture"]);
    refused(&with(&["--keyframe", "1=picture.png"]), &["--keyframe", "one picture"]);
    refused(&["animate", "a red ball", "--video", "picture.png"], &["--video", "one picture"]);
    refused(&with(&["--null-frame", "free", "--guidance-mode", "jit"]), &["--null-frame"]);
    refused(&with(&["--size", "48x32"]), &["48x32", "80x48"]);
    refused(&with(&["--frames", "13"]), &["up to 9 frames"]);
    refused(&["interpolate", "picture.png"], &["makes videos of pictures"]);
    let noise = tiny::unit("noise", &[1, 3, 4, 6, 10]);
    write_tensors(&program.path("noise.safetensors"), vec![("noise", noise)]);
    refused(&with(&["--init-noise", "noise.safetensors", "--scheduler", "ddim"]), &["no image_noise"]);
    let made = done(&program, &with(&["-o", "a.mp4"]));
    let settings = &made["manifest"]["settings"];
    assert_eq!((settings["guidance_mode"].as_str(), settings["fit"].as_str()), (Some("cfg"), Some("crop")));
    program.run(&["rerun", "a.mp4", "--check"]).success();
    // the picture counts
    let before = std::fs::read(program.path("a.mp4")).unwrap();
    let values = tiny::unit("another", &[40, 56, 3]).flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let bytes = values.iter().map(|value| ((value + 1.0) * 127.5) as u8).collect();
    image::RgbImage::from_raw(56, 40, bytes).unwrap().save(program.path("picture.png")).unwrap();
    done(&program, &with(&["-o", "a.mp4"]));
    assert_ne!(std::fs::read(program.path("a.mp4")).unwrap(), before);
    // a folder whose transformer is of the other pipeline
    let path = program.path("model/model_index.json");
    let index = std::fs::read_to_string(&path).unwrap().replace("ImageToVideoPipeline", "Pipeline");
    std::fs::write(path, index).unwrap();
    program.run(&with(&["--model", "model", "-o", "b.gif"])).error(3, &["in_channels is 8", "has 4"]);
}
