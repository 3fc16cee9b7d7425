//! Sets of videos as wholes: the distance of each to the videos of `--fvd`.

use super::super::table::plain;
use super::{Args, Set, Work, of_video};
use crate::eval::fvd::{FRAMES, Fvd, Logits, NETWORK, distance};
use crate::run::{Code, Event, Failure, Observer, WithCode};
use crate::video::{self, Limits};
use candle_core::Device;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// The set that others are compared with, as the network sees it.
pub(super) struct Reference {
    network: Fvd,
    name: String,
    videos: Vec<Logits>,
}

impl Reference {
    /// None where `--fvd` is not asked for. Errors: no network, and fewer than two videos that are long enough.
    pub fn open(args: &Args, device: &Device, observer: &mut dyn Observer) -> Result<Option<Self>, Failure> {
        let Some(folder) = &args.fvd else { return Ok(None) };
        let Some(network) = Fvd::open(args.i3d.as_deref(), device).code(Code::Model)? else {
            let message = "--fvd needs its network: run make metrics once, or give --i3d FILE";
            return Err(Failure::message(Code::Model, message));
        };
        let shown = folder.display();
        let Some(videos) = video::videos(folder).map_err(of_video)? else {
            return Err(Failure::message(Code::Usage, format!("--fvd {shown}: give a directory of videos")));
        };
        let mut reference = Self { network, name: shown.to_string(), videos: Vec::new() };
        for path in &videos {
            let logits = reference.look(path, observer)?;
            reference.videos.extend(logits);
        }
        if reference.videos.len() < 2 {
            let message = format!("--fvd {shown}: two videos of {FRAMES} frames or more are needed");
            return Err(Failure::message(Code::Usage, message));
        }
        Ok(Some(reference))
    }

    /// What is seen in a video; nothing of one that is too short, with a warning.
    pub fn look(&self, path: &Path, observer: &mut dyn Observer) -> Result<Option<Logits>, Failure> {
        let mut frames = video::read(path, &Limits::default()).map_err(of_video)?;
        let Some(clip) = self.network.clip(&mut frames).map_err(of_video)? else {
            let message = format!("{}: fewer than {FRAMES} frames: left out of FVD", path.display());
            observer.event(&Event::Warning(message))?;
            return Ok(None);
        };
        Ok(Some(self.network.look(&clip).map_err(of_video)?))
    }

    /// Of a set; none with fewer than two videos.
    pub fn distance(&self, set: &Set) -> Option<f64> {
        distance(&set.logits, &self.videos)
    }

    pub fn network_file(&self) -> &String {
        &self.network.file
    }

    pub fn json(&self) -> Value {
        json!({
            "network": NETWORK, "file": self.network.file, "frames": FRAMES,
            "reference": self.name, "videos": self.videos.len(),
        })
    }
}

/// A line for each set.
pub(super) fn lines(work: &Work, sets: &[Set]) -> String {
    let Some(reference) = &work.fvd else { return String::new() };
    let mut text = "\n".to_owned();
    for set in sets {
        let (few, many) = (set.logits.len(), reference.videos.len());
        let value = reference.distance(set).map_or("needs two videos".to_owned(), |fvd| format!("{fvd:.1}"));
        let line = format!(
            "FVD of {} to {}: {value} ({few} and {many} videos, the first {FRAMES} frames of each)",
            set.name(),
            reference.name
        );
        let _ = writeln!(text, "{}", plain(&line)); // writing to a String cannot fail
    }
    text
}
