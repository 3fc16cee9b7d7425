//! Stable Diffusion folders as the rest of the program sees them: `StableDiffusionPipeline` of diffusers and its relatives, with
//! their UNet, their autoencoder of pictures and CLIP's text tower.

use crate::attention::SiteKind;
use crate::models::architecture::{
    Architecture, Configurations, ControlArchitecture, Fact, Family, Keeps, Kinds, LatentGeometry, LayerShape, Native,
    OtherTask, PartClass, RecipeKey, Role, RowMemory, RowWork, Sites, StreamingArchitecture, SubjectArchitecture,
    TextSpec, WindowRows, config,
};
use crate::models::autoencoder::{DecodeMemory, DecodeOptions, TileOptions};
use crate::models::autoencoder_kl::{AutoencoderKL, VaeConfig};
use crate::models::clip::TextConfig;
use crate::models::unet::config::SampleSize;
use crate::models::unet::controlnet::ControlNetConfig;
use crate::models::unet::{UNet2DConditionModel, UNetConfig, work};
use crate::models::{Autoencoder, Denoiser, LatentTime};
use crate::schedulers::{ScheduleConfig, SchedulerClass, SchedulerKind};
use anyhow::{Context, Result, bail, ensure};
use candle_nn::VarBuilder;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::sync::Arc;

/// The pipeline whose UNet also takes the latents of a picture that is to be changed.
pub(super) const INSTRUCT: &str = "StableDiffusionInstructPix2PixPipeline";

pub static FAMILY: Family = Family {
    name: "stable-diffusion",
    stem: "StableDiffusion",
    pipelines: &["StableDiffusionPipeline", "TextToVideoZeroPipeline", "StableDiffusionControlNetPipeline", INSTRUCT],
    remedies: &[
        (
            "StableDiffusionXL",
            "; its networks are larger ones of another form: use a model of Stable Diffusion 1.x or 2.x",
        ),
        ("StableDiffusion3", "; its network is a transformer: use a model of Stable Diffusion 1.x or 2.x"),
        (
            "StableDiffusionInpaint",
            "; it fills holes in pictures: use a model of StableDiffusionPipeline, or of StableDiffusionInstructPix2PixPipeline",
        ),
        (
            "StableDiffusionImg2ImgPipeline",
            "; it has the networks of StableDiffusionPipeline: write that for _class_name in a copy of the file",
        ),
    ],
    parts: &[
        PartClass { name: "tokenizer", role: Role::Tokenizer, classes: &[], required: true },
        PartClass { name: "text_encoder", role: Role::TextEncoder, classes: &["clip_text_model"], required: true },
        PartClass { name: "unet", role: Role::Denoiser, classes: &["UNet2DConditionModel"], required: true },
        PartClass { name: CONTROLNET, role: Role::ControlNet, classes: &["ControlNetModel"], required: false },
        PartClass { name: "scheduler", role: Role::Scheduler, classes: &[], required: true },
        PartClass { name: "vae", role: Role::Autoencoder, classes: &["AutoencoderKL"], required: true },
    ],
    schedulers: SCHEDULERS,
    sites: &[SiteKind::SelfSpatial, SiteKind::Cross],
    native,
    read,
};

/// The classes that the folders name.
pub(super) const SCHEDULERS: &[SchedulerClass] = &[
    // `clip_sample` counts as false: latents are not clipped
    SchedulerClass {
        class: "DDIMScheduler",
        kind: SchedulerKind::Ddim,
        defaults: ScheduleConfig::default,
        clip_sample: None,
    },
    // what most folders name; it is run by DDIM, with what that one takes where the file does not say
    SchedulerClass {
        class: "PNDMScheduler",
        kind: SchedulerKind::Ddim,
        defaults: ScheduleConfig::default,
        clip_sample: None,
    },
];

/// The folder's own control model.
const CONTROLNET: &str = "controlnet";
/// Frames of a video, and their rate, where nobody asks for others: Text2Video-Zero's.
const FRAMES: usize = 8;
const FPS: u32 = 4;
/// Tokens of a text, where the tokenizer does not say.
const TOKENS: usize = 77;

