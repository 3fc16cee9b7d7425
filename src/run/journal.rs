//! The journal of a run: what has been saved so far, one record a line, append only.
//!
//! Each line is the first 16 hexadecimal digits of the blake3 of what follows, a space, and the record as JSON. A process
//! that is killed leaves at most a partial last line, and a bad disk may damage anything; only the lines before the first
//! damaged one are used.

use serde::{Deserialize, Serialize};

/// The form of run directories that this version writes and reads.
pub const SCHEMA: &str = "vidgen.run.v2";

/// Hexadecimal digits of a line's checksum.
const DIGITS: usize = 16;

/// A file of the run directory, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    /// Without directories.
    pub name: String,
    pub bytes: u64,
    /// In hexadecimal.
    pub blake3: String,
}

/// Something that was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kept", rename_all = "kebab-case")]
pub enum Record {
    /// The first line.
    Begun { schema: String, version: String },
    /// Timeline `part` after `done` steps, with the state of the sampler.
    Step { part: usize, done: usize, file: StoredFile },
    /// Timeline `part`, denoised.
    Latents { part: usize, file: StoredFile },
    /// Decoded frames: those of all parts before `part`, and those of the first `chunks` of its chunks. They are the first
    /// `bytes` bytes of the file of frames, which have this hash; `caches` are the decoder's caches, none behind the
    /// last chunk of a part.
    Frames { part: usize, chunks: usize, bytes: u64, blake3: String, caches: Option<StoredFile> },
    /// The video is whole.
    Finished { output: String },
}

/// What a journal says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Journal {
    pub records: Vec<Record>,
    /// Bytes that the trusted lines take.
    pub trusted: usize,
    /// The line, from 1, from which nothing is trusted; none in a whole journal.
    pub damaged: Option<usize>,
}

/// A text (without line breaks) as a line with its checksum.
pub fn line(text: &str) -> String {
    format!("{} {text}\n", checksum(text))
}

/// The text of a line, if it is as it was written.
pub fn text(line: &str) -> Option<&str> {
    let line = line.strip_suffix('\n')?;
    let (sum, text) = line.split_at_checked(DIGITS)?;
    let text = text.strip_prefix(' ')?;
    (checksum(text) == sum).then_some(text)
}

fn checksum(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..DIGITS].to_owned()
}

impl Journal {
    /// Reads as far as lines can be trusted.
    pub fn read(bytes: &[u8]) -> Self {
        let mut journal = Self::default();
        for (index, bytes) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
            let text = std::str::from_utf8(bytes).ok().and_then(text);
            let record = text.and_then(|text| serde_json::from_str(text).ok());
            let Some(record) = record else {
                journal.damaged = Some(index + 1);
                break;
            };
            journal.records.push(record);
            journal.trusted += bytes.len();
        }
        journal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        let piece = |name: &str| StoredFile { name: name.into(), bytes: 12, blake3: "ab".into() };
        vec![
            Record::Begun { schema: SCHEMA.into(), version: "0.1.0".into() },
            Record::Step { part: 0, done: 5, file: piece("step-0-5") },
            Record::Latents { part: 0, file: piece("latents-0") },
            Record::Frames { part: 0, chunks: 1, bytes: 99, blake3: "cd".into(), caches: Some(piece("caches-0-1")) },
            Record::Finished { output: "a \"ball\".mp4".into() },
        ]
    }

    fn written() -> Vec<u8> {
        records().iter().flat_map(|record| line(&serde_json::to_string(record).unwrap()).into_bytes()).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = written();
        assert_eq!(Journal::read(&bytes), Journal { records: records(), trusted: bytes.len(), damaged: None });
        assert_eq!(Journal::read(b""), Journal::default());
    }

    #[test]
    fn a_journal_cut_anywhere_is_what_was_whole_before_the_cut() {
        let (bytes, records) = (written(), records());
        for length in 0..bytes.len() {
            let journal = Journal::read(&bytes[..length]);
            let whole = bytes[..length].iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(journal.records, records[..whole], "{length}");
            let torn = length > 0 && bytes[length - 1] != b'\n';
            assert_eq!(journal.damaged, torn.then_some(whole + 1), "{length}");
        }
    }

    #[test]
    fn a_flipped_byte_ends_the_trust_at_its_line() {
        let (bytes, records) = (written(), records());
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let journal = Journal::read(&flipped);
                let line = bytes[..at].iter().filter(|&&byte| byte == b'\n').count();
                assert_eq!(journal.records, records[..line], "byte {at}, bit {bit}");
                assert_eq!(journal.damaged, Some(line + 1), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn bytes_of_any_kind_are_no_panic() {
        for bytes in [&b"\n"[..], b"\n\n", &[255; 40], b"0123456789abcdef\n", "0123456789abcde\u{e9} x\n".as_bytes()] {
            assert!(Journal::read(bytes).records.is_empty());
        }
    }
}
