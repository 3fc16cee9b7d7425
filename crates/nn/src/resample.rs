//! Resampling of feature maps `[T, C, H, W]`.

use super::cpu::{self, resample::Between};
use super::size;
use candle_core::{DType, Result, Tensor, bail};

/// Nearest-neighbour doubling of height and width: `[T, C, H, W]` to `[T, C, 2H, 2W]`.
pub fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    let (t, c, h, w) = x.dims4()?;
    size::check("enlarged frames", x.device(), &[t, c, 2 * h, 2 * w])?;
    x.upsample_nearest2d(2 * h, 2 * w)
}

/// Height and width by linear interpolation, pixel centres at halves: PyTorch's `interpolate(mode="bilinear",
/// align_corners=False)`, which does not widen its filter when it shrinks.
pub fn resize_bilinear(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (t, c, h, w) = x.dims4()?;
    if h == 0 || w == 0 || height == 0 || width == 0 {
        bail!("resizing of {h}x{w} to {height}x{width}")
    }
    if (h, w) == (height, width) {
        return Ok(x.clone());
    }
    size::check("resized frames", x.device(), &[t, c, height, width])?;
    let (rows, columns) = (between(h, height), between(w, width));
    if !cpu::takes(x) {
        return plain(&plain(x, 2, &rows)?, 3, &columns);
    }
    let whole = x.contiguous()?;
    let run = |slices: &[&[f32]]| Ok(cpu::resample::bilinear(slices[0], (h, w), &rows, &columns));
    Tensor::from_vec(cpu::with_slices(&[&whole], run)?, (t, c, height, width), x.device())
}

fn between(old: usize, new: usize) -> Vec<Between> {
    let scale = old as f64 / new as f64;
    let place = |i: usize| {
        let at = ((i as f64 + 0.5) * scale - 0.5).max(0.0);
        let first = (at as usize).min(old - 1);
        Between { first, second: (first + 1).min(old - 1), share: (at - first as f64) as f32 }
    };
    (0..new).map(place).collect()
}

fn plain(x: &Tensor, dim: usize, places: &[Between]) -> Result<Tensor> {
    let pick = |of: fn(&Between) -> usize| {
        let places: Vec<u32> = places.iter().map(|place| of(place) as u32).collect();
        x.index_select(&Tensor::new(places, x.device())?, dim)
    };
    let (a, b) = (pick(|place| place.first)?, pick(|place| place.second)?);
    let shares = Tensor::new(places.iter().map(|place| place.share).collect::<Vec<f32>>(), x.device())?;
    let mut shape = [1; 4];
    shape[dim] = places.len();
    &a + (b - &a)?.broadcast_mul(&shares.reshape(&shape)?.to_dtype(x.dtype())?)?
}

/// Frames seen along a flow: position p of the result is `x` at p + flow(p), bilinear; places outside are those at the border
/// (PyTorch's `grid_sample` with `padding_mode="border", align_corners=True`). `x` is `[T, C, H, W]`, `flow` `[T, 2, H, W]`: x and y
/// in pixels.
pub fn warp(x: &Tensor, flow: &Tensor) -> Result<Tensor> {
    let (t, c, h, w) = x.dims4()?;
    if flow.dims() != [t, 2, h, w] || h == 0 || w == 0 {
        bail!("a flow of {:?} for frames of {:?}", flow.dims(), x.dims())
    }
    if !(cpu::takes(x) && cpu::takes(flow)) {
        return warp_plain(x, flow);
    }
    let frames = (0..t).map(|frame| {
        let (x, flow) = (x.get(frame)?.contiguous()?, flow.get(frame)?.contiguous()?);
        let values = cpu::with_slices(&[&x, &flow], |s| Ok(cpu::resample::warp(s[0], s[1], (h, w))))?;
        Tensor::from_vec(values, (c, h, w), x.device())
    });
    Tensor::stack(&frames.collect::<Result<Vec<_>>>()?, 0)
}

