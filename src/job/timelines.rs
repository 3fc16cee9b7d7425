//! The timelines of a segment: the latent videos that are denoised together.
//!
//! One of them is the output. The others are companions: videos whose keys and values the output reads, or that are shown
//! beside it. An edit's source is one (see `job::edit`); a reference picture or an anchor frame is one of a single
//! frame, clean at a time of its own.

use super::sharing::Sharing;
use crate::timeline::{ChunkPlan, TextMix};

/// What a timeline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimelineRole {
    Output,
    Companion,
}

/// Whose keys and values the rows of a timeline read. Each row stands in one pass with the row of the same half on the
/// companion's window of the same index, or on its last where it has fewer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reads {
    /// The companion's index among the timelines; it comes before those that read it.
    pub timeline: usize,
    /// The steps and layers in which they are read; in others a companion goes its own way.
    pub sharing: Sharing,
}

/// One latent video.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    pub role: TimelineRole,
    /// Its windows and their texts, whose prompts count over those of all timelines.
    pub plan: ChunkPlan,
    /// Steps, from the first, in which it is denoised; then nobody needs it any more and it stays as it is.
    pub steps: usize,
    /// Whether its frames are seen: companions on the left of the output.
    pub shown: bool,
    /// The time that the network is told of it, where that is not the sampler's. Such a timeline is known from beginning to
    /// end and no step changes it.
    pub time: Option<f64>,
    /// Whether the frames of all windows attend to the first window's, which is one frame: it goes through the network first,
    /// and a bank keeps its keys and values for the others.
    pub anchored: bool,
    pub reads: Option<Reads>,
}

impl Timeline {
    /// A video that is denoised alone.
    pub fn output(plan: ChunkPlan) -> Self {
        Self {
            role: TimelineRole::Output,
            plan,
            steps: usize::MAX,
            shown: true,
            time: None,
            anchored: false,
            reads: None,
        }
    }

    /// A clean video beside the output, at `time`.
    pub fn reference(plan: ChunkPlan, time: f64) -> Self {
        Self {
            role: TimelineRole::Companion,
            plan,
            steps: usize::MAX,
            shown: false,
            time: Some(time),
            anchored: false,
            reads: None,
        }
    }

    /// The companion that is read at a step.
    pub fn read_at(&self, step: usize) -> Option<usize> {
        let reads = self.reads.as_ref()?;
        reads.sharing.at(step).map(|_| reads.timeline)
    }
}

/// The texts of all timelines, one after the other: what [`crate::attention::Branch::prompt`] counts.
pub fn texts(timelines: &[Timeline]) -> Vec<TextMix> {
    timelines.iter().flat_map(|timeline| timeline.plan.texts.iter().copied()).collect()
}
