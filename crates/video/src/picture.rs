//! Properties of a given picture besides its pixels: what is lost or changed by reading it as 8-bit sRGB without transparency, each with
//! the line that keeps it.

use super::source::quoted;
use image::DynamicImage;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// Columns of red, green and blue in a profile of sRGB: XYZ under D50 (IEC 61966-2-1, adapted by Bradford).
const SRGB: [[f64; 3]; 3] = [[0.4361, 0.2225, 0.0139], [0.3851, 0.7169, 0.0971], [0.1431, 0.0606, 0.7141]];
/// What two profiles of the same colours may differ by.
const SAME: f64 = 0.015;

/// What is lost of a decoded picture; `profile` is its ICC profile.
pub(super) fn lost(path: &Path, profile: Option<&[u8]>, image: &DynamicImage) -> Vec<String> {
    let (name, file) = (path.display(), quoted(path));
    let mut lost = Vec::new();
    if profile.is_some_and(other_colours) {
        lost.push(format!(
            "{name} has colours of another profile than sRGB, which are taken for sRGB: paler; to convert them: vips \
             icc_transform {file} srgb.png srgb"
        ));
    }
    if image.color().has_alpha() && image.to_rgba8().pixels().any(|pixel| pixel[3] < u8::MAX) {
        lost.push(format!(
            "{name} is partly transparent, which is left out; to lay it on white: magick {file} -background white -flatten \
             opaque.png"
        ));
    }
    lost
}

/// What is lost of a file of several pictures, which are WebP and PNG at times.
pub(super) fn animation(path: &Path) -> Option<String> {
    let file = quoted(path);
    let line = if is_animated_webp(path) {
        format!("as a GIF it is read whole: magick {file} {}", quoted(&path.with_extension("gif")))
    } else if is_animated_png(path) {
        format!("as a video it is read whole: ffmpeg -i {file} -crf 12 {}", quoted(&path.with_extension("mp4")))
    } else {
        return None;
    };
    Some(format!("{} is an animation, of which only the first picture is taken; {line}", path.display()))
}

/// Whether the extended header of a WebP says so.
fn is_animated_webp(path: &Path) -> bool {
    const ANIMATION: u8 = 2;
    let mut start = [0; 21];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start.starts_with(b"RIFF") && &start[8..16] == b"WEBPVP8X" && start[20] & ANIMATION != 0
}

/// Whether a PNG has a chunk of animation before its picture.
fn is_animated_png(path: &Path) -> bool {
    /// Chunks that are looked at.
    const MOST: usize = 64;
    let Ok(file) = File::open(path) else { return false };
    let mut file = BufReader::new(file);
    let mut signature = [0; 8];
    if file.read_exact(&mut signature).is_err() || &signature != b"\x89PNG\r\n\x1a\n" {
        return false;
    }
    for _ in 0..MOST {
        let mut head = [0; 8];
        if file.read_exact(&mut head).is_err() {
            return false;
        }
        let [a, b, c, d, kind @ ..] = head;
        match &kind {
            b"acTL" => return true,
            b"IDAT" => return false,
            // content and checksum
            _ if file.seek(SeekFrom::Current(i64::from(u32::from_be_bytes([a, b, c, d])) + 4)).is_err() => {
                return false;
            }
            _ => {}
        }
    }
    false
}

