//! From what was asked for to what it means. A [`Job`] is resolved and validated once, before any weight is loaded; nothing
//! after it reads a flag, and bad input does not get past it.

pub mod batch;
mod controls;
mod edit;
mod forecast;
mod geometry;
mod given;
mod keep;
mod maps;
mod memory;
mod output;
mod plan;
mod preview;
mod request;
pub mod settings;
mod sharing;
pub mod timelines;
pub mod values;
pub mod work;

pub use controls::{Controls, Subject, bank_size};
pub use edit::{Changes, Edit, Swap};
pub use forecast::{Forecast, outline};
pub use given::{Given, Kind as GivenKind, is_latents, taken_over};
pub use keep::KeepRules;
pub use maps::{MapView, Maps, MapsAsked, Pixel};
pub use memory::Need;
pub use plan::{Segment, WindowRules};
pub use preview::Preview;
pub use request::Request;
pub use settings::{Group, Settings};
pub use sharing::Sharing;
pub use timelines::{Reads, Timeline, TimelineRole};

use crate::guidance::{GuidanceSchedule, Rule};
use crate::models::Architecture;
use crate::models::architecture::Role;
use crate::models::autoencoder::DecodeOptions;
use crate::nn::compute_dtype;
use crate::nn::kernel::{self, Kernel};
use crate::recipe::{self, Chosen};
use crate::run::{Code, Failure, WithCode};
use crate::schedulers::{ScheduleConfig, ScheduleKeys, SchedulerKind, Table};
use crate::storyboard::{self, Scene, Storyboard};
use crate::timeline::BlendMode;
use crate::video::{self, Output};
use crate::weights::{self, ModelError, ModelFolder};
use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, DeviceLocation};
use controls::Wanted;
use geometry::Geometry;
use given::Source;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use values::{Attention, DeviceSpec, ManifestMode, Offload, Parity, Precision, Seed, TextCacheAt, Uncond};

/// The commands that make videos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// One prompt, one window.
    Generate,
    /// Scenes over overlapping windows.
    MultiPrompt,
    /// One long video from one prompt, or scenes that go on from a given video.
    Extend,
}

impl Command {
    pub fn name(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::MultiPrompt => "multi-prompt",
            Self::Extend => "extend",
        }
    }
}

/// What the unconditional half of guidance reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UncondText {
    /// An all-zero embedding.
    Zeros,
    Text(String),
}

/// Everything about one video that is to be made.
#[derive(Debug, Clone)]
pub struct Job {
    pub command: Command,
    /// What it was resolved from.
    pub request: Request,
    pub model: ModelFolder,
    /// What its configurations say.
    pub architecture: Arc<dyn Architecture>,
    pub schedule: ScheduleConfig,
    /// Final texts, style included; of an edit, the source's.
    pub prompts: Vec<String>,
    pub uncond: UncondText,
    /// Stretches between cuts and fades, in order; mostly one.
    pub segments: Vec<Segment>,
    /// The video that this one continues.
    pub given: Option<Given>,
    /// The name of its recipe.
    pub recipe: String,
    pub controls: Controls,
    pub rules: WindowRules,
    /// Channels, height and width of the latents.
    pub latents: (usize, usize, usize),
    /// Pixels.
    pub width: usize,
    pub height: usize,
    /// Frames of the whole video, those of the one it continues included where they belong to the output.
    pub frames: usize,
    pub steps: usize,
    pub guidance: GuidanceSchedule,
    pub scheduler: SchedulerKind,
    pub table: Table,
    pub eta: f64,
    pub blend: BlendMode,
    pub seed: u64,
    pub init_noise: Option<PathBuf>,
    pub save_latents: Option<PathBuf>,
    pub device: Device,
    /// Numbers the denoiser computes with; on the processor those that its weights have at most, and it computes in f32.
    pub dtype: DType,
    /// Numbers the text encoder computes with: never f16.
    pub text_dtype: DType,
    /// Numbers the autoencoder computes with.
    pub vae_dtype: DType,
    /// What computes the denoiser's attention.
    pub attention: Kernel,
    pub threads: usize,
    pub decode: DecodeOptions,
    /// None where embeddings are not kept.
    pub text_cache: Option<TextCacheAt>,
    pub output: Output,
    /// The encoder that will be used.
    pub codec: String,
    pub manifest: ManifestMode,
    /// Pictures while it runs.
    pub preview: Option<Preview>,
    /// The output exists and is to be left alone.
    pub skip: bool,
    pub keep: KeepRules,
    /// Where the weights are that are not at work; never `auto`.
    pub offload: Offload,
    /// Estimate of the memory of each stage.
    pub need: Need,
    /// What the user should know before the run.
    pub warnings: Vec<String>,
}

