//! DPM-Solver++ 2M (Lu et al. 2022, arXiv 2211.01095), as a stochastic equation or an ordinary one, for a network trained on
//! discrete levels.
//!
//! The first follows diffusers' `scheduling_dpm_cog*.py` and spec/ditctrl.md 1.5 (SAT's VPSDEDPMPP2MSampler), which are the
//! same rule; the second `scheduling_dpmsolver_multistep.py` with its default settings (midpoint, last sigma 0).
//! With `a` the level (`alpha_bar`), `lambda = ln sqrt(a / (1 - a))`, `h = lambda_next - lambda`,
//! `r = (lambda - lambda_back) / h`:
//!
//! ```text
//! x <- sqrt((1 - a_next) / (1 - a)) e^-h x - (e^-2h - 1) sqrt(a_next) D + sqrt(1 - a_next) sqrt(1 - e^-2h) noise
//! x <- sqrt((1 - a_next) / (1 - a))      x - (e^-h  - 1) sqrt(a_next) D                          without noise
//! D  = x0                                    first step, and the one that ends the run
//! D  = (1 + 1/(2r)) x0 - 1/(2r) x0_back      else
//! ```
//!
//! The ends need no special case. From pure noise (a = 0) lambda is minus infinity and h infinite: the factors are
//! 0, -sqrt(a_next) and sqrt(1 - a_next), and the step after it has r infinite, hence first order. Into no noise at all
//! (a_next = 1) h is infinite as well: 0, -1 and 0, so x becomes the estimate.
//!
//! The references draw noise twice in most steps and use the second draw; here a step takes one.

use super::{
    Scheduler,
    levels::{Level, Levels, Precision},
};
use anyhow::bail;
use candle_core::{Result, Tensor, bail as candle_bail};

/// Factors of one step, signs as in the formula above.
#[derive(Debug, Clone, Copy)]
struct Step {
    sample: f64,
    estimate: f64,
    noise: f64,
    /// `1/(2r)`, where the step looks back.
    back: Option<f64>,
}

impl Step {
    fn new(level: &Level, precision: Precision, stochastic: bool) -> Self {
        let round = |value| precision.round(value);
        let lambda = |a: f64| round(libm::log(round(round(a / round(1.0 - a)).sqrt())));
        let (now, next) = (lambda(level.now), lambda(level.next));
        let h = round(next - now);
        let left = round(1.0 - level.next);
        let back = level.back.map(|back| round(1.0 / round(2.0 * round(round(now - lambda(back)) / h))));
        if !stochastic {
            return Self {
                sample: round(round(left / round(1.0 - level.now)).sqrt()),
                estimate: round(round(libm::expm1(-h)) * round(level.next.sqrt())),
                noise: 0.0,
                back,
            };
        }
        Self {
            sample: round(round(round(left / round(1.0 - level.now)).sqrt()) * round(libm::exp(-h))),
            estimate: round(round(libm::expm1(-2.0 * h)) * round(level.next.sqrt())),
            noise: round(round(left.sqrt()) * round(round(1.0 - round(libm::exp(-2.0 * h))).sqrt())),
            back,
        }
    }

    fn is_finite(&self) -> bool {
        [self.sample, self.estimate, self.noise, self.back.unwrap_or(0.0)].iter().all(|factor| factor.is_finite())
    }
}

pub(super) struct Dpmpp2m {
    levels: Levels,
    steps: Vec<Step>,
    /// The estimate of the last step taken.
    last: Option<Tensor>,
    /// Where the run began.
    first: usize,
}

impl Dpmpp2m {
    pub fn new(levels: Levels, stochastic: bool) -> anyhow::Result<Self> {
        let step = |level| Step::new(level, levels.precision, stochastic);
        let steps: Vec<Step> = levels.levels.iter().map(step).collect();
        if let Some(index) = steps.iter().position(|step| !step.is_finite()) {
            bail!(
                "scheduler_config.json: the noise levels around timestep {} give no finite step",
                levels.timesteps[index]
            )
        }
        Ok(Self { levels, steps, last: None, first: 0 })
    }
}

impl Scheduler for Dpmpp2m {
    fn levels(&self) -> &Levels {
        &self.levels
    }

    fn begin_at(&mut self, index: usize) {
        (self.first, self.last) = (index, None);
    }

    fn needs_noise(&self, index: usize) -> bool {
        self.steps.get(index).is_some_and(|step| step.noise > 0.0)
    }

