//! The time of latents beside that of video frames.

use std::ops::Range;

/// How many frames a latent frame stands for. A causal autoencoder gives the first frame a latent frame of its own, and every
/// other latent frame stands for `ratio` frames; where no latent frame is the first, or the autoencoder is not causal, each
/// stands for `ratio`. One that works frame by frame has a ratio of 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatentTime {
    pub ratio: usize,
    causal: bool,
}

impl LatentTime {
    /// Each frame has a latent frame of its own.
    pub const PER_FRAME: Self = Self { ratio: 1, causal: false };

    /// Of a causal autoencoder; `ratio` is at least 1.
    pub fn new(ratio: usize) -> Self {
        Self { ratio: ratio.max(1), causal: true }
    }

    /// The same in the middle of a video, where no latent frame is the first.
    pub fn continued(self) -> Self {
        Self { causal: false, ..self }
    }

    /// 1 where the first of so many stands alone.
    fn alone(self, count: usize) -> usize {
        usize::from(self.causal && count > 0)
    }

    /// The latent frames that hold so many frames, the last of them perhaps not filled: `ceil((T - 1) / ratio) + 1` of a
    /// causal autoencoder; 0 of 0.
    pub fn latent_frames(self, frames: usize) -> usize {
        let first = self.alone(frames);
        (frames - first).div_ceil(self.ratio) + first
    }

    /// The latent frames that so many frames fill: `floor((T - 1) / ratio) + 1` of a causal autoencoder; 0 of 0.
    pub fn filled(self, frames: usize) -> usize {
        let first = self.alone(frames);
        (frames - first) / self.ratio + first
    }

    /// The frames of so many latent frames: `ratio (F - 1) + 1` of a causal autoencoder; 0 of 0. None where there are too many
    /// to count.
    pub fn checked_frames(self, latent_frames: usize) -> Option<usize> {
        let first = self.alone(latent_frames);
        (latent_frames - first).checked_mul(self.ratio)?.checked_add(first)
    }

    /// [`Self::checked_frames`] of a number of latent frames that is known to be small.
    pub fn frames(self, latent_frames: usize) -> usize {
        self.checked_frames(latent_frames).unwrap_or(usize::MAX)
    }

    /// The frames that latent frame `index` stands for.
    pub fn span(self, index: usize) -> Range<usize> {
        self.frames(index)..self.frames(index.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_are_those_of_a_causal_autoencoder() {
        let four = LatentTime::new(4);
        for (frames, filled, latents, back) in [
            (0, 0, 0, 0),
            (1, 1, 1, 1),
            (2, 1, 2, 5),
            (5, 2, 2, 5),
            (49, 13, 13, 49),
            (50, 13, 14, 53),
            (81, 21, 21, 81),
        ] {
            assert_eq!(
                (four.filled(frames), four.latent_frames(frames), four.frames(latents)),
                (filled, latents, back)
            );
        }
        assert!(four.checked_frames(usize::MAX).is_none());
        for one in [LatentTime::new(1), LatentTime::PER_FRAME] {
            assert!((0..9).all(|n| one.latent_frames(n) == n && one.filled(n) == n && one.frames(n) == n));
        }
    }

    #[test]
    fn latent_frames_stand_for_frames_side_by_side() {
        let four = LatentTime::new(4);
        assert_eq!([0, 1, 2].map(|index| four.span(index)), [0..1, 1..5, 5..9]);
        assert_eq!([0, 1].map(|index| four.continued().span(index)), [0..4, 4..8]);
        assert_eq!((four.continued().latent_frames(5), four.continued().filled(11)), (2, 2));
    }
}
