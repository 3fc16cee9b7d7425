//! The noise level of every step of a run: which timesteps, and how much signal before and after each.
//!
//! Follows diffusers' `scheduling_ddim_cog*.py` and `scheduling_dpm_cog*.py` (one table, `Table::Diffusers`),
//! spec/ditctrl.md 1.4 (`Table::Sat`), and diffusers' Euler, multi-step and consistency classes. Levels are `alpha_bar`, the square of the signal's factor: 0 is pure noise, 1 none.
//!
//! Different on purpose: with trailing spacing and 61, 103, ... steps numpy's `arange` yields one value too many, and
//! diffusers then visits a timestep -1 at the level of the last training timestep; here a run has as many steps as asked
//! for. With SAT's table a single step starts at pure noise, where SAT divides zero by zero.

use super::Table;
use super::config::{BetaSchedule, PredictionType, ScheduleConfig, TimestepSpacing};
use anyhow::{Result, bail};
use candle_core::{Tensor, bail as candle_bail};
use std::ops::Range;

/// `alpha_bar` around one step; of flow matching the time, which is the signal's factor itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Level {
    /// Where the estimate of the clean sample is taken. diffusers: `now`; SAT: the nearest entry of its full table.
    pub estimate: f64,
    pub now: f64,
    pub next: f64,
    /// At the step before; absent where a step cannot or must not look back: the first, and the one that ends the run.
    pub back: Option<f64>,
}

/// The levels of a run.
#[derive(Debug, Clone)]
pub struct Levels {
    pub(super) timesteps: Vec<f64>,
    pub(super) levels: Vec<Level>,
    pub(super) precision: Precision,
    /// Factor on the noise that a run begins with.
    pub(super) initial: f64,
    prediction: PredictionType,
}

/// The width in which the reference computes a table and its coefficients: `scaled_linear` betas are f64 in diffusers, all
/// others f32. Rounding each operation reproduces the narrow one (but for torch's f32 square root, which is off by one unit
/// for some values on some machines); SAT's are always f64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precision {
    Single,
    Double,
}

impl Precision {
    pub fn round(self, value: f64) -> f64 {
        match self {
            Self::Single => f64::from(value as f32),
            Self::Double => value,
        }
    }
}

impl Levels {
    pub fn new(config: &ScheduleConfig, table: Table, steps: usize) -> Result<Self> {
        check(config, steps, config.num_train_timesteps)?;
        let this = match table {
            Table::Diffusers => Self::diffusers(config, steps)?,
            Table::Sat => Self::sat(config, steps),
        };
        this.checked()
    }

    /// Those of Euler's method: timesteps need not be whole, the level after a step is that of the next, and the last step ends
    /// without noise. Levels between those of two training timesteps are linear in sigma, the noise over the signal.
    pub fn of_sigmas(config: &ScheduleConfig, steps: usize) -> Result<Self> {
        check(config, steps, config.num_train_timesteps)?;
        let timesteps: Vec<f64> = match config.timestep_spacing {
            TimestepSpacing::Linspace => {
                let (last, stride) = (steps - 1, (config.num_train_timesteps - 1) as f64 / (steps.max(2) - 1) as f64);
                let end = (config.num_train_timesteps - 1) as f64;
                let at = |k: usize| if k > 0 && k == last { end } else { k as f64 * stride };
                (0..steps).rev().map(|k| Precision::Single.round(at(k))).collect()
            }
            _ => as_f64(&spaced(config, steps)),
        };
        let (table, precision) = finite(alpha_bar(config));
        within(&timesteps, config)?;
        let sigma = |a: f64| ((1.0 - a) / a).sqrt();
        let at = |t: &f64| {
            let (below, share) = (t.floor() as usize, t.fract());
            let (low, high) = (sigma(table[below]), sigma(table[(below + 1).min(table.len() - 1)]));
            let sigma = low + share * (high - low);
            1.0 / (1.0 + sigma * sigma)
        };
        let now: Vec<f64> = timesteps.iter().map(at).collect();
        // unit noise times the largest sigma, in the scale of the network's input
        let initial = match config.timestep_spacing {
            TimestepSpacing::Leading => 1.0,
            _ => now.first().map_or(1.0, |first| (1.0 - first).sqrt()),
        };
        let this = Self { initial, ..Self::in_order(timesteps, &now, precision, config.prediction_type) };
        this.checked()
    }

