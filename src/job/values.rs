//! The values that settings take, read from words.

pub use crate::recipe::{FrameNoise, Uncond};
pub use crate::words::{Duration, list, text, unknown};

use crate::timeline::Motion;
use crate::words::words;
use anyhow::{Context, Error, Result, bail};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

words!(
    /// Another program whose run is to be reproduced.
    Parity, "program", { Diffusers = "diffusers", Sat = "sat", Paper = "paper" }
);
words!(
    /// The dtype to compute in.
    Precision, "dtype", { Auto = "auto", F32 = "f32", Bf16 = "bf16", F16 = "f16" }
);
words!(
    /// The attention kernel.
    Attention, "attention kernel", { Auto = "auto", Flash3 = "flash3", Flash2 = "flash2", Sdpa = "sdpa", Math = "math" }
);
words!(
    /// Whether the decoder works in tiles.
    Tiling, "tiling mode", { Auto = "auto", On = "on", Off = "off" }
);
words!(
    /// Where weights that are not in use are kept.
    Offload, "way to offload", {
        Auto = "auto",
        /// On the device, from one video to the next.
        None = "none",
        /// Dropped: one network at a time is loaded.
        Model = "model",
        /// As `Model`, and the transformer's blocks are kept in host memory and copied to the device one at a time.
        Block = "block",
        /// As `Block`, read from their files each time.
        Disk = "disk",
    }
);
words!(
    /// Previews of a run in progress.
    PreviewKind, "kind of preview", { Off = "off", Strip = "strip", Video = "video" }
);
words!(
    /// Frames of the file for each one that the model makes.
    Interpolate, "factor", { Two = "2x", Four = "4x", Eight = "8x" }
);
words!(
    /// Where the manifest goes.
    ManifestMode, "place for the manifest", { Embed = "embed", Sidecar = "sidecar", Both = "both", None = "none" }
);

words!(
    /// What is kept of an interrupted run.
    OnInterrupt, "way to end", {
        /// The run, which can be resumed.
        Save = "save",
        /// The run, and a draft of the video.
        Decode = "decode",
        /// Nothing.
        Discard = "discard",
    }
);

impl Interpolate {
    pub fn factor(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}
words!(
    /// How a model of short clips makes longer videos.
    Method, "method", {
        /// A clip where one is enough, else FreeNoise; windows where a video is continued.
        Auto = "auto",
        /// All frames in one pass, attention in time by windows (FreeNoise, arXiv 2310.15169).
        FreeNoise = "freenoise",
        /// Windows that overlap, one after the other, blended.
        Windows = "windows",
        /// Windows that share keys and values (DiTCtrl, arXiv 2412.18597).
        DitCtrl = "ditctrl",
    }
);

/// `FILE:WEIGHT` in two, or a file alone with weight 1.
pub(super) fn weighed(text: &str) -> (&str, f64) {
    let both = text.rsplit_once(':').and_then(|(file, weight)| Some((file, weight.trim().parse().ok()?)));
    both.unwrap_or((text, 1.0))
}

/// A LoRA file and how much it counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    pub file: PathBuf,
    pub weight: f64,
}

impl FromStr for Lora {
    type Err = Error;

    /// `FILE` or `FILE:0.8`.
    fn from_str(text: &str) -> Result<Self> {
        let (file, weight) = weighed(text);
        if file.trim().is_empty() || !weight.is_finite() {
            bail!("{text:?} is not FILE or FILE:WEIGHT, as style.safetensors:0.8")
        }
        Ok(Self { file: PathBuf::from(file), weight })
    }
}

impl fmt::Display for Lora {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.weight)
    }
}

/// A moment of a video, in seconds from its beginning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seconds(pub f64);

impl FromStr for Seconds {
    type Err = Error;

    /// `0`, `1.5`, `6s`, `1m30s`.
    fn from_str(text: &str) -> Result<Self> {
        let nothing = text.trim().trim_end_matches('s').parse::<f64>().is_ok_and(|seconds| seconds == 0.0);
        if nothing { Ok(Self(0.0)) } else { Ok(Self(text.parse::<Duration>()?.0)) }
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

/// What `--anchor` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnchorAsked {
    /// A frame of the video, from 0.
    Frame(usize),
    /// A picture.
    Image(PathBuf),
    /// Nothing: the text alone.
    None,
}

impl FromStr for AnchorAsked {
    type Err = Error;

