//! Frames at uneven times, placed on an even grid: a video here has one rate.
//!
//! The rule is that of FFmpeg's `fps` filter: the time of a frame is rounded to the nearest point of the grid, a frame is repeated until
//! the next one, and of several at one point the last is taken.

use super::Frame;
use super::format::Rate;
use anyhow::Result;

/// A picture may be this part of an interval off its place in an even video.
const JITTER: f64 = 0.6;
/// Pictures nearer than this part of the usual interval are not of the rhythm (pictures that are never shown have times too).
const TOGETHER: f64 = 0.1;
/// An interval within this part of one of a usual rate is meant so.
const NEAR: f64 = 0.02;

/// Rates of cameras, screens and models.
const USUAL: [(u32, u32); 15] = [
    (8, 1),
    (10, 1),
    (12, 1),
    (15, 1),
    (16, 1),
    (20, 1),
    (24000, 1001),
    (24, 1),
    (25, 1),
    (30000, 1001),
    (30, 1),
    (48, 1),
    (50, 1),
    (60000, 1001),
    (60, 1),
];

/// The rate of the grid for pictures at these times in seconds: that of their most frequent interval. None where the times
/// are even, or say nothing.
pub(super) fn uneven(times: &[f64]) -> Option<Rate> {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let usual = usual_interval(&times)?;
    let mut kept = vec![times[0]];
    kept.extend(times.windows(2).filter(|two| two[1] - two[0] > TOGETHER * usual).map(|two| two[1]));
    let steps = kept.len() - 1;
    let step = (kept[steps] - kept[0]) / steps as f64;
    let even = |(index, time): (usize, &f64)| (time - kept[0] - index as f64 * step).abs() <= JITTER * step;
    if kept.iter().enumerate().all(even) {
        return None;
    }
    let rate = 1.0 / usual_interval(&kept)?;
    let near = |(num, den): &(u32, u32)| (f64::from(*num) / f64::from(*den) / rate - 1.0).abs();
    let best = USUAL.iter().min_by(|a, b| near(a).total_cmp(&near(b)))?;
    let (num, den) = if near(best) <= NEAR { *best } else { ((rate * 100.0).round().max(1.0) as u32, 100) };
    Rate::new(num, den).ok()
}

/// The median interval of sorted times; none where it is nothing.
fn usual_interval(times: &[f64]) -> Option<f64> {
    let mut intervals: Vec<f64> = times.windows(2).map(|two| two[1] - two[0]).collect();
    intervals.sort_by(f64::total_cmp);
    intervals.get(intervals.len() / 2).copied().filter(|interval| interval.is_finite() && *interval > 0.0)
}

/// Gives pictures at an even rate. At first it knows none.
pub(super) struct Grid {
    rate: f64,
    start: Option<f64>,
    /// The picture that is shown, and its point.
    held: Option<(Frame, u64)>,
    next: Option<(Frame, u64)>,
    /// Points given so far.
    given: u64,
    ended: bool,
}

impl Grid {
    pub fn new(rate: Rate) -> Self {
        Self { rate: rate.as_f64(), start: None, held: None, next: None, given: 0, ended: false }
    }

    /// The picture of the next point. `pull` gives the next picture with its time in seconds.
    pub fn next(&mut self, mut pull: impl FnMut() -> Result<Option<(Frame, f64)>>) -> Result<Option<Frame>> {
        loop {
            if self.next.is_none() && !self.ended {
                match pull()? {
                    Some((frame, time)) => self.next = Some((frame, self.point(time))),
                    None => self.ended = true,
                }
            }
            match (&self.held, &self.next) {
                (None, None) => return Ok(None),
                (None, Some(_)) => self.held = self.next.take(),
                (_, Some((_, point))) if *point <= self.given => self.held = self.next.take(),
                (Some((frame, _)), Some(_)) => {
                    self.given += 1;
                    return Ok(Some(frame.clone()));
                }
                (Some(_), None) => return Ok(self.held.take().map(|(frame, _)| frame)),
            }
        }
    }

    fn point(&mut self, time: f64) -> u64 {
        let start = *self.start.get_or_insert(time);
        ((time - start) * self.rate).round().max(0.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(num: u32, den: u32) -> Option<Rate> {
        Some(Rate { num, den })
    }

    #[test]
    fn a_shaken_rhythm_is_even_and_a_pause_is_not() {
        let even = |count: usize, fps: f64| (0..count).map(|index| index as f64 / fps).collect::<Vec<_>>();
        for fps in [8.0, 23.976, 29.97, 60.0, 7.31] {
            assert_eq!(uneven(&even(300, fps)), None, "{fps}");
            // times in whole milliseconds, as WebM has them
            let rounded: Vec<f64> = even(300, fps).iter().map(|time| (time * 1000.0).round() / 1000.0).collect();
            assert_eq!(uneven(&rounded), None, "{fps}");
        }
        assert_eq!(uneven(&[]), None);
        assert_eq!(uneven(&[3.0]), None);
        assert_eq!(uneven(&[0.0, 5.0]), None);
        assert_eq!(uneven(&[1.0; 9]), None);
        // a picture that is never shown, beside one that is
        let mut hidden = even(100, 25.0);
        hidden.insert(50, hidden[50] + 0.001);
        assert_eq!(uneven(&hidden), None);

        let pause: Vec<f64> = (0..24)
            .map(|index| if index < 12 { index as f64 / 30.0 } else { 5.0 + (index - 12) as f64 / 30.0 })
            .collect();
        assert_eq!(uneven(&pause), rate(30, 1));
        // half as many in the dark: the frequent interval counts, in any order
        let mut dark: Vec<f64> = even(60, 30000.0 / 1001.0);
        let last = dark[59];
        dark.extend((1..20).map(|index| last + index as f64 * 2.0 * 1001.0 / 30000.0));
        dark.reverse();
        assert!(uneven(&dark).is_some_and(|found| found.num == 30000 || found.num == 30), "{:?}", uneven(&dark));
        let slow: Vec<f64> = [0.0, 0.37, 0.74, 1.11, 3.0, 3.37, 3.74].to_vec();
        assert_eq!(uneven(&slow), rate(27, 10));
    }

    fn laid(times: &[f64], fps: u32) -> Vec<u8> {
        let mut pictures = times.iter().enumerate();
        let mut grid = Grid::new(Rate { num: fps, den: 1 });
        let mut pull = || {
            let next = pictures.next();
            Ok(next.map(|(index, time)| (Frame { width: 1, height: 1, data: vec![index as u8; 3] }, *time)))
        };
        std::iter::from_fn(|| grid.next(&mut pull).unwrap()).map(|frame| frame.data[0]).collect()
    }

    /// The values are those of `ffmpeg -vf fps=`.
    #[test]
    fn pictures_stay_until_the_next_one() {
        assert_eq!(laid(&[], 10), [0u8; 0]);
        assert_eq!(laid(&[7.0], 10), [0]);
        assert_eq!(laid(&[7.0, 7.1, 7.2], 10), [0, 1, 2]);
        assert_eq!(laid(&[0.0, 0.1, 0.5], 10), [0, 1, 1, 1, 1, 2]);
        assert_eq!(laid(&[0.0, 0.01, 0.02, 0.1, 0.31], 10), [2, 3, 3, 4]);
    }
}
