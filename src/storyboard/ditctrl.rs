//! Case files of DiTCtrl (arXiv 2412.18597; spec/ditctrl.md 12), unchanged: YAML with its keys under `args:`.
//!
//! Its program ignores what it does not know; here that is an error. Keys with a meaning become settings under their names
//! here, with the defaults of its own configuration where half of a pair is given. Keys that only say where to compute and where
//! to put files cause a warning, and a file for another command is an error that names the command.

use super::node::{Entry, Node, Source, Table, Value};
use super::scenes::{MOST_SCENES, check_count, plain, prompt};
use super::{Scene, Storyboard};
use crate::words::unknown;
use anyhow::{Error, Result, anyhow};
use std::collections::BTreeMap;

/// Keys with a meaning here, or for another command.
const KEYS: [&str; 22] = [
    "prompts",
    "seed",
    "overlap_size",
    "num_transition_blocks",
    "longer_mid_segment",
    "sampling_fps",
    "sampling_num_frames",
    "adaln_mixin_names",
    "start_step",
    "end_step",
    "start_layer",
    "end_layer",
    "step_idx",
    "layer_idx",
    "thres",
    "ref_token_idx",
    "cur_token_idx",
    "single_prompt_length",
    "is_run_isolated",
    "is_edit",
    "reweight_token_idx",
    "reweight_scale",
];
/// Keys of the machine, and those that its program reads and does not use.
const IDLE: [&str; 15] = [
    "load",
    "output_dir",
    "fp16",
    "bf16",
    "device",
    "mode",
    "force_inference",
    "batch_size",
    "latent_channels",
    "only_save_latents",
    "only_log_video_latents",
    "input_type",
    "mask_save_dir",
    "attn_map_step_idx",
    "attn_map_layer_idx",
];
/// Where keys and values are shared, and the values of its own configuration.
const RANGES: [(&str, usize); 4] = [("start_step", 2), ("end_step", 25), ("start_layer", 25), ("end_layer", 30)];
const SHARING: [&str; 6] = ["start_step", "end_step", "start_layer", "end_layer", "step_idx", "layer_idx"];
const SUBJECT: [&str; 3] = ["thres", "ref_token_idx", "cur_token_idx"];
const PROCESSORS: [&str; 5] = [
    "KVSharingAdaLNMixin",
    "KVSharingMaskGuidedAdaLNMixin",
    "BaseAdaLNMixin",
    "VisualizeAdaLNMixin",
    "ReWeightAdaLNMixin",
];

/// Latent frames of a window in every case there is.
const WINDOW: usize = 13;

pub(super) fn read(source: Source, root: &Table) -> Result<Storyboard> {
    if let Some(entry) = root.entries().iter().find(|entry| entry.key == "model") {
        let message = "model is described here: this is the configuration of a network, not a case with prompts";
        return Err(source.at(entry.line, message));
    }
    source.only("key beside args", root, &["args"])?;
    let Some(node) = root.get("args") else { return Err(anyhow!("{}: no args in it", source.name)) };
    let args = source.table("args", node)?;
    let known: Vec<&str> = KEYS.into_iter().chain(IDLE).collect();
    source.only("key of args", args, &known)?;
    let case = Case { source, args, line: node.line };
    case.not_another_command()?;
    case.storyboard()
}

struct Case<'a> {
    source: Source<'a>,
    args: &'a Table,
    line: usize,
}