    /// `frame:0`, `image:cat.png`, `none`.
    fn from_str(text: &str) -> Result<Self> {
        let frame = |number: &str| number.trim().parse().ok().map(Self::Frame);
        let found = match text.split_once(':') {
            None if text == "none" => Some(Self::None),
            Some(("frame", number)) => frame(number),
            Some(("image", file)) if !file.trim().is_empty() => Some(Self::Image(PathBuf::from(file))),
            _ => None,
        };
        found.with_context(|| format!("{text:?} is no anchor: give frame:N (from 0), image:FILE or none"))
    }
}

impl fmt::Display for AnchorAsked {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Frame(frame) => write!(f, "frame:{frame}"),
            Self::Image(file) => write!(f, "image:{}", file.display()),
            Self::None => f.write_str("none"),
        }
    }
}

/// What `--motion` says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MotionAsked {
    By(Motion),
    /// Frames from noise of their own.
    None,
}

impl FromStr for MotionAsked {
    type Err = Error;

    /// `12,12` or `none`.
    fn from_str(text: &str) -> Result<Self> {
        if text == "none" { Ok(Self::None) } else { text.parse().map(Self::By) }
    }
}

impl fmt::Display for MotionAsked {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::By(motion) => write!(f, "{motion}"),
            Self::None => f.write_str("none"),
        }
    }
}

/// How often a run is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Every {
    /// After so many steps, and as many chunks of decoding.
    Steps(usize),
    /// So that no more work than this is lost.
    Time(Duration),
}

impl Default for Every {
    /// A minute.
    fn default() -> Self {
        Self::Time(Duration(60.0))
    }
}

impl FromStr for Every {
    type Err = Error;

    /// `5` (steps), `60s`, `2m`.
    fn from_str(word: &str) -> Result<Self> {
        match word.trim().parse::<usize>() {
            Ok(0) => bail!("a checkpoint every 0 steps: give 1 or more, or a length of time, as 60s"),
            Ok(steps) => Ok(Self::Steps(steps)),
            Err(_) => Ok(Self::Time(word.parse()?)),
        }
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Steps(steps) => steps.fmt(f),
            Self::Time(time) => time.fmt(f),
        }
    }
}

impl ManifestMode {
    pub fn embeds(self) -> bool {
        matches!(self, Self::Embed | Self::Both)
    }

    pub fn writes_sidecar(self) -> bool {
        matches!(self, Self::Sidecar | Self::Both)
    }
}

/// A seed as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seed {
    Random,
    Fixed(u64),
}

impl FromStr for Seed {
    type Err = Error;

    /// A number; a negative one, as in other programs, or `random` for a random seed.
    fn from_str(word: &str) -> Result<Self> {
        if word.eq_ignore_ascii_case("random") {
            return Ok(Self::Random);
        }
        match word.parse::<i128>() {
            Ok(number) if number < 0 => Ok(Self::Random),
            Ok(number) if number <= i128::from(u64::MAX) => Ok(Self::Fixed(number as u64)),
            _ => match word.parse::<f64>() {
                Ok(number) if number.fract() == 0.0 && (0.0..9e15).contains(&number) => {
                    bail!("seed {word:?}: write it in digits, as {}", number as u64)
                }
                _ => bail!("seed {word:?} is neither a number up to {} nor random", u64::MAX),
            },
        }
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Random => f.write_str("random"),
            Self::Fixed(seed) => seed.fmt(f),
        }
    }
}

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub width: usize,
    pub height: usize,
}

impl FromStr for Size {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        let sides = word.split_once(['x', 'X', '*', '\u{d7}']);
        match sides.map(|(width, height)| (width.trim().parse(), height.trim().parse())) {
            Some((Ok(width), Ok(height))) => Ok(Self { width, height }),
            _ => bail!("size {word:?} is not WIDTHxHEIGHT, as 144x96"),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// An amount of memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySize(pub u64);

/// Units of memory, the largest first.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1000),
    ("B", 1),
];

impl FromStr for MemorySize {
    type Err = Error;

