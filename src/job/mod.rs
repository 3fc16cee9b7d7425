//! From what was asked for to what it means. A [`Job`] is resolved and validated once, before any weight is loaded; nothing
//! after it reads a flag, and bad input does not get past it.

mod asked;
mod boxes;
mod cache;
mod cache_asked;
mod clips;
mod control;
mod control_values;
mod controls;
mod device;
mod edit;
mod enhance;
mod footage;
mod frame_texts;
mod geometry;
mod given;
mod given_plan;
mod given_values;
mod instruct;
mod keep;
mod long;
mod maps;
mod memory;
mod output;
mod placed;
mod plan;
mod preset;
mod preview;
mod prompts;
mod relay;
mod request;
mod resolve;
mod routes;
mod sampler;
mod scene_times;
mod sdedit;
pub mod settings;
mod sharing;
mod smoothing;
mod source_video;
mod stage;
mod streaming;
pub mod timelines;
pub mod values;
mod zero_shot;

pub use asked::OpenedModels;
pub use boxes::BoxesAsked;
pub use cache::Caching;
pub use cache_asked::CacheAsked;
pub use clips::FreeNoise;
pub use control::ControlInput;
pub use control_values::{ControlAsked, ControlKind};
pub use controls::{Controls, Subject, bank_size};
pub use device::device;
pub use edit::{Changes, Edit, Swap};
pub use footage::Footage;
pub use given::{Given, GivenFrom, GuidanceForm};
pub use given_values::{GuidanceMode, Keyframe, NullFrame, Renorm};
pub use instruct::Instruct;
pub use keep::KeepRules;
pub use long::Long;
pub use maps::{MapView, Maps, MapsAsked, Pixel};
pub use memory::{KEPT_HINTS, free as free_memory};
pub use output::Outputs;
pub use placed::Placed;
pub use plan::{GivenAt, Segment, WindowRules};
pub use preview::Preview;
pub use request::Request;
pub use resolve::{check_single, of_latents, resolve, resolve_among};
pub use sampler::Sampler;
pub use scene_times::{SceneTime, weights as relay_weights};
pub use settings::{Group, Settings, read_keys, read_settings, script_settings};
pub use sharing::Sharing;
pub use smoothing::{Foreground, Smoothing};
pub use source_video::{Kind as SourceKind, SourceVideo, is_latents, taken_over};
pub use stage::{Compute, FrameSize, Input, Need, Stage, StageMethod, StageModel, TextInput, UncondText};
pub use streaming::{Anchor, Streaming};
pub use timelines::{Reads, Timeline, TimelineRole};
pub use zero_shot::{MotionPlan, ZeroShot};

use crate::recipe;
use crate::weights::ModelFolder;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use values::TextCacheAt;

/// The commands that make videos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// One prompt, one window.
    Generate,
    /// Scenes over overlapping windows.
    MultiPrompt,
    /// One long video from one prompt, or scenes that go on from a given video.
    Extend,
    /// A given video changed as one prompt tells.
    Edit,
    /// A given video made anew in part.
    Enhance,
    /// A clip of given frames and one prompt.
    Animate,
    /// A given video with a frame between every two.
    Interpolate,
}

impl Command {
    pub fn name(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::MultiPrompt => "multi-prompt",
            Self::Extend => "extend",
            Self::Edit => "edit",
            Self::Enhance => "enhance",
            Self::Animate => "animate",
            Self::Interpolate => "interpolate",
        }
    }
}

/// Everything about one video that is to be made.
#[derive(Debug, Clone)]
pub struct Job {
    pub command: Command,
    /// What it was resolved from.
    pub request: Request,
    pub seed: u64,
    /// At least one. Each begins with what the one before it made; the frames of the last are the video.
    pub stages: Vec<Stage>,
    pub output: Outputs,
    pub keep: KeepRules,
    pub machine: Machine,
    /// Warnings to show before the run.
    pub warnings: Vec<String>,
}

/// What all stages share of the machine.
#[derive(Debug, Clone)]
pub struct Machine {
    pub threads: usize,
    /// None where embeddings are not kept.
    pub text_cache: Option<TextCacheAt>,
}

impl Job {
    /// The stage that makes the video of the prompts: the first.
    pub fn first(&self) -> &Stage {
        &self.stages[0]
    }

    /// The stage whose frames are the output.
    pub fn last(&self) -> &Stage {
        &self.stages[self.stages.len() - 1]
    }

    /// Segments of all stages. Checkpoints count them through, stage by stage, as parts.
    pub fn parts(&self) -> usize {
        self.stages.iter().map(|stage| stage.segments.len()).sum()
    }

    /// The number of a stage's first part.
    pub fn first_part(&self, stage: usize) -> usize {
        self.stages[..stage].iter().map(|stage| stage.segments.len()).sum()
    }

    /// The stage and segment of a part.
    pub fn part(&self, part: usize) -> Option<(&Stage, &Segment)> {
        self.stages.iter().flat_map(|stage| stage.segments.iter().map(move |segment| (stage, segment))).nth(part)
    }

    /// Steps of the sampler in the parts before one.
    pub fn steps_before(&self, part: usize) -> usize {
        let steps = self.stages.iter().flat_map(|stage| (0..stage.segments.len()).map(|index| stage.steps(index)));
        steps.take(part).sum()
    }

    /// Bytes of memory of the stage that needs the most.
    pub fn peak(&self) -> u64 {
        self.stages.iter().map(|stage| stage.need.peak()).max().unwrap_or(0)
    }
}

/// By step, the relative change of the denoiser's signal of the time from the step before.
///
/// # Errors
/// Networks without one, and weights that cannot be read.
pub fn time_changes(stage: &Stage) -> Result<Vec<f64>> {
    cache::time_changes((&stage.model.folder, &*stage.model.architecture), &stage.sampler)
}

/// The name of the recipe that a model has by itself.
///
/// # Errors
/// Configurations that cannot be read.
pub fn recipe_of(model: &ModelFolder) -> Result<String> {
    Ok(recipe::find(None, &model.architecture()?.recipe_key())?.name)
}
