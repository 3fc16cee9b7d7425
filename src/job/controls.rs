//! Which controls act on attention in a run, and where the words they name stand in the prompts.
//!
//! Keys and values are shared (DiTCtrl, arXiv 2412.18597) between windows that are joined: across attention transitions and
//! inside scenes. A control of sharing that is given replaces the one of the model's recipe.

use super::edit::{self, Changes, Edit};
use super::plan::Segment;
use super::prompts::{Named, Prompts};
use super::routes;
use super::scene_times::{SharedText, is_timed};
use super::settings::Settings;
use super::sharing::Sharing;
use crate::attention::SiteKind;
use crate::models::Architecture;
use crate::processors::kv_share::{self, THRESHOLD};
use crate::processors::{
    BankPlan, BankSize, LayerSize, Profile, Purpose, Ranges, Route, Spec, Subject as Placed, Word, check_order, parse,
    relay,
};
use crate::recipe::Recipe;
use crate::storyboard::{Scene, Transition};
use crate::timeline::{ChunkPlan, TextMix};
use crate::weights::ModelFolder;
use anyhow::{Result, bail, ensure};
use candle_core::{DType, Device};
use std::collections::{BTreeMap, BTreeSet};

/// The subject that is kept from window to window.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// The words that name it, by prompt.
    pub words: Vec<Vec<String>>,
    pub threshold: f64,
    /// Its tokens, by prompt, rising.
    positions: Vec<Vec<u32>>,
}

/// The controls of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Controls {
    /// In the order of the stack, the outermost first; without the subject of sharing, which is below.
    pub specs: Vec<Spec>,
    /// None where no windows are joined.
    pub sharing: Option<Sharing>,
    pub subject: Option<Subject>,
    /// By text that scenes share, its scenes.
    pub routes: Vec<Vec<Route>>,
    /// How the video differs from the one it is an edited version of; prompts are then the source's, and after them its own.
    pub edit: Option<Edit>,
    /// The tokens of other words that controls name, by prompt, texts that scenes share included.
    words: BTreeMap<String, Vec<Vec<u32>>>,
}

/// The controls that were asked for, or are the model's own.
#[derive(Debug, Clone)]
pub struct Wanted {
    specs: Vec<Spec>,
    /// Whether sharing was asked for, rather than being the model's own.
    explicit: bool,
    depth: usize,
    /// Of the run.
    steps: usize,
}

fn recipe_routes(recipe: &Recipe, steps: usize) -> bool {
    recipe.controls(steps).iter().any(|spec| spec.control.routes_words)
}

fn is_sharing(spec: &Spec) -> bool {
    spec.control.joins_windows
}

/// What to do on a network that no recipe says where to share on.
fn say_where(depth: usize, steps: usize) -> String {
    let (name, first) = (kv_share::CONTROL.name, depth - depth.div_ceil(6));
    let layers = if first == depth - 1 { first.to_string() } else { format!("{first}-{}", depth - 1) };
    // DiTCtrl's, of 50
    let steps = "2-24".parse::<Ranges>().map(|ranges| ranges.scaled(50, steps)).unwrap_or_else(|_| Ranges::all());
    format!(
        "there is no recipe for sharing on this network of {depth} layers: say where, as --attn-proc \
         {name}:layers={layers},steps={steps}"
    )
}

impl Wanted {
    /// `method`: the control that the run's method is, where it is one. `steps`: of the run.
    pub fn new(
        settings: &Settings,
        recipe: &Recipe,
        method: Option<Spec>,
        architecture: &dyn Architecture,
        steps: usize,
    ) -> Result<Self> {
        let given = settings.attn_proc.as_deref().unwrap_or_default();
        let sites: Vec<_> = architecture.sites().iter().map(|sites| (sites.kind, sites.layers)).collect();
        for spec in given {
            let what = |error: anyhow::Error| anyhow::anyhow!("--attn-proc {spec}: {error:#}");
            spec.check(steps, &sites).map_err(what)?;
        }
        let explicit = given.iter().any(is_sharing);
        let clears = given.iter().any(|spec| spec.control.clears);
        // one that is given again replaces the recipe's
        let replaced = |own: &Spec| given.iter().any(|spec| spec.control == own.control);
        // what it does where nobody says otherwise; scenes that share a text are not thinkable without
        let relay = architecture.main_sites().kind == SiteKind::Joint && !recipe_routes(recipe, steps);
        let relay = relay.then(|| parse(relay::CONTROL.name)).transpose()?;
        let own = relay.into_iter().chain(recipe.controls(steps)).chain(method);
        let own = own.filter(|spec| !(clears || replaced(spec) || explicit && is_sharing(spec)));
        let own: Vec<Spec> = own.collect();
        for spec in &own {
            spec.check(steps, &sites).map_err(|error| anyhow::anyhow!("the recipe's {spec}: {error:#}"))?;
        }
        let specs: Vec<Spec> =
            own.into_iter().chain(given.iter().filter(|spec| !spec.control.clears).cloned()).collect();
        if let Some(twice) = specs.iter().filter(|spec| is_sharing(spec)).nth(1) {
            bail!("--attn-proc: {} is given twice: give all its steps and layers in one", twice.control.name)
        }
        check_order(&specs).map_err(|error| anyhow::anyhow!("--attn-proc: {error}"))?;
        Ok(Self { specs, explicit, depth: architecture.main_sites().layers, steps })
    }

