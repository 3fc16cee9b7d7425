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
    Linear::new(weight, bias)
}

/// Several linear layers of one input in one: the outputs follow each other on the last axis.
pub fn linear_joined(in_dim: usize, out_dim: usize, bias: bool, parts: &[VarBuilder]) -> Result<Linear> {
    let weights = parts.iter().map(|vb| vb.get((out_dim, in_dim), "weight")).collect::<Result<Vec<_>>>()?;
    let biases = parts.iter().filter(|_| bias).map(|vb| vb.get(out_dim, "bias")).collect::<Result<Vec<_>>>()?;
    let bias = bias.then(|| Tensor::cat(&biases, 0)).transpose()?;
    Linear::new(Tensor::cat(&weights, 0)?, bias)
}

impl Linear {
    /// From `weight` `[out, in]` and `bias` `[out]`.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self { inner: candle_nn::Linear::new(weight, bias) })
    }

    /// `[.., in]` to `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.inner.forward(x)
    }
}
