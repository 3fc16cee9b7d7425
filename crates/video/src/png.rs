//! Directories of numbered PNGs, and still images.
//!
//! A directory holds `frame-000000.png`, `frame-000001.png`, ... and, if there is a manifest, `manifest.json`. Reading
//! takes any directory of PNG and JPEG files in the order of their numbers.

use super::fault::{failed, input};
use super::format::Rate;
use super::partial_dir::{MANIFEST, PartialDir, frame_name};
use super::picture;
use super::source::{FrameSource, Limits, MAX_METADATA};
use super::{Frame, FrameSink, Output, Written};
use anyhow::Result;
use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageReader};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Writes a directory of PNGs.
pub(super) struct PngSink {
    directory: PartialDir,
    metadata: Option<String>,
    frames: u64,
}

impl PngSink {
    pub fn open(output: &Output) -> Result<Self> {
        Ok(Self { directory: PartialDir::create(output)?, metadata: output.metadata.clone(), frames: 0 })
    }
}

impl FrameSink for PngSink {
    fn write(&mut self, frame: Frame) -> Result<()> {
        let mut data = Vec::new();
        image::codecs::png::PngEncoder::new_with_quality(
            &mut data,
            image::codecs::png::CompressionType::Default,
            image::codecs::png::FilterType::Adaptive,
        )
        .write_image(&frame.data, frame.width as u32, frame.height as u32, ExtendedColorType::Rgb8)
        .map_err(|cause| failed(format!("cannot encode frame {} as PNG: {cause}", self.frames)))?;
        self.directory.write(&frame_name(self.frames), &data)?;
        self.frames += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Written> {
        let Self { mut directory, metadata, frames } = *self;
        if let Some(metadata) = metadata {
            directory.write(MANIFEST, metadata.as_bytes())?;
        }
        let committed = directory.commit()?;
        let warnings = committed.warning.into_iter().collect();
        Ok(Written { path: committed.path, codec: "png".into(), warnings, bytes: committed.bytes, frames })
    }
}

/// The manifest of a directory of PNGs.
pub(super) fn metadata(directory: &Path) -> Result<Option<String>> {
    let path = directory.join(MANIFEST);
    let explain = |cause: std::io::Error| input(format!("cannot read {}: {cause}", path.display()));
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(explain(cause)),
    };
    let mut text = String::new();
    file.take(MAX_METADATA + 1).read_to_string(&mut text).map_err(explain)?;
    if text.len() as u64 > MAX_METADATA {
        return Err(input(format!("{} is larger than {MAX_METADATA} bytes", path.display())));
    }
    Ok(Some(text))
}

/// Reads one image, turned upright as its EXIF orientation says. Transparency is dropped, as diffusers' loaders do.
pub(super) fn image(path: &Path, limits: &Limits) -> Result<Frame> {
    Ok(read(path, limits)?.0)
}

/// Reads one image, turned upright, with how opaque its pixels are, row by row from 0 to 255; none of one that is so all over.
pub fn cutout(path: &Path, limits: &Limits) -> Result<(Frame, Option<Vec<u8>>)> {
    let image = opened(path, limits)?.0;
    let alpha = image.color().has_alpha().then(|| image.to_rgba8().pixels().map(|pixel| pixel[3]).collect::<Vec<u8>>());
    let alpha = alpha.filter(|alpha| alpha.iter().any(|value| *value < u8::MAX));
    Ok((frame_of(image), alpha))
}

fn frame_of(image: DynamicImage) -> Frame {
    let image = image.into_rgb8();
    Frame { width: image.width() as usize, height: image.height() as usize, data: image.into_raw() }
}

/// The same, with what is lost of it.
fn read(path: &Path, limits: &Limits) -> Result<(Frame, Vec<String>)> {
    let (image, lost) = opened(path, limits)?;
    Ok((frame_of(image), lost))
}

fn opened(path: &Path, limits: &Limits) -> Result<(DynamicImage, Vec<String>)> {
    let name = path.display();
    let explain = |cause: &dyn std::fmt::Display| input(format!("cannot read {name}: {cause}"));
    let file = File::open(path).map_err(|cause| explain(&cause))?;
    let reader = ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(|cause| explain(&cause))?;
    let mut decoder = reader.into_decoder().map_err(|cause| explain(&cause))?;
    let (width, height) = decoder.dimensions();
    limits.check_size(&name.to_string(), width as usize, height as usize)?;
    let orientation = decoder.orientation().map_err(|cause| explain(&cause))?;
    // a profile that cannot be read says nothing
    let profile = decoder.icc_profile().ok().flatten();
    let mut image = DynamicImage::from_decoder(decoder).map_err(|cause| explain(&cause))?;
    image.apply_orientation(orientation);
    let lost = picture::lost(path, profile.as_deref(), &image);
    Ok((image, lost))
}

/// Whether a path is named like a picture, and not hidden.
pub(super) fn is_image(file: &Path) -> bool {
    let suffix = file.extension().map(|suffix| suffix.to_string_lossy().to_lowercase());
    let hidden = file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && matches!(suffix.as_deref(), Some("png" | "jpg" | "jpeg" | "webp"))
}

