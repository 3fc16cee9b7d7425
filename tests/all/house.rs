//! The architecture, held: which room may use which, who may open files, print, or draw random numbers. Reads `src/` and
//! `crates/` as text, so it also sees code that is compiled only with some feature. What a crate may use its manifest says, and
//! the compiler holds it; in `src/` a crate is one more room.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Room, and the rooms it may use. Everything points one way: a room may only use rooms above it in this list.
///
/// `job` knows what the stages are made of (configurations, plans, controls, outputs) but runs nothing; `pipelines` runs
/// jobs. Models and processors never see each other.
const ROOMS: [(&str, &[&str]); 20] = [
    ("words", &[]),
    ("disk", &[]),
    ("nn", &[]),
    ("attention", &["nn"]),
    ("models", &["nn", "attention"]),
    ("processors", &["nn", "attention"]),
    ("schedulers", &[]),
    ("guidance", &["schedulers"]),
    ("noise", &[]),
    ("timeline", &[]),
    ("weights", &["disk"]),
    ("text", &["nn", "weights"]),
    ("video", &["disk"]),
    ("eval", &["nn", "models", "timeline", "weights", "text", "video"]),
    ("run", &["disk", "video"]),
    ("storyboard", &["words", "run"]),
    ("recipe", &["words", "models", "processors", "schedulers", "guidance", "timeline", "video"]),
    (
        "job",
        &[
            "words",
            "nn",
            "attention",
            "models",
            "processors",
            "schedulers",
            "guidance",
            "timeline",
            "weights",
            "text",
            "video",
            "storyboard",
            "run",
            "recipe",
        ],
    ),
    (
        "pipelines",
        &[
            "disk",
            "nn",
            "attention",
            "models",
            "processors",
            "schedulers",
            "guidance",
            "noise",
            "timeline",
            "weights",
            "text",
            "video",
            "run",
            "job",
        ],
    ),
    (
        "cli",
        &[
            "disk",
            "weights",
            "video",
            "storyboard",
            "run",
            "recipe",
            "job",
            "pipelines",
            "attention",
            "processors",
            "eval",
        ],
    ),
];

/// Rooms that open files.
const OPENERS: [&str; 6] = ["disk", "weights", "video", "storyboard", "recipe", "run"];
/// Rooms that speak to the user.
const SPEAKERS: [&str; 2] = ["cli", "run"];
/// Rooms that may differ by cargo feature.
const FEATURED: [&str; 3] = ["nn", "weights", "video"];

/// The longest a source file may get; house.md asks for 150 to 500 lines.
const MOST_LINES: usize = 800;

/// One source file.
struct Source {
    path: PathBuf,
    text: String,
    /// Line number and code without comments, up to the file's unit tests; empty for files that only tests have.
    code: Vec<(usize, String)>,
}

impl Source {
    fn new(path: &Path, text: String, test_only: bool) -> Self {
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        let code = match test_only {
            true => Vec::new(),
            false => {
                lines.take_while(|(_, line)| line.trim() != "#[cfg(test)]").map(|(n, line)| (n, code(line))).collect()
            }
        };
        Self { path: path.to_owned(), text, code }
    }

    /// The room a file belongs to: the first part of its path below `src` (`lib` and `main` are none), or its crate; of
    /// `crates/base` the file.
    fn room(&self) -> Option<&str> {
        let below = match self.path.strip_prefix("src").or_else(|_| self.path.strip_prefix("crates/base/src")) {
            Ok(below) => below,
            Err(_) => self.path.strip_prefix("crates").ok()?,
        };
        let first = below.components().next()?.as_os_str().to_str()?;
        let room = first.strip_suffix(".rs").unwrap_or(first);
        ROOMS.iter().map(|(name, _)| *name).find(|name| *name == room)
    }

    /// Modules above the file, itself included: 1 for `src/text/mod.rs` and `src/noise.rs`, 2 for `src/text/t5.rs`.
    fn depth(&self) -> usize {
        let modules = self.path.components().count() - 1;
        if self.path.ends_with("mod.rs") { modules - 1 } else { modules }
    }