impl Job {
    /// The timelines of a segment, in the order in which they are kept.
    pub fn timelines(&self, segment: &Segment) -> Vec<Timeline> {
        match &self.controls.edit {
            Some(edit) => edit.timelines(&segment.plan, self.prompts.len(), self.steps),
            None => vec![Timeline::output(segment.plan.clone())],
        }
    }

    /// Videos that are decoded: the output, and companions that are seen beside it.
    pub fn shown(&self) -> usize {
        1 + usize::from(self.controls.edit.as_ref().is_some_and(|edit| edit.changes.side_by_side))
    }

    /// How the halves of guidance become one prediction.
    pub fn rule(&self) -> Rule {
        Rule::classifier_free(self.guidance)
    }

    /// `cpu`, `cuda:0`.
    pub fn device_name(&self) -> String {
        match self.device.location() {
            DeviceLocation::Cpu => "cpu".to_owned(),
            DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
            DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
        }
    }
}

/// Resolves settings and scenes into one job for each video, in the order of their seeds.
///
/// Errors carry the exit code: 2 for settings, 3 for the model, 4 for memory.
pub fn resolve(command: Command, settings: Settings, mut storyboard: Storyboard) -> Result<Vec<Job>, Failure> {
    let settings = settings.or(script_settings(&mut storyboard)?);
    let mut jobs = jobs(&Request { command, settings, scenes: storyboard.scenes, edit: None })?;
    // once for all videos of a file
    if let Some(job) = jobs.first_mut() {
        job.warnings.splice(0..0, storyboard.warnings);
    }
    Ok(jobs)
}

/// One job for each video of a request.
fn jobs(request: &Request) -> Result<Vec<Job>, Failure> {
    let request = &request.clone().settled().code(Code::Usage)?;
    let Request { command, settings, edit, .. } = request;
    let name = settings.model.clone().unwrap_or_else(|| weights::EMBEDDED.to_owned());
    let model = ModelFolder::open(&name, settings.offline.unwrap_or(false)).code(Code::Model)?;
    let configs = Configs::read(&model).code(Code::Model)?;
    let source = source(*command, settings)?;
    let videos = settings.num_videos.unwrap_or(1);
    let first = match settings.seed.unwrap_or(Seed::Random) {
        Seed::Given(seed) => seed,
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
        let message = "a video that goes on from another cannot be edited: edit the one it goes on from";
        return Err(Failure::message(Code::Usage, message));
    }
    (0..videos)
        .map(|index| {
            let seed = first.wrapping_add(index as u64);
            let place = output::Place { seed, index, videos, edit: edit.is_some() };
            let job = one(request, &model, &configs, source.as_ref(), place);
            let damaged = job.as_ref().is_err_and(|error| error.chain().any(|reason| reason.is::<ModelError>()));
            job.code(if damaged { Code::Model } else { Code::Usage })
        })
        .collect()
}

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
    let joining = settings.attn_proc.iter().flatten().find(|spec| spec.control.joins_windows);
    let joining = joining.map(|spec| format!("attn-proc {}", spec.control.name));
    let of_windows = settings.clone().only(&[Group::Windows, Group::Subject]).said();
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
fn source(command: Command, settings: &Settings) -> Result<Option<Source>, Failure> {
    let only_new = settings.only_new.unwrap_or(false);
    let message = match (command, &settings.video) {
        (Command::Extend, Some(_)) => return Source::read(settings),
        (_, Some(path)) => {
            let (name, path) = (command.name(), path.display());
            format!("video {path}: {name} goes on from no video: use extend, or leave it out")
        }
        (_, None) if settings.fit.is_some() => {
            "--fit has no effect without a video to go on from: leave it out".to_owned()
        }
        (_, None) if only_new => "--only-new has no effect without a video to go on from: leave it out".to_owned(),
        _ => return Ok(None),
    };
    Err(Failure::message(Code::Usage, message))
}

