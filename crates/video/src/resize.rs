//! Frames in another size.

use super::Frame;
use super::pillow::{Filter, resize as resize_bytes};
use image::imageops::{FilterType, resize};
use image::{Rgb32FImage, RgbImage};
use std::fmt;
use std::str::FromStr;
use vidgen_base::words::unknown;

/// How a frame of one shape becomes one of another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fit {
    /// Each side by its own factor: things get another shape.
    #[default]
    Stretch,
    /// What sticks out on two sides is cut off.
    Crop,
    /// The whole frame, black beside it.
    Pad,
}

impl Fit {
    pub const NAMES: [&str; 3] = ["crop", "pad", "stretch"];
}

impl FromStr for Fit {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> anyhow::Result<Self> {
        Ok(match word {
            "stretch" => Self::Stretch,
            "crop" => Self::Crop,
            "pad" => Self::Pad,
            _ => return Err(unknown("fit", word, &Self::NAMES)),
        })
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Self::Stretch => "stretch",
            Self::Crop => "crop",
            Self::Pad => "pad",
        })
    }
}

/// Where a scaled frame lies on one of another shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Width and height that it is scaled to.
    pub scaled: (usize, usize),
    /// Its left upper corner: pixels that are cut off there, or black ones before it.
    pub offset: (usize, usize),
}

impl Fit {
    /// How a frame of size `from` becomes one of size `to`, both width and height: sides are rounded half up, offsets down.
    pub fn placed(self, from: (usize, usize), to: (usize, usize)) -> Placed {
        let factors = (to.0 as f64 / from.0 as f64, to.1 as f64 / from.1 as f64);
        let factor = match self {
            Self::Stretch => return Placed { scaled: to, offset: (0, 0) },
            Self::Crop => factors.0.max(factors.1),
            Self::Pad => factors.0.min(factors.1),
        };
        let side = |side: usize| ((side as f64 * factor + 0.5).floor() as usize).max(1);
        let scaled = (side(from.0), side(from.1));
        Placed { scaled, offset: (scaled.0.abs_diff(to.0) / 2, scaled.1.abs_diff(to.1) / 2) }
    }
}

impl Frame {
    /// [`Frame::fitted`] by Pillow's Lanczos filter.
    pub fn fitted_lanczos(self, width: usize, height: usize, fit: Fit) -> Self {
        if (self.width, self.height) == (width, height) {
            return self;
        }
        let Placed { scaled, offset } = fit.placed((self.width, self.height), (width, height));
        let data = match scaled == (self.width, self.height) {
            true => self.data,
            false => resize_bytes(&self.data, (self.width, self.height), scaled, Filter::Lanczos),
        };
        if scaled == (width, height) {
            return Self { width, height, data };
        }
        let mut out = vec![0; 3 * width * height];
        // the part that both have, in each of them
        let (across, down) = (scaled.0.min(width), scaled.1.min(height));
        let corner = |large: usize, small: usize, offset: usize| if large > small { (offset, 0) } else { (0, offset) };
        let ((from_x, to_x), (from_y, to_y)) = (corner(scaled.0, width, offset.0), corner(scaled.1, height, offset.1));
        for y in 0..down {
            let from = 3 * ((from_y + y) * scaled.0 + from_x);
            let to = 3 * ((to_y + y) * width + to_x);
            out[to..to + 3 * across].copy_from_slice(&data[from..from + 3 * across]);
        }
        Self { width, height, data: out }
    }

