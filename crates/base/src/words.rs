//! Values that are written as words in flags, scripts and recipes, and the common error for an unknown word.

use anyhow::{Error, Result, bail};
use serde::de::{Deserialize, Deserializer, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

/// The most of an unknown word that is shown and compared: it may come from a file of any kind.
const SHOWN: usize = 60;

/// An error that lists what would have been right, the nearest first.
pub fn unknown(what: &str, word: &str, known: &[&str]) -> Error {
    let word: String = word.chars().take(SHOWN).collect();
    let lower = str::to_ascii_lowercase;
    let near = known.iter().map(|&name| (strsim::damerau_levenshtein(&lower(&word), &lower(name)), name));
    match near.min().filter(|(distance, name)| *distance <= 2.min(name.len() / 2)) {
        Some((_, name)) => {
            anyhow::anyhow!("unknown {what} {word:?}: did you mean {name}? (known: {})", known.join(", "))
        }
        None => anyhow::anyhow!("unknown {what} {word:?} (known: {})", known.join(", ")),
    }
}

/// A message of serde without Rust's names of types.
pub fn without_types(message: &str) -> String {
    const WORDS: [(&str, &str); 8] = [
        ("usize", "a whole number"),
        ("u64", "a whole number"),
        ("u32", "a whole number"),
        ("u8", "a whole number"),
        ("i64", "a whole number"),
        ("f64", "a number"),
        ("f32", "a number"),
        ("a boolean", "true or false"),
    ];
    let message = match message.split_once("expected struct ") {
        Some((before, after)) => {
            format!("{before}expected a table of keys{}", after.trim_start_matches(char::is_alphanumeric))
        }
        None => message.to_owned(),
    };
    WORDS.iter().fold(message, |message, (name, words)| {
        message.replace(&format!("expected {name}"), &format!("expected {words}"))
    })
}

/// A setting that may be absent, written and read as its words (`#[serde(with = "text")]`).
pub mod text {
    use super::{Deserializer, FromStr, fmt, word};
    use serde::Serializer;

    pub fn serialize<S: Serializer, T: fmt::Display>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: fmt::Display>,
    {
        word(deserializer).map(Some)
    }
}

/// What a flag takes several times: read from one text or a list of them, written as a list (`#[serde(with = "list")]`).
pub mod list {
    use super::{Deserialize, Deserializer, FromStr, fmt};
    use serde::Serializer;
    use serde::de::Error;

    pub fn serialize<S: Serializer, T: fmt::Display>(
        values: &Option<Vec<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match values {
            Some(values) => serializer.collect_seq(values.iter().map(T::to_string)),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: fmt::Display>,
    {
        #[derive(serde::Deserialize)]
        #[serde(untagged, expecting = "a text or a list of texts")]
        enum Texts {
            One(String),
            Several(Vec<String>),
        }
        let texts = match Texts::deserialize(deserializer)? {
            Texts::One(text) => vec![text],
            Texts::Several(texts) => texts,
        };
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect::<Result<_, _>>().map(Some)
    }
}

/// Reads a value of a file as its flag would be read: `6`, `"wave:6"` and `true` all by way of their words.
pub fn word<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    struct Words<T>(PhantomData<T>);

    impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Words<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a word or a number")
        }

        fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Self::Value, E> {
            word.parse().map_err(E::custom)
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

/// A word out of a list: an enum that is read (other spellings after `|`) and written by its words.
#[macro_export]
macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $what:literal, {
        $($(#[$doc:meta])* $variant:ident = $word:literal $(| $other:literal)*),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant),* }

        #[allow(dead_code)] // not every list is gone through
        impl $name {
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$variant),*];
            pub const NAMES: &[&str] = &[$($word),*];
        }

        impl std::str::FromStr for $name {
            type Err = anyhow::Error;
            fn from_str(word: &str) -> anyhow::Result<Self> {
                match word.to_ascii_lowercase().as_str() {
                    $($word $(| $other)* => Ok(Self::$variant),)*
                    _ => Err($crate::words::unknown($what, word, Self::NAMES)),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.pad(match self { $(Self::$variant => $word),* })
            }
        }
    };
}

pub use crate::words;

/// A length of time in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Duration(pub f64);

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_called_as_people_call_them() {
        for (rust, words) in [
            ("invalid type: null, expected usize", "invalid type: null, expected a whole number"),
            (
                "invalid type: string \"3\", expected f64 at line 1",
                "invalid type: string \"3\", expected a number at line 1",
            ),
            ("invalid type: null, expected a boolean", "invalid type: null, expected true or false"),
            (
                "invalid type: sequence, expected struct ModelIndex at line 1 column 0",
                "invalid type: sequence, expected a table of keys at line 1 column 0",
            ),
        ] {
            assert_eq!(without_types(rust), words);
        }
    }

    #[test]
    fn durations() {
        for (word, seconds) in [("6", 6.0), ("6s", 6.0), ("1.5s", 1.5), ("1m30s", 90.0), ("2m", 120.0), ("500ms", 0.5)]
        {
            let duration = word.parse::<Duration>().unwrap();
            assert_eq!(duration.0, seconds, "{word}");
            assert_eq!(duration.to_string().parse::<Duration>().unwrap(), duration);
        }
        for word in ["", "s", "m", "0", "-3", "nan", "inf", "6h"] {
            assert!(word.parse::<Duration>().is_err(), "{word}");
        }
    }
}