/// A job that only decodes: latents of so many frames, channels, rows and columns.
pub fn of_latents(settings: Settings, latents: (usize, usize, usize, usize)) -> Result<Job, Failure> {
    let (frames, channels, height, width) = latents;
    let name = settings.model.as_deref().unwrap_or(weights::EMBEDDED);
    let model = ModelFolder::open(name, settings.offline.unwrap_or(false)).code(Code::Model)?;
    let geometry = *Configs::read(&model).code(Code::Model)?.architecture.geometry();
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
        size: Some(values::Size { width, height }),
        frames: Some(length),
        seed: Some(Seed::Given(0)),
        manifest: Some(ManifestMode::None),
        ..settings
    };
    let storyboard = Storyboard::from_prompts(&["latents".to_owned()])?;
    let mut jobs = resolve(Command::Generate, settings, storyboard)?;
    jobs.pop().context("no job").code(Code::Failed)
}

/// Takes the settings out of a script. Errors name the place in the file.
pub fn script_settings(storyboard: &mut Storyboard) -> Result<Settings, Failure> {
    let table = std::mem::take(&mut storyboard.settings);
    for (key, value) in &table {
        let alone = read_settings([(key.clone(), value.clone())].into_iter().collect());
        if let Some(place) = storyboard.places.get(key) {
            alone.context(place.clone()).code(Code::Usage)?;
        }
    }
    read_settings(table)
}

/// Settings of a file by their names, with a suggestion for names that do not exist.
pub fn read_settings(table: toml::Table) -> Result<Settings, Failure> {
    read_keys("setting", table)
}

/// Keys of a table, each of which is a `what`.
pub fn read_keys<T: DeserializeOwned>(what: &str, table: toml::Table) -> Result<T, Failure> {
    serde_path_to_error::deserialize(toml::Value::Table(table))
        .map_err(|error| {
            let message = error.inner().message();
            // the names of types are Rust's
            let message =
                [("usize", "a whole number"), ("u32", "a whole number"), ("u8", "a whole number"), ("f64", "a number")]
                    .into_iter()
                    .fold(message.replace("expected a boolean", "expected true or false"), |message, (name, words)| {
                        message.replace(&format!("expected {name}"), &format!("expected {words}"))
                    });
            let mut words = message.split('`').skip(1).step_by(2); // serde lists the names that it knows
            match (error.path().to_string(), words.next()) {
                (_, Some(word)) if message.starts_with("unknown field") => {
                    values::unknown(what, word, &words.collect::<Vec<_>>())
                }
                (path, _) if path == "." => anyhow::anyhow!("{message}"),
                (path, _) => anyhow::anyhow!("{path}: {message}"),
            }
        })
        .code(Code::Usage)
}

/// The configurations of a model's parts.
#[derive(Debug, Clone)]
struct Configs {
    architecture: Arc<dyn Architecture>,
    keys: ScheduleKeys,
    /// By the class that the folder names.
    schedule: ScheduleConfig,
}

impl Configs {
    fn read(model: &ModelFolder) -> Result<Self> {
        let architecture = model.architecture()?;
        let keys: ScheduleKeys = model.json("scheduler/scheduler_config.json")?;
        let schedule = keys.clone().config(model.family().schedulers, None).with_context(|| model.place())?;
        // its values, apart from those of the flags
        crate::schedulers::build(&schedule, SchedulerKind::Ddim, Table::Diffusers, 1, 0.0)
            .with_context(|| model.place())?;
        Ok(Self { architecture, keys, schedule })
    }
}

