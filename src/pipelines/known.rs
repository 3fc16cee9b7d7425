//! Frames of a timeline that are known: the end of a video that is continued, or frames that are given of a clip.

use crate::attention::Half;
use crate::job::NullFrame;
use anyhow::Result;
use candle_core::Tensor;
use std::ops::Range;

/// Frames that are known. They come out bit for bit.
#[derive(Debug, Clone)]
pub struct Known {
    /// Where they are on the timeline, rising.
    pub frames: Vec<usize>,
    /// `[K, C, H, W]` in f32, scaled, on the device of the run.
    pub latents: Tensor,
    pub seen: Seen,
}

/// How a network sees known frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Seen {
    /// Under the noise of each step, as all others: in every step the estimate of them is what they are.
    Noised,
    /// As they are, in passes that see the image; `null` says what others see. `time`: what they are told, where that is not the
    /// time of all. Of models of flow matching.
    Clean { time: Option<f64>, null: NullFrame },
}

impl Known {
    /// A stretch of them that is seen under noise.
    pub fn noised(start: usize, latents: Tensor) -> Result<Self> {
        Ok(Self { frames: (start..start + latents.dim(0)?).collect(), latents, seen: Seen::Noised })
    }

    /// The known frames of a tensor over the timeline.
    pub fn of(&self, timeline: &Tensor) -> Result<Tensor> {
        let frames: Vec<u32> = self.frames.iter().map(|&frame| frame as u32).collect();
        Ok(timeline.index_select(&Tensor::new(frames, timeline.device())?, 0)?)
    }

    /// Which frames of a stretch of the timeline are known, counted from its start.
    pub fn within(&self, stretch: &Range<usize>) -> Vec<usize> {
        let within = self.frames.iter().filter(|frame| stretch.contains(frame));
        within.map(|frame| frame - stretch.start).collect()
    }

    /// Puts values in the place of the known frames, in `timeline` itself, which nobody else may hold.
    pub fn put(&self, timeline: &Tensor, values: &Tensor) -> Result<()> {
        let values = values.contiguous()?;
        for (index, &frame) in self.frames.iter().enumerate() {
            timeline.slice_set(&values.narrow(0, index, 1)?.contiguous()?, 0, frame)?;
        }
        Ok(())
    }

    /// Puts those of `values`, which are of a stretch of the timeline, in the place of the known frames in it.
    pub fn put_stretch(&self, timeline: &Tensor, stretch: &Range<usize>, values: &Tensor) -> Result<()> {
        for frame in self.within(stretch) {
            timeline.slice_set(&values.narrow(0, frame, 1)?.contiguous()?, 0, stretch.start + frame)?;
        }
        Ok(())
    }
}

/// Where known frames are seen as they are: what passes see that see no image, and how that goes on.
#[derive(Debug)]
pub struct Unseen {
    /// The noise of the known frames, `[K, C, H, W]`.
    noise: Tensor,
    /// The whole timeline as it moves by these passes alone, of which the known frames count; none where they see the
    /// known frames under noise.
    free: Option<Tensor>,
    /// What the network says of it now.
    velocity: Option<Tensor>,
}

impl Unseen {
    /// `noise`: of the whole timeline; `free`: where it goes on from.
    pub fn new(known: &Known, noise: &Tensor, free: Option<Tensor>) -> Result<Option<Self>> {
        let Seen::Clean { null, .. } = known.seen else { return Ok(None) };
        let free = (null == NullFrame::Free).then(|| free.unwrap_or_else(|| noise.clone()));
        Ok(Some(Self { noise: known.of(noise)?, free, velocity: None }))
    }

    /// The state between two steps.
    pub fn free(&self) -> Option<&Tensor> {
        self.free.as_ref()
    }

    /// `timeline` as a pass without an image sees it at a time.
    pub fn seen(&self, known: &Known, timeline: &Tensor, time: f64) -> Result<Tensor> {
        let seen = timeline.copy()?;
        let values = match &self.free {
            Some(free) => known.of(free)?,
            None => ((&known.latents * time)? + (&self.noise * (1.0 - time))?)?,
        };
        known.put(&seen, &values)?;
        Ok(seen)
    }

    /// Takes what the network says of a window in such a pass.
    pub fn hear(&mut self, known: &Known, half: Half, window: &Range<usize>, velocity: &Tensor) -> Result<()> {
        let Some(free) = self.free.as_ref().filter(|_| half == Half::NONE) else { return Ok(()) };
        let all = match self.velocity.take() {
            Some(all) => all,
            None => free.zeros_like()?,
        };
        known.put_stretch(&all, window, velocity)?;
        self.velocity = Some(all);
        Ok(())
    }

    /// Moves on by `step` of time with the velocity that came, or with the mean of it and of one from before.
    pub fn advance(&mut self, step: f64, before: Option<&Tensor>) -> Result<()> {
        let Some(free) = &self.free else { return Ok(()) };
        let Some(velocity) = self.velocity.take() else { return Ok(()) }; // no pass saw it
        let velocity = match before {
            Some(before) => ((velocity + before)? / 2.0)?,
            None => velocity,
        };
        self.free = Some((free + (velocity * step)?)?);
        Ok(())
    }

    /// The same for a second look: what it was, and the velocity that came.
    pub fn look_ahead(&mut self, step: f64) -> Result<Option<(Tensor, Tensor)>> {
        let (Some(free), Some(velocity)) = (self.free.clone(), self.velocity.clone()) else { return Ok(None) };
        self.advance(step, None)?;
        Ok(Some((free, velocity)))
    }

    /// Goes back to what it was before a second look.
    pub fn look_back(&mut self, free: Tensor) {
        self.free = Some(free);
    }
}
