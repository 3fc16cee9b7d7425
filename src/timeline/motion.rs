//! Motion in latents (Text2Video-Zero, arXiv 2303.13439): the latents of one frame, moved for another one.
//!
//! The reference builds a grid of 512 by 512 pixels whatever the size, moves it, shrinks it to the latents and samples with the
//! nearest value, mirrored at the edges. That is the same as one choice of columns and one of rows, in closed form:
//! column j of w comes from `round(reflect(j + (d - 0.5) w / 512))`, where d is the displacement in 512ths and `reflect` mirrors
//! about -0.5 and w - 0.5 (halves are rounded to even).

use crate::words::words;
use anyhow::{Error, bail, ensure};
use candle_core::{Result, Tensor};
use std::fmt;
use std::str::FromStr;

/// Displacement per frame in 512ths of width and height; positive moves what is seen to the left and up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Motion {
    pub x: f64,
    pub y: f64,
}

impl FromStr for Motion {
    type Err = Error;

    /// `-12,5`.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let number = |part: &str| part.trim().parse::<f64>().ok().filter(|way| way.abs() <= MOST);
        match text.split_once(',').map(|(x, y)| (number(x), number(y))) {
            Some((Some(x), Some(y))) => Ok(Self { x, y }),
            _ => bail!("{text:?} is not X,Y, 512ths of the frame for each frame of the video, as 12,-5"),
        }
    }
}

impl fmt::Display for Motion {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{},{}", self.x, self.y)
    }
}

/// The largest displacement from one frame to the next, in 512ths: beyond a frame there is nothing new.
const MOST: f64 = 512.0;

/// The training timesteps between which noise is put back over moved latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MotionSteps {
    /// Where latents are moved.
    pub first: usize,
    /// Where all frames begin.
    pub last: usize,
}

impl FromStr for MotionSteps {
    type Err = Error;

    /// `881..941`.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let numbers = text.split_once("..").map(|(first, last)| (first.trim().parse(), last.trim().parse()));
        let Some((Ok(first), Ok(last))) = numbers else {
            bail!("{text:?} is not FIRST..LAST in training timesteps, as 881..941")
        };
        ensure!(first < last, "{text:?}: the first timestep is below the last, as 881..941");
        Ok(Self { first, last })
    }
}

impl fmt::Display for MotionSteps {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}..{}", self.first, self.last)
    }
}

words!(
    /// How the displacement goes on from frame to frame.
    MotionPath, "path", {
        /// On and on; beyond a frame's own width what is seen is its mirror picture.
        Linear = "linear",
        /// To a quarter of the frame and back.
        PingPong = "pingpong",
        /// Round, back at the start each time that the way is once the circumference.
        Circle = "circle",
    }
);

/// The largest displacement of a path that returns, in 512ths.
const FAR: f64 = 128.0;

impl MotionPath {
    /// The displacement (x, y) of frame `index` in 512ths.
    pub fn at(self, motion: Motion, index: usize) -> (f64, f64) {
        let (x, y) = (motion.x * index as f64, motion.y * index as f64);
        match self {
            Self::Linear => (x, y),
            Self::PingPong => (ping_pong(x), ping_pong(y)),
            // a circle of radius FAR / 2 through the start, walked at the speed of the motion
            Self::Circle => {
                let (speed, radius) = (motion.x.hypot(motion.y), FAR / 2.0);
                if speed == 0.0 {
                    return (0.0, 0.0);
                }
                let angle = speed * index as f64 / radius;
                // begins in the direction of the motion and turns to its left
                let (ahead, aside) = (radius * angle.sin(), radius * (1.0 - angle.cos()));
                let (ux, uy) = (motion.x / speed, motion.y / speed);
                (ahead * ux - aside * uy, ahead * uy + aside * ux)
            }
        }
    }
}