    /// Those of diffusers' multi-step solvers: as many whole timesteps above 0 as steps, each step to the level of the next, the
    /// last to no noise.
    pub fn of_multistep(config: &ScheduleConfig, steps: usize) -> Result<Self> {
        let train = config.num_train_timesteps;
        check(config, steps, train)?;
        let timesteps: Vec<usize> = match config.timestep_spacing {
            TimestepSpacing::Linspace => {
                let stride = (train - 1) as f64 / steps as f64;
                let whole = |k: usize| (k as f64 * stride).round_ties_even() as usize;
                (1..=steps).rev().map(|k| if k == steps { train - 1 } else { whole(k) }).collect()
            }
            TimestepSpacing::Leading => {
                (1..=steps).rev().map(|k| (k * (train / (steps + 1))).saturating_add(config.steps_offset)).collect()
            }
            TimestepSpacing::Trailing => spaced(config, steps),
        };
        let timesteps = as_f64(&timesteps);
        within(&timesteps, config)?;
        let (table, precision) = finite(alpha_bar(config));
        let now: Vec<f64> = timesteps.iter().map(|&t| table[t as usize]).collect();
        Self::in_order(timesteps, &now, precision, config.prediction_type).checked()
    }

    /// Those of consistency models: some of the timesteps they were distilled on.
    pub fn of_consistency(config: &ScheduleConfig, steps: usize) -> Result<Self> {
        let (train, original) = (config.num_train_timesteps, config.original_inference_steps);
        if !(1..=train).contains(&original) {
            bail!("scheduler_config.json: `original_inference_steps` is {original}, not between 1 and {train}")
        }
        check(config, steps, original)?;
        let stride = train / original;
        let timesteps: Vec<f64> = (0..steps).map(|i| ((original - original * i / steps) * stride - 1) as f64).collect();
        let (table, precision) = alpha_bar(config);
        let now: Vec<f64> = timesteps.iter().map(|&t| table[t as usize]).collect();
        Self::in_order(timesteps, &now, precision, config.prediction_type).checked()
    }

    /// Those of flow matching: noise levels `1 - i / steps`, shifted by `k s / (1 + (k - 1) s)`; timesteps are times from 0 to 1.
    pub fn of_flow(config: &ScheduleConfig, steps: usize) -> Result<Self> {
        let (k, most) = (config.snr_shift_scale, config.num_train_timesteps);
        if !(k.is_finite() && k > 0.0) {
            bail!("scheduler_config.json: `shift` is {k}, it must be above 0")
        }
        if !(1..=most).contains(&steps) {
            bail!("--steps is {steps}: this model takes 1 to {most}")
        }
        let time = |i: usize| {
            let s = 1.0 - i as f64 / steps as f64;
            1.0 - k * s / (1.0 + (k - 1.0) * s)
        };
        let times: Vec<f64> = (0..steps).map(time).collect();
        Ok(Self::in_order(times.clone(), &times, Precision::Double, PredictionType::Flow))
    }

    /// Each step to the level of the next, the last to no noise.
    fn in_order(timesteps: Vec<f64>, now: &[f64], precision: Precision, prediction: PredictionType) -> Self {
        let steps = now.len();
        let level = |i: usize| Level {
            estimate: now[i],
            now: now[i],
            next: now.get(i + 1).copied().unwrap_or(1.0),
            back: (i > 0 && i + 1 < steps).then(|| now[i - 1]),
        };
        Self { timesteps, levels: (0..steps).map(level).collect(), precision, initial: 1.0, prediction }
    }

    /// Refuses levels at which a step has no finite estimate.
    fn checked(self) -> Result<Self> {
        let this = self;
        if let Some(index) = this.levels.iter().position(|level| !this.estimate_is_finite(level)) {
            bail!(
                "scheduler_config.json: timestep {} has no signal left, and a network whose `prediction_type` is epsilon \
                 cannot start there: `rescale_betas_zero_snr` goes with v_prediction",
                this.timesteps[index]
            )
        }
        Ok(this)
    }

