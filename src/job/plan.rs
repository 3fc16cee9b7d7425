//! From scenes and lengths to windows.

use super::scene_times::{RelayPlan, is_timed};
use crate::models::LatentTime;
use crate::storyboard::{Feed, Length, Scene, Transition};
use crate::timeline::{BlendMode, ChunkPlan, Short, Stride, TextMix};
use anyhow::{Result, anyhow, bail, ensure};
use std::ops::Range;

/// A stretch of video between two cuts or fades: denoised on its own timeline, decoded on its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Windows and texts; the texts' prompts are indices into the prompts of the job.
    pub plan: ChunkPlan,
    /// Latent frames in front that only fill up the network's patches in time; they are dropped before decoding.
    pub padding: usize,
    /// Latent frames after the padding that are known: the end of a given video, or of the segment before.
    pub context: usize,
    /// What the segment before hands over for them; none where they are of a given video.
    pub feed: Option<Feed>,
    /// Frames of video that are decoded, without those that the context stands for.
    pub frames: usize,
    /// Latent frames, after the padding, that are given of a clip; rising.
    pub given: Vec<GivenAt>,
    /// How many of them, at the start, are mixed with as many at the end of the segment before, so that both make one; 0
    /// where this one follows by a cut.
    pub fade: usize,
    /// Scenes that follow each other by relay, and share texts.
    pub relay: Option<RelayPlan>,
}

/// A frame of a clip that is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenAt {
    /// On the timeline.
    pub frame: usize,
    /// Which of the stage's given frames it is.
    pub of: usize,
}

/// Frames of the video that segments make.
pub fn video_frames(segments: &[Segment]) -> usize {
    segments.iter().map(|segment| segment.frames - segment.fade).sum()
}

/// What the model and the user say about windows. Lengths in latent frames where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowRules {
    /// The model's window, without padding.
    pub window: usize,
    /// Latent frames that the network patches together.
    pub patch_t: usize,
    /// Frames of video for one latent frame, but the first.
    pub time: LatentTime,
    pub overlap: usize,
    pub transition_windows: usize,
    pub hold: usize,
    pub transition: Transition,
    /// Whether the windows of one scene are joined, as those on the two sides of an attention transition are.
    pub joined: bool,
    /// The same of windows whose scenes share texts.
    pub relay_joined: bool,
    pub blend: BlendMode,
    pub fps: f64,
}

/// Longest video, in frames: a day at 8 frames a second is beyond any use.
pub const MOST_FRAMES: usize = 500_000;

impl WindowRules {
    /// Latent frames that hold so many frames of video.
    pub fn latent_frames(&self, frames: usize) -> usize {
        self.time.latent_frames(frames)
    }

    /// Frames of video that so many latent frames become.
    pub fn video_frames(&self, latent_frames: usize) -> usize {
        self.time.frames(latent_frames)
    }

    pub(super) fn padding(&self, latent_frames: usize) -> usize {
        (self.patch_t - latent_frames % self.patch_t) % self.patch_t
    }

    /// One window of any length: plain sampling.
    pub fn single(&self, frames: usize) -> Segment {
        let latent_frames = self.latent_frames(frames);
        let padding = self.padding(latent_frames);
        Segment {
            plan: ChunkPlan::single(latent_frames + padding),
            padding,
            context: 0,
            feed: None,
            frames,
            fade: 0,
            given: Vec::new(),
            relay: None,
        }
    }