    /// Whether windows of scenes that share a text share keys and values as well: where that was asked for.
    pub fn joins_relayed(&self) -> bool {
        self.explicit
    }

    /// How scenes follow each other where nobody says, and whether the windows inside one scene are joined.
    ///
    /// # Errors
    /// When attention is asked for, and nobody says where it shares.
    pub fn transition(&self, settings: &Settings, scenes: &[Scene]) -> Result<(Transition, bool)> {
        let shares = self.specs.iter().any(is_sharing);
        let asked = settings.transition.iter().chain(scenes.iter().filter_map(|scene| scene.transition.kind.as_ref()));
        if let (false, Some(_)) = (shares, asked.into_iter().find(|kind| **kind == Transition::Attention)) {
            bail!("transition attention: {}, or use --transition blend", say_where(self.depth, self.steps))
        }
        let timed = is_timed(scenes);
        let default = match (timed, shares) {
            (true, _) => Transition::Relay,
            (false, true) => Transition::Attention,
            (false, false) => Transition::Blend,
        };
        let transition = settings.transition.unwrap_or(default);
        let other = scenes.iter().skip(1).map(|scene| scene.transition.kind.unwrap_or(transition));
        if let Some(other) = other.chain([transition]).find(|kind| timed && *kind != Transition::Relay) {
            bail!(
                "transition {other}: the times of the scenes overlap or leave gaps, which is for relay: give times that follow \
                 each other from the first frame to the last, or use --transition relay"
            )
        }
        Ok((transition, shares && transition != Transition::Blend && transition != Transition::Relay))
    }

