//! How many of its first frames each window leaves to the one before it, step by step (randomized blending of StreamingT2V, arXiv
//! 2403.14773; spec/streamingt2v.md 6.3): drawn by seed, step and window, so that neither order nor threads change them, or given.

use crate::job::Stage;
use crate::noise::{Noise, Stream};
use crate::timeline::{BlendMode, ChunkPlan};
use crate::weights::read_tensors;
use anyhow::{Result, ensure};

/// Where they come from.
#[derive(Debug, Clone)]
pub enum Draws {
    /// As the paper has it 0 to all of the shared frames, as its code has it 0 to all but one.
    Seeded { noise: Noise, mode: BlendMode },
    /// By step from the first that is taken, and window from the second.
    Given { first: usize, values: Vec<Vec<usize>> },
}

impl Draws {
    /// Of a stage whose windows are written over each other; none of others.
    ///
    /// # Errors
    /// A noise file without them, or with others than the windows need.
    pub fn new(stage: &Stage, seed: u64) -> Result<Option<Self>> {
        let Some(mode) = stage.method.overwriting else { return Ok(None) };
        let plan = &stage.segments[0].plan;
        let Some(path) = stage.input.noise.as_ref().filter(|_| plan.windows.len() > 1) else {
            return Ok(Some(Self::Seeded { noise: Noise::new(seed), mode }));
        };
        let (shown, first) = (path.display(), stage.first_step());
        let shape = [stage.sampler.steps - first, plan.windows.len() - 1];
        let Some(draws) = read_tensors(path)?.remove("draws") else {
            anyhow::bail!("{shown}: holds no tensor named draws, which windows that overlap need")
        };
        ensure!(draws.dims() == shape, "{shown}: draws has shape {:?}, this run needs {shape:?}", draws.dims());
        let shared = plan.shared();
        let values: Vec<Vec<f32>> = draws.to_vec2()?;
        let whole = |value: f32, most: usize| value >= 0.0 && value.fract() == 0.0 && value <= most as f32;
        let right = values.iter().all(|step| step.iter().zip(&shared).all(|(&value, &most)| whole(value, most)));
        ensure!(right, "{shown}: draws are whole numbers from 0 to the frames that two windows share ({shared:?})");
        let values = values.iter().map(|step| step.iter().map(|&value| value as usize).collect());
        Ok(Some(Self::Given { first, values: values.collect() }))
    }

    /// Those of a step, by window after the first.
    pub fn at(&self, step: usize, plan: &ChunkPlan) -> Vec<usize> {
        match self {
            Self::Seeded { noise, mode } => {
                let end = |shared: usize| match mode {
                    BlendMode::Paper => shared + 1,
                    BlendMode::Reference => shared,
                };
                let draw = |(window, shared)| noise.below(Stream::Draw, window as u64 + 1, step as u64, end(shared));
                plan.shared().into_iter().enumerate().map(draw).collect()
            }
            Self::Given { first, values } => values.get(step.wrapping_sub(*first)).cloned().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_numbers_are_drawn_equally_often() {
        let plan = ChunkPlan::sliding(40, 24, 8);
        assert_eq!(plan.shared(), [8]);
        for (mode, end) in [(BlendMode::Paper, 9), (BlendMode::Reference, 8)] {
            let draws = Draws::Seeded { noise: Noise::new(7), mode };
            let mut counts = vec![0usize; end];
            (0..9000).for_each(|step| counts[draws.at(step, &plan)[0]] += 1);
            let fair = 9000 / end;
            assert!(counts.iter().all(|count| count.abs_diff(fair) < fair / 8), "{counts:?}");
            assert_eq!(draws.at(3, &plan), draws.at(3, &plan));
        }
    }
}
