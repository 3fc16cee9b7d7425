//! CogVideoX folders as the rest of the program sees them: `CogVideoXPipeline` of diffusers, with its transformer, its causal
//! autoencoder and a T5 encoder.

use super::config::TransformerConfig;
use super::positions::time_frequencies;
use super::transformer::Transformer;
use super::vae::{AutoencoderKLCogVideoX, VaeConfig};
use crate::attention::SiteKind;
use crate::models::architecture::{
    Architecture, Configurations, Fact, Family, Keeps, Kinds, LatentGeometry, Native, PartClass, RecipeKey, Role,
    RowMemory, RowWork, Sites, TextSpec, WIDE, WindowRows, config,
};
use crate::models::autoencoder::{DecodeMemory, DecodeOptions, TileOptions};
use crate::models::given::GivenFrames;
use crate::models::layers::{TimestepEmbedding, timestep_sinusoid};
use crate::models::{Autoencoder, Denoiser, LatentTime};
use crate::schedulers::{BetaSchedule, ScheduleConfig, SchedulerClass, SchedulerKind};
use anyhow::{Result, ensure};
use candle_nn::VarBuilder;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::sync::Arc;

pub static FAMILY: Family = Family {
    name: "cogvideox",
    stem: "CogVideoX",
    pipelines: &["CogVideoXPipeline", IMAGE_TO_VIDEO],
    remedies: &[
        // its networks are those of the text-to-video pipeline
        (
            "CogVideoXVideoToVideoPipeline",
            "; it has the networks of CogVideoXPipeline: write that for _class_name in a copy of the file, and give videos to \
             vidgen extend",
        ),
        ("FunControl", MORE_INPUTS),
    ],
    parts: &[
        PartClass { name: "tokenizer", role: Role::Tokenizer, classes: &[], required: true },
        PartClass { name: "text_encoder", role: Role::TextEncoder, classes: &["t5"], required: true },
        PartClass {
            name: "transformer",
            role: Role::Denoiser,
            classes: &["CogVideoXTransformer3DModel"],
            required: true,
        },
        PartClass { name: "scheduler", role: Role::Scheduler, classes: &[], required: true },
        PartClass { name: "vae", role: Role::Autoencoder, classes: &["AutoencoderKLCogVideoX"], required: true },
    ],
    schedulers: &[
        SchedulerClass {
            class: "CogVideoXDDIMScheduler",
            kind: SchedulerKind::Ddim,
            defaults: schedule,
            clip_sample: None,
        },
        SchedulerClass {
            class: "CogVideoXDPMScheduler",
            kind: SchedulerKind::Dpmpp2mSde,
            defaults: schedule,
            clip_sample: None,
        },
    ],
    sites: &[SiteKind::Joint],
    native,
    read,
};

/// The defaults that both scheduler classes have in diffusers; neither looks at `clip_sample`.
fn schedule() -> ScheduleConfig {
    ScheduleConfig {
        beta_start: 0.00085,
        beta_end: 0.012,
        beta_schedule: BetaSchedule::ScaledLinear,
        snr_shift_scale: 3.0,
        ..ScheduleConfig::default()
    }
}

/// The pipeline whose transformer also takes the latents of a picture.
const IMAGE_TO_VIDEO: &str = "CogVideoXImageToVideoPipeline";

const MORE_INPUTS: &str =
    "; its transformer takes more than noise and text: use the text-to-video model of the same family";

/// From latent cells of `ratio` pixels. The models that patch in time (1.5) were trained at twice the rate of the first ones.
fn native_of(width: usize, height: usize, frames: usize, patches_time: bool, ratio: usize) -> Native {
    Native { width: width * ratio, height: height * ratio, frames, fps: if patches_time { 16 } else { 8 } }
}

fn native(configurations: &Configurations) -> Result<Native> {
    /// The values of a configuration that says nothing are those of diffusers' class.
    #[derive(Deserialize)]
    #[serde(default)]
    struct Sample {
        sample_width: u16,
        sample_height: u16,
        sample_frames: u32,
        patch_size_t: Option<u32>,
    }
    impl Default for Sample {
        fn default() -> Self {
            Self { sample_width: 90, sample_height: 60, sample_frames: 49, patch_size_t: None }
        }
    }
    #[derive(Deserialize)]
    struct Levels {
        block_out_channels: Vec<IgnoredAny>,
    }
    let Sample { sample_width, sample_height, sample_frames, patch_size_t } =
        config(configurations, "transformer/config.json")?;
    let Levels { block_out_channels } = config(configurations, "vae/config.json")?;
    // every block but the last halves both axes
    let halvings = block_out_channels.len().saturating_sub(1);
    ensure!(halvings <= 8, "vae/config.json: {} block_out_channels are too many", halvings + 1);
    let (width, height) = (usize::from(sample_width), usize::from(sample_height));
    Ok(native_of(width, height, sample_frames as usize, patch_size_t.is_some(), 1 << halvings))
}

/// The configurations of a folder.
#[derive(Debug)]
struct CogVideoX {
    transformer: TransformerConfig,
    vae: VaeConfig,
    geometry: LatentGeometry,
    sites: [Sites; 1],
}

