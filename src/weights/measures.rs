//! Networks that `eval` measures with: single safetensors files, named by the user or left by `make metrics`.

use super::error::ModelError;
use super::tensors::read_tensors;
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use std::path::{Path, PathBuf};

/// The tensors of such a file, and where it is.
pub struct Measure {
    pub path: PathBuf,
    tensors: std::collections::HashMap<String, candle_core::Tensor>,
}

impl Measure {
    /// The file that is given; else the one of this name in the user's data directory (`vidgen/metrics`), if there is one.
    pub fn open(given: Option<&Path>, name: &str) -> anyhow::Result<Option<Self>> {
        let Some(path) = given.map(Path::to_path_buf).or_else(|| Self::place(name)) else { return Ok(None) };
        let tensors = read_tensors(&path)?;
        Ok(Some(Self { path, tensors }))
    }

    /// The file of this name in the user's data directory, if there is one.
    pub fn place(name: &str) -> Option<PathBuf> {
        Some(dirs::data_dir()?.join("vidgen").join("metrics").join(name)).filter(|path| path.is_file())
    }

    /// Makes a network of the tensors, in f32. Errors name the file and the tensor.
    pub fn build<T>(
        self,
        device: &Device,
        make: impl FnOnce(VarBuilder<'static>) -> candle_core::Result<T>,
    ) -> anyhow::Result<T> {
        let vb = VarBuilder::from_tensors(self.tensors, DType::F32, device);
        make(vb).map_err(|error| ModelError::new(format!("{}: {error}", self.path.display())).into())
    }
}