    /// `12GB` (powers of ten), `12GiB` (powers of two), `1.5G`, `800M`; a number alone says too little.
    fn from_str(word: &str) -> Result<Self> {
        let word = word.trim();
        let (number, unit) = word.split_at(word.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(word.len()));
        let Ok(number) = number.trim().parse::<f64>() else { bail!("{word:?} is no amount of memory, as 12GB") };
        // a letter alone stands for the unit of powers of ten
        let named =
            |name: &str| name.eq_ignore_ascii_case(unit) || (name.len() == 2 && name[..1].eq_ignore_ascii_case(unit));
        let Some((_, bytes)) = UNITS.iter().find(|(name, _)| named(name)) else {
            bail!("{word:?} has no unit of memory: say GB, GiB, MB or MiB, as 12GB")
        };
        let bytes = number * *bytes as f64;
        if !(1.0..9e18).contains(&bytes) {
            bail!("{word:?} is no amount of memory that a device has")
        }
        Ok(Self(bytes.round() as u64))
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        // the last one is a byte
        let (name, bytes) = UNITS.into_iter().find(|(_, bytes)| self.0.is_multiple_of(*bytes)).unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / bytes)
    }
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceSpec {
    Auto,
    Cpu,
    Cuda(usize),
    Metal(usize),
}

impl FromStr for DeviceSpec {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        let lower = word.to_ascii_lowercase();
        let (name, index) = lower.split_once(':').map_or((lower.as_str(), None), |(name, index)| (name, Some(index)));
        let ordinal = match index.map(str::parse) {
            None => 0,
            Some(Ok(ordinal)) => ordinal,
            Some(Err(_)) => bail!("device {word:?}: {:?} is not a number", index.unwrap_or_default()),
        };
        match (name, index) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(ordinal)),
            ("metal", _) => Ok(Self::Metal(ordinal)),
            _ => {
                let gpu = if cfg!(target_os = "macos") { "metal" } else { "cuda" };
                let meant = match name {
                    "gpu" | "accelerator" => gpu,
                    "nvidia" | "rocm" | "hip" | "amd" => "cuda",
                    "mps" | "apple" | "mac" => "metal",
                    "host" | "processor" => "cpu",
                    _ => return Err(unknown("device", word, &["auto", "cpu", "cuda", "metal"])),
                };
                bail!("unknown device {word:?}: did you mean {meant}? (known: auto, cpu, cuda, metal)")
            }
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Metal(ordinal) => write!(f, "metal:{ordinal}"),
        }
    }
}

/// Where embeddings of texts are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextCacheAt {
    Off,
    Folder(PathBuf),
}

impl FromStr for TextCacheAt {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "" => bail!("an empty directory name"),
            "off" => Ok(Self::Off),
            folder => Ok(Self::Folder(folder.into())),
        }
    }
}

impl fmt::Display for TextCacheAt {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Folder(folder) => folder.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_suggested() {
        assert_eq!("Zeros".parse::<Uncond>().unwrap(), Uncond::Zeros);
        let message = "zeroes".parse::<Uncond>().unwrap_err().to_string();
        assert!(message.contains("did you mean zeros?"), "{message}");
        assert!("x".parse::<Precision>().unwrap_err().to_string().contains("known: auto, f32"));
    }

    #[test]
    fn amounts_of_memory_have_units() {
        for (word, bytes) in [
            ("12GB", 12_000_000_000),
            ("12gb", 12_000_000_000),
            ("12 G", 12_000_000_000),
            ("12GiB", 12 << 30),
            ("1.5GB", 1_500_000_000),
            ("800M", 800_000_000),
            ("512MiB", 512 << 20),
            ("64kb", 64_000),
            ("1048577B", 1_048_577),
        ] {
            let size = word.parse::<MemorySize>().unwrap();
            assert_eq!(size.0, bytes, "{word}");
            assert_eq!(size.to_string().parse::<MemorySize>().unwrap(), size);
        }
        assert_eq!(MemorySize(12_000_000_000).to_string(), "12GB");
        for word in ["", "12", "GB", "-1GB", "0GB", "nanGB", "1e30TB", "12 apples", "12GBs", "\u{e9}GB"] {
            assert!(word.parse::<MemorySize>().is_err(), "{word}");
        }
    }

    #[test]
    fn checkpoints_are_by_steps_or_by_time() {
        for (word, every) in [("5", Every::Steps(5)), ("60s", Every::default()), ("2m", Every::Time(Duration(120.0)))] {
            assert_eq!(word.parse::<Every>().unwrap(), every);
            assert_eq!(every.to_string().parse::<Every>().unwrap(), every);
        }
        for word in ["0", "-1", "often", "0s"] {
            assert!(word.parse::<Every>().is_err(), "{word}");
        }
    }

    #[test]
    fn seeds_sizes_and_devices() {
        assert_eq!("-1".parse::<Seed>().unwrap(), Seed::Random);
        assert_eq!("18446744073709551615".parse::<Seed>().unwrap(), Seed::Fixed(u64::MAX));
        assert!("18446744073709551616".parse::<Seed>().is_err());
        assert_eq!("720x480".parse::<Size>().unwrap(), Size { width: 720, height: 480 });
        assert_eq!("720*480".parse::<Size>().unwrap(), Size { width: 720, height: 480 });
        assert!("720".parse::<Size>().is_err());
        assert_eq!("cuda:1".parse::<DeviceSpec>().unwrap(), DeviceSpec::Cuda(1));
        assert!("cuda:x".parse::<DeviceSpec>().is_err());
        assert!("cpu:1".parse::<DeviceSpec>().is_err());
    }
}
