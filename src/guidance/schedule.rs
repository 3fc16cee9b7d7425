//! How a guidance scale goes over a run.

use crate::schedulers::Table;
use anyhow::{Result, anyhow};
use std::{f64::consts::PI, fmt, str::FromStr};

/// How the guidance scale goes over a run. Written `6`, `wave:6`, `ramp:1..6`.
///
/// A scale of 1 or less means no guidance, as in diffusers' pipelines: the conditional prediction alone, so the
/// unconditional half need not be computed ([`GuidanceSchedule::needs_uncond`]).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum GuidanceSchedule {
    Constant(f64),
    /// Dynamic guidance (diffusers' `use_dynamic_cfg`), `1 + s (1 - cos(pi ((n - t)/n)^5)) / 2` in f64, with t the raw timestep (999, 979, ..)
    /// and not the step, so the values swing between 1 and 1 + s (spec/ditctrl.md 1.4; diffusers' `use_dynamic_cfg`).
    Wave(f64),
    /// From the first value at the first step to the second at the last, in equal stages.
    Ramp {
        from: f64,
        to: f64,
    },
}

/// The number of steps in SAT's configuration of the guider, which stays what it is when a run has another number.
const SAT_GUIDER_STEPS: f64 = 50.0;

impl GuidanceSchedule {
    /// The scale at `step` of `steps`, where the network gets `timestep`; 1 where there is no guidance. A wave takes n to
    /// be `steps` in both places, as diffusers does.
    pub fn scale(&self, step: usize, steps: usize, timestep: f64) -> f64 {
        self.scale_in(Table::Diffusers, step, steps, timestep)
    }

    /// The scale as the program that `table` comes from has it: SAT's waves divide by 50 whatever the number of steps.
    /// The same for 50 steps.
    pub fn scale_in(&self, table: Table, step: usize, steps: usize, timestep: f64) -> f64 {
        self.value_in(table, step, steps, timestep).max(1.0)
    }

    /// The same where 1 is no bound: of rules in which a scale below 1 is one like any other.
    pub fn value_in(&self, table: Table, step: usize, steps: usize, timestep: f64) -> f64 {
        match *self {
            Self::Constant(scale) => scale,
            Self::Wave(scale) if scale <= 1.0 => 1.0, // diffusers decides by the scale it was given, before the wave
            Self::Wave(scale) => {
                let n = steps as f64;
                let period = if table == Table::Sat { SAT_GUIDER_STEPS } else { n };
                1.0 + scale * (1.0 - libm::cos(PI * libm::pow((n - timestep) / period, 5.0))) / 2.0
            }
            Self::Ramp { from, .. } if steps <= 1 => from,
            Self::Ramp { from, to } => {
                let way = step as f64 / (steps - 1) as f64;
                from * (1.0 - way) + to * way
            }
        }
    }

    /// Whether a step needs the unconditional prediction; where it does not, the scale is 1 and guidance would return the
    /// conditional one. A run that needs it at no step need not encode the unconditional text either.
    pub fn needs_uncond(&self, step: usize, steps: usize, timestep: f64) -> bool {
        match self {
            // one that touches 1 for a step is still a run with guidance, in both references
            Self::Wave(scale) => *scale > 1.0,
            _ => self.scale(step, steps, timestep) > 1.0,
        }
    }
}

impl FromStr for GuidanceSchedule {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |word: &str| {
            let value: f64 = word.trim().parse().ok()?;
            (value.is_finite() && value >= 0.0).then_some(value)
        };
        match text.split_once(':') {
            None => number(text).map(Self::Constant),
            Some(("constant", scale)) => number(scale).map(Self::Constant),
            Some(("wave", scale)) => number(scale).map(Self::Wave),
            Some(("ramp", ends)) => {
                ends.split_once("..").and_then(|(from, to)| Some(Self::Ramp { from: number(from)?, to: number(to)? }))
            }
            Some(_) => None,
        }
        .ok_or_else(|| anyhow!("\"{text}\" is no guidance scale: write a number from 0 up (6), wave:6 or ramp:1..6"))
    }
}

