//! Frames in, files out; and reading back.
//!
//! The suffix of the output path picks the format. MP4 and WebM go through FFmpeg's libraries (cargo feature `video`);
//! GIF, PNG directories and y4m need nothing. Everything that can be wrong with an output is found by [`check`] before
//! the run, and a file appears under its name only when it is whole.
//!
//! | format | codec | frames come back | manifest is in |
//! |---|---|---|---|
//! | `.mp4` | H.264 (libx264, crf 17), else MPEG-4; hevc, av1, vp9 by choice | nearly | metadata key `comment` |
//! | `.webm` | VP9, else VP8; av1 by choice | nearly | tag `COMMENT` |
//! | `.gif` | 256 colours each | roughly | comment extension |
//! | `NAME/` | PNG | exactly | `manifest.json` |
//! | `.y4m`, `-` | none, 4:2:0 | up to colour resolution | nowhere |
//!
//! All Y'CbCr is BT.709 (VP8: BT.601, which its format fixes), limited range, converted here and tagged so where the format
//! has a place for it. A y4m stream has none: it has the matrix that its readers guess by the size.
//!
//! ```no_run
//! use std::path::Path;
//! use vidgen_video::{self as video, Frame, Output, Rate};
//!
//! # fn main() -> anyhow::Result<()> {
//! let output = Output::new(Path::new("red.mp4"), 64, 48, Rate { num: 8, den: 1 })?;
//! video::check(&output)?;
//! let mut writer = video::open(&output)?;
//! for _ in 0..16 {
//!     writer.write(Frame { width: 64, height: 48, data: [255, 0, 0].repeat(64 * 48) })?;
//! }
//! println!("{}", writer.finish()?.path.display());
//! # Ok(())
//! # }
//! ```

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "opens files")]

mod canny;
mod cut;
mod fault;
#[cfg_attr(not(feature = "video"), path = "no_ffmpeg.rs")]
mod ffmpeg;
mod folder;
mod format;
mod gif;
mod grid;
mod partial;
mod partial_dir;
mod picture;
pub mod pillow;
mod place;
mod png;
mod read;
mod resize;
mod results;
mod source;
mod spool;
mod still;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod writer;
mod y4m;
mod yuv;

pub use cut::Cut;
pub use fault::{Fault, VideoError, fault};
pub use folder::videos;
pub use format::{Codec, Format, KNOWN_FORMS, PixelFormat, Rate};
pub use partial_dir::sweep_output;
pub use png::cutout;
pub use read::{Reader, metadata, read};
pub use resize::{Fit, Placed};
pub use results::Folder;
pub use source::Limits;
pub use spool::{Frames, Spool};
pub use still::{jpeg, side_by_side, write_png};
pub use vidgen_base::disk::check_name;
pub use writer::Writer;

use anyhow::Result;
use fault::usage;
use std::fmt;
use std::path::{Path, PathBuf};

/// One picture.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// Red, green, blue for each pixel, row by row from the top: `width * height * 3` bytes.
    pub data: Vec<u8>,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({}x{}, {} bytes)", self.width, self.height, self.data.len())
    }
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub path: PathBuf,
    pub format: Format,
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    pub fps: Rate,
    /// Quality, 0 (best) to 51 or 63; none for the codec's own default (17 for H.264).
    pub crf: Option<u32>,
    /// None for the format's first codec that this FFmpeg has.
    pub codec: Option<Codec>,
    /// None for yuv420p.
    pub pix_fmt: Option<PixelFormat>,
    /// Threads of the encoder. None for a fixed number, the same on every machine: the number decides the bytes.
    pub threads: Option<usize>,
    /// The manifest as JSON.
    pub metadata: Option<String>,
    /// Whether a file of the same name may be replaced.
    pub overwrite: bool,
}

impl Output {
    /// An output with every choice left to its default; the format follows from the path. Errors: see
    /// [`Format::from_path`].
    pub fn new(path: &Path, width: usize, height: usize, fps: Rate) -> Result<Self> {
        Ok(Self {
            path: path.to_path_buf(),
            format: Format::from_path(path)?,
            width,
            height,
            fps,
            crf: None,
            codec: None,
            pix_fmt: None,
            threads: None,
            metadata: None,
            overwrite: false,
        })
    }

