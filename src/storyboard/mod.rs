//! What is to be seen, in order: scenes with their prompts, and the readers that make them.

mod lines;
mod read;
mod script;
#[cfg(test)]
mod tests;

pub use read::Form;

use crate::words::{text, unknown};
use anyhow::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How a scene follows the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// As [`Transition::Blend`], and windows attend to keys and values of the window before (DiTCtrl).
    Attention,
    /// Overlapping windows whose latents are blended, with windows of interpolated text between.
    Blend,
    /// A hard cut: nothing is shared.
    Cut,
}

impl FromStr for Transition {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "attention" => Ok(Self::Attention),
            "blend" => Ok(Self::Blend),
            "cut" => Ok(Self::Cut),
            _ => Err(unknown("transition", word, &["attention", "blend", "cut"])),
        }
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Self::Attention => "attention",
            Self::Blend => "blend",
            Self::Cut => "cut",
        })
    }
}

/// How long a scene is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Length {
    Frames(usize),
    Seconds(f64),
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scene {
    pub prompt: String,
    /// Words for what is to stay itself from scene to scene; empty where the scene says none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subject: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<Length>,
    #[serde(default, skip_serializing_if = "TransitionInto::is_silent")]
    pub transition: TransitionInto,
}

/// Scenes in order, and what the file says beside them.
#[derive(Debug, Clone, PartialEq)]
pub struct Storyboard {
    pub scenes: Vec<Scene>,
    /// Settings of the run by their names in files (`seed`, `size`, ..), for the job to read; empty for plain text.
    pub settings: toml::Table,
}
