//! Noise schedules and samplers. A scheduler knows the noise levels and how to take a step; it draws no random numbers
//! (noise is an argument) and works on the whole timeline in f32.
//!
//! A sampler ([`SchedulerKind`]) is an update rule on a list of noise levels. There are five rules: that of DDIM (`ddim`), of
//! DPM-Solver++ 2M (`dpmpp_2m`), of UniPC (`unipc`), of consistency models (`lcm`) and of flow matching (`flow`). The lists are in `levels`: diffusers' and that of SAT, the
//! framework of the original release ([`Table`]), and those of diffusers' other classes.
//!
//! Samples are in the scale of the network's input throughout, `sqrt(a) x0 + sqrt(1 - a) noise`. diffusers' Euler classes keep
//! theirs in another, `x0 + sigma noise`, and scale them before each call of the network; in this one Euler's method is
//! DDIM's on a list of its own, and Euler's ancestral one is DDIM's with all of its noise.

mod config;
mod ddim;
mod dpmpp_2m;
mod flow;
mod lcm;
mod levels;
mod unipc;

pub use config::{
    BetaSchedule, CLASSES, PredictionType, ScheduleConfig, ScheduleKeys, SchedulerClass, TimestepSpacing,
};

use crate::words::words;
use anyhow::{Result as AnyResult, bail};
use candle_core::{Result, Tensor};
use levels::Levels;
use std::ops::Range;

/// A sampler over a fixed list of timesteps.
pub trait Scheduler {
    /// The noise levels that its steps go through.
    fn levels(&self) -> &Levels;

    /// Timesteps in the order they are visited; what the network gets.
    fn timesteps(&self) -> &[f64] {
        &self.levels().timesteps
    }

    /// Factor on the initial unit noise.
    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    /// The next step taken will be `index`, of a sample that no step before it has made: what is known of earlier steps is
    /// forgotten, and a sampler of several steps begins anew.
    fn begin_at(&mut self, _index: usize) {}

    /// Whether step `index` adds fresh noise.
    fn needs_noise(&self, index: usize) -> bool;

    /// The timestep at which step `index` asks the network a second time, of what the first prediction leads to by
    /// [`Scheduler::step`] alone; the step itself then takes the mean of both predictions. None where once is enough.
    fn again_at(&self, _index: usize) -> Option<f64> {
        None
    }

