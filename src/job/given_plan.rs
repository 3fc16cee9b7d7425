//! Which frames of which clips are given. The network says what it takes and what it was trained for; anything else is refused.

use super::Command;
use super::footage::Footage;
use super::given::{Given, GivenFiles, GivenFrom, GuidanceForm, fitted};
use super::given_values::GuidanceMode;
use super::plan::{GivenAt, Segment, WindowRules};
use super::settings::Settings;
use super::source_video::{Kind, SourceFile};
use crate::models::given::{GivenFrames, InPlace, Task};
use crate::models::{Architecture, LatentTime};
use crate::storyboard::{Feed, Scene, Transition};
use crate::timeline::{ChunkPlan, GivenClip, KeyframePlan, given_every_other};
use crate::video::Fit;
use anyhow::{Context, Result, bail, ensure};

/// The scale of given frames where nobody says another.
const IMAGE_GUIDANCE: f64 = 1.5;

/// What a stage of given frames is planned from.
pub struct Asking<'a> {
    pub command: Command,
    pub settings: &'a Settings,
    pub files: &'a GivenFiles,
    /// The video whose end, or whose frames, are given.
    pub video: Option<&'a SourceFile>,
    /// Latent frames of the video that is continued; 0 of none.
    pub context: usize,
    pub scenes: &'a [Scene],
    pub architecture: &'a dyn Architecture,
    /// Where the model is, for messages.
    pub place: String,
    /// Frames, where they were asked for.
    pub frames: Option<usize>,
    /// Width and height in pixels.
    pub size: (usize, usize),
    pub rules: &'a WindowRules,
}

/// What is given of a stage, and what follows from it.
#[derive(Debug, Default)]
pub struct GivenPlan {
    /// The clips, where these are not those of the scenes.
    pub segments: Option<Vec<Segment>>,
    pub given: Option<Given>,
    pub form: GuidanceForm,
    /// Where the frames of the stage are far from each other: what is between them, for a stage that follows.
    pub between: Option<Vec<Segment>>,
}

/// A frame of the clip, what stands there, and the file that says it.
struct Slot<'a> {
    frame: usize,
    flag: String,
    file: &'a SourceFile,
}