/// A triangle between 0 and [`FAR`] on the side of `way`.
fn ping_pong(way: f64) -> f64 {
    let at = way.abs() % (2.0 * FAR);
    (if at > FAR { 2.0 * FAR - at } else { at }).copysign(way)
}

/// For each of `size` columns (or rows) under a displacement of `way` 512ths, the one whose value it takes.
pub fn sources(size: usize, way: f64) -> Vec<u32> {
    if way == 0.0 {
        return (0..size as u32).collect();
    }
    let span = size as f64;
    let source = |at: usize| {
        let place = at as f64 + (way - 0.5) * span / 512.0;
        let (flips, rest) = (((place + 0.5).abs() / span).floor(), (place + 0.5).abs() % span);
        let mirrored = if flips % 2.0 == 0.0 { rest - 0.5 } else { span - rest - 0.5 };
        mirrored.clamp(0.0, span - 1.0).round_ties_even() as u32
    };
    (0..size).map(source).collect()
}

/// `latents` `[.., H, W]` moved by (x, y) 512ths.
pub fn moved(latents: &Tensor, (x, y): (f64, f64)) -> Result<Tensor> {
    let (height, width) = (latents.dim(candle_core::D::Minus2)?, latents.dim(candle_core::D::Minus1)?);
    let index = |size: usize, way: f64| Tensor::new(sources(size, way), latents.device());
    let rows = latents.rank() - 2;
    latents.contiguous()?.index_select(&index(height, y)?, rows)?.index_select(&index(width, x)?, rows + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// spec/text2video-zero.md 14.1: computed with the reference's grids.
    #[test]
    fn columns_are_those_of_the_reference() {
        assert_eq!(sources(64, 0.0), (0..64).collect::<Vec<_>>());
        let twelve: Vec<u32> = (1..64).chain([63]).collect();
        assert_eq!(sources(64, 12.0), twelve);
        assert_eq!(sources(64, 84.0)[50..], [60, 61, 62, 63, 63, 62, 61, 60, 59, 58, 57, 56, 55, 54]);
        assert_eq!(sources(64, -12.0)[..6], [1, 0, 0, 1, 2, 3]);
        let shifts: Vec<u32> = (0..16).map(|frame| sources(64, 12.0 * f64::from(frame))[0]).collect();
        assert_eq!(shifts, [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18, 19, 21, 22]);
    }

    #[test]
    fn paths_that_return_stay_near() {
        let motion = Motion { x: 12.0, y: -5.0 };
        for path in [MotionPath::Linear, MotionPath::PingPong, MotionPath::Circle] {
            assert_eq!(path.at(motion, 0), (0.0, 0.0));
        }
        assert_eq!(MotionPath::Linear.at(motion, 3), (36.0, -15.0));
        assert_eq!(MotionPath::PingPong.at(motion, 3), (36.0, -15.0));
        let (x, y) = MotionPath::Circle.at(motion, 1);
        assert!((x.hypot(y) - 13.0).abs() < 0.2, "{x} {y}");
        for frame in 0..500 {
            for path in [MotionPath::PingPong, MotionPath::Circle] {
                let (x, y) = path.at(motion, frame);
                assert!(x.abs() <= FAR && y.abs() <= FAR, "{path:?} {frame}: {x} {y}");
            }
        }
    }

    #[test]
    fn rows_and_columns_move_each_by_their_own() {
        let cells = Tensor::arange(0f32, 12.0, &Device::Cpu).unwrap().reshape((1, 3, 4)).unwrap();
        let values = |x: f64, y: f64| moved(&cells, (x, y)).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(0.0, 0.0), (0..12).map(|v| v as f32).collect::<Vec<_>>());
        assert_eq!(values(128.5, 0.0), [1.0, 2.0, 3.0, 3.0, 5.0, 6.0, 7.0, 7.0, 9.0, 10.0, 11.0, 11.0]);
        assert_eq!(values(0.0, 171.5)[..4], [4.0, 5.0, 6.0, 7.0]);
    }
}
