//! From specifications to the stack of a run.

use super::builder::{Builder, Setting, Stack};
use super::control::{Control, Order};
use super::spec::Spec;
use anyhow::{Result, bail};

/// Refuses controls in an order in which they would not do what they say.
pub fn check_order(specs: &[Spec]) -> Result<()> {
    let mut last: Option<(&Control, &str)> = None;
    for Spec { control, .. } in specs {
        match (control.order, last) {
            (Order::Last(why), _) => last = Some((control, why)),
            (Order::AsGiven, Some((last, why))) => bail!("{} comes after {}: {why}", last.name, control.name),
            (Order::AsGiven, None) => {}
        }
    }
    Ok(())
}

/// Makes the stack of some specifications.
///
/// # Errors
/// Those of the setting, and controls in an order that would not do what they say.
pub fn build(specs: &[Spec], setting: &dyn Setting) -> Result<Stack> {
    check_order(specs)?;
    let mut builder = Builder::new(setting);
    specs.iter().try_for_each(|spec| spec.build(&mut builder))?;
    Ok(builder.stack())
}

#[cfg(test)]
mod tests {
    use super::super::attention_map::{AttentionMap, AttentionMaps, Recording, View};
    use super::super::control::{Kind, Parameter};
    use super::super::key_mask::KeyMask;
    use super::super::list;
    use super::super::reweight::Reweight;
    use super::super::row_gather::RowGather;
    use super::super::spec::parse;
    use super::super::testing::*;
    use super::super::when::{Ranges, When};
    use super::super::word::Word;
    use super::*;
    use crate::attention::{Branch, SiteKind};

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
            branch(COND, 0, 0, None),
            branch(COND, 1, 1, Some(0)),
            branch(UNCOND, 0, 0, None),
            branch(UNCOND, 1, 1, Some(2)),
        ]
    }

    #[test]
    fn a_stack_by_name_equals_one_by_hand() {
        let toy = Toy::default();
        let rows = toy.input(1, 4);
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
        let mut builder = Builder::new(&Words);
        parse("kv-share").unwrap().build(&mut builder).unwrap();
        let words = ["knight", "moon"].map(|word| builder.word(word).unwrap()).to_vec();
        let (steps, layers) = ("3".parse().unwrap(), "1,3".parse().unwrap());
        builder.keep(Recording { words, views: Vec::new(), steps, layers, single_layer: false });
        let (steps, layers) = (Ranges::all(), "0".parse().unwrap());
        builder.keep(Recording { words: Vec::new(), views: vec![View::Text], steps, layers, single_layer: false });
        let mut stack = builder.stack();
        for step in [2, 3] {
            toy.forward(pass(step), &toy.input(1, 4), &pair(), Vec::new(), &mut stack.processors).unwrap();
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
        assert!(error(&["reweight:words=moon:2", "reweight:words=knight:0"]).is_none());
    }

    /// Damps what is attended to, by a word that it counts: a control that this program does not have.
    static DAMP: Control = Control {
        name: "damp",
        sites: &[SiteKind::Joint],
        help: "a control of this test",
        parameters: &[
            Parameter { name: "of", kind: Kind::Words, help: "words", required: true, ..Parameter::PLAIN },
            Parameter { name: "by", kind: Kind::Number(0.0..=4.0), default: "2", help: "factor", ..Parameter::PLAIN },
        ],
        build: |values, builder| {
            let words = values.words("of")?.iter().map(|word| builder.word(word)).collect::<Result<Vec<_>>>()?;
            let tokens: usize = words.iter().flat_map(|word| &word.positions).map(Vec::len).sum();
            builder.add(Times(tokens as f64 / values.number("by")?));
            Ok(())
        },
        ..Control::PLAIN
    };

    #[test]
    fn a_new_control_is_its_entry_and_nothing_else() {
        let toy = Toy::default();
        let controls = [list(), &[&DAMP][..]].concat();
        let parse = |text: &str| Spec::parse_among(&controls, text);
        let damp = parse("damp:of=moon,by=4,layers=0").unwrap();
        assert_eq!(damp.to_string(), "damp:layers=0,steps=all,of=moon,by=4");
        assert_eq!((damp.words(), parse(&damp.to_string()).unwrap() == damp), (vec!["moon"], true));
        let error = |text: &str| format!("{:#}", parse(text).unwrap_err());
        assert!(error("dampp").contains("did you mean damp?"), "{}", error("dampp"));
        assert!(error("damp").contains("damp needs of=WORDS"), "{}", error("damp"));
        assert!(error("damp:of=moon,by=5").contains("by=5 is not within 0 and 4"));
        let refused = damp.check(10, &[(SiteKind::Temporal, 4)]).unwrap_err().to_string();
        assert_eq!(refused, "damp works on joint attention; this model has temporal");

        let qkv = toy.qkv(7, 4);
        let share = parse("kv-share").unwrap();
        let run = |specs: &[Spec]| {
            let mut stack = build(specs, &Words).unwrap();
            toy.attend(&qkv, &pair(), &mut stack.processors).unwrap()
        };
        let shared = run(std::slice::from_ref(&share));
        assert_same(&run(&[share, damp]), &(shared * 0.5).unwrap()); // two tokens by four
        assert!(build(&[parse("damp:of=cat").unwrap()], &Words).err().unwrap().to_string().contains("'cat'"));
    }
}
