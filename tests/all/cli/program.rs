//! Runs the real binary in a directory of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A fresh directory, in which commands run with no settings from outside.
pub struct Program {
    folder: tempfile::TempDir,
}

impl Program {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command whose working directory, home and caches are the fresh directory.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vidgen"));
        let home = self.folder.path().join("home");
        command.args(words).current_dir(self.folder.path()).env_clear().env("HOME", &home).stdin(Stdio::null());
        for name in ["PATH", "TMPDIR", "LD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }

    /// Runs `words` where the script `mount` has mounted something, for which the user need not be root, and then the script
    /// `after`. None, said aloud, where this machine does not let a test mount.
    #[cfg(target_os = "linux")]
    pub fn mounted(&self, mount: &str, words: &[&str], after: &str) -> Option<Done> {
        let unshare = |script: &str, more: &[&str]| {
            let mut command = Command::new("unshare");
            command.args(["-mr", "sh", "-c", script, "sh"]).args(more).current_dir(self.folder.path()).env_clear();
            for (name, value) in self.command(&[]).get_envs() {
                command.env(name, value.unwrap_or_default());
            }
            command.stdin(Stdio::null()).output()
        };
        if !unshare(mount, &[]).is_ok_and(|done| done.status.success()) {
            println!("not tried: this machine does not let a test mount a file system ({mount})");
            return None;
        }
        let script = format!("{mount} && \"$@\"; code=$?; {after}\nexit $code");
        Some(Done(unshare(&script, &[&[env!("CARGO_BIN_EXE_vidgen")], words].concat()).unwrap()))
    }

    pub fn run(&self, words: &[&str]) -> Done {
        Done(self.command(words).output().unwrap())
    }
}

/// What a command has done.
pub struct Done(pub Output);

impl Done {
    pub fn code(&self) -> i32 {
        self.0.status.code().unwrap_or(-1)
    }

    pub fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// Fails, with all that was printed, unless the command succeeded.
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.code(), 0, "{}\n{}", self.stdout(), self.stderr());
        self
    }

    /// Fails unless the command ended with this code and one `error:` line that holds all these words.
    #[track_caller]
    pub fn error(self, code: i32, words: &[&str]) -> Self {
        let stderr = self.stderr();
        assert_eq!(self.code(), code, "{stderr}");
        let lines: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        let [line] = lines.as_slice() else { panic!("not one error line: {stderr}") };
        for word in words {
            assert!(line.contains(word), "{word:?} is not in: {line}");
        }
        self
    }
}