/// Images one after another, all of the size of the first.
pub(super) struct Images {
    paths: VecDeque<PathBuf>,
    first: Option<Frame>,
    size: (usize, usize),
    limits: Limits,
    count: u64,
    lost: Vec<String>,
}

impl Images {
    pub fn one(path: &Path, limits: &Limits) -> Result<Self> {
        let mut images = Self::start(VecDeque::from([path.to_path_buf()]), limits)?;
        images.lost.extend(picture::animation(path));
        Ok(images)
    }

    pub fn directory(path: &Path, limits: &Limits) -> Result<Self> {
        let explain = |cause| input(format!("cannot read {}: {cause}", path.display()));
        let mut paths = Vec::new();
        for entry in fs::read_dir(path).map_err(explain)? {
            let file = entry.map_err(explain)?.path();
            if is_image(&file) {
                paths.push(file);
                limits.check_frames(&path.display().to_string(), paths.len() as u64)?;
            }
        }
        if paths.is_empty() {
            return Err(input(format!("{} holds no PNG or JPEG files", path.display())));
        }
        paths.sort_by(|a, b| natural(&a.to_string_lossy(), &b.to_string_lossy()));
        Self::start(paths.into(), limits)
    }

    fn start(mut paths: VecDeque<PathBuf>, limits: &Limits) -> Result<Self> {
        let count = paths.len() as u64;
        let (first, lost) = match paths.pop_front() {
            Some(path) => read(&path, limits)?,
            None => return Err(input("no images given".into())),
        };
        let size = (first.width, first.height);
        Ok(Self { paths, first: Some(first), size, limits: *limits, count, lost })
    }
}

impl FrameSource for Images {
    fn size(&self) -> (usize, usize) {
        self.size
    }

    fn fps(&self) -> Option<Rate> {
        None
    }

    fn frames(&self) -> Option<u64> {
        Some(self.count)
    }

    fn lost(&self) -> &[String] {
        &self.lost
    }

    fn next(&mut self) -> Result<Option<Frame>> {
        if let Some(frame) = self.first.take() {
            return Ok(Some(frame));
        }
        let Some(path) = self.paths.pop_front() else { return Ok(None) };
        let frame = image(&path, &self.limits)?;
        if (frame.width, frame.height) != self.size {
            return Err(input(format!(
                "{} is {}x{}, and the images before it are {}x{}",
                path.display(),
                frame.width,
                frame.height,
                self.size.0,
                self.size.1
            )));
        }
        Ok(Some(frame))
    }
}

/// Compares names so that numbers in them count by value: `f2` before `f10`.
pub(super) fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    while let (Some(x), Some(y)) = (left.chars().next(), right.chars().next()) {
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let (x, x_rest) = number(left);
            let (y, y_rest) = number(right);
            match x.len().cmp(&y.len()).then(x.cmp(y)) {
                Ordering::Equal => (left, right) = (x_rest, y_rest),
                order => return order,
            }
        } else if x == y {
            (left, right) = (&left[x.len_utf8()..], &right[y.len_utf8()..]);
        } else {
            return x.cmp(&y);
        }
    }
    left.len().cmp(&right.len()).then(a.cmp(b))
}

/// The digits a text starts with, without leading zeros, and the rest.
fn number(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    (text[..end].trim_start_matches('0'), &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::picture;
    use crate::{Fault, fault};

    #[test]
    fn names_sort_by_their_numbers() {
        let mut names = ["f10.png", "f2.png", "f1.png", "f02.png", "a.png", "f2b.png"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["a.png", "f1.png", "f02.png", "f2.png", "f2b.png", "f10.png"]);
    }

    #[test]
    fn images_are_read_within_limits() {
        let directory = tempfile::tempdir().unwrap();
        let save = |name: &str, frame: &Frame| {
            let (width, height) = (frame.width as u32, frame.height as u32);
            let path = directory.path().join(name);
            image::save_buffer(&path, &frame.data, width, height, ExtendedColorType::Rgb8).unwrap();
            path
        };
        let frame = picture(30, 20, 0);
        let path = save("f1.png", &frame);
        assert_eq!(super::image(&path, &Limits::default()).unwrap(), frame);
        let small = Limits { max_pixels: 599, ..Limits::default() };
        assert_eq!(fault(&super::image(&path, &small).unwrap_err()), Some(Fault::Input));
        save("f3.jpg", &frame);
        save("f20.png", &frame);
        let mut images = Images::directory(directory.path(), &Limits::default()).unwrap();
        assert_eq!(images.frames(), Some(3));
        while images.next().unwrap().is_some() {}
        let two = Limits { max_frames: 2, ..Limits::default() };
        assert!(Images::directory(directory.path(), &two).is_err());
        save("f4.png", &picture(31, 20, 0));
        let mut images = Images::directory(directory.path(), &Limits::default()).unwrap();
        assert!(images.next().is_ok() && images.next().is_ok());
        assert!(images.next().unwrap_err().to_string().contains("f4.png is 31x20"));
        std::fs::write(directory.path().join("f0.png"), b"no image").unwrap();
        assert!(Images::directory(directory.path(), &Limits::default()).is_err());
    }
}
