//! From scenes and lengths to windows.

use crate::storyboard::{Length, Scene, Transition};
use crate::timeline::{ChunkPlan, TextMix, Window};
use anyhow::{Result, bail, ensure};

/// A stretch of video between two hard cuts: denoised on its own timeline, decoded on its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Windows and texts; the texts' prompts are indices into the prompts of the job.
    pub plan: ChunkPlan,
    /// Latent frames in front that only fill up the network's patches in time; they are dropped before decoding.
    pub padding: usize,
    /// Latent frames after the padding that are given: the end of a video that this one continues.
    pub context: usize,
    /// Frames of video, without those that the context stands for.
    pub frames: usize,
}

/// What the model and the user say about windows. Lengths in latent frames where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowRules {
    /// The model's window, without padding.
    pub window: usize,
    /// Latent frames that the network patches together.
    pub patch_t: usize,
    /// Frames of video for one latent frame, but the first.
    pub ratio: usize,
    pub overlap: usize,
    pub transition_windows: usize,
    pub hold: usize,
    pub transition: Transition,
    /// Whether the windows of one scene are joined, as those on the two sides of an attention transition are.
    pub joined: bool,
    pub fps: f64,
}

/// Longest video, in frames: a day at 8 frames a second is beyond any use.
pub const MOST_FRAMES: usize = 500_000;

impl WindowRules {
    /// Latent frames that hold so many frames of video.
    pub fn latent_frames(&self, frames: usize) -> usize {
        (frames - 1).div_ceil(self.ratio) + 1
    }

    /// Frames of video that so many latent frames become.
    pub fn video_frames(&self, latent_frames: usize) -> usize {
        (latent_frames - 1) * self.ratio + 1
    }

    fn padding(&self, latent_frames: usize) -> usize {
        (self.patch_t - latent_frames % self.patch_t) % self.patch_t
    }

    /// One window of any length: plain sampling.
    pub fn single(&self, frames: usize) -> Segment {
        let latent_frames = self.latent_frames(frames);
        let padding = self.padding(latent_frames);
        Segment { plan: ChunkPlan::single(latent_frames + padding), padding, context: 0, frames }
    }

    /// The segments of scenes in order. `frames`: the whole video's length, over what the scenes say. `context`: latent
    /// frames that are given before the first scene; no length counts them.
    pub fn segments(&self, scenes: &[Scene], frames: Option<usize>, context: usize) -> Result<Vec<Segment>> {
        let mut groups: Vec<(usize, &[Scene])> = Vec::new(); // first prompt, scenes
        let mut start = 0;
        for index in 1..=scenes.len() {
            if index == scenes.len() || self.kind(&scenes[index]) == Transition::Cut {
                groups.push((start, &scenes[start..index]));
                start = index;
            }
        }
        let shares = match frames {
            Some(frames) => {
                ensure!(frames >= groups.len(), "{frames} frames are fewer than the {} cuts need", groups.len());
                let before = |count: usize| frames * count / scenes.len();
                groups.iter().map(|(first, group)| Some(before(first + group.len()) - before(*first))).collect()
            }
            None => vec![None; groups.len()],
        };
        let given = |first: usize| if first == 0 { context } else { 0 };
        groups
            .iter()
            .zip(shares)
            .map(|(&(first, group), share)| self.segment(first, group, share, given(first)))
            .collect()
    }

    /// How a scene follows the one before it.
    fn kind(&self, scene: &Scene) -> Transition {
        scene.transition.kind.unwrap_or(self.transition)
    }

