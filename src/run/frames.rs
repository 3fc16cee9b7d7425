//! Decoded frames on disk: raw bytes one after the other, with a running hash, so that decoding can be resumed and the encoder,
//! which cannot, gets the same frames again.

use super::directory::RunDir;
use anyhow::Result;
use blake3::Hasher;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};

/// Takes frames.
#[derive(Debug)]
pub struct RawFrameWriter {
    file: BufWriter<File>,
    hasher: Hasher,
}

/// Gives frames back.
#[derive(Debug)]
pub struct RawFrameReader {
    file: BufReader<File>,
}

impl RawFrameWriter {
    /// Begins the frames of a run.
    pub fn begin(dir: &mut RunDir) -> Result<Self> {
        Ok(Self { file: BufWriter::new(dir.frames_file(0)?), hasher: Hasher::new() })
    }

    /// Goes on behind the first `bytes` bytes, which must have this hash; also gives those.
    pub fn go_on(dir: &mut RunDir, bytes: u64, blake3: &str) -> Result<(Self, RawFrameReader)> {
        let (file, hasher) = dir.frames(bytes, blake3)?;
        let out = Self { file: BufWriter::new(dir.frames_file(bytes)?), hasher };
        Ok((out, RawFrameReader { file: BufReader::new(file) }))
    }

    /// Adds a frame.
    pub fn push(&mut self, frame: &[u8]) -> Result<()> {
        self.file.write_all(frame)?;
        self.hasher.update(frame);
        Ok(())
    }

    /// What was added is on the disk afterwards; returns the bytes so far and their hash.
    pub fn mark(&mut self) -> Result<(u64, String)> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        Ok((self.hasher.count(), self.hasher.finalize().to_hex().to_string()))
    }
}

impl RawFrameReader {
    /// The next frame of so many bytes.
    pub fn next(&mut self, bytes: usize) -> Result<Vec<u8>> {
        let mut frame = vec![0; bytes];
        self.file.read_exact(&mut frame)?;
        Ok(frame)
    }
}
