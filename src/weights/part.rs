//! One part of a model (transformer, vae, text encoder): its weight files and what is in them. `backend` loads them.

use super::error::{ModelError, Result, refuse};
use super::files::{self, Index, Layout};
use super::hash;
use super::header::{Entry, Header};
use super::host::held_dtype;
use super::lora::Delta;
use super::source::{Bytes, Source};
use candle_core::DType;
use safetensors::Dtype;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// A part of a model. Its headers have been read and checked; its weights are read when they are asked for. Cheap to clone.
#[derive(Clone)]
pub struct Part(Arc<Inner>);

struct Inner {
    name: String,
    source: Source,
    layout: Layout,
    ignored: Vec<String>,
    shards: Vec<Shard>,
    /// By name, the number of its shard, and where it is there.
    tensors: BTreeMap<String, (usize, Entry)>,
    /// Of the files.
    hash: OnceLock<String>,
    added: Added,
}

/// What LoRA files add to the weights of a part.
#[derive(Debug, Clone, Default)]
pub(super) struct Added {
    /// By tensor, in the order of the files.
    pub deltas: BTreeMap<String, Vec<Delta>>,
    /// What the files are and how much they count.
    pub stamp: String,
}

/// One weight file.
#[derive(Clone)]
struct Shard {
    /// Path inside the model.
    path: String,
    bytes: u64,
    header: Header,
}

/// A tensor as the header of its file describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    pub name: String,
    /// As stored; not all stored types can be loaded.
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Stored size.
    pub bytes: u64,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&dim| dim as u64).product()
    }
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Part({})", self.place())
    }
}

impl Part {
    /// Opens a part by reading the headers of its files. `None` when the model has no weights of that name.
    pub(super) fn open(source: &Source, name: &str) -> Result<Option<Self>> {
        if let Source::Single(single) = source {
            let own = |entries: &[Entry]| {
                let tensors = entries.iter().map(|entry| (entry.name.clone(), (0, entry.clone()))).collect();
                let path = single.file.clone();
                let shard = Shard { path: path.clone(), bytes: single.bytes, header: single.header.clone() };
                Self::new(name, source, (Layout::Single(path), Vec::new()), (vec![shard], tensors))
            };
            return Ok(single.parts.get(name).map(|entries| own(entries)));
        }
        let Some((layout, ignored)) = files::locate(name, |path| source.has(path)) else {
            return match files::pickles(&source.list(name)).first() {
                Some(pickle) => Err(pickled(&source.show(&files::inside(name, pickle)))),
                None => Ok(None),
            };
        };
        let (shards, tensors) = match &layout {
            Layout::Single(path) => {
                let shard = Shard::open(source, path)?;
                let tensors = shard.header.entries.iter().map(|entry| (entry.name.clone(), (0, entry.clone())));
                let tensors = tensors.collect();
                (vec![shard], tensors)
            }
            Layout::Sharded(path) => sharded(source, name, path)?,
        };
        Ok(Some(Self::new(name, source, (layout, ignored), (shards, tensors))))
    }

    fn new(name: &str, source: &Source, (layout, ignored): (Layout, Vec<String>), (shards, tensors): Shards) -> Self {
        let (name, source, hash) = (name.to_owned(), source.clone(), OnceLock::new());
        Self(Arc::new(Inner { name, source, layout, ignored, shards, tensors, hash, added: Added::default() }))
    }

    /// The part with what LoRA files add to it.
    pub(super) fn with(&self, added: Added) -> Self {
        let Inner { name, source, layout, ignored, shards, tensors, hash, .. } = &*self.0;
        Self(Arc::new(Inner {
            name: name.clone(),
            source: source.clone(),
            layout: layout.clone(),
            ignored: ignored.clone(),
            shards: shards.clone(),
            tensors: tensors.clone(),
            hash: hash.clone(),
            added,
        }))
    }

    /// What is added to a tensor.
    pub(super) fn deltas(&self, name: &str) -> &[Delta] {
        self.0.added.deltas.get(name).map_or(&[], Vec::as_slice)
    }

    /// The part's name in the model folder.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The file the weights are in, or the index of the files; for messages.
    pub fn place(&self) -> String {
        self.0.source.show(self.0.layout.path())
    }