fn native(configurations: &Configurations) -> Result<Native> {
    native_sides(configurations, (FRAMES, FPS))
}

/// The size of a UNet's samples in pixels, with so many frames and their rate.
pub(super) fn native_sides(configurations: &Configurations, frames: (usize, u32)) -> Result<Native> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Sample {
        sample_size: Option<SampleSize>,
    }
    #[derive(Deserialize)]
    struct Levels {
        block_out_channels: Vec<IgnoredAny>,
    }
    let Sample { sample_size } = config(configurations, "unet/config.json")?;
    let sides = UNetConfig { sample_size, ..UNetConfig::default() }.sample_sides();
    let Levels { block_out_channels } = config(configurations, "vae/config.json")?;
    let halvings = block_out_channels.len().saturating_sub(1);
    ensure!(halvings <= 8, "vae/config.json: {} block_out_channels are too many", halvings + 1);
    ensure!(sides.0.max(sides.1) <= 1 << 12, "unet/config.json: sample_size {sides:?} is too large");
    Ok(native_of(sides, 1 << halvings, frames))
}

fn native_of((height, width): (usize, usize), ratio: usize, (frames, fps): (usize, u32)) -> Native {
    Native { width: width * ratio, height: height * ratio, frames, fps }
}

/// The configurations of a folder, of this family or of another with the same networks.
#[derive(Debug)]
pub(super) struct Folder {
    family: &'static Family,
    unet: UNetConfig,
    vae: VaeConfig,
    text: TextSpec,
    geometry: LatentGeometry,
    sites: Vec<Sites>,
    streaming: Option<Arc<dyn StreamingArchitecture>>,
    subject: Option<Arc<dyn SubjectArchitecture>>,
}

fn read(configurations: &Configurations) -> Result<Arc<dyn Architecture>> {
    #[derive(Deserialize)]
    struct Index {
        _class_name: String,
    }
    let unet: UNetConfig = config(configurations, "unet/config.json")?;
    unet.check("unet", true)?;
    let Index { _class_name: class } = config(configurations, "model_index.json")?;
    let folder = Folder::read(&FAMILY, unet, (FRAMES, FPS), configurations)?;
    check_channels(&class, &folder.unet, &folder.vae)?;
    Ok(Arc::new(folder))
}

impl Folder {
    /// What is around a UNet: an autoencoder of pictures and CLIP's text tower. `native`: frames and their rate where nobody
    /// asks for others.
    pub(super) fn read(
        family: &'static Family,
        unet: UNetConfig,
        native: (usize, u32),
        configurations: &Configurations,
    ) -> Result<Self> {
        /// transformers' value for "no limit" is 1e30.
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Limit {
            model_max_length: Option<f64>,
        }
        let vae: VaeConfig = config(configurations, "vae/config.json")?;
        vae.check()?;
        ensure!(
            vae.shift_factor.is_none_or(|shift| shift == 0.0),
            "vae/config.json: shift_factor is not supported here: models of this kind have none"
        );
        let text: TextConfig = config(configurations, "text_encoder/config.json")?;
        text.tower("").context("text_encoder/config.json")?;
        ensure!(
            unet.out_channels == vae.latent_channels,
            "the vae makes {} latent channels and the unet {}: these parts are not of one model",
            vae.latent_channels,
            unet.out_channels
        );
        ensure!(
            unet.cross_attention_dim == text.hidden_size,
            "the text encoder gives {} values for a token and the unet takes {}: these parts are not of one model",
            text.hidden_size,
            unet.cross_attention_dim
        );
        // a file that is damaged is named when the tokenizer is opened
        let limit: Limit = config(configurations, "tokenizer/tokenizer_config.json").unwrap_or_default();
        let length = limit.model_max_length.map_or(TOKENS, |length| length.clamp(0.0, 65536.0) as usize);
        let length = length.min(text.max_position_embeddings);
        ensure!(length >= 2, "tokenizer/tokenizer_config.json: model_max_length leaves {length} tokens for a text");
        let ratio = vae.spatial_ratio();
        let geometry = LatentGeometry {
            time: LatentTime::PER_FRAME,
            spatial_ratio: ratio,
            patch: 1,
            patch_t: 1,
            fills: false,
            channels: vae.latent_channels,
            window: native.0,
            native: native_of(unet.sample_sides(), ratio, native),
        };
        // those of the finest level with attention, where a layer has the most tokens
        let level = (0..unet.levels()).find(|&level| unet.attends_down(level)).unwrap_or(unet.levels() - 1);
        let heads = unet.attention_head_dim.at(level);
        let head_dim = unet.block_out_channels[level] / heads;
        let within = |kind| Sites { kind, layers: unet.layers(), heads, head_dim };
        let mut sites = [SiteKind::SelfSpatial, SiteKind::Cross].map(within).to_vec();
        if let Some((heads, head_dim)) = unet.temporal_heads(level) {
            sites.push(Sites { kind: SiteKind::Temporal, layers: unet.temporal_layers(), heads, head_dim });
        }
        let text = TextSpec { part: "text_encoder", length, width: text.hidden_size, pooled: false };
        Ok(Self { family, unet, vae, text, geometry, sites, streaming: None, subject: None })
    }

