//! Which frames of a video are taken: a stretch of its time, at its own rate or at another one.

use super::fault::usage;
use super::format::Rate;
use anyhow::Result;

/// A stretch of a video.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cut {
    /// Seconds from its beginning.
    pub start: f64,
    /// Seconds from its beginning; none for its end.
    pub end: Option<f64>,
    /// Frames taken of a second; none for all there are.
    pub fps: Option<Rate>,
}

/// What is a whole number of frames stays one.
const ROUNDING: f64 = 1e-6;

impl Cut {
    /// The numbers, rising, of the frames that are taken of a video of `count` frames at `rate`: of each second `fps`, each the
    /// one that is shown at its time. Frame i of `floor(seconds fps)` is `floor((start + i / fps) rate)`.
    ///
    /// # Errors
    /// A stretch that holds no frame.
    pub fn frames(&self, count: usize, rate: Rate) -> Result<Vec<usize>> {
        let (rate, fps) = (rate.as_f64(), self.fps.unwrap_or(rate).as_f64());
        let whole = count as f64 / rate;
        let end = self.end.map_or(whole, |end| end.min(whole));
        let seconds = end - self.start;
        let taken = (seconds * fps + ROUNDING).floor();
        if taken < 1.0 || count == 0 {
            let end = self.end.map_or_else(String::new, |end| format!(" up to {end} s"));
            return Err(usage(format!(
                "no frame at {fps} a second lies from {} s{end} in a video of {whole:.3} s",
                self.start
            )));
        }
        let shown = |index: usize| ((self.start + index as f64 / fps) * rate + ROUNDING).floor() as usize;
        Ok((0..taken as usize).map(|index| shown(index).min(count - 1)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(start: f64, end: Option<f64>, fps: Option<u32>, count: usize, rate: (u32, u32)) -> Result<Vec<usize>> {
        let fps = fps.map(|num| Rate { num, den: 1 });
        Cut { start, end, fps }.frames(count, Rate { num: rate.0, den: rate.1 })
    }

    #[test]
    fn frames_are_those_shown_at_their_times() {
        let all = |range: std::ops::Range<usize>| range.collect::<Vec<_>>();
        assert_eq!(taken(0.0, None, None, 9, (30000, 1001)).unwrap(), all(0..9));
        assert_eq!(taken(0.5, Some(1.0), None, 16, (8, 1)).unwrap(), all(4..8));
        assert_eq!(taken(0.5, Some(99.0), None, 7, (8, 1)).unwrap(), all(4..7));
        assert_eq!(taken(0.0, None, Some(4), 16, (8, 1)).unwrap(), [0, 2, 4, 6, 8, 10, 12, 14]);
        // 1.25 s hold 6.25 frames
        assert_eq!(taken(0.0, None, Some(5), 10, (8, 1)).unwrap(), [0, 1, 3, 4, 6, 8]);
        assert_eq!(taken(0.0, None, Some(6), 3, (3, 1)).unwrap(), [0, 0, 1, 1, 2, 2]);
        assert_eq!(taken(0.1, Some(0.2), Some(30), 300, (30, 1)).unwrap(), all(3..6));
    }

    #[test]
    fn stretches_of_nothing_are_refused() {
        for (start, end, count) in [(2.0, None, 16), (1.0, Some(1.0), 16), (1.5, Some(1.0), 16), (0.0, None, 0)] {
            let error = taken(start, end, None, count, (8, 1)).unwrap_err().to_string();
            assert!(error.contains("no frame"), "{error}");
        }
    }
}
