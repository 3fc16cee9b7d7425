//! The values that settings take, read from words.

pub use crate::recipe::Uncond;
pub use crate::words::{Duration, list, text, unknown};

use crate::words::words;
use anyhow::{Error, Result, bail};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

words!(
    /// Another program whose run is to be reproduced.
    Parity, "program", { Diffusers = "diffusers", Sat = "sat", Paper = "paper" }
);
words!(
    /// Numbers to compute with.
    Precision, "dtype", { Auto = "auto", F32 = "f32", Bf16 = "bf16", F16 = "f16" }
);
words!(
    /// Whether the decoder works in tiles.
    Tiling, "tiling mode", { Auto = "auto", On = "on", Off = "off" }
);
words!(
    /// Pictures of a run that is not over.
    PreviewKind, "kind of preview", { Off = "off", Strip = "strip", Video = "video" }
);
words!(
    /// Where the manifest goes.
    ManifestMode, "place for the manifest", { Embed = "embed", Sidecar = "sidecar", Both = "both", None = "none" }
);

words!(
    /// What an interruption leaves.
    OnInterrupt, "way to end", {
        /// The run, to go on with.
        Save = "save",
        /// The run, and a draft of the video.
        Decode = "decode",
        /// Nothing.
        Discard = "discard",
    }
);

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
    Given(u64),
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
            Ok(number) if number <= i128::from(u64::MAX) => Ok(Self::Given(number as u64)),
            _ => bail!("seed {word:?} is neither a number up to {} nor random", u64::MAX),
        }
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Random => f.write_str("random"),
            Self::Given(seed) => seed.fmt(f),
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
            _ => Err(unknown("device", word, &["auto", "cpu", "cuda", "metal"])),
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
        assert_eq!("18446744073709551615".parse::<Seed>().unwrap(), Seed::Given(u64::MAX));
        assert!("18446744073709551616".parse::<Seed>().is_err());
        assert_eq!("720x480".parse::<Size>().unwrap(), Size { width: 720, height: 480 });
        assert_eq!("720*480".parse::<Size>().unwrap(), Size { width: 720, height: 480 });
        assert!("720".parse::<Size>().is_err());
        assert_eq!("cuda:1".parse::<DeviceSpec>().unwrap(), DeviceSpec::Cuda(1));
        assert!("cuda:x".parse::<DeviceSpec>().is_err());
        assert!("cpu:1".parse::<DeviceSpec>().is_err());
    }
}
