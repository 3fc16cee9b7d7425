//! What the rest of the program knows of a kind of model: its parts, its sizes, how much it takes and how it is loaded. Which
//! kind a folder is `model_index.json` says ([`super::registry`]); every number comes from the configurations of its parts.

use super::Denoiser;
use super::autoencoder::{Autoencoder, DecodeMemory, DecodeOptions, TileOptions};
use super::continuation::{AnchorEncoder, ChunkFrames, Continuation};
use super::control::ControlNetwork;
use super::given::{Clip, GivenFrames};
use super::latent_time::LatentTime;
use super::placement::{ReferenceConfig, SubjectAttention};
use crate::attention::SiteKind;
use crate::schedulers::SchedulerClass;
use crate::words::without_types;
use anyhow::{Result, bail};
use candle_nn::VarBuilder;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::Arc;

/// A kind of model, before any folder is read.
#[derive(Debug)]
pub struct Family {
    /// What recipes call it (`[for] architecture`).
    pub name: &'static str,
    /// What the classes of all pipelines over its networks begin with, those included that this program does not run.
    pub stem: &'static str,
    /// Values of `_class_name` in `model_index.json`.
    pub pipelines: &'static [&'static str],
    /// Other such values and what to do about them: a word of the class, and the end of a message.
    pub remedies: &'static [(&'static str, &'static str)],
    /// In the order of a run.
    pub parts: &'static [PartClass],
    /// Its own scheduler classes; the common ones are [`crate::schedulers::CLASSES`].
    pub schedulers: &'static [SchedulerClass],
    /// The kinds of attention its networks have.
    pub sites: &'static [SiteKind],
    /// The video that a model was made for, from as few keys of its configurations as say so.
    pub native: fn(&Configurations) -> Result<Native>,
    /// Makes the architecture of a folder from its configurations.
    ///
    /// # Errors
    /// Those of the reader, and what this implementation does not compute, in one line that names the key.
    pub read: fn(&Configurations) -> Result<Arc<dyn Architecture>>,
}

impl Family {
    /// The parts with weights.
    pub fn weighted(&self) -> impl Iterator<Item = &'static PartClass> {
        self.parts.iter().filter(|part| part.role.has_weights())
    }

    /// The name of the part of a role, which is also the word for it in messages; of several the first.
    pub fn part(&self, role: Role) -> &'static str {
        self.parts.iter().find(|part| part.role == role).map_or(role.usual(), |part| part.name)
    }
}

/// A part of a model: a folder of it.
#[derive(Debug)]
pub struct PartClass {
    /// The folder.
    pub name: &'static str,
    pub role: Role,
    /// The classes that fit, of parts with weights ([`Role::class_key`]).
    pub classes: &'static [&'static str],
    /// Whether no run is possible without it.
    pub required: bool,
}

/// What a part is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Tokenizer,
    TextEncoder,
    Denoiser,
    /// The denoiser of a video's first chunk, where the others have one of their own.
    FirstDenoiser,
    /// A network beside the denoiser that says what is to be added to its features.
    ControlNet,
    /// A network beside the denoiser that sees the frames before a chunk.
    Memory,
    /// What sees an anchor frame, and what makes tokens of that.
    ImageEncoder,
    Resampler,
    /// Attention to a subject.
    Reference,
    /// What sees boxes, and the network beside the denoiser that is given what it says of them.
    BoxEncoder,
    BoxControl,
    Scheduler,
    Autoencoder,
}

impl Role {
    pub fn has_weights(self) -> bool {
        !matches!(self, Self::Tokenizer | Self::Scheduler)
    }

    /// The key of its configuration that names its class: transformers' or diffusers'.
    pub fn class_key(self) -> &'static str {
        if matches!(self, Self::TextEncoder | Self::ImageEncoder) { "model_type" } else { "_class_name" }
    }

    /// The usual name of such a part.
    fn usual(self) -> &'static str {
        match self {
            Self::Tokenizer => "tokenizer",
            Self::TextEncoder => "text_encoder",
            Self::Denoiser => "transformer",
            Self::FirstDenoiser => "base_unet",
            Self::ControlNet => "controlnet",
            Self::Memory => "cam",
            Self::ImageEncoder => "image_encoder",
            Self::Resampler => "resampler",
            Self::Reference => "reference_attention",
            Self::BoxEncoder => "motion_encoder",
            Self::BoxControl => "controlnet",
            Self::Scheduler => "scheduler",
            Self::Autoencoder => "vae",
        }
    }
}

/// A whole model for something that this program does not do: not damaged, but the wrong one.
#[derive(Debug)]
pub struct OtherTask(pub String);

