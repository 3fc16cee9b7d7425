//! The tiny random CLIP of `tests/reference/clip.py`.

use super::{golden_dir, tiny};
use std::path::Path;

/// Writes it as a folder of transformers.
pub fn write_folder(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for name in ["config.json", "vocab.json", "merges.txt"] {
        std::fs::copy(golden_dir().join("clip").join(name), folder.join(name)).unwrap();
    }
    candle_core::safetensors::save(&tiny::tensors("clip", "model", "clip"), folder.join("model.safetensors")).unwrap();
}
