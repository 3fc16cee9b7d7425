//! From a request to jobs: every setting gets its value, and every fault is found before anything is loaded.

use super::asked::{Asked, Configs, OpenedModels};
use super::control::ControlFiles;
use super::footage::{Footage, resampled};
use super::geometry::Geometry;
use super::given::{self, GivenFiles};
use super::output::{Outputs, Place};
use super::scene_times;
use super::sdedit;
use super::source_video::SourceFile;
use super::values::{ManifestMode, Method, Seed, Size, TextCacheAt, Tiling};
use super::{Command, Group, Job, KeepRules, Machine, Request, Settings, device, enhance, memory, script_settings};
use crate::models::architecture::OtherTask;
use crate::processors::Spec;
use crate::recipe::{self, Chosen};
use crate::run::{Code, Failure, WithCode};
use crate::storyboard::{self, Scene, Storyboard};
use crate::weights::{self, ModelError, ModelFolder};
use anyhow::{Context, Result};
use std::hash::{BuildHasher, RandomState};

/// Resolves settings and scenes into one job for each video, in the order of their seeds.
///
/// Errors carry the exit code: 2 for settings, 3 for the model, 4 for memory.
pub fn resolve(command: Command, settings: Settings, storyboard: Storyboard) -> Result<Vec<Job>, Failure> {
    resolve_among(&mut OpenedModels::default(), command, settings, storyboard)
}

/// [`resolve`] for one of many requests, whose models are opened once.
pub fn resolve_among(
    models: &mut OpenedModels,
    command: Command,
    settings: Settings,
    mut storyboard: Storyboard,
) -> Result<Vec<Job>, Failure> {
    let settings = settings.or(script_settings(&mut storyboard)?);
    let mut jobs = jobs(&Request { command, settings, scenes: storyboard.scenes, edit: None }, models)?;
    // once for all videos of a file
    if let Some(job) = jobs.first_mut() {
        job.warnings.splice(0..0, storyboard.warnings);
    }
    Ok(jobs)
}

impl Request {
    /// One job for each video; see [`resolve`].
    ///
    /// # Errors
    /// As [`resolve`].
    pub fn resolve(self) -> Result<Vec<Job>, Failure> {
        let scenes = self.checked_scenes().code(Code::Usage)?;
        jobs(&Self { scenes, ..self }, &mut OpenedModels::default())
    }
}

