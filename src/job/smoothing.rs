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
    pub foreground: Foreground,
}

/// What says where the foreground is.
#[derive(Debug, Clone, PartialEq)]
pub enum Foreground {
    /// A grey picture for each frame, white where it is.
    Pictures {
        file: PathBuf,
        /// Of the file.
        frames: usize,
    },
    /// What words of the prompts attend to in a pass without smoothing: where the attention of one of them is so far up from a frame's
    /// lowest to its highest.
    Words { words: Vec<String>, threshold: f64 },
}

/// What belongs to the words where nobody says: half way. Masks are grown.
const THRESHOLD: f64 = 0.5;

impl Smoothing {
    /// What the settings ask for, with the masks counted.
    ///
    /// # Errors
    /// Smoothing that does not say where, the other way round, and masks that cannot be read.
    pub fn read(settings: &Settings) -> Result<Option<Self>, Failure> {
        Self::asked(settings).code(Code::Usage)
    }

    fn asked(settings: &Settings) -> Result<Option<Self>> {
        let Some(strength) = settings.smooth_background else {
            ensure!(
                settings.mask.is_none(),
                "--mask has no effect without --smooth-background S, as 0.6: add it, or leave this out"
            );
            return Ok(None);
        };
        ensure!(
            strength > 0.0 && strength <= 1.0,
            "--smooth-background {strength}: give more than 0, up to 1 (the background of the first frame)"
        );
        ensure!(
            settings.motion != Some(MotionAsked::None),
            "--smooth-background has no effect with --motion none, where frames have no common background: leave out one"
        );
        let words = settings.subject.iter().flatten().map(|words| words.trim().to_owned());
        let words: Vec<String> = words.filter(|words| !words.is_empty()).collect();
        let foreground = match &settings.mask {
            Some(_) if !words.is_empty() => {
                bail!("--mask and --subject both say where the foreground is: leave out one")
            }
            Some(_) if settings.mask_threshold.is_some() => {
                bail!("--mask-threshold has no effect without --subject: leave it out, masks are white or not")
            }
            Some(file) => {
                Foreground::Pictures { file: file.clone(), frames: SourceFile::frames(file).context("--mask")?.frames }
            }
            None if words.is_empty() => bail!(
                "--smooth-background: where is the foreground? give --subject WORDS of the prompt, or --mask DIR with a grey picture for \
                 each frame, white where it is (vidgen mask makes such masks of a video)"
            ),
            None => {
                let threshold = settings.mask_threshold.unwrap_or(THRESHOLD);
                ensure!((0.0..=1.0).contains(&threshold), "--mask-threshold {threshold} is not within 0 and 1");
                Foreground::Words { words, threshold }
            }
        };
        Ok(Some(Self { strength, foreground }))
    }

    /// # Errors
    /// Another number of masks than of frames.
    pub fn check(&self, frames: usize) -> Result<()> {
        let Foreground::Pictures { file, frames: found } = &self.foreground else { return Ok(()) };
        ensure!(
            *found == frames,
            "--mask {}: {found} masks for {frames} frames: give one for each, or --frames {found}",
            file.display()
        );
        Ok(())
    }
}
