//! A video that is made chunk by chunk, each going on from the last frames of the one before (StreamingT2V, arXiv 2403.14773;
//! spec/streamingt2v.md 5): its first chunk, what later ones are held to, and which frames of each are new.
//!
//! A chunk is a segment. The first frames of its timeline are those before it again, made anew and dropped; they stand where other
//! methods have padding. Unlike the reference the video has exactly the frames that are asked for: the last chunk is cut.

use super::footage::Footage;
use super::frame_texts;
use super::plan::{MOST_FRAMES, Segment, WindowRules};
use super::sampler::Sampler;
use super::settings::{Group, Settings};
use super::source_video::{SourceFile, SourceVideo};
use super::values::AnchorAsked;
use crate::guidance::GuidanceSchedule;
use crate::models::architecture::Role;
use crate::models::continuation::ChunkFrames;
use crate::recipe::StreamingRecipe;
use crate::run::{Code, WithCode};
use crate::schedulers::SchedulerKind;
use crate::storyboard::{Scene, Transition, TransitionInto};
use crate::timeline::{ChunkPlan, TextMix};
use crate::weights::ModelFolder;
use anyhow::{Context, Result, bail, ensure};

/// The method on one job.
#[derive(Debug, Clone, PartialEq)]
pub struct Streaming {
    pub frames: ChunkFrames,
    pub anchor: Anchor,
    /// None where a video is continued: all chunks go on from frames.
    pub first: Option<FirstChunk>,
}

/// What chunks are held to.
#[derive(Debug, Clone, PartialEq)]
pub enum Anchor {
    /// A frame of the first chunk, or of the video that is continued.
    Frame(usize),
    Image(Footage),
    None,
}

/// How the first chunk is made, by a network of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct FirstChunk {
    pub sampler: Sampler,
    pub guidance: GuidanceSchedule,
}

/// What it is resolved from.
pub struct Chunked<'a> {
    pub settings: &'a Settings,
    pub scenes: &'a [Scene],
    /// Those that were asked for.
    pub frames: Option<usize>,
    pub recipe: Option<&'a StreamingRecipe>,
    pub folder: &'a ModelFolder,
    /// The video that is continued.
    pub source: Option<&'a SourceFile>,
}

impl Streaming {
    /// The method, on a model whose chunks have these frames. `sampler`: of a kind and so many steps.
    ///
    /// # Errors
    /// Settings that it cannot use; an anchor beyond the video; a given video of too few frames.
    pub fn new(
        asked: &Chunked,
        frames: ChunkFrames,
        sampler: impl FnOnce(SchedulerKind, usize) -> Result<Sampler>,
    ) -> Result<Self> {
        let Chunked { settings, scenes, recipe, folder, source, .. } = *asked;
        ensure!(
            folder.loras().is_empty(),
            "--lora: {} has two networks of which a LoRA file changes one: use it with a text-to-video model",
            folder.place()
        );
        let recipe = recipe.context("--recipe: it says nothing of chunks: leave it out, or add [method.streaming]")?;
        check_windows(settings, scenes)?;
        if let Some(source) = source {
            let (shown, there) = (source.path.display(), source.frames);
            ensure!(
                there >= frames.before,
                "{shown}: has {there} frame{}, and this model goes on from the last {}: give a longer video",
                if there == 1 { "" } else { "s" },
                frames.before
            );
            for (flag, given) in [
                ("--first-steps", settings.first_steps.is_some()),
                ("--first-guidance-scale", settings.first_guidance_scale.is_some()),
                ("--first-scheduler", settings.first_scheduler.is_some()),
            ] {
                ensure!(!given, "{flag} has no effect on going on from {shown}: leave it out");
            }
        }
        let first = match source {
            Some(_) => None,
            None => Some(FirstChunk::new(asked, recipe, sampler)?),
        };
        let anchor = match settings.anchor.clone().unwrap_or(AnchorAsked::Frame(frames.anchor)) {
            AnchorAsked::None => Anchor::None,
            AnchorAsked::Image(file) => {
                let picture = SourceFile::frames(&file).with_context(|| format!("--anchor image:{}", file.display()));
                Anchor::Image(Footage::picture(&picture?))
            }
            AnchorAsked::Frame(frame) => {
                check_frame(frame, source, frames, asked.frames)?;
                Anchor::Frame(frame)
            }
        };
        Ok(Self { frames, anchor, first })
    }

