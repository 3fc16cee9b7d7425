//! `edit`: a video again with words swapped or reweighted, or any video changed as one is told.

use super::render::{Dry, make, render};
use super::settle::{Recorded, prepare};
use super::source::{Source, moved};
use super::usage::hidden;
use super::{Report, plan};
use crate::job::{Changes, Command, Group, Request, Settings, Swap};
use crate::pipelines;
use crate::processors::WordFactor;
use crate::run::{Code, Event, Failure, WithCode};
use crate::storyboard::Storyboard;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  vidgen edit ball.mp4 --swap \"red=>blue\" -o blue.mp4
  vidgen edit ball.mp4 --swap \"ball=>box\" --swap \"sunny day=>rainy night\" --side-by-side -o both.mp4
  vidgen edit seasons.mp4 --reweight snow:0.3 -o less-snow.mp4
  vidgen edit seasons.mp4 --reweight snow:0.3 --dry-run
  vidgen edit \"a red ball rests in the snow at night\" --seed 7 --reweight night:0.5 -o dusk.mp4
  vidgen edit any.mp4 --instruct \"make it snow\" --model ./instruct-pix2pix -o snow.mp4

A video (or its record, OUTPUT.json) gives prompts, seed and all settings; flags outweigh them. Everything else is as in the \
original: the same noise, and in part of the run the same keys and values. With --instruct any video is changed, by an image model that \
follows instructions. See docs/editing.md.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_override_self = true, mut_args = |arg| hidden(arg, of_subjects))]
pub struct Edit {
    /// A video made by vidgen, or the prompt of one; with --instruct any video
    #[arg(value_name = "VIDEO|PROMPT", conflicts_with = "prompt", required_unless_present_any = ["prompt", "video"])]
    what: Option<String>,
    /// The video, by a flag
    #[arg(long, value_name = "FILE", conflicts_with_all = ["what", "prompt"])]
    video: Option<String>,
    /// What is to be done to the video, as "make it snow", by an image model that follows instructions
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["prompt", "swap", "reweight", "side_by_side"])]
    instruct: Option<String>,
    /// The prompt of the original
    #[arg(short, long, value_name = "TEXT", alias = "prompts")]
    prompt: Option<String>,
    /// Words, and those to put in their place, as "cat=>dog"; nothing after => leaves them out. Give it again for more
    #[arg(long, value_name = "WORDS=>WORDS")]
    swap: Vec<Swap>,
    /// Scale what words contribute, as night:0.5; 0 removes, 1 changes nothing. Give it again for more
    #[arg(long, value_name = "WORDS:FACTOR")]
    reweight: Vec<WordFactor>,
    /// The original on the left, the edited version on the right
    #[arg(long, value_parser = clap::builder::FalseyValueParser::new())]
    side_by_side: bool,
    #[command(flatten)]
    dry: Dry,
    #[command(flatten)]
    settings: Recorded,
}

fn of_subjects(setting: &clap::Id) -> bool {
    Settings::group(setting.as_str()) == Some(Group::Subject)
}

impl Edit {
    pub fn run(mut self, report: &Report) -> Result<(), Failure> {
        let what = self.what.take().or(self.video.take());
        if let Some(instruction) = self.instruct {
            let video = what.map(PathBuf::from);
            let settings = Settings { video, ..self.settings.settings() };
            let storyboard = Storyboard::from_prompts(&[instruction])?;
            return render(Command::Edit, settings, storyboard, &self.dry, report);
        }
        let some = |given: bool| given.then_some(());
        let changes = Changes {
            swap: some(!self.swap.is_empty()).map(|()| self.swap),
            reweight: some(!self.reweight.is_empty()).map(|()| self.reweight),
            side_by_side: self.side_by_side,
        };
        let flags = self.settings.settings();
        let asked = flags.model.is_some();
        let Source { mut request, record } = Source::new(what, self.prompt, flags, report)?;
        let changes = match request.edit.take() {
            Some(before) => changes.after(before),
            None => changes,
        };
        if changes.is_empty() {
            let message =
                "nothing to edit: give --swap \"cat=>dog\", --reweight night:0.5 or --instruct \"make it snow\"";
            return Err(Failure::message(Code::Usage, message));
        }
        request.edit = Some(changes);
        let resolve = |overwrite: Option<bool>| {
            let settings = Settings { overwrite: overwrite.or(request.settings.overwrite), ..request.settings.clone() };
            let resolved = Request { settings, ..request.clone() }.resolve();
            resolved.map_err(|failure| if asked || record.is_none() { failure } else { moved(failure) })
        };
        prepare(&request.settings, report)?;
        if let Some(measure) = self.dry.asked()? {
            return plan::show(&resolve(Some(true))?, measure, report);
        }
        if let Some(record) = &record
            && let Some(job) = resolve(Some(true))?.first()
        {
            let hashes = pipelines::hashes(job.first()).code(Code::Model)?;
            if (&record.model.hashes, record.version.as_str()) != (&hashes, env!("CARGO_PKG_VERSION")) {
                let message = "the original was made with other weights or another version of vidgen: what is edited may \
                               differ from it";
                report.observer()?.event(&Event::Warning(message.to_owned()))?;
            }
        }
        make(&resolve, report).map(|_| ())
    }
}
