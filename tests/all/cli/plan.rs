//! `plan`, `--dry-run` and previews: what is told before and during a run.

use crate::cli::program::{Done, Program};
use serde_json::Value;
use std::fs;

fn plan(program: &Program, words: &[&str]) -> Value {
    let done = program.run(&[words, &["--json"]].concat()).success();
    assert_eq!(done.stdout().lines().count(), 1);
    serde_json::from_str(&done.stdout()).unwrap()
}

#[test]
fn a_plan_counts_without_rendering() {
    let program = Program::new();
    let two = ["plan", "-p", "a red ball in the snow", "-p", "a red ball in the desert", "--seed", "7"];
    let object = plan(&program, &two);
    // two prompts, two windows of transition between: 4 windows of 13 latent frames, 4 frames apart
    let windows = object["windows"].as_array().unwrap();
    assert_eq!((windows.len(), object["latent_frames"].as_u64(), object["frames"].as_u64()), (4, Some(25), Some(97)));
    assert_eq!((windows[1]["start"].as_u64(), windows[1]["end"].as_u64()), (Some(4), Some(17)));
    assert_eq!(windows[1]["text"], "prompts 1 to 2, 33 %");
    assert_eq!(object["tokens"].as_u64(), Some(32 + 13 * 6 * 9));
    // 10 steps, 6 layers; the last layer twice for 2 inner windows in steps 0 to 4
    assert_eq!(object["layer_windows"].as_u64(), Some(4 * 10 * 6 + 2 * 5));
    assert_eq!(object["reference_layer_windows"].as_u64(), Some(6 * 10 * 6));
    // a multiply-add is two operations: products and attention of 2 rows
    let (tokens, dim) = (734.0, 192.0);
    let layer = 2.0 * 2.0 * (tokens * 12.0 * dim * dim + 2.0 * tokens * tokens * dim);
    let want = 250.0 * layer;
    assert!((object["flops"]["denoise"].as_f64().unwrap() / want - 1.0).abs() < 1e-9, "{object}");
    for key in ["load", "denoise", "decode", "total"] {
        assert!(object["seconds"][key].as_f64().unwrap() > 0.0, "{key}");
    }
    assert!(object["memory"]["peak"].as_u64().unwrap() > 100 << 20);
    assert_eq!(object["disk"]["latents"].as_u64(), Some(25 * 8 * 12 * 18 * 4));
    let cache = program.path("home/.cache/vidgen");
    let kept: Vec<_> = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(kept.len() == 1 && kept[0].to_string_lossy().starts_with("speed-"), "{kept:?}");

    // the same words as a dry run, and the measurement is used again
    let file = cache.join(&kept[0]);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(program.path("p.txt"), "a red ball in the snow\na red ball in the desert\n").unwrap();
    let dry = plan(&program, &["multi-prompt", "p.txt", "--dry-run", "--seed", "7"]);
    assert_eq!(dry["windows"], object["windows"]);
    let total = |plan: &Value| plan["seconds"]["total"].as_f64().unwrap();
    assert!((total(&dry) / total(&object) - 1.0).abs() < 1e-9, "the measurement is kept");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    fs::write(&file, "{}").unwrap();
    let again = plan(&program, &["plan", "p.txt", "--recalibrate"]);
    assert!(again["seconds"]["total"].as_f64().unwrap() > 0.0);
    assert_ne!(fs::read_to_string(&file).unwrap(), "{}");

    let y4m = plan(&program, &["plan", "x", "--size", "48x32", "--frames", "5", "-o", "a.y4m"]);
    assert_eq!(y4m["disk"]["output"].as_u64(), Some(48 * 32 * 5 * 3 / 2));
    let twice = ["edit", "x", "--swap", "x=>y", "--side-by-side", "--size", "48x32", "--frames", "5", "-o", "a.y4m"];
    let edit = plan(&program, &[&twice[..], &["--dry-run"]].concat());
    assert_eq!(edit["disk"]["output"].as_u64(), Some(2 * 48 * 32 * 5 * 3 / 2));
    assert_eq!((edit["command"].as_str(), edit["prompts"][0].as_str()), (Some("generate"), Some("y")));
    assert!(!program.path("a.y4m").exists());

    let table = program.run(&["generate", "a red ball", "--dry-run", "-o", "ball.mp4"]).success().stdout();
    for told in ["ball.mp4", "734 tokens", "GFLOP", "memory", "time", "prompt 1: a red ball", "0-12"] {
        assert!(table.contains(told), "{told}: {table}");
    }
    assert!(!program.path("ball.mp4").exists());
}