impl fmt::Display for OtherTask {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OtherTask {}

/// Reads a JSON file of a model folder by its path inside it.
pub type Configurations<'a> = dyn Fn(&str) -> Result<Value> + 'a;

/// A configuration by its path inside the model.
///
/// # Errors
/// Those of the reader, and keys with values of another kind, by file and key.
pub fn config<T: DeserializeOwned>(configurations: &Configurations, path: &str) -> Result<T> {
    serde_path_to_error::deserialize(configurations(path)?).map_err(|error| {
        let key = error.path().to_string();
        let key = if key == "." { String::new() } else { format!("key {key:?}: ") };
        anyhow::anyhow!("{path}: {key}{}", without_types(&error.inner().to_string()))
    })
}

/// The video a model was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Native {
    /// Pixels.
    pub width: usize,
    pub height: usize,
    pub frames: usize,
    /// Frames per second.
    pub fps: u32,
}

/// Attention sites of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sites {
    pub kind: SiteKind,
    pub layers: usize,
    pub heads: usize,
    pub head_dim: usize,
}

/// One layer of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerShape {
    /// Of all heads.
    pub channels: usize,
    pub heads: usize,
    /// Frames, height and width of its tokens.
    pub grid: (usize, usize, usize),
}

/// Sizes of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatentGeometry {
    pub time: LatentTime,
    /// Pixels of a latent cell, in height and in width.
    pub spatial_ratio: usize,
    /// Latent cells of a token, in height and in width.
    pub patch: usize,
    /// Latent frames of a token.
    pub patch_t: usize,
    /// Whether the network itself fills up its last patch in time; else latent frames come in whole patches.
    pub fills: bool,
    /// Channels of the latents.
    pub channels: usize,
    /// Latent frames that the model was trained on.
    pub window: usize,
    /// The videos it was trained on.
    pub native: Native,
}

impl LatentGeometry {
    /// Sides of videos are multiples of so many pixels.
    pub fn unit(&self) -> usize {
        self.spatial_ratio * self.patch
    }

    /// Frames, height and width of the tokens of so many latent frames of `height` by `width` cells.
    pub fn grid(&self, frames: usize, (height, width): (usize, usize)) -> (usize, usize, usize) {
        (frames.div_ceil(self.patch_t), height / self.patch, width / self.patch)
    }

    /// Latent frames that a run makes in multiples of.
    pub fn unit_t(&self) -> usize {
        if self.fills { 1 } else { self.patch_t }
    }
}

/// What the denoiser takes of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextSpec {
    /// The part that encodes it.
    pub part: &'static str,
    /// Tokens, padding included.
    pub length: usize,
    /// Values of a token.
    pub width: usize,
    /// Whether it takes the text as one vector as well: that of the first token of its end.
    pub pooled: bool,
}

/// What recipes are found by.
#[derive(Debug, Clone, PartialEq)]
pub struct RecipeKey {
    pub architecture: &'static str,
    pub facts: BTreeMap<&'static str, Fact>,
}

/// One thing that is so of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "true, false or a whole number")]
pub enum Fact {
    Flag(bool),
    Number(usize),
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

/// Multiply-adds of one kind of operation at small sizes and at large ones, which a CPU does at different speeds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Kinds {
    pub small: f64,
    pub wide: f64,
}

/// Widths from which matrix products count as wide, channels from which convolutions do.
pub const WIDE: (usize, usize) = (512, 65);

/// Multiply-adds of one row of a window that goes through the denoiser once.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RowWork {
    pub linear: Kinds,
    pub attention: f64,
    pub layers: usize,
}

/// Bytes that denoising one window holds beside weights and timelines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowMemory {
    /// The state of one row between two layers.
    pub state: u64,
    /// The states of all rows, and what the row at work needs.
    pub activations: u64,
    /// Chunks of attention scores.
    pub scores: u64,
}

/// A model as its configurations describe it.
pub trait Architecture: Debug + Send + Sync {
    fn geometry(&self) -> &LatentGeometry;

    /// The denoiser's attention, the kind that sharing acts on first.
    fn sites(&self) -> &[Sites];

    /// The denoiser's attention layers of a kind, in the order in which they run, on so many latent frames of `cells` (height,
    /// width).
    fn layers(&self, kind: SiteKind, frames: usize, cells: (usize, usize)) -> Vec<LayerShape> {
        let grid = self.geometry().grid(frames, cells);
        let of_kind = self.sites().iter().filter(|sites| sites.kind == kind);
        let shape = |sites: &Sites| LayerShape { channels: sites.heads * sites.head_dim, heads: sites.heads, grid };
        of_kind.flat_map(|sites| vec![shape(sites); sites.layers]).collect()
    }