    /// The segments of scenes in order. `frames`: the whole video's length, over what the scenes say. `context`: latent
    /// frames that are given before the first scene; no length counts them.
    ///
    /// What is said about lengths is kept: the frames that a fade mixes are added to both its sides. A segment about which
    /// nobody says anything has those of its windows, and a fade takes its own from them.
    pub fn segments(&self, scenes: &[Scene], frames: Option<usize>, context: usize) -> Result<Vec<Segment>> {
        let lengths = self.lengths(scenes, frames)?;
        let groups = self.groups(scenes);
        let mut segments: Vec<Segment> = Vec::with_capacity(groups.len());
        let mut prompts = scenes.len(); // and the texts that scenes share
        for group in groups {
            let said = frames.is_some() || scenes[group.clone()].iter().any(|scene| scene.length.is_some());
            let lengths = lengths.as_ref().filter(|_| said).map(|lengths| &lengths[group.clone()]);
            let (fade, next) = self.fades(scenes, &group);
            let wanted = match lengths.map(|lengths| lengths.iter().sum::<usize>()) {
                Some(0) => bail!("{} frames are fewer than {} scenes need", frames.unwrap_or(0), scenes.len()),
                // the middle of a fade is where one scene ends and the next begins
                wanted => wanted.map(|frames| frames + (fade - fade / 2) + next / 2),
            };
            let feed = self.kind(&scenes[group.start]).feed().filter(|_| group.start > 0);
            let context = match feed {
                Some(_) => self.fed(group.start, &scenes[group.start], segments.last())?,
                None if group.start == 0 => context,
                None => 0,
            };
            let segment = match self.relays(&scenes[group.clone()]) {
                false => self.segment(group.start, &scenes[group.clone()], wanted, lengths, context)?,
                true => {
                    let given = if context > 0 { self.video_frames(context) } else { 0 };
                    let wanted = wanted.map_or_else(|| self.usual(&scenes[group.clone()]), Ok)?;
                    let of = (group.start, &scenes[group.clone()]);
                    self.relayed(of, wanted + given, lengths, (context, given), prompts)?
                }
            };
            prompts += segment.relay.as_ref().map_or(0, |relay| relay.texts.len());
            ensure!(
                fade + next <= segment.frames,
                "scene {}: a fade of {} frames is too long for its {}: give fewer, as fade:{}, or a longer scene",
                group.start + 1,
                fade.max(next),
                segment.frames,
                (segment.frames / 2).max(1)
            );
            segments.push(Segment { fade, feed, ..segment });
        }
        Ok(segments)
    }

    /// Frames of scenes that share texts, where nobody says: those that they would have if they blended, or up to the end of the
    /// last of those that say when they are seen.
    fn usual(&self, scenes: &[Scene]) -> Result<usize> {
        let ends = scenes.iter().filter_map(|scene| Some(scene.time?.end.frames(self.fps, 0)));
        match ends.max() {
            Some(end) => Ok(end),
            None => Ok(self.segment(0, scenes, None, None, 0)?.frames),
        }
    }

    /// The scenes of each segment.
    pub(super) fn groups(&self, scenes: &[Scene]) -> Vec<Range<usize>> {
        let mut groups: Vec<Range<usize>> = Vec::new();
        for (index, scene) in scenes.iter().enumerate() {
            match groups.last_mut() {
                Some(group) if !self.kind(scene).parts() || is_timed(scenes) => group.end = index + 1,
                _ => groups.push(index..index + 1),
            }
        }
        groups
    }

    /// Frames that the fades into the scenes of a segment and out of them mix.
    pub(super) fn fades(&self, scenes: &[Scene], group: &Range<usize>) -> (usize, usize) {
        let into = if group.start == 0 { 0 } else { self.fade(&scenes[group.start]) };
        (into, scenes.get(group.end).map_or(0, |next| self.fade(next)))
    }

    /// Latent frames that a scene is given of the segment before it: as many as two windows share.
    fn fed(&self, index: usize, scene: &Scene, before: Option<&Segment>) -> Result<usize> {
        let overlap = scene.transition.overlap.unwrap_or(self.overlap);
        let decoded = |before: &Segment| before.frames + self.video_frames(before.context);
        let (most, there) = (self.window - 1, before.map_or(0, |before| self.time.filled(decoded(before))));
        ensure!(
            (1..=most).contains(&overlap),
            "--overlap {}: for scene {} to continue the one before it give 1 to {most} latent frames",
            overlap,
            index + 1
        );
        Ok(overlap.min(there).max(1))
    }

    /// How a scene follows the one before it.
    pub(super) fn kind(&self, scene: &Scene) -> Transition {
        scene.transition.kind.unwrap_or(self.transition)
    }

    /// Frames that the fade into a scene mixes.
    fn fade(&self, scene: &Scene) -> usize {
        match self.kind(scene) {
            Transition::Fade(Some(frames)) => frames,
            Transition::Fade(None) => (self.fps.round() as usize).max(1),
            _ => 0,
        }
    }

