//! The time of latents beside that of video frames.

/// How many frames a latent frame stands for: the first one for one frame, as a causal autoencoder has it, every other one
/// for `ratio`. Where each frame has a latent frame of its own the ratio is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatentTime {
    pub ratio: usize,
}

impl LatentTime {
    /// `ratio` is at least 1.
    pub fn new(ratio: usize) -> Self {
        Self { ratio: ratio.max(1) }
    }

    /// The latent frames that hold so many frames, the last of them perhaps not filled: `ceil((T - 1) / ratio) + 1`; 0 of 0.
    pub fn latent_frames(self, frames: usize) -> usize {
        if frames == 0 { 0 } else { (frames - 1).div_ceil(self.ratio) + 1 }
    }

    /// The latent frames that so many frames fill: `floor((T - 1) / ratio) + 1`; 0 of 0.
    pub fn filled(self, frames: usize) -> usize {
        if frames == 0 { 0 } else { (frames - 1) / self.ratio + 1 }
    }

    /// The frames of so many latent frames: `ratio (F - 1) + 1`; 0 of 0. None where there are too many to count.
    pub fn checked_frames(self, latent_frames: usize) -> Option<usize> {
        if latent_frames == 0 { Some(0) } else { (latent_frames - 1).checked_mul(self.ratio)?.checked_add(1) }
    }

    /// [`Self::checked_frames`] of a number of latent frames that is known to be small.
    pub fn frames(self, latent_frames: usize) -> usize {
        self.checked_frames(latent_frames).unwrap_or(usize::MAX)
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
        let one = LatentTime::new(1);
        assert!((0..9).all(|n| one.latent_frames(n) == n && one.filled(n) == n && one.frames(n) == n));
    }
}
