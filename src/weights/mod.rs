//! Where weights come from, their names and their dtype: the only room that opens weight files.
//!
//! A model is a folder in the diffusers layout (`model_index.json`, and one directory for each part), wherever it lives: in
//! the binary, in a folder, in the hub's cache. All are read by the same code. A single network in transformers' layout
//! ([`NetworkFolder`]) is one such part at the top of a folder. Weights are safetensors; pickles are refused
//! and never opened. Opening a model reads its configuration files, opening a part the headers of its weight files;
//! weights are read when a network asks for them, one tensor at a time.
//!
//! Everything here comes from outside: sizes are checked before memory is taken, names of files stay inside the model,
//! and what is wrong is said in one line that names the file and what to do ([`ModelError`]).

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "opens files")]

mod backend;
mod cache;
mod convert;
mod embedded;
mod error;
mod files;
mod hash;
mod header;
mod host;
#[cfg(feature = "hub")]
mod hub;
mod import;
mod info;
mod json;
mod list;
mod lora;
mod measures;
mod nearly;
mod network;
mod part;
#[cfg(feature = "hub")]
mod patience;
mod single;
mod source;
mod tensor_cache;
mod tensors;

#[cfg(test)]
mod hostile;
#[cfg(all(test, feature = "hub"))]
mod hub_tests;
#[cfg(test)]
mod tests;

pub use cache::short_names;
pub use embedded::{EMBEDDED, u2netp};
pub use error::ModelError;
pub use host::free_memory;
pub use import::{Conversion, ConversionError, WrittenFile};
pub use info::{FileInfo, ModelInfo, PartInfo, PartState, info};
pub use list::{Listed, list};
pub use measures::Measure;
pub use network::NetworkFolder;
pub use part::{Part, TensorInfo};
pub use tensor_cache::TensorCache;
pub use tensors::{TensorWriter, bytes_of, read_tensors, tensors_of, write_described, write_tensors};

use crate::models::architecture::{Architecture, Family, Native, PartClass, Role};
use crate::models::registry::{self, FAMILIES};
use anyhow::Context;
use cache::{Hub, HubId};
use error::{Result, refuse};
use json::json;
use lora::{LoraFile, Target};
use serde::de::DeserializeOwned;
use single::Single;
use source::{Embedded, Source};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Pipeline classes (`_class_name` of `model_index.json`) that this program runs.
pub fn pipelines() -> Vec<&'static str> {
    FAMILIES.iter().flat_map(|family| family.pipelines).copied().collect()
}

const MODEL_INDEX: &str = "model_index.json";
const FROM_PARENT: &str = "_from_parent";

/// Checks the bytes of a safetensors file as opening a model does; returns how many tensors it holds.
pub fn check_safetensors(file: &[u8]) -> anyhow::Result<usize> {
    Ok(header::Header::parse(file)?.entries.len())
}

/// Checks the bytes of a file of torch.save, or of a pickle alone, as converting it does; returns how many tensors it names.
pub fn check_checkpoint(file: &[u8]) -> anyhow::Result<usize> {
    Ok(import::check(file)?)
}

/// Checks the text of an index of shards as opening a model does; returns how many shards it names.
pub fn check_index(text: &[u8]) -> anyhow::Result<usize> {
    Ok(files::Index::parse(text)?.shards().len())
}

/// Told of downloads. All methods do nothing by default.
pub trait Download {
    /// Before the first of the files of a model.
    fn begin(&mut self, _wanted: &Wanted) {}

    /// A file of so many bytes begins, of which some have arrived earlier; again when a broken download goes on.
    fn file(&mut self, _path: &str, _bytes: u64, _arrived: u64) {}

    /// So many bytes of the file have arrived since the last call.
    fn advance(&mut self, _bytes: u64) {}

    /// Nothing has arrived for this long.
    fn silent(&mut self, _time: Duration) {}

    /// After the last file.
    fn end(&mut self) {}
}

impl Download for () {}

/// What is about to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub model: String,
    pub files: usize,
    /// Of all of them together; 0 when the hub does not say.
    pub bytes: u64,
    /// The cache they go to.
    pub cache: PathBuf,
}

/// What a run would have to fetch first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct ToDownload {
    pub files: usize,
    pub bytes: u64,
}

