//! What is written beside the program: examples run, and what guides name is there.

use crate::cli::program::{Done, Program};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(repository().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_string_lossy().ends_with(suffix)).collect()
}

/// README, CONTRIBUTING and the guides. CHANGELOG speaks of what was there once.
fn guides() -> Vec<PathBuf> {
    let mut guides = [files(".", ".md"), files("docs", ".md")].concat();
    guides.retain(|path| !path.ends_with("CHANGELOG.md"));
    guides
}

#[test]
fn scripts_are_shell() {
    for script in [files("examples", ".sh"), files("scripts", ".sh")].concat() {
        // Debian's sh knows what POSIX knows; a script that needs more says so in its first line
        let shell = if fs::read_to_string(&script).unwrap().starts_with("#!/bin/sh") { "sh" } else { "bash" };
        let done = Done(Command::new(shell).arg("-n").arg(&script).output().unwrap());
        assert_eq!((done.code(), done.stderr()), (0, String::new()), "{}", script.display());
    }
}

/// Runs an example at the smallest size, with a stand-in for ffmpeg that copies what it reads.
fn example(program: &Program, name: &str, output: &str) -> Done {
    let ffmpeg = program.path("ffmpeg");
    fs::write(&ffmpeg, "#!/bin/sh\nfor file; do :; done\nexec cat > \"$file\"\n").unwrap();
    fs::set_permissions(&ffmpeg, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("sh");
    command.arg(repository().join("examples").join(name)).arg(output).current_dir(program.path("")).env_clear();
    for (name, value) in program.command(&[]).get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.env("VIDGEN", env!("CARGO_BIN_EXE_vidgen")).env("FFMPEG", ffmpeg);
    command.envs([("VIDGEN_STEPS", "1"), ("VIDGEN_SIZE", "32x32")]);
    Done(command.output().unwrap()).success()
}

#[cfg(feature = "video")]
#[test]
fn a_batch_is_an_example() {
    let program = Program::new();
    let first = example(&program, "batch.sh", "out");
    let videos = |id: &str| (1..=3).all(|seed| program.path(format!("out/{id}-seed{seed}.mp4")).exists());
    assert!(videos("ball") && videos("car"), "{}", first.stdout());
    let again = example(&program, "batch.sh", "out").stdout();
    assert_eq!(again.matches("skipped").count(), 6, "{again}");
}

#[test]
fn a_pipe_into_ffmpeg_is_an_example() {
    let program = Program::new();
    let done = example(&program, "pipe-to-ffmpeg.sh", "videos/long.mkv");
    assert_eq!(done.stdout(), "videos/long.mkv\n");
    let frames = fs::read(program.path("videos/long.mkv")).unwrap();
    assert!(frames.starts_with(b"YUV4MPEG2 W32 H32 F8:1"));
    // 20 s of 8 frames; the text of the stand-in's file is y4m, whose frames all begin alike
    let count = frames.windows(6).filter(|bytes| bytes == b"FRAME\n").count();
    assert_eq!(count, 160);
}

#[cfg(feature = "video")]
#[test]
fn a_sweep_is_an_example() {
    let program = Program::new();
    let table = example(&program, "sweep.sh", "out").stdout();
    for scale in ["1", "2.5", "6"] {
        let row = table.lines().find(|line| line.starts_with(&format!("guidance-{scale} "))).unwrap_or_default();
        assert_eq!(row.split_whitespace().nth(1), Some("3"), "{table}");
    }
}

/// Targets of `[text](target)` in Markdown that are no addresses, without what follows `#`.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets
        .filter_map(|target| target.split('#').next())
        .filter(|path| !path.is_empty() && !path.contains("://"))
        .collect()
}

#[test]
fn links_lead_to_files() {
    for guide in guides() {
        let text = fs::read_to_string(&guide).unwrap();
        for link in links(&text) {
            assert!(guide.with_file_name(link).exists(), "{}: there is no {link}", guide.display());
        }
    }
}

/// Files of the repository named between backticks, from its root.
fn named(text: &str) -> Vec<&str> {
    const FOLDERS: [&str; 11] =
        ["src", "crates", "tests", "docs", "scripts", "benches", "configs", "models", "training", "examples", "fuzz"];
    let quoted = text.split('`').skip(1).step_by(2);
    let word = quoted.filter_map(|words| words.split_whitespace().next());
    word.filter(|path| FOLDERS.iter().any(|folder| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))))
        .filter(|path| !path.contains(['*', '<', '{']) && !path.chars().any(char::is_uppercase))
        .map(|path| path.trim_end_matches([',', '.', ':']))
        .collect()
}

#[test]
fn guides_name_files_that_are_there() {
    for guide in guides() {
        let text = fs::read_to_string(&guide).unwrap();
        for path in named(&text) {
            assert!(repository().join(path).exists(), "{}: there is no {path}", guide.display());
        }
    }
}
