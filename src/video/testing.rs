//! Frames and measures for the tests of this room.

use super::{Format, Frame, Output, Rate};
use std::path::Path;

/// A smooth coloured picture with a moving disc; no two numbers give the same one.
pub(super) fn picture(width: usize, height: usize, number: usize) -> Frame {
    let mut data = Vec::with_capacity(width * height * 3);
    let centre = (0.3 + 0.04 * number as f32, 0.5);
    for y in 0..height {
        for x in 0..width {
            let (u, v) = (x as f32 / width as f32, y as f32 / height as f32);
            let near = 1.0 / (1.0 + 200.0 * ((u - centre.0).powi(4) + (v - centre.1).powi(4)));
            let rgb = [40.0 + 180.0 * u, 60.0 + 100.0 * v + 60.0 * near, 200.0 - 120.0 * u * v + 40.0 * near];
            data.extend(rgb.map(|value| value as u8));
        }
    }
    Frame { width, height, data }
}

/// Peak signal-to-noise ratio in dB over all channels, 99 for equal frames.
pub(super) fn psnr(a: &Frame, b: &Frame) -> f64 {
    assert_eq!((a.width, a.height, a.data.len()), (b.width, b.height, b.data.len()));
    let squares = a.data.iter().zip(&b.data).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2));
    let mean = squares.sum::<f64>() / a.data.len() as f64;
    if mean == 0.0 { 99.0 } else { 10.0 * (255.0f64.powi(2) / mean).log10() }
}

/// An output at 8 frames per second with the format of its suffix.
pub(super) fn output(path: &Path, width: usize, height: usize) -> Output {
    Output {
        path: path.to_path_buf(),
        format: Format::from_path(path).unwrap(),
        width,
        height,
        fps: Rate { num: 8, den: 1 },
        crf: None,
        codec: None,
        pix_fmt: None,
        threads: None,
        metadata: None,
        overwrite: false,
    }
}
