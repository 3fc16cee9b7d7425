//! Layers that several networks are built from, under diffusers' names of classes and weights: the norm, the embedding of a
//! timestep, the feed-forward layer.

use crate::nn::act::silu;
use crate::nn::compute_dtype;
use crate::nn::linear::{Linear, linear};
use crate::nn::norm::layer_norm;
use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;

/// Weight and bias of a norm of `dim` channels, `[dim]` each, in the dtype that is computed in.
pub fn affine(dim: usize, vb: &VarBuilder) -> Result<(Tensor, Tensor)> {
    let dtype = compute_dtype(vb.dtype(), vb.device());
    Ok((vb.get(dim, "weight")?.to_dtype(dtype)?, vb.get(dim, "bias")?.to_dtype(dtype)?))
}

/// Layer norm over the last axis, with optional affine weights.
#[derive(Debug)]
pub struct LayerNorm {
    affine: Option<(Tensor, Tensor)>,
    eps: f64,
}

impl LayerNorm {
    /// Weights at `weight` and `bias`, where it has any.
    pub fn load(dim: usize, with_affine: bool, eps: f64, vb: VarBuilder) -> Result<Self> {
        let affine = with_affine.then(|| affine(dim, &vb)).transpose()?;
        Ok(Self { affine, eps })
    }

    /// `[D]`.
    pub fn weight(&self) -> Option<&Tensor> {
        self.affine.as_ref().map(|(weight, _)| weight)
    }

    /// `[D]`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.affine.as_ref().map(|(_, bias)| bias)
    }

    /// Added to the variance.
    pub fn eps(&self) -> f64 {
        self.eps
    }

    /// `[.., D]` to the same.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, self.weight(), self.bias(), self.eps)
    }
}

/// Two linear layers with SiLU between: diffusers' `TimestepEmbedding`.
#[derive(Debug)]
pub struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    /// From a sinusoid of `in_dim` values to `dim`.
    pub fn load(in_dim: usize, dim: usize, vb: VarBuilder) -> Result<Self> {
        let linear_1 = linear(in_dim, dim, true, vb.pp("linear_1"))?;
        let linear_2 = linear(dim, dim, true, vb.pp("linear_2"))?;
        Ok(Self { linear_1, linear_2 })
    }

    /// `[B, in_dim]` to `[B, dim]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear_2.forward(&silu(&self.linear_1.forward(x)?)?)
    }
}

/// Two linear layers with a GELU (tanh form) between: diffusers' `PixArtAlphaTextProjection`.
#[derive(Debug)]
pub struct Mlp {
    linear_1: Linear,
    linear_2: Linear,
}

impl Mlp {
    /// From texts of width `in_dim` to `dim`.
    pub fn load(in_dim: usize, dim: usize, vb: VarBuilder) -> Result<Self> {
        let linear_1 = linear(in_dim, dim, true, vb.pp("linear_1"))?;
        Ok(Self { linear_1, linear_2: linear(dim, dim, true, vb.pp("linear_2"))? })
    }

    /// `[.., in_dim]` to `[.., dim]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear_2.forward(&self.linear_1.forward_gelu_tanh(x)?)
    }
}

/// Two linear layers with a GELU (tanh form) between: diffusers' `FeedForward` with `gelu-approximate`.
#[derive(Debug)]
pub struct FeedForward {
    proj: Linear, // net.0.proj
    out: Linear,  // net.2
}

impl FeedForward {
    /// Four times as wide inside as outside.
    pub fn load(dim: usize, vb: VarBuilder) -> Result<Self> {
        Self::of(dim, 4 * dim, vb)
    }

    /// So wide inside.
    pub fn of(dim: usize, inner: usize, vb: VarBuilder) -> Result<Self> {
        let proj = linear(dim, inner, true, vb.pp("net.0.proj"))?;
        Ok(Self { proj, out: linear(inner, dim, true, vb.pp("net.2"))? })
    }

    /// `[.., D]` to the same.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.out.forward(&self.proj.forward_gelu_tanh(x)?)
    }
}

/// Two linear layers with a gate between: diffusers' `FeedForward` with `geglu`, whose GELU is the exact one.
#[derive(Debug)]
pub struct GatedFeedForward {
    proj: Linear, // net.0.proj
    out: Linear,  // net.2
}

impl GatedFeedForward {
    /// Four times as wide inside as outside, and as many gates.
    pub fn load(dim: usize, vb: VarBuilder) -> Result<Self> {
        let proj = linear(dim, 8 * dim, true, vb.pp("net.0.proj"))?;
        Ok(Self { proj, out: linear(4 * dim, dim, true, vb.pp("net.2"))? })
    }

    /// `[.., D]` to the same.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.out.forward(&self.proj.forward_geglu(x)?)
    }
}

/// Sinusoid of a timestep, `[1, dim]` in f32, after diffusers' `get_timestep_embedding`: frequencies `10000^(-j / (dim/2 - shift))`, cosines first if `flip`.
///
/// The angles are rounded to f32 at the points where the reference rounds them: at timesteps near 1000 an angle in higher
/// precision differs by 1e-4.
pub fn timestep_sinusoid(timestep: f64, dim: usize, flip: bool, shift: f64) -> Result<Tensor> {
    let half = dim / 2;
    let angles: Vec<f32> = (0..half)
        .map(|j| {
            let exponent = -(10000f64.ln() as f32) * j as f32 / (half as f64 - shift) as f32;
            timestep as f32 * (f64::from(exponent).exp() as f32)
        })
        .collect();
    let sin = angles.iter().map(|&angle| f64::from(angle).sin() as f32);
    let cos = angles.iter().map(|&angle| f64::from(angle).cos() as f32);
    let mut values: Vec<f32> = if flip { cos.chain(sin).collect() } else { sin.chain(cos).collect() };
    values.resize(dim, 0.0);
    Tensor::from_vec(values, (1, dim), &Device::Cpu)
}
