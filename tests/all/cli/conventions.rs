//! What holds for every flag and every command: spellings, variables, precedence, where output goes.

use crate::cli::program::Program;
use crate::common::{assert_close, tiny};
use serde_json::Value;
use std::io::Read;
use std::process::Stdio;

/// A program directory with a tiny model in `model/`.
fn tiny_program() -> Program {
    let program = Program::new();
    tiny::write_folder("tiny-2b", "tiny-2b", &program.path("model"));
    program
}

/// The shortest run there is.
const QUICK: [&str; 8] = ["--model", "model", "--steps", "1", "--frames", "1", "--size", "32x32"];

fn quick<'a>(words: &[&'a str]) -> Vec<&'a str> {
    [words, &QUICK].concat()
}

/// The long flags in a help text.
fn flags(help: &str) -> Vec<String> {
    let words = help.split_whitespace().filter_map(|word| word.strip_prefix("--"));
    let name = |word: &str| word.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect::<String>();
    let mut flags: Vec<String> = words.map(name).filter(|name| !name.is_empty()).collect();
    flags.sort();
    flags.dedup();
    flags
}

/// The flags of the option list of a command's help, without those named in its examples only.
fn own_flags(program: &Program, command: &str) -> Vec<String> {
    let help = program.run(&[command, "--help"]).success().stdout();
    let options = help.split("Examples:").next().unwrap();
    let flags = flags(options);
    assert!(flags.len() > 30, "{flags:?}");
    flags.into_iter().filter(|flag| !["help", "version"].contains(&flag.as_str())).collect()
}

#[test]
fn nothing_typed_gives_help_and_bad_usage() {
    let program = Program::new();
    let nothing = program.run(&[]);
    assert_eq!((nothing.code(), nothing.stdout().as_str()), (2, ""));
    let help = program.run(&["--help"]).success();
    assert_eq!(help.stdout(), nothing.stderr());
    for command in [
        "generate",
        "multi-prompt",
        "extend",
        "plan",
        "batch",
        "resume",
        "runs",
        "decode",
        "eval",
        "inspect",
        "rerun",
        "model",
        "devices",
        "doctor",
        "completions",
        "man",
    ] {
        assert!(help.stdout().contains(&format!("\n  {command} ")), "{command}");
        let own = program.run(&[command, "--help"]).success();
        assert!(own.stderr().is_empty() && own.stdout().contains("Usage: "), "{command}");
    }
    let version = program.run(&["--version"]).success().stdout();
    assert_eq!(version, format!("vidgen {}\n", env!("CARGO_PKG_VERSION")));
}

/// Whether `words` get past the parser: the file they name is missing, and that is the fault.
#[track_caller]
fn known(program: &Program, command: &str, flag: &str) {
    let done = program.run(&[command, "no-such-file.txt", flag]);
    let stderr = done.stderr();
    assert_eq!(done.code(), 2, "{flag}: {stderr}");
    assert!(!stderr.contains("unexpected argument"), "{flag} is not known: {stderr}");
}

#[test]
fn flags_may_be_spelt_with_underscores() {
    let program = Program::new();
    for flag in own_flags(&program, "multi-prompt") {
        known(&program, "multi-prompt", &format!("--{}", flag.replace('-', "_")));
    }
    let done = program.run(&["multi-prompt", "no-such-file.txt", "--no_such_flag"]);
    assert!(done.error(2, &["unexpected argument"]).stdout().is_empty());
}

#[test]
fn the_names_of_other_programs_are_known() {
    let program = Program::new();
    for alias in [
        "prompts",
        "negative",
        "n-prompt",
        "head-prompt",
        "scenes",
        "custom-config",
        "prompts-file",
        "overlap-size",
        "num-transition-blocks",
        "longer-mid-segment",
        "num-inference-steps",
        "sample-steps",
        "ddim-steps",
        "num-steps",
        "cfg-scale",
        "cfg",
        "guidance",
        "sample-guide-scale",
        "base-seed",
        "num-frames",
        "video-frames",
        "frame-num",
        "resolution",
        "length",
        "frame-rate",
        "sampling-fps",
        "out-fps",
        "sampler",
        "sampling-method",
        "sample-solver",
        "flow-shift",
        "batch-count",
        "n-samples",
        "model-path",
        "ckpt-dir",
        "checkpoint-path",
        "backend",
        "gpu",
        "precision",
        "type",
        "output-path",
        "save-file",
        "save-result-path",
        "output-dir",
        "force",
        "no-metadata",
        "no-progress",
    ] {
        known(&program, "multi-prompt", &format!("--{alias}"));
        known(&program, "multi-prompt", &format!("--{}", alias.replace('-', "_")));
    }
    for short in ["-p", "-n", "-s", "-W", "-H", "-m", "-d", "-j", "-t", "-b", "-o", "-y", "-q", "-v"] {
        known(&program, "multi-prompt", short);
    }
}