fn one(
    request: &Request,
    model: &ModelFolder,
    configs: &Configs,
    source: Option<&Source>,
    place: output::Place,
) -> Result<Job> {
    let Request { command, settings, scenes, edit } = request;
    let Configs { architecture, keys, schedule } = configs.clone();
    let latent = *architecture.geometry();
    let mut warnings = marks_told(scenes);
    let settled = source.map(|source| source.settled(settings, &latent, &mut warnings)).transpose()?;
    let settings = settled.as_ref().unwrap_or(settings);
    let chosen = recipe::find(settings.recipe.as_ref(), &architecture.recipe_key())?;
    warnings.extend(chosen.warning);
    let Chosen { name: recipe_name, recipe, .. } = chosen;
    let geometry = Geometry::new(settings, &latent, &recipe)?;

    let steps = settings.steps.unwrap_or(recipe.steps);
    ensure!(
        (1..=schedule.num_train_timesteps).contains(&steps),
        "--steps {steps}: give 1 to {}",
        schedule.num_train_timesteps
    );
    let wanted = Wanted::new(settings, &recipe, &*architecture, steps)?;
    let (transition, joined) = wanted.transition(settings, scenes)?;
    let windows = &recipe.method.ditctrl;
    let rules = WindowRules {
        window: latent.window,
        patch_t: latent.patch_t,
        time: latent.time,
        overlap: settings.overlap.unwrap_or_else(|| recipe.overlap(latent.window)),
        transition_windows: settings.transition_windows.unwrap_or(windows.transition_windows),
        hold: settings.hold.unwrap_or(windows.hold),
        transition,
        joined,
        fps: geometry.fps.as_f64(),
    };
    let only_new = settings.only_new.unwrap_or(false);
    let given = source.map(|source| source.given(&rules, only_new)).transpose()?;
    let given = given.map(|given| Given { fit: settings.fit.unwrap_or_default(), ..given });
    let segments = match *command {
        Command::Generate => vec![rules.single(geometry.frames.unwrap_or(latent.native.frames))],
        Command::Extend if given.is_none() && geometry.frames.is_none() => {
            let long = scenes.iter().any(|scene| scene.length.is_some());
            ensure!(long, "how long is the video to be? give --duration, as 30s, or --frames");
            rules.segments(scenes, None, 0)?
        }
        Command::MultiPrompt | Command::Extend => {
            let context = given.as_ref().map_or(0, |given| given.context);
            rules.segments(scenes, geometry.frames, context)?
        }
    };
    let frames = plan::video_frames(&segments) + given.as_ref().map_or(0, Given::kept);
    let parity = settings.parity.map(Preset::of);
    let preset = parity.as_ref();
    let scheduler = match settings.scheduler.or(preset.and_then(|preset| preset.scheduler)).or(recipe.scheduler) {
        Some(kind) => kind,
        None => schedule.kind().with_context(|| model.place()).code(Code::Model)?,
    };
    let mut schedule = keys.config(model.family().schedulers, Some(scheduler)).with_context(|| model.place())?;
    if let Some(shift) = settings.shift {
        ensure!(shift.is_finite() && shift > 0.0, "--shift {shift}: give a positive number");
        schedule.snr_shift_scale = shift;
    }
    let eta = settings.eta.unwrap_or(recipe.eta);
    let table = settings.schedule.or(preset.map(|preset| preset.table)).unwrap_or(recipe.schedule);
    // finds every fault of these settings now
    crate::schedulers::build(&schedule, scheduler, table, steps, eta)?;
    let guidance = settings.guidance_scale.or(preset.map(|preset| preset.guidance)).unwrap_or(recipe.guidance_scale);

    let guided = match guidance {
        GuidanceSchedule::Constant(scale) | GuidanceSchedule::Wave(scale) => scale > 1.0,
        GuidanceSchedule::Ramp { from, to } => from.max(to) > 1.0,
    };
    let uncond = settings.uncond.or(preset.map(|preset| preset.uncond)).unwrap_or(recipe.uncond);
    let uncond = match (&settings.negative_prompt, uncond) {
        (Some(_), Uncond::Zeros) if settings.uncond.is_some() => {
            bail!("--negative-prompt and --uncond zeros both say what the unconditional text is: leave out one")
        }
        (Some(_), _) if !guided => {
            bail!("--negative-prompt has no effect with --guidance-scale {guidance}, which is none: leave out one")
        }
        (Some(text), _) => UncondText::Text(text.clone()),
        (None, Uncond::Empty) => UncondText::Text(String::new()),
        (None, Uncond::Zeros) => UncondText::Zeros,
    };

    let device = device(settings.device.unwrap_or(DeviceSpec::Auto))?;
    let stored = model.part(architecture.part(Role::Denoiser)).code(Code::Model)?.stored_dtype();
    let dtype = match (settings.dtype.unwrap_or(Precision::Auto), &device, stored) {
        (Precision::F32, ..) | (Precision::Auto, Device::Cpu, _) => DType::F32,
        (Precision::Bf16, ..) => DType::BF16,
        (Precision::F16, ..) => DType::F16,
        (Precision::Auto, _, Some(DType::F16)) => DType::F16,
        (Precision::Auto, ..) => DType::BF16,
    };
    let attention = attention(
        settings.attention.unwrap_or(Attention::Auto),
        kernel::KernelTarget {
            device: &device,
            dtype: compute_dtype(dtype, &device),
            head: architecture.main_sites().head_dim,
        },
    )?;
    let half = if dtype == DType::F32 { DType::F32 } else { DType::BF16 };

    let style = settings.style.as_deref().map(str::trim).filter(|style| !style.is_empty());
    let prompts: Vec<String> = scenes
        .iter()
        .map(|scene| match style {
            Some(style) => format!("{}, {style}", scene.prompt),
            None => scene.prompt.clone(),
        })
        .collect();

    let texts = (model, architecture.text().length);
    let controls = wanted.resolve(settings, scenes, &prompts, edit.as_ref(), &segments, texts, &mut warnings)?;

    let decode = geometry.decode(settings, &*architecture)?;
    let shown = controls.edit.as_ref().map_or(&prompts, |edit| &edit.prompts);
    let mut output = output::output(settings, &geometry, model, shown, &place)?;
    if edit.as_ref().is_some_and(|changes| changes.side_by_side) {
        output.width *= 2;
    }
    let skip = settings.skip_existing.unwrap_or(false) && output.path.exists();
    let preview = preview::preview(settings, &recipe, latent.channels, &output)?;
    let mut codec = String::new();
    if !skip {
        let checked = video::check(&output)?;
        warnings.extend(checked.warnings);
        codec = checked.codec;
        output::check_record(settings.manifest, &output)?;
        check_latents_place(settings)?;
    }
    let mut job = Job {
        command: *command,
        request: request.of_video(place.seed, output.asked()),
        model: model.clone(),
        uncond,
        latents: (latent.channels, geometry.latent_height, geometry.latent_width),
        width: geometry.width,
        height: geometry.height,
        architecture,
        schedule,
        prompts,
        segments,
        given,
        recipe: recipe_name,
        controls,
        rules,
        frames,
        steps,
        guidance,
        scheduler,
        table,
        eta,
        blend: settings.blend.or(preset.map(|preset| preset.blend)).unwrap_or(windows.blend),
        seed: place.seed,
        init_noise: settings.init_noise.clone(),
        save_latents: settings.save_latents.clone(),
        // on the CPU f16 would be rounding without a gain
        vae_dtype: if device.is_cpu() && dtype != DType::BF16 { DType::F32 } else { half },
        text_dtype: half,
        dtype,
        attention,
        device,
        threads: threads(settings.threads)?,
        decode,
        text_cache: match &settings.text_cache {
            Some(TextCacheAt::Off) => None,
            Some(folder) => Some(folder.clone()),
            None => dirs::cache_dir().map(|folder| TextCacheAt::Folder(folder.join("vidgen").join("text"))),
        },
        output,
        codec,
        manifest: settings.manifest.unwrap_or(ManifestMode::Both),
        preview,
        skip,
        keep: KeepRules::new(settings)?,
        offload: Offload::None,
        need: Need::default(),
        warnings,
    };
    memory::settle(&mut job, settings)?;
    Ok(job)
}

