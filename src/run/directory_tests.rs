//! Damaged and hostile run directories.

use super::directory::{self, Plan, RunDir, RunState};
use super::journal::{Record, SCHEMA, StoredFile};
use serde_json::json;
use std::fs;
use std::path::Path;

fn plan() -> Plan {
    Plan {
        schema: SCHEMA.into(),
        version: "0.2.0".into(),
        created: directory::now(),
        folder: "/".into(),
        prompts: Vec::new(),
        output: "a.mp4".into(),
        steps: vec![usize::MAX; 2],
        threads: 1,
        identity: json!("a test"),
        request: json!({}),
    }
}

/// A piece that is as the journal says, but for its name.
fn piece(name: impl Into<String>, bytes: &[u8]) -> StoredFile {
    StoredFile { name: name.into(), bytes: bytes.len() as u64, blake3: blake3::hash(bytes).to_hex().to_string() }
}

#[test]
fn pieces_are_files_of_the_directory() {
    let root = tempfile::tempdir().unwrap();
    let mut dir = RunDir::create(root.path(), &plan()).unwrap();
    let outside = root.path().join("outside.safetensors");
    fs::write(&outside, "mine").unwrap();
    let own = fs::read(dir.path().join("plan")).unwrap();
    for (name, bytes) in [
        ("../outside.safetensors", &b"mine"[..]),
        (outside.to_str().unwrap(), b"mine"),
        ("./../outside.safetensors", b"mine"),
        ("..", b""),
        ("", b""),
        ("plan", &own),
    ] {
        let error = dir.get(&piece(name, bytes)).unwrap_err().to_string();
        assert!(error.contains("is no name of a piece"), "{name}: {error}");
        dir.drop_piece(&piece(name, bytes));
        assert!(outside.exists() && dir.path().join("plan").exists(), "{name}");
    }
    let written = dir.put("step-0-1.safetensors", b"tensors", false).unwrap();
    assert_eq!(written, piece("step-0-1.safetensors", b"tensors"));
    assert_eq!(dir.get(&written).unwrap(), b"tensors");
    dir.drop_piece(&written);
    assert!(!dir.path().join("step-0-1.safetensors").exists());
}

#[test]
fn runs_of_other_versions_are_not_called_damaged() {
    let root = tempfile::tempdir().unwrap();
    let old = Plan { schema: "vidgen.run.v1".into(), version: "0.1.0".into(), ..plan() };
    let dir = RunDir::create(root.path(), &old).unwrap();
    let path = dir.path().to_owned();
    drop(dir);
    let run = directory::list(root.path()).unwrap().remove(0);
    assert_eq!((run.state, run.version.as_deref()), (RunState::OtherVersion, Some("0.1.0")));
    let error = directory::plan(&path).unwrap_err().to_string();
    assert!(error.contains("written by vidgen 0.1.0 (vidgen.run.v1); this version reads"), "{error}");
    fs::write(path.join("plan"), "cut sho").unwrap();
    let run = directory::list(root.path()).unwrap().remove(0);
    assert_eq!((run.state, run.version), (RunState::Damaged, None));
}

#[test]
fn lengths_that_are_not_true_take_no_memory() {
    let root = tempfile::tempdir().unwrap();
    let mut dir = RunDir::create(root.path(), &plan()).unwrap();
    let mut long = dir.put("step-0-1.safetensors", b"tensors", false).unwrap();
    long.bytes = u64::MAX;
    let error = format!("{:#}", dir.get(&long).unwrap_err());
    assert!(error.contains(&format!("7 bytes instead of {}", u64::MAX)), "{error}");
    // a file of holes is as long as it says
    let holes = fs::OpenOptions::new().write(true).open(dir.path().join(&long.name)).unwrap();
    let longest = (40..62).rev().map(|bits| 1u64 << bits).find(|&bytes| holes.set_len(bytes).is_ok());
    if let Some(bytes) = longest.filter(|&bytes| bytes > 1 << 46) {
        let error = format!("{:#}", dir.get(&StoredFile { bytes, ..long }).unwrap_err());
        assert!(error.contains("step-0-1.safetensors"), "{error}");
    }
    dir.note(&Record::Step { part: usize::MAX, done: usize::MAX, file: piece("a", b"") }, false).unwrap();
    dir.note(&Record::Latents { part: usize::MAX, file: piece("a", b"") }, false).unwrap();
    drop(dir);
    assert_eq!(directory::list(root.path()).unwrap()[0].steps, usize::MAX);
}

#[cfg(unix)]
#[test]
fn links_lead_nowhere() {
    let root = tempfile::tempdir().unwrap();
    let victim = root.path().join("victim");
    fs::write(&victim, "mine").unwrap();
    for name in ["frames.rgb", "journal", "lock", ".step-0-1.safetensors.partial"] {
        let dir = RunDir::create(root.path(), &plan()).unwrap();
        let path = dir.path().to_owned();
        drop(dir);
        let _ = fs::remove_file(path.join(name));
        std::os::unix::fs::symlink(&victim, path.join(name)).unwrap();
        let error = RunDir::open(&path).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("no plain file"), "{error}");
        assert_eq!(fs::read(&victim).unwrap(), b"mine", "{name}");
        fs::remove_file(path.join(name)).unwrap();
    }
    assert!(RunDir::open(Path::new(&root.path().join(plan().id()))).is_ok());
}
