//! The background of the frames of an image model goes over into that of the first one (Text2Video-Zero, arXiv 2303.13439;
//! spec/text2video-zero.md 7): once, at the step where all frames begin, where neither frame has its foreground.

use crate::job::{MotionPlan, Smoothing};
use crate::nn::resample::resize_bilinear;
use crate::timeline::moved;
use crate::video::{self, Frame, Limits};
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use std::ops::Range;
use std::path::Path;

/// Cells on each side by which a foreground is larger than its mask.
const GROWN: usize = 2;

/// `latents` `[F, C, h, w]` of the frames of a segment, the first of which is the anchor; `masks`: their foregrounds.
pub fn smoothed(plan: &MotionPlan, smoothing: &Smoothing, masks: &[Tensor], latents: &Tensor) -> Result<Tensor> {
    let frame = |index: usize| latents.narrow(0, index, 1);
    let anchor = frame(0)?;
    let mut made = vec![anchor.clone()];
    for (index, mask) in masks.iter().enumerate().skip(1) {
        let by = plan.path.at(plan.motion, index);
        let (own, anchor, hidden) = (frame(index)?, moved(&anchor, by)?, moved(&masks[0], by)?);
        let background = ((1.0 - mask)? * (1.0 - hidden)?)?;
        let weight = (background * smoothing.strength)?.broadcast_as(own.shape())?;
        made.push((&own + ((anchor - &own)? * weight)?)?);
    }
    Ok(Tensor::cat(&made, 0)?)
}

/// 1 at the foreground of each of some frames of the video and 0 elsewhere, `[1, 1, h, w]`, as pictures say it.
pub fn of_pictures(file: &Path, frames: Range<usize>, cells: (usize, usize), device: &Device) -> Result<Vec<Tensor>> {
    let mut read = video::read(file, &Limits::default())?.skip(frames.start);
    let mut masks = Vec::with_capacity(frames.len());
    for _ in frames {
        let Some(frame) = read.next().transpose()? else {
            anyhow::bail!("{}: has changed since the run began", file.display())
        };
        masks.push(on_device(foreground(&frame, cells), cells, device)?);
    }
    Ok(masks)
}

/// The same as the attention of words says it: `maps` `[F, words, h', w']`.
pub fn of_words(maps: &[Tensor], threshold: f64, cells: (usize, usize), device: &Device) -> Result<Vec<Tensor>> {
    let (height, width) = cells;
    let mut sum = None::<Tensor>;
    for maps in maps {
        let maps = resize_bilinear(&maps.to_dtype(DType::F32)?, height, width)?;
        sum = Some(match sum {
            Some(sum) => (sum + maps)?,
            None => maps,
        });
    }
    let maps = sum.context("no attention was seen")?.flatten_from(2)?.to_vec3::<f32>()?; // [F, words, h w]
    let mask = |words: &Vec<Vec<f32>>| {
        let words: Vec<Vec<bool>> = words.iter().map(|map| attended(map, threshold)).collect();
        let found = grown(cells, |y, x| words.iter().any(|word| word[y * width + x]));
        on_device(found, cells, device)
    };
    maps.iter().map(mask).collect()
}

/// Where a word's attention is so far up from its lowest to its highest; nowhere where it is the same everywhere, as that of a word
/// which a text does not have.
fn attended(map: &[f32], threshold: f64) -> Vec<bool> {
    let (low, high) =
        map.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &value| (low.min(value), high.max(value)));
    let from = low + (high - low) * threshold as f32;
    map.iter().map(|&value| high > low && value >= from).collect()
}

fn on_device(mask: Vec<f32>, (height, width): (usize, usize), device: &Device) -> Result<Tensor> {
    Ok(Tensor::from_vec(mask, (1, 1, height, width), device)?)
}

/// Where a mask is white, on cells, grown.
fn foreground(mask: &Frame, cells: (usize, usize)) -> Vec<f32> {
    let (height, width) = cells;
    let white = |y: usize, x: usize| {
        let at = 3 * (y * mask.height / height * mask.width + x * mask.width / width);
        mask.data[at..at + 3].iter().map(|&value| u32::from(value)).sum::<u32>() >= 3 * 128
    };
    grown(cells, white)
}

/// 1 at the cells near one that is `inside`.
fn grown((height, width): (usize, usize), inside: impl Fn(usize, usize) -> bool) -> Vec<f32> {
    let near = |at: usize, count: usize| at.saturating_sub(GROWN)..(at + GROWN + 1).min(count);
    let grown = |y: usize, x: usize| near(y, height).any(|y| near(x, width).any(|x| inside(y, x)));
    (0..height * width).map(|at| if grown(at / width, at % width) { 1.0 } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_where_their_attention_is_high() {
        assert_eq!(attended(&[1.0, 2.0, 1.4, 1.6], 0.5), [false, true, false, true]);
        assert_eq!(attended(&[0.0; 3], 0.0), [false; 3]);
        // two steps of one frame on a grid of half the size: the mean counts, and a word that is nowhere adds nothing
        let map = |values: [f32; 4]| {
            let both = [values, [0.0; 4]].concat();
            Tensor::from_vec(both, (1, 2, 2, 2), &Device::Cpu).unwrap()
        };
        let maps = [map([9.0, 0.0, 0.0, 0.0]), map([0.0, 0.0, 0.0, 1.0])];
        let found = of_words(&maps, 0.9, (20, 20), &Device::Cpu).unwrap().remove(0);
        let found = found.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(found[0] == 1.0 && found[9 * 20 + 9] == 0.0 && found[19 * 20 + 19] == 0.0);
    }

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
