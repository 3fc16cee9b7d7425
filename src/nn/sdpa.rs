//! Scaled dot-product attention without a full score tensor.
//!
//! Queries are taken in chunks so that no score tensor exceeds a byte budget (nor 2^31 elements, where candle's CUDA
//! kernels wrap around); the softmax runs in f32.

use candle_core::{D, DType, Result, Tensor};

/// The attention kernel with its settings.
#[derive(Debug, Clone)]
pub struct Sdpa {
    /// Largest score tensor, in bytes.
    pub budget: usize,
}

impl Default for Sdpa {
    fn default() -> Self {
        Self { budget: 256 << 20 }
    }
}

impl Sdpa {
    /// `softmax(q k^T scale) v`: `[B, N, L, D]` with the L of `q`.
    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
        let v = v.contiguous()?;
        self.chunked(q, k, scale, |scores| softmax(scores)?.to_dtype(v.dtype())?.matmul(&v))
    }

    /// Softmax probabilities of the keys `columns` (a u32 tensor `[J]`), normalised over all keys: `[B, N, L, J]` in f32.
    pub fn probe(&self, q: &Tensor, k: &Tensor, scale: f64, columns: &Tensor) -> Result<Tensor> {
        self.chunked(q, k, scale, |scores| softmax(scores)?.index_select(columns, D::Minus1))
    }

    /// Log-sum-exp of each query's scaled scores: `[B, N, L]` in f32.
    pub fn log_sum_exp(&self, q: &Tensor, k: &Tensor, scale: f64) -> Result<Tensor> {
        self.chunked(q, k, scale, |scores| scores.to_dtype(DType::F32)?.log_sum_exp(D::Minus1))
    }

    /// Runs `each` on the scaled scores `[B, N, rows, Lk]` of one chunk of queries after the other; joins along axis 2.
    fn chunked(&self, q: &Tensor, k: &Tensor, scale: f64, each: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let (b, n, l, _) = q.dims4()?;
        let keys = k.dim(2)?;
        let per_row = b * n * keys;
        let rows = (self.budget / (4 * per_row)).min((i32::MAX as usize) / per_row).clamp(1, l);
        let kt = k.transpose(2, 3)?.contiguous()?;
        let mut chunks = Vec::with_capacity(l.div_ceil(rows));
        for start in (0..l).step_by(rows) {
            let q = q.narrow(2, start, rows.min(l - start))?.contiguous()?;
            chunks.push(each(&(q.matmul(&kt)? * scale)?)?);
        }
        Tensor::cat(&chunks, 2)
    }
}

fn softmax(scores: &Tensor) -> Result<Tensor> {
    candle_nn::ops::softmax_last_dim(&scores.to_dtype(DType::F32)?)
}
