//! Temporal attention in overlapping windows of frames, fused (FreeNoise, arXiv 2310.15169, equation 9): a network that
//! knows short clips attends inside windows of the length it knows, and each frame takes the weighted mean of the windows
//! it lies in. Weights rise and fall linearly over a window: 1 2 2 1, 1 2 3 2 1.
//!
//! Windows start every `stride` frames; one more ends with the last frame where they do not fit. diffusers takes only the
//! frames nothing else covers from that one; here it is weighted like the others. Frames in one window only pass through
//! bit for bit. Positions are whatever the network gave its frames before the projections.

use super::control::{Control, Kind, Parameter, Values};
use crate::attention::{AttentionProcessor, AttentionSite, Next, Qkv, SiteKind};
use candle_core::{DType, Result, Tensor};

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

    /// First frames of the windows over `frames` frames, more than one window's.
    fn starts(&self, frames: usize) -> Vec<usize> {
        let last = frames - self.size;
        let mut starts: Vec<usize> = (0..=last).step_by(self.stride).collect();
        if !last.is_multiple_of(self.stride) {
            starts.push(last);
        }
        starts
    }
}

impl AttentionProcessor for Window {
    fn attend(&mut self, qkv: Qkv, site: &AttentionSite, next: &mut Next) -> Result<Tensor> {
        let frames = qkv.q.dim(2)?;
        if site.kind != SiteKind::Temporal || frames <= self.size || frames != qkv.k.dim(2)? {
            return next.attend(qkv, site);
        }
        let starts = self.starts(frames);
        let weight = |offset: usize| (offset + 1).min(self.size - offset) as f64;
        let mut total = vec![0.0; frames];
        for &start in &starts {
            (0..self.size).for_each(|offset| total[start + offset] += weight(offset));
        }
        let dtype = qkv.q.dtype();
        let mut sum: Option<Tensor> = None; // [B, N, F, D] in f32
        for start in starts {
            let narrow = |x: &Tensor| x.narrow(2, start, self.size);
            let part = Qkv { q: narrow(&qkv.q)?, k: narrow(&qkv.k)?, v: narrow(&qkv.v)?, scale: qkv.scale };
            let share: Vec<f32> =
                (0..self.size).map(|offset| (weight(offset) / total[start + offset]) as f32).collect();
            let share = Tensor::from_vec(share, (self.size, 1), qkv.q.device())?;
            let part = next.attend(part, site)?.to_dtype(DType::F32)?.broadcast_mul(&share)?;
            let part = part.pad_with_zeros(2, start, frames - start - self.size)?;
            sum = Some(match sum {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        match sum {
            Some(sum) => sum.to_dtype(dtype),
            None => next.attend(qkv, site),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::attention::Site;

    fn temporal(size: usize, stride: usize, frames: usize) -> (Tensor, Qkv, Toy) {
        let toy = Toy { text: 0, grid: (frames, 1, 1), ..Toy::default() };
        let qkv = toy.qkv(1, 2);
        let branches = [branch(COND, 0, 0, None), branch(UNCOND, 0, 0, None)];
        let site = Site { kind: SiteKind::Temporal, ..toy.site(0, &[0, 1]) };
        let mut stack = [boxed(Window::new(size, stride).unwrap())];
        let got = toy.hooks(&branches, &mut stack).attend(qkv.clone(), &site).unwrap();
        (got, qkv, toy)
    }

    #[test]
    fn one_full_window_is_plain() {
        for size in [8, 9, 30] {
            let (got, qkv, toy) = temporal(size, 4, 8);
            assert_same(&got, &toy.plain(&qkv));
        }
    }

    #[test]
    fn windows_are_weighted_means() {
        assert_eq!(Window::new(4, 2).unwrap().starts(8), [0, 2, 4]);
        assert_eq!(Window::new(4, 3).unwrap().starts(9), [0, 3, 5]);
        let (got, qkv, toy) = temporal(4, 3, 9);
        let part = |start: usize| {
            let narrow = |x: &Tensor| x.narrow(2, start, 4).unwrap();
            toy.plain(&Qkv { q: narrow(&qkv.q), k: narrow(&qkv.k), v: narrow(&qkv.v), scale: qkv.scale })
        };
        let frame = |x: &Tensor, frame| x.narrow(2, frame, 1).unwrap();
        // Frame 1 lies in the first window only; frame 3 in two, frame 6 in two with weights 1 and 2.
        assert_same(&frame(&got, 1), &frame(&part(0), 1));
        let mean = |a: Tensor, wa: f64, b: Tensor, wb: f64| {
            (((a * wa).unwrap() + (b * wb).unwrap()).unwrap() / (wa + wb)).unwrap()
        };
        assert_near(&frame(&got, 3), &mean(frame(&part(0), 3), 1.0, frame(&part(3), 0), 1.0), 1e-6);
        assert_near(&frame(&got, 6), &mean(frame(&part(3), 3), 1.0, frame(&part(5), 1), 2.0), 1e-6);
        assert_same(&frame(&got, 8), &frame(&part(5), 3));
    }

    #[test]
    fn other_sites_are_left_alone_and_gaps_refused() {
        let toy = Toy::default();
        let qkv = toy.qkv(2, 1);
        let mut stack = [boxed(Window::new(2, 1).unwrap())];
        let got = toy.attend(&qkv, &[branch(COND, 0, 0, None)], &mut stack).unwrap();
        assert_same(&got, &toy.plain(&qkv));
        assert!(Window::new(4, 5).unwrap_err().to_string().contains("leaves frames between"));
        assert!(Window::new(0, 1).is_err() && Window::new(1, 0).is_err());
    }
}