    /// The frame in another size, of another shape as `fit` says; unchanged where it has that size already.
    pub fn fitted(self, width: usize, height: usize, fit: Fit) -> Self {
        if (self.width, self.height) == (width, height) || fit == Fit::Stretch {
            return self.resized(width, height);
        }
        let scale = |from: usize, to: usize| to as f64 / from as f64;
        let (x, y) = (scale(self.width, width), scale(self.height, height));
        let factor = if fit == Fit::Crop { x.max(y) } else { x.min(y) };
        let side = |from: usize| ((from as f64 * factor).round() as usize).max(1);
        let (across, down) = (side(self.width), side(self.height));
        let scaled = self.resized(across, down);
        let mut data = vec![0; width * height * 3];
        let (columns, rows) = (across.min(width), down.min(height));
        let (from_x, from_y) = ((across - columns) / 2, (down - rows) / 2);
        let (to_x, to_y) = ((width - columns) / 2, (height - rows) / 2);
        for row in 0..rows {
            let from = ((from_y + row) * across + from_x) * 3;
            let to = ((to_y + row) * width + to_x) * 3;
            data[to..to + columns * 3].copy_from_slice(&scaled.data[from..from + columns * 3]);
        }
        Self { width, height, data }
    }

    /// The frame in another size, by Catmull-Rom interpolation (area-weighted where it shrinks); unchanged where it has
    /// that size already.
    pub fn resized(self, width: usize, height: usize) -> Self {
        self.filtered(width, height, FilterType::CatmullRom)
    }

    /// The frame in another size, by bilinear interpolation (area-weighted where it shrinks, which torch calls antialias);
    /// unchanged where it has that size already.
    pub fn bilinear(self, width: usize, height: usize) -> Self {
        self.filtered(width, height, FilterType::Triangle)
    }

    /// The values of the frame in another size, `[3, H, W]` from 0 to 1, by Catmull-Rom interpolation (area-weighted where it
    /// shrinks), not rounded; what swings over the ends is cut off.
    pub fn resampled(self, width: usize, height: usize) -> Vec<f32> {
        let (from, to) = ((self.width as u32, self.height as u32), (width as u32, height as u32));
        if from == to {
            return self.planes();
        }
        let values: Vec<f32> = self.data.iter().map(|&value| f32::from(value) / 255.0).collect();
        let image = Rgb32FImage::from_raw(from.0, from.1, values).unwrap_or_else(|| Rgb32FImage::new(from.0, from.1));
        let values = resize(&image, to.0, to.1, FilterType::CatmullRom).into_raw();
        (0..3).flat_map(|channel| values.iter().skip(channel).step_by(3).copied()).collect()
    }

    /// The values of the frame, `[3, H, W]` from 0 to 1.
    pub fn planes(&self) -> Vec<f32> {
        let plane = |channel| self.data.iter().skip(channel).step_by(3).map(|&value| f32::from(value) / 255.0);
        (0..3).flat_map(plane).collect()
    }

    /// The frame in another size, of the pixels that it has: those at `floor(i from / to)`.
    pub fn nearest(self, width: usize, height: usize) -> Self {
        if (self.width, self.height) == (width, height) {
            return self;
        }
        let mut data = Vec::with_capacity(3 * width * height);
        for y in 0..height {
            let row = 3 * self.width * (y * self.height / height);
            for x in 0..width {
                let at = row + 3 * (x * self.width / width);
                data.extend_from_slice(&self.data[at..at + 3]);
            }
        }
        Self { width, height, data }
    }

    fn filtered(self, width: usize, height: usize, filter: FilterType) -> Self {
        if (self.width, self.height) == (width, height) {
            return self;
        }
        let (from, to) = ((self.width as u32, self.height as u32), (width as u32, height as u32));
        let image = RgbImage::from_raw(from.0, from.1, self.data).unwrap_or_else(|| RgbImage::new(from.0, from.1));
        Self { width, height, data: resize(&image, to.0, to.1, filter).into_raw() }
    }
}

#[cfg(test)]
mod tests {
    use super::Placed;
    use crate::testing::{picture, psnr};
    use crate::{Fit, Frame};

