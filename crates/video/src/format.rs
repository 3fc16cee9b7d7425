//! Formats, codecs, pixel formats and frame rates, as the command line spells them.
//!
//! The suffix of the output path picks the format; nothing here opens a file, except that [`Format::from_path`] asks
//! whether the path is a directory.

use super::fault::usage;
use anyhow::Result;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use vidgen_base::words;

/// What an output path means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.mp4`: H.264, or another codec of [`Codec`]; needs FFmpeg.
    Mp4,
    /// `.webm`: VP9, VP8 or AV1; needs FFmpeg.
    Webm,
    /// `.gif`: 256 colours for each frame, loops.
    Gif,
    /// `NAME/`: a directory of numbered PNGs and `manifest.json`.
    PngDir,
    /// `-`: uncompressed y4m on standard output.
    Y4mStdout,
    /// `.y4m`: uncompressed y4m in a file.
    Y4m,
}

/// The suffixes and forms an output path may have, for messages.
pub const KNOWN_FORMS: &str = ".mp4, .webm, .gif, .y4m, NAME/ (a directory of PNGs), - (y4m on standard output)";

impl Format {
    /// The format an output path asks for. Errors: an existing directory without a trailing slash, an unknown suffix, no
    /// suffix at all; each says what to write instead.
    pub fn from_path(path: &Path) -> Result<Self> {
        let shown = path.display();
        let bytes = path.as_os_str().as_encoded_bytes();
        if bytes.is_empty() {
            return Err(usage(format!("the output path is empty: give {KNOWN_FORMS}")));
        }
        if bytes == b"-" {
            return Ok(Self::Y4mStdout);
        }
        if bytes.last().is_some_and(|&byte| std::path::is_separator(char::from(byte))) {
            return match path.file_name() {
                Some(_) => Ok(Self::PngDir),
                None => Err(usage(format!("{shown} cannot become a directory of PNGs: give it a name, as in frames/"))),
            };
        }
        if path.is_dir() {
            // one that is named by dots cannot be replaced
            let whole = if path.file_name().is_some() {
                format!("write {shown}/ for numbered PNGs, or ")
            } else {
                String::new()
            };
            return Err(usage(format!("{shown} is a directory: {whole}name a file, as in {shown}/video.mp4")));
        }
        let suffix = path.extension().map(|suffix| suffix.to_string_lossy().to_lowercase());
        match suffix.as_deref() {
            Some("mp4") => Ok(Self::Mp4),
            Some("webm") => Ok(Self::Webm),
            Some("gif") => Ok(Self::Gif),
            Some("y4m") => Ok(Self::Y4m),
            Some("png") => Err(usage(format!(
                "{shown}: one PNG holds one frame; write {}/ for a directory of numbered PNGs",
                path.with_extension("").display()
            ))),
            Some(other) => Err(usage(format!("{shown}: unknown format .{other}; known: {KNOWN_FORMS}"))),
            None if known_suffix(bytes) => {
                Err(usage(format!("{shown} is a suffix alone: write a name before it, as in video{shown}")))
            }
            None => Err(usage(format!(
                "{shown} has no suffix to choose a format by: write {shown}.mp4, or {shown}/ for a directory of PNGs \
                 (known: {KNOWN_FORMS})"
            ))),
        }
    }

    /// True for the formats that FFmpeg writes.
    pub fn needs_ffmpeg(self) -> bool {
        matches!(self, Self::Mp4 | Self::Webm)
    }

    /// The codecs this format may hold, the preferred one first; empty where there is no choice.
    pub fn codecs(self) -> &'static [Codec] {
        match self {
            Self::Mp4 => &[Codec::H264, Codec::Mpeg4, Codec::Hevc, Codec::Av1, Codec::Vp9],
            Self::Webm => &[Codec::Vp9, Codec::Vp8, Codec::Av1],
            Self::Gif | Self::PngDir | Self::Y4m | Self::Y4mStdout => &[],
        }
    }
}

/// Whether a path is a known suffix and nothing before it, which counts as the name of a hidden file.
fn known_suffix(path: &[u8]) -> bool {
    [&b".mp4"[..], b".webm", b".gif", b".y4m"].iter().any(|suffix| path.eq_ignore_ascii_case(suffix))
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mp4 => "MP4",
            Self::Webm => "WebM",
            Self::Gif => "GIF",
            Self::PngDir => "a directory of PNGs",
            Self::Y4m => "y4m",
            Self::Y4mStdout => "y4m on standard output",
        })
    }
}

