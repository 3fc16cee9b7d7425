//! Results of an evaluation: values by metric, and the reasons for missing ones.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The `schema` of results that this version writes and reads.
pub const SCHEMA: &str = "vidgen.eval.v1";

/// A number about a video. In the order of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    Cscv,
    MotionSmoothness,
    TextImage,
    Flicker,
    Seam,
    WorstSeam,
    /// Share of what the prompts ask for that the judge sees, over all questions; then by question.
    Judge,
    JudgeColour,
    JudgeShape,
    JudgeMotion,
    JudgePlace,
    JudgeTime,
    /// Share of a scene's frames that show its own colour, shape, place and time of day.
    Timing,
    /// Share of the frames with a subject in them.
    Present,
    /// Of the frames around the borders of scenes: the share with two subjects, and how far the subject's centre goes from one to the
    /// next at most, in widths of a frame.
    TwoSubjects,
    SubjectJump,
    /// Against the frames of another video: decibels.
    Psnr,
    Ssim,
    /// How different two frames look, by LPIPS: those of another video, and neighbours.
    Lpips,
    LpipsNeighbours,
    /// How far pixels move from one frame to the next, and how unevenly: mean and deviation over pairs, in pixels.
    Flow,
    FlowDeviation,
    /// How alike the faces of neighbouring frames are.
    Reidentification,
    /// Number of scene cuts that PySceneDetect would find.
    Scuts,
    /// How badly the flow explains the next frame: mean squared error in levels; mean length of the flow in pixels; and the one over
    /// the other, as the code of StreamingT2V and as its paper has it.
    WarpError,
    FlowMean,
    Mawe,
    MawePaper,
}

/// What a metric needs beyond the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    Nothing,
    /// `--clip` or `--judge`.
    Embedder,
    Clip,
    Judge,
    /// `--against`.
    Reference,
    /// The network of LPIPS.
    Perceptual,
    /// Both.
    PerceptualReference,
    /// The network of RIFE.
    Interpolator,
    /// The networks of faces.
    Faces,
    /// `--flow`.
    Flow,
}

impl Metric {
    pub const ALL: [Self; 28] = [
        Self::Cscv,
        Self::MotionSmoothness,
        Self::TextImage,
        Self::Flicker,
        Self::Seam,
        Self::WorstSeam,
        Self::Judge,
        Self::JudgeColour,
        Self::JudgeShape,
        Self::JudgeMotion,
        Self::JudgePlace,
        Self::JudgeTime,
        Self::Timing,
        Self::Present,
        Self::TwoSubjects,
        Self::SubjectJump,
        Self::Psnr,
        Self::Ssim,
        Self::Lpips,
        Self::LpipsNeighbours,
        Self::Flow,
        Self::FlowDeviation,
        Self::Reidentification,
        Self::Scuts,
        Self::WarpError,
        Self::FlowMean,
        Self::Mawe,
        Self::MawePaper,
    ];

    /// As in JSON and in flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cscv => "cscv",
            Self::MotionSmoothness => "motion_smoothness",
            Self::TextImage => "text_image",
            Self::Flicker => "flicker",
            Self::Seam => "seam",
            Self::WorstSeam => "worst_seam",
            Self::Judge => "judge",
            Self::JudgeColour => "judge_colour",
            Self::JudgeShape => "judge_shape",
            Self::JudgeMotion => "judge_motion",
            Self::JudgePlace => "judge_place",
            Self::JudgeTime => "judge_time",
            Self::Timing => "timing",
            Self::Present => "present",
            Self::TwoSubjects => "two_subjects",
            Self::SubjectJump => "subject_jump",
            Self::Psnr => "psnr",
            Self::Ssim => "ssim",
            Self::Lpips => "lpips",
            Self::LpipsNeighbours => "lpips_neighbours",
            Self::Flow => "flow",
            Self::FlowDeviation => "flow_deviation",
            Self::Reidentification => "reidentification",
            Self::Scuts => "scuts",
            Self::WarpError => "warp_error",
            Self::FlowMean => "flow_mean",
            Self::Mawe => "mawe",
            Self::MawePaper => "mawe_paper",
        }
    }

    pub fn needs(self) -> Requirement {
        match self {
            Self::MotionSmoothness | Self::Flicker | Self::Seam | Self::WorstSeam | Self::Scuts => Requirement::Nothing,
            Self::Cscv => Requirement::Embedder,
            Self::TextImage => Requirement::Clip,
            Self::Psnr | Self::Ssim => Requirement::Reference,
            Self::Lpips => Requirement::PerceptualReference,
            Self::LpipsNeighbours => Requirement::Perceptual,
            Self::Flow | Self::FlowDeviation => Requirement::Interpolator,
            Self::Reidentification => Requirement::Faces,
            Self::WarpError | Self::FlowMean | Self::Mawe | Self::MawePaper => Requirement::Flow,
            _ => Requirement::Judge,
        }
    }

    /// Whether tables show it in percent.
    pub fn percent(self) -> bool {
        !matches!(
            self,
            Self::Seam
                | Self::WorstSeam
                | Self::SubjectJump
                | Self::Psnr
                | Self::Lpips
                | Self::LpipsNeighbours
                | Self::Flow
                | Self::FlowDeviation
                | Self::Scuts
                | Self::WarpError
                | Self::FlowMean
                | Self::Mawe
                | Self::MawePaper
        )
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let plain = word.replace('-', "_");
        Self::ALL.into_iter().find(|metric| metric.name() == plain).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|metric| metric.name()).collect();
            format!("metric {word:?} is not known; known: {}", names.join(", "))
        })
    }
}

