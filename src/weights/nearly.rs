//! What is said of a folder or name that is nearly a model: what is there, and what to do.

use super::error::ModelError;
use super::source::{self, Source};
use super::{MODEL_INDEX, files, part};

/// The error of a part without weights.
pub(super) fn missing(source: &Source, name: &str) -> ModelError {
    if !source::is_inside(name) {
        return ModelError::new(format!("{name:?} is not the name of a part of {}", source.place()));
    }
    let looked = ["diffusion_pytorch_model.safetensors", "model.safetensors"].join(", ");
    ModelError::new(format!(
        "{}: part {name:?} is missing: looked for {looked}, their .fp16 and .bf16 forms and their index files{}",
        source.show(name),
        instead(source, name)
    ))
}

/// What is there in the place of the weights of a part.
fn instead(source: &Source, name: &str) -> String {
    /// Weights in forms that are not read.
    const OTHER: [&str; 6] = ["gguf", "onnx", "msgpack", "h5", "tflite", "engine"];
    let names = source.list(name);
    let with = |suffixes: &[&str]| -> Vec<&str> {
        let ends = |name: &&str| name.rsplit_once('.').is_some_and(|(_, end)| suffixes.contains(&end));
        names.iter().map(String::as_str).filter(ends).collect()
    };
    let there = with(&["safetensors"]);
    if let Some(file) = there.iter().find(|file| !source.has(&files::inside(name, file))) {
        return format!(
            "; {file} is there as a directory, or as a link to a file that is not: download the model again"
        );
    }
    match there.first() {
        Some(shard) if shard.contains("-of-") => {
            let base = shard.split("-0").next().unwrap_or(shard);
            format!(
                "; there are shards ({}) without the index that says what is in them: download {base}.safetensors.index.json \
                 as well, or save the model again",
                part::list(&there)
            )
        }
        Some(_) => format!("; there is {}: give it one of these names", part::list(&there)),
        None => match with(&OTHER) {
            other if other.is_empty() => String::new(),
            other => {
                format!(
                    "; there is {}, of a form that is not read: take the model's safetensors files",
                    part::list(&other)
                )
            }
        },
    }
}

/// Where the model is that a folder without an index is around, or a part of.
pub(super) fn around(source: &Source) -> String {
    let Source::Folder(folder) = source else { return String::new() };
    let inner: Vec<String> =
        source.list("").into_iter().filter(|name| source.has(&files::inside(name, MODEL_INDEX))).take(3).collect();
    if let [first, ..] = inner.as_slice() {
        return format!("; there is one in it: give {}", folder.join(first).display());
    }
    match folder.parent().filter(|parent| parent.join(MODEL_INDEX).is_file()) {
        Some(parent) if parent.as_os_str().is_empty() => "; this is a part of the model around it: give .".to_owned(),
        Some(parent) => format!("; this is a part of a model: give {}", parent.display()),
        None => String::new(),
    }
}

/// How a model on the hub is written whose web address was given.
pub(super) fn address(spec: &str) -> Option<String> {
    let (_, path) = ["huggingface.co/", "hf.co/"].iter().find_map(|host| spec.split_once(host))?;
    let mut words = path.split(['/', '?', '#']).filter(|word| !word.is_empty());
    let (org, name) = (words.next()?, words.next()?);
    let revision = words.next().filter(|word| *word == "tree").and_then(|_| words.next());
    Some(format!("{org}/{name}{}", revision.map(|revision| format!("@{revision}")).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn addresses_of_the_hub_become_names() {
        for (spec, name) in [
            ("https://huggingface.co/org/model", Some("org/model")),
            ("https://huggingface.co/org/model/", Some("org/model")),
            ("huggingface.co/org/model/tree/main", Some("org/model@main")),
            ("https://hf.co/org/model?library=diffusers", Some("org/model")),
            ("https://huggingface.co/org", None),
            ("org/model", None),
        ] {
            assert_eq!(address(spec).as_deref(), name, "{spec}");
        }
    }

    #[test]
    fn what_is_there_instead_of_a_model_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let source = Source::Folder(folder.path().to_owned());
        assert_eq!(around(&source), "");
        fs::create_dir_all(folder.path().join("inner/vae")).unwrap();
        fs::write(folder.path().join("inner").join(MODEL_INDEX), "{}").unwrap();
        assert!(around(&source).ends_with(&format!("give {}", folder.path().join("inner").display())));
        assert!(around(&Source::Folder(folder.path().join("inner/vae"))).contains("a part of a model"));
        let inner = Source::Folder(folder.path().join("inner"));
        assert_eq!(instead(&inner, "vae"), "");
        fs::write(folder.path().join("inner/vae/vae-Q4.gguf"), "GGUF").unwrap();
        assert!(instead(&inner, "vae").contains("vae-Q4.gguf, of a form"));
        // a directory of that name, as a broken link is one: a name without a file
        fs::create_dir(folder.path().join("inner/vae/model.safetensors")).unwrap();
        assert!(instead(&inner, "vae").contains("model.safetensors is there as a directory"));
    }
}