#[test]
fn every_flag_has_its_variable() {
    let program = tiny_program();
    // where any text would do, and what is shown in the record or the result instead
    let free = [
        "prompt",
        "negative-prompt",
        "style",
        "model",
        "lora",
        "enhance",
        "control-model",
        "init-noise",
        "mask",
        "first-frame",
        "save-latents",
        "output",
        "text-cache",
        "subject",
        "subject-image",
        "subject-mask",
        "boxes",
        "first-box",
        "last-box",
        "trajectory",
        "split",
        "work-dir",
        "log-file",
        "preview-path",
    ];
    let switches = [
        "dry-run",
        "recalibrate",
        "offline",
        "overwrite",
        "skip-existing",
        "resume",
        "keep",
        "json",
        "quiet",
        "verbose",
        "no-progress",
    ];
    let sources = ["script", "prompt-file"];
    for flag in own_flags(&program, "multi-prompt") {
        if [&free[..], &switches, &sources].concat().contains(&flag.as_str()) {
            continue;
        }
        let variable = format!("VIDGEN_{}", flag.to_uppercase().replace('-', "_"));
        let mut command = program.command(&["multi-prompt", "-p", "x", "--model", "model"]);
        let output = command.env(&variable, "not-a-value").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{variable}: {stderr}");
        assert!(stderr.contains(&format!("--{flag}")) && stderr.contains(&variable), "{variable}: {stderr}");
    }
    let mut subject = program.command(&["multi-prompt", "-p", "x", "-p", "y"]); // on Toyland, which shares by default
    let stderr = String::from_utf8(subject.env("VIDGEN_SUBJECT", "wolf").output().unwrap().stderr).unwrap();
    assert!(stderr.contains("subject \"wolf\" is not in the prompt"), "{stderr}");
    let mut split = program.command(&["multi-prompt", "-p", "x;;y"]);
    let stderr = String::from_utf8(split.env("VIDGEN_SPLIT", ";").output().unwrap().stderr).unwrap();
    assert!(stderr.contains("--split \";\": prompt 2: an empty prompt"), "{stderr}");
    let run = program
        .command(&["generate", "--frames", "1", "--guidance-scale", "6"])
        .env("VIDGEN_PROMPT", "a red ball")
        .env("VIDGEN_NEGATIVE_PROMPT", "a blue box")
        .env("VIDGEN_STYLE", "at night")
        .env("VIDGEN_MODEL", "model")
        .env("VIDGEN_STEPS", "1")
        .env("VIDGEN_SIZE", "32x32")
        .env("VIDGEN_SEED", "11")
        .env("VIDGEN_OUTPUT", "{seed}.gif")
        .env("VIDGEN_SAVE_LATENTS", "latents.safetensors")
        .env("VIDGEN_TEXT_CACHE", "texts")
        .env("VIDGEN_WORK_DIR", "runs")
        .env("VIDGEN_KEEP", "1")
        .env("VIDGEN_RESUME", "0")
        .env("VIDGEN_OFFLINE", "yes")
        .env("VIDGEN_JSON", "1")
        .env("VIDGEN_QUIET", "1")
        .env("VIDGEN_UNCOND", "") // empty is none
        .output()
        .unwrap();
    let stderr = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.success() && stderr.is_empty(), "{stderr}");
    let result: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(result["output"], "11.gif");
    let manifest = &result["manifest"];
    assert_eq!(manifest["prompts"][0], "a red ball, at night");
    assert_eq!(manifest["settings"]["negative_prompt"], "a blue box");
    for made in ["11.gif", "latents.safetensors", "texts", "runs"] {
        assert!(program.path(made).exists(), "{made}");
    }
    for switch in ["VIDGEN_SKIP_EXISTING", "VIDGEN_OVERWRITE"] {
        let words = quick(&["generate", "x", "-o", "11.gif"]);
        let output = program.command(&words).env(switch, "1").output().unwrap();
        assert!(output.status.success(), "{switch}: {}", String::from_utf8_lossy(&output.stderr));
        program.run(&words).error(2, &["11.gif"]);
    }
    let missing = program.command(&["multi-prompt"]).env("VIDGEN_SCRIPT", "none.toml").output().unwrap();
    assert!(String::from_utf8_lossy(&missing.stderr).contains("none.toml"));
    let missing = program.command(&["multi-prompt"]).env("VIDGEN_PROMPT_FILE", "none.txt").output().unwrap();
    assert!(String::from_utf8_lossy(&missing.stderr).contains("none.txt"));
}

