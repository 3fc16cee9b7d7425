//! The stages of a job. Each has a network of its own, a plan, a sampler and an input, and makes the frames of the whole video;
//! those of the last stage are the output. A stage after the first begins with the frames of the one before it
//! ([`Input::strength`]).

use super::cache::Caching;
use super::clips::FreeNoise;
use super::control::ControlInput;
use super::controls::{Controls, bank_size};
use super::footage::Footage;
use super::given::{Given, GivenFrom, GuidanceForm};
use super::given_values::{GuidanceMode, Renorm};
use super::instruct::Instruct;
use super::long::Long;
use super::placed::Placed;
use super::plan::{Segment, WindowRules, video_frames};
use super::sampler::Sampler;
use super::scene_times::SharedText;
use super::source_video::SourceVideo;
use super::streaming::{FirstChunk, Streaming};
use super::timelines::Timeline;
use super::values::Offload;
use super::zero_shot::ZeroShot;
use crate::attention::Half;
use crate::guidance::{GuidanceSchedule, Rule};
use crate::models::Architecture;
use crate::models::architecture::Role;
use crate::models::autoencoder::DecodeOptions;
use crate::nn::compute_dtype;
use crate::nn::kernel::Kernel;
use crate::processors::{BankPlan, BankSize, LayerSize, Lifetime, Purpose, Ranges};
use crate::timeline::{BlendMode, ChunkPlan};
use crate::video::Fit;
use crate::weights::{ModelFolder, Part};
use anyhow::Result;
use candle_core::{DType, Device, DeviceLocation};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// One network and its run over the whole video.
#[derive(Debug, Clone)]
pub struct Stage {
    pub model: StageModel,
    pub text: TextInput,
    /// Stretches between cuts and fades, in order; mostly one.
    pub segments: Vec<Segment>,
    pub rules: WindowRules,
    pub size: FrameSize,
    pub method: StageMethod,
    pub sampler: Sampler,
    /// Steps that are not computed; none where all are.
    pub cache: Option<Caching>,
    pub guidance: GuidanceSchedule,
    pub controls: Controls,
    pub input: Input,
    pub compute: Compute,
    pub decode: DecodeOptions,
    /// Estimate of the memory of each of its networks.
    pub need: Need,
}

/// What is particular to the way in which a stage makes its video; nothing of it for windows that are weighted.
#[derive(Debug, Clone, Default)]
pub struct StageMethod {
    /// How pictures become a video; none where the model makes videos.
    pub zero_shot: Option<ZeroShot>,
    /// The given video that is changed as the prompt tells.
    pub instruct: Option<Instruct>,
    /// Windows are written over each other, in place of being weighted: how many frames one may leave to the one before it.
    pub overwriting: Option<BlendMode>,
    /// How clips become a longer video, where all its frames are made in one pass.
    pub free_noise: Option<FreeNoise>,
    /// How chunks go on from each other.
    pub streaming: Option<Streaming>,
    /// The subject that is put into the video.
    pub placed: Option<Placed>,
    /// The pictures that the video follows, each with its network.
    pub control_inputs: Vec<ControlInput>,
    /// Frames that are given of its clips.
    pub given: Option<Given>,
    /// Whether the video is made of clips that share frames, each with noise of its own.
    pub clips: bool,
    /// Whether its frames are far from each other, and the next stage makes those between them.
    pub keyframes: bool,
    /// How guidance treats given frames, and what is done to its result.
    pub guidance: GuidanceForm,
}

/// A model and what is known of it.
#[derive(Debug, Clone)]
pub struct StageModel {
    pub folder: ModelFolder,
    /// What its configurations say.
    pub architecture: Arc<dyn Architecture>,
    /// The name of its recipe.
    pub recipe: String,
    /// What lets it follow windows longer than its own.
    pub long: Option<Long>,
}

impl StageModel {
    /// The weights of a part.
    ///
    /// # Errors
    /// Files that are not there or cannot be read.
    pub fn part(&self, role: Role) -> Result<Part> {
        self.folder.part(self.architecture.part(role))
    }
}

/// What the unconditional half of guidance reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UncondText {
    /// An all-zero embedding.
    Zeros,
    Text(String),
}

/// What the text encoder is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextInput {
    /// Final texts, style included; of an edit, the source's.
    pub prompts: Vec<String>,
    /// Those that scenes of a window share; they count as prompts after these.
    pub shared: Vec<SharedText>,
    pub uncond: UncondText,
}

/// The size of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameSize {
    /// Channels, height and width of the latents.
    pub latents: (usize, usize, usize),
    /// Pixels.
    pub width: usize,
    pub height: usize,
}

