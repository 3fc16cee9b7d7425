//! StreamingT2V folders (arXiv 2403.14773) as the rest of the program sees them: a text-to-video UNet whose chunks go on from the frames
//! before them, beside it what sees those frames (CAM) and what sees an anchor frame, and the plain UNet of the first chunk.

use super::architecture::{Folder, SCHEDULERS, native_sides};
use super::text_to_video::{CLIP, planar};
use crate::attention::{Feature, Hooks, Row, SiteKind};
use crate::models::Denoiser;
use crate::models::architecture::{
    Architecture, Configurations, Family, PartClass, Role, RowWork, StreamingArchitecture, WindowRows, config,
};
use crate::models::clip::{ImageEncoder, VisionConfig, anchor};
use crate::models::continuation::{AnchorEncoder, ChunkFrames, Continuation};
use crate::models::control::Residuals;
use crate::models::unet::streaming::{
    Cam, CamConfig, Memory, Mergers, Mixers, Resampler, ResamplerConfig, StreamingUNetConfig,
};
use crate::models::unet::{UNet2DConditionModel, UNet3DConfig, UNetConfig, work};
use anyhow::{Context, Result, ensure};
use candle_core::{Tensor, bail};
use candle_nn::VarBuilder;
use serde::Deserialize;
use std::sync::Arc;

const BASE: &str = "base_unet";
const CAM: &str = "cam";
const IMAGE_ENCODER: &str = "image_encoder";
const RESAMPLER: &str = "resampler";

pub static STREAMING: Family = Family {
    name: "streaming-t2v",
    stem: "StreamingT2V",
    pipelines: &["StreamingT2VPipeline"],
    remedies: &[],
    parts: &[
        PartClass { name: "tokenizer", role: Role::Tokenizer, classes: &[], required: true },
        PartClass { name: "text_encoder", role: Role::TextEncoder, classes: &["clip_text_model"], required: true },
        PartClass { name: BASE, role: Role::FirstDenoiser, classes: &["UNet3DConditionModel"], required: true },
        PartClass { name: "unet", role: Role::Denoiser, classes: &["StreamingUNet3DConditionModel"], required: true },
        PartClass { name: CAM, role: Role::Memory, classes: &["StreamingCAM"], required: true },
        PartClass { name: IMAGE_ENCODER, role: Role::ImageEncoder, classes: &["clip_vision_model"], required: true },
        PartClass { name: RESAMPLER, role: Role::Resampler, classes: &["StreamingResampler"], required: true },
        PartClass { name: "scheduler", role: Role::Scheduler, classes: &[], required: true },
        PartClass { name: "vae", role: Role::Autoencoder, classes: &["AutoencoderKL"], required: true },
    ],
    schedulers: SCHEDULERS,
    sites: &[SiteKind::SelfSpatial, SiteKind::Cross, SiteKind::Temporal],
    native: |configurations| native_sides(configurations, CLIP),
    read,
};

/// The longest chunk.
const LONGEST: usize = 1024;

/// What `model_index.json` says beside its parts.
#[derive(Deserialize)]
struct Index {
    #[serde(default = "chunk_frames")]
    chunk_frames: usize,
    #[serde(default)]
    anchor_frame: usize,
}

fn chunk_frames() -> usize {
    CLIP.0
}

/// transformers' `CLIPVisionModelWithProjection`.
#[derive(Debug, Deserialize)]
struct Tower {
    #[serde(flatten)]
    vision: VisionConfig,
    #[serde(default = "projection_dim")]
    projection_dim: usize,
}

fn projection_dim() -> usize {
    512
}

/// The configurations of what stands beside a text-to-video model.
#[derive(Debug)]
struct Streaming {
    frames: ChunkFrames,
    unet: StreamingUNetConfig,
    /// None where the folder has none, or one that cannot be read: whoever opens the part says which.
    first: Option<UNetConfig>,
    cam: CamConfig,
    /// [`CamConfig::planar`].
    cam_planar: UNetConfig,
    resampler: ResamplerConfig,
    tower: Tower,
    text: usize,
}

