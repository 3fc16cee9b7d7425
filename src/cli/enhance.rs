//! `enhance`: a given video made anew in part, larger and finer, in overlapping windows over the whole of it.

use super::Report;
use super::render::{Dry, render};
use super::settle::Recorded;
use super::usage::hidden;
use crate::job::{Command, Group, Settings};
use crate::run::{Failure, Manifest};
use crate::storyboard::Storyboard;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  vidgen enhance clip.mp4 --model ./text-to-video-ms-1.7b -p \"a cat runs on the street\" -o large.mp4
  vidgen enhance long.mp4 --model cerspense/zeroscope_v2_XL --size 1024x576 --strength 0.4 -o fine.mp4

The frames are resampled to the model's size in their own shape, put under part of the noise and denoised again, a window at a time, \
with windows that share frames written over each other at random places. No frame is dropped and no bars are added. The prompt is that \
of the video's record where none is given. See docs/enhance.md.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_override_self = true, mut_args = |arg| hidden(arg, of_others))]
pub struct Enhance {
    /// The video: MP4, WebM, GIF, y4m, or a directory of pictures
    #[arg(value_name = "VIDEO")]
    video: PathBuf,
    /// What is to be seen [default: what the video's record says, else nothing]
    #[arg(short, long, value_name = "TEXT", alias = "prompts")]
    prompt: Option<String>,
    /// How much is made anew, above 0 and up to 1: that share of the steps is taken [default: the recipe's, 0.6]
    #[arg(long, value_name = "X")]
    strength: Option<f64>,
    /// Frames that neighbouring windows share [default: the recipe's, 8]
    #[arg(long, value_name = "N")]
    chunk_overlap: Option<usize>,
    #[command(flatten)]
    dry: Dry,
    #[command(flatten)]
    settings: Recorded,
}

fn of_others(setting: &clap::Id) -> bool {
    let group = Settings::group(setting.as_str());
    matches!(group, Some(Group::Subject | Group::Motion | Group::Enhance)) || setting.as_str() == "overlap"
}

impl Enhance {
    pub fn run(self, report: &Report) -> Result<(), Failure> {
        let settings = self.settings.settings();
        let output = settings.output.clone().unwrap_or_else(|| beside(&self.video));
        let settings = Settings {
            video: Some(self.video.clone()),
            output: Some(output),
            // frames of a window: of image models the same flag says how many frames are in the network at a time
            window: settings.chunk.or(settings.window),
            chunk: None,
            overlap: self.chunk_overlap.or(settings.overlap),
            enhance_strength: self.strength.or(settings.enhance_strength),
            ..settings
        };
        let recorded = || Manifest::read(&self.video).ok()?.prompts.into_iter().next();
        let prompt = self.prompt.or_else(recorded).unwrap_or_default();
        render(Command::Enhance, settings, Storyboard::of_text(prompt)?, &self.dry, report)
    }
}

/// `a/ball-enhanced.mp4` for `a/ball.mp4` and for a directory `a/ball`.
fn beside(video: &Path) -> String {
    let stem = video.file_stem().unwrap_or_default().to_string_lossy();
    video.with_file_name(format!("{stem}-enhanced.mp4")).to_string_lossy().into_owned()
}
