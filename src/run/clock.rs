//! How long it will still take.

use super::Event;
use std::time::Instant;

/// Measures denoising steps and says how long the rest of the job will take: the remaining steps at the mean pace so far,
/// and what follows them, which is given in steps (the ratio of the work of the decode to that of a step).
#[derive(Debug)]
pub struct Clock {
    of: usize,
    after: f64,
    started: Instant,
    last: Instant,
}

impl Clock {
    pub fn new(of: usize, after: f64) -> Self {
        let now = Instant::now();
        Self { of, after, started: now, last: now }
    }

    /// Step `index` (from 0) is done.
    pub fn step(&mut self, index: usize) -> Event {
        let now = Instant::now();
        let mean = (now - self.started).as_secs_f64() / (index + 1) as f64;
        let seconds = (now - self.last).as_secs_f64();
        self.last = now;
        let eta = mean * ((self.of - index - 1) as f64 + self.after);
        Event::Step { index, of: self.of, seconds, eta, peak_memory: super::peak_memory() }
    }
}
