//! DreamVideo-2 folders (arXiv 2410.13830) as the rest of the program sees them: a text-to-video model, beside it attention to a subject's
//! picture, and what sees boxes. A folder may have one of the two.

use super::architecture::{Folder, SCHEDULERS, native_sides};
use super::text_to_video::{CLIP, planar};
use crate::attention::SiteKind;
use crate::models::architecture::{
    Architecture, Configurations, ControlArchitecture, Family, PartClass, Role, SubjectArchitecture, config,
};
use crate::models::control::ControlNetwork;
use crate::models::placement::{ReferenceConfig, SubjectAttention};
use crate::models::unet::controlnet::ControlNetConfig;
use crate::models::unet::subject::{BoxControl, MotionEncoderConfig, ReferenceAttention, reference_work};
use crate::models::unet::{UNet3DConfig, UNetConfig};
use anyhow::{Result, ensure};
use candle_nn::VarBuilder;
use std::sync::Arc;

const REFERENCE: &str = "reference_attention";
const ENCODER: &str = "motion_encoder";
const CONTROL: &str = "controlnet";

pub static SUBJECT: Family = Family {
    name: "subject-to-video",
    stem: "DreamVideo2",
    pipelines: &["DreamVideo2Pipeline"],
    remedies: &[],
    parts: &[
        PartClass { name: "tokenizer", role: Role::Tokenizer, classes: &[], required: true },
        PartClass { name: "text_encoder", role: Role::TextEncoder, classes: &["clip_text_model"], required: true },
        PartClass { name: "unet", role: Role::Denoiser, classes: &["UNet3DConditionModel"], required: true },
        PartClass { name: REFERENCE, role: Role::Reference, classes: &["ReferenceAttention"], required: false },
        PartClass { name: ENCODER, role: Role::BoxEncoder, classes: &["BoxMotionEncoder"], required: false },
        PartClass { name: CONTROL, role: Role::BoxControl, classes: &["ControlNetModel"], required: false },
        PartClass { name: "scheduler", role: Role::Scheduler, classes: &[], required: true },
        PartClass { name: "vae", role: Role::Autoencoder, classes: &["AutoencoderKL"], required: true },
    ],
    schedulers: SCHEDULERS,
    sites: &[SiteKind::SelfSpatial, SiteKind::Cross, SiteKind::Temporal],
    native: |configurations| native_sides(configurations, CLIP),
    read,
};

/// The configurations of what stands beside a text-to-video model.
#[derive(Debug)]
struct Beside {
    unet: UNet3DConfig,
    planar: UNetConfig,
    reference: Option<ReferenceConfig>,
    boxes: Option<(MotionEncoderConfig, ControlNetConfig)>,
}

fn read(configurations: &Configurations) -> Result<Arc<dyn Architecture>> {
    let unet: UNet3DConfig = config(configurations, "unet/config.json")?;
    let planar = planar(&unet)?;
    let folder = Folder::read(&SUBJECT, planar.clone(), CLIP, configurations)?;
    let there = |part: &str| configurations(&format!("{part}/config.json")).is_ok();
    let reference = there(REFERENCE).then(|| {
        let reference: ReferenceConfig = config(configurations, "reference_attention/config.json")?;
        reference.check()?;
        Ok::<_, anyhow::Error>(reference)
    });
    let boxes = there(ENCODER).then(|| {
        let encoder: MotionEncoderConfig = config(configurations, "motion_encoder/config.json")?;
        encoder.check()?;
        let control: ControlNetConfig = config(configurations, "controlnet/config.json")?;
        control.check()?;
        if let Some(misfit) = control.misfit(&planar) {
            anyhow::bail!("controlnet/config.json: {misfit}: these parts are not of one model")
        }
        let (width, ratio) = (planar.block_out_channels[0], folder.geometry().spatial_ratio);
        ensure!(
            encoder.out_channels == width,
            "motion_encoder/config.json: out_channels is {}, and the unet begins with {width}: these parts are not of one model",
            encoder.out_channels
        );
        ensure!(
            encoder.ratio() == ratio,
            "motion_encoder/config.json: block_out_channels makes cells of {} pixels, and the vae's have {ratio}: these parts are not of one \
             model",
            encoder.ratio()
        );
        Ok((encoder, control))
    });
    let beside = Beside { unet, planar, reference: reference.transpose()?, boxes: boxes.transpose()? };
    Ok(Arc::new(folder.with_subject(Arc::new(beside))))
}

impl SubjectArchitecture for Beside {
    fn reference(&self) -> Option<&ReferenceConfig> {
        self.reference.as_ref()
    }

    fn most_boxes(&self) -> Option<usize> {
        self.boxes.as_ref().map(|(encoder, _)| encoder.max_frames)
    }

    fn box_control(&self) -> Option<&dyn ControlArchitecture> {
        self.boxes.as_ref().map(|(_, control)| control as &dyn ControlArchitecture)
    }

    fn reference_work(&self, frames: usize, cells: (usize, usize)) -> f64 {
        reference_work(&self.planar, frames, cells)
    }

    fn load_reference(&self, vb: &VarBuilder) -> candle_core::Result<Arc<dyn SubjectAttention>> {
        Ok(Arc::new(ReferenceAttention::load(&self.unet, vb)?))
    }

    fn load_boxes(&self, encoder: &VarBuilder, control: VarBuilder) -> candle_core::Result<Arc<dyn ControlNetwork>> {
        match &self.boxes {
            Some((encoder_config, config)) => {
                Ok(Arc::new(BoxControl::load((encoder_config, encoder), (config, control))?))
            }
            None => candle_core::bail!("there is nothing in this folder that sees boxes"),
        }
    }
}
