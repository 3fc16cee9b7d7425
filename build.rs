//! Lists the recipes: every `configs/NAME.toml` is embedded under its name, so that a new recipe is one file.

#![allow(clippy::disallowed_methods, reason = "runs before there is a program")]

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("configs");
    let mut files = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    let mut list = String::from("[\n");
    for path in &files {
        let name = path.file_stem().and_then(|stem| stem.to_str()).ok_or("a recipe's name is not UTF-8")?;
        writeln!(list, "    ({name:?}, include_str!({:?})),", path.to_str().ok_or("a path is not UTF-8")?)?;
    }
    list.push(']');
    fs::write(Path::new(&env::var("OUT_DIR")?).join("recipes.rs"), list)?;
    println!("cargo::rerun-if-changed=configs");
    Ok(())
}