impl Asking<'_> {
    /// # Errors
    /// Tasks that the model was not trained for, frames that are not there or given twice, and flags without effect.
    pub fn plan(&self, warnings: &mut Vec<String>) -> Result<GivenPlan> {
        let how = self.architecture.given_frames();
        let (plan, null) = match &how {
            GivenFrames::No => (self.of_texts()?, GuidanceMode::Cfg),
            GivenFrames::Beside => (self.beside(warnings)?, GuidanceMode::Cfg),
            GivenFrames::InPlace(trained) => {
                let null = if trained.drops { GuidanceMode::Jit } else { GuidanceMode::Cfg };
                (self.in_place(trained, warnings)?, null)
            }
        };
        let goes_on = plan.segments.iter().flatten().any(|segment| segment.context > 0);
        let any = plan.given.is_some() || plan.between.is_some() || goes_on;
        let form = self.form(any, null)?;
        if let GivenFrames::InPlace(InPlace { drops: false, .. }) = how
            && form.mode != GuidanceMode::Cfg
        {
            warnings.push(format!(
                "this model never saw clips without their given frames in training, which --guidance-mode {} asks it for",
                form.mode
            ));
        }
        Ok(GivenPlan { form, ..plan })
    }

    /// How guidance is done, where `any` frames are given; `usual`: the mode of the model.
    fn form(&self, any: bool, usual: GuidanceMode) -> Result<GuidanceForm> {
        let Settings { guidance_mode, image_guidance_scale, null_frame, renorm, .. } = self.settings;
        let mode = guidance_mode.unwrap_or(if any { usual } else { GuidanceMode::Cfg });
        if !any {
            ensure!(
                mode == GuidanceMode::Cfg,
                "--guidance-mode {mode} is about given frames, and none are given: leave it out, or use animate"
            );
            ensure!(null_frame.is_none(), "--null-frame is about given frames, and none are given: leave it out");
        }
        ensure!(
            null_frame.is_none() || mode != GuidanceMode::Cfg,
            "--null-frame has no effect with --guidance-mode cfg, whose passes all see the given frames: leave it out"
        );
        let own = self.architecture.given_frames() != GivenFrames::No;
        if let Some(scale) = image_guidance_scale.filter(|_| own) {
            ensure!(
                mode == GuidanceMode::Sit,
                "--image-guidance-scale has no effect with --guidance-mode {mode}: use --guidance-mode sit, or leave it out"
            );
            ensure!((0.0..=1e6).contains(&scale), "--image-guidance-scale {scale}: give a number from 0 up");
        }
        let image = image_guidance_scale.unwrap_or(IMAGE_GUIDANCE);
        let (renorm, null_frame) = (renorm.unwrap_or_default(), null_frame.unwrap_or_default());
        Ok(GuidanceForm { mode, image, renorm, null_frame })
    }

    /// A model that takes no frames.
    fn of_texts(&self) -> Result<GivenPlan> {
        let named = matches!(self.command, Command::Animate | Command::Interpolate) || !self.files.is_empty();
        ensure!(
            !named,
            "{}: this model makes videos of texts and takes no frames: give --model one of image to video (docs/animate.md)",
            self.place
        );
        Ok(GivenPlan::default())
    }

    /// A model that takes one picture beside the noise.
    fn beside(&self, warnings: &mut Vec<String>) -> Result<GivenPlan> {
        let GivenFiles { image, last_image, keyframes } = self.files;
        let (place, geometry) = (&self.place, self.architecture.geometry());
        ensure!(
            self.command == Command::Animate,
            "{place}: this model makes videos of pictures: vidgen animate PICTURE PROMPT --model {place}"
        );
        for (flag, named) in [
            ("--video", self.video.is_some()),
            ("--context", self.settings.context.is_some()),
            ("--last-image", last_image.is_some()),
            ("--keyframe", !keyframes.is_empty()),
            ("--null-frame", self.settings.null_frame.is_some()),
        ] {
            ensure!(!named, "{flag}: this model takes one picture, as the first frame: leave it out");
        }
        let image = image.as_ref().context("which picture is to be animated? vidgen animate PICTURE PROMPT")?;
        let (native, ratio) = (geometry.native.frames, geometry.spatial_ratio);
        let segment = self.rules.single(self.frames.unwrap_or(native));
        self.architecture.check_clip(segment.plan.frames, (self.size.1 / ratio, self.size.0 / ratio))?;
        let given = self.of_files(GivenFrom::Beside, vec![Footage::picture(image)], &[image], warnings);
        Ok(GivenPlan { given: Some(given), ..GivenPlan::default() })
    }

    /// A model that takes frames in the place of noise.
    fn in_place(&self, trained: &InPlace, warnings: &mut Vec<String>) -> Result<GivenPlan> {
        match self.command {
            Command::Animate => self.animate(trained, warnings),
            Command::Interpolate => self.interpolate(trained, warnings),
            Command::Extend if self.context == 0 => self.extend(trained, warnings),
            Command::Extend | Command::MultiPrompt => {
                let segments = self.rules.segments(self.scenes, self.frames, self.context)?;
                let segments = Some(self.chain(trained, segments)?);
                Ok(GivenPlan { segments, ..GivenPlan::default() })
            }
            _ => {
                self.need(trained, Task::Text)?;
                Ok(GivenPlan::default())
            }
        }
    }

    fn need(&self, trained: &InPlace, task: Task) -> Result<()> {
        let all = if trained.tasks.is_empty() { "none".to_owned() } else { trained.tasks.join(", ") };
        ensure!(
            trained.has(task),
            "{}: this model was not trained for {task} ({}); its trained_tasks: {all}",
            self.place,
            in_words(task)
        );
        Ok(())
    }

    /// Scenes in clips of the model's length: each after the first begins with the end of the one before it.
    fn chain(&self, trained: &InPlace, scenes: Vec<Segment>) -> Result<Vec<Segment>> {
        let length = self.rules.window;
        let usual = chained(trained, self.rules.time);
        let mut clips = Vec::with_capacity(scenes.len());
        for scene in scenes {
            let (mut left, mut begins) = (scene.frames, true);
            while left > 0 {
                let context = if begins { scene.context } else { usual.unwrap_or(0) };
                let known = if context > 0 { self.rules.video_frames(context) } else { 0 };
                self.need(
                    trained,
                    match known {
                        0 if begins => Task::Text,
                        0 | 1 => Task::Image,
                        count => Task::Predict(count),
                    },
                )?;
                let most = self.rules.video_frames(length).saturating_sub(known);
                ensure!(most > 0, "--overlap {context}: clips of {length} latent frames leave nothing to make");
                let frames = left.min(most);
                clips.push(Segment {
                    plan: ChunkPlan { texts: scene.plan.texts[..1].to_vec(), ..self.rules.single(known + frames).plan },
                    context,
                    feed: if begins { scene.feed } else { Some(between(self.rules.time)) },
                    frames,
                    fade: if begins { scene.fade } else { 0 },
                    ..self.rules.single(known + frames)
                });
                (left, begins) = (left - frames, false);
            }
        }
        Ok(clips)
    }

    /// Latent frames of one clip of the length that was asked for.
    fn clip(&self) -> usize {
        let native = self.architecture.geometry().native.frames;
        self.rules.latent_frames(self.frames.unwrap_or(native))
    }

    /// Whether a latent frame stands for several frames, so that a picture can only be the first.
    fn causal(&self) -> bool {
        self.rules.time.ratio > 1
    }

    fn animate(&self, trained: &InPlace, warnings: &mut Vec<String>) -> Result<GivenPlan> {
        let count = self.clip();
        if let Some(video) = self.video {
            return self.predict(trained, video, count, warnings);
        }
        ensure!(self.settings.context.is_none(), "--context has no effect without --video: leave it out");
        let GivenFiles { image, last_image, keyframes } = self.files;
        let slot = |frame: usize, flag: &str, file| Slot { frame, flag: flag.to_owned(), file };
        let mut slots: Vec<Slot> = image.iter().map(|file| slot(0, "--image", file)).collect();
        slots.extend(last_image.iter().map(|file| slot(count - 1, "--last-image", file)));
        let named = keyframes.iter().map(|(frame, file)| slot(*frame, &format!("--keyframe {frame}"), file));
        slots.extend(named);
        slots.sort_by_key(|slot| slot.frame); // stable
        let first = slots.first().context("which picture is to be animated? vidgen animate PICTURE PROMPT")?;
        let task = if slots.iter().all(|slot| slot.frame == 0) { Task::Image } else { Task::Between };
        self.need(trained, task)?;
        ensure!(
            task == Task::Image || !self.causal(),
            "{}: a frame of its latents stands for {} of the video, so that a picture can only be the first: leave out {}",
            self.place,
            self.rules.time.ratio,
            slots.iter().find(|slot| slot.frame > 0).map_or(&first.flag, |slot| &slot.flag)
        );
        for pair in slots.windows(2) {
            ensure!(
                pair[0].frame != pair[1].frame,
                "{} and {} are both frame {}: leave out one",
                pair[0].flag,
                pair[1].flag,
                pair[0].frame
            );
        }
        if let Some(slot) = slots.iter().find(|slot| slot.frame >= count) {
            bail!("{}: a clip of {count} frames has 0 to {}: ask for more --frames", slot.flag, count - 1)
        }
        ensure!(slots.len() < count, "all {count} frames are given: nothing is left to make; ask for more --frames");
        let at: Vec<GivenAt> = slots.iter().enumerate().map(|(of, slot)| GivenAt { frame: slot.frame, of }).collect();
        let pictures: Vec<&SourceFile> = slots.iter().map(|slot| slot.file).collect();
        let files = pictures.iter().map(|file| Footage::picture(file)).collect();
        let given = self.of_files(GivenFrom::Files, files, &pictures, warnings);
        Ok(self.one_clip(given, at))
    }

    /// The clip of the length that was asked for, with frames that are given of it.
    fn one_clip(&self, given: Given, at: Vec<GivenAt>) -> GivenPlan {
        let native = self.architecture.geometry().native.frames;
        let segment = Segment { given: at, ..self.rules.single(self.frames.unwrap_or(native)) };
        GivenPlan { segments: Some(vec![segment]), given: Some(given), ..GivenPlan::default() }
    }

    /// A clip that begins with the end of a video.
    fn predict(
        &self,
        trained: &InPlace,
        video: &SourceFile,
        count: usize,
        warnings: &mut Vec<String>,
    ) -> Result<GivenPlan> {
        let shown = video.path.display();
        ensure!(
            self.files.is_empty(),
            "--video {shown} gives the first frames, and no model has learnt to take pictures beside them: leave out --image, \
             --last-image and --keyframe"
        );
        ensure!(
            matches!(video.kind, Kind::Video { .. }),
            "--video {shown}: holds latents, and frames are wanted: give the video"
        );
        let context = match self.settings.context.or(trained.predicts()) {
            Some(context) => context,
            None => {
                self.need(trained, Task::Predict(1))?;
                1
            }
        };
        ensure!(context >= 1, "--context 0: give 1 frame or more");
        self.need(trained, Task::Predict(context))?;
        ensure!(
            video.frames >= context,
            "--video {shown}: holds {} frames, and its last {context} are to be given: use a longer one",
            video.frames
        );
        let time = self.rules.time;
        ensure!(
            time.frames(time.latent_frames(context)) == context,
            "--context {context}: the model's autoencoder takes 1 frame and then {} at a time: give 1, or a multiple of {} more",
            time.ratio,
            time.ratio
        );
        let latents = time.latent_frames(context);
        ensure!(latents < count, "--context {context}: a clip of {count} latent frames leaves nothing to make");
        let frames = (video.frames - context..video.frames).collect();
        let file = Footage { path: video.path.clone(), frames };
        let given = self.of_files(GivenFrom::Files, vec![file], &[video], warnings);
        Ok(self.one_clip(given, (0..latents).map(|frame| GivenAt { frame, of: frame }).collect()))
    }

    /// A video with a frame between every two.
    fn interpolate(&self, trained: &InPlace, warnings: &mut Vec<String>) -> Result<GivenPlan> {
        self.need(trained, Task::Twice)?;
        ensure!(
            !self.causal(),
            "{}: a frame of its latents stands for {} of the video, so that it makes none between them: use --interpolate of \
             decode, by RIFE",
            self.place,
            self.rules.time.ratio
        );
        let video = self.video.context("which video is to be interpolated?")?;
        let shown = video.path.display();
        ensure!(
            matches!(video.kind, Kind::Video { .. }),
            "{shown}: holds latents, and frames are wanted: give the video"
        );
        ensure!(video.frames >= 2, "{shown}: holds one frame, and there is none between one");
        ensure!(
            self.settings.frames.is_none() && self.settings.duration.is_none(),
            "--frames and --duration have no effect on interpolate, which makes 2 n - 1 frames of n: leave them out"
        );
        let clips = given_every_other(video.frames, self.rules.window);
        let segment = |clip: &GivenClip| self.segment(clip);
        let file = Footage { path: video.path.clone(), frames: (0..video.frames).collect() };
        let given = self.of_files(GivenFrom::Files, vec![file], &[video], warnings);
        Ok(GivenPlan {
            segments: Some(clips.iter().map(segment).collect()),
            given: Some(given),
            ..GivenPlan::default()
        })
    }

    /// A segment of a clip some of whose frames are given.
    fn segment(&self, clip: &GivenClip) -> Segment {
        let plan = ChunkPlan { keep: clip.keep, ..ChunkPlan::single(clip.frames) };
        let given = clip.given.iter().map(|&(frame, of)| GivenAt { frame, of }).collect();
        Segment { plan, given, ..self.rules.single(clip.keep) }
    }

    /// A long video: frames far from each other in one clip, and clips between them.
    fn extend(&self, trained: &InPlace, warnings: &mut Vec<String>) -> Result<GivenPlan> {
        let frames = self.frames.context("how long is the video to be? give --duration, as 30s, or --frames")?;
        let scenes = self.scenes.len();
        ensure!(scenes == 1, "a long video by keyframes has one prompt, and {scenes} are given: use multi-prompt");
        let (length, first) = (self.rules.window, self.files.image.as_ref());
        let given =
            first.map(|image| self.of_files(GivenFrom::Files, vec![Footage::picture(image)], &[image], warnings));
        let at: Vec<GivenAt> = given.iter().map(|_| GivenAt { frame: 0, of: 0 }).collect();
        if self.rules.latent_frames(frames) <= length {
            self.need(trained, if given.is_some() { Task::Image } else { Task::Text })?;
            ensure!(given.is_none() || frames > 1, "all frames are given: ask for more --frames");
            let segment = Segment { given: at, ..self.rules.single(frames) };
            return Ok(GivenPlan { segments: Some(vec![segment]), given, ..GivenPlan::default() });
        }
        self.need(trained, Task::Keyframes)?;
        self.need(trained, Task::Between)?;
        ensure!(
            !self.causal(),
            "{}: a frame of its latents stands for {} of the video, so that there are no keyframes: ask for up to {} frames",
            self.place,
            self.rules.time.ratio,
            self.rules.video_frames(length)
        );
        let KeyframePlan { keyframes, between } = KeyframePlan::new(frames, length).map_err(|longest| {
            anyhow::anyhow!("--frames {frames}: this model makes up to {longest}: its clips have {length} keyframes, with gaps of {length}")
        })?;
        let segment = Segment { given: at, ..self.rules.single(keyframes) };
        let between = between.iter().map(|clip| self.segment(clip)).collect();
        Ok(GivenPlan { segments: Some(vec![segment]), given, between: Some(between), ..GivenPlan::default() })
    }

    /// The given frames of some files, of which warnings say what becomes of them.
    fn of_files(
        &self,
        from: GivenFrom,
        files: Vec<Footage>,
        sources: &[&SourceFile],
        warnings: &mut Vec<String>,
    ) -> Given {
        let fit = self.settings.fit.unwrap_or(Fit::Crop);
        for source in sources {
            warnings.extend(source.lost.iter().cloned());
            warnings.extend(fitted(source, fit, self.size));
        }
        Given { from, files, fit }
    }
}

