//! How what the blocks of a network add changes from step to step: what `--cache` decides by.

use super::control::Pictures;
use super::denoise::NoiseSource;
use super::latents::{Prepared, latents};
use super::loaded::Loaded;
use super::text_to_video::plan;
use super::texts::encode;
use crate::attention::Change;
use crate::job::{Job, time_changes};
use crate::models::architecture::Keeps;
use crate::noise::Noise;
use crate::run::{Code, Event, Failure, Observer};
use std::cell::RefCell;

/// One step of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepChange {
    /// The relative change of the time embedding from the step before.
    pub signal: f64,
    /// The mean over tokens of the norm of what is added, over that of the step before.
    pub ratio: f64,
    /// The relative change of what is added.
    pub difference: f64,
}

/// Runs a job's denoiser over all steps, and measures. The first step has nothing before it.
pub fn step_changes(job: &Job, observer: &mut dyn Observer) -> Result<Vec<StepChange>, Failure> {
    let stage = job.first();
    if stage.model.architecture.keeps() != Keeps::Stack {
        let message = format!(
            "{}: only networks of blocks in a row are measured; --cache deep:3 needs no numbers",
            stage.model.folder.place()
        );
        return Err(Failure::message(Code::Usage, message));
    }
    for warning in &job.warnings {
        observer.event(&Event::Warning(warning.clone()))?;
    }
    observer.event(&Event::Plan(Box::new(plan(job))))?;
    let (texts, noise) = (encode(stage, &job.machine, observer)?, NoiseSource::Seeded(Noise::new(job.seed)));
    let measured = RefCell::new(Vec::new());
    let prepared = Prepared {
        texts: &texts,
        noise: &noise,
        draws: None,
        context: None,
        concat: None,
        pictures: &Pictures::default(),
        refined: None,
        subject: None,
        given: None,
        measured: Some(&measured),
    };
    latents(job, stage, &mut Loaded::default(), &prepared, None, None, observer)?;
    let signals = time_changes(stage)?;
    let step = |(signal, change): (f64, Change)| StepChange {
        signal,
        ratio: if change.ratio.1 == 0 { 1.0 } else { change.ratio.0 / change.ratio.1 as f64 },
        difference: change.difference.0 / change.difference.1.max(f64::MIN_POSITIVE),
    };
    Ok(signals.into_iter().zip(measured.into_inner()).map(step).collect())
}

/// The coefficients of the polynomial of degree 4 that is nearest to points (least squares), the highest power first. The variable is
/// scaled to 1 while they are found; a little weight on their squares keeps few points from making large ones.
pub fn fit(points: &[(f64, f64)]) -> [f64; 5] {
    if points.is_empty() {
        return [0.0; 5];
    }
    let scale = points.iter().map(|(x, _)| x.abs()).fold(f64::MIN_POSITIVE, f64::max);
    let powers = |x: f64| [4, 3, 2, 1, 0].map(|power| (x / scale).powi(power));
    let mut matrix = [[0.0; 6]; 5];
    for &(x, y) in points {
        let row = powers(x);
        for i in 0..5 {
            for j in 0..5 {
                matrix[i][j] += row[i] * row[j];
            }
            matrix[i][5] += row[i] * y;
        }
    }
    for (i, row) in matrix.iter_mut().enumerate() {
        row[i] += 1e-8 * points.len() as f64;
    }
    // Gauss, with the largest pivot
    for column in 0..5 {
        let pivot = (column..5).max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs()));
        matrix.swap(column, pivot.unwrap_or(column));
        for row in (0..5).filter(|&row| row != column) {
            let factor = matrix[row][column] / matrix[column][column];
            let pivot = matrix[column];
            matrix[row].iter_mut().zip(pivot).skip(column).for_each(|(to, of)| *to -= factor * of);
        }
    }
    let solved = [0, 1, 2, 3, 4].map(|i| matrix[i][5] / matrix[i][i]);
    [4, 3, 2, 1, 0].map(|power: i32| solved[4 - power as usize] / scale.powi(power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_polynomial_is_found_again() {
        let of = |x: f64| 300.0 * x.powi(4) - 20.0 * x * x + 3.0 * x + 0.05;
        let points: Vec<(f64, f64)> = (0..40).map(|i| f64::from(i) * 0.01).map(|x| (x, of(x))).collect();
        let found = fit(&points);
        for &(x, y) in &points {
            let got = found.iter().fold(0.0, |sum, coefficient| sum * x + coefficient);
            assert!((got - y).abs() < 2e-3 * y.abs().max(0.1), "{x}: {got} not {y}");
        }
        assert!(fit(&[]).iter().all(|coefficient| *coefficient == 0.0));
    }
}
