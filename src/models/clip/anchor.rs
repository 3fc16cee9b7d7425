//! A frame as an image encoder sees it, in any shape squeezed to a square: blurred where a side shrinks, then bicubic with aligned corners
//! (StreamingT2V's `image_embedder.py`, which follows kornia's resize with antialias; spec/streamingt2v.md 3).

use candle_core::{DType, Device, Result, Tensor, bail};

/// CLIP's mean and deviation of red, green and blue.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const DEVIATION: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
/// Of the bicubic curve.
const A: f32 = -0.75;

/// `[3, H, W]` from -1 to 1 as `[1, 3, side, side]`, normalised, in f32 on the CPU.
///
/// # Errors
/// Another shape than that of a picture.
pub fn prepared(frame: &Tensor, side: usize) -> Result<Tensor> {
    let (channels, height, width) = frame.dims3()?;
    if channels != 3 || height == 0 || width == 0 || side == 0 {
        bail!("an anchor of {:?} for pictures of {side}x{side}", frame.dims())
    }
    let values = frame.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let (down, across) = (height as f64 / side as f64, width as f64 / side as f64);
    let mut planes: Vec<Vec<f32>> = values.chunks_exact(height * width).map(<[f32]>::to_vec).collect();
    if down.max(across) > 1.0 {
        let (rows, columns) = (kernel(down), kernel(across));
        for plane in &mut planes {
            *plane = along(plane, (height, width), &rows, true);
            *plane = along(plane, (height, width), &columns, false);
        }
    }
    let (rows, columns) = (taps(height, side), taps(width, side));
    let mut out = Vec::with_capacity(3 * side * side);
    for (channel, plane) in planes.iter().enumerate() {
        for (rows, weights) in &rows {
            let line = |x: usize| (0..4).map(|i| plane[rows[i] * width + x] * weights[i]).sum::<f32>();
            for (columns, weights) in &columns {
                let value: f32 = (0..4).map(|i| line(columns[i]) * weights[i]).sum();
                out.push(((value + 1.0) / 2.0 - MEAN[channel]) / DEVIATION[channel]);
            }
        }
    }
    Tensor::from_vec(out, (1, 3, side, side), &Device::Cpu)
}

/// A Gaussian for a side that shrinks by `factor`; nearly nothing for one that does not.
fn kernel(factor: f64) -> Vec<f32> {
    let sigma = ((factor - 1.0) / 2.0).max(0.001) as f32;
    let taps = (f64::max(4.0 * ((factor - 1.0) / 2.0).max(0.001), 3.0) as usize) | 1;
    let place = |at: usize| at as f32 - (taps / 2) as f32;
    let weights: Vec<f32> = (0..taps).map(|at| (-(place(at) * place(at)) / (2.0 * sigma * sigma)).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// A plane convolved along one axis; beyond the ends it is reflected, the ends themselves once.
fn along(plane: &[f32], (height, width): (usize, usize), kernel: &[f32], down: bool) -> Vec<f32> {
    let (length, reach) = (if down { height } else { width } as isize, (kernel.len() / 2) as isize);
    let reflected = |at: isize| {
        // a side shorter than the kernel is reflected again and again
        let period = (2 * (length - 1)).max(1);
        let at = at.rem_euclid(period);
        (if at < length { at } else { period - at }) as usize
    };
    let value = |index: usize| {
        let (y, x) = (index / width, index % width);
        let taps = kernel.iter().zip(-reach..).map(|(weight, offset)| {
            let at = if down {
                reflected(y as isize + offset) * width + x
            } else {
                y * width + reflected(x as isize + offset)
            };
            weight * plane[at]
        });
        taps.sum()
    };
    (0..plane.len()).map(value).collect()
}

/// For each new place the four old ones around it, and their weights.
fn taps(old: usize, new: usize) -> Vec<([usize; 4], [f32; 4])> {
    let scale = if new > 1 { (old - 1) as f32 / (new - 1) as f32 } else { 0.0 };
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let tap = |at: usize| {
        let place = at as f32 * scale;
        let (first, t) = (place.floor() as isize, place - place.floor());
        let index = |offset: isize| (first + offset).clamp(0, old as isize - 1) as usize;
        ([index(-1), index(0), index(1), index(2)], [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)])
    };
    (0..new).map(tap).collect()
}
