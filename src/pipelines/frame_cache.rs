//! Decoded frames of a run, kept where decoding takes long.
//!
//! A decode goes on from the caches of its convolutions; the encoder does not, so it is given all frames again, from disk.
//! Where the whole decode is short beside the time between checkpoints nothing is written: a run that goes on has its
//! latents.

use super::checkpoint::{Checkpointer, FramesPoint, STAY};
use crate::job::values::{Every, OnInterrupt};
use crate::models::autoencoder::Decoding;
use crate::run::frames::{RawFrameReader, RawFrameWriter};
use crate::run::journal::Record;
use crate::run::{Event, Observer, Phase, interrupt};
use crate::video::Frame;
use crate::weights::{bytes_of, tensors_of};
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::time::Instant;

/// A decode that is expected to take less than this part of the time between checkpoints is not kept.
const SHORT: f64 = 1.0 / 3.0;

/// What stands between the decoder and what takes its frames.
pub struct FrameCache<'k, 'a> {
    checkpoints: Option<&'k mut Checkpointer<'a>>,
    mode: Mode,
    /// Frames from an earlier run.
    found: Option<(RawFrameReader, FramesPoint)>,
    /// What the decoder remembered there.
    caches: Option<Vec<Vec<Tensor>>>,
    begun: Instant,
    told: bool,
}

enum Mode {
    /// Until the first chunk tells how fast it goes: its frames.
    Undecided(Vec<Frame>),
    On(Box<RawFrameWriter>),
    Off,
}

/// Where a part's decode begins.
#[derive(Debug, Default, Clone, Copy)]
pub struct Begun {
    /// Frames that come from the cache.
    pub frames: usize,
    pub chunks: usize,
}

impl<'k, 'a> FrameCache<'k, 'a> {
    /// Keeps nothing and heeds no interruption.
    pub fn off() -> Self {
        Self { checkpoints: None, mode: Mode::Off, found: None, caches: None, begun: Instant::now(), told: false }
    }

    /// Keeps what is worth checkpoints, and begins with what was kept.
    pub fn new(checkpoints: &'k mut Checkpointer<'a>, observer: &mut dyn Observer) -> Result<Self> {
        let mut cache = Self { mode: Mode::Undecided(Vec::new()), ..Self::off() };
        while let Some(point) = checkpoints.frames.last().cloned() {
            let mut read = || -> Result<_> {
                let dir = checkpoints.made().context("no directory")?;
                let caches = point.caches.as_ref().map(|piece| dir.get(piece)).transpose()?;
                let caches = caches.map(|bytes| unpack(&bytes)).transpose()?;
                let (out, frames) = RawFrameWriter::go_on(dir, point.bytes, &point.blake3)?;
                Ok((out, frames, caches))
            };
            match read() {
                Ok((out, frames, caches)) => {
                    (cache.mode, cache.found, cache.caches) = (Mode::On(Box::new(out)), Some((frames, point)), caches);
                    break;
                }
                Err(error) => {
                    observer.event(&Event::Warning(format!("{error:#}: going back to what was kept before")))?;
                    checkpoints.frames.pop();
                }
            }
        }
        checkpoints.is_safe();
        cache.checkpoints = Some(checkpoints);
        Ok(cache)
    }

    /// Where part `part` begins, which has `frames` frames of `bytes` bytes in `chunks` chunks. A part that was begun
    /// continues in `session`.
    pub fn begin(
        &mut self,
        part: usize,
        (frames, bytes): (usize, usize),
        chunks: usize,
        session: &mut dyn Decoding,
    ) -> Result<Begun> {
        let Some((_, point)) = &mut self.found else { return Ok(Begun::default()) };
        if part < point.part {
            point.bytes = point.bytes.saturating_sub((frames * bytes) as u64);
            return Ok(Begun { frames, chunks });
        }
        if part > point.part {
            return Ok(Begun::default());
        }
        let begun = Begun { frames: (point.bytes / bytes as u64) as usize, chunks: point.chunks.min(chunks) };
        anyhow::ensure!(begun.frames <= frames, "the run keeps {} frames of a part of {frames}", begun.frames);
        if begun.chunks < chunks {
            session.restore(self.caches.take().context("the run keeps no state of the decoder")?)?;
        }
        Ok(begun)
    }

    /// The next of the frames that were kept.
    pub fn kept(&mut self, width: usize, height: usize) -> Result<Frame> {
        let (frames, _) = self.found.as_mut().context("no frames are kept")?;
        Ok(Frame { width, height, data: frames.next(width * height * 3)? })
    }

    /// A frame comes from the decoder.
    pub fn push(&mut self, frame: &Frame, observer: &mut dyn Observer) -> Result<()> {
        let pushed = match &mut self.mode {
            Mode::Off => Ok(()),
            Mode::Undecided(frames) => {
                frames.push(frame.clone());
                Ok(())
            }
            Mode::On(out) => out.push(&frame.data),
        };
        match pushed {
            Ok(()) => Ok(()),
            Err(error) => self.give_up(&error, observer),
        }
    }