    /// The same with the networks by which chunks go on from each other.
    pub(super) fn with(self, streaming: Arc<dyn StreamingArchitecture>) -> Self {
        Self { streaming: Some(streaming), ..self }
    }

    /// The same with what puts a subject into a video.
    pub(super) fn with_subject(self, subject: Arc<dyn SubjectArchitecture>) -> Self {
        Self { subject: Some(subject), ..self }
    }

    pub(super) fn unet(&self) -> &UNetConfig {
        &self.unet
    }
}

/// Latents of one form all through, and what the pipeline class puts beside them.
fn check_channels(class: &str, unet: &UNetConfig, vae: &VaeConfig) -> Result<()> {
    let latent = vae.latent_channels;
    match (unet.in_channels, class == INSTRUCT) {
        (channels, false) if channels == latent => Ok(()),
        (channels, true) if channels == 2 * latent => Ok(()),
        (channels, _) if channels == 2 * latent + 1 => Err(OtherTask(format!(
            "unet/config.json: in_channels is {channels}: an inpainting model, which fills holes in pictures: use one that makes pictures \
             of texts (StableDiffusionPipeline), or one that follows instructions ({INSTRUCT})"
        ))
        .into()),
        (channels, false) if channels == 2 * latent => {
            bail!(
                "unet/config.json: in_channels is {channels}, as in a model of {INSTRUCT}, and model_index.json has {class}"
            )
        }
        (channels, _) => bail!("unet/config.json: in_channels is {channels}; {class} has {latent} latent channels"),
    }
}

impl Architecture for Folder {
    fn geometry(&self) -> &LatentGeometry {
        &self.geometry
    }

    fn sites(&self) -> &[Sites] {
        &self.sites
    }

    fn layers(&self, kind: SiteKind, frames: usize, cells: (usize, usize)) -> Vec<LayerShape> {
        match kind {
            SiteKind::SelfSpatial | SiteKind::Cross => work::layers(&self.unet, frames, cells),
            SiteKind::Temporal => work::temporal_layers(&self.unet, frames, cells),
            SiteKind::Joint => Vec::new(),
        }
    }

    fn text(&self) -> TextSpec {
        self.text
    }

    fn recipe_key(&self) -> RecipeKey {
        let facts = [
            ("layers", Fact::Number(self.unet.layers())),
            ("latent_channels", Fact::Number(self.geometry.channels)),
            ("text_width", Fact::Number(self.text.width)),
            ("width", Fact::Number(self.geometry.native.width)),
            ("instruct", Fact::Flag(self.unet.in_channels > self.geometry.channels)),
        ];
        RecipeKey { architecture: self.family.name, facts: facts.into() }
    }

