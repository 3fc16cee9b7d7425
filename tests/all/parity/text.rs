//! Token ids equal transformers' `T5Tokenizer`, embeddings its `T5EncoderModel`; goldens by `tests/reference/text.py`.

use crate::common::{assert_close, golden, golden_dir, tiny};
use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use vidgen::models::architecture::TextSpec;
use vidgen::text::{Encoded, T5Config, T5Encoder, TextCache, TextEncoder, TextKey, Tokenizer, encode_all};
use vidgen::weights::{ModelError, ModelFolder};

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

fn tokenizer() -> Tokenizer {
    let folder = golden_dir().join("tokenizer");
    Tokenizer::from_files(&|name| Ok(std::fs::read(folder.join(name)).ok())).unwrap()
}

#[test]
fn token_ids_equal_transformers() {
    let tokenizer = tokenizer();
    let cases: Vec<Case> = read("tokens.json");
    assert_eq!(cases.len(), 200);
    check(&tokenizer, &cases);
    assert_eq!(tokenizer.vocab_size(), 580);
}

#[test]
fn spans_lie_in_order_on_letters() {
    let tokenizer = tokenizer();
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

/// Weights by their names under a prefix; the table of pieces has the name `table`.
struct Formula {
    prefix: &'static str,
    table: &'static str,
}

impl SimpleBackend for Formula {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        assert!(name != "shared.weight" || name == self.table);
        let name = if name == self.table { "shared.weight" } else { name };
        tiny::weight(&format!("{}/{name}", self.prefix), shape.dims()).to_dtype(dtype)?.to_device(device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("{name}: no shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        name == self.table
    }
}

fn encoder(prefix: &'static str, table: &'static str, config: T5Config, dtype: DType) -> T5Encoder {
    let vb = VarBuilder::from_backend(Box::new(Formula { prefix, table }), dtype, Device::Cpu);
    T5Encoder::new(config, vb).unwrap()
}

fn config(path: &str) -> T5Config {
    serde_json::from_slice(&std::fs::read(golden_dir().join(path)).unwrap()).unwrap()
}

/// As in tests/reference/text.py.
fn sequence(length: u32, vocab: u32) -> Vec<u32> {
    (0..length - 4).map(|index| (index * index * 31 + index * 7 + 3) % vocab).chain([1, 0, 0, 0]).collect()
}

const PARITY: f64 = 1e-5;

#[test]
fn embeddings_equal_transformers() {
    let want = golden("text/embeddings");
    let tokenizer = tokenizer();
    let prefixes = ["tiny-2b/text_encoder", "tiny-5b/text_encoder", "tiny-1.5/text_encoder"];
    for (kind, prefix) in tiny::KINDS.into_iter().zip(prefixes) {
        let config = config(&format!("{kind}/text_encoder/config.json"));
        assert_ne!(config.d_kv * config.num_heads, config.d_model);
        let encoder = encoder(prefix, "shared.weight", config, DType::F32);
        let long = "the camera pans slowly over a quiet lake ".repeat(4);
        let texts = [("plain", "a red ball rolls to the right"), ("empty", ""), ("long", long.as_str())];
        let ids: Vec<_> = texts.iter().map(|(_, text)| tokenizer.encode(text, 12).unwrap().ids).collect();
        let together = encoder.encode_all(&ids.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
        for (((name, _), ids), together) in texts.iter().zip(&ids).zip(&together) {
            let alone = encoder.encode(ids).unwrap();
            assert_close(&format!("{kind} {name}"), &alone, &want[&format!("{kind}/{name}")], PARITY);
            // bit for bit: a cached embedding must not depend on the run that made it
            assert_eq!(alone.to_vec2::<f32>().unwrap(), together.to_vec2::<f32>().unwrap());
        }
    }
}

#[test]
fn long_texts_and_other_shapes_equal_transformers() {
    let want = golden("text/embeddings");
    let tiny = config("tiny-2b/text_encoder/config.json");
    for table in ["shared.weight", "encoder.embed_tokens.weight"] {
        let encoder = encoder("tiny-2b/text_encoder", table, tiny.clone(), DType::F32);
        // another length first: the position bias is made anew
        let texts = [sequence(9, 600), sequence(226, 600)];
        let got = encoder.encode_all(&[&texts[0], &texts[1]]).unwrap();
        assert_close(table, &got[1], &want["tiny-2b/226"], PARITY);
    }
    for name in ["relu", "gated-silu"] {
        let encoder = encoder(name, "shared.weight", config(&format!("text/{name}.json")), DType::F32);
        assert_close(name, &encoder.encode(&sequence(150, 50)).unwrap(), &want[name], PARITY);
    }
}

#[test]
fn ids_of_another_tokenizer_are_refused() {
    let tiny = config("tiny-2b/text_encoder/config.json");
    let encoder = encoder("tiny-2b/text_encoder", "shared.weight", tiny, DType::F32);
    let message = encoder.encode(&[3, 600, 1]).unwrap_err().to_string();
    assert!(message.contains("token id 600"), "{message}");
    assert!(encoder.encode(&[]).is_err());
}

fn spec(length: usize) -> TextSpec {
    TextSpec { part: "text_encoder", length, width: 32, pooled: false }
}

fn encode(folder: &Path, texts: &[&str], dtype: DType, cache: &TextCache) -> anyhow::Result<Vec<Encoded>> {
    encode_all(&ModelFolder::folder(folder)?, spec(12), texts, dtype, &Device::Cpu, cache)
}

fn rows(embedding: &Tensor) -> Vec<Vec<f32>> {
    embedding.to_vec2().unwrap()
}

#[test]
fn the_stage_equals_transformers_with_and_without_its_cache() {
    let want = golden("text/embeddings");
    let (model, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tiny::write_folder("tiny-5b", "tiny-5b", model.path());
    let long = "the camera pans slowly over a quiet lake ".repeat(4);
    let texts = ["", "a red ball rolls to the right", "", &long];
    let names = ["empty", "plain", "empty", "long"];
    let off = TextCache::off();
    let on = TextCache::open(Some(kept.path().to_owned()));
    for (cache, dtype) in [(&off, DType::F32), (&on, DType::F32), (&on, DType::BF16)] {
        let encoded = encode(model.path(), &texts, dtype, cache).unwrap();
        assert_eq!(encoded.len(), 4);
        for (Encoded { embedding, tokens }, name) in encoded.iter().zip(names) {
            assert_close(name, embedding, &want[&format!("tiny-5b/{name}")], PARITY);
            assert_eq!((tokens.ids.len(), tokens.cut.is_some()), (12, name == "long"));
        }
    }
    assert_eq!(std::fs::read_dir(kept.path()).unwrap().count(), 3);

    // an entry that is whole is used, a damaged one is made anew
    let part = ModelFolder::folder(model.path()).unwrap().part("text_encoder").unwrap();
    let ids = encode(model.path(), &texts[..1], DType::F32, &off).unwrap().remove(0).tokens.ids;
    let encoder = T5Encoder::open(&part, DType::F32, &Device::Cpu).unwrap();
    let key = TextKey::new(&part.hash().unwrap(), &encoder, &ids);
    let other = tiny::unit("other", &[12, 32]);
    on.put(&key, &other).unwrap();
    let encoded = encode(model.path(), &texts, DType::F32, &on).unwrap();
    assert_eq!(rows(&encoded[0].embedding), rows(&other));
    assert_close("plain", &encoded[1].embedding, &want["tiny-5b/plain"], PARITY);
    for file in std::fs::read_dir(kept.path()).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let encoded = encode(model.path(), &texts, DType::F32, &on).unwrap();
    assert_close("empty", &encoded[0].embedding, &want["tiny-5b/empty"], PARITY);
    assert_eq!(rows(&on.get(&key).unwrap()), rows(&encoded[0].embedding));
    assert_eq!(on.take_warning(), None);
}

#[test]
fn other_weights_have_other_entries() {
    let (model, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cache = TextCache::open(Some(kept.path().to_owned()));
    tiny::write_folder("tiny-2b", "tiny-2b", model.path());
    let before = encode(model.path(), &["a red ball"], DType::F32, &cache).unwrap();
    tiny::write_folder("tiny-2b", "others", model.path());
    let after = encode(model.path(), &["a red ball"], DType::F32, &cache).unwrap();
    assert_ne!(rows(&before[0].embedding), rows(&after[0].embedding));
}

#[test]
fn the_embedded_model_encodes() {
    let model = ModelFolder::embedded();
    let texts = ["a red ball rolls to the right in a green meadow on a sunny day", ""];
    let encoded = encode_all(&model, spec(32), &texts, DType::F32, &Device::Cpu, &TextCache::off()).unwrap();
    let config: T5Config = model.json("text_encoder/config.json").unwrap();
    assert_eq!(encoded[0].embedding.dims(), [32, config.d_model]);
    assert!(!encoded[0].tokens.pieces.contains(&"<unk>".to_string()));
    assert_eq!(encoded[0].tokens.find(texts[0], "red ball").map(|range| range.len()), Some(2));
}

#[test]
fn what_is_wrong_is_named() {
    let off = TextCache::off();
    let message = |damage: &dyn Fn(&Path), dtype: DType, typed: bool| {
        let model = tempfile::tempdir().unwrap();
        tiny::write_folder("tiny-2b", "tiny-2b", model.path());
        damage(model.path());
        let error = encode(model.path(), &["a"], dtype, &off).err().unwrap();
        assert_eq!(error.chain().any(|cause| cause.is::<ModelError>()), typed, "{error:#}");
        let message = format!("{error:#}");
        assert!(!message.contains('\n'), "{message}");
        message.replace(&model.path().display().to_string(), "MODEL")
    };
    let nothing = |_: &Path| {};
    assert!(message(&nothing, DType::F16, false).contains("f32 or bf16, not f16"));
    let other = |model: &Path| {
        let path = model.join("text_encoder/config.json");
        let text = std::fs::read_to_string(&path).unwrap().replace("\"t5\"", "\"clip_text_model\"");
        std::fs::write(path, text).unwrap();
    };
    let got = message(&other, DType::F32, true);
    assert!(got.starts_with("MODEL/text_encoder/config.json: model_type \"clip_text_model\""), "{got}");
    let no_tokenizer = |model: &Path| std::fs::remove_file(model.join("tokenizer/spiece.model")).unwrap();
    assert!(
        message(&no_tokenizer, DType::F32, true).contains("MODEL/tokenizer: neither tokenizer.json nor spiece.model")
    );
    let short = |model: &Path| {
        let path = model.join("tokenizer/spiece.model");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    let got = message(&short, DType::F32, true);
    assert!(got.starts_with("MODEL/tokenizer/spiece.model: cut off"), "{got}");
    let shape = |model: &Path| {
        let path = model.join("text_encoder/config.json");
        let text = std::fs::read_to_string(&path).unwrap().replace("\"d_ff\": 40", "\"d_ff\": 41");
        std::fs::write(path, text).unwrap();
    };
    let got = message(&shape, DType::F32, false); // a candle error
    assert!(got.contains("block.0.layer.1.DenseReluDense.wi_0.weight") && got.contains("[41, 32]"), "{got}");
}
