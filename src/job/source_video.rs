//! The video that a run continues: what it is, how much of it the run looks at, and which of its settings the run takes over.
//!
//! A video's end is encoded into latent frames ([`Kind::Video`]); latents that a run has saved are taken as they are
//! ([`Kind::Latents`]). As many latent frames as two windows share are looked at, so the first window sees of what is given
//! what every other window sees of the one before it.

use super::plan::WindowRules;
use super::request::Request;
use super::settings::{Group, Settings};
use super::values::{Method, Seed, Size};
use crate::models::LatentTime;
use crate::models::architecture::LatentGeometry;
use crate::processors::Spec;
use crate::run::{Code, Failure, WithCode};
use crate::storyboard::{Scene, TransitionInto};
use crate::video::{self, Fit, Limits, Rate};
use crate::weights::{EMBEDDED, read_tensors};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What is in a given file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Frames of so many pixels.
    Video { width: usize, height: usize },
    /// `--save-latents` of another run: channels, height and width.
    Latents { shape: (usize, usize, usize) },
}

/// A video that is continued or changed, before anything is known of the model.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceFile {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    /// Frames, or latent frames.
    pub(super) frames: usize,
    pub(super) fps: Option<Rate>,
    /// What of it is lost or changed in taking its frames alone.
    pub(super) lost: Vec<String>,
}

/// A video that is continued.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceVideo {
    pub path: PathBuf,
    pub kind: Kind,
    /// Frames of video: those there are, or those the latents stand for.
    pub frames: usize,
    /// Latent frames at its end that the run looks at, at least 1.
    pub context: usize,
    /// Whether the given frames are left out of the output.
    pub only_new: bool,
    /// How its frames become those of the job, where that has another shape.
    pub fit: Fit,
}

impl SourceVideo {
    /// Frames of video that are encoded, from the end of the given ones.
    pub fn tail(&self, time: LatentTime) -> usize {
        time.frames(self.context)
    }

    /// Frames that decoding gives before the first new one, and how many of them are left out of the output.
    pub fn decoded(&self, time: LatentTime) -> (usize, usize) {
        match self.kind {
            Kind::Video { .. } => (self.tail(time), self.tail(time)),
            Kind::Latents { .. } if self.only_new => (self.frames, self.frames),
            Kind::Latents { .. } => (self.frames, 0),
        }
    }

    /// Frames of the output that come before the first new one.
    pub fn kept(&self) -> usize {
        if self.only_new { 0 } else { self.frames }
    }
}

impl SourceFile {
    /// What the settings name, read to its end; none where they name nothing.
    ///
    /// # Errors
    /// A file that cannot be read, or has no frames ([`Code::Usage`]).
    pub fn read(settings: &Settings) -> Result<Option<Self>, Failure> {
        let Some(path) = &settings.video else { return Ok(None) };
        let source = if is_latents(path) { Self::latents(path) } else { Self::frames(path) };
        Ok(Some(source.code(Code::Usage)?))
    }

    fn latents(path: &Path) -> Result<Self> {
        let shown = path.display();
        let tensors = read_tensors(path)?;
        let latents = tensors.get("latents").with_context(|| format!("{shown}: holds no tensor named latents"))?;
        let (&[1, frames, c, h, w], true) = (latents.dims(), latents.elem_count() > 0) else {
            bail!("{shown}: latents has shape {:?}, and [1, F, C, H, W] is what --save-latents writes", latents.dims())
        };
        Ok(Self {
            path: path.to_owned(),
            kind: Kind::Latents { shape: (c, h, w) },
            frames,
            fps: None,
            lost: Vec::new(),
        })
    }

