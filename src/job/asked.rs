//! How a stage is resolved: its plan, sampler, guidance, controls and dtypes from the settings, the recipe and the model.

use super::cache::{self, Caching};
use super::cache_asked::CacheAsked;
use super::clips::FreeNoise;
use super::control::ControlInput;
use super::controls::{Controls, Wanted};
use super::footage::Footage;
use super::geometry::Geometry;
use super::given::{GivenFiles, GuidanceForm};
use super::given_plan::{self, Asking, GivenPlan};
use super::given_values::{GuidanceMode, Renorm};
use super::instruct::{self, Instruct};
use super::long;
use super::maps::Maps;
use super::placed::{self, Placed};
use super::preset::Preset;
use super::routes;
use super::scene_times::is_timed;
use super::sdedit::{self, SdEdit};
use super::source_video::{SourceFile, SourceVideo};
use super::streaming::{self, Chunked, Streaming};
use super::values::{Attention, DeviceSpec, Method, Offload, Precision, Uncond};
use super::{
    Command, Compute, FrameSize, Group, Input, Need, Request, Sampler, Segment, Settings, Stage, StageMethod,
    StageModel, TextInput, UncondText, WindowRules, ZeroShot, device,
};
use crate::attention::SiteKind;
use crate::guidance::{self, GuidanceSchedule, Rule};
use crate::models::Architecture;
use crate::models::architecture::{Fact, Role};
use crate::models::given::GivenFrames;
use crate::nn::compute_dtype;
use crate::nn::kernel::KernelTarget;
use crate::processors::Spec;
use crate::recipe::Recipe;
use crate::run::{Code, WithCode};
use crate::schedulers::{ScheduleConfig, ScheduleKeys, SchedulerKind, Table};
use crate::storyboard::{Length, Scene, Transition};
use crate::weights::ModelFolder;
use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device};
use std::collections::HashMap;
use std::sync::Arc;

/// The longest window that may be asked for, in latent frames.
const MOST_WINDOW: usize = 4096;

/// A model with the configurations of its parts.
#[derive(Debug, Clone)]
pub struct Configs {
    pub folder: ModelFolder,
    pub architecture: Arc<dyn Architecture>,
    pub keys: ScheduleKeys,
    /// By the class that the folder names.
    pub schedule: ScheduleConfig,
}

impl Configs {
    pub fn read(folder: ModelFolder) -> Result<Self> {
        let architecture = folder.architecture()?;
        let keys: ScheduleKeys = folder.json("scheduler/scheduler_config.json")?;
        let schedule = keys.clone().config(folder.family().schedulers, None).with_context(|| folder.place())?;
        // its values, apart from those of the flags
        let kind = if schedule.is_flow() { SchedulerKind::Euler } else { SchedulerKind::Ddim };
        crate::schedulers::build(&schedule, kind, Table::Diffusers, 1, 0.0).with_context(|| folder.place())?;
        Ok(Self { folder, architecture, keys, schedule })
    }
}

/// The configurations of the models that requests name, each read once.
#[derive(Debug, Default)]
pub struct OpenedModels(HashMap<(String, bool), Configs>);

impl OpenedModels {
    /// # Errors
    /// A model that is not there, or configurations that cannot be read.
    pub fn open(&mut self, name: &str, offline: bool) -> Result<Configs> {
        let key = (name.to_owned(), offline);
        if let Some(configs) = self.0.get(&key) {
            return Ok(configs.clone());
        }
        let configs = Configs::read(ModelFolder::open(name, offline)?)?;
        self.0.insert(key, configs.clone());
        Ok(configs)
    }
}

/// Said where nobody says it.
const HOW_LONG: &str = "how long is the video to be? give --duration, as 30s, or --frames";

/// What a stage is resolved from.
pub struct Asked<'a> {
    pub request: &'a Request,
    /// The request's, with what a given video says.
    pub settings: &'a Settings,
    pub configs: &'a Configs,
    /// The video that is continued.
    pub source: Option<&'a SourceFile>,
    /// The video whose end, or whose frames, are given.
    pub given: Option<&'a SourceFile>,
    /// The pictures that are given.
    pub pictures: &'a GivenFiles,
    /// The frames that are changed.
    pub footage: Option<&'a Footage>,
    /// The picture that the first frame is.
    pub first_frame: Option<&'a SourceFile>,
    /// The pictures that the video follows.
    pub control_inputs: &'a [ControlInput],
    pub recipe: &'a Recipe,
    pub geometry: &'a Geometry,
}

