//! Clips of which some frames are given: twice as many frames of a video, and long videos whose frames far from each other are made
//! first and what is between them after that.

/// A clip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenClip {
    /// Frames that are made together.
    pub frames: usize,
    /// How many of them, from the first, are of the video.
    pub keep: usize,
    /// Which frames are given, and which of the given ones stands there.
    pub given: Vec<(usize, usize)>,
}

/// Clips that make `2 count - 1` frames of `count`, at least 2: each has `length / 2` of them, or 2, at every other place, and begins
/// with the one that the clip before it ended with. The frame behind its last given one is dropped.
pub fn given_every_other(count: usize, length: usize) -> Vec<GivenClip> {
    let (most, mut at, mut clips) = ((length / 2).max(2), 0, Vec::new());
    while at + 1 < count {
        let some = most.min(count - at);
        let last = at + some == count;
        clips.push(GivenClip {
            frames: 2 * some,
            keep: if last { 2 * some - 1 } else { 2 * some - 2 },
            given: (0..some).map(|index| (2 * index, at + index)).collect(),
        });
        at += some - 1;
    }
    clips
}

/// A long video by frames far from each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyframePlan {
    /// How many there are, in one clip.
    pub keyframes: usize,
    /// The clips between them; given are the keyframes.
    pub between: Vec<GivenClip>,
}

impl KeyframePlan {
    /// For `frames` frames in clips of `length`, of which the first and the last are keyframes; what two clips share is there once.
    ///
    /// # Errors
    /// The most frames that there can be, where that is less: keyframes are one clip.
    pub fn new(frames: usize, length: usize) -> Result<Self, usize> {
        let stride = length.saturating_sub(1).max(1);
        let gaps = frames.saturating_sub(1).div_ceil(stride);
        if gaps + 1 > length {
            return Err(stride * length.saturating_sub(1) + 1);
        }
        let clip = |gap: usize| GivenClip {
            frames: length,
            keep: if gap + 1 == gaps { frames - gap * stride } else { stride },
            given: vec![(0, gap), (length - 1, gap + 1)],
        };
        Ok(Self { keyframes: gaps + 1, between: (0..gaps).map(clip).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_is_made_once_and_every_given_one_stands_in_its_place() {
        for length in [2, 4, 5, 16] {
            for count in 2..40 {
                let clips = given_every_other(count, length);
                assert_eq!(clips.iter().map(|clip| clip.keep).sum::<usize>(), 2 * count - 1, "{count} in {length}");
                let mut start = 0;
                for clip in &clips {
                    assert!(clip.frames <= length.max(4) && clip.given.len() * 2 == clip.frames);
                    assert!(clip.given.iter().all(|(frame, of)| start + frame == 2 * of));
                    start += clip.keep;
                }
            }
        }
    }

    #[test]
    fn long_videos_have_as_many_gaps_as_they_take() {
        let plan = KeyframePlan::new(362, 20).unwrap();
        assert_eq!((plan.keyframes, plan.between.len()), (20, 19)); // the paper's 380 frames without the joints
        for frames in 6..=17 {
            let plan = KeyframePlan::new(frames, 5).unwrap();
            assert_eq!(plan.between.iter().map(|clip| clip.keep).sum::<usize>(), frames);
            assert_eq!(plan.keyframes, plan.between.len() + 1);
            assert_eq!(plan.between[1].given, [(0, 1), (4, 2)]);
        }
        assert_eq!(KeyframePlan::new(18, 5), Err(17));
        assert_eq!(KeyframePlan::new(1000, 20), Err(362));
    }
}
