//! UniPC of order two (Zhao et al. 2023, arXiv 2302.04867): a predictor, and a corrector that uses what the network says at the
//! place the predictor has reached. After diffusers' `scheduling_unipc_multistep.py` with its default settings (bh2, data
//! prediction, lower orders at both ends).
//!
//! With `l = ln sqrt(a / (1 - a))` before a step and after it, `h` their difference, `e = e^-h - 1`,
//! `r = (l_back - l) / h`, `D = (x0_back - x0) / r`:
//!
//! ```text
//! x_next = sqrt((1 - a_next) / (1 - a)) x - sqrt(a_next) e (x0 + D/2)                       order one: without D
//! x_next = sqrt((1 - a_next) / (1 - a)) x - sqrt(a_next) e (x0 + c D + d (x0_next - x0))    the corrector, at the next step
//! c = (b1 - b2) / (1 - r),  d = b1 - c,  p = -e/h - 1,  b1 = p / e,  b2 = (-2 p/h - 1) / e  order one: c = 0, d = 1/2
//! ```

use super::{Scheduler, levels::Levels};
use anyhow::bail;
use candle_core::{Result, Tensor, bail as candle_bail};

/// Factors of one step.
#[derive(Debug, Clone, Copy)]
struct Step {
    sample: f64,
    /// `-sqrt(a_next) e`.
    estimate: f64,
    /// `1/r`, where the step looks back.
    back: Option<f64>,
    /// `c` and `d` of the corrector: of order two, where the step looks back.
    correction: (f64, f64),
}

/// What is known after a step.
struct Memory {
    /// The estimates of the last step and of the one before it.
    last: Tensor,
    before: Option<Tensor>,
    /// The sample before the last step, corrected.
    sample: Tensor,
}

pub(super) struct UniPc {
    levels: Levels,
    steps: Vec<Step>,
    memory: Option<Memory>,
    /// Where the run began.
    first: usize,
}

impl UniPc {
    pub fn new(levels: Levels) -> anyhow::Result<Self> {
        let lambda = |a: f64| libm::log((a / (1.0 - a)).sqrt());
        let steps: Vec<Step> = levels
            .levels
            .iter()
            .map(|level| {
                let (now, h) = (lambda(level.now), lambda(level.next) - lambda(level.now));
                let e = libm::expm1(-h);
                let p = -e / h - 1.0;
                let r = level.back.map(|back| (lambda(back) - now) / h);
                let (b1, b2) = (p / e, (-2.0 * p / h - 1.0) / e);
                let correction = r.map_or((0.0, 0.5), |r| ((b1 - b2) / (1.0 - r), b1 - (b1 - b2) / (1.0 - r)));
                Step {
                    sample: ((1.0 - level.next) / (1.0 - level.now)).sqrt(),
                    estimate: -level.next.sqrt() * e,
                    back: r.map(|r| 1.0 / r),
                    correction,
                }
            })
            .collect();
        let finite = |step: &Step| [step.sample, step.estimate, step.back.unwrap_or(0.0)].iter().all(|f| f.is_finite());
        if let Some(index) = steps.iter().position(|step| !finite(step)) {
            bail!(
                "scheduler_config.json: the noise levels around timestep {} give no finite step",
                levels.timesteps[index]
            )
        }
        Ok(Self { levels, steps, memory: None, first: 0 })
    }

    /// Whether a step is of order two.
    fn looks_back(&self, index: usize) -> bool {
        index > self.first && self.steps[index].back.is_some()
    }

    /// `D` of a step.
    fn slope(&self, index: usize, x0: &Tensor, before: &Tensor) -> Result<Tensor> {
        (before - x0)? * self.steps[index].back.unwrap_or(0.0)
    }

    /// The sample before step `index`, where the network says `x0`, by what it says there.
    fn corrected(&self, index: usize, x0: &Tensor, memory: &Memory) -> Result<Tensor> {
        let step = self.steps[index - 1];
        let Memory { last, before, sample } = memory;
        let (c, d) = if self.looks_back(index - 1) { step.correction } else { (0.0, 0.5) };
        let mut direction = (last + ((x0 - last)? * d)?)?;
        if let (true, Some(before)) = (self.looks_back(index - 1), before) {
            direction = (direction + (self.slope(index - 1, last, before)? * c)?)?;
        }
        (sample * step.sample)? + (direction * step.estimate)?
    }
}

impl Scheduler for UniPc {
    fn levels(&self) -> &Levels {
        &self.levels
    }

    fn begin_at(&mut self, index: usize) {
        (self.first, self.memory) = (index, None);
    }

    fn needs_noise(&self, _index: usize) -> bool {
        false
    }

    fn step(&mut self, index: usize, prediction: &Tensor, sample: &Tensor, _noise: Option<&Tensor>) -> Result<Tensor> {
        let x0 = self.predict_x0(index, prediction, sample)?; // checks the index
        let (sample, before) = match &self.memory {
            _ if index == self.first => (sample.clone(), None),
            Some(memory) => (self.corrected(index, &x0, memory)?, Some(memory.last.clone())),
            None => candle_bail!("step {index} needs the estimate of the step before it"),
        };
        let step = self.steps[index];
        let direction = match &before {
            Some(before) if self.looks_back(index) => (&x0 + (self.slope(index, &x0, before)? * 0.5)?)?,
            _ => x0.clone(),
        };
        let moved = ((&sample * step.sample)? + (direction * step.estimate)?)?;
        self.memory = Some(Memory { last: x0, before, sample });
        Ok(moved)
    }

    /// Both estimates and the sample, beside each other on the channel axis: `[F, 3C, H, W]`.
    fn state(&self) -> Option<Tensor> {
        let Memory { last, before, sample } = self.memory.as_ref()?;
        Tensor::cat(&[last, before.as_ref().unwrap_or(last), sample], 1).ok()
    }

    fn restore(&mut self, state: Option<Tensor>) {
        let parts = state.and_then(|state| state.chunk(3, 1).ok());
        self.memory = parts.and_then(|parts| match <[Tensor; 3]>::try_from(parts) {
            Ok([last, before, sample]) => Some(Memory { last, before: Some(before), sample }),
            Err(_) => None,
        });
    }
}