#[test]
fn attention_is_computed_by_the_kernel_asked_for() {
    let program = tiny_program();
    let of = |kernel: Option<&str>| {
        let words =
            quick(&["generate", "x", "--json", "-y", "-o", "a.gif", "--save-latents", "l.safetensors", "--seed", "5"]);
        let mut command = program.command(&words);
        if let Some(kernel) = kernel {
            command.env("VIDGEN_ATTENTION", kernel);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        let used = result["manifest"]["settings"]["attention"].as_str().unwrap().to_owned();
        (used, crate::cli::parity::read(&program.path("l.safetensors"), "latents"))
    };
    let (own, plain, any) = (of(Some("sdpa")), of(Some("math")), of(None));
    assert_eq!([&own.0, &plain.0, &any.0], ["sdpa", "math", "sdpa"]);
    assert_close("the plain attention", &plain.1, &own.1, 1e-4);
    assert_close("by default", &any.1, &own.1, 0.0);
}

#[test]
fn the_nearer_word_counts() {
    let program = tiny_program();
    let fps = |command: &mut std::process::Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        result["manifest"]["settings"]["fps"].as_str().unwrap().to_owned()
    };
    let script = "fps = 13\n[[scene]]\nprompt = \"a red ball\"\n";
    std::fs::write(program.path("scenes.toml"), script).unwrap();
    let words = quick(&["multi-prompt", "scenes.toml", "--json", "-y", "-o", "a.gif"]);
    let bare = "[[scene]]\nprompt = \"a red ball\"\n";

    std::fs::write(program.path("bare.toml"), bare).unwrap();
    let below = quick(&["multi-prompt", "bare.toml", "--json", "-y", "-o", "a.gif"]);
    assert_eq!(fps(&mut program.command(&below)), "8", "the model's");
    let user = program.path("home/.config/vidgen");
    std::fs::create_dir_all(&user).unwrap();
    std::fs::write(user.join("config.toml"), "fps = 11\n").unwrap();
    assert_eq!(fps(&mut program.command(&below)), "11", "the user's file");
    std::fs::write(program.path("vidgen.toml"), "fps = 12\n").unwrap();
    assert_eq!(fps(&mut program.command(&below)), "12", "the project's file");
    assert_eq!(fps(&mut program.command(&words)), "13", "the script");
    assert_eq!(fps(program.command(&words).env("VIDGEN_FPS", "14")), "14", "the environment");
    let typed = [&words[..], &["--fps", "15"]].concat();
    assert_eq!(fps(program.command(&typed).env("VIDGEN_FPS", "14")), "15", "the flag");
}

