//! The stack of processors of one timeline.

use crate::attention::{AttentionProcessor, SiteKind};
use crate::job::{Controls, Edit, Job, Sharing, bank_size};
use crate::processors::attention_map::Word;
use crate::processors::{Control, Keys, KvBank, Ranges, Reweight, RowGather, Setting, Stack, When, build};
use crate::timeline::ChunkPlan;
use anyhow::Result;

/// Makes the stack of a job for one of its timelines. Sharing is left out where no windows are joined.
pub fn stack(job: &Job, plan: &ChunkPlan) -> Result<Stack> {
    let joined = plan.windows.iter().any(|window| window.joined);
    let specs = job.controls.specs.iter().filter(|spec| joined || !matches!(spec.control, Control::KvShare { .. }));
    let specs: Vec<_> = specs.cloned().collect();
    let timeline = Timeline { job, plan };
    let Some(edit) = &job.controls.edit else { return build(&specs, &timeline) };
    // the source's keys come after those that it has of a bank itself, and before what scales them
    let (scaling, before): (Vec<_>, Vec<_>) =
        specs.into_iter().partition(|spec| matches!(spec.control, Control::Reweight(_)));
    let mut stack = build(&before, &timeline)?;
    stack.processors.push(reading(edit, RowGather::kv_sharing().behind_bank()));
    stack.processors.extend(build(&scaling, &timeline)?.processors);
    let words = job.controls.reweighted(plan);
    if !words.is_empty() {
        let keys = words.iter().map(|(text, _, positions)| Word { text: text.clone(), positions: positions.clone() });
        let keys: Vec<Word> = keys.collect();
        let own = keys.iter().zip(&words).map(|(word, (_, factor, _))| {
            let source = plan.texts.len() / 2; // its texts come first and keep their words
            let positions = word.positions.iter().enumerate();
            let positions = positions.map(|(text, tokens)| if text < source { Vec::new() } else { tokens.clone() });
            (Word { text: word.text.clone(), positions: positions.collect() }, *factor)
        });
        let own = own.collect();
        let keys = Keys { own_only: true, ..timeline.whose(keys) };
        stack.processors.push(Box::new(Reweight::new(own).with_keys(keys)));
    }
    Ok(stack)
}

/// A control that acts where the edited version reads its source.
fn reading(edit: &Edit, control: impl AttentionProcessor + 'static) -> Box<dyn AttentionProcessor> {
    Box::new(When::new(edit.reading.steps.clone(), edit.reading.layers.clone(), &[SiteKind::Joint], control))
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

    /// One word, since which words name the subject may differ from prompt to prompt.
    fn subject(&self, words: &[String]) -> Result<Vec<Word>> {
        Ok(vec![Word { text: words.join(", "), positions: self.job.controls.subject_positions(self.plan) }])
    }

    fn keys(&self, words: Vec<Word>) -> Option<Keys> {
        let Controls { sharing, edit, .. } = &self.job.controls;
        (sharing.is_some() || edit.is_some()).then(|| self.whose(words))
    }

    fn bank(&self, _layers: &Ranges) -> Result<Option<KvBank>> {
        let Self { job, plan } = *self;
        let Some(bank) = job.controls.bank(plan, job.dtype, &job.device) else { return Ok(None) };
        let (_, height, width) = job.latents;
        Ok(Some(KvBank::new(bank, &bank_size(plan, &job.transformer, (height, width)))?))
    }
}
