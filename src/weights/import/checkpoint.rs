//! One file of tensors that is to be converted: what `torch.save` writes (a zip of a pickle and of raw numbers), or safetensors.
//!
//! The file is mapped; a tensor is a view of it (offset, sizes, strides) until it is written, so a file of 25 GB needs no
//! memory of its own.

use super::pickle::{Id, Pickle, Value};
use crate::weights::error::{ModelError, Result, refuse};
use crate::weights::header::{self, Header};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, View};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use zip::{CompressionMethod, ZipArchive};

/// Most bytes of a pickle beside the numbers.
const MOST_PICKLE: u64 = 64 << 20;
/// The dictionary of tensors in what training programs save.
const STATE_DICT: &str = "state_dict";

/// A view of numbers in a file.
#[derive(Debug, Clone)]
pub struct Stored {
    map: Arc<Mmap>,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// In numbers; as many as there are dimensions.
    strides: Vec<usize>,
    /// Of the first number, in bytes of the file.
    offset: usize,
}

impl Stored {
    /// Rows `from..from + count` of the first dimension, which has them.
    pub fn rows(&self, from: usize, count: usize) -> Self {
        let mut part = self.clone();
        part.offset += from * self.strides[0] * width(self.dtype);
        part.shape[0] = count;
        part
    }

    /// A matrix turned.
    pub fn transposed(&self) -> Self {
        let mut turned = self.clone();
        turned.shape.reverse();
        turned.strides.reverse();
        turned
    }

    /// The numbers in their order as bytes of `dtype`; such that are no floats stay what they are.
    pub fn bytes(&self, dtype: Dtype) -> Vec<u8> {
        let size = width(self.dtype);
        let count: usize = self.shape.iter().product();
        let mut bytes = Vec::with_capacity(count * size);
        let row = self.shape.last().copied().unwrap_or(1);
        let step = self.strides.last().copied().unwrap_or(1) * size;
        let outer = &self.shape[..self.shape.len().saturating_sub(1)];
        let mut at = vec![0; outer.len()];
        for _ in 0..count.checked_div(row).unwrap_or(0) {
            let start = self.offset + at.iter().zip(&self.strides).map(|(i, stride)| i * stride).sum::<usize>() * size;
            if step == size {
                bytes.extend_from_slice(&self.map[start..start + row * size]);
            } else {
                (0..row).for_each(|i| bytes.extend_from_slice(&self.map[start + i * step..start + i * step + size]));
            }
            // the next place, the last dimension turning fastest
            for (place, &length) in at.iter_mut().zip(outer).rev() {
                *place += 1;
                if *place < length {
                    break;
                }
                *place = 0;
            }
        }
        cast(bytes, self.dtype, dtype)
    }
}

/// Bytes of a number of the dtypes that are read.
fn width(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

/// The dtype in which numbers of one are written: floats as asked for, others as they are.
fn written(from: Dtype, floats: Dtype) -> Dtype {
    match from {
        Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 => floats,
        other => other,
    }
}

fn cast(bytes: Vec<u8>, from: Dtype, to: Dtype) -> Vec<u8> {
    let to = written(from, to);
    if from == to {
        return bytes;
    }
    let number = |bytes: &[u8]| match from {
        Dtype::F64 => f64::from_le_bytes(bytes.try_into().unwrap_or_default()),
        Dtype::F32 => f32::from_le_bytes(bytes.try_into().unwrap_or_default()).into(),
        Dtype::F16 => f16::from_le_bytes(bytes.try_into().unwrap_or_default()).into(),
        _ => bf16::from_le_bytes(bytes.try_into().unwrap_or_default()).into(),
    };
    let numbers = bytes.chunks_exact(width(from)).map(number);
    match to {
        Dtype::F32 => numbers.flat_map(|number| (number as f32).to_le_bytes()).collect(),
        Dtype::F16 => numbers.flat_map(|number| f16::from_f64(number).to_le_bytes()).collect(),
        Dtype::BF16 => numbers.flat_map(|number| bf16::from_f64(number).to_le_bytes()).collect(),
        _ => numbers.flat_map(f64::to_le_bytes).collect(),
    }
}

/// A tensor on its way into a safetensors file, which reads it when its turn comes.
pub struct Converted {
    stored: Stored,
    dtype: Dtype,
}

impl Converted {
    pub fn new(stored: Stored, floats: Dtype) -> Self {
        let dtype = written(stored.dtype, floats);
        Self { stored, dtype }
    }
}

impl View for Converted {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.stored.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.stored.bytes(self.dtype))
    }

    fn data_len(&self) -> usize {
        self.stored.shape.iter().product::<usize>() * width(self.dtype)
    }
}