fn warp_plain(x: &Tensor, flow: &Tensor) -> Result<Tensor> {
    let (t, c, h, w) = x.dims4()?;
    let device = x.device();
    let columns = Tensor::arange(0f32, w as f32, device)?.reshape((1, 1, w))?;
    let rows = Tensor::arange(0f32, h as f32, device)?.reshape((1, h, 1))?;
    let flow = flow.to_dtype(DType::F32)?;
    let fx = flow.narrow(1, 0, 1)?.squeeze(1)?.broadcast_add(&columns)?.clamp(0f32, (w - 1) as f32)?; // [T, H, W]
    let fy = flow.narrow(1, 1, 1)?.squeeze(1)?.broadcast_add(&rows)?.clamp(0f32, (h - 1) as f32)?;
    let (x0, y0) = (fx.floor()?, fy.floor()?);
    let x1 = (&x0 + 1.0)?.minimum((w - 1) as f64)?;
    let y1 = (&y0 + 1.0)?.minimum((h - 1) as f64)?;
    let flat = x.flatten_from(2)?; // [T, C, HW]
    let at = |y: &Tensor, x: &Tensor| {
        let index = ((y * w as f64)? + x)?.to_dtype(DType::U32)?.reshape((t, 1, h * w))?;
        flat.gather(&index.broadcast_as((t, c, h * w))?.contiguous()?, 2)?.reshape((t, c, h, w))
    };
    let share = |f: &Tensor, first: &Tensor| (f - first)?.unsqueeze(1)?.to_dtype(x.dtype());
    let mix = |a: Tensor, b: Tensor, share: &Tensor| &a + (b - &a)?.broadcast_mul(share)?;
    let (dx, dy) = (share(&fx, &x0)?, share(&fy, &y0)?);
    let upper = mix(at(&y0, &x0)?, at(&y0, &x1)?, &dx)?;
    let lower = mix(at(&y1, &x0)?, at(&y1, &x1)?, &dx)?;
    mix(upper, lower, &dy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::{assert_close, random};
    use candle_core::Device;

    #[test]
    fn resizing_equals_its_plain_version() {
        for (dims, height, width) in [
            ([2, 3, 4, 5], 8, 10),
            ([1, 2, 7, 9], 20, 3),
            ([1, 1, 1, 1], 5, 4),
            ([1, 2, 16, 8], 2, 1),
            ([1, 1, 3, 4], 3, 9),
        ] {
            let x = random(&dims);
            let want = plain(&plain(&x, 2, &between(dims[2], height)).unwrap(), 3, &between(dims[3], width)).unwrap();
            assert_close(&format!("{dims:?}"), &resize_bilinear(&x, height, width).unwrap(), &want, 1e-6);
        }
        assert!(resize_bilinear(&random(&[1, 1, 2, 2]), 0, 4).is_err());
    }

    #[test]
    fn doubling_mixes_neighbours_by_quarters() {
        let x = Tensor::new(&[[[[0f32, 4.0]]]], &Device::Cpu).unwrap();
        let doubled = resize_bilinear(&x, 1, 4).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(doubled, [0.0, 1.0, 3.0, 4.0]);
    }

    #[test]
    fn warping_equals_its_plain_version_and_moves_what_it_says() {
        for dims in [[2, 3, 6, 9], [1, 1, 1, 1], [1, 2, 13, 4]] {
            let x = random(&dims);
            let flow = (random(&[dims[0], 2, dims[2], dims[3]]) * 5.0).unwrap();
            assert_close(&format!("{dims:?}"), &warp(&x, &flow).unwrap(), &warp_plain(&x, &flow).unwrap(), 1e-6);
        }
        let x = random(&[1, 2, 5, 8]);
        let right = Tensor::cat(
            &[
                Tensor::full(2f32, (1, 1, 5, 8), &Device::Cpu).unwrap(),
                Tensor::zeros((1, 1, 5, 8), DType::F32, &Device::Cpu).unwrap(),
            ],
            1,
        )
        .unwrap();
        let moved = warp(&x, &right).unwrap();
        assert_close("two to the right", &moved.narrow(3, 0, 6).unwrap(), &x.narrow(3, 2, 6).unwrap(), 0.0);
        assert!(warp(&x, &random(&[1, 2, 5, 7])).is_err());
    }
}
