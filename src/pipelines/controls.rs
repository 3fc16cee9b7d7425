//! The stack of processors of one timeline.

use crate::job::{Job, bank_size};
use crate::processors::attention_map::Word;
use crate::processors::{Control, KvBank, Ranges, Setting, Stack, build};
use crate::timeline::ChunkPlan;
use anyhow::Result;

/// Makes the stack of a job for one of its timelines. Sharing is left out where no windows are joined.
pub fn stack(job: &Job, plan: &ChunkPlan) -> Result<Stack> {
    let joined = plan.windows.iter().any(|window| window.joined);
    let specs = job.controls.specs.iter().filter(|spec| joined || !matches!(spec.control, Control::KvShare { .. }));
    build(&specs.cloned().collect::<Vec<_>>(), &Timeline { job, plan })
}

struct Timeline<'a> {
    job: &'a Job,
    plan: &'a ChunkPlan,
}

impl Setting for Timeline<'_> {
    fn positions(&self, word: &str) -> Result<Vec<Vec<u32>>> {
        Ok(self.job.controls.positions(word, self.plan))
    }

    /// One word, since which words name the subject may differ from prompt to prompt.
    fn subject(&self, words: &[String]) -> Result<Vec<Word>> {
        Ok(vec![Word { text: words.join(", "), positions: self.job.controls.subject_positions(self.plan) }])
    }

    fn bank(&self, _layers: &Ranges) -> Result<Option<KvBank>> {
        let Self { job, plan } = *self;
        let Some(bank) = job.controls.bank(plan, job.dtype, &job.device) else { return Ok(None) };
        let (_, height, width) = job.latents;
        Ok(Some(KvBank::new(bank, &bank_size(plan, &job.transformer, (height, width)))?))
    }
}