/// The tensors of a file by name.
///
/// # Errors
/// Files of neither form; damaged ones; in the dictionary of a pickle's tensors anything that is none.
pub fn open(path: &Path) -> Result<BTreeMap<String, Stored>> {
    let shown = path.display().to_string();
    let failed = |error: std::io::Error| ModelError::new(format!("{shown}: {error}"));
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        refuse!("{shown}: not a file");
    }
    // SAFETY: as in `source`: the mapping is a slice as long as nobody changes the file while it is read, and every offset
    // is checked against its length.
    let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(failed)?);
    let tensors = match map.first_chunk::<4>() {
        Some(b"PK\x03\x04") => torch(&map),
        Some([0x80, 0x02, 0x8a, 0x0a]) => Err(ModelError::new(
            "written by PyTorch before 1.6, in a form that is not read: load it there and torch.save it again",
        )),
        _ => safetensors(&map),
    };
    tensors.map_err(|error| error.within(&shown))
}

fn safetensors(map: &Arc<Mmap>) -> Result<BTreeMap<String, Stored>> {
    let entries = Header::parse(map)?.entries.into_iter();
    let stored = entries.map(|entry| {
        let strides = contiguous(&entry.shape);
        let stored =
            Stored { map: map.clone(), dtype: entry.dtype, shape: entry.shape, strides, offset: entry.range.start };
        (entry.name, stored)
    });
    Ok(stored.collect())
}

fn contiguous(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for at in (1..shape.len()).rev() {
        strides[at - 1] = strides[at] * shape[at].max(1);
    }
    strides
}

/// Checks the bytes of a file of torch.save, or of a pickle alone, as converting one does; returns how many tensors it names.
pub fn check(bytes: &[u8]) -> Result<usize> {
    if bytes.starts_with(b"PK") {
        return Ok(archive(bytes)?.len());
    }
    let pickle = Pickle::read(bytes)?;
    let views = state_dict(&pickle)?.into_iter().map(|(_, value)| view(&pickle, value));
    Ok(views.collect::<Result<Vec<_>>>()?.len())
}

fn torch(map: &Arc<Mmap>) -> Result<BTreeMap<String, Stored>> {
    let placed = archive(map)?.into_iter();
    let stored = placed.map(|(name, Placed { dtype, shape, strides, offset })| {
        (name, Stored { map: map.clone(), dtype, shape, strides, offset })
    });
    Ok(stored.collect())
}

/// A tensor of an archive; its numbers lie inside the bytes of the file.
#[derive(Debug)]
struct Placed {
    dtype: Dtype,
    shape: Vec<usize>,
    strides: Vec<usize>,
    /// Of the first number, in bytes of the file.
    offset: usize,
}

fn archive(file: &[u8]) -> Result<BTreeMap<String, Placed>> {
    let damaged = |error: zip::result::ZipError| ModelError::new(format!("a damaged zip archive ({error})"));
    let mut archive = ZipArchive::new(Cursor::new(file)).map_err(damaged)?;
    let names: Vec<String> = archive.file_names().filter_map(|name| Some(name.ok()?.into_owned())).collect();
    let Some(prefix) = names.iter().find_map(|name| name.strip_suffix("data.pkl")) else {
        refuse!("a zip archive without data.pkl: nothing that torch.save has written");
    };
    let mut read = |name: &str, most: u64| {
        let mut bytes = Vec::new();
        let entry = archive.by_name(name).map_err(damaged)?;
        match entry.take(most + 1).read_to_end(&mut bytes) {
            Ok(length) if length as u64 <= most => Ok(bytes),
            Ok(_) => refuse!("{name} has more than {most} bytes"),
            Err(error) => refuse!("{name}: {error}"),
        }
    };
    let order = format!("{prefix}byteorder");
    if names.contains(&order) && read(&order, 16)? != b"little" {
        refuse!("its numbers have their bytes in the order of another machine (byteorder)");
    }
    let pickle = read(&format!("{prefix}data.pkl"), MOST_PICKLE)?;
    let pickle = Pickle::read(&pickle)?;
    let mut tensors = BTreeMap::new();
    let mut places = BTreeMap::new();
    for (key, value) in state_dict(&pickle)? {
        let Some(name) = pickle.text(key) else { refuse!("a tensor whose name is no text") };
        let named = |error: ModelError| error.within(&format!("tensor {name:?}"));
        let view = view(&pickle, value).map_err(named)?;
        let place = match places.get(view.key) {
            Some(place) => *place,
            None => {
                let place = place(&mut archive, &format!("{prefix}data/{}", view.key))?;
                places.insert(view.key, place);
                place
            }
        };
        tensors.insert(name.to_owned(), view.placed(place, file.len()).map_err(named)?);
    }
    if tensors.is_empty() {
        refuse!("holds no tensors");
    }
    Ok(tensors)
}