    /// One step: `prediction` is the (guided) network output for `sample` at `timesteps()[index]`, all `[F, C, H, W]` in
    /// f32. Steps are taken in order; `noise` is unit noise of the same shape where [`Scheduler::needs_noise`] says so, and
    /// not looked at elsewhere. Fails on an index past the end, on missing noise or missing state and on unequal shapes.
    fn step(&mut self, index: usize, prediction: &Tensor, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor>;

    /// The estimate of the clean sample at step `index`.
    fn predict_x0(&self, index: usize, prediction: &Tensor, sample: &Tensor) -> Result<Tensor> {
        self.levels().x0(index, prediction, sample)
    }

    /// The prediction at step `index` whose estimate of the clean sample is `x0`: what keeps known frames what they are,
    /// whatever the network says of them. Finite also where `sample` is noise alone.
    fn predict_from_x0(&self, index: usize, x0: &Tensor, sample: &Tensor) -> Result<Tensor> {
        self.levels().prediction(index, x0, sample)
    }

    /// The clean sample `x0` under unit noise, as it is before step `index`.
    fn noised(&self, index: usize, x0: &Tensor, noise: &Tensor) -> Result<Tensor> {
        self.levels().noised(index, x0, noise)
    }

    /// What must be kept to go on after `index` steps (multi-step samplers keep the last estimate).
    fn state(&self) -> Option<Tensor> {
        None
    }

    /// Goes on from a kept state.
    fn restore(&mut self, _state: Option<Tensor>) {}
}

words!(
    /// The samplers.
    #[derive(Hash)]
    SchedulerKind, "scheduler", {
        /// diffusers' DDIMScheduler and its relatives; SAT's VideoDDIMSampler.
        Ddim = "ddim",
        /// DPM-Solver++ 2M as a stochastic equation; SAT's VPSDEDPMPP2MSampler.
        Dpmpp2mSde = "dpmpp-2m-sde" | "dpm",
        /// DPM-Solver++ 2M, midpoint, without noise: diffusers' DPMSolverMultistepScheduler.
        Dpmpp2m = "dpmpp-2m",
        /// Euler's method: diffusers' EulerDiscreteScheduler; of flow matching its FlowMatchEulerDiscreteScheduler.
        Euler = "euler",
        /// The same with fresh noise in every step: diffusers' EulerAncestralDiscreteScheduler.
        EulerAncestral = "euler-ancestral" | "euler-a",
        /// UniPC of order two: diffusers' UniPCMultistepScheduler.
        UniPc = "unipc",
        /// For latent consistency models: diffusers' LCMScheduler.
        Lcm = "lcm",
        /// Heun's method of flow matching: the network is asked twice a step.
        Heun = "heun",
        /// Euler's method of flow matching with fresh noise in every step.
        SdeEuler = "sde-euler",
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
/// `eta` in `0..=1` is the share of DDPM's noise that DDIM adds (0: none), or of the noise of `sde-euler`; the others have no
/// such setting, and another value than 0 is refused there rather than ignored. Fails, naming the key of `scheduler_config.json` or the
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
    if config.is_flow() {
        return flow(config, kind, table, steps, eta);
    }
    if matches!(kind, SchedulerKind::Heun | SchedulerKind::SdeEuler) {
        bail!(
            "--scheduler {kind} is for models of flow matching, and this one has noise levels: use dpmpp-2m, or leave it out"
        )
    }
    if kind != SchedulerKind::Ddim && eta != 0.0 {
        bail!("--eta {eta} has no effect on {kind}, whose noise is its own: use it with ddim, or leave it out")
    }
    if table == Table::Sat && !matches!(kind, SchedulerKind::Ddim | SchedulerKind::Dpmpp2mSde) {
        bail!("--schedule {table} has no levels for {kind}: use --schedule diffusers, or --scheduler ddim or dpm")
    }
    if let (SchedulerKind::Euler | SchedulerKind::Dpmpp2m | SchedulerKind::UniPc, Some(key)) = (kind, &config.respaced)
    {
        bail!("scheduler_config.json: `{key}` is on, which is not supported: use --scheduler ddim")
    }
    Ok(match kind {
        SchedulerKind::Ddim => Box::new(ddim::Ddim::new(Levels::new(config, table, steps)?, eta)?),
        SchedulerKind::Dpmpp2mSde => Box::new(dpmpp_2m::Dpmpp2m::new(Levels::new(config, table, steps)?, true)?),
        SchedulerKind::Dpmpp2m => Box::new(dpmpp_2m::Dpmpp2m::new(Levels::of_multistep(config, steps)?, false)?),
        SchedulerKind::Euler | SchedulerKind::Heun | SchedulerKind::SdeEuler => {
            Box::new(ddim::Ddim::new(Levels::of_sigmas(config, steps)?, 0.0)?)
        }
        SchedulerKind::EulerAncestral => Box::new(ddim::Ddim::new(Levels::of_sigmas(config, steps)?, 1.0)?),
        SchedulerKind::UniPc => Box::new(unipc::UniPc::new(Levels::of_multistep(config, steps)?)?),
        SchedulerKind::Lcm => Box::new(lcm::Lcm::new(Levels::of_consistency(config, steps)?, config.timestep_scaling)),
    })
}

/// [`build`] for a model of flow matching.
fn flow(
    config: &ScheduleConfig,
    kind: SchedulerKind,
    table: Table,
    steps: usize,
    eta: f64,
) -> AnyResult<Box<dyn Scheduler>> {
    if !matches!(kind, SchedulerKind::Euler | SchedulerKind::Heun | SchedulerKind::SdeEuler) {
        bail!("--scheduler {kind} has no form for flow matching, which this model needs: use euler, heun or sde-euler")
    }
    if table == Table::Sat {
        bail!("--schedule {table} has no levels for flow matching: leave it out")
    }
    if kind != SchedulerKind::SdeEuler && eta != 0.0 {
        bail!("--eta {eta} has no effect on {kind}, which adds no noise: use it with sde-euler, or leave it out")
    }
    Ok(Box::new(flow::Flow::new(Levels::of_flow(config, steps)?, eta, kind == SchedulerKind::Heun)))
}

/// The share of the signal's power that the noise of some training timesteps leaves: the product of `1 - beta` over them. What
/// is at the level before them is taken to that of the last by `sqrt(p) x + sqrt(1 - p) noise` (DDPM's forward process).
///
/// # Errors
/// Timesteps beyond the schedule's, and values of it out of their range.
pub fn signal_kept(config: &ScheduleConfig, timesteps: Range<usize>) -> AnyResult<f64> {
    levels::signal_kept(config, timesteps)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those on noise levels.
    const KINDS: [SchedulerKind; 7] = [
        SchedulerKind::Ddim,
        SchedulerKind::Dpmpp2mSde,
        SchedulerKind::Dpmpp2m,
        SchedulerKind::Euler,
        SchedulerKind::EulerAncestral,
        SchedulerKind::UniPc,
        SchedulerKind::Lcm,
    ];

    #[test]
    fn words_round_trip() {
        for kind in [&KINDS[..], &[SchedulerKind::Heun, SchedulerKind::SdeEuler]].concat() {
            assert_eq!(kind.to_string().parse::<SchedulerKind>().unwrap(), kind);
        }
        for table in [Table::Diffusers, Table::Sat] {
            assert_eq!(table.to_string().parse::<Table>().unwrap(), table);
        }
        assert_eq!("dpm".parse::<SchedulerKind>().unwrap(), SchedulerKind::Dpmpp2mSde);
        assert_eq!("euler-a".parse::<SchedulerKind>().unwrap(), SchedulerKind::EulerAncestral);
        assert!("dopri".parse::<SchedulerKind>().unwrap_err().to_string().contains("dpmpp-2m-sde"));
        assert!("other".parse::<Table>().is_err());
    }

    /// spec/text2video-zero.md 14.2 and 1.5.
    #[test]
    fn noise_of_some_timesteps_is_that_of_their_product() {
        let sd = ScheduleConfig {
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            ..ScheduleConfig::default()
        };
        let kept = signal_kept(&sd, 881..941).unwrap();
        assert!((kept.sqrt() - 0.7287416477891286).abs() < 1e-12, "{}", kept.sqrt());
        assert!(((1.0 - kept).sqrt() - 0.6847887344119977).abs() < 1e-12);
        assert!((signal_kept(&sd, 0..882).unwrap() - 0.0171852).abs() < 5e-8);
        assert_eq!(signal_kept(&sd, 7..7).unwrap(), 1.0);
        assert!(signal_kept(&sd, 990..1001).unwrap_err().to_string().contains("1000"));
    }

    #[test]
    fn bad_eta_is_refused() {
        let config = ScheduleConfig::zero_snr(3.0);
        let refused = |kind, eta| build(&config, kind, Table::Diffusers, 4, eta).err().unwrap().to_string();
        assert!(refused(SchedulerKind::Ddim, -0.1).contains("--eta"));
        assert!(refused(SchedulerKind::Ddim, 1.5).contains("--eta"));
        assert!(refused(SchedulerKind::Ddim, f64::NAN).contains("--eta"));
        for kind in &KINDS[1..] {
            assert!(refused(*kind, 0.5).contains("ddim"));
        }
    }

    #[test]
    fn what_a_sampler_cannot_do_is_said() {
        let config = ScheduleConfig { respaced: Some("use_karras_sigmas".to_owned()), ..ScheduleConfig::default() };
        for kind in KINDS {
            let sat = build(&config, kind, Table::Sat, 4, 0.0);
            let both = matches!(kind, SchedulerKind::Ddim | SchedulerKind::Dpmpp2mSde);
            assert_eq!(sat.is_ok(), both, "{kind}");
            assert!(sat.err().is_none_or(|error| error.to_string().contains("--schedule diffusers")));
            let spaced = build(&config, kind, Table::Diffusers, 4, 0.0).err().map(|error| error.to_string());
            let refuses = matches!(kind, SchedulerKind::Euler | SchedulerKind::Dpmpp2m | SchedulerKind::UniPc);
            assert_eq!(spaced.is_some_and(|error| error.contains("`use_karras_sigmas`")), refuses, "{kind}");
        }
        let many = build(&config, SchedulerKind::Lcm, Table::Diffusers, 51, 0.0).err().unwrap().to_string();
        assert!(many.contains("--steps is 51") && many.contains("50"), "{many}");
        let config = ScheduleConfig { original_inference_steps: 0, ..config };
        let none = build(&config, SchedulerKind::Lcm, Table::Diffusers, 1, 0.0).err().unwrap().to_string();
        assert!(none.contains("`original_inference_steps` is 0"), "{none}");
    }
}
