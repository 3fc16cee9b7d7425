//! Pictures that a video follows, as control networks see them, and what those say to the denoiser in each pass.

use super::controls;
use super::denoise::MICRO_BATCH;
use super::footage::frames;
use crate::attention::{Branch, Hooks, Pass, Row};
use crate::job::{ControlInput, ControlKind, KEPT_HINTS, Stage, Timeline};
use crate::models::control::{ControlNetwork, Residuals};
use crate::nn::sdpa::Sdpa;
use crate::processors::{FeatureResiduals, Residual, Stack};
use crate::run::{Event, Failure, Observer, Phase};
use crate::video::Frame;
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// The pictures of each control, in bytes on the CPU: `[F, C, H, W]`, of one frame where it stands for all, of one channel where all are
/// alike.
pub type Pictures = Vec<Tensor>;

/// Reads the pictures that a stage follows, in its size.
pub fn pictures(stage: &Stage, observer: &mut dyn Observer) -> Result<Pictures, Failure> {
    if !stage.method.control_inputs.is_empty() {
        observer.event(&Event::Phase { phase: Phase::Encode, of: 0, what: "control pictures".into() })?;
    }
    let mut all = Vec::with_capacity(stage.method.control_inputs.len());
    for input in &stage.method.control_inputs {
        all.push(of_input(stage, input)?);
        if input.kind == ControlKind::Pose && all.last().is_some_and(|last| !dark(last).unwrap_or(true)) {
            let shown = input.footage.path.display();
            observer.event(&Event::Warning(format!(
                "--control pose:{shown}: these are no skeletons on black, which such networks were trained on: another program makes them of \
                 a video; --control canny:{shown} takes an ordinary one"
            )))?;
        }
    }
    Ok(all)
}

/// Whether more than half of some pictures is black, or nearly.
fn dark(pictures: &Tensor) -> candle_core::Result<bool> {
    let values = pictures.max(1)?.flatten_all()?.to_vec1::<u8>()?;
    Ok(values.iter().filter(|&&value| value < 32).count() * 2 > values.len())
}

fn of_input(stage: &Stage, input: &ControlInput) -> Result<Tensor> {
    let (width, height) = (stage.size.width, stage.size.height);
    let count = input.footage.frames.len();
    let mut values = Vec::with_capacity(count * input.planes() * width * height);
    let canny = input.kind == ControlKind::Canny;
    // a value of a condition means something, and between two of them there is none
    let sized = if canny { Frame::bilinear } else { Frame::nearest };
    for frame in frames(&input.footage)? {
        let frame = sized(frame?, width, height);
        if canny {
            values.extend(frame.canny(input.canny.low, input.canny.high));
        } else {
            values.extend((0..3).flat_map(|channel| frame.data.iter().skip(channel).step_by(3)));
        }
    }
    Ok(Tensor::from_vec(values, (count, input.planes(), height, width), &Device::Cpu)?)
}

/// What a network beside the denoiser says, as a control takes it.
pub(super) fn features(Residuals { skips, mid }: Residuals) -> FeatureResiduals {
    FeatureResiduals { skips, mid: Some(mid) }
}

/// A control network at work.
struct Beside {
    network: Arc<dyn ControlNetwork>,
    pictures: Tensor,
    weight: f64,
    stack: Stack,
    /// What it has seen of some frames, by the first of them and their number: the same in every pass.
    hints: BTreeMap<(usize, usize), Tensor>,
    /// Bytes of these.
    kept: usize,
}

impl Beside {
    /// What it sees of some frames: seen once for the whole run as far as there is room to keep it.
    fn hint(&mut self, frames: Range<usize>) -> candle_core::Result<Tensor> {
        // one picture is the same for all frames
        let first = if self.pictures.dim(0)? == 1 { 0 } else { frames.start };
        if let Some(seen) = self.hints.get(&(first, frames.len())) {
            return Ok(seen.clone());
        }
        let seen = self.see(&frames)?;
        let bytes = seen.elem_count() * seen.dtype().size_in_bytes();
        if self.kept + bytes <= KEPT_HINTS {
            self.kept += bytes;
            self.hints.insert((first, frames.len()), seen.clone());
        }
        Ok(seen)
    }

    fn see(&self, frames: &Range<usize>) -> candle_core::Result<Tensor> {
        let pictures = match self.pictures.dim(0)? {
            1 => self.pictures.repeat((frames.len(), 1, 1, 1))?,
            _ => self.pictures.narrow(0, frames.start, frames.len())?,
        };
        let (count, _, height, width) = pictures.dims4()?;
        let pictures = (pictures.to_dtype(DType::F32)? / 255.0)?;
        self.network.hint(&pictures.broadcast_as((count, 3, height, width))?.contiguous()?)
    }
}

/// What adds to the denoiser's features what the control networks of a stage say, in segment `index`; none where it has none.
/// `networks`: those of its controls.
pub fn processor(
    stage: &Stage,
    index: usize,
    (networks, pictures): (&[Arc<dyn ControlNetwork>], &Pictures),
    timeline: &Timeline,
    kernel: Sdpa,
) -> Result<Option<Residual>> {
    if networks.is_empty() {
        return Ok(None);
    }
    let mut all = Vec::with_capacity(networks.len());
    for (at, ((network, pictures), input)) in
        networks.iter().zip(pictures).zip(&stage.method.control_inputs).enumerate()
    {
        let stack = controls::stack_beside(stage, std::slice::from_ref(timeline), at + 1)?;
        let (network, pictures) = (network.clone(), pictures.clone());
        all.push(Beside { network, pictures, weight: input.weight, stack, hints: BTreeMap::new(), kept: 0 });
    }
    let first = stage.first_shown(index);
    let windows: Vec<Range<usize>> =
        timeline.plan.windows.iter().map(|window| first + window.start..first + window.end()).collect();
    let source = move |pass: &Pass, branches: &[Branch], rows: &[Row]| {
        let mut sum: Vec<Residuals> = Vec::new();
        for (at, beside) in all.iter_mut().enumerate() {
            let mut hints: Vec<(usize, Tensor)> = Vec::new();
            for branch in branches {
                if hints.iter().all(|(window, _)| *window != branch.window) {
                    hints.push((branch.window, beside.hint(windows[branch.window].clone())?));
                }
            }
            let hint = |branch: &Branch| hints.iter().find(|(window, _)| *window == branch.window);
            let hints: Vec<Tensor> = branches.iter().filter_map(hint).map(|(_, hint)| hint.clone()).collect();
            let stack = &mut beside.stack.processors;
            let mut hooks = Hooks::new(*pass, branches.to_vec(), Vec::new(), stack, kernel.clone(), MICRO_BATCH)?;
            let own = beside.network.forward(rows, &hints, beside.weight, at + 1, &mut hooks)?;
            hooks.finish()?;
            sum = if sum.is_empty() {
                own
            } else {
                sum.iter().zip(&own).map(|(sum, own)| sum.plus(own)).collect::<candle_core::Result<_>>()?
            };
        }
        Ok(sum.into_iter().map(features).collect())
    };
    Ok(Some(Residual::new(Box::new(source))))
}
