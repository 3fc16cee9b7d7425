//! Guidance: which evaluations of the network a step needs, and how their outputs become one prediction.
//!
//! An evaluation is described by what it sees, a [`Half`]. A [`Rule`] says which of them a step needs ([`Rule::halves`]) and
//! combines their outputs ([`Rule::combine`]); everyone else goes over the halves, however many there are.
//!
//! - Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598): two halves. Where an image conditions as well, the
//!   other half keeps it, or drops it together with the text (JIT, arXiv 2412.07730).
//! - Three parts (InstructPix2Pix, arXiv 2211.09800, equation 3; SIT of arXiv 2412.07730): text and image have a scale each.
//! - Over any of these: renormalisation (arXiv 2412.07730, appendix A) and rescaling (arXiv 2305.08891, equations 15 and 16;
//!   diffusers' `rescale_noise_cfg`).

mod schedule;

pub use schedule::GuidanceSchedule;

use crate::attention::Half;
use crate::schedulers::Table;
use candle_core::{Result, Tensor, bail};

/// Where in a run a rule is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// From 0.
    pub index: usize,
    /// Steps of the run.
    pub count: usize,
    /// The sampler's timestep; it matters to the values of a wave, to no rule's halves.
    pub timestep: f64,
    /// The program whose schedule is followed; a wave depends on it.
    pub table: Table,
}

/// The network's output for one half, `[F, C, H, W]`.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    pub half: Half,
    pub prediction: &'a Tensor,
}

/// How outputs of the network become the prediction of a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// `u + s (c - u)` with c all conditions and u what the half `null` sees. No guidance, and one half, where s is 1 or less.
    ClassifierFree { scale: GuidanceSchedule, null: Half },
    /// `n + text (t - i) + image (i - n)`, with n neither condition, i the image and t both.
    ThreePart {
        text: GuidanceSchedule,
        image: f64,
        /// Whether a text scale of 1 or less leaves t alone (InstructPix2Pix), or the rule as it is (SIT).
        text_decides: bool,
    },
    /// The direction of `rule`'s prediction with the norm of the conditional output; `clamp`: never a larger one than it has.
    /// The norms are over all axes, but for frames that are known.
    Renormalised { rule: Box<Rule>, clamp: bool },
    /// `share` of the prediction scaled to the standard deviation of the conditional output, and the rest as it is.
    Rescaled { rule: Box<Rule>, share: f64 },
}

impl Rule {
    /// Classifier-free guidance by the text.
    pub fn classifier_free(scale: GuidanceSchedule) -> Self {
        Self::ClassifierFree { scale, null: Half::UNCOND }
    }