fn read(configurations: &Configurations) -> Result<Arc<dyn Architecture>> {
    let unet: StreamingUNetConfig = config(configurations, "unet/config.json")?;
    let planar = planar(&unet.unet)?;
    let Index { chunk_frames, anchor_frame } = config(configurations, "model_index.json")?;
    let folder = Folder::read(&STREAMING, planar, (chunk_frames, CLIP.1), configurations)?;
    let cam: CamConfig = config(configurations, "cam/config.json")?;
    cam.check()?;
    let cam_planar = cam.planar()?;
    let first = match configurations("base_unet/config.json") {
        Ok(_) => Some(config::<UNet3DConfig>(configurations, "base_unet/config.json")?.planar(BASE)?),
        Err(_) => None,
    };
    let tower: Tower = config(configurations, "image_encoder/config.json")?;
    tower.vision.tower("").context("image_encoder/config.json")?;
    let frames = ChunkFrames { chunk: chunk_frames, before: cam.num_frames, anchor: anchor_frame };
    let resampler = config(configurations, "resampler/config.json")?;
    let text = folder.text().length;
    let streaming = Streaming { frames, unet, first, cam, cam_planar, resampler, tower, text };
    streaming.check(&folder)?;
    Ok(Arc::new(folder.with(Arc::new(streaming))))
}

impl Streaming {
    /// Refuses parts that are not of one model, in one line that names the key.
    fn check(&self, folder: &Folder) -> Result<()> {
        let ChunkFrames { chunk, before, anchor } = self.frames;
        ensure!(
            (2..=LONGEST).contains(&chunk),
            "model_index.json: chunk_frames is {chunk}; 2 to {LONGEST} are supported"
        );
        ensure!(
            2 * before <= chunk,
            "cam/config.json: num_frames is {before}; a chunk of {chunk} frames (chunk_frames of model_index.json) sees at most half as many"
        );
        ensure!(
            anchor < chunk,
            "model_index.json: anchor_frame is {anchor}; the first chunk has frames 0 to {}",
            chunk - 1
        );
        let (unet, cam) = (folder.unet(), &self.cam_planar);
        let same = |part: &str, key: &str, own: usize, wanted: usize| {
            ensure!(
                own == wanted,
                "{part}/config.json: {key} is {own}, and the unet has {wanted}: these parts are not of one model"
            );
            Ok(())
        };
        same(CAM, "in_channels", cam.in_channels, unet.in_channels)?;
        same(CAM, "cross_attention_dim", cam.cross_attention_dim, unet.cross_attention_dim)?;
        ensure!(
            cam.skips() == unet.skips(),
            "cam/config.json: block_out_channels is {:?} with {} layers a block, and the unet has {:?} with {}: these parts are not of one model",
            cam.block_out_channels,
            cam.layers_per_block,
            unet.block_out_channels,
            unet.layers_per_block
        );
        let (ratio, wanted) = (self.cam.ratio(), folder.geometry().spatial_ratio);
        ensure!(
            ratio == wanted,
            "cam/config.json: conditioning_embedding_out_channels makes a cell of {ratio} pixels, and the vae of {wanted}"
        );
        if let Some(first) = &self.first {
            same(BASE, "in_channels", first.in_channels, unet.in_channels)?;
            same(BASE, "out_channels", first.out_channels, unet.out_channels)?;
            same(BASE, "cross_attention_dim", first.cross_attention_dim, unet.cross_attention_dim)?;
        }
        let ResamplerConfig { embed_dim, cross_attention_dim, num_tokens, .. } = self.resampler;
        let width = self.tower.projection_dim;
        ensure!(
            embed_dim == width,
            "resampler/config.json: embed_dim is {embed_dim}, and the image encoder gives {width} values: these parts are not of one model"
        );
        same(RESAMPLER, "cross_attention_dim", cross_attention_dim, unet.cross_attention_dim)?;
        same(RESAMPLER, "num_tokens", num_tokens, self.unet.image_tokens)?;
        ensure!(
            self.text == self.unet.text_tokens,
            "unet/config.json: text_tokens is {}, and the tokenizer gives {} tokens for a text: these parts are not of one model",
            self.unet.text_tokens,
            self.text
        );
        Ok(())
    }
}

