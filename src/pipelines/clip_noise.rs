//! Given noise of a video that is made clip by clip, each with tensors of its own: `noise.NAME` `[1, F, C, H, W]` and, for samplers
//! that add noise, `step_noise.NAME` `[steps, 1, F, C, H, W]`.

use super::denoise::NoiseSource;
use crate::job::Stage;
use crate::weights::read_tensors;
use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use std::path::Path;

/// The noise of a stage whose segments are called `names`.
///
/// # Errors
/// A file that lacks one of them, or has it in another shape.
pub fn by_clip(stage: &Stage, path: &Path, names: &[String]) -> Result<NoiseSource> {
    let shown = path.display();
    let mut tensors = read_tensors(path)?;
    let ((c, h, w), steps) = (stage.size.latents, stage.sampler.steps);
    let scheduler = stage.sampler.build()?;
    let adds = (0..steps).any(|step| scheduler.needs_noise(step));
    let mut take = |name: String, shape: &[usize]| -> Result<Tensor> {
        let tensor = tensors.remove(&name).with_context(|| format!("{shown}: holds no tensor named {name}"))?;
        ensure!(tensor.dims() == shape, "{shown}: {name} has shape {:?}, this run needs {shape:?}", tensor.dims());
        Ok(tensor)
    };
    let (mut initial, mut of_steps) = (Vec::new(), Vec::new());
    for (name, segment) in names.iter().zip(&stage.segments) {
        let frames = segment.plan.frames;
        initial.push(take(format!("noise.{name}"), &[1, frames, c, h, w])?.squeeze(0)?);
        if adds {
            of_steps.push(take(format!("step_noise.{name}"), &[steps, 1, frames, c, h, w])?.squeeze(1)?);
        }
    }
    let steps = if adds { Some(Tensor::cat(&of_steps, 1)?) } else { None };
    Ok(NoiseSource::Given { initial: Tensor::cat(&initial, 0)?, frames: None, steps, first: 0, image: None })
}
