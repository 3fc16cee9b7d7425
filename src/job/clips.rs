//! How a model of short clips makes longer videos, and videos of several prompts: in windows that overlap, as every video model,
//! or all frames in one pass whose attention in time goes by windows, from noise that is used again (FreeNoise, arXiv 2310.15169).

use super::frame_texts;
use super::plan::{Segment, WindowRules};
use super::settings::Settings;
use super::values::Method;
use crate::processors::{self, Spec};
use crate::recipe::FreeNoiseRecipe;
use crate::storyboard::Scene;
use crate::timeline::ChunkPlan;
use anyhow::{Result, bail, ensure};

/// The longest window, in frames.
const LONGEST: usize = 4096;

/// FreeNoise on one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeNoise {
    /// Frames that see each other, and that have noise of their own.
    pub window: usize,
    /// Frames from one window to the next, and in a block of noise that is used again.
    pub stride: usize,
}

impl FreeNoise {
    /// The method of a job, where that is this one. `long`: whether there are more frames, or prompts, than one clip has; `given`:
    /// whether a video is continued; `windows`: whether the model makes windows of any length.
    ///
    /// # Errors
    /// Methods that the model does not have, and flags that the method does not use.
    pub fn choose(
        settings: &Settings,
        recipe: Option<&FreeNoiseRecipe>,
        long: bool,
        (given, windows): (bool, bool),
    ) -> Result<Option<Self>> {
        let method = settings.method.unwrap_or(Method::Auto);
        let Some(recipe) = recipe else {
            ensure!(
                method == Method::Auto,
                "--method {method} is for models of clips that attend in time by themselves (ModelScope, ZeroScope): leave it out; \
                 --transition says how scenes of this one follow each other"
            );
            let settings = &Settings { window: settings.window.filter(|_| !windows), ..settings.clone() };
            return Self::unused(settings, "this model").map(|()| None);
        };
        match method {
            Method::DitCtrl => bail!(
                "--method ditctrl shares the keys and values of a transformer of text and video, which this model is not: use \
                 freenoise or windows"
            ),
            Method::FreeNoise if given => {
                bail!("--method freenoise makes all frames at once and cannot go on from a video: use windows")
            }
            Method::Windows => return Self::unused(settings, "--method windows").map(|()| None),
            Method::Auto if given => return Self::unused(settings, "going on from a video").map(|()| None),
            Method::Auto if !long => return Self::unused(settings, "a single clip").map(|()| None),
            Method::Auto | Method::FreeNoise => {}
        }
        for (flag, given) in [
            ("--transition-windows", settings.transition_windows.is_some()),
            ("--hold", settings.hold.is_some()),
            ("--blend", settings.blend.is_some()),
        ] {
            ensure!(
                !given,
                "{flag} is about windows that are made one after the other: leave it out, or use --method windows"
            );
        }
        let (window, stride) = (settings.window.unwrap_or(recipe.window), settings.stride.unwrap_or(recipe.stride));
        ensure!((1..=LONGEST).contains(&window), "--window {window}: give 1 to {LONGEST} frames");
        ensure!(
            (1..=window).contains(&stride),
            "--stride {stride}: give 1 to {window} frames, no more than the window has"
        );
        Ok(Some(Self { window, stride }))
    }

    fn unused(settings: &Settings, what: &str) -> Result<()> {
        for (flag, given) in [("window", settings.window.is_some()), ("stride", settings.stride.is_some())] {
            ensure!(!given, "--{flag} has no effect on {what}: it is for --method freenoise");
        }
        Ok(())
    }

    /// The segments of scenes, each one window of all its frames. `frames`: of the whole video, and of a scene where nobody says.
    pub fn segments(scenes: &[Scene], frames: (Option<usize>, usize), rules: &WindowRules) -> Result<Vec<Segment>> {
        frame_texts::segments(
            scenes,
            frames,
            rules,
            "a scene that is made with all others at once",
            ChunkPlan::single_of,
        )
    }

    /// How many windows so many frames are seen in, and the frames of one; none where one window holds all.
    pub fn windows(&self, frames: usize) -> Option<(usize, usize)> {
        let further = frames.checked_sub(self.window).filter(|&further| further > 0)?;
        Some((1 + further.div_ceil(self.stride), self.window))
    }

    /// The control that parts attention in time.
    pub fn control(&self) -> Result<Spec> {
        processors::parse(&format!("window:size={},stride={}", self.window, self.stride))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_counted() {
        let method = FreeNoise { window: 16, stride: 4 };
        let counts = [1, 16, 17, 20, 21, 64].map(|frames| method.windows(frames).map(|(count, _)| count));
        assert_eq!(counts, [None, None, Some(2), Some(2), Some(3), Some(13)]);
    }
}
