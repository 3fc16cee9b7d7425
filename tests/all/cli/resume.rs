//! Runs that stop and go on: by a signal, by a kill at any moment, by a full or broken disk. What they make in the end is
//! what an undisturbed run makes, byte for byte.

use crate::cli::program::{Done, Program};
use crate::common::tiny;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

fn program() -> Program {
    let program = Program::new();
    tiny::write_folder("tiny-2b", "tiny-2b", &program.path("model"));
    program
}

/// Two scenes with a cut between them: two timelines of three and two latent frames, decoded one latent frame at a time, on
/// the sampler that remembers a step.
const SCENES: [&str; 17] = [
    "multi-prompt",
    "-p",
    "a red ball",
    "-p",
    "a blue box",
    "--transition",
    "cut",
    "--frames",
    "18",
    "--model",
    "model",
    "--size",
    "32x32",
    "--seed",
    "3",
    "--scheduler",
    "dpm",
];
const MORE: [&str; 6] = ["--vae-chunk", "1", "--checkpoint-every", "1", "--progress", "json"];

fn words<'a>(steps: &'a str, output: &'a str) -> Vec<&'a str> {
    [&SCENES[..], &MORE, &["--steps", steps, "-o", output]].concat()
}

/// Steps enough for a signal to arrive among them.
const LONG: &str = "24";

/// The suffix of a format that is compressed.
fn suffix() -> &'static str {
    if cfg!(feature = "video") { "mp4" } else { "gif" }
}

fn runs(program: &Program) -> PathBuf {
    program.path("home/.local/state/vidgen/runs")
}