    /// A video or pictures, read to their end.
    pub fn frames(path: &Path) -> Result<Self> {
        let mut reader = video::read(path, &Limits::default())?;
        let (width, height, fps) = (reader.width(), reader.height(), reader.fps());
        let lost = reader.lost().to_vec();
        // what a file says of its length need not be true, and the last frames are what counts
        let frames = reader.try_fold(0, |count, frame| frame.map(|_| count + 1))?;
        ensure!(frames > 0, "{}: holds no frames", path.display());
        Ok(Self { path: path.to_owned(), kind: Kind::Video { width, height }, frames, fps, lost })
    }

    /// A video of so many frames that is not there.
    #[cfg(test)]
    pub(super) fn frames_of_test(frames: usize) -> Self {
        let kind = Kind::Video { width: 16, height: 16 };
        Self { path: "a".into(), kind, frames, fps: None, lost: Vec::new() }
    }

    /// One picture.
    ///
    /// # Errors
    /// Files that cannot be read, and such of several frames.
    pub fn picture(path: &Path) -> Result<Self> {
        let read = Self::frames(path)?;
        ensure!(read.frames == 1, "{}: one picture is wanted, and it has {} frames", path.display(), read.frames);
        Ok(read)
    }

    /// The settings with the size and the rate of the video where they say none.
    pub fn settled(
        &self,
        settings: &Settings,
        latent: &LatentGeometry,
        warnings: &mut Vec<String>,
    ) -> Result<Settings> {
        let shown = self.path.display();
        warnings.extend(self.lost.iter().cloned());
        let ratio = latent.spatial_ratio;
        let (width, height) = match self.kind {
            Kind::Video { width, height } => (width, height),
            Kind::Latents { shape: (c, h, w) } => {
                let wanted = latent.channels;
                ensure!(c == wanted, "{shown}: latents of {c} channels, and this model has {wanted}: give its --model");
                (w * ratio, h * ratio)
            }
        };
        let asked = match settings.size {
            Some(Size { width, height }) => (Some(width), Some(height)),
            None => (settings.width, settings.height),
        };
        let size = Size { width: asked.0.unwrap_or(width), height: asked.1.unwrap_or(height) };
        let unit = latent.unit();
        if asked == (None, None) && !(width.is_multiple_of(unit) && height.is_multiple_of(unit)) {
            let near = near(width, unit).map(|width| near(height, unit).map(|height| (width, height)));
            // a side that fits is near to itself twice
            let near: BTreeSet<(usize, usize)> = near.concat().into_iter().collect();
            let near: Vec<String> = near.into_iter().map(|(width, height)| format!("{width}x{height}")).collect();
            bail!(
                "{shown} is {width}x{height}, and this model needs multiples of {unit}: give --size, as {}, and it is \
                 resampled",
                near.join(" or ")
            )
        }
        if (size.width, size.height) != (width, height) {
            ensure!(
                matches!(self.kind, Kind::Video { .. }),
                "{shown}: latents of {width}x{height} pixels cannot become {size}: leave out the size"
            );
            let shape = (width * size.height) as f64 / (height * size.width) as f64;
            let keeps = match settings.fit {
                None if (shape - 1.0).abs() > 0.01 => {
                    ", and things get another shape: --fit crop or --fit pad keeps it"
                }
                _ => "",
            };
            warnings.push(format!("{shown} is {width}x{height}: its frames are resampled to {size}{keeps}"));
        }
        let fps = settings.fps.or(self.fps);
        if let (Some(own), Some(asked)) = (self.fps, settings.fps)
            && own != asked
        {
            warnings.push(format!("{shown} has {own} frames a second: they are played at {asked}"));
        }
        Ok(Settings { size: Some(size), width: None, height: None, fps, ..settings.clone() })
    }

