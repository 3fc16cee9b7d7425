//! What a network is asked about: one row of a pass, and the part of the guidance it computes.

use candle_core::Tensor;
use std::fmt;

/// Which conditions a row sees. A step of guidance evaluates the network for one to three of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Half {
    /// The text of its window, or the text that stands for none.
    pub text: bool,
    /// The image or the given frames, where a run has some, or what stands for none.
    pub image: bool,
}

impl Half {
    /// All conditions.
    pub const COND: Self = Self { text: true, image: true };
    /// All but the text.
    pub const UNCOND: Self = Self { text: false, image: true };
    /// No condition.
    pub const NONE: Self = Self { text: false, image: false };
}

impl fmt::Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match (self.text, self.image) {
            (true, true) => "with all conditions",
            (false, true) => "without text",
            (true, false) => "without image",
            (false, false) => "without conditions",
        })
    }
}

/// The time (timestep, noise level) that a network gets, in the sampler's own units.
#[derive(Debug, Clone, PartialEq)]
pub enum Time {
    One(f64),
    /// One for each latent frame of the row.
    Frames(Vec<f64>),
}

/// Conditions beside the time that are embedded together with it.
#[derive(Debug, Clone, Default)]
pub struct Added {
    /// A text as one vector, `[D]`.
    pub pooled: Option<Tensor>,
    /// Micro-conditions (sizes, crops, rates) in the network's own order.
    pub numbers: Vec<f64>,
}

/// One row of a pass.
#[derive(Debug, Clone)]
pub struct Row {
    /// Noisy latents `[F, C, H, W]`.
    pub latents: Tensor,
    /// What stands behind the latents on the channel axis, `[F, C', H, W]`: the latents of an image, a mask.
    pub concat: Option<Tensor>,
    pub time: Time,
    /// Text embeddings `[L, D]`, or several `[T, L, D]` where frames read different ones.
    pub context: Tensor,
    /// Which of several texts each latent frame reads.
    pub frame_texts: Option<Vec<usize>>,
    pub added: Option<Added>,
}

impl Row {
    /// A row of latents, text and one time.
    pub fn new(latents: Tensor, context: Tensor, time: f64) -> Self {
        Self { latents, concat: None, time: Time::One(time), context, frame_texts: None, added: None }
    }
}