/// The directories of runs that are kept.
fn kept(program: &Program) -> Vec<PathBuf> {
    let entries = fs::read_dir(runs(program)).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn start(program: &Program, words: &[&str]) -> Child {
    program.command(words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, signal: libc::c_int) {
    // SAFETY: a plain system call; the process is a child that was not waited for, so its number is its own.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, signal) }, 0);
}

/// Runs `words` and sends a signal at the `nth` event of a kind; returns the events, and the exit code.
pub fn disturbed(
    program: &Program,
    words: &[&str],
    kind: &str,
    nth: usize,
    with: libc::c_int,
) -> (Vec<Value>, Option<i32>) {
    let mut child = start(program, words);
    let mut events: Vec<Value> = Vec::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        events.push(serde_json::from_str(&line.unwrap()).unwrap());
        let seen = events.iter().filter(|event| event["event"] == kind).count();
        if seen == nth && events.last().unwrap()["event"] == kind {
            signal(&child, with);
        }
    }
    (events, child.wait().unwrap().code())
}

/// The video of an undisturbed run, and the program it was made in.
fn undisturbed(steps: &str) -> (Program, Vec<u8>) {
    let program = program();
    let output = format!("whole.{}", suffix());
    Done(program.command(&words(steps, &output)).output().unwrap()).success();
    let bytes = fs::read(program.path(&output)).unwrap();
    assert!(kept(&program).is_empty(), "a run that ends well leaves nothing");
    (program, bytes)
}

#[test]
fn a_run_that_was_interrupted_goes_on_to_the_same_bytes() {
    let (program, whole) = undisturbed(LONG);
    let output = format!("a.{}", suffix());
    for step in [1, 10, 30] {
        let (events, code) = disturbed(&program, &words(LONG, &output), "step", step, libc::SIGINT);
        assert_eq!(code, Some(130), "{events:?}");
        let last = events.last().unwrap();
        assert_eq!((last["event"].as_str(), last["code"].as_i64()), (Some("error"), Some(130)));
        let message = last["message"].as_str().unwrap();
        assert!(message.contains("steps are kept") && message.contains("vidgen resume "), "{message}");
        assert!(events.iter().any(|event| event["event"] == "warning"), "that it was heard is told: {events:?}");
        assert!(!program.path(&output).exists());
        let name = message.rsplit(' ').next().unwrap();
        let again = program.run(&["resume", name, "--progress", "json"]).success();
        assert!(
            again.stderr().contains("from step ") || again.stderr().contains(r#""phase":"decode""#),
            "{}",
            again.stderr()
        );
        assert!(fs::read(program.path(&output)).unwrap() == whole, "interrupted at step {step}");
        assert!(kept(&program).is_empty());
        fs::remove_file(program.path(&output)).unwrap();
        fs::remove_file(program.path(format!("{output}.json"))).unwrap();
    }
}

/// Scenes that go on from each other's frames, and a second stage over both.
#[test]
fn a_run_of_several_stages_goes_on_in_each_of_them() {
    let program = program();
    let words = |transition: &str, output: &str| {
        let mut words: Vec<String> = words(LONG, output).into_iter().map(str::to_owned).collect();
        let at = words.iter().position(|word| word == "cut").unwrap();
        words[at] = transition.to_owned();
        let more = ["--enhance", "model", "--enhance-strength", "0.25", "--enhance-size", "48x32"];
        words.extend(more.map(str::to_owned));
        words
    };
    for transition in ["continue", "continue:latents"] {
        let output = format!("whole.{}", suffix());
        let whole = words(transition, &output);
        let whole: Vec<&str> = whole.iter().map(String::as_str).collect();
        Done(program.command(&whole).output().unwrap()).success();
        let whole = fs::read(program.path(&output)).unwrap();
        fs::remove_file(program.path(&output)).unwrap();
        fs::remove_file(program.path(format!("{output}.json"))).unwrap();
        let output = format!("a.{}", suffix());
        let again = words(transition, &output);
        let again: Vec<&str> = again.iter().map(String::as_str).collect();
        // 24 steps of each scene, and 12 of 50 in the second stage
        for step in [10, 30, 50, 65] {
            let (events, code) = disturbed(&program, &again, "step", step, libc::SIGINT);
            assert_eq!(code, Some(130), "{events:?}");
            let message = events.last().unwrap()["message"].as_str().unwrap().to_owned();
            assert!(message.contains("of 148 steps are kept"), "{message}");
            program.run(&["resume", message.rsplit(' ').next().unwrap()]).success();
            assert!(fs::read(program.path(&output)).unwrap() == whole, "{transition}, interrupted at step {step}");
            assert!(kept(&program).is_empty());
            fs::remove_file(program.path(&output)).unwrap();
            fs::remove_file(program.path(format!("{output}.json"))).unwrap();
        }
    }
}

#[test]
fn the_same_command_finds_its_run() {
    let (program, whole) = undisturbed(LONG);
    let output = format!("a.{}", suffix());
    let anew = program.run(&[&words(LONG, "fresh.gif")[..], &["--resume"]].concat()).success();
    assert!(anew.stderr().contains("beginning anew"), "{}", anew.stderr());
    let (_, code) = disturbed(&program, &words(LONG, &output), "step", 6, libc::SIGTERM);
    assert_eq!(code, Some(130));
    let [run] = kept(&program).try_into().unwrap();
    let listed = program.run(&["runs", "--json"]).success().stdout();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((listed[0]["state"].as_str(), listed[0]["of"].as_u64()), (Some("stopped"), Some(48)));
    assert!(listed[0]["steps"].as_u64() >= Some(6), "{listed}");
    let table = program.run(&["runs"]).success().stdout();
    assert!(table.contains("stopped") && table.contains("a red ball (+1)"), "{table}");
    let same = program.run(&[&words(LONG, &output)[..], &["--resume"]].concat()).success();
    assert!(same.stderr().contains("from step "), "{}", same.stderr());
    assert!(fs::read(program.path(&output)).unwrap() == whole);
    assert!(!run.exists());
    program.run(&["resume", "last"]).error(2, &["no run is kept"]);
    program.run(&["resume", "0123"]).error(2, &["no run \"0123\"", "vidgen runs"]);
}

#[test]
fn a_run_is_resumed_from_any_directory() {
    let (program, whole) = undisturbed(LONG);
    let output = format!("a.{}", suffix());
    disturbed(&program, &words(LONG, &output), "step", 1, libc::SIGINT);
    fs::create_dir(program.path("elsewhere")).unwrap();
    let done = program.command(&["resume", "last"]).current_dir(program.path("elsewhere")).output().unwrap();
    Done(done).success();
    assert!(fs::read(program.path(&output)).unwrap() == whole);
}

#[test]
fn an_interrupted_decode_goes_on() {
    let (program, whole) = undisturbed("1");
    let output = format!("a.{}", suffix());
    let mut child = start(&program, &words("1", &output));
    let mut chunks = 0;
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if event["event"] == "checkpoint" && event["phase"] == "decode" {
            chunks += 1;
            if chunks == 2 {
                signal(&child, libc::SIGKILL);
            }
        }
    }
    child.wait().unwrap();
    let [run] = kept(&program).try_into().unwrap();
    assert!(run.join("frames.rgb").exists());
    let again = program.run(&["resume", "last", "--progress", "json", "-y"]).success();
    assert!(again.stderr().contains("from part "), "{}", again.stderr());
    assert!(!again.stderr().contains(r#""phase":"denoise""#), "{}", again.stderr());
    assert!(fs::read(program.path(&output)).unwrap() == whole);
}

#[test]
fn a_draft_is_made_when_asked() {
    let program = program();
    let words = words(LONG, "a.gif");
    let (events, code) =
        disturbed(&program, &[&words[..], &["--on-interrupt", "decode"]].concat(), "step", 2, libc::SIGINT);
    assert_eq!(code, Some(130));
    let message = events.last().unwrap()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("a.draft.gif") && message.contains("vidgen resume "), "{message}");
    assert!(program.path("a.draft.gif").exists() && !program.path("a.gif").exists());
    program.run(&["inspect", "a.draft.gif"]).error(1, &["no record"]);
    program.run(&["resume", "last"]).success();
}

#[test]
fn what_is_discarded_is_gone() {
    let program = program();
    let words = words(LONG, "a.gif");
    let (_, code) =
        disturbed(&program, &[&words[..], &["--on-interrupt", "discard"]].concat(), "checkpoint", 2, libc::SIGINT);
    assert_eq!(code, Some(130));
    assert!(kept(&program).is_empty(), "{:?}", kept(&program));
}

#[test]
fn the_second_interruption_ends_at_once() {
    let program = program();
    // a step that takes seconds
    let words = ["generate", "x", "--steps", "50", "--progress", "json", "-o", "a.gif", "--size", "384x256"];
    let mut child = start(&program, &words);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    lines.find(|line| line.contains(r#""phase":"denoise""#)).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    signal(&child, libc::SIGINT);
    let heard = lines.next().unwrap();
    assert!(heard.contains("finishing this step"), "{heard}");
    let since = Instant::now();
    signal(&child, libc::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    assert!(lines.last().unwrap().contains("nothing unfinished was kept"));
}

#[test]
fn latents_become_other_videos() {
    let program = program();
    let done = program.run(&[&words("1", "a.gif")[..], &["--keep", "--save-latents", "l.safetensors"]].concat());
    done.success();
    let [run] = kept(&program).try_into().unwrap();
    assert!(!run.join("frames.rgb").exists(), "frames only take room");
    let listed: Value = serde_json::from_str(&program.run(&["runs", "--json"]).success().stdout()).unwrap();
    assert_eq!((listed[0]["state"].as_str(), listed[0]["latents"].as_bool()), (Some("finished"), Some(true)));
    program.run(&["decode", "last"]).error(2, &["a.gif"]);
    program.run(&["decode", "last", "-o", "b.gif"]).success();
    assert!(fs::read(program.path("a.gif")).unwrap() == fs::read(program.path("b.gif")).unwrap());
    program.run(&["decode", "last", "--fps", "4", "-o", "c.y4m"]).success();
    assert!(fs::read(program.path("c.y4m")).unwrap().starts_with(b"YUV4MPEG2 W32 H32 F4:1"));
    program.run(&["decode", "last", "--steps", "3"]).error(2, &["--steps", "latents"]);
    program.run(&["decode", "l.safetensors", "--model", "model", "-o", "d/"]).success();
    assert!(program.path("d/00001.png").exists() || fs::read_dir(program.path("d")).unwrap().count() > 4);
    program.run(&["decode", "none.safetensors"]).error(2, &["none.safetensors"]);
    program.run(&["runs", "--rm", "last"]).success();
    assert!(kept(&program).is_empty());
}

/// Continues a run whose directory was meddled with, and tells what was said.
fn go_on(program: &Program, output: &str, whole: &[u8]) -> String {
    let again = program.run(&[&words(LONG, output)[..], &["--resume", "-y"]].concat()).success();
    assert!(fs::read(program.path(output)).unwrap() == whole, "{}", again.stderr());
    again.stderr()
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn damage_is_told_and_costs_no_more_than_what_it_hit() {
    let (program, whole) = undisturbed(LONG);
    let output = format!("a.{}", suffix());
    let stop = || {
        disturbed(&program, &[&words(LONG, &output)[..], &["-y"]].concat(), "step", 6, libc::SIGINT);
        let [run] = kept(&program).try_into().unwrap();
        run
    };
    let run = stop();
    let steps = fs::read_dir(&run).unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.strip_prefix("step-0-")?.strip_suffix(".safetensors")?.parse::<usize>().ok()
    });
    let newest = steps.max().unwrap();
    let piece = format!("step-0-{newest}.safetensors");
    flip(&run.join(&piece));
    let said = go_on(&program, &output, &whole);
    assert!(said.contains(&piece) && said.contains("going back"), "{said}");
    assert!(
        said.contains(&format!("from step {newest} ")) || said.contains(&format!("from step {newest}\"")),
        "{said}"
    );

    let run = stop();
    for entry in fs::read_dir(&run).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|suffix| suffix == "safetensors") {
            fs::remove_file(path).unwrap();
        }
    }
    let said = go_on(&program, &output, &whole);
    assert!(said.contains("going back") && !said.contains("from step"), "{said}");

    let run = stop();
    flip(&run.join("journal"));
    let said = go_on(&program, &output, &whole);
    assert!(said.contains("journal") && said.contains("damaged"), "{said}");

    let run = stop();
    let journal = fs::read(run.join("journal")).unwrap();
    fs::write(run.join("journal"), &journal[..journal.len() - 7]).unwrap();
    let said = go_on(&program, &output, &whole);
    assert!(said.contains("cut short"), "{said}");

    let run = stop();
    flip(&run.join("plan"));
    let name = run.file_name().unwrap().to_str().unwrap().to_owned();
    program.run(&["resume", &name]).error(1, &["plan is damaged"]);
    let said = go_on(&program, &output, &whole);
    assert!(said.contains("beginning anew"), "{said}");
}

#[test]
fn other_weights_and_other_processes_are_refused() {
    let program = program();
    disturbed(&program, &words(LONG, "a.gif"), "step", 1, libc::SIGINT);
    let weights = program.path("model/vae/diffusion_pytorch_model.safetensors");
    let before = fs::read(&weights).unwrap();
    let mut other = before.clone();
    *other.last_mut().unwrap() ^= 1;
    fs::write(&weights, other).unwrap();
    program.run(&["resume", "last"]).error(3, &["vae", "not those it was begun with"]);
    fs::remove_file(&weights).unwrap();
    program.run(&["resume", "last"]).error(3, &["vae"]);
    fs::write(&weights, before).unwrap();
    let [run] = kept(&program).try_into().unwrap();
    let lock = fs::OpenOptions::new().write(true).open(run.join("lock")).unwrap();
    lock.lock().unwrap();
    program.run(&["resume", "last"]).error(2, &["no run is kept"]); // it is not one that can be resumed
    program.run(&["resume", run.to_str().unwrap()]).error(1, &["another process"]);
    assert!(program.run(&["runs"]).success().stdout().contains("running"));
    drop(lock);
    program.run(&["resume", "last"]).success();
}

#[test]
fn a_place_that_cannot_be_written_is_told() {
    let program = program();
    fs::write(program.path("file"), "x").unwrap();
    program
        .run(&["generate", "x", "--model", "model", "-o", "a.gif", "--work-dir", "file/runs"])
        .error(2, &["--work-dir", "file/runs"]);
    // the default place only costs the safety
    fs::create_dir_all(program.path("home/.local")).unwrap();
    fs::write(program.path("home/.local/state"), "x").unwrap();
    let done = program.run(&words("1", "a.gif")).success();
    assert_eq!(done.stderr().matches("cannot be kept").count(), 1, "{}", done.stderr());
    let (events, code) = disturbed(&program, &words(LONG, "b.gif"), "step", 1, libc::SIGINT);
    assert_eq!(code, Some(130));
    assert!(events.last().unwrap()["message"].as_str().unwrap().contains("nothing unfinished was kept"));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_under_the_run_is_told_and_the_video_is_made() {
    let program = program();
    fs::create_dir(program.path("small")).unwrap();
    let words = [&words("2", "a.gif")[..], &["--work-dir", "small/runs"]].concat();
    let Some(done) = program.mounted("mount -t tmpfs -o size=20k none small", &words, "") else { return };
    let stderr = done.success().stderr();
    assert!(stderr.contains("cannot be kept") && stderr.contains("No space left"), "{stderr}");
    assert!(program.path("a.gif").exists());
}

#[test]
fn an_interrupted_batch_goes_on() {
    let program = program();
    let job = |id: &str| {
        format!(
            "{{\"id\": \"{id}\", \"prompt\": \"a red ball\", \"model\": \"model\", \"steps\": {LONG}, \"frames\": 5, \"size\": \"32x32\", \
             \"output\": \"{{id}}.gif\"}}\n"
        )
    };
    fs::write(program.path("jobs.jsonl"), job("one") + &job("two") + &job("three")).unwrap();
    let words = ["batch", "jobs.jsonl", "--progress", "json"];
    let (events, code) = disturbed(&program, &words, "step", LONG.parse::<usize>().unwrap() + 3, libc::SIGINT);
    assert_eq!(code, Some(130), "{events:?}");
    let errors: Vec<_> = events.iter().filter(|event| event["event"] == "error").collect();
    let message = errors.last().unwrap()["message"].as_str().unwrap();
    assert!(errors.len() == 1 && message.starts_with("two: interrupted, "), "{errors:?}");
    assert!(message.contains("vidgen resume ") && message.ends_with("the same command with --resume"), "{message}");
    assert!(program.path("one.gif").exists() && !program.path("three.gif").exists());
    let again = program.run(&[&words[..], &["--resume", "--json"]].concat()).success();
    assert!(again.stderr().contains("from step "), "{}", again.stderr());
    let object: Value = serde_json::from_str(&again.stdout()).unwrap();
    assert_eq!((object["skipped"].as_u64(), object["done"].as_u64()), (Some(1), Some(2)), "{object}");
    assert!(kept(&program).is_empty());
}

/// Makes a directory one that cannot be written. Rights are not enough: tests may be run by root.
#[cfg(target_os = "linux")]
fn read_only(folder: &str) -> String {
    format!("mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}")
}

#[test]
#[cfg(target_os = "linux")]
fn a_directory_that_is_read_only_is_told() {
    let (program, whole) = undisturbed(LONG);
    let output = format!("a.{}", suffix());
    fs::create_dir(program.path("out")).unwrap();
    let place = format!("out/{output}");
    let Some(done) = program.mounted(&read_only("out"), &words(LONG, &place), "") else { return };
    assert_eq!(done.code(), 2);
    let said = done.stderr();
    assert!(said.contains("cannot write in out: Read-only file system") && !said.contains("phase"), "{said}");

    // a run that is there can be seen, not gone on with; its video can be made
    disturbed(&program, &words(LONG, &output), "step", 6, libc::SIGINT);
    let [run] = kept(&program).try_into().unwrap();
    let runs = "home/.local/state/vidgen/runs";
    let mounted = |words: &[&str]| program.mounted(&read_only(runs), words, "").unwrap();
    assert!(mounted(&["runs"]).success().stdout().contains("stopped"));
    mounted(&["resume", "last"]).error(1, &["lock", "Read-only file system"]);
    mounted(&["runs", "--rm", "last"]).error(1, &["Read-only file system"]);
    let resumed = mounted(&[&words(LONG, &output)[..], &["--resume"]].concat());
    assert!(
        resumed.code() == 1 && resumed.stderr().contains("goes on where it can be written"),
        "{}",
        resumed.stderr()
    );
    let anew = mounted(&words(LONG, &output)).success().stderr();
    assert_eq!(anew.matches("cannot be kept").count(), 1, "{anew}");
    assert!(fs::read(program.path(&output)).unwrap() == whole);
    let named = mounted(&[&words(LONG, "b.gif")[..], &["--work-dir", runs]].concat());
    assert!(named.code() == 2 && named.stderr().contains("--work-dir: cannot write in"), "{}", named.stderr());

    // and what was there is still good
    assert!(run.exists());
    program.run(&["resume", "last", "-y"]).success();
    assert!(fs::read(program.path(&output)).unwrap() == whole);
}

/// Runs `words` with no file longer than `most` bytes.
#[cfg(unix)]
fn with_short_files(program: &Program, words: &[&str], most: libc::rlim_t) -> Done {
    use std::os::unix::process::CommandExt;
    let limit = move || {
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: a plain system call on a value of this frame.
        match unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    let mut command = program.command(words);
    // SAFETY: between fork and exec only the system call above is made.
    Done(unsafe { command.pre_exec(limit) }.output().unwrap())
}

#[test]
#[cfg(unix)]
fn a_limit_on_the_size_of_files_is_an_error_and_the_run_goes_on() {
    let program = program();
    let words = |output| [&SCENES[..], &["--steps", "2", "-o", output]].concat();
    program.run(&words("whole.y4m")).success();
    let whole = fs::read(program.path("whole.y4m")).unwrap();
    let made = |program: &Program| {
        let names = fs::read_dir(program.path("")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().contains("a.")).collect::<Vec<_>>()
    };
    // plan and latents fit, the video does not
    let failed = with_short_files(&program, &words("a.y4m"), 12_000);
    let failed = failed.error(6, &["a.y4m", "File too large", "the latents are kept in", "vidgen resume "]);
    assert!(made(&program).is_empty(), "{:?}: {}", made(&program), failed.stderr());
    with_short_files(&program, &["resume", "last"], 12_000).error(6, &["File too large"]);
    program.run(&["resume", "last"]).success();
    assert!(fs::read(program.path("a.y4m")).unwrap() == whole);
    assert!(kept(&program).is_empty());
    for name in made(&program) {
        fs::remove_file(program.path(name)).unwrap();
    }
    // nothing fits
    let failed = with_short_files(&program, &words("a.y4m"), 200);
    let failed = failed.error(6, &["a.y4m", "File too large", "the latents could not be kept either"]);
    assert!(failed.stderr().contains("the run cannot be kept"), "{}", failed.stderr());
    assert!(made(&program).is_empty() && kept(&program).is_empty(), "{:?} {:?}", made(&program), kept(&program));
}

/// A kill leaves a hidden file beside the output; the next run of this output removes it, and not one that a run still writes.
#[test]
#[cfg(unix)]
fn what_a_killed_run_left_beside_its_output_is_removed() {
    let (program, whole) = undisturbed("1");
    let output = format!("a.{}", suffix());
    let partials = || {
        let names = fs::read_dir(program.path("")).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        names.filter(|name| name.starts_with(".a.partial-")).collect::<Vec<_>>()
    };
    // stopped while it decodes, so that it lives and does not end
    let mut child = start(&program, &words("1", &output));
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    lines.find(|line| line.contains(r#""phase":"decode","index":0"#)).unwrap();
    signal(&child, libc::SIGSTOP);
    let [live] = partials().try_into().unwrap();
    let other = program.run(&[&words("1", &output)[..], &["--guidance-scale", "5"]].concat()).success();
    assert!(!other.stderr().contains("was left by"), "{}", other.stderr());
    assert_eq!(partials(), [live.as_str()]);
    signal(&child, libc::SIGKILL);
    child.wait().unwrap();
    assert_eq!(partials(), [live.as_str()]);
    let again = program.run(&["resume", "last", "-y"]).success();
    assert!(
        again.stderr().contains(&format!("{live} was left by a run that was killed: removed")),
        "{}",
        again.stderr()
    );
    assert!(partials().is_empty());
    assert!(fs::read(program.path(&output)).unwrap() == whole);
}

/// Kills a run again and again, each time a little after it has begun, until it ends well; returns the kills.
fn killed(program: &Program, output: &str, longest: Duration, most: usize, random: &mut impl FnMut() -> f64) -> usize {
    let mut kills = 0;
    loop {
        let words = [&words("4", output)[..], &["--resume", "-y"]].concat();
        let mut child = program.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        if kills < most {
            std::thread::sleep(longest.mul_f64(random()));
        }
        match child.try_wait().unwrap() {
            None if kills < most => {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
            }
            Some(status) => {
                assert!(status.success());
                return kills;
            }
            None => {
                let status = child.wait().unwrap();
                if status.success() {
                    return kills;
                }
                let done = program.run(&words);
                panic!("{}", done.stderr());
            }
        }
    }
}

/// SIGKILL at random moments of loading, denoising, checkpoints, decoding, encoding and renaming. `VIDGEN_KILLS` says how
/// many (`make torture`: 200).
#[test]
fn a_run_that_is_killed_at_any_moment_goes_on_to_the_same_bytes() {
    let kills: usize = std::env::var("VIDGEN_KILLS").map_or(20, |kills| kills.parse().unwrap());
    let (program, whole) = undisturbed("4");
    let output = format!("a.{}", suffix());
    let since = Instant::now();
    Done(program.command(&words("4", "time.gif")).output().unwrap()).success();
    let longest = since.elapsed();
    // a congruential generator: the moments are different on every machine anyway
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let (mut done, mut videos) = (0, 0);
    while done < kills {
        done += killed(&program, &output, longest, (kills - done).min(8), &mut random);
        videos += 1;
        assert!(fs::read(program.path(&output)).unwrap() == whole, "after {done} kills");
        assert!(kept(&program).is_empty(), "{:?}", kept(&program));
    }
    println!("{done} kills, {videos} videos, all the same; a whole run takes {longest:?}");
}

/// The pictures of a directory of frames.
fn pictures(folder: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|suffix| suffix == "png"));
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// What a model is follows from its weights and configurations, not from how its folder is called or where it stands.
#[test]
fn a_run_goes_on_with_its_model_wherever_that_is_now() {
    let program = program();
    program.run(&words(LONG, "whole/")).success();
    let (_, code) = disturbed(&program, &words(LONG, "a/"), "step", 3, libc::SIGINT);
    assert_eq!(code, Some(130));
    // another spelling is the same run
    let spelt: Vec<&str> =
        words(LONG, "b/").into_iter().map(|word| if word == "model" { "./model/" } else { word }).collect();
    let again = program.run(&[&spelt[..], &["--resume"]].concat()).success();
    assert!(again.stderr().contains("from step "), "{}", again.stderr());
    assert_eq!(pictures(&program.path("b")), pictures(&program.path("whole")));

    let (_, code) = disturbed(&program, &words(LONG, "a/"), "step", 3, libc::SIGINT);
    assert_eq!(code, Some(130));
    fs::rename(program.path("model"), program.path("moved")).unwrap();
    program.run(&["resume", "last"]).error(3, &["no such folder", "--model"]);
    program.run(&["decode", "last", "-o", "d/"]).error(3, &["no such folder", "--model"]);
    tiny::write_folder("tiny-2b", "another", &program.path("model"));
    program.run(&["resume", "last"]).error(3, &["weights of part", "not those it was begun with", "--model"]);
    program.run(&["resume", "last", "--model", "model"]).error(3, &["not those it was begun with"]);
    // from anywhere, relative to there
    let mut command = program.command(&["resume", "last", "--model", "../moved"]);
    fs::create_dir(program.path("elsewhere")).unwrap();
    Done(command.current_dir(program.path("elsewhere")).output().unwrap()).success();
    assert_eq!(pictures(&program.path("a")), pictures(&program.path("whole")));
}

/// Kept latents become a video with the model wherever it is, and with no other.
#[test]
fn kept_latents_are_decoded_with_their_model_wherever_it_is() {
    let program = program();
    program.run(&[&words("1", "whole/")[..], &["--keep"]].concat()).success();
    fs::rename(program.path("model"), program.path("moved")).unwrap();
    tiny::write_folder("tiny-2b", "another", &program.path("model"));
    program.run(&["decode", "last", "-o", "d/"]).error(3, &["vae", "not those of the run"]);
    program.run(&["decode", "last", "-o", "d/", "--model", "moved"]).success();
    assert_eq!(pictures(&program.path("d")), pictures(&program.path("whole")));
}
