//! How frames of an image model become a video (Text2Video-Zero, arXiv 2303.13439; spec/text2video-zero.md 2 to 4).
//!
//! Every frame attends to the first one, the anchor. With motion the anchor is denoised alone up to an early step; its
//! latents there, moved further for each frame and put under noise of their own, are where the other frames begin, some
//! steps before. Without motion every frame begins with noise of its own.
//!
//! Frames do not depend on each other but through the anchor, so they go through the network in chunks of any size: windows of
//! the plan that do not overlap, the anchor alone in the first.

use super::frame_texts;
use super::plan::{Segment, WindowRules};
use super::sampler::Sampler;
use super::settings::Settings;
use super::smoothing::Smoothing;
use super::values::{FrameNoise, MotionAsked};
use crate::recipe::ZeroShotRecipe;
use crate::schedulers::{self, SchedulerKind};
use crate::storyboard::Scene;
use crate::timeline::{ChunkPlan, Motion, MotionPath, TextMix, Window};
use anyhow::{Result, bail, ensure};

/// The method on one job.
#[derive(Debug, Clone, PartialEq)]
pub struct ZeroShot {
    /// None where every frame begins with noise.
    pub motion: Option<MotionPlan>,
    /// Whether that is the same; none where a file of noise says so by how much it holds.
    pub noise: Option<FrameNoise>,
    /// Frames in the network at a time, beside the anchor.
    pub chunk: usize,
}

/// Where the frames after the first come from.
#[derive(Debug, Clone, PartialEq)]
pub struct MotionPlan {
    pub motion: Motion,
    pub path: MotionPath,
    /// The step that all frames take first.
    pub first: usize,
    /// The step before which the anchor's latents are moved.
    pub moved: usize,
    /// What is left of a signal between the two, as a share of its variance: the product of the training steps' alphas.
    pub signal: f64,
    /// How the background is held to that of the first frame.
    pub smoothing: Option<Smoothing>,
}

/// Displacements beyond half a frame, in 512ths, are told.
const HALF: f64 = 256.0;

impl ZeroShot {
    /// # Errors
    /// Samplers and steps that motion cannot be put between, and chunks of nothing.
    pub fn new(settings: &Settings, recipe: &ZeroShotRecipe, sampler: &Sampler) -> Result<Self> {
        let chunk = chunk(settings, recipe.chunk)?;
        if let Some(noise) = settings.noise {
            bail!(
                "--noise {noise} is for --control and for edit --instruct: with texts alone frames differ by their noise: leave it out"
            )
        }
        let asked = settings.motion.unwrap_or(MotionAsked::By(recipe.motion));
        let motion = match asked {
            MotionAsked::By(motion) => Some(Self::plan(motion, settings, recipe, sampler)?),
            MotionAsked::None => {
                Smoothing::read(settings)?; // which says why it cannot be
                for (flag, given) in [
                    ("--motion-steps", settings.motion_steps.is_some()),
                    ("--motion-path", settings.motion_path.is_some()),
                ] {
                    ensure!(!given, "{flag} has no effect with --motion none: leave out one");
                }
                None
            }
        };
        Ok(Self { motion, noise: Some(FrameNoise::Independent), chunk })
    }

    /// Frames that are made from those that the flag `given` gives: what moves is what moves there. `noise`, `chunk`: where nobody says.
    ///
    /// # Errors
    /// Settings of motion, and chunks of nothing.
    pub fn of_footage(settings: &Settings, given: &'static str, noise: FrameNoise, chunk: usize) -> Result<Self> {
        for (flag, said) in [
            ("--motion", settings.motion.is_some()),
            ("--motion-steps", settings.motion_steps.is_some()),
            ("--motion-path", settings.motion_path.is_some()),
            ("--smooth-background", settings.smooth_background.is_some()),
            ("--mask", settings.mask.is_some()),
            // a video that is changed has a first frame
            ("--first-frame", settings.first_frame.is_some() && given == "--instruct"),
        ] {
            ensure!(
                !said,
                "{flag} is for videos from text alone; with {given} things move as in the given video: leave it out"
            );
        }
        let noise = settings.noise.or(settings.init_noise.is_none().then_some(noise));
        Ok(Self { motion: None, noise, chunk: self::chunk(settings, chunk)? })
    }