    /// The halves that a step needs, in the order in which they stand in a pass; the one that sees everything comes last.
    pub fn halves(&self, step: &Step) -> &'static [Half] {
        match self {
            Self::ClassifierFree { scale, null } => match scale.needs_uncond(step.index, step.count, step.timestep) {
                false => &[Half::COND],
                true if null.image => &[Half::UNCOND, Half::COND],
                true => &[Half::NONE, Half::COND],
            },
            Self::ThreePart { text, text_decides, .. } => {
                if *text_decides && !text.needs_uncond(step.index, step.count, step.timestep) {
                    &[Half::COND]
                } else {
                    &[Half::NONE, Half::UNCOND, Half::COND]
                }
            }
            Self::Renormalised { rule, .. } | Self::Rescaled { rule, .. } => rule.halves(step),
        }
    }

    /// Most halves that a step of a run of `steps` steps needs.
    pub fn most_halves(&self, steps: usize) -> usize {
        let step = |index| Step { index, count: steps, timestep: 0.0, table: Table::Diffusers };
        (0..steps).map(|index| self.halves(&step(index)).len()).max().unwrap_or(1)
    }

    /// The prediction of a step, `[F, C, H, W]`, from the outputs of its halves, all of one shape. `known`: frames, by their
    /// place in the outputs, that are given and not predicted.
    ///
    /// # Errors
    /// When an output is missing.
    pub fn combine(&self, step: &Step, outputs: &[Output], known: &[usize]) -> Result<Tensor> {
        let of = |half: Half| match outputs.iter().find(|output| output.half == half) {
            Some(output) => Ok(output.prediction),
            None => bail!("guidance: the output of the half {half} is missing"),
        };
        let conditional = of(Half::COND)?;
        match self {
            _ if self.halves(step) == [Half::COND] => Ok(conditional.clone()),
            Self::ClassifierFree { scale, null } => {
                let scale = scale.scale_in(step.table, step.index, step.count, step.timestep);
                classifier_free(of(*null)?, conditional, scale)
            }
            Self::ThreePart { text, image, text_decides } => {
                let scale = if *text_decides { GuidanceSchedule::scale_in } else { GuidanceSchedule::value_in };
                let text = scale(text, step.table, step.index, step.count, step.timestep);
                three_part(of(Half::NONE)?, of(Half::UNCOND)?, conditional, text, *image)
            }
            Self::Renormalised { rule, clamp } => {
                renormalised(&rule.combine(step, outputs, known)?, conditional, *clamp, known)
            }
            Self::Rescaled { rule, share } => rescaled(&rule.combine(step, outputs, known)?, conditional, *share),
        }
    }
}

/// `uncond + scale (cond - uncond)`. A scale of exactly 1 gives `cond` itself.
fn classifier_free(uncond: &Tensor, cond: &Tensor, scale: f64) -> Result<Tensor> {
    if scale == 1.0 {
        return Ok(cond.clone());
    }
    uncond + ((cond - uncond)? * scale)?
}

/// `none + text (both - image) + image_scale (image - none)`. Scales of exactly 1 give `both` itself.
fn three_part(none: &Tensor, image: &Tensor, both: &Tensor, text: f64, image_scale: f64) -> Result<Tensor> {
    if (text, image_scale) == (1.0, 1.0) {
        return Ok(both.clone());
    }
    (none + ((both - image)? * text)?)? + ((image - none)? * image_scale)?
}

fn renormalised(guided: &Tensor, conditional: &Tensor, clamp: bool, known: &[usize]) -> Result<Tensor> {
    let norm = |x: &Tensor| -> Result<f64> {
        let frames = frame_sums(&x.sqr()?)?;
        let free = frames.iter().enumerate().filter(|(frame, _)| !known.contains(frame));
        Ok(free.map(|(_, &sum)| f64::from(sum)).sum::<f64>().sqrt())
    };
    let (wanted, found) = (norm(conditional)?, norm(guided)?);
    let factor = if found > 0.0 { wanted / found } else { 1.0 }; // nothing has no direction
    guided * if clamp { factor.min(1.0) } else { factor }
}

fn rescaled(guided: &Tensor, conditional: &Tensor, share: f64) -> Result<Tensor> {
    let deviation = |x: &Tensor| -> Result<f64> {
        let total = |x: &Tensor| Ok::<_, candle_core::Error>(frame_sums(x)?.into_iter().map(f64::from).sum::<f64>());
        let count = x.elem_count() as f64;
        let mean = total(x)? / count;
        Ok((total(&(x - mean)?.sqr()?)? / (count - 1.0)).sqrt()) // as torch's
    };
    let (wanted, found) = (deviation(conditional)?, deviation(guided)?);
    if found == 0.0 {
        return Ok(guided.clone());
    }
    ((guided * (wanted / found))? * share)? + (guided * (1.0 - share))?
}

/// The sum of each frame of `[F, C, H, W]`. Axis by axis: one f32 sum over millions of values would lose two digits.
fn frame_sums(x: &Tensor) -> Result<Vec<f32>> {
    x.sum(3)?.sum(2)?.sum(1)?.to_vec1()
}

#[cfg(test)]
mod tests;
