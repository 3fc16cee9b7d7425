//! Videos in which every frame has a text of its own, whose network sees no windows in time: scenes become texts of frames, and a
//! segment is whatever is made of them.

use super::plan::{Segment, WindowRules};
use crate::storyboard::{Length, Scene, Transition};
use crate::timeline::{ChunkPlan, TextMix};
use anyhow::{Result, bail, ensure};

/// The segments of scenes: those between two cuts or fades. `frames`: of the whole video, over what the scenes say, and of a scene
/// where nobody says. `scene`: what it is of that cannot continue another, for messages. `plan`: the windows of so many frames
/// with their texts.
///
/// # Errors
/// Transitions that need windows in time, and fewer frames than scenes.
pub fn segments(
    scenes: &[Scene],
    (frames, each): (Option<usize>, usize),
    rules: &WindowRules,
    scene: &str,
    plan: impl Fn(&[TextMix]) -> ChunkPlan,
) -> Result<Vec<Segment>> {
    let lengths = lengths(scenes, frames, each, rules.fps)?;
    let mut segments: Vec<Segment> = Vec::new();
    for group in rules.groups(scenes) {
        let (fade, next) = rules.fades(scenes, &group);
        let (first, count) = (group.start, group.len());
        if first > 0 && rules.kind(&scenes[first]).feed().is_some() {
            bail!("--transition continue: {scene} has nothing to go on from: use blend, cut or fade")
        }
        let mut lengths = lengths[group.clone()].to_vec();
        if frames.is_some() || scenes[group].iter().any(|scene| scene.length.is_some()) {
            // the middle of a fade is where one scene ends and the next begins
            lengths[0] += fade - fade / 2;
            lengths[count - 1] += next / 2;
        }
        let texts = texts(first, &lengths, |scene| {
            let into = &scenes[first + scene];
            let blends = rules.kind(into) == Transition::Blend;
            if blends { into.transition.overlap.unwrap_or(rules.overlap) } else { 0 }
        });
        let total = texts.len();
        ensure!(
            fade + next <= total,
            "scene {}: a fade of {} frames is too long for its {total}: give fewer, or a longer scene",
            first + 1,
            fade.max(next)
        );
        segments.push(Segment {
            plan: plan(&texts),
            padding: 0,
            context: 0,
            feed: None,
            frames: total,
            fade,
            given: Vec::new(),
            relay: None,
        });
    }
    Ok(segments)
}

/// Frames of each scene: what it says, else its share of all.
fn lengths(scenes: &[Scene], frames: Option<usize>, each: usize, fps: f64) -> Result<Vec<usize>> {
    let own = |scene: &Scene| {
        scene.length.map(|length| match length {
            Length::Frames(frames) => frames,
            Length::Seconds(seconds) => (seconds * fps).round() as usize,
        })
    };
    let own: Vec<Option<usize>> = scenes.iter().map(own).collect();
    let count = scenes.len();
    let lengths: Vec<usize> = match frames {
        Some(frames) if own.iter().all(Option::is_none) => {
            (0..count).map(|scene| (scene + 1) * frames / count - scene * frames / count).collect()
        }
        Some(frames) => {
            // scaled to the whole, rounded where scenes end
            let said: Vec<usize> = own.iter().map(|own| own.unwrap_or(each)).collect();
            let all = said.iter().sum::<usize>().max(1);
            let ends: Vec<usize> = said
                .iter()
                .scan(0, |sum, &length| {
                    *sum += length;
                    Some(*sum * frames / all)
                })
                .collect();
            ends.iter().enumerate().map(|(scene, &end)| end - if scene == 0 { 0 } else { ends[scene - 1] }).collect()
        }
        None => own.iter().map(|own| own.unwrap_or(each)).collect(),
    };
    if let Some(scene) = lengths.iter().position(|&length| length == 0) {
        bail!(
            "scene {}: no frame is left of {} for {count} scenes: give more --frames",
            scene + 1,
            lengths.iter().sum::<usize>()
        )
    }
    Ok(lengths)
}

/// The text of each frame of scenes from `first` on. Where scenes blend, `overlap(scene)` frames go over from the text before:
/// frame j of a later scene has `w = (j + 1) / (o + 1)` of its own.
pub fn texts(first: usize, lengths: &[usize], overlap: impl Fn(usize) -> usize) -> Vec<TextMix> {
    let mut texts = Vec::with_capacity(lengths.iter().sum());
    for (scene, &length) in lengths.iter().enumerate() {
        let over = if scene == 0 { 0 } else { overlap(scene).min(length) };
        texts.extend((0..length).map(|frame| {
            if frame >= over {
                return TextMix::Prompt(first + scene);
            }
            let weight = (frame + 1) as f64 / (over + 1) as f64;
            TextMix::Between { from: first + scene - 1, to: first + scene, weight }
        }));
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_text_of_their_scene_and_go_over() {
        let mix = |from: usize, weight: f64| TextMix::Between { from, to: from + 1, weight };
        let found = texts(0, &[3, 2, 4], |_| 4);
        let (a, b, c) = (TextMix::Prompt(0), TextMix::Prompt(1), TextMix::Prompt(2));
        assert_eq!(found[..5], [a, a, a, mix(0, 1.0 / 3.0), mix(0, 2.0 / 3.0)]);
        assert_eq!(found[5..], [mix(1, 0.2), mix(1, 0.4), mix(1, 0.6), mix(1, 0.8)]);
        assert_eq!(texts(1, &[2, 2], |_| 0), [b, b, c, c]);
    }

    #[test]
    fn frames_are_shared_out_among_scenes() {
        let scenes = vec![Scene::default(); 3];
        assert_eq!(lengths(&scenes, Some(10), 8, 4.0).unwrap(), [3, 3, 4]);
        assert_eq!(lengths(&scenes, None, 8, 4.0).unwrap(), [8, 8, 8]);
        let mut said = scenes.clone();
        said[1].length = Some(Length::Seconds(3.0));
        assert_eq!(lengths(&said, None, 8, 4.0).unwrap(), [8, 12, 8]);
        assert!(lengths(&scenes, Some(2), 8, 4.0).unwrap_err().to_string().contains("scene 1"));
    }
}
