//! Steps that are not computed: what was asked for (`--cache`), and which steps those are.
//!
//! TeaCache (arXiv 2411.19108) in its form for transformers of joint attention: `r` is the relative change of the time embedding from the step before, a
//! polynomial of it is added up, and a step is computed when the sum reaches a threshold. MagCache (arXiv 2506.09045): ratios of what
//! the blocks add, measured before, are multiplied, and a step is computed when the error they add up to is too large. DeepCache
//! (arXiv 2312.00858): one of so many steps is computed. All of it follows from the timesteps and what was measured, so it is known
//! before the run, and the same for all windows.
//!
//! Steps that share keys and values or serve an edit are always computed, and such that guide otherwise than the last one computed.

use super::cache_asked::CacheAsked;
use super::controls::Controls;
use super::plan::Segment;
use super::sampler::Sampler;
use crate::attention::Half;
use crate::models::Architecture;
use crate::models::architecture::{Keeps, Role};
use crate::recipe::CacheRecipe;
use crate::run::ratios;
use crate::weights::ModelFolder;
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};

/// What is not computed in a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Caching {
    /// With all its numbers.
    pub method: CacheAsked,
    /// By step, whether it is computed; those before the first one that is taken are not.
    pub computed: Vec<bool>,
}

impl Caching {
    /// Steps that are computed.
    pub fn count(&self) -> usize {
        self.computed.iter().filter(|&&computed| computed).count()
    }
}

/// The threshold of TeaCache where nobody says.
const TEA: f64 = 0.2;
/// What a run is, as far as its steps are concerned.
pub struct Run<'a> {
    pub sampler: &'a Sampler,
    /// The first step that is taken with all frames.
    pub first: usize,
    /// The halves of guidance of each step.
    pub halves: Vec<&'static [Half]>,
    pub controls: &'a Controls,
    pub segments: &'a [Segment],
}

impl Run<'_> {
    /// Whether a step is computed whatever a method says: it shares, or serves an edit.
    fn must(&self, step: usize) -> bool {
        let joined = self.segments.iter().any(|segment| segment.plan.windows.iter().any(|window| window.joined));
        let shares = joined && self.controls.sharing.as_ref().is_some_and(|sharing| sharing.at(step).is_some());
        let edit = self.controls.edit.as_ref();
        shares
            || edit.is_some_and(|edit| edit.reading.at(step).is_some() || step < edit.source_steps(self.sampler.steps))
    }
}

/// Which steps of a run are computed; none where all are. `model`: its folder and what its configurations say; `own`: what its recipe
/// says.
///
/// # Errors
/// Methods that the model cannot follow, and numbers that were not measured.
pub fn resolve(
    asked: Option<CacheAsked>,
    (folder, architecture): (&ModelFolder, &dyn Architecture),
    own: &CacheRecipe,
    run: &Run,
) -> Result<Option<Caching>> {
    let Some(asked) = asked.filter(|asked| *asked != CacheAsked::Off) else { return Ok(None) };
    let (method, wanted) = match (asked, architecture.keeps()) {
        (CacheAsked::Tea { threshold, coefficients }, Keeps::Stack) => {
            let coefficients = coefficients.or(own.tea).context(
                "--cache tea: the recipe has no coefficients for this network: measure them with vidgen calibrate --cache, and give \
                 them as tea:threshold=0.2,coefficients=a/b/c/d/e or in a recipe ([cache] tea = [..])",
            )?;
            let threshold = threshold.or(own.threshold).unwrap_or(TEA);
            let changes = time_changes((folder, architecture), run.sampler).context("--cache tea")?;
            (
                CacheAsked::Tea { threshold: Some(threshold), coefficients: Some(coefficients) },
                tea(&changes, &coefficients, threshold, run.first),
            )
        }
        (CacheAsked::Mag { threshold, skip, retain }, Keeps::Stack) => {
            let part = folder.part(architecture.part(Role::Denoiser))?;
            let measured = ratios::kept(&part.hash()?).with_context(|| {
                format!(
                    "--cache mag: nothing was measured for this network on this machine: run vidgen calibrate --cache {} first",
                    folder.name()
                )
            })?;
            (asked, mag(&measured.ratios, run.sampler.steps, (threshold, skip, retain), run.first))
        }
        (CacheAsked::Deep { interval }, Keeps::Deep) => (
            asked,
            (0..run.sampler.steps)
                .map(|step| step >= run.first && (step - run.first).is_multiple_of(interval))
                .collect(),
        ),
        (_, Keeps::Nothing) => bail!("--cache {asked}: this model's steps are always computed: leave it out"),
        (CacheAsked::Deep { .. }, _) => {
            bail!("--cache deep is for networks with a way down and up (Stable Diffusion, ModelScope): use --cache tea")
        }
        _ => bail!("--cache {asked} is for networks of blocks in a row: use --cache deep:3"),
    };
    let mut last: Option<&[Half]> = None;
    let computed = wanted.into_iter().enumerate().map(|(step, wanted): (usize, bool)| {
        let halves = run.halves[step];
        let computed = step >= run.first && (wanted || run.must(step) || last != Some(halves));
        last = if computed { Some(halves) } else { last };
        computed
    });
    Ok(Some(Caching { method, computed: computed.collect() }))
}

