//! What was asked for, from wherever: flags, environment, scripts, project and user files.
//!
//! One field is one setting: its flag, its environment variable and its key in files come from the same place, so that they
//! cannot drift apart. (That is why clap's derive stands here and not in `cli`, which adds to every flag what follows from its
//! name: the variable, and spellings with underscores.) Numbers that are not whole are kept as words: those are read back as
//! they were, which JSON's numbers are not to the last digit, and a run that is read back is the same run. Nothing is resolved yet; see
//! [`super::Job`].

use super::values::{
    Attention, DeviceSpec, Duration, Every, ManifestMode, MemorySize, Offload, OnInterrupt, Parity, Precision,
    PreviewKind, Seed, Size, TextCacheAt, Tiling, Uncond, list, text,
};
use crate::guidance::GuidanceSchedule;
use crate::processors::Spec;
use crate::recipe::Choice;
use crate::schedulers::{SchedulerKind, Table};
use crate::storyboard::Transition;
use crate::timeline::BlendMode;
use crate::video::{Codec, Fit, PixelFormat, Rate};
use clap::Args;
use clap::builder::FalseyValueParser;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The settings of a run, each absent until someone says it.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Model: a folder in diffusers layout, a hub id (org/name or org/name@revision), a known name, or toyland, which is built in
    #[arg(short, long, value_name = "NAME|DIR", help_heading = "Model and machine")]
    #[arg(aliases = ["model-path", "ckpt-dir", "checkpoint-path"])]
    pub model: Option<String>,

    /// Recipe, the defaults of everything below: one of `vidgen recipes`, or a TOML file that says what is different
    /// [default: the model's]
    #[arg(long, value_name = "NAME|FILE", help_heading = "Model and machine")]
    #[serde(with = "text")]
    pub recipe: Option<Choice>,

    /// What not to show; replaces the unconditional text
    #[arg(short, long, value_name = "TEXT")]
    #[arg(aliases = ["negative", "n-prompt"])]
    pub negative_prompt: Option<String>,

    /// Added to every prompt
    #[arg(long, value_name = "TEXT", alias = "head-prompt")]
    pub style: Option<String>,

    /// Denoising steps [default: the model's]
    #[arg(long, value_name = "N")]
    #[arg(aliases = ["num-inference-steps", "sample-steps", "ddim-steps", "num-steps"])]
    pub steps: Option<usize>,

    /// Guidance scale, also as a schedule: 6, wave:6, ramp:1..6 [default: the model's]
    #[arg(long, value_name = "X")]
    #[arg(aliases = ["cfg-scale", "cfg", "guidance", "sample-guide-scale"])]
    #[serde(with = "text")]
    pub guidance_scale: Option<GuidanceSchedule>,

    /// Seed, a number or random [default: random, printed and stored]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, alias = "base-seed")]
    #[serde(with = "text")]
    pub seed: Option<Seed>,

    /// Width in pixels [default: the model's]
    #[arg(short = 'W', long, value_name = "N")]
    pub width: Option<usize>,

    /// Height in pixels [default: the model's]
    #[arg(short = 'H', long, value_name = "N")]
    pub height: Option<usize>,

    /// Width and height in pixels, as 144x96
    #[arg(long, value_name = "WxH", conflicts_with_all = ["width", "height"])]
    #[serde(with = "text")]
    pub size: Option<Size>,

    /// Frames of the video, exactly [default: the model's, or what the windows make]
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    #[arg(aliases = ["num-frames", "video-frames", "frame-num", "length"])]
    pub frames: Option<usize>,

    /// Length of the video: 6, 6s, 1m30s
    #[arg(long, value_name = "SECONDS")]
    #[serde(with = "text")]
    pub duration: Option<Duration>,

    /// The video to go on from; `extend` has a flag for it.
    #[arg(skip)]
    pub video: Option<PathBuf>,

    /// Leave the given video's own frames out; `extend` has a flag for it.
    #[arg(skip)]
    pub only_new: Option<bool>,

    /// How the given video's frames become those of another shape; `extend` has a flag for it.
    #[arg(skip)]
    #[serde(with = "text")]
    pub fit: Option<Fit>,

    /// Frames per second of the file [default: the model's]
    #[arg(long, value_name = "N")]
    #[arg(aliases = ["frame-rate", "sampling-fps", "out-fps"])]
    #[serde(with = "text")]
    pub fps: Option<Rate>,

    /// How scenes follow each other: attention (overlapping windows that read each other's keys and values), blend
    /// (overlapping windows), cut, or fade:FRAMES (a cut whose two sides are mixed over so many frames; fade for a
    /// second) [default: attention where the model has a recipe for it, else blend]
    #[arg(long, value_name = "KIND", help_heading = "Windows")]
    #[serde(with = "text")]
    pub transition: Option<Transition>,

    /// Latent frames that neighbouring windows share [default: the model's]
    #[arg(long, value_name = "N", help_heading = "Windows", alias = "overlap-size")]
    pub overlap: Option<usize>,

    /// Windows with interpolated text between two prompts [default: the model's]
    #[arg(long, value_name = "N", help_heading = "Windows")]
    #[arg(alias = "num-transition-blocks")]
    pub transition_windows: Option<usize>,

    /// Windows added to each prompt that is neither first nor last
    #[arg(long, value_name = "N", help_heading = "Windows", alias = "longer-mid-segment")]
    pub hold: Option<usize>,

    /// A control of attention, as kv-share:layers=25-29,steps=2-24; again for several, the outermost first. `vidgen
    /// processors` lists them [default: the model's kv-share between joined windows]
    #[arg(long, value_name = "SPEC", help_heading = "Attention", value_delimiter = ';')]
    #[serde(with = "list")]
    pub attn_proc: Option<Vec<Spec>>,

    /// Words of the prompts for what is to stay itself: its place reads its place in the window before, the rest the rest
    #[arg(long, value_name = "WORDS", help_heading = "Attention", value_delimiter = ',')]
    #[serde(with = "list")]
    pub subject: Option<Vec<String>>,

    /// Share of a frame's peak from which a place belongs to the subject [default: 0.3]
    #[arg(long, value_name = "X", help_heading = "Attention", alias = "thres")]
    #[serde(with = "text")]
    pub mask_threshold: Option<f64>,

    /// Sampler: ddim or dpmpp-2m-sde [default: the model's]
    #[arg(long, value_name = "NAME", help_heading = "Sampling")]
    #[arg(aliases = ["sampler", "sampling-method", "sample-solver"])]
    #[serde(with = "text")]
    pub scheduler: Option<SchedulerKind>,

    /// Shift of the noise levels (signal-to-noise ratio divided by it) [default: the model's]
    #[arg(long, value_name = "X", help_heading = "Sampling", alias = "flow-shift")]
    #[serde(with = "text")]
    pub shift: Option<f64>,

    /// Fresh noise per DDIM step, 0 to 1
    #[arg(long, value_name = "X", help_heading = "Sampling")]
    #[serde(with = "text")]
    pub eta: Option<f64>,

    /// Videos to make, with consecutive seeds
    #[arg(long, short_alias = 'b', value_name = "N", aliases = ["batch-count", "n-samples"])]
    pub num_videos: Option<usize>,

    /// Initial noise from a safetensors file: noise [1, F, C, H, W], optionally step_noise [steps, 1, F, C, H, W]
    #[arg(long, value_name = "FILE", help_heading = "Reproducing another program's run")]
    pub init_noise: Option<PathBuf>,

    /// Write the denoised latents to a safetensors file: latents [1, F, C, H, W]
    #[arg(long, value_name = "FILE", help_heading = "Reproducing another program's run")]
    pub save_latents: Option<PathBuf>,

    /// Noise-level table and coefficients: diffusers or sat
    #[arg(long, value_name = "NAME", help_heading = "Reproducing another program's run")]
    #[serde(with = "text")]
    pub schedule: Option<Table>,

    /// Unconditional text: zeros (an all-zero embedding) or empty (the encoding of "")
    #[arg(long, value_name = "KIND", help_heading = "Reproducing another program's run")]
    #[serde(with = "text")]
    pub uncond: Option<Uncond>,

    /// Weight of inner windows in the blend: repo (twice) or paper (once)
    #[arg(long, value_name = "KIND", help_heading = "Reproducing another program's run")]
    #[serde(with = "text")]
    pub blend: Option<BlendMode>,

    /// Set all of these as another program has them: diffusers, sat or paper
    #[arg(long, value_name = "NAME", help_heading = "Reproducing another program's run")]
    #[serde(with = "text")]
    pub parity: Option<Parity>,

    /// Where to compute: auto, cpu, cuda, cuda:N or metal
    #[arg(short, long, value_name = "NAME", help_heading = "Model and machine", aliases = ["backend", "gpu"])]
    #[serde(with = "text")]
    pub device: Option<DeviceSpec>,

    /// Numbers to compute with: auto, f32, bf16 or f16 (on the CPU those of the weights; it computes in f32)
    #[arg(long, value_name = "NAME", help_heading = "Model and machine", aliases = ["precision", "type"])]
    #[serde(with = "text")]
    pub dtype: Option<Precision>,

    /// What computes attention: sdpa (the program's own kernel), flash2 or flash3 (FlashAttention, where it is built in), math
    /// (scores, softmax and product one after the other) or auto (the first of flash3, flash2, sdpa and math that there is)
    #[arg(long, value_name = "KERNEL", help_heading = "Model and machine", aliases = ["attention-backend", "diffusion-fa"])]
    #[serde(with = "text")]
    pub attention: Option<Attention>,

    /// CPU threads [default: physical cores]
    #[arg(short = 'j', long, value_name = "N", help_heading = "Model and machine", short_alias = 't')]
    pub threads: Option<usize>,

    /// Where weights are that are not at work: none (all stay on the device), model (one network at a time), block (the
    /// transformer's blocks wait in the host's memory), disk (they are read from their files) [default: auto, the first
    /// of these that fits]
    #[arg(long, value_name = "MODE", help_heading = "Model and machine")]
    #[arg(aliases = ["offload-to-cpu", "offload-model", "enable-model-cpu-offload", "enable-sequential-cpu-offload", "t5-cpu"])]
    #[serde(with = "text")]
    pub offload: Option<Offload>,

    /// Most memory of the device to use, as 12GB; on the CPU, of this process. Decides --offload auto, and --vae-tiling
    /// auto [default: what is free]
    #[arg(long, value_name = "SIZE", help_heading = "Model and machine")]
    #[serde(with = "text")]
    pub max_vram: Option<MemorySize>,

    /// Decode large frames in tiles: auto, on or off
    #[arg(long, value_name = "MODE", help_heading = "Model and machine")]
    #[arg(alias = "enable-tiling")]
    #[serde(with = "text")]
    pub vae_tiling: Option<Tiling>,

    /// Size of a tile in pixels, as 360x240
    #[arg(long, value_name = "WxH", help_heading = "Model and machine")]
    #[serde(with = "text")]
    pub vae_tile_size: Option<Size>,

    /// Latent frames decoded at a time
    #[arg(long, value_name = "N", help_heading = "Model and machine")]
    pub vae_chunk: Option<usize>,

    /// Where text embeddings are kept, or off [default: the user's cache directory]
    #[arg(long, value_name = "DIR|off", help_heading = "Model and machine")]
    #[serde(with = "text")]
    pub text_cache: Option<TextCacheAt>,

    /// Never use the network
    #[arg(long, help_heading = "Model and machine")]
    #[arg(num_args = 0, default_missing_value = "true", value_parser = FalseyValueParser::new())]
    pub offline: Option<bool>,

    /// Output; its suffix picks the format: .mp4 .webm .gif .y4m, NAME/ for a directory of PNGs, - for y4m on standard
    /// output. {model} {seed} {slug} {index} {date} are filled in
    #[arg(short, long, value_name = "PATH", help_heading = "Output")]
    #[arg(aliases = ["output-path", "save-file", "save-result-path", "output-dir"])]
    pub output: Option<String>,

    /// Quality of the encoder, lower is better [default: 17 for H.264]
    #[arg(long, value_name = "N", help_heading = "Output")]
    pub crf: Option<u32>,

    /// Encoder: h264, hevc, av1, vp9, mpeg4 ...
    #[arg(long, value_name = "NAME", help_heading = "Output")]
    #[serde(with = "text")]
    pub codec: Option<Codec>,

    /// Pixel format: yuv420p, yuv444p ...
    #[arg(long, value_name = "NAME", help_heading = "Output")]
    #[serde(with = "text")]
    pub pix_fmt: Option<PixelFormat>,

    /// Replace an existing output
    #[arg(short = 'y', long, help_heading = "Output", alias = "force")]
    #[arg(num_args = 0, default_missing_value = "true", value_parser = FalseyValueParser::new())]
    pub overwrite: Option<bool>,

    /// Do nothing where the output exists
    #[arg(long, help_heading = "Output")]
    #[arg(num_args = 0, default_missing_value = "true", value_parser = FalseyValueParser::new())]
    pub skip_existing: Option<bool>,

    /// Where the record of the run goes: embed (into the video), sidecar (FILE.json), both or none
    #[arg(long, value_name = "WHERE", help_heading = "Output")]
    #[serde(with = "text")]
    pub manifest: Option<ManifestMode>,

    /// Where runs are kept until they end well [default: vidgen/runs in the user's state directory]
    #[arg(long, value_name = "DIR", help_heading = "Run", alias = "temp")]
    pub work_dir: Option<PathBuf>,

    /// Go on where an earlier run of the same command and seed stopped
    #[arg(short_alias = 'r', long, help_heading = "Run")]
    #[arg(num_args = 0, default_missing_value = "true", value_parser = FalseyValueParser::new())]
    pub resume: Option<bool>,

    /// Keep the run (its plan and latents) when the video is done, for vidgen decode
    #[arg(long, help_heading = "Run")]
    #[arg(num_args = 0, default_missing_value = "true", value_parser = FalseyValueParser::new())]
    pub keep: Option<bool>,

    /// How often a run is saved: after so many steps, or so that no more time than this is lost, as 60s [default: 60s]
    #[arg(long, value_name = "K|TIME", help_heading = "Run")]
    #[serde(with = "text")]
    pub checkpoint_every: Option<Every>,

    /// What Ctrl-C leaves after the step it waits for: save (go on later), decode (and a draft of the video), or discard
    /// [default: save]
    #[arg(long, value_name = "WHAT", help_heading = "Run")]
    #[serde(with = "text")]
    pub on_interrupt: Option<OnInterrupt>,

    /// Pictures of the run while it goes on, in NAME.preview.png or .mp4 beside the output: off, strip (frames side by side)
    /// or video [default: off]
    #[arg(long, value_name = "KIND", help_heading = "Output")]
    #[serde(with = "text")]
    pub preview: Option<PreviewKind>,

    /// Steps between two previews; the last step is shown as well [default: 5]
    #[arg(long, value_name = "K", help_heading = "Output")]
    #[arg(alias = "preview-interval")]
    pub preview_every: Option<usize>,

    /// Another place for the preview
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub preview_path: Option<PathBuf>,
}

