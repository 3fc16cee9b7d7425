//! Token ids equal transformers' `T5Tokenizer`, embeddings its `T5EncoderModel`; goldens by `tests/reference/text.py`.

use crate::common::golden_dir;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use vidgen::text::Tokenizer;

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    short: Vec<u32>,
}

#[derive(Deserialize)]
struct Variant {
    files: BTreeMap<String, Value>,
    cases: Vec<Case>,
}

fn read<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    let path = golden_dir().join("text").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The ids as they are, filled up, and cut.
fn check(tokenizer: &Tokenizer, cases: &[Case]) {
    let pad = tokenizer.encode("", 64).unwrap().ids[63];
    for Case { text, ids, short } in cases {
        let whole = tokenizer.encode(text, ids.len()).unwrap();
        assert_eq!((&whole.ids, &whole.cut), (ids, &None), "{text:?}");
        assert_eq!((whole.pieces.len(), whole.spans.len()), (ids.len(), ids.len()), "{text:?}");

        let filled = tokenizer.encode(text, ids.len() + 3).unwrap();
        assert_eq!(filled.ids, [ids.as_slice(), &[pad; 3]].concat(), "{text:?}");
        assert_eq!(filled.pieces, whole.pieces, "{text:?}");

        let cut = tokenizer.encode(text, short.len()).unwrap();
        assert_eq!(&cut.ids, short, "{text:?}");
        assert_eq!(cut.cut.is_some(), ids.len() > short.len(), "{text:?}");
        assert_eq!(cut.pieces.last(), whole.pieces.last(), "{text:?}");
    }
}

#[test]
fn token_ids_equal_transformers() {
    let folder = golden_dir().join("tokenizer");
    let tokenizer = Tokenizer::from_files(&|name| Ok(std::fs::read(folder.join(name)).ok())).unwrap();
    let cases: Vec<Case> = read("tokens.json");
    assert_eq!(cases.len(), 200);
    check(&tokenizer, &cases);
    assert_eq!(tokenizer.vocab_size(), 580);
}

#[test]
fn spans_lie_in_order_on_letters() {
    let folder = golden_dir().join("tokenizer");
    let tokenizer = Tokenizer::from_files(&|name| Ok(std::fs::read(folder.join(name)).ok())).unwrap();
    for Case { text, ids, .. } in read::<Vec<Case>>("tokens.json") {
        let tokens = tokenizer.encode(&text, ids.len()).unwrap();
        let mut before = 0;
        for &(start, end) in &tokens.spans {
            assert!(
                start <= end && start >= before && text.get(start..end).is_some(),
                "{:?} of {text:?}",
                tokens.spans
            );
            before = start;
        }
    }
}

#[test]
fn other_folders_equal_transformers() {
    let spiece = std::fs::read(golden_dir().join("tokenizer/spiece.model")).unwrap();
    let variants: Vec<Variant> = read("variants.json");
    assert_eq!(variants.len(), 5);
    for Variant { files, cases } in variants {
        println!("{:?}", files.keys());
        let file = |name: &str| match (name, files.get(name)) {
            (_, Some(content)) => Some(serde_json::to_vec(content).unwrap()),
            ("spiece.model", None) => Some(spiece.clone()),
            _ => None,
        };
        check(&Tokenizer::from_files(&|name| Ok(file(name))).unwrap(), &cases);
    }
}