    fn segment(&self, first: usize, scenes: &[Scene], frames: Option<usize>, context: usize) -> Result<Segment> {
        let n = self.window + self.padding(self.window);
        let padding = n - self.window;
        let lengths = frames.is_none() && scenes.iter().any(|scene| scene.length.is_some());
        let wanted = match frames {
            _ if lengths => Some(scenes.iter().map(|scene| self.scene_frames(scene)).sum::<Result<usize>>()?),
            // what the scenes would make by themselves
            None if context > 0 => Some(self.segment(first, scenes, None, 0)?.frames),
            frames => frames,
        };
        let given = if context > 0 { self.video_frames(context) } else { 0 };
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
                windows(&(0..scenes.len()).map(held).collect::<Vec<_>>(), &strides, n)?
            }
            Some(frames) => {
                let mut parts = match lengths {
                    true => scenes.iter().map(|scene| self.scene_frames(scene)).collect::<Result<Vec<_>>>()?,
                    false => vec![(frames - given).div_ceil(scenes.len()); scenes.len()],
                };
                parts[0] += given;
                let keep = self.latent_frames(frames) + padding;
                covering(keep, &parts, &strides, n).map_err(|least| match least {
                    Short::Windows(least) => anyhow::anyhow!(
                        "{} prompts with their transitions need at least {} frames; {} were asked for: ask for more, or \
                         for fewer --transition-windows, or for cuts",
                        scenes.len(),
                        self.video_frames(least - padding) - given,
                        frames - given
                    ),
                    Short::Other(error) => error,
                })?
            }
        };
        let frames = wanted.unwrap_or_else(|| self.video_frames(plan.keep - padding));
        Ok(Segment { plan: renumbered(plan, first), padding, context, frames: frames - given })
    }

    fn scene_frames(&self, scene: &Scene) -> Result<usize> {
        let frames = match scene.length {
            None => self.video_frames(self.window),
            Some(Length::Frames(frames)) => frames,
            Some(Length::Seconds(seconds)) => (seconds * self.fps).round() as usize,
        };
        ensure!((1..=MOST_FRAMES).contains(&frames), "a scene of {frames} frames: scenes go from 1 to {MOST_FRAMES}");
        Ok(frames)
    }

    /// For each scene: how its windows follow each other, and, for its boundary to the next, the same and the transition
    /// windows.
    fn strides(&self, scenes: &[Scene], n: usize) -> Result<Vec<Stride>> {
        let stride = |overlap: usize| match overlap < self.window {
            true => Ok(n - overlap),
            false => {
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

#[derive(Debug, Clone, Copy)]
struct Stride {
    inside: usize,
    boundary: usize,
    /// Whether windows are joined inside the scene, and across its boundary.
    joined: (bool, bool),
    transition_windows: usize,
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

const MOST_WINDOWS: usize = 100_000;

/// `counts[p]` windows for prompt p, with each boundary's transition windows between.
fn windows(counts: &[usize], strides: &[Stride], n: usize) -> Result<ChunkPlan> {
    let transitions = strides[..counts.len() - 1].iter().map(|stride| stride.transition_windows);
    let total = counts.iter().copied().chain(transitions).fold(0usize, usize::saturating_add);
    ensure!(total <= MOST_WINDOWS, "{total} windows are more than the {MOST_WINDOWS} that a video may have");
    let (mut windows, mut texts): (Vec<Window>, Vec<TextMix>) = (Vec::with_capacity(total), Vec::new());
    let mut push = |text: usize, (stride, joined): (usize, bool)| {
        let start = windows.last().map_or(0, |last: &Window| last.start + stride);
        windows.push(Window { start, len: n, text, joined });
    };
    let mut into = (0, false);
    for (prompt, (&count, here)) in counts.iter().zip(strides).enumerate() {
        texts.push(TextMix::Prompt(prompt));
        for index in 0..count {
            push(texts.len() - 1, if index == 0 { into } else { (here.inside, here.joined.0) });
        }
        into = (here.boundary, here.joined.1);
        if prompt + 1 < counts.len() {
            for j in 1..=here.transition_windows {
                let weight = j as f64 / (here.transition_windows + 1) as f64;
                texts.push(TextMix::Between { from: prompt, to: prompt + 1, weight });
                push(texts.len() - 1, into);
            }
        }
    }
    let frames = windows.last().map_or(0, Window::end);
    let overlap = n - strides[0].inside;
    Ok(ChunkPlan { frames, keep: frames, windows, texts, overlap })
}

enum Short {
    /// Latent frames that the least number of windows makes.
    Windows(usize),
    Other(anyhow::Error),
}

/// As few windows as cover `keep` latent frames, shared out by `parts`; the surplus at the end is not kept.
fn covering(keep: usize, parts: &[usize], strides: &[Stride], n: usize) -> Result<ChunkPlan, Short> {
    let mut counts = vec![1; parts.len()];
    let least = windows(&counts, strides, n).map_err(Short::Other)?.frames;
    // the last window may be cut off but for one frame
    if parts.len() > 1 && keep + strides[0].inside <= least {
        return Err(Short::Windows(least - strides[0].inside + 1));
    }
    let missing = keep.saturating_sub(least).div_ceil(strides[0].inside);
    let total: usize = parts.iter().sum();
    for _ in 0..missing.min(MOST_WINDOWS) {
        // to the scene that is furthest behind its share
        let behind = |index: &usize| parts[*index] as f64 / total as f64 / counts[*index] as f64;
        let next = (0..parts.len()).max_by(|a, b| behind(a).total_cmp(&behind(b)).then(b.cmp(a))).unwrap_or(0);
        counts[next] += 1;
    }
    let plan = windows(&counts, strides, n).map_err(Short::Other)?;
    match keep <= plan.frames {
        true => Ok(ChunkPlan { keep, ..plan }),
        false => Err(Short::Other(anyhow::anyhow!("{keep} latent frames are more than {MOST_WINDOWS} windows hold"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storyboard::Storyboard;

    fn rules(overlap: usize, transition_windows: usize, hold: usize) -> WindowRules {
        let transition = Transition::Attention;
        WindowRules {
            window: 13,
            patch_t: 1,
            ratio: 4,
            overlap,
            transition_windows,
            hold,
            transition,
            joined: true,
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
            let layout = ChunkPlan::segments(prompts, 13, overlap, transitions, hold).unwrap();
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
}
