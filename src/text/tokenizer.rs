//! From a prompt to the token ids of a text encoder: T5's or CLIP's, whichever the files of the folder are.
//!
//! T5's ids are those of transformers' `T5Tokenizer.from_pretrained` (5.23, which is built on the `tokenizers` crate as this
//! is): split at white space, each word with a leading `▁`, unigram pieces, `</s>` at the end. SentencePiece's own encoder,
//! which the slow tokenizer of transformers 4 called, gives other ids for some texts: it keeps words glued to a special
//! token without `▁`, and never finds `<pad>` in a normalized text.
//!
//! CLIP's are those of `CLIPTokenizer` of the same version: lower-cased words in byte pairs (`bpe`), between
//! `<|startoftext|>` and `<|endoftext|>`.
//!
//! Deliberately different: a `tokenizer.json` is applied as it is written. `T5Tokenizer` 5.23 takes the vocabulary and the
//! character map out of it and drops its other normalizers (lower-casing, for one).

use super::bpe;
use super::special::{Config, Defaults};
use super::spiece::{self, Kind, SentencePiece};
use super::words;
use crate::weights::{ModelError, ModelFolder};
use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::Precompiled;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::{sequence::Sequence, whitespace::WhitespaceSplit};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, PreTokenizerWrapper};

/// More sentinels (`<extra_id_N>`) than any known model.
const MOST_EXTRA_IDS: usize = 10_000;

/// T5's named tokens.
const T5: Defaults = Defaults { bos: None, eos: "</s>", unk: "<unk>", pad: "<pad>" };

/// A prompt as the text encoder gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Exactly as many as asked for, filled up with the pad id.
    pub ids: Vec<u32>,
    /// The piece of each id, without the padding.
    pub pieces: Vec<String>,
    /// For each piece the bytes of the prompt it stands for; empty for the end of the text.
    pub spans: Vec<(usize, usize)>,
    /// The words of the prompt that did not fit, if any.
    pub cut: Option<String>,
    /// Words, in their order, of which a piece is the vocabulary's unknown one: the encoder cannot tell them apart.
    pub unknown: Vec<String>,
}

impl Tokens {
    /// Where the end of the text is first marked: of a network that takes a text as one vector, that of this token.
    pub fn end(&self) -> usize {
        let last = self.pieces.len().saturating_sub(1);
        self.ids.iter().position(|id| Some(id) == self.ids.get(last)).unwrap_or(last)
    }

    /// The pieces of the first place where `words` stand in `prompt`, the text these tokens were made of. Letter case and
    /// the width of gaps do not matter; words match as a whole ("ball" is not in "balloon"). `None` where the words do not
    /// stand in the prompt or did not fit.
    pub fn find(&self, prompt: &str, words: &str) -> Option<Range<usize>> {
        self.find_within(prompt, words, 0..prompt.len())
    }

    /// The same in some bytes of the prompt.
    pub fn find_within(&self, prompt: &str, words: &str, bytes: Range<usize>) -> Option<Range<usize>> {
        let place = words::find(prompt.get(bytes.clone())?, words)?;
        let place = place.start + bytes.start..place.end + bytes.start;
        let kept = self.spans.iter().map(|span| span.1).max()?;
        if self.cut.is_some() && place.end > kept {
            return None;
        }
        let touches = |&(start, end): &(usize, usize)| start < end && start < place.end && end > place.start;
        let first = self.spans.iter().position(touches)?;
        let last = self.spans.iter().rposition(touches)?;
        Some(first..last + 1)
    }
}

/// The tokenizer of a text encoder.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pad: u32,
    /// The piece of what the vocabulary does not have.
    unknown: Option<u32>,
}

impl Tokenizer {
    /// The tokenizer of a model, from its folder `tokenizer` ([`Tokenizer::from_files`]). Errors name the file.
    pub fn open(model: &ModelFolder) -> Result<Self> {
        let read = |name: &str| {
            let path = format!("tokenizer/{name}");
            if model.has(&path) { model.read(&path).map(Some) } else { Ok(None) }
        };
        Self::from_files(&read).map_err(|error| match error.downcast::<ModelError>() {
            Ok(error) => error.into(),
            Err(error) => ModelError::new(format!("{}/{error:#}", model.place())).into(),
        })
    }

