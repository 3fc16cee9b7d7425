//! STIV folders as the rest of the program sees them: `StivPipeline`, with its transformer, an autoencoder of pictures or of
//! videos, CLIP's text tower and a schedule of flow matching.

use super::config::{CondTime, Micro, StivConfig};
use super::transformer::Transformer;
use crate::attention::SiteKind;
use crate::models::architecture::{
    Architecture, Configurations, Fact, Family, Kinds, LatentGeometry, Native, PartClass, RecipeKey, Role, RowMemory,
    RowWork, Sites, TextSpec, WIDE, WindowRows, config,
};
use crate::models::autoencoder::{DecodeMemory, DecodeOptions, TileOptions};
use crate::models::autoencoders::{self, AutoencoderConfig};
use crate::models::clip::TextConfig;
use crate::models::given::{Clip, GivenFrames, InPlace};
use crate::models::{Autoencoder, Denoiser};
use anyhow::{Context, Result, ensure};
use candle_nn::VarBuilder;
use std::sync::Arc;

pub static FAMILY: Family = Family {
    name: "stiv",
    stem: "Stiv",
    pipelines: &["StivPipeline"],
    remedies: &[],
    parts: &[
        PartClass { name: "tokenizer", role: Role::Tokenizer, classes: &[], required: true },
        PartClass { name: "text_encoder", role: Role::TextEncoder, classes: &["clip_text_model"], required: true },
        PartClass { name: "transformer", role: Role::Denoiser, classes: &["StivTransformer3DModel"], required: true },
        PartClass { name: "scheduler", role: Role::Scheduler, classes: &[], required: true },
        PartClass { name: "vae", role: Role::Autoencoder, classes: autoencoders::CLASSES, required: true },
    ],
    schedulers: &[],
    sites: &[SiteKind::SelfSpatial, SiteKind::Temporal, SiteKind::Cross],
    native: |configurations| Ok(read_folder(configurations)?.geometry.native),
    read: |configurations| Ok(Arc::new(read_folder(configurations)?)),
};

/// Frames a second, which no configuration says.
const FPS: u32 = 8;
/// What a time of data is.
const DATA: f64 = 1.0;

/// The configurations of a folder.
#[derive(Debug)]
struct Stiv {
    transformer: StivConfig,
    vae: AutoencoderConfig,
    text: TextSpec,
    geometry: LatentGeometry,
    sites: [Sites; 3],
}

fn read_folder(configurations: &Configurations) -> Result<Stiv> {
    let transformer: StivConfig = config(configurations, "transformer/config.json")?;
    transformer.check()?;
    let vae = AutoencoderConfig::read(configurations)?;
    let text: TextConfig = config(configurations, "text_encoder/config.json")?;
    text.tower("").context("text_encoder/config.json")?;
    let (own, wanted) = (vae.latent_channels(), transformer.in_channels);
    ensure!(
        own == wanted,
        "the vae makes {own} latent channels and the transformer takes {wanted}: these parts are not of one model"
    );
    for (key, wanted) in [
        ("caption_channels", transformer.caption_channels),
        ("pooled_projection_dim", transformer.pooled_projection_dim),
    ] {
        ensure!(
            wanted == text.hidden_size,
            "transformer/config.json: {key} = {wanted}, and the text encoder gives {}: these parts are not of one model",
            text.hidden_size
        );
    }
    let length = text.max_position_embeddings;
    ensure!(length >= 2, "text_encoder/config.json: max_position_embeddings leaves {length} tokens for a text");
    let (ratio, time, [frames, height, width]) = (vae.spatial_ratio(), vae.time(), transformer.sample_size);
    let native = Native { width: width * ratio, height: height * ratio, frames: time.frames(frames), fps: FPS };
    let geometry = LatentGeometry {
        time,
        spatial_ratio: ratio,
        patch: transformer.patch_size,
        patch_t: transformer.patch_size_t,
        fills: true,
        channels: transformer.in_channels,
        window: frames,
        native,
    };
    let sites = [SiteKind::SelfSpatial, SiteKind::Temporal, SiteKind::Cross].map(|kind| Sites {
        kind,
        layers: transformer.num_layers,
        heads: transformer.num_attention_heads,
        head_dim: transformer.attention_head_dim,
    });
    let text = TextSpec { part: "text_encoder", length, width: text.hidden_size, pooled: true };
    Ok(Stiv { transformer, vae, text, geometry, sites })
}

