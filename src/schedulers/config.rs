//! `scheduler/scheduler_config.json` of a model folder: its keys, and what they are where the file does not say, which
//! depends on the class that it names.
//!
//! Keys are those of diffusers' DDIMScheduler and its relatives. Which sampler a class stands for, and its defaults, are a
//! [`SchedulerClass`]: an architecture brings those of its own, and [`CLASSES`] are the common ones.

use super::SchedulerKind;
use anyhow::{Result, bail};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// More training timesteps than any model has; a table of this length is still small.
const MOST_TIMESTEPS: usize = 100_000;

/// A scheduler of diffusers that this program has a sampler for.
#[derive(Debug)]
pub struct SchedulerClass {
    /// `_class_name` of its `scheduler_config.json`.
    pub class: &'static str,
    pub kind: SchedulerKind,
    /// The values of keys that a file leaves out.
    pub defaults: fn() -> ScheduleConfig,
    /// Whether the class clips its estimates where its file does not say. None for a class that never does.
    pub clip_sample: Option<bool>,
}

/// The classes that belong to no single architecture.
pub static CLASSES: [SchedulerClass; 7] = [
    SchedulerClass {
        class: "DDIMScheduler",
        kind: SchedulerKind::Ddim,
        defaults: ScheduleConfig::default,
        clip_sample: Some(true),
    },
    SchedulerClass {
        class: "EulerDiscreteScheduler",
        kind: SchedulerKind::Euler,
        defaults: linspace,
        clip_sample: None,
    },
    SchedulerClass {
        class: "EulerAncestralDiscreteScheduler",
        kind: SchedulerKind::EulerAncestral,
        defaults: linspace,
        clip_sample: None,
    },
    SchedulerClass {
        class: "DPMSolverMultistepScheduler",
        kind: SchedulerKind::Dpmpp2m,
        defaults: linspace,
        clip_sample: None,
    },
    SchedulerClass {
        class: "UniPCMultistepScheduler",
        kind: SchedulerKind::UniPc,
        defaults: linspace,
        clip_sample: None,
    },
    SchedulerClass {
        class: "LCMScheduler",
        kind: SchedulerKind::Lcm,
        defaults: || ScheduleConfig {
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            ..ScheduleConfig::default()
        },
        clip_sample: Some(false),
    },
    SchedulerClass {
        class: "FlowMatchEulerDiscreteScheduler",
        kind: SchedulerKind::Euler,
        defaults: || ScheduleConfig::flow(1.0),
        clip_sample: None,
    },
];

fn linspace() -> ScheduleConfig {
    ScheduleConfig { timestep_spacing: TimestepSpacing::Linspace, ..ScheduleConfig::default() }
}

/// Keys of other spacings of the noise levels, none of which is built.
const SPACINGS: [&str; 5] =
    ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas"];

/// The keys of a `scheduler_config.json` as they stand in it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ScheduleKeys {
    #[serde(rename = "_class_name")]
    class_name: Option<String>,
    num_train_timesteps: Option<usize>,
    beta_start: Option<f64>,
    beta_end: Option<f64>,
    beta_schedule: Option<BetaSchedule>,
    trained_betas: Option<Vec<f64>>,
    set_alpha_to_one: Option<bool>,
    steps_offset: Option<usize>,
    prediction_type: Option<PredictionType>,
    timestep_spacing: Option<TimestepSpacing>,
    rescale_betas_zero_snr: Option<bool>,
    snr_shift_scale: Option<f64>,
    shift: Option<f64>,
    clip_sample: Option<bool>,
    original_inference_steps: Option<usize>,
    timestep_scaling: Option<f64>,
    algorithm_type: Option<String>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

