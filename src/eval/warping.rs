//! How well the flow from a frame to the next explains it: warp error and MAWE of StreamingT2V (arXiv 2403.14773), in both of their
//! definitions (spec/streamingt2v.md 7.2: the paper's, and that of its released `mawe.py`).
//!
//! Each pixel is moved along the flow to the nearest pixel; of several that meet the last in the order of rows stays, and places that none
//! reaches are left out of the error.

use super::motion;
use crate::nn::resample::resize_bilinear;
use crate::video::Frame;
use crate::weights::read_tensors;
use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use std::fmt;
use std::path::Path;

/// Told in reports.
pub const BUILTIN: &str = "block matching (8x8 pixels, whole pixels)";
/// The constant of `mawe.py`.
const COEFFICIENT: f64 = 9.5;
/// Pairs that move less, in pixels, have no ratio.
const STILL: f64 = 1e-6;

/// Where the flow comes from.
#[derive(Debug, Clone)]
pub enum FlowSource {
    /// Estimated here, in the size of the video.
    Builtin,
    /// `[F - 1, 2, H, W]` in pixels, x and y, from each frame to the next.
    Given(Tensor),
}

impl FlowSource {
    /// `builtin`, or a safetensors file with a tensor `flow`.
    ///
    /// # Errors
    /// A file that cannot be read or holds no such tensor.
    pub fn open(word: &str) -> Result<Self> {
        if word == "builtin" {
            return Ok(Self::Builtin);
        }
        let mut tensors = read_tensors(Path::new(word))?;
        let flow = tensors.remove("flow").with_context(|| format!("{word}: holds no tensor named flow"))?;
        let (&[_, 2, _, _], true) = (flow.dims(), flow.elem_count() > 0) else {
            bail!("{word}: flow has shape {:?}, and [frames - 1, 2, height, width] is right", flow.dims())
        };
        let finite = flow.flatten_all()?.to_vec1::<f32>()?.iter().all(|value| value.is_finite());
        ensure!(finite, "{word}: flow has values that are not finite");
        Ok(Self::Given(flow))
    }

    /// Whether a given flow is of a video of so many frames.
    ///
    /// # Errors
    /// Where it is of more or fewer.
    pub fn covers(&self, frames: usize) -> Result<()> {
        match self {
            Self::Given(flow) => {
                let of = flow.dim(0)? + 1;
                ensure!(of == frames, OtherLength { of });
                Ok(())
            }
            Self::Builtin => Ok(()),
        }
    }

    /// For reports: the estimator, none of a given flow.
    pub fn estimator(&self) -> Option<&'static str> {
        matches!(self, Self::Builtin).then_some(BUILTIN)
    }
}

/// A given flow is of a video of another length.
#[derive(Debug)]
pub struct OtherLength {
    of: usize,
}

impl fmt::Display for OtherLength {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "the flow of --flow is of {} frames, and the video has another number of them", self.of)
    }
}

impl std::error::Error for OtherLength {}

/// A pair of frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// Mean squared error of the places that were reached, in levels from 0 to 255.
    pub error: f64,
    /// Mean length of the flow, in pixels, and mean of its square.
    pub motion: f64,
    pub squared: f64,
}

/// What all pairs of a video give.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Warped {
    pub error: f64,
    pub motion: f64,
    /// Mean of `error / (9.5 motion)` over the pairs that move, as `mawe.py` has it; none where nothing moves.
    pub mawe: Option<f64>,
    /// Mean error over the mean square of the flow, as the paper has it; none where nothing moves.
    pub mawe_paper: Option<f64>,
}

/// None of no pairs.
pub fn summed(pairs: &[Pair]) -> Option<Warped> {
    let mean = |value: fn(&Pair) -> f64| pairs.iter().map(value).sum::<f64>() / pairs.len() as f64;
    let ratios: Vec<f64> =
        pairs.iter().filter(|pair| pair.motion >= STILL).map(|pair| pair.error / (COEFFICIENT * pair.motion)).collect();
    let (error, squared) = (mean(|pair| pair.error), mean(|pair| pair.squared));
    (!pairs.is_empty()).then(|| Warped {
        error,
        motion: mean(|pair| pair.motion),
        mawe: super::frames::mean(&ratios),
        mawe_paper: (squared > 0.0).then(|| error / squared),
    })
}

