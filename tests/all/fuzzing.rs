//! A smoke run of the fuzz targets (`fuzz/targets.rs`): their corpora, and seeded mutations of them. The same bytes every time; no
//! instrumentation, so it finds little that is new, but it holds what long runs under libFuzzer have found.

#[path = "../../fuzz/targets.rs"]
#[allow(dead_code)]
mod targets;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::fs;
use std::path::Path;

/// Mutations of each target, shared out over its corpus.
const MUTATIONS: usize = 3000;
const LONGEST: usize = 64 << 10;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Values that readers trip over.
const TELLING: [&[u8]; 14] = [
    b"-1",
    b"0",
    b"18446744073709551616",
    b"1e999",
    b"nan",
    b"\"\"",
    b"[",
    b"{",
    b"null",
    b"\xff",
    b"\0",
    b"\n",
    b"\xef\xbb\xbf",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
];

fn mutated(seeds: &[Vec<u8>], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut below = |n: usize| random.next_u64() as usize % n.max(1);
    let mut data = seeds[below(seeds.len())].clone();
    for _ in 0..=below(4) {
        let at = below(data.len() + 1);
        let to = (at + below(32)).min(data.len());
        match below(6) {
            0 => data.truncate(at),
            1 if at < data.len() => data[at] ^= 1 << below(8),
            2 => drop(data.splice(at..to, TELLING[below(TELLING.len())].iter().copied())),
            3 => drop(data.drain(at..to)),
            4 => {
                let other = &seeds[below(seeds.len())];
                let from = below(other.len() + 1);
                let part = other[from..(from + below(256)).min(other.len())].to_vec();
                drop(data.splice(at..at, part));
            }
            _ => {
                let part = data[at..to].repeat(below(8));
                drop(data.splice(at..at, part));
            }
        }
        data.truncate(LONGEST);
    }
    data
}

#[test]
fn readers_of_foreign_files_survive_their_corpora_and_mutations() {
    for (name, target) in targets::TARGETS {
        let seeds = corpus(name);
        seeds.iter().for_each(|data| target(data));
        let mut random = ChaCha8Rng::seed_from_u64(7);
        for _ in 0..MUTATIONS {
            target(&mutated(&seeds, &mut random));
        }
    }
}
