//! Sampling of latent consistency models (Luo et al. 2023, arXiv 2310.04378), after diffusers' `scheduling_lcm.py`.
//!
//! Each step estimates the clean sample, mixes it with the sample by what the model is bound to at time 0, and puts it under
//! fresh noise at the next level:
//!
//! ```text
//! D = c_out x0 + c_skip x,    s = scaling t,  c_skip = 0.25 / (s^2 + 0.25),  c_out = s / sqrt(s^2 + 0.25)
//! x <- sqrt(a_next) D + sqrt(1 - a_next) noise;  the last step: x <- D
//! ```

use super::{Scheduler, levels::Levels};
use candle_core::{Result, Tensor, bail};

/// Factors of one step.
#[derive(Debug, Clone, Copy)]
struct Step {
    skip: f64,
    out: f64,
    /// Of the estimate and of the noise after it.
    next: f64,
    noise: f64,
}

pub(super) struct Lcm {
    levels: Levels,
    steps: Vec<Step>,
}

impl Lcm {
    /// `scaling`: `timestep_scaling` of the configuration.
    pub fn new(levels: Levels, scaling: f64) -> Self {
        const DATA: f64 = 0.25; // the square of the data's deviation
        let steps = levels.timesteps.iter().zip(&levels.levels).map(|(t, level)| {
            let scaled = t * scaling;
            let sum = scaled * scaled + DATA;
            Step {
                skip: DATA / sum,
                out: scaled / sum.sqrt(),
                next: level.next.sqrt(),
                noise: (1.0 - level.next).max(0.0).sqrt(),
            }
        });
        Self { steps: steps.collect(), levels }
    }
}

impl Scheduler for Lcm {
    fn levels(&self) -> &Levels {
        &self.levels
    }

    fn needs_noise(&self, index: usize) -> bool {
        self.steps.get(index).is_some_and(|step| step.noise > 0.0)
    }

    fn step(&mut self, index: usize, prediction: &Tensor, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        let x0 = self.predict_x0(index, prediction, sample)?; // checks the index
        let step = self.steps[index];
        let denoised = ((x0 * step.out)? + (sample * step.skip)?)?;
        match noise {
            _ if step.noise == 0.0 => Ok(denoised),
            Some(noise) => (denoised * step.next)? + (noise * step.noise)?,
            None => bail!("step {index} needs noise"),
        }
    }
}