    /// The window rules of its chunks: what neighbours share are the frames before.
    pub fn rules(frames: ChunkFrames, rules: WindowRules) -> WindowRules {
        WindowRules {
            window: frames.chunk,
            overlap: frames.before,
            transition: Transition::Blend,
            joined: false,
            ..rules
        }
    }

    /// The chunks of scenes. `frames`: new ones of the whole video, over what the scenes say; a scene of which nobody says anything has
    /// a chunk's. A chunk has the prompt of its first new frame.
    ///
    /// # Errors
    /// Fewer frames than scenes, and too many.
    pub fn segments(
        &self,
        scenes: &[Scene],
        frames: Option<usize>,
        rules: &WindowRules,
        source: Option<&SourceVideo>,
    ) -> Result<Vec<Segment>> {
        // scenes follow each other at once: the overlap is that of chunks
        let rules = WindowRules { overlap: 0, ..*rules };
        let lengths = (frames, self.frames.chunk);
        let whole = frame_texts::segments(scenes, lengths, &rules, "a scene of chunks", ChunkPlan::single_of)?;
        let whole = whole.into_iter().next().context("no scenes")?;
        ensure!(
            whole.frames <= MOST_FRAMES,
            "{} frames are more than the {MOST_FRAMES} that a video may have",
            whole.frames
        );
        let text = |frame: usize| whole.plan.frame_texts.as_ref().map_or(0, |texts| texts[frame]);
        let ChunkFrames { chunk, before, .. } = self.frames;
        let (mut segments, mut start) = (Vec::new(), 0);
        while start < whole.frames {
            let padding = if start == 0 && source.is_none() { 0 } else { before };
            let frames = (chunk - padding).min(whole.frames - start);
            let texts = vec![whole.plan.texts[text(start)]];
            let plan = ChunkPlan { keep: padding + frames, texts, ..ChunkPlan::single(chunk) };
            segments.push(Segment {
                plan,
                padding,
                context: 0,
                feed: None,
                frames,
                fade: 0,
                given: Vec::new(),
                relay: None,
            });
            start += frames;
        }
        Ok(segments)
    }

    /// The steps of a chunk, of which the others take so many.
    pub fn steps(&self, index: usize, steps: usize) -> usize {
        self.first.as_ref().filter(|_| index == 0).map_or(steps, |first| first.sampler.steps)
    }
}

/// All chunks as one segment whose frames have their texts.
pub fn whole(segments: &[Segment]) -> Segment {
    let texts = segments.iter().flat_map(|segment| vec![segment.plan.texts[0]; segment.frames]);
    let texts: Vec<TextMix> = texts.collect();
    let frames = texts.len();
    Segment {
        plan: ChunkPlan::single_of(&texts),
        padding: 0,
        context: 0,
        feed: None,
        frames,
        fade: 0,
        given: Vec::new(),
        relay: None,
    }
}

impl FirstChunk {
    /// # Errors
    /// A folder without the network, and settings that cannot be.
    fn new(
        asked: &Chunked,
        recipe: &StreamingRecipe,
        sampler: impl FnOnce(SchedulerKind, usize) -> Result<Sampler>,
    ) -> Result<Self> {
        let Chunked { settings, folder, .. } = *asked;
        folder.part(folder.family().part(Role::FirstDenoiser)).code(Code::Model)?;
        let steps = settings.first_steps.or(settings.steps).unwrap_or(recipe.first_steps);
        let kind = settings.first_scheduler.unwrap_or(recipe.first_scheduler);
        let sampler = sampler(kind, steps).with_context(|| format!("--first-steps {steps}"))?;
        let guidance = settings.first_guidance_scale.or(settings.guidance_scale);
        Ok(Self { sampler, guidance: guidance.unwrap_or(recipe.first_guidance_scale) })
    }
}

/// Refuses settings of the method where the model has it not.
pub fn check_absent(settings: &Settings) -> Result<()> {
    match settings.clone().only(&[Group::Streaming]).said().first() {
        None => Ok(()),
        Some(name) => bail!(
            "--{} is for models whose chunks go on from each other (StreamingT2V), and this one is none: leave it out",
            name.replace('_', "-")
        ),
    }
}

/// Refuses what is about windows that are blended.
fn check_windows(settings: &Settings, scenes: &[Scene]) -> Result<()> {
    if let Some(name) = settings.clone().only(&[Group::Windows]).said().first() {
        bail!(
            "--{} is about windows that are blended, and the chunks of this model go on from each other: leave it out",
            name.replace('_', "-")
        )
    }
    if let Some(scene) = scenes.iter().position(|scene| scene.transition != TransitionInto::default()) {
        bail!(
            "scene {}: its transition is about windows that are blended, and the chunks of this model go on from each other: leave it out",
            scene + 1
        )
    }
    Ok(())
}

