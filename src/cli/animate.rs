//! `animate` and `interpolate`: videos of given frames.

use super::Report;
use super::render::{Dry, render};
use super::settle::Recorded;
use super::usage::hidden;
use super::words;
use crate::job::{Command, Group, Keyframe, Settings};
use crate::run::{Code, Failure, Manifest};
use crate::storyboard::Storyboard;
use crate::video::Fit;
use std::path::{Path, PathBuf};

const ANIMATE: &str = "\
Examples:
  vidgen animate boat.png \"a boat drifts away\" --model org/image-to-video -o boat.mp4
  vidgen animate \"a boat drifts away\" --image boat.png --last-image far.png --model ./stiv -o boat.mp4
  vidgen animate \"a boat drifts away\" --keyframe 8=near.png --keyframe 15=far.png --model ./stiv -o boat.mp4
  vidgen animate \"a boat drifts away\" --video clip.mp4 --model ./stiv -o next.mp4

Which frames may be given is the model's: one that was not trained for a task says so. Pictures of another shape are cropped, or as \
--fit says. See docs/animate.md.";

const INTERPOLATE: &str = "\
Examples:
  vidgen interpolate clip.mp4 --model ./stiv -o smooth.mp4
  vidgen interpolate clip.mp4 \"a boat drifts away\" --model ./stiv -o smooth.mp4

A video of n frames becomes one of 2 n - 1, at twice as many a second, by a model that was trained for it; the frames of the video \
stay. (decode --interpolate 2x does so by RIFE, which knows no text.) See docs/animate.md.";

/// Settings of several windows, and of other kinds of models.
fn of_others(setting: &clap::Id) -> bool {
    let group = Settings::group(setting.as_str());
    matches!(group, Some(Group::Windows | Group::Subject | Group::Placed | Group::Motion | Group::Control))
        || ["start", "end", "method", "window", "stride", "chunk"].contains(&setting.as_str())
}

#[derive(Debug, clap::Args)]
#[command(after_help = ANIMATE, args_override_self = true, mut_args = |arg| hidden(arg, of_others))]
pub struct Animate {
    /// The picture that the video begins with (PNG, JPEG, WebP), or what is to be seen where a flag gives frames
    #[arg(value_name = "PICTURE|PROMPT")]
    first: Option<String>,
    /// What is to be seen, after a picture
    #[arg(value_name = "PROMPT", conflicts_with = "prompt")]
    second: Option<String>,
    /// What is to be seen
    #[arg(short, long, value_name = "TEXT", alias = "prompts")]
    prompt: Option<String>,
    /// The picture that the video begins with
    #[arg(short, long, value_name = "FILE", aliases = ["init-img", "image-path"])]
    image: Option<PathBuf>,
    /// The picture that it ends with
    #[arg(long, value_name = "FILE", alias = "end-img")]
    last_image: Option<PathBuf>,
    /// The picture that is frame N, from 0; again for several
    #[arg(long, value_name = "N=FILE")]
    keyframe: Vec<Keyframe>,
    /// A video whose last frames are the first ones
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    video: Option<PathBuf>,
    /// How many of its last frames [default: as many as the model was trained for]
    #[arg(long, value_name = "K")]
    context: Option<usize>,
    /// How pictures of another shape become frames: crop, pad or stretch [default: crop]
    #[arg(long, value_name = "HOW")]
    fit: Option<Fit>,
    #[command(flatten)]
    dry: Dry,
    #[command(flatten)]
    settings: Recorded,
}

impl Animate {
    pub fn run(self, report: &Report) -> Result<(), Failure> {
        let keyframes = Some(self.keyframe).filter(|all| !all.is_empty());
        let named = self.image.is_some() || self.last_image.is_some() || keyframes.is_some() || self.video.is_some();
        let (image, text) = match (self.first, self.second) {
            (Some(first), Some(second)) if self.image.is_none() => (Some(PathBuf::from(first)), Some(second)),
            (Some(first), Some(_)) => {
                let message = format!("{first} and --image are both the first frame: leave out one");
                return Err(Failure::message(Code::Usage, message));
            }
            (Some(first), None)
                if !named || words::is_file(&first) && self.image.is_none() && self.prompt.is_some() =>
            {
                (Some(PathBuf::from(first)), None)
            }
            (first, _) => (self.image, first),
        };
        let prompt = match (text, self.prompt) {
            (Some(text), None) | (None, Some(text)) => text,
            (Some(_), Some(_)) => {
                return Err(Failure::message(Code::Usage, "two prompts: leave out --prompt, or the other one"));
            }
            (None, None) => {
                let message = "no prompt: write what is to be seen, as vidgen animate PICTURE \"a boat drifts away\"";
                return Err(Failure::message(Code::Usage, message));
            }
        };
        let settings = Settings {
            image,
            last_image: self.last_image,
            keyframe: keyframes,
            video: self.video,
            context: self.context,
            fit: self.fit,
            ..Settings::default()
        }
        .or(self.settings.settings());
        render(Command::Animate, settings, Storyboard::from_prompts(&[prompt])?, &self.dry, report)
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = INTERPOLATE, args_override_self = true, mut_args = |arg| hidden(arg, of_clips))]
pub struct Interpolate {
    /// The video: MP4, WebM, GIF, y4m, or a directory of pictures
    #[arg(value_name = "VIDEO")]
    video: PathBuf,
    /// What is to be seen [default: what the video's record says, else nothing]
    #[arg(value_name = "PROMPT", conflicts_with = "prompt")]
    text: Option<String>,
    /// What is to be seen, by a flag
    #[arg(short, long, value_name = "TEXT", alias = "prompts")]
    prompt: Option<String>,
    /// How frames of another shape become those of the model: crop, pad or stretch [default: crop]
    #[arg(long, value_name = "HOW")]
    fit: Option<Fit>,
    #[command(flatten)]
    dry: Dry,
    #[command(flatten)]
    settings: Recorded,
}

fn of_clips(setting: &clap::Id) -> bool {
    of_others(setting) || ["frames", "duration"].contains(&setting.as_str())
}

impl Interpolate {
    pub fn run(self, report: &Report) -> Result<(), Failure> {
        let settings = self.settings.settings();
        let output = settings.output.clone().unwrap_or_else(|| beside(&self.video));
        let settings = Settings { video: Some(self.video.clone()), fit: self.fit, output: Some(output), ..settings };
        let recorded = || Manifest::read(&self.video).ok()?.prompts.into_iter().next();
        let prompt = self.text.or(self.prompt).or_else(recorded).unwrap_or_default();
        render(Command::Interpolate, settings, Storyboard::of_text(prompt)?, &self.dry, report)
    }
}

/// `a/ball-2x.mp4` for `a/ball.gif` and for a directory `a/ball`.
fn beside(video: &Path) -> String {
    let stem = video.file_stem().unwrap_or_default().to_string_lossy();
    video.with_file_name(format!("{stem}-2x.mp4")).to_string_lossy().into_owned()
}
