//! What is saved of a run while it goes on, and what of it stays when it ends.

use super::settings::Settings;
use super::values::{Every, OnInterrupt};
use crate::run::directory;
use anyhow::{Context, Result};
use std::path::PathBuf;

/// How a run saves its progress. None of it decides a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct KeepRules {
    /// Where the directories of runs are; none on a system without a home.
    pub root: Option<PathBuf>,
    /// Whether someone named that place.
    pub named: bool,
    /// Go on with an earlier run of the same plan.
    pub resume: bool,
    /// Keep the directory of a run that ends well.
    pub keep: bool,
    pub every: Every,
    pub on_interrupt: OnInterrupt,
}

impl KeepRules {
    /// A place that was named must take files; the default one may fail later, with a warning.
    pub fn new(settings: &Settings) -> Result<Self> {
        let named = settings.work_dir.is_some();
        let root = match &settings.work_dir {
            Some(root) => {
                directory::check_root(root).context("--work-dir")?;
                Some(std::path::absolute(root)?)
            }
            None => directory::default_root(),
        };
        Ok(Self {
            root,
            named,
            resume: settings.resume.unwrap_or(false),
            keep: settings.keep.unwrap_or(false),
            every: settings.checkpoint_every.unwrap_or_default(),
            on_interrupt: settings.on_interrupt.unwrap_or(OnInterrupt::Save),
        })
    }
}