/// One job for each video of a request.
fn jobs(request: &Request, models: &mut OpenedModels) -> Result<Vec<Job>, Failure> {
    let request = &request.clone().settled().code(Code::Usage)?;
    let Request { command, settings, edit, .. } = request;
    let name = settings.model.clone().unwrap_or_else(|| weights::EMBEDDED.to_owned());
    let offline = settings.offline.unwrap_or(false);
    let configs = opened(models.open(&name, offline))?;
    let inner = if *command == Command::Edit { configs.folder.inner(INSTRUCT).code(Code::Model)? } else { None };
    let configs = match inner {
        Some(folder) => opened(Configs::read(folder))?,
        None => configs,
    };
    let loras: Vec<_> = settings.lora.iter().flatten().map(|lora| (lora.file.as_path(), lora.weight)).collect();
    let configs = match loras.is_empty() {
        true => configs,
        false => Configs { folder: configs.folder.with_loras(&loras).context("--lora").code(Code::Model)?, ..configs },
    };
    let enhance = match &settings.enhance {
        Some(name) => Some(models.open(name, offline).context("--enhance").code(Code::Model)?),
        None if *command == Command::Enhance => None,
        None => enhance::check_absent(settings).code(Code::Usage).map(|()| None)?,
    };
    let source = source(*command, settings)?;
    let controls = controls(*command, settings)?;
    let first_frame = settings.first_frame.as_deref().map(SourceFile::picture).transpose();
    let first_frame = first_frame.context("--first-frame").code(Code::Usage)?;
    let pictures = GivenFiles::read(*command, settings)?;
    let videos = settings.num_videos.unwrap_or(1);
    let first = match settings.seed.unwrap_or(Seed::Random) {
        Seed::Fixed(seed) => seed,
        // small enough to be typed again
        Seed::Random => RandomState::new().hash_one(std::process::id()) & 0xFFFF_FFFF,
    };
    if videos == 0 || videos > 10_000 {
        return Err(Failure::message(Code::Usage, format!("--num-videos {videos}: give 1 to 10000")));
    }
    if videos > 1 && settings.init_noise.is_some() {
        let message = "--init-noise makes every video the same: leave out --num-videos";
        return Err(Failure::message(Code::Usage, message));
    }
    if first.checked_add(videos as u64 - 1).is_none() {
        let message =
            format!("--num-videos {videos}: seeds end at {}, so that {first} has not so many after it", u64::MAX);
        return Err(Failure::message(Code::Usage, message));
    }
    if edit.is_some() && source.is_some() {
        let message = match command {
            Command::Edit => "a video changed by an instruction has no words to swap: give --instruct again",
            _ => "a video that goes on from another cannot be edited: edit the one it goes on from",
        };
        return Err(Failure::message(Code::Usage, message));
    }
    (0..videos)
        .map(|index| {
            let seed = first.wrapping_add(index as u64);
            let place = Place { seed, index, videos, edit: edit.is_some() };
            let files = Files {
                source: source.as_ref(),
                controls: &controls,
                pictures: &pictures,
                first_frame: first_frame.as_ref(),
            };
            let job = job(request, &configs, enhance.as_ref(), files, &place);
            let damaged = job.as_ref().is_err_and(|error| error.chain().any(|reason| reason.is::<ModelError>()));
            job.code(if damaged { Code::Model } else { Code::Usage })
        })
        .collect()
}

/// A model that is not damaged but for something else is a mistake of usage.
fn opened(configs: Result<Configs>) -> Result<Configs, Failure> {
    let other = configs.as_ref().is_err_and(|error| error.chain().any(|reason| reason.is::<OtherTask>()));
    configs.code(if other { Code::Usage } else { Code::Model })
}

/// The folder in a model's that changes given videos as it is told.
const INSTRUCT: &str = "instruct";

/// What is said of prompts with another program's marks.
fn marks_told(scenes: &[Scene]) -> Vec<String> {
    let told = |(index, scene): (usize, &Scene)| {
        let marks = storyboard::marks(&scene.prompt);
        let which = if scenes.len() == 1 { "the prompt".to_owned() } else { format!("prompt {}", index + 1) };
        (!marks.is_empty()).then(|| {
            format!(
                "{which} has marks of another program, which are read as letters: {}; write the words alone \
                 (--attn-proc reweight:words=red:1.3 weighs them)",
                marks.join(", ")
            )
        })
    };
    scenes.iter().enumerate().filter_map(told).collect()
}

/// Refuses what a single window of one prompt has no use for.
pub fn check_single(scenes: &[Scene], settings: &Settings) -> Result<(), Failure> {
    if scenes.len() > 1 {
        let message = format!("generate takes one prompt and got {}: use multi-prompt", scenes.len());
        return Err(Failure::message(Code::Usage, message));
    }
    let of_scenes = |spec: &&Spec| spec.control.joins_windows || spec.control.routes_words;
    let joining = settings.attn_proc.iter().flatten().find(of_scenes);
    let joining = joining.map(|spec| format!("attn-proc {}", spec.control.name));
    let windows: &[Group] = if settings.method == Some(Method::Windows) { &[] } else { &[Group::Windows] };
    // of a smoothed background the subject is what is not smoothed
    let subject: &[Group] = if settings.smooth_background.is_some() { &[] } else { &[Group::Subject] };
    let of_windows = settings.clone().only(&[windows, subject].concat()).said();
    let idle = of_windows.first().map(|name| name.replace('_', "-")).or(joining);
    match idle {
        None => Ok(()),
        Some(flag) => {
            let message = format!("--{flag} has no effect on a single window: leave it out, or use multi-prompt");
            Err(Failure::message(Code::Usage, message))
        }
    }
}

