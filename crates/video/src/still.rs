//! Single images.

use super::Frame;
use super::fault::{failed, usage};
use anyhow::Result;
use image::{ExtendedColorType, ImageEncoder};
use std::path::Path;
use vidgen_base::disk;

/// Pictures of one height from left to right.
pub fn side_by_side(frames: &[Frame]) -> Result<Frame> {
    let height = frames.first().map_or(0, |frame| frame.height);
    if frames.iter().any(|frame| frame.height != height) {
        return Err(usage("pictures of several heights do not stand side by side".to_owned()));
    }
    let rows = (0..height).flat_map(|y| frames.iter().map(move |frame| (y, frame)));
    let data = rows.flat_map(|(y, frame)| &frame.data[y * frame.width * 3..(y + 1) * frame.width * 3]);
    Ok(Frame { width: frames.iter().map(|frame| frame.width).sum(), height, data: data.copied().collect() })
}

/// Writes a picture as PNG in one piece: a file of this name is replaced, and its readers see one or the other.
pub fn write_png(path: &Path, frame: &Frame) -> Result<()> {
    let mut data = Vec::new();
    image::codecs::png::PngEncoder::new(&mut data)
        .write_image(&frame.data, frame.width as u32, frame.height as u32, ExtendedColorType::Rgb8)
        .map_err(|cause| failed(format!("cannot encode {} as PNG: {cause}", path.display())))?;
    disk::write_whole(path, &data, false).map_err(|cause| failed(format!("cannot write {}: {cause}", path.display())))
}

/// A picture as JPEG, `quality` from 1 to 100.
pub fn jpeg(frame: &Frame, quality: u8) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut data, quality)
        .write_image(&frame.data, frame.width as u32, frame.height as u32, ExtendedColorType::Rgb8)
        .map_err(|cause| failed(format!("cannot encode a picture as JPEG: {cause}")))?;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_stand_side_by_side_and_are_replaced() {
        let plain = |width, value: u8| Frame { width, height: 2, data: vec![value; width * 6] };
        let strip = side_by_side(&[plain(1, 10), plain(2, 20)]).unwrap();
        assert_eq!((strip.width, strip.height), (3, 2));
        assert_eq!(strip.data, [[10; 3], [20; 3], [20; 3], [10; 3], [20; 3], [20; 3]].concat());
        assert!(side_by_side(&[plain(1, 0), Frame { height: 1, ..plain(2, 0) }]).is_err());
        let large = strip.clone().resized(12, 8);
        assert_eq!((large.width, large.height, large.data.len()), (12, 8, 288));
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.png");
        write_png(&path, &strip).unwrap();
        write_png(&path, &large).unwrap();
        assert_eq!(image::open(&path).unwrap().into_rgb8().into_raw(), large.data);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
        assert!(write_png(&temp.path().join("none/a.png"), &strip).is_err());
    }
}
