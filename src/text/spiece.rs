//! `spiece.model`: the protobuf file of a SentencePiece model, as far as a T5 tokenizer needs it.
//!
//! Follows the wire format of protocol buffers and `sentencepiece_model.proto`. Read are the pieces, the kind of model and
//! the precompiled character map; the flags of the normalizer (`add_dummy_prefix`, `remove_extra_whitespaces`) are not,
//! because transformers' `T5Tokenizer` does not heed them either. The file is not trusted: every length is checked before
//! it is used, and the character map is walked once, because the crate that applies it indexes without asking.

use anyhow::{Result, bail, ensure};
use std::collections::HashSet;

/// More pieces than any known model (mT5 has 250,112).
const MOST_PIECES: usize = 1 << 20;
/// Pieces become paths of a tree, a node for each byte; its depth is the longest piece.
const LONGEST_PIECE: usize = 512;
const MOST_TEXT: usize = 4 << 20;

/// `ModelProto.SentencePiece.Type`. Normal, unknown, unused and byte pieces are the same to T5's tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Control,
    UserDefined,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: Kind,
}

/// What a `spiece.model` says.
#[derive(Debug, Clone, PartialEq)]
pub struct SentencePiece {
    /// In order of their ids.
    pub pieces: Vec<Piece>,
    /// Empty when the model does not normalize.
    pub charsmap: Vec<u8>,
}

impl SentencePiece {
    /// Reads the bytes of a file. Errors say what is damaged; a model that is not a unigram one is refused.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut pieces = Vec::new();
        let mut charsmap: &[u8] = &[];
        let mut model_type = 1; // the default of the schema
        for field in Fields::new(bytes) {
            match field? {
                (1, Value::Bytes(bytes)) => {
                    ensure!(pieces.len() < MOST_PIECES, "more than {MOST_PIECES} pieces");
                    pieces.push(piece(bytes, pieces.len())?);
                }
                (2, Value::Bytes(trainer)) => {
                    for field in Fields::new(trainer) {
                        if let (3, Value::Varint(kind)) = field? {
                            model_type = kind;
                        }
                    }
                }
                (3, Value::Bytes(normalizer)) => {
                    for field in Fields::new(normalizer) {
                        if let (2, Value::Bytes(map)) = field? {
                            charsmap = map;
                        }
                    }
                }
                _ => {}
            }
        }
        let kind = ["unigram", "bpe", "word", "char"].get((model_type as usize).wrapping_sub(1)).unwrap_or(&"unknown");
        ensure!(model_type == 1, "a {kind} model, where T5 has a unigram model");
        ensure!(pieces.len() > 2, "{} pieces, where T5 has at least <pad>, </s> and <unk>", pieces.len());
        check_pieces(pieces.iter().map(|piece| (piece.text.as_str(), f64::from(piece.score))))?;
        let mut seen = HashSet::with_capacity(pieces.len());
        if let Some(id) = pieces.iter().position(|piece| !seen.insert(piece.text.as_str())) {
            bail!("piece {id}, {:?}, is there twice", pieces[id].text)
        }
        check_charsmap(charsmap)?;
        Ok(Self { pieces, charsmap: charsmap.to_vec() })
    }
}

fn piece(bytes: &[u8], id: usize) -> Result<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Plain };
    for field in Fields::new(bytes) {
        match field? {
            (1, Value::Bytes(text)) => match std::str::from_utf8(text) {
                Ok(text) => piece.text = text.to_string(),
                Err(_) => bail!("piece {id} is not UTF-8"),
            },
            (2, Value::Fixed32(score)) => piece.score = f32::from_le_bytes(score),
            (3, Value::Varint(3)) => piece.kind = Kind::Control,
            (3, Value::Varint(4)) => piece.kind = Kind::UserDefined,
            (3, Value::Varint(_)) => piece.kind = Kind::Plain,
            _ => {}
        }
    }
    Ok(piece)
}