impl ScheduleKeys {
    /// The schedule, by the defaults of the class that runs: the first of sampler `runs` where that is not the one of the class
    /// that the file names. Classes are `own`, those of the model's architecture, then [`CLASSES`]; one that is none of
    /// them, or is not named, has diffusers' common defaults and no sampler of its own ([`ScheduleConfig::kind`]).
    ///
    /// # Errors
    /// Where the class that is named would clip its estimates, which no sampler here does.
    pub fn config(self, own: &[SchedulerClass], runs: Option<SchedulerKind>) -> Result<ScheduleConfig> {
        let name = self.class_name.as_deref();
        let all = || own.iter().chain(&CLASSES);
        let class = all().find(|class| Some(class.class) == name);
        let other = |kind: &SchedulerKind| class.is_none_or(|class| class.kind != *kind);
        let named = class.map_or_else(ScheduleConfig::default, |class| (class.defaults)());
        // what a network of flow matching was trained on no other class says
        let running = runs.filter(|_| !named.is_flow()).filter(other);
        let running = running.and_then(|kind| all().find(|class| class.kind == kind));
        let defaults = running.map_or(named, |class| (class.defaults)());
        let shift = if defaults.is_flow() { self.shift } else { self.snr_shift_scale };
        let on = |key: &&&str| self.others.get(**key).is_some_and(|value| value == true);
        let respaced = match &self.algorithm_type {
            Some(other) if other != "dpmsolver++" => Some("algorithm_type"),
            _ => SPACINGS.iter().find(on).copied(),
        };
        let clips = class.and_then(|class| class.clip_sample).is_some_and(|clips| self.clip_sample.unwrap_or(clips));
        if clips {
            bail!("scheduler_config.json: `clip_sample` is true, which is not supported: models of latents have false")
        }
        Ok(ScheduleConfig {
            num_train_timesteps: self.num_train_timesteps.unwrap_or(defaults.num_train_timesteps),
            beta_start: self.beta_start.unwrap_or(defaults.beta_start),
            beta_end: self.beta_end.unwrap_or(defaults.beta_end),
            beta_schedule: self.beta_schedule.unwrap_or(defaults.beta_schedule),
            trained_betas: self.trained_betas.or(defaults.trained_betas),
            set_alpha_to_one: self.set_alpha_to_one.unwrap_or(defaults.set_alpha_to_one),
            steps_offset: self.steps_offset.unwrap_or(defaults.steps_offset),
            prediction_type: match defaults.prediction_type {
                PredictionType::Flow => PredictionType::Flow,
                other => self.prediction_type.unwrap_or(other),
            },
            timestep_spacing: self.timestep_spacing.unwrap_or(defaults.timestep_spacing),
            rescale_betas_zero_snr: self.rescale_betas_zero_snr.unwrap_or(defaults.rescale_betas_zero_snr),
            snr_shift_scale: shift.unwrap_or(defaults.snr_shift_scale),
            original_inference_steps: self.original_inference_steps.unwrap_or(defaults.original_inference_steps),
            timestep_scaling: self.timestep_scaling.unwrap_or(defaults.timestep_scaling),
            respaced: respaced.map(str::to_owned),
            kind: class.map(|class| class.kind),
            class_name: self.class_name,
        })
    }
}

/// The noise schedule of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleConfig {
    pub class_name: Option<String>,
    /// The sampler of the class, where there is one.
    pub kind: Option<SchedulerKind>,
    pub num_train_timesteps: usize,
    pub beta_start: f64,
    pub beta_end: f64,
    pub beta_schedule: BetaSchedule,
    /// Given betas, one for each training timestep, instead of a formula.
    pub trained_betas: Option<Vec<f64>>,
    /// The level after timestep 0: 1 (no noise at all), or that of timestep 0 again.
    pub set_alpha_to_one: bool,
    /// Added to the timesteps of `leading` spacing.
    pub steps_offset: usize,
    pub prediction_type: PredictionType,
    pub timestep_spacing: TimestepSpacing,
    /// Shifts the table so that the last timestep has no signal left (Lin et al. 2023, arXiv 2305.08891, algorithm 1).
    pub rescale_betas_zero_snr: bool,
    /// Divides the signal-to-noise ratio of every level; before the rescale. 1 where a class has no such key. Of flow matching
    /// its `shift`, which divides the signal by the noise.
    pub snr_shift_scale: f64,
    /// Timesteps that a consistency model was distilled on.
    pub original_inference_steps: usize,
    /// Factor on the timestep in what binds a consistency model at time 0.
    pub timestep_scaling: f64,
    /// The key, where the file asks for another spacing of the levels, or another solver, than are built.
    pub respaced: Option<String>,
}

impl Default for ScheduleConfig {
    /// diffusers' common defaults, those of its DDIMScheduler.
    fn default() -> Self {
        Self {
            class_name: None,
            kind: None,
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            set_alpha_to_one: true,
            steps_offset: 0,
            prediction_type: PredictionType::Epsilon,
            timestep_spacing: TimestepSpacing::Leading,
            rescale_betas_zero_snr: false,
            snr_shift_scale: 1.0,
            original_inference_steps: 50,
            timestep_scaling: 10.0,
            respaced: None,
        }
    }
}