words!(
    /// A way to compress video. Which of them exist depends on how FFmpeg was built.
    Codec, "codec", {
        H264 = "h264" | "h.264" | "avc" | "x264" | "libx264",
        Mpeg4 = "mpeg4" | "mpeg-4",
        Hevc = "hevc" | "h265" | "h.265" | "x265" | "libx265",
        Av1 = "av1" | "libaom-av1" | "libsvtav1",
        Vp9 = "vp9" | "libvpx-vp9",
        Vp8 = "vp8" | "libvpx",
    }
);

impl Codec {
    /// The largest `--crf`; 0 is the best quality.
    pub fn max_crf(self) -> u32 {
        match self {
            Self::H264 | Self::Hevc | Self::Mpeg4 => 51,
            Self::Vp9 | Self::Vp8 | Self::Av1 => 63,
        }
    }
}

words!(
    /// How many bits and how much colour resolution a frame keeps. All are BT.709, limited range.
    PixelFormat, "pixel format", {
        Yuv420p = "yuv420p",
        Yuv422p = "yuv422p",
        Yuv444p = "yuv444p",
        Yuv420p10 = "yuv420p10le" | "yuv420p10",
        Yuv422p10 = "yuv422p10le" | "yuv422p10",
        Yuv444p10 = "yuv444p10le" | "yuv444p10",
    }
);

impl PixelFormat {
    /// Luma columns and rows that share one colour sample.
    pub fn subsampling(self) -> (usize, usize) {
        match self {
            Self::Yuv420p | Self::Yuv420p10 => (2, 2),
            Self::Yuv422p | Self::Yuv422p10 => (2, 1),
            Self::Yuv444p | Self::Yuv444p10 => (1, 1),
        }
    }

    /// Bits of a sample.
    pub fn depth(self) -> u32 {
        match self {
            Self::Yuv420p | Self::Yuv422p | Self::Yuv444p => 8,
            Self::Yuv420p10 | Self::Yuv422p10 | Self::Yuv444p10 => 10,
        }
    }

    /// Refuses a size whose sides the colour resolution does not divide; the message names the nearest sizes that go.
    pub fn check_size(self, width: usize, height: usize) -> Result<()> {
        let (across, down) = self.subsampling();
        if width.is_multiple_of(across) && height.is_multiple_of(down) {
            return Ok(());
        }
        let sides = |side: usize, step: usize| {
            let low = side / step * step;
            if low == side || low == 0 { vec![side.next_multiple_of(step)] } else { vec![low, low + step] }
        };
        let mut sizes = Vec::new();
        for &w in &sides(width, across) {
            for &h in &sides(height, down) {
                sizes.push(format!("{w}x{h}"));
            }
        }
        let why = if down == 2 { "an even width and height" } else { "an even width" };
        Err(usage(format!(
            "{self} needs {why}, and the video is {width}x{height}: use {}, or --pix-fmt yuv444p",
            sizes.join(" or ")
        )))
    }
}

/// Frames per second as a fraction in lowest terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub num: u32,
    pub den: u32,
}

impl Rate {
    /// The fraction in lowest terms; an error unless it lies in (0, 1000].
    pub fn new(num: u32, den: u32) -> Result<Self> {
        if num == 0 || den == 0 || u64::from(num) > 1000 * u64::from(den) {
            let asked = if den == 1 { num.to_string() } else { format!("{num}/{den}") };
            return Err(usage(format!("{asked} is no frame rate: give frames per second above 0, at most 1000")));
        }
        let divisor = gcd(num, den);
        Ok(Self { num: num / divisor, den: den / divisor })
    }

    pub fn as_f64(self) -> f64 {
        f64::from(self.num) / f64::from(self.den)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.den == 1 { write!(f, "{}", self.num) } else { write!(f, "{}/{}", self.num, self.den) }
    }
}

impl FromStr for Rate {
    type Err = anyhow::Error;

