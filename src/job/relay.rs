//! The windows of scenes that follow each other by `relay`, which share texts.

use super::plan::{Segment, WindowRules};
use super::scene_times::{RelayPlan, SceneTime, is_timed};
use crate::storyboard::{Scene, Times, Transition};
use crate::timeline::{ChunkPlan, Stride, TextMix};
use anyhow::{Result, ensure};
use std::ops::Range;

impl WindowRules {
    /// Whether some scenes of a segment share texts.
    pub(super) fn relays(&self, scenes: &[Scene]) -> bool {
        is_timed(scenes) || scenes.iter().skip(1).any(|scene| self.kind(scene) == Transition::Relay)
    }

    /// The segment of scenes of which some follow by relay, the first of them scene `first` of the job. `frames`: to decode, with
    /// those that are `given`; `lengths`: those of the scenes, where somebody says. `prompts`: those of the job so far, after which
    /// come the texts that scenes share.
    pub(super) fn relayed(
        &self,
        (first, scenes): (usize, &[Scene]),
        frames: usize,
        lengths: Option<&[usize]>,
        (context, given): (usize, usize),
        prompts: usize,
    ) -> Result<Segment> {
        let n = self.window + self.padding(self.window);
        let short = self.latent_frames(frames) <= self.window;
        let padding = if short { self.padding(self.latent_frames(frames)) } else { n - self.window };
        let times = self.scene_times((first, scenes), frames, lengths, given, padding)?;
        let stretches = self.stretches(scenes);
        let keep = self.latent_frames(frames) + padding;
        let mut plan = match stretches.as_slice() {
            [_] if short => ChunkPlan::single(keep),
            // the last window ends with the video: frames beyond it would be of no scene
            [_] => {
                let (overlap, window) = (self.overlap, self.window);
                ensure!(
                    overlap < window,
                    "an overlap of {overlap} latent frames does not leave a window of {window} room to move"
                );
                ChunkPlan::sliding(keep, n, overlap)
            }
            _ => {
                let parts: Vec<usize> =
                    stretches.iter().map(|of| times[of.clone()].iter().map(length).sum::<usize>().max(1)).collect();
                let all = self.strides(scenes, n)?;
                let strides: Vec<Stride> = stretches.iter().map(|of| all[of.end - 1]).collect();
                self.covered(keep, &parts, &strides, (scenes.len(), frames - given), (n, given))?
            }
        };
        let mut relay = RelayPlan { times: Vec::new(), texts: Vec::new() };
        let of_plan = std::mem::take(&mut plan.texts);
        for (index, window) in plan.windows.iter_mut().enumerate() {
            if stretches.len() == 1 {
                window.joined = index > 0 && self.relay_joined;
            }
            let text = match of_plan[window.text] {
                TextMix::Between { from, to, weight } => {
                    TextMix::Between { from: first + stretches[from].end - 1, to: first + stretches[to].start, weight }
                }
                TextMix::Prompt(stretch) if stretches[stretch].len() == 1 && !is_timed(scenes) => {
                    TextMix::Prompt(first + stretches[stretch].start)
                }
                TextMix::Prompt(stretch) => {
                    let seen =
                        seen(&times[stretches[stretch].clone()], (window.start, window.end()), stretches.len() > 1);
                    let place = relay.texts.iter().position(|text| *text == seen);
                    let place = place.unwrap_or_else(|| {
                        relay.texts.push(seen);
                        relay.texts.len() - 1
                    });
                    TextMix::Prompt(prompts + place)
                }
            };
            window.text = plan.texts.iter().position(|other| *other == text).unwrap_or_else(|| {
                plan.texts.push(text);
                plan.texts.len() - 1
            });
        }
        relay.times = times.into_iter().filter(|time| relay.texts.iter().flatten().any(|&s| s == time.scene)).collect();
        let frames = frames - given;
        Ok(Segment { plan, padding, context, feed: None, frames, fade: 0, given: Vec::new(), relay: Some(relay) })
    }

    /// Scenes that share texts, and those between two transitions of another kind.
    fn stretches(&self, scenes: &[Scene]) -> Vec<Range<usize>> {
        if is_timed(scenes) {
            return std::iter::once(0..scenes.len()).collect();
        }
        let mut stretches: Vec<Range<usize>> = Vec::new();
        for (index, scene) in scenes.iter().enumerate() {
            match stretches.last_mut() {
                Some(stretch) if self.kind(scene) == Transition::Relay => stretch.end = index + 1,
                _ => stretches.push(index..index + 1),
            }
        }
        stretches
    }