/// The pair `index` of a video.
///
/// # Errors
/// A given flow of fewer pairs.
pub fn pair(source: &FlowSource, index: usize, a: &Frame, b: &Frame) -> Result<Pair> {
    match source {
        FlowSource::Builtin => {
            let flow = motion::forward(a, b);
            let levels = |frame: &Frame| planes(frame).map(|value| f32::from(*value)).collect::<Vec<_>>();
            Ok(warped(&levels(a), &levels(b), &flow, a.width, a.height))
        }
        FlowSource::Given(flow) => {
            let pairs = flow.dim(0)?;
            ensure!(index < pairs, OtherLength { of: pairs + 1 });
            let (_, _, height, width) = flow.dims4()?;
            let resized = |frame: &Frame| -> Result<Vec<f32>> {
                let levels: Vec<f32> = planes(frame).map(|value| f32::from(*value)).collect();
                let levels = Tensor::from_vec(levels, (1, 3, frame.height, frame.width), &Device::Cpu)?;
                Ok(resize_bilinear(&levels, height, width)?.flatten_all()?.to_vec1()?)
            };
            let flow = flow.get(index)?.flatten_all()?.to_vec1::<f32>()?;
            Ok(warped(&resized(a)?, &resized(b)?, &flow, width, height))
        }
    }
}

/// All reds, all greens, all blues.
fn planes(frame: &Frame) -> impl Iterator<Item = &u8> {
    (0..3).flat_map(|channel| frame.data.iter().skip(channel).step_by(3))
}

/// `a`, `b`: `[3, H, W]`; `flow`: `[2, H, W]`.
fn warped(a: &[f32], b: &[f32], flow: &[f32], width: usize, height: usize) -> Pair {
    let pixels = width * height;
    let (across, down) = flow.split_at(pixels);
    // by place, the pixel that has come there
    let mut from = vec![None; pixels];
    let (mut motion, mut squared) = (0.0, 0.0);
    for (at, (&dx, &dy)) in across.iter().zip(down).enumerate() {
        let square = f64::from(dx) * f64::from(dx) + f64::from(dy) * f64::from(dy);
        motion += square.sqrt();
        squared += square;
        let x = ((at % width) as f32 + dx).round_ties_even();
        let y = ((at / width) as f32 + dy).round_ties_even();
        if x >= 0.0 && y >= 0.0 && x < width as f32 && y < height as f32 {
            from[y as usize * width + x as usize] = Some(at);
        }
    }
    let (mut sum, mut known) = (0.0, 0);
    for (to, from) in from.iter().enumerate() {
        let Some(from) = from else { continue };
        known += 1;
        for plane in (0..3).map(|channel| channel * pixels) {
            let difference = f64::from(b[plane + to]) - f64::from(a[plane + from]);
            sum += difference * difference;
        }
    }
    let of = |sum: f64| sum / pixels.max(1) as f64;
    Pair { error: sum / (3 * known.max(1)) as f64, motion: of(motion), squared: of(squared) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_go_where_the_flow_says() {
        // one row of four pixels; two meet in the third place, where the later stays, the last leaves the picture
        let a = [10.0, 20.0, 30.0, 40.0].repeat(3);
        let b = [12.0, 0.0, 25.0, 40.0].repeat(3);
        let flow = [[0.0, 1.0, 0.0, 0.5], [0.0; 4]].concat();
        let pair = warped(&a, &b, &flow, 4, 1);
        // known: places 0 (10), 2 (30) and, since 3.5 rounds to 4, not 3
        assert_eq!(pair.error, (4.0 + 25.0) / 2.0);
        assert_eq!((pair.motion, pair.squared), (1.5 / 4.0, 1.25 / 4.0));
    }

    #[test]
    fn a_video_that_stands_still_has_no_ratio() {
        let still = Pair { error: 0.0, motion: 0.0, squared: 0.0 };
        let moving = Pair { error: 19.0, motion: 2.0, squared: 5.0 };
        let all = summed(&[still, moving]).unwrap();
        assert_eq!((all.error, all.motion, all.mawe, all.mawe_paper), (9.5, 1.0, Some(1.0), Some(3.8)));
        let none = summed(&[still]).unwrap();
        assert_eq!((none.mawe, none.mawe_paper), (None, None));
        assert_eq!(summed(&[]), None);
    }
}
