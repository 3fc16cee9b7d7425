//! Which attention maps are looked at in a run.

use super::Stage;
use super::controls::by_text;
use super::prompts::Prompts;
use super::smoothing::Foreground;
use super::zero_shot::ZeroShot;
use crate::attention::SiteKind;
use crate::processors::attention_map::View;
use crate::processors::{Ranges, Recording, Word};
use crate::timeline::TextMix;
use crate::words::words;
use anyhow::{Context, Error, Result, bail, ensure};
use std::str::FromStr;

words!(
    /// A part of the attention probabilities.
    MapView, "view", {
        /// Where in the video words are attended to.
        Words = "words",
        /// Text tokens on text tokens.
        Text = "text",
        /// Places of one frame on each other.
        Spatial = "spatial",
        /// One place in all frames, on itself.
        Temporal = "temporal",
    }
);

/// A place in the picture, in pixels from the left and from the top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pixel {
    pub x: usize,
    pub y: usize,
}

impl FromStr for Pixel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(',').map(|(x, y)| (x.trim().parse(), y.trim().parse())) {
            Some((Ok(x), Ok(y))) => Ok(Self { x, y }),
            _ => bail!("{text:?} is not X,Y in pixels, as 72,48"),
        }
    }
}

/// The maps that were asked for.
#[derive(Debug, Clone)]
pub struct MapsAsked {
    pub view: MapView,
    pub words: Vec<String>,
    pub steps: Option<Ranges>,
    pub layers: Option<Ranges>,
    /// Each layer's own map, instead of the mean of the layers up to it.
    pub single_layer: bool,
    /// Of the video, from 0.
    pub frame: Option<usize>,
    pub at: Option<Pixel>,
}

/// The maps of a job.
#[derive(Debug, Clone)]
pub struct Maps {
    pub view: MapView,
    pub words: Vec<String>,
    pub steps: Ranges,
    pub layers: Ranges,
    pub single_layer: bool,
    /// What the recorder keeps beside words.
    pub recorded: Option<View>,
    /// The segment and the window that the frame of [`MapView::Spatial`] is in.
    pub window: Option<(usize, usize)>,
    /// The pieces of each prompt, those of an edited version after its source's.
    pub pieces: Vec<Vec<String>>,
    /// By word and prompt.
    positions: Vec<Vec<Vec<u32>>>,
}

impl MapsAsked {
    /// # Errors
    /// Words that are in no prompt, steps, layers and places that the run does not have, and flags of another view.
    pub fn resolve(&self, stage: &Stage) -> Result<Maps> {
        let view = self.view;
        ensure!(
            stage.input.source_video.is_none(),
            "no maps are made of a video that goes on from another: look into the one it goes on from"
        );
        ensure!(
            stage.method.streaming.is_none(),
            "no maps are made of chunks that go on from each other: use a text-to-video model"
        );
        ensure!(
            stage.segments.iter().all(|segment| segment.feed.is_none()),
            "no maps are made of scenes that continue each other: use another --transition"
        );
        ensure!(
            stage.segments.iter().all(|segment| segment.plan.frame_texts.is_none()),
            "no maps are made of frames that are made at once on the texts of several prompts: make the video with --method windows"
        );
        ensure!(
            view == MapView::Words || stage.model.architecture.main_sites().kind == SiteKind::Joint,
            "--view {view} looks into attention of text and video in one sequence, which this model has none of: use --view words"
        );
        ensure!(view == MapView::Words || self.words.is_empty(), "--words has no effect with --view {view}");
        ensure!(
            view != MapView::Words || !self.words.is_empty(),
            "whose maps? give --words \"red ball\", or --view text"
        );
        ensure!(view == MapView::Spatial || self.frame.is_none(), "--frame has no effect with --view {view}");
        ensure!(view == MapView::Temporal || self.at.is_none(), "--at has no effect with --view {view}");

        let depth = stage.model.architecture.main_sites().layers;
        let steps =
            self.steps.clone().unwrap_or_else(|| Ranges::from(stage.sampler.steps / 2..=stage.sampler.steps / 2));
        steps.check("steps", stage.sampler.steps).context("--map-steps")?;
        ensure!(
            steps.below(stage.sampler.steps).next().is_some(),
            "--map-steps {steps}: none of the run's {} steps",
            stage.sampler.steps
        );
        // 15, 20, 25 and 29 of 30, as in the reference
        let own = || [depth / 2, depth * 2 / 3, depth * 5 / 6, depth - 1].into_iter().collect();
        let layers = self.layers.clone().unwrap_or_else(own);
        layers.check("layers", depth).context("--layers")?;
        ensure!(layers.below(depth).next().is_some(), "--layers {layers}: none of the network's {depth} layers");

        let texts: Vec<String> = stage.texts().map(str::to_owned).collect();
        let own = stage.text.prompts.len();
        let shown = if stage.controls.edit.is_some() { texts.len() - own..texts.len() } else { 0..own };
        let mut prompts = Prompts::new(&texts, &stage.model.folder, stage.model.architecture.text().length)
            .shared(own, &stage.text.shared);
        let positions = self.words.iter().map(|word| prompts.word("--words", word, shown.clone()));
        let positions = positions.collect::<Result<_>>()?;
        let pieces = prompts.tokens()?.iter().map(|tokens| tokens.pieces.clone()).collect();

        let patch_t = stage.model.architecture.geometry().patch_t;
        let (mut window, mut recorded) = (None, None);
        match view {
            MapView::Words => {}
            MapView::Text => recorded = Some(View::Text),
            MapView::Spatial => {
                let frame = self.frame.context("which frame? give --frame 0")?;
                ensure!(frame < stage.frames(), "--frame {frame}: the video has the frames 0-{}", stage.frames() - 1);
                let (segment, place, local) = place_of(stage, frame).context("--frame: no window holds it")?;
                window = Some((segment, place));
                recorded = Some(View::Frame(local / patch_t));
            }
            MapView::Temporal => {
                let Pixel { x, y } = self.at.context("which place? give --at X,Y")?;
                let (width, height) = (stage.size.width, stage.size.height);
                ensure!(x < width && y < height, "--at {x},{y}: the picture has {width}x{height} pixels");
                let patch = stage.model.architecture.geometry().patch;
                let (row, column) =
                    (y * (stage.size.latents.1 / patch) / height, x * (stage.size.latents.2 / patch) / width);
                recorded = Some(View::Place { row, column });
            }
        }
        let words = self.words.clone();
        Ok(Maps { view, words, steps, layers, single_layer: self.single_layer, recorded, window, pieces, positions })
    }
}

