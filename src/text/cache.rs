//! Text embeddings kept between runs, so that the text encoder (often a model's largest part) is loaded for new texts only.

use super::encoder::TextEncoder;
use crate::weights::TensorCache;
use candle_core::{Result, Tensor};
use std::path::PathBuf;

/// 226 tokens of T5-XXL take 3.7 MB.
const BUDGET: u64 = 1 << 30;

/// Changes when the encoder's results do.
const VERSION: &str = "vidgen text 1";

/// Where embeddings are kept. Corrupt entries count as missing; a folder that cannot be written makes a warning.
pub struct TextCache(TensorCache);

/// Of which text, by which encoder an embedding is.
pub struct TextKey {
    hash: blake3::Hash,
    shape: [usize; 2],
}

impl TextKey {
    /// `weights` is the hash of the encoder's weights.
    pub fn new(weights: &str, encoder: &dyn TextEncoder, ids: &[u32]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(
            format!("{VERSION}\n{weights}\n{}\n{}\n", encoder.fingerprint(), encoder.dtype().as_str()).as_bytes(),
        );
        for id in ids {
            hasher.update(&id.to_le_bytes());
        }
        Self { hash: hasher.finalize(), shape: [ids.len(), encoder.width()] }
    }
}

impl TextCache {
    /// Keeps embeddings in `folder`, by default `vidgen/text` in the user's cache directory. Touches no file yet.
    pub fn open(folder: Option<PathBuf>) -> Self {
        let folder = folder.or_else(|| Some(dirs::cache_dir()?.join("vidgen").join("text")));
        Self(TensorCache::new(folder, BUDGET))
    }

    /// Keeps nothing.
    pub fn off() -> Self {
        Self(TensorCache::new(None, 0))
    }

    pub fn is_off(&self) -> bool {
        self.0.is_off()
    }

    /// An embedding `[L, D]`, f32 on the CPU.
    pub fn get(&self, key: &TextKey) -> Option<Tensor> {
        self.0.get(key.hash, &key.shape)
    }

    /// Keeps an embedding, `[L, D]`.
    pub fn put(&self, key: &TextKey, embedding: &Tensor) -> Result<()> {
        self.0.put(key.hash, embedding)
    }

    /// Why embeddings are not kept, if the folder cannot be written; said once.
    pub fn take_warning(&self) -> Option<String> {
        self.0.take_warning()
    }
}
