//! Recipes: found by what a network is, or chosen by name or as a file.

use crate::cli::program::Program;
use serde_json::Value;

const PROMPT: &str = "a red ball rests in the snow";
const SMALL: [&str; 4] = ["--frames", "9", "--size", "48x32"];

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn recipes_are_listed_with_what_they_are_for() {
    let program = Program::new();
    let text = program.run(&["recipes"]).success().stdout();
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert!(line("cogvideox-5b ").contains("cogvideox, rotary = true"), "{text}");
    assert!(line("toyland ").contains("built-in"), "{text}");
    let object = json(&program.run(&["recipes", "--json"]).success().stdout());
    let recipes = object["recipes"].as_array().unwrap();
    let newer = recipes.iter().find(|recipe| recipe["name"] == "cogvideox1.5-5b").unwrap();
    assert_eq!((&newer["architecture"], &newer["facts"]["patch_t"]), (&"cogvideox".into(), &2.into()));
}

/// No name decides: a copy of the built-in model in another folder is the same network.
#[test]
fn a_copy_of_a_model_has_its_recipe() {
    let program = Program::new();
    let toyland = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/toyland");
    std::os::unix::fs::symlink(toyland, program.path("copy")).unwrap();
    for model in ["toyland", "copy"] {
        let info = json(&program.run(&["model", "info", model, "--json"]).success().stdout());
        assert_eq!(info["recipe"], "toyland", "{model}");
        let plan = json(&program.run(&["plan", PROMPT, "--model", model, "--json"]).success().stdout());
        assert_eq!((&plan["recipe"], &plan["steps"]), (&"toyland".into(), &10.into()), "{model}");
    }
    let text = program.run(&["plan", PROMPT]).success().stdout();
    assert!(text.lines().any(|line| line.starts_with("recipe ") && line.ends_with(" toyland")), "{text}");
}

#[test]
fn a_chosen_recipe_is_in_the_record_and_repeated() {
    let program = Program::new();
    std::fs::write(program.path("mine.toml"), "steps = 2\nguidance_scale = 1.5\n").unwrap();
    let make = |recipe: &str, out: &str| {
        let flags = ["generate", PROMPT, "--seed", "3", "--recipe", recipe, "-o", out];
        program.run(&[&flags[..], &SMALL].concat()).success();
        json(&program.run(&["inspect", out, "--json"]).success().stdout())
    };
    let record = make("mine.toml", "own.gif");
    let settings = &record["settings"];
    assert_eq!((&settings["recipe"], &settings["steps"]), (&"own".into(), &2.into()));
    assert_eq!(settings["guidance_scale"], "1.5");
    // the record is enough
    std::fs::remove_file(program.path("mine.toml")).unwrap();
    program.run(&["rerun", "own.gif", "--check"]).success();

    let warned = program.run(&["plan", PROMPT, "--recipe", "cogvideox-5b"]).success().stdout();
    assert!(warned.contains("recipe cogvideox-5b is for rotary = true, and this model has false"), "{warned}");
}

#[test]
fn recipes_that_cannot_be_are_refused() {
    let program = Program::new();
    std::fs::write(program.path("typo.toml"), "step = 2\n").unwrap();
    std::fs::write(program.path("control.toml"), "[method.ditctrl]\nattn_proc = [\"window\"]\n").unwrap();
    std::fs::write(program.path("deep.toml"), "[method.ditctrl]\nattn_proc = [\"kv-share:layers=9\"]\n").unwrap();
    std::fs::write(program.path("other.toml"), "[for]\narchitecture = \"unet\"\n").unwrap();
    for (recipe, words) in [
        ("toylan", &["unknown recipe", "did you mean toyland?"][..]),
        ("gone.toml", &["--recipe gone.toml"]),
        ("./", &["--recipe ./", "is not a file"]),
        ("typo.toml", &["typo.toml", "step"]),
        ("control.toml", &["the recipe's window", "works on temporal attention"]),
        ("deep.toml", &["the recipe's kv-share", "there are 6 layers"]),
        ("other.toml", &["is for unet"]),
    ] {
        program.run(&[&["plan", PROMPT, "--recipe", recipe][..], &SMALL].concat()).error(2, words);
    }
}