    /// Settles where the controls act and finds the words they name. Warnings are of subjects that can have no effect.
    #[allow(clippy::too_many_arguments)] // the whole of a job so far
    pub fn resolve(
        self,
        settings: &Settings,
        scenes: &[Scene],
        (prompts, shared): (&[String], &[SharedText]),
        changes: Option<&Changes>,
        segments: &[Segment],
        (model, length): (&ModelFolder, usize),
        warnings: &mut Vec<String>,
    ) -> Result<Controls> {
        let Self { mut specs, explicit, depth, steps } = self;
        let joined = segments.iter().any(|segment| segment.plan.windows.iter().any(|window| window.joined));
        let idle = prompts.len() == 1 || changes.is_some(); // window flags of a single window are accepted
        let unjoined = "no effect: no windows are joined by an attention transition";
        let given = settings.subject.as_deref().unwrap_or_default();
        let mut sharing = specs.iter_mut().find(|spec| is_sharing(spec));
        let name = sharing.as_ref().map_or("", |spec| spec.control.name);
        if !joined && !idle {
            ensure!(!explicit, "--attn-proc {name} has {unjoined}");
            ensure!(given.is_empty(), "--subject has {unjoined}");
        }
        let own = sharing.as_mut().map(|spec| kv_share::take_subject(&mut spec.values)).transpose()?.flatten();
        let by_scene = scenes.iter().any(|scene| !scene.subject.is_empty());
        // places in a file are for those who have no words; a flag has
        let by_token = given.is_empty() && scenes.iter().any(|scene| !scene.subject_tokens.is_empty());
        if own.is_some() && (by_scene || by_token || !given.is_empty() || settings.mask_threshold.is_some()) {
            bail!("--attn-proc {name} names its own subject: leave it out there, or leave out the other subjects")
        }
        let named = own.is_some() || by_scene || by_token || !given.is_empty();
        match settings.mask_threshold {
            Some(_) if !named => bail!("--mask-threshold has no effect without --subject"),
            Some(threshold) if !(0.0..=1.0).contains(&threshold) => {
                bail!("--mask-threshold {threshold} is not within 0 and 1")
            }
            _ => {}
        }
        if !relayed(segments, named, changes.is_some())? {
            let is_relay = |spec: &Spec| spec.control.routes_words;
            ensure!(
                idle || !settings.attn_proc.iter().flatten().any(is_relay),
                "--attn-proc {} has no effect: no scenes follow by relay (--transition relay)",
                relay::CONTROL.name
            );
            specs.retain(|spec| !is_relay(spec));
        }
        if named && changes.is_some() {
            bail!("an edit shares whole keys and values: leave out the subjects, or make the video without them")
        }
        let reading = changes.map(|changes| reading(changes, &specs, explicit && !joined, depth, steps)).transpose()?;
        if !joined {
            if by_scene || by_token {
                warnings.push(format!("the subjects of the scenes have {unjoined}"));
            }
            specs.retain(|spec| !is_sharing(spec));
        }

        let edited = changes.map(|changes| changes.prompts(prompts)).transpose()?.unwrap_or_default();
        let scenes_of = prompts.len();
        let shared_texts: Vec<String> = shared.iter().map(|shared| shared.text.clone()).collect();
        let texts = [prompts, &shared_texts, &edited].concat();
        let mut prompts = Prompts::new(&texts, model, length).shared(scenes_of, shared);
        let routes = routes::routes(segments, shared, scenes_of, (&mut prompts, length))?;
        let mut controls = Controls { routes, ..Controls::default() };
        if named {
            let (common, threshold) = own.unwrap_or_else(|| {
                let trimmed = given.iter().map(|words| words.trim().to_owned()).filter(|words| !words.is_empty());
                (trimmed.collect(), settings.mask_threshold.unwrap_or(THRESHOLD))
            });
            let named = |scene: &Scene| match (scene.subject.is_empty(), by_token) {
                (true, true) => Named::Tokens(scene.subject_tokens.clone()),
                (true, false) => Named::Words(common.clone()),
                (false, _) => Named::Words(scene.subject.clone()),
            };
            let (words, positions) = prompts.subject(scenes.iter().map(named).collect())?;
            let subject = Subject { words, threshold, positions };
            segments.iter().try_for_each(|segment| subject.check(&segment.plan, prompts.texts))?;
            controls.subject = joined.then_some(subject);
        }
        let several = segments.iter().any(|segment| segment.plan.frame_texts.is_some());
        let among = if edited.is_empty() { 0..scenes_of } else { 0..texts.len() };
        for spec in &specs {
            let asked = format!("--attn-proc {}", spec.control.name);
            ensure!(
                spec.words().is_empty() || !several,
                "{asked} names words, and frames that are made at once have the texts of several prompts: use --method windows, or \
                 --transition cut"
            );
            for word in spec.words() {
                controls.words.insert(word.to_owned(), prompts.word(&asked, word, among.clone())?);
            }
        }
        if let (Some(changes), Some(reading)) = (changes, reading) {
            let (count, of_edited) = (texts.len() - edited.len(), texts.len() - edited.len()..texts.len());
            for swap in changes.swaps() {
                prompts.word(&format!("--swap {swap}"), &swap.from, 0..count)?;
            }
            let words = changes.reweightings().iter();
            let words = words.map(|new| prompts.word(&format!("--reweight {new}"), &new.words, of_edited.clone()));
            let words = words.collect::<Result<_>>()?;
            controls.edit = Some(Edit { changes: changes.clone(), prompts: edited, reading, words });
        }
        controls.sharing = specs.iter().find(|spec| is_sharing(spec)).map(|spec| Sharing {
            steps: spec.steps.clone(),
            layers: spec.layers.clone(),
            depth,
        });
        controls.specs = specs;
        Ok(controls)
    }
}

/// Whether some scenes share a text.
///
/// # Errors
/// What cannot be done to such scenes: `named` subjects, and `edited` ones.
fn relayed(segments: &[Segment], named: bool, edited: bool) -> Result<bool> {
    let relayed = segments.iter().any(|segment| segment.relay.is_some());
    ensure!(
        !(named && relayed),
        "a subject is looked for in texts of one scene, and with relay scenes share a text: leave out the subjects, or use \
         --transition attention"
    );
    ensure!(
        !(edited && relayed),
        "scenes that share a text (relay) cannot be edited: make the video anew with the other words"
    );
    Ok(relayed)
}

/// Where an edited version reads its source. `replaced`: by the sharing that was given.
fn reading(changes: &Changes, specs: &[Spec], replaced: bool, depth: usize, of: usize) -> Result<Sharing> {
    let sharing = specs.iter().find(|spec| is_sharing(spec));
    let (steps, layers) = match sharing {
        Some(spec) if replaced || !changes.swaps().is_empty() => (spec.steps.clone(), spec.layers.clone()),
        None if !changes.swaps().is_empty() => bail!("--swap: {}", say_where(depth, of)),
        _ => (Ranges::from(edit::FIRST_STEPS), Ranges::all()),
    };
    Ok(Sharing { steps, layers, depth })
}

