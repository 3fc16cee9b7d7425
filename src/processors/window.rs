//! Attention in time inside overlapping windows of frames, fused (FreeNoise, arXiv 2310.15169, equation 9): a network that
//! knows short clips attends inside windows of the length it knows, and each frame takes the weighted mean of the windows
//! it lies in. Weights rise and fall linearly over a window: 1 2 2 1, 1 2 3 2 1.
//!
//! Windows start every `stride` frames while a whole one fits; one more ends with the last frame where that leaves frames, and
//! counts for those alone, as in diffusers (`FreeNoiseTransformerBlock`). All layers of a place of attention run inside a window
//! before the mean is taken. Frames in one window only pass through bit for bit. Positions are whatever the network gave its
//! frames before.

use super::control::{Control, Kind, Parameter, Values};
use crate::attention::{AttentionProcessor, AttentionSite, SiteKind, Stretch};

pub static CONTROL: Control = Control {
    name: "window",
    sites: &[SiteKind::Temporal],
    help: "frames attend inside overlapping windows that are fused (FreeNoise)",
    parameters: &[
        Parameter {
            name: "size",
            kind: Kind::Count("frames"),
            default: "16",
            help: "frames of a window",
            ..Parameter::PLAIN
        },
        Parameter {
            name: "stride",
            kind: Kind::Count("frames"),
            default: "4",
            help: "frames from one window to the next",
            ..Parameter::PLAIN
        },
    ],
    check: |values| window(values).map(|_| ()),
    build: |values, builder| {
        builder.add(window(values)?);
        Ok(())
    },
    ..Control::PLAIN
};

fn window(values: &Values) -> anyhow::Result<Window> {
    Window::new(values.count("size")?, values.count("stride")?)
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Window {
    size: usize,
    stride: usize,
}

impl Window {
    /// Windows of `size` frames every `stride` frames.
    ///
    /// # Errors
    /// When either is zero or the stride leaves gaps.
    pub fn new(size: usize, stride: usize) -> anyhow::Result<Self> {
        anyhow::ensure!(size > 0 && stride > 0, "a window has at least one frame and moves by at least one");
        anyhow::ensure!(stride <= size, "a stride of {stride} leaves frames between windows of {size}");
        Ok(Self { size, stride })
    }

    /// The windows over so many frames, more than one window's.
    fn windows(&self, frames: usize) -> Vec<Stretch> {
        let weight = |offset: usize| (offset + 1).min(self.size - offset) as f64;
        let weights: Vec<f64> = (0..self.size).map(weight).collect();
        let last = frames - self.size;
        let starts = (0..=last).step_by(self.stride);
        let mut windows: Vec<Stretch> = starts.map(|start| Stretch { start, weights: weights.clone() }).collect();
        let left = last % self.stride; // frames behind the last of these
        if left > 0 {
            let seen = vec![0.0; self.size - left];
            windows.push(Stretch { start: last, weights: [&seen, &weights[self.size - left..]].concat() });
        }
        windows
    }
}

impl AttentionProcessor for Window {
    fn stretches(&mut self, frames: usize, site: &AttentionSite) -> Option<Vec<Stretch>> {
        (site.kind == SiteKind::Temporal && frames > self.size).then(|| self.windows(frames))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::attention::Site;
    use candle_core::Tensor;

    /// What attention in time makes of random rows `[2, F, D]`, with the control and without.
    fn temporal(size: usize, stride: usize, frames: usize, rows: &Tensor) -> Tensor {
        let toy = Toy { text: 0, grid: (frames, 1, 1), ..Toy::default() };
        let branches = [branch(COND, 0, 0, None), branch(UNCOND, 0, 0, None)];
        let site = Site { kind: SiteKind::Temporal, ..toy.site(0, &[0, 1]) };
        let mut stack = [boxed(Window::new(size, stride).unwrap())];
        let mut hooks = toy.hooks(&branches, &mut stack);
        // the mean of the frames seen, beside the frame itself
        let see = |x: &Tensor, count: usize| {
            assert_eq!(x.dim(1)?, count);
            x.broadcast_add(&x.mean_keepdim(1)?)
        };
        hooks.in_stretches(rows, &site, |x, count, _| see(x, count)).unwrap()
    }

    #[test]
    fn one_full_window_is_plain() {
        let rows = random(3, &[2, 8, 4]);
        let plain = rows.broadcast_add(&rows.mean_keepdim(1).unwrap()).unwrap();
        for size in [8, 9, 30] {
            assert_same(&temporal(size, 4, 8, &rows), &plain);
        }
    }

    #[test]
    fn windows_are_weighted_means() {
        let starts = |size, stride, frames| {
            let windows = Window::new(size, stride).unwrap().windows(frames);
            windows.into_iter().map(|window| window.start).collect::<Vec<_>>()
        };
        assert_eq!(starts(4, 2, 8), [0, 2, 4]);
        assert_eq!(starts(4, 3, 9), [0, 3, 5]);
        let windows = Window::new(5, 3).unwrap().windows(10);
        assert_eq!(windows[1].weights, [1.0, 2.0, 3.0, 2.0, 1.0]);
        assert_eq!((windows[2].start, &windows[2].weights), (5, &vec![0.0, 0.0, 0.0, 2.0, 1.0]));
        let rows = random(4, &[2, 9, 4]);
        let got = temporal(4, 3, 9, &rows);
        let part = |start: usize, frame: usize| {
            let rows = rows.narrow(1, start, 4).unwrap();
            let seen = rows.broadcast_add(&rows.mean_keepdim(1).unwrap()).unwrap();
            seen.narrow(1, frame - start, 1).unwrap()
        };
        let frame = |frame| got.narrow(1, frame, 1).unwrap();
        // frame 1 lies in the first window only, frame 3 in two; frames 7 and 8 are all that the last one counts for
        assert_same(&frame(1), &part(0, 1));
        assert_near(&frame(3), &((part(0, 3) + part(3, 3)).unwrap() / 2.0).unwrap(), 1e-6);
        assert_same(&frame(6), &part(3, 6));
        assert_same(&frame(7), &part(5, 7));
        assert_same(&frame(8), &part(5, 8));
    }

    #[test]
    fn gaps_are_refused() {
        assert!(Window::new(4, 5).unwrap_err().to_string().contains("leaves frames between"));
        assert!(Window::new(0, 1).is_err() && Window::new(1, 0).is_err());
    }
}
