//! Edits of a video: words swapped for others, and words that contribute more or less (DiTCtrl, arXiv 2412.18597;
//! spec/ditctrl.md 6 and 7).
//!
//! The video as it was (the source) and its edited version are denoised together from the same noise. The edited version
//! has the swapped prompts, and reads the whole keys and values of the source:
//! - with a swap where the model's recipe shares between windows, or an explicit control of sharing does;
//! - without one in steps 0 and 1, in all layers. A single window's explicit control of sharing replaces that as well.
//!
//! A reweighted word is scaled in all layers and steps, in all halves of the guidance, wherever it is asked for in a prompt
//! of the edited version; where keys are the source's, it is the source's word whose keys are scaled.
//!
//! In a video of several windows an edited window reads what its own source window attends to: its plain estimate the keys
//! of the source's plain one, its shared estimate those that the source's shared one reads. So an edit that changes nothing
//! gives the source, bit for bit. The reference has no such edits; the rest is as in its code.

use super::sharing::Sharing;
use super::timelines::{Reads, Timeline, TimelineRole};
use crate::processors::WordFactor;
use crate::text::swapped;
use crate::timeline::ChunkPlan;
use crate::words::list;
use anyhow::{Error, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Steps in which a reweighted video without a swap reads its source: 0 and 1, as in the reference.
pub(super) const FIRST_STEPS: std::ops::RangeInclusive<usize> = 0..=1;

/// Words, and those that take their place; none to leave them out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swap {
    pub from: String,
    pub to: String,
}

impl FromStr for Swap {
    type Err = Error;

    /// `cat=>dog`.
    fn from_str(text: &str) -> Result<Self> {
        let Some((from, to)) = text.split_once("=>") else { bail!("{text:?} is not WORDS=>WORDS, as \"cat=>dog\"") };
        let (from, to) = (from.trim().to_owned(), to.trim().to_owned());
        ensure!(!from.is_empty(), "{text:?} names no words before =>");
        ensure!(!text.contains(char::is_control), "a control character in a swap");
        Ok(Self { from, to })
    }
}

impl fmt::Display for Swap {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}=>{}", self.from, self.to)
    }
}

/// What an edit changes, as it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Changes {
    #[serde(with = "list", skip_serializing_if = "Option::is_none")]
    pub swap: Option<Vec<Swap>>,
    #[serde(with = "list", skip_serializing_if = "Option::is_none")]
    pub reweight: Option<Vec<WordFactor>>,
    /// Source and edited version in one picture.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub side_by_side: bool,
}

impl Changes {
    pub fn swaps(&self) -> &[Swap] {
        self.swap.as_deref().unwrap_or_default()
    }

    pub fn reweightings(&self) -> &[WordFactor] {
        self.reweight.as_deref().unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.swaps().is_empty() && self.reweightings().is_empty()
    }

    /// These changes, and those of `before` that are of other words.
    pub fn after(self, before: Self) -> Self {
        let same = |a: &str, b: &str| a.to_lowercase() == b.to_lowercase();
        let mut swap = before.swap.unwrap_or_default();
        swap.retain(|old| !self.swaps().iter().any(|new| same(&new.from, &old.from)));
        swap.extend(self.swap.unwrap_or_default());
        let mut reweight = before.reweight.unwrap_or_default();
        let new = self.reweight.unwrap_or_default();
        reweight.retain(|old| !new.iter().any(|new| same(&new.words, &old.words)));
        reweight.extend(new);
        let given = |is: bool| is.then_some(());
        Self {
            swap: given(!swap.is_empty()).map(|()| swap),
            reweight: given(!reweight.is_empty()).map(|()| reweight),
            side_by_side: self.side_by_side,
        }
    }

    /// The prompts of the edited version. Every occurrence of a swap's words is swapped, in all prompts that have them.
    ///
    /// # Errors
    /// Words that are in no prompt, two changes of the same words, and a prompt of which nothing is left.
    pub(super) fn prompts(&self, prompts: &[String]) -> Result<Vec<String>> {
        ensure!(!self.is_empty(), "nothing to edit: give --swap \"cat=>dog\" or --reweight night:0.5");
        for (index, swap) in self.swaps().iter().enumerate() {
            if self.swaps()[..index].iter().any(|other| other.from.to_lowercase() == swap.from.to_lowercase()) {
                bail!("--swap: {:?} is swapped twice", swap.from)
            }
        }
        for (index, new) in self.reweightings().iter().enumerate() {
            if self.reweightings()[..index].iter().any(|other| other.words.to_lowercase() == new.words.to_lowercase()) {
                bail!("--reweight: {:?} is reweighted twice", new.words)
            }
        }
        let swaps: Vec<(&str, &str)> = self.swaps().iter().map(|swap| (swap.from.as_str(), swap.to.as_str())).collect();
        let mut made = vec![0; swaps.len()];
        let mut edited = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let (text, counts) = swapped(prompt, &swaps);
            made.iter_mut().zip(counts).for_each(|(made, count)| *made += count);
            ensure!(!text.trim().is_empty(), "--swap leaves nothing of the prompt {prompt:?}");
            edited.push(text);
        }
        if let Some((swap, _)) = self.swaps().iter().zip(made).find(|(_, made)| *made == 0) {
            let inside = prompts.iter().any(|prompt| swapped(prompt, &[(&swap.from, "")]).1 == [1]);
            match (inside, prompts) {
                (true, _) => bail!("--swap {swap}: {:?} stands only inside other words that are swapped", swap.from),
                (_, [prompt]) => bail!("--swap {swap}: {:?} is not in the prompt {prompt:?}", swap.from),
                (_, [first, others @ ..]) => bail!(
                    "--swap {swap}: {:?} is not in the prompt {first:?}, nor in the other {}",
                    swap.from,
                    others.len()
                ),
                (_, []) => {}
            }
        }
        Ok(edited)
    }
}