type Teller = Box<dyn Fn() -> Box<dyn Download> + Send + Sync>;
static TELLER: OnceLock<Teller> = OnceLock::new();
static LOOKING: AtomicBool = AtomicBool::new(false);

/// Who is told of the downloads of this process that have no listener of their own. The first one stays.
pub fn tell_downloads(teller: impl Fn() -> Box<dyn Download> + Send + Sync + 'static) {
    // a second one would have nobody to tell
    let _ = TELLER.set(Box::new(teller));
}

static KEPT: Mutex<Option<HashMap<(String, bool), ModelFolder>>> = Mutex::new(None);

/// As long as it lives, a model that is opened again by the same name is the one that was opened before.
#[derive(Debug)]
pub struct KeptOpen(());

/// For many jobs of few models: their configurations and headers are read once.
pub fn keep_open() -> KeptOpen {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default();
    KeptOpen(())
}

impl Drop for KeptOpen {
    fn drop(&mut self) {
        *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// From now on models of the hub are only looked at: small files are fetched, of weights the headers are read.
pub fn only_look() {
    LOOKING.store(true, Ordering::Relaxed);
}

fn looking() -> bool {
    LOOKING.load(Ordering::Relaxed)
}

/// The listener of this process.
fn listener() -> Box<dyn Download> {
    TELLER.get().map_or_else(|| Box::new(()) as Box<dyn Download>, |teller| teller())
}

/// A model in the diffusers folder layout, wherever it lives. Cheap to clone. Opening reads no weights.
#[derive(Clone)]
pub struct ModelFolder(Arc<Inner>);

impl std::fmt::Debug for ModelFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "ModelFolder({})", self.place())
    }
}

struct Inner {
    name: String,
    source: Source,
    /// Commit of a hub model.
    revision: Option<String>,
    index: ModelIndex,
    family: &'static Family,
    /// Parts opened so far: their headers are read and their files hashed once.
    parts: Mutex<HashMap<String, Part>>,
    /// The LoRA files whose sum with the weights it is.
    loras: Vec<MergedLora>,
}

/// A LoRA file that is merged into the weights of a model.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct MergedLora {
    pub file: String,
    pub weight: f64,
    /// Of the file, in hexadecimal.
    pub blake3: String,
}

/// `model_index.json`.
#[derive(Debug, Clone, serde::Deserialize)]
struct ModelIndex {
    #[serde(rename = "_class_name")]
    class: String,
    /// Component name to library and class; other keys are options of the pipeline.
    #[serde(flatten)]
    entries: serde_json::Value,
}

/// Whether this build can download models.
pub fn downloads() -> bool {
    cfg!(feature = "hub")
}

impl ModelFolder {
    /// Opens a model by its name: `toyland` (in the binary), a folder, a short name ([`short_names`]) or a hub id
    /// `org/name[@revision]`. What is not in a folder is looked for in the hub's cache, then fetched into it (feature `hub`),
    /// unless `offline` or HF_HUB_OFFLINE forbid that.
    pub fn open(spec: &str, offline: bool) -> anyhow::Result<Self> {
        let key = (spec.to_owned(), offline);
        let kept = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = kept().as_ref().and_then(|kept| kept.get(&key)) {
            return Ok(model.clone());
        }
        let model = Self::open_with(spec, offline, &mut *listener())?;
        if let Some(kept) = kept().as_mut() {
            kept.insert(key, model.clone());
        }
        Ok(model)
    }

    /// [`ModelFolder::open`] that reports downloads.
    pub fn open_with(spec: &str, offline: bool, progress: &mut dyn Download) -> anyhow::Result<Self> {
        Ok(Self::resolve(spec, || Hub::from_env(offline), progress)?)
    }

    /// The model inside the binary that is the default.
    pub fn embedded() -> Self {
        let [first, ..] = embedded::MODELS;
        Self::inside(first)
    }

    /// The models inside the binary, the default first.
    pub fn all_embedded() -> [Self; embedded::MODELS.len()] {
        embedded::MODELS.map(Self::inside)
    }

