//! Frames in another size.

use super::Frame;
use image::RgbImage;
use image::imageops::{FilterType, resize};

impl Frame {
    /// The frame in another size, by Catmull-Rom interpolation (area-weighted where it shrinks); unchanged where it has
    /// that size already.
    pub fn resized(self, width: usize, height: usize) -> Self {
        if (self.width, self.height) == (width, height) {
            return self;
        }
        let (from, to) = ((self.width as u32, self.height as u32), (width as u32, height as u32));
        let image = RgbImage::from_raw(from.0, from.1, self.data).unwrap_or_else(|| RgbImage::new(from.0, from.1));
        Self { width, height, data: resize(&image, to.0, to.1, FilterType::CatmullRom).into_raw() }
    }
}

#[cfg(test)]
mod tests {
    use crate::Frame;
    use crate::testing::{picture, psnr};

    #[test]
    fn sizes_change_and_pictures_stay() {
        let frame = picture(48, 32, 3);
        assert_eq!(frame.clone().resized(48, 32), frame);
        let one = Frame { width: 3, height: 2, data: [9, 80, 200].repeat(6) };
        assert_eq!(one.resized(7, 5), Frame { width: 7, height: 5, data: [9, 80, 200].repeat(35) });
        let there_and_back = frame.clone().resized(96, 64).resized(48, 32);
        assert!(psnr(&there_and_back, &frame) > 40.0);
        // a smooth picture is the same picture at any size
        assert!(psnr(&picture(96, 64, 3).resized(48, 32), &frame) > 35.0);
    }
}
