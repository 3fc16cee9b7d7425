//! Events of a run in progress. Pipelines emit them; an observer decides what to do with them.
//!
//! As JSON an event is one object on one line, with `v` (1) and `event`; the vocabulary is `plan`, `phase`, `step`,
//! `checkpoint`, `job`, `download`, `preview`, `warning`, `saved`, `error`. Fields may be added within a version, never renamed.

use serde::Serialize;
use serde_json::{Value, json};
use std::path::PathBuf;

/// The stages of a job, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Weights come in.
    Load,
    /// Texts become embeddings.
    Encode,
    Denoise,
    /// Latents become frames.
    Decode,
    /// The file is closed: last frames encoded, manifest written.
    Mux,
}

impl Phase {
    pub const ALL: [Self; 5] = [Self::Load, Self::Encode, Self::Denoise, Self::Decode, Self::Mux];

    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Encode => "encode",
            Self::Denoise => "denoise",
            Self::Decode => "decode",
            Self::Mux => "mux",
        }
    }
}

/// What a job makes and on what, as its events and its forecast both say it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outline {
    pub model: String,
    /// Final texts, style included.
    pub prompts: Vec<String>,
    pub width: usize,
    pub height: usize,
    /// Frames of the video.
    pub frames: usize,
    pub fps: f64,
    pub steps: usize,
    pub seed: u64,
    pub device: String,
    pub dtype: String,
    pub threads: usize,
    /// Latent frames that are denoised, padding included.
    pub latent_frames: usize,
}

/// What the job is going to do, before it does it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    #[serde(flatten)]
    pub outline: Outline,
    pub windows: usize,
    /// Estimate of the peak, in bytes.
    pub memory: u64,
    pub output: PathBuf,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Plan(Box<Plan>),
    /// A stage begins (or a stage begins to work on another thing, such as the next network to load). `of` counts the
    /// steps or chunks that will follow, 0 where that is not known.
    Phase {
        phase: Phase,
        of: usize,
        what: String,
    },
    /// Denoising step `index` (from 0) of `of` is done. `seconds` is what it took, `eta` how much longer the whole job
    /// will take, `peak_memory` the process's peak so far in bytes.
    Step {
        index: usize,
        of: usize,
        seconds: f64,
        eta: f64,
        peak_memory: Option<u64>,
    },
    /// Part `index` (from 0) of `of` of a stage other than denoising is done.
    Chunk {
        phase: Phase,
        index: usize,
        of: usize,
    },
    /// What was done so far can be gone on with, should the run end: the first `index` of `of` steps or chunks.
    Checkpoint {
        phase: Phase,
        index: usize,
        of: usize,
        /// The run's directory.
        path: PathBuf,
    },
    /// Job `index` (from 0) of `of` of a batch begins; what follows is about it, and says so in its JSON.
    Job {
        id: String,
        index: usize,
        of: usize,
    },
    /// Files of a model come in from the hub: at the beginning, at most some times a second, and at the end.
    Download(Fetched),
    /// A picture of the run at step `index` (from 0) of `of` is in a file.
    Preview {
        path: PathBuf,
        index: usize,
        of: usize,
    },
    Warning(String),
    /// A file is complete; `kind` is `video`, `latents`, `maps` or `manifest`, or `run` for the directory of a run that is kept.
    Saved {
        kind: &'static str,
        path: PathBuf,
    },
    Error {
        code: i32,
        message: String,
    },
}

impl Event {
    /// The event as one JSON object.
    pub fn json(&self) -> Value {
        let (name, fields) = match self {
            Self::Plan(plan) => ("plan", json!(plan)),
            Self::Phase { phase, of, what } => ("phase", json!({ "phase": phase, "of": of, "what": what })),
            Self::Step { index, of, seconds, eta, peak_memory } => (
                "step",
                json!({ "index": index, "of": of, "seconds": seconds, "eta": eta, "peak_memory": peak_memory }),
            ),
            Self::Chunk { phase, index, of } => ("phase", json!({ "phase": phase, "index": index, "of": of })),
            Self::Checkpoint { phase, index, of, path } => {
                ("checkpoint", json!({ "phase": phase, "index": index, "of": of, "path": path.to_string_lossy() }))
            }
            Self::Job { id, index, of } => ("job", json!({ "id": id, "index": index, "of": of })),
            Self::Preview { path, index, of } => {
                ("preview", json!({ "path": path.to_string_lossy(), "index": index, "of": of }))
            }
            Self::Download(fetched) => ("download", json!(fetched)),
            Self::Warning(message) => ("warning", json!({ "message": message })),
            Self::Saved { kind, path } => ("saved", json!({ "kind": kind, "path": path.to_string_lossy() })),
            Self::Error { code, message } => ("error", json!({ "code": code, "message": message })),
        };
        let mut object = json!({ "v": 1, "event": name });
        if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
            object.extend(fields);
        }
        object
    }
}

/// How far a download is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fetched {
    pub model: String,
    /// The cache it goes to.
    pub to: PathBuf,
    pub files: usize,
    /// The file that comes in; none at the beginning and the end.
    pub file: Option<String>,
    /// Of all files together, those that had arrived earlier included.
    pub bytes: u64,
    /// 0 when the hub does not say.
    pub of: u64,
    /// Bytes a second, and seconds left; none while they are not known.
    pub rate: Option<f64>,
    pub eta: Option<f64>,
    /// Everything is there.
    pub done: bool,
}

/// Receives the events of a run.
pub trait Observer: Send {
    /// Hears of an event. An error stops the run: it is how an interruption reaches the loop.
    fn event(&mut self, event: &Event) -> anyhow::Result<()>;
}

/// Nobody listens.
impl Observer for () {
    fn event(&mut self, _: &Event) -> anyhow::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_versioned_flat_objects() {
        let step = Event::Step { index: 2, of: 50, seconds: 0.5, eta: 24.0, peak_memory: None };
        assert_eq!(
            step.json().to_string(),
            r#"{"v":1,"event":"step","index":2,"of":50,"seconds":0.5,"eta":24.0,"peak_memory":null}"#
        );
        let chunk = Event::Chunk { phase: Phase::Decode, index: 0, of: 6 };
        assert_eq!(chunk.json().to_string(), r#"{"v":1,"event":"phase","phase":"decode","index":0,"of":6}"#);
        let error = Event::Error { code: 3, message: "vae/config.json: no such file".into() };
        assert_eq!(
            error.json().to_string(),
            r#"{"v":1,"event":"error","code":3,"message":"vae/config.json: no such file"}"#
        );
    }
}