/// Refuses pieces that the tokenizer could not bear.
pub fn check_pieces<'a>(pieces: impl Iterator<Item = (&'a str, f64)>) -> Result<()> {
    let mut total = 0;
    for (id, (text, score)) in pieces.enumerate() {
        ensure!(!text.is_empty(), "piece {id} is empty");
        ensure!(text.len() <= LONGEST_PIECE, "piece {id} has {} bytes, more than {LONGEST_PIECE}", text.len());
        ensure!(score.is_finite(), "piece {id}, {text:?}, has the score {score}");
        total += text.len();
        ensure!(total <= MOST_TEXT, "the pieces have more than {MOST_TEXT} bytes together");
    }
    Ok(())
}

/// Refuses a character map that would lead its reader outside of it.
///
/// The map is the length in bytes of a double-array trie, its units (u32, little-endian), then the replacements, each
/// ended by a zero byte; a leaf holds the offset of its replacement. See darts-clone for the packing of a unit.
pub fn check_charsmap(map: &[u8]) -> Result<()> {
    if map.is_empty() {
        return Ok(());
    }
    let damaged = "the character map (precompiled_charsmap) is damaged";
    let Some((length, rest)) = map.split_first_chunk::<4>() else { bail!("{damaged}: {} bytes", map.len()) };
    let length = u32::from_le_bytes(*length) as usize;
    ensure!(
        length <= rest.len() && length >= 4 && length.is_multiple_of(4),
        "{damaged}: a trie of {length} of {} bytes",
        map.len()
    );
    let (trie, replacements) = rest.split_at(length);
    let units: Vec<u32> =
        trie.chunks_exact(4).map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]])).collect();
    let Ok(replacements) = std::str::from_utf8(replacements) else { bail!("{damaged}: a replacement is not UTF-8") };

    let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
    let mut seen = vec![false; units.len()];
    let mut open = vec![offset(units[0])];
    while let Some(base) = open.pop() {
        // children lie at base ^ byte, so a whole row of 256 must be there
        ensure!(base | 0xFF < units.len(), "{damaged}: unit {} of {}", base | 0xFF, units.len());
        if std::mem::replace(&mut seen[base], true) {
            continue;
        }
        for byte in 1..=0xFF {
            let unit = units[base ^ byte];
            if unit & (1 << 31 | 0xFF) != byte as u32 {
                continue;
            }
            let below = (base ^ byte) ^ offset(unit);
            if unit >> 8 & 1 == 1 {
                let Some(leaf) = units.get(below) else { bail!("{damaged}: unit {below} of {}", units.len()) };
                let start = (leaf & !(1 << 31)) as usize;
                ensure!(
                    replacements.is_char_boundary(start),
                    "{damaged}: replacement at {start} of {}",
                    replacements.len()
                );
            }
            open.push(below);
        }
    }
    Ok(())
}

enum Value<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
    Fixed64,
}

