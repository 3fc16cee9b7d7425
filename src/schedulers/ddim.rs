//! DDIM (Song et al. 2020, arXiv 2010.02502, equations 12 and 16).
//!
//! With `eta` 0 this is diffusers' `scheduling_ddim_cog*.py`, which knows no other value (it accepts `eta` and ignores it);
//! above 0 it is diffusers' DDIMScheduler on the same noise levels. On the levels of Euler's method it is that method.

use super::{Scheduler, levels::Levels};
use anyhow::bail;
use candle_core::{Result, Tensor, bail as candle_bail};

/// Factors of one step.
#[derive(Debug, Clone, Copy)]
struct Step {
    sample: f64,
    x0: f64,
    noise: f64,
}

pub(super) struct Ddim {
    levels: Levels,
    steps: Vec<Step>,
}

impl Ddim {
    pub fn new(levels: Levels, eta: f64) -> anyhow::Result<Self> {
        let round = |value| levels.precision.round(value);
        let steps: Vec<Step> = levels
            .levels
            .iter()
            .map(|level| {
                let (now, next) = (level.now, level.next);
                let share = round(round(1.0 - next) / round(1.0 - now));
                // sigma = eta * sqrt((1 - next) / (1 - now)) * sqrt(1 - now / next)
                let sigma = round(eta * round(round(share * round(1.0 - round(now / next))).max(0.0).sqrt()));
                let sample = if sigma > 0.0 {
                    round(round(round(1.0 - next) - sigma * sigma).max(0.0).sqrt() / round(1.0 - now).sqrt())
                } else {
                    round(share.sqrt())
                };
                Step { sample, x0: round(round(next.sqrt()) - round(round(now.sqrt()) * sample)), noise: sigma }
            })
            .collect();
        if let Some(index) = steps.iter().position(|s| ![s.sample, s.x0, s.noise].iter().all(|f| f.is_finite())) {
            bail!(
                "scheduler_config.json: the noise levels around timestep {} give no finite step",
                levels.timesteps[index]
            )
        }
        Ok(Self { levels, steps })
    }
}

impl Scheduler for Ddim {
    fn levels(&self) -> &Levels {
        &self.levels
    }

    fn init_noise_sigma(&self) -> f64 {
        self.levels.initial
    }

    fn needs_noise(&self, index: usize) -> bool {
        self.steps.get(index).is_some_and(|step| step.noise > 0.0)
    }

    fn step(&mut self, index: usize, prediction: &Tensor, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        let x0 = self.predict_x0(index, prediction, sample)?; // checks the index
        let step = self.steps[index];
        let moved = ((sample * step.sample)? + (x0 * step.x0)?)?;
        match noise {
            _ if step.noise == 0.0 => Ok(moved),
            Some(noise) => moved + (noise * step.noise)?,
            None => candle_bail!("step {index} needs noise"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedulers::{ScheduleConfig, Table};
    use candle_core::{DType, Device};

    fn sampler(table: Table, steps: usize, eta: f64) -> Ddim {
        Ddim::new(Levels::new(&ScheduleConfig::zero_snr(3.0), table, steps).unwrap(), eta).unwrap()
    }

    #[test]
    fn noise_keeps_the_variance_of_each_level() {
        for table in [Table::Diffusers, Table::Sat] {
            for eta in [0.0, 0.5, 1.0] {
                let sampler = sampler(table, 50, eta);
                for (index, (step, level)) in sampler.steps.iter().zip(&sampler.levels.levels).enumerate() {
                    // a sample of this level, sqrt(now) x0 + sqrt(1 - now) e, becomes one of the next
                    let signal = step.sample * level.now.sqrt() + step.x0;
                    let variance = step.sample * step.sample * (1.0 - level.now) + step.noise * step.noise;
                    assert!((signal - level.next.sqrt()).abs() < 1e-12, "{table} {eta} {index}");
                    assert!((variance - (1.0 - level.next)).abs() < 1e-12, "{table} {eta} {index}");
                    assert_eq!(sampler.needs_noise(index), eta > 0.0 && index < 49, "{table} {eta} {index}");
                }
            }
        }
    }

    #[test]
    fn every_run_length_is_finite() {
        for steps in 1..=1000 {
            sampler(Table::Sat, steps, 1.0);
            sampler(Table::Diffusers, steps, 1.0);
        }
    }

    #[test]
    fn missing_noise_is_refused() {
        let given = Tensor::zeros((1, 1, 2, 2), DType::F32, &Device::Cpu).unwrap();
        assert!(sampler(Table::Sat, 4, 0.0).step(0, &given, &given, None).is_ok());
        let error = sampler(Table::Sat, 4, 0.5).step(0, &given, &given, None).unwrap_err().to_string();
        assert!(error.contains("step 0 needs noise"), "{error}");
        assert!(sampler(Table::Sat, 4, 0.5).step(4, &given, &given, None).is_err());
    }
}
