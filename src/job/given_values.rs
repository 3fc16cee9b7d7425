//! What is asked for of given frames: how guidance treats them, and pictures by frame.

use crate::words::words;
use anyhow::{Error, Result, bail};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

words!(
    /// What a step's passes see of text and given frames.
    #[derive(Default)]
    GuidanceMode, "guidance mode", {
        /// The other pass drops the text.
        #[default]
        Cfg = "cfg",
        /// The other pass drops text and given frames.
        Jit = "jit",
        /// Three passes, with a scale for the text and one for the given frames.
        Sit = "sit",
    }
);

words!(
    /// Whether the guided prediction has the norm of the conditional one.
    #[derive(Default)]
    Renorm, "renormalisation", {
        #[default]
        Off = "off",
        Full = "full",
        /// Never a larger norm than it has.
        Clamp = "clamp",
    }
);

words!(
    /// What stands in the place of given frames in a pass that sees none.
    #[derive(Default)]
    NullFrame, "null frame", {
        /// The given frames under the noise of the step.
        #[default]
        Renoise = "renoise",
        /// Noise that moves as that pass alone says.
        Free = "free",
    }
);

/// `--keyframe N=FILE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyframe {
    /// From 0.
    pub frame: usize,
    pub file: PathBuf,
}

impl FromStr for Keyframe {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once('=').and_then(|(frame, file)| Some((frame.trim().parse().ok()?, file)));
        match parts.filter(|(_, file)| !file.is_empty()) {
            Some((frame, file)) => Ok(Self { frame, file: file.into() }),
            None => bail!("{text:?} is not N=FILE, as 8=middle.png"),
        }
    }
}

impl fmt::Display for Keyframe {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}={}", self.frame, self.file.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyframes_are_a_number_and_a_file() {
        let found: Keyframe = "8=a=b.png".parse().unwrap();
        assert_eq!(found, Keyframe { frame: 8, file: "a=b.png".into() });
        assert_eq!(found.to_string(), "8=a=b.png");
        for wrong in ["8", "x=a.png", "8=", "=a.png", "-1=a.png"] {
            assert!(wrong.parse::<Keyframe>().unwrap_err().to_string().contains("N=FILE"), "{wrong}");
        }
        assert!("jit ".trim().parse::<GuidanceMode>().is_ok() && "nit".parse::<GuidanceMode>().is_err());
    }
}
