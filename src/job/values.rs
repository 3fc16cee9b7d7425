//! The values that settings take, read from words.

use anyhow::{Error, Result, bail};
use serde::de::{Deserializer, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::str::FromStr;

/// An error that lists what would have been right, the nearest first.
pub fn unknown(what: &str, word: &str, known: &[&str]) -> Error {
    let near = known.iter().map(|&name| (strsim::damerau_levenshtein(&word.to_ascii_lowercase(), name), name));
    match near.min().filter(|(distance, name)| *distance <= 2.min(name.len() / 2)) {
        Some((_, name)) => {
            anyhow::anyhow!("unknown {what} {word:?}: did you mean {name}? (known: {})", known.join(", "))
        }
        None => anyhow::anyhow!("unknown {what} {word:?} (known: {})", known.join(", ")),
    }
}

/// Reads a value of a file as its flag would be read: `6`, `"wave:6"` and `true` all by way of their words.
pub fn text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    struct Words<T>(PhantomData<T>);

    impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Words<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a word or a number")
        }

        fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Self::Value, E> {
            word.parse().map(Some).map_err(E::custom)
        }

        fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
            self.visit_str(&value.to_string())
        }

        fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
            self.visit_str(&value.to_string())
        }

        fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
            self.visit_str(&value.to_string())
        }

        fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
            self.visit_str(&value.to_string())
        }
    }

    deserializer.deserialize_any(Words(PhantomData))
}

/// A word out of a list.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $what:literal, { $($(#[$doc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant),* }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(word: &str) -> Result<Self> {
                match word.to_ascii_lowercase().as_str() {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(unknown($what, word, &[$($word),*])),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.pad(match self { $(Self::$variant => $word),* })
            }
        }
    };
}

words!(
    /// The text of the unconditional half.
    Uncond, "unconditional text", {
        /// An all-zero embedding: what CogVideoX's training dropped to.
        Zeros = "zeros",
        /// The encoding of "": what diffusers uses.
        Empty = "empty",
    }
);
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
    /// Where the manifest goes.
    ManifestMode, "place for the manifest", { Embed = "embed", Sidecar = "sidecar", Both = "both", None = "none" }
);

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

/// A length of time in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Duration(pub f64);

impl FromStr for Duration {
    type Err = Error;

    /// `6`, `6s`, `1.5s`, `1m30s`, `2m`, `500ms`.
    fn from_str(word: &str) -> Result<Self> {
        let bad = || anyhow::anyhow!("duration {word:?} is not a time, as 6s or 1m30s");
        let trimmed = word.trim();
        let number = |digits: &str| digits.trim().parse::<f64>().map_err(|_| bad());
        let seconds = if let Some(millis) = trimmed.strip_suffix("ms") {
            number(millis)? / 1000.0
        } else {
            let (minutes, rest) = trimmed.split_once('m').unwrap_or(("0", trimmed));
            let rest = rest.strip_suffix('s').unwrap_or(rest);
            let seconds = if rest.is_empty() && trimmed.contains('m') { 0.0 } else { number(rest)? };
            number(minutes)? * 60.0 + seconds
        };
        if !seconds.is_finite() || seconds <= 0.0 {
            bail!("duration {word:?} must be longer than nothing")
        }
        Ok(Self(seconds))
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

    #[test]
    fn durations() {
        for (word, seconds) in [("6", 6.0), ("6s", 6.0), ("1.5s", 1.5), ("1m30s", 90.0), ("2m", 120.0), ("500ms", 0.5)]
        {
            assert_eq!(word.parse::<Duration>().unwrap().0, seconds, "{word}");
        }
        for word in ["", "s", "m", "0", "-3", "nan", "inf", "6h"] {
            assert!(word.parse::<Duration>().is_err(), "{word}");
        }
    }
}
