//! The estimate of the remaining time.

use super::Event;
use std::time::Instant;

/// Measures denoising steps and says how long the rest of the job will take at the mean pace so far: the remaining steps,
/// and what follows them.
#[derive(Debug)]
pub struct Clock {
    /// By step of its timeline, what it takes; of most, 1.
    costs: Vec<f64>,
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
    pub fn new(costs: Vec<f64>, done: usize, steps: (usize, usize), after: f64) -> Self {
        let now = Instant::now();
        Self { costs, done, steps, after, started: now, last: now }
    }

    /// Step `index` (from 0) of the timeline is done.
    pub fn step(&mut self, index: usize) -> Event {
        let now = Instant::now();
        let of_steps = |steps: &[f64]| steps.iter().sum::<f64>();
        let mean = of_steps(&self.costs) / self.costs.len() as f64;
        let each = (now - self.started).as_secs_f64() / of_steps(&self.costs[self.done..=index]);
        let others = self.steps.1.saturating_sub(self.steps.0 + self.costs.len());
        let left = of_steps(&self.costs[index + 1..]) + others as f64 * mean;
        let seconds = (now - self.last).as_secs_f64();
        self.last = now;
        let (index, of) = (self.steps.0 + index, self.steps.1);
        // what follows is counted in mean steps
        let eta = each * (left + self.after * mean);
        Event::Step { index, of, seconds, eta, peak_memory: super::peak_memory() }
    }
}