#[test]
fn plans_refuse_what_runs_refuse() {
    let program = Program::new();
    program.run(&["plan", "none.txt"]).error(2, &["none.txt", "no such file"]);
    program.run(&["plan", "a ball", "--size", "33x32"]).error(2, &["33"]);
    program.run(&["plan", "a ball", "--overlap", "3"]).error(2, &["--overlap has no effect"]);
    program.run(&["plan"]).error(2, &["PROMPT"]);
    program.run(&["generate", "a ball", "--recalibrate"]).error(2, &["--dry-run"]);
    program.run(&["plan", "a ball", "--model", "./none"]).error(3, &["./none"]);
}

#[test]
fn previews_are_written_beside_the_output() {
    let program = Program::new();
    let quick = ["generate", "a red ball", "--steps", "3", "--frames", "5", "--size", "48x32", "--seed", "1"];
    let run = |words: &[&str]| program.run(&[&quick[..], words].concat());
    let plain = run(&["-o", "plain.gif"]).success();
    assert!(plain.stderr().contains("seed 1"));
    let done = run(&["-o", "a.gif", "--preview", "strip", "--preview-every", "2", "--progress", "json"]).success();
    let events: Vec<Value> = done.stderr().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shown: Vec<_> = events.iter().filter(|event| event["event"] == "preview").collect();
    assert_eq!(shown.iter().map(|event| event["index"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(shown[0]["path"], "a.preview.png");
    // two latent frames side by side
    let png = image::open(program.path("a.preview.png")).unwrap();
    assert_eq!((png.width(), png.height()), (96, 32));
    assert_eq!(
        fs::read(program.path("a.gif")).unwrap(),
        fs::read(program.path("plain.gif")).unwrap(),
        "decides no frame"
    );

    run(&["-o", "b.gif", "--preview", "video", "--preview-path", "shown.gif"]).success();
    let inspected = image::open(program.path("shown.gif")).unwrap();
    assert_eq!((inspected.width(), inspected.height()), (48, 32));
    run(&["-o", "c.gif", "--preview", "video", "--preview-path", "shown.gif"]).error(2, &["shown.gif", "exists"]);
    run(&["-o", "c.gif", "--preview-every", "2"]).error(2, &["--preview-every has no effect"]);
    run(&["-o", "c.gif", "--preview", "strip", "--preview-path", "x.mp4"]).error(2, &["a strip is a .png"]);
    run(&["-o", "c.gif", "--preview", "strip", "--preview-path", "none/x.png"]).error(2, &["no such directory"]);
    run(&["-o", "-", "--preview", "strip"]).error(2, &["--preview-path"]);
    run(&["-o", "c.gif", "--preview", "strips"]).error(2, &["did you mean strip?"]);
    let other = crate::common::tiny::write_folder;
    other("tiny-2b", "tiny-2b", &program.path("model"));
    run(&["-o", "c.gif", "--preview", "strip", "--model", "model", "--size", "32x32"])
        .error(2, &["no colours are known"]);
}

#[test]
fn a_log_file_keeps_what_happened() {
    let program = Program::new();
    let run = |words: &[&str]| -> Done {
        let quick = ["generate", "a red ball", "--steps", "1", "--frames", "1", "--size", "32x32", "--quiet"];
        program.run(&[&quick[..], words].concat())
    };
    run(&["-o", "a.gif", "--log-file", "run.log", "--log-level", "debug"]).success();
    let log = fs::read_to_string(program.path("run.log")).unwrap();
    for told in [" info  plan {", " debug step 1/1", " info  saved video a.gif"] {
        assert!(log.contains(told), "{told}: {log}");
    }
    run(&["-o", "a.gif", "--log-file", "run.log"]).error(2, &["a.gif"]);
    let longer = fs::read_to_string(program.path("run.log")).unwrap();
    assert!(longer.starts_with(&log) && longer.contains(" error ") && longer.contains("a.gif"), "{longer}");
    run(&["-o", "b.gif", "--log-file", "none/run.log"]).error(2, &["--log-file none/run.log"]);
    run(&["-o", "b.gif", "--log-file", "run.log", "--log-level", "loud"])
        .error(2, &["known: error, warn, info, debug"]);
}
