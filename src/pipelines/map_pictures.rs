//! Pictures of attention maps: colours, and the names beside them.

use crate::video::Frame;
use anyhow::Result;
use candle_core::Tensor;
use colorous::{Gradient, MAGMA, VIRIDIS};
use font8x8::{BASIC_FONTS, LATIN_FONTS, UnicodeFonts};

/// Most columns of a picture; of more frames some are left out, evenly.
const COLUMNS: usize = 16;
/// Least width of a frame in a picture of words, and of a whole matrix, in pixels.
const CELL: usize = 96;
const MATRIX: usize = 512;
/// Pixels of a letter of the font, and between things.
const GLYPH: usize = 8;
const GAP: usize = 4;

/// Words as rows, latent frames as columns, both named; each row on its own scale, from its least to its largest value.
pub(super) fn grid<W: AsRef<str>>(map: &Tensor, named: &[W]) -> Result<Frame> {
    let (words, frames, height, width) = map.dims4()?;
    let times = CELL.div_ceil(width);
    let columns = frames.min(COLUMNS);
    let (cell_w, cell_h) = (width * times + GAP, height * times + GAP);
    let mut picture = Frame { width: columns * cell_w - GAP, height: words * cell_h - GAP, data: Vec::new() };
    picture.data = vec![255; 3 * picture.width * picture.height];
    let frame_of = |column: usize| if columns == 1 { 0 } else { column * (frames - 1) / (columns - 1) };
    for word in 0..words {
        let values = unit(&map.get(word)?.flatten_all()?.to_vec1::<f32>()?);
        for column in 0..columns {
            let frame = frame_of(column);
            for y in 0..height * times {
                for x in 0..width * times {
                    let value = values[(frame * height + y / times) * width + x / times];
                    let at = (word * cell_h + y) * picture.width + column * cell_w + x;
                    picture.data[3 * at..3 * at + 3].copy_from_slice(&colour(MAGMA, value));
                }
            }
        }
    }
    if named.is_empty() {
        return Ok(picture);
    }
    let (left, top) =
        (named.iter().map(|word| label(word.as_ref()).len()).max().unwrap_or(0) * GLYPH + 2 * GAP, GLYPH + 2 * GAP);
    let mut sheet = Frame { width: left + picture.width, height: top + picture.height, data: Vec::new() };
    sheet.data = vec![255; 3 * sheet.width * sheet.height];
    for y in 0..picture.height {
        let at = 3 * ((top + y) * sheet.width + left);
        sheet.data[at..at + 3 * picture.width]
            .copy_from_slice(&picture.data[3 * y * picture.width..][..3 * picture.width]);
    }
    for (row, word) in named.iter().enumerate().take(words) {
        let y = top + row * cell_h + (cell_h - GAP).saturating_sub(GLYPH) / 2;
        write(&mut sheet, &label(word.as_ref()), GAP, y);
    }
    for column in 0..columns {
        write(&mut sheet, &label(&frame_of(column).to_string()), left + column * cell_w, GAP);
    }
    Ok(sheet)
}

/// As much of a name as stands beside a picture. The mark of a beginning word, which some tokenizers' pieces have, is left out.
fn label(text: &str) -> Vec<char> {
    const MOST: usize = 20;
    text.trim_start_matches('\u{2581}').chars().take(MOST).collect()
}

/// The dark places of letters one after the other, from the first letter's upper left corner; what the font does not have is left
/// blank.
fn letters(text: &[char], mut each: impl FnMut(usize, usize)) {
    for (index, &letter) in text.iter().enumerate() {
        let glyph = BASIC_FONTS.get(letter).or_else(|| LATIN_FONTS.get(letter)).unwrap_or([0; GLYPH]);
        for (y, row) in glyph.iter().enumerate() {
            for x in (0..GLYPH).filter(|x| row & (1 << x) != 0) {
                each(index * GLYPH + x, y);
            }
        }
    }
}

fn pixel(sheet: &mut Frame, x: usize, y: usize, level: u8) {
    if x < sheet.width && y < sheet.height {
        let at = 3 * (y * sheet.width + x);
        sheet.data[at..at + 3].fill(level);
    }
}

