//! RGB to Y'CbCr and back, in plain arithmetic.
//!
//! Written here rather than left to swscale so that y4m needs no FFmpeg, and so that the same frames give the same
//! samples with every FFmpeg. Out goes BT.709 (ITU-R BT.709-6, section 3: Kr = 0.2126, Kb = 0.0722), or BT.601 for the
//! one codec that knows no other, limited range, with colour samples at the left (ITU-T H.264, figure E-1, type 0: on the even columns, between the rows), which is what
//! H.264, HEVC and `C420mpeg2` take for granted. In comes whatever a given video declares.

use super::format::PixelFormat;
use super::{Frame, fault};
use anyhow::Result;

/// The luma weights of red and blue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Matrix {
    kr: f32,
    kb: f32,
}

impl Matrix {
    pub const BT709: Self = Self { kr: 0.2126, kb: 0.0722 };
    pub const BT601: Self = Self { kr: 0.299, kb: 0.114 };
    #[cfg(feature = "video")]
    pub const BT2020: Self = Self { kr: 0.2627, kb: 0.0593 };

    /// The convention for videos that do not say: BT.601 for standard definition, BT.709 above.
    pub fn by_size(width: usize, height: usize) -> Self {
        if width > 1024 || height > 576 { Self::BT709 } else { Self::BT601 }
    }

    fn kg(self) -> f32 {
        1.0 - self.kr - self.kb
    }
}

/// How the samples of a picture are to be understood.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// Luma columns and rows for one colour sample: 1, 2 or 4 each.
    pub subsampling: (usize, usize),
    /// Bits of a sample, 8 to 16; above 8 a sample is two bytes, little end first.
    pub depth: u32,
    pub full_range: bool,
    pub matrix: Matrix,
    /// Whether the first colour sample lies on the first luma column and row, or in the middle of those it covers.
    pub on_column: bool,
    pub on_row: bool,
}

impl Layout {
    /// What this program writes.
    pub fn written(format: PixelFormat, matrix: Matrix) -> Self {
        let (subsampling, depth) = (format.subsampling(), format.depth());
        Self { subsampling, depth, full_range: false, matrix, on_column: true, on_row: false }
    }

    /// Width and height of the colour planes.
    pub fn chroma_size(&self, width: usize, height: usize) -> (usize, usize) {
        (width.div_ceil(self.subsampling.0), height.div_ceil(self.subsampling.1))
    }

    pub fn sample_bytes(&self) -> usize {
        if self.depth > 8 { 2 } else { 1 }
    }
}

/// One plane of samples; `stride` in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plane<'a> {
    pub data: &'a [u8],
    pub stride: usize,
}

/// The planes Y', Cb, Cr of a frame, rows packed, in [`Layout::written`].
pub(super) fn from_rgb(frame: &Frame, format: PixelFormat, matrix: Matrix) -> [Vec<u8>; 3] {
    let Matrix { kr, kb } = matrix;
    let kg = matrix.kg();
    let (width, height) = (frame.width, frame.height);
    let (across, down) = format.subsampling();
    let depth = format.depth();
    let unit = (1u32 << (depth - 8)) as f32;
    let (chroma_width, chroma_height) = Layout::written(format, matrix).chroma_size(width, height);
    let bytes = if depth > 8 { 2 } else { 1 };

    let mut luma = Vec::with_capacity(width * height * bytes);
    let y_scale = 219.0 / 255.0 * unit;
    for pixel in frame.data.chunks_exact(3) {
        let (r, g, b) = (f32::from(pixel[0]), f32::from(pixel[1]), f32::from(pixel[2]));
        push(&mut luma, 16.0 * unit + y_scale * (kr * r + kg * g + kb * b), depth);
    }

    let mut blue = Vec::with_capacity(chroma_width * chroma_height * bytes);
    let mut red = Vec::with_capacity(chroma_width * chroma_height * bytes);
    let c_scale = 224.0 / 255.0 * unit;
    let (b_scale, r_scale) = (c_scale / (2.0 * (1.0 - kb)), c_scale / (2.0 * (1.0 - kr)));
    let mut row = vec![[0f32; 3]; width]; // the mean of the rows that share colour
    for chroma_y in 0..chroma_height {
        let first = chroma_y * down;
        let last = (first + down).min(height);
        row.fill([0.0; 3]);
        for y in first..last {
            let line = &frame.data[y * width * 3..(y + 1) * width * 3];
            for (sum, pixel) in row.iter_mut().zip(line.chunks_exact(3)) {
                for channel in 0..3 {
                    sum[channel] += f32::from(pixel[channel]);
                }
            }
        }
        let share = 1.0 / (last - first) as f32;
        for chroma_x in 0..chroma_width {
            let x = chroma_x * across;
            let mut rgb = row[x];
            if across == 2 {
                let (left, right) = (row[x.saturating_sub(1)], row[(x + 1).min(width - 1)]);
                for channel in 0..3 {
                    rgb[channel] = 0.25 * left[channel] + 0.5 * rgb[channel] + 0.25 * right[channel];
                }
            }
            let [r, g, b] = rgb.map(|sum| sum * share);
            let y = kr * r + kg * g + kb * b;
            push(&mut blue, 128.0 * unit + b_scale * (b - y), depth);
            push(&mut red, 128.0 * unit + r_scale * (r - y), depth);
        }
    }
    [luma, blue, red]
}