/// Whether an ICC profile (ISO 15076-1) mixes other primaries than those of sRGB. False for one without, as of grey.
fn other_colours(profile: &[u8]) -> bool {
    const TAGS: usize = 128;
    let word = |at: usize| Some(u32::from_be_bytes(profile.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let count = word(TAGS).unwrap_or(0).min(100) as usize;
    let column = |name: &[u8; 4]| -> Option<[f64; 3]> {
        let entry = (0..count).map(|index| TAGS + 4 + 12 * index);
        let entry = entry.into_iter().find(|&at| profile.get(at..at + 4) == Some(name))?;
        let at = usize::try_from(word(entry + 4)?).ok()?;
        // fractions of 16 bits behind a type and four zeros
        let number = |index: usize| Some(f64::from(word(at.checked_add(8 + 4 * index)?)?.cast_signed()) / 65536.0);
        Some([number(0)?, number(1)?, number(2)?])
    };
    let columns = [b"rXYZ", b"gXYZ", b"bXYZ"].map(column);
    columns.iter().zip(SRGB).any(|(found, srgb)| {
        found.is_some_and(|found| found.iter().zip(srgb).any(|(found, srgb)| (found - srgb).abs() > SAME))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, read};
    use image::codecs::png::PngEncoder;
    use image::{ExtendedColorType, ImageEncoder};

    /// A profile of nothing but its primaries.
    fn profile(columns: [[f64; 3]; 3]) -> Vec<u8> {
        let mut bytes = vec![0; 128];
        bytes.extend(3u32.to_be_bytes());
        for (index, name) in [b"rXYZ", b"gXYZ", b"bXYZ"].into_iter().enumerate() {
            bytes.extend(name);
            bytes.extend([168 + 20 * index as u32, 20].map(u32::to_be_bytes).concat());
        }
        for column in columns {
            bytes.extend(b"XYZ \0\0\0\0");
            bytes.extend(column.map(|value| ((value * 65536.0).round() as i32).to_be_bytes()).concat());
        }
        bytes
    }

    fn png(path: &Path, colour: ExtendedColorType, pixel: &[u8], profile: Option<Vec<u8>>) {
        let mut data = Vec::new();
        let mut encoder = PngEncoder::new(&mut data);
        if let Some(profile) = profile {
            encoder.set_icc_profile(profile).unwrap();
        }
        encoder.write_image(&pixel.repeat(64), 8, 8, colour).unwrap();
        std::fs::write(path, data).unwrap();
    }

    #[test]
    fn what_a_picture_loses_is_told_with_the_line_that_keeps_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a b.png");
        let lost = || read(&path, &Limits::default()).unwrap().lost().to_vec();
        // Display P3 (SMPTE EG 432-1), as phones write
        let p3 = [[0.5151, 0.2412, -0.0011], [0.2919, 0.6922, 0.0419], [0.1572, 0.0666, 0.7841]];
        let (rgb, rgba) = (ExtendedColorType::Rgb8, ExtendedColorType::Rgba8);
        for (colour, pixel, profile, words) in [
            (rgb, &[9, 9, 9][..], None, None),
            (rgb, &[9, 9, 9], Some(profile(SRGB)), None),
            (rgb, &[9, 9, 9], Some(vec![0; 130]), None),
            (rgb, &[9, 9, 9], Some([&[0; 128][..], &[0, 0, 0, 1], b"rXYZ", &[255; 8]].concat()), None),
            (rgb, &[9, 9, 9], Some(profile(p3)), Some("vips icc_transform")),
            (rgba, &[9, 9, 9, 255], None, None),
            (rgba, &[9, 9, 9, 200], None, Some("magick")),
        ] {
            png(&path, colour, pixel, profile);
            let lost = lost();
            match words {
                None => assert_eq!(lost, [""; 0]),
                Some(words) => {
                    assert!(lost.len() == 1 && lost[0].contains(words), "{lost:?}");
                    assert!(lost[0].contains(&quoted(&path)), "{lost:?}");
                }
            }
        }
        // a chunk of animation behind the header (APNG)
        png(&path, rgb, &[9, 9, 9], None);
        let mut bytes = std::fs::read(&path).unwrap();
        let chunk = [b"acTL".as_slice(), &1u32.to_be_bytes(), &0u32.to_be_bytes()].concat();
        let mut crc = !0u32;
        for byte in &chunk {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1));
            }
        }
        bytes.splice(33..33, [&8u32.to_be_bytes(), chunk.as_slice(), &(!crc).to_be_bytes()].concat());
        std::fs::write(&path, bytes).unwrap();
        assert!(animation(&path).is_some_and(|said| said.contains("-crf 12") && said.contains("first picture")));
        assert_eq!(lost().len(), 1);
    }
}