/// The video that is to be continued, for the command that can.
fn source(command: Command, settings: &Settings) -> Result<Option<SourceFile>, Failure> {
    let only_new = settings.only_new.unwrap_or(false);
    let message = match (command, &settings.video) {
        (Command::Edit | Command::Enhance, Some(_)) if settings.fit.is_some() || only_new => {
            "--fit and --only-new are of videos that are gone on from: leave them out".to_owned()
        }
        (Command::Animate | Command::Interpolate, _) if only_new => {
            "--only-new is of videos that are gone on from: leave it out".to_owned()
        }
        (Command::Extend, Some(path)) if settings.image.is_some() => {
            format!(
                "video {}: goes on from its own end, and --image says another beginning: leave out one",
                path.display()
            )
        }
        (Command::Animate | Command::Interpolate | Command::Extend | Command::Edit | Command::Enhance, Some(_)) => {
            return SourceFile::read(settings);
        }
        (_, Some(path)) => {
            let (name, path) = (command.name(), path.display());
            format!("video {path}: {name} goes on from no video: use extend, or leave it out")
        }
        (_, None) if settings.fit.is_some() && (command != Command::Animate && settings.image.is_none()) => {
            "--fit has no effect without a video to go on from: leave it out".to_owned()
        }
        (_, None) if only_new => "--only-new has no effect without a video to go on from: leave it out".to_owned(),
        _ => return Ok(None),
    };
    Err(Failure::message(Code::Usage, message))
}

/// The pictures that the video follows, for commands that make it from a text.
fn controls(command: Command, settings: &Settings) -> Result<ControlFiles, Failure> {
    let given = settings.clone().only(&[Group::Control]).said();
    if let (true, Some(name)) = (command == Command::Edit || settings.video.is_some(), given.first()) {
        let name = name.replace('_', "-");
        let message =
            format!("--{name} is for videos of texts, and here a video is given: leave it out, or use generate");
        return Err(Failure::message(Code::Usage, message));
    }
    ControlFiles::read(settings)
}

/// A job that only decodes: latents of so many frames, channels, rows and columns.
pub fn of_latents(settings: Settings, latents: (usize, usize, usize, usize)) -> Result<Job, Failure> {
    let (frames, channels, height, width) = latents;
    let name = settings.model.as_deref().unwrap_or(weights::EMBEDDED);
    let model = ModelFolder::open(name, settings.offline.unwrap_or(false)).code(Code::Model)?;
    let geometry = *model.architecture().code(Code::Model)?.geometry();
    if frames == 0 || height == 0 || width == 0 || channels != geometry.channels {
        let message = format!(
            "latents of {frames} frames with {channels} channels of {height} by {width} are none of {name}, which has {} \
             channels: use --model",
            geometry.channels
        );
        return Err(Failure::message(Code::Usage, message));
    }
    let ratio = geometry.spatial_ratio;
    let size = width.checked_mul(ratio).zip(height.checked_mul(ratio));
    let length = geometry.time.checked_frames(frames);
    let (Some((width, height)), Some(length)) = (size, length) else {
        return Err(Failure::message(Code::Usage, "latents of an impossible size"));
    };
    let settings = Settings {
        size: Some(Size { width, height }),
        frames: Some(length),
        seed: Some(Seed::Fixed(0)),
        manifest: Some(ManifestMode::None),
        ..settings
    };
    let storyboard = Storyboard::from_prompts(&["latents".to_owned()])?;
    let mut jobs = resolve(Command::Generate, settings, storyboard)?;
    jobs.pop().context("no job").code(Code::Failed)
}

/// The files that a request names, as far as they are looked into before the model is known.
struct Files<'a> {
    source: Option<&'a SourceFile>,
    controls: &'a ControlFiles,
    pictures: &'a GivenFiles,
    /// The picture that a video of an image model begins with.
    first_frame: Option<&'a SourceFile>,
}

