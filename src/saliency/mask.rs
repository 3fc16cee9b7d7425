//! Masks, and how people see them.

use crate::video::Frame;

/// A mask's level from which on a pixel belongs to the subject.
pub const THRESHOLD: u8 = 128;

/// How much each pixel of a frame belongs to its subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    pub width: usize,
    pub height: usize,
    /// 0 to 255, row by row.
    pub data: Vec<u8>,
}

impl Mask {
    /// Share of the pixels that belong to the subject.
    pub fn coverage(&self) -> f64 {
        let inside = self.data.iter().filter(|&&level| level >= THRESHOLD).count();
        inside as f64 / self.data.len().max(1) as f64
    }

    /// As a grey picture.
    pub fn picture(&self) -> Frame {
        let data = self.data.iter().flat_map(|&level| [level; 3]).collect();
        Frame { width: self.width, height: self.height, data }
    }

    /// The frame it is of, dimmed outside the subject: for people to look at.
    pub fn over(&self, frame: &Frame) -> Frame {
        let dimmed = |(pixel, &level): (&[u8], &u8)| {
            let (inside, outside) = (u32::from(level), 255 - u32::from(level));
            // a quarter of the brightness, towards blue
            [0, 0, 40].into_iter().zip(pixel.to_vec()).map(move |(tint, value)| {
                ((u32::from(value) * inside + (u32::from(value) / 4 + tint) * outside) / 255) as u8
            })
        };
        let data = frame.data.chunks_exact(3).zip(&self.data).flat_map(dimmed).collect();
        Frame { width: frame.width, height: frame.height, data }
    }
}