    /// From the files of a `tokenizer/` folder: `read` gives the bytes of a file by its name, or `None` where there is
    /// none. `tokenizer.json` comes first, then `spiece.model`, then `vocab.json` with `merges.txt`; the rest of the folder
    /// names special tokens.
    pub fn from_files(read: &dyn Fn(&str) -> Result<Option<Vec<u8>>>) -> Result<Self> {
        Self::from_folder("tokenizer/", read)
    }

    /// [`Tokenizer::from_files`] of a folder that is called something else in messages.
    pub fn from_folder(folder: &str, read: &dyn Fn(&str) -> Result<Option<Vec<u8>>>) -> Result<Self> {
        let place = |file: &str| format!("{folder}{file}");
        let config: Config = json(folder, read, "tokenizer_config.json")?.unwrap_or_default();
        let config = config.with_map(json(folder, read, "special_tokens_map.json")?.unwrap_or_default());
        ensure!(
            config.padding_side.as_deref().unwrap_or("right") == "right",
            "{}: padding_side must be \"right\"",
            place("tokenizer_config.json")
        );
        let older = || Ok::<_, anyhow::Error>(json(folder, read, "added_tokens.json")?.unwrap_or_default());
        let (mut inner, file, config) = if let Some(bytes) = read("tokenizer.json")? {
            let (mut inner, pairs) = from_json(&bytes).with_context(|| place("tokenizer.json"))?;
            let config = config.or_defaults(if pairs { &bpe::NAMED } else { &T5 });
            if pairs {
                bpe::finish(&mut inner, &config, older()?).with_context(|| place("tokenizer.json"))?;
            }
            (inner, "tokenizer.json", config)
        } else if let Some(bytes) = read("spiece.model")? {
            let model = SentencePiece::parse(&bytes).with_context(|| place("spiece.model"))?;
            let config = config.or_defaults(&T5);
            let inner = from_spiece(&model, &config, older()?).with_context(|| place("spiece.model"))?;
            (inner, "spiece.model", config)
        } else if let (Some(vocab), Some(merges)) = (read("vocab.json")?, read("merges.txt")?) {
            let config = config.or_defaults(&bpe::NAMED);
            let mut inner =
                bpe::from_pairs(&vocab, &merges, config.named.unk()).with_context(|| place("vocab.json"))?;
            bpe::finish(&mut inner, &config, older()?).with_context(|| place("vocab.json"))?;
            (inner, "vocab.json", config)
        } else {
            bail!(
                "tokenizer: neither tokenizer.json nor spiece.model nor vocab.json with merges.txt is there; download the \
                 model again"
            )
        };
        let id = |token: &str| {
            inner.token_to_id(token).ok_or_else(|| anyhow!("{}: the special token {token} is not in it", place(file)))
        };
        let (pad, eos) = (id(config.named.pad())?, id(config.named.eos())?);
        if inner.get_post_processor().is_none() {
            inner.with_post_processor(Some(end_of_text(config.named.eos(), eos)?));
        }
        inner.set_encode_special_tokens(config.split_special_tokens.unwrap_or(false));
        let unknown = inner.token_to_id(config.named.unk());
        Ok(Self { inner, pad, unknown })
    }

