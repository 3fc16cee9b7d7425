//! The project file `vidgen.toml` of the working directory and the user's own: settings below those of flags,
//! environment and scripts.

use super::exit::{Code, Failure, WithCode};
use super::folders;
use anyhow::{Context, ensure};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

const MOST_BYTES: u64 = 1 << 20;

/// The files that exist, the one that counts more first.
pub fn read() -> Result<Vec<(PathBuf, toml::Table)>, Failure> {
    let user = dirs::config_dir().map(|folder| folder.join("vidgen").join("config.toml"));
    let paths = std::iter::once(PathBuf::from("vidgen.toml")).chain(user);
    paths.filter_map(|path| table(&path).map(|table| Some((path, table?))).transpose()).collect()
}

/// A TOML file, if it exists.
fn table(path: &Path) -> Result<Option<toml::Table>, Failure> {
    let shown = || path.display().to_string();
    let file = match File::open(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        file => file.with_context(shown).code(Code::Usage)?,
    };
    let read = || {
        let mut text = String::new();
        file.take(MOST_BYTES + 1).read_to_string(&mut text)?;
        ensure!(text.len() as u64 <= MOST_BYTES, "longer than {MOST_BYTES} bytes: this is no configuration");
        let mut table = text.parse::<toml::Table>()?;
        for value in table.iter_mut().map(|(_, value)| value) {
            if let Some(path) = value.as_str().and_then(folders::at_home) {
                *value = toml::Value::String(path);
            }
        }
        Ok(table)
    };
    read().with_context(shown).code(Code::Usage).map(Some)
}