fn job(
    request: &Request,
    configs: &Configs,
    enhance: Option<&Configs>,
    Files { source, controls, pictures, first_frame }: Files,
    place: &Place,
) -> Result<Job> {
    let mut warnings = marks_told(&request.scenes);
    let latent = configs.architecture.geometry();
    let (continued, changed, given) = match request.command {
        Command::Edit | Command::Enhance => (None, source, None),
        Command::Animate | Command::Interpolate => (None, None, source),
        _ => (source, None, None),
    };
    let faster = given.filter(|_| request.command == Command::Interpolate);
    let faster = faster.map(|source| given::twice_as_fast(source, &request.settings)).transpose()?;
    let settled = continued.map(|source| source.settled(&request.settings, latent, &mut warnings)).transpose()?;
    let footage = if request.command == Command::Enhance { sdedit::footage } else { Footage::new };
    let footage = changed.map(|source| footage(source, &request.settings, latent, &mut warnings)).transpose()?;
    let (footage, of_footage) = footage.unzip();
    let model = (&configs.folder, &*configs.architecture);
    let control = (!controls.is_empty()).then(|| controls.resolve(&request.settings, model, &mut warnings));
    let (control_inputs, of_controls) = control.transpose()?.unzip();
    let of_picture = first_frame.map(|picture| Footage::of_picture(picture, &request.settings, latent));
    let of_given =
        settled.as_ref().or(of_footage.as_ref()).or(of_controls.as_ref()).or(of_picture.as_ref()).or(faster.as_ref());
    let settings = of_given.unwrap_or(&request.settings);
    let chosen = recipe::find(settings.recipe.as_ref(), &configs.architecture.recipe_key())?;
    warnings.extend(chosen.warning);
    let Chosen { name, mut recipe, .. } = chosen;
    if control_inputs.is_some() {
        recipe = recipe.controlled()?;
    }
    let geometry = Geometry::new(settings, latent, &recipe)?;
    let size = Size { width: geometry.width, height: geometry.height };
    warnings.extend(first_frame.and_then(|picture| resampled(picture, size, &request.settings)));
    let usual = latent.time.frames(latent.window);
    let scenes = scene_times::settled(&request.scenes, geometry.frames, geometry.fps.as_f64(), usual)?;
    let timed = Request { scenes, ..request.clone() };
    let asked = Asked {
        request: &timed,
        settings,
        configs,
        source: continued,
        given,
        pictures,
        footage: footage.as_ref(),
        first_frame,
        control_inputs: control_inputs.as_deref().unwrap_or_default(),
        recipe: &recipe,
        geometry: &geometry,
    };
    let (first, between) = asked.stage(name, &mut warnings)?;
    let between = between.map(|segments| first.between(segments));
    let mut stages = vec![first];
    stages.extend(between);
    let before = &stages[stages.len() - 1];
    let second = enhance.map(|model| enhance::stage(before, settings, model)).transpose()?;
    let recipe = second.as_ref().map_or(&recipe, |(_, recipe)| recipe);
    stages.extend(second.as_ref().map(|(stage, _)| stage.clone()));
    let shown = &stages[stages.len() - 1];
    let output = Outputs::new(settings, recipe, geometry.fps, shown, place, &mut warnings)?;
    let mut request = request.of_video(place.seed, output.video.asked());
    if memory::tile(&mut stages, settings, &mut warnings)? {
        request.settings.vae_tiling = Some(Tiling::On);
    }
    stages.iter_mut().try_for_each(|stage| memory::settle(stage, settings, &mut warnings))?;
    let text_cache = match &settings.text_cache {
        Some(TextCacheAt::Off) => None,
        Some(folder) => Some(folder.clone()),
        None => dirs::cache_dir().map(|folder| TextCacheAt::Folder(folder.join("vidgen").join("text"))),
    };
    Ok(Job {
        command: request.command,
        request,
        seed: place.seed,
        stages,
        output,
        keep: KeepRules::new(settings)?,
        machine: Machine { threads: device::threads(settings.threads)?, text_cache },
        warnings,
    })
}
