//! What is kept of a segment when its timelines are denoised.

use crate::job::{Segment, Stage, Timeline};
use candle_core::{Device, Result, Tensor};

/// The latents of the timelines that are seen, without padding, on the CPU, one after the other: of an edit the edited
/// version, after its source where both are to be seen. `latents`: of all timelines.
pub fn kept(segment: &Segment, timelines: &[Timeline], latents: &[Tensor]) -> Result<Tensor> {
    let Segment { plan, padding, .. } = segment;
    let shown = timelines.iter().zip(latents).filter(|(timeline, _)| timeline.shown);
    let shown = shown.map(|(_, latents)| latents.narrow(0, *padding, plan.keep - padding));
    Tensor::cat(&shown.collect::<Result<Vec<_>>>()?, 0)?.to_device(&Device::Cpu)
}

/// The latents of the output alone, without those of companions beside it.
pub fn alone(stage: &Stage, latents: &[Tensor]) -> Result<Vec<Tensor>> {
    let last = latents.iter().map(|latents| {
        let frames = latents.dim(0)? / stage.shown();
        latents.narrow(0, latents.dim(0)? - frames, frames)
    });
    last.collect()
}