    /// When each scene is seen; frames that are given belong to the first.
    fn scene_times(
        &self,
        (first, scenes): (usize, &[Scene]),
        frames: usize,
        lengths: Option<&[usize]>,
        given: usize,
        padding: usize,
    ) -> Result<Vec<SceneTime>> {
        let mut before = 0;
        let total: usize = lengths.map_or(scenes.len(), |lengths| lengths.iter().sum());
        let new = frames - given;
        let latent = |frame: usize| if frame == 0 { 0 } else { self.latent_frames(frame) + padding };
        let mut times = Vec::with_capacity(scenes.len());
        for (index, scene) in scenes.iter().enumerate() {
            let (start, end) = match scene.time {
                Some(Times { start, end }) => (start.frames(self.fps, new), end.frames(self.fps, new)),
                None => {
                    let start = before;
                    before += lengths.map_or(1, |lengths| lengths[index]);
                    // a fade adds frames to what scenes say
                    (start * new / total, before * new / total)
                }
            };
            let shifted = (if start == 0 { 0 } else { start + given }, end + given);
            let time =
                SceneTime { scene: first + index, frames: shifted, latent: (latent(shifted.0), latent(shifted.1)) };
            ensure!(
                time.latent.0 < time.latent.1,
                "scene {}: its frames {start} to {end} are less than one latent frame, which stands for {}: give it more",
                first + index + 1,
                self.time.ratio
            );
            times.push(time);
        }
        Ok(times)
    }
}

fn length(time: &SceneTime) -> usize {
    time.frames.1.saturating_sub(time.frames.0)
}

/// The scenes whose time meets latent frames; `some`: at least the nearest.
fn seen(times: &[SceneTime], window: (usize, usize), some: bool) -> Vec<usize> {
    let apart =
        |time: &SceneTime| time.latent.0.saturating_sub(window.1 - 1).max((window.0 + 1).saturating_sub(time.latent.1));
    let meet: Vec<usize> = times.iter().filter(|time| apart(time) == 0).map(|time| time.scene).collect();
    match times.iter().min_by_key(|time| apart(time)) {
        Some(nearest) if meet.is_empty() && some => vec![nearest.scene],
        _ => meet,
    }
}

#[cfg(test)]
mod tests {
    use super::super::routes::shared_texts;
    use super::super::scene_times::settled;
    use super::*;
    use crate::models::LatentTime;
    use crate::storyboard::{Length, Storyboard, TransitionInto};
    use crate::timeline::BlendMode;

    fn rules() -> WindowRules {
        WindowRules {
            window: 13,
            patch_t: 1,
            time: LatentTime::new(4),
            overlap: 9,
            transition_windows: 2,
            hold: 0,
            transition: Transition::Relay,
            joined: false,
            relay_joined: false,
            blend: BlendMode::Reference,
            fps: 8.0,
        }
    }

    fn scenes(count: usize) -> Vec<Scene> {
        Storyboard::from_prompts(&vec!["a ball".to_owned(); count]).unwrap().scenes
    }

    fn timed(times: &[&str]) -> Vec<Scene> {
        let scene = |time: &&str| Scene { time: Some(time.parse().unwrap()), ..scenes(1)[0].clone() };
        times.iter().map(scene).collect()
    }

    fn latent(segment: &Segment) -> Vec<(usize, usize)> {
        segment.relay.iter().flat_map(|relay| &relay.times).map(|time| time.latent).collect()
    }

    #[test]
    fn a_video_is_as_long_as_with_blended_scenes() {
        for (count, windows, frames) in [(2, 4, 97), (3, 7, 145), (4, 10, 193)] {
            let segments = rules().segments(&scenes(count), None, 0).unwrap();
            let [segment] = segments.as_slice() else { panic!("{segments:?}") };
            assert_eq!((segment.plan.windows.len(), segment.frames), (windows, frames));
            assert_eq!(segment.plan.windows[windows - 1].end(), segment.plan.keep);
        }
        // 49 frames: latent frames 0-12; the second scene begins with frame 24
        let segments = rules().segments(&scenes(2), Some(49), 0).unwrap();
        assert_eq!((latent(&segments[0]), segments[0].plan.windows.len()), (vec![(0, 7), (7, 13)], 1));
        assert_eq!(segments[0].plan.texts, [TextMix::Prompt(2)]);
        assert_eq!(segments[0].relay.as_ref().unwrap().texts, [[0, 1]]);
        let alone = rules().segments(&scenes(1), None, 0).unwrap();
        assert!(alone[0].relay.is_none());
    }

    #[test]
    fn windows_have_the_scenes_they_meet() {
        let mut story = scenes(3);
        story.iter_mut().for_each(|scene| scene.length = Some(Length::Frames(40)));
        let segments = rules().segments(&story, None, 0).unwrap();
        let segment = &segments[0];
        assert_eq!(latent(segment), [(0, 11), (11, 21), (21, 31)]);
        let of = |window: &crate::timeline::Window| match segment.plan.texts[window.text] {
            TextMix::Prompt(text) => segment.relay.as_ref().unwrap().texts[text - 3].clone(),
            TextMix::Between { .. } => panic!("no text between"),
        };
        let texts: Vec<_> = segment.plan.windows.iter().map(|window| (window.start, of(window))).collect();
        let expected =
            [(0, vec![0, 1]), (4, vec![0, 1]), (8, vec![0, 1]), (12, vec![1, 2]), (16, vec![1, 2]), (18, vec![1, 2])];
        assert_eq!(texts, expected);
    }