impl StreamingArchitecture for Streaming {
    fn frames(&self) -> ChunkFrames {
        self.frames
    }

    fn row_work(&self, cells: (usize, usize)) -> RowWork {
        work::row_down(&self.cam_planar, self.text, self.frames.before, cells)
    }

    fn row_memory(&self, cells: (usize, usize), rows: usize, element: u64) -> u64 {
        let own = WindowRows { frames: self.frames.before, cells, halves: rows };
        let memory = work::memory(&self.cam_planar, own, element, 0);
        let pixels = self.frames.before * cells.0 * cells.1 * self.cam.ratio().pow(2);
        let channels = self.cam.conditioning_embedding_out_channels[0].max(self.cam.conditioning_channels);
        // a map of the frames' size, before and after a convolution and while it is activated
        let seen = 3 * (pixels * channels) as u64 * element;
        memory.activations.max(seen) + rows as u64 * memory.state
    }

    fn load_first(&self, vb: VarBuilder<'static>, streamed: bool) -> candle_core::Result<Arc<dyn Denoiser>> {
        let Some(config) = &self.first else { bail!("{BASE}/config.json cannot be read") };
        Ok(Arc::new(UNet2DConditionModel::load(config, vb, streamed)?))
    }

    fn load_continuation(
        &self,
        denoiser: &VarBuilder,
        memory: &VarBuilder,
    ) -> candle_core::Result<Arc<dyn Continuation>> {
        Ok(Arc::new(Beside {
            cam: Cam::load(&self.cam, memory)?,
            mergers: Mergers::load(&self.unet, denoiser)?,
            mixers: Mixers::load(&self.unet, denoiser)?,
        }))
    }

    fn load_anchors(&self, encoder: VarBuilder, resampler: &VarBuilder) -> candle_core::Result<Box<dyn AnchorEncoder>> {
        let Tower { vision, projection_dim } = &self.tower;
        Ok(Box::new(Anchors {
            side: vision.image_size,
            encoder: ImageEncoder::load(vision, *projection_dim, encoder)?,
            resampler: Resampler::load(&self.resampler, resampler)?,
        }))
    }
}

/// What stands beside the denoiser.
#[derive(Debug)]
struct Beside {
    cam: Cam,
    mergers: Mergers,
    mixers: Mixers,
}

impl Continuation for Beside {
    fn look(&self, frames: &Tensor) -> candle_core::Result<Tensor> {
        self.cam.look(frames)
    }

    fn remember(
        &self,
        rows: &[Row],
        seen: &Tensor,
        network: usize,
        hooks: &mut Hooks,
    ) -> candle_core::Result<Vec<Residuals>> {
        let memories = self.cam.forward(rows, seen, network, hooks)?.into_iter();
        Ok(memories.map(|Memory { skips, mid }| Residuals { skips, mid }).collect())
    }

    fn merge(&self, feature: Feature, x: &Tensor, memory: &Tensor) -> candle_core::Result<Tensor> {
        match feature {
            Feature::Skip(index) => self.mergers.skip(index, x, memory),
            Feature::Mid => self.mergers.mid(x, memory),
            other => bail!("nothing is merged into {other:?}"),
        }
    }

    fn mix(&self, layer: usize, text: &Tensor, tokens: &Tensor) -> candle_core::Result<Tensor> {
        self.mixers.mix(layer, text, tokens)
    }
}

/// What sees anchor frames.
struct Anchors {
    side: usize,
    encoder: ImageEncoder,
    resampler: Resampler,
}