impl fmt::Display for GuidanceSchedule {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Constant(scale) => write!(f, "{scale}"),
            Self::Wave(scale) => write!(f, "wave:{scale}"),
            Self::Ramp { from, to } => write!(f, "ramp:{from}..{to}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wave_gives_the_values_of_the_specification() {
        // spec/ditctrl.md 1.4: steps 0-14 and 44-49 of 50, to the three decimals printed there
        const FIRST: [f64; 15] =
            [2.291, 2.544, 6.974, 6.420, 2.788, 4.272, 1.038, 4.170, 1.618, 6.983, 1.005, 2.872, 6.977, 1.633, 4.330];
        const LAST: [f64; 6] = [7.000, 6.864, 1.064, 1.000, 1.000, 1.123];
        let wave = GuidanceSchedule::Wave(6.0);
        let at = |step: usize| wave.scale(step, 50, 999.0 - 20.0 * step as f64);
        for (step, want) in FIRST.into_iter().enumerate().chain((44..50).zip(LAST)) {
            assert!((at(step) - want).abs() <= 5.1e-4, "step {step}: {} not {want}", at(step));
        }
        let mean: f64 = (0..50).map(at).sum::<f64>() / 50.0;
        assert!((mean - 3.82).abs() < 5e-3, "{mean}");
        // skipping the unconditional half there would not be exact
        assert!(at(47) - 1.0 < 5e-6 && at(47) > 1.0 && wave.needs_uncond(47, 50, 59.0));
    }

    #[test]
    fn both_forms_of_the_wave_agree_at_fifty_steps_only() {
        let wave = GuidanceSchedule::Wave(6.0);
        for step in 0..50 {
            let t = 999.0 - 20.0 * step as f64;
            assert_eq!(wave.scale_in(Table::Sat, step, 50, t), wave.scale_in(Table::Diffusers, step, 50, t));
        }
        // 4 steps, t = 999: ((4 - 999)/4)^5 and ((4 - 999)/50)^5 = -19.9^5
        let sat = 1.0 + 6.0 * (1.0 - (PI * 19.9f64.powi(5)).cos()) / 2.0;
        assert!((wave.scale_in(Table::Sat, 0, 4, 999.0) - sat).abs() < 1e-6);
        assert!((wave.scale(0, 4, 999.0) - sat).abs() > 0.1);
    }

    #[test]
    fn ramp_meets_its_ends() {
        let ramp = GuidanceSchedule::Ramp { from: 1.0, to: 6.0 };
        for step in 0..6 {
            assert!((ramp.scale(step, 6, 0.0) - (1.0 + step as f64)).abs() < 1e-14);
        }
        assert_eq!((ramp.scale(0, 50, 0.0), ramp.scale(49, 50, 0.0)), (1.0, 6.0));
        assert_eq!(GuidanceSchedule::Ramp { from: 0.7, to: 6.1 }.scale(9, 10, 0.0), 6.1);
        assert_eq!(GuidanceSchedule::Ramp { from: 3.0, to: 6.0 }.scale(0, 1, 0.0), 3.0);
        assert!(!ramp.needs_uncond(0, 6, 0.0) && ramp.needs_uncond(1, 6, 0.0));
    }

    #[test]
    fn one_and_less_is_no_guidance() {
        for schedule in ["1", "0.5", "0", "wave:1", "wave:0.5"].map(|text| text.parse::<GuidanceSchedule>().unwrap()) {
            for (step, t) in [(0, 999.0), (3, 249.0)] {
                assert_eq!(schedule.scale(step, 4, t), 1.0, "{schedule}");
                assert!(!schedule.needs_uncond(step, 4, t), "{schedule}");
            }
        }
        assert!(GuidanceSchedule::Constant(1.01).needs_uncond(0, 4, 999.0));
    }

    #[test]
    fn words_round_trip_and_others_are_refused() {
        for text in ["6", "7.5", "wave:6", "ramp:1..6", "ramp:1.5..0.25"] {
            assert_eq!(text.parse::<GuidanceSchedule>().unwrap().to_string(), text);
        }
        assert_eq!("constant:6".parse::<GuidanceSchedule>().unwrap(), GuidanceSchedule::Constant(6.0));
        for text in ["", "six", "wave", "wave:", "ramp:6", "ramp:1..", "nan", "inf", "-1", "saw:3", "wave:6:7"] {
            let error = text.parse::<GuidanceSchedule>().unwrap_err().to_string();
            assert!(error.contains("wave:6"), "{error}");
        }
    }
}