    /// Frames of each scene; none where nobody says anything. `frames`: of all of them together. The scenes that say theirs
    /// then keep them if that leaves some for those that do not, which share the rest; else all are scaled.
    fn lengths(&self, scenes: &[Scene], frames: Option<usize>) -> Result<Option<Vec<usize>>> {
        let own = |scene: &Scene| match scene.length {
            None => Ok(None),
            Some(length) => {
                let frames = match length {
                    Length::Frames(frames) => frames as f64,
                    Length::Seconds(seconds) => seconds * self.fps,
                };
                let rounded = frames.round();
                ensure!(
                    (1.0..=MOST_FRAMES as f64).contains(&rounded),
                    "a scene of {rounded} frames: scenes go from 1 to {MOST_FRAMES}"
                );
                Ok(Some(frames))
            }
        };
        let own: Vec<Option<f64>> = scenes.iter().map(own).collect::<Result<_>>()?;
        let said: f64 = own.iter().flatten().sum();
        let silent = own.iter().filter(|own| own.is_none()).count();
        let usual = self.video_frames(self.window) as f64;
        let (silent, scale) = match frames.map(|frames| frames as f64) {
            None if silent == own.len() => return Ok(None),
            None => (usual, 1.0),
            Some(frames) if silent > 0 && said + silent as f64 <= frames => ((frames - said) / silent as f64, 1.0),
            Some(frames) => (usual, frames / (said + silent as f64 * usual)),
        };
        // rounded where scenes end, so that fractions do not add up
        let (mut end, mut before) = (0.0, 0);
        let mut lengths = Vec::with_capacity(own.len());
        for own in own {
            end += own.unwrap_or(silent) * scale;
            // what should come out whole is not rounded down for an error in the last digit
            let rounded = (end + 1e-6).round() as usize;
            lengths.push(rounded - before);
            before = rounded;
        }
        ensure!(before <= MOST_FRAMES, "{before} frames are more than the {MOST_FRAMES} that a video may have");
        Ok(Some(lengths))
    }

    /// `wanted`: frames to decode, where somebody says. `lengths`: those of the scenes.
    fn segment(
        &self,
        first: usize,
        scenes: &[Scene],
        wanted: Option<usize>,
        lengths: Option<&[usize]>,
        context: usize,
    ) -> Result<Segment> {
        let n = self.window + self.padding(self.window);
        let padding = n - self.window;
        let given = if context > 0 { self.video_frames(context) } else { 0 };
        let wanted = match wanted {
            // what the scenes would make by themselves
            None if context > 0 => Some(self.segment(first, scenes, None, None, 0)?.frames),
            wanted => wanted,
        };
        let wanted = wanted.map(|frames| frames + given);
        if let (Some(frames), [_]) = (wanted, scenes)
            && self.latent_frames(frames) <= self.window
        {
            let segment = self.single(frames);
            return Ok(Segment { plan: renumbered(segment.plan, first), context, frames: frames - given, ..segment });
        }
        let strides = self.strides(scenes, n)?;
        let plan = match wanted {
            None => {
                let held = |index: usize| {
                    if index == 0 || index + 1 == scenes.len() { 1 } else { self.hold.saturating_add(1) }
                };
                ChunkPlan::layout(&(0..scenes.len()).map(held).collect::<Vec<_>>(), &strides, n)?
            }
            Some(frames) => {
                let said = lengths.filter(|_| scenes.iter().any(|scene| scene.length.is_some()));
                let equal = || vec![(frames - given).div_ceil(scenes.len()); scenes.len()];
                let mut parts = said.map_or_else(equal, <[usize]>::to_vec);
                parts[0] += given;
                let keep = self.latent_frames(frames) + padding;
                self.covered(keep, &parts, &strides, (scenes.len(), frames - given), (n, given))?
            }
        };
        let frames = wanted.unwrap_or_else(|| self.video_frames(plan.keep - padding));
        Ok(Segment {
            plan: renumbered(plan, first),
            padding,
            context,
            feed: None,
            frames: frames - given,
            fade: 0,
            given: Vec::new(),
            relay: None,
        })
    }

    /// Windows that cover `keep` latent frames ([`ChunkPlan::covering`]). For messages: the prompts, the frames asked for, and those
    /// given before them.
    pub(super) fn covered(
        &self,
        keep: usize,
        parts: &[usize],
        strides: &[Stride],
        (prompts, asked): (usize, usize),
        (n, given): (usize, usize),
    ) -> Result<ChunkPlan> {
        ChunkPlan::covering(keep, parts, strides, n).map_err(|short| match short {
            Short::Least(least) => anyhow!(
                "{prompts} prompts with their transitions need at least {} frames; {asked} were asked for: ask for more, or for \
                 fewer --transition-windows, or for cuts",
                self.video_frames(least + self.window - n) - given
            ),
            Short::Other(error) => error,
        })
    }