    fn plan(motion: Motion, settings: &Settings, recipe: &ZeroShotRecipe, sampler: &Sampler) -> Result<MotionPlan> {
        ensure!(
            matches!(sampler.kind, SchedulerKind::Ddim | SchedulerKind::Dpmpp2m),
            "--scheduler {}: motion is put between two steps of ddim or dpmpp-2m: use one of them, or --motion none",
            sampler.kind
        );
        let asked = settings.motion_steps.unwrap_or(recipe.motion_steps);
        let timesteps = sampler.build()?.timesteps().to_vec();
        let first_at = |most: usize| timesteps.iter().position(|&timestep| timestep <= most as f64);
        let steps = first_at(asked.last).zip(first_at(asked.first)).filter(|(first, moved)| moved > first);
        let Some((first, moved)) = steps else {
            let at = |index: usize| timesteps.get(index).copied().unwrap_or_default().round();
            let nearest = first_at(asked.last).unwrap_or(0).min(timesteps.len().saturating_sub(2));
            ensure!(timesteps.len() > 1, "--motion-steps {asked}: a run of one step has no two to put motion between");
            bail!(
                "--motion-steps {asked}: no step of this run's {} lies between (both are at timestep {}): use more --steps, or \
                 --motion-steps {}..{}",
                timesteps.len(),
                at(nearest),
                at(nearest + 1),
                at(nearest)
            )
        };
        let between = timesteps[moved].round() as usize..timesteps[first].round() as usize;
        let signal = schedulers::signal_kept(&sampler.schedule, between)?;
        let path = settings.motion_path.unwrap_or(MotionPath::Linear);
        let smoothing = Smoothing::read(settings)?;
        Ok(MotionPlan { motion, path, first, moved, signal, smoothing })
    }

    /// How the background is held to that of the first frame.
    pub fn smoothing(&self) -> Option<&Smoothing> {
        self.motion.as_ref()?.smoothing.as_ref()
    }

    /// The first step that is taken with all frames.
    pub fn first_step(&self) -> usize {
        self.motion.as_ref().map_or(0, |motion| motion.first)
    }

    /// The warning about the motion of a video of so many frames, if there is one.
    pub fn warning(&self, frames: usize) -> Option<String> {
        let plan = self.motion.as_ref()?;
        let far = (0..frames).find(|&frame| {
            let (x, y) = plan.path.at(plan.motion, frame);
            x.abs().max(y.abs()) > HALF
        })?;
        Some(format!(
            "from frame {far} on the motion is over half a frame, and what is seen is mirrored at the edges: use a smaller --motion, \
             or --motion-path pingpong"
        ))
    }

    /// The segments of scenes. `frames`: of the whole video, over what the scenes say; `each`: of a scene where nobody says.
    ///
    /// # Errors
    /// Transitions that need windows in time, and fewer frames than scenes.
    pub fn segments(
        &self,
        scenes: &[Scene],
        frames: Option<usize>,
        each: usize,
        rules: &WindowRules,
    ) -> Result<Vec<Segment>> {
        let goes_on = "a scene of an image model";
        frame_texts::segments(scenes, (frames, each), rules, goes_on, |texts| self.windows(texts))
    }

    /// The first frame alone, then stretches of one text, of at most a chunk.
    fn windows(&self, frames: &[TextMix]) -> ChunkPlan {
        let mut plan = ChunkPlan { windows: Vec::new(), texts: Vec::new(), ..ChunkPlan::single(frames.len()) };
        for (frame, text) in frames.iter().enumerate() {
            if plan.texts.last() != Some(text) {
                plan.texts.push(*text);
            }
            let text = plan.texts.len() - 1;
            match plan.windows.last_mut() {
                Some(window) if frame > 1 && window.text == text && window.len < self.chunk => window.len += 1,
                _ => plan.windows.push(Window { start: frame, len: 1, text, joined: false }),
            }
        }
        plan
    }
}

/// Frames in the network at a time; refuses what has no meaning for them.
fn chunk(settings: &Settings, own: usize) -> Result<usize> {
    for (flag, given) in [
        ("--transition-windows", settings.transition_windows.is_some()),
        ("--hold", settings.hold.is_some()),
        ("--blend", settings.blend.is_some()),
    ] {
        ensure!(!given, "{flag} is about windows in time, which an image model has none of: leave it out");
    }
    let chunk = settings.chunk.unwrap_or(own);
    ensure!((1..=4096).contains(&chunk), "--chunk {chunk}: give 1 to 4096 frames");
    Ok(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_each_frame_once_and_the_anchor_stands_alone() {
        for chunk in [1, 3, 8] {
            let zero = ZeroShot { motion: None, noise: None, chunk };
            let plan = zero.windows(&frame_texts::texts(0, &[9, 8], |_| 2));
            assert_eq!((plan.windows[0].start, plan.windows[0].len), (0, 1));
            let mut end = 0;
            for window in &plan.windows {
                assert!(window.start == end && window.len <= chunk && !window.joined);
                end = window.end();
            }
            assert_eq!(end, 17);
            let text = |frame: usize| {
                let window = plan.windows.iter().find(|window| (window.start..window.end()).contains(&frame)).unwrap();
                plan.texts[window.text]
            };
            assert_eq!((text(8), text(16)), (TextMix::Prompt(0), TextMix::Prompt(1)));
            assert_eq!(text(9), TextMix::Between { from: 0, to: 1, weight: 1.0 / 3.0 });
        }
    }
}