/// An edit, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    pub changes: Changes,
    /// Of the edited version, by the source's.
    pub prompts: Vec<String>,
    /// Where the edited version reads the source's keys and values.
    pub reading: Sharing,
    /// The tokens of each reweighted word, by prompt: the source's, then the edited version's.
    pub(super) words: Vec<Vec<Vec<u32>>>,
}

impl Edit {
    /// The source and, reading it, the edited version: the same windows, on the same noise, on texts of their own. `prompts`:
    /// number of the source's, after which those of the edited version count.
    pub fn timelines(&self, plan: &ChunkPlan, prompts: usize, steps: usize) -> Vec<Timeline> {
        let source = Timeline {
            role: TimelineRole::Companion,
            steps: self.source_steps(steps),
            shown: self.changes.side_by_side,
            ..Timeline::output(plan.clone())
        };
        let reads = Some(Reads { timeline: 0, sharing: self.reading.clone() });
        vec![source, Timeline { reads, ..Timeline::output(plan.on_prompts_from(prompts)) }]
    }

    /// Steps of a run of `steps` in which the source is needed.
    pub fn source_steps(&self, steps: usize) -> usize {
        if self.changes.side_by_side {
            steps
        } else {
            (0..steps).rev().find(|&step| self.reading.at(step).is_some()).map_or(0, |last| last + 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(swap: &[&str], reweight: &[&str]) -> Changes {
        Changes {
            swap: Some(swap.iter().map(|text| text.parse().unwrap()).collect()),
            reweight: Some(reweight.iter().map(|text| text.parse().unwrap()).collect()),
            side_by_side: false,
        }
    }

    #[test]
    fn changes_read_and_write_themselves() {
        for (text, from, to) in
            [("cat=>dog", "cat", "dog"), (" a red ball =>  ", "a red ball", ""), ("a=>b=>c", "a", "b=>c")]
        {
            let swap: Swap = text.parse().unwrap();
            assert_eq!((swap.from.as_str(), swap.to.as_str()), (from, to));
            assert_eq!(swap.to_string().parse::<Swap>().unwrap(), swap);
        }
        for text in ["cat", "=>dog", "cat->dog", "cat=>d\u{1b}og"] {
            assert!(text.parse::<Swap>().is_err(), "{text}");
        }
        let both = changes(&["cat=>dog"], &["night:0.5"]);
        let json = serde_json::to_string(&both).unwrap();
        assert_eq!(json, r#"{"swap":["cat=>dog"],"reweight":["night:0.5"]}"#);
        assert_eq!(serde_json::from_str::<Changes>(&json).unwrap(), both);
    }

    #[test]
    fn later_changes_of_the_same_words_outweigh() {
        let later =
            changes(&["Cat=>fox"], &["night:2"]).after(changes(&["cat=>dog", "red=>blue"], &["night:0.5", "moon:0"]));
        let shown = |items: Vec<String>| items.join(" ");
        assert_eq!(shown(later.swaps().iter().map(Swap::to_string).collect()), "red=>blue Cat=>fox");
        assert_eq!(shown(later.reweightings().iter().map(WordFactor::to_string).collect()), "moon:0 night:2");
    }

    #[test]
    fn prompts_are_edited_or_the_reason_is_told() {
        let prompts = ["a cat at night".to_owned(), "a Cat on a red mat".to_owned()];
        let edited = changes(&["cat=>dog", "red=>"], &[]).prompts(&prompts).unwrap();
        assert_eq!(edited, ["a dog at night", "a dog on a mat"]);
        assert_eq!(changes(&[], &["cat:2"]).prompts(&prompts).unwrap(), prompts);
        let error = |swap: &[&str], prompts: &[String]| changes(swap, &[]).prompts(prompts).unwrap_err().to_string();
        for (swap, words) in [
            (&["mouse=>dog"][..], "\"mouse\" is not in the prompt \"a cat at night\", nor in the other 1"),
            (&["a cat=>x", "cat=>y"], "\"cat\" stands only inside other words that are swapped"),
            (&["cat=>x", "CAT=>y"], "\"CAT\" is swapped twice"),
            (&["a cat at night=>"], "leaves nothing of the prompt \"a cat at night\""),
            (&[], "nothing to edit"),
        ] {
            let error = error(swap, &prompts);
            assert!(error.contains(words), "{error}");
        }
        assert!(error(&["mouse=>dog"], &prompts[..1]).ends_with("is not in the prompt \"a cat at night\""));
    }
}