    /// The tokens of `text`, exactly `length` ids: filled up with the pad id, or cut so that the final `</s>` stays.
    pub fn encode(&self, text: &str, length: usize) -> Result<Tokens> {
        let encoding = self.inner.encode(text, true).map_err(|error| anyhow!("tokenizer: {error}"))?;
        let marks = encoding.get_special_tokens_mask(); // 1 where the template put a token
        let special = marks.iter().filter(|&&mark| mark == 1).count();
        ensure!(length >= special.max(1), "a text of {length} tokens has no room for the end of the text");
        let count = encoding.len();
        let closing = marks.iter().rev().take_while(|&&mark| mark == 1).count();
        let (kept, closing) = if count <= length { (count, 0) } else { (length - closing, closing) };
        let order: Vec<usize> = (0..kept).chain(count - closing..count).collect();

        let mut ids: Vec<u32> = order.iter().map(|&index| encoding.get_ids()[index]).collect();
        ids.resize(length, self.pad);
        let pieces = order.iter().map(|&index| encoding.get_tokens()[index].trim().to_string()).collect();
        let mut spans = Vec::with_capacity(order.len());
        let mut end = 0;
        for &index in &order {
            let (start, stop) = encoding.get_offsets()[index];
            let span = if marks[index] == 1 { (end, end) } else { words::trimmed(text, start..stop) };
            end = span.1;
            spans.push(span);
        }
        let cut = (count > length).then(|| {
            let start = words::trimmed(text, encoding.get_offsets()[kept].0..text.len()).0;
            text[words::start(text, start)..].trim().to_string()
        });
        let mut unknown: Vec<String> = Vec::new();
        let not_known = |(id, span): &(&u32, &(usize, usize))| Some(**id) == self.unknown && span.0 < span.1;
        for (_, span) in ids.iter().zip(&spans).filter(not_known) {
            let start = text[..span.0].char_indices().rfind(|(_, c)| c.is_whitespace());
            let start = start.map_or(0, |(at, c)| at + c.len_utf8());
            let end = text[span.1..].find(char::is_whitespace).map_or(text.len(), |at| span.1 + at);
            let word = text[start..end].trim().to_owned();
            if !word.is_empty() && !unknown.contains(&word) {
                unknown.push(word);
            }
        }
        Ok(Tokens { ids, pieces, spans, cut, unknown })
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        let vocab = self.inner.get_vocab(true);
        vocab.into_values().max().map_or(0, |id| id as usize + 1)
    }
}

fn json<T: DeserializeOwned>(
    folder: &str,
    read: &dyn Fn(&str) -> Result<Option<Vec<u8>>>,
    file: &str,
) -> Result<Option<T>> {
    let Some(bytes) = read(file)? else { return Ok(None) };
    serde_json::from_slice(&bytes).with_context(|| format!("{folder}{file}")).map(Some)
}

/// `$A </s>`.
fn end_of_text(eos: &str, id: u32) -> Result<TemplateProcessing> {
    TemplateProcessing::builder()
        .try_single(vec!["$A".to_string(), eos.to_string()])
        .and_then(|builder| {
            builder.special_tokens(vec![(eos.to_string(), id)]).build().map_err(|error| error.to_string())
        })
        .map_err(|error| anyhow!("tokenizer: the end of text {eos:?}: {error}"))
}

/// A `tokenizer.json` as it is written; and whether its pieces are byte pairs, which are CLIP's.
fn from_json(bytes: &[u8]) -> Result<(tokenizers::Tokenizer, bool)> {
    let file: Value = serde_json::from_slice(bytes)?;
    for map in parts(&file["normalizer"], "normalizers").filter_map(|part| part["precompiled_charsmap"].as_str()) {
        spiece::check_charsmap(
            &BASE64_STANDARD.decode(map).context("the character map (precompiled_charsmap) is not base64")?,
        )?;
    }
    for template in parts(&file["post_processor"], "processors") {
        check_template(template)?;
    }
    if let Value::Array(pieces) = &file["model"]["vocab"] {
        let score = |piece: &Value| piece[1].as_f64().unwrap_or_default();
        spiece::check_pieces(pieces.iter().filter_map(|piece| Some((piece[0].as_str()?, score(piece)))))?;
    }
    let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| anyhow!("{error}"))?;
    inner.with_padding(None);
    inner.with_truncation(None).map_err(|error| anyhow!("{error}"))?;
    Ok((inner, file["model"]["type"] == "BPE"))
}

/// A step of a `tokenizer.json`, and the steps within it.
fn parts<'a>(step: &'a Value, list: &'a str) -> Box<dyn Iterator<Item = &'a Value> + 'a> {
    let inner = step[list].as_array().into_iter().flatten();
    Box::new(std::iter::once(step).chain(inner.flat_map(move |step| parts(step, list))))
}

/// Refuses a template that the crate would stumble over: it looks its tokens up without asking.
fn check_template(template: &Value) -> Result<()> {
    let steps = ["single", "pair"].into_iter().filter_map(|key| template[key].as_array()).flatten();
    for name in steps.filter_map(|step| step["SpecialToken"]["id"].as_str()) {
        let token = &template["special_tokens"][name];
        let count = |key: &str| token[key].as_array().map(Vec::len);
        ensure!(count("ids").is_some(), "the post_processor has no ids for {name}");
        ensure!(count("ids") == count("tokens"), "the post_processor has other ids than tokens for {name}");
    }
    Ok(())
}

