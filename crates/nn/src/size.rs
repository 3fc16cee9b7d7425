//! The largest tensor that candle's GPU kernels can index.

use candle_core::{Device, Result, bail};

/// candle's kernels on a GPU index in 32 bits: beyond this they would silently compute wrong values.
pub const MOST: usize = i32::MAX as usize;

/// An error where a tensor of these dimensions on `device` would be too large for candle's kernels; `what` it is.
pub fn check(what: &str, device: &Device, dims: &[usize]) -> Result<()> {
    if device.is_cpu() { Ok(()) } else { fits(what, dims) }
}

fn fits(what: &str, dims: &[usize]) -> Result<()> {
    let count = dims.iter().try_fold(1_usize, |count, &dim| count.checked_mul(dim));
    if count.is_some_and(|count| count <= MOST) {
        return Ok(());
    }
    let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
    bail!(
        "{what} would be {} numbers, and kernels on a GPU count to 2^31: use a smaller size or fewer frames, or --device cpu",
        dims.join("x")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_two_to_the_31_goes_to_a_gpu() {
        fits("hidden states", &[2, 17_776, 12_288]).unwrap();
        fits("nothing", &[]).unwrap();
        fits("the most", &[MOST]).unwrap();
        for dims in [&[1 << 31][..], &[2, 30, 17_776, 17_776], &[usize::MAX, 2, 0]] {
            let error = fits("scores", dims).unwrap_err().to_string();
            assert!(error.contains("scores") && error.contains("2^31"), "{error}");
        }
        check("scores", &Device::Cpu, &[2, 30, 17_776, 17_776]).unwrap();
    }
}
