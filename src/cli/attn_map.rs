//! `attn-map`: what the network attends to in a run.

use super::Report;
use super::settle::prepare;
use super::source::{Source, moved};
use super::usage::hidden;
use crate::job::values::ManifestMode;
use crate::job::{Group, MapView, MapsAsked, Pixel, Settings};
use crate::pipelines;
use crate::processors::Ranges;
use crate::run::{Code, Failure, WithCode, print};
use crate::video::Folder;
use serde_json::json;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  vidgen attn-map ball.mp4 --words \"red ball\" --words meadow -o maps/
  vidgen attn-map ball.mp4 --words ball --map-steps 2,5,9 --layers 0-5 -o maps/
  vidgen attn-map \"a red ball rests in the snow\" --seed 7 --words snow --overlay -o maps/
  vidgen attn-map ball.mp4 --view text -o maps/
  vidgen attn-map ball.mp4 --view spatial --frame 24 -o maps/
  vidgen attn-map ball.mp4 --view temporal --at 72,48 -o maps/

Writes maps.safetensors and a PNG for each step and layer, which count from 0. --steps is the length of the run, as \
elsewhere. See docs/attention-maps.md.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_override_self = true, mut_args = |arg| hidden(arg, |id| id == "num_videos"))]
pub struct AttnMap {
    /// A video made by vidgen, or the prompt of one
    #[arg(value_name = "VIDEO|PROMPT", conflicts_with = "prompt", required_unless_present = "prompt")]
    what: Option<String>,
    /// The prompt of a run
    #[arg(short, long, value_name = "TEXT", alias = "prompts")]
    prompt: Option<String>,
    /// Words of the prompt whose map is wanted; give it again for more
    #[arg(long, value_name = "WORDS")]
    words: Vec<String>,
    /// What is looked at: words (where in the video words are attended to), text (tokens on tokens), spatial (places of a
    /// frame on each other) or temporal (a place in all frames, on itself)
    #[arg(long, value_name = "VIEW", default_value = "words")]
    view: MapView,
    /// Steps that are looked at, as 2,5,7-9 [default: the middle one]
    #[arg(long, value_name = "STEPS", alias = "at-steps")]
    map_steps: Option<Ranges>,
    /// Layers that are looked at, as 2,5,7-9 [default: four from the middle to the last]
    #[arg(long, value_name = "LAYERS", alias = "map-layers")]
    layers: Option<Ranges>,
    /// Each layer by itself, instead of the mean of the layers up to it
    #[arg(long, value_parser = clap::builder::FalseyValueParser::new())]
    single_layer: bool,
    /// The frame of --view spatial, from 0
    #[arg(long, value_name = "N")]
    frame: Option<usize>,
    /// The place of --view temporal, in pixels
    #[arg(long, value_name = "X,Y")]
    at: Option<Pixel>,
    /// The video under the map of each word as well
    #[arg(long, value_parser = clap::builder::FalseyValueParser::new())]
    overlay: bool,
    #[command(flatten)]
    settings: Settings,
}

impl AttnMap {
    pub fn run(self, report: &Report) -> Result<(), Failure> {
        let usage = |message: &str| Err(Failure::message(Code::Usage, message.to_owned()));
        if self.overlay && self.view != MapView::Words {
            return usage("--overlay has no effect without --words: only their maps lie on frames");
        }
        if self.settings.num_videos.is_some_and(|videos| videos != 1) {
            return usage("attn-map looks into one run: leave out --num-videos");
        }
        let folder = PathBuf::from(self.settings.output.clone().unwrap_or_else(|| "maps/".to_owned()));
        let overwrite = self.settings.overwrite.unwrap_or(false);
        let asked = self.settings.model.is_some();
        let Source { mut request, record } = Source::new(self.what, self.prompt, self.settings, report)?;
        // the run has no video of its own
        request.settings = Settings {
            output: Some("-".to_owned()),
            manifest: Some(ManifestMode::None),
            ..request.settings.without(&[Group::Encoding, Group::Run, Group::Enhance])
        };
        prepare(&request.settings, report)?;
        let resolved = request.resolve();
        let resolved = resolved.map_err(|failure| if asked || record.is_none() { failure } else { moved(failure) });
        let Some(mut job) = resolved?.into_iter().next() else { return Ok(()) };
        job.output.video.path = folder.clone();
        let asked = MapsAsked {
            view: self.view,
            words: self.words,
            steps: self.map_steps,
            layers: self.layers,
            single_layer: self.single_layer,
            frame: self.frame,
            at: self.at,
        };
        let maps = asked.resolve(job.first()).code(Code::Usage)?;
        let folder = Folder::open(&folder, overwrite).code(Code::Usage)?;
        let files = pipelines::attention_maps(&job, &maps, &folder, self.overlay, &mut *report.observer()?)?;
        let files: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
        if report.json {
            let steps: Vec<usize> = maps.steps.below(job.first().sampler.steps).collect();
            let layers: Vec<usize> = maps.layers.below(job.first().model.architecture.main_sites().layers).collect();
            let view = maps.view.to_string();
            let object = json!({ "view": view, "words": maps.words, "steps": steps, "layers": layers, "files": files });
            print(&format!("{object}\n"))
        } else {
            print(&(files.join("\n") + "\n"))
        }
    }
}