impl Settings {
    /// Those that say where things are and go, and nothing about the frames.
    pub fn places(self) -> Self {
        Self {
            output: self.output,
            overwrite: self.overwrite,
            skip_existing: self.skip_existing,
            text_cache: self.text_cache,
            offline: self.offline,
            offload: self.offload,
            manifest: self.manifest,
            work_dir: self.work_dir,
            keep: self.keep,
            checkpoint_every: self.checkpoint_every,
            on_interrupt: self.on_interrupt,
            ..Self::default()
        }
    }

    /// These settings, and where they say nothing those of `lower`.
    pub fn or(self, lower: Self) -> Self {
        // ways to say one thing stay together: a flag's width is not mixed with a file's size
        let lower = Self {
            size: lower.size.filter(|_| self.width.is_none() && self.height.is_none()),
            width: lower.width.filter(|_| self.size.is_none()),
            height: lower.height.filter(|_| self.size.is_none()),
            frames: lower.frames.filter(|_| self.duration.is_none()),
            duration: lower.duration.filter(|_| self.frames.is_none()),
            ..lower
        };
        macro_rules! first {
            ($($field:ident),* $(,)?) => { Self { $($field: self.$field.or(lower.$field)),* } };
        }
        first!(
            model,
            recipe,
            negative_prompt,
            style,
            steps,
            guidance_scale,
            seed,
            width,
            height,
            size,
            frames,
            duration,
            video,
            only_new,
            fit,
            fps,
            transition,
            overlap,
            transition_windows,
            hold,
            attn_proc,
            subject,
            mask_threshold,
            scheduler,
            shift,
            eta,
            num_videos,
            init_noise,
            save_latents,
            schedule,
            uncond,
            blend,
            parity,
            device,
            dtype,
            attention,
            threads,
            offload,
            max_vram,
            vae_tiling,
            vae_tile_size,
            vae_chunk,
            text_cache,
            offline,
            output,
            crf,
            codec,
            pix_fmt,
            overwrite,
            skip_existing,
            manifest,
            work_dir,
            resume,
            keep,
            checkpoint_every,
            on_interrupt,
            preview,
            preview_every,
            preview_path,
        )
    }
}
