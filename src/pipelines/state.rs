//! The state of a run between two steps, in memory and as a file of the run directory.

use crate::attention::KeptRow;
use crate::job::Timeline;
use crate::weights::{bytes_of, tensors_of};
use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};

/// One timeline between two steps.
#[derive(Debug, Clone)]
pub struct TimelineState {
    /// `[F, C, H, W]` in f32.
    pub latents: Tensor,
    /// Given frames as passes without an image see them, where those move by themselves, `[F, C, H, W]`.
    pub free: Option<Tensor>,
    /// The state of the sampler, as [`crate::schedulers::Scheduler::state`] gives it.
    pub scheduler: Option<Tensor>,
}

/// A run between two steps.
#[derive(Debug, Clone)]
pub struct SamplerState {
    /// Steps that are done.
    pub done: usize,
    pub timelines: Vec<TimelineState>,
    /// What the next step takes of the last one that was computed, where it is not computed itself.
    pub kept: Vec<(KeptRow, Tensor)>,
}

/// The timelines of a segment as a file: `timeline` and, where the samplers have a state, `scheduler`, and `free`, each all
/// timelines one after the other on the axis of frames; and what is kept for the next step, `kept/TIMELINE/WINDOW/TEXT/IMAGE`.
pub fn pack(timelines: &[TimelineState], kept: &[(KeptRow, Tensor)]) -> Result<Vec<u8>> {
    let joined = |parts: Vec<&Tensor>| Tensor::cat(&parts, 0)?.to_device(&Device::Cpu)?.to_dtype(DType::F32);
    let timeline = joined(timelines.iter().map(|state| &state.latents).collect())?;
    let remembered: Option<Vec<&Tensor>> = timelines.iter().map(|state| state.scheduler.as_ref()).collect();
    let scheduler = remembered.map(joined).transpose()?;
    let free: Option<Vec<&Tensor>> = timelines.iter().map(|state| state.free.as_ref()).collect();
    let free = free.map(joined).transpose()?;
    let mut tensors = vec![("timeline", &timeline)];
    tensors.extend(scheduler.as_ref().map(|scheduler| ("scheduler", scheduler)));
    tensors.extend(free.as_ref().map(|free| ("free", free)));
    let name = |row: &KeptRow| {
        format!("kept/{}/{}/{}/{}", row.timeline, row.window, u8::from(row.half.0), u8::from(row.half.1))
    };
    let kept = kept.iter().map(|(row, tensor)| Ok((name(row), tensor.to_device(&Device::Cpu)?)));
    let kept: Vec<(String, Tensor)> = kept.collect::<Result<_>>()?;
    tensors.extend(kept.iter().map(|(name, tensor)| (name.as_str(), tensor)));
    bytes_of(&tensors)
}

/// What a file that [`pack`] made keeps for the next step.
pub fn unpack_kept(bytes: &[u8], device: &Device) -> Result<Vec<(KeptRow, Tensor)>> {
    let mut kept = Vec::new();
    for (name, tensor) in tensors_of(bytes)? {
        let Some(place) = name.strip_prefix("kept/") else { continue };
        let numbers: Vec<usize> = place.split('/').map_while(|number| number.parse().ok()).collect();
        let [timeline, window, text, image] = numbers[..] else { bail!("{name} is no row") };
        let row = KeptRow { timeline, window, half: (text == 1, image == 1) };
        kept.push((row, tensor.to_device(device)?));
    }
    kept.sort_by_key(|(row, _)| *row);
    Ok(kept)
}

/// Timelines of a file that [`pack`] made, of latents of c channels and h by w cells.
pub fn unpack(
    bytes: &[u8],
    timelines: &[Timeline],
    (c, h, w): (usize, usize, usize),
    device: &Device,
) -> Result<Vec<TimelineState>> {
    let shape = [timelines.iter().map(|timeline| timeline.plan.frames).sum(), c, h, w];
    let mut tensors = tensors_of(bytes)?;
    let mut take = |name: &str| -> Result<Option<Tensor>> {
        let Some(tensor) = tensors.remove(name) else { return Ok(None) };
        ensure!(tensor.dims() == shape, "{name} has shape {:?}, this run needs {shape:?}", tensor.dims());
        Ok(Some(tensor.to_device(device)?))
    };
    let latents = take("timeline")?.context("holds no timeline")?;
    let (scheduler, free) = (take("scheduler")?, take("free")?);
    let mut start = 0;
    let part = |timeline: &Timeline| -> Result<TimelineState> {
        let frames = timeline.plan.frames;
        let own = |x: &Tensor| x.narrow(0, start, frames)?.contiguous();
        let of = |state: &Option<Tensor>| state.as_ref().map(own).transpose();
        let state = TimelineState { latents: own(&latents)?, scheduler: of(&scheduler)?, free: of(&free)? };
        start += frames;
        Ok(state)
    };
    timelines.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::ChunkPlan;

    /// Files of one timeline, and of an edit's two, are those that earlier versions wrote.
    #[test]
    fn timelines_stand_one_after_the_other() {
        let (shape, cpu) = ((2, 1, 2), Device::Cpu);
        let values = |from: f32, frames: usize| {
            Tensor::arange(from, from + 4.0 * frames as f32, &cpu).unwrap().reshape((frames, 2, 1, 2)).unwrap()
        };
        let of = |frames: usize| Timeline::output(ChunkPlan::single(frames));
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for scheduler in [None, Some(values(100.0, 5))] {
            let (whole, remembered) = (values(0.0, 5), scheduler.as_ref());
            let mut earlier = vec![("timeline", &whole)];
            earlier.extend(remembered.map(|scheduler| ("scheduler", scheduler)));
            let earlier = bytes_of(&earlier).unwrap();
            for timelines in [vec![of(5)], vec![of(2), of(3)]] {
                let states = unpack(&earlier, &timelines, shape, &cpu).unwrap();
                let frames: Vec<usize> = states.iter().map(|state| state.latents.dim(0).unwrap()).collect();
                assert_eq!(frames, timelines.iter().map(|of| of.plan.frames).collect::<Vec<_>>());
                assert_eq!(states.iter().flat_map(|state| flat(&state.latents)).collect::<Vec<_>>(), flat(&whole));
                let kept = states.iter().filter_map(|state| state.scheduler.as_ref());
                let kept: Vec<f32> = kept.flat_map(flat).collect();
                assert_eq!(kept, remembered.map_or_else(Vec::new, flat));
                assert_eq!(pack(&states, &[]).unwrap(), earlier);
                let row = KeptRow { timeline: 0, window: 12, half: (true, false) };
                let with = pack(&states, &[(row, values(1.0, 1))]).unwrap();
                assert!(unpack_kept(&earlier, &cpu).unwrap().is_empty());
                let kept = unpack_kept(&with, &cpu).unwrap();
                assert_eq!((kept.len(), kept[0].0, flat(&kept[0].1)), (1, row, flat(&values(1.0, 1))));
                assert_eq!(unpack(&with, &timelines, shape, &cpu).unwrap().len(), timelines.len());
            }
            let error = unpack(&earlier, &[of(6)], shape, &cpu).unwrap_err().to_string();
            assert!(error.contains("timeline has shape [5, 2, 1, 2], this run needs [6, 2, 1, 2]"), "{error}");
        }
    }
}
