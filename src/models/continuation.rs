//! Networks by which a chunk of a video goes on from the frames before it (StreamingT2V, arXiv 2403.14773, section 4).

use super::control::Residuals;
use crate::attention::{Feature, Hooks, Row};
use candle_core::{Result, Tensor};

/// Frames of a video that is made chunk by chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkFrames {
    /// Of a chunk.
    pub chunk: usize,
    /// Those before a chunk that it sees. Its own first frames, as many, are those again, and are dropped. At most half of a chunk.
    pub before: usize,
    /// The frame of the video that later ones are held to, where nobody says which.
    pub anchor: usize,
}

/// What stands beside a denoiser whose chunks go on from each other.
pub trait Continuation: Send + Sync {
    /// What is seen of the frames before a chunk, `[S, 3, H, W]` from -1 to 1: `[S, C, h, w]`. It depends on no time and no text.
    fn look(&self, frames: &Tensor) -> Result<Tensor>;

    /// What is remembered for each row. Rows are the first frames of the noisy chunk, as many as were seen; `seen` is what
    /// [`Continuation::look`] gives. `network` is its index in the run, from 1.
    ///
    /// # Errors
    /// Rows that the network does not take, of other sizes than what was seen.
    fn remember(&self, rows: &[Row], seen: &Tensor, network: usize, hooks: &mut Hooks) -> Result<Vec<Residuals>>;

    /// A feature of the denoiser `[F, C, H, W]` with what is remembered `[S, C, H, W]` of the same place.
    ///
    /// # Errors
    /// Features that are neither skips nor the middle, and sizes that differ.
    fn merge(&self, feature: Feature, x: &Tensor, memory: &Tensor) -> Result<Tensor>;

    /// The text `[T, D]` of attention `layer` with `tokens` `[I, D]` of the anchor mixed in.
    fn mix(&self, layer: usize, text: &Tensor, tokens: &Tensor) -> Result<Tensor>;
}

/// What sees an anchor frame.
pub trait AnchorEncoder {
    /// Tokens `[I, D]` of a frame `[3, H, W]` from -1 to 1, of any shape.
    fn tokens(&self, frame: &Tensor) -> Result<Tensor>;
}
