//! The second stage: the frames of the first are resampled, put under part of the noise, and denoised again in windows of its
//! own (SDEdit, arXiv 2108.01073), by another model or by the same one.

use super::asked::{Asked, Configs};
use super::geometry::Geometry;
use super::given::GivenFiles;
use super::plan::{Segment, WindowRules};
use super::scene_times::{RelayPlan, SceneTime};
use super::settings::{Group, Settings};
use super::stage::{Input, Stage, StageMethod, TextInput};
use super::streaming::whole;
use super::values::Size;
use super::{Command, Controls, Request};
use crate::recipe::{self, Chosen, Recipe};
use crate::storyboard::{Scene, Transition};
use crate::timeline::TextMix;
use anyhow::{Context, Result, bail, ensure};

/// The share of the steps that is taken where nobody says.
const STRENGTH: f64 = 0.5;

/// Refuses settings of a second stage where there is none.
pub fn check_absent(settings: &Settings) -> Result<()> {
    let said = settings.clone().only(&[Group::Enhance]).said();
    match said.first() {
        None => Ok(()),
        Some(name) => {
            bail!("--{} has no effect without --enhance MODEL: add it, or leave this out", name.replace('_', "-"))
        }
    }
}

/// The stage after `first`, and its recipe.
///
/// # Errors
/// Settings that a second stage has no use for, and a strength or size that cannot be.
pub fn stage(first: &Stage, settings: &Settings, configs: &Configs) -> Result<(Stage, Recipe)> {
    let strength = settings.enhance_strength.unwrap_or(STRENGTH);
    ensure!(strength > 0.0 && strength <= 1.0, "--enhance-strength {strength}: give more than 0, up to 1");
    ensure!(
        first.input.source_video.is_none(),
        "--enhance: only new frames can be enhanced, and this video goes on from another: leave it out"
    );
    ensure!(
        configs.architecture.streaming().is_none(),
        "--enhance: the chunks of {} go on from each other and make no given frames anew: give a text-to-video model",
        configs.folder.place()
    );
    ensure!(first.shown() == 1, "--enhance: a picture of source and edited version cannot be enhanced: leave out one");
    ensure!(
        first.input.noise.is_none(),
        "--init-noise holds no noise of the second stage: leave out --enhance, or --init-noise"
    );
    let size = Size { width: first.size.width, height: first.size.height };
    let settings = &Settings {
        negative_prompt: settings.negative_prompt.clone(),
        dtype: settings.dtype,
        attention: settings.attention,
        fps: settings.fps,
        size: Some(settings.enhance_size.unwrap_or(size)),
        frames: Some(first.frames()),
        ..settings.clone().only(&[Group::Machine, Group::Memory, Group::Storage, Group::Decoding])
    };
    let Chosen { name, recipe, .. } = recipe::find(None, &configs.architecture.recipe_key())?;
    let geometry = Geometry::new(settings, configs.architecture.geometry(), &recipe).context("--enhance-size")?;
    // its windows are laid over the first stage's frames below
    let scenes = vec![Scene::default()];
    let request = &Request { command: Command::Generate, settings: settings.clone(), scenes, edit: None };
    let asked = Asked {
        request,
        settings,
        configs,
        source: None,
        given: None,
        pictures: &GivenFiles::default(),
        footage: None,
        first_frame: None,
        control_inputs: &[],
        recipe: &recipe,
        geometry: &geometry,
    };
    let (stage, _) = asked.stage(name, &mut Vec::new()).context("--enhance")?;
    let rules = WindowRules { transition: Transition::Blend, joined: false, fps: first.rules.fps, ..stage.rules };
    let segments = match first.method.streaming {
        // chunks are not parted
        Some(_) => vec![over(&rules, &whole(&first.segments))?],
        None => first.segments.iter().map(|segment| over(&rules, segment)).collect::<Result<_>>()?,
    };
    let stage = Stage {
        text: TextInput { prompts: first.prompts().to_vec(), shared: Vec::new(), ..stage.text },
        segments,
        rules,
        // windows only overlap: what the recipe shares between joined ones has nothing to act on
        controls: Controls::default(),
        cache: None,
        method: StageMethod { free_noise: None, overwriting: None, ..stage.method },
        input: Input { strength: Some(strength), ..Input::default() },
        ..stage
    };
    ensure!(
        stage.input.first_step(stage.sampler.steps) < stage.sampler.steps,
        "--enhance-strength {strength}: of {} steps that is none: give {} or more",
        stage.sampler.steps,
        1.0 / stage.sampler.steps as f64
    );
    Ok((stage, recipe))
}

