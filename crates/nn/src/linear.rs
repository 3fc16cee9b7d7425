//! Linear layers. The plain version is candle's; on the CPU the weights are packed when the layer is made, in their stored
//! dtype, and `cpu::linear` computes in f32; a network in bf16 multiplies in bf16 where the CPU can
//! (`cpu::bf16`).

use super::act::{geglu, gelu_tanh};
use super::cpu::{self, act::Act, act::geglu_of, bf16::Tiled, linear::Matrix, linear::Packed};
use super::size;
use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::{Module, VarBuilder};
use std::ops::Range;
use std::sync::Arc;

const GELU: Option<Act> = Some(Act::GeluTanh);

/// `x W^T + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    weights: Weights,
}

#[derive(Debug, Clone)]
enum Weights {
    Plain(candle_nn::Linear),
    Packed(Arc<Packed>),
    Tiled(Arc<Tiled>),
}

/// A linear layer with weight `[out, in]` and, if `bias`, bias `[out]`.
pub fn linear(in_dim: usize, out_dim: usize, bias: bool, vb: VarBuilder) -> Result<Linear> {
    let weight = vb.get((out_dim, in_dim), "weight")?;
    let bias = bias.then(|| vb.get(out_dim, "bias")).transpose()?;
    Linear::new(weight, bias, vb.dtype())
}

/// Several linear layers of one input in one: the outputs follow each other on the last axis.
pub fn linear_joined(in_dim: usize, out_dim: usize, bias: bool, parts: &[VarBuilder]) -> Result<Linear> {
    let weights = parts.iter().map(|vb| vb.get((out_dim, in_dim), "weight")).collect::<Result<Vec<_>>>()?;
    let biases = parts.iter().filter(|_| bias).map(|vb| vb.get(out_dim, "bias")).collect::<Result<Vec<_>>>()?;
    let bias = bias.then(|| Tensor::cat(&biases, 0)).transpose()?;
    let one = weights.iter().all(|weight| weight.dtype() == weights[0].dtype());
    let weights =
        if one { weights } else { weights.iter().map(|weight| weight.to_dtype(DType::F32)).collect::<Result<_>>()? };
    Linear::new(Tensor::cat(&weights, 0)?, bias, parts[0].dtype())
}

impl Linear {
    /// From `weight` `[out, in]` and `bias` `[out]`. On the CPU the input is f32 even if the weight is f16 or bf16; if
    /// `dtype`, in which the network wants to compute, is bf16 too, it is rounded where that is faster.
    pub fn new(weight: Tensor, bias: Option<Tensor>, dtype: DType) -> Result<Self> {
        let packs = matches!(weight.dtype(), DType::F32 | DType::F16 | DType::BF16);
        if !weight.device().is_cpu() || !packs {
            return Ok(Self { weights: Weights::Plain(candle_nn::Linear::new(weight, bias)) });
        }
        let (output, input) = weight.dims2()?;
        if let Some(bias) = &bias
            && bias.dims() != [output]
        {
            bail!("a bias {:?} does not fit a weight {:?}", bias.dims(), weight.dims())
        }
        let bias = match bias {
            Some(bias) => bias.to_dtype(DType::F32)?.to_vec1()?,
            None => Vec::new(),
        };
        if weight.dtype() == DType::BF16
            && dtype == DType::BF16
            && let Some(tiled) = Tiled::new(&weight.flatten_all()?.to_vec1()?, &bias, output, input)
        {
            return Ok(Self { weights: Weights::Tiled(Arc::new(tiled)) });
        }
        let pack = |weight: Matrix| Packed::new(weight, &bias, output, input);
        let packed = match weight.dtype() {
            DType::F16 => pack(Matrix::F16(&weight.flatten_all()?.to_vec1()?)),
            DType::BF16 => pack(Matrix::Bf16(&weight.flatten_all()?.to_vec1()?)),
            _ => cpu::with_slices(&[&weight.contiguous()?], |slices| Ok(pack(Matrix::F32(slices[0]))))?,
        };
        Ok(Self { weights: Weights::Packed(Arc::new(packed)) })
    }

    /// `[.., in]` to `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.weights {
            Weights::Plain(inner) => {
                check(inner, x)?;
                inner.forward(x)
            }
            Weights::Packed(packed) => run((packed.input(), packed.output()), x, |x, rows| packed.run(x, rows, None)),
            Weights::Tiled(tiled) => run((tiled.input(), tiled.output()), x, |x, rows| tiled.run(x, rows, None)),
        }
    }

    /// [`Linear::forward`], then [`gelu_tanh`].
    pub fn forward_gelu_tanh(&self, x: &Tensor) -> Result<Tensor> {
        match &self.weights {
            Weights::Plain(inner) => plain_gelu_tanh(inner, x),
            Weights::Packed(packed) => run((packed.input(), packed.output()), x, |x, rows| packed.run(x, rows, GELU)),
            Weights::Tiled(tiled) => run((tiled.input(), tiled.output()), x, |x, rows| tiled.run(x, rows, GELU)),
        }
    }

    /// [`Linear::forward`], then [`geglu`]: `[.., in]` to `[.., out / 2]`. On the CPU the wide product is never whole in memory.
    pub fn forward_geglu(&self, x: &Tensor) -> Result<Tensor> {
        match &self.weights {
            Weights::Plain(_) => geglu(&self.forward(x)?),
            Weights::Packed(packed) => gated((packed.input(), packed.output()), x, |x, rows| packed.run(x, rows, None)),
            Weights::Tiled(tiled) => gated((tiled.input(), tiled.output()), x, |x, rows| tiled.run(x, rows, None)),
        }
    }
}