/// Appends a sample. The values of [`from_rgb`] lie within the limited range, so rounding is all there is to do.
fn push(plane: &mut Vec<u8>, value: f32, depth: u32) {
    let value = (value + 0.5) as u16;
    if depth > 8 { plane.extend_from_slice(&value.to_le_bytes()) } else { plane.push(value as u8) }
}

/// A frame from its planes; colour between samples is interpolated linearly. A missing colour plane (grey pictures) is
/// given as an empty one. Errors: a plane shorter than the size asks for.
pub(super) fn to_rgb(planes: [Plane; 3], width: usize, height: usize, layout: &Layout) -> Result<Frame> {
    let bytes = layout.sample_bytes();
    let (chroma_width, chroma_height) = layout.chroma_size(width, height);
    let grey = planes[1].data.is_empty() && planes[2].data.is_empty();
    for (index, plane) in planes.iter().enumerate() {
        let (w, h) = if index == 0 { (width, height) } else { (chroma_width, chroma_height) };
        let enough = plane.stride >= w * bytes && plane.data.len() >= plane.stride * (h - 1) + w * bytes;
        if !enough && !(grey && index > 0) {
            return Err(fault::input(format!("a picture of {width}x{height} with too few samples")));
        }
    }
    let unit = (1u32 << (layout.depth - 8)) as f32;
    let (y_zero, y_gain, c_gain) = match layout.full_range {
        // Full range counts to the largest sample, which is not 255 units above 8 bits.
        true => {
            let top = ((1u32 << layout.depth) - 1) as f32;
            (0.0, 255.0 / top, 255.0 / top)
        }
        false => (16.0 * unit, 255.0 / (219.0 * unit), 255.0 / (224.0 * unit)),
    };
    let Matrix { kr, kb } = layout.matrix;
    let kg = layout.matrix.kg();
    let columns = taps(width, chroma_width, layout.subsampling.0, layout.on_column);
    let rows = taps(height, chroma_height, layout.subsampling.1, layout.on_row);
    let mut line = vec![[0f32; 2]; chroma_width]; // Cb, Cr of one luma row at the colour columns
    let mut data = Vec::with_capacity(width * height * 3);
    for (y, &(above, below, weight)) in rows.iter().enumerate() {
        for (x, both) in line.iter_mut().enumerate() {
            for (channel, value) in both.iter_mut().enumerate() {
                let plane = &planes[channel + 1];
                *value = match grey {
                    true => 0.0,
                    false => mix(sample(plane, x, above, bytes), sample(plane, x, below, bytes), weight) - 128.0 * unit,
                };
            }
        }
        for (x, &(left, right, weight)) in columns.iter().enumerate() {
            let luma = (sample(&planes[0], x, y, bytes) - y_zero) * y_gain;
            let blue = luma + 2.0 * (1.0 - kb) * c_gain * mix(line[left][0], line[right][0], weight);
            let red = luma + 2.0 * (1.0 - kr) * c_gain * mix(line[left][1], line[right][1], weight);
            let green = (luma - kr * red - kb * blue) / kg;
            data.extend([red, green, blue].map(|value| (value + 0.5).clamp(0.0, 255.0) as u8));
        }
    }
    Ok(Frame { width, height, data })
}

fn sample(plane: &Plane, x: usize, y: usize, bytes: usize) -> f32 {
    let at = y * plane.stride + x * bytes;
    match bytes {
        1 => f32::from(plane.data[at]),
        _ => f32::from(u16::from_le_bytes([plane.data[at], plane.data[at + 1]])),
    }
}

fn mix(a: f32, b: f32, weight: f32) -> f32 {
    a + (b - a) * weight
}