    /// `8`, `7.5`, `30000/1001`; 23.976, 29.97 and 59.94 mean the broadcast fractions.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || usage(format!("{text} is no frame rate: write 8, 7.5 or 30000/1001"));
        if let Some((num, den)) = text.split_once('/') {
            return Self::new(num.trim().parse().map_err(|_| bad())?, den.trim().parse().map_err(|_| bad())?);
        }
        match text {
            "23.976" | "23.98" => return Self::new(24000, 1001),
            "29.97" => return Self::new(30000, 1001),
            "59.94" => return Self::new(60000, 1001),
            _ => {}
        }
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        if whole.is_empty() || part.len() > 4 || !format!("{whole}{part}").bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad());
        }
        let den = 10u32.pow(part.len() as u32); // at most 10^4
        Self::new(format!("{whole}{part}").parse().map_err(|_| bad())?, den)
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: fmt::Debug>(result: Result<T>) -> String {
        result.expect_err("an error").to_string()
    }

    #[test]
    fn the_suffix_picks_the_format() {
        let format = |path: &str| Format::from_path(Path::new(path));
        assert_eq!(format("a.mp4").unwrap(), Format::Mp4);
        assert_eq!(format("dir.d/A.MP4").unwrap(), Format::Mp4);
        assert_eq!(format("x/y.webm").unwrap(), Format::Webm);
        assert_eq!(format("y.gif").unwrap(), Format::Gif);
        assert_eq!(format("y.y4m").unwrap(), Format::Y4m);
        assert_eq!(format("-").unwrap(), Format::Y4mStdout);
        assert_eq!(format("frames/").unwrap(), Format::PngDir);
        assert_eq!(format("a.mp4/").unwrap(), Format::PngDir);
        assert!(message(format("a.avi")).contains(".webm"), "an unknown suffix lists the known ones");
        assert!(message(format("video")).contains("video.mp4"), "no suffix: advice");
        assert!(message(format("a.png")).contains("a/"));
        assert!(message(format(".mp4")).contains("as in video.mp4"));
        assert!(message(format(".")).contains("name a file") && !message(format("..")).contains("PNGs"));
        assert!(message(format("")).contains("empty"));
        assert!(message(format("/")).contains("name"));
        assert!(message(format("../")).contains("name"));
        let directory = tempfile::tempdir().unwrap();
        assert!(message(Format::from_path(directory.path())).contains("is a directory"));
        let named = directory.path().join("clip.mp4");
        std::fs::create_dir(&named).unwrap();
        assert!(message(Format::from_path(&named)).contains("is a directory"));
    }

    #[test]
    fn rates_are_read_and_reduced() {
        let rate = |text: &str| text.parse::<Rate>();
        assert_eq!(rate("8").unwrap(), Rate { num: 8, den: 1 });
        assert_eq!(rate("7.5").unwrap(), Rate { num: 15, den: 2 });
        assert_eq!(rate("48/6").unwrap().to_string(), "8");
        assert_eq!(rate("29.97").unwrap().to_string(), "30000/1001");
        for bad in ["0", "-1", "", ".", "x", "1/0", "1e3", "99999999999", "1001", "8.123456", "+8"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_survive_a_round_trip() {
        for codec in Codec::ALL {
            assert_eq!(codec.to_string().parse::<Codec>().unwrap(), codec);
        }
        for format in PixelFormat::ALL {
            assert_eq!(format.to_string().parse::<PixelFormat>().unwrap(), format);
        }
        assert_eq!("yuv420p10".parse::<PixelFormat>().unwrap(), PixelFormat::Yuv420p10);
        assert!(message("yuv421p".parse::<PixelFormat>()).contains("yuv444p"));
        assert!(message("divx".parse::<Codec>()).contains("hevc"));
    }

    #[test]
    fn odd_sizes_name_the_nearest_legal_ones() {
        let text = message(PixelFormat::Yuv420p.check_size(145, 96));
        assert!(text.contains("144x96 or 146x96"), "{text}");
        let text = message(PixelFormat::Yuv420p.check_size(1, 3));
        assert!(text.contains("2x2 or 2x4"), "{text}");
        assert!(PixelFormat::Yuv422p.check_size(144, 97).is_ok());
        assert!(PixelFormat::Yuv444p.check_size(145, 97).is_ok());
    }
}
