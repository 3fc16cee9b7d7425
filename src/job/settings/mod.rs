//! What was asked for, from wherever: flags, environment, scripts, project and user files.
//!
//! One field is one setting: its flag, its environment variable, its key in files and its [`Group`] come from the same place,
//! so that they cannot drift apart. (That is why clap's derive stands here and not in `cli`, which adds to every flag what follows from its
//! name: the variable, and spellings with underscores.) Numbers that are not whole are kept as words: those are read back as
//! they were, which JSON's numbers are not to the last digit, and a run that is read back is the same run. Nothing is resolved yet; see
//! [`super::Job`].

mod groups;
mod read;

pub use groups::Group;
pub use read::{read_keys, read_settings, script_settings};

use super::cache_asked::CacheAsked;
use super::control_values::{CannyThresholds, ControlAsked, ControlModelAsked};
use super::given_values::{GuidanceMode, Keyframe, NullFrame, Renorm};
use super::long::Long;
use super::values::{
    AnchorAsked, Attention, DeviceSpec, Duration, Every, FrameNoise, Interpolate, Lora, ManifestMode, MemorySize,
    Method, MotionAsked, Offload, OnInterrupt, Parity, Precision, PreviewKind, Seconds, Seed, Size, TextCacheAt,
    Tiling, Uncond, list, text,
};
use crate::guidance::GuidanceSchedule;
use crate::processors::Spec;
use crate::recipe::Choice;
use crate::schedulers::{SchedulerKind, Table};
use crate::storyboard::Transition;
use crate::timeline::{BlendMode, MotionPath, MotionSteps};
use crate::video::{Codec, Fit, PixelFormat, Rate};
use clap::builder::FalseyValueParser;
use groups::settings;
use std::path::PathBuf;