/// Latent frames that a clip is given of the one before it; none where the model goes on from no clip.
pub fn chained(trained: &InPlace, time: LatentTime) -> Option<usize> {
    let fits = |count: &usize| time.frames(time.latent_frames(*count)) == *count;
    let predicts = trained.predicts().filter(fits).map(|count| time.latent_frames(count));
    predicts.or(trained.has(Task::Image).then_some(1))
}

/// What one clip hands to the next: latents of an autoencoder of pictures are the same wherever they stand.
fn between(time: LatentTime) -> Feed {
    if time.ratio == 1 { Feed::Latents } else { Feed::Frames }
}

/// How scenes of a model follow each other that takes frames in the place of noise, and how many latent frames go over.
///
/// # Errors
/// Windows that overlap, which such a model has not learnt.
pub fn transition(
    trained: &InPlace,
    settings: &Settings,
    scenes: &[Scene],
    time: LatentTime,
) -> Result<(Transition, usize)> {
    let chained = chained(trained, time);
    let usual = if chained.is_some() { Transition::Continue(between(time)) } else { Transition::Cut };
    let kinds = settings.transition.iter().chain(scenes.iter().filter_map(|scene| scene.transition.kind.as_ref()));
    if let Some(kind) = kinds.into_iter().find(|kind| !kind.parts()) {
        bail!(
            "transition {kind}: clips of this model go on from each other and do not overlap: use continue, cut or fade"
        )
    }
    Ok((settings.transition.unwrap_or(usual), chained.unwrap_or(1)))
}

/// What a task is.
fn in_words(task: Task) -> String {
    match task {
        Task::Text => "a clip of a text alone".to_owned(),
        Task::Image => "a clip that begins with a picture".to_owned(),
        Task::Predict(1) => "a clip that begins with the last frame of a video".to_owned(),
        Task::Predict(count) => format!("a clip that begins with the last {count} frames of a video"),
        Task::Between => "a clip with pictures at other places than the first".to_owned(),
        Task::Twice => "frames between those of a video".to_owned(),
        Task::Keyframes => "frames far from each other, for long videos".to_owned(),
    }
}
