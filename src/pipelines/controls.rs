//! The stack of processors of one timeline.

use crate::attention::SiteKind;
use crate::job::{Controls, Job, Maps, Sharing, bank_size};
use crate::processors::{
    Builder, Keys, KvBank, Order, Ranges, Reweight, RowGather, Setting, Stack, Subject, Word, check_order,
};
use crate::timeline::ChunkPlan;
use anyhow::Result;

/// Makes the stack of a job for one of its timelines, and records `maps` before everything. Sharing is left out where no
/// windows are joined.
pub fn stack(job: &Job, plan: &ChunkPlan, maps: Option<&Maps>) -> Result<Stack> {
    let joined = plan.windows.iter().any(|window| window.joined);
    let specs = job.controls.specs.iter().filter(|spec| joined || !spec.control.joins_windows);
    let specs: Vec<_> = specs.cloned().collect();
    check_order(&specs)?;
    let timeline = Timeline { job, plan };
    let mut builder = Builder::new(&timeline);
    if let Some(maps) = maps {
        builder.keep(maps.recording(plan));
    }
    let (last, before): (Vec<_>, Vec<_>) = specs.iter().partition(|spec| matches!(spec.control.order, Order::Last(_)));
    before.iter().try_for_each(|spec| spec.build(&mut builder))?;
    if let Some(edit) = &job.controls.edit {
        // the source's keys come after those that it has of a bank itself, and before what scales them
        builder.at(&edit.reading.steps, &edit.reading.layers, &[SiteKind::Joint]);
        builder.add(RowGather::kv_sharing().behind_bank());
    }
    last.iter().try_for_each(|spec| spec.build(&mut builder))?;
    let words = job.controls.reweighted(plan);
    if !words.is_empty() {
        let keys = words.iter().map(|(word, _)| word.clone()).collect();
        let own = words.into_iter().map(|(mut word, factor)| {
            let source = plan.texts.len() / 2; // its texts come first and keep their words
            word.positions.iter_mut().take(source).for_each(Vec::clear);
            (word, factor)
        });
        let keys = Keys { own_only: true, ..timeline.whose(keys) };
        builder.at(&Ranges::all(), &Ranges::all(), &[]);
        builder.add(Reweight::new(own.collect()).with_keys(keys));
    }
    Ok(builder.stack())
}

struct Timeline<'a> {
    job: &'a Job,
    plan: &'a ChunkPlan,
}

impl Timeline<'_> {
    /// Whose keys rows attend to; `words`: with their tokens in all texts.
    fn whose(&self, words: Vec<Word>) -> Keys {
        let Self { job, plan } = *self;
        let ranges = |sharing: Option<&Sharing>| match sharing {
            Some(sharing) => (sharing.steps.clone(), sharing.layers.clone()),
            None => (Ranges::none(), Ranges::none()),
        };
        Keys {
            rows: ranges(job.controls.edit.as_ref().map(|edit| &edit.reading)),
            banked: ranges(job.controls.sharing.as_ref()),
            texts: plan.windows.iter().map(|window| window.text).collect(),
            words,
            own_only: false,
        }
    }
}

impl Setting for Timeline<'_> {
    fn positions(&self, word: &str) -> Result<Vec<Vec<u32>>> {
        Ok(self.job.controls.positions(word, self.plan))
    }

    fn subject(&self, _words: &[String], _threshold: f64) -> Result<Option<Subject>> {
        Ok(self.job.controls.subject(self.plan))
    }

    fn keys(&self, words: Vec<Word>) -> Option<Keys> {
        let Controls { sharing, edit, .. } = &self.job.controls;
        (sharing.is_some() || edit.is_some()).then(|| self.whose(words))
    }

    fn bank(&self, _layers: &Ranges) -> Result<Option<KvBank>> {
        let Self { job, plan } = *self;
        let Some(bank) = job.controls.bank(plan, job.dtype, &job.device) else { return Ok(None) };
        let (_, height, width) = job.latents;
        Ok(Some(KvBank::new(
            bank,
            &bank_size(plan, &*job.architecture, (height, width), job.rule().most_halves(job.steps)),
        )?))
    }
}
