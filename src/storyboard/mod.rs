//! What is to be seen, in order: scenes with their prompts, and the readers that make them.

use anyhow::{Error, Result, bail};
use std::fmt;
use std::str::FromStr;

/// How a scene follows the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// Overlapping windows whose latents are blended, with windows of interpolated text between.
    Blend,
    /// A hard cut: nothing is shared.
    Cut,
}

impl FromStr for Transition {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "blend" => Ok(Self::Blend),
            "cut" => Ok(Self::Cut),
            _ => bail!("unknown transition {word:?} (known: blend, cut)"),
        }
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Self::Blend => "blend",
            Self::Cut => "cut",
        })
    }
}

/// How long a scene is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    Frames(usize),
    Seconds(f64),
}

/// The transition into a scene, where the scene says something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransitionInto {
    pub kind: Option<Transition>,
    pub overlap: Option<usize>,
    pub windows: Option<usize>,
}

/// One prompt and what belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    pub prompt: String,
    pub length: Option<Length>,
    pub transition: TransitionInto,
}

/// Scenes in order, and what the file says beside them.
#[derive(Debug, Clone, PartialEq)]
pub struct Storyboard {
    pub scenes: Vec<Scene>,
    /// Settings of the run by their names in files (`seed`, `size`, ..), for the job to read; empty for plain text.
    pub settings: toml::Table,
}
pub enum Form {
    Auto,
    Lines,
    Script,
}
impl Storyboard {
    pub fn from_prompts(p: &[String]) -> Result<Self> {
        Ok(Self {
            scenes: p
                .iter()
                .map(|p| Scene { prompt: p.clone(), length: None, transition: Default::default() })
                .collect(),
            settings: Default::default(),
        })
    }
    pub fn read(path: &std::path::Path, _f: Form) -> Result<Self> {
        let t = std::fs::read_to_string(path)?;
        Self::from_prompts(
            &t.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')).map(str::to_owned).collect::<Vec<_>>(),
        )
    }
}
