//! The architecture, held: which room may use which, that no files import each other in a ring, and what files look like. What a crate
//! may use its manifest says, and the compiler holds it; who may open files, print, draw random numbers or panic, clippy does
//! (`clippy.toml`, and the rooms' own `allow`).

mod graph;

use graph::{File, Graph, Module};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Room, and the rooms it may use. Everything points one way: a room may only use rooms above it in this list.
///
/// `job` knows what the stages are made of (configurations, plans, controls, outputs) but runs nothing; `pipelines` runs
/// jobs. Models and processors never see each other.
const ROOMS: [(&str, &[&str]); 25] = [
    ("words", &[]),
    ("disk", &[]),
    ("nn", &[]),
    ("attention", &["nn"]),
    ("schedulers", &["words"]),
    ("models", &["words", "nn", "attention", "schedulers"]),
    ("processors", &["nn", "attention"]),
    ("guidance", &["attention", "schedulers"]),
    ("noise", &[]),
    ("timeline", &["words"]),
    ("weights", &["words", "disk", "models"]),
    ("text", &["nn", "models", "weights"]),
    ("video", &["words", "disk"]),
    ("boxes", &["words"]),
    ("saliency", &["nn", "models", "weights", "video"]),
    ("interpolation", &["models", "weights", "video"]),
    ("eval", &["nn", "models", "timeline", "weights", "text", "video", "interpolation"]),
    ("run", &["words", "disk", "video"]),
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
            "interpolation",
            "boxes",
        ],
    ),
    ("batch", &["words", "weights", "storyboard", "run", "job"]),
    ("estimate", &["nn", "attention", "models", "guidance", "timeline", "weights", "video", "run", "job"]),
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
            "storyboard",
            "run",
            "job",
            "estimate",
            "interpolation",
            "boxes",
        ],
    ),
    (
        "cli",
        &[
            "disk",
            "models",
            "weights",
            "video",
            "storyboard",
            "run",
            "recipe",
            "job",
            "batch",
            "estimate",
            "pipelines",
            "attention",
            "processors",
            "saliency",
            "interpolation",
            "eval",
            "boxes",
        ],
    ),
];

/// Rooms that may differ by cargo feature.
const FEATURED: [&str; 3] = ["nn", "weights", "video"];

/// The longest a source file may get; CONTRIBUTING.md asks for 150 to 500 lines.
const MOST_LINES: usize = 800;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn graph() -> Graph {
    let members = fs::read_dir(root().join("crates")).unwrap().map(|member| member.unwrap().file_name());
    let members = members.map(|member| member.into_string().unwrap());
    let mut crates: Vec<(String, PathBuf)> = members
        .map(|member| (format!("vidgen_{member}"), Path::new("crates").join(member).join("src/lib.rs")))
        .collect();
    crates.push(("vidgen".to_owned(), PathBuf::from("src/lib.rs")));
    let graph = Graph::read(root(), &crates);
    assert!(graph.files.len() > 150 && graph.uses.len() > 500, "the sources were not found");
    graph
}

/// The room of a module: in `src/` and in `crates/base` the part below the root, else the crate.
fn room(module: &Module) -> Option<&str> {
    match module[0].as_str() {
        "vidgen" | "vidgen_base" => module.get(1).map(String::as_str),
        krate => krate.strip_prefix("vidgen_"),
    }
}

#[track_caller]
fn none(rule: &str, offences: impl IntoIterator<Item = String>) {
    let offences: BTreeSet<String> = offences.into_iter().collect();
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.into_iter().collect::<Vec<_>>().join("\n  "));
}

#[test]
fn rooms_use_only_what_they_may() {
    let graph = graph();
    let offences = graph.uses.iter().filter_map(|found| {
        let File { path, module, .. } = &graph.files[found.from];
        let (from, to) = (room(module)?, room(&found.named)?);
        let allowed = ROOMS.iter().find(|(name, _)| *name == from).map_or(&[][..], |(_, allowed)| allowed);
        let wrong = module[0] == "vidgen" && from != to && !allowed.contains(&to);
        wrong.then(|| format!("{}: {from} uses {to}: {}", path.display(), found.written))
    });
    none("a room uses one that it must not know (tests/all/house/mod.rs has the table)", offences);
}

#[test]
fn the_table_points_one_way_and_names_every_room() {
    let names: Vec<&str> = ROOMS.iter().map(|(name, _)| *name).collect();
    for (index, (room, allowed)) in ROOMS.iter().enumerate() {
        for other in *allowed {
            assert!(names[..index].contains(other), "{room} may use {other}, which does not stand above it");
        }
    }
    let graph = graph();
    let rooms = graph.files.iter().filter_map(|file| room(&file.module));
    none("a room is not in the table", rooms.filter(|room| !names.contains(room)).map(str::to_owned));
}

#[test]
fn no_files_import_each_other_in_a_ring() {
    let graph = graph();
    let offences = graph.rings().into_iter().map(|ring| {
        let inside = |at: usize| ring.contains(&graph.files[at].path.display().to_string());
        let uses = graph.uses.iter().filter(|found| inside(found.from) && inside(found.to));
        let uses = uses.map(|found| {
            let [from, to] = [found.from, found.to].map(|at| graph.files[at].path.display());
            format!("\n    {from} writes {}, which is of {to}", found.written)
        });
        let uses: BTreeSet<String> = uses.collect();
        format!("a ring of {} files:{}", ring.len(), uses.into_iter().collect::<String>())
    });
    none("files import each other", offences);
}

/// Where the names of a family of models may stand: with its networks, where it or its autoencoder is registered, and in the hub's
/// table of names.
const NAMED: [&str; 5] = [
    "src/models/cogvideox/",
    "src/models/mod.rs",
    "src/models/registry.rs",
    "src/models/autoencoders.rs",
    "src/weights/cache.rs",
];

