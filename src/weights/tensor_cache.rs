//! Tensors kept between runs: one small safetensors file for each, in a folder of the user's cache.
//!
//! Nothing depends on the cache: an entry that is not as it was written counts as missing, a folder that cannot be written
//! is said once and then left alone. Files appear by renaming, so that two runs can share a folder.

use crate::disk;
use candle_core::{DType, Device, Result, Tensor};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

const TENSOR: &str = "tensor";
const CHECKSUM: &str = "blake3";
/// More than the header of an entry takes.
const HEADER: u64 = 4096;
const SUFFIX: &str = "safetensors";

/// A folder of f32 tensors by name. The oldest go when it grows beyond its budget.
pub struct TensorCache {
    folder: Option<PathBuf>,
    budget: u64,
    warning: Mutex<Option<String>>,
}

impl TensorCache {
    /// `folder` is made when it is first written to; without one nothing is kept. `budget` in bytes.
    pub fn new(folder: Option<PathBuf>, budget: u64) -> Self {
        Self { folder, budget, warning: Mutex::new(None) }
    }

    pub fn is_off(&self) -> bool {
        self.folder.is_none()
    }

    /// The tensor of this key, if it is there, of this shape, and as it was written.
    pub fn get(&self, key: blake3::Hash, shape: &[usize]) -> Option<Tensor> {
        let path = entry(self.folder.as_deref()?, key);
        let size = 4 * shape.iter().product::<usize>() as u64;
        let file = File::open(&path).ok()?;
        if !file.metadata().is_ok_and(|data| data.is_file() && data.len() <= size + HEADER) {
            return None;
        }
        let mut bytes = Vec::new();
        (&file).take(size + HEADER).read_to_end(&mut bytes).ok()?;
        let (_, header) = SafeTensors::read_metadata(&bytes).ok()?;
        let checksum = header.metadata().as_ref()?.get(CHECKSUM)?.clone();
        let tensors = SafeTensors::deserialize(&bytes).ok()?;
        let view = tensors.tensor(TENSOR).ok()?;
        let as_written = view.dtype() == Dtype::F32 && view.shape() == shape && sum(view.data()) == checksum;
        if !as_written {
            return None;
        }
        let values =
            view.data().chunks_exact(4).map(|value| f32::from_le_bytes([value[0], value[1], value[2], value[3]]));
        let tensor = Tensor::from_vec(values.collect(), shape, &Device::Cpu).ok()?;
        // the age of an entry is counted from its last use; a folder that cannot be written keeps the old date
        let _ = File::options().append(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(tensor)
    }

    /// Keeps a tensor as f32. A folder that cannot be written makes a warning, not an error.
    pub fn put(&self, key: blake3::Hash, tensor: &Tensor) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let mut warning = self.warning.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if warning.is_some() {
            return Ok(());
        }
        let shape = tensor.dims().to_vec();
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        if let Err(reason) = self.write(folder, key, shape, &data) {
            *warning = Some(format!("{}: {reason}; text embeddings are not kept", folder.display()));
        }
        Ok(())
    }

    /// What went wrong with the folder, if anything did; said once.
    pub fn take_warning(&self) -> Option<String> {
        let mut warning = self.warning.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        warning.take()
    }

    fn write(&self, folder: &Path, key: blake3::Hash, shape: Vec<usize>, data: &[u8]) -> anyhow::Result<()> {
        let header = HashMap::from([(CHECKSUM.to_string(), sum(data))]);
        let view = TensorView::new(Dtype::F32, shape, data)?;
        let bytes = safetensors::serialize([(TENSOR, view)], Some(header))?;
        fs::create_dir_all(folder)?;
        disk::write_whole(&entry(folder, key), &bytes, false)?;
        self.trim(folder, key)?;
        Ok(())
    }

    /// Removes the entries that were not used for the longest time until the rest fits the budget, and what a run that
    /// died has left half-written. Files of other names are left alone.
    fn trim(&self, folder: &Path, newest: blake3::Hash) -> std::io::Result<()> {
        disk::sweep_folder(folder);
        let mut entries = Vec::new();
        for file in fs::read_dir(folder)? {
            let path = file?.path();
            let Ok(data) = fs::symlink_metadata(&path) else { continue };
            let age = data.modified()?.elapsed().unwrap_or_default();
            if data.is_file() && is_entry(&path) {
                entries.push((age, data.len(), path));
            }
        }
        let mut total: u64 = entries.iter().map(|entry| entry.1).sum();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.0));
        let newest = entry(folder, newest);
        for (_, size, path) in entries {
            if total <= self.budget {
                break;
            }
            if path != newest && fs::remove_file(&path).is_ok() {
                total -= size;
            }
        }
        Ok(())
    }
}

fn entry(folder: &Path, key: blake3::Hash) -> PathBuf {
    folder.join(format!("{}.{SUFFIX}", key.to_hex()))
}

fn is_entry(path: &Path) -> bool {
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    path.extension().is_some_and(|suffix| suffix == SUFFIX) && blake3::Hash::from_hex(name).is_ok()
}