    fn diffusers(config: &ScheduleConfig, steps: usize) -> Result<Self> {
        let train = config.num_train_timesteps;
        let timesteps = spaced(config, steps);
        within(&as_f64(&timesteps), config)?;
        let (alpha_bar, precision) = alpha_bar(config);
        let last = if config.set_alpha_to_one { 1.0 } else { alpha_bar[0] };
        // the next timestep is this one less a fixed stride, not the next of the list: they differ where the step count
        // does not divide the training timesteps, and the run may then end at timestep 0 or above instead of past it
        let next = |t: usize| t.checked_sub(train / steps).map(|next| alpha_bar[next]);
        let levels = (0..steps)
            .map(|i| Level {
                estimate: alpha_bar[timesteps[i]],
                now: alpha_bar[timesteps[i]],
                next: next(timesteps[i]).unwrap_or(last),
                back: (i > 0 && next(timesteps[i]).is_some()).then(|| alpha_bar[timesteps[i - 1]]),
            })
            .collect();
        let prediction = config.prediction_type;
        Ok(Self { timesteps: as_f64(&timesteps), levels, precision, initial: 1.0, prediction })
    }

    /// `timestep_spacing`, `steps_offset` and `set_alpha_to_one` have no counterpart in SAT.
    fn sat(config: &ScheduleConfig, steps: usize) -> Self {
        let train = config.num_train_timesteps;
        let plain: Vec<f64> = shifted(config, Precision::Double).iter().map(|a| a.sqrt()).collect();
        // floor((train - 1) (1 - k / steps)), in whole numbers
        let timesteps: Vec<usize> = (0..steps).map(|k| train - 1 - ((train - 1) * k).div_ceil(steps)).collect();
        let mut signal: Vec<f64> = timesteps.iter().map(|&t| plain[t]).collect();
        let mut estimate = signal.clone();
        if config.rescale_betas_zero_snr {
            signal = zero_terminal(&signal);
            let full = zero_terminal(&plain.into_iter().rev().collect::<Vec<_>>());
            estimate = signal.iter().map(|&s| nearest(&full, s)).collect();
        }
        let square = |s: f64| s * s;
        let levels = (0..steps)
            .map(|i| Level {
                estimate: square(estimate[i]),
                now: square(signal[i]),
                next: signal.get(i + 1).map_or(1.0, |&s| square(s)),
                back: (i > 0 && i + 1 < steps).then(|| square(signal[i - 1])),
            })
            .collect();
        let (precision, prediction) = (Precision::Double, config.prediction_type);
        Self { timesteps: as_f64(&timesteps), levels, precision, initial: 1.0, prediction }
    }

    /// Signal and noise factors where the clean sample is estimated.
    fn factors(&self, level: &Level) -> (f64, f64) {
        let round = |value| self.precision.round(value);
        if self.prediction == PredictionType::Flow {
            return (level.estimate, 1.0 - level.estimate);
        }
        (round(level.estimate.sqrt()), round(round(1.0 - level.estimate).sqrt()))
    }

    fn estimate_is_finite(&self, level: &Level) -> bool {
        self.prediction != PredictionType::Epsilon || self.factors(level).0 > 0.0
    }

    /// The estimate of the clean sample from what the network predicts at step `index`.
    pub fn x0(&self, index: usize, prediction: &Tensor, sample: &Tensor) -> candle_core::Result<Tensor> {
        let level = self.level(index)?;
        if prediction.shape() != sample.shape() {
            candle_bail!("step {index}: prediction {:?} for a sample {:?}", prediction.shape(), sample.shape())
        }
        let (signal, noise) = self.factors(level);
        match self.prediction {
            PredictionType::VPrediction => (sample * signal)? - (prediction * noise)?,
            PredictionType::Epsilon => (sample - (prediction * noise)?)? / signal,
            PredictionType::Flow => sample + (prediction * noise)?,
            PredictionType::Sample => Ok(prediction.clone()),
        }
    }

    /// What the network would have to predict at step `index` for [`Levels::x0`] to be `x0`.
    pub fn prediction(&self, index: usize, x0: &Tensor, sample: &Tensor) -> candle_core::Result<Tensor> {
        let level = self.level(index)?;
        if x0.shape() != sample.shape() {
            candle_bail!("step {index}: an estimate {:?} for a sample {:?}", x0.shape(), sample.shape())
        }
        let (signal, noise) = self.factors(level);
        match self.prediction {
            PredictionType::Sample => Ok(x0.clone()),
            // nothing is left to predict: the sample is the clean one
            _ if noise == 0.0 => x0.zeros_like(),
            PredictionType::VPrediction => ((sample * signal)? - x0)? / noise,
            PredictionType::Epsilon => (sample - (x0 * signal)?)? / noise,
            PredictionType::Flow => (x0 - sample)? / noise,
        }
    }

