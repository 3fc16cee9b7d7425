//! A given video changed as it is told (InstructPix2Pix, arXiv 2211.09800), frame by frame and all frames as one
//! (Text2Video-Zero, arXiv 2303.13439; spec/text2video-zero.md 6): the network sees each frame beside its noise, and every frame
//! attends to the first one.

use super::footage::Footage;
use super::settings::{Group, Settings};
use crate::recipe::InstructRecipe;
use anyhow::{Result, bail, ensure};

/// The method on one job.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruct {
    /// What is changed.
    pub footage: Footage,
    /// How much of the given frames stays; 1 and more.
    pub image_guidance: f64,
}

impl Instruct {
    /// # Errors
    /// A scale of less than 1, with which the guidance of the reference is none.
    pub fn new(settings: &Settings, recipe: &InstructRecipe, footage: Footage) -> Result<Self> {
        let image_guidance = settings.image_guidance_scale.unwrap_or(recipe.image_guidance_scale);
        ensure!(
            (1.0..=1e6).contains(&image_guidance),
            "--image-guidance-scale {image_guidance}: give 1 or more; larger ones keep more of the given video"
        );
        Ok(Self { footage, image_guidance })
    }
}

/// Refuses settings of given frames where there are none. `controlled`: whether there are pictures that the video follows.
/// `frames`: whether the model takes frames, which say themselves what the scale of guidance is for.
pub fn check_absent(settings: &Settings, controlled: bool, frames: bool) -> Result<()> {
    if settings.image_guidance_scale.is_some() && !frames {
        bail!("--image-guidance-scale has no effect without given frames or edit VIDEO --instruct: leave it out")
    }
    let settings = Settings { image_guidance_scale: None, ..settings.clone() };
    match settings.only(&[Group::Footage]).said().first().filter(|_| !controlled) {
        None => Ok(()),
        Some(name) => {
            bail!(
                "--{} has no effect without a given video (--control KIND:FILE, or edit VIDEO --instruct): leave it out",
                name.replace('_', "-")
            )
        }
    }
}
