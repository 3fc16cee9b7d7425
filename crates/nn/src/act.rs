//! Activations.

use super::cpu::{self, act::Act};
use candle_core::{Result, Tensor};

/// GELU in its tanh form, `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`; any shape.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    if cpu::takes(x) { fast(x, Act::GeluTanh) } else { x.gelu() }
}

/// `x * sigmoid(x)`; any shape.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if cpu::takes(x) { fast(x, Act::Silu) } else { x.silu() }
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
                let turned = x.t().unwrap_or_else(|_| x.clone());
                assert_close(&what, &silu(&turned).unwrap(), &turned.contiguous().unwrap().silu().unwrap(), 3e-7);
            }
            let far = Tensor::new(&[-1e30_f32, -100.0, 100.0, 1e30, 0.0], &candle_core::Device::Cpu).unwrap();
            assert_eq!(silu(&far).unwrap().to_vec1::<f32>().unwrap()[2..], [100.0, 1e30, 0.0]);
            assert!(silu(&far).unwrap().to_vec1::<f32>().unwrap()[1].abs() < 1e-35);
            assert_eq!(gelu_tanh(&far).unwrap().to_vec1::<f32>().unwrap()[2..], [100.0, 1e30, 0.0]);
        });
    }
}
