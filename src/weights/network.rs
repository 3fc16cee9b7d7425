//! One network in transformers' folder layout: `config.json`, weights and tokenizer files at the top of the folder.

use super::error::{Result, refuse};
use super::part::Part;
use super::source::Source;
use super::{Download, Form, Hub, find, json};
use super::{files, part};
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use serde::de::DeserializeOwned;

pub(super) const CONFIG: &str = "config.json";

/// A network in a folder, in the hub's cache or on the hub. Its headers have been read; its weights are read when they are
/// asked for.
#[derive(Clone)]
pub struct NetworkFolder {
    name: String,
    source: Source,
    revision: Option<String>,
    part: Part,
}

impl std::fmt::Debug for NetworkFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "NetworkFolder({})", self.source.place())
    }
}

impl NetworkFolder {
    /// Opens a network of a kind (`model_type` of its configuration: `clip`, or `_class_name`: `ControlNetModel`) by folder or hub id `org/name[@revision]`, as
    /// [`ModelFolder::open`](super::ModelFolder::open) opens a model.
    pub fn open(spec: &str, kind: &'static str, offline: bool) -> anyhow::Result<Self> {
        Ok(Self::resolve(spec, kind, || Hub::from_env(offline), &mut *super::listener())?)
    }

    pub(super) fn resolve(
        spec: &str,
        kind: &'static str,
        hub: impl FnOnce() -> Hub,
        progress: &mut dyn Download,
    ) -> Result<Self> {
        let found = find(spec, Form::Network(kind), hub, progress)?;
        check(&found.source, kind)?;
        let Some(part) = Part::open(&found.source, "")? else {
            let place = found.source.place();
            refuse!("{place}: no weights in it: looked for model.safetensors, its .fp16 form and its index")
        };
        Ok(Self { name: found.name, source: found.source, revision: found.revision, part })
    }

    /// The name it was opened by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its files are, for messages.
    pub fn place(&self) -> String {
        self.source.place()
    }

    /// The commit of a network from the hub.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// `config.json`. Errors name the file and the key.
    pub fn config<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        self.part.config()
    }

    /// Its weights.
    pub fn part(&self) -> &Part {
        &self.part
    }

    /// A small file as a whole, if there is one of that name. At most 64 MiB.
    pub fn read(&self, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(self.source.has(path).then(|| self.source.read(path, files::SMALL_FILE)).transpose()?)
    }

    /// See [`Part::var_builder`].
    pub fn var_builder(&self, dtype: DType, device: &Device) -> anyhow::Result<VarBuilder<'static>> {
        self.part.var_builder(dtype, device)
    }
}

/// Refuses a folder that holds something else.
pub(super) fn check(source: &Source, kind: &str) -> Result<()> {
    if !source.has(CONFIG) {
        let pickled = source.list("").into_iter().find(|name| files::is_pickle(name));
        if let Some(name) = pickled {
            return Err(part::pickled(&source.show(&name)));
        }
        refuse!("{}: no such file; the folder of a network has one", source.show(CONFIG));
    }
    let config: serde_json::Value = json(source, CONFIG)?;
    // transformers' name of it, then diffusers'
    let diffusers = config["_class_name"].is_string() && !config["model_type"].is_string();
    let key = if diffusers { "_class_name" } else { "model_type" };
    match config[key].as_str() {
        Some(found) if found == kind => Ok(()),
        found => {
            let (place, found) = (source.show(CONFIG), found.unwrap_or_default());
            refuse!("{place}: {key} {found:?} is not supported here; supported: {kind}")
        }
    }
}
