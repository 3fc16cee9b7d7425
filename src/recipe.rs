//! The defaults of a method on a model, as `configs/` has them. The files say where their numbers come from.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "opens files")]

use crate::guidance::GuidanceSchedule;
use crate::models::cogvideox::config::TransformerConfig;
use crate::processors::Spec;
use crate::schedulers::{SchedulerKind, Table};
use crate::timeline::BlendMode;
use crate::video::Rate;
use crate::words::{text, word, words};
use anyhow::{Context, Result};
use serde::Deserialize;

words!(
    /// The text of the unconditional half.
    Uncond, "unconditional text", {
        /// An all-zero embedding: what CogVideoX's training dropped to.
        Zeros = "zeros",
        /// The encoding of "": what diffusers uses.
        Empty = "empty",
    }
);

/// What a run does where nobody says otherwise.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Denoising steps.
    pub steps: usize,
    #[serde(deserialize_with = "word")]
    pub guidance_scale: GuidanceSchedule,
    #[serde(deserialize_with = "word")]
    pub uncond: Uncond,
    /// Another sampler than the model folder's.
    #[serde(default, deserialize_with = "text::deserialize")]
    pub scheduler: Option<SchedulerKind>,
    #[serde(deserialize_with = "word")]
    pub schedule: Table,
    /// Fresh noise per DDIM step, 0 to 1.
    pub eta: f64,
    /// Latent frames that neighbouring windows share; absent for [`Recipe::overlap`]'s share of the window.
    #[serde(default)]
    pub overlap: Option<usize>,
    /// Windows with interpolated text between two prompts.
    pub transition_windows: usize,
    /// Windows added to each prompt that is neither first nor last.
    pub hold: usize,
    #[serde(deserialize_with = "word")]
    pub blend: BlendMode,
    /// Controls of attention between windows; their steps count in a run of [`Recipe::steps`] steps.
    #[serde(default)]
    pub attn_proc: Vec<Spec>,
    /// Layers of the network that `attn_proc` was chosen for; one of other depth has no controls of its own.
    #[serde(default)]
    pub layers: Option<usize>,
    /// Frames per second that the model was trained on.
    #[serde(deserialize_with = "word")]
    pub fps: Rate,
    /// How latents are shown before they are decoded.
    #[serde(default)]
    pub preview: Option<LatentRgb>,
}

/// A linear map from the channels of a latent cell to a colour in -1 to 1.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentRgb {
    /// Red, green and blue of each channel.
    pub factors: Vec<[f32; 3]>,
    #[serde(default)]
    pub bias: [f32; 3],
}

const TOYLAND: &str = include_str!("../configs/toyland.toml");
const COGVIDEOX_2B: &str = include_str!("../configs/cogvideox-2b.toml");
const COGVIDEOX_5B: &str = include_str!("../configs/cogvideox-5b.toml");
const COGVIDEOX1_5_5B: &str = include_str!("../configs/cogvideox1.5-5b.toml");

impl Recipe {
    /// The recipe of a model: Toyland's by its name, the others by what the network is made of, so that a copy of a model
    /// under another name and a fine-tuned one get theirs.
    pub fn for_model(name: &str, transformer: &TransformerConfig) -> Result<Self> {
        let (file, text) = match transformer {
            _ if name == "toyland" => ("toyland.toml", TOYLAND),
            TransformerConfig { patch_size_t: Some(_), .. } => ("cogvideox1.5-5b.toml", COGVIDEOX1_5_5B),
            TransformerConfig { use_rotary_positional_embeddings: true, .. } => ("cogvideox-5b.toml", COGVIDEOX_5B),
            _ => ("cogvideox-2b.toml", COGVIDEOX_2B),
        };
        let mut recipe = Self::parse(text).with_context(|| format!("configs/{file}"))?;
        if recipe.layers != Some(transformer.num_layers) {
            recipe.attn_proc.clear();
        }
        Ok(recipe)
    }

    /// The controls of a run of `steps` steps: acting in the same part of it ([`Ranges::scaled`](crate::processors::Ranges)).
    pub fn controls(&self, steps: usize) -> Vec<Spec> {
        let scaled = |spec: &Spec| Spec { steps: spec.steps.scaled(self.steps, steps), ..spec.clone() };
        self.attn_proc.iter().map(scaled).collect()
    }