    fn family(&self) -> &'static Family {
        self.family
    }

    fn unit_prefixes(&self) -> &'static [&'static str] {
        &["down_blocks.", "mid_block.", "up_blocks."]
    }

    fn row_work(&self, frames: usize, cells: (usize, usize)) -> RowWork {
        work::row(&self.unet, self.text.length, frames, cells)
    }

    fn stretches_work(&self, frames: usize, stretches: (usize, usize), cells: (usize, usize)) -> RowWork {
        work::stretches(&self.unet, frames, stretches, cells)
    }

    fn row_memory(&self, rows: WindowRows, element: u64, score_budget: u64) -> RowMemory {
        work::memory(&self.unet, rows, element, score_budget)
    }

    fn decoding_work(&self, frames: usize, cells: usize, _begins: bool) -> Kinds {
        let Kinds { small, wide } = self.vae.decoding_work(cells);
        Kinds { small: small * frames as f64, wide: wide * frames as f64 }
    }

    fn decoding_memory(
        &self,
        options: &DecodeOptions,
        _frames: usize,
        cells: (usize, usize),
    ) -> candle_core::Result<DecodeMemory> {
        self.vae.memory(options, cells.0, cells.1)
    }

    fn tile(&self) -> TileOptions {
        self.vae.tile()
    }

    fn control(&self, value: Value) -> Result<Arc<dyn ControlArchitecture>> {
        let config: ControlNetConfig = self::config(&|_: &str| Ok(value.clone()), "config.json")?;
        config.check()?;
        if let Some(misfit) = config.misfit(&self.unet) {
            return Err(OtherTask(misfit).into());
        }
        let (own, wanted) = (config.ratio(), self.geometry.spatial_ratio);
        if own != wanted {
            return Err(OtherTask(format!(
                "conditioning_embedding_out_channels: {own} pixels become a cell, and the model's autoencoder has {wanted}"
            ))
            .into());
        }
        Ok(Arc::new(config))
    }

    fn streaming(&self) -> Option<&dyn StreamingArchitecture> {
        self.streaming.as_deref()
    }

    fn subject(&self) -> Option<&dyn SubjectArchitecture> {
        self.subject.as_deref()
    }

    fn keeps(&self) -> Keeps {
        Keeps::Deep
    }

    fn taken_work(&self, frames: usize, cells: (usize, usize)) -> RowWork {
        work::row_last(&self.unet, self.text.length, frames, cells)
    }

    fn kept_values(&self, frames: usize, cells: (usize, usize)) -> usize {
        self.unet.deep_channels() * frames * cells.0 * cells.1
    }

    fn load_denoiser(&self, vb: VarBuilder<'static>, streamed: bool) -> candle_core::Result<Arc<dyn Denoiser>> {
        Ok(Arc::new(UNet2DConditionModel::load(&self.unet, vb, streamed)?))
    }

    fn load_autoencoder(&self, vb: VarBuilder, encoder: bool) -> candle_core::Result<Arc<dyn Autoencoder>> {
        Ok(Arc::new(AutoencoderKL::load(&self.vae, vb, encoder)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn folder(class: &str, changes: &[(&str, &str, Value)]) -> Result<Arc<dyn Architecture>> {
        let levels = |name: &'static str, count: usize| vec![name; count];
        let mut files = json!({
            "model_index.json": {"_class_name": class},
            "unet/config.json": {"cross_attention_dim": 768, "sample_size": 64},
            "vae/config.json": {
                "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "sample_size": 512,
                "down_block_types": levels("DownEncoderBlock2D", 4), "up_block_types": levels("UpDecoderBlock2D", 4)
            },
            "text_encoder/config.json": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
            "tokenizer/tokenizer_config.json": {"model_max_length": 77}
        });
        for (file, key, value) in changes {
            files[*file][*key] = value.clone();
        }
        let reader = |path: &str| files.get(path).cloned().with_context(|| format!("{path}: no such file"));
        read(&reader)
    }

    const CLASS: &str = "StableDiffusionPipeline";

    #[test]
    fn the_published_form_is_described() {
        let architecture = folder(CLASS, &[]).unwrap();
        let geometry = architecture.geometry();
        assert_eq!((geometry.unit(), geometry.channels, geometry.time), (8, 4, LatentTime::PER_FRAME));
        assert_eq!(geometry.native, Native { width: 512, height: 512, frames: 8, fps: 4 });
        assert_eq!((architecture.text().length, architecture.text().width), (77, 768));
        let sites = architecture.main_sites();
        assert_eq!((sites.kind, sites.layers, sites.heads, sites.head_dim), (SiteKind::SelfSpatial, 16, 8, 40));
        let layers = architecture.layers(SiteKind::SelfSpatial, 3, (9, 7));
        let shape = |layer: &LayerShape| (layer.channels, layer.heads, layer.grid);
        let shapes: Vec<_> = [0, 2, 4, 6, 7, 15].map(|layer| shape(&layers[layer])).to_vec();
        let wide = |grid| (1280, 8, grid);
        assert_eq!(
            shapes,
            [
                (320, 8, (3, 9, 7)),
                (640, 8, (3, 5, 4)),
                wide((3, 3, 2)),
                wide((3, 2, 1)),
                wide((3, 3, 2)),
                (320, 8, (3, 9, 7))
            ]
        );
        assert!(architecture.layers(SiteKind::Joint, 3, (9, 7)).is_empty());
        assert_eq!(architecture.recipe_key().facts["instruct"], Fact::Flag(false));
        // diffusers' count of the published UNet: 338 G multiply-adds for 64x64 cells
        let RowWork { linear, attention, .. } = architecture.row_work(1, (64, 64));
        let sum = linear.small + linear.wide + attention;
        assert!((3.0e11..4.4e11).contains(&sum), "{sum:e}");
    }

    #[test]
    fn each_kind_of_folder_has_its_recipe() {
        use crate::recipe::find;
        let instruct = folder(INSTRUCT, &[("unet/config.json", "in_channels", json!(8))]).unwrap();
        for (architecture, name, scheduler) in [
            (folder(CLASS, &[]).unwrap(), "stable-diffusion", SchedulerKind::Ddim),
            (instruct, "stable-diffusion-instruct", SchedulerKind::EulerAncestral),
        ] {
            let found = find(None, &architecture.recipe_key()).unwrap();
            assert_eq!((found.name.as_str(), found.recipe.scheduler, found.warning), (name, Some(scheduler), None));
            assert_eq!((found.recipe.steps, found.recipe.fps.to_string().as_str()), (50, "4"));
        }
    }

    #[test]
    fn sizes_come_from_the_files() {
        let tokens = |value: Value| ("tokenizer/tokenizer_config.json", "model_max_length", value);
        let length = |changes: &[(&str, &str, Value)]| folder(CLASS, changes).unwrap().text().length;
        assert_eq!(length(&[tokens(json!(40))]), 40);
        assert_eq!(length(&[tokens(json!(1e30))]), 77);
        assert_eq!(length(&[tokens(Value::Null)]), 77);
        let sides = ("unet/config.json", "sample_size", json!([40, 72]));
        let native = folder(CLASS, &[sides]).unwrap().geometry().native;
        assert_eq!((native.width, native.height), (576, 320));
        let instruct = folder(INSTRUCT, &[("unet/config.json", "in_channels", json!(8))]).unwrap();
        assert_eq!(instruct.recipe_key().facts["instruct"], Fact::Flag(true));
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let unet = |key: &'static str, value: Value| ("unet/config.json", key, value);
        for (class, change, word) in [
            (CLASS, unet("in_channels", json!(9)), "inpainting"),
            (INSTRUCT, unet("in_channels", json!(9)), "inpainting"),
            (CLASS, unet("in_channels", json!(8)), INSTRUCT),
            (INSTRUCT, unet("in_channels", json!(4)), "in_channels is 4"),
            (CLASS, unet("out_channels", json!(8)), "not of one model"),
            (CLASS, unet("cross_attention_dim", json!(1024)), "768 values"),
            (CLASS, unet("class_embed_type", json!("timestep")), "class_embed_type"),
            (CLASS, ("vae/config.json", "act_fn", json!("relu")), "act_fn"),
            (CLASS, ("text_encoder/config.json", "hidden_act", json!("relu")), "hidden_act"),
            (CLASS, ("tokenizer/tokenizer_config.json", "model_max_length", json!(1)), "model_max_length"),
            (CLASS, ("unet/config.json", "layers_per_block", json!("two")), "layers_per_block"),
        ] {
            let error = format!("{:#}", folder(class, &[change]).unwrap_err());
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}