    /// For each scene: how its windows follow each other, and, for its boundary to the next, the same and the transition
    /// windows.
    pub(super) fn strides(&self, scenes: &[Scene], n: usize) -> Result<Vec<Stride>> {
        let stride = |overlap: usize| {
            if overlap < self.window {
                Ok(n - overlap)
            } else {
                bail!("an overlap of {overlap} latent frames does not leave a window of {} room to move", self.window)
            }
        };
        let inside = stride(self.overlap)?;
        let mut strides = Vec::with_capacity(scenes.len());
        for index in 0..scenes.len() {
            let next = scenes.get(index + 1);
            let into = next.map(|scene| scene.transition).unwrap_or_default();
            strides.push(Stride {
                inside,
                joined: (self.joined, next.is_some_and(|next| self.kind(next) == Transition::Attention)),
                boundary: into.overlap.map_or(Ok(inside), stride)?,
                transition_windows: into.windows.unwrap_or(self.transition_windows),
            });
        }
        Ok(strides)
    }
}

/// Prompts of a segment's plan as prompts of the job.
fn renumbered(mut plan: ChunkPlan, first: usize) -> ChunkPlan {
    for text in &mut plan.texts {
        match text {
            TextMix::Prompt(prompt) => *prompt += first,
            TextMix::Between { from, to, .. } => {
                *from += first;
                *to += first;
            }
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storyboard::{Storyboard, TransitionInto};

    fn rules(overlap: usize, transition_windows: usize, hold: usize) -> WindowRules {
        let transition = Transition::Attention;
        WindowRules {
            window: 13,
            patch_t: 1,
            time: LatentTime::new(4),
            overlap,
            transition_windows,
            hold,
            transition,
            joined: true,
            relay_joined: false,
            blend: BlendMode::Paper,
            fps: 8.0,
        }
    }

    fn scenes(prompts: usize) -> Vec<Scene> {
        Storyboard::from_prompts(&vec!["a ball".to_owned(); prompts]).unwrap().scenes
    }

    #[test]
    fn scenes_that_say_nothing_have_the_layout_of_the_specification() {
        // spec/ditctrl.md 2: (overlap, transition windows, hold), prompts, frames; the layout itself is `timeline`'s
        for (overlap, transitions, hold, prompts, frames) in [
            (6, 1, 0, 2, 105),
            (6, 1, 0, 4, 217),
            (9, 2, 0, 2, 97),
            (9, 2, 0, 3, 145),
            (9, 2, 0, 5, 241),
            (9, 2, 1, 3, 161),
        ] {
            let segments = rules(overlap, transitions, hold).segments(&scenes(prompts), None, 0).unwrap();
            let [segment] = segments.as_slice() else { panic!("{} segments", segments.len()) };
            let held = |prompt: usize| if prompt == 0 || prompt + 1 == prompts { 1 } else { 1 + hold };
            let layout = ChunkPlan::even(&(0..prompts).map(held).collect::<Vec<_>>(), 13, overlap, transitions);
            assert_eq!((&segment.plan, segment.frames, segment.padding), (&layout, frames, 0));
        }
    }

    #[test]
    fn a_wanted_length_is_kept_and_covered() {
        for frames in 1..400 {
            let segments = rules(9, 2, 0).segments(&scenes(1), Some(frames), 0).unwrap();
            let plan = &segments[0].plan;
            let needed = (frames - 1).div_ceil(4) + 1;
            assert_eq!((segments[0].frames, plan.keep), (frames, needed));
            // no window more than the length takes
            assert!(plan.frames >= needed && plan.frames - needed < 4, "{frames}: {}", plan.frames);
        }
        assert!(rules(9, 2, 0).segments(&scenes(2), Some(85), 0).is_ok()); // 22 latent frames: 4 windows
        let error = rules(9, 2, 0).segments(&scenes(2), Some(81), 0).unwrap_err().to_string();
        assert!(error.contains("need at least 85 frames"), "{error}");
    }

    /// Scenes with lengths in frames, and how each follows.
    fn story(scenes: &[(Option<usize>, &str)]) -> Vec<Scene> {
        let scene = |(index, &(frames, kind)): (usize, &(Option<usize>, &str))| Scene {
            prompt: format!("scene {index}"),
            length: frames.map(Length::Frames),
            transition: TransitionInto {
                kind: (!kind.is_empty()).then(|| kind.parse().unwrap()),
                ..TransitionInto::default()
            },
            ..Scene::default()
        };
        scenes.iter().enumerate().map(scene).collect()
    }

    /// Frames and fades of the segments.
    fn parts(scenes: &[Scene], frames: Option<usize>) -> Result<Vec<(usize, usize)>> {
        let segments = rules(9, 2, 0).segments(scenes, frames, 0)?;
        if let Some(frames) = frames {
            assert_eq!(video_frames(&segments), frames);
        }
        Ok(segments.iter().map(|segment| (segment.frames, segment.fade)).collect())
    }

    #[test]
    fn a_fade_takes_its_frames_from_windows_and_adds_them_to_lengths() {
        let of = |scenes: &[(Option<usize>, &str)], frames| parts(&story(scenes), frames).unwrap();
        // nobody says how long: windows of 49 frames, 90 in all
        assert_eq!(of(&[(None, ""), (None, "fade")], None), [(49, 0), (49, 8)]);
        assert_eq!(of(&[(None, ""), (None, "fade:5"), (None, "cut")], None), [(49, 0), (49, 5), (49, 0)]);
        // two scenes of 48 make 96
        assert_eq!(of(&[(Some(48), ""), (Some(48), "fade:8")], None), [(52, 0), (52, 8)]);
        assert_eq!(
            of(&[(Some(40), ""), (Some(20), "fade:5"), (Some(30), "fade:1")], None),
            [(42, 0), (23, 5), (31, 1)]
        );
        for frames in 30..200 {
            let segments = of(&[(None, ""), (None, "fade:5"), (None, "fade:2"), (None, "cut")], Some(frames));
            assert_eq!(segments.iter().map(|segment| segment.1).collect::<Vec<_>>(), [0, 5, 2, 0]);
        }
        // the first scene is nothing to fade from
        let rules = WindowRules { transition: Transition::Fade(Some(6)), ..rules(9, 2, 0) };
        let segments = rules.segments(&story(&[(Some(9), ""), (Some(9), "")]), None, 0).unwrap();
        assert_eq!(segments.iter().map(|s| (s.frames, s.fade)).collect::<Vec<_>>(), [(12, 0), (12, 6)]);
    }

    #[test]
    fn a_fade_that_is_longer_than_its_scene_is_refused() {
        let refused = |scenes: &[(Option<usize>, &str)], frames| parts(&story(scenes), frames).unwrap_err().to_string();
        let error = refused(&[(None, ""), (None, "fade:50")], None);
        assert!(
            error.contains("scene 1: a fade of 50 frames is too long for its 49: give fewer, as fade:24"),
            "{error}"
        );
        let error = refused(&[(Some(40), ""), (Some(3), "fade:8"), (Some(40), "fade:8")], None);
        assert!(error.contains("scene 2: a fade of 8 frames is too long for its 11"), "{error}");
        assert!(parts(&story(&[(Some(40), ""), (Some(8), "fade:8"), (Some(40), "fade:8")]), None).is_ok());
        let error = refused(&[(None, ""), (None, "cut")], Some(1));
        assert!(error.contains("1 frames are fewer than 2 scenes need"), "{error}");
    }

    #[test]
    fn lengths_add_up() {
        let lengths = |scenes: &[Scene], frames| rules(9, 2, 0).lengths(scenes, frames).unwrap();
        let said = |scenes: &[(Option<usize>, &str)]| story(scenes);
        assert_eq!(lengths(&said(&[(None, ""), (None, "")]), None), None);
        assert_eq!(lengths(&said(&[(None, ""), (Some(9), "")]), None), Some(vec![49, 9]));
        // the rest is for those that say nothing
        assert_eq!(lengths(&said(&[(Some(24), ""), (Some(24), ""), (None, "")]), Some(100)), Some(vec![24, 24, 52]));
        assert_eq!(lengths(&said(&[(Some(24), ""), (None, ""), (None, "")]), Some(31)), Some(vec![24, 4, 3]));
        // else all keep their proportions
        assert_eq!(lengths(&said(&[(Some(10), ""), (Some(30), "")]), Some(20)), Some(vec![5, 15]));
        assert_eq!(lengths(&said(&[(None, ""), (None, ""), (None, "")]), Some(100)), Some(vec![33, 34, 33]));
        // a tenth of a second is 0.8 frames
        let mut tenths = said(&[(None, ""); 10]);
        tenths.iter_mut().for_each(|scene| scene.length = Some(Length::Seconds(0.1)));
        assert_eq!(lengths(&tenths, None).unwrap().iter().sum::<usize>(), 8);
        for length in [Length::Seconds(0.01), Length::Seconds(1e300), Length::Frames(MOST_FRAMES + 1)] {
            let scene = Scene { length: Some(length), ..Scene::default() };
            let error = rules(9, 2, 0).lengths(&[scene], None).unwrap_err().to_string();
            assert!(error.contains("scenes go from 1 to 500000"), "{error}");
        }
        let long = said(&[(Some(300_000), ""), (Some(300_000), "")]);
        assert!(rules(9, 2, 0).lengths(&long, None).unwrap_err().to_string().contains("600000 frames are more"));
    }
}