/// Writes black letters; what does not fit is left out.
fn write(sheet: &mut Frame, text: &[char], left: usize, top: usize) {
    letters(text, |x, y| pixel(sheet, left + x, top + y, 0));
}

/// The same turned to the left, from `bottom` upwards.
fn write_upwards(sheet: &mut Frame, text: &[char], left: usize, bottom: usize) {
    letters(text, |x, y| {
        if let Some(up) = bottom.checked_sub(x + 1) {
            pixel(sheet, left + y, up, 0);
        }
    });
}

/// What the rows and columns of a matrix are.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    /// Of all of them: "tokens", for the line below the picture.
    pub of: &'static str,
    /// Of each; those that are missing have no name.
    pub names: Vec<String>,
}

/// A matrix, queries as rows, on a scale from its least to its largest value, which stand below it. Rows and columns are named
/// where there is room for a name.
pub(super) fn matrix(map: &Tensor, axis: &Axis) -> Result<Frame> {
    let (rows, columns) = map.dims2()?;
    let times = MATRIX.div_ceil(columns);
    let numbers = map.contiguous()?.flatten_all()?.to_vec1::<f32>()?;
    let values = unit(&numbers);
    // a name needs a letter's height, and a pixel between it and the next
    let every = (GLYPH + 1).div_ceil(times);
    let names: Vec<Vec<char>> = axis.names.iter().map(|name| label(name)).collect();
    let named = |count: usize| names.iter().enumerate().take(count).step_by(every);
    let margin = |count: usize| named(count).map(|(_, name)| name.len()).max().map_or(0, |most| most * GLYPH + 2 * GAP);
    let (left, top) = (margin(rows), margin(columns));
    let (least, most) = extremes(&numbers);
    let below = [format!("{}: queries down, keys across", axis.of), format!("dark {least:.2e}, bright {most:.2e}")];
    let below = below.map(|line| line.chars().collect::<Vec<char>>());
    let width = below.iter().map(|line| line.len() * GLYPH).max().unwrap_or(0).max(left + columns * times) + GAP;
    let height = top + rows * times + GAP + below.len() * (GLYPH + GAP);
    let mut sheet = Frame { width, height, data: vec![255; 3 * width * height] };
    for y in 0..rows * times {
        for x in 0..columns * times {
            let at = 3 * ((top + y) * width + left + x);
            sheet.data[at..at + 3].copy_from_slice(&colour(VIRIDIS, values[y / times * columns + x / times]));
        }
    }
    let middle = |index: usize| index * times + times.saturating_sub(GLYPH) / 2;
    for (index, name) in named(rows) {
        write(&mut sheet, name, GAP, top + middle(index));
    }
    for (index, name) in named(columns) {
        write_upwards(&mut sheet, name, left + middle(index), top - GAP);
    }
    for (index, line) in below.iter().enumerate() {
        write(&mut sheet, line, 0, top + rows * times + GAP + index * (GLYPH + GAP));
    }
    Ok(sheet)
}

/// Writes a name into the upper left corner of a frame, white on black.
pub(super) fn badge(frame: &mut Frame, text: &str) {
    let text = label(text);
    let (width, height) = ((text.len() * GLYPH + GAP).min(frame.width), (GLYPH + GAP).min(frame.height));
    for row in frame.data.chunks_exact_mut(3 * frame.width).take(height) {
        row[..3 * width].fill(0);
    }
    letters(&text, |x, y| pixel(frame, GAP / 2 + x, GAP / 2 + y, 255));
}

/// From least to largest value as 0 to 1; all 0 where they are one.
pub(super) fn unit(values: &[f32]) -> Vec<f32> {
    let (least, most) = extremes(values);
    let range = most - least;
    values.iter().map(|value| if range > 0.0 { (value - least) / range } else { 0.0 }).collect()
}

fn extremes(values: &[f32]) -> (f32, f32) {
    values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), &value| (least.min(value), most.max(value)))
}

