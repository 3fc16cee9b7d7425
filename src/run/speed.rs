//! The speed of this machine, measured once and stored in the user's cache directory.
//!
//! A file is valid for a CPU, a number of threads and a build of the program; another of any of these has its own.

use super::manifest::cpu;
use crate::disk;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::PathBuf;

/// Speeds of the networks in f32 on this CPU, in multiply-adds per second where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Speed {
    /// Matrix products of the transformer at widths of a few hundred, the lighter operations around them included.
    pub linear: f64,
    /// The same at widths of thousands.
    pub linear_wide: f64,
    pub attention: f64,
    /// Seconds of a pass of rows through a layer beside what grows with their length.
    pub layer: f64,
    /// Convolutions of the decoder with up to 64 channels, norms and the rest included.
    pub conv: f64,
    /// The same with more channels.
    pub conv_wide: f64,
    /// Seconds of a decoded chunk beside what grows with its size.
    pub chunk: f64,
    /// Bytes of weights per second, from their file to a network, their hash included.
    pub load: f64,
    /// Seconds for a pixel of the video that is written.
    pub pixel: f64,
}

#[derive(Serialize, Deserialize)]
struct SpeedFile {
    cpu: String,
    version: String,
    threads: usize,
    speed: Speed,
}

impl Speed {
    /// One core's worth of a recent server CPU: for proportions where nothing was measured.
    pub const TYPICAL: Self = Self {
        linear: 30e9,
        linear_wide: 45e9,
        attention: 30e9,
        layer: 1e-4,
        conv: 30e9,
        conv_wide: 40e9,
        chunk: 2e-3,
        load: 400e6,
        pixel: 1e-7,
    };

    fn plausible(&self) -> bool {
        let Self { linear, linear_wide, attention, layer, conv, conv_wide, chunk, load, pixel } = *self;
        let rates = [linear, linear_wide, attention, conv, conv_wide, load];
        rates.iter().all(|rate| rate.is_finite() && *rate > 0.0)
            && [layer, chunk, pixel].iter().all(|seconds| seconds.is_finite() && *seconds >= 0.0)
    }
}

/// Where a measurement is kept; none without a cache directory.
pub fn path(threads: usize) -> Option<PathBuf> {
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    let key = format!("{}\n{}\n{threads}\n{build}", cpu(), env!("CARGO_PKG_VERSION"));
    let name = format!("speed-{}.json", &blake3::hash(key.as_bytes()).to_hex()[..16]);
    Some(dirs::cache_dir()?.join("vidgen").join(name))
}

/// What was measured before; none where nothing was, or the file is not whole.
pub fn kept(threads: usize) -> Option<Speed> {
    let text = fs::read_to_string(path(threads)?).ok()?;
    let kept: SpeedFile = serde_json::from_str(&text).ok()?;
    let fits = kept.threads == threads && kept.cpu == cpu() && kept.version == env!("CARGO_PKG_VERSION");
    Some(kept.speed).filter(|speed| fits && speed.plausible())
}

/// Keeps a measurement, whole or not at all.
pub fn keep(threads: usize, speed: Speed) -> Result<()> {
    let Some(path) = path(threads) else { return Ok(()) };
    let kept = SpeedFile { cpu: cpu(), version: env!("CARGO_PKG_VERSION").to_owned(), threads, speed };
    let write = || -> Result<()> {
        let folder = path.parent().context("no directory")?;
        fs::create_dir_all(folder)?;
        Ok(disk::write_whole(&path, serde_json::to_string_pretty(&kept)?.as_bytes(), false)?)
    };
    write().with_context(|| format!("cannot keep the speed of this machine in {}", path.display()))
}
