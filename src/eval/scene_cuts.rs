//! Scene cuts as PySceneDetect 0.7.2's AdaptiveDetector finds them with its defaults (the metric SCuts of StreamingT2V, arXiv 2403.14773).
//!
//! The score of a frame is the mean difference to the one before in hue, saturation and brightness; a cut is where it is at least
//! 15 and at least three times the mean score of the two frames on either side. Frames are made smaller and their
//! colours converted in OpenCV 5.0's integers, so scores are the same to the last digit.

use crate::video::Frame;

const LEAST_SCORE: f64 = 15.0;
const LEAST_RATIO: f64 = 3.0;
/// What a ratio to nothing counts as.
const MOST_RATIO: f64 = 255.0;
/// Frames on either side that a score is compared with.
const AROUND: usize = 2;
/// Frames from one cut to the next, and from the first frame to the first cut.
const LEAST_SCENE: usize = 15;
/// Longer sides are made this long.
const SIDE: usize = 256;

/// Sees frames one after the other.
#[derive(Debug, Default)]
pub struct SceneCuts {
    before: Option<Vec<u8>>,
    scores: Vec<f64>,
}

impl SceneCuts {
    /// The next frame; all have one size.
    pub fn push(&mut self, frame: &Frame) {
        let now = hsv(&smaller(frame));
        let score = self.before.as_ref().map_or(0.0, |before| {
            let sums = before.chunks_exact(3).zip(now.chunks_exact(3)).fold([0u64; 3], |mut sums, (a, b)| {
                (0..3).for_each(|channel| sums[channel] += u64::from(a[channel].abs_diff(b[channel])));
                sums
            });
            let pixels = (now.len() / 3).max(1) as f64;
            sums.iter().map(|&sum| sum as f64 / pixels).sum::<f64>() / 3.0
        });
        self.scores.push(score);
        self.before = Some(now);
    }

    /// The frames with which a scene begins, without the first.
    pub fn cuts(&self) -> Vec<usize> {
        let mut last = 0;
        let mut cuts = Vec::new();
        for (start, window) in self.scores.windows(2 * AROUND + 1).enumerate() {
            let (frame, score) = (start + AROUND, window[AROUND]);
            let around = (window.iter().sum::<f64>() - score) / (2 * AROUND) as f64;
            let ratio = match around.abs() < 1e-5 {
                true if score >= LEAST_SCORE => MOST_RATIO,
                true => 0.0,
                false => (score / around).min(MOST_RATIO),
            };
            if ratio >= LEAST_RATIO && score >= LEAST_SCORE && frame - last >= LEAST_SCENE {
                cuts.push(frame);
                last = frame;
            }
        }
        cuts
    }

    /// Of each frame, 0 for the first.
    pub fn scores(&self) -> &[f64] {
        &self.scores
    }
}

/// The frame with its longer side of at most `SIDE`, bilinear (OpenCV's INTER_LINEAR: weights of 11 bits).
fn smaller(frame: &Frame) -> Frame {
    let longer = frame.width.max(frame.height);
    if longer <= SIDE {
        return frame.clone();
    }
    let factor = longer as f64 / SIDE as f64;
    let side = |side: usize| ((side as f64 / factor).round_ties_even() as usize).max(1);
    let (width, height) = (side(frame.width), side(frame.height));
    let (columns, rows) = (taps(frame.width, width), taps(frame.height, height));
    let row = |y: usize| {
        let row = &frame.data[y * frame.width * 3..(y + 1) * frame.width * 3];
        let value = |tap: &Tap, c: usize| {
            i32::from(row[tap.first * 3 + c]) * tap.weights[0] + i32::from(row[tap.second * 3 + c]) * tap.weights[1]
        };
        columns.iter().flat_map(|tap| (0..3).map(|c| value(tap, c)).collect::<Vec<_>>()).collect::<Vec<i32>>()
    };
    let data = rows.iter().flat_map(|tap| {
        let (above, below) = (row(tap.first), row(tap.second));
        let mixed = above.into_iter().zip(below).map(|(above, below)| {
            let share = |value: i32, weight: i32| (weight * (value >> 4)) >> 16;
            ((share(above, tap.weights[0]) + share(below, tap.weights[1]) + 2) >> 2) as u8
        });
        mixed.collect::<Vec<u8>>()
    });
    Frame { width, height, data: data.collect() }
}

