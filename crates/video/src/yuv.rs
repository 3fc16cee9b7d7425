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

    /// The convention for videos that do not say, as mpv has it: BT.601 for standard definition, BT.709 above.
    pub fn by_size(width: usize, height: usize) -> Self {
        if width >= 1280 || height > 576 { Self::BT709 } else { Self::BT601 }
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

/// Fractional bits of the integer arithmetic of [`from_rgb`].
const BITS: u32 = 16;

/// The weights of red, green and blue in the three samples, in units of 2^-[`BITS`]. The weights of a colour difference
/// add up to nothing, so that grey stays grey.
fn weights(matrix: Matrix, depth: u32) -> [[i32; 3]; 3] {
    let unit = f64::from(1u32 << (depth - 8 + BITS)) / 255.0;
    let (kr, kb) = (f64::from(matrix.kr), f64::from(matrix.kb));
    let round = |value: f64| (value * unit).round() as i32;
    let luma = [round(219.0 * kr), round(219.0 * (1.0 - kr - kb)), round(219.0 * kb)];
    let (blue_red, blue_blue) = (round(-112.0 * kr / (1.0 - kb)), round(112.0));
    let (red_red, red_blue) = (round(112.0), round(-112.0 * kb / (1.0 - kr)));
    [luma, [blue_red, -blue_red - blue_blue, blue_blue], [red_red, -red_red - red_blue, red_blue]]
}

/// The planes Y', Cb, Cr of a frame, rows packed, in [`Layout::written`].
pub(super) fn from_rgb(frame: &Frame, format: PixelFormat, matrix: Matrix) -> [Vec<u8>; 3] {
    let (width, height, depth) = (frame.width, frame.height, format.depth());
    let (across, down) = format.subsampling();
    let (chroma_width, chroma_height) = Layout::written(format, matrix).chroma_size(width, height);
    let [luma, blue, red] = weights(matrix, depth);
    let dot = |weights: [i32; 3], rgb: [i32; 3]| weights[0] * rgb[0] + weights[1] * rgb[1] + weights[2] * rgb[2];
    let wide = |byte: &[u8]| [i32::from(byte[0]), i32::from(byte[1]), i32::from(byte[2])];

    // Colour is the mean of the rows that share it and, for half width, of three columns weighted 1 2 1. At the edges the
    // last row and column count twice, so the sum of weights is always this power of two.
    let shift = BITS + down.ilog2() + if across == 2 { 2 } else { 0 };
    let offset = |value: i32, shift: u32| (value << (depth - 8 + shift)) + (1 << (shift - 1));
    let (luma_offset, chroma_offset) = (offset(16, BITS), offset(128, shift));
    let mut planes = [vec![0u16; width * height], vec![0; chroma_width * chroma_height], Vec::new()];
    planes[2] = planes[1].clone();
    for (sample, pixel) in planes[0].iter_mut().zip(frame.data.chunks_exact(3)) {
        *sample = ((dot(luma, wide(pixel)) + luma_offset) >> BITS) as u16;
    }
    let mut row = vec![[0i32; 3]; width];
    for chroma_y in 0..chroma_height {
        row.fill([0; 3]);
        for y in chroma_y * down..(chroma_y + 1) * down {
            let y = y.min(height - 1);
            let line = &frame.data[y * width * 3..(y + 1) * width * 3];
            for (sum, pixel) in row.iter_mut().zip(line.chunks_exact(3)) {
                let pixel = wide(pixel);
                *sum = [sum[0] + pixel[0], sum[1] + pixel[1], sum[2] + pixel[2]];
            }
        }
        let line = chroma_y * chroma_width..(chroma_y + 1) * chroma_width;
        let [_, blues, reds] = &mut planes;
        for (chroma_x, (b, r)) in blues[line.clone()].iter_mut().zip(&mut reds[line]).enumerate() {
            let x = chroma_x * across;
            let mut rgb = row[x];
            if across == 2 {
                let (left, right) = (row[x.saturating_sub(1)], row[(x + 1).min(width - 1)]);
                rgb = [0, 1, 2].map(|channel| left[channel] + 2 * rgb[channel] + right[channel]);
            }
            *b = ((dot(blue, rgb) + chroma_offset) >> shift) as u16;
            *r = ((dot(red, rgb) + chroma_offset) >> shift) as u16;
        }
    }
    planes.map(|plane| match depth {
        8 => plane.into_iter().map(|sample| sample as u8).collect(),
        _ => plane.into_iter().flat_map(u16::to_le_bytes).collect(),
    })
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
        let absent = grey && index > 0;
        if !(enough || absent) {
            return Err(fault::input(format!("a picture of {width}x{height} with too few samples")));
        }
    }
    let unit = (1u32 << (layout.depth - 8)) as f32;
    let (y_zero, y_gain, c_gain) = if layout.full_range {
        // Full range counts to the largest sample, which is not 255 units above 8 bits.
        let top = ((1u32 << layout.depth) - 1) as f32;
        (0.0, 255.0 / top, 255.0 / top)
    } else {
        (16.0 * unit, 255.0 / (219.0 * unit), 255.0 / (224.0 * unit))
    };
    let Matrix { kr, kb } = layout.matrix;
    let kg = 1.0 - kr - kb;
    let (red_gain, blue_gain) = (2.0 * (1.0 - kr) * c_gain, 2.0 * (1.0 - kb) * c_gain);
    let (green_red, green_blue) = (-kr / kg * red_gain, -kb / kg * blue_gain);

    let columns = taps(width, chroma_width, layout.subsampling.0, layout.on_column);
    let rows = taps(height, chroma_height, layout.subsampling.1, layout.on_row);
    let mut luma = vec![0f32; width];
    let mut colour = [vec![0f32; width], vec![0f32; width]]; // Cb, Cr of a row less their zero
    let mut narrow = vec![0f32; chroma_width];
    let mut other = vec![0f32; chroma_width];
    let mut data = vec![0; width * height * 3];
    for (y, (line, &(above, below, weight))) in data.chunks_exact_mut(width * 3).zip(&rows).enumerate() {
        read_row(&mut luma, &planes[0], y, bytes);
        for (full, plane) in colour.iter_mut().zip(&planes[1..]).filter(|_| !grey) {
            read_row(&mut narrow, plane, above, bytes);
            if weight > 0.0 {
                read_row(&mut other, plane, below, bytes);
                narrow.iter_mut().zip(&other).for_each(|(a, b)| *a += (b - *a) * weight);
            }
            for (value, &(left, right, weight)) in full.iter_mut().zip(&columns) {
                *value = narrow[left] + (narrow[right] - narrow[left]) * weight - 128.0 * unit;
            }
        }
        let [blues, reds] = &colour;
        for (pixel, ((y, b), r)) in line.chunks_exact_mut(3).zip(luma.iter().zip(blues).zip(reds)) {
            let y = (y - y_zero) * y_gain + 0.5;
            let rgb = [y + red_gain * r, y + green_red * r + green_blue * b, y + blue_gain * b];
            pixel.copy_from_slice(&rgb.map(|value| value.clamp(0.0, 255.0) as i32 as u8));
        }
    }
    Ok(Frame { width, height, data })
}

fn read_row(row: &mut [f32], plane: &Plane, y: usize, bytes: usize) {
    let line = &plane.data[y * plane.stride..][..row.len() * bytes];
    match bytes {
        1 => row.iter_mut().zip(line).for_each(|(value, &byte)| *value = f32::from(byte)),
        _ => {
            let samples = line.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]]));
            row.iter_mut().zip(samples).for_each(|(value, sample)| *value = f32::from(sample));
        }
    }
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
    use crate::testing::{picture, psnr};

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
