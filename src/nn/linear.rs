//! Linear layers. The plain version is candle's; for f32 on the processor the weights are packed when the layer is made, and
//! `cpu::linear` computes.

use super::act::gelu_tanh;
use super::cpu::{self, act::Act, linear::Packed};
use super::size;
use candle_core::{D, Result, Tensor, bail};
use candle_nn::{Module, VarBuilder};
use std::sync::Arc;

/// `x W^T + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    weights: Weights,
}

#[derive(Debug, Clone)]
enum Weights {
    Plain(candle_nn::Linear),
    Packed(Arc<Packed>),
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
        if !cpu::takes(&weight) {
            return Ok(Self { weights: Weights::Plain(candle_nn::Linear::new(weight, bias)) });
        }
        let (output, input) = weight.dims2()?;
        if let Some(bias) = &bias
            && bias.dims() != [output]
        {
            bail!("a bias {:?} does not fit a weight {:?}", bias.dims(), weight.dims())
        }
        let (weight, bias) = (weight.contiguous()?, bias.map(|bias| bias.contiguous()).transpose()?);
        let mut tensors = vec![&weight];
        tensors.extend(&bias);
        let packed = cpu::with_slices(&tensors, |slices| {
            Ok(Packed::new(slices[0], slices.get(1).copied().unwrap_or_default(), output, input))
        })?;
        Ok(Self { weights: Weights::Packed(Arc::new(packed)) })
    }

    /// `[.., in]` to `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.weights {
            Weights::Plain(inner) => {
                check(inner, x)?;
                inner.forward(x)
            }
            Weights::Packed(packed) => run(packed, x, None),
        }
    }

    /// [`Linear::forward`], then [`gelu_tanh`].
    pub fn forward_gelu_tanh(&self, x: &Tensor) -> Result<Tensor> {
        match &self.weights {
            Weights::Plain(inner) => plain_gelu_tanh(inner, x),
            Weights::Packed(packed) => run(packed, x, Some(Act::GeluTanh)),
        }
    }
}

fn check(inner: &candle_nn::Linear, x: &Tensor) -> Result<()> {
    let rows: usize = x.dims()[..x.rank().saturating_sub(1)].iter().product();
    size::check("the output of a linear layer", x.device(), &[rows, inner.weight().dim(0)?])
}

/// On a GPU that has it, bias and activation in one reading of the product.
fn plain_gelu_tanh(inner: &candle_nn::Linear, x: &Tensor) -> Result<Tensor> {
    check(inner, x)?;
    #[cfg(feature = "cuda")]
    if let (Some(bias), true) = (inner.bias(), x.device().is_cuda()) {
        let product = candle_nn::Linear::new(inner.weight().clone(), None).forward(x)?;
        return match super::cuda::bias_gelu(&product, bias)? {
            Some(y) => Ok(y),
            None => gelu_tanh(&product.broadcast_add(bias)?),
        };
    }
    gelu_tanh(&inner.forward(x)?)
}

fn run(packed: &Packed, x: &Tensor, act: Option<Act>) -> Result<Tensor> {
    let (input, output) = (packed.input(), packed.output());
    if x.dim(D::Minus1)? != input {
        bail!("a linear layer of {input} inputs cannot take {:?}", x.dims())
    }
    let rows: usize = x.dims()[..x.rank() - 1].iter().product();
    let mut dims = x.dims().to_vec();
    dims[x.rank() - 1] = output;
    let whole = x.contiguous()?;
    let values = cpu::with_slices(&[&whole], |slices| Ok(packed.run(slices[0], rows, act)))?;
    Tensor::from_vec(values, dims, x.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::cpu::simd::on_each_isa;
    use crate::nn::cpu::tests::{assert_close, random};

    #[test]
    fn linear_equals_its_plain_version() {
        on_each_isa(|isa| {
            for (rows, input, output) in
                [(1, 1, 1), (2, 7, 3), (9, 64, 48), (130, 300, 100), (734, 192, 50), (3, 1000, 700), (17, 33, 145)]
            {
                let (weight, bias, x) = (random(&[output, input]), random(&[output]), random(&[1, rows, input]));
                let what = format!("{isa:?} {rows} rows, {input} to {output}");
                for bias in [Some(bias), None] {
                    let layer = Linear::new(weight.clone(), bias.clone()).unwrap();
                    let want = candle_nn::Linear::new(weight.clone(), bias).forward(&x).unwrap();
                    assert_close(&what, &layer.forward(&x).unwrap(), &want, 1e-6);
                    let turned = random(&[1, input, rows]).transpose(1, 2).unwrap();
                    let plain = layer.forward(&turned.contiguous().unwrap()).unwrap();
                    assert_close(&what, &layer.forward(&turned).unwrap(), &plain, 0.0);
                    let got = layer.forward_gelu_tanh(&x.squeeze(0).unwrap()).unwrap();
                    assert_close(&what, &got, &want.gelu().unwrap().squeeze(0).unwrap(), 1e-6);
                }
            }
        });
    }

    #[test]
    fn a_wrong_shape_is_an_error() {
        let layer = Linear::new(random(&[4, 3]), None).unwrap();
        let error = layer.forward(&random(&[2, 4])).unwrap_err().to_string();
        assert!(error.contains("3 inputs"), "{error}");
        assert!(Linear::new(random(&[4, 3]), Some(random(&[3]))).is_err());
        assert_eq!(layer.forward(&random(&[0, 3])).unwrap().dims(), [0, 4]);
    }
}
