//! A log file: the messages of standard error, and more, with timestamps, for unattended runs.

use super::event::{Event, Observer};
use super::exit::{Code, Failure, WithCode};
use super::time::{human_seconds, rfc3339};
use crate::words::words;
use anyhow::Result;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

words!(
    /// How much is written.
    #[derive(Default, PartialOrd, Ord)]
    Level, "log level", {
        Error = "error",
        Warn = "warn" | "warning",
        /// Also the plan, stages and files.
        #[default]
        Info = "info",
        /// Also every step and chunk.
        Debug = "debug",
    }
);

/// A log that is open, at its end: runs of one file follow each other.
pub struct Log {
    file: File,
    level: Level,
}

impl Log {
    pub fn open(path: &Path, level: Level) -> Result<Self, Failure> {
        Ok(Self { file: OpenOptions::new().create(true).append(true).open(path).code(Code::Usage)?, level })
    }

    /// Writes a line, if its level is of those that are written.
    fn line(&mut self, level: Level, text: &str) {
        if level <= self.level {
            let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let time = rfc3339(SystemTime::now());
            let pid = std::process::id();
            // one write, so that the lines of several processes do not mix; a full disk is no reason to stop a run
            let _ = self.file.write_all(format!("{time} [{pid}] {level:<5} {text}\n").as_bytes());
        }
    }

    /// Writes an event.
    pub fn event(&mut self, event: &Event) {
        let (level, text) = words(event);
        self.line(level, &text);
    }
}

fn words(event: &Event) -> (Level, String) {
    match event {
        Event::Plan(_) => (Level::Info, format!("plan {}", event.json())),
        Event::Job { id, index, of } => (Level::Info, format!("job {}/{of} {id}", index + 1)),
        Event::Phase { phase, of, what } => {
            let parts = if *of > 0 { format!(" ({of} parts)") } else { String::new() };
            let what = if what.is_empty() { String::new() } else { format!(" {what}") };
            (Level::Info, format!("{}{what}{parts}", phase.name()))
        }
        Event::Step { index, of, seconds, eta, .. } => {
            let (seconds, eta) = (human_seconds(*seconds), human_seconds(*eta));
            (Level::Debug, format!("step {}/{of} took {seconds}, {eta} left", index + 1))
        }
        Event::Chunk { phase, index, of } => (Level::Debug, format!("{} {}/{of}", phase.name(), index + 1)),
        Event::Download(fetched) if fetched.file.is_none() => (Level::Info, fetched.to_string()),
        Event::Download(fetched) => (Level::Debug, fetched.to_string()),
        Event::Preview { path, .. } => (Level::Debug, format!("preview {}", path.display())),
        Event::Checkpoint { phase, index, of, .. } => {
            (Level::Debug, format!("checkpoint: {} {index}/{of} is safe", phase.name()))
        }
        Event::Warning(message) => (Level::Warn, message.clone()),
        Event::Saved { kind, path } => (Level::Info, format!("saved {kind} {}", path.display())),
        Event::Error { message, .. } => (Level::Error, message.clone()),
    }
}

/// An observer that writes what it hears before it passes it on.
pub struct Logged {
    log: Log,
    inner: Box<dyn Observer>,
}

impl Logged {
    pub fn new(log: Log, inner: Box<dyn Observer>) -> Self {
        Self { log, inner }
    }
}

impl Observer for Logged {
    fn event(&mut self, event: &Event) -> Result<()> {
        self.log.event(event);
        self.inner.event(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_choose_lines() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("run.log");
        let events = [
            Event::Warning("cut\n\u{1b}[31m".into()),
            Event::Chunk { phase: crate::run::Phase::Decode, index: 0, of: 2 },
            Event::Saved { kind: "video", path: "a.mp4".into() },
            Event::Error { code: 1, message: "full".into() },
        ];
        for (level, lines) in [(Level::Error, 1), (Level::Warn, 2), (Level::Info, 3), (Level::Debug, 4)] {
            let _ = std::fs::remove_file(&path);
            let mut log = Log::open(&path, level).unwrap();
            events.iter().for_each(|event| log.event(event));
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text.lines().count(), lines, "{text}");
            assert!(text.contains(" error full") && !text.contains('\u{1b}'), "{text}");
        }
        assert!("loud".parse::<Level>().is_err());
        assert_eq!(Log::open(temp.path(), Level::Info).err().unwrap().code, Code::Usage);
    }
}
