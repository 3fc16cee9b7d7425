//! Segments of a video one after the other, cross-faded where the job says so.
//!
//! The last frames of a segment wait until the first ones of the next come, and each two become one: frame j of n is
//! `((n - j) old + (j + 1) new) / (n + 1)`, so that neither side is seen alone. No more frames wait than the fades have.

use crate::video::Frame;
use anyhow::{Result, ensure};
use std::collections::VecDeque;

/// Stands between the decoder and the consumer of its frames.
pub struct Fades<'a> {
    take: &'a mut dyn FnMut(Frame) -> Result<()>,
    /// Frames of the segment before that wait to be mixed, in order.
    old: VecDeque<Frame>,
    /// Those of this segment.
    held: VecDeque<Frame>,
    segment: Segment,
}

#[derive(Debug, Clone, Copy, Default)]
struct Segment {
    /// Frames that have come.
    come: usize,
    frames: usize,
    fade: usize,
    /// The fade behind it.
    next: usize,
}

impl<'a> Fades<'a> {
    pub fn new(take: &'a mut dyn FnMut(Frame) -> Result<()>) -> Self {
        Self { take, old: VecDeque::new(), held: VecDeque::new(), segment: Segment::default() }
    }

    /// Begins a segment of `frames` frames: the first `fade` are mixed with those that wait, the last `next` wait for the
    /// segment behind.
    pub fn begin(&mut self, fade: usize, frames: usize, next: usize) -> Result<()> {
        self.old = std::mem::take(&mut self.held);
        let waiting = self.old.len();
        ensure!(
            waiting == fade && fade + next <= frames,
            "a fade of {fade} frames with {waiting}, in {frames} before {next}"
        );
        self.segment = Segment { come: 0, frames, fade, next };
        Ok(())
    }

    /// The next frame of the segment.
    pub fn write(&mut self, mut frame: Frame) -> Result<()> {
        let Segment { come, frames, fade, next } = self.segment;
        self.segment.come += 1;
        if let Some(old) = self.old.pop_front() {
            ensure!(old.data.len() == frame.data.len(), "a fade between frames of different sizes");
            mix(&old.data, &mut frame.data, come + 1, fade + 1);
        }
        if come + next >= frames {
            self.held.push_back(frame);
            return Ok(());
        }
        (self.take)(frame)
    }
}

/// `new` becomes `of - part` parts of `old` and `part` of itself.
fn mix(old: &[u8], new: &mut [u8], part: usize, of: usize) {
    for (old, new) in old.iter().zip(new) {
        let sum = usize::from(*old) * (of - part) + usize::from(*new) * part;
        *new = ((2 * sum + of) / (2 * of)) as u8; // rounded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out of segments, each a list of grey values, with the fades before them.
    fn faded(segments: &[(usize, &[u8])]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut take = |frame: Frame| {
            assert!(frame.data.iter().all(|value| *value == frame.data[0]));
            out.push(frame.data[0]);
            Ok(())
        };
        let mut fades = Fades::new(&mut take);
        for (index, (fade, values)) in segments.iter().enumerate() {
            fades.begin(*fade, values.len(), segments.get(index + 1).map_or(0, |next| next.0))?;
            for &value in *values {
                fades.write(Frame { width: 2, height: 1, data: vec![value; 6] })?;
                assert!(fades.held.len() + fades.old.len() <= 4, "no more wait than the fades have");
            }
        }
        Ok(out)
    }

    #[test]
    fn frames_of_two_segments_become_one() {
        assert_eq!(faded(&[(0, &[1, 2, 3]), (0, &[4, 5])]).unwrap(), [1, 2, 3, 4, 5]);
        // thirds of the way from 0 to 90 and from 3 to 90
        assert_eq!(faded(&[(0, &[9, 0, 3]), (2, &[90, 90, 7])]).unwrap(), [9, 30, 61, 7]);
        assert_eq!(
            faded(&[(0, &[255; 4]), (1, &[255, 0, 0]), (2, &[0, 255, 1])]).unwrap(),
            [255, 255, 255, 255, 0, 170, 1]
        );
        // a segment that only fades, from both sides
        assert_eq!(faded(&[(0, &[0, 0]), (2, &[90, 90, 90, 90]), (2, &[0, 0])]).unwrap(), [30, 60, 60, 30]);
    }

    #[test]
    fn fades_beyond_their_segments_are_refused() {
        assert!(faded(&[(0, &[1, 2]), (3, &[1, 2, 3])]).is_err());
        assert!(faded(&[(0, &[1, 2, 3]), (2, &[1, 2, 3]), (2, &[1, 2])]).is_err());
    }
}