    fn inside((name, files): (&'static str, Embedded)) -> Self {
        let source = Source::Embedded { name, files };
        // a test opens them
        Self::from_source(name.to_owned(), source, None).expect("embedded models are well formed")
    }

    /// A folder of this machine.
    pub fn folder(path: &Path) -> anyhow::Result<Self> {
        Ok(Self::from_folder(path)?)
    }

    fn resolve(spec: &str, hub: impl FnOnce() -> Hub, progress: &mut dyn Download) -> Result<Self> {
        if let Some(&embedded) = embedded::MODELS.iter().find(|(name, _)| *name == spec) {
            return Ok(Self::inside(embedded));
        }
        let found = find(spec, Form::Pipeline, hub, progress)?;
        Self::from_source(found.name, found.source, found.revision)
    }

    fn from_folder(path: &Path) -> Result<Self> {
        let found = folder(path, Form::Pipeline)?;
        Self::from_source(found.name, found.source, found.revision)
    }

    fn from_source(name: String, source: Source, revision: Option<String>) -> Result<Self> {
        if !source.has(MODEL_INDEX) {
            let (place, hint) = (source.show(MODEL_INDEX), nearly::around(&source));
            refuse!("{place}: no such file; a model folder of diffusers has one{hint}");
        }
        let index: ModelIndex = json(&source, MODEL_INDEX)?;
        let Some(family) = registry::family(&index.class) else {
            let (place, class) = (source.show(MODEL_INDEX), &index.class);
            let (known, remedy) = (pipelines().join(", "), registry::remedy(class));
            refuse!("{place}: pipeline class {class:?} is not supported; supported: {known}{remedy}");
        };
        let source = match shared_parts(&source, &index, family)? {
            parts if parts.is_empty() => source,
            parts => {
                let around = around(&source)?;
                source.lent(around, parts)
            }
        };
        Ok(Self(Arc::new(Inner { name, source, revision, index, family, parts: Mutex::default(), loras: Vec::new() })))
    }

    /// The model in a folder of this one, where there is such a folder with a `model_index.json`.
    ///
    /// # Errors
    /// One that is damaged.
    pub fn inner(&self, folder: &str) -> anyhow::Result<Option<Self>> {
        let name = format!("{}/{folder}", self.name());
        let source = match &self.0.source {
            Source::Embedded { .. } => embedded::named(&name),
            Source::Folder(outer) if source::is_inside(folder) => Some(Source::Folder(outer.join(folder))),
            _ => None,
        };
        let Some(source) = source.filter(|source| source.has(MODEL_INDEX)) else { return Ok(None) };
        Ok(Some(Self::from_source(name, source, self.0.revision.clone())?))
    }

    /// The model with LoRA files merged into the weights of its denoiser and its text encoder, each so many times.
    ///
    /// # Errors
    /// Files that are no LoRA files, or of another kind of model.
    pub fn with_loras(&self, files: &[(&Path, f64)]) -> anyhow::Result<Self> {
        let family = self.0.family;
        let of = |role: Role, prefix: &str| -> anyhow::Result<Target<'static>> {
            let part = family.part(role);
            let tensors = self.part(part)?.tensors()?.into_iter().map(|tensor| (tensor.name, tensor.shape)).collect();
            Ok(Target { part, prefix: prefix.replace("{}", part), tensors })
        };
        let targets = [of(Role::Denoiser, "lora_{}_")?, of(Role::TextEncoder, "lora_te_")?];
        let mut loras = Vec::with_capacity(files.len());
        let mut added = HashMap::<String, part::Added>::new();
        for &(path, weight) in files {
            let file = Arc::new(lora_file(path)?);
            let blake3 = blake3::hash(&file.bytes).to_hex().to_string();
            for (part, deltas) in lora::deltas(&file, weight, &targets)? {
                let added = added.entry(part).or_default();
                added.stamp += &format!("{blake3} {weight}\n");
                deltas.into_iter().for_each(|(name, delta)| added.deltas.entry(name).or_default().push(delta));
            }
            loras.push(MergedLora { file: file.place.clone(), weight, blake3 });
        }
        let mut parts = HashMap::new();
        for (name, added) in added {
            let part = self.part(&name)?.with(added);
            parts.insert(name, part);
        }
        let Inner { name, source, revision, index, .. } = &*self.0;
        Ok(Self(Arc::new(Inner {
            name: name.clone(),
            source: source.clone(),
            revision: revision.clone(),
            index: index.clone(),
            family,
            parts: Mutex::new(parts),
            loras,
        })))
    }

