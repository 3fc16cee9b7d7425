//! JSON files of models, as Python, editors and servers leave them.

use super::error::{ModelError, Result, refuse};
use super::files;
use super::source::Source;
use crate::words;
use serde::de::DeserializeOwned;
use std::borrow::Cow;

/// JSON as editors and Python write it: without the byte order mark of the one and the NaN and Infinity of the other, which
/// become null.
fn plain_json(text: &[u8]) -> Cow<'_, [u8]> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    const NO_NUMBERS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    if !NO_NUMBERS.iter().any(|word| text.windows(word.len()).any(|found| found == *word)) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let (mut at, mut quoted) = (0, false);
    while let Some(&byte) = text.get(at) {
        let word = NO_NUMBERS.iter().find(|word| !quoted && text[at..].starts_with(word));
        match (byte, word) {
            (_, Some(word)) => {
                out.extend_from_slice(b"null");
                at += word.len();
                continue;
            }
            (b'\\', _) if quoted => {
                out.extend_from_slice(&text[at..(at + 2).min(text.len())]);
                at += 2;
                continue;
            }
            (b'"', _) => quoted = !quoted,
            _ => {}
        }
        out.push(byte);
        at += 1;
    }
    Cow::Owned(out)
}

/// What a file is instead of JSON, and what to do, where its beginning says so.
fn mistaken(text: &[u8]) -> Option<&'static str> {
    match text.trim_ascii_start() {
        [] => Some("the file is empty; download it again"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("the file is UTF-16, as some editors write; save it as UTF-8"),
        [b'<', ..] => Some("this is a web page and no JSON; download the file again"),
        [b'/', b'/' | b'*', ..] => Some("it begins with a comment, which JSON has none of; remove it"),
        start if start.starts_with(b"version https://git-lfs") => {
            Some("this is a Git LFS pointer; run `git lfs pull` in the folder")
        }
        _ => None,
    }
}

/// Reads a JSON file; errors name the file and the key.
pub(super) fn json<T: DeserializeOwned>(source: &Source, path: &str) -> Result<T> {
    let text = source.read(path, files::SMALL_FILE)?;
    if let Some(what) = mistaken(&text) {
        refuse!("{}: {what}", source.show(path));
    }
    let text = plain_json(&text);
    let mut reader = serde_json::Deserializer::from_slice(&text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let key = error.path().to_string();
        // the parser writes ? where it does not know
        let key = if [".", "?"].contains(&key.as_str()) { String::new() } else { format!("key {key:?}: ") };
        ModelError::new(format!("{}: {key}{}", source.show(path), words::without_types(&error.inner().to_string())))
    })?;
    match reader.end() {
        Ok(()) => Ok(value),
        Err(error) => refuse!("{}: {error}", source.show(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_is_called_what_it_is() {
        for (text, words) in [
            (&b""[..], "empty"),
            (b" \r\n", "empty"),
            (b"\xff\xfe{\0}\0", "UTF-8"),
            (b"\xfe\xff\0{\0}", "UTF-8"),
            (b"<!DOCTYPE html>\n<html>", "web page"),
            (b"// a model\n{}", "comment"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ] {
            assert!(mistaken(text).is_some_and(|said| said.contains(words)), "{}", String::from_utf8_lossy(text));
        }
        assert!([&b"{}"[..], b"\xef\xbb\xbf{}", b"[1]"].iter().all(|text| mistaken(text).is_none()));
    }
}