impl AnchorEncoder for Anchors {
    fn tokens(&self, frame: &Tensor) -> candle_core::Result<Tensor> {
        self.resampler.forward(&self.encoder.forward(&anchor::prepared(frame, self.side)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::architecture::Native;
    use serde_json::{Value, json};

    fn folder(changes: &[(&str, &str, Value)]) -> Result<Arc<dyn Architecture>> {
        let levels = |name: &'static str, count: usize| vec![name; count];
        let mut files = json!({
            "model_index.json": {"_class_name": "StreamingT2VPipeline", "chunk_frames": 16, "anchor_frame": 0},
            "unet/config.json": {"sample_size": 32},
            "base_unet/config.json": {"sample_size": 32},
            "cam/config.json": {
                "conditioning_channels": 3, "conditioning_embedding_out_channels": [32, 96, 256, 512], "num_frames": 8
            },
            "resampler/config.json": {"embed_dim": 1024, "inner_dim": 1280, "cross_attention_dim": 1024, "num_tokens": 16},
            "image_encoder/config.json": {
                "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
                "patch_size": 14, "projection_dim": 1024, "hidden_act": "gelu"
            },
            "vae/config.json": {
                "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "sample_size": 512,
                "down_block_types": levels("DownEncoderBlock2D", 4), "up_block_types": levels("UpDecoderBlock2D", 4)
            },
            "text_encoder/config.json": {
                "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23,
                "hidden_act": "gelu"
            },
            "tokenizer/tokenizer_config.json": {"model_max_length": 77}
        });
        for (file, key, value) in changes {
            files[*file][*key] = value.clone();
        }
        read(&|path: &str| files.get(path).cloned().with_context(|| format!("{path}: no such file")))
    }

    #[test]
    fn the_published_form_is_described() {
        let architecture = folder(&[]).unwrap();
        assert_eq!(architecture.geometry().native, Native { width: 256, height: 256, frames: 16, fps: 8 });
        let streaming = architecture.streaming().unwrap();
        assert_eq!(streaming.frames(), ChunkFrames { chunk: 16, before: 8, anchor: 0 });
        let sum = |work: RowWork| work.linear.small + work.linear.wide + work.attention;
        let (own, all) = (sum(streaming.row_work((32, 32))), sum(architecture.row_work(16, (32, 32))));
        assert!(own > 0.1 * all && own < 0.3 * all, "{own:e} of {all:e}: the way down, of half of the frames");
        let found = crate::recipe::find(None, &architecture.recipe_key()).unwrap();
        assert_eq!((found.name.as_str(), found.recipe.steps, found.recipe.eta), ("streaming-t2v", 50, 1.0));
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        for (file, key, value, word) in [
            ("model_index.json", "chunk_frames", json!(15), "num_frames is 8"),
            ("model_index.json", "chunk_frames", json!(0), "chunk_frames is 0"),
            ("model_index.json", "chunk_frames", json!("16"), "chunk_frames"),
            ("model_index.json", "anchor_frame", json!(16), "anchor_frame is 16"),
            ("cam/config.json", "num_frames", json!(0), "num_frames is 0"),
            ("cam/config.json", "cross_attention_dim", json!(768), "cam/config.json: cross_attention_dim is 768"),
            ("cam/config.json", "layers_per_block", json!(1), "block_out_channels"),
            ("cam/config.json", "conditioning_embedding_out_channels", json!([32, 96]), "a cell of 2 pixels"),
            ("base_unet/config.json", "cross_attention_dim", json!(768), "base_unet/config.json: cross_attention_dim"),
            ("resampler/config.json", "embed_dim", json!(512), "embed_dim is 512"),
            ("resampler/config.json", "num_tokens", json!(4), "num_tokens is 4"),
            ("image_encoder/config.json", "hidden_act", json!("relu"), "hidden_act"),
            ("unet/config.json", "text_tokens", json!(24), "text_tokens is 24"),
            ("unet/config.json", "in_channels", json!(9), "in_channels is 9"),
        ] {
            let error = format!("{:#}", folder(&[(file, key, value)]).unwrap_err());
            // behind the line stands a backtrace, where one is asked for
            assert!(error.lines().next().is_some_and(|line| line.contains(word)), "{word}: {error}");
        }
    }
}