/// Numbers by metric.
pub type Metrics = BTreeMap<Metric, f64>;

/// One video.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub file: String,
    pub frames: usize,
    pub width: usize,
    pub height: usize,
    pub metrics: Metrics,
    /// Why a metric is not there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub absent: BTreeMap<Metric, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scenes: Vec<Scene>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_frame: Option<PerFrame>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<ReferenceComparison>,
}

/// The frames of one prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    pub prompt: String,
    /// First, and the one after the last.
    pub frames: (usize, usize),
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_image: Option<f64>,
    /// By question: colour, shape, motion, place, time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub judge: BTreeMap<String, JudgedQuestion>,
}

/// One question to the judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgedQuestion {
    /// What the prompt says; none where it says nothing.
    pub asked: Option<String>,
    pub seen: String,
    pub probability: f32,
}

/// Numbers of single frames, or of neighbours: entry i is of frames i and i + 1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PerFrame {
    /// Mean absolute difference of neighbours, in levels from 0 to 255.
    pub difference: Vec<f64>,
    /// Similarity of neighbours; empty without an embedder.
    pub similarity: Vec<f64>,
    /// Error of each odd frame made from its neighbours, in levels.
    pub interpolation_error: Vec<f64>,
    /// LPIPS of neighbours; empty without the network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lpips: Vec<f64>,
    /// Mean length of the flow between neighbours, in pixels; empty without the network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flow: Vec<f64>,
    /// How alike the most alike faces of neighbours are, 0 where one has none; empty without the networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faces: Vec<f64>,
}

/// A comparison with another video.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReferenceComparison {
    pub file: String,
    /// Of the other video.
    pub metrics: Metrics,
    /// This one's less the other's, where both have a metric.
    pub difference: Metrics,
    /// Frame by frame, where the sizes are equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<FrameComparison>,
    /// Why frames were not compared, or not all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Frames of two videos of one size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameComparison {
    pub count: usize,
    pub identical: bool,
    /// Of the mean squared error of all frames; none where they are identical.
    pub psnr: Option<f64>,
    /// None for frames smaller than its window of 11 x 11.
    pub ssim: Option<f64>,
    /// Of each frame, when asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub psnr_by_frame: Vec<Option<f64>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssim_by_frame: Vec<Option<f64>>,
    /// None without the network and for frames that are too small for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lpips: Option<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lpips_by_frame: Vec<f64>,
}

/// Mean of each metric over the videos that have it, and how many these are.
pub fn means<'a>(all: impl Iterator<Item = &'a Metrics>) -> (Metrics, BTreeMap<Metric, usize>) {
    let (mut sums, mut counts) = (Metrics::new(), BTreeMap::new());
    for metrics in all {
        for (&metric, value) in metrics {
            *sums.entry(metric).or_insert(0.0) += value;
            *counts.entry(metric).or_insert(0) += 1;
        }
    }
    sums.iter_mut().for_each(|(metric, sum)| *sum /= counts[metric] as f64);
    (sums, counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_json() {
        for metric in Metric::ALL {
            assert_eq!(serde_json::to_value(metric).unwrap(), metric.name());
            assert_eq!(metric.name().replace('_', "-").parse(), Ok(metric));
        }
        assert!("fid".parse::<Metric>().unwrap_err().contains("cscv"));
    }

    #[test]
    fn means_are_over_the_videos_that_have_the_metric() {
        let (one, two) =
            (Metrics::from([(Metric::Cscv, 0.5)]), Metrics::from([(Metric::Cscv, 1.0), (Metric::Seam, 2.0)]));
        let (means, counts) = means([one, two].iter());
        assert_eq!(means, Metrics::from([(Metric::Cscv, 0.75), (Metric::Seam, 2.0)]));
        assert_eq!(counts, BTreeMap::from([(Metric::Cscv, 2), (Metric::Seam, 1)]));
    }
}