/// The segment of a frame of the video, the window of it in which the frame lies furthest inside, and its latent frame there.
fn place_of(stage: &Stage, frame: usize) -> Option<(usize, usize, usize)> {
    let mut before = 0; // frames of the video before a segment; those that fade are of both
    for (index, segment) in stage.segments.iter().enumerate() {
        let start = before - segment.fade;
        if frame < start + segment.frames {
            let latent = stage.rules.latent_frames(frame - start + 1) - 1 + segment.padding;
            let windows = segment.plan.windows.iter().enumerate();
            let inside = windows.filter(|(_, window)| (window.start..window.end()).contains(&latent));
            let depth = |window: &crate::timeline::Window| (latent - window.start).min(window.end() - 1 - latent);
            let (place, window) = inside.rev().max_by_key(|(_, window)| depth(window))?;
            return Some((index, place, latent - window.start));
        }
        before = start + segment.frames;
    }
    None
}

impl Maps {
    /// The attention that says where the foreground of a smoothed background is, of all layers: in the middle of the run, where things
    /// have their places and are not yet drawn. None where nothing is smoothed, or pictures say it.
    ///
    /// # Errors
    /// Words that are in no prompt.
    pub fn of_foreground(stage: &Stage) -> Result<Option<Self>> {
        let smoothing = stage.method.zero_shot.as_ref().and_then(ZeroShot::smoothing);
        let Some(Foreground::Words { words, .. }) = smoothing.map(|smoothing| &smoothing.foreground) else {
            return Ok(None);
        };
        let (steps, first) = (stage.sampler.steps, stage.first_step());
        let [from, to] = [2, 3].map(|fifths| (fifths * steps / 5).max(first));
        let texts = &stage.text.prompts;
        let mut prompts = Prompts::new(texts, &stage.model.folder, stage.model.architecture.text().length);
        let positions =
            words.iter().map(|word| prompts.word("--subject", word, 0..texts.len())).collect::<Result<_>>()?;
        Ok(Some(Self {
            view: MapView::Words,
            words: words.clone(),
            steps: (from..=to).step_by(2).collect(),
            layers: std::iter::once(stage.model.architecture.main_sites().layers - 1).collect(),
            single_layer: false,
            recorded: None,
            window: None,
            pieces: Vec::new(),
            positions,
        }))
    }

    /// What is recorded in a run over some texts.
    pub fn recording(&self, texts: &[TextMix]) -> Recording {
        let words = self.words.iter().zip(&self.positions);
        let word = |(text, positions): (&String, &Vec<Vec<u32>>)| Word {
            text: text.clone(),
            positions: by_text(positions, texts),
        };
        Recording {
            words: words.map(word).collect(),
            views: self.recorded.into_iter().collect(),
            steps: self.steps.clone(),
            layers: self.layers.clone(),
            single_layer: self.single_layer,
        }
    }

    /// Steps to take until all maps are seen.
    pub fn until(&self, steps: usize) -> usize {
        self.steps.below(steps).last().map_or(0, |last| last + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_pixels() {
        assert_eq!("72, 48".parse::<Pixel>().unwrap(), Pixel { x: 72, y: 48 });
        for text in ["72", "72,", "-1,4", "a,b", "1,2,3"] {
            assert!(text.parse::<Pixel>().unwrap_err().to_string().contains("is not X,Y"), "{text}");
        }
    }
}