    fn give_up(&mut self, error: &anyhow::Error, observer: &mut dyn Observer) -> Result<()> {
        self.mode = Mode::Off;
        match &mut self.checkpoints {
            Some(checkpoints) => checkpoints.trouble(error, observer),
            None => Ok(()),
        }
    }

    /// Chunk `done` of `of` of a part is done. Fails when the user asked for the end.
    pub fn chunk(
        &mut self,
        part: usize,
        (done, of): (usize, usize),
        session: &dyn Decoding,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let Some(checkpoints) = &mut self.checkpoints else { return Ok(()) };
        if let Mode::Undecided(frames) = &mut self.mode {
            let frames = std::mem::take(frames);
            let (job, stage) = (checkpoints.job(), checkpoints.job().last());
            let chunks = |segment: &crate::job::Segment| stage.decode.chunks(segment.plan.keep - segment.padding).len();
            let left = of - done + stage.segments.iter().skip(part + 1).map(chunks).sum::<usize>();
            let expected = self.begun.elapsed().as_secs_f64() * left as f64;
            let worth = match job.keep.every {
                Every::Steps(_) => left > 0,
                Every::Time(time) => expected > time.0 * SHORT,
            };
            self.mode = Mode::Off;
            if let Some(dir) = checkpoints.made().filter(|_| worth) {
                let mut begin = || -> Result<RawFrameWriter> {
                    let mut out = RawFrameWriter::begin(dir)?;
                    frames.iter().try_for_each(|frame| out.push(&frame.data))?;
                    Ok(out)
                };
                match begin() {
                    Ok(out) => self.mode = Mode::On(Box::new(out)),
                    Err(error) => checkpoints.trouble(&error, observer)?,
                }
            }
        }
        let asked = interrupt::asked();
        let due = checkpoints.due(done);
        if let (Mode::On(out), true) = (&mut self.mode, due || asked) {
            match save(checkpoints, out, part, done, done < of, session) {
                Ok(path) => observer.event(&Event::Checkpoint { phase: Phase::Decode, index: done, of, path })?,
                Err(error) => self.give_up(&error, observer)?,
            }
        }
        let Some(checkpoints) = &mut self.checkpoints else { return Ok(()) };
        if !asked {
            return Ok(());
        }
        if checkpoints.job().keep.on_interrupt == OnInterrupt::Decode {
            if !std::mem::replace(&mut self.told, true) {
                observer.event(&Event::Warning("only decoding is left: finishing the video".into()))?;
            }
            return Ok(());
        }
        Err(checkpoints.interrupted().into())
    }
}

fn save(
    checkpoints: &mut Checkpointer,
    out: &mut RawFrameWriter,
    part: usize,
    chunks: usize,
    more: bool,
    session: &dyn Decoding,
) -> Result<std::path::PathBuf> {
    let (bytes, blake3) = out.mark()?;
    let dir = checkpoints.directory()?;
    let caches = if more {
        Some(dir.put(&format!("caches-{part}-{chunks}.safetensors"), &pack(session.state())?, true)?)
    } else {
        None
    };
    let record = Record::Frames { part, chunks, bytes, blake3: blake3.clone(), caches: caches.clone() };
    dir.note(&record, true)?;
    let path = dir.path().to_owned();
    checkpoints.frames.push(FramesPoint { part, chunks, bytes, blake3, caches });
    if checkpoints.frames.len() > STAY
        && let Some(old) = checkpoints.frames.remove(0).caches
    {
        checkpoints.directory()?.drop_piece(&old);
    }
    checkpoints.is_safe();
    Ok(path)
}

/// A decoder's state as a file: tensors `TILE.LAYER`.
fn pack(state: Vec<Vec<Tensor>>) -> Result<Vec<u8>> {
    let mut tensors = Vec::new();
    for (tile, contexts) in state.iter().enumerate() {
        for (layer, context) in contexts.iter().enumerate() {
            tensors.push((format!("{tile}.{layer}"), context.to_device(&Device::Cpu)?.to_dtype(DType::F32)?));
        }
    }
    bytes_of(&tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect::<Vec<_>>())
}

fn unpack(bytes: &[u8]) -> Result<Vec<Vec<Tensor>>> {
    let mut tiles: BTreeMap<usize, BTreeMap<usize, Tensor>> = BTreeMap::new();
    for (name, tensor) in tensors_of(bytes)? {
        let place = name.split_once('.').and_then(|(tile, layer)| Some((tile.parse().ok()?, layer.parse().ok()?)));
        let (tile, layer) = place.with_context(|| format!("{name:?} is no state of a decoder"))?;
        tiles.entry(tile).or_default().insert(layer, tensor);
    }
    Ok(tiles.into_values().map(|layers| layers.into_values().collect()).collect())
}