    /// The LoRA files that are merged into its weights.
    pub fn loras(&self) -> &[MergedLora] {
        &self.0.loras
    }

    /// The name the model was opened by, for messages and the manifest.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Where the model's files are, for messages.
    pub fn place(&self) -> String {
        self.0.source.place()
    }

    /// The commit of a model from the hub.
    pub fn revision(&self) -> Option<&str> {
        self.0.revision.as_deref()
    }

    /// What a run would have to fetch; none where everything is there.
    pub fn to_download(&self) -> Option<ToDownload> {
        let (files, bytes) = self.0.source.absent().fold((0, 0), |(files, bytes), (_, size)| (files + 1, bytes + size));
        (files > 0).then_some(ToDownload { files, bytes })
    }

    /// The pipeline class, one of [`pipelines`].
    pub fn class(&self) -> &str {
        &self.0.index.class
    }

    /// Whether the model has a file of this path (`tokenizer/spiece.model`).
    pub fn has(&self, path: &str) -> bool {
        self.0.source.has(path)
    }

    /// A small file as a whole: a configuration, a tokenizer. At most 64 MiB.
    pub fn read(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        Ok(self.0.source.read(path, files::SMALL_FILE)?)
    }

    /// What kind of model it is, from the configurations of its parts.
    ///
    /// # Errors
    /// Files that are missing or damaged, and what this program does not compute, with the place of the model.
    pub fn architecture(&self) -> anyhow::Result<Arc<dyn Architecture>> {
        let read = |path: &str| self.json(path);
        (self.0.family.read)(&read).with_context(|| self.place())
    }

    /// The video it was made for, from as few keys of its configurations as say so: also of a model that cannot be run.
    pub fn native(&self) -> anyhow::Result<Native> {
        (self.0.family.native)(&|path: &str| self.json(path)).with_context(|| self.place())
    }