    fn text(&self) -> TextSpec;

    /// What it can be given of a video's frames.
    fn given_frames(&self) -> GivenFrames {
        GivenFrames::No
    }

    /// Whether it makes clips of so many latent frames, those included that fill up patches in time, of `cells` (height, width).
    ///
    /// # Errors
    /// Sizes and lengths that it has no positions for, in one line.
    fn check_clip(&self, _frames: usize, _cells: (usize, usize)) -> Result<()> {
        Ok(())
    }

    /// The numbers that it is told of a clip, in its own order.
    fn numbers(&self, _clip: &Clip) -> Vec<f64> {
        Vec::new()
    }

    fn recipe_key(&self) -> RecipeKey;

    fn family(&self) -> &'static Family;

    /// What the names of the weights of its repeated units begin with, before their numbers: those of the denoiser that can
    /// be streamed.
    fn unit_prefixes(&self) -> &'static [&'static str];

    /// Work of one row of so many latent frames of `cells` (height, width).
    fn row_work(&self, frames: usize, cells: (usize, usize)) -> RowWork;

    /// Work that is added to a row's where its frames attend in time in so many stretches of so many frames
    /// ([`crate::attention::Stretch`]), not all at once; none in a network without such attention.
    fn stretches_work(&self, _frames: usize, _stretches: (usize, usize), _cells: (usize, usize)) -> RowWork {
        RowWork { linear: Kinds::default(), attention: 0.0, layers: 0 }
    }

    /// Memory of a window's rows, of so many halves of guidance, in numbers of `element` bytes. `score_budget`: most bytes of a
    /// chunk of scores.
    fn row_memory(&self, rows: WindowRows, element: u64, score_budget: u64) -> RowMemory;

    /// Work of decoding so many latent frames of so many cells. `begins`: the first of them stays one frame.
    fn decoding_work(&self, frames: usize, cells: usize, begins: bool) -> Kinds;

    /// What decoding so many latent frames needs besides the weights. Errors are those of impossible tiles.
    fn decoding_memory(
        &self,
        options: &DecodeOptions,
        frames: usize,
        cells: (usize, usize),
    ) -> candle_core::Result<DecodeMemory>;

    /// The tiles of its autoencoder where nobody asks for others.
    fn tile(&self) -> TileOptions;

    /// The network beside the denoiser that a configuration describes.
    ///
    /// # Errors
    /// What this implementation does not compute, and what does not fit the denoiser, in one line that names the key.
    fn control(&self, _config: Value) -> Result<Arc<dyn ControlArchitecture>> {
        bail!("models of {} take no control model", self.family().stem)
    }

    /// How a video is made chunk by chunk, each going on from the one before; none where it is not.
    fn streaming(&self) -> Option<&dyn StreamingArchitecture> {
        None
    }

    /// How a given subject is put into a video; none where it is not.
    fn subject(&self) -> Option<&dyn SubjectArchitecture> {
        None
    }

    /// The same model whose rotary positions follow windows longer than its own (RIFLEx, arXiv 2502.15894): the frequency of this
    /// number in time, from 1, is lowered; the one whose period is nearest its window where none is given.
    ///
    /// # Errors
    /// Models without rotary positions, and a number that they do not have.
    fn lengthened(&self, _k: Option<usize>) -> Result<Arc<dyn Architecture>> {
        bail!("models of {} have no rotary positions", self.family().stem)
    }

    /// What its denoiser can keep from step to step.
    fn keeps(&self) -> Keeps {
        Keeps::Nothing
    }

    /// By time, a signal of the denoiser whose changes say how much its output changes; `vb`: the weights of its part.
    ///
    /// # Errors
    /// Networks without one, and tensors that are missing.
    fn time_signal(&self, _vb: VarBuilder, _times: &[f64]) -> Result<Vec<Vec<f32>>> {
        bail!("networks of {} have no signal of the time", self.family().stem)
    }

    /// Work of a row in a step that takes what another one kept.
    fn taken_work(&self, _frames: usize, _cells: (usize, usize)) -> RowWork {
        RowWork::default()
    }

    /// Values that a row keeps.
    fn kept_values(&self, _frames: usize, _cells: (usize, usize)) -> usize {
        0
    }

    /// Loads the denoiser from the weights of its part: whole, or `streamed`, with no more than two of its units in memory at
    /// a time. The results are the same.
    fn load_denoiser(&self, vb: VarBuilder<'static>, streamed: bool) -> candle_core::Result<Arc<dyn Denoiser>>;

    /// Loads the autoencoder from the weights of its part, with its encoder where that is wanted.
    fn load_autoencoder(&self, vb: VarBuilder, encoder: bool) -> candle_core::Result<Arc<dyn Autoencoder>>;
}