impl Architecture for Stiv {
    fn geometry(&self) -> &LatentGeometry {
        &self.geometry
    }

    fn sites(&self) -> &[Sites] {
        &self.sites
    }

    fn text(&self) -> TextSpec {
        self.text
    }

    fn given_frames(&self) -> GivenFrames {
        let StivConfig { trained_tasks, image_drop, cond_time, .. } = &self.transformer;
        GivenFrames::InPlace(InPlace {
            tasks: trained_tasks.clone(),
            drops: *image_drop > 0.0,
            time: (*cond_time == CondTime::Clean).then_some(DATA),
        })
    }

    fn numbers(&self, clip: &Clip) -> Vec<f64> {
        let stride = match clip.keyframes {
            true => self.transformer.keyframe_stride,
            false => self.transformer.sampling_stride,
        };
        let number = |micro: &Micro| match micro {
            Micro::H => clip.height as f64,
            Micro::W => clip.width as f64,
            Micro::CropTop | Micro::CropLeft => 0.0,
            Micro::Stride => stride as f64,
            Micro::Frames => clip.frames as f64,
        };
        self.transformer.micro_conditions.iter().map(number).collect()
    }

    fn recipe_key(&self) -> RecipeKey {
        let facts = [
            ("layers", Fact::Number(self.transformer.num_layers)),
            ("latent_channels", Fact::Number(self.transformer.in_channels)),
            ("text_width", Fact::Number(self.text.width)),
            ("width", Fact::Number(self.geometry.native.width)),
            ("window", Fact::Number(self.geometry.window)),
        ];
        RecipeKey { architecture: FAMILY.name, facts: facts.into() }
    }

    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn unit_prefixes(&self) -> &'static [&'static str] {
        &["transformer_blocks."]
    }

    /// Projections of three attentions (10 D^2, and 2 D^2 for each token of the text) and the feed-forward part for each token.
    fn row_work(&self, frames: usize, cells: (usize, usize)) -> RowWork {
        let (t, h, w) = self.geometry.grid(frames, cells);
        let (in_time, in_frame, text) = (t as f64, (h * w) as f64, self.text.length as f64);
        let (depth, dim) = (self.transformer.num_layers as f64, self.transformer.inner_dim() as f64);
        let tokens = in_time * in_frame;
        let products =
            depth * dim * (tokens * (10.0 * dim + 2.0 * self.transformer.ff_dim() as f64) + text * 2.0 * dim);
        let linear = if self.transformer.inner_dim() >= WIDE.0 {
            Kinds { wide: products, ..Kinds::default() }
        } else {
            Kinds { small: products, ..Kinds::default() }
        };
        let attention = depth * 2.0 * tokens * (in_frame + in_time + text) * dim;
        RowWork { linear, attention, layers: self.transformer.num_layers }
    }

    fn row_memory(&self, rows: WindowRows, element: u64, score_budget: u64) -> RowMemory {
        let (t, h, w) = self.geometry.grid(rows.frames, rows.cells);
        let (in_time, in_frame) = (t as u64, (h * w) as u64);
        // sizes of files from outside: what is too large is told, and does not wrap around
        let tokens = in_time.saturating_mul(in_frame);
        let state = tokens.saturating_mul(self.transformer.inner_dim() as u64 * element);
        // as in other transformers: the states of the rows of a window, and what the row at work holds
        let inner = self.transformer.ff_dim().div_ceil(self.transformer.inner_dim()) as u64;
        let activations = state.saturating_mul(2 * rows.halves as u64 + 4 + 2 * inner.max(3));
        let keys = in_frame.max(in_time).max(self.text.length as u64);
        let scores = tokens.saturating_mul(keys).saturating_mul(4 * self.transformer.num_attention_heads as u64);
        RowMemory { state, activations, scores: scores.min(score_budget) }
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
        self.vae.decoding_memory(options, frames, cells)
    }

    fn tile(&self) -> TileOptions {
        self.vae.tile()
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
        Ok(Arc::from(self.vae.load(vb, encoder)?))
    }
}