/// The settings of another program's run.
struct Preset {
    uncond: Uncond,
    table: Table,
    guidance: GuidanceSchedule,
    scheduler: Option<SchedulerKind>,
    blend: BlendMode,
}

impl Preset {
    fn of(parity: Parity) -> Self {
        let sat = Self {
            uncond: Uncond::Zeros,
            table: Table::Sat,
            guidance: GuidanceSchedule::Wave(6.0),
            scheduler: Some(SchedulerKind::Dpmpp2mSde),
            blend: BlendMode::Repo,
        };
        match parity {
            Parity::Diffusers => Self {
                uncond: Uncond::Empty,
                table: Table::Diffusers,
                guidance: GuidanceSchedule::Constant(6.0),
                scheduler: None,
                blend: BlendMode::Repo,
            },
            Parity::Sat => sat,
            Parity::Paper => Self { blend: BlendMode::Paper, ..sat },
        }
    }
}

/// The name of the recipe that a model has by itself.
pub fn recipe_of(model: &ModelFolder) -> Result<String> {
    Ok(recipe::find(None, &model.architecture()?.recipe_key())?.name)
}

/// The device of a name, if it is there.
pub fn device(spec: DeviceSpec) -> Result<Device> {
    let absent = |name: &str, ordinal: usize, feature: &str, built: bool| match built {
        true => anyhow::anyhow!("device {name}:{ordinal} is not there: use --device cpu"),
        false => {
            anyhow::anyhow!("device {name} is not in this build: build with --features {feature}, or use --device cpu")
        }
    };
    let (cuda, metal) = (candle_core::utils::cuda_is_available(), candle_core::utils::metal_is_available());
    match spec {
        DeviceSpec::Auto if cuda => Ok(Device::new_cuda(0).unwrap_or(Device::Cpu)),
        DeviceSpec::Auto if metal => Ok(Device::new_metal(0).unwrap_or(Device::Cpu)),
        DeviceSpec::Auto | DeviceSpec::Cpu => Ok(Device::Cpu),
        DeviceSpec::Cuda(ordinal) => Device::new_cuda(ordinal).map_err(|_| absent("cuda", ordinal, "cuda", cuda)),
        DeviceSpec::Metal(ordinal) => Device::new_metal(ordinal).map_err(|_| absent("metal", ordinal, "metal", metal)),
    }
}