/// The pipeline that `T5Tokenizer` builds.
fn from_spiece(model: &SentencePiece, config: &Config, older: BTreeMap<String, u64>) -> Result<tokenizers::Tokenizer> {
    let extra = config.extra_ids();
    ensure!(extra <= MOST_EXTRA_IDS, "extra_ids of tokenizer_config.json is {extra}, more than {MOST_EXTRA_IDS}");
    let sentinels = (0..extra).rev().map(|index| (format!("<extra_id_{index}>"), 0.0));
    let pieces = model.pieces.iter().map(|piece| (piece.text.clone(), f64::from(piece.score)));
    let wrong = |error: tokenizers::Error| anyhow!("{error}");

    // the unknown piece is 2, whatever the file says: T5Tokenizer does not ask it
    let unigram = Unigram::from(pieces.chain(sentinels).collect(), Some(2), false).map_err(wrong)?;
    let mut inner = tokenizers::Tokenizer::new(unigram);
    if !model.charsmap.is_empty() {
        let map = Precompiled::from(&model.charsmap).map_err(|error| anyhow!("{error}"))?;
        inner.with_normalizer(Some(map)).map_err(wrong)?;
    }
    inner.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::WhitespaceSplit(WhitespaceSplit),
        PreTokenizerWrapper::Metaspace(Metaspace::new('▁', PrependScheme::Always, true)),
    ])));
    inner.add_tokens(config.added_tokens(older, special_pieces(model, extra))).map_err(wrong)?;
    Ok(inner)
}

