//! What a recipe says.

use super::key::For;
use crate::guidance::GuidanceSchedule;
use crate::processors::Spec;
use crate::schedulers::{SchedulerKind, Table};
use crate::timeline::{BlendMode, Motion, MotionSteps};
use crate::video::Rate;
use crate::words::{text, without_types, word, words};
use anyhow::{Result, bail, ensure};
use serde::Deserialize;

words!(
    /// The text of the unconditional half.
    Uncond, "unconditional text", {
        /// An all-zero embedding: what models that SAT trained were trained to drop to.
        Zeros = "zeros",
        /// The encoding of "": what diffusers uses.
        Empty = "empty",
    }
);

words!(
    /// Whether frames begin with the same noise.
    FrameNoise, "noise of frames", {
        /// All with that of the first, in every step.
        Shared = "shared",
        /// Each with its own.
        Independent = "independent",
    }
);

/// What a run does where nobody says otherwise.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What it is for, in words.
    #[serde(default)]
    pub about: String,
    /// The networks it is for; any where a user's own file does not say.
    #[serde(default, rename = "for")]
    pub fits: For,
    /// Denoising steps.
    pub steps: usize,
    #[serde(deserialize_with = "word")]
    pub guidance_scale: GuidanceSchedule,
    #[serde(deserialize_with = "word")]
    pub uncond: Uncond,
    /// Another sampler than the model folder's.
    #[serde(default, deserialize_with = "text::deserialize")]
    pub scheduler: Option<SchedulerKind>,
    #[serde(deserialize_with = "word")]
    pub schedule: Table,
    /// Fresh noise per DDIM step, 0 to 1.
    pub eta: f64,
    /// Frames per second that the model was trained on.
    #[serde(deserialize_with = "word")]
    pub fps: Rate,
    /// What is different from method to method.
    #[serde(default)]
    pub method: Methods,
    /// How latents are shown before they are decoded.
    #[serde(default)]
    pub preview: Option<LatentRgb>,
    /// Numbers of steps that are not computed.
    #[serde(default)]
    pub cache: CacheRecipe,
    /// Numbers of windows longer than the model's own.
    #[serde(default)]
    pub long: LongRecipe,
}

/// A section for each method, `[method.NAME]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Methods {
    pub ditctrl: DitCtrl,
    /// For models of single pictures.
    #[serde(rename = "text2video-zero")]
    pub zero_shot: Option<ZeroShotRecipe>,
    /// For the same ones beside control models.
    pub controlnet: Option<ControlRecipe>,
    /// For models that change a given picture as they are told.
    #[serde(rename = "instruct-pix2pix")]
    pub instruct: Option<InstructRecipe>,
    /// For models of short clips.
    pub freenoise: Option<FreeNoiseRecipe>,
    /// For models whose chunks go on from each other.
    pub streaming: Option<StreamingRecipe>,
    /// For models that make given videos anew in part.
    pub sdedit: Option<SdEditRecipe>,
}

/// Chunks that go on from each other (StreamingT2V, arXiv 2403.14773): what is different in the first one.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamingRecipe {
    /// Denoising steps.
    pub first_steps: usize,
    #[serde(deserialize_with = "word")]
    pub first_guidance_scale: GuidanceSchedule,
    #[serde(deserialize_with = "word")]
    pub first_scheduler: SchedulerKind,
}

/// A given video made anew in part (SDEdit, arXiv 2108.01073) in windows over the whole of it (StreamingT2V, arXiv 2403.14773).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SdEditRecipe {
    /// Frames of a window, and those that neighbours share.
    pub window: usize,
    pub overlap: usize,
    /// The share of the steps that is taken.
    pub strength: f64,
    pub steps: usize,
    #[serde(deserialize_with = "word")]
    pub guidance_scale: GuidanceSchedule,
}

/// Frames of a given video that are changed as they are told (InstructPix2Pix, arXiv 2211.09800), and attend to the first of them
/// (Text2Video-Zero).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstructRecipe {
    /// How much of the given frames stays.
    pub image_guidance_scale: f64,
    /// Whether frames begin with the same noise.
    #[serde(deserialize_with = "word")]
    pub noise: FrameNoise,
    /// Frames in the network at a time.
    pub chunk: usize,
    /// Controls of attention.
    pub attn_proc: Vec<Spec>,
}

/// Clips made longer by windows of attention in time, from noise that is used again (FreeNoise, arXiv 2310.15169).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreeNoiseRecipe {
    /// Frames of a window, which are those of a clip.
    pub window: usize,
    /// Frames from one window to the next.
    pub stride: usize,
    /// Frames that go over from one scene's text to the next.
    pub overlap: usize,
}

/// Frames of an image model that attend to the first of them (Text2Video-Zero, arXiv 2303.13439).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZeroShotRecipe {
    /// From frame to frame, in 512ths of width and height.
    #[serde(deserialize_with = "word")]
    pub motion: Motion,
    /// Training timesteps between which moved frames get their noise.
    #[serde(deserialize_with = "word")]
    pub motion_steps: MotionSteps,
    /// Frames in the network at a time.
    pub chunk: usize,
    /// Frames that go over from one scene's text to the next.
    pub overlap: usize,
    /// Controls of attention.
    pub attn_proc: Vec<Spec>,
}

/// Frames that follow given pictures by a control model (ControlNet, arXiv 2302.05543; Text2Video-Zero): what is different
/// from frames of a text alone.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlRecipe {
    /// Denoising steps.
    pub steps: usize,
    #[serde(deserialize_with = "word")]
    pub guidance_scale: GuidanceSchedule,
    /// Whether frames begin with the same noise.
    #[serde(deserialize_with = "word")]
    pub noise: FrameNoise,
}

