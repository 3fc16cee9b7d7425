//! What is wrong with an installation, and what there is to compute with.

use crate::cli::program::Program;
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_sound_installation_passes() {
    let program = Program::new();
    let done = program.run(&["doctor", "--json"]).success();
    let object = json(&done.stdout());
    assert_eq!(object["ok"], true);
    let checks = object["checks"].as_array().unwrap();
    for name in [
        "build",
        "processor",
        "memory",
        "disk",
        "encoders",
        "built-in model",
        "settings files",
        "gpu",
        "text cache",
        "models",
    ] {
        let check = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {object}"));
        assert!(["ok", "warning"].contains(&check["state"].as_str().unwrap()), "{check}");
    }
    let table = program.run(&["doctor"]).success().stdout();
    assert!(table.lines().count() == checks.len() && table.contains("blake3 "), "{table}");
}

#[test]
fn what_is_wrong_is_said_and_fails() {
    let program = Program::new();
    std::fs::write(program.path("vidgen.toml"), "stepz = 3\n").unwrap();
    let done = program.run(&["doctor"]).error(1, &["one check failed"]);
    let line = done.stdout().lines().find(|line| line.starts_with("settings files")).unwrap().to_owned();
    assert!(line.contains("FAILED") && line.contains("vidgen.toml") && line.contains("stepz"), "{line}");
}

#[test]
fn devices_are_listed() {
    let program = Program::new();
    let object = json(&program.run(&["devices", "--json"]).success().stdout());
    let devices = object["devices"].as_array().unwrap();
    assert_eq!((devices[0]["name"].as_str(), devices[0]["available"].as_bool()), (Some("cpu"), Some(true)));
    assert!(devices.iter().any(|device| device["name"].as_str().unwrap().starts_with("cuda")));
    assert!(object["threads"].as_u64().unwrap() >= 1);
    let table = program.run(&["devices"]).success().stdout();
    assert!(table.contains("cpu") && table.contains("available"), "{table}");
}