impl Subject {
    /// Positions may differ between two prompts without transition windows only: a window between two texts has one
    /// embedding, in which a subject at two places would be at neither.
    fn check(&self, plan: &ChunkPlan, prompts: &[String]) -> Result<()> {
        if !plan.windows.iter().any(|window| window.joined) {
            return Ok(());
        }
        let mut named = Vec::new();
        for text in &plan.texts {
            match *text {
                TextMix::Prompt(prompt) => named.push(prompt),
                TextMix::Between { from, to, .. } => named.extend([from, to]),
            }
        }
        if let ([TextMix::Prompt(_), TextMix::Prompt(_)], _) | (_, []) = (plan.texts.as_slice(), named.as_slice()) {
            return Ok(());
        }
        let first = named[0];
        let Some(&other) = named.iter().find(|&&prompt| self.positions[prompt] != self.positions[first]) else {
            return Ok(());
        };
        let place = |prompt: usize| {
            let tokens: Vec<String> = self.positions[prompt].iter().map(u32::to_string).collect();
            format!("{} is token {} of {:?}", self.words[prompt].join(", "), tokens.join(" "), prompts[prompt])
        };
        bail!(
            "subject: {} and {}; places may differ between two prompts without transition windows only: begin the prompts \
             alike, or use two prompts and --transition-windows 0",
            place(first),
            place(other)
        )
    }
}

impl Controls {
    /// How the words of scenes that share a text are heard.
    pub fn relay_profile(&self) -> Option<Profile> {
        let spec = self.specs.iter().find(|spec| spec.control.routes_words)?;
        relay::profile(&spec.values).ok()
    }

    /// The tokens of a word in each of some texts; those of a text between two prompts are those of either.
    pub fn positions(&self, word: &str, texts: &[TextMix]) -> Vec<Vec<u32>> {
        self.words.get(word).map_or_else(Vec::new, |positions| by_text(positions, texts))
    }

    /// The words that an edit reweights with their tokens in each of some texts, and their factors.
    pub fn reweighted(&self, texts: &[TextMix]) -> Vec<(Word, f64)> {
        let edit = self.edit.iter();
        let words = edit.flat_map(|edit| edit.changes.reweightings().iter().zip(&edit.words));
        let word = |text: &str, positions: &[_]| Word { text: text.to_owned(), positions: by_text(positions, texts) };
        words.map(|(new, positions)| (word(&new.words, positions), new.factor)).collect()
    }

    /// The subject with its tokens in each of some texts: one word, since which words name it may differ from prompt to
    /// prompt.
    pub fn subject(&self, texts: &[TextMix]) -> Option<Placed> {
        let Subject { words, threshold, positions } = self.subject.as_ref()?;
        let names: BTreeSet<&str> = words.iter().flatten().map(String::as_str).collect();
        let text = names.into_iter().collect::<Vec<_>>().join(", ");
        Some(Placed { words: vec![Word { text, positions: by_text(positions, texts) }], threshold: *threshold })
    }

    /// The bank through which the windows of a plan share.
    pub fn bank(&self, plan: &ChunkPlan, dtype: DType, device: &Device) -> Option<BankPlan> {
        let sharing = self.sharing.as_ref()?;
        let joined = plan.windows.iter().enumerate().filter(|(_, window)| window.joined);
        let windows: Ranges = joined.map(|(index, _)| index - 1).collect();
        windows.first()?;
        Some(BankPlan {
            purpose: Purpose::HandOver { windows },
            layers: sharing.layers.clone(),
            dtype,
            device: device.clone(),
            budget: usize::MAX, // the job's memory was checked
        })
    }
}

pub(super) fn by_text(positions: &[Vec<u32>], texts: &[TextMix]) -> Vec<Vec<u32>> {
    let of = |prompt: usize| positions.get(prompt).map_or(&[][..], Vec::as_slice);
    let text = |text: &TextMix| match *text {
        TextMix::Prompt(prompt) => of(prompt).to_vec(),
        TextMix::Between { from, to, .. } => {
            of(from).iter().chain(of(to)).copied().collect::<BTreeSet<_>>().into_iter().collect()
        }
    };
    texts.iter().map(text).collect()
}

/// What a bank for a plan is made for. `halves`: most that a step of the guidance has.
pub fn bank_size(plan: &ChunkPlan, architecture: &dyn Architecture, cells: (usize, usize), halves: usize) -> BankSize {
    let frames = plan.windows.iter().map(|window| window.len).max().unwrap_or(0);
    let layers = architecture.layers(architecture.main_sites().kind, frames, cells);
    let layers = layers.iter().map(|layer| LayerSize { channels: layer.channels, grid: layer.grid });
    BankSize { windows: plan.windows.len(), halves, text: architecture.text().length, networks: vec![layers.collect()] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_suggested_is_of_this_network_and_this_run() {
        assert!(say_where(4, 2).contains("kv-share:layers=3,steps=0"), "{}", say_where(4, 2));
        assert!(say_where(30, 50).contains("kv-share:layers=25-29,steps=2-24"), "{}", say_where(30, 50));
    }
}