settings! {
    /// Model: a folder in diffusers layout, a Stable Diffusion checkpoint in one .safetensors file, a hub id (org/name or
    /// org/name@revision), a known name, or toyland, which is built in
    #[arg(short, long, value_name = "NAME|DIR|FILE", help_heading = "Model and machine")]
    #[arg(aliases = ["model-path", "ckpt-dir", "checkpoint-path"])]
    Model.model: String,

    /// A LoRA file (.safetensors, kohya's or diffusers' names) that is merged into the weights, and how much it counts, as
    /// style.safetensors:0.8 [default: 1]; again for several
    #[arg(long, value_name = "FILE[:WEIGHT]", help_heading = "Model and machine", value_delimiter = ';', alias = "lora-path")]
    #[serde(with = "list")]
    Model.lora: Vec<Lora>,

    /// Recipe, the defaults of everything below: one of `vidgen recipes`, or a TOML file that says what is different
    /// [default: the model's]
    #[arg(long, value_name = "NAME|FILE", help_heading = "Model and machine")]
    #[serde(with = "text")]
    Sampling.recipe: Choice,

    /// What not to show; replaces the unconditional text
    #[arg(short, long, value_name = "TEXT")]
    #[arg(aliases = ["negative", "n-prompt"])]
    Sampling.negative_prompt: String,

    /// Added to every prompt
    #[arg(long, value_name = "TEXT", alias = "head-prompt")]
    Sampling.style: String,

    /// Denoising steps [default: the model's]
    #[arg(long, value_name = "N")]
    #[arg(aliases = ["num-inference-steps", "sample-steps", "ddim-steps", "num-steps"])]
    Sampling.steps: usize,

    /// Guidance scale, also as a schedule: 6, wave:6, ramp:1..6 [default: the model's]
    #[arg(long, value_name = "X")]
    #[arg(aliases = ["cfg-scale", "cfg", "guidance", "sample-guide-scale"])]
    #[serde(with = "text")]
    Sampling.guidance_scale: GuidanceSchedule,

    /// Seed, a number or random [default: random, printed and stored]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, alias = "base-seed")]
    #[serde(with = "text")]
    Video.seed: Seed,

    /// Width in pixels [default: the model's]
    #[arg(short = 'W', long, value_name = "N")]
    Video.width: usize,

    /// Height in pixels [default: the model's]
    #[arg(short = 'H', long, value_name = "N")]
    Video.height: usize,

    /// Width and height in pixels, as 144x96
    #[arg(long, value_name = "WxH", conflicts_with_all = ["width", "height"], alias = "resolution")]
    #[serde(with = "text")]
    Video.size: Size,

    /// Frames of the video, exactly [default: the model's, or what the windows make]
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    #[arg(aliases = ["num-frames", "video-frames", "frame-num", "length"])]
    Video.frames: usize,

    /// Length of the video: 6, 6s, 1m30s
    #[arg(long, value_name = "SECONDS")]
    #[serde(with = "text")]
    Video.duration: Duration,

    /// The video to go on from or to change; `extend` and `edit` have a flag for it.
    #[arg(skip)]
    Video.video: PathBuf,

    /// Leave the given video's own frames out; `extend` has a flag for it.
    #[arg(skip)]
    Video.only_new: bool,

    /// How the given video's frames become those of another shape; `extend` has a flag for it.
    #[arg(skip)]
    #[serde(with = "text")]
    Video.fit: Fit,

    /// The first frame; `animate` and `extend` have a flag for it.
    #[arg(skip)]
    Video.image: PathBuf,

    /// The last frame; `animate` has a flag for it.
    #[arg(skip)]
    Video.last_image: PathBuf,

    /// Other frames; `animate` has a flag for it.
    #[arg(skip)]
    #[serde(with = "list")]
    Video.keyframe: Vec<Keyframe>,

    /// Frames of the given video's end that the clip begins with; `animate` has a flag for it.
    #[arg(skip)]
    Video.context: usize,

    /// What guidance leaves out beside the text: cfg (nothing), jit (the given frames as well: more motion) or sit (first the text,
    /// then the given frames, with a scale each) [default: jit where the model was trained for it, else cfg]
    #[arg(long, value_name = "MODE", help_heading = "Given frames")]
    #[serde(with = "text")]
    Sampling.guidance_mode: GuidanceMode,

    /// Scales the guided prediction to the norm of the conditional one: off, full, or clamp (never above its own) [default: off]
    #[arg(long, value_name = "KIND", help_heading = "Given frames")]
    #[serde(with = "text")]
    Sampling.renorm: Renorm,

    /// What passes without the given frames see in their place: renoise (these frames under the step's noise) or free (noise that
    /// moves by itself) [default: renoise]
    #[arg(long, value_name = "KIND", help_heading = "Given frames")]
    #[serde(with = "text")]
    Sampling.null_frame: NullFrame,

    /// Frames per second of the file [default: the model's]
    #[arg(long, value_name = "N")]
    #[arg(aliases = ["frame-rate", "sampling-fps", "out-fps"])]
    #[serde(with = "text")]
    Decoding.fps: Rate,

    /// Frames put between those that are made, by RIFE: 2x, 4x or 8x as many, at as many times --fps. `make metrics` takes the
    /// network from PyPI once
    #[arg(long, value_name = "FACTOR")]
    #[serde(with = "text")]
    Decoding.interpolate: Interpolate,

    /// How scenes follow each other: attention (overlapping windows that read each other's keys and values), blend
    /// (overlapping windows), relay (scenes of a window share a text, and frames listen to their own), cut, or fade:FRAMES (a cut whose two sides are mixed over so many frames; fade for a
    /// second) [default: attention where the model has a recipe for it, else blend]
    #[arg(long, value_name = "KIND", help_heading = "Windows")]
    #[serde(with = "text")]
    Windows.transition: Transition,

    /// Latent frames that neighbouring windows share [default: the model's]
    #[arg(long, value_name = "N", help_heading = "Windows", alias = "overlap-size")]
    Windows.overlap: usize,

    /// Windows with interpolated text between two prompts [default: the model's]
    #[arg(long, value_name = "N", help_heading = "Windows")]
    #[arg(alias = "num-transition-blocks")]
    Windows.transition_windows: usize,

    /// Windows added to each prompt that is neither first nor last
    #[arg(long, value_name = "N", help_heading = "Windows", alias = "longer-mid-segment")]
    Windows.hold: usize,

    /// A control of attention, as kv-share:layers=25-29,steps=2-24; again for several, the outermost first. `vidgen
    /// processors` lists them [default: the model's kv-share between joined windows]
    #[arg(long, value_name = "SPEC", help_heading = "Attention", value_delimiter = ';')]
    #[serde(with = "list")]
    Attention.attn_proc: Vec<Spec>,

    /// Words of the prompts for what is to stay itself: its place reads its place in the window before, the rest the rest. With
    /// --smooth-background: for what is no background
    #[arg(long, value_name = "WORDS", help_heading = "Attention", value_delimiter = ',')]
    #[serde(with = "list")]
    Subject.subject: Vec<String>,

    /// Share of a frame's peak from which a place belongs to the subject [default: 0.3; with --smooth-background 0.5, above the
    /// frame's lowest]
    #[arg(long, value_name = "X", help_heading = "Attention", alias = "thres")]
    #[serde(with = "text")]
    Subject.mask_threshold: f64,

    /// Sampler: ddim, euler, euler-ancestral, dpmpp-2m, dpmpp-2m-sde, unipc or lcm; of models of flow matching (STIV) euler, heun
    /// or sde-euler [default: the model's]
    #[arg(long, value_name = "NAME", help_heading = "Sampling")]
    #[arg(aliases = ["sampler", "sampling-method", "sample-solver"])]
    #[serde(with = "text")]
    Sampling.scheduler: SchedulerKind,

    /// Steps that are not computed, where little changes: tea:THRESHOLD (TeaCache), mag:THRESHOLD,skip=K,retain=R (MagCache,
    /// after `vidgen calibrate --cache`), both for transformers of blocks in a row, deep:INTERVAL (DeepCache, for UNets), or off, which is exact [default: off]
    #[arg(long, value_name = "METHOD", help_heading = "Sampling")]
    #[arg(alias = "cache-mode")]
    #[serde(with = "text")]
    Sampling.cache: CacheAsked,

    /// Shift of the noise levels (signal-to-noise ratio divided by it; of flow matching the signal over the noise) [default: the
    /// model's]
    #[arg(long, value_name = "X", help_heading = "Sampling", alias = "flow-shift")]
    #[serde(with = "text")]
    Sampling.shift: f64,

    /// Fresh noise per step of ddim [default: 0] or sde-euler [default: 1], 0 to 1
    #[arg(long, value_name = "X", help_heading = "Sampling")]
    #[serde(with = "text")]
    Sampling.eta: f64,

    /// How a model of clips (ModelScope, ZeroScope) makes more frames than a clip has: freenoise (all frames in one pass whose
    /// attention in time goes by windows), windows (clips that overlap), or auto: freenoise, and windows to go on from a video
    #[arg(long, value_name = "NAME", help_heading = "Models of clips")]
    #[serde(with = "text")]
    Sampling.method: Method,

    /// Latent frames of a window, of models of clips frames of one of freenoise [default: the model's]
    #[arg(long, value_name = "N", help_heading = "Windows")]
    Sampling.window: usize,

    /// What lets a model follow windows longer than its own: riflex:k=K (a frequency of rotary positions is lowered), or
    /// ultravico:ALPHA (attention between frames far apart is damped)
    #[arg(long, value_name = "METHOD", help_heading = "Windows")]
    #[serde(with = "text")]
    Sampling.long: Long,

    /// Frames from one window of freenoise to the next [default: 4]
    #[arg(long, value_name = "N", help_heading = "Models of clips")]
    Sampling.stride: usize,

    /// The frame that all later ones are held to: frame:N of the video (of the given one in extend), image:FILE, or none: the
    /// text alone [default: the model's, frame:0]
    #[arg(long, value_name = "frame:N|image:FILE|none", help_heading = "Streaming models")]
    #[serde(with = "text")]
    Streaming.anchor: AnchorAsked,

    /// Denoising steps of the first chunk [default: --steps, else 50]
    #[arg(long, value_name = "N", help_heading = "Streaming models")]
    Streaming.first_steps: usize,

    /// Guidance scale of the first chunk [default: --guidance-scale, else 9]
    #[arg(long, value_name = "X", help_heading = "Streaming models")]
    #[serde(with = "text")]
    Streaming.first_guidance_scale: GuidanceSchedule,

    /// Sampler of the first chunk [default: dpmpp-2m]
    #[arg(long, value_name = "NAME", help_heading = "Streaming models")]
    #[serde(with = "text")]
    Streaming.first_scheduler: SchedulerKind,

    /// A picture of the subject that is to be in the video: cut out by its transparency or by --subject-mask, or whole
    #[arg(long, value_name = "IMG", help_heading = "A subject in a place")]
    Placed.subject_image: PathBuf,

    /// Where the subject is in its picture: a grey picture of the same size, white there
    #[arg(long, value_name = "IMG", help_heading = "A subject in a place")]
    Placed.subject_mask: PathBuf,

    /// Where the subject is in each frame: a file of boxes, a folder of masks, or preset:NAME (vidgen boxes shows them)
    #[arg(long, value_name = "FILE", help_heading = "A subject in a place")]
    Placed.boxes: PathBuf,

    /// The box of the first frame, x0,y0,x1,y1 in units of the frame's sides
    #[arg(long, value_name = "BOX", help_heading = "A subject in a place", allow_hyphen_values = true)]
    Placed.first_box: String,

    /// The box of the last frame; those between lie on the way
    #[arg(long, value_name = "BOX", help_heading = "A subject in a place", allow_hyphen_values = true)]
    Placed.last_box: String,

    /// The line that the first box's centre follows, x,y;x,y;..
    #[arg(long, value_name = "POINTS", help_heading = "A subject in a place", allow_hyphen_values = true)]
    Placed.trajectory: String,

    /// How much of the subject there is outside its boxes, 0 to 1 [default: the model's, 0.75]
    #[arg(long, value_name = "X", help_heading = "A subject in a place")]
    #[serde(with = "text")]
    Placed.lambda_m: f64,

    /// How far what is seen moves from frame to frame, as X,Y in 512ths of width and height (positive: to the left and up), or
    /// none: every frame begins with noise of its own [default: the recipe's, 12,12]
    #[arg(long, value_name = "X,Y|none", help_heading = "Image models", allow_hyphen_values = true)]
    #[serde(with = "text")]
    Motion.motion: MotionAsked,

    /// Training timesteps between which the moved frames get their noise: more apart, more change [default: 881..941]
    #[arg(long, value_name = "FIRST..LAST", help_heading = "Image models")]
    #[serde(with = "text")]
    Motion.motion_steps: MotionSteps,

    /// How the motion goes on: linear, pingpong (back and forth) or circle [default: linear]
    #[arg(long, value_name = "PATH", help_heading = "Image models")]
    #[serde(with = "text")]
    Motion.motion_path: MotionPath,

    /// How much the background is that of the first frame, moved as the frame is: up to 1, as 0.6. Needs --subject or --mask
    #[arg(long, value_name = "S", help_heading = "Image models", alias = "smooth-bg")]
    #[serde(with = "text")]
    Motion.smooth_background: f64,

    /// Where no background is: a grey picture for each frame, white at the foreground, as vidgen mask makes them
    #[arg(long, value_name = "DIR", help_heading = "Image models", alias = "fg-mask")]
    Motion.mask: PathBuf,

    /// A picture that the first frame of the video is; the others take their look from it
    #[arg(long, value_name = "FILE", help_heading = "Image models")]
    Motion.first_frame: PathBuf,

    /// Whether frames begin with the same noise, which every step adds as well: shared (less flicker) or independent [default:
    /// the recipe's: shared beside control pictures, independent in edits]
    #[arg(long, value_name = "KIND", help_heading = "Image models")]
    #[serde(with = "text")]
    Motion.noise: FrameNoise,

    /// How much of the given video stays, 1 or more; with --guidance-mode sit, how much the given frames count [default: 1.5]
    #[arg(long, value_name = "X", help_heading = "Given video", alias = "image-guidance")]
    #[serde(with = "text")]
    Footage.image_guidance_scale: f64,

    /// Where the given video begins: 1.5, 6s, 1m30s [default: at its beginning]
    #[arg(long, value_name = "SECONDS", help_heading = "Given video")]
    #[serde(with = "text")]
    Footage.start: Seconds,

    /// Where the given video ends [default: at its end]
    #[arg(long, value_name = "SECONDS", help_heading = "Given video")]
    #[serde(with = "text")]
    Footage.end: Seconds,

    /// Pictures that the video follows, as canny:dance.mp4, pose:skeletons/ or depth:maps/:0.8; again for several. canny finds the
    /// edges of an ordinary video; pose, depth and map (of any kind) are what the control model was trained on. FILE: a video,
    /// a GIF, a folder of pictures, or one picture for all frames; WEIGHT: how much it counts [default: 1]
    #[arg(long, value_name = "KIND:FILE[:WEIGHT]", help_heading = "Control")]
    #[serde(with = "list")]
    Control.control: Vec<ControlAsked>,

    /// The network that sees them: a folder of ControlNetModel, a hub id or a .safetensors file of ControlNet's own names; KIND= says of which control where there are several
    /// [default: controlnet/ of the model's folder]
    #[arg(long, value_name = "[KIND=]DIR|FILE", help_heading = "Control")]
    #[serde(with = "list")]
    Control.control_model: Vec<ControlModelAsked>,

    /// Gradients from which canny takes an edge on, and begins one [default: 100,200]
    #[arg(long, value_name = "LOW,HIGH", help_heading = "Control")]
    #[serde(with = "text")]
    Control.canny: CannyThresholds,

    /// Frames in the network at a time, beside the first one; changes memory, no frame [default: 8]
    #[arg(long, value_name = "N", help_heading = "Image models")]
    Storage.chunk: usize,

    /// A second stage: the frames are made anew in part by this model, which is named as for --model; or by the same one
    #[arg(long, value_name = "NAME|DIR", help_heading = "Second stage")]
    Enhance.enhance: String,

    /// How much the second stage makes anew, from 0 to 1: that share of its steps is taken [default: 0.5]
    #[arg(long, value_name = "X", help_heading = "Second stage")]
    #[serde(with = "text")]
    Enhance.enhance_strength: f64,

    /// Frames of the second stage in pixels, as 288x192 [default: those of the first]
    #[arg(long, value_name = "WxH", help_heading = "Second stage")]
    #[serde(with = "text")]
    Enhance.enhance_size: Size,

    /// Videos to make, with consecutive seeds
    #[arg(long, short_alias = 'b', value_name = "N", aliases = ["batch-count", "n-samples"])]
    Video.num_videos: usize,

    /// Initial noise from a safetensors file: noise [1, F, C, H, W], optionally step_noise [steps, 1, F, C, H, W]
    #[arg(long, value_name = "FILE", help_heading = "Reproducing another program's run")]
    Video.init_noise: PathBuf,

    /// Write the denoised latents to a safetensors file: latents [1, F, C, H, W]
    #[arg(long, value_name = "FILE", help_heading = "Reproducing another program's run")]
    Run.save_latents: PathBuf,

    /// Noise-level table and coefficients: diffusers or sat
    #[arg(long, value_name = "NAME", help_heading = "Reproducing another program's run")]
    #[serde(with = "text")]
    Sampling.schedule: Table,

    /// Unconditional text: zeros (an all-zero embedding) or empty (the encoding of "")
    #[arg(long, value_name = "KIND", help_heading = "Reproducing another program's run")]
    #[serde(with = "text")]
    Sampling.uncond: Uncond,

    /// Weight of inner windows in the blend: repo (twice) or paper (once)
    #[arg(long, value_name = "KIND", help_heading = "Reproducing another program's run")]
    #[serde(with = "text")]
    Windows.blend: BlendMode,

    /// Set all of these as another program has them: diffusers, sat or paper
    #[arg(long, value_name = "NAME", help_heading = "Reproducing another program's run")]
    #[serde(with = "text")]
    Sampling.parity: Parity,

    /// Where to compute: auto, cpu, cuda, cuda:N or metal
    #[arg(short, long, value_name = "NAME", help_heading = "Model and machine", aliases = ["backend", "gpu"])]
    #[serde(with = "text")]
    Machine.device: DeviceSpec,

    /// Dtype: auto, f32, bf16 or f16 (on the CPU that of the weights; it computes in f32)
    #[arg(long, value_name = "NAME", help_heading = "Model and machine", aliases = ["precision", "type"])]
    #[serde(with = "text")]
    Attention.dtype: Precision,

    /// Attention kernel: sdpa (the program's own kernel), flash2 or flash3 (FlashAttention, where it is built in), math
    /// (scores, softmax and product one after the other) or auto (the first of flash3, flash2, sdpa and math that there is)
    #[arg(long, value_name = "KERNEL", help_heading = "Model and machine", aliases = ["attention-backend", "diffusion-fa"])]
    #[serde(with = "text")]
    Attention.attention: Attention,

    /// CPU threads [default: physical cores]
    #[arg(short = 'j', long, value_name = "N", help_heading = "Model and machine", short_alias = 't')]
    Machine.threads: usize,

    /// Where weights that are not in use are kept: none (all stay on the device), model (one network at a time), block (the
    /// transformer's blocks are kept in host memory), disk (they are read from their files) [default: auto, the first
    /// of these that fits]
    #[arg(long, value_name = "MODE", help_heading = "Model and machine")]
    #[arg(aliases = ["offload-to-cpu", "offload-model", "enable-model-cpu-offload", "enable-sequential-cpu-offload", "t5-cpu"])]
    #[serde(with = "text")]
    Storage.offload: Offload,

    /// Limit on the device's memory, as 12GB; on the CPU, of this process. Decides --offload auto, and --vae-tiling
    /// auto [default: what is free]
    #[arg(long, value_name = "SIZE", help_heading = "Model and machine")]
    #[serde(with = "text")]
    Memory.max_vram: MemorySize,

    /// Decode large frames in tiles: auto, on or off
    #[arg(long, value_name = "MODE", help_heading = "Model and machine")]
    #[arg(alias = "enable-tiling")]
    #[serde(with = "text")]
    Decoding.vae_tiling: Tiling,

    /// Size of a tile in pixels, as 360x240
    #[arg(long, value_name = "WxH", help_heading = "Model and machine")]
    #[serde(with = "text")]
    Decoding.vae_tile_size: Size,

    /// Latent frames decoded at a time
    #[arg(long, value_name = "N", help_heading = "Model and machine")]
    Decoding.vae_chunk: usize,

    /// Where text embeddings are kept, or off [default: the user's cache directory]
    #[arg(long, value_name = "DIR|off", help_heading = "Model and machine")]
    #[serde(with = "text")]
    Storage.text_cache: TextCacheAt,

    /// Never use the network
    #[arg(long, help_heading = "Model and machine")]
    #[arg(num_args = 0, default_missing_value = "true", value_parser = FalseyValueParser::new())]
    Places.offline: bool,

    /// Output; its suffix picks the format: .mp4 .webm .gif .y4m, NAME/ for a directory of PNGs, - for y4m on standard
    /// output. {model} {seed} {slug} {index} {date} are filled in
    #[arg(short, long, value_name = "PATH", help_heading = "Output")]
    #[arg(aliases = ["output-path", "save-file", "save-result-path", "output-dir"])]
    Places.output: String,

    /// Quality of the encoder, lower is better [default: 17 for H.264]
    #[arg(long, value_name = "N", help_heading = "Output")]
    Encoding.crf: u32,

    /// Encoder: h264, hevc, av1, vp9, mpeg4 ...
    #[arg(long, value_name = "NAME", help_heading = "Output")]
    #[serde(with = "text")]
    Encoding.codec: Codec,

    /// Pixel format: yuv420p, yuv444p ...
    #[arg(long, value_name = "NAME", help_heading = "Output")]
    #[serde(with = "text")]
    Encoding.pix_fmt: PixelFormat,

    /// Replace an existing output
    #[arg(short = 'y', long, help_heading = "Output", alias = "force")]
    #[arg(num_args = 0, default_missing_value = "true", value_parser = FalseyValueParser::new())]
    Places.overwrite: bool,

    /// Do nothing where the output exists
    #[arg(long, help_heading = "Output")]
    #[arg(num_args = 0, default_missing_value = "true", value_parser = FalseyValueParser::new())]
    Run.skip_existing: bool,

    /// Where the record of the run goes: embed (into the video), sidecar (FILE.json), both or none
    #[arg(long, value_name = "WHERE", help_heading = "Output")]
    #[serde(with = "text")]
    Places.manifest: ManifestMode,

    /// Where runs are kept until they end well [default: vidgen/runs in the user's state directory]
    #[arg(long, value_name = "DIR", help_heading = "Run", alias = "temp")]
    Places.work_dir: PathBuf,

    /// Go on where an earlier run of the same command and seed stopped
    #[arg(short_alias = 'r', long, help_heading = "Run")]
    #[arg(num_args = 0, default_missing_value = "true", value_parser = FalseyValueParser::new())]
    Run.resume: bool,

    /// Keep the run (its plan and latents) when the video is done, for vidgen decode
    #[arg(long, help_heading = "Run")]
    #[arg(num_args = 0, default_missing_value = "true", value_parser = FalseyValueParser::new())]
    Run.keep: bool,

    /// How often a run is saved: after so many steps, or so that no more time than this is lost, as 60s [default: 60s]
    #[arg(long, value_name = "K|TIME", help_heading = "Run")]
    #[serde(with = "text")]
    Run.checkpoint_every: Every,

    /// What Ctrl-C leaves after the step it waits for: save (go on later), decode (and a draft of the video), or discard
    /// [default: save]
    #[arg(long, value_name = "WHAT", help_heading = "Run")]
    #[serde(with = "text")]
    Run.on_interrupt: OnInterrupt,

    /// Pictures of the run while it goes on, in NAME.preview.png or .mp4 beside the output: off, strip (frames side by side)
    /// or video [default: off]
    #[arg(long, value_name = "KIND", help_heading = "Output")]
    #[serde(with = "text")]
    Run.preview: PreviewKind,

    /// Steps between two previews; the last step is shown as well [default: 5]
    #[arg(long, value_name = "K", help_heading = "Output")]
    #[arg(alias = "preview-interval")]
    Run.preview_every: usize,

    /// Another place for the preview
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    Run.preview_path: PathBuf,
}