    /// The part's `config.json`. Errors name the file and the key.
    pub fn config<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        Ok(super::json(&self.0.source, &files::inside(&self.0.name, "config.json"))?)
    }

    /// Where the part's `config.json` is, for messages.
    pub fn config_place(&self) -> String {
        self.0.source.show(&files::inside(&self.0.name, "config.json"))
    }

    /// The weight files, in order.
    pub(super) fn map(&self) -> Result<Vec<Bytes>> {
        self.0.shards.iter().map(|shard| shard.map(&self.0.source)).collect()
    }

    /// All tensors in the order of their names; from the headers, so at no cost.
    pub fn tensors(&self) -> anyhow::Result<Vec<TensorInfo>> {
        Ok(self
            .0
            .tensors
            .values()
            .map(|(_, Entry { name, dtype, shape, range })| TensorInfo {
                name: name.clone(),
                dtype: *dtype,
                shape: shape.clone(),
                bytes: range.len() as u64,
            })
            .collect())
    }

    /// blake3 of the weight files, one after the other in the order of their names, in hexadecimal: what
    /// `cat PART/*.safetensors | b3sum` prints. Reads all of them the first time; for large files the result is kept in the
    /// user's cache directory and found there as long as the files do not change.
    /// With LoRA files, of that hash and theirs.
    pub fn hash(&self) -> anyhow::Result<String> {
        let files = self.hash_of_files()?;
        let stamp = &self.0.added.stamp;
        Ok(if stamp.is_empty() {
            files
        } else {
            blake3::hash(format!("{files}\n{stamp}").as_bytes()).to_hex().to_string()
        })
    }

    fn hash_of_files(&self) -> anyhow::Result<String> {
        if let Some(hash) = self.0.hash.get() {
            return Ok(hash.clone());
        }
        let memory = if self.bytes() >= hash::WORTH_IT { hash::directory() } else { None };
        let place = || hash::place(memory.as_deref()?, &self.0.source, self.files().map(|(path, _)| path));
        let before = place();
        if let Some(hash) = before.as_deref().and_then(hash::recall) {
            return Ok(self.0.hash.get_or_init(|| hash).clone());
        }
        let computed = self.compute_hash()?;
        if let Some(place) = before.filter(|before| place().as_ref() == Some(before)) {
            hash::keep(&place, &computed);
        }
        Ok(self.0.hash.get_or_init(|| computed).clone())
    }

    fn compute_hash(&self) -> Result<String> {
        /// Bytes hashed at once; what has been hashed is given back to the system.
        const STRETCH: usize = 64 << 20;
        let mut hasher = blake3::Hasher::new();
        for shard in &self.0.shards {
            let bytes = shard.map(&self.0.source)?;
            for start in (0..bytes.len()).step_by(STRETCH) {
                let range = start..bytes.len().min(start + STRETCH);
                bytes.want(&range);
                hasher.update_rayon(&bytes[range.clone()]);
                bytes.done(&range);
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Stored size of all tensors.
    pub fn bytes(&self) -> u64 {
        self.entries().map(|entry| entry.range.len() as u64).sum()
    }

    /// Number of values in all tensors.
    pub fn elements(&self) -> u64 {
        self.entries().map(Entry::elements).sum()
    }

    /// Memory that all tensors take once loaded as `dtype`.
    pub fn bytes_as(&self, dtype: DType) -> u64 {
        self.elements() * dtype.size_in_bytes() as u64
    }

    /// Memory that all tensors take while they wait in the host's memory to be loaded as `dtype`, and on the CPU those of
    /// [`Part::var_builder_compact`].
    pub fn bytes_held(&self, dtype: DType) -> u64 {
        self.entries().map(|entry| entry.elements() * held_dtype(entry.dtype, dtype).bitsize() as u64 / 8).sum()
    }

    /// The dtype most of the part's bytes are stored in; `None` for a part without tensors or of a type that cannot be
    /// loaded.
    pub fn stored_dtype(&self) -> Option<DType> {
        let shares = self.dtypes().into_iter();
        let (dtype, _) = shares.max_by_key(|&(dtype, elements)| elements * dtype.bitsize() as u64)?;
        dtype.try_into().ok()
    }

    /// Stored types with the number of values in each.
    pub(super) fn dtypes(&self) -> BTreeMap<Dtype, u64> {
        let mut all = BTreeMap::new();
        for entry in self.entries() {
            *all.entry(entry.dtype).or_insert(0) += entry.elements();
        }
        all
    }

    /// Weight files, path inside the model and size, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.shards.iter().map(|shard| (shard.path.as_str(), shard.bytes))
    }

    /// Other forms of the same weights that are in the folder and not used (another precision, or one file beside shards).
    pub fn ignored(&self) -> &[String] {
        &self.0.ignored
    }

    /// Where a tensor is: number of its file, and its entry.
    pub(super) fn find(&self, name: &str) -> Option<(usize, &Entry)> {
        let (shard, entry) = self.0.tensors.get(name)?;
        Some((*shard, entry))
    }

    /// Names of all tensors.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.tensors.keys().map(String::as_str)
    }

    /// The place of a weight file, for messages.
    pub(super) fn show(&self, shard: usize) -> String {
        self.0.source.show(&self.0.shards[shard].path)
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.tensors.values().map(|(_, entry)| entry)
    }
}

