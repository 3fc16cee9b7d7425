//! Reading given videos and images: what a file is follows from its first bytes, not from its name.

use super::fault::input;
use super::format::Rate;
use super::source::{FrameSource, Limits};
use super::{Frame, gif, png, y4m};
use anyhow::Result;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// The frames of a video, in the order they are shown. After an error the iteration is over.
pub struct Reader {
    source: Box<dyn FrameSource>,
    name: String,
    limits: Limits,
    given: u64,
    over: bool,
}

impl Reader {
    /// Width of every frame in pixels.
    pub fn width(&self) -> usize {
        self.source.size().0
    }

    /// Height of every frame in pixels.
    pub fn height(&self) -> usize {
        self.source.size().1
    }

    /// Frames per second on average; none for images and for files that do not say.
    pub fn fps(&self) -> Option<Rate> {
        self.source.fps()
    }

    /// How many frames the file says it has, where it says so; it need not be true.
    pub fn frames(&self) -> Option<u64> {
        self.source.frames()
    }

    /// What of the file is lost or changed when its frames alone are taken (sound, fields, the shape of pixels, a varying rate
    /// ...): a sentence each, with the ffmpeg line that keeps it.
    pub fn lost(&self) -> &[String] {
        self.source.lost()
    }
}

impl Iterator for Reader {
    type Item = Result<Frame>;

    fn next(&mut self) -> Option<Result<Frame>> {
        if self.over {
            return None;
        }
        let next = self.source.next().and_then(|frame| {
            if frame.is_some() {
                self.given += 1;
                self.limits.check_frames(&self.name, self.given)?;
            }
            Ok(frame)
        });
        self.over = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

/// What a given path turned out to be.
enum InputKind {
    Directory,
    Gif,
    Image,
    Y4m,
    /// Anything else is FFmpeg's to judge.
    Other,
}

fn kind(path: &Path) -> Result<InputKind> {
    let explain = |cause| input(format!("cannot read {}: {cause}", path.display()));
    let found = fs::metadata(path).map_err(explain)?;
    if found.is_dir() {
        return Ok(InputKind::Directory);
    }
    if !found.is_file() {
        return Err(input(format!("{} is no regular file", path.display())));
    }
    let mut start = Vec::new();
    File::open(path).and_then(|file| file.take(16).read_to_end(&mut start)).map_err(explain)?;
    Ok(match start.as_slice() {
        [] => return Err(input(format!("{} is empty", path.display()))),
        start if gif::is_gif(start) => InputKind::Gif,
        start if y4m::is_y4m(start) => InputKind::Y4m,
        [0x89, b'P', b'N', b'G', ..] | [0xff, 0xd8, 0xff, ..] => InputKind::Image,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => InputKind::Image,
        _ => InputKind::Other,
    })
}

/// Opens a video (MP4, WebM and others through FFmpeg), a GIF, a y4m file, a directory of images or one image.
///
/// Sizes and frame counts beyond `limits` are errors, before anything of that size is allocated. A video that asks to be
/// shown rotated or mirrored comes so. A video with a varying rate comes on an even grid of its most frequent interval.
/// HDR is refused: as ordinary video it would be washed out.
pub fn read(path: &Path, limits: &Limits) -> Result<Reader> {
    let source: Box<dyn FrameSource> = match kind(path)? {
        InputKind::Directory => Box::new(png::Images::directory(path, limits)?),
        InputKind::Gif => Box::new(gif::GifSource::open(path, limits)?),
        InputKind::Image => Box::new(png::Images::one(path, limits)?),
        InputKind::Y4m => Box::new(y4m::Y4mSource::open(path, limits)?),
        InputKind::Other => super::ffmpeg::read(path, limits)?,
    };
    Ok(Reader { source, name: path.display().to_string(), limits: *limits, given: 0, over: false })
}

/// The manifest that was stored in a video: the `comment` of MP4, WebM and GIF files, `manifest.json` of a directory. The
/// text is as found; a file made by another program may hold any comment.
pub fn metadata(path: &Path) -> Result<Option<String>> {
    match kind(path)? {
        InputKind::Directory => png::metadata(path),
        InputKind::Gif => gif::metadata(path),
        InputKind::Image | InputKind::Y4m => Ok(None),
        InputKind::Other => super::ffmpeg::metadata(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fault, fault};

    struct Endless(u64);

    impl FrameSource for Endless {
        fn size(&self) -> (usize, usize) {
            (1, 1)
        }
        fn fps(&self) -> Option<Rate> {
            None
        }
        fn next(&mut self) -> Result<Option<Frame>> {
            self.0 += 1;
            Ok(Some(Frame { width: 1, height: 1, data: vec![0; 3] }))
        }
    }

    #[test]
    fn the_frame_limit_ends_the_iteration() {
        let limits = Limits { max_frames: 3, ..Limits::default() };
        let reader = Reader { source: Box::new(Endless(0)), name: "x".into(), limits, given: 0, over: false };
        let found: Vec<_> = reader.collect();
        assert_eq!(found.len(), 4);
        assert_eq!(fault(found[3].as_ref().unwrap_err()), Some(Fault::Input));
    }

    #[test]
    fn missing_and_strange_files_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.mp4");
        assert_eq!(fault(&read(&path, &Limits::default()).err().unwrap()), Some(Fault::Input));
        std::fs::write(&path, b"").unwrap();
        assert!(read(&path, &Limits::default()).err().unwrap().to_string().contains("empty"));
        std::fs::write(&path, b"this is no video at all, only some text").unwrap();
        assert_eq!(fault(&read(&path, &Limits::default()).err().unwrap()), Some(Fault::Input));
        assert!(read(directory.path(), &Limits::default()).err().unwrap().to_string().contains("no PNG"));
    }
}