/// Two old places that make a new one.
struct Tap {
    first: usize,
    second: usize,
    weights: [i32; 2],
}

fn taps(old: usize, new: usize) -> Vec<Tap> {
    let scale = old as f64 / new as f64;
    let tap = |at: usize| {
        let place = ((at as f64 + 0.5) * scale - 0.5) as f32;
        let first = (place.floor().max(0.0) as usize).min(old - 1);
        let inside = place >= 0.0 && first + 1 < old;
        let share = if inside { place - place.floor() } else { 0.0 };
        let weight = |share: f32| (share * 2048.0).round_ties_even() as i32;
        Tap { first, second: (first + 1).min(old - 1), weights: [weight(1.0 - share), weight(share)] }
    };
    (0..new).map(tap).collect()
}

/// Hue (0 to 179), saturation and brightness (0 to 255) of each pixel, as OpenCV's 8-bit conversion has them.
fn hsv(frame: &Frame) -> Vec<u8> {
    const BITS: i32 = 12;
    const HALF: i32 = 1 << (BITS - 1);
    let table = |whole: i32, part: f64| -> [i32; 256] {
        std::array::from_fn(|i| match i {
            0 => 0,
            i => (f64::from(whole << BITS) / (part * i as f64)).round_ties_even() as i32,
        })
    };
    let (by_value, by_range) = (table(255, 1.0), table(180, 6.0));
    let pixel = |pixel: &[u8]| {
        let [r, g, b] = [i32::from(pixel[0]), i32::from(pixel[1]), i32::from(pixel[2])];
        let value = r.max(g).max(b);
        let range = value - r.min(g).min(b);
        let saturation = (range * by_value[value as usize] + HALF) >> BITS;
        let sector = if value == r {
            g - b
        } else if value == g {
            b - r + 2 * range
        } else {
            r - g + 4 * range
        };
        let hue = (sector * by_range[range as usize] + HALF) >> BITS;
        let hue = if hue < 0 { hue + 180 } else { hue };
        [hue as u8, saturation as u8, value as u8]
    };
    frame.data.chunks_exact(3).flat_map(pixel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(level: u8) -> Frame {
        Frame { width: 4, height: 4, data: vec![level; 48] }
    }

    fn cuts(levels: &[u8]) -> Vec<usize> {
        let mut seen = SceneCuts::default();
        levels.iter().for_each(|&level| seen.push(&grey(level)));
        seen.cuts()
    }

    #[test]
    fn cuts_are_jumps_that_stand_out_and_are_not_too_near() {
        let scenes = |lengths: &[usize]| -> Vec<u8> {
            lengths.iter().enumerate().flat_map(|(at, &length)| vec![60 + 120 * (at as u8 % 2); length]).collect()
        };
        assert_eq!(cuts(&scenes(&[20, 30, 20])), [20, 50]);
        // the first scene and the one after a cut last 15 frames at least
        assert_eq!(cuts(&scenes(&[14, 30])), [0; 0]);
        assert_eq!(cuts(&scenes(&[15, 14, 30])), [15]);
        assert_eq!(cuts(&scenes(&[15, 15, 30])), [15, 30]);
        // a fade, a jump that is too small, and one of the last two frames, which have no neighbours
        let fade: Vec<u8> = (0..60).map(|t| t * 4).collect();
        assert_eq!(cuts(&fade), [0; 0]);
        assert_eq!(cuts(&[[50; 20], [60; 20]].concat()), [0; 0]);
        assert_eq!(cuts(&scenes(&[20, 2])), [0; 0]);
        assert_eq!(cuts(&scenes(&[20, 3])), [20]);
        assert_eq!(cuts(&[]), [0; 0]);
    }
}
