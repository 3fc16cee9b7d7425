//! Feature maps as tokens and back: the last two axes exchanged, in order. The plain version is candle's, which copies number by number
//! on one thread.

use super::cpu;
use candle_core::{Result, Tensor};

/// `[B, M, N]` to `[B, N, M]`, contiguous.
pub fn turned(x: &Tensor) -> Result<Tensor> {
    let (batch, rows, columns) = x.dims3()?;
    if !cpu::takes(x) || x.elem_count() == 0 {
        return x.transpose(1, 2)?.contiguous();
    }
    let whole = x.contiguous()?;
    let values = cpu::with_slices(&[&whole], |slices| Ok(cpu::turn::run(slices[0], (batch, rows, columns))))?;
    Tensor::from_vec(values, (batch, columns, rows), x.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::{assert_close, random};

    #[test]
    fn turned_equals_its_plain_version() {
        for dims in [[1, 1, 1], [2, 3, 5], [3, 16, 32], [2, 17, 33], [1, 320, 100], [4, 5, 1000], [2, 0, 3]] {
            let x = random(&dims);
            let (got, want) = (turned(&x).unwrap(), x.transpose(1, 2).unwrap().contiguous().unwrap());
            assert!(got.is_contiguous() && got.dims() == [dims[0], dims[2], dims[1]]);
            if x.elem_count() > 0 {
                assert_close(&format!("{dims:?}"), &got, &want, 0.0);
                // a tensor that is turned already is what it was
                assert_close(&format!("{dims:?} back"), &turned(&x.transpose(1, 2).unwrap()).unwrap(), &x, 0.0);
            }
        }
        assert!(turned(&random(&[2, 3])).is_err());
    }
}