    #[test]
    fn relay_stands_beside_other_transitions() {
        let mut story = scenes(4);
        let into = |kind| TransitionInto { kind: Some(kind), ..TransitionInto::default() };
        let rules = WindowRules { transition: Transition::Blend, ..rules() };
        story[2].transition = into(Transition::Relay);
        let segments = rules.segments(&story, None, 0).unwrap();
        let [segment] = segments.as_slice() else { panic!("{segments:?}") };
        let relay = segment.relay.as_ref().unwrap();
        assert_eq!(relay.times.iter().map(|time| time.scene).collect::<Vec<_>>(), [1, 2]);
        assert!(relay.texts.iter().all(|text| text.iter().all(|scene| [1, 2].contains(scene))));
        assert!(relay.texts.contains(&vec![1, 2]));
        assert!(segment.plan.texts.contains(&TextMix::Prompt(0)) && segment.plan.texts.contains(&TextMix::Prompt(3)));
        assert!(segment.plan.texts.iter().any(|text| matches!(text, TextMix::Between { from: 0, to: 1, .. })));
        assert!(segment.plan.texts.iter().any(|text| matches!(text, TextMix::Between { from: 2, to: 3, .. })));
        // after a cut the texts go on counting
        story[3].transition = into(Transition::Cut);
        story.push(Scene { transition: into(Transition::Relay), ..scenes(1)[0].clone() });
        let segments = rules.segments(&story, None, 0).unwrap();
        let before = segments[0].relay.as_ref().unwrap().texts.len();
        assert!(segments[1].plan.texts.contains(&TextMix::Prompt(5 + before)), "{:?}", segments[1].plan.texts);
        assert_eq!(
            shared_texts(&segments, &story, None).len(),
            before + segments[1].relay.as_ref().unwrap().texts.len()
        );
    }

    #[test]
    fn times_overlap_and_leave_gaps() {
        let of = |times: &[&str], frames| settled(&timed(times), frames, 8.0, 49);
        // one after the other: lengths
        let follow = of(&["0%-50%", "50%-100%"], None).unwrap();
        assert_eq!(
            follow.iter().map(|scene| scene.length).collect::<Vec<_>>(),
            [Some(Length::Frames(25)), Some(Length::Frames(24))]
        );
        let spans = of(&["0s-2s", "1s-4s", "5s-6s"], None).unwrap();
        let segments = rules().segments(&spans, None, 0).unwrap();
        assert_eq!((segments[0].frames, latent(&segments[0])), (48, vec![(0, 5), (3, 9), (11, 13)]));
        // a window that meets no scene
        let apart = of(&["0f-8f", "160f-168f"], Some(200)).unwrap();
        let segments = rules().segments(&apart, None, 0).unwrap();
        assert!(segments[0].relay.as_ref().unwrap().texts.contains(&Vec::new()));
        assert_eq!(segments[0].frames, 168);
        for (times, frames, words) in [
            (&["0s-2s", "1s-9s"][..], Some(49), "scene 2: 1s-9s ends with frame 72 and the video has 49"),
            (&["0s-0.01s", "1s-2s"], None, "scene 1: 0s-0.01s is no frame of 16 at 8 per second"),
            (&["3s-50%", "1s-2s"], Some(16), "scene 1: 3s-50% is no frame"),
        ] {
            let error = of(times, frames).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let mut some = timed(&["0s-2s", "1s-3s"]);
        some[1].time = None;
        assert!(settled(&some, None, 8.0, 49).unwrap_err().to_string().contains("scene 2 has no time"));
        let short = of(&["0f-2f", "2f-4f", "9f-20f"], None).unwrap();
        let error = rules().segments(&short, None, 0).unwrap_err().to_string();
        assert!(error.contains("scene 2: its frames 2 to 4 are less than one latent frame"), "{error}");
    }

    #[test]
    fn given_frames_are_of_the_first_scene() {
        let segments = rules().segments(&scenes(2), Some(40), 9).unwrap();
        assert_eq!((segments[0].frames, segments[0].context), (40, 9));
        assert_eq!(latent(&segments[0]), [(0, 14), (14, 19)]);
    }

    #[test]
    fn texts_begin_with_the_style() {
        let mut story = scenes(2);
        story[1].prompt = "a box".to_owned();
        let segments = rules().segments(&story, Some(49), 0).unwrap();
        let [text] = &shared_texts(&segments, &story, Some(" film "))[..] else { panic!() };
        assert_eq!((text.text.as_str(), &text.scenes[..]), ("film a ball a box", &[(0, 5..11), (1, 12..17)][..]));
        assert_eq!(shared_texts(&segments, &story, None)[0].text, "a ball a box");
    }
}