    /// The path as it would be asked for: directories end in a slash.
    pub fn asked(&self) -> String {
        let path = self.path.to_string_lossy();
        match self.format {
            Format::PngDir if !path.ends_with('/') => format!("{path}/"),
            _ => path.into_owned(),
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Where it is now; another name than asked for if that was taken during the run.
    pub path: PathBuf,
    /// The encoder, by FFmpeg's name where it is FFmpeg's: `libx264`, `mpeg4`, `libvpx-vp9`, `gif`, `png`, `y4m`.
    pub codec: String,
    /// Whatever the user should know, one line each.
    pub warnings: Vec<String>,
    pub bytes: u64,
    pub frames: u64,
}

/// What [`check`] found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputCheck {
    /// The encoder that will be used, as in [`Written::codec`].
    pub codec: String,
    /// For one that a poorer codec stands in for the default one.
    pub warnings: Vec<String>,
}

/// Takes frames one by one.
pub trait FrameSink {
    /// Takes the next frame; all have the size of the output.
    fn write(&mut self, frame: Frame) -> Result<()>;
    /// Completes the output and gives it its name. A sink that is dropped instead leaves nothing behind.
    fn finish(self: Box<Self>) -> Result<Written>;
}

/// Longest side of a frame in pixels.
const MAX_SIDE: usize = 16384;

/// Finds everything that is wrong with an output before any work is done: the place (missing or unwritable directory,
/// existing file), the size, the frame rate, codec and pixel format, and whether this build and this FFmpeg have them,
/// by opening the encoder once with these very settings. The kind of an error is in [`fault`].
pub fn check(output: &Output) -> Result<OutputCheck> {
    let shown = partial::shown(output);
    let (width, height) = (output.width, output.height);
    if width == 0 || height == 0 || width > MAX_SIDE || height > MAX_SIDE {
        return Err(usage(format!("a video of {width}x{height}: sides go from 1 to {MAX_SIDE}")));
    }
    Rate::new(output.fps.num, output.fps.den)?;
    if output.metadata.as_deref().is_some_and(|text| text.contains('\0')) {
        return Err(usage(format!("{shown}: metadata with a zero byte cannot be stored")));
    }
    let format = output.format;
    let option = if output.codec.is_some() {
        Some("--codec")
    } else if output.crf.is_some() {
        Some("--crf")
    } else if output.pix_fmt.is_some() && !matches!(format, Format::Y4m | Format::Y4mStdout) {
        Some("--pix-fmt")
    } else {
        None
    };
    if let (false, Some(option)) = (format.needs_ffmpeg(), option) {
        return Err(usage(format!("{shown}: {option} has no meaning for {format}; it is for .mp4 and .webm")));
    }
    let checked = match format {
        Format::Mp4 | Format::Webm => ffmpeg::check(output)?,
        Format::Gif => {
            gif::check(output)?;
            OutputCheck { codec: "gif".into(), warnings: Vec::new() }
        }
        Format::PngDir => OutputCheck { codec: "png".into(), warnings: Vec::new() },
        Format::Y4m | Format::Y4mStdout => {
            y4m::check(output)?;
            OutputCheck { codec: "y4m".into(), warnings: Vec::new() }
        }
    };
    place::check_place(output)?;
    Ok(checked)
}

/// The version of FFmpeg; none in builds without it.
pub fn library() -> Option<String> {
    ffmpeg::library()
}

/// Those of FFmpeg's encoders that vidgen knows and this FFmpeg has.
pub fn encoders() -> Vec<&'static str> {
    ffmpeg::available()
}

/// The encoder of an MP4 for which nothing was asked, opened once.
pub fn h264_works() -> Result<String> {
    let folder = tempfile::tempdir()?;
    let output = Output::new(&folder.path().join("a.mp4"), 64, 64, Rate::new(8, 1)?)?;
    Ok(check(&output)?.codec)
}

/// Checks the output again and starts the thread that writes it. Frames wait in a short queue; an error of the thread
/// comes back from the next [`Writer::write`] or from [`Writer::finish`].
pub fn open(output: &Output) -> Result<Writer> {
    check(output)?;
    let sink: Box<dyn FrameSink + Send> = match output.format {
        Format::Mp4 | Format::Webm => ffmpeg::open(output)?,
        Format::Gif => Box::new(gif::GifSink::open(output)?),
        Format::PngDir => Box::new(png::PngSink::open(output)?),
        Format::Y4m | Format::Y4mStdout => y4m::open(output)?,
    };
    Writer::start(sink, output)
}