/// [`super::time_changes`].
pub fn time_changes((folder, architecture): (&ModelFolder, &dyn Architecture), sampler: &Sampler) -> Result<Vec<f64>> {
    let part = folder.part(architecture.part(Role::Denoiser))?;
    let times = sampler.build()?.timesteps().to_vec();
    let vb = part.var_builder(DType::F32, &Device::Cpu)?;
    Ok(changes(&architecture.time_signal(vb, &times)?))
}

/// The relative change of a signal from each step to the next; of the first, 0.
fn changes(signal: &[Vec<f32>]) -> Vec<f64> {
    let mean = |values: &mut dyn Iterator<Item = f64>| values.map(f64::abs).sum::<f64>();
    let change = |pair: &[Vec<f32>]| {
        let apart = mean(&mut pair[0].iter().zip(&pair[1]).map(|(a, b)| f64::from(*b) - f64::from(*a)));
        apart / mean(&mut pair[0].iter().map(|value| f64::from(*value))).max(f64::MIN_POSITIVE)
    };
    std::iter::once(0.0).chain(signal.windows(2).map(change)).collect()
}

/// The polynomial of TeaCache.
fn polynomial(coefficients: &[f64; 5], r: f64) -> f64 {
    coefficients.iter().fold(0.0, |sum, coefficient| sum * r + coefficient)
}

fn tea(changes: &[f64], coefficients: &[f64; 5], threshold: f64, first: usize) -> Vec<bool> {
    let (last, mut sum) = (changes.len().saturating_sub(1), 0.0);
    let computed = changes.iter().enumerate().map(|(step, &change)| {
        if step > first {
            sum += polynomial(coefficients, change);
        }
        let computed = step == first || step == last || step > first && sum >= threshold;
        sum = if computed { 0.0 } else { sum };
        computed
    });
    computed.collect()
}

/// `ratios`: of each step of the run that was measured, the first is 1.
fn mag(ratios: &[f64], steps: usize, (threshold, skip, retain): (f64, usize, f64), first: usize) -> Vec<bool> {
    let of = |step: usize| ratios[(step * ratios.len() / steps.max(1)).min(ratios.len() - 1)];
    let retained = ((retain * steps as f64) as usize).max(first + 1);
    let (mut ratio, mut error, mut skipped) = (1.0, 0.0, 0);
    let computed = (0..steps).map(|step| {
        if step < retained {
            return step >= first;
        }
        ratio *= of(step);
        skipped += 1;
        error += f64::abs(1.0 - ratio);
        let computed = !(error < threshold && skipped <= skip);
        if computed {
            (ratio, error, skipped) = (1.0, 0.0, 0);
        }
        computed
    });
    computed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_computed_when_the_sum_reaches_the_threshold() {
        // p(r) = r, so the sums are those of the changes
        let changes = [0.0, 0.05, 0.1, 0.06, 0.02, 0.03, 0.2, 0.01, 0.01];
        let computed = tea(&changes, &[0.0, 0.0, 0.0, 1.0, 0.0], 0.15, 0);
        assert_eq!(computed, [true, false, true, false, false, false, true, false, true]);
        assert!(tea(&changes, &[0.0, 0.0, 0.0, 1.0, 0.0], 0.0, 0).iter().all(|&computed| computed));
        assert_eq!(tea(&changes, &[0.0; 5], 1.0, 3).iter().filter(|&&computed| computed).count(), 2);
        assert_eq!(polynomial(&[1.0, 2.0, 3.0, 4.0, 5.0], 2.0), 57.0);
        let signal = [vec![1f32, -1.0], vec![2.0, -1.0], vec![2.0, -1.0]];
        assert_eq!(changes_of(&signal), [0.0, 0.5, 0.0]);
    }

    fn changes_of(signal: &[Vec<f32>]) -> Vec<f64> {
        changes(signal)
    }

    #[test]
    fn ratios_are_multiplied_until_their_error_is_too_large() {
        let ratios = [1.0, 0.9, 1.0, 0.99, 0.98, 0.97, 1.0, 1.0, 1.0, 1.0];
        // two are retained; 1 0.01 0.0398 | ..
        let computed = mag(&ratios, 10, (0.03, 3, 0.2), 0);
        assert_eq!(computed, [true, true, false, false, true, true, false, false, false, true]);
        // as many steps as were measured are those of the nearest
        assert_eq!(mag(&ratios, 5, (0.03, 3, 0.2), 0).len(), 5);
        assert!(mag(&ratios, 10, (0.0, 3, 0.0), 0).iter().all(|&computed| computed));
    }
}