/// Names and tensors: those under [`STATE_DICT`] where there is such a key, else those at the top.
fn state_dict(pickle: &Pickle) -> Result<Vec<(Id, Id)>> {
    let Value::Dict(top) = pickle.root() else { refuse!("holds no dictionary of tensors") };
    let under = top.iter().find(|(key, _)| pickle.text(*key) == Some(STATE_DICT));
    match under.map(|(_, value)| pickle.get(*value)) {
        None => Ok(top.clone()),
        Some(Value::Dict(entries)) => Ok(entries.clone()),
        Some(_) => refuse!("{STATE_DICT} is no dictionary"),
    }
}

/// Start and length of a storage's bytes in the file.
fn place(archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str) -> Result<(usize, usize)> {
    let entry = match archive.by_name(name) {
        Ok(entry) => entry,
        Err(error) => refuse!("{name}: {error}"),
    };
    if entry.compression() != CompressionMethod::Stored {
        refuse!("{name} is compressed, which torch.save does not do");
    }
    let Some(start) = entry.data_start() else { refuse!("{name}: has no place in the archive") };
    match (usize::try_from(start), usize::try_from(entry.size())) {
        (Ok(start), Ok(size)) => Ok((start, size)),
        _ => refuse!("{name}: larger than this machine can map"),
    }
}

/// What a pickle says of a tensor: `_rebuild_tensor_v2(storage, offset, size, stride, ..)`.
#[derive(Debug)]
struct TensorView<'a> {
    key: &'a str,
    dtype: Dtype,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
    /// Numbers of the storage.
    numbers: usize,
}

fn view<'a>(pickle: &Pickle<'a>, value: Id) -> Result<TensorView<'a>> {
    let called = |id: Id| match pickle.get(id) {
        Value::Call(what, with) => match pickle.get(*what) {
            Value::Class { module: "torch._utils", name } => Some((*name, pickle.list(*with)?)),
            _ => None,
        },
        _ => None,
    };
    let parts = match called(value) {
        Some(("_rebuild_parameter" | "_rebuild_parameter_with_state", [inner, ..])) => called(*inner),
        found => found,
    };
    let Some(("_rebuild_tensor_v2" | "_rebuild_tensor", &[storage, offset, shape, strides, ..])) = parts else {
        refuse!("is no tensor of numbers");
    };
    let index = |id: Id| pickle.int(id).and_then(|number| usize::try_from(number).ok());
    let indices = |id: Id| pickle.list(id)?.iter().map(|&id| index(id)).collect::<Option<Vec<_>>>();
    let (Some(offset), Some(shape), Some(strides)) = (index(offset), indices(shape), indices(strides)) else {
        refuse!("has sizes that are none");
    };
    if shape.len() != strides.len() || shape.len() > header::RANK_LIMIT {
        refuse!("has {} dimensions and {} strides", shape.len(), strides.len());
    }
    // ("storage", the class of its numbers, its name, the device, how many)
    let storage = match pickle.get(storage) {
        Value::Persistent(id) => pickle.list(*id),
        _ => None,
    };
    let Some(&[_, class, key, _, numbers, ..]) = storage else { refuse!("has no storage") };
    let Value::Class { name, .. } = pickle.get(class) else { refuse!("has no dtype") };
    let dtype = match *name {
        "DoubleStorage" => Dtype::F64,
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        other => refuse!("has numbers of {other}, which are not read"),
    };
    let (Some(key), Some(numbers)) = (pickle.text(key), index(numbers)) else { refuse!("has no storage") };
    Ok(TensorView { key, dtype, offset, shape, strides, numbers })
}

impl TensorView<'_> {
    /// `start`, `length`: of the storage in the file, which has `end` bytes.
    fn placed(self, (start, length): (usize, usize), end: usize) -> Result<Placed> {
        let size = width(self.dtype);
        let whole = self.numbers.checked_mul(size);
        if whole.is_none_or(|whole| whole > length) || start.checked_add(length).is_none_or(|last| last > end) {
            refuse!("its storage {} has {length} bytes, fewer than its {} numbers", self.key, self.numbers);
        }
        let count = self.shape.iter().try_fold(1usize, |count, &length| count.checked_mul(length));
        let last = self.shape.iter().zip(&self.strides).try_fold(self.offset, |last, (&length, &stride)| {
            last.checked_add(length.saturating_sub(1).checked_mul(stride)?)
        });
        let inside = count == Some(0) || last.is_some_and(|last| last < self.numbers);
        // a view that shows numbers several times could be larger than any file
        if !inside || count.is_none_or(|count| count > self.numbers) {
            refuse!("{:?} does not fit into its storage of {} numbers", self.shape, self.numbers);
        }
        let offset = if count == Some(0) { start } else { start + self.offset * size };
        Ok(Placed { dtype: self.dtype, shape: self.shape, strides: self.strides, offset })
    }
}
