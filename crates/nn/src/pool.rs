//! Pooling of feature maps `[T, C, H, W]`.

use super::cpu::{self, pool::Axis};
use super::size;
use candle_core::{Result, Tensor, bail};

/// What one axis of a pooling sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub kernel: usize,
    pub stride: usize,
    /// TensorFlow's "SAME": as many outputs as whole or begun strides, the window centred, the odd place at the end. Otherwise
    /// only where the window fits.
    pub same: bool,
}

impl Window {
    /// Of a kernel that steps by its own size, or by `stride`, where it fits.
    pub const fn fitting(kernel: usize, stride: usize) -> Self {
        Self { kernel, stride, same: false }
    }

    /// The places that each output sees.
    fn axis(self, input: usize) -> Result<Axis> {
        let Self { kernel, stride, same } = self;
        if kernel == 0 || stride == 0 || input == 0 || !same && input < kernel {
            bail!("a pooling of {kernel} by {stride} over {input} places")
        }
        let (count, before) = if same {
            let count = input.div_ceil(stride);
            (count, ((count - 1) * stride + kernel).saturating_sub(input) / 2)
        } else {
            ((input - kernel) / stride + 1, 0)
        };
        let range = |i: usize| ((i * stride).saturating_sub(before), (i * stride + kernel - before).min(input));
        Ok(Axis { ranges: (0..count).map(range).collect(), input })
    }
}

/// The largest number of each window, over frames, rows and columns; places outside do not count.
pub fn max_pool(x: &Tensor, [time, rows, columns]: [Window; 3]) -> Result<Tensor> {
    let (t, c, h, w) = x.dims4()?;
    let axes = [time.axis(t)?, rows.axis(h)?, columns.axis(w)?];
    if !cpu::takes(x) {
        return plain(x, &axes);
    }
    let shape = (axes[0].ranges.len(), c, axes[1].ranges.len(), axes[2].ranges.len());
    size::check("a pooled feature map", x.device(), &[shape.0, shape.1, shape.2, shape.3])?;
    let whole = x.contiguous()?;
    let values = cpu::with_slices(&[&whole], |slices| Ok(cpu::pool::max(slices[0], c, &axes)))?;
    Tensor::from_vec(values, shape, x.device())
}

/// Halves height and width (an odd last row or column is left out): 2x2 with stride 2.
pub fn max_pool_2x2(x: &Tensor) -> Result<Tensor> {
    max_pool(x, [Window::fitting(1, 1), Window::fitting(2, 2), Window::fitting(2, 2)])
}

/// Axis after axis, tap after tap: a place outside a window that is cut off counts as the nearest one in it.
fn plain(x: &Tensor, axes: &[Axis; 3]) -> Result<Tensor> {
    let mut y = x.clone();
    for (dim, axis) in [0, 2, 3].into_iter().zip(axes) {
        let most = axis.ranges.iter().map(|(from, to)| to - from).max().unwrap_or(1);
        let tap = |tap: usize| {
            let places: Vec<u32> = axis.ranges.iter().map(|(from, to)| (from + tap).min(to - 1) as u32).collect();
            y.index_select(&Tensor::new(places, x.device())?, dim)
        };
        let mut best = tap(0)?;
        for i in 1..most {
            best = best.maximum(&tap(i)?)?;
        }
        y = best;
    }
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::{assert_close, random};

    #[test]
    fn pooling_equals_its_plain_version() {
        let same = |kernel, stride| Window { kernel, stride, same: true };
        let fit = Window::fitting;
        for (dims, windows) in [
            ([1, 3, 8, 10], [fit(1, 1), fit(2, 2), fit(2, 2)]),
            ([2, 3, 7, 9], [fit(1, 1), fit(2, 2), fit(2, 2)]),
            ([1, 2, 15, 20], [fit(1, 1), fit(3, 2), fit(3, 2)]),
            ([5, 2, 7, 8], [same(3, 2), same(3, 2), same(3, 2)]),
            ([4, 1, 7, 7], [same(2, 2), same(2, 2), same(2, 2)]),
            ([3, 2, 4, 5], [same(3, 1), same(3, 1), same(3, 1)]),
            ([1, 1, 1, 1], [same(3, 1), same(3, 2), same(2, 2)]),
        ] {
            let x = random(&dims);
            let axes =
                [windows[0].axis(dims[0]), windows[1].axis(dims[2]), windows[2].axis(dims[3])].map(Result::unwrap);
            assert_close(&format!("{dims:?}"), &max_pool(&x, windows).unwrap(), &plain(&x, &axes).unwrap(), 0.0);
        }
        let x = random(&[2, 3, 9, 11]);
        assert_close("candle's", &max_pool_2x2(&x).unwrap(), &x.max_pool2d(2).unwrap(), 0.0);
        assert!(max_pool_2x2(&random(&[1, 1, 1, 4])).is_err());
    }

    #[test]
    fn same_padding_puts_the_odd_place_at_the_end() {
        let window = Window { kernel: 3, stride: 2, same: true };
        assert_eq!(window.axis(4).unwrap().ranges, [(0, 3), (2, 4)]);
        assert_eq!(window.axis(5).unwrap().ranges, [(0, 2), (1, 4), (3, 5)]);
    }
}
