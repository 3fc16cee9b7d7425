//! CLIP's tokenizer: lower-cased words, cut into byte pairs, between `<|startoftext|>` and `<|endoftext|>`; as transformers'
//! `CLIPTokenizer` (5.23) builds it.

use super::special::{Config, Defaults};
use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokenizers::Tokenizer;
use tokenizers::processors::template::TemplateProcessing;

/// CLIP's named tokens. Published models of its second generation pad with another one, which their files name.
pub const NAMED: Defaults =
    Defaults { bos: Some("<|startoftext|>"), eos: "<|endoftext|>", unk: "<|endoftext|>", pad: "<|endoftext|>" };

/// What counts as a piece before byte pairs: the two tokens, English endings, words, single digits, runs of other signs.
const PIECES: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// From `vocab.json` and `merges.txt`. `unk`: the token of what the vocabulary does not have.
///
/// # Errors
/// Files that are no such lists, and merges of what the vocabulary does not have.
pub fn from_pairs(vocab: &[u8], merges: &[u8], unk: &str) -> Result<Tokenizer> {
    let vocab: Value = serde_json::from_slice(vocab)?;
    let merges = std::str::from_utf8(merges).map_err(|error| anyhow!("merges.txt: {error}"))?;
    let merges: Vec<&str> = merges.lines().filter(|line| !line.starts_with("#version") && !line.is_empty()).collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "NFC" },
            { "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " },
            { "type": "Lowercase" }
        ] },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": PIECES }, "behavior": "Removed", "invert": true },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true }
        ] },
        "model": {
            "type": "BPE", "unk_token": unk, "continuing_subword_prefix": "", "end_of_word_suffix": "</w>",
            "fuse_unk": false, "vocab": vocab, "merges": merges
        }
    });
    Tokenizer::from_bytes(serde_json::to_vec(&tokenizer)?).map_err(|error| anyhow!("{error}"))
}

/// Adds the special tokens, which are looked for in a text before it is split, and puts start and end around a text.
/// `older` is `added_tokens.json`.
///
/// # Errors
/// When start or end are not in the vocabulary.
pub fn finish(inner: &mut Tokenizer, config: &Config, older: BTreeMap<String, u64>) -> Result<()> {
    let wrong = |error: tokenizers::Error| anyhow!("{error}");
    let (start, end) = (config.named.bos().unwrap_or_default(), config.named.eos());
    let id = |inner: &Tokenizer, token: &str| {
        let id = inner.token_to_id(token).ok_or_else(|| anyhow!("the special token {token} is not in it"))?;
        Ok::<_, anyhow::Error>((token.to_owned(), id))
    };
    let ends = vec![id(inner, start)?, id(inner, end)?];
    inner.add_tokens(config.added_tokens(older, Vec::new())).map_err(wrong)?;
    let template = TemplateProcessing::builder()
        .try_single(vec![start.to_owned(), "$A".to_owned(), end.to_owned()])
        .and_then(|builder| builder.special_tokens(ends).build().map_err(|error| error.to_string()))
        .map_err(|error| anyhow!("the ends of a text {start:?} and {end:?}: {error}"))?;
    inner.with_post_processor(Some(template));
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::text::Tokenizer;
    use anyhow::Result;

    fn open(files: &[(&str, &str)]) -> Result<Tokenizer> {
        Tokenizer::from_files(&|name| {
            Ok(files.iter().find(|(file, _)| *file == name).map(|(_, text)| text.as_bytes().to_vec()))
        })
    }

    const VOCAB: &str =
        r#"{"a": 0, "a</w>": 1, "b</w>": 2, "ab</w>": 3, "<|startoftext|>": 4, "<|endoftext|>": 5, "!": 6}"#;
    const MERGES: &str = "#version: 0.2\na b</w>\n";

    #[test]
    fn byte_pairs_come_between_start_and_end_and_long_texts_are_cut() {
        let tokenizer = open(&[("vocab.json", VOCAB), ("merges.txt", MERGES)]).unwrap();
        let tokens = tokenizer.encode(" AB \n a", 6).unwrap();
        assert_eq!((tokens.ids, tokens.cut), (vec![4, 3, 1, 5, 5, 5], None));
        assert_eq!(tokens.pieces, ["<|startoftext|>", "ab</w>", "a</w>", "<|endoftext|>"]);
        assert_eq!(tokens.spans, [(0, 0), (1, 3), (6, 7), (7, 7)]);
        let tokens = tokenizer.encode("ab a", 3).unwrap();
        assert_eq!((tokens.ids, tokens.cut.as_deref()), (vec![4, 3, 5], Some("a")));
        assert_eq!(tokenizer.encode("", 3).unwrap().ids, [4, 5, 5]);
        assert!(tokenizer.encode("a", 1).is_err());
    }

    #[test]
    fn the_pad_token_is_the_one_that_the_files_name() {
        let files = [("vocab.json", VOCAB), ("merges.txt", MERGES)];
        let map = ("special_tokens_map.json", r#"{"pad_token": "!"}"#);
        let config = ("tokenizer_config.json", r#"{"pad_token": "<|endoftext|>"}"#);
        let listed = ("tokenizer_config.json", r#"{"pad_token": "<|endoftext|>", "added_tokens_decoder": {}}"#);
        let ids = |more: &[(&str, &str)]| open(&[&files, more].concat()).unwrap().encode("ab!", 6).unwrap().ids;
        assert_eq!(ids(&[config]), [4, 3, 5, 5, 5, 5]); // no byte pair of the sign: the unknown piece
        assert_eq!(ids(&[config, map]), [4, 3, 6, 5, 6, 6]); // a special token is found in a text
        assert_eq!(ids(&[listed, map]), [4, 3, 5, 5, 5, 5]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let message = |files: &[(&str, &str)]| format!("{:#}", open(files).err().unwrap());
        assert!(message(&[("vocab.json", "{}"), ("merges.txt", "")]).contains("<|startoftext|>"));
        assert!(message(&[("vocab.json", "["), ("merges.txt", "")]).contains("vocab.json"));
        assert!(message(&[("vocab.json", VOCAB)]).contains("neither tokenizer.json"));
    }
}