/// A network beside a denoiser, as its configuration describes it.
pub trait ControlArchitecture: Debug + Send + Sync {
    /// The layers in which its frames attend to themselves, in the order in which they run.
    fn layers(&self, frames: usize, cells: (usize, usize)) -> Vec<LayerShape>;

    /// Work of one row of so many frames of `cells` with a text of `text` tokens.
    fn row_work(&self, text: usize, frames: usize, cells: (usize, usize)) -> RowWork;

    /// Bytes beside its weights while it runs, and bytes of what it leaves for the denoiser.
    fn row_memory(&self, rows: WindowRows, element: u64) -> (u64, u64);

    /// Work of seeing the pictures of so many frames, in multiply-adds: once in a run.
    fn hint_work(&self, frames: usize, cells: (usize, usize)) -> f64;

    /// Bytes of what it sees of one picture.
    fn hint_bytes(&self, cells: (usize, usize)) -> u64;

    /// Loads it.
    fn load(&self, vb: VarBuilder) -> candle_core::Result<Arc<dyn ControlNetwork>>;
}

/// What the networks of a video that is made chunk by chunk are, as their configurations describe them.
pub trait StreamingArchitecture: Debug + Send + Sync {
    fn frames(&self) -> ChunkFrames;

    /// Multiply-adds of a row of the network that sees the frames before.
    fn row_work(&self, cells: (usize, usize)) -> RowWork;

    /// Bytes that so many rows of it need, in numbers of `element` bytes, what they leave for the denoiser included.
    fn row_memory(&self, cells: (usize, usize), rows: usize, element: u64) -> u64;

    /// Loads the denoiser of the first chunk.
    fn load_first(&self, vb: VarBuilder<'static>, streamed: bool) -> candle_core::Result<Arc<dyn Denoiser>>;

    /// Loads what stands beside the denoiser of the other chunks, from the weights of that one and of the network that sees the
    /// frames before.
    fn load_continuation(
        &self,
        denoiser: &VarBuilder,
        memory: &VarBuilder,
    ) -> candle_core::Result<Arc<dyn Continuation>>;

    /// Loads what sees anchor frames.
    fn load_anchors(&self, encoder: VarBuilder, resampler: &VarBuilder) -> candle_core::Result<Box<dyn AnchorEncoder>>;
}

/// What puts a subject into a video, as its configurations describe it.
pub trait SubjectArchitecture: Debug + Send + Sync {
    /// Attention to a subject, where the folder has it.
    fn reference(&self) -> Option<&ReferenceConfig>;

    /// The most frames whose boxes are seen; none where the folder has nothing that sees boxes.
    fn most_boxes(&self) -> Option<usize>;

    /// The network that is given what boxes say, for its work and memory.
    fn box_control(&self) -> Option<&dyn ControlArchitecture>;

    /// Multiply-adds of attention to the subject in one row.
    fn reference_work(&self, frames: usize, cells: (usize, usize)) -> f64;

    /// Loads attention to a subject.
    fn load_reference(&self, vb: &VarBuilder) -> candle_core::Result<Arc<dyn SubjectAttention>>;

    /// Loads what sees boxes, from the weights of the encoder and of the network beside the denoiser.
    fn load_boxes(&self, encoder: &VarBuilder, control: VarBuilder) -> candle_core::Result<Arc<dyn ControlNetwork>>;
}

/// What a denoiser keeps from step to step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    Nothing,
    /// What all its blocks together add.
    Stack,
    /// The feature before the last layer of its way up.
    Deep,
}

/// The rows of a window as far as memory depends on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowRows {
    /// Latent frames.
    pub frames: usize,
    /// Height and width of a latent frame.
    pub cells: (usize, usize),
    /// Halves of guidance.
    pub halves: usize,
}

impl dyn Architecture + '_ {
    /// The name of the part of a role.
    pub fn part(&self, role: Role) -> &'static str {
        self.family().part(role)
    }

    /// Sites of the kind that controls between windows act on.
    pub fn main_sites(&self) -> Sites {
        let none = Sites { kind: SiteKind::Joint, layers: 0, heads: 0, head_dim: 0 };
        self.sites().first().copied().unwrap_or(none)
    }

    /// Tokens of one row of so many latent frames of `cells`, those of the text included.
    pub fn tokens(&self, frames: usize, cells: (usize, usize)) -> usize {
        let (frames, height, width) = self.geometry().grid(frames, cells);
        self.text().length + frames * height * width
    }
}