/// A segment of the same frames, in windows of `rules`. Each window has the text that is in the middle of it in `before`.
fn over(rules: &WindowRules, before: &Segment) -> Result<Segment> {
    let segments = rules.segments(&[Scene::default()], Some(before.frames), 0)?;
    let mut segment = segments.into_iter().next().context("no windows")?;
    segment.fade = before.fade;
    let share = |segment: &Segment, window: &crate::timeline::Window| {
        let middle = window.start as f64 + window.len as f64 / 2.0 - segment.padding as f64;
        middle / (segment.plan.keep - segment.padding).max(1) as f64
    };
    let texts: Vec<usize> = segment
        .plan
        .windows
        .iter()
        .map(|window| {
            let at = share(&segment, window);
            if let Some(of_frames) = &before.plan.frame_texts {
                return of_frames[((at * of_frames.len() as f64) as usize).min(of_frames.len() - 1)];
            }
            let apart = |other: &&crate::timeline::Window| (share(before, other) - at).abs();
            let nearest = before.plan.windows.iter().min_by(|a, b| apart(a).total_cmp(&apart(b)));
            nearest.map_or(0, |window| window.text)
        })
        .collect();
    segment.plan.texts = before.plan.texts.clone();
    if let Some(relay) = &before.relay {
        return Ok(of_scenes(segment, relay));
    }
    for (window, text) in segment.plan.windows.iter_mut().zip(texts) {
        window.text = text;
    }
    Ok(segment)
}

/// Where scenes share texts, a window has that of the scene in its middle.
fn of_scenes(mut segment: Segment, relay: &RelayPlan) -> Segment {
    let (total, padding) = (segment.plan.keep - segment.padding, segment.padding);
    let all = relay.times.iter().map(|time| time.latent.1).max().unwrap_or(1).max(1);
    segment.plan.texts.clear();
    for window in &mut segment.plan.windows {
        let middle = (window.start + window.len / 2).saturating_sub(padding) * all / total.max(1);
        let apart =
            |time: &&SceneTime| time.latent.0.saturating_sub(middle).max((middle + 1).saturating_sub(time.latent.1));
        let text = TextMix::Prompt(relay.times.iter().min_by_key(apart).map_or(0, |time| time.scene));
        window.text = segment.plan.texts.iter().position(|other| *other == text).unwrap_or_else(|| {
            segment.plan.texts.push(text);
            segment.plan.texts.len() - 1
        });
    }
    segment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::LatentTime;
    use crate::storyboard::Storyboard;
    use crate::timeline::{BlendMode, ChunkPlan};

    #[test]
    fn windows_of_another_model_have_the_texts_of_their_time() {
        let rules = |window: usize, ratio: usize, overlap: usize| WindowRules {
            window,
            patch_t: 1,
            time: LatentTime::new(ratio),
            overlap,
            transition_windows: 1,
            hold: 0,
            transition: Transition::Blend,
            joined: false,
            relay_joined: false,
            blend: BlendMode::Paper,
            fps: 8.0,
        };
        let scenes = Storyboard::from_prompts(&["a".to_owned(), "b".to_owned()]).unwrap().scenes;
        let first = rules(13, 4, 6).segments(&scenes, None, 0).unwrap().remove(0);
        for (window, ratio, overlap) in [(13, 4, 6), (16, 1, 4), (200, 1, 50)] {
            let second = over(&rules(window, ratio, overlap), &first).unwrap();
            assert_eq!((second.frames, &second.plan.texts), (first.frames, &first.plan.texts));
            let texts: Vec<&TextMix> = second.plan.windows.iter().map(|w| &second.plan.texts[w.text]).collect();
            if second.plan.windows.len() > 1 {
                assert_eq!((texts[0], texts[texts.len() - 1]), (&TextMix::Prompt(0), &TextMix::Prompt(1)));
            }
            let latent = LatentTime::new(ratio).latent_frames(first.frames);
            assert_eq!(second.plan.keep, latent);
        }
        // frames that have texts of their own
        let texts: Vec<TextMix> = (0..40).map(|frame| TextMix::Prompt(usize::from(frame >= 25))).collect();
        let together = Segment { plan: ChunkPlan::single_of(&texts), padding: 0, frames: 40, ..first.clone() };
        let second = over(&rules(10, 1, 0), &together).unwrap();
        let texts: Vec<usize> = second.plan.windows.iter().map(|window| window.text).collect();
        assert_eq!((texts, second.plan.frame_texts), (vec![0, 0, 1, 1], None));

        // the same windows have the same texts
        let same = over(&rules(13, 4, 6), &first).unwrap();
        let texts = |segment: &Segment| segment.plan.windows.iter().map(|window| window.text).collect::<Vec<_>>();
        assert_eq!(texts(&same), texts(&first));
    }
}
