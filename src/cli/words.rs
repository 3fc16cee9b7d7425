//! Words of the command line and of the environment as they were meant: a shell leaves ~ alone behind a =, in quotes and in files.

use crate::run;
use std::ffi::OsString;
use std::path::Path;

/// What was typed, the program's name first.
pub fn typed() -> Vec<OsString> {
    std::env::args_os().map(|word| word.to_str().and_then(at_home).map_or(word, OsString::from)).collect()
}

/// `~/x` or `--flag=~/x` with the user's directory; none of another word.
fn at_home(word: &str) -> Option<String> {
    match word.split_once('=') {
        Some((flag, path)) if flag.starts_with("--") => Some(format!("{flag}={}", run::at_home(path)?)),
        _ => run::at_home(word),
    }
}

/// Whether a word names a file rather than being a prompt: it exists, or has the suffix of one.
pub fn is_file(word: &str) -> bool {
    let path = Path::new(word);
    let known = ["txt", "toml", "yaml", "yml", "json"];
    let suffix = path.extension().and_then(|suffix| suffix.to_str()).map(str::to_ascii_lowercase);
    path.is_file() || (!word.contains(' ') && suffix.is_some_and(|suffix| known.contains(&suffix.as_str())))
}

/// Makes the values of `VIDGEN_` variables what they are meant to be: without what editors of Windows leave behind them, and with the
/// user's directory.
pub fn settle_environment() {
    for (name, value) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("VIDGEN_")) {
        let Some(value) = value.to_str() else { continue };
        let trimmed = value.trim_end_matches(['\r', '\n']);
        let meant = run::at_home(trimmed).unwrap_or_else(|| trimmed.to_owned());
        if meant != value {
            // SAFETY: the program has one thread until the command line is read.
            unsafe { std::env::set_var(&name, meant) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tilde_is_the_users_directory_where_a_path_begins_with_it() {
        let home = dirs::home_dir().unwrap();
        let in_home = |path: &str| home.join(path).to_str().unwrap().to_owned();
        assert_eq!(at_home("~/x.mp4"), Some(in_home("x.mp4")));
        assert_eq!(at_home("--output=~/a b/"), Some(format!("--output={}", in_home("a b/"))));
        for word in ["~", "~x", "a ~/b", "x=~/y", "--output", "--style=a ~/ b", "/~/x"] {
            assert_eq!(at_home(word), None, "{word}");
        }
    }

    #[test]
    fn prompts_and_files_are_told_apart() {
        assert!(is_file("none.txt") && is_file("Cargo.toml") && is_file("a/b.TOML"));
        assert!(!is_file("ball") && !is_file("a red ball. it rolls.txt") && !is_file("a ball"));
    }
}