/// The fields of a protobuf message: number and value.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let Some((&byte, rest)) = self.rest.split_first() else { bail!("cut off within a number") };
            self.rest = rest;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        bail!("a number of more than 64 bits")
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        match usize::try_from(count).ok().and_then(|count| self.rest.split_at_checked(count)) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => bail!("cut off: a field of {count} bytes where {} are left", self.rest.len()),
        }
    }

    fn field(&mut self) -> Result<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed64)?,
            2 => {
                let count = self.varint()?;
                Value::Bytes(self.take(count)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Value::Fixed32([bytes[0], bytes[1], bytes[2], bytes[3]])
            }
            kind => bail!("not a SentencePiece model (a field of wire type {kind})"),
        };
        ensure!(tag >> 3 > 0, "not a SentencePiece model (a field numbered 0)");
        Ok((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &[u8] = include_bytes!("../../tests/golden/tokenizer/spiece.model");

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        assert!(content.len() < 0x4000);
        let length = [content.len() as u8 | 0x80, (content.len() >> 7) as u8];
        [&[number << 3 | 2], &length[..], content].concat()
    }

    fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
        let score = [&[0x15], &score.to_le_bytes()[..]].concat();
        field(1, &[field(1, text.as_bytes()), score, vec![0x18, kind]].concat())
    }

    fn small() -> Vec<u8> {
        [piece("<pad>", 0.0, 3), piece("</s>", 0.0, 3), piece("<unk>", 0.0, 2), piece("▁a", -1.5, 1)].concat()
    }

    fn error(bytes: &[u8]) -> String {
        SentencePiece::parse(bytes).unwrap_err().to_string()
    }

    #[test]
    fn pieces_of_all_kinds() {
        let bytes = [small(), piece("<s>", 0.0, 4), piece("<0x0A>", 0.0, 6)].concat();
        let model = SentencePiece::parse(&bytes).unwrap();
        let kinds: Vec<Kind> = model.pieces.iter().map(|piece| piece.kind).collect();
        use Kind::*;
        assert_eq!(kinds, [Control, Control, Plain, Plain, UserDefined, Plain]);
        assert_eq!(model.pieces[3], Piece { text: "▁a".to_string(), score: -1.5, kind: Plain });
        assert!(model.charsmap.is_empty());
    }

    #[test]
    fn the_golden_file() {
        let model = SentencePiece::parse(GOLDEN).unwrap();
        assert_eq!(model.pieces.len(), 480);
        assert_eq!(model.charsmap.len(), 3897);
        assert_eq!((model.pieces[1].text.as_str(), model.pieces[1].kind), ("</s>", Kind::Control));
    }

    #[test]
    fn messages_say_what_is_wrong() {
        assert!(error(b"").contains("0 pieces"));
        assert!(error(b"not a model").contains("not a SentencePiece model"));
        assert!(error(&[small(), piece("a", f32::NAN, 1)].concat()).contains("piece 4, \"a\", has the score NaN"));
        assert!(error(&[small(), piece("", 0.0, 1)].concat()).contains("piece 4 is empty"));
        assert!(error(&[small(), piece("▁a", 0.0, 1)].concat()).contains("piece 4, \"▁a\", is there twice"));
        assert!(error(&[small(), piece(&"a".repeat(513), 0.0, 1)].concat()).contains("513 bytes"));
        assert!(error(&[small(), field(1, &field(1, &[0xFF]))].concat()).contains("piece 4 is not UTF-8"));
        assert!(error(&[small(), field(2, &[0x18, 2])].concat()).contains("a bpe model"));
        assert!(error(&[small(), field(3, &field(2, &[9, 0, 0, 0]))].concat()).contains("character map"));
        // a field that claims to be 2^60 bytes long
        assert!(error(&[0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]).contains("cut off"));
        assert!(error(&[0xFF; 11]).contains("more than 64 bits"));
    }

    /// Every truncation and many changed bytes: refused, or harmless to the crate that applies the map.
    #[test]
    fn damaged_files_do_not_panic() {
        let harmless = |bytes: &[u8]| {
            if let Ok(model) = SentencePiece::parse(bytes)
                && let Ok(map) = tokenizers::normalizers::Precompiled::from(&model.charsmap)
            {
                for letter in ('\0'..='\u{FFFF}').step_by(7) {
                    map.transform(letter.encode_utf8(&mut [0; 4]));
                }
                map.normalize_string("ＡｂCafe\u{301} ﬁ\t\u{200B}");
                return true;
            }
            false
        };
        assert!(harmless(GOLDEN));
        for end in (0..GOLDEN.len()).step_by(31) {
            harmless(&GOLDEN[..end]);
        }
        let map = GOLDEN.windows(4).position(|bytes| bytes == 3072_u32.to_le_bytes()).unwrap();
        let mut state = 1_u64;
        let (mut refused, mut kept) = (0, 0);
        for _ in 0..600 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut bytes = GOLDEN.to_vec();
            bytes[map + (state >> 33) as usize % 3100] ^= (state >> 20) as u8;
            if harmless(&bytes) { kept += 1 } else { refused += 1 }
        }
        assert!(refused > 50 && kept > 50, "{refused} refused, {kept} kept");
    }
}