    fn parse(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }

    /// Latent frames that neighbouring windows share, for a window of `window`: 9 of 13, DiTCtrl's share, where the recipe
    /// does not say.
    pub fn overlap(&self, window: usize) -> usize {
        self.overlap.unwrap_or(9 * window / 13)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::SiteKind;

    #[test]
    fn every_recipe_is_read_and_reached() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/configs");
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let recipe = Recipe::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!((1..=1000).contains(&recipe.steps) && (0.0..=1.0).contains(&recipe.eta), "{}", path.display());
            assert!(recipe.overlap(13) < 13, "{}", path.display());
            let layers = recipe.layers.unwrap();
            for spec in &recipe.attn_proc {
                spec.check(recipe.steps, &[(SiteKind::Joint, layers)]).unwrap();
            }
            assert!(text.starts_with('#'), "{}: say where the numbers come from", path.display());
            files.push(text);
        }
        let embedded = [TOYLAND, COGVIDEOX_2B, COGVIDEOX_5B, COGVIDEOX1_5_5B];
        assert_eq!(files.len(), embedded.len(), "a file in configs/ is embedded here, or does nothing");
        assert!(embedded.iter().all(|text| files.iter().any(|file| file == text)));
    }

    #[test]
    fn a_model_gets_its_recipe() {
        let two = TransformerConfig::default();
        let five = TransformerConfig { use_rotary_positional_embeddings: true, num_layers: 42, ..two.clone() };
        let newer = TransformerConfig { patch_size_t: Some(2), sample_frames: 81, ..five.clone() };
        let small = TransformerConfig { num_layers: 6, ..two.clone() };
        for (name, transformer, text) in [
            ("toyland", &small, TOYLAND),
            ("./CogVideoX", &two, COGVIDEOX_2B),
            ("THUDM/CogVideoX-2b", &two, COGVIDEOX_2B),
            ("./finetuned", &five, COGVIDEOX_5B),
            ("cogvideox1.5-5b", &newer, COGVIDEOX1_5_5B),
        ] {
            assert_eq!(Recipe::for_model(name, transformer).unwrap(), Recipe::parse(text).unwrap(), "{name}");
        }
        let recipe = Recipe::for_model("", &newer).unwrap();
        assert_eq!((recipe.overlap(13), recipe.overlap(newer.window())), (9, 14)); // a window of 21
        assert_eq!(recipe.fps.to_string(), "16");
        // a network of another depth keeps the rest of its kind's recipe
        let shallow = Recipe::for_model("./toyland", &small).unwrap();
        let attn_proc = Recipe::parse(COGVIDEOX_2B).unwrap().attn_proc;
        assert_eq!(attn_proc, ["kv-share:layers=25-29,steps=2-24".parse().unwrap()]);
        assert_eq!(Recipe { attn_proc, ..shallow.clone() }, Recipe::parse(COGVIDEOX_2B).unwrap());
        assert!(shallow.attn_proc.is_empty());
        assert_eq!(Recipe { overlap: Some(6), ..recipe }.overlap(13), 6);
    }

    #[test]
    fn controls_keep_their_part_of_the_run() {
        let recipe = Recipe::for_model("", &TransformerConfig::default()).unwrap();
        let steps = |steps| recipe.controls(steps)[0].to_string();
        assert_eq!(steps(50), "kv-share:layers=25-29,steps=2-24");
        assert_eq!(steps(20), "kv-share:layers=25-29,steps=1-9");
    }

    #[test]
    fn unknown_and_wrong_entries_are_refused() {
        let error = |text: String| Recipe::parse(&text).unwrap_err().to_string();
        assert!(error(format!("{COGVIDEOX_2B}\nstep = 3\n")).contains("step"));
        assert!(error(COGVIDEOX_2B.replace("\"diffusers\"", "\"other\"")).contains("diffusers or sat"));
        assert!(error(COGVIDEOX_2B.replace("\"zeros\"", "\"zero\"")).contains("did you mean zeros?"));
    }
}
