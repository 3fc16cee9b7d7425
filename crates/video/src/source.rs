//! Limits on a given file, and the trait of everything that frames are read from.

use super::Frame;
use super::fault::input;
use super::format::Rate;
use anyhow::Result;
use std::path::Path;

/// Largest manifest that is read, in bytes.
pub(super) const MAX_METADATA: u64 = 16 << 20;

/// How much a given file may ask for; files from outside can claim anything.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Pixels of a frame.
    pub max_pixels: u64,
    pub max_frames: u64,
}

impl Default for Limits {
    /// 8192 x 8192 pixels, 100 000 frames.
    fn default() -> Self {
        Self { max_pixels: 8192 * 8192, max_frames: 100_000 }
    }
}

impl Limits {
    pub(super) fn check_size(&self, name: &str, width: usize, height: usize) -> Result<()> {
        if width == 0 || height == 0 {
            return Err(input(format!("{name} has no size")));
        }
        match (width as u64).checked_mul(height as u64) {
            Some(pixels) if pixels <= self.max_pixels => Ok(()),
            _ => Err(input(format!("{name} is {width}x{height}; at most {} pixels are read", self.max_pixels))),
        }
    }

    pub(super) fn check_frames(&self, name: &str, frames: u64) -> Result<()> {
        if frames <= self.max_frames {
            Ok(())
        } else {
            Err(input(format!("{name} has more than {} frames", self.max_frames)))
        }
    }
}

/// A thing that frames come out of, one by one.
pub(super) trait FrameSource {
    /// Width and height of every frame.
    fn size(&self) -> (usize, usize);
    fn fps(&self) -> Option<Rate>;
    /// How many frames the file says it has.
    fn frames(&self) -> Option<u64> {
        None
    }
    /// What of the file is lost or changed in reading it as frames; a sentence each.
    fn lost(&self) -> &[String] {
        &[]
    }
    /// The next frame; none at the end.
    fn next(&mut self) -> Result<Option<Frame>>;
}

/// What is said of a video whose transparency is left out. `decoder`: what stands before the input in the line of ffmpeg.
pub(super) fn transparent(path: &Path, decoder: &str) -> String {
    format!(
        "{} is partly transparent, which is left out; to lay it on white: ffmpeg {decoder}-i {} -vf \
         \"split[a][b];[a]drawbox=c=white:t=fill[c];[c][b]overlay=format=auto\" -crf 12 opaque.mp4",
        path.display(),
        quoted(path)
    )
}

/// A path as a shell takes it.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./+:@%,".contains(c);
    if text.chars().all(plain) && !text.starts_with('-') {
        return text;
    }
    let text = if text.starts_with('-') { format!("./{text}") } else { text };
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bounded_without_overflow() {
        let limits = Limits { max_pixels: 100, ..Limits::default() };
        assert!(limits.check_size("x", 10, 10).is_ok());
        assert!(limits.check_size("x", 10, 11).is_err());
        assert!(limits.check_size("x", usize::MAX, usize::MAX).is_err());
        assert!(limits.check_size("x", 0, 5).is_err());
    }

    #[test]
    fn paths_are_quoted_for_a_shell() {
        for (path, shell) in [
            ("a.mp4", "a.mp4"),
            ("my clip.mp4", "'my clip.mp4'"),
            ("it's.mp4", r"'it'\''s.mp4'"),
            ("-x.mp4", "'./-x.mp4'"),
            ("$HOME.mp4", "'$HOME.mp4'"),
            ("d/é.mp4", "'d/é.mp4'"),
        ] {
            assert_eq!(quoted(Path::new(path)), shell);
        }
    }
}