/// Settings that say one thing in two ways.
pub const EITHER: [[&str; 2]; 3] = [["frames", "duration"], ["size", "width"], ["size", "height"]];

/// Other ways to say what a setting says.
fn others(name: &str) -> impl Iterator<Item = &'static str> {
    EITHER.into_iter().filter_map(move |[one, other]| match name {
        _ if name == one => Some(other),
        _ if name == other => Some(one),
        _ => None,
    })
}

impl Settings {
    /// Those of some groups.
    pub fn only(self, groups: &[Group]) -> Self {
        self.retain(|_, group| groups.contains(&group))
    }

    /// Those of all groups but these.
    pub fn without(self, groups: &[Group]) -> Self {
        self.retain(|_, group| !groups.contains(&group))
    }

    /// As if no file were there yet that stands in the way.
    pub fn over_existing(self) -> Self {
        Self { overwrite: Some(true), skip_existing: None, ..self }
    }

    /// The group of a setting, if there is one of that name.
    pub fn group(name: &str) -> Option<Group> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, group)| *group)
    }

    /// Names of all settings.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::ALL.iter().map(|(name, _)| *name)
    }

    /// Names of those of some groups.
    pub fn names_of(groups: &[Group]) -> Vec<&'static str> {
        Self::ALL.iter().filter(|(_, group)| groups.contains(group)).map(|(name, _)| *name).collect()
    }

    /// Names of those whose value is a list.
    pub fn lists() -> Vec<String> {
        let flags = <Self as clap::Args>::augment_args(clap::Command::new(""));
        let lists = flags.get_arguments().filter(|arg| matches!(arg.get_action(), clap::ArgAction::Append));
        // one has flags of its own in the commands that take it
        lists.map(|arg| arg.get_id().to_string()).chain(["keyframe".to_owned()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearer_settings_count_and_take_the_other_way_to_say_it_with_them() {
        let read = |text: &str| toml::from_str::<Settings>(text).unwrap();
        let both =
            read("size = \"48x32\"\nframes = 9\nsteps = 3").or(read("width = 64\nheight = 64\nduration = 2\nseed = 4"));
        assert_eq!(both.said(), ["steps", "seed", "size", "frames"]);
        let sides = read("width = 48").or(read("size = \"64x64\"\nheight = 32"));
        assert_eq!((sides.size, sides.width, sides.height), (None, Some(48), Some(32)));
    }

    #[test]
    fn groups_take_settings_apart() {
        let all: Settings = toml::from_str("steps = 3\noutput = \"a\"\nsubject = \"ball\"\nkeep = true").unwrap();
        assert_eq!(all.clone().only(&[Group::Subject, Group::Places]).said(), ["subject", "output"]);
        assert_eq!(all.without(&[Group::Sampling, Group::Run]).said(), ["subject", "output"]);
        assert_eq!(Settings::group("hold"), Some(Group::Windows));
        assert_eq!(Settings::lists(), ["lora", "attn_proc", "subject", "control", "control_model", "keyframe"]);
    }
}
