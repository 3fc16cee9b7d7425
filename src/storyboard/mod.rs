//! Scenes in order, with their prompts and lengths, and the readers that make them.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "opens files")]

mod by_frame;
mod ditctrl;
mod foreign;
#[cfg(test)]
mod form_tests;
mod from_json;
mod from_toml;
mod from_yaml;
mod lines;
mod mold;
mod node;
mod read;
mod scenes;
mod script;
#[cfg(test)]
mod tests;
mod times;

pub use foreign::marks;
pub use read::{Form, read_text};
pub use times::{Mark, Times};

use crate::words::{text, unknown, word};
use anyhow::{Error, Result, bail};
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// How a scene follows the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// As [`Transition::Blend`], and windows attend to keys and values of the window before (DiTCtrl).
    Attention,
    /// Overlapping windows whose latents are blended, with windows of interpolated text between.
    Blend,
    /// The scenes of a window share one text, and frames listen to the words of their own scene (Prompt Relay).
    Relay,
    /// A hard cut: nothing is shared.
    Cut,
    /// A cut whose two sides are mixed over some frames of the video; none for a second of them.
    Fade(Option<usize>),
    /// It is made after the one before, and goes on from its end.
    Continue(Feed),
}

/// What a scene that is continued hands to the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// Its last frames, decoded and encoded again: the next scene sees what it would see of a given video.
    Frames,
    /// Its last latent frames as they are.
    Latents,
}

impl Transition {
    /// Whether what comes after is denoised on a timeline of its own.
    pub fn parts(self) -> bool {
        matches!(self, Self::Cut | Self::Fade(_) | Self::Continue(_))
    }

    /// What the scene is given of the one before.
    pub fn feed(self) -> Option<Feed> {
        match self {
            Self::Continue(feed) => Some(feed),
            _ => None,
        }
    }
}

/// Frames of the longest fade.
const MOST_FADE: usize = 1000;

impl FromStr for Transition {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word.split_once(':') {
            None if word == "attention" => Ok(Self::Attention),
            None if word == "blend" => Ok(Self::Blend),
            None if word == "relay" => Ok(Self::Relay),
            None if word == "cut" => Ok(Self::Cut),
            None if word == "fade" => Ok(Self::Fade(None)),
            None if word == "continue" => Ok(Self::Continue(Feed::Frames)),
            Some(("continue", "frames")) => Ok(Self::Continue(Feed::Frames)),
            Some(("continue", "latents")) => Ok(Self::Continue(Feed::Latents)),
            Some(("continue", feed)) => Err(unknown("feed", feed, &["frames", "latents"])),
            Some(("fade", frames)) => match frames.trim().parse() {
                Ok(frames @ 1..=MOST_FADE) => Ok(Self::Fade(Some(frames))),
                _ => bail!("transition {word:?}: a fade takes 1 to {MOST_FADE} frames, as fade:8"),
            },
            _ => Err(unknown("transition", word, &["attention", "blend", "relay", "cut", "fade", "continue"])),
        }
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Attention => f.pad("attention"),
            Self::Blend => f.pad("blend"),
            Self::Relay => f.pad("relay"),
            Self::Cut => f.pad("cut"),
            Self::Fade(None) => f.pad("fade"),
            Self::Fade(Some(frames)) => f.pad(&format!("fade:{frames}")),
            Self::Continue(Feed::Frames) => f.pad("continue"),
            Self::Continue(Feed::Latents) => f.pad("continue:latents"),
        }
    }
}

/// How long a scene is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Length {
    Frames(usize),
    /// As a word, which is read back to the last digit.
    Seconds(#[serde(serialize_with = "as_word", deserialize_with = "word")] f64),
}

fn as_word<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// The transition into a scene, where the scene says something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransitionInto {
    #[serde(with = "text", skip_serializing_if = "Option::is_none")]
    pub kind: Option<Transition>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows: Option<usize>,
}

impl TransitionInto {
    /// Whether it says nothing.
    fn is_silent(&self) -> bool {
        *self == Self::default()
    }
}

/// One prompt and what belongs to it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scene {
    pub prompt: String,
    /// Words for what is to stay itself from scene to scene; empty where the scene says none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subject: Vec<String>,
    /// The same as places among the prompt's tokens, from files that have no words for it; `subject` is then empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subject_tokens: Vec<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<Length>,
    /// When it is seen, where scenes may overlap or leave gaps.
    #[serde(default, with = "text", skip_serializing_if = "Option::is_none")]
    pub time: Option<Times>,
    #[serde(default, skip_serializing_if = "TransitionInto::is_silent")]
    pub transition: TransitionInto,
}

/// Scenes in order, and what the file says beside them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Storyboard {
    pub scenes: Vec<Scene>,
    /// Settings of the run by their names in files (`seed`, `size`, ..), for the job to read; empty for plain text.
    pub settings: toml::Table,
    /// Where settings stand, as `FILE:LINE`, by their names.
    pub places: BTreeMap<String, String>,
    /// What the file says that has no effect here, for the user to know.
    pub warnings: Vec<String>,
}
