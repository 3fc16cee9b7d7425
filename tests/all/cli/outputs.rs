//! What a run leaves: files, their names, their records; and what is left when it ends early.

use crate::cli::program::{Done, Program};
use crate::common::tiny;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

fn program() -> Program {
    let program = Program::new();
    tiny::write_folder("tiny-2b", "tiny-2b", &program.path("model"));
    program
}

const QUICK: [&str; 10] = ["--model", "model", "--steps", "1", "--frames", "6", "--size", "32x32", "--seed", "3"];

fn quick<'a>(words: &[&'a str]) -> Vec<&'a str> {
    [&["generate", "A red ball, rolling!"], words, &QUICK].concat()
}

fn names(program: &Program) -> Vec<String> {
    let entries = fs::read_dir(program.path("")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !["home", "model"].contains(&name.as_str()));
    names.sort();
    names
}

#[test]
fn names_are_filled_in() {
    let program = program();
    let default = program.run(&[&quick(&[])[..], &["--offline"]].concat());
    if cfg!(feature = "video") {
        assert_eq!(default.success().stdout(), "a-red-ball-rolling-3.mp4\n");
    }
    let done = program.run(&quick(&["-o", "{model}-{slug}-{seed}-{index}.gif"])).success();
    assert_eq!(done.stdout(), "model-a-red-ball-rolling-3-0.gif\n");
    let dated = program.run(&quick(&["-o", "{date}.gif"])).success().stdout();
    let parts: Vec<&str> = dated.trim_end().trim_end_matches(".gif").split('-').collect();
    assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [4, 2, 2], "{dated}");
    let several = program.run(&quick(&["-o", "several.gif", "--num-videos", "2"])).success();
    assert_eq!(several.stdout(), "several-3.gif\nseveral-4.gif\n");
    assert_ne!(fs::read(program.path("several-3.gif")).unwrap(), fs::read(program.path("several-4.gif")).unwrap());
}

#[test]
fn lengths_are_exact() {
    let program = program();
    for frames in ["1", "2", "5", "6"] {
        let folder = format!("{frames}/");
        let words = ["--model", "model", "--steps", "1", "--size", "32x32", "--frames", frames, "-o", &folder];
        program.run(&[&["generate", "x"][..], &words].concat()).success();
        let pictures = fs::read_dir(program.path(&folder)).unwrap().map(|entry| entry.unwrap().path());
        let pictures = pictures.filter(|path| path.extension().is_some_and(|suffix| suffix == "png")).count();
        assert_eq!(pictures.to_string(), frames);
    }
    let words =
        ["generate", "x", "--model", "model", "--steps", "1", "--size", "32x32", "--duration", "0.5", "--fps", "14"];
    let done = program.run(&[&words[..], &["-o", "a.gif", "--json"]].concat()).success();
    let result: Value = serde_json::from_str(&done.stdout()).unwrap();
    assert_eq!(result["frames"], 7);
}

#[test]
fn outputs_are_replaced_only_when_asked() {
    let program = program();
    program.run(&quick(&["-o", "a.gif"])).success();
    let first = fs::read(program.path("a.gif")).unwrap();
    program.run(&quick(&["-o", "a.gif"])).error(2, &["a.gif", "-y"]);
    let skipped = program.run(&quick(&["-o", "a.gif", "--skip-existing", "--style", "x"])).success();
    assert!(skipped.stderr().contains("a.gif exists"), "{}", skipped.stderr());
    assert_eq!(fs::read(program.path("a.gif")).unwrap(), first);
    program.run(&quick(&["-o", "a.gif", "-y", "--style", "in the snow"])).success();
    assert_ne!(fs::read(program.path("a.gif")).unwrap(), first);
}

#[test]
fn the_same_command_writes_the_same_file() {
    let program = program();
    let suffixes: &[&str] = if cfg!(feature = "video") { &["mp4", "webm", "gif"] } else { &["gif"] };
    for suffix in suffixes {
        for name in ["a", "b"] {
            program.run(&quick(&["-o", &format!("{name}.{suffix}")])).success();
        }
        let read = |name: &str| fs::read(program.path(format!("{name}.{suffix}"))).unwrap();
        assert!(read("a") == read("b"), "{suffix}");
    }
}

#[test]
fn the_record_goes_where_it_is_wanted() {
    let program = program();
    for (place, embedded, sidecar) in
        [("embed", true, false), ("sidecar", false, true), ("both", true, true), ("none", false, false)]
    {
        let output = format!("{place}.gif");
        program.run(&quick(&["-o", &output, "--manifest", place])).success();
        let beside = program.path(format!("{output}.json"));
        assert_eq!(beside.exists(), sidecar, "{place}");
        let _ = fs::remove_file(beside);
        let inspected = program.run(&["inspect", &output]);
        assert_eq!(inspected.code() == 0, embedded, "{place}");
    }
    program.run(&quick(&["-o", "no.gif", "--no-metadata"])).success();
    assert!(!program.path("no.gif.json").exists());
    program.run(&quick(&["-o", "frames/"])).success();
    assert!(program.path("frames.json").exists());
    assert_eq!(program.run(&["inspect", "frames/"]).code(), 0);
}

