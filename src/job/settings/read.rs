//! Settings of files: scripts, project and user files.

use super::Settings;
use crate::job::values;
use crate::run::{Code, Failure, WithCode};
use crate::storyboard::Storyboard;
use crate::words::without_types;
use anyhow::Context;
use serde::de::DeserializeOwned;

/// Takes the settings out of a script. Errors name the place in the file.
pub fn script_settings(storyboard: &mut Storyboard) -> Result<Settings, Failure> {
    let table = std::mem::take(&mut storyboard.settings);
    for (key, value) in &table {
        let alone = read_settings([(key.clone(), value.clone())].into_iter().collect());
        if let Some(place) = storyboard.places.get(key) {
            alone.context(place.clone()).code(Code::Usage)?;
        }
    }
    read_settings(table)
}

/// Settings of a file by their names, with a suggestion for names that do not exist.
pub fn read_settings(table: toml::Table) -> Result<Settings, Failure> {
    read_keys("setting", table)
}

/// Keys of a table, each of which is a `what`.
pub fn read_keys<T: DeserializeOwned>(what: &str, table: toml::Table) -> Result<T, Failure> {
    serde_path_to_error::deserialize(toml::Value::Table(table))
        .map_err(|error| {
            let message = without_types(error.inner().message());
            let mut words = message.split('`').skip(1).step_by(2); // serde lists the names that it knows
            match (error.path().to_string(), words.next()) {
                (_, Some(word)) if message.starts_with("unknown field") => {
                    values::unknown(what, word, &words.collect::<Vec<_>>())
                }
                (path, _) if path == "." => anyhow::anyhow!("{message}"),
                (path, _) => anyhow::anyhow!("{path}: {message}"),
            }
        })
        .code(Code::Usage)
}
