//! Waiting for a network that may fall silent. A connection has no limit of its own between two pieces of a file, and the hub's client
//! sets none: what blocks runs on a thread, and is left behind there when nothing has been heard of it for long.

use super::Download;
use hf_hub::api::Progress;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

/// How long nothing may be heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    /// Until it is told; again after as long.
    pub told: Duration,
    /// Until it is given up.
    pub most: Duration,
}

impl Default for Patience {
    /// Servers that look for viruses first keep a file back for a while.
    fn default() -> Self {
        Self { told: Duration::from_secs(20), most: Duration::from_secs(120) }
    }
}

enum Heard<T> {
    File { path: String, bytes: u64, arrived: u64 },
    Bytes(u64),
    Done(T),
}

/// What the work reports by.
pub(super) struct Reporter<T> {
    heard: Sender<Heard<T>>,
    begun: Option<(String, u64)>,
}

/// The first number after the name of a file is what had arrived earlier. Nobody may be left to hear it.
impl<T> Progress for Reporter<T> {
    fn init(&mut self, size: usize, filename: &str) {
        self.begun = Some((filename.to_owned(), size as u64));
    }

    fn update(&mut self, size: usize) {
        let _ = self.heard.send(match self.begun.take() {
            Some((path, bytes)) => Heard::File { path, bytes, arrived: size as u64 },
            None => Heard::Bytes(size as u64),
        });
    }

    fn finish(&mut self) {}
}

/// What `work` returns; none when it was given up.
pub(super) fn wait<T: Send + 'static>(
    patience: Patience,
    progress: &mut dyn Download,
    work: impl FnOnce(Reporter<T>) -> T + Send + 'static,
) -> Option<T> {
    let (sender, heard) = mpsc::channel();
    let reporter = Reporter { heard: sender.clone(), begun: None };
    let run = move || {
        let done = work(reporter);
        let _ = sender.send(Heard::Done(done));
    };
    std::thread::Builder::new().name("hub".to_owned()).spawn(run).ok()?;
    let mut silent = Duration::ZERO;
    loop {
        match heard.recv_timeout(patience.told) {
            Ok(Heard::Done(done)) => return Some(done),
            Ok(Heard::File { path, bytes, arrived }) => progress.file(&path, bytes, arrived),
            Ok(Heard::Bytes(bytes)) => progress.advance(bytes),
            Err(RecvTimeoutError::Timeout) if silent + patience.told < patience.most => {
                silent += patience.told;
                progress.silent(silent);
                continue;
            }
            Err(_) => return None,
        }
        silent = Duration::ZERO;
    }
}