/// The kernel of a name, if it can be had there.
fn attention(asked: Attention, place: kernel::KernelTarget) -> Result<Kernel> {
    let kernel = match asked {
        Attention::Auto => return Ok(Kernel::auto(place)),
        Attention::Flash3 => Kernel::Flash3,
        Attention::Flash2 => Kernel::Flash2,
        Attention::Sdpa => Kernel::Sdpa,
        Attention::Math => Kernel::Math,
    };
    match kernel.check(place) {
        Ok(()) => Ok(kernel),
        Err(why) => bail!("--attention {asked}: {why}, or use --attention {}", Kernel::auto(place).name()),
    }
}

fn threads(asked: Option<usize>) -> Result<usize> {
    match asked {
        None => {
            // the system reads files to say so, and the jobs of a batch ask one after the other
            static ALL: OnceLock<usize> = OnceLock::new();
            Ok(*ALL.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from)))
        }
        Some(threads @ 1..=1024) => Ok(threads),
        Some(threads) => bail!("--threads {threads}: give 1 to 1024"),
    }
}

fn check_latents_place(settings: &Settings) -> Result<()> {
    let Some(path) = &settings.save_latents else { return Ok(()) };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        ensure!(folder.is_dir(), "--save-latents {}: no such directory: {}", path.display(), folder.display());
    }
    ensure!(!path.is_dir(), "--save-latents {}: is a directory", path.display());
    video::check_name(path).with_context(|| format!("--save-latents {}", path.display()))?;
    if path.exists() && !settings.overwrite.unwrap_or(false) {
        bail!("--save-latents {}: exists; use -y to replace it", path.display());
    }
    Ok(())
}