fn read(configurations: &Configurations) -> Result<Arc<dyn Architecture>> {
    #[derive(Deserialize)]
    struct Index {
        _class_name: String,
    }
    let transformer: TransformerConfig = config(configurations, "transformer/config.json")?;
    transformer.check()?;
    let Index { _class_name: class } = config(configurations, "model_index.json")?;
    let (channels, out) = (transformer.in_channels, transformer.out_channels);
    let wanted = if class == IMAGE_TO_VIDEO { 2 * out } else { out };
    ensure!(
        channels == wanted,
        "transformer/config.json: in_channels is {channels}, and a model of {class} has {wanted} for out_channels {out}"
    );
    let vae: VaeConfig = config(configurations, "vae/config.json")?;
    vae.validate()?;
    ensure!(
        vae.latent_channels == out,
        "the vae makes {} latent channels and the transformer takes {out}: these parts are not of one model",
        vae.latent_channels
    );
    let ratio = vae.spatial_ratio();
    let geometry = LatentGeometry {
        time: LatentTime::new(vae.temporal_ratio()),
        spatial_ratio: ratio,
        patch: transformer.patch_size,
        patch_t: transformer.patch_size_t.unwrap_or(1),
        fills: false,
        channels: out,
        window: transformer.window(),
        native: native_of(
            transformer.sample_width,
            transformer.sample_height,
            transformer.sample_frames,
            transformer.patch_size_t.is_some(),
            ratio,
        ),
    };
    let sites = [Sites {
        kind: SiteKind::Joint,
        layers: transformer.num_layers,
        heads: transformer.num_attention_heads,
        head_dim: transformer.attention_head_dim,
    }];
    Ok(Arc::new(CogVideoX { transformer, vae, geometry, sites }))
}

impl Architecture for CogVideoX {
    fn geometry(&self) -> &LatentGeometry {
        &self.geometry
    }

    fn sites(&self) -> &[Sites] {
        &self.sites
    }

    fn text(&self) -> TextSpec {
        TextSpec {
            part: "text_encoder",
            length: self.transformer.max_text_seq_length,
            width: self.transformer.text_embed_dim,
            pooled: false,
        }
    }

    fn given_frames(&self) -> GivenFrames {
        if self.transformer.takes_picture() { GivenFrames::Beside } else { GivenFrames::No }
    }

    fn check_clip(&self, frames: usize, (height, width): (usize, usize)) -> Result<()> {
        if !self.transformer.use_learned_positional_embeddings {
            return Ok(());
        }
        let (native, ratio) = (self.geometry.native, self.geometry.spatial_ratio);
        let [most, rows, columns] = self.transformer.learned_grid();
        let (own, asked) = ((native.width, native.height), (width * ratio, height * ratio));
        let (t, h, w) = self.geometry.grid(frames, (height, width));
        ensure!(
            (h, w) == (rows, columns),
            "{}x{} pixels: this model's positions are learned, for {}x{} alone: leave the size out",
            asked.0,
            asked.1,
            own.0,
            own.1
        );
        ensure!(t <= most, "this model's positions are learned, for up to {} frames: ask for no more", native.frames);
        Ok(())
    }

