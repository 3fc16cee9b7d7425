//! Noise schedules and samplers. A scheduler knows the noise levels and how to take a step; it draws no random numbers
//! (noise is an argument) and works on the whole timeline in f32.
//!
//! Two samplers: DDIM ([`SchedulerKind::Ddim`]) and the SDE form of DPM-Solver++ 2M
//! ([`SchedulerKind::Dpmpp2mSde`]). Both run on either of two tables of noise levels: diffusers' and that of SAT, the
//! framework of the original release ([`Table`]); the levels of each step are in `levels`, the two update rules in `ddim`
//! and `dpmpp_2m`.

mod config;
mod ddim;
mod dpmpp_2m;
mod levels;

pub use config::{
    BetaSchedule, CLASSES, PredictionType, ScheduleConfig, ScheduleKeys, SchedulerClass, TimestepSpacing,
};

use crate::words::words;
use anyhow::{Result as AnyResult, bail};
use candle_core::{Result, Tensor};

/// A sampler over a fixed list of timesteps.
pub trait Scheduler {
    /// Timesteps in the order they are visited; what the network gets.
    fn timesteps(&self) -> &[f64];

    /// Factor on the initial unit noise.
    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    /// Whether step `index` adds fresh noise.
    fn needs_noise(&self, index: usize) -> bool;

    /// One step: `prediction` is the (guided) network output for `sample` at `timesteps()[index]`, all `[F, C, H, W]` in
    /// f32. Steps are taken in order; `noise` is unit noise of the same shape where [`Scheduler::needs_noise`] says so, and
    /// not looked at elsewhere. Fails on an index past the end, on missing noise or missing state and on unequal shapes.
    fn step(&mut self, index: usize, prediction: &Tensor, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor>;

    /// The estimate of the clean sample at step `index`.
    fn predict_x0(&self, index: usize, prediction: &Tensor, sample: &Tensor) -> Result<Tensor>;

    /// The prediction at step `index` whose estimate of the clean sample is `x0`: what keeps known frames what they are,
    /// whatever the network says of them. Finite also where `sample` is noise alone.
    fn predict_from_x0(&self, index: usize, x0: &Tensor, sample: &Tensor) -> Result<Tensor>;

    /// The clean sample `x0` under unit noise, as it is before step `index`.
    fn noised(&self, index: usize, x0: &Tensor, noise: &Tensor) -> Result<Tensor>;

    /// What must be kept to go on after `index` steps (multi-step samplers keep the last estimate).
    fn state(&self) -> Option<Tensor>;

    /// Goes on from a kept state.
    fn restore(&mut self, state: Option<Tensor>);
}

words!(
    /// The samplers.
    #[derive(Hash)]
    SchedulerKind, "scheduler", {
        /// diffusers' DDIMScheduler and its relatives; SAT's VideoDDIMSampler.
        Ddim = "ddim",
        /// DPM-Solver++ 2M as a stochastic equation; SAT's VPSDEDPMPP2MSampler.
        Dpmpp2mSde = "dpmpp-2m-sde" | "dpm",
    }
);

words!(
    /// Which timesteps are visited, and at which noise levels.
    #[derive(Hash)]
    Table, "schedule", {
        /// One table over all training timesteps, everywhere; timesteps by the config's `timestep_spacing`.
        Diffusers = "diffusers",
        /// SAT's: its own timesteps, and the zero-SNR rescale applied to the chosen levels only (spec/ditctrl.md 1.4).
        Sat = "sat",
    }
);

/// A sampler for a run of `steps` steps.
///
/// `eta` in `0..=1` is the share of DDPM's noise that DDIM adds (0: none); the SDE sampler has no such setting, and
/// another value than 0 is refused there rather than ignored. Fails, naming the key of `scheduler_config.json` or the
/// flag, on values outside their range and on combinations that give no finite step.
pub fn build(
    config: &ScheduleConfig,
    kind: SchedulerKind,
    table: Table,
    steps: usize,
    eta: f64,
) -> AnyResult<Box<dyn Scheduler>> {
    if !(0.0..=1.0).contains(&eta) {
        bail!("--eta is {eta}: it must lie between 0 and 1")
    }
    let levels = levels::Levels::new(config, table, steps)?;
    match kind {
        SchedulerKind::Ddim => Ok(Box::new(ddim::Ddim::new(levels, eta)?)),
        SchedulerKind::Dpmpp2mSde if eta != 0.0 => {
            bail!(
                "--eta {eta} has no effect on {kind}, which always adds its full noise: use it with ddim, or leave it out"
            )
        }
        SchedulerKind::Dpmpp2mSde => Ok(Box::new(dpmpp_2m::Dpmpp2m::new(levels)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for kind in [SchedulerKind::Ddim, SchedulerKind::Dpmpp2mSde] {
            assert_eq!(kind.to_string().parse::<SchedulerKind>().unwrap(), kind);
        }
        for table in [Table::Diffusers, Table::Sat] {
            assert_eq!(table.to_string().parse::<Table>().unwrap(), table);
        }
        assert_eq!("dpm".parse::<SchedulerKind>().unwrap(), SchedulerKind::Dpmpp2mSde);
        assert!("euler".parse::<SchedulerKind>().unwrap_err().to_string().contains("dpmpp-2m-sde"));
        assert!("other".parse::<Table>().is_err());
    }

    #[test]
    fn bad_eta_is_refused() {
        let config = ScheduleConfig::zero_snr(3.0);
        let refused = |kind, eta| build(&config, kind, Table::Diffusers, 4, eta).err().unwrap().to_string();
        assert!(refused(SchedulerKind::Ddim, -0.1).contains("--eta"));
        assert!(refused(SchedulerKind::Ddim, 1.5).contains("--eta"));
        assert!(refused(SchedulerKind::Ddim, f64::NAN).contains("--eta"));
        assert!(refused(SchedulerKind::Dpmpp2mSde, 0.5).contains("ddim"));
    }
}