impl Shard {
    fn open(source: &Source, path: &str) -> Result<Self> {
        let (header, bytes) = source.header(path)?;
        Ok(Self { path: path.to_owned(), bytes, header })
    }

    /// Maps the file for reading its tensors. It may be another file than the one whose header was read.
    fn map(&self, source: &Source) -> Result<Bytes> {
        let file = source.map(&self.path)?;
        if file.len() as u64 != self.bytes || Header::parse(&file).as_ref() != Ok(&self.header) {
            refuse!("{}: changed while it was in use; run again", source.show(&self.path));
        }
        Ok(file)
    }
}

type Shards = (Vec<Shard>, BTreeMap<String, (usize, Entry)>);

/// Opens the shards of an index, and checks that each tensor is where the index says.
fn sharded(source: &Source, part: &str, index_path: &str) -> Result<Shards> {
    let index = Index::read(source, index_path)?;
    let names: Vec<&str> = index.shards().into_iter().collect();
    let path = |name: &str| files::inside(part, name);
    let missing: Vec<&str> = names.iter().copied().filter(|name| !source.has(&path(name))).collect();
    if let Some(first) = missing.first() {
        refuse!(
            "{}: {} of {} shards {} missing: {}; download the model again",
            source.show(&path(first)),
            missing.len(),
            names.len(),
            if missing.len() == 1 { "is" } else { "are" },
            list(&missing)
        );
    }
    let shards = names.iter().map(|name| Shard::open(source, &path(name))).collect::<Result<Vec<_>>>()?;
    let mut tensors = BTreeMap::<String, (usize, Entry)>::new();
    for (number, shard) in shards.iter().enumerate() {
        for entry in &shard.header.entries {
            if let Some((other, _)) = tensors.insert(entry.name.clone(), (number, entry.clone())) {
                let (here, there) = (source.show(&shard.path), names[other]);
                refuse!("{here}: tensor {:?} is in {there} too; export the model again", entry.name);
            }
        }
    }
    for (name, file) in &index.tensors {
        match tensors.get(name) {
            Some((shard, _)) if names[*shard] == file => {}
            Some((shard, _)) => {
                let place = source.show(index_path);
                refuse!("{place}: tensor {name:?} should be in {file} and is in {}; export it again", names[*shard])
            }
            None => {
                let (place, index) = (source.show(&path(file)), source.show(index_path));
                refuse!("{place}: tensor {name:?} is missing, which {index} promises; download the file again")
            }
        }
    }
    Ok((shards, tensors))
}

/// The refusal of pickled weights.
pub(super) fn pickled(place: &str) -> ModelError {
    ModelError::new(format!(
        "{place}: pickled weights can run code and are never opened; `vidgen model convert` makes safetensors of them \
         without running any"
    ))
}

/// The first few of a list of names, for a message of one line.
pub(super) fn list(names: &[&str]) -> String {
    const SHOWN: usize = 4;
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}