    /// Its kind.
    pub fn family(&self) -> &'static Family {
        self.0.family
    }

    /// A JSON file. Errors name the file and the key.
    pub fn json<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        Ok(json(&self.0.source, path)?)
    }

    /// blake3 in hexadecimal of what decides the frames beside the weights: the configurations of the parts and of the
    /// scheduler, and the files of the tokenizer. The same for copies of a model.
    pub fn configurations_hash(&self) -> anyhow::Result<String> {
        let source = &self.0.source;
        // in the order in which records have them
        let roles = [Role::Denoiser, Role::Autoencoder, Role::TextEncoder];
        let beside = [Role::FirstDenoiser, Role::Memory, Role::ImageEncoder, Role::Resampler];
        let roles = roles.into_iter().chain(beside);
        let parts = roles.flat_map(|role| self.0.family.parts.iter().filter(move |part| part.role == role));
        let mut paths: Vec<String> = parts.map(|part| files::inside(part.name, "config.json")).collect();
        // the frames of a chunk stand in the index
        let chunks = self.0.family.parts.iter().any(|part| part.role == Role::Memory);
        paths.extend(chunks.then(|| MODEL_INDEX.to_owned()));
        paths.push(files::SCHEDULER.to_owned());
        let tokenizer = source.list("tokenizer").into_iter().map(|name| files::inside("tokenizer", &name));
        paths.extend(
            tokenizer.filter(|path| path.ends_with(".json") || path.ends_with(".model") || path.ends_with(".txt")),
        );
        let mut hasher = blake3::Hasher::new();
        for path in paths.iter().filter(|path| source.has(path)) {
            let content = source.read(path, files::SMALL_FILE)?;
            hasher.update(format!("{path} {}\n", content.len()).as_bytes()).update(&content);
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// A part with weights: `transformer`, `vae`, `text_encoder`. Reads the headers of its weight files; errors when the part
    /// is missing, damaged or pickled.
    pub fn part(&self, name: &str) -> anyhow::Result<Part> {
        let mut parts = self.0.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = parts.get(name) {
            return Ok(part.clone());
        }
        let Some(part) = Part::open(&self.0.source, name)? else {
            return Err(nearly::missing(&self.0.source, name).into());
        };
        check_class(&self.0.source, self.0.family, name)?;
        parts.insert(name.to_owned(), part.clone());
        Ok(part)
    }
}

/// The parts that a folder has from the one around it: `_from_parent` of `model_index.json`, which is vidgen's own key.
fn shared_parts(source: &Source, index: &ModelIndex, family: &Family) -> Result<Vec<String>> {
    let place = || source.show(MODEL_INDEX);
    let parts = match &index.entries[FROM_PARENT] {
        serde_json::Value::Null => return Ok(Vec::new()),
        serde_json::Value::Array(parts) => parts,
        other => refuse!("{}: {FROM_PARENT} is {other}; it is a list of parts", place()),
    };
    let name = |part: &serde_json::Value| match part.as_str() {
        Some(name) if family.parts.iter().any(|known| known.name == name) => Ok(name.to_owned()),
        _ => {
            let known: Vec<&str> = family.parts.iter().map(|part| part.name).collect();
            refuse!("{}: {FROM_PARENT} names {part}, which is none of its parts: {}", place(), known.join(", "))
        }
    };
    parts.iter().map(name).collect()
}

/// The folder that a model lies in.
fn around(source: &Source) -> Result<Source> {
    let found = match source {
        Source::Embedded { name, .. } => name.rsplit_once('/').and_then(|(outer, _)| embedded::named(outer)),
        // of the folder itself, however it was named
        Source::Folder(folder) => {
            folder.canonicalize().ok().and_then(|folder| Some(Source::Folder(folder.parent()?.to_owned())))
        }
        _ => None,
    };
    let Some(found) = found else { refuse!("{}: there is no folder around it", source.show(MODEL_INDEX)) };
    Ok(found)
}

/// What a folder holds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    /// diffusers: `model_index.json`, and a directory for each part.
    Pipeline,
    /// transformers: one network of this `model_type`, `config.json` and weights at the top.
    Network(&'static str),
}

impl Form {
    /// The file that makes a folder one of this form.
    fn index(self) -> &'static str {
        match self {
            Self::Pipeline => MODEL_INDEX,
            Self::Network(_) => network::CONFIG,
        }
    }

    /// Whether other programs keep it in one file whose names are known here. `model_type`s are in small letters.
    fn may_be_a_file(self) -> bool {
        match self {
            Self::Pipeline => true,
            Self::Network(class) => class == "ControlNetModel",
        }
    }

    /// What a folder lacks to be complete.
    fn missing(self, source: &Source) -> Result<Vec<String>> {
        match self {
            _ if !source.has(self.index()) => Ok(vec![self.index().to_owned()]),
            Self::Pipeline => {
                let index: ModelIndex = json(source, MODEL_INDEX)?;
                // a pipeline of another kind lacks nothing: opening it says what it is
                registry::family(&index.class).map_or(Ok(Vec::new()), |family| files::missing(source, family))
            }
            Self::Network(_) => files::missing_of(source, ""),
        }
    }
}

/// Files that were found.
struct Found {
    name: String,
    source: Source,
    /// Commit of a hub model.
    revision: Option<String>,
}

/// Finds a folder by its path, or a model by its name in the hub's cache or on the hub.
fn find(spec: &str, form: Form, hub: impl FnOnce() -> Hub, progress: &mut dyn Download) -> Result<Found> {
    let path = Path::new(spec);
    let ids = HubId::parse(spec);
    let Some(first) = ids.first().filter(|_| !path.exists()) else {
        if !path.exists() && Path::new(spec).components().count() <= 1 {
            return Err(unknown(spec, form));
        }
        return folder(path, form);
    };
    let hub = hub();
    let mut incomplete = None;
    for id in &ids {
        let Some((commit, folder)) = hub.snapshot(id) else { continue };
        let source = Source::Folder(folder);
        let missing = form.missing(&source)?;
        if missing.is_empty() {
            return Ok(Found { name: id.name(), source, revision: Some(commit) });
        }
        incomplete.get_or_insert((id, missing));
    }
    if hub.offline {
        let cache = hub.cache.display();
        match incomplete {
            Some((id, missing)) => {
                let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
                let (name, missing) = (id.name(), part::list(&missing));
                refuse!("{name}: incomplete in the cache {cache} (no {missing}) and the network is off; go online once")
            }
            None => {
                let name = first.name();
                refuse!("{name}: no such folder, not in the cache {cache}, and the network is off; go online once")
            }
        }
    }
    #[cfg(feature = "hub")]
    {
        // what an older name has begun is finished under that name
        let id = incomplete.map_or(first, |(id, _)| id);
        let (commit, source) = hub::download(&hub, id, form, progress)?;
        Ok(Found { name: id.name(), source, revision: Some(commit) })
    }
    #[cfg(not(feature = "hub"))]
    {
        let _ = progress;
        let (name, cache) = (first.name(), hub.cache.display());
        refuse!(
            "{name}: no such folder and not in the cache {cache}; this build has no hub access (feature `hub`), so \
             download the model and give its folder"
        )
    }
}

