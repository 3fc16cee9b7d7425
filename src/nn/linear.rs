//! Linear layers.

use candle_core::{Result, Tensor};
use candle_nn::{Module, VarBuilder};

/// `x W^T + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    inner: candle_nn::Linear,
}

/// A linear layer with weight `[out, in]` and, if `bias`, bias `[out]`.
pub fn linear(in_dim: usize, out_dim: usize, bias: bool, vb: VarBuilder) -> Result<Linear> {
    let weight = vb.get((out_dim, in_dim), "weight")?;
    let bias = bias.then(|| vb.get(out_dim, "bias")).transpose()?;
    Ok(Linear { inner: candle_nn::Linear::new(weight, bias) })
}

impl Linear {
    /// `[.., in]` to `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.inner.forward(x)
    }
}
