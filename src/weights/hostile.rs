//! Weight files made wrong on purpose: each says what is wrong, and none panics or takes memory that it names.

use super::header::{Header, RANK_LIMIT};
use super::tests::{message, model_index, safetensors, small};
use super::*;

/// What opening a folder with this weight file says.
#[track_caller]
fn refused(file: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model_index.json"), model_index()).unwrap();
    std::fs::create_dir(folder.path().join("vae")).unwrap();
    let path = folder.path().join("vae/diffusion_pytorch_model.safetensors");
    std::fs::write(&path, file).unwrap();
    let text = message(ModelFolder::folder(folder.path()).unwrap().part("vae").map(drop));
    assert!(text.starts_with(path.to_str().unwrap()), "{text}");
    text
}

/// One tensor `a` with these properties and 16 bytes of data.
fn one(properties: &str) -> Vec<u8> {
    safetensors(&format!(r#"{{"a":{{{properties}}}}}"#), &[0; 16])
}

fn announcing(length: u64, rest: &[u8]) -> Vec<u8> {
    [&length.to_le_bytes(), rest].concat()
}

#[test]
fn each_corruption_says_what_is_wrong() {
    let good = small();
    let two = |first: &str, second: &str| {
        let tensor = |name, offsets| format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}"#);
        safetensors(&format!("{{{},{}}}", tensor("a", first), tensor("b", second)), &[0; 16])
    };
    let deep = safetensors(&"{\"a\":".repeat(5000), &[]);
    let rank = format!(r#""dtype":"F32","shape":[{}4],"data_offsets":[0,16]"#, "1,".repeat(RANK_LIMIT));
    let table: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "empty"),
        (vec![1, 2, 3], "shorter than a safetensors header"),
        (
            good[..good.len() - 1].to_vec(),
            "truncated: tensor \"b.weight\" ends at byte 22 of the data, the file has 21",
        ),
        (good[..good.len() - 22].to_vec(), "truncated"),
        (good[..40].to_vec(), "announces a header of"),
        ([&good[..], &[0]].concat(), "its tensors take 22"),
        (announcing(u64::MAX, b"{}"), "the limit is 100000000"),
        (announcing(100_000_001, b"{}"), "the limit is 100000000"),
        (announcing(3, b"{}"), "announces a header of 3 bytes, 2 follow"),
        (announcing(0, b""), "malformed"),
        (safetensors("{", &[]), "malformed"),
        (safetensors("[]", &[]), "an object of tensors"),
        (safetensors("{\"a\":1}", &[]), "tensor \"a\""),
        (safetensors("{\"\u{7f}\n\":1}", &[]), "malformed"),
        (announcing(4, b"{\"\xff\""), "malformed"),
        (deep, "malformed"),
        (one(r#""dtype":"F32","shape":[4]"#), "tensor \"a\": missing field `data_offsets`"),
        (one(r#""dtype":"F31","shape":[4],"data_offsets":[0,16]"#), "tensor \"a\": unknown dtype \"F31\""),
        (one(r#""dtype":7,"shape":[4],"data_offsets":[0,16]"#), "tensor \"a\""),
        (one(r#""dtype":"F32","shape":[-4],"data_offsets":[0,16]"#), "tensor \"a\""),
        (one(r#""dtype":"F32","shape":[4.5],"data_offsets":[0,16]"#), "tensor \"a\""),
        (one(r#""dtype":"F32","shape":4,"data_offsets":[0,16]"#), "a list of dimensions"),
        (one(r#""dtype":"F32","shape":[4],"shape":[4],"data_offsets":[0,16]"#), "duplicate field `shape`"),
        (one(r#""dtype":"F32","shape":[4],"data_offsets":[0,16,32]"#), "tensor \"a\""),
        (one(r#""dtype":"F32","shape":[4],"data_offsets":[0]"#), "tensor \"a\""),
        (one(&rank), "more than 8 dimensions"),
        (one(r#""dtype":"F32","shape":[5],"data_offsets":[0,16]"#), "has shape [5] of F32, which does not take its 16"),
        (one(r#""dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]"#), "does not take its 16"),
        (one(r#""dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,16]"#), "does not take its 16"),
        (one(r#""dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,16]"#), "tensor \"a\""),
        (one(r#""dtype":"F4","shape":[33],"data_offsets":[0,16]"#), "does not take its 16"),
        (one(r#""dtype":"F32","shape":[4],"data_offsets":[0,17]"#), "truncated"),
        (one(r#""dtype":"F32","shape":[4],"data_offsets":[18446744073709551600,18446744073709551615]"#), "truncated"),
        (one(r#""dtype":"F32","shape":[4],"data_offsets":[16,0]"#), "ends before it begins"),
        (one(r#""dtype":"F32","shape":[2],"data_offsets":[8,16]"#), "leaves a hole before it"),
        (one(r#""dtype":"F32","shape":[2],"data_offsets":[0,8]"#), "its tensors take 8"),
        (two("[0,8]", "[0,8]"), "tensor \"b\" overlaps"),
        (two("[0,8]", "[4,12]"), "tensor \"b\" overlaps"),
        (two("[0,4]", "[8,16]"), "does not take its 4"),
        (
            safetensors(
                r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#,
                &[0; 2],
            ),
            "\"a\" stands twice",
        ),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".to_vec(), "git lfs pull"),
        (b"<!DOCTYPE html><html>Not found</html>".to_vec(), "web page"),
        (b"PK\x03\x04\x00\x00\x08\x08archive/data.pkl".to_vec(), "never opened"),
        (b"\x80\x02ccollections\nOrderedDict\n".to_vec(), "never opened"),
    ];
    for (file, says) in table {
        let text = refused(&file);
        assert!(text.contains(says), "{says:?} is not in: {text}");
    }
}

#[test]
fn unusual_but_valid_files_load() {
    for file in [
        safetensors("{}", &[]),
        safetensors("{}      ", &[]),
        safetensors(r#"{"__metadata__":{"a":"b"}}"#, &[]),
        one(r#""dtype":"F32","shape":[2,2],"data_offsets":[0,16],"extra":[{}]"#),
        one(r#""dtype":"BOOL","shape":[16],"data_offsets":[0,16]"#),
        one(r#""dtype":"F4","shape":[32],"data_offsets":[0,16]"#),
        safetensors(
            r#"{"a":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]},"b":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#,
            &[0; 4],
        ),
        // a header length whose bytes look like the start of a pickle
        safetensors(&format!("{{}}{}", " ".repeat(0x280 - 2)), &[]),
    ] {
        assert!(Header::parse(&file).is_ok(), "{:?}", String::from_utf8_lossy(&file));
    }
}

/// splitmix64: the fuzz below is the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Changes a text in a few places, mostly by pieces that mean something in JSON.
fn mutate(random: &mut Random, text: &mut Vec<u8>) {
    const PIECES: [&[u8]; 24] = [
        b"0",
        b"1",
        b"16",
        b"22",
        b"-1",
        b"18446744073709551615",
        b"99999999999999999999",
        b"1e400",
        b"null",
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b":",
        b"\"",
        b"\\u0000",
        b"\"a\"",
        b"F32",
        b"BF16",
        b"\"dtype\"",
        b"\"shape\"",
        b"\xff",
        b" ",
    ];
    for _ in 0..1 + random.below(4) {
        let at = random.below(text.len() + 1);
        let end = (at + random.below(6)).min(text.len());
        match random.below(4) {
            0 if at < text.len() => text[at] ^= 1 << random.below(8),
            1 => drop(text.drain(at..end)),
            2 => drop(text.splice(at..end, PIECES[random.below(PIECES.len())].iter().copied())),
            _ => {
                let copied = text[at..end].to_vec();
                let to = random.below(text.len() + 1);
                drop(text.splice(to..to, copied));
            }
        }
    }
}

#[test]
fn no_mutation_of_a_header_panics_or_escapes_the_file() {
    let good = small();
    let (header, data) = good[8..].split_at(good.len() - 8 - 22);
    let mut random = Random(1);
    let (mut accepted, mut rejected) = (0, 0);
    for case in 0..20_000 {
        let file = if case % 4 == 0 {
            let mut file = good.clone();
            mutate(&mut random, &mut file);
            file
        } else {
            let mut header = header.to_vec();
            mutate(&mut random, &mut header);
            [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
        };
        match Header::parse(&file) {
            Ok(parsed) => {
                accepted += 1;
                for entry in &parsed.entries {
                    assert!(entry.range.end <= file.len() && entry.range.start <= entry.range.end);
                    assert_eq!(entry.elements() * entry.dtype.bitsize() as u64, 8 * entry.range.len() as u64);
                }
            }
            Err(error) => {
                rejected += 1;
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
    // both happen, so the cases are neither all broken nor all harmless
    assert!(accepted > 500 && rejected > 5000, "{accepted} accepted, {rejected} rejected");
}

#[test]
fn no_mutation_of_an_index_panics_or_names_a_file_outside() {
    let good = br#"{"metadata":{"total_size":10},"weight_map":{"a":"m-1.safetensors","b.c":"m-2.safetensors"}}"#;
    let mut random = Random(2);
    let mut accepted = 0;
    for _ in 0..10_000 {
        let mut text = good.to_vec();
        mutate(&mut random, &mut text);
        if let Ok(index) = files::Index::parse(&text) {
            accepted += 1;
            for shard in index.shards() {
                assert!(!shard.contains(['/', '\\', '\0']) && shard != ".." && shard.ends_with(".safetensors"));
            }
        }
    }
    assert!(accepted > 500, "{accepted} accepted");
}
