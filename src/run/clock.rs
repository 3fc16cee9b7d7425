//! The estimate of the remaining time.

use super::Event;
use std::time::Instant;

/// Measures denoising steps and says how long the rest of the job will take at the mean pace so far: the remaining steps,
/// and what follows them.
#[derive(Debug)]
pub struct Clock {
    /// Steps of its timeline that were done before the clock began.
    done: usize,
    /// Steps of the timelines before it, and of all.
    steps: (usize, usize),
    /// What follows the last step of the last timeline, in steps of this one.
    after: f64,
    started: Instant,
    last: Instant,
}

impl Clock {
    pub fn new(done: usize, steps: (usize, usize), after: f64) -> Self {
        let now = Instant::now();
        Self { done, steps, after, started: now, last: now }
    }

    /// Step `index` (from 0) of the timeline is done.
    pub fn step(&mut self, index: usize) -> Event {
        let now = Instant::now();
        let mean = (now - self.started).as_secs_f64() / (index + 1 - self.done) as f64;
        let seconds = (now - self.last).as_secs_f64();
        self.last = now;
        let (index, of) = (self.steps.0 + index, self.steps.1);
        let eta = mean * ((of - index - 1) as f64 + self.after);
        Event::Step { index, of, seconds, eta, peak_memory: super::peak_memory() }
    }
}