    #[test]
    fn other_shapes_are_stretched_cropped_or_padded() {
        // red, green, blue from left to right
        let line: Vec<u8> = [[255, 0, 0], [0, 255, 0], [0, 0, 255]].iter().flat_map(|rgb| rgb.repeat(8)).collect();
        let frame = Frame { width: 24, height: 8, data: line.repeat(8) };
        let at = |frame: &Frame, x: usize, y: usize| frame.data[3 * (y * frame.width + x)..][..3].to_vec();
        let crop = frame.clone().fitted(8, 8, Fit::Crop);
        assert!((0..8).all(|x| at(&crop, x, 4) == [0, 255, 0]), "the middle stays");
        let pad = frame.clone().fitted(24, 24, Fit::Pad);
        assert_eq!(
            (at(&pad, 1, 7), at(&pad, 1, 8), at(&pad, 22, 15), at(&pad, 22, 16)),
            (vec![0; 3], vec![255, 0, 0], vec![0, 0, 255], vec![0; 3])
        );
        assert_eq!(frame.clone().fitted(8, 8, Fit::Stretch), frame.clone().resized(8, 8));
        for fit in Fit::NAMES {
            let fit: Fit = fit.parse().unwrap();
            assert_eq!(frame.clone().fitted(24, 8, fit), frame);
            for (width, height) in [(1, 1), (7, 31), (31, 7), (48, 16)] {
                let found = frame.clone().fitted(width, height, fit);
                assert_eq!((found.width, found.height, found.data.len()), (width, height, width * height * 3));
            }
            assert_eq!(fit.to_string().parse::<Fit>().unwrap(), fit);
        }
        assert!("croped".parse::<Fit>().unwrap_err().to_string().contains("did you mean crop?"));
    }

    /// 7 by 4 pixels to 5 by 5: covered by 9 by 5, contained as 5 by 3 (5 / 7 of 4 is 2.86).
    #[test]
    fn pictures_cover_or_are_contained_and_stand_in_the_middle() {
        assert_eq!(Fit::Crop.placed((7, 4), (5, 5)), Placed { scaled: (9, 5), offset: (2, 0) });
        assert_eq!(Fit::Pad.placed((7, 4), (5, 5)), Placed { scaled: (5, 3), offset: (0, 1) });
        assert_eq!(Fit::Stretch.placed((7, 4), (5, 5)), Placed { scaled: (5, 5), offset: (0, 0) });
        let frame = picture(7, 4, 1);
        let scaled = frame.clone().fitted_lanczos(9, 5, Fit::Stretch);
        let crop = frame.clone().fitted_lanczos(5, 5, Fit::Crop);
        let row = |frame: &Frame, y: usize, x: usize, count: usize| {
            frame.data[3 * (y * frame.width + x)..][..3 * count].to_vec()
        };
        assert!((0..5).all(|y| row(&crop, y, 0, 5) == row(&scaled, y, 2, 5)));
        let (pad, small) =
            (frame.clone().fitted_lanczos(5, 5, Fit::Pad), frame.clone().fitted_lanczos(5, 3, Fit::Stretch));
        assert!((0..3).all(|y| row(&pad, y + 1, 0, 5) == row(&small, y, 0, 5)));
        assert!(row(&pad, 0, 0, 5) == [0; 15] && row(&pad, 4, 0, 5) == [0; 15]);
        assert_eq!(frame.clone().fitted_lanczos(7, 4, Fit::Crop), frame);
        // shrunk far, a side is still there
        assert_eq!(Fit::Pad.placed((1000, 1), (8, 8)).scaled, (8, 1));
    }

    #[test]
    fn the_nearest_pixels_are_kept_whole() {
        let line: Vec<u8> = [[255, 0, 0], [0, 255, 0], [0, 0, 255]].concat();
        let frame = Frame { width: 3, height: 1, data: line.clone() };
        assert_eq!(frame.clone().nearest(3, 1), frame);
        assert_eq!(frame.clone().nearest(2, 2).data, [&line[..6], &line[..6]].concat());
        assert_eq!(frame.nearest(5, 1).data, [&line[..3], &line[..3], &line[3..6], &line[3..6], &line[6..]].concat());
    }

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
