//! Tensors that users hand in and take out (noise, latents): single safetensors files, with the same checks as weights.

use super::error::ModelError;
use super::header::Header;
use crate::disk;
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

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
