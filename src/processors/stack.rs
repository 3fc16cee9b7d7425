//! From specifications to the stack of a run.
//!
//! Controls compose in the order given, outermost first, but that recorders come before everything: they must see a row's
//! own queries and keys.

use super::attention_map::{AttentionMap, AttentionMaps, Kept, Word};
use super::key_mask::KeyMask;
use super::kv_bank::KvBank;
use super::reweight::{Keys, Reweight};
use super::row_gather::RowGather;
use super::spec::{Control, Spec};
use super::when::{Ranges, When};
use super::window::Window;
use crate::attention::AttentionProcessor;
use anyhow::{Result, bail};

/// Most bytes of attention maps kept for the user between two calls of [`Stack::take_maps`].
pub const MAPS_BUDGET: usize = 1 << 30;

/// A stack ready for [`crate::attention::Hooks`].
pub struct Stack {
    pub processors: Vec<Box<dyn AttentionProcessor>>,
    maps: Vec<AttentionMaps>,
}

impl Stack {
    /// Takes out the maps kept so far, in the order of their recorders.
    pub fn take_maps(&self) -> Vec<Kept> {
        self.maps.iter().flat_map(AttentionMaps::take).collect()
    }
}

/// What a stack needs beside its specifications.
pub trait Setting {
    /// The tokens of a word in the text of each conditioning of the plan.
    fn positions(&self, word: &str) -> Result<Vec<Vec<u32>>>;

    /// The subject of mask-guided sharing, of the words that the specification names. By itself the tokens of any of them.
    fn subject(&self, words: &[String]) -> Result<Vec<Word>> {
        words.iter().map(|text| Ok(Word { text: text.clone(), positions: self.positions(text)? })).collect()
    }

    /// The bank that K/V sharing in these layers goes through, where the rows of a plan refer to
    /// [`crate::attention::Reference::Banked`] windows; none where they refer to rows.
    fn bank(&self, _layers: &Ranges) -> Result<Option<KvBank>> {
        Ok(None)
    }

    /// Whose keys rows attend to where that is not always their own, for words in the order given.
    fn keys(&self, _words: Vec<Word>) -> Option<Keys> {
        None
    }
}