    /// `x0` under unit noise at the level before step `index`.
    pub fn noised(&self, index: usize, x0: &Tensor, noise: &Tensor) -> candle_core::Result<Tensor> {
        let now = self.level(index)?.now;
        if self.prediction == PredictionType::Flow {
            return (x0 * now)? + (noise * (1.0 - now))?;
        }
        (x0 * self.precision.round(now.sqrt()))? + (noise * self.precision.round((1.0 - now).sqrt()))?
    }

    fn level(&self, index: usize) -> candle_core::Result<&Level> {
        match self.levels.get(index) {
            Some(level) => Ok(level),
            None => candle_bail!("step {index} of a run of {} steps", self.levels.len()),
        }
    }
}

/// [`super::signal_kept`].
pub(super) fn signal_kept(config: &ScheduleConfig, timesteps: Range<usize>) -> Result<f64> {
    config.check()?;
    let (table, _) = alpha_bar(config);
    let before = |t: usize| if t == 0 { Some(1.0) } else { table.get(t - 1).copied() };
    match (before(timesteps.start), before(timesteps.end)) {
        (Some(_), Some(_)) if timesteps.is_empty() => Ok(1.0),
        (Some(from), Some(to)) => Ok(to / from),
        _ => bail!("timesteps {timesteps:?} of a schedule of {}", config.num_train_timesteps),
    }
}

/// Refuses values out of range, and other numbers of steps than 1 to `most`.
fn check(config: &ScheduleConfig, steps: usize, most: usize) -> Result<()> {
    config.check()?;
    if !(1..=most).contains(&steps) {
        bail!("--steps is {steps}: this model takes 1 to {most}")
    }
    Ok(())
}

/// Refuses timesteps beyond the training's.
fn within(timesteps: &[f64], config: &ScheduleConfig) -> Result<()> {
    let train = config.num_train_timesteps;
    if let Some(largest) = timesteps.first().filter(|&&t| t >= train as f64) {
        bail!(
            "scheduler_config.json: `steps_offset` is {}, which leads to timestep {largest} of {train}",
            config.steps_offset
        )
    }
    Ok(())
}

fn as_f64(timesteps: &[usize]) -> Vec<f64> {
    timesteps.iter().map(|&t| t as f64).collect()
}

/// diffusers' `set_timesteps`, in numpy's arithmetic (its products are rounded before they are rounded to whole numbers,
/// halves to even), largest first.
fn spaced(config: &ScheduleConfig, steps: usize) -> Vec<usize> {
    let train = config.num_train_timesteps;
    let whole = |value: f64| value.round_ties_even() as usize;
    match config.timestep_spacing {
        TimestepSpacing::Linspace => {
            let stride = (train - 1) as f64 / (steps.max(2) - 1) as f64;
            (0..steps)
                .rev()
                .map(|k| if k > 0 && k + 1 == steps { train - 1 } else { whole(k as f64 * stride) })
                .collect()
        }
        TimestepSpacing::Leading => {
            (0..steps).rev().map(|k| (k * (train / steps)).saturating_add(config.steps_offset)).collect()
        }
        TimestepSpacing::Trailing => {
            let start = train as f64;
            let stride = (start - start / steps as f64) - start;
            (0..steps).map(|k| whole(start + k as f64 * stride).saturating_sub(1)).collect()
        }
    }
}

/// diffusers' table over all training timesteps, and the width it is computed in.
fn alpha_bar(config: &ScheduleConfig) -> (Vec<f64>, Precision) {
    let precision = match (&config.trained_betas, config.beta_schedule) {
        (None, BetaSchedule::ScaledLinear) => Precision::Double,
        _ => Precision::Single,
    };
    let mut table = shifted(config, precision);
    if config.rescale_betas_zero_snr {
        let round = |value| precision.round(value);
        let signal: Vec<f64> = table.iter().map(|a| round(a.sqrt())).collect();
        let (first, last) = (signal[0], signal[signal.len() - 1]);
        let scale = round(first / round(first - last));
        for (entry, s) in table.iter_mut().zip(signal) {
            let s = round(round(s - last) * scale);
            *entry = round(s * s);
        }
    }
    (table, precision)
}