    fn recipe_key(&self) -> RecipeKey {
        self.transformer.recipe_key()
    }

    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn unit_prefixes(&self) -> &'static [&'static str] {
        &["transformer_blocks."]
    }

    /// Projections (4 D^2) and feed-forward (8 D^2) for each token; attention (2 L D).
    fn row_work(&self, frames: usize, cells: (usize, usize)) -> RowWork {
        let tokens = (self as &dyn Architecture).tokens(frames, cells) as f64;
        let (depth, dim) = (self.transformer.num_layers as f64, self.transformer.inner_dim() as f64);
        let products = depth * tokens * 12.0 * dim * dim;
        let linear = if self.transformer.inner_dim() >= WIDE.0 {
            Kinds { wide: products, ..Kinds::default() }
        } else {
            Kinds { small: products, ..Kinds::default() }
        };
        RowWork { linear, attention: depth * 2.0 * tokens * tokens * dim, layers: self.transformer.num_layers }
    }

    fn row_memory(&self, rows: WindowRows, element: u64, score_budget: u64) -> RowMemory {
        let tokens = (self as &dyn Architecture).tokens(rows.frames, rows.cells) as u64;
        let state = tokens * self.transformer.inner_dim() as u64 * element;
        // the states of the rows of a window; of the row at work: its norm, queries, keys, values, their rotated copies, or
        // four times the width in the feed-forward layer, before and after the activation
        let activations = state * (2 * rows.halves as u64 + 12);
        let scores = (self.transformer.num_attention_heads as u64 * tokens * tokens * 4).min(score_budget);
        RowMemory { state, activations, scores }
    }

    fn decoding_work(&self, frames: usize, cells: usize, begins: bool) -> Kinds {
        self.vae.decoding_work(frames, cells, begins)
    }

    fn decoding_memory(
        &self,
        options: &DecodeOptions,
        frames: usize,
        cells: (usize, usize),
    ) -> candle_core::Result<DecodeMemory> {
        self.vae.memory(options, frames, cells.0, cells.1)
    }

    fn tile(&self) -> TileOptions {
        self.vae.tile()
    }

    fn lengthened(&self, k: Option<usize>) -> Result<Arc<dyn Architecture>> {
        let frequencies = time_frequencies(&self.transformer);
        // of tokens
        let own = self.geometry.window.div_ceil(self.geometry.patch_t) as f64;
        let apart = |frequency: &f64| (std::f64::consts::TAU / frequency - own).abs();
        let nearest = frequencies.iter().enumerate().min_by(|a, b| apart(a.1).total_cmp(&apart(b.1)));
        let k = k.unwrap_or(nearest.map_or(1, |(index, _)| index + 1));
        ensure!(
            (1..=frequencies.len()).contains(&k),
            "riflex: k={k}: this model has {} frequencies in time",
            frequencies.len()
        );
        let transformer = TransformerConfig { riflex: Some(k), ..self.transformer.clone() };
        Ok(Arc::new(Self { transformer, vae: self.vae.clone(), geometry: self.geometry, sites: self.sites }))
    }

    fn keeps(&self) -> Keeps {
        Keeps::Stack
    }

    /// The time embedding after its two layers.
    fn time_signal(&self, vb: VarBuilder, times: &[f64]) -> Result<Vec<Vec<f32>>> {
        let TransformerConfig { time_embed_dim, flip_sin_to_cos, freq_shift, .. } = self.transformer;
        let dim = self.transformer.inner_dim();
        let embedding = TimestepEmbedding::load(dim, time_embed_dim, vb.pp("time_embedding"))?;
        let signal = |&time: &f64| {
            let sinusoid = timestep_sinusoid(time, dim, flip_sin_to_cos, freq_shift)?;
            embedding.forward(&sinusoid)?.flatten_all()?.to_vec1()
        };
        Ok(times.iter().map(signal).collect::<candle_core::Result<_>>()?)
    }

    fn kept_values(&self, frames: usize, cells: (usize, usize)) -> usize {
        (self as &dyn Architecture).tokens(frames, cells) * self.transformer.inner_dim()
    }

    fn load_denoiser(&self, vb: VarBuilder<'static>, streamed: bool) -> candle_core::Result<Arc<dyn Denoiser>> {
        let network = if streamed {
            Transformer::load_streamed(&self.transformer, vb)
        } else {
            Transformer::load(&self.transformer, vb)
        };
        Ok(Arc::new(network?))
    }

    fn load_autoencoder(&self, vb: VarBuilder, encoder: bool) -> candle_core::Result<Arc<dyn Autoencoder>> {
        let network = if encoder {
            AutoencoderKLCogVideoX::load(&self.vae, vb)
        } else {
            AutoencoderKLCogVideoX::load_decoder(&self.vae, vb)
        };
        Ok(Arc::new(network?))
    }
}

impl TransformerConfig {
    /// What recipes are found by.
    pub fn recipe_key(&self) -> RecipeKey {
        let facts = [
            ("layers", Fact::Number(self.num_layers)),
            ("heads", Fact::Number(self.num_attention_heads)),
            ("latent_channels", Fact::Number(self.out_channels)),
            ("patch_t", Fact::Number(self.patch_size_t.unwrap_or(1))),
            ("rotary", Fact::Flag(self.use_rotary_positional_embeddings)),
            ("window", Fact::Number(self.window())),
        ];
        RecipeKey { architecture: FAMILY.name, facts: facts.into() }
    }
}

impl VaeConfig {
    /// Multiply-adds of the decoder for some latent frames of `cells`: its 3x3x3 convolutions, two in each residual block, at the
    /// sizes of its blocks, and the 3x3 one after each enlargement. `begins`: the first of them stays one frame.
    pub fn decoding_work(&self, frames: usize, cells: usize, begins: bool) -> Kinds {
        let channels: Vec<usize> = self.block_out_channels.iter().rev().copied().collect();
        let doublings = self.temporal_ratio().ilog2() as usize;
        let (mut frames, mut cells) = (frames as f64, cells as f64);
        let mut kinds = Kinds::default();
        let mut add = |from: usize, to: usize, times: f64| {
            let work = times * (from * to) as f64;
            if from.max(to) >= WIDE.1 {
                kinds.wide += work;
            } else {
                kinds.small += work;
            }
        };
        let mut before = channels[0];
        add(self.latent_channels, before, 27.0 * frames * cells);
        add(before, before, 4.0 * 27.0 * frames * cells);
        for (block, &channels) in channels.iter().enumerate() {
            add(before, channels, 27.0 * frames * cells);
            add(channels, channels, (2 * self.layers_per_block + 1) as f64 * 27.0 * frames * cells);
            if block + 1 < self.block_out_channels.len() {
                cells *= 4.0;
                add(channels, channels, 9.0 * frames * cells);
                if block < doublings {
                    frames = 2.0 * frames - if begins { 1.0 } else { 0.0 };
                }
            }
            before = channels;
        }
        add(before, self.out_channels, 27.0 * frames * cells);
        kinds
    }
}