/// Refuses controls in an order in which they would not do what they say.
pub fn check_order(specs: &[Spec]) -> Result<()> {
    let mut reweighted = false;
    for spec in specs {
        match spec.control {
            Control::Reweight(_) => reweighted = true,
            Control::AttnMap { .. } => {}
            _ if reweighted => {
                bail!("reweight comes after {}: it scales what is really attended to", spec.entry().name)
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes the stack of some specifications.
///
/// # Errors
/// Those of the setting, and controls in an order that would not do what they say.
pub fn build(specs: &[Spec], setting: &dyn Setting) -> Result<Stack> {
    let word = |text: &String| Ok(Word { text: text.clone(), positions: setting.positions(text)? });
    let words = |texts: &[String]| texts.iter().map(word).collect::<Result<Vec<_>>>();
    let (mut recorders, mut controls) = (Vec::new(), Vec::new());
    let mut maps = Vec::new();
    check_order(specs)?;
    for spec in specs {
        let entry = spec.entry();
        let boxed = |when: When| -> Box<dyn AttentionProcessor> { Box::new(when) };
        let (steps, layers) = (|| spec.steps.clone(), || spec.layers.clone());
        let here =
            |control: Box<dyn AttentionProcessor>| boxed(When::new_boxed(steps(), layers(), entry.sites, control));
        match &spec.control {
            Control::KvShare { subject, threshold } => {
                let bank = setting.bank(&spec.layers)?;
                let banked = bank.is_some();
                controls.push(match bank {
                    Some(bank) => here(Box::new(bank)),
                    None => here(Box::new(RowGather::kv_sharing())),
                });
                if !subject.is_empty() {
                    let maps = AttentionMaps::default();
                    let recorder = AttentionMap::new(&maps, setting.subject(subject)?);
                    recorders.push(boxed(When::new(steps(), layers().filled(), entry.sites, recorder)));
                    let mask = KeyMask::new(&maps, *threshold);
                    controls.push(here(Box::new(if banked { mask.with_bank() } else { mask })));
                }
            }
            Control::WordSwap => controls.push(here(Box::new(RowGather::word_swap()))),
            Control::CrossFrame(frame) => controls.push(here(Box::new(RowGather::cross_frame(*frame)))),
            Control::Window { size, stride } => controls.push(here(Box::new(Window::new(*size, *stride)?))),
            Control::Reweight(factors) => {
                let words = factors.iter().map(|(text, factor)| Ok((word(text)?, *factor)));
                let words = words.collect::<Result<Vec<(Word, f64)>>>()?;
                let keys = setting.keys(words.iter().map(|(word, _)| word.clone()).collect());
                let reweight = Reweight::new(words);
                controls.push(here(Box::new(match keys {
                    Some(keys) => reweight.with_keys(keys),
                    None => reweight,
                })));
            }
            Control::AttnMap { words: texts, views } => {
                let kept = AttentionMaps::default();
                let recorder = AttentionMap::new(&kept, words(texts)?);
                let recorder = recorder.keep(views, steps(), layers(), MAPS_BUDGET);
                maps.push(kept);
                recorders.push(boxed(When::new(steps(), layers().filled(), entry.sites, recorder)));
            }
        }
    }
    recorders.extend(controls);
    Ok(Stack { processors: recorders, maps })
}

#[cfg(test)]
mod tests {
    use super::super::spec::parse;
    use super::super::testing::*;
    use super::*;
    use crate::attention::Branch;
    use crate::attention::Guidance::{Cond, Uncond};

    fn specs(texts: &[&str]) -> Vec<Spec> {
        texts.iter().map(|text| parse(text).unwrap()).collect()
    }

    /// Two conditionings; "knight" is token 1 of the first and 2 of the second, "moon" token 4 of both.
    struct Words;

    impl Setting for Words {
        fn positions(&self, word: &str) -> Result<Vec<Vec<u32>>> {
            match word {
                "knight" => Ok(vec![vec![1], vec![2]]),
                "moon" => Ok(vec![vec![4], vec![4]]),
                _ => bail!("'{word}' is not in prompt 1"),
            }
        }
    }

    fn pair() -> Vec<Branch> {
        vec![
            branch(Cond, 0, 0, None),
            branch(Cond, 1, 1, Some(0)),
            branch(Uncond, 0, 0, None),
            branch(Uncond, 1, 1, Some(2)),
        ]
    }

    #[test]
    fn a_stack_by_name_equals_one_by_hand() {
        let toy = Toy::default();
        let rows = toy.rows(1, 4);
        let texts = ["kv-share:layers=2-3,steps=2-4,subject=knight,threshold=0.4", "reweight:words=moon:0,layers=1-2"];
        let mut by_name = build(&specs(&texts), &Words).unwrap();
        let maps = AttentionMaps::default();
        let word = |text: &str| Word { text: text.into(), positions: Words.positions(text).unwrap() };
        let ranges = |text: &str| text.parse().unwrap();
        let mut by_hand = [
            boxed(When::new(ranges("2-4"), ranges("0-3"), &[], AttentionMap::new(&maps, vec![word("knight")]))),
            boxed(When::new(ranges("2-4"), ranges("2-3"), &[], RowGather::kv_sharing())),
            boxed(When::new(ranges("2-4"), ranges("2-3"), &[], KeyMask::new(&maps, 0.4))),
            boxed(When::new(ranges("all"), ranges("1-2"), &[], Reweight::new(vec![(word("moon"), 0.0)]))),
        ];
        let mut results = Vec::new();
        for step in [1, 2] {
            let a = toy.forward(pass(step), &rows, &pair(), Vec::new(), &mut by_name.processors).unwrap();
            let b = toy.forward(pass(step), &rows, &pair(), Vec::new(), &mut by_hand).unwrap();
            a.iter().zip(&b).for_each(|(a, b)| assert_same(a, b));
            results.push(a);
        }
        assert!(distance(&results[0][1], &results[1][1]) > 1e-2);
        assert!(by_name.take_maps().is_empty());
    }

    #[test]
    fn maps_asked_for_are_kept_by_each_recorder() {
        let toy = Toy::default();
        let texts = ["kv-share", "attn-map:words=knight,moon,layers=1,3,steps=3", "attn-map:views=text,layers=0"];
        let mut stack = build(&specs(&texts), &Words).unwrap();
        for step in [2, 3] {
            toy.forward(pass(step), &toy.rows(1, 4), &pair(), Vec::new(), &mut stack.processors).unwrap();
        }
        let kept = stack.take_maps();
        let places: Vec<_> =
            kept.iter().map(|kept| (kept.step, kept.layer, kept.branch.window, kept.map.dims().to_vec())).collect();
        let words = |layer, window| (3, layer, window, vec![2, 3, 2, 3]);
        let text = |step, window| (step, 0, window, vec![5, 5]);
        let expected =
            [words(1, 0), words(1, 1), words(3, 0), words(3, 1), text(2, 0), text(2, 1), text(3, 0), text(3, 1)];
        assert_eq!(places, expected);
    }

    #[test]
    fn unknown_words_and_a_wrong_order_are_refused() {
        let error = |texts: &[&str]| build(&specs(texts), &Words).err().map(|error| error.to_string());
        assert_eq!(error(&["kv-share:subject=cat"]).unwrap(), "'cat' is not in prompt 1");
        let wrong = error(&["reweight:words=moon:2", "kv-share"]).unwrap();
        assert_eq!(wrong, "reweight comes after kv-share: it scales what is really attended to");
        assert!(error(&["reweight:words=moon:2", "attn-map:words=moon", "reweight:words=knight:0"]).is_none());
    }
}
