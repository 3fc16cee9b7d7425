//! Flow matching (Lipman et al. 2022, arXiv 2210.02747; STIV, arXiv 2412.07730): the network says the velocity `v = z - noise` of
//! `x_t = t z + (1 - t) noise`, and time t goes from 0, noise, to 1, data.
//!
//! ```text
//! euler      x + h v
//! heun       the same with the mean of v and of the velocity at the next time, of what v leads to
//! sde-euler  x + h (v + eta/2 (t v - x)) + sqrt(eta (1 - t) h) noise;  the last step is Euler's
//! ```

use super::{Scheduler, levels::Levels};
use candle_core::{Result, Tensor, bail};

/// Euler's method on the velocity, with a share of noise, or with a second look.
pub(super) struct Flow {
    levels: Levels,
    /// Noise in a step, as a share of what keeps the distribution of each time.
    eta: f64,
    /// Whether the network is asked again at the next time.
    again: bool,
}

impl Flow {
    pub fn new(levels: Levels, eta: f64, again: bool) -> Self {
        Self { levels, eta, again }
    }
}

impl Scheduler for Flow {
    fn levels(&self) -> &Levels {
        &self.levels
    }

    fn needs_noise(&self, index: usize) -> bool {
        self.eta > 0.0 && index + 1 < self.levels.levels.len()
    }

    fn again_at(&self, index: usize) -> Option<f64> {
        self.levels.levels.get(index).filter(|_| self.again).map(|level| level.next)
    }

    fn step(&mut self, index: usize, prediction: &Tensor, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        let Some(level) = self.levels.levels.get(index) else {
            bail!("step {index} of a run of {} steps", self.levels.levels.len())
        };
        let (t, h) = (level.now, level.next - level.now);
        if !self.needs_noise(index) {
            return sample + (prediction * h)?;
        }
        let Some(noise) = noise else { bail!("step {index} needs noise") };
        let drift = (prediction + (((prediction * t)? - sample)? * (self.eta / 2.0))?)?;
        (sample + (drift * h)?)? + (noise * (self.eta * (1.0 - t) * h).sqrt())?
    }
}

#[cfg(test)]
mod tests {
    use crate::schedulers::{ScheduleConfig, Scheduler, SchedulerKind, Table, build};
    use candle_core::{Device, Tensor};

    fn sampler(kind: SchedulerKind, steps: usize, shift: f64, eta: f64) -> Box<dyn Scheduler> {
        build(&ScheduleConfig::flow(shift), kind, Table::Diffusers, steps, eta).unwrap()
    }

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, (1, values.len(), 1, 1), &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn times_are_shifted_as_noise_levels() {
        assert_eq!(sampler(SchedulerKind::Euler, 4, 1.0, 0.0).timesteps(), [0.0, 0.25, 0.5, 0.75]);
        let (times, k) = (sampler(SchedulerKind::Euler, 4, 3.0, 0.0).timesteps().to_vec(), 3.0);
        for (index, time) in times.into_iter().enumerate() {
            let sigma = 1.0 - index as f64 / 4.0;
            assert!((1.0 - time - k * sigma / (1.0 + (k - 1.0) * sigma)).abs() < 1e-15);
        }
    }

    /// The velocity of one data point leads to it from any noise, whatever the sampler's order.
    #[test]
    fn the_velocity_leads_from_noise_to_data() {
        let (noise, data) = (tensor(&[0.3, -1.0, 2.0]), tensor(&[1.5, 0.25, -0.75]));
        for kind in [SchedulerKind::Euler, SchedulerKind::Heun] {
            let mut sampler = sampler(kind, 5, 2.0, 0.0);
            let mut x = noise.clone();
            for index in 0..5 {
                let velocity = sampler.predict_from_x0(index, &data, &x).unwrap();
                let clean = sampler.predict_x0(index, &velocity, &x).unwrap();
                assert!(values(&clean).iter().zip(values(&data)).all(|(a, b)| (a - b).abs() < 1e-5));
                let under = sampler.noised(index, &data, &noise).unwrap();
                assert!(values(&under).iter().zip(values(&x)).all(|(a, b)| (a - b).abs() < 1e-5));
                assert_eq!(sampler.again_at(index).is_some(), kind == SchedulerKind::Heun);
                x = sampler.step(index, &velocity, &x, None).unwrap();
            }
            assert!(values(&x).iter().zip(values(&data)).all(|(a, b)| (a - b).abs() < 1e-5));
        }
    }

    #[test]
    fn noise_of_no_share_is_eulers_method_to_the_bit() {
        let (x, v) = (tensor(&[0.3, -1.0]), tensor(&[1.0, 0.5]));
        let (mut sde, mut euler) =
            (sampler(SchedulerKind::SdeEuler, 3, 1.0, 0.0), sampler(SchedulerKind::Euler, 3, 1.0, 0.0));
        assert!(!sde.needs_noise(0));
        let both = [&mut sde, &mut euler].map(|sampler| values(&sampler.step(1, &v, &x, None).unwrap()));
        assert_eq!(both[0], both[1]);
        let mut sde = sampler(SchedulerKind::SdeEuler, 2, 1.0, 0.5);
        assert_eq!([0, 1].map(|index| sde.needs_noise(index)), [true, false]);
        let moved = values(&sde.step(0, &v, &x, Some(&tensor(&[2.0, 0.0]))).unwrap());
        // t = 0, h = 1/2: x + (v - x/4)/2 + sqrt(1/4) noise
        assert!((moved[0] - (0.3 + (1.0 - 0.075) / 2.0 + 1.0)).abs() < 1e-6, "{moved:?}");
        assert!(sde.step(0, &v, &x, None).unwrap_err().to_string().contains("needs noise"));
    }

    #[test]
    fn other_samplers_have_no_such_form() {
        let flow = ScheduleConfig::flow(1.0);
        let refused =
            |config: &ScheduleConfig, kind, table, eta| build(config, kind, table, 4, eta).err().unwrap().to_string();
        let diffusers = Table::Diffusers;
        assert!(refused(&flow, SchedulerKind::Ddim, diffusers, 0.0).contains("euler, heun or sde-euler"));
        assert!(refused(&flow, SchedulerKind::Euler, diffusers, 0.5).contains("sde-euler"));
        assert!(refused(&flow, SchedulerKind::Euler, Table::Sat, 0.0).contains("--schedule sat"));
        let other = ScheduleConfig::zero_snr(1.0);
        for kind in [SchedulerKind::Heun, SchedulerKind::SdeEuler] {
            assert!(refused(&other, kind, diffusers, 0.0).contains("flow matching"));
        }
        for shift in [0.0, -1.0, f64::NAN] {
            assert!(refused(&ScheduleConfig::flow(shift), SchedulerKind::Euler, diffusers, 0.0).contains("`shift`"));
        }
        assert!(build(&flow, SchedulerKind::Euler, diffusers, 0, 0.0).is_err());
    }
}