    fn step(&mut self, index: usize, prediction: &Tensor, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        let x0 = self.predict_x0(index, prediction, sample)?; // checks the index
        let step = self.steps[index];
        let estimate = match (step.back, &self.last) {
            (None, _) => x0.clone(),
            _ if index == self.first => x0.clone(),
            (Some(back), Some(last)) => ((&x0 * (self.levels.precision.round(1.0 + back)))? - (last * back)?)?,
            (Some(_), None) => candle_bail!("step {index} needs the estimate of the step before it"),
        };
        let moved = ((sample * step.sample)? - (estimate * step.estimate)?)?;
        let moved = match noise {
            _ if step.noise == 0.0 => moved,
            Some(noise) => (moved + (noise * step.noise)?)?,
            None => candle_bail!("step {index} needs noise"),
        };
        self.last = Some(x0);
        Ok(moved)
    }

    fn state(&self) -> Option<Tensor> {
        self.last.clone()
    }

    fn restore(&mut self, state: Option<Tensor>) {
        self.last = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedulers::{ScheduleConfig, Table};
    use candle_core::{DType, Device};

    fn sampler(table: Table, steps: usize) -> Dpmpp2m {
        Dpmpp2m::new(Levels::new(&ScheduleConfig::zero_snr(3.0), table, steps).unwrap(), true).unwrap()
    }

    #[test]
    fn the_ends_of_a_run_are_their_limits() {
        for table in [Table::Diffusers, Table::Sat] {
            let sampler = sampler(table, 50);
            let next = sampler.levels.levels[0].next;
            let first = sampler.steps[0];
            assert_eq!((first.sample, first.estimate, first.noise), (0.0, -next.sqrt(), (1.0 - next).sqrt()));
            assert_eq!((first.back, sampler.steps[1].back), (None, Some(0.0)));
            let last = sampler.steps[49];
            assert_eq!((last.sample, last.estimate, last.noise, last.back), (0.0, -1.0, 0.0, None));
            assert!((0..49).all(|index| sampler.needs_noise(index)) && !sampler.needs_noise(49));
        }
    }

    #[test]
    fn every_run_length_is_finite() {
        for steps in 1..=1000 {
            sampler(Table::Sat, steps);
            sampler(Table::Diffusers, steps);
        }
    }

    #[test]
    fn the_last_step_gives_the_estimate_and_ignores_noise() {
        let given = |value: f64| Tensor::full(value as f32, (1, 1, 2, 2), &Device::Cpu).unwrap();
        let mut sampler = sampler(Table::Sat, 3);
        sampler.restore(Some(given(9.0)));
        let want = sampler.predict_x0(2, &given(0.5), &given(0.25)).unwrap();
        let got = sampler.step(2, &given(0.5), &given(0.25), Some(&given(f64::NAN))).unwrap();
        assert_eq!(
            got.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            want.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        );
    }

    #[test]
    fn a_run_may_begin_anew_at_any_step() {
        let given = |value: f64| Tensor::full(value as f32, (1, 1, 2, 2), &Device::Cpu).unwrap();
        let values = |x: Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let levels = Levels::of_multistep(&ScheduleConfig::default(), 8).unwrap();
        let fresh = || Dpmpp2m::new(levels.clone(), false).unwrap();
        let mut anew = fresh();
        anew.restore(Some(given(7.0)));
        anew.begin_at(3);
        assert!(anew.state().is_none() && !(0..8).any(|index| anew.needs_noise(index)));
        let got = values(anew.step(3, &given(0.5), &given(0.25), None).unwrap());
        // as a step of the first order: where both estimates are the same
        let mut within = fresh();
        within.restore(Some(within.predict_x0(3, &given(0.5), &given(0.25)).unwrap()));
        let want = values(within.step(3, &given(0.5), &given(0.25), None).unwrap());
        assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} {want:?}");
        assert!(
            anew.step(4, &given(0.5), &given(0.25), None).is_ok()
                && fresh().step(4, &given(0.5), &given(0.25), None).is_err()
        );
    }

    #[test]
    fn misuse_is_refused() {
        let given = Tensor::zeros((1, 1, 2, 2), DType::F32, &Device::Cpu).unwrap();
        let other = Tensor::zeros((1, 1, 2, 3), DType::F32, &Device::Cpu).unwrap();
        let mut sampler = sampler(Table::Diffusers, 4);
        let mut text = |index, sample, noise| sampler.step(index, &given, sample, noise).unwrap_err().to_string();
        assert!(text(0, &given, None).contains("needs noise"));
        assert!(text(1, &given, Some(&given)).contains("step before"));
        assert!(text(4, &given, Some(&given)).contains("run of 4"));
        assert!(text(0, &other, Some(&given)).contains("prediction"));
    }
}
