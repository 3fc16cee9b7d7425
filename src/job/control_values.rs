//! What is asked for by `--control`, `--control-model` and `--canny`.

use super::values::weighed;
use crate::words::words;
use anyhow::{Error, Result, bail, ensure};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

words!(
    /// What given pictures are.
    ControlKind, "kind of control", {
        /// An ordinary video, whose edges are found.
        Canny = "canny",
        /// Skeletons.
        Pose = "pose",
        /// Maps of depth.
        Depth = "depth",
        /// What the network was trained on, whatever that is.
        Map = "map",
    }
);

/// `--control KIND:FILE[:WEIGHT]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlAsked {
    pub kind: ControlKind,
    pub file: PathBuf,
    /// What the network's residuals are multiplied by.
    pub weight: f64,
}

/// The largest weight that is taken.
const MOST_WEIGHT: f64 = 100.0;

impl FromStr for ControlAsked {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((kind, file)) = text.split_once(':') else {
            bail!("{text:?} is not KIND:FILE[:WEIGHT], as canny:dance.mp4 or depth:maps/:0.8")
        };
        let kind = kind.trim().parse()?;
        let (file, weight) = weighed(file);
        ensure!(!file.is_empty(), "{text:?} names no file, as canny:dance.mp4");
        ensure!(
            (0.0..=MOST_WEIGHT).contains(&weight),
            "{text:?}: the weight {weight} is not within 0 and {MOST_WEIGHT}"
        );
        Ok(Self { kind, file: file.into(), weight })
    }
}

impl fmt::Display for ControlAsked {
    /// With its weight, which a file's own name may look like.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}:{}", self.kind, self.file.display(), self.weight)
    }
}

/// `--control-model [KIND=]DIR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlModelAsked {
    pub kind: Option<ControlKind>,
    /// A folder, or a hub id.
    pub model: String,
}

impl FromStr for ControlModelAsked {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let kind = text.split_once('=').and_then(|(kind, model)| Some((kind.trim().parse().ok()?, model)));
        let (kind, model) = kind.map_or((None, text), |(kind, model)| (Some(kind), model));
        ensure!(!model.is_empty(), "{text:?} names no folder, as canny=./sd-controlnet-canny");
        Ok(Self { kind, model: model.to_owned() })
    }
}

impl fmt::Display for ControlModelAsked {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.kind {
            Some(kind) => write!(f, "{kind}={}", self.model),
            None => f.write_str(&self.model),
        }
    }
}

/// `--canny LOW,HIGH`: gradients, of which more than `high` is an edge and more than `low` where an edge goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CannyThresholds {
    pub low: i32,
    pub high: i32,
}

impl Default for CannyThresholds {
    /// Those that the published networks were trained with.
    fn default() -> Self {
        Self { low: 100, high: 200 }
    }
}

/// No gradient of a picture is larger: eight times 255, across and down.
const MOST_GRADIENT: i32 = 2040;

impl FromStr for CannyThresholds {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let sides = text.split_once(',').map(|(low, high)| (low.trim().parse(), high.trim().parse()));
        match sides {
            Some((Ok(low), Ok(high))) if (0..=high).contains(&low) && high <= MOST_GRADIENT => Ok(Self { low, high }),
            _ => {
                bail!("{text:?} is not LOW,HIGH, as 100,200: whole numbers from 0 to {MOST_GRADIENT}, the lower first")
            }
        }
    }
}

impl fmt::Display for CannyThresholds {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{},{}", self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_read_and_written() {
        let read = |text: &str| text.parse::<ControlAsked>().unwrap();
        let asked = read("canny:a b/c:d.mp4");
        assert_eq!((asked.kind, asked.file.to_str(), asked.weight), (ControlKind::Canny, Some("a b/c:d.mp4"), 1.0));
        let asked = read("pose:C:\\x\\p:0.25");
        assert_eq!((asked.file.to_str(), asked.weight), (Some("C:\\x\\p"), 0.25));
        // a name that ends like a weight comes back whole
        let asked = ControlAsked { kind: ControlKind::Map, file: "12:30".into(), weight: 0.1 };
        assert_eq!(read(&asked.to_string()), asked);
        for (text, word) in [
            ("dance.mp4", "KIND:FILE"),
            ("cany:dance.mp4", "did you mean canny?"),
            ("canny:", "names no file"),
            ("canny:a:-1", "not within 0 and 100"),
            ("canny:a:nan", "not within 0 and 100"),
        ] {
            let error = text.parse::<ControlAsked>().unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn models_and_thresholds_are_read_and_written() {
        for (text, kind, model) in
            [("a/b", None, "a/b"), ("depth=a=b", Some(ControlKind::Depth), "a=b"), ("x=y", None, "x=y")]
        {
            let asked: ControlModelAsked = text.parse().unwrap();
            assert_eq!((asked.kind, asked.model.as_str(), asked.to_string().as_str()), (kind, model, text));
        }
        assert!("canny=".parse::<ControlModelAsked>().is_err());
        let canny: CannyThresholds = "10, 300".parse().unwrap();
        assert_eq!((canny, canny.to_string().as_str()), (CannyThresholds { low: 10, high: 300 }, "10,300"));
        for text in ["100", "200,100", "-1,5", "0.5,1", "1,2041", "a,b"] {
            assert!(text.parse::<CannyThresholds>().is_err(), "{text}");
        }
    }
}
