//! Text-to-video folders as the rest of the program sees them: `TextToVideoSDPipeline` of diffusers, ModelScope's model
//! (arXiv 2308.06571) and those trained from it (ZeroScope).

use super::architecture::{Folder, SCHEDULERS, native_sides};
use crate::attention::SiteKind;
use crate::models::architecture::{Architecture, Configurations, Family, PartClass, Role, config};
use crate::models::unet::UNet3DConfig;
use anyhow::{Result, ensure};
use std::sync::Arc;

pub static TEXT_TO_VIDEO: Family = Family {
    name: "text-to-video",
    stem: "TextToVideoSD",
    pipelines: &["TextToVideoSDPipeline", "VideoToVideoSDPipeline"],
    remedies: &[],
    parts: &[
        PartClass { name: "tokenizer", role: Role::Tokenizer, classes: &[], required: true },
        PartClass { name: "text_encoder", role: Role::TextEncoder, classes: &["clip_text_model"], required: true },
        PartClass { name: "unet", role: Role::Denoiser, classes: &["UNet3DConditionModel"], required: true },
        PartClass { name: "scheduler", role: Role::Scheduler, classes: &[], required: true },
        PartClass { name: "vae", role: Role::Autoencoder, classes: &["AutoencoderKL"], required: true },
    ],
    schedulers: SCHEDULERS,
    sites: &[SiteKind::SelfSpatial, SiteKind::Cross, SiteKind::Temporal],
    native: |configurations| native_sides(configurations, CLIP),
    read,
};

/// Frames of a clip and their rate, where nobody asks for others: ModelScope's.
const CLIP: (usize, u32) = (16, 8);

fn read(configurations: &Configurations) -> Result<Arc<dyn Architecture>> {
    let unet = config::<UNet3DConfig>(configurations, "unet/config.json")?.planar("unet")?;
    ensure!(
        unet.in_channels == unet.out_channels,
        "unet/config.json: in_channels is {}; a text-to-video model takes the {} latent channels it makes",
        unet.in_channels,
        unet.out_channels
    );
    Ok(Arc::new(Folder::read(&TEXT_TO_VIDEO, unet, CLIP, configurations)?))
}