/// The special pieces, and as many sentinels where they are no pieces.
fn special_pieces(model: &SentencePiece, sentinels: usize) -> Vec<AddedToken> {
    let special: Vec<_> = model.pieces.iter().filter(|piece| piece.kind != Kind::Plain).collect();
    let control = special
        .iter()
        .map(|piece| AddedToken::from(piece.text.as_str(), piece.kind == Kind::Control).normalized(false));
    let mut tokens: Vec<AddedToken> = control.collect();
    if !special.iter().any(|piece| piece.text.contains("<extra_id_")) {
        tokens.extend((0..sentinels).map(|n| AddedToken::from(format!("<extra_id_{n}>"), true)));
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn word_pieces() -> Value {
        let words = ["<pad>", "</s>", "<unk>", "▁a", "▁red", "▁ball", "▁on", "▁the", "▁beach", ",", "▁", "s", "oon"];
        let vocab: Vec<_> = words.iter().map(|word| json!([word, -2.0])).collect();
        let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]},
            "pre_tokenizer": metaspace, "decoder": metaspace, "post_processor": null,
            "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": false}
        })
    }

    fn open(file: &Value, config: Value) -> Result<Tokenizer> {
        Tokenizer::from_files(&|name| {
            Ok(match name {
                "tokenizer.json" => Some(file.to_string().into_bytes()),
                "tokenizer_config.json" => Some(config.to_string().into_bytes()),
                _ => None,
            })
        })
    }

    fn error(file: &Value, config: Value) -> String {
        format!("{:#}", open(file, config).err().unwrap())
    }

    #[test]
    fn words_that_the_vocabulary_does_not_have_are_named() {
        let tokenizer = open(&word_pieces(), json!({})).unwrap();
        let unknown = |text: &str| tokenizer.encode(text, 32).unwrap().unknown;
        assert_eq!(unknown("a red ball"), [""; 0]);
        assert_eq!(unknown("a zyx ball, zyx 红色"), ["zyx", "红色"]);
        assert_eq!(unknown("红色的球"), ["红色的球"]);
        assert_eq!(unknown(""), [""; 0]);
    }

    #[test]
    fn spans_and_pieces_of_a_prompt() {
        let prompt = "A  red ball,  on the Beach";
        let tokens = open(&word_pieces(), json!({})).unwrap().encode(prompt, 16).unwrap();
        assert_eq!(tokens.ids, [3, 10, 4, 5, 9, 10, 6, 7, 8, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(tokens.pieces, ["▁a", "▁", "▁red", "▁ball", ",", "▁", "▁on", "▁the", "▁beach", "</s>"]);
        let texts: Vec<&str> = tokens.spans.iter().map(|&(start, end)| &prompt[start..end]).collect();
        assert_eq!(texts, ["A", "", "red", "ball", ",", "", "on", "the", "Beach", ""]);
        assert_eq!(tokens.cut, None);
    }

    #[test]
    fn pieces_of_words() {
        let tokenizer = open(&word_pieces(), json!({})).unwrap();
        let prompt = "a balloon, a red  Ball on the beach";
        let tokens = tokenizer.encode(prompt, 20).unwrap();
        let find = |words: &str| tokens.find(prompt, words).map(|range| tokens.pieces[range].join(""));
        assert_eq!(find("red ball").unwrap(), "▁red▁▁ball");
        assert_eq!(find("balloon").unwrap(), "▁balloon");
        assert_eq!(tokens.find(prompt, "ball"), Some(7..8));
        assert_eq!(find("green ball"), None);
        assert_eq!(find(""), None);
        // what did not fit is not found
        let tokens = tokenizer.encode(prompt, 8).unwrap();
        assert_eq!((tokens.cut.as_deref(), tokens.ids.last()), (Some("Ball on the beach"), Some(&1)));
        assert_eq!(tokens.find(prompt, "red"), Some(5..6));
        assert_eq!(tokens.find(prompt, "red ball"), None);
        assert_eq!(tokens.find(prompt, "beach"), None);
    }

    #[test]
    fn cut_words_are_whole() {
        let tokenizer = open(&word_pieces(), json!({})).unwrap();
        let tokens = tokenizer.encode("red balloon", 3).unwrap();
        assert_eq!(tokens.ids, [4, 5, 1]);
        assert_eq!(tokens.cut.unwrap(), "balloon");
        let tokens = tokenizer.encode("red ball", 1).unwrap();
        assert_eq!((tokens.ids, tokens.cut.unwrap()), (vec![1], "red ball".to_string()));
        assert!(tokenizer.encode("red", 0).is_err());
    }

    #[test]
    fn special_tokens_by_the_configuration() {
        let tokenizer = open(&word_pieces(), json!({"pad_token": {"content": "<unk>"}, "eos_token": ","})).unwrap();
        assert_eq!(tokenizer.encode("a", 4).unwrap().ids, [3, 9, 2, 2]);
        let message = error(&word_pieces(), json!({"pad_token": "[PAD]"}));
        assert!(message.contains("tokenizer/tokenizer.json: the special token [PAD] is not in it"), "{message}");
        assert!(error(&word_pieces(), json!({"padding_side": "left"})).contains("padding_side"));
        assert!(error(&word_pieces(), json!({"pad_token": 3})).contains("tokenizer/tokenizer_config.json"));
    }

    #[test]
    fn damaged_files_are_refused() {
        let with = |key: &str, value: Value| {
            let mut file = word_pieces();
            file[key] = value;
            error(&file, json!({}))
        };
        let step = json!([{"SpecialToken": {"id": "[X]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
        let template = |tokens: Value| json!({"type": "TemplateProcessing", "single": step, "pair": step, "special_tokens": tokens});
        assert!(with("post_processor", template(json!({}))).contains("no ids for [X]"));
        let uneven = json!({"[X]": {"id": "[X]", "ids": [1, 2], "tokens": ["a"]}});
        let nested = json!({"type": "Sequence", "processors": [template(uneven)]});
        assert!(with("post_processor", nested).contains("other ids than tokens"));
        let map =
            json!({"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": "AAAAAAEB"}]});
        assert!(with("normalizer", map).contains("character map"));
        let long = json!({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a".repeat(600), 0.0]]});
        assert!(with("model", long).contains("600 bytes"));
        assert!(
            with("model", json!({"type": "Unigram", "unk_id": 9, "vocab": [["a", 0.0]]})).contains("tokenizer.json")
        );
        let missing = Tokenizer::from_files(&|_| Ok(None)).err().unwrap().to_string();
        assert!(missing.contains("neither tokenizer.json nor spiece.model nor vocab.json"), "{missing}");
    }
}
