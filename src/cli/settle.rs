//! What commands that make videos do before settings are resolved: settings from all places, threads, interruptions.

use super::Report;
use crate::disk;
use crate::job::values::ManifestMode;
use crate::job::{self, Settings};
use crate::run::{Failure, interrupt, progress};
use crate::storyboard::Storyboard;

/// The settings of a video that may carry a record.
#[derive(Debug, clap::Args)]
pub struct Recorded {
    /// The same as --manifest none
    #[arg(long, hide = true, conflicts_with = "manifest")]
    no_metadata: bool,
    #[command(flatten)]
    settings: Settings,
}

impl Recorded {
    pub fn settings(self) -> Settings {
        let none = self.no_metadata.then_some(ManifestMode::None);
        Settings { manifest: none.or(self.settings.manifest), ..self.settings }
    }
}

/// What comes before everything else: threads, and what an interruption does.
pub fn prepare(settings: &Settings, report: &Report) -> Result<(), Failure> {
    set_threads(settings.threads);
    start(report)
}

/// From now on Ctrl-C asks the run to stop instead of ending the process.
pub fn start(report: &Report) -> Result<(), Failure> {
    Ok(interrupt::install(report.progress == progress::Mode::Json, disk::remove_partials)?)
}

/// The number of threads, for every pool that is made later.
pub fn set_threads(threads: Option<usize>) {
    let Some(threads) = threads.filter(|threads| (1..=1024).contains(threads)) else { return };
    for name in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"] {
        // SAFETY: the program has one thread until the first pool is made, and no pool is made before this.
        unsafe { std::env::set_var(name, threads.to_string()) };
    }
}

/// Settings with those of the script and the files below them, and the storyboard without.
pub fn settled(
    settings: Settings,
    mut storyboard: Storyboard,
    report: &Report,
) -> Result<(Settings, Storyboard), Failure> {
    let script = job::script_settings(&mut storyboard)?;
    Ok((settings.or(script).or(report.settings()?), storyboard))
}