#[test]
fn standard_output_carries_the_video_and_nothing_else() {
    let program = program();
    let output = program.command(&quick(&["-o", "-"])).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.starts_with(b"YUV4MPEG2 W32 H32 F8:1 "));
    let frame = 32 * 32 * 3 / 2 + b"FRAME\n".len();
    let header = output.stdout.iter().position(|&byte| byte == b'\n').unwrap() + 1;
    assert_eq!(output.stdout.len(), header + 6 * frame);
    assert!(names(&program).is_empty(), "{:?}", names(&program));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_pipe_keeps_the_latents() {
    let program = program();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = program.command(&quick(&["-o", "-"])).stdout(full).stderr(Stdio::piped()).output().unwrap();
    let stderr = Done(output).error(6, &["no space left", "latents are kept in"]).stderr();
    let kept = stderr.rsplit("latents are kept in ").next().unwrap().split(';').next().unwrap().to_owned();
    assert!(stderr.contains("to go on: vidgen resume "), "{stderr}");
    let latents = candle_core::safetensors::load(program.path(&kept), &candle_core::Device::Cpu).unwrap();
    assert_eq!(latents["latents"].dims(), [1, 3, 4, 4, 4]);
    assert!(names(&program).is_empty(), "{:?}", names(&program));
    // where runs cannot be kept the latents go beside the output
    fs::remove_dir_all(program.path("home")).unwrap();
    fs::write(program.path("home"), "").unwrap();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = program.command(&quick(&["-o", "-"])).stdout(full).stderr(Stdio::piped()).output().unwrap();
    let stderr = Done(output).error(6, &["no space left", "latents are kept in"]).stderr();
    let kept = stderr.trim().rsplit("latents are kept in ").next().unwrap().trim().to_owned();
    assert_eq!(names(&program), [kept]);
}

/// A command that was started with signals that it is not to hear.
#[cfg(unix)]
fn deaf(program: &Program, words: &[&str]) -> std::process::Command {
    let plain = program.command(words);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' HUP USR1; exec \"$@\"", "sh"]).arg(plain.get_program()).args(plain.get_args());
    command.current_dir(program.path("")).env_clear().stdin(Stdio::null());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

#[cfg(unix)]
#[test]
fn an_interruption_leaves_nothing() {
    let program = program();
    let words = ["generate", "x", "--model", "model", "--steps", "1000", "--progress", "json", "-o", "a.gif"];
    let mut child = deaf(&program, &words).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut step = || {
        let begun = lines.find(|line| line.as_ref().unwrap().contains(r#""event":"step""#));
        assert!(begun.is_some(), "the run ended before it was asked to");
    };
    let pid = child.id().to_string();
    let kill = |signal: &str| {
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    };
    step();
    // as nohup and a batch script do that keeps a signal for itself
    kill("-HUP");
    kill("-USR1");
    for _ in 0..5 {
        step();
    }
    kill("-INT");
    let last = lines.map(|line| line.unwrap()).last().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let event: Value = serde_json::from_str(&last).unwrap();
    assert_eq!((event["event"].as_str(), event["code"].as_i64()), (Some("error"), Some(130)));
    assert!(names(&program).is_empty(), "{:?}", names(&program));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_keeps_the_latents() {
    let program = program();
    let words = ["generate", "x", "--model", "model", "--steps", "1", "--frames", "49", "--size", "128x128"];
    fs::create_dir(program.path("small")).unwrap();
    let words = [&words[..], &["-o", "small/a.y4m"]].concat();
    let mount = "mount -t tmpfs -o size=16k none small";
    let Some(done) = program.mounted(mount, &words, "ls -A small >&2") else { return };
    let stderr = done.stderr();
    assert_eq!(done.code(), 6, "{stderr}");
    let line = stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert!(line.contains("no space left") && line.contains("latents"), "{line}");
    // the latents are where the line says
    let mut words = line.split_whitespace().map(|word| word.trim_matches([';', ',', ':', '"']));
    let kept = words.rfind(|word| word.ends_with(".safetensors")).expect(line);
    let tensors = candle_core::safetensors::load(program.path(kept), &candle_core::Device::Cpu).unwrap();
    assert_eq!(tensors["latents"].dims(), [1, 13, 4, 16, 16]);
    assert!(!stderr.lines().any(|line| line.contains("partial")), "a partial file stays: {stderr}");
}