/// A folder of this machine.
fn folder(path: &Path, form: Form) -> Result<Found> {
    let shown = path.display();
    if !path.is_dir() {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        match () {
            _ if files::is_pickle(&file) => return Err(part::pickled(&shown.to_string())),
            _ if form.may_be_a_file() && path.is_file() && file.ends_with(".safetensors") => return single(path, form),
            _ if path.exists() => {
                refuse!("{shown}: a file, not a model folder; give the folder with {} in it", form.index())
            }
            _ => match path.to_str().and_then(nearly::address) {
                Some(name) => refuse!("{shown}: no such folder; a model on the hub is written ORG/NAME: {name}"),
                None => refuse!("{shown}: no such folder"),
            },
        }
    }
    Ok(Found { name: shown.to_string(), source: Source::Folder(path.to_owned()), revision: None })
}

/// A LoRA file, mapped.
fn lora_file(path: &Path) -> Result<LoraFile> {
    let place = path.display().to_string();
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        refuse!("{place}: is not the name of a file")
    };
    if files::is_pickle(name) {
        return Err(part::pickled(&place));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(LoraFile { bytes: Source::Folder(folder.to_owned()).map(name)?, place })
}

/// A model, or a network, in one file.
fn single(path: &Path, form: Form) -> Result<Found> {
    let shown = path.display();
    let Some(file) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else {
        refuse!("{shown}: its name is not UTF-8; give it another one")
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    let beside = Source::Folder(folder.clone());
    let header = beside.header(&file)?;
    let single = match form {
        Form::Pipeline => Single::model((folder, file), header, |path| beside.has(path)),
        Form::Network(class) => Single::network((folder, file), header, class),
    };
    let single = single.map_err(|error| error.within(&shown.to_string()))?;
    Ok(Found { name: shown.to_string(), source: Source::Single(Arc::new(single)), revision: None })
}

/// The error of a name that is neither a folder nor one of ours nor of the hub's form.
fn unknown(spec: &str, form: Form) -> ModelError {
    const ALIKE: f64 = 0.6;
    if let Form::Network(kind) = form {
        return ModelError::new(format!("{spec:?}: no such folder; give one of a {kind} model, or a hub id org/name"));
    }
    let known: Vec<&str> = embedded::MODELS.iter().map(|(name, _)| *name).chain(short_names()).collect();
    let scored = known.iter().map(|name| (strsim::normalized_levenshtein(&spec.to_ascii_lowercase(), name), name));
    let near = scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score >= ALIKE);
    let hint = near.map(|(_, name)| format!("; did you mean {name}?")).unwrap_or_default();
    ModelError::new(format!(
        "{spec:?}: no such folder, and no known model; known: {}; others as org/name{hint}",
        known.join(", ")
    ))
}

/// Refuses a part whose configuration says that it is something else than the pipeline needs.
fn check_class(source: &Source, family: &Family, name: &str) -> Result<()> {
    let path = format!("{name}/config.json");
    let Some(PartClass { role, classes, .. }) = family.weighted().find(|part| part.name == name) else { return Ok(()) };
    if !source.has(&path) {
        return Ok(()); // the reader of the configuration says so
    }
    let config: serde_json::Value = json(source, &path)?;
    let key = role.class_key();
    match config[key].as_str() {
        Some(class) if !classes.contains(&class) => {
            refuse!("{}: {key} {class:?} is not supported here; supported: {}", source.show(&path), classes.join(", "))
        }
        _ => Ok(()),
    }
}
