//! Windows longer than a model's own: what is done that it can follow them (`--long`).

use crate::models::Architecture;
use crate::models::architecture::Fact;
use crate::processors::{Spec, parse};
use crate::words::unknown;
use anyhow::{Error, Result, bail, ensure};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Long {
    /// A frequency of the rotary positions in time is lowered (RIFLEx, arXiv 2502.15894): which one, from 1; the recipe's or the one
    /// whose period is nearest the model's window where none is said.
    Riflex(Option<usize>),
    /// What is far apart is damped (UltraViCo, arXiv 2511.20123).
    UltraViCo(f64),
}

/// UltraViCo's factor.
const ALPHA: f64 = 0.9;

impl FromStr for Long {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, rest) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest.trim())));
        let value =
            |key: &str| rest.map(|rest| rest.strip_prefix(key).and_then(|rest| rest.strip_prefix('=')).unwrap_or(rest));
        match name.trim() {
            "riflex" => {
                let k = |text: &str| match text.parse() {
                    Ok(k @ 1..=1000) => Ok(k),
                    _ => bail!("riflex: k={text} is not the number of a frequency, from 1"),
                };
                Ok(Self::Riflex(value("k").map(k).transpose()?))
            }
            "ultravico" => {
                let alpha = |text: &str| match text.parse::<f64>() {
                    Ok(alpha) if alpha > 0.0 && alpha <= 1.0 => Ok(alpha),
                    _ => bail!("ultravico: alpha={text} is not a number above 0, up to 1"),
                };
                Ok(Self::UltraViCo(value("alpha").map_or(Ok(ALPHA), alpha)?))
            }
            name => Err(unknown("way to longer windows", name, &["riflex", "ultravico"])),
        }
    }
}

/// As it is read.
impl fmt::Display for Long {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Riflex(None) => f.write_str("riflex"),
            Self::Riflex(Some(k)) => write!(f, "riflex:k={k}"),
            Self::UltraViCo(alpha) => write!(f, "ultravico:alpha={alpha}"),
        }
    }
}

impl Long {
    /// The control that it is, where it is one.
    pub fn control(self, architecture: &dyn Architecture) -> Result<Option<Spec>> {
        let Self::UltraViCo(alpha) = self else { return Ok(None) };
        let geometry = architecture.geometry();
        let spec = format!("ultravico:alpha={alpha},window={},patch={}", geometry.window, geometry.patch_t);
        parse(&spec).map(Some)
    }

    /// What the model is with it. `own`: the recipe's frequency.
    ///
    /// # Errors
    /// Models whose positions are not rotary.
    pub fn model(self, architecture: &Arc<dyn Architecture>, own: Option<usize>) -> Result<Arc<dyn Architecture>> {
        let Self::Riflex(k) = self else { return Ok(architecture.clone()) };
        let rotary = architecture.recipe_key().facts.get("rotary") == Some(&Fact::Flag(true));
        ensure!(
            rotary,
            "--long riflex lowers a frequency of rotary positions, which this model has none of: use --long ultravico"
        );
        architecture.lengthened(k.or(own))
    }
}

/// What is said of windows longer than the model's; none where they are no longer. `longest`: in latent frames.
///
/// # Errors
/// `--long` where no window is longer.
pub fn told(
    long: Option<Long>,
    asked: bool,
    longest: usize,
    architecture: &dyn Architecture,
) -> Result<Option<String>> {
    let own = architecture.geometry().window;
    match long {
        Some(long) if longest <= own => bail!(
            "--long {long} has no effect: no window is longer than the model's {own} latent frames: leave it out, or give a longer \
             --window"
        ),
        None if asked && longest > own => {
            let rotary = architecture.recipe_key().facts.get("rotary") == Some(&Fact::Flag(true));
            let positions = if rotary { "" } else { "; its table of positions is computed anew for them" };
            let other = if rotary { "riflex or --long ultravico" } else { "ultravico" };
            Ok(Some(format!(
                "--window {longest}: the model knows windows of {own} latent frames, and in longer ones movements slow down or \
                 repeat{positions}: --long {other} helps"
            )))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_written() {
        for (text, written) in [
            ("riflex", "riflex"),
            ("riflex:k=2", "riflex:k=2"),
            ("riflex:3", "riflex:k=3"),
            ("ultravico", "ultravico:alpha=0.9"),
            ("ultravico:0.8", "ultravico:alpha=0.8"),
            ("ultravico:alpha=1", "ultravico:alpha=1"),
        ] {
            let long: Long = text.parse().unwrap();
            assert_eq!(long.to_string(), written);
            assert_eq!(written.parse::<Long>().unwrap(), long);
        }
        for (text, words) in [
            ("rifle", "did you mean riflex?"),
            ("riflex:0", "k=0 is not the number of a frequency"),
            ("riflex:k=x", "k=x is not"),
            ("ultravico:0", "alpha=0 is not a number above 0"),
            ("ultravico:2", "alpha=2 is not a number above 0"),
            ("ultravico:nan", "alpha=nan is not"),
        ] {
            let error = text.parse::<Long>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