/// The same where no level is without signal, as diffusers has it for solvers of sigmas: the first one is finite.
fn finite((mut table, precision): (Vec<f64>, Precision)) -> (Vec<f64>, Precision) {
    if let Some(last) = table.last_mut().filter(|last| **last == 0.0) {
        *last = f64::exp2(-24.0);
    }
    (table, precision)
}

/// The table before the zero-SNR rescale: the running product of `1 - beta`, then the shift.
fn shifted(config: &ScheduleConfig, precision: Precision) -> Vec<f64> {
    let round = |value| precision.round(value);
    let shift = config.snr_shift_scale;
    let mut product = 1.0; // kept in f64 by torch's cumprod for both widths
    betas(config, precision)
        .into_iter()
        .map(|beta| {
            product *= round(1.0 - beta);
            let a = round(product);
            round(a / round(round(shift) + round(round(1.0 - shift) * a)))
        })
        .collect()
}

fn betas(config: &ScheduleConfig, precision: Precision) -> Vec<f64> {
    let round = |value| precision.round(value);
    let count = config.num_train_timesteps;
    if let Some(betas) = &config.trained_betas {
        return betas.iter().map(|&beta| round(beta)).collect();
    }
    match config.beta_schedule {
        BetaSchedule::Linear => linspace(config.beta_start, config.beta_end, count, precision),
        BetaSchedule::ScaledLinear => {
            let roots = linspace(config.beta_start.sqrt(), config.beta_end.sqrt(), count, precision);
            roots.into_iter().map(|root| round(root * root)).collect()
        }
        BetaSchedule::SquaredcosCapV2 => {
            let bar = |i: usize| {
                let angle = (i as f64 / count as f64 + 0.008) / 1.008 * std::f64::consts::PI / 2.0;
                libm::cos(angle) * libm::cos(angle)
            };
            (0..count).map(|i| round((1.0 - bar(i + 1) / bar(i)).min(0.999))).collect()
        }
    }
}

/// torch's `linspace`, which counts from the nearer end and rounds once.
fn linspace(start: f64, end: f64, count: usize, precision: Precision) -> Vec<f64> {
    let round = |value| precision.round(value);
    let (start, end) = (round(start), round(end));
    let step = round(round(end - start) / (count.max(2) - 1) as f64);
    (0..count)
        .map(|i| {
            if i < count / 2 {
                round(step.mul_add(i as f64, start))
            } else {
                round(step.mul_add(-((count - 1 - i) as f64), end))
            }
        })
        .collect()
}

/// The zero-SNR rescale of signal factors given from the noisiest to the cleanest.
fn zero_terminal(signal: &[f64]) -> Vec<f64> {
    let (last, first) = (signal[0], signal[signal.len() - 1]);
    let scale = if first > last { first / (first - last) } else { 0.0 };
    signal.iter().map(|s| (s - last) * scale).collect()
}