impl Asked<'_> {
    /// `name`: the recipe's. Beside the stage the segments of one that makes what is between its frames, where these are far from
    /// each other.
    pub fn stage(&self, name: String, warnings: &mut Vec<String>) -> Result<(Stage, Option<Vec<Segment>>)> {
        let Self { request, settings, configs, recipe, geometry, .. } = *self;
        let Request { scenes, edit, .. } = request;
        let Configs { folder, architecture, schedule, .. } = configs;
        self.check_task()?;
        let enhance = request.command == Command::Enhance;
        let method = enhance.then(|| sdedit::recipe(recipe)).transpose()?;
        let steps = settings.steps.unwrap_or(method.map_or(recipe.steps, |method| method.steps));
        let most = schedule.num_train_timesteps;
        ensure!((1..=most).contains(&steps), "--steps {steps}: give 1 to {most}");
        let sdedit = method.map(|method| SdEdit::new(settings, method, steps)).transpose()?;
        let preset = settings.parity.map(Preset::of);
        let free_noise = self.free_noise()?;
        let own = self.own_control(free_noise)?;
        let wanted = Wanted::new(settings, recipe, own, &**architecture, steps)?;
        let streaming = self.streaming()?;
        let rules = self.rules(&wanted, free_noise.is_some(), preset.as_ref())?;
        let rules = streaming.as_ref().map_or(rules, |streaming| Streaming::rules(streaming.frames, rules));
        let sampler = self.sampler(steps, preset.as_ref())?;
        let zero_shot = self.zero_shot(&sampler)?;
        let instruct = self.instruct()?;
        let only_new = settings.only_new.unwrap_or(false);
        let source_video = self.source.map(|source| source.source_video(&rules, only_new)).transpose()?;
        let source_video = source_video.map(|video| SourceVideo { fit: settings.fit.unwrap_or_default(), ..video });
        let context = source_video.as_ref().map_or(0, |video| video.context);
        let GivenPlan { segments: clips, given, form, between } = self.given(&rules, context, warnings)?;
        let segments = match (&zero_shot, free_noise) {
            _ if clips.is_some() => clips.unwrap_or_default(),
            _ if sdedit.is_some() => {
                let frames = geometry.frames.unwrap_or(1);
                sdedit.map(|method| method.segment(frames)).into_iter().collect()
            }
            _ if streaming.is_some() => self.chunks(&rules, streaming.as_ref(), source_video.as_ref())?,
            (Some(zero_shot), _) => self.pictures(&rules, zero_shot, source_video.as_ref())?,
            (None, Some(_)) => FreeNoise::segments(scenes, (geometry.frames, self.clip()), &rules)?,
            (None, None) => self.segments(&rules, source_video.as_ref())?,
        };
        warnings.extend(self.long(&segments)?);
        let longest = segments.iter().map(|segment| segment.frames).max().unwrap_or(0);
        warnings.extend(zero_shot.as_ref().and_then(|zero_shot| zero_shot.warning(longest)));
        let placed = self.placed(longest, warnings)?;
        ensure!(
            edit.is_none() || segments.iter().all(|segment| segment.feed.is_none()),
            "scenes that continue each other cannot be edited: make the video anew with the other words"
        );
        let own = method.map_or(recipe.guidance_scale, |method| method.guidance_scale);
        let guidance = self.guidance(own, preset.as_ref(), form)?;
        let uncond = self.uncond(guidance, preset.as_ref())?;
        let compute = self.compute()?;
        let style = settings.style.as_deref();
        let (prompts, shared) = (prompts(scenes, style), routes::shared_texts(&segments, scenes, style));
        let texts = (folder, architecture.text().length);
        let smoothing = zero_shot.as_ref().and_then(ZeroShot::smoothing).cloned();
        // the subject is then that of the smoothing
        let others = settings.clone().without(if smoothing.is_some() { &[Group::Subject] } else { &[] });
        let edit = edit.as_ref();
        let controls = wanted.resolve(&others, scenes, (&prompts, &shared), edit, &segments, texts, warnings)?;
        let cache = self.cache(&sampler, guidance, (zero_shot.as_ref(), sdedit.as_ref()), &controls, &segments)?;
        let stage = Stage {
            model: self.model(name)?,
            text: TextInput { prompts, shared, uncond },
            segments,
            rules,
            size: self.size(),
            method: StageMethod {
                zero_shot,
                instruct,
                overwriting: sdedit.map(|method| method.blend),
                free_noise,
                streaming,
                placed,
                control_inputs: self.control_inputs.to_vec(),
                given,
                clips: request.command == Command::Interpolate,
                keyframes: between.is_some(),
                guidance: form,
            },
            sampler,
            cache,
            guidance,
            controls,
            input: Input {
                noise: settings.init_noise.clone(),
                source_video,
                strength: sdedit.map(|method| method.strength),
                footage: self.footage.filter(|_| sdedit.is_some()).cloned(),
                first_frame: self.first_frame.map(Footage::picture),
            },
            compute,
            decode: geometry.decode(settings, &**architecture)?,
            need: Need::default(),
        };
        smoothing.map(|smoothing| smoothing.check(stage.frames())).transpose()?;
        Maps::of_foreground(&stage)?; // whose words are in the prompts
        Ok((stage, between))
    }

    /// How far guidance goes, of a model whose own is `own`.
    fn guidance(&self, own: GuidanceSchedule, preset: Option<&Preset>, form: GuidanceForm) -> Result<GuidanceSchedule> {
        let guidance = self.settings.guidance_scale.or(preset.map(|preset| preset.guidance)).unwrap_or(own);
        ensure!(
            form.renorm == Renorm::Off || guided(guidance) || form.mode == GuidanceMode::Sit,
            "--renorm {} has no effect with --guidance-scale {guidance}, which is none: leave out one",
            form.renorm
        );
        Ok(guidance)
    }

    /// The frames that are given, and how guidance treats them.
    fn given(&self, rules: &WindowRules, context: usize, warnings: &mut Vec<String>) -> Result<GivenPlan> {
        let Self { request, settings, configs, geometry, .. } = *self;
        let asking = Asking {
            command: request.command,
            settings,
            files: self.pictures,
            video: self.given,
            context,
            scenes: &request.scenes,
            architecture: &*configs.architecture,
            place: configs.folder.place(),
            frames: geometry.frames,
            size: (geometry.width, geometry.height),
            rules,
        };
        asking.plan(warnings)
    }

    fn size(&self) -> FrameSize {
        let Self { configs, geometry, .. } = *self;
        let channels = configs.architecture.geometry().channels;
        let latents = (channels, geometry.latent_height, geometry.latent_width);
        FrameSize { latents, width: geometry.width, height: geometry.height }
    }

    /// The control that the method of the run is, where it is one.
    fn own_control(&self, free_noise: Option<FreeNoise>) -> Result<Option<Spec>> {
        let architecture = &*self.configs.architecture;
        match (free_noise, self.settings.long) {
            (Some(method), _) => method.control().map(Some),
            (None, Some(long)) if architecture.main_sites().kind == SiteKind::Joint => long.control(architecture),
            (None, _) => Ok(None),
        }
    }

    /// The model, as it is in this run.
    fn model(&self, recipe: String) -> Result<StageModel> {
        let Configs { folder, architecture, .. } = self.configs;
        let long = self.settings.long;
        let architecture = match long {
            Some(long) => long.model(architecture, self.recipe.long.riflex)?,
            None => architecture.clone(),
        };
        Ok(StageModel { folder: folder.clone(), architecture, recipe, long })
    }

    /// What is said of windows longer than the model's.
    fn long(&self, segments: &[Segment]) -> Result<Option<String>> {
        let Self { settings, configs, .. } = *self;
        let joint = configs.architecture.main_sites().kind == SiteKind::Joint;
        if let Some(long) = settings.long.filter(|_| !joint) {
            bail!("--long {long} is for models whose text and video are one sequence: leave it out")
        }
        let of_segment = |segment: &Segment| {
            let longest = segment.plan.windows.iter().map(|window| window.len).max().unwrap_or(0);
            longest - segment.padding.min(longest)
        };
        let longest = segments.iter().map(of_segment).max().unwrap_or(0);
        if joint {
            long::told(settings.long, settings.window.is_some(), longest, &*configs.architecture)
        } else {
            Ok(None)
        }
    }

    /// Steps that are not computed.
    fn cache(
        &self,
        sampler: &Sampler,
        guidance: GuidanceSchedule,
        (zero_shot, sdedit): (Option<&ZeroShot>, Option<&SdEdit>),
        controls: &Controls,
        segments: &[Segment],
    ) -> Result<Option<Caching>> {
        let Self { settings, recipe, .. } = *self;
        let asked = settings.cache.filter(|asked| *asked != CacheAsked::Off);
        if let Some(asked) = asked {
            ensure!(
                self.control_inputs.is_empty()
                    && self.footage.is_none()
                    && self.pictures.is_empty()
                    && self.given.is_none()
                    && sdedit.is_none()
                    && self.configs.architecture.streaming().is_none()
                    && self.configs.architecture.subject().is_none(),
                "--cache {asked} is for videos of a text alone: leave it out, or what the video follows"
            );
        }
        let rule = Rule::classifier_free(guidance);
        let halves = (0..sampler.steps).map(|index| {
            rule.halves(&guidance::Step { index, count: sampler.steps, timestep: 0.0, table: sampler.table })
        });
        let run = cache::Run {
            sampler,
            first: zero_shot.map_or(0, ZeroShot::first_step),
            halves: halves.collect(),
            controls,
            segments,
        };
        let Configs { folder, architecture, .. } = self.configs;
        cache::resolve(asked, (folder, &**architecture), &recipe.cache, &run)
    }

    /// Whether the command asks of the model what it does.
    fn check_task(&self) -> Result<()> {
        // an edit reads its source where text and video are one sequence
        ensure!(
            self.request.edit.is_none() || self.configs.architecture.main_sites().kind == SiteKind::Joint,
            "a video of this model cannot be edited: make it anew with the other words and its seed"
        );
        let Configs { folder, architecture, .. } = self.configs;
        let told = architecture.recipe_key().facts.get("instruct") == Some(&Fact::Flag(true));
        match (self.request.command, told) {
            (Command::Edit, false) => bail!(
                "{}: a {} follows no instruction: give --model a folder of StableDiffusionInstructPix2PixPipeline, or toyland-image, \
                 which is inside; words of a video of vidgen are changed by --swap",
                folder.place(),
                folder.class()
            ),
            (Command::Edit, true) | (_, false) => Ok(()),
            (_, true) => bail!(
                "{}: this model changes a given video as it is told: vidgen edit VIDEO --instruct \"make it snow\" --model {}",
                folder.place(),
                folder.name()
            ),
        }
    }

    /// The given video that is changed, where one is.
    fn instruct(&self) -> Result<Option<Instruct>> {
        let Self { settings, recipe, footage, .. } = *self;
        if self.request.command == Command::Enhance {
            return Ok(None);
        }
        let Some(footage) = footage else {
            let frames = self.configs.architecture.given_frames() != GivenFrames::No;
            return instruct::check_absent(settings, !self.control_inputs.is_empty(), frames).map(|()| None);
        };
        let method = recipe.method.instruct.as_ref();
        let method =
            method.context("--recipe: it says nothing of edits: leave it out, or add [method.instruct-pix2pix]")?;
        Instruct::new(settings, method, footage.clone()).map(Some)
    }

    /// Frames of a clip, where the model makes clips of its own length.
    fn clip(&self) -> usize {
        let native = self.configs.architecture.geometry().native.frames;
        self.recipe.method.freenoise.as_ref().map_or(native, |method| method.window)
    }

    /// Whether all frames are made in one pass of windows in time.
    fn free_noise(&self) -> Result<Option<FreeNoise>> {
        let Self { request, settings, recipe, source, geometry, .. } = *self;
        if request.command == Command::Enhance {
            ensure!(settings.method.is_none(), "--method has no effect on enhance: leave it out");
            return Ok(None);
        }
        let scene = |scene: &Scene| match scene.length? {
            Length::Frames(frames) => Some(frames),
            Length::Seconds(seconds) => Some((seconds * geometry.fps.as_f64()).round() as usize),
        };
        let frames = geometry.frames.or_else(|| request.scenes.first().and_then(scene));
        let window = settings.window.unwrap_or(self.clip());
        let long = request.scenes.len() > 1 || frames.is_some_and(|frames| frames > window);
        let windows = self.configs.architecture.main_sites().kind == SiteKind::Joint;
        FreeNoise::choose(settings, recipe.method.freenoise.as_ref(), long, (source.is_some(), windows))
    }

    /// `together`: whether all frames are made at once.
    fn rules(&self, wanted: &Wanted, together: bool, preset: Option<&Preset>) -> Result<WindowRules> {
        let Self { request, settings, recipe, .. } = *self;
        let latent = self.configs.architecture.geometry();
        let windows = &recipe.method.ditctrl;
        let relay = |scene: &Scene| scene.transition.kind == Some(Transition::Relay);
        let relays = is_timed(&request.scenes) || request.scenes.iter().any(relay);
        ensure!(
            !(relays || settings.transition == Some(Transition::Relay))
                || self.configs.architecture.main_sites().kind == SiteKind::Joint && !together,
            "transition relay, and scenes that overlap or leave gaps, need a model whose text and video are one sequence: \
             use blend, or another --model"
        );
        let mut own_overlap = None;
        let (transition, joined) = if let GivenFrames::InPlace(trained) = self.configs.architecture.given_frames() {
            let (transition, overlap) = given_plan::transition(&trained, settings, &request.scenes, latent.time)?;
            own_overlap = Some(overlap);
            (transition, false)
        } else if recipe.method.zero_shot.is_some() || recipe.method.instruct.is_some() {
            (settings.transition.unwrap_or(Transition::Blend), false)
        } else {
            wanted.transition(settings, &request.scenes)?
        };
        let clip = recipe.method.freenoise.as_ref();
        let window = match clip {
            Some(method) => method.window,
            None => settings.window.unwrap_or(latent.window),
        };
        ensure!((1..=MOST_WINDOW).contains(&window), "--window {window}: give 1 to {MOST_WINDOW} latent frames");
        let overlap = match clip.filter(|_| together) {
            Some(method) => method.overlap,
            None => recipe.overlap(window),
        };
        Ok(WindowRules {
            window,
            patch_t: latent.unit_t(),
            time: latent.time,
            overlap: settings.overlap.or(own_overlap).unwrap_or(overlap),
            transition_windows: settings.transition_windows.unwrap_or(windows.transition_windows),
            hold: settings.hold.unwrap_or(windows.hold),
            blend: settings.blend.or(preset.map(|preset| preset.blend)).unwrap_or(windows.blend),
            transition,
            joined,
            relay_joined: wanted.joins_relayed(),
            fps: self.geometry.fps.as_f64(),
        })
    }

    /// How pictures become a video, where the model makes pictures.
    fn zero_shot(&self, sampler: &Sampler) -> Result<Option<ZeroShot>> {
        let Self { settings, recipe, .. } = *self;
        if let Some(method) = recipe.method.instruct.as_ref().filter(|_| self.footage.is_some()) {
            return ZeroShot::of_footage(settings, "--instruct", method.noise, method.chunk).map(Some);
        }
        if let Some(method) = &recipe.method.zero_shot {
            let beside = recipe.method.controlnet.as_ref().filter(|_| !self.control_inputs.is_empty());
            if let Some(beside) = beside {
                return ZeroShot::of_footage(settings, "--control", beside.noise, method.chunk).map(Some);
            }
            return ZeroShot::new(settings, method, sampler).map(Some);
        }
        let idle = settings.clone().only(&[Group::Motion]).said();
        let idle = idle.first().copied().or(settings.chunk.map(|_| "chunk"));
        match idle {
            None => Ok(None),
            Some(name) => bail!(
                "--{} is for image models, and this one makes videos: leave it out, or give another --model",
                name.replace('_', "-")
            ),
        }
    }

    /// Segments of a video of pictures.
    fn pictures(
        &self,
        rules: &WindowRules,
        zero_shot: &ZeroShot,
        source_video: Option<&SourceVideo>,
    ) -> Result<Vec<Segment>> {
        ensure!(
            source_video.is_none(),
            "an image model cannot go on from a video: use a video model, or leave the video out"
        );
        let each = self.configs.architecture.geometry().native.frames;
        zero_shot.segments(&self.request.scenes, self.geometry.frames, each, rules)
    }

    /// How chunks go on from each other, where the model makes chunks.
    fn streaming(&self) -> Result<Option<Streaming>> {
        let Self { request, settings, configs, source, recipe, geometry, .. } = *self;
        let Some(architecture) = configs.architecture.streaming() else {
            return streaming::check_absent(settings).map(|()| None);
        };
        if request.command == Command::Enhance {
            return Ok(None); // whose recipe says that it cannot
        }
        let asked = Chunked {
            settings,
            scenes: &request.scenes,
            frames: geometry.frames,
            recipe: recipe.method.streaming.as_ref(),
            folder: &configs.folder,
            source,
        };
        let most = configs.schedule.num_train_timesteps;
        let sampler = |kind, steps| {
            ensure!((1..=most).contains(&steps), "give 1 to {most} steps");
            self.sampler_of(kind, steps, 0.0, None)
        };
        Streaming::new(&asked, architecture.frames(), sampler).map(Some)
    }

    /// The subject that is put into a clip of so many frames, where the model does that.
    fn placed(&self, frames: usize, warnings: &mut Vec<String>) -> Result<Option<Placed>> {
        let Self { request, settings, configs, geometry, .. } = *self;
        let Some(architecture) = configs.architecture.subject() else {
            return placed::check_absent(settings).map(|()| None);
        };
        if request.command == Command::Enhance {
            return Ok(None); // whose recipe says that it cannot
        }
        Placed::check(request.command, request.scenes.len(), settings)?;
        Placed::new(settings, architecture, frames, (geometry.width, geometry.height), warnings).map(Some)
    }

    /// Segments of a video of chunks.
    fn chunks(
        &self,
        rules: &WindowRules,
        streaming: Option<&Streaming>,
        source_video: Option<&SourceVideo>,
    ) -> Result<Vec<Segment>> {
        let (scenes, frames) = (&self.request.scenes, self.geometry.frames);
        let said = frames.is_some() || source_video.is_some() || scenes.iter().any(|scene| scene.length.is_some());
        ensure!(self.request.command != Command::Extend || said, HOW_LONG);
        let segments = streaming.map(|streaming| streaming.segments(scenes, frames, rules, source_video));
        segments.context("no chunks")?
    }

    fn segments(&self, rules: &WindowRules, source_video: Option<&SourceVideo>) -> Result<Vec<Segment>> {
        let Request { command, scenes, .. } = self.request;
        let frames = self.geometry.frames;
        match *command {
            Command::Generate if self.settings.method == Some(Method::Windows) => rules.segments(scenes, frames, 0),
            Command::Generate | Command::Edit | Command::Enhance | Command::Animate | Command::Interpolate => {
                let window = self.settings.window.map(|window| rules.video_frames(window));
                if let (Some(frames), Some(window)) = (frames, window) {
                    ensure!(
                        rules.latent_frames(frames) == rules.latent_frames(window),
                        "--window {}: one prompt is made in one window, of {} latent frames here: leave it out, or use extend",
                        rules.window,
                        rules.latent_frames(frames)
                    );
                }
                Ok(vec![rules.single(frames.or(window).unwrap_or(self.clip()))])
            }
            Command::Extend if source_video.is_none() && frames.is_none() => {
                let long = scenes.iter().any(|scene| scene.length.is_some());
                ensure!(long, HOW_LONG);
                rules.segments(scenes, None, 0)
            }
            Command::MultiPrompt | Command::Extend => {
                rules.segments(scenes, frames, source_video.map_or(0, |video| video.context))
            }
        }
    }

    fn sampler(&self, steps: usize, preset: Option<&Preset>) -> Result<Sampler> {
        let Self { settings, configs, recipe, .. } = *self;
        let asked = settings.scheduler.or(preset.and_then(|preset| preset.scheduler)).or(recipe.scheduler);
        let kind = match asked {
            Some(kind) => kind,
            None => configs.schedule.kind().with_context(|| configs.folder.place()).code(Code::Model)?,
        };
        let own = match recipe.scheduler {
            // a sampler that is named for its noise has it
            _ if kind == SchedulerKind::SdeEuler => 1.0,
            // a recipe's is for its own sampler
            Some(own) if own != kind => 0.0,
            _ => recipe.eta,
        };
        self.sampler_of(kind, steps, settings.eta.unwrap_or(own), preset)
    }

    /// A sampler on the folder's schedule.
    fn sampler_of(&self, kind: SchedulerKind, steps: usize, eta: f64, preset: Option<&Preset>) -> Result<Sampler> {
        let Self { settings, configs, recipe, .. } = *self;
        let own = configs.folder.family().schedulers;
        let mut schedule = configs.keys.clone().config(own, Some(kind)).with_context(|| configs.folder.place())?;
        if let Some(shift) = settings.shift {
            ensure!(shift.is_finite() && shift > 0.0, "--shift {shift}: give a positive number");
            schedule.snr_shift_scale = shift;
        }
        let table = settings.schedule.or(preset.map(|preset| preset.table)).unwrap_or(recipe.schedule);
        let sampler = Sampler { schedule, kind, table, steps, eta };
        sampler.build()?; // finds every fault of these settings now
        Ok(sampler)
    }

    fn uncond(&self, guidance: GuidanceSchedule, preset: Option<&Preset>) -> Result<UncondText> {
        let Self { settings, recipe, .. } = *self;
        let uncond = settings.uncond.or(preset.map(|preset| preset.uncond)).unwrap_or(recipe.uncond);
        Ok(match (&settings.negative_prompt, uncond) {
            (Some(_), Uncond::Zeros) if settings.uncond.is_some() => {
                bail!("--negative-prompt and --uncond zeros both say what the unconditional text is: leave out one")
            }
            (Some(_), _) if !guided(guidance) && settings.guidance_mode != Some(GuidanceMode::Sit) => {
                bail!("--negative-prompt has no effect with --guidance-scale {guidance}, which is none: leave out one")
            }
            (Some(text), _) => UncondText::Text(text.clone()),
            (None, Uncond::Empty) => UncondText::Text(String::new()),
            (None, Uncond::Zeros) => UncondText::Zeros,
        })
    }

    fn compute(&self) -> Result<Compute> {
        let Self { settings, configs, .. } = *self;
        let Configs { folder, architecture, .. } = configs;
        let device = device::device(settings.device.unwrap_or(DeviceSpec::Auto))?;
        let stored = folder.part(architecture.part(Role::Denoiser)).code(Code::Model)?.stored_dtype();
        let dtype = match (settings.dtype.unwrap_or(Precision::Auto), &device, stored) {
            (Precision::F32, ..) | (Precision::Auto, Device::Cpu, _) => DType::F32,
            (Precision::Bf16, ..) => DType::BF16,
            (Precision::F16, ..) => DType::F16,
            (Precision::Auto, _, Some(DType::F16)) => DType::F16,
            (Precision::Auto, ..) => DType::BF16,
        };
        let target = KernelTarget {
            device: &device,
            dtype: compute_dtype(dtype, &device),
            head: architecture.main_sites().head_dim,
        };
        let attention = device::attention(settings.attention.unwrap_or(Attention::Auto), target)?;
        let half = if dtype == DType::F32 { DType::F32 } else { DType::BF16 };
        Ok(Compute {
            // on the CPU f16 would be rounding without a gain
            vae_dtype: if device.is_cpu() && dtype != DType::BF16 { DType::F32 } else { half },
            text_dtype: half,
            dtype,
            attention,
            device,
            offload: Offload::None,
        })
    }
}

/// Whether any step is guided.
fn guided(guidance: GuidanceSchedule) -> bool {
    match guidance {
        GuidanceSchedule::Constant(scale) | GuidanceSchedule::Wave(scale) => scale > 1.0,
        GuidanceSchedule::Ramp { from, to } => from.max(to) > 1.0,
    }
}

/// The texts of scenes, each with the style behind it.
fn prompts(scenes: &[Scene], style: Option<&str>) -> Vec<String> {
    let style = style.map(str::trim).filter(|style| !style.is_empty());
    let prompt = |scene: &Scene| match style {
        Some(style) => format!("{}, {style}", scene.prompt),
        None => scene.prompt.clone(),
    };
    scenes.iter().map(prompt).collect()
}