fn sum(data: &[u8]) -> String {
    blake3::hash(data).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SHAPE: [usize; 2] = [3, 5];

    fn key(number: u64) -> blake3::Hash {
        blake3::hash(&number.to_le_bytes())
    }

    fn tensor(value: f32) -> Tensor {
        let values = (0..15).map(|index| value + index as f32).collect();
        Tensor::from_vec(values, &SHAPE, &Device::Cpu).unwrap()
    }

    fn values(tensor: Option<Tensor>) -> Option<Vec<Vec<f32>>> {
        tensor.map(|tensor| tensor.to_vec2().unwrap())
    }

    #[test]
    fn what_is_put_is_got() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("not/yet");
        let cache = TensorCache::new(Some(inner.clone()), 1 << 20);
        assert_eq!(values(cache.get(key(1), &SHAPE)), None);
        assert!(!inner.exists());
        cache.put(key(1), &tensor(1.0)).unwrap();
        cache.put(key(2), &tensor(2.0).to_dtype(DType::F64).unwrap()).unwrap();
        cache.put(key(1), &tensor(3.0)).unwrap();
        assert_eq!(values(cache.get(key(1), &SHAPE)), values(Some(tensor(3.0))));
        assert_eq!(values(cache.get(key(2), &SHAPE)), values(Some(tensor(2.0))));
        assert_eq!(values(cache.get(key(1), &[5, 3])), None);
        assert_eq!(values(cache.get(key(1), &[1, 2])), None);
        assert_eq!(cache.take_warning(), None);
        assert_eq!(fs::read_dir(inner).unwrap().count(), 2); // nothing half-written stays
    }

    #[test]
    fn damaged_entries_count_as_missing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = TensorCache::new(Some(folder.path().to_owned()), 1 << 20);
        cache.put(key(1), &tensor(1.0)).unwrap();
        let path = entry(folder.path(), key(1));
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, bytes).unwrap();
            let got = values(cache.get(key(1), &SHAPE));
            // a change in the header may leave it saying the same
            assert!(got.is_none() || got == values(Some(tensor(1.0))), "byte {at}");
            assert!(at < whole.len() - 60 || got.is_none(), "byte {at}");
        }
        for end in [0, 7, 8, whole.len() - 1] {
            fs::write(&path, &whole[..end]).unwrap();
            assert_eq!(values(cache.get(key(1), &SHAPE)), None);
        }
        fs::write(&path, vec![0; 1 << 20]).unwrap();
        assert_eq!(values(cache.get(key(1), &SHAPE)), None);
        cache.put(key(1), &tensor(1.0)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_said_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let cache = TensorCache::new(Some(file.path().join("text")), 1 << 20);
        cache.put(key(1), &tensor(1.0)).unwrap();
        cache.put(key(2), &tensor(1.0)).unwrap();
        assert_eq!(values(cache.get(key(1), &SHAPE)), None);
        let warning = cache.take_warning().unwrap();
        assert!(warning.contains(&file.path().display().to_string()), "{warning}");
        assert_eq!(cache.take_warning(), None);
    }

    #[test]
    fn nothing_is_kept_without_a_folder() {
        let cache = TensorCache::new(None, 0);
        cache.put(key(1), &tensor(1.0)).unwrap();
        assert!(cache.is_off() && cache.get(key(1), &SHAPE).is_none() && cache.take_warning().is_none());
    }

    #[test]
    fn the_oldest_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let foreign = folder.path().join("model.safetensors");
        fs::write(&foreign, vec![0; 5000]).unwrap();
        let dead = folder.path().join(".x.partial-1-0.safetensors");
        fs::write(&dead, b"x").unwrap();
        let hours = |path: &Path, hours| {
            let date = SystemTime::now() - Duration::from_secs(3600 * hours);
            File::options().append(true).open(path).unwrap().set_modified(date).unwrap();
        };
        let size = {
            let cache = TensorCache::new(Some(folder.path().to_owned()), 1 << 20);
            cache.put(key(0), &tensor(0.0)).unwrap();
            fs::metadata(entry(folder.path(), key(0))).unwrap().len()
        };
        let cache = TensorCache::new(Some(folder.path().to_owned()), 3 * size);
        for number in [1, 2] {
            cache.put(key(number), &tensor(0.0)).unwrap();
            hours(&entry(folder.path(), key(number)), 10 - number);
        }
        hours(&entry(folder.path(), key(0)), 20);
        assert!(cache.get(key(0), &SHAPE).is_some()); // used: now the youngest
        cache.put(key(3), &tensor(0.0)).unwrap();
        let there = |number| cache.get(key(number), &SHAPE).is_some();
        assert_eq!([0, 1, 2, 3].map(there), [true, false, true, true]);
        assert!(foreign.exists() && !dead.exists());
        // an entry larger than the budget stays until the next
        let cache = TensorCache::new(Some(folder.path().to_owned()), 1);
        cache.put(key(4), &tensor(0.0)).unwrap();
        assert!(cache.get(key(4), &SHAPE).is_some() && cache.get(key(3), &SHAPE).is_none());
    }
}
