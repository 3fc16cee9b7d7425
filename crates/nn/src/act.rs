//! Activations.

use super::cpu::{self, act::Act};
use candle_core::{D, Result, Tensor, bail};

/// GELU in its tanh form, `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`; any shape.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    if cpu::takes(x) { fast(x, Act::GeluTanh) } else { x.gelu() }
}

/// `x * sigmoid(x)`; any shape.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if cpu::takes(x) { fast(x, Act::Silu) } else { x.silu() }
}

/// GEGLU: the first half of the last axis times the exact GELU of the second, `x/2 (1 + erf(x / sqrt 2))`; `[.., 2D]` to
/// `[.., D]`.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let both = x.dim(D::Minus1)?;
    if both % 2 != 0 {
        bail!("a gated layer has an even width, this one {both}")
    }
    let half = both / 2;
    if !cpu::takes(x) || half == 0 {
        let [value, gate] = [0, half].map(|start| x.narrow(D::Minus1, start, half));
        return value?.mul(&gate?.gelu_erf()?);
    }
    let mut shape = x.dims().to_vec();
    shape.pop();
    shape.push(half);
    let whole = x.contiguous()?;
    let values = cpu::with_slices(&[&whole], |slices| Ok(cpu::act::geglu(slices[0], half)))?;
    Tensor::from_vec(values, shape, x.device())
}

/// GELU in its exact form, `x/2 (1 + erf(x / sqrt 2))`; any shape.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if cpu::takes(x) { fast(x, Act::Gelu) } else { x.gelu_erf() }
}

fn fast(x: &Tensor, act: Act) -> Result<Tensor> {
    let whole = x.contiguous()?;
    let values = cpu::with_slices(&[&whole], |slices| Ok(act.run(slices[0])))?;
    Tensor::from_vec(values, x.shape(), x.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::on_each_isa;
    use crate::cpu::tests::{assert_close, random};

    #[test]
    fn activations_equal_their_plain_versions() {
        on_each_isa(|isa| {
            for dims in [&[2][..], &[7, 3], &[2, 5, 33], &[40_001], &[0, 4]] {
                let x = (random(dims) * 12.0).unwrap();
                if x.elem_count() == 0 {
                    assert_eq!(silu(&x).unwrap().dims(), dims);
                    continue;
                }
                let what = format!("{isa:?} {dims:?}");
                assert_close(&what, &silu(&x).unwrap(), &x.silu().unwrap(), 3e-7);
                assert_close(&what, &gelu_tanh(&x).unwrap(), &x.gelu().unwrap(), 3e-7);
                assert_close(&what, &gelu(&x).unwrap(), &x.gelu_erf().unwrap(), 3e-7);
                let turned = x.t().unwrap_or_else(|_| x.clone());
                assert_close(&what, &silu(&turned).unwrap(), &turned.contiguous().unwrap().silu().unwrap(), 3e-7);
            }
            let far = Tensor::new(&[-1e30_f32, -100.0, 100.0, 1e30, 0.0], &candle_core::Device::Cpu).unwrap();
            assert_eq!(silu(&far).unwrap().to_vec1::<f32>().unwrap()[2..], [100.0, 1e30, 0.0]);
            assert!(silu(&far).unwrap().to_vec1::<f32>().unwrap()[1].abs() < 1e-35);
            assert_eq!(gelu(&far).unwrap().to_vec1::<f32>().unwrap()[2..], [100.0, 1e30, 0.0]);
            assert!(gelu(&far).unwrap().to_vec1::<f32>().unwrap()[..2].iter().all(|small| small.abs() < 1e-35));
            assert_eq!(gelu_tanh(&far).unwrap().to_vec1::<f32>().unwrap()[2..], [100.0, 1e30, 0.0]);
        });
    }

    #[test]
    fn geglu_is_a_half_times_the_gelu_of_the_other() {
        on_each_isa(|isa| {
            for dims in [&[2][..], &[3, 14], &[2, 5, 66], &[1, 300, 2560], &[40, 20]] {
                let x = (random(dims) * 6.0).unwrap();
                let halves = x.chunk(2, D::Minus1).unwrap();
                let want = (&halves[0] * halves[1].gelu_erf().unwrap()).unwrap();
                assert_close(&format!("{isa:?} {dims:?}"), &geglu(&x).unwrap(), &want, 3e-7);
            }
            let x = random(&[6, 4]).t().unwrap();
            assert_close("turned", &geglu(&x).unwrap(), &geglu(&x.contiguous().unwrap()).unwrap(), 0.0);
        });
        assert!(geglu(&random(&[3, 5])).is_err());
        assert_eq!(
            geglu(&Tensor::zeros((0, 4), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap()).unwrap().dims(),
            [0, 2]
        );
    }
}
