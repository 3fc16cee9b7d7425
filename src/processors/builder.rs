//! What a control builds with: the words, banks and keys of the run, and the stack it adds its attention processors to.
//!
//! Controls compose in the order given, outermost first, but that recorders come before them: they must see a row's own queries
//! and keys. Before recorders stands only what is to be seen in maps.

use super::attention_map::{AttentionMap, AttentionMaps, RecordedMap, Recording};
use super::kv_bank::KvBank;
use super::routes::Routes;
use super::when::{Ranges, When};
use super::word::{Keys, Word};
use crate::attention::{AttentionProcessor, SiteKind};
use anyhow::Result;

/// Most bytes of attention maps kept for the user between two calls of [`Stack::take_maps`].
pub const MAPS_BUDGET: usize = 1 << 30;

/// Where a text is attended to.
const TEXT_KINDS: &[SiteKind] = &[SiteKind::Joint, SiteKind::Cross];

/// A stack ready for [`crate::attention::Hooks`].
pub struct Stack {
    pub processors: Vec<Box<dyn AttentionProcessor>>,
    maps: Vec<AttentionMaps>,
}

impl Stack {
    /// Takes out the maps kept so far, in the order of their recorders.
    pub fn take_maps(&self) -> Vec<RecordedMap> {
        self.maps.iter().flat_map(AttentionMaps::take).collect()
    }
}

/// What is separated from the rest of a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    pub words: Vec<Word>,
    /// The share of a frame's peak from which a place belongs to it.
    pub threshold: f64,
}

/// What a run says of itself to controls.
pub trait Setting {
    /// The tokens of a word in the text of each conditioning of the plan.
    fn positions(&self, word: &str) -> Result<Vec<Vec<u32>>>;

    /// The subject of the run, where a control names `words` for it. By itself the tokens of any of them.
    fn subject(&self, words: &[String], threshold: f64) -> Result<Option<Subject>> {
        if words.is_empty() {
            return Ok(None);
        }
        let word = |text: &String| Ok(Word { text: text.clone(), positions: self.positions(text)? });
        Ok(Some(Subject { words: words.iter().map(word).collect::<Result<_>>()?, threshold }))
    }

    /// The bank that K/V sharing in these layers goes through, where the rows of a plan refer to
    /// [`crate::attention::Reference::Banked`] windows; none where they refer to rows.
    fn bank(&self, _layers: &Ranges) -> Result<Option<KvBank>> {
        Ok(None)
    }

    /// The bank that cross-frame attention in these layers goes through, where the chunks of a plan refer to the
    /// [`crate::attention::Reference::Banked`] window that has the first frame; none where all frames are rows of one pass.
    fn anchor(&self, _layers: &Ranges) -> Result<Option<KvBank>> {
        Ok(None)
    }

    /// Which frames listen to which words, where scenes share a text.
    fn routes(&self) -> Option<Routes> {
        None
    }

    /// Whose keys rows attend to where that is not always their own, for words in the order given.
    fn keys(&self, _words: Vec<Word>) -> Option<Keys> {
        None
    }
}

/// Collects the attention processors of a run.
pub struct Builder<'a> {
    setting: &'a dyn Setting,
    steps: Ranges,
    layers: Ranges,
    kinds: &'static [SiteKind],
    everywhere: bool,
    first: Vec<Box<dyn AttentionProcessor>>,
    recorders: Vec<Box<dyn AttentionProcessor>>,
    controls: Vec<Box<dyn AttentionProcessor>>,
    maps: Vec<AttentionMaps>,
}

impl<'a> Builder<'a> {
    pub fn new(setting: &'a dyn Setting) -> Self {
        Self {
            setting,
            steps: Ranges::all(),
            layers: Ranges::all(),
            kinds: &[],
            everywhere: false,
            first: Vec::new(),
            recorders: Vec::new(),
            controls: Vec::new(),
            maps: Vec::new(),
        }
    }

    /// Where what is added from here on acts: at these steps and layers, at these kinds of site (none given: at all).
    pub fn at(&mut self, steps: &Ranges, layers: &Ranges, kinds: &'static [SiteKind]) {
        (self.steps, self.layers, self.kinds) = (steps.clone(), layers.clone(), kinds);
        self.everywhere = false;
    }

    /// What the control adds acts in networks beside the denoiser (a ControlNet) as well.
    pub fn everywhere(&mut self) {
        self.everywhere = true;
    }

    pub fn setting(&self) -> &'a dyn Setting {
        self.setting
    }

    /// The layers at which the control acts.
    pub fn layers(&self) -> &Ranges {
        &self.layers
    }

    /// A word, with the places of its tokens.
    pub fn word(&self, text: &str) -> Result<Word> {
        Ok(Word { text: text.to_owned(), positions: self.setting.positions(text)? })
    }

    /// Adds an attention processor behind those there are.
    pub fn add(&mut self, control: impl AttentionProcessor + 'static) {
        let control = self.when(control);
        self.controls.push(control);
    }

    /// Adds one before all recorders, whose maps show what it does.
    pub fn before_recorders(&mut self, control: impl AttentionProcessor + 'static) {
        let control = self.when(control);
        self.first.push(control);
    }

    /// Adds one behind all recorders, before the controls there are.
    pub fn before_controls(&mut self, control: impl AttentionProcessor + 'static) {
        let control = self.when(control);
        self.controls.insert(0, control);
    }

    fn when(&self, control: impl AttentionProcessor + 'static) -> Box<dyn AttentionProcessor> {
        let mut when = When::new(self.steps.clone(), self.layers.clone(), self.kinds, control);
        when.everywhere = self.everywhere;
        Box::new(when)
    }

    /// Adds a recorder before all that are no recorders, where there is a text; in all layers up to the last of those at which
    /// the control acts.
    pub fn record(&mut self, recorder: AttentionMap) {
        let when = When::new(self.steps.clone(), self.layers.filled(), TEXT_KINDS, recorder);
        self.recorders.push(Box::new(when));
    }

    /// Records maps for the user, until [`Stack::take_maps`].
    pub fn keep(&mut self, recording: Recording) {
        let Recording { words, views, steps, layers, single_layer } = recording;
        let maps = AttentionMaps::default();
        let mut recorder = AttentionMap::new(&maps, words);
        let mut seen = layers.filled();
        if single_layer {
            (recorder, seen) = (recorder.single_layers(), layers.clone());
        }
        let recorder = recorder.keep(&views, steps.clone(), layers, MAPS_BUDGET);
        self.recorders.push(Box::new(When::new(steps, seen, TEXT_KINDS, recorder)));
        self.maps.push(maps);
    }

    pub fn stack(self) -> Stack {
        let Self { first: mut processors, recorders, controls, maps, .. } = self;
        processors.extend(recorders);
        processors.extend(controls);
        Stack { processors, maps }
    }
}