    /// What a run with such windows looks at.
    pub fn source_video(&self, rules: &WindowRules, only_new: bool) -> Result<SourceVideo> {
        let (shown, window) = (self.path.display(), rules.window);
        ensure!(
            (1..window).contains(&rules.overlap),
            "--overlap {}: to go on from {shown} give 1 to {} latent frames",
            rules.overlap,
            window - 1
        );
        let (there, frames) = match self.kind {
            Kind::Video { .. } => (rules.time.filled(self.frames), self.frames),
            Kind::Latents { .. } => (self.frames, rules.video_frames(self.frames)),
        };
        let context = rules.overlap.min(there);
        Ok(SourceVideo { path: self.path.clone(), kind: self.kind, frames, context, only_new, fit: Fit::default() })
    }
}

/// Whether a file is one of `--save-latents`, by its name.
pub fn is_latents(path: &Path) -> bool {
    path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("safetensors"))
}

/// The legal sides on both sides of one, or itself twice.
fn near(side: usize, unit: usize) -> [usize; 2] {
    let below = side / unit * unit;
    if side.is_multiple_of(unit) { [side; 2] } else { [below.max(unit), below + unit] }
}

/// What a run takes over from the one that made the video it continues: the model and how it was asked, the seed after
/// its own, and its last scene. Size, length and rate are the video's own; where things are computed and go is for the new
/// run to say. With a `new_prompt`, controls that name words of the old one are left out.
///
/// A run that drew its seed is said to have drawn `seed`.
pub fn taken_over(request: Request, seed: u64, new_prompt: bool) -> (Settings, Option<Scene>) {
    let Request { settings: old, scenes, .. } = request;
    let kept = |specs: Vec<Spec>| specs.into_iter().filter(|spec| !new_prompt || spec.words().is_empty()).collect();
    let mut groups =
        vec![Group::Model, Group::Sampling, Group::Streaming, Group::Windows, Group::Attention, Group::Decoding];
    // it is named by words of the prompt
    groups.extend((!new_prompt).then_some(Group::Subject));
    let mut settings = old.only(&groups);
    settings.model.get_or_insert_with(|| EMBEDDED.to_owned());
    settings.seed = Some(Seed::Fixed(seed.wrapping_add(1)));
    // the first chunk is there
    (settings.first_steps, settings.first_guidance_scale, settings.first_scheduler) = (None, None, None);
    // what makes all frames at once has nothing to go on from
    (settings.window, settings.stride) = (None, None);
    settings.method = settings.method.filter(|method| *method == Method::Windows);
    settings.attn_proc = settings.attn_proc.map(kept);
    // the frames of such a video are one after the other at a rate of its own
    if settings.interpolate.take().is_some() {
        settings.fps = None;
    }
    let last = scenes.into_iter().last().filter(|_| !new_prompt);
    let scene = last.map(|scene| Scene { length: None, transition: TransitionInto::default(), ..scene });
    (settings, scene)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Command;
    use crate::storyboard::{Storyboard, Transition};

    fn rules(overlap: usize) -> WindowRules {
        WindowRules {
            window: 13,
            patch_t: 1,
            time: LatentTime::new(4),
            overlap,
            transition_windows: 2,
            hold: 0,
            transition: Transition::Attention,
            joined: true,
            relay_joined: false,
            blend: crate::timeline::BlendMode::Paper,
            fps: 8.0,
        }
    }

    fn source(kind: Kind, frames: usize) -> SourceFile {
        SourceFile { path: "a".into(), kind, frames, fps: None, lost: Vec::new() }
    }

    const VIDEO: Kind = Kind::Video { width: 16, height: 16 };

    #[test]
    fn no_more_is_looked_at_than_there_is() {
        for (frames, context) in [(1, 1), (4, 1), (5, 2), (33, 9), (1000, 9)] {
            let video = source(VIDEO, frames).source_video(&rules(9), false).unwrap();
            assert_eq!((video.frames, video.context), (frames, context));
            assert!(video.tail(LatentTime::new(4)) <= frames);
            assert_eq!(
                (video.decoded(LatentTime::new(4)), video.kept()),
                ((video.tail(LatentTime::new(4)), video.tail(LatentTime::new(4))), frames)
            );
        }
        let latents = source(Kind::Latents { shape: (8, 2, 2) }, 13);
        let video = latents.source_video(&rules(9), false).unwrap();
        assert_eq!(
            (video.frames, video.context, video.decoded(LatentTime::new(4)), video.kept()),
            (49, 9, (49, 0), 49)
        );
        let only = latents.source_video(&rules(9), true).unwrap();
        assert_eq!((only.decoded(LatentTime::new(4)), only.kept()), ((49, 49), 0));
        for overlap in [0, 13] {
            let error = source(VIDEO, 49).source_video(&rules(overlap), false).unwrap_err().to_string();
            assert!(error.contains("give 1 to 12"), "{error}");
        }
    }

    /// Lengths count what is new, whether it is one window, several, or several scenes.
    #[test]
    fn lengths_do_not_count_what_is_given() {
        let scenes = |prompts: usize| Storyboard::from_prompts(&vec!["a ball".to_owned(); prompts]).unwrap().scenes;
        for context in [1, 9] {
            for frames in 1..200 {
                let segments = rules(9).segments(&scenes(1), Some(frames), context).unwrap();
                let [segment] = segments.as_slice() else { panic!("{} segments", segments.len()) };
                assert_eq!((segment.frames, segment.context, segment.padding), (frames, context, 0));
                assert_eq!(segment.plan.keep, context + frames.div_ceil(4), "{frames}");
                assert!(segment.plan.frames >= segment.plan.keep && segment.plan.windows[0].len >= context);
            }
        }
        // as long as the same prompts would be by themselves
        for (prompts, frames) in [(1, 49usize), (2, 97)] {
            let segments = rules(9).segments(&scenes(prompts), None, 9).unwrap();
            assert_eq!((segments[0].frames, segments[0].plan.keep), (frames, 9 + frames.div_ceil(4)));
        }
        // only what comes first has something before it
        let mut cut = scenes(2);
        cut[1].transition.kind = Some(Transition::Cut);
        let segments = rules(9).segments(&cut, Some(20), 9).unwrap();
        assert_eq!(
            segments.iter().map(|s| (s.frames, s.context, s.plan.keep)).collect::<Vec<_>>(),
            [(10, 9, 12), (10, 0, 4)]
        );
        let error = rules(9).segments(&scenes(2), Some(48), 9).unwrap_err().to_string();
        assert!(error.contains("at least 52 frames; 48 were asked for"), "{error}");
        assert!(rules(9).segments(&scenes(2), Some(52), 9).is_ok());
    }

    #[test]
    fn a_continuation_takes_over_what_was_asked() {
        let settings = "steps = 7\nseed = 4\nsize = \"48x32\"\nframes = 9\nsubject = \"ball\"\ndevice = \"cpu\"\noutput = \"a.mp4\"\n\
                        attn_proc = [\"kv-share:layers=1\", \"reweight:words=ball:2\"]";
        let request = Request {
            command: Command::MultiPrompt,
            settings: toml::from_str(settings).unwrap(),
            scenes: Storyboard::from_prompts(&["a box".to_owned(), "a ball".to_owned()]).unwrap().scenes,
            edit: None,
        };
        let (same, scene) = taken_over(request.clone(), u64::MAX, false);
        assert_eq!(scene.unwrap().prompt, "a ball");
        assert_eq!((same.steps, same.seed, same.model.as_deref()), (Some(7), Some(Seed::Fixed(0)), Some("toyland")));
        assert_eq!((same.size, same.frames, same.output, same.device), (None, None, None, None));
        assert_eq!(
            (same.subject.map(|words| words.len()), same.attn_proc.map(|specs| specs.len())),
            (Some(1), Some(2))
        );
        let (new, scene) = taken_over(request, u64::MAX, true);
        assert_eq!((scene, new.subject, new.attn_proc.map(|specs| specs.len())), (None, None, Some(1)));
    }
}