/// What was typed holds over a variable that it cannot stand beside.
#[test]
fn flags_outweigh_variables_of_other_flags() {
    let program = Program::new();
    let plan = |words: &[&str], variable: (&str, &str)| {
        let output = program.command(&[words, &["--json"]].concat()).env(variable.0, variable.1).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(plan(&["plan", "x", "--duration", "1s"], ("VIDGEN_FRAMES", "9"))["frames"], 8);
    assert_eq!(plan(&["plan", "x", "--width", "64", "--height", "32"], ("VIDGEN_SIZE", "48x32"))["width"], 64);
    assert_eq!(plan(&["plan", "x"], ("VIDGEN_PROMPT", "y"))["prompts"][0], "x");
    assert_eq!(plan(&["plan"], ("VIDGEN_PROMPT", "y"))["prompts"][0], "y");
    let dry = ["multi-prompt", "-p", "x", "--dry-run"];
    assert_eq!(plan(&dry, ("VIDGEN_SCRIPT", "none.toml"))["prompts"][0], "x");
    plan(&["plan", "x", "-v"], ("VIDGEN_QUIET", "1"));
    program.run(&["plan", "x", "--frames", "9", "--duration", "1s"]).error(2, &["--frames", "--duration"]);
    let both = program.command(&["plan", "x"]).env("VIDGEN_FRAMES", "9").env("VIDGEN_DURATION", "1").output().unwrap();
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn how_a_command_talks_may_stand_in_the_project_file() {
    let program = tiny_program();
    let file = |text: &str| std::fs::write(program.path("vidgen.toml"), text).unwrap();
    let run = |words: &[&str]| program.run(&quick(&[&["generate", "x", "-y", "-o", "a.gif"], words].concat()));
    file("progress = \"none\"\njson = true\nlog_file = \"run.log\"\nlog_level = \"debug\"\n");
    let done = run(&[]).success();
    assert!(done.stderr().is_empty(), "{}", done.stderr());
    serde_json::from_str::<Value>(&done.stdout()).unwrap();
    let log = std::fs::read_to_string(program.path("run.log")).unwrap();
    assert!(log.contains(" debug step 1/1") && log.contains(" info  denoise (1 parts)"), "{log}");
    assert!(run(&["--progress", "plain"]).success().stderr().contains("denoise"), "a flag holds over the file");
    file("verbose = 1\n");
    assert!(run(&[]).success().stderr().contains("took"));
    assert!(run(&["--quiet"]).success().stderr().is_empty());
    file("progress = \"loud\"\n");
    run(&[]).error(2, &["vidgen.toml: progress: ", "known: auto, bar"]);
    for (key, flag) in [("dry_run", "--dry-run (VIDGEN_DRY_RUN)"), ("prompt", "--prompt"), ("shard", "--shard")] {
        file(&format!("{key} = \"x\"\n"));
        run(&[]).error(2, &[&format!("vidgen.toml: {key} is no setting of a project: give {flag}")]);
    }
    file("nothing = 1\n");
    program.run(&["completions", "bash"]).success();
    let doctor = program.run(&["doctor"]).error(1, &[]);
    assert!(doctor.stdout().contains("unknown setting \"nothing\""), "{}", doctor.stdout());
}

/// A relative log file is meant from here, wherever a command goes.
#[test]
fn the_log_file_is_where_it_was_asked_for() {
    let program = tiny_program();
    program.run(&quick(&["generate", "x", "--keep", "-o", "a.gif"])).success();
    std::fs::create_dir(program.path("elsewhere")).unwrap();
    let words = ["decode", "last", "-o", "b.gif", "--log-file", "run.log"];
    let done = program.command(&words).current_dir(program.path("elsewhere")).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(program.path("elsewhere/run.log").exists() && !program.path("run.log").exists());
}

#[test]
fn unknown_keys_of_settings_files_are_errors_with_a_suggestion() {
    let program = tiny_program();
    std::fs::write(program.path("vidgen.toml"), "guidance_scal = 6\n").unwrap();
    program.run(&quick(&["generate", "x"])).error(2, &["vidgen.toml", "guidance_scal", "guidance_scale"]);
    std::fs::write(program.path("vidgen.toml"), "steps = \"many\"\n").unwrap();
    program.run(&["generate", "x", "--model", "model"]).error(2, &["vidgen.toml", "steps", "a whole number"]);
    std::fs::write(program.path("vidgen.toml"), "steps = = 1\n").unwrap();
    program.run(&["generate", "x", "--model", "model"]).error(2, &["vidgen.toml"]);
}

#[test]
fn results_and_messages_keep_apart() {
    let program = tiny_program();
    let plain = program.run(&quick(&["generate", "a red ball", "-o", "a.gif"])).success();
    assert_eq!(plain.stdout(), "a.gif\n");
    for stage in ["1 frame, seed ", "load transformer", "denoise", "decode"] {
        assert!(plain.stderr().contains(stage), "{stage}: {}", plain.stderr());
    }
    assert!(!plain.stderr().contains('\u{1b}'), "no colours and no bars where there is no terminal");

    let json = program.run(&quick(&["generate", "a red ball", "-o", "b.gif", "--json"])).success();
    assert_eq!(json.stdout().lines().count(), 1);
    let result: Value = serde_json::from_str(&json.stdout()).unwrap();
    assert_eq!((result["output"].as_str(), result["frames"].as_u64()), (Some("b.gif"), Some(1)));

    let quiet = program.run(&quick(&["generate", "a red ball", "-o", "c.gif", "--quiet"])).success();
    assert_eq!((quiet.stdout().as_str(), quiet.stderr().as_str()), ("c.gif\n", ""));
    let none = program.run(&quick(&["generate", "a red ball", "-o", "d.gif", "--progress", "none"])).success();
    assert_eq!((none.stdout().as_str(), none.stderr().as_str()), ("d.gif\n", ""));
    let loud = program.run(&quick(&["generate", "a red ball", "-o", "e.gif", "-v", "--seed", "77"])).success();
    assert!(loud.stderr().contains("seed 77") && loud.stderr().contains("took"), "{}", loud.stderr());
}

#[test]
fn events_are_json_lines() {
    let program = tiny_program();
    let words = ["generate", "a red ball", "-o", "a.gif", "--progress", "json"];
    let done = program.run(&[&words[..], &["--model", "model", "--steps", "3", "--size", "32x32"]].concat()).success();
    let events: Vec<Value> = done.stderr().lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(events.iter().all(|event| event["v"] == 1));
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names[0], "plan");
    for name in &names {
        assert!(["plan", "phase", "step", "checkpoint", "warning", "saved", "error"].contains(name), "{name}");
    }
    let steps: Vec<&Value> = events.iter().filter(|event| event["event"] == "step").collect();
    let indices: Vec<_> = steps.iter().map(|step| (step["index"].as_u64(), step["of"].as_u64())).collect();
    assert_eq!(indices, [(Some(0), Some(3)), (Some(1), Some(3)), (Some(2), Some(3))]);
    assert!(steps.iter().all(|step| step["seconds"].as_f64() >= Some(0.0) && step["eta"].as_f64() >= Some(0.0)));
    let mut phases: Vec<&str> = events.iter().filter_map(|event| event["phase"].as_str()).collect();
    phases.dedup();
    assert_eq!(phases, ["encode", "load", "denoise", "load", "decode", "mux"]);
    let saved = events.iter().filter(|event| event["event"] == "saved");
    let kinds: Vec<_> = saved.map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["video", "manifest"]);

    let failed = program.run(&["generate", "x", "--model", "none", "--progress", "json"]);
    let event: Value = serde_json::from_str(failed.stderr().trim()).unwrap();
    assert_eq!((event["event"].as_str(), event["code"].as_i64(), failed.code()), (Some("error"), Some(3), 3));
}