/// Overlapping windows over a long timeline, and the controls between them (DiTCtrl, arXiv 2412.18597).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DitCtrl {
    /// Latent frames that neighbouring windows share; absent for [`Recipe::overlap`]'s share of the window.
    pub overlap: Option<usize>,
    /// Windows with interpolated text between two prompts.
    pub transition_windows: usize,
    /// Windows added to each prompt that is neither first nor last.
    pub hold: usize,
    #[serde(deserialize_with = "word")]
    pub blend: BlendMode,
    /// Controls of attention between windows; their steps count in a run of [`Recipe::steps`] steps.
    pub attn_proc: Vec<Spec>,
    /// Layers of the network that `attn_proc` was chosen for; one of other depth has no controls of its own.
    pub layers: Option<usize>,
}

/// The method's own settings, without a control.
impl Default for DitCtrl {
    fn default() -> Self {
        let blend = BlendMode::Reference;
        Self { overlap: None, transition_windows: 2, hold: 0, blend, attn_proc: Vec::new(), layers: None }
    }
}

/// What lets a model follow windows longer than its own.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LongRecipe {
    /// The frequency in time that RIFLEx (arXiv 2502.15894) lowers, from 1.
    pub riflex: Option<usize>,
}

/// What is known of how a network's output changes from step to step.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheRecipe {
    /// The coefficients of TeaCache (arXiv 2411.19108), the highest power first.
    pub tea: Option<[f64; 5]>,
    /// Its threshold.
    pub threshold: Option<f64>,
}

/// A linear map from the channels of a latent cell to a colour in -1 to 1.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentRgb {
    /// Red, green and blue of each channel.
    pub factors: Vec<[f32; 3]>,
    #[serde(default)]
    pub bias: [f32; 3],
}

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// One line with the entry that is wrong.
    pub(super) fn of_table(table: toml::Table) -> Result<Self> {
        let recipe: Self = serde_path_to_error::deserialize(toml::Value::Table(table)).map_err(|error| {
            let (path, message) =
                (error.path().to_string(), without_types(&error.inner().message().replace('\n', " ")));
            if path == "." { anyhow::anyhow!("{message}") } else { anyhow::anyhow!("{path}: {message}") }
        })?;
        let DitCtrl { transition_windows, hold, .. } = recipe.method.ditctrl;
        ensure!((1..=MOST).contains(&recipe.steps), "steps = {}: give 1 to {MOST}", recipe.steps);
        let controlled = recipe.method.controlnet.as_ref().map_or(1, |method| method.steps);
        ensure!((1..=MOST).contains(&controlled), "method.controlnet: steps = {controlled}: give 1 to {MOST}");
        let first = recipe.method.streaming.as_ref().map_or(1, |method| method.first_steps);
        ensure!((1..=MOST).contains(&first), "method.streaming: first_steps = {first}: give 1 to {MOST}");
        let CacheRecipe { tea, threshold } = &recipe.cache;
        let finite = tea.iter().flatten().chain(threshold).all(|number| number.is_finite());
        ensure!(
            finite && threshold.is_none_or(|threshold| threshold >= 0.0),
            "cache: give finite numbers, and no threshold below 0"
        );
        ensure!((0.0..=1.0).contains(&recipe.eta), "eta = {}: give 0 to 1", recipe.eta);
        if let Some(FreeNoiseRecipe { window, stride, .. }) = recipe.method.freenoise {
            let fits = (1..=MOST).contains(&window) && (1..=window).contains(&stride);
            ensure!(
                fits,
                "method.freenoise: window = {window}, stride = {stride}: give 1 to {MOST}, and a stride no longer"
            );
        }
        ensure!(transition_windows <= MOST && hold <= MOST, "method.ditctrl: more than {MOST} windows for one prompt");
        Ok(recipe)
    }

    /// What holds beside control models.
    ///
    /// # Errors
    /// A recipe that says nothing of them.
    pub fn controlled(self) -> Result<Self> {
        let Some(ControlRecipe { steps, guidance_scale, .. }) = self.method.controlnet else {
            bail!(
                "--control: the recipe says nothing of it: use a model of pictures, or a recipe with [method.controlnet]"
            )
        };
        Ok(Self { steps, guidance_scale, ..self })
    }

    /// The controls of a run of `steps` steps: acting in the same part of it ([`Ranges::scaled`](crate::processors::Ranges)).
    pub fn controls(&self, steps: usize) -> Vec<Spec> {
        let scaled = |spec: &Spec| Spec { steps: spec.steps.scaled(self.steps, steps), ..spec.clone() };
        let zero_shot = self.method.zero_shot.iter().flat_map(|method| &method.attn_proc);
        let instruct = self.method.instruct.iter().flat_map(|method| &method.attn_proc);
        self.method.ditctrl.attn_proc.iter().chain(zero_shot).chain(instruct).map(scaled).collect()
    }

    /// Latent frames that neighbouring windows share, for a window of `window`: 9 of 13, DiTCtrl's share, where the recipe
    /// does not say.
    pub fn overlap(&self, window: usize) -> usize {
        let zero_shot = self.method.zero_shot.as_ref().map(|method| method.overlap);
        zero_shot.or(self.method.ditctrl.overlap).unwrap_or(9 * window / 13)
    }
}

/// The most steps of a run, and windows for one prompt.
const MOST: usize = 1000;
