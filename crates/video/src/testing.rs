//! Frames, metrics and whole runs for the tests of this crate.

use super::{Format, Frame, Limits, Output, Rate, Written, open, read};
use anyhow::Result;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

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

pub(super) fn write_all(output: &Output, frames: &[Frame]) -> Result<Written> {
    let mut writer = open(output)?;
    for frame in frames {
        writer.write(frame.clone())?;
    }
    writer.finish()
}

pub(super) fn read_all(path: &Path) -> (Vec<Frame>, Option<Rate>) {
    let reader = read(path, &Limits::default()).unwrap();
    let (size, fps) = ((reader.width(), reader.height()), reader.fps());
    let frames: Vec<Frame> = reader.collect::<Result<_>>().unwrap();
    assert!(frames.iter().all(|frame| (frame.width, frame.height) == size));
    (frames, fps)
}

pub(super) fn pictures(width: usize, height: usize, count: usize) -> Vec<Frame> {
    (0..count).map(|number| picture(width, height, number)).collect()
}

pub(super) fn names(directory: &TempDir) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Encodes and decodes, compares each frame, and returns the smallest PSNR.
pub(super) fn round_trip(output: &Output, count: usize) -> f64 {
    let frames = pictures(output.width, output.height, count);
    let written = write_all(output, &frames).unwrap();
    assert_eq!(written.frames, count as u64);
    if output.format != Format::PngDir {
        assert_eq!(written.bytes, fs::metadata(&written.path).unwrap().len());
    }
    let (found, fps) = read_all(&output.path);
    assert_eq!(found.len(), count, "{}", output.path.display());
    if output.format != Format::PngDir {
        assert_eq!(fps, Some(output.fps), "{}", output.path.display());
    }
    frames.iter().zip(&found).map(|(a, b)| psnr(a, b)).fold(f64::INFINITY, f64::min)
}
