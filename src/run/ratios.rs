//! What `vidgen calibrate --cache` has measured of networks, in the user's cache directory, by the hash of their weights.

use crate::disk;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::PathBuf;

/// How what the blocks of a network add changes from step to step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// By step of the run that was measured: the mean over tokens of the norm of what is added over that of the step before; of the
    /// first, 1.
    pub ratios: Vec<f64>,
}

/// Steps of the longest run.
const MOST: usize = 1000;

fn path(weights: &str) -> Option<PathBuf> {
    let name: String = weights.chars().filter(char::is_ascii_hexdigit).take(32).collect();
    Some(dirs::cache_dir()?.join("vidgen").join(format!("ratios-{name}.json")))
}

/// What was measured of a network with these weights; none where nothing was, or the file is not whole.
pub fn kept(weights: &str) -> Option<Measured> {
    let text = fs::read_to_string(path(weights)?).ok()?;
    let measured: Measured = serde_json::from_str(&text).ok()?;
    let plausible = (1..=MOST).contains(&measured.ratios.len())
        && measured.ratios.iter().all(|ratio| ratio.is_finite() && *ratio >= 0.0);
    plausible.then_some(measured)
}

/// Keeps a measurement, whole or not at all; returns where.
///
/// # Errors
/// A user without a cache directory, and one that cannot be written.
pub fn keep(weights: &str, measured: &Measured) -> Result<PathBuf> {
    let path = path(weights).context("there is no user directory to keep a measurement in")?;
    let write = || -> Result<()> {
        fs::create_dir_all(path.parent().context("no directory")?)?;
        Ok(disk::write_whole(&path, serde_json::to_string(measured)?.as_bytes(), false)?)
    };
    write().with_context(|| format!("cannot keep what was measured in {}", path.display()))?;
    Ok(path)
}
