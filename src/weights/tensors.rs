//! Tensors that users hand in and take out (noise, latents): single safetensors files, with the same checks as weights.

use super::error::ModelError;
use super::header::Header;
use crate::disk;
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// The tensors of a safetensors file by name, as f32 on the CPU. Errors name the file.
pub fn read_tensors(path: &Path) -> anyhow::Result<HashMap<String, Tensor>> {
    let shown = path.display();
    let failed = |error: std::io::Error| ModelError::new(format!("{shown}: {error}"));
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(ModelError::new(format!("{shown}: not a file")).into());
    }
    // SAFETY: as in `source`: the mapping is a slice as long as nobody changes the file while it is read, and every offset
    // is checked against its length.
    let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
    tensors_of(&map).map_err(|error| ModelError::new(format!("{shown}: {error}")).into())
}

/// The tensors of a safetensors file that was read already, as [`read_tensors`] gives them.
pub fn tensors_of(bytes: &[u8]) -> anyhow::Result<HashMap<String, Tensor>> {
    let mut tensors = HashMap::new();
    for entry in Header::parse(bytes)?.entries {
        let dtype = DType::try_from(entry.dtype)?;
        let tensor = Tensor::from_raw_buffer(&bytes[entry.range], dtype, &entry.shape, &Device::Cpu)?;
        tensors.insert(entry.name, tensor.to_dtype(DType::F32)?);
    }
    Ok(tensors)
}

/// Tensors as the bytes of a safetensors file.
pub fn bytes_of(tensors: &[(&str, &Tensor)]) -> anyhow::Result<Vec<u8>> {
    serialized(tensors, None)
}

fn serialized(tensors: &[(&str, &Tensor)], about: Option<HashMap<String, String>>) -> anyhow::Result<Vec<u8>> {
    let views: Vec<(&str, Tensor)> =
        tensors.iter().map(|(name, tensor)| Ok((*name, tensor.contiguous()?))).collect::<candle_core::Result<_>>()?;
    Ok(safetensors::serialize(views.iter().map(|(name, tensor)| (name, tensor)), about)?)
}

/// Writes tensors to a safetensors file; it is there whole or not at all.
pub fn write_tensors(path: &Path, tensors: &[(&str, &Tensor)]) -> anyhow::Result<()> {
    write(path, tensors, None)
}

/// One tensor of f32 that is written as its parts come, so that it is never in memory; the file is there whole or not at all.
#[derive(Debug)]
pub struct TensorWriter {
    path: PathBuf,
    partial: disk::Partial,
    file: BufWriter<File>,
    /// Values that are still to come.
    left: usize,
}

impl TensorWriter {
    /// Begins a file with one tensor of this name and shape.
    pub fn create(path: &Path, name: &str, shape: &[usize]) -> anyhow::Result<Self> {
        let shown = path.display();
        let failed = |error: std::io::Error| ModelError::new(format!("{shown}: {error}"));
        let (partial, file) = disk::Partial::file(path).map_err(failed)?;
        let count: usize = shape.iter().product();
        let sides: Vec<String> = shape.iter().map(ToString::to_string).collect();
        let (sides, end) = (sides.join(","), 4 * count);
        let mut header = format!(r#"{{{name:?}:{{"dtype":"F32","shape":[{sides}],"data_offsets":[0,{end}]}}}}"#);
        // the data are aligned
        while !header.len().is_multiple_of(8) {
            header.push(' ');
        }
        let mut file = BufWriter::new(file);
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
        file.write_all(header.as_bytes()).map_err(failed)?;
        Ok(Self { path: path.to_owned(), partial, file, left: count })
    }

    /// The next values, in their order.
    pub fn push(&mut self, part: &Tensor) -> anyhow::Result<()> {
        let failed = |error: std::io::Error| ModelError::new(format!("{}: {error}", self.path.display()));
        let values = part.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let Some(left) = self.left.checked_sub(values.len()) else {
            return Err(ModelError::new(format!("{}: more values than its tensor has", self.path.display())).into());
        };
        self.left = left;
        for value in values {
            self.file.write_all(&value.to_le_bytes()).map_err(failed)?;
        }
        Ok(())
    }

    /// Puts the whole file in its place.
    pub fn finish(self) -> anyhow::Result<()> {
        let Self { path, partial, file, left } = self;
        let failed = |error: std::io::Error| ModelError::new(format!("{}: {error}", path.display()));
        if left > 0 {
            return Err(ModelError::new(format!("{}: {left} values of its tensor are missing", path.display())).into());
        }
        let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        Ok(std::fs::rename(partial.path(), &path).map_err(failed)?)
    }
}

/// [`write_tensors`], with words about them in the file's `__metadata__`.
pub fn write_described(
    path: &Path,
    tensors: &[(&str, &Tensor)],
    about: &HashMap<String, String>,
) -> anyhow::Result<()> {
    write(path, tensors, Some(about.clone()))
}

fn write(path: &Path, tensors: &[(&str, &Tensor)], about: Option<HashMap<String, String>>) -> anyhow::Result<()> {
    let shown = path.display();
    let failed = |error: std::io::Error| ModelError::new(format!("{shown}: {error}"));
    let bytes = serialized(tensors, about).map_err(|error| ModelError::new(format!("{shown}: {error}")))?;
    Ok(disk::write_whole(path, &bytes, true).map_err(failed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("latents.safetensors");
        let tensor = Tensor::arange(0f32, 12., &Device::Cpu).unwrap().reshape((3, 4)).unwrap().t().unwrap();
        write_tensors(&path, &[("latents", &tensor)]).unwrap();
        let read = read_tensors(&path).unwrap();
        assert_eq!(read["latents"].to_vec2::<f32>().unwrap(), tensor.to_vec2::<f32>().unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file is left");
    }

    #[test]
    fn a_tensor_in_parts_is_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, whole) = (folder.path().join("latents.safetensors"), folder.path().join("whole.safetensors"));
        let tensor = Tensor::arange(0f32, 30., &Device::Cpu).unwrap().reshape((1, 5, 6)).unwrap();
        write_tensors(&whole, &[("latents", &tensor)]).unwrap();
        let mut writer = TensorWriter::create(&path, "latents", &[1, 5, 6]).unwrap();
        for (start, count) in [(0, 2), (2, 3)] {
            writer.push(&tensor.narrow(1, start, count).unwrap()).unwrap();
        }
        assert!(!path.exists());
        assert!(writer.push(&tensor).is_err(), "too many values");
        writer.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&whole).unwrap());
        let short = TensorWriter::create(&path, "latents", &[2]).unwrap();
        assert!(short.finish().unwrap_err().to_string().contains("2 values"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no partial file is left");
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("noise.safetensors");
        for bytes in [&b""[..], b"PK\x03\x04", &[255; 64], &[0; 8]] {
            std::fs::write(&path, bytes).unwrap();
            let message = read_tensors(&path).unwrap_err().to_string();
            assert!(message.contains("noise.safetensors"), "{message}");
        }
        assert!(read_tensors(folder.path()).is_err());
        assert!(read_tensors(&folder.path().join("missing")).is_err());
    }
}
