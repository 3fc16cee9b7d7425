//! How a video is to be shown: the display matrix (ISO/IEC 14496-12, 6.2.2), as FFmpeg's `autorotate` takes it.
//!
//! The matrix takes a point (x, y) of the stored picture to (a x + c y, b x + d y) on the screen, whose y counts downwards. What
//! turns by quarters and mirrors has two entries of one size and two zeros: eight orientations.

use crate::Frame;
use ffmpeg_next::codec::packet::side_data;
use ffmpeg_next::format::stream::Stream;

/// One of the eight: x and y are exchanged first, then each axis of the shown picture may run backwards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Orientation {
    transposed: bool,
    flip_x: bool,
    flip_y: bool,
}

/// A turn that is no quarter within this many degrees is another one.
const QUARTER: f64 = 1.0;

impl Orientation {
    /// Of a stream; also the angle in degrees that was asked for, where it is not one of quarters and the nearest is taken.
    pub fn of(stream: &Stream) -> (Self, Option<f64>) {
        let matrix = stream.side_data().find(|data| data.kind() == side_data::Type::DisplayMatrix);
        let Some(matrix) = matrix else { return (Self::default(), None) };
        let entry = |index: usize| {
            let bytes = matrix.data().get(4 * index..4 * index + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, i32::from_ne_bytes)
        };
        Self::of_matrix([entry(0), entry(1), entry(3), entry(4)])
    }

    /// Of `[a, b, c, d]`.
    fn of_matrix([a, b, c, d]: [i32; 4]) -> (Self, Option<f64>) {
        let [a, b, c, d] = [a, b, c, d].map(f64::from);
        let orientation = if a.abs() + d.abs() >= b.abs() + c.abs() {
            Self { transposed: false, flip_x: a < 0.0, flip_y: d < 0.0 }
        } else {
            Self { transposed: true, flip_x: c < 0.0, flip_y: b < 0.0 }
        };
        let angle = b.atan2(a).to_degrees().rem_euclid(360.0);
        let off = (angle / 90.0 - (angle / 90.0).round()).abs() * 90.0;
        (orientation, (off >= QUARTER).then_some(angle))
    }

    /// The frame as it is to be shown.
    pub fn apply(self, frame: Frame) -> Frame {
        if self == Self::default() {
            return frame;
        }
        let Frame { width, height, data } = frame;
        let (to_width, to_height) = if self.transposed { (height, width) } else { (width, height) };
        let mut turned = Vec::with_capacity(data.len());
        for y in 0..to_height {
            let y = if self.flip_y { to_height - 1 - y } else { y };
            for x in 0..to_width {
                let x = if self.flip_x { to_width - 1 - x } else { x };
                let at = if self.transposed { x * width + y } else { y * width + x };
                turned.extend_from_slice(&data[3 * at..3 * at + 3]);
            }
        }
        Frame { width: to_width, height: to_height, data: turned }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Matrix `[a, b, c, d]` and what 3x2 pixels 0 to 5 become by FFmpeg's filters of `autorotate`, in this order: none, hflip,
    /// vflip, both, transpose=clock, =cclock, =cclock_flip, =clock_flip.
    pub const EIGHT: [([i32; 4], [u8; 6]); 8] = [
        ([1, 0, 0, 1], [0, 1, 2, 3, 4, 5]),
        ([-1, 0, 0, 1], [2, 1, 0, 5, 4, 3]),
        ([1, 0, 0, -1], [3, 4, 5, 0, 1, 2]),
        ([-1, 0, 0, -1], [5, 4, 3, 2, 1, 0]),
        ([0, 1, -1, 0], [3, 0, 4, 1, 5, 2]),
        ([0, -1, 1, 0], [2, 5, 1, 4, 0, 3]),
        ([0, 1, 1, 0], [0, 3, 1, 4, 2, 5]),
        ([0, -1, -1, 0], [5, 2, 4, 1, 3, 0]),
    ];

    #[test]
    fn all_eight_orientations_are_those_of_autorotate() {
        let frame = Frame { width: 3, height: 2, data: (0..6).flat_map(|pixel| [pixel; 3]).collect() };
        for (matrix, pixels) in EIGHT {
            let (orientation, off) = Orientation::of_matrix(matrix.map(|entry| entry << 16));
            assert_eq!(off, None, "{matrix:?}");
            let shown = orientation.apply(frame.clone());
            let found: Vec<u8> = shown.data.chunks(3).map(|pixel| pixel[0]).collect();
            assert_eq!(found, pixels, "{matrix:?}");
            assert_eq!(shown.width, if orientation.transposed { 2 } else { 3 }, "{matrix:?}");
        }
        let slanted = Orientation::of_matrix([46341, 46341, -46341, 46341]);
        assert_eq!(slanted.1.map(f64::round), Some(45.0));
        let nearly = Orientation::of_matrix([300, 65535, -65535, 300]);
        assert_eq!((nearly.0, nearly.1), (Orientation::of_matrix([0, 1, -1, 0]).0, None));
    }
}