impl Case<'_> {
    /// The entry of a key; one that is null counts as absent.
    fn entry(&self, key: &str) -> Option<&Entry> {
        self.args.entries().iter().find(|entry| entry.key == key && entry.value.value != Value::Null)
    }

    fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    fn flag(&self, key: &str) -> Result<bool> {
        self.get(key).map_or(Ok(false), |node| self.source.flag(key, node))
    }

    fn count(&self, key: &str) -> Result<Option<usize>> {
        self.get(key).map(|node| self.source.count(key, node, 0)).transpose()
    }

    fn at(&self, key: &str, message: impl std::fmt::Display) -> Error {
        self.source.at(self.entry(key).map_or(self.line, |entry| entry.line), message)
    }

    /// The processor of attention that is chosen; the sharing one where none is.
    fn processor(&self) -> Result<&'static str> {
        let key = "adaln_mixin_names";
        let Some(node) = self.get(key) else { return Ok(PROCESSORS[0]) };
        let names = self.source.words(key, node)?;
        let mut chosen = Vec::with_capacity(names.len());
        for name in names {
            match PROCESSORS.into_iter().find(|known| *known == name) {
                Some(known) => chosen.push(known),
                None => return Err(self.at(key, unknown("name in adaln_mixin_names", name, &PROCESSORS))),
            }
        }
        match chosen.as_slice() {
            [one] => Ok(one),
            [] => Err(self.at(key, "adaln_mixin_names is empty: name one, or leave it out")),
            several => {
                let message =
                    "adaln_mixin_names asks for a video with each of {}: keep one name, and make a video for each";
                Err(self.at(key, message.replace("{}", &several.join(", "))))
            }
        }
    }

    fn not_another_command(&self) -> Result<()> {
        if self.flag("is_edit")? {
            let words = self.prompts()?;
            let swap = match words.as_slice() {
                [(_, from), (_, to)] => swapped(from, to),
                _ => None,
            };
            let swap = swap.unwrap_or_else(|| "A=>B".to_owned());
            return Err(self.at("is_edit", format!("this case is a word swap: use vidgen edit with --swap '{swap}'")));
        }
        let message = match self.processor()? {
            "ReWeightAdaLNMixin" => {
                let scale = self.get("reweight_scale").map(|node| self.source.number("reweight_scale", node));
                let scale = scale.transpose()?.map_or("X".to_owned(), |scale| scale.to_string());
                format!("this case weights a word anew: use vidgen edit with --reweight 'WORD:{scale}'")
            }
            "VisualizeAdaLNMixin" => "this case draws attention maps: use vidgen attn-map".to_owned(),
            _ => return Ok(()),
        };
        Err(self.at("adaln_mixin_names", message))
    }

    /// Prompts with their lines.
    fn prompts(&self) -> Result<Vec<(usize, String)>> {
        let Some(node) = self.get("prompts") else { return Err(self.at("prompts", "no prompts in args")) };
        let Value::List(list) = &node.value else { return Err(self.at("prompts", "prompts is not a list")) };
        check_count(list.len()).map_err(|error| self.at("prompts", error))?;
        let one = |node: &Node| {
            let text = self.source.word("a prompt", node)?;
            Ok((node.line, prompt(text).map_err(|error| self.source.at(node.line, error))?))
        };
        let prompts = list.iter().map(one).collect::<Result<Vec<_>>>()?;
        if prompts.is_empty() { Err(self.at("prompts", "no prompt in prompts")) } else { Ok(prompts) }
    }

    fn storyboard(&self) -> Result<Storyboard> {
        let mut scenes: Vec<Scene> = self.prompts()?.into_iter().map(|(_, prompt)| plain(prompt)).collect();
        if let Some(length @ 1..) = self.count("single_prompt_length")? {
            let key = "single_prompt_length";
            if scenes.len() > 1 {
                let message = format!("{key} is for one prompt, and there are {}: leave it out", scenes.len());
                return Err(self.at(key, message));
            }
            check_count(length).map_err(|error| self.at(key, error))?;
            scenes = vec![scenes[0].clone(); length.min(MOST_SCENES)];
        }
        if let Some(frames) = self.count("sampling_num_frames")?
            && frames != WINDOW
        {
            let message =
                format!("sampling_num_frames {frames}: a window is as long as its model was made for: leave it out");
            return Err(self.at("sampling_num_frames", message));
        }
        let mut settings = Settings { source: self.source, table: toml::Table::new(), places: BTreeMap::new() };
        for (key, name) in [
            ("seed", "seed"),
            ("overlap_size", "overlap"),
            ("num_transition_blocks", "transition_windows"),
            ("longer_mid_segment", "hold"),
            ("sampling_fps", "fps"),
        ] {
            if let Some(entry) = self.entry(key) {
                settings.insert(name, entry.line, self.source.setting(&entry.value)?);
            }
        }
        let mut warnings = Vec::new();
        let idle: Vec<&str> = IDLE.into_iter().filter(|key| self.entry(key).is_some()).collect();
        if !idle.is_empty() {
            let idle = idle.join(", ");
            warnings.push(format!("{}: not read, since flags say this here: {idle}", self.source.name));
        }

        let processor = self.processor()?;
        let isolated = self.flag("is_run_isolated")?;
        let shares = processor != "BaseAdaLNMixin" && !isolated;
        let transition = match (isolated, shares) {
            (true, _) => "cut",
            (false, true) => "attention",
            (false, false) => "blend",
        };
        settings.insert("transition", self.line, toml::Value::String(transition.to_owned()));
        let masked = shares && processor == "KVSharingMaskGuidedAdaLNMixin";
        let given = |keys: &[&'static str]| -> Vec<&str> {
            keys.iter().copied().filter(|key| self.entry(key).is_some()).collect()
        };
        if shares && let [first, ..] = given(&SHARING)[..] {
            let line = self.entry(first).map_or(self.line, |entry| entry.line);
            settings.insert("attn_proc", line, toml::Value::String(self.sharing()?));
        }
        if masked {
            let tokens = |key: &str| self.get(key).map_or(Ok(vec![0]), |node| self.source.counts(key, node));
            let (first, rest) = (tokens("ref_token_idx")?, tokens("cur_token_idx")?);
            for (index, scene) in scenes.iter_mut().enumerate() {
                scene.subject_tokens = if index == 0 { first.clone() } else { rest.clone() };
            }
            if scenes.iter().any(|scene| scene.subject_tokens.is_empty()) {
                return Err(self.at("ref_token_idx", "ref_token_idx and cur_token_idx: an empty list names no subject"));
            }
            if let Some(entry) = self.entry("thres") {
                let threshold = self.source.number("thres", &entry.value)?;
                settings.insert("mask_threshold", entry.line, toml::Value::Float(threshold));
            }
        }
        let mut useless = if shares { Vec::new() } else { given(&SHARING) };
        useless.extend(if masked { Vec::new() } else { given(&SUBJECT) });
        useless.extend(given(&["reweight_token_idx", "reweight_scale"]));
        if !useless.is_empty() {
            let why = if isolated { "is_run_isolated" } else { processor };
            warnings.push(format!("{}: no effect with {why}: {}", self.source.name, useless.join(", ")));
        }
        Ok(Storyboard { scenes, settings: settings.table, places: settings.places, warnings })
    }

    /// The control that shares keys and values.
    fn sharing(&self) -> Result<String> {
        let [start_step, end_step, start_layer, end_layer] =
            RANGES.map(|(key, default)| self.count(key).map(|number| number.unwrap_or(default)));
        let indices = |list: &str, (first, start): (&str, usize), end: usize| match self.get(list) {
            Some(node) => {
                let indices = self.source.counts(list, node)?;
                if indices.is_empty() {
                    Ok("none".to_owned())
                } else {
                    Ok(indices.iter().map(usize::to_string).collect::<Vec<_>>().join(","))
                }
            }
            None if start < end => Ok(format!("{start}-{}", end - 1)),
            None => Err(self.at(first, format!("{first} is {start}, and what ends before {end} cannot begin there"))),
        };
        let layers = indices("layer_idx", ("start_layer", start_layer?), end_layer?)?;
        let steps = indices("step_idx", ("start_step", start_step?), end_step?)?;
        Ok(format!("kv-share:layers={layers},steps={steps}"))
    }
}

struct Settings<'a> {
    source: Source<'a>,
    table: toml::Table,
    places: BTreeMap<String, String>,
}

impl Settings<'_> {
    fn insert(&mut self, name: &str, line: usize, value: toml::Value) {
        self.table.insert(name.to_owned(), value);
        self.places.insert(name.to_owned(), format!("{}:{line}", self.source.name));
    }
}

/// `FROM=>TO`: the words in which two prompts differ.
fn swapped(from: &str, to: &str) -> Option<String> {
    let (from, to): (Vec<&str>, Vec<&str>) = (from.split_whitespace().collect(), to.split_whitespace().collect());
    let before = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let (from, to) = (&from[before..], &to[before..]);
    let after = from.iter().rev().zip(to.iter().rev()).take_while(|(a, b)| a == b).count();
    let (from, to) = (&from[..from.len() - after], &to[..to.len() - after]);
    (!from.is_empty() && !to.is_empty()).then(|| format!("{}=>{}", from.join(" "), to.join(" ")))
}
