//! Progress of model downloads, reported like everything else, and the message when one is interrupted.

use super::Report;
use crate::disk;
use crate::run::time::human_seconds;
use crate::run::{Event, Fetched, Observer, interrupt, progress};
use crate::weights::{self, Download, Wanted};
use std::time::{Duration, Instant};

/// Reports the downloads of this process.
pub fn tell(report: &Report) {
    let report = report.clone();
    weights::tell_downloads(move || Box::new(Told::new(&report)));
}

/// The least time between two progress reports.
const PAUSE: Duration = Duration::from_millis(200);

struct Told {
    observer: Option<Box<dyn Observer>>,
    json: bool,
    state: Fetched,
    began: Instant,
    told: Instant,
    /// Bytes of the files that are done, and of the one that comes in.
    before: u64,
    current: (String, u64),
    /// Bytes that have come in since the beginning.
    fresh: u64,
}

impl Told {
    fn new(report: &Report) -> Self {
        let nothing = Fetched {
            model: String::new(),
            to: Default::default(),
            files: 0,
            file: None,
            bytes: 0,
            of: 0,
            rate: None,
            eta: None,
            done: false,
        };
        let now = Instant::now();
        Self {
            // a log that cannot be opened is complained about by the command
            observer: report.observer().ok(),
            json: report.progress == progress::Mode::Json,
            state: nothing,
            began: now,
            told: now,
            before: 0,
            current: (String::new(), 0),
            fresh: 0,
        }
    }

    fn say(&mut self) {
        self.told = Instant::now();
        if let Some(observer) = &mut self.observer {
            // nobody who listens here stops a run
            let _ = observer.event(&Event::Download(self.state.clone()));
        }
    }
}

impl Download for Told {
    fn begin(&mut self, wanted: &Wanted) {
        let Wanted { model, files, bytes, cache } = wanted.clone();
        let hint = format!(
            "interrupted: what has arrived of {model} is kept in {}; the same command goes on from there",
            cache.display()
        );
        interrupt::hint(Some(hint));
        // without it Ctrl-C ends the program all the same, without a word
        let _ = interrupt::install(self.json, disk::remove_partials);
        self.state = Fetched { model, to: cache, files, of: bytes, ..self.state.clone() };
        (self.began, self.before, self.fresh) = (Instant::now(), 0, 0);
        self.say();
    }

    fn file(&mut self, path: &str, bytes: u64, arrived: u64) {
        if self.current.0 != path {
            self.before += self.current.1;
        }
        self.current = (path.to_owned(), bytes);
        self.state.file = Some(path.to_owned());
        self.state.bytes = self.before + arrived;
        self.say();
    }

    fn advance(&mut self, bytes: u64) {
        self.state.bytes += bytes;
        self.fresh += bytes;
        if self.told.elapsed() >= PAUSE {
            let rate = self.fresh as f64 / self.began.elapsed().as_secs_f64();
            let left = self.state.of.saturating_sub(self.state.bytes) as f64;
            self.state.rate = Some(rate);
            self.state.eta = Some(left / rate).filter(|eta| eta.is_finite());
            self.say();
        }
    }

    fn silent(&mut self, time: Duration) {
        if let Some(observer) = &mut self.observer {
            let text = format!(
                "{}: nothing has arrived for {}; still waiting",
                self.state.model,
                human_seconds(time.as_secs_f64())
            );
            let _ = observer.event(&Event::Warning(text));
        }
    }

    fn end(&mut self) {
        (self.state.file, self.state.done, self.state.eta) = (None, true, None);
        self.state.rate = Some(self.fresh as f64 / self.began.elapsed().as_secs_f64()).filter(|rate| rate.is_finite());
        self.say();
        interrupt::hint(None);
    }
}
