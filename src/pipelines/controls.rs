//! The stack of processors of the timelines of a segment.

use crate::attention::SiteKind;
use crate::job::timelines::texts;
use crate::job::{Controls, Maps, Sharing, Stage, Timeline, TimelineRole};
use crate::processors::{
    Builder, Keys, KvBank, Order, Ranges, Reweight, Routes, RowGather, Setting, Stack, Subject, Word, check_order,
};
use crate::timeline::TextMix;
use anyhow::Result;

/// Makes the stack of a stage for the timelines of a segment, and records `maps` before everything. Sharing is left out where
/// no windows are joined.
pub fn stack(stage: &Stage, timelines: &[Timeline], maps: Option<&Maps>) -> Result<Stack> {
    stack_of(stage, timelines, maps, 0)
}

/// The stack of a control network, counted from 1: those that mean every network act in it.
pub fn stack_beside(stage: &Stage, timelines: &[Timeline], network: usize) -> Result<Stack> {
    stack_of(stage, timelines, None, network)
}

fn stack_of(stage: &Stage, timelines: &[Timeline], maps: Option<&Maps>, network: usize) -> Result<Stack> {
    let joined = timelines.iter().any(|timeline| timeline.plan.windows.iter().any(|window| window.joined));
    let specs = stage.controls.specs.iter().filter(|spec| joined || !spec.control.joins_windows);
    let specs: Vec<_> = specs.cloned().collect();
    check_order(&specs)?;
    let run = Run { stage, timelines, texts: texts(timelines), network };
    let mut builder = Builder::new(&run);
    if let Some(maps) = maps {
        builder.keep(maps.recording(&run.texts));
    }
    let (last, before): (Vec<_>, Vec<_>) = specs.iter().partition(|spec| matches!(spec.control.order, Order::Last(_)));
    before.iter().try_for_each(|spec| spec.build(&mut builder))?;
    if let Some(edit) = &stage.controls.edit {
        // the source's keys come after those that it has of a bank itself, and before what scales them
        builder.at(&edit.reading.steps, &edit.reading.layers, &[SiteKind::Joint]);
        builder.add(RowGather::kv_sharing().behind_bank());
    }
    last.iter().try_for_each(|spec| spec.build(&mut builder))?;
    let words = stage.controls.reweighted(&run.texts);
    if !words.is_empty() {
        let keys = words.iter().map(|(word, _)| word.clone()).collect();
        let own = words.into_iter().map(|(mut word, factor)| {
            // companions keep their words
            let own = timelines.iter().flat_map(|of| of.plan.texts.iter().map(|_| of.role == TimelineRole::Output));
            word.positions.iter_mut().zip(own).filter(|(_, own)| !own).for_each(|(positions, _)| positions.clear());
            (word, factor)
        });
        let keys = Keys { own_only: true, ..run.whose(keys) };
        builder.at(&Ranges::all(), &Ranges::all(), &[]);
        builder.add(Reweight::new(own.collect()).with_keys(keys));
    }
    Ok(builder.stack())
}

struct Run<'a> {
    stage: &'a Stage,
    timelines: &'a [Timeline],
    /// Of all timelines.
    texts: Vec<TextMix>,
    /// Which one of the networks of the stage it is.
    network: usize,
}

impl Run<'_> {
    /// Whose keys rows attend to; `words`: with their tokens in all texts.
    fn whose(&self, words: Vec<Word>) -> Keys {
        let Self { stage, timelines, .. } = *self;
        let ranges = |sharing: Option<&Sharing>| match sharing {
            Some(sharing) => (sharing.steps.clone(), sharing.layers.clone()),
            None => (Ranges::none(), Ranges::none()),
        };
        Keys {
            rows: ranges(stage.controls.edit.as_ref().map(|edit| &edit.reading)),
            banked: ranges(stage.controls.sharing.as_ref()),
            texts: texts_of_windows(timelines),
            words,
            own_only: false,
        }
    }
}

impl Setting for Run<'_> {
    fn positions(&self, word: &str) -> Result<Vec<Vec<u32>>> {
        Ok(self.stage.controls.positions(word, &self.texts))
    }

    fn subject(&self, _words: &[String], _threshold: f64) -> Result<Option<Subject>> {
        Ok(self.stage.controls.subject(&self.texts))
    }

    fn routes(&self) -> Option<Routes> {
        let Self { stage, timelines, .. } = *self;
        let routes = &stage.controls.routes;
        let of_text = |text: &TextMix| match *text {
            // those that scenes share come after those of the scenes
            TextMix::Prompt(prompt) => {
                prompt.checked_sub(stage.text.prompts.len()).and_then(|shared| routes.get(shared))
            }
            TextMix::Between { .. } => None,
        };
        let starts = |timeline: &Timeline| timeline.plan.windows.iter().map(|window| window.start).collect();
        (!routes.is_empty()).then(|| Routes {
            texts: self.texts.iter().map(|text| of_text(text).cloned().unwrap_or_default()).collect(),
            starts: timelines.iter().map(starts).collect(),
            patch: stage.model.architecture.geometry().patch_t,
        })
    }

    fn keys(&self, words: Vec<Word>) -> Option<Keys> {
        let Controls { sharing, edit, .. } = &self.stage.controls;
        (sharing.is_some() || edit.is_some()).then(|| self.whose(words))
    }

    fn anchor(&self, layers: &Ranges) -> Result<Option<KvBank>> {
        let Self { stage, timelines, .. } = *self;
        let Some(plan) = timelines.iter().find(|timeline| timeline.anchored).map(|timeline| &timeline.plan) else {
            return Ok(None);
        };
        let size = stage.bank_size(plan, self.network..self.network + 1);
        Ok(Some(KvBank::new(stage.anchor_bank(layers), &size)?))
    }

    fn bank(&self, _layers: &Ranges) -> Result<Option<KvBank>> {
        let Self { stage, timelines, .. } = *self;
        // companions are cut into the same windows
        let Some(plan) = timelines.last().map(|timeline| &timeline.plan) else { return Ok(None) };
        let Some(bank) = stage.controls.bank(plan, stage.compute.dtype, &stage.compute.device) else { return Ok(None) };
        Ok(Some(KvBank::new(bank, &stage.bank_size(plan, 0..1))?))
    }
}

/// By timeline and window, the index of its text among those of all timelines.
fn texts_of_windows(timelines: &[Timeline]) -> Vec<Vec<usize>> {
    let mut before = 0;
    let of_timeline = |timeline: &Timeline| {
        let texts = timeline.plan.windows.iter().map(|window| before + window.text).collect();
        before += timeline.plan.texts.len();
        texts
    };
    timelines.iter().map(of_timeline).collect()
}
