//! Words that a control names: the positions of their tokens, their factors, and whose keys they are.

use super::when::Ranges;
use crate::attention::{AttentionSite, Branch, Reference};
use anyhow::{Error, ensure};
use std::fmt;
use std::str::FromStr;

/// A word (or words) and where its tokens are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// For messages.
    pub text: String,
    /// Token positions in the text, for each conditioning of the plan ([`Branch::prompt`]); none where the word is not.
    pub positions: Vec<Vec<u32>>,
}

impl Word {
    /// Token positions in the text of a row.
    pub(super) fn of(&self, branch: &Branch) -> &[u32] {
        self.at(branch.prompt)
    }

    /// Token positions in a text of the plan.
    pub(super) fn at(&self, text: usize) -> &[u32] {
        self.positions.get(text).map_or(&[], Vec::as_slice)
    }
}

/// Words, and the factor on what they contribute: `night:0.5`.
#[derive(Debug, Clone, PartialEq)]
pub struct WordFactor {
    pub words: String,
    pub factor: f64,
}

impl FromStr for WordFactor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || anyhow::anyhow!("{} is not WORDS:FACTOR, as in night:0.5", text.escape_debug());
        let (words, factor) = text.rsplit_once(':').ok_or_else(wrong)?;
        let (words, factor) = (words.trim().to_owned(), factor.trim().parse::<f64>().map_err(|_| wrong())?);
        ensure!(factor.is_finite() && !words.is_empty() && !words.contains(char::is_control), wrong());
        Ok(Self { words, factor })
    }
}

impl fmt::Display for WordFactor {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.words, self.factor)
    }
}

/// Where rows attend to keys that are not their own, and which of those keys the words are.
#[derive(Debug, Clone, PartialEq)]
pub struct Keys {
    /// Steps and layers at which rows have the keys of the row of the pass they refer to.
    pub rows: (Ranges, Ranges),
    /// Steps and layers at which rows have the keys of the banked window they refer to.
    pub banked: (Ranges, Ranges),
    /// The text of each window, by timeline.
    pub texts: Vec<Vec<usize>>,
    /// In the order of the words that are scaled.
    pub words: Vec<Word>,
    /// Whether rows whose own text has none of the words are left alone, rather than where they attend to them.
    pub own_only: bool,
}

impl Keys {
    /// The text whose keys a row attends to.
    pub(super) fn text(&self, branch: &Branch, site: &AttentionSite) -> usize {
        let here = |(steps, layers): &(Ranges, Ranges)| steps.contains(site.pass.step) && layers.contains(site.layer);
        match branch.reference {
            Some(Reference::Row(row)) if here(&self.rows) => {
                site.branches.get(row).map_or(branch.prompt, |source| self.text(source, site))
            }
            Some(Reference::Banked { timeline, window }) if here(&self.banked) => {
                let text = self.texts.get(timeline).and_then(|windows| windows.get(window));
                text.copied().unwrap_or(branch.prompt)
            }
            _ => branch.prompt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_read_and_write_themselves() {
        let night: WordFactor = " starry night : -0.5".parse().unwrap();
        assert_eq!((night.words.as_str(), night.factor), ("starry night", -0.5));
        assert_eq!(night.to_string(), "starry night:-0.5");
        assert_eq!("at 10:30:2".parse::<WordFactor>().unwrap().words, "at 10:30");
        for text in ["night", "night:", ":0.5", "night:inf", "night:much", "ni\u{1b}ght:2"] {
            let error = text.parse::<WordFactor>().unwrap_err().to_string();
            assert!(error.contains("is not WORDS:FACTOR") && !error.contains('\u{1b}'), "{error}");
        }
    }
}
