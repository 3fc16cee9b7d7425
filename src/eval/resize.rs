//! Images for CLIP: a square of the network's size out of the middle of a frame, as the published CSCV code cuts it.
//!
//! Halved with a box filter while the short side is at least twice the size, then bicubic (a = -1/2), then cropped. Both
//! filters widen when they shrink and round to bytes after each direction, so the result is Pillow's, bit for bit.

use crate::video::Frame;

/// A reach in old pixels at scale 1, and a weight by distance.
#[derive(Clone, Copy)]
struct Filter {
    reach: f64,
    weight: fn(f64) -> f64,
}

const BOX: Filter = Filter { reach: 0.5, weight: |x| if -0.5 < x && x <= 0.5 { 1.0 } else { 0.0 } };
const BICUBIC: Filter = Filter { reach: 2.0, weight: bicubic };

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

/// The middle `size` x `size` pixels, red, green, blue for each.
pub(super) fn centre_square(frame: &Frame, size: usize) -> Vec<u8> {
    let (mut width, mut height) = (frame.width, frame.height);
    let mut data = None;
    while width.min(height) >= 2 * size {
        data = Some(resize(data.as_deref().unwrap_or(&frame.data), (width, height), (width / 2, height / 2), BOX));
        (width, height) = (width / 2, height / 2);
    }
    let scale = size as f64 / width.min(height) as f64;
    let scaled = |side: usize| ((side as f64 * scale).round_ties_even() as usize).max(size);
    let new = (scaled(width), scaled(height));
    let data = resize(data.as_deref().unwrap_or(&frame.data), (width, height), new, BICUBIC);
    let (left, top) = ((new.0 - size) / 2, (new.1 - size) / 2);
    (top..top + size).flat_map(|y| &data[(y * new.0 + left) * 3..][..size * 3]).copied().collect()
}

/// First old pixel and weights of each new pixel, in units of 2^-BITS.
fn coefficients(old: usize, new: usize, filter: Filter) -> Vec<(usize, Vec<i64>)> {
    let scale = old as f64 / new as f64;
    let widened = scale.max(1.0);
    let reach = filter.reach * widened;
    (0..new)
        .map(|index| {
            let centre = (index as f64 + 0.5) * scale;
            let first = (centre - reach + 0.5).max(0.0) as usize;
            let end = ((centre + reach + 0.5) as usize).min(old);
            let weights: Vec<f64> =
                (first..end).map(|x| (filter.weight)((x as f64 - centre + 0.5) / widened)).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |weight: &f64| (weight / sum * f64::from(1u32 << BITS)).round() as i64;
            (first, weights.iter().map(fixed).collect())
        })
        .collect()
}

const BITS: u32 = 22;

fn resize(data: &[u8], old: (usize, usize), new: (usize, usize), filter: Filter) -> Vec<u8> {
    let byte = |sum: i64| ((sum + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8;
    let mut rows = Vec::with_capacity(new.0 * old.1 * 3);
    let columns = coefficients(old.0, new.0, filter);
    for row in data.chunks_exact(old.0 * 3) {
        for (first, weights) in &columns {
            for channel in 0..3 {
                let pixels = row[first * 3 + channel..].iter().step_by(3);
                rows.push(byte(pixels.zip(weights).map(|(&pixel, weight)| i64::from(pixel) * weight).sum()));
            }
        }
    }
    let stride = new.0 * 3;
    let mut out = Vec::with_capacity(new.1 * stride);
    for (first, weights) in coefficients(old.1, new.1, filter) {
        for x in 0..stride {
            let pixels = rows[first * stride + x..].iter().step_by(stride);
            out.push(byte(pixels.zip(&weights).map(|(&pixel, weight)| i64::from(pixel) * weight).sum()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, safetensors};

    /// `tests/reference/clip.py` repeats the frames and has Pillow cut them.
    #[test]
    fn squares_are_those_of_pillow() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/clip.safetensors");
        let golden = safetensors::load(path, &Device::Cpu).unwrap();
        let images = golden["images"].flatten_from(1).unwrap().to_vec2::<u8>().unwrap(); // [sizes, 32 * 32 * 3]
        for (index, (width, height)) in [(144, 96), (181, 139), (50, 61), (21, 20)].into_iter().enumerate() {
            let byte = |i: usize| {
                let (x, y, c) = (i / 3 % width, i / 3 / width, i % 3);
                ((x * 5 + y * 3 * (c + 1) + (x * y + index * 40) / 7 + c * 60) % 256) as u8
            };
            let frame = Frame { width, height, data: (0..width * height * 3).map(byte).collect() };
            assert_eq!(centre_square(&frame, 32), images[index], "{width}x{height}");
        }
    }
}