/// For each luma position of a side: the two colour positions around it and the weight of the second.
fn taps(luma: usize, chroma: usize, step: usize, cosited: bool) -> Vec<(usize, usize, f32)> {
    let offset = if cosited { 0.0 } else { (step as f32 - 1.0) / 2.0 };
    (0..luma)
        .map(|position| {
            let at = ((position as f32 - offset) / step as f32).clamp(0.0, (chroma - 1) as f32);
            let low = at as usize;
            (low, (low + 1).min(chroma - 1), at - low as f32)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::testing::{picture, psnr};

    fn solid(rgb: [u8; 3], width: usize, height: usize) -> Frame {
        Frame { width, height, data: rgb.repeat(width * height) }
    }

    fn back(planes: &[Vec<u8>; 3], frame: &Frame, layout: &Layout) -> Frame {
        let (chroma_width, _) = layout.chroma_size(frame.width, frame.height);
        let bytes = layout.sample_bytes();
        let strides = [frame.width, chroma_width, chroma_width];
        let planes = [0, 1, 2].map(|index| Plane { data: &planes[index], stride: strides[index] * bytes });
        to_rgb(planes, frame.width, frame.height, layout).unwrap()
    }

    /// The 8-bit values of the primaries are given in many places, for one SMPTE RP 219 (75% bars scale to these).
    #[test]
    fn primaries_have_the_published_bt709_values() {
        let cases: [([u8; 3], [u8; 3]); 6] = [
            ([255, 255, 255], [235, 128, 128]),
            ([0, 0, 0], [16, 128, 128]),
            ([255, 0, 0], [63, 102, 240]),
            ([0, 255, 0], [173, 42, 26]),
            ([0, 0, 255], [32, 240, 118]),
            ([255, 255, 0], [219, 16, 138]),
        ];
        for (rgb, yuv) in cases {
            let planes = from_rgb(&solid(rgb, 4, 2), PixelFormat::Yuv420p, Matrix::BT709);
            assert_eq!([planes[0].len(), planes[1].len(), planes[2].len()], [8, 2, 2]);
            assert_eq!([planes[0][0], planes[1][0], planes[2][0]], yuv, "{rgb:?}");
        }
        let planes = from_rgb(&solid([255, 0, 0], 2, 2), PixelFormat::Yuv444p10, Matrix::BT709);
        let first = |plane: &[u8]| u16::from_le_bytes([plane[0], plane[1]]);
        assert_eq!([first(&planes[0]), first(&planes[1]), first(&planes[2])], [250, 409, 960]);
    }

    #[test]
    fn colours_come_back() {
        let frame = picture(37, 22, 3);
        let bounds = [
            (PixelFormat::Yuv444p10, 55.0),
            (PixelFormat::Yuv444p, 48.0),
            (PixelFormat::Yuv422p, 30.0),
            (PixelFormat::Yuv420p, 28.0),
            (PixelFormat::Yuv420p10, 28.0),
        ];
        for (format, bound) in bounds {
            let found = back(&from_rgb(&frame, format, Matrix::BT709), &frame, &Layout::written(format, Matrix::BT709));
            let found = psnr(&frame, &found);
            assert!(found > bound, "{format}: {found:.1} dB");
        }
        for rgb in [[255, 0, 0], [0, 255, 0], [0, 0, 255], [12, 200, 99]] {
            let frame = solid(rgb, 6, 6);
            let found = back(
                &from_rgb(&frame, PixelFormat::Yuv420p, Matrix::BT709),
                &frame,
                &Layout::written(PixelFormat::Yuv420p, Matrix::BT709),
            );
            for (want, got) in frame.data.iter().zip(&found.data) {
                assert!(want.abs_diff(*got) <= 2, "{rgb:?} became {:?}", &found.data[..3]);
            }
        }
    }

    /// A horizontal colour ramp must not move: with samples taken for centred it shifts by half a column.
    #[test]
    fn colour_samples_lie_on_the_even_columns() {
        let data: Vec<u8> = (0..8).flat_map(|_| (0..32).flat_map(|x| [100 + 4 * x as u8, 128, 128])).collect();
        let frame = Frame { width: 32, height: 8, data };
        let planes = from_rgb(&frame, PixelFormat::Yuv420p, Matrix::BT709);
        let written = Layout::written(PixelFormat::Yuv420p, Matrix::BT709);
        let mean = |layout: &Layout| {
            let found = back(&planes, &frame, layout);
            let inner = (4 * 32 + 4)..(4 * 32 + 28);
            inner.map(|at| f32::from(found.data[at * 3]) - f32::from(frame.data[at * 3])).sum::<f32>() / 24.0
        };
        assert!(mean(&written).abs() < 0.4, "{}", mean(&written));
        let centred = mean(&Layout { on_column: false, ..written });
        assert!(centred.abs() > 0.8, "{centred}");
    }

    #[test]
    fn full_range_and_other_matrices_are_honoured() {
        let layout = |full_range, matrix| Layout {
            subsampling: (1, 1),
            depth: 8,
            full_range,
            matrix,
            on_column: true,
            on_row: true,
        };
        let one = |yuv: [u8; 3], layout: &Layout| {
            let planes = [0, 1, 2].map(|index| Plane { data: &yuv[index..=index], stride: 1 });
            to_rgb(planes, 1, 1, layout).unwrap().data
        };
        assert_eq!(one([255, 128, 128], &layout(true, Matrix::BT601)), [255, 255, 255]);
        assert_eq!(one([235, 128, 128], &layout(false, Matrix::BT601)), [255, 255, 255]);
        // JFIF: red is (76, 85, 255)
        assert_eq!(one([76, 85, 255], &layout(true, Matrix::BT601)), [254, 0, 0]);
        assert_eq!(one([82, 90, 240], &layout(false, Matrix::BT601)), [255, 1, 0]);
    }

    #[test]
    fn short_planes_are_an_error() {
        let planes = [[0u8; 16].as_slice(), &[0; 4], &[0; 3]].map(|data| Plane { data, stride: 2 });
        let layout = Layout::written(PixelFormat::Yuv420p, Matrix::BT709);
        assert!(to_rgb([Plane { stride: 4, ..planes[0] }, planes[1], planes[2]], 4, 4, &layout).is_err());
        assert!(to_rgb([planes[0]; 3], 4, 4, &layout).is_err(), "a stride below the width");
    }
}