fn gated((input, output): (usize, usize), x: &Tensor, product: impl Fn(&[f32], usize) -> Vec<f32>) -> Result<Tensor> {
    if output % 2 != 0 {
        bail!("a gated layer has an even width, this one {output}")
    }
    let some = |x: &[f32], rows: Range<usize>| product(&x[rows.start * input..rows.end * input], rows.len());
    run((input, output / 2), x, |x, rows| geglu_of(rows, output / 2, |rows| some(x, rows)))
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

fn run((input, output): (usize, usize), x: &Tensor, product: impl FnOnce(&[f32], usize) -> Vec<f32>) -> Result<Tensor> {
    if x.dim(D::Minus1)? != input {
        bail!("a linear layer of {input} inputs cannot take {:?}", x.dims())
    }
    let rows: usize = x.dims()[..x.rank() - 1].iter().product();
    let mut dims = x.dims().to_vec();
    dims[x.rank() - 1] = output;
    let whole = x.contiguous()?;
    let values = cpu::with_slices(&[&whole], |slices| Ok(product(slices[0], rows)))?;
    Tensor::from_vec(values, dims, x.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::on_each_isa;
    use crate::cpu::tests::{assert_close, random};

    #[test]
    fn linear_equals_its_plain_version() {
        on_each_isa(|isa| {
            for (rows, input, output) in [
                (1, 1, 1),
                (2, 7, 3),
                (9, 64, 48),
                (130, 300, 100),
                (734, 192, 50),
                (3, 1000, 700),
                (17, 33, 145),
                (2, 1, 30),
            ] {
                let (weight, bias, x) = (random(&[output, input]), random(&[output]), random(&[1, rows, input]));
                let what = format!("{isa:?} {rows} rows, {input} to {output}");
                for dtype in [DType::F16, DType::BF16] {
                    let held = weight.to_dtype(dtype).unwrap();
                    let wide = Linear::new(held.to_dtype(DType::F32).unwrap(), Some(bias.clone()), DType::F32).unwrap();
                    let layer = Linear::new(held, Some(bias.clone()), DType::F32).unwrap();
                    assert_close(&what, &layer.forward(&x).unwrap(), &wide.forward(&x).unwrap(), 0.0);
                }
                for bias in [Some(bias), None] {
                    let layer = Linear::new(weight.clone(), bias.clone(), DType::F32).unwrap();
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
    fn a_gated_layer_is_geglu_of_the_product() {
        on_each_isa(|isa| {
            for (rows, input, output) in [(1, 1, 2), (9, 20, 6), (700, 12, 2560), (3, 5, 64)] {
                let (weight, bias) = (random(&[output, input]), random(&[output]));
                let x = (random(&[1, rows, input]) * 4.0).unwrap();
                for dtype in [DType::F32, DType::BF16] {
                    let layer = Linear::new(weight.to_dtype(dtype).unwrap(), Some(bias.clone()), dtype).unwrap();
                    let want = geglu(&layer.forward(&x).unwrap()).unwrap();
                    let what = format!("{isa:?} {rows} rows, {input} to {output}");
                    assert_close(&what, &layer.forward_geglu(&x).unwrap(), &want, 0.0);
                }
            }
        });
        let layer = Linear::new(random(&[3, 3]), None, DType::F32).unwrap();
        assert!(layer.forward_geglu(&random(&[2, 3])).is_err());
        let layer = Linear::new(random(&[4, 3]), None, DType::F32).unwrap();
        assert_eq!(layer.forward_geglu(&random(&[0, 3])).unwrap().dims(), [0, 2]);
    }

    #[test]
    fn a_wrong_shape_is_an_error() {
        let layer = Linear::new(random(&[4, 3]), None, DType::F32).unwrap();
        let error = layer.forward(&random(&[2, 4])).unwrap_err().to_string();
        assert!(error.contains("3 inputs"), "{error}");
        assert!(Linear::new(random(&[4, 3]), Some(random(&[3])), DType::F32).is_err());
        assert_eq!(layer.forward(&random(&[0, 3])).unwrap().dims(), [0, 4]);
    }
}