/// The input of a stage.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Input {
    /// A file with its noise; else noise comes from the seed.
    pub noise: Option<PathBuf>,
    /// The video that it continues.
    pub source_video: Option<SourceVideo>,
    /// How much of the frames of the stage before it is made anew, from 0 (nothing) to 1 (everything), as SDEdit (arXiv
    /// 2108.01073) has it: that share of the steps is taken, from those frames under the noise of the first of them. None where
    /// frames begin as noise alone.
    pub strength: Option<f64>,
    /// The frames that it makes anew in part, where they are those of a given video.
    pub footage: Option<Footage>,
    /// The picture that the first frame is.
    pub first_frame: Option<Footage>,
}

impl Input {
    /// The first step that is taken of `steps`.
    pub fn first_step(&self, steps: usize) -> usize {
        match self.strength {
            // as diffusers' image-to-image pipelines round it
            Some(strength) => steps - ((steps as f64 * strength) as usize).min(steps),
            None => 0,
        }
    }
}

/// The device, dtypes and kernels of its networks.
#[derive(Debug, Clone)]
pub struct Compute {
    pub device: Device,
    /// Of the denoiser; on the CPU the widest dtype of its stored weights, and it computes in f32.
    pub dtype: DType,
    /// Of the text encoder: never f16.
    pub text_dtype: DType,
    /// Of the autoencoder.
    pub vae_dtype: DType,
    /// The attention kernel of the denoiser.
    pub attention: Kernel,
    /// Where weights that are not in use are kept; never `auto`.
    pub offload: Offload,
}

impl Compute {
    /// `cpu`, `cuda:0`.
    pub fn device_name(&self) -> String {
        match self.device.location() {
            DeviceLocation::Cpu => "cpu".to_owned(),
            DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
            DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
        }
    }
}

/// Bytes that each network needs on its device while it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    pub text: u64,
    pub denoise: u64,
    pub decode: u64,
    /// The program itself.
    pub base: u64,
    /// Of host memory, for offloaded weights.
    pub host: u64,
}

impl Need {
    /// The largest of them.
    pub fn peak(&self) -> u64 {
        self.base + self.text.max(self.denoise).max(self.decode)
    }

    /// The part that needs the most.
    pub(super) fn largest(&self) -> Role {
        match self.text.max(self.denoise).max(self.decode) {
            most if most == self.text => Role::TextEncoder,
            most if most == self.denoise => Role::Denoiser,
            _ => Role::Autoencoder,
        }
    }
}

impl Stage {
    /// The timelines of a segment, in the order in which they are kept.
    pub fn timelines(&self, segment: &Segment) -> Vec<Timeline> {
        match &self.controls.edit {
            Some(edit) => edit.timelines(&segment.plan, self.text.prompts.len(), self.sampler.steps),
            None => {
                vec![Timeline { anchored: self.method.zero_shot.is_some(), ..Timeline::output(segment.plan.clone()) }]
            }
        }
    }

    /// Steps of the sampler in a segment.
    pub fn steps(&self, index: usize) -> usize {
        let steps = self.sampler.steps;
        self.method.streaming.as_ref().map_or(steps, |streaming| streaming.steps(index, steps))
    }

    /// Steps of the segments before one.
    pub fn steps_before(&self, index: usize) -> usize {
        (0..index).map(|segment| self.steps(segment)).sum()
    }

    /// The stage as it makes the first of its chunks, where another network makes that one.
    pub fn of_first_chunk(&self) -> Option<Self> {
        let FirstChunk { sampler, guidance } = self.method.streaming.as_ref()?.first.clone()?;
        Some(Self { sampler, guidance, ..self.clone() })
    }

    /// Videos that are decoded: the output, and companions that are seen beside it.
    pub fn shown(&self) -> usize {
        1 + usize::from(self.controls.edit.as_ref().is_some_and(|edit| edit.changes.side_by_side))
    }

    /// The texts of the video: of an edit, its own.
    pub fn prompts(&self) -> &[String] {
        self.controls.edit.as_ref().map_or(&self.text.prompts, |edit| &edit.prompts)
    }

    /// The stage that makes what is between this one's frames: `segments`.
    pub fn between(&self, segments: Vec<Segment>) -> Self {
        let given = Given { from: GivenFrom::Before, files: Vec::new(), fit: Fit::default() };
        let method = StageMethod { given: Some(given), keyframes: false, ..self.method.clone() };
        Self { segments, method, ..self.clone() }
    }

