//! CLIP's tokenizer: lower-cased words, cut into byte pairs, between `<|startoftext|>` and `<|endoftext|>`.
//!
//! The ids are those of transformers' `CLIPTokenizer` (5.23). A folder has it as `tokenizer.json`, or as `vocab.json` and
//! `merges.txt`, from which the same pipeline is built here.

use anyhow::{Result, anyhow, bail, ensure};
use serde_json::{Value, json};

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// What counts as a piece before byte pairs: English endings, words, single digits, runs of other signs.
const PIECES: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The tokenizer of a CLIP text encoder.
pub struct ClipTokenizer {
    inner: tokenizers::Tokenizer,
    start: u32,
    end: u32,
}

impl ClipTokenizer {
    /// `read` gives the bytes of a file of the folder by its name, or `None` where there is none. Errors name the file.
    pub fn from_files(read: &dyn Fn(&str) -> Result<Option<Vec<u8>>>) -> Result<Self> {
        let (bytes, file) = match (read("tokenizer.json")?, read("vocab.json")?, read("merges.txt")?) {
            (Some(bytes), ..) => (bytes, "tokenizer.json"),
            (None, Some(vocab), Some(merges)) => (pipeline(&vocab, &merges)?, "vocab.json"),
            _ => bail!("neither tokenizer.json nor vocab.json with merges.txt is there; download the model again"),
        };
        let failed = |error: tokenizers::Error| anyhow!("{file}: {error}");
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(failed)?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(failed)?;
        let id = |token: &str| {
            inner.token_to_id(token).ok_or_else(|| anyhow!("{file}: the special token {token} is not in it"))
        };
        let (start, end) = (id(START)?, id(END)?);
        Ok(Self { inner, start, end })
    }

    /// The ids of a text, start and end included, at most `length` of them; and whether words were cut off to fit.
    pub fn encode(&self, text: &str, length: usize) -> Result<(Vec<u32>, bool)> {
        ensure!(length >= 2, "a text of {length} tokens has no room for its start and end");
        let encoding = self.inner.encode(text, false).map_err(|error| anyhow!("tokenizer: {error}"))?;
        let (ids, room) = (encoding.get_ids(), length - 2);
        let kept = ids.len().min(room);
        let ids = std::iter::once(self.start).chain(ids[..kept].iter().copied()).chain(std::iter::once(self.end));
        Ok((ids.collect(), encoding.len() > room))
    }
}

/// A `tokenizer.json` for byte pairs in the older two files.
fn pipeline(vocab: &[u8], merges: &[u8]) -> Result<Vec<u8>> {
    let vocab: Value = serde_json::from_slice(vocab).map_err(|error| anyhow!("vocab.json: {error}"))?;
    let merges = std::str::from_utf8(merges).map_err(|error| anyhow!("merges.txt: {error}"))?;
    let merges: Vec<&str> = merges.lines().filter(|line| !line.starts_with("#version") && !line.is_empty()).collect();
    let special = |token: &str| {
        let id = vocab.get(token).ok_or_else(|| anyhow!("vocab.json: the special token {token} is not in it"))?;
        Ok::<_, anyhow::Error>(json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true
        }))
    };
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [special(START)?, special(END)?],
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
            "type": "BPE", "unk_token": END, "continuing_subword_prefix": "", "end_of_word_suffix": "</w>",
            "fuse_unk": false, "vocab": vocab, "merges": merges
        }
    });
    Ok(serde_json::to_vec(&tokenizer)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(files: &[(&str, &str)]) -> Result<ClipTokenizer> {
        ClipTokenizer::from_files(&|name| {
            Ok(files.iter().find(|(file, _)| *file == name).map(|(_, text)| text.as_bytes().to_vec()))
        })
    }

    #[test]
    fn byte_pairs_come_between_start_and_end_and_long_texts_are_cut() {
        let vocab = r#"{"a": 0, "a</w>": 1, "b</w>": 2, "ab</w>": 3, "<|startoftext|>": 4, "<|endoftext|>": 5}"#;
        let tokenizer = open(&[("vocab.json", vocab), ("merges.txt", "#version: 0.2\na b</w>\n")]).unwrap();
        assert_eq!(tokenizer.encode(" AB \n a", 9).unwrap(), (vec![4, 3, 1, 5], false));
        assert_eq!(tokenizer.encode("ab a", 3).unwrap(), (vec![4, 3, 5], true));
        assert_eq!(tokenizer.encode("", 9).unwrap(), (vec![4, 5], false));
        assert!(tokenizer.encode("a", 1).is_err());
    }

    #[test]
    fn what_is_missing_is_named() {
        let message = |files: &[(&str, &str)]| format!("{:#}", open(files).err().unwrap());
        assert!(message(&[]).contains("tokenizer.json"));
        assert!(message(&[("tokenizer.json", "{")]).contains("tokenizer.json"));
        assert!(message(&[("vocab.json", "{}"), ("merges.txt", "")]).contains("<|startoftext|>"));
        assert!(message(&[("vocab.json", "["), ("merges.txt", "")]).contains("vocab.json"));
    }
}