/// The entry of a rising table that is nearest to `value`.
fn nearest(table: &[f64], value: f64) -> f64 {
    let above = table.partition_point(|&entry| entry < value).min(table.len() - 1);
    let below = above.saturating_sub(1);
    if value - table[below] <= table[above] - value { table[below] } else { table[above] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(table: Table, steps: usize) -> Levels {
        Levels::new(&ScheduleConfig::zero_snr(3.0), table, steps).unwrap()
    }

    fn now(levels: &Levels) -> Vec<f64> {
        levels.levels.iter().map(|level| level.now.sqrt()).collect()
    }

    /// spec/ditctrl.md 1.4, to the digits printed there.
    #[test]
    fn both_tables_give_the_values_of_the_specification() {
        let (sat, diffusers) = (levels(Table::Sat, 50), levels(Table::Diffusers, 50));
        let trailing: Vec<f64> = (0..50).map(|k| 999.0 - 20.0 * f64::from(k)).collect();
        assert_eq!((&sat.timesteps, &diffusers.timesteps), (&trailing, &trailing));
        let printed = |got: f64, want: f64| assert!((got - want).abs() <= 5.1e-7, "{got} not {want}");
        let (s, table) = (now(&sat), now(&diffusers));
        for (step, want) in [(0, 0.0), (1, 0.005220), (2, 0.010925), (3, 0.017135), (49, 0.973940)] {
            printed(s[step], want);
        }
        for (step, want) in [(0, 0.0), (1, 0.005215), (2, 0.010913), (3, 0.017117), (49, 0.972920)] {
            printed(table[step], want);
        }
        let largest = s.iter().zip(&table).map(|(s, t)| (s - t).abs()).fold(0.0, f64::max);
        assert!((largest - 1.02e-3).abs() < 5e-6, "{largest}");
    }

    #[test]
    fn sat_estimates_at_the_nearest_entry_of_its_full_table() {
        let sat = levels(Table::Sat, 50);
        let (full, _) = alpha_bar(&ScheduleConfig::zero_snr(3.0));
        let mut furthest = 0.0f64;
        for (level, &t) in sat.levels.iter().zip(&sat.timesteps) {
            let (s, a, t) = (level.now.sqrt(), level.estimate.sqrt(), t as usize);
            furthest = furthest.max((s - a).abs());
            let by_hand =
                (0..1000).min_by(|&i, &j| (full[i].sqrt() - s).abs().total_cmp(&(full[j].sqrt() - s).abs())).unwrap();
            assert!(by_hand == t || by_hand + 1 == t, "{t}: {by_hand}");
            assert!((full[by_hand].sqrt() - a).abs() < 1e-12);
        }
        assert!(furthest <= 7.75e-4 && furthest > 7.6e-4, "{furthest}");
    }

    #[test]
    fn sat_timesteps_are_rounded_down_for_every_run_length() {
        assert_eq!(levels(Table::Sat, 6).timesteps, [999.0, 832.0, 666.0, 499.0, 333.0, 166.0]);
        for same in [20, 25, 40, 50] {
            assert_eq!(levels(Table::Sat, same).timesteps, levels(Table::Diffusers, same).timesteps);
        }
        assert_ne!(levels(Table::Sat, 30).timesteps, levels(Table::Diffusers, 30).timesteps);
        for steps in 1..=1000 {
            let sat = levels(Table::Sat, steps);
            assert_eq!((sat.timesteps.len(), sat.timesteps[0], sat.levels[0].now), (steps, 999.0, 0.0));
            assert!(sat.timesteps.is_sorted_by(|a, b| a > b));
        }
    }

    #[test]
    fn a_run_ends_where_the_stride_leads() {
        // 6 steps: 166 - 166 = 0, so the last step ends at the level of timestep 0; 4 steps: 249 - 250 is past it
        let (six, four) = (levels(Table::Diffusers, 6), levels(Table::Diffusers, 4));
        let (full, _) = alpha_bar(&ScheduleConfig::zero_snr(3.0));
        assert_eq!(six.timesteps, [999.0, 832.0, 666.0, 499.0, 332.0, 166.0]);
        assert_eq!((six.levels[5].next, six.levels[0].next), (full[0], full[833]));
        assert!(six.levels[5].back.is_some());
        assert_eq!((four.levels[3].next, four.levels[3].back), (1.0, None));
    }

    #[test]
    fn an_epsilon_network_cannot_start_without_signal() {
        let config = ScheduleConfig { prediction_type: PredictionType::Epsilon, ..ScheduleConfig::zero_snr(3.0) };
        for table in [Table::Diffusers, Table::Sat] {
            let error = Levels::new(&config, table, 4).unwrap_err().to_string();
            assert!(error.contains("`prediction_type`") && error.contains("999"), "{error}");
        }
        // leading spacing does not visit that timestep
        let leading = ScheduleConfig { timestep_spacing: TimestepSpacing::Leading, ..config };
        assert!(Levels::new(&leading, Table::Diffusers, 4).is_ok());
    }

    #[test]
    fn step_counts_out_of_range_are_refused() {
        for steps in [0, 1001] {
            let error = Levels::new(&ScheduleConfig::zero_snr(3.0), Table::Sat, steps).unwrap_err().to_string();
            assert!(error.contains(&format!("--steps is {steps}")), "{error}");
        }
    }
}