pub(super) fn colour(gradient: Gradient, value: f32) -> [u8; 3] {
    gradient.eval_continuous(f64::from(value.clamp(0.0, 1.0))).as_array()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn pictures_have_a_cell_for_each_word_and_frame() {
        let map = Tensor::arange(0f32, 2.0 * 3.0 * 2.0 * 4.0, &Device::Cpu).unwrap().reshape((2, 3, 2, 4)).unwrap();
        let picture = grid(&map, &[""; 0]).unwrap();
        assert_eq!((picture.width, picture.height), (3 * 96 + 8, 2 * 48 + 4));
        assert_eq!(picture.data.len(), 3 * picture.width * picture.height);
        let at = |x: usize, y: usize| &picture.data[3 * (y * picture.width + x)..][..3];
        // each row is on its own scale: least at its first place, largest at its last
        for row in [0, 52] {
            assert_eq!((at(0, row), at(295, row + 47)), (&colour(MAGMA, 0.0)[..], &colour(MAGMA, 1.0)[..]));
        }
        assert_eq!((at(97, 0), at(0, 49)), (&[255; 3][..], &[255; 3][..]), "gaps are white");
        let many = Tensor::zeros((1, 40, 1, 1), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(grid(&many, &[""; 0]).unwrap().width, 16 * 100 - 4);

        // the same picture beside its words and below its frames
        let sheet = grid(&map, &["ball", "a longer one"]).unwrap();
        let (left, top) = (12 * 8 + 8, 16);
        assert_eq!((sheet.width, sheet.height), (left + picture.width, top + picture.height));
        let dark = |columns: std::ops::Range<usize>, rows: std::ops::Range<usize>| {
            rows.flat_map(|y| columns.clone().map(move |x| (x, y)))
                .filter(|(x, y)| sheet.data[3 * (y * sheet.width + x)] == 0)
                .count()
        };
        for row in 0..2 {
            let y = top + row * 52;
            assert!(dark(0..left, y..y + 48) > 40, "the word of row {row}");
            let inner = &sheet.data[3 * (y * sheet.width + left)..][..3 * picture.width];
            assert_eq!(inner, &picture.data[3 * row * 52 * picture.width..][..3 * picture.width]);
        }
        for column in 0..3 {
            let x = left + column * 100;
            assert!(dark(x..x + 8, 0..top) > 5, "the number of frame {column}");
        }
    }

    #[test]
    fn a_matrix_has_its_names_and_its_scale() {
        let eye = Tensor::eye(3, DType::F32, &Device::Cpu).unwrap();
        let bare = matrix(&eye, &Axis { of: "frames", names: Vec::new() }).unwrap();
        assert_eq!((bare.width, bare.height, &bare.data[..3]), (513 + 4, 513 + 28, &colour(VIRIDIS, 1.0)[..]));
        let names = ["\u{2581}a", "ball", "rolls"].map(str::to_owned).to_vec();
        let named = matrix(&eye, &Axis { of: "tokens", names }).unwrap();
        let margin = 5 * 8 + 8;
        assert_eq!((named.width, named.height), (bare.width + margin, bare.height + margin));
        let dark = |columns: std::ops::Range<usize>, rows: std::ops::Range<usize>| {
            rows.flat_map(|y| columns.clone().map(move |x| (x, y)))
                .filter(|(x, y)| named.data[3 * (y * named.width + x)..][..3] == [0; 3])
                .count()
        };
        for index in 0..3 {
            let cell = margin + index * 171..margin + (index + 1) * 171;
            let (beside, above) = (dark(0..margin, cell.clone()), dark(cell, 0..margin));
            assert!(beside > 10 && beside == above, "{index}: {beside} {above}");
        }
        assert_eq!(dark(0..margin, 0..margin), 0);
        assert!(dark(0..300, margin + 513..named.height) > 200, "the scale");
        // of many places some are named
        let many = Tensor::zeros((300, 300), DType::F32, &Device::Cpu).unwrap();
        let names = (0..300).map(|i| i.to_string()).collect();
        assert_eq!(matrix(&many, &Axis { of: "places", names }).unwrap().width, 32 + 600 + 4);
    }

    #[test]
    fn a_name_stands_in_the_corner() {
        let mut frame = Frame { width: 40, height: 30, data: vec![90; 3600] };
        badge(&mut frame, "ball");
        let count = |level: u8| frame.data.iter().filter(|&&value| value == level).count() / 3;
        assert_eq!(count(90), 40 * 30 - 36 * 12);
        assert!(count(255) > 40 && count(0) + count(255) == 36 * 12);
        badge(&mut Frame { width: 3, height: 2, data: vec![9; 18] }, "ball");
    }
}