#[test]
fn colours_are_a_choice() {
    let program = Program::new();
    let fault = |words: &[&str], no_color: bool| {
        let mut command = program.command(&[&["inspect", "none.gif"], words].concat());
        if no_color {
            command.env("NO_COLOR", "1");
        }
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    assert!(fault(&[], false).starts_with("error: "));
    assert!(fault(&["--color", "always"], false).contains("\u{1b}[1;31merror"));
    assert!(fault(&["--color", "never"], true).starts_with("error: "));
    assert!(fault(&[], true).starts_with("error: "));
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let program = Program::new();
    for words in [&["completions", "bash"][..], &["man"], &["generate", "--help"], &["model", "info"]] {
        let mut child = program.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let status = child.wait().unwrap();
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{words:?}");
    }
}

#[test]
fn what_a_command_always_refuses_is_not_in_its_help() {
    let program = Program::new();
    for (command, flag, value) in [
        ("generate", "--hold", "1"),
        ("generate", "--transition", "cut"),
        ("generate", "--overlap", "1"),
        ("generate", "--transition-windows", "1"),
        ("generate", "--blend", "paper"),
        ("attn-map", "--num-videos", "2"),
    ] {
        assert!(
            !program.run(&[command, "--help"]).success().stdout().contains(&format!("{flag} ")),
            "{command} {flag}"
        );
        let done = program.run(&[command, "a red ball", "--steps", "1", "-o", "a/", flag, value]);
        assert_eq!(done.code(), 2, "{command} {flag}: {}", done.stderr());
    }
}
