//! Pictures of a run that is not over: the estimate of the clean video at a step, its latents mapped to colours cell by cell.
//!
//! No network is asked: a colour is a linear function of the channels of a cell, fitted once for a model (`[preview]` of its
//! recipe), so a preview costs next to nothing and shows place, light and movement, not detail.

use super::denoise::{StepHook, StepInfo};
use crate::job::values::PreviewKind;
use crate::job::{Job, Preview, Stage, TimelineRole};
use crate::run::{Event, Observer};
use crate::video::{self, Frame, Output, Rate};
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};

/// Frames of a strip.
const STRIP: usize = 8;
/// Pixels of the longer side of a frame of a preview.
const SIDE: usize = 240;

/// Shows a stage while it runs. A preview that cannot be written is a warning, once.
pub struct Previewer<'a> {
    stage: &'a Stage,
    fps: Rate,
    preview: Option<&'a Preview>,
    /// Frames of the segments that are denoised, as they were last shown.
    before: Vec<Frame>,
}

impl<'a> Previewer<'a> {
    /// Shows a stage of a job.
    pub fn new(job: &'a Job, stage: &'a Stage) -> Self {
        // colours were fitted for the last stage's latents
        let preview = job.output.preview.as_ref().filter(|_| std::ptr::eq(stage, job.last()));
        Self { stage, fps: job.output.video.fps, preview, before: Vec::new() }
    }

    /// One who shows steps, and then calls `next` as well.
    pub fn then<'b>(&'b mut self, next: &'b mut dyn StepHook) -> Shown<'b, 'a> {
        Shown { previewer: self, next }
    }

    fn show(&mut self, at: &StepInfo, observer: &mut dyn Observer) -> Result<()> {
        let Some(preview) = self.preview else { return Ok(()) };
        let (stage, part, index) = (self.stage, at.part, at.done - 1);
        if !preview.due(index, at.steps) {
            return Ok(());
        }
        let segment = &stage.segments[part];
        let output = stage.timelines(segment).iter().position(|timeline| timeline.role == TimelineRole::Output);
        let estimates = (at.estimates)()?;
        let estimate = output.and_then(|output| estimates.get(output)).context("no output among the timelines")?;
        let frames = frames(&estimate.narrow(0, segment.padding, segment.plan.keep - segment.padding)?, preview)?;
        let all: Vec<&Frame> = self.before.iter().chain(&frames).collect();
        match write(stage, self.fps, preview, &all) {
            Ok(()) => {
                let (index, of) = (stage.steps_before(part) + index, stage.steps_before(stage.segments.len()));
                observer.event(&Event::Preview { path: preview.path.clone(), index, of })?;
            }
            Err(error) => {
                self.preview = None;
                observer.event(&Event::Warning(format!("no more previews: {error:#}")))?;
            }
        }
        if index + 1 == at.steps {
            self.before.extend(frames);
        }
        Ok(())
    }
}

/// Updates the preview, then calls another hook.
pub struct Shown<'b, 'a> {
    previewer: &'b mut Previewer<'a>,
    next: &'b mut dyn StepHook,
}

impl StepHook for Shown<'_, '_> {
    fn step(&mut self, at: &StepInfo, observer: &mut dyn Observer) -> Result<()> {
        self.previewer.show(at, observer)?;
        self.next.step(at, observer)
    }
}

/// Latents `[F, C, h, w]` as pictures of h by w pixels.
fn frames(latents: &Tensor, preview: &Preview) -> Result<Vec<Frame>> {
    let (frames, channels, height, width) = latents.dims4()?;
    let values = latents.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let plane = height * width;
    let colour = |frame: usize, cell: usize, colour: usize| {
        let value = |channel: usize| values[(frame * channels + channel) * plane + cell];
        let sum: f32 = (0..channels).map(|channel| value(channel) * preview.map.factors[channel][colour]).sum();
        ((sum + preview.map.bias[colour]).clamp(-1.0, 1.0).mul_add(127.5, 127.5)) as u8
    };
    let picture = |frame: usize| {
        let cells = (0..plane).flat_map(|cell| [0, 1, 2].map(|c| colour(frame, cell, c)));
        Frame { width, height, data: cells.collect() }
    };
    Ok((0..frames).map(picture).collect())
}

fn write(stage: &Stage, fps: Rate, preview: &Preview, frames: &[&Frame]) -> Result<()> {
    let scale = (SIDE as f64 / stage.size.width.max(stage.size.height) as f64).min(1.0);
    // even sides, which encoders want
    let side = |pixels: usize| ((pixels as f64 * scale / 2.0).round() as usize).max(8) * 2;
    let (width, height) = (side(stage.size.width), side(stage.size.height));
    match preview.kind {
        PreviewKind::Off => Ok(()),
        PreviewKind::Strip => {
            let count = frames.len().min(STRIP);
            let at = |index: usize| if count == 1 { 0 } else { index * (frames.len() - 1) / (count - 1) };
            let shown = (0..count).map(|index| frames[at(index)].clone().resized(width, height));
            video::write_png(&preview.path, &video::side_by_side(&shown.collect::<Vec<_>>())?)
        }
        PreviewKind::Video => {
            // a latent frame stands for several of the video
            let Rate { num, den } = fps;
            let rate = Rate::new(num, den.saturating_mul(stage.model.architecture.geometry().time.ratio as u32))?;
            let output = Output { overwrite: true, ..Output::new(&preview.path, width, height, rate)? };
            let mut writer = video::open(&output)?;
            for frame in frames {
                writer.write(Frame::clone(frame).resized(width, height))?;
            }
            writer.finish()?;
            Ok(())
        }
    }
}