/// Refuses an anchor that is not there when the first chunk that is held to it begins. `asked`: frames of the video.
fn check_frame(frame: usize, source: Option<&SourceFile>, frames: ChunkFrames, asked: Option<usize>) -> Result<()> {
    if let Some(source) = source {
        let (shown, there) = (source.path.display(), source.frames);
        ensure!(frame < there, "--anchor frame:{frame}: {shown} has frames 0 to {}", there - 1);
        return Ok(());
    }
    if let Some(asked) = asked.filter(|&asked| frame >= asked) {
        bail!("--anchor frame:{frame}: the video has frames 0 to {}", asked.saturating_sub(1))
    }
    ensure!(
        frame < frames.chunk,
        "--anchor frame:{frame}: only the first chunk, frames 0 to {}, is there before the others: give one of them",
        frames.chunk - 1
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::LatentTime;
    use crate::storyboard::{Length, Storyboard};
    use crate::timeline::BlendMode;

    const FRAMES: ChunkFrames = ChunkFrames { chunk: 16, before: 8, anchor: 0 };

    fn rules() -> WindowRules {
        let rules = WindowRules {
            window: 16,
            patch_t: 1,
            time: LatentTime::PER_FRAME,
            overlap: 11,
            transition_windows: 1,
            hold: 0,
            transition: Transition::Attention,
            joined: true,
            relay_joined: false,
            blend: BlendMode::Paper,
            fps: 8.0,
        };
        Streaming::rules(FRAMES, rules)
    }

    fn chunks(prompts: usize, frames: Option<usize>, given: bool) -> Vec<Segment> {
        let scenes = Storyboard::from_prompts(&vec!["a".to_owned(); prompts]).unwrap().scenes;
        let streaming = Streaming { frames: FRAMES, anchor: Anchor::None, first: None };
        let video = SourceFile::frames_of_test(20).source_video(&rules(), false).unwrap();
        streaming.segments(&scenes, frames, &rules(), given.then_some(&video)).unwrap()
    }

    /// As the contract counts them: the first chunk and those of c - s new frames, or the latter alone.
    #[test]
    fn chunks_make_exactly_the_frames_asked_for() {
        for frames in 1..120 {
            for given in [false, true] {
                let chunks = chunks(1, Some(frames), given);
                let count = if given { frames.div_ceil(8) } else { 1 + frames.saturating_sub(16).div_ceil(8) };
                assert_eq!((chunks.len(), chunks.iter().map(|chunk| chunk.frames).sum()), (count, frames));
                for (index, chunk) in chunks.iter().enumerate() {
                    let before = if index == 0 && !given { 0 } else { 8 };
                    assert_eq!(
                        (chunk.padding, chunk.plan.frames, chunk.plan.keep),
                        (before, 16, before + chunk.frames)
                    );
                }
            }
        }
    }

    #[test]
    fn a_chunk_has_the_prompt_of_its_first_new_frame() {
        let texts = |chunks: &[Segment]| {
            let text = |chunk: &Segment| match chunk.plan.texts[..] {
                [TextMix::Prompt(prompt)] => prompt,
                _ => panic!("{:?}", chunk.plan.texts),
            };
            chunks.iter().map(text).collect::<Vec<_>>()
        };
        // scenes of 20 frames begin in the middle of chunks
        let found = chunks(3, Some(60), false);
        assert_eq!(texts(&found), [0, 0, 1, 1, 2, 2, 2]);
        assert_eq!(texts(&chunks(2, None, true)), [0, 0, 1, 1]);
        let whole = whole(&found);
        assert_eq!(
            (whole.frames, whole.plan.keep, whole.plan.frame_texts.unwrap()[23..26].to_vec()),
            (60, 60, vec![0, 1, 1])
        );
        let mut scenes = Storyboard::from_prompts(&["a".to_owned(), "b".to_owned()]).unwrap().scenes;
        scenes[0].length = Some(Length::Seconds(1.0));
        let streaming = Streaming { frames: FRAMES, anchor: Anchor::None, first: None };
        assert_eq!(texts(&streaming.segments(&scenes, None, &rules(), None).unwrap()), [0, 1]);
    }
}