impl ScheduleConfig {
    /// A schedule without signal at its last timestep: scaled linear betas (0.00085 to 0.012), zero terminal SNR,
    /// v-prediction, trailing timesteps, and the signal-to-noise ratio divided by `snr_shift_scale`.
    pub fn zero_snr(snr_shift_scale: f64) -> Self {
        Self {
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            prediction_type: PredictionType::VPrediction,
            timestep_spacing: TimestepSpacing::Trailing,
            rescale_betas_zero_snr: true,
            snr_shift_scale,
            ..Self::default()
        }
    }

    /// Of flow matching, whose times are shifted.
    pub fn flow(shift: f64) -> Self {
        Self { prediction_type: PredictionType::Flow, snr_shift_scale: shift, ..Self::default() }
    }

    /// Whether the network says a velocity between noise and data, so that there are times and no levels of noise.
    pub fn is_flow(&self) -> bool {
        self.prediction_type == PredictionType::Flow
    }

    /// The sampler that the file names.
    pub fn kind(&self) -> Result<SchedulerKind> {
        match (self.kind, &self.class_name) {
            (Some(kind), _) => Ok(kind),
            (None, None) => bail!("scheduler_config.json: `_class_name` is missing"),
            (None, Some(name)) => {
                bail!(
                    "scheduler_config.json: `_class_name` is \"{name}\", which is not supported: use --scheduler ddim"
                )
            }
        }
    }

    /// Refuses values outside their range, naming the key.
    pub(super) fn check(&self) -> Result<()> {
        let timesteps = self.num_train_timesteps;
        if !(1..=MOST_TIMESTEPS).contains(&timesteps) {
            bail!("scheduler_config.json: `num_train_timesteps` is {timesteps}, not between 1 and {MOST_TIMESTEPS}")
        }
        match &self.trained_betas {
            Some(betas) if betas.len() != timesteps => bail!(
                "scheduler_config.json: `trained_betas` has {} values, `num_train_timesteps` is {timesteps}",
                betas.len()
            ),
            Some(betas) => {
                for &beta in betas {
                    open_unit("trained_betas", beta)?;
                }
            }
            None if self.beta_schedule == BetaSchedule::SquaredcosCapV2 => {}
            None => {
                open_unit("beta_start", self.beta_start)?;
                open_unit("beta_end", self.beta_end)?;
            }
        }
        if !(self.timestep_scaling.is_finite() && self.timestep_scaling > 0.0) {
            bail!("scheduler_config.json: `timestep_scaling` is {}, it must be above 0", self.timestep_scaling)
        }
        if !(self.snr_shift_scale.is_finite() && self.snr_shift_scale > 0.0) {
            bail!("scheduler_config.json: `snr_shift_scale` is {}, it must be above 0", self.snr_shift_scale)
        }
        Ok(())
    }
}

fn open_unit(key: &str, beta: f64) -> Result<()> {
    if !(beta > 0.0 && beta < 1.0) {
        bail!("scheduler_config.json: `{key}` holds {beta}, a beta must lie between 0 and 1")
    }
    Ok(())
}

/// How the noise grows over the training timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    Linear,
    /// Linear in the square root.
    ScaledLinear,
    /// The cosine schedule (Nichol and Dhariwal 2021, arXiv 2102.09672), betas at most 0.999.
    SquaredcosCapV2,
}

/// What the network predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise.
    Epsilon,
    /// The clean sample.
    Sample,
    /// The velocity (Salimans and Ho 2022, arXiv 2202.00512).
    VPrediction,
    /// The velocity of flow matching, data less noise; no key says it, a class does.
    #[serde(skip)]
    Flow,
}