#[test]
fn no_room_but_models_knows_which_networks_there_are() {
    let mut offences = Vec::new();
    for path in sources(&["src", "crates"]) {
        if NAMED.iter().any(|named| path.starts_with(named)) {
            continue;
        }
        let text = fs::read_to_string(root().join(&path)).unwrap();
        let named = text.lines().enumerate().filter(|(_, line)| line.to_ascii_lowercase().contains("cogvideox"));
        offences.extend(named.map(|(at, line)| format!("{path}:{}: {}", at + 1, line.trim())));
    }
    none("the name of a family of models stands outside of it", offences);
}

#[test]
fn nothing_depends_on_the_name_of_a_model_or_a_recipe() {
    // the names that are known: the embedded model's, the recipes', the hub's
    let recipes = fs::read_dir(root().join("configs")).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = recipes.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.extend(vidgen::weights::short_names().map(str::to_owned));
    names.push(vidgen::weights::EMBEDDED.to_owned());
    let mut offences = Vec::new();
    for path in sources(&["src", "crates"]) {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let tests = path.ends_with("tests.rs");
        for (at, line) in code.lines().enumerate().filter(|_| !tests) {
            let compares = |name: &String| {
                let quoted = format!("\"{name}\"");
                // compared, or a pattern
                [format!("== {quoted}"), format!("!= {quoted}"), format!("{quoted} =="), format!("{quoted} =>")]
                    .iter()
                    .any(|form| line.contains(form))
            };
            if names.iter().any(compares) {
                offences.push(format!("{path}:{}: {}", at + 1, line.trim()));
            }
        }
    }
    none("code compares the name of a model or a recipe; ask its architecture for facts", offences);
}

/// Rust files below some folders, by their paths below the repository.
fn sources(folders: &[&str]) -> Vec<String> {
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|suffix| suffix == "rs") {
                found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    assert!(found.len() > 150, "the sources were not found");
    found
}

#[test]
fn main_is_thin() {
    let main = fs::read_to_string(root().join("src/main.rs")).unwrap();
    assert!(main.lines().count() <= 60, "src/main.rs parses, runs and exits");
}

#[test]
fn features_show_in_few_rooms() {
    let graph = graph();
    let others = graph.files.iter().filter(|file| room(&file.module).is_none_or(|room| !FEATURED.contains(&room)));
    let shows =
        |file: &&File| file.text.split("#[cfg(test)]\n").next().is_some_and(|code| code.contains("feature = \""));
    none(
        "cfg(feature) belongs to nn, weights and video",
        others.filter(shows).map(|file| file.path.display().to_string()),
    );
}

#[test]
fn files_are_of_a_size_and_say_what_they_are() {
    let offences = graph().files.into_iter().filter_map(|File { path, text, .. }| {
        let (lines, header) = (text.lines().count(), text.starts_with("//!"));
        (lines > MOST_LINES || !header).then(|| format!("{}: {lines} lines, header {header}", path.display()))
    });
    none(&format!("a file opens with a module header and has at most {MOST_LINES} lines"), offences);
}

#[test]
fn the_reader_sees_what_it_must() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("a/lib.rs", "pub mod one; mod two; pub mod three; pub use b_crate as b;");
    write("a/one.rs", "use super::two::{Two as T, other::*};\n#[cfg(test)]\nmod tests { use crate::three::Three; }");
    write("a/two/mod.rs", "mod other; mod last; pub struct Two; pub use last::Last; use crate::three::Three;");
    write("a/two/other.rs", "fn f() { super::super::b::deep::g(); call!(x => crate::two::Last { y }); }");
    write("a/two/last.rs", "#[path = \"odd.rs\"]\nmod even; pub struct Last; type Back = super::Two;");
    write("a/two/odd.rs", "type Up = super::super::Last; // crate::one::X\nconst S: &str = \"crate::one\";");
    write("a/three.rs", "mod inner { use super::super::one; fn f() { one::g() } } pub struct Three;");
    write("b/lib.rs", "pub mod deep;");
    write("b/deep.rs", "");
    let crates = [("a_crate", "a/lib.rs"), ("b_crate", "b/lib.rs")].map(|(name, path)| (name.to_owned(), path.into()));
    let graph = Graph::read(folder.path(), &crates);
    let name = |at: usize| graph.files[at].path.display().to_string();
    let found: BTreeSet<String> =
        graph.uses.iter().map(|found| format!("{} {} {}", name(found.from), found.written, name(found.to))).collect();
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    let want = [
        "a/lib.rs b_crate b/lib.rs",
        "a/one.rs super::two::Two a/two/mod.rs",
        "a/one.rs super::two::other a/two/other.rs",
        "a/three.rs one::g a/one.rs",
        "a/three.rs super::super::one a/one.rs",
        "a/two/last.rs super::Two a/two/mod.rs",
        "a/two/mod.rs crate::three::Three a/three.rs",
        "a/two/mod.rs last::Last a/two/last.rs",
        "a/two/odd.rs super::super::Last a/two/last.rs",
        "a/two/other.rs crate::two::Last a/two/last.rs",
        "a/two/other.rs super::super::b::deep::g b/deep.rs",
    ];
    assert_eq!(found, want);
    let ring = ["a/one.rs", "a/three.rs", "a/two/last.rs", "a/two/mod.rs", "a/two/other.rs"].map(str::to_owned);
    assert_eq!(graph.rings(), BTreeSet::from([BTreeSet::from(ring)]));
    let passed_on = graph.uses.iter().find(|found| found.written == "crate::two::Last").unwrap();
    assert_eq!(passed_on.named, ["a_crate", "two"]);
}
