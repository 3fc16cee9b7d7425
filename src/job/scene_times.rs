//! When scenes are seen that may overlap or leave gaps, and which of them share texts (`--transition relay`).

use crate::processors::Profile;
use crate::storyboard::{Length, Mark, Scene, Times};
use anyhow::{Result, bail, ensure};
use std::ops::Range;

/// When a scene of a segment is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SceneTime {
    /// Among those of the job.
    pub scene: usize,
    /// Frames of the segment, with those that it is given.
    pub frames: (usize, usize),
    /// Latent frames of its timeline, with padding; the second one is not of it.
    pub latent: (usize, usize),
}

/// The scenes of a segment in which some follow by relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayPlan {
    /// Of those that share texts.
    pub times: Vec<SceneTime>,
    /// The scenes of each shared text. In the segment's plan they are prompts after those of the job's scenes.
    pub texts: Vec<Vec<usize>>,
}

/// A text that scenes share, and where in it each of them stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedText {
    pub text: String,
    /// A scene and its bytes.
    pub scenes: Vec<(usize, Range<usize>)>,
}

/// Times of scenes as lengths, where the scenes of a video of `frames` frames follow each other from its first frame to its last;
/// else as frames. `usual`: frames of a video about whose length nobody says anything.
///
/// # Errors
/// Some scenes without a time, and times beyond the end.
pub fn settled(scenes: &[Scene], frames: Option<usize>, fps: f64, usual: usize) -> Result<Vec<Scene>> {
    if scenes.iter().all(|scene| scene.time.is_none()) {
        return Ok(scenes.to_vec());
    }
    if let Some(index) = scenes.iter().position(|scene| scene.time.is_none()) {
        bail!("scene {} has no time, and others have one: give each scene one, as time = \"0s-2s\"", index + 1)
    }
    let times: Vec<Times> = scenes.iter().filter_map(|scene| scene.time).collect();
    let ends = times.iter().filter(|time| !matches!(time.end, Mark::Percent(_))).map(|time| time.end.frames(fps, 0));
    let total = frames.or(ends.max()).unwrap_or(usual);
    let mut spans = Vec::with_capacity(times.len());
    for (index, time) in times.iter().enumerate() {
        let (start, end) = (time.start.frames(fps, total), time.end.frames(fps, total));
        ensure!(
            start < end,
            "scene {}: {time} is no frame of {total} at {fps} per second: give it more time",
            index + 1
        );
        ensure!(
            end <= total,
            "scene {}: {time} ends with frame {end} and the video has {total}: give it less, or a longer --duration",
            index + 1
        );
        spans.push((start, end));
    }
    let begins = spans.first().is_some_and(|span| span.0 == 0) && spans.last().is_some_and(|span| span.1 == total);
    let follow = begins && spans.windows(2).all(|pair| pair[0].1 == pair[1].0);
    let scene = |(scene, (start, end)): (&Scene, (usize, usize))| match follow {
        true => Scene { time: None, length: Some(Length::Frames(end - start)), ..scene.clone() },
        false => Scene {
            time: Some(Times { start: Mark::Frames(start), end: Mark::Frames(end) }),
            length: None,
            ..scene.clone()
        },
    };
    Ok(scenes.iter().zip(spans).map(scene).collect())
}

/// Whether scenes overlap or leave gaps: [`settled`] has left them their times.
pub fn is_timed(scenes: &[Scene]) -> bool {
    scenes.iter().any(|scene| scene.time.is_some())
}

/// How much the words of a scene count in each latent frame of its segment.
pub fn weights(profile: Profile, time: &SceneTime, frames: usize) -> Vec<f64> {
    (0..frames).map(|frame| (-profile.penalty(time.latent, frame as f64)).exp()).collect()
}
