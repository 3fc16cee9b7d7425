//! `--offload` and `--max-vram`: where weights wait, and what a budget decides.

use crate::cli::program::Program;
use crate::common::tiny::write_deep;
use candle_core::DType;
use serde_json::Value;
use std::fs;
use vidgen::weights::ModelFolder;

const LAYERS: usize = 40;
const MODES: [&str; 4] = ["none", "model", "block", "disk"];
const QUICK: [&str; 10] = ["--model", "model", "--steps", "2", "--frames", "5", "--size", "32x32", "--seed", "1"];

fn deep(dtype: DType) -> Program {
    let program = Program::new();
    write_deep("tiny-2b", LAYERS, dtype, &program.path("model"));
    program
}

fn plan(program: &Program, words: &[&str]) -> Value {
    let done = program.run(&[&["plan", "a ball", "--json"], &QUICK[..], words].concat()).success();
    serde_json::from_str(&done.stdout()).unwrap()
}

#[test]
fn where_weights_wait_decides_no_byte() {
    let program = deep(DType::BF16);
    let mut videos = Vec::new();
    for mode in MODES {
        let name = format!("{mode}.gif");
        program.run(&[&["generate", "a ball", "-o", &name, "--offload", mode], &QUICK[..]].concat()).success();
        videos.push(fs::read(program.path(&name)).unwrap());
        let sidecar = fs::read(program.path(format!("{name}.json"))).unwrap();
        let record: Value = serde_json::from_slice(&sidecar).unwrap();
        assert_eq!(record["run"]["offload"], mode);
        assert!(record["request"]["settings"].get("offload").is_none(), "the same run");
    }
    assert!(videos.iter().all(|video| *video == videos[0]));
    // several videos with one load, or with one each
    for mode in ["none", "disk"] {
        let name = format!("{mode}-{{seed}}.gif");
        program
            .run(&[&["generate", "a ball", "-o", &name, "--num-videos", "2", "--offload", mode], &QUICK[..]].concat());
        let read = |seed| fs::read(program.path(format!("{mode}-{seed}.gif"))).unwrap();
        assert!(read(1) == videos[0] && read(2) != videos[0], "{mode}");
    }
    program.run(&["rerun", "none.gif", "--check", "--offload", "block"]).success();
    program.run(&["rerun", "none.gif", "--check", "--max-vram", "1GB"]).error(2, &["--max-vram", "settled"]);
}

#[test]
fn a_budget_chooses_what_fits() {
    let program = deep(DType::BF16);
    let all = plan(&program, &["--offload", "none"]);
    let peak = |plan: &Value| plan["memory"]["peak"].as_u64().unwrap();
    let of = |mode: &str| peak(&plan(&program, &["--offload", mode]));
    let (none, block, disk) = (peak(&all), of("block"), of("disk"));
    // weights wait in the memory in which the CPU computes: two blocks that are alive come on top
    assert!(disk < none && none < block, "{disk} {none} {block}");
    assert_eq!((of("model"), plan(&program, &[])["offload"].as_str()), (none, Some("none")));
    // resident weights are as large as the files, and but two blocks of them are alive
    let stored = ModelFolder::folder(&program.path("model")).unwrap().part("transformer").unwrap().bytes();
    assert!((stored / 2..stored).contains(&(none - disk)), "{none} {disk} {stored}");
    let within = |bytes: u64| {
        let plan = plan(&program, &["--max-vram", &format!("{bytes}B")]);
        assert!(peak(&plan) <= bytes, "{plan}");
        plan["offload"].as_str().unwrap().to_owned()
    };
    assert_eq!(within(none - 1), "disk");
    assert_eq!(within(disk), "disk");
    assert_eq!(within(none), "model", "the decoder does not fit beside it");
    let run = |words: &[&str]| program.run(&[&["generate", "a ball", "-o", "a.gif"], &QUICK[..], words].concat());
    run(&["--max-vram", "67500kB"]).error(4, &["needs about 68 MB", "--max-vram is 67500kB"]);
    let some = format!("{disk}B");
    run(&["--max-vram", &some, "--offload", "none"]).error(4, &["transformer needs", "use --offload disk"]);
    assert!(!program.path("a.gif").exists());
    run(&["--max-vram", &some, "--progress", "plain"]).success();
    let table = program.run(&[&["plan", "a ball", "--max-vram", &some], &QUICK[..]].concat()).success().stdout();
    assert!(table.contains("offload        disk"), "{table}");

    // f32 takes twice as much, and half precision can be asked for
    let program = deep(DType::F32);
    let (wide, half) = (peak(&plan(&program, &["--offload", "none"])), &["--offload", "none", "--dtype", "bf16"]);
    assert!((stored * 3 / 4..stored * 5 / 4).contains(&(wide - none)), "{wide} {none}");
    assert_eq!(peak(&plan(&program, half)), none);
}

#[test]
fn a_budget_chooses_tiles_and_the_record_keeps_them() {
    let program = Program::new();
    let words = ["generate", "a ball", "--steps", "1", "--frames", "5", "--size", "96x64", "--seed", "1"];
    let plan = |more: &[&str]| -> Value {
        let done = program.run(&[&words, &["--dry-run", "--json"][..], more].concat()).success();
        serde_json::from_str(&done.stdout()).unwrap()
    };
    let number = |plan: &Value, key: &str| plan["memory"][key].as_u64().unwrap();
    let whole = plan(&[]);
    assert_eq!(whole["warnings"].as_array().unwrap().len(), 0);
    let budget = format!("{}B", number(&whole, "peak") - 1);
    let tiled = plan(&["--max-vram", &budget]);
    assert!(number(&tiled, "decode") < number(&whole, "decode"));
    let warning = tiled["warnings"][0].as_str().unwrap();
    assert!(warning.contains("tiles") && warning.contains(&budget), "{warning}");
    let off = ["--max-vram", &budget, "--vae-tiling", "off"];
    program.run(&[&words[..], &off].concat()).error(4, &["decoder needs", "use --vae-tiling on"]);
    program.run(&[&words[..], &["-o", "a.gif", "--max-vram", &budget]].concat()).success();
    program.run(&[&words[..], &["-o", "b.gif", "--vae-tiling", "on"]].concat()).success();
    assert!(fs::read(program.path("a.gif")).unwrap() == fs::read(program.path("b.gif")).unwrap());
    // made again from its record alone, without the budget
    program.run(&["rerun", "a.gif", "--check"]).success();
}

#[test]
fn wrong_words_are_explained() {
    let program = Program::new();
    let run = |words: &[&str]| program.run(&[&["plan", "a ball"], words].concat());
    run(&["--offload", "blok"]).error(2, &["did you mean block?"]);
    run(&["--offload"]).error(2, &["--offload"]);
    run(&["--max-vram", "12"]).error(2, &["unit of memory", "12GB"]);
    run(&["--max-vram", "lots"]).error(2, &["no amount of memory"]);
    run(&["--max-vram", "1kB"]).error(4, &["--max-vram is 1kB"]);
    fs::write(program.path("vidgen.toml"), "offload = \"disk\"\nmax_vram = \"2GB\"\n").unwrap();
    let table = run(&[]).success().stdout();
    assert!(table.contains("offload        disk"), "{table}");
    let mut command = program.command(&["plan", "a ball", "--json"]);
    let done = command.env("VIDGEN_OFFLOAD", "model").output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&done.stdout).unwrap()["offload"], "model");
    fs::write(program.path("vidgen.toml"), "max_vram = 12\n").unwrap();
    run(&[]).error(2, &["max_vram", "unit of memory"]);
}
