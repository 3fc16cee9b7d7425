//! `--cache`: which steps are not computed, as it is asked for. What follows from it is in [`super::cache`].

use crate::words::unknown;
use anyhow::{Error, Result, bail, ensure};
use std::fmt;
use std::str::FromStr;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CacheAsked {
    Off,
    Tea { threshold: Option<f64>, coefficients: Option<[f64; 5]> },
    Mag { threshold: f64, skip: usize, retain: f64 },
    Deep { interval: usize },
}

/// MagCache's numbers in diffusers.
const MAG: (f64, usize, f64) = (0.06, 3, 0.2);
/// DeepCache's.
const DEEP: usize = 3;

impl FromStr for CacheAsked {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let items: Vec<&str> = rest.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
        let known: &[&str] = match name.trim() {
            "off" => &[],
            "tea" => &["threshold", "coefficients"],
            "mag" => &["threshold", "skip", "retain"],
            "deep" => &["interval"],
            name => return Err(unknown("cache", name, &["off", "tea", "mag", "deep"])),
        };
        let mut values: Vec<(&str, &str)> = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let (key, value) = match item.split_once('=') {
                Some((key, value)) => (key.trim(), value.trim()),
                None if index == 0 && !known.is_empty() => (known[0], *item),
                None => bail!("{item} is not a value of {name}: write NAME=VALUE"),
            };
            ensure!(known.contains(&key), unknown(&format!("value of {name}"), key, known));
            ensure!(values.iter().all(|(other, _)| *other != key), "{key} is given twice");
            values.push((key, value));
        }
        let value = |key: &str| values.iter().find(|(known, _)| *known == key).map(|(_, value)| *value);
        let number = |key: &str, most: f64| {
            let read = |value: &str| match value.parse::<f64>() {
                Ok(number) if (0.0..=most).contains(&number) => Ok(number),
                _ => bail!("{key}={value} is not a number from 0 to {most}"),
            };
            value(key).map(read).transpose()
        };
        let count = |key: &str| {
            let read = |value: &str| match value.parse::<usize>() {
                Ok(number @ 1..=1000) => Ok(number),
                _ => bail!("{key}={value} is not a number of steps from 1 to 1000"),
            };
            value(key).map(read).transpose()
        };
        Ok(match name.trim() {
            "tea" => Self::Tea {
                threshold: number("threshold", 100.0)?,
                coefficients: value("coefficients").map(coefficients).transpose()?,
            },
            "mag" => Self::Mag {
                threshold: number("threshold", 100.0)?.unwrap_or(MAG.0),
                skip: count("skip")?.unwrap_or(MAG.1),
                retain: number("retain", 1.0)?.unwrap_or(MAG.2),
            },
            "deep" => Self::Deep { interval: count("interval")?.unwrap_or(DEEP) },
            _ => Self::Off,
        })
    }
}

/// `a/b/c/d/e`, the highest power first.
fn coefficients(text: &str) -> Result<[f64; 5]> {
    let wrong =
        || anyhow::anyhow!("coefficients={text} are not five numbers: write a/b/c/d/e, the highest power first");
    let numbers: Vec<f64> =
        text.split('/').map(|number| number.trim().parse().map_err(|_| wrong())).collect::<Result<_>>()?;
    ensure!(numbers.iter().all(|number: &f64| number.is_finite()), wrong());
    numbers.try_into().map_err(|_| wrong())
}

/// As it is read.
impl fmt::Display for CacheAsked {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Tea { threshold, coefficients } => {
                f.write_str("tea")?;
                let mut before = ":";
                if let Some(threshold) = threshold {
                    write!(f, "{before}threshold={threshold}")?;
                    before = ",";
                }
                match coefficients {
                    Some([a, b, c, d, e]) => write!(f, "{before}coefficients={a}/{b}/{c}/{d}/{e}"),
                    None => Ok(()),
                }
            }
            Self::Mag { threshold, skip, retain } => write!(f, "mag:threshold={threshold},skip={skip},retain={retain}"),
            Self::Deep { interval } => write!(f, "deep:interval={interval}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_written() {
        for (text, written) in [
            ("off", "off"),
            ("tea", "tea"),
            ("tea:0.2", "tea:threshold=0.2"),
            ("tea:threshold=0.1,coefficients=1/-2/3/4/5e-1", "tea:threshold=0.1,coefficients=1/-2/3/4/0.5"),
            ("mag:0.1", "mag:threshold=0.1,skip=3,retain=0.2"),
            ("mag:0.1,skip=2,retain=0.3", "mag:threshold=0.1,skip=2,retain=0.3"),
            ("deep:2", "deep:interval=2"),
            ("deep", "deep:interval=3"),
        ] {
            let asked: CacheAsked = text.parse().unwrap();
            assert_eq!(asked.to_string(), written);
            assert_eq!(written.parse::<CacheAsked>().unwrap(), asked);
        }
        for (text, words) in [
            ("teh", "did you mean tea?"),
            ("tea:-1", "threshold=-1 is not a number from 0"),
            ("tea:inf", "threshold=inf is not a number from 0"),
            ("tea:thresold=1", "did you mean threshold?"),
            ("tea:0.1,0.2", "write NAME=VALUE"),
            ("tea:0.1,threshold=2", "threshold is given twice"),
            ("tea:coefficients=1/2/3", "coefficients=1/2/3 are not five numbers"),
            ("tea:coefficients=1/2/3/4/nan", "are not five numbers"),
            ("deep:0", "interval=0 is not a number of steps"),
            ("mag:skip=0", "skip=0 is not a number of steps"),
            ("off:1", "write NAME=VALUE"),
        ] {
            let error = text.parse::<CacheAsked>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
