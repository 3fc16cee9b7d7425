//! Images for CLIP: a square of the network's size out of the middle of a frame, as the published CSCV code cuts it.
//!
//! Halved with a box filter while the short side is at least twice the size, then bicubic (a = -1/2), then cropped; the filters
//! are Pillow's, bit for bit.

use crate::video::Frame;
use crate::video::pillow::{Filter, resize};

/// The middle `size` x `size` pixels, red, green, blue for each.
pub(super) fn centre_square(frame: &Frame, size: usize) -> Vec<u8> {
    let (mut width, mut height) = (frame.width, frame.height);
    let mut data = None;
    while width.min(height) >= 2 * size {
        data =
            Some(resize(data.as_deref().unwrap_or(&frame.data), (width, height), (width / 2, height / 2), Filter::Box));
        (width, height) = (width / 2, height / 2);
    }
    let scale = size as f64 / width.min(height) as f64;
    let scaled = |side: usize| ((side as f64 * scale).round_ties_even() as usize).max(size);
    let new = (scaled(width), scaled(height));
    let data = resize(data.as_deref().unwrap_or(&frame.data), (width, height), new, Filter::Bicubic);
    let (left, top) = ((new.0 - size) / 2, (new.1 - size) / 2);
    (top..top + size).flat_map(|y| &data[(y * new.0 + left) * 3..][..size * 3]).copied().collect()
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
