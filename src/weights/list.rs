//! What is at hand without a download: the embedded model and what the hub's cache holds.

use super::cache::{Hub, is_commit};
use super::source::Source;
use super::{MODEL_INDEX, ModelFolder, files};
use crate::models::registry;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A model that can be named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// What to give as the model: `toyland`, `org/name`, `org/name@COMMIT`.
    pub name: String,
    /// Where its files are.
    pub place: PathBuf,
    /// Pipeline class, where it is known.
    pub class: Option<String>,
    /// Size of its files.
    pub bytes: u64,
    /// Why it cannot be used as it is: files that are missing, a pipeline that is not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The embedded models, then the video models in the cache that the environment names, by name. Models of the cache that are
/// of other kinds (language models, say) are left out.
pub fn list() -> Vec<Listed> {
    let embedded = ModelFolder::all_embedded().map(|model| {
        let info = super::info(&model);
        Listed {
            name: model.name().to_owned(),
            place: model.place().into(),
            class: Some(info.class),
            bytes: info.bytes,
            problem: None,
        }
    });
    let mut models = Vec::from(embedded);
    models.extend(cached(&Hub::from_env(true).cache));
    models
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// The video models of a cache.
fn cached(cache: &Path) -> Vec<Listed> {
    let mut models = Vec::new();
    for name in names(cache) {
        let Some(repo) = name.strip_prefix("models--").and_then(|name| name.split_once("--")) else { continue };
        let folder = cache.join(&name);
        let main = std::fs::read_to_string(folder.join("refs/main")).unwrap_or_default();
        for commit in names(&folder.join("snapshots")).into_iter().filter(|commit| is_commit(commit)) {
            let place = folder.join("snapshots").join(&commit);
            let source = Source::Folder(place.clone());
            let Ok(index) = source.read(MODEL_INDEX, files::SMALL_FILE) else { continue };
            let class = serde_json::from_slice::<serde_json::Value>(&index).unwrap_or_default();
            let class = class["_class_name"].as_str().map(str::to_owned);
            let Some(family) = class.as_deref().and_then(registry::akin) else { continue };
            let revision = if main.trim() == commit { String::new() } else { format!("@{commit}") };
            let problem = match files::missing(&source, family) {
                Ok(missing) if missing.is_empty() => ModelFolder::folder(&place).err().map(|error| error.to_string()),
                Ok(missing) => Some(format!("incomplete: no {}", missing.join(", "))),
                Err(error) => Some(error.to_string()),
            };
            let bytes = size(&place, 0);
            models.push(Listed { name: format!("{}/{}{revision}", repo.0, repo.1), place, class, bytes, problem });
        }
    }
    models
}

/// Size of the files in a folder, through links. A snapshot has two levels.
fn size(folder: &Path, depth: usize) -> u64 {
    let paths = names(folder).into_iter().map(|name| folder.join(name));
    let sizes = paths.filter_map(|path| match path.metadata() {
        Ok(data) if data.is_file() => Some(data.len()),
        Ok(data) if data.is_dir() && depth < 3 => Some(size(&path, depth + 1)),
        _ => None,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::EMBEDDED;
    use crate::weights::tests::pipeline;
    use std::fs;

    #[test]
    fn the_cache_is_looked_through() {
        let cache = tempfile::tempdir().unwrap();
        let commits = ["a", "b", "c"].map(|letter| letter.repeat(40));
        let add = |repo: &str, commit: &str, class: &str| {
            let folder = cache.path().join(format!("models--{}", repo.replace('/', "--")));
            let snapshot = folder.join("snapshots").join(commit);
            fs::create_dir_all(snapshot.join("vae")).unwrap();
            fs::create_dir_all(folder.join("refs")).unwrap();
            fs::write(folder.join("refs/main"), &commits[0]).unwrap();
            fs::write(snapshot.join("model_index.json"), format!(r#"{{"_class_name": "{class}"}}"#)).unwrap();
            fs::write(snapshot.join("vae/config.json"), "{}").unwrap();
        };
        add("org/video", &commits[0], pipeline());
        add("org/video", &commits[1], pipeline());
        add("org/image", &commits[0], "FluxPipeline");
        fs::create_dir_all(cache.path().join("models--org--empty/snapshots").join(&commits[2])).unwrap();
        fs::create_dir_all(cache.path().join("datasets--org--x")).unwrap();
        let listed = cached(cache.path());
        let names: Vec<&str> = listed.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names, ["org/video", &format!("org/video@{}", commits[1])]);
        assert_eq!(listed[0].bytes, format!("{{\"_class_name\": {:?}}}{{}}", pipeline()).len() as u64);
        assert!(listed[0].problem.as_deref().is_some_and(|problem| problem.starts_with("incomplete: no ")));
        assert!(cached(&cache.path().join("none")).is_empty());
    }

    #[test]
    fn the_embedded_model_comes_first() {
        let first = list().remove(0);
        assert_eq!((first.name.as_str(), first.problem), (EMBEDDED, None));
        assert!(first.bytes > 1 << 20);
    }
}