    /// All texts that are encoded, in the order in which plans count prompts: of an edit, its own come last.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let edited = self.controls.edit.iter().flat_map(|edit| &edit.prompts);
        let shared = self.text.shared.iter().map(|shared| shared.text.as_str());
        self.text.prompts.iter().map(String::as_str).chain(shared).chain(edited.map(String::as_str))
    }

    /// The first step that is taken with all frames.
    pub fn first_step(&self) -> usize {
        let moved = self.method.zero_shot.as_ref().map_or(0, ZeroShot::first_step);
        self.input.first_step(self.sampler.steps).max(moved)
    }

    /// The frame of the video that is the first of segment `index`; a fade shows frames of both its sides.
    pub fn first_shown(&self, index: usize) -> usize {
        video_frames(&self.segments[..index]) - self.segments[index].fade
    }

    /// The bank in which the first frame of an image model's video waits for the others, for a step.
    pub fn anchor_bank(&self, layers: &Ranges) -> BankPlan {
        let first = || std::iter::once(0).collect::<Ranges>();
        BankPlan {
            purpose: Purpose::Anchor {
                timeline: 0,
                windows: first(),
                frames: first(),
                replace: true,
                lifetime: Lifetime::Step,
            },
            layers: layers.clone(),
            dtype: self.compute.dtype,
            device: self.compute.device.clone(),
            budget: usize::MAX, // the stage's memory was checked
        }
    }

    /// What a bank for a plan is made for: of some of the networks, the denoiser (0) and the control networks, counted from 1.
    pub fn bank_size(&self, plan: &ChunkPlan, networks: Range<usize>) -> BankSize {
        let (_, height, width) = self.size.latents;
        let halves = self.rule().most_halves(self.sampler.steps);
        let size = bank_size(plan, &*self.model.architecture, (height, width), halves);
        let frames = plan.windows.iter().map(|window| window.len).max().unwrap_or(0);
        let beside = self.method.control_inputs.iter().map(|input| {
            let layers = input.model.architecture.layers(frames, (height, width));
            layers.iter().map(|layer| LayerSize { channels: layer.channels, grid: layer.grid }).collect()
        });
        let all = size.networks.into_iter().chain(beside);
        BankSize { networks: all.skip(networks.start).take(networks.len()).collect(), ..size }
    }

    /// The denoiser and the networks beside it.
    pub fn networks(&self) -> usize {
        1 + self.method.control_inputs.len()
    }

    /// How the halves of guidance become one prediction.
    pub fn rule(&self) -> Rule {
        let GuidanceForm { mode, image, renorm, .. } = self.method.guidance;
        let rule = match &self.method.instruct {
            Some(Instruct { image_guidance, .. }) => {
                Rule::ThreePart { text: self.guidance, image: *image_guidance, text_decides: true }
            }
            None => match mode {
                GuidanceMode::Cfg => Rule::classifier_free(self.guidance),
                GuidanceMode::Jit => Rule::ClassifierFree { scale: self.guidance, null: Half::NONE },
                GuidanceMode::Sit => Rule::ThreePart { text: self.guidance, image, text_decides: false },
            },
        };
        match renorm {
            Renorm::Off => rule,
            Renorm::Full => Rule::Renormalised { rule: Box::new(rule), clamp: false },
            Renorm::Clamp => Rule::Renormalised { rule: Box::new(rule), clamp: true },
        }
    }

    /// The names of its clips in a file of noise, where each has noise of its own: those of a video that is made of several.
    pub fn clip_names(&self) -> Option<Vec<String>> {
        let given = self.method.given.as_ref();
        if self.method.keyframes {
            return Some(vec!["key".to_owned()]);
        }
        let clips = given.is_some_and(|given| given.from == GivenFrom::Before) || self.method.clips;
        clips.then(|| (0..self.segments.len()).map(|index| index.to_string()).collect())
    }

    /// What a step that is computed keeps for those that are not: half numbers where the run is in half numbers.
    pub fn kept_dtype(&self) -> DType {
        match self.compute.dtype {
            DType::F32 => compute_dtype(DType::F32, &self.compute.device),
            half => half,
        }
    }

    /// Bytes of it, for the segment that has the most.
    pub fn kept_bytes(&self) -> u64 {
        if self.cache.is_none() {
            return 0;
        }
        let (_, height, width) = self.size.latents;
        let halves = self.rule().most_halves(self.sampler.steps);
        let of_window = |frames: usize| self.model.architecture.kept_values(frames, (height, width));
        let of_segment = |segment: &Segment| {
            let windows: usize = segment.plan.windows.iter().map(|window| of_window(window.len)).sum();
            windows * self.timelines(segment).len() * halves * self.kept_dtype().size_in_bytes()
        };
        self.segments.iter().map(of_segment).max().unwrap_or(0) as u64
    }

    /// Steps that are taken and computed.
    pub fn computed_steps(&self) -> usize {
        let first = self.input.first_step(self.sampler.steps);
        self.cache.as_ref().map_or(self.sampler.steps - first, Caching::count)
    }

    /// Frames of the whole video, those of the one it continues included where they belong to the output.
    pub fn frames(&self) -> usize {
        video_frames(&self.segments) + self.input.source_video.as_ref().map_or(0, SourceVideo::kept)
    }
}
