//! The background of the frames of an image model goes over into that of the first one (Text2Video-Zero, arXiv 2303.13439;
//! spec/text2video-zero.md 7): once, at the step where all frames begin, where neither frame has its foreground.

use crate::job::{MotionPlan, Smoothing};
use crate::timeline::moved;
use crate::video::{self, Frame, Limits};
use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use std::ops::Range;

/// Cells on each side by which a foreground is larger than its mask.
const GROWN: usize = 2;

/// `latents` `[F, C, h, w]` of the `frames` of a video, the first of which is the anchor.
pub fn smoothed(
    plan: &MotionPlan,
    smoothing: &Smoothing,
    frames: Range<usize>,
    latents: &[Tensor],
) -> Result<Vec<Tensor>> {
    let (_, _, height, width) = latents[0].dims4()?;
    let masks = masks(smoothing, frames, (height, width), latents[0].device())?;
    let mut made = vec![latents[0].clone()];
    for (frame, own) in latents.iter().enumerate().skip(1) {
        let by = plan.path.at(plan.motion, frame);
        let (anchor, hidden) = (moved(&latents[0], by)?, moved(&masks[0], by)?);
        let background = ((1.0 - &masks[frame])? * (1.0 - hidden)?)?;
        let weight = (background * smoothing.strength)?.broadcast_as(own.shape())?;
        made.push((own + ((anchor - own)? * weight)?)?);
    }
    Ok(made)
}

/// 1 at the foreground of each frame and 0 elsewhere, `[1, 1, h, w]`.
fn masks(smoothing: &Smoothing, frames: Range<usize>, cells: (usize, usize), device: &Device) -> Result<Vec<Tensor>> {
    let mut read = video::read(&smoothing.masks, &Limits::default())?.skip(frames.start);
    let mut masks = Vec::with_capacity(frames.len());
    for _ in frames {
        let frame = read.next().transpose()?;
        let Some(frame) = frame else {
            anyhow::bail!("{}: has changed since the run began", smoothing.masks.display())
        };
        masks
            .push(Tensor::from_vec(foreground(&frame, cells), (1, 1, cells.0, cells.1), device)?.to_dtype(DType::F32)?);
    }
    ensure!(!masks.is_empty(), "no masks");
    Ok(masks)
}

/// Where a mask is white, on cells, grown.
fn foreground(mask: &Frame, (height, width): (usize, usize)) -> Vec<f32> {
    let white = |y: usize, x: usize| {
        let at = 3 * (y * mask.height / height * mask.width + x * mask.width / width);
        mask.data[at..at + 3].iter().map(|&value| u32::from(value)).sum::<u32>() >= 3 * 128
    };
    let near = |at: usize, count: usize| at.saturating_sub(GROWN)..(at + GROWN + 1).min(count);
    let grown = |y: usize, x: usize| near(y, height).any(|y| near(x, width).any(|x| white(y, x)));
    (0..height * width).map(|at| if grown(at / width, at % width) { 1.0 } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_white_pixel_is_five_cells_wide() {
        let mut mask = Frame { width: 20, height: 10, data: vec![127; 600] };
        assert!(foreground(&mask, (10, 20)).iter().all(|&value| value == 0.0));
        mask.data[3 * (3 * 20 + 1)..][..3].fill(128);
        let found = foreground(&mask, (10, 20));
        for (at, value) in found.iter().enumerate() {
            let inside = (1..=5).contains(&(at / 20)) && at % 20 <= 3;
            assert_eq!(*value == 1.0, inside, "{at}");
        }
        // of the cells, those whose own pixel is white
        assert_eq!(foreground(&mask, (5, 10)).iter().sum::<f32>(), 0.0);
    }
}
