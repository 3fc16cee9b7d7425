//! The background of an image model's video held to that of its first frame (Text2Video-Zero, arXiv 2303.13439;
//! spec/text2video-zero.md 7).

use super::settings::Settings;
use super::source_video::SourceFile;
use super::values::MotionAsked;
use crate::run::{Code, Failure, WithCode};
use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;

/// How, and where not.
#[derive(Debug, Clone, PartialEq)]
pub struct Smoothing {
    /// The weight of the first frame's latents, moved as the frame is, beside the frame's own: more than 0, up to 1.
    pub strength: f64,
    /// A grey picture for each frame, white where its foreground is.
    pub masks: PathBuf,
    /// Of them.
    pub frames: usize,
}

impl Smoothing {
    /// What the settings ask for, with the masks counted.
    ///
    /// # Errors
    /// One of the two without the other, and masks that cannot be read.
    pub fn read(settings: &Settings) -> Result<Option<Self>, Failure> {
        Self::asked(settings).code(Code::Usage)
    }

    fn asked(settings: &Settings) -> Result<Option<Self>> {
        let (strength, masks) = match (settings.smooth_background, &settings.mask) {
            (None, None) => return Ok(None),
            (None, Some(_)) => {
                bail!("--mask has no effect without --smooth-background S, as 0.6: add it, or leave this out")
            }
            (Some(_), None) => bail!(
                "--smooth-background: where is the foreground? give --mask DIR with a grey picture for each frame, white where it is \
                 (vidgen mask makes such masks of a video)"
            ),
            (Some(strength), Some(masks)) => (strength, masks),
        };
        ensure!(
            strength > 0.0 && strength <= 1.0,
            "--smooth-background {strength}: give more than 0, up to 1 (the background of the first frame)"
        );
        ensure!(
            settings.motion != Some(MotionAsked::None),
            "--smooth-background has no effect with --motion none, where frames have no common background: leave out one"
        );
        let frames = SourceFile::frames(masks).context("--mask")?.frames;
        Ok(Some(Self { strength, masks: masks.clone(), frames }))
    }

    /// # Errors
    /// Another number of masks than of frames.
    pub fn check(&self, frames: usize) -> Result<()> {
        let (found, shown) = (self.frames, self.masks.display());
        ensure!(
            found == frames,
            "--mask {shown}: {found} masks for {frames} frames: give one for each, or --frames {found}"
        );
        Ok(())
    }
}