/// How the visited timesteps are chosen (arXiv 2305.08891, table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    Linspace,
    Leading,
    Trailing,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedulers::{Table, build};

    fn read(text: &str, own: &[SchedulerClass]) -> Result<ScheduleConfig> {
        serde_json::from_str::<ScheduleKeys>(text)?.config(own, None)
    }

    #[test]
    fn defaults_are_those_of_the_class() {
        let own = [SchedulerClass {
            class: "ToyScheduler",
            kind: SchedulerKind::Dpmpp2mSde,
            defaults: || ScheduleConfig::zero_snr(3.0),
            clip_sample: None,
        }];
        let config =
            read(r#"{"_class_name": "ToyScheduler", "clip_sample": true, "new_key": 1, "beta_end": 0.01}"#, &own);
        let config = config.unwrap();
        assert_eq!(config.kind().unwrap(), SchedulerKind::Dpmpp2mSde);
        let class = config.class_name.clone();
        let kind = config.kind;
        assert_eq!(config, ScheduleConfig { class_name: class, kind, beta_end: 0.01, ..ScheduleConfig::zero_snr(3.0) });
        // the shift is a key of some classes only
        let config = read(r#"{"_class_name": "DDIMScheduler", "clip_sample": false}"#, &own).unwrap();
        assert_eq!((config.kind().unwrap(), config.snr_shift_scale), (SchedulerKind::Ddim, 1.0));
        assert_eq!((config.beta_end, config.beta_schedule), (0.02, BetaSchedule::Linear));
        for text in ["{}", r#"{"_class_name": "OtherScheduler"}"#] {
            let config = read(text, &own).unwrap();
            assert!(config.kind().unwrap_err().to_string().contains("_class_name"));
        }
    }

    #[test]
    fn defaults_are_those_of_the_class_that_runs() {
        let read = |text: &str, own: &[SchedulerClass], kind| {
            let config = serde_json::from_str::<ScheduleKeys>(text).unwrap().config(own, Some(kind)).unwrap();
            (config.timestep_spacing, config.set_alpha_to_one, config.kind)
        };
        let own = [SchedulerClass {
            class: "PNDMScheduler",
            kind: SchedulerKind::Ddim,
            defaults: ScheduleConfig::default,
            clip_sample: None,
        }];
        use TimestepSpacing::{Leading, Linspace, Trailing};
        let file = r#"{"_class_name": "PNDMScheduler", "set_alpha_to_one": false, "skip_prk_steps": true}"#;
        assert_eq!(read(file, &own, SchedulerKind::Ddim), (Leading, false, Some(SchedulerKind::Ddim)));
        assert_eq!(read(file, &own, SchedulerKind::Dpmpp2m), (Linspace, false, Some(SchedulerKind::Ddim)));
        assert_eq!(read(file, &[], SchedulerKind::Ddim), (Leading, false, None));
        let euler = r#"{"_class_name": "EulerDiscreteScheduler"}"#;
        assert_eq!(read(euler, &[], SchedulerKind::Ddim), (Leading, true, Some(SchedulerKind::Euler)));
        assert_eq!(read(euler, &[], SchedulerKind::Euler).0, Linspace);
        let trailing = r#"{"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}"#;
        assert_eq!(read(trailing, &[], SchedulerKind::EulerAncestral).0, Trailing);
        let respaced = |text: &str| {
            let config = serde_json::from_str::<ScheduleKeys>(text).unwrap().config(&[], None).unwrap();
            config.respaced
        };
        assert_eq!(respaced(r#"{"use_karras_sigmas": false, "use_beta_sigmas": true}"#).unwrap(), "use_beta_sigmas");
        assert_eq!(respaced(r#"{"algorithm_type": "sde-dpmsolver++"}"#).unwrap(), "algorithm_type");
        assert_eq!(respaced(r#"{"algorithm_type": "dpmsolver++", "use_lu_lambdas": null}"#), None);
    }

    #[test]
    fn estimates_that_would_be_clipped_are_refused() {
        for text in [r#"{"_class_name": "DDIMScheduler"}"#, r#"{"_class_name": "DDIMScheduler", "clip_sample": true}"#]
        {
            assert!(read(text, &[]).unwrap_err().to_string().contains("clip_sample"));
        }
    }

    #[test]
    fn unknown_words_name_their_key() {
        for key in ["beta_schedule", "prediction_type", "timestep_spacing"] {
            let text = format!(r#"{{"{key}": "other"}}"#);
            // as the file of a model is read
            let read = &mut serde_json::Deserializer::from_str(&text);
            let error = serde_path_to_error::deserialize::<_, ScheduleKeys>(read).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("other"), "{error}");
        }
    }

    #[test]
    fn values_out_of_range_name_their_key() {
        for (key, value) in [
            ("num_train_timesteps", "0"),
            ("num_train_timesteps", "1000000000"),
            ("beta_start", "0"),
            ("beta_start", "-0.1"),
            ("beta_end", "1"),
            ("trained_betas", "[0.1, 0.2]"),
            ("snr_shift_scale", "0"),
            ("timestep_scaling", "0"),
            ("steps_offset", "999"),
            ("steps_offset", "18446744073709551615"),
        ] {
            let config = read(&format!(r#"{{"{key}": {value}}}"#), &[]).unwrap();
            let error = build(&config, SchedulerKind::Ddim, Table::Diffusers, 4, 0.0).err().unwrap().to_string();
            assert!(error.contains(&format!("`{key}`")), "{key} {value}: {error}");
        }
    }
}