    /// Rooms that the file names, by `crate::` or by `super::` up to the root, with the line.
    fn uses(&self) -> Vec<(usize, String)> {
        let text: String = self.code.iter().map(|(_, line)| format!("{line}\n")).collect();
        let line_at = |at: usize| text[..at].matches('\n').count();
        let up = "super::".repeat(self.depth());
        let mut found = Vec::new();
        for prefix in ["crate::", &up] {
            for (at, _) in text.match_indices(prefix) {
                let start = at + prefix.len();
                let names = match text[start..].strip_prefix('{') {
                    Some(_) => group(&text, start + 1),
                    None => vec![(start, first_word(&text[start..]))],
                };
                found.extend(names.into_iter().map(|(at, name)| (self.code[line_at(at)].0, name)));
            }
        }
        found.retain(|(_, name)| ROOMS.iter().any(|(room, _)| room == name));
        found
    }

    /// Lines that hold one of `words`.
    fn lines_with(&self, words: &[&str]) -> Vec<String> {
        let hits = self.code.iter().filter(|(_, line)| words.iter().any(|word| line.contains(word)));
        hits.map(|(number, line)| format!("{}:{number}: {}", self.path.display(), line.trim())).collect()
    }
}

/// The first words of the entries of a `use` group that begins at `start`, with their places.
fn group(text: &str, start: usize) -> Vec<(usize, String)> {
    let mut names = Vec::new();
    let (mut depth, mut fresh) = (0, true);
    for (at, c) in text[start..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && c.is_alphabetic() => {
                names.push((start + at, first_word(&text[start + at..])));
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

fn first_word(text: &str) -> String {
    text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// A line without its comment and without what stands in quotes (escaped quotes included).
fn code(line: &str) -> String {
    let mut out = String::new();
    let mut quoted = false;
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        if quoted {
            quoted = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        if line[at..].starts_with("//") {
            break;
        }
        if c == '"' && !line[..at].ends_with('\'') {
            quoted = true;
        } else {
            out.push(c);
        }
    }
    out
}

fn sources() -> Vec<Source> {
    fn walk(folder: &Path, root: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, files);
            } else if path.extension().is_some_and(|suffix| suffix == "rs") {
                files.push(path.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    walk(&root.join("src"), root, &mut files);
    for member in fs::read_dir(root.join("crates")).unwrap() {
        walk(&member.unwrap().path().join("src"), root, &mut files);
    }
    files.sort();
    assert!(files.len() > 150, "src/ was not found");
    let texts: BTreeMap<PathBuf, String> =
        files.into_iter().map(|path| (path.clone(), fs::read_to_string(root.join(&path)).unwrap())).collect();
    // modules that their parent declares under #[cfg(test)], or #[cfg(all(test, ..))]
    let mut test_only = BTreeSet::new();
    for (path, text) in &texts {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for pair in lines.windows(2) {
            if pair[0].starts_with("#[cfg(")
                && pair[0].contains("test")
                && let Some(name) = pair[1].strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'))
            {
                let root = path.ends_with("mod.rs") || path.ends_with("lib.rs");
                let folder = if root { path.parent().unwrap().to_owned() } else { path.with_extension("") };
                test_only.insert(folder.join(format!("{name}.rs")));
            }
        }
    }
    texts.into_iter().map(|(path, text)| Source::new(&path, text, test_only.contains(&path))).collect()
}

#[track_caller]
fn none(rule: &str, offences: Vec<String>) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn rooms_use_only_what_they_may() {
    let sources = sources();
    let offences = sources.iter().filter(|source| source.path.starts_with("src")).flat_map(|source| {
        let room = source.room();
        let allowed = ROOMS.iter().find(|(name, _)| Some(*name) == room).map_or(&[][..], |(_, allowed)| allowed);
        let wrong = move |name: &String| room.is_some_and(|room| name != room && !allowed.contains(&name.as_str()));
        let place = source.path.display().to_string();
        let uses = source.uses().into_iter().filter(move |(_, name)| wrong(name));
        uses.map(move |(line, name)| format!("{place}:{line}: {} uses {name}", room.unwrap_or("the root")))
            .collect::<Vec<_>>()
    });
    none("a room uses one that it must not know (tests/all/house.rs has the table)", offences.collect());
}

#[test]
fn the_table_points_one_way_and_names_every_room() {
    let names: Vec<&str> = ROOMS.iter().map(|(name, _)| *name).collect();
    for (index, (room, allowed)) in ROOMS.iter().enumerate() {
        for other in *allowed {
            assert!(names[..index].contains(other), "{room} may use {other}, which does not stand above it");
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let name = name.trim_end_matches(".rs");
        assert!(["lib", "main"].contains(&name) || names.contains(&name), "src/{name} is in no room of the table");
    }
}

#[test]
fn main_is_thin() {
    let main = sources().into_iter().find(|source| source.path == Path::new("src/main.rs")).unwrap();
    assert!(main.text.lines().count() <= 60, "src/main.rs parses, runs and exits");
}

#[test]
fn only_some_rooms_open_files() {
    let words = ["std::fs", "fs::", "File::", "OpenOptions", "Mmap", "NamedTempFile"];
    let sources = sources();
    let others = sources.iter().filter(|source| !source.room().is_some_and(|room| OPENERS.contains(&room)));
    none(
        "only disk, weights, video, storyboard, recipe and run open files",
        others.flat_map(|source| source.lines_with(&words)).collect(),
    );
}

#[test]
fn only_some_rooms_speak() {
    let words = ["println!", "eprintln!", "print!(", "eprint!(", "dbg!"];
    let sources = sources();
    let others = sources.iter().filter(|source| !source.room().is_some_and(|room| SPEAKERS.contains(&room)));
    none("only cli and run speak to the user", others.flat_map(|source| source.lines_with(&words)).collect());
}

#[test]
fn features_show_in_few_rooms() {
    let sources = sources();
    let others = sources.iter().filter(|source| !source.room().is_some_and(|room| FEATURED.contains(&room)));
    none(
        "cfg(feature) belongs to nn, weights and video",
        others.flat_map(|source| source.lines_with(&["cfg(feature", "cfg(not(feature", "cfg!(feature"])).collect(),
    );
}

#[test]
fn only_noise_draws_random_numbers() {
    let words = ["rand_chacha", "randn(", "rand::", ".rand(", "rand_like", "randn_like", "set_seed"];
    let sources = sources();
    let others = sources.iter().filter(|source| source.room() != Some("noise"));
    none("noise.rs alone draws random numbers", others.flat_map(|source| source.lines_with(&words)).collect());
}

#[test]
fn nothing_panics_on_purpose() {
    let words = [".unwrap()", "todo!", "unimplemented!", "panic!"];
    none("errors are values", sources().iter().flat_map(|source| source.lines_with(&words)).collect());
}

#[test]
fn files_are_of_a_size_and_say_what_they_are() {
    let offences = sources().into_iter().filter_map(|source| {
        let lines = source.text.lines().count();
        let header = source.text.starts_with("//!") || source.path == Path::new("src/main.rs");
        (lines > MOST_LINES || !header).then(|| format!("{}: {lines} lines, header {header}", source.path.display()))
    });
    none(&format!("a file opens with a module header and has at most {MOST_LINES} lines"), offences.collect());
}

#[test]
fn the_reader_sees_what_it_must() {
    let text = "//! x\nuse crate::nn::act;\nuse crate::{\n    run::{Code, nn},\n    text,\n};\nlet s = \"crate::cli\"; // crate::job\n\
                let p = super::video::open();\nx.unwrap();\n#[cfg(test)]\nmod tests { use crate::cli; }\n";
    let source = Source::new(Path::new("src/models/x.rs"), text.to_owned(), false);
    assert_eq!((source.room(), source.depth()), (Some("models"), 2));
    let names: Vec<String> = source.uses().into_iter().map(|(line, name)| format!("{line} {name}")).collect();
    assert_eq!(names, ["2 nn", "4 run", "5 text"]);
    assert_eq!(source.lines_with(&[".unwrap()"]), ["src/models/x.rs:9: x.unwrap();"]);
    let root = Source::new(Path::new("src/noise.rs"), "use super::video::open;".to_owned(), false);
    assert_eq!(root.uses(), [(1, "video".to_owned())]);
    assert!(Source::new(Path::new("src/models/x.rs"), text.to_owned(), true).code.is_empty());
    assert_eq!(code(r#"a("\"//\"", '"', b) // c"#).trim_end(), r#"a(, '"', b)"#);
}
