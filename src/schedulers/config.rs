//! `scheduler/scheduler_config.json` of a model folder.
//!
//! Keys and defaults are those of diffusers' CogVideoXDDIMScheduler and CogVideoXDPMScheduler, which have the same ones.
//! Keys that neither class uses when it samples (`clip_sample`, `clip_sample_range`, `sample_max_value`) are ignored here
//! as well.

use super::SchedulerKind;
use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// More training timesteps than any model has; a table of this length is still small.
const MOST_TIMESTEPS: usize = 100_000;

/// The noise schedule of a model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct ScheduleConfig {
    #[serde(rename = "_class_name")]
    pub class_name: Option<String>,
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
    /// Divides the signal-to-noise ratio of every level; before the rescale.
    pub snr_shift_scale: f64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            class_name: None,
            num_train_timesteps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            trained_betas: None,
            set_alpha_to_one: true,
            steps_offset: 0,
            prediction_type: PredictionType::Epsilon,
            timestep_spacing: TimestepSpacing::Leading,
            rescale_betas_zero_snr: false,
            snr_shift_scale: 3.0,
        }
    }
}

impl ScheduleConfig {
    /// What the CogVideoX folders say: scaled linear betas, zero terminal SNR, v-prediction, trailing timesteps. The shift
    /// is 3 for CogVideoX-2b and 1 for 5b and 1.5.
    pub fn cogvideox(snr_shift_scale: f64) -> Self {
        Self {
            prediction_type: PredictionType::VPrediction,
            timestep_spacing: TimestepSpacing::Trailing,
            rescale_betas_zero_snr: true,
            snr_shift_scale,
            ..Self::default()
        }
    }

    /// The sampler that the file names.
    pub fn kind(&self) -> Result<SchedulerKind> {
        SchedulerKind::from_class_name(
            self.class_name.as_deref().context("scheduler_config.json: `_class_name` is missing")?,
        )
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

    #[test]
    fn defaults_are_those_of_the_class() {
        let config: ScheduleConfig =
            serde_json::from_str(r#"{"_class_name": "CogVideoXDPMScheduler", "new_key": 1}"#).unwrap();
        assert_eq!(config.kind().unwrap(), SchedulerKind::Dpmpp2mSde);
        assert_eq!(config, ScheduleConfig { class_name: config.class_name.clone(), ..ScheduleConfig::default() });
        let config: ScheduleConfig = serde_json::from_str("{}").unwrap();
        assert!(config.kind().unwrap_err().to_string().contains("_class_name"));
    }

    #[test]
    fn unknown_words_name_their_key() {
        for key in ["beta_schedule", "prediction_type", "timestep_spacing"] {
            let text = format!(r#"{{"{key}": "other"}}"#);
            // as the file of a model is read
            let read = &mut serde_json::Deserializer::from_str(&text);
            let error = serde_path_to_error::deserialize::<_, ScheduleConfig>(read).unwrap_err().to_string();
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
            ("steps_offset", "999"),
            ("steps_offset", "18446744073709551615"),
        ] {
            let config: ScheduleConfig = serde_json::from_str(&format!(r#"{{"{key}": {value}}}"#)).unwrap();
            let error = build(&config, SchedulerKind::Ddim, Table::Diffusers, 4, 0.0).err().unwrap().to_string();
            assert!(error.contains(&format!("`{key}`")), "{key} {value}: {error}");
        }
    }
}
