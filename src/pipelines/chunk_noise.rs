//! Noise of a video that is made chunk by chunk: of seed, chunk, frame and step, or given.

use super::denoise::NoiseSource;
use crate::job::{Sampler, Stage, Streaming};
use crate::noise::Noise;
use crate::weights::read_tensors;
use anyhow::{Result, bail, ensure};
use candle_core::Tensor;

/// Where it comes from.
#[derive(Debug, Clone)]
pub enum ChunkNoise {
    /// Chunks follow each other in the frames of noise; the first one counts where the video that is continued stands for it.
    Seeded { noise: Noise, chunk: usize, before: usize },
    /// `[chunks, F, C, H, W]` and, where the sampler adds noise, `[chunks, steps, F, C, H, W]`, the latter without the first chunk
    /// that a network of its own makes.
    Given { initial: Tensor, steps: Option<Tensor>, first: usize },
}

impl ChunkNoise {
    /// # Errors
    /// A noise file that lacks what the run needs, or has it in another shape.
    pub fn new(stage: &Stage, streaming: &Streaming, seed: u64) -> Result<Self> {
        let (chunk, chunks) = (streaming.frames.chunk, stage.segments.len());
        let first = usize::from(streaming.first.is_some());
        let Some(path) = &stage.input.noise else {
            return Ok(Self::Seeded { noise: Noise::new(seed), chunk, before: 1 - first });
        };
        let shown = path.display();
        let (c, h, w) = stage.size.latents;
        let mut tensors = read_tensors(path)?;
        let mut take = |name: &str, shape: &[usize]| match tensors.remove(name) {
            Some(tensor) if tensor.dims() != shape => {
                bail!("{shown}: {name} has shape {:?}, this run needs {shape:?}", tensor.dims())
            }
            found => Ok(found),
        };
        let Some(initial) = take("noise", &[chunks, chunk, c, h, w])? else {
            bail!("{shown}: holds no tensor named noise")
        };
        if let Some(first) = &streaming.first {
            ensure!(
                !adds_noise(&first.sampler)?,
                "{shown}: {} adds noise to the first chunk, of which a file holds none: use --first-scheduler dpmpp-2m",
                first.sampler.kind
            );
        }
        let (streamed, sampler) = (chunks - first, &stage.sampler);
        let needed = streamed > 0 && adds_noise(sampler)?;
        let steps = match needed {
            true => take("step_noise", &[streamed, sampler.steps, chunk, c, h, w])?,
            false => None,
        };
        ensure!(
            steps.is_some() || !needed,
            "{shown}: holds no step_noise, and {} with --eta {} adds noise at every step: add it, or use --eta 0",
            sampler.kind,
            sampler.eta
        );
        Ok(Self::Given { initial, steps, first })
    }

    /// That of a chunk, and the frame of it that is the chunk's first.
    pub fn of(&self, index: usize) -> Result<(NoiseSource, usize)> {
        Ok(match self {
            Self::Seeded { noise, chunk, before } => (NoiseSource::Seeded(*noise), (before + index) * chunk),
            Self::Given { initial, steps, first } => {
                let steps = steps.as_ref().filter(|_| index >= *first).map(|steps| steps.get(index - first));
                let source = NoiseSource::Given {
                    initial: initial.get(index)?,
                    frames: None,
                    steps: steps.transpose()?,
                    first: 0,
                    image: None,
                };
                (source, 0)
            }
        })
    }
}

fn adds_noise(sampler: &Sampler) -> Result<bool> {
    let scheduler = sampler.build()?;
    Ok((0..sampler.steps).any(|step| scheduler.needs_noise(step)))
}
