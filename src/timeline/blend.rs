//! Blends the estimates of overlapping windows into one for each frame.
//!
//! spec/ditctrl.md 3: the estimates of a frame are averaged with triangular weights by their place in the window,
//! `w_j = min((j + 1/2) 2/n, 2 - (j + 1/2) 2/n)` for a window of n frames. What is averaged is linear in the network's
//! output, and the latents of a frame are the same in all windows, so predictions may be blended in place of estimates of
//! the clean sample.
//!
//! The reference evaluates a window up to twice in a step, once on its own keys and values and once on those of the window
//! before, and both results enter ([`BlendMode::Reference`]); the paper describes one for each ([`BlendMode::Paper`]).

use super::{ChunkPlan, Window};
use crate::words::words;
use candle_core::{DType, Result, Tensor, bail};

/// How a window's estimate was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Estimate {
    /// From its own keys and values.
    Plain,
    /// From those of the window before, in the layers and steps where they are shared.
    Shared,
}

words!(
    /// Which estimates of a window enter the blend, each with multiplicity 1.
    #[derive(Hash)]
    BlendMode, "blend", {
        /// As DiTCtrl's code does: plain for all windows but the last, shared for all but the first. Inner windows count twice.
        Reference = "repo",
        /// One for each: plain for the first window, shared for all others. Equal to the other for two windows.
        Paper = "paper",
    }
);

/// The part that one estimate of one window has in a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    pub window: usize,
    pub estimate: Estimate,
    /// Those of a frame add up to 1.
    pub weight: f64,
}

/// Averages the estimates of one step after the other.
///
/// Every estimate of every window ([`Blend::estimates`]) is accumulated once, in any fixed order (sums are rounded, so
/// another order may differ in the last bit); [`Blend::finish`] gives the result and resets. A frame that only one
/// window covers passes through bit for bit if its estimates are equal.
#[derive(Debug)]
pub struct Blend {
    windows: Vec<Window>,
    /// By window: the estimates that enter.
    estimates: Vec<Vec<Estimate>>,
    /// By frame.
    shares: Vec<Vec<Share>>,
    /// By window: the estimates that have come.
    come: Vec<Vec<Estimate>>,
    /// By frame: whether the sum holds something yet.
    begun: Vec<bool>,
    sum: Option<Tensor>,
}

impl Blend {
    pub fn new(plan: &ChunkPlan, mode: BlendMode) -> Self {
        let last = plan.windows.len().saturating_sub(1);
        let estimates: Vec<Vec<Estimate>> = (0..plan.windows.len())
            .map(|k| match mode {
                _ if k == 0 => vec![Estimate::Plain], // also where it is the only window
                BlendMode::Reference if k < last => vec![Estimate::Plain, Estimate::Shared],
                _ => vec![Estimate::Shared],
            })
            .collect();
        let mut shares = vec![Vec::new(); plan.frames];
        for (k, window) in plan.windows.iter().enumerate() {
            for j in 0..window.len {
                for &estimate in &estimates[k] {
                    shares[window.start + j].push(Share { window: k, estimate, weight: triangle(j, window.len) });
                }
            }
        }
        for shares in &mut shares {
            let total: f64 = shares.iter().map(|share| share.weight).sum();
            shares.iter_mut().for_each(|share| share.weight /= total);
        }
        Self {
            windows: plan.windows.clone(),
            come: vec![Vec::new(); estimates.len()],
            begun: vec![false; plan.frames],
            estimates,
            shares,
            sum: None,
        }
    }

    /// Windows are written one over the other, from left to right, each leaving some of its first frames as they are
    /// (StreamingT2V, arXiv 2403.14773, randomized blending); [`Blend::leave`] says before each step how many.
    pub fn overwriting(plan: &ChunkPlan) -> Self {
        let estimates = vec![vec![Estimate::Plain]; plan.windows.len()];
        let mut blend = Self {
            windows: plan.windows.clone(),
            come: vec![Vec::new(); estimates.len()],
            begun: vec![false; plan.frames],
            estimates,
            shares: vec![Vec::new(); plan.frames],
            sum: None,
        };
        blend.leave(&vec![0; plan.windows.len().saturating_sub(1)]);
        blend
    }

    /// `left`: for each window after the first, how many of its first frames stay those of the windows before; at most as many
    /// as it has with the one before it.
    pub fn leave(&mut self, left: &[usize]) {
        for (k, window) in self.windows.iter().enumerate() {
            let left = k.checked_sub(1).and_then(|k| left.get(k)).map_or(0, |&left| left);
            for frame in window.start + left.min(window.len)..window.end() {
                self.shares[frame] = vec![Share { window: k, estimate: Estimate::Plain, weight: 1.0 }];
            }
        }
    }

    /// The estimates of a window that enter the blend.
    pub fn estimates(&self, window: usize) -> &[Estimate] {
        &self.estimates[window]
    }

    /// What a frame is made of, in order of windows.
    pub fn weights(&self, frame: usize) -> &[Share] {
        &self.shares[frame]
    }

    /// Adds an estimate `[len, C, H, W]` of a window that stands for all its estimates, as when nothing is shared: then
    /// they are equal, and an inner window of [`BlendMode::Reference`] gets twice the weight.
    pub fn accumulate(&mut self, window: usize, values: &Tensor) -> Result<()> {
        let all = self.estimates.get(window).cloned().unwrap_or_default();
        self.add(window, &all, values)
    }

    /// Adds one estimate `[len, C, H, W]` of a window.
    pub fn accumulate_estimate(&mut self, window: usize, estimate: Estimate, values: &Tensor) -> Result<()> {
        self.add(window, &[estimate], values)
    }

    fn add(&mut self, window: usize, estimates: &[Estimate], values: &Tensor) -> Result<()> {
        let Some(&Window { start, len, .. }) = self.windows.get(window) else {
            bail!("blend: window {window} of {}", self.windows.len())
        };
        for estimate in estimates {
            if !self.estimates[window].contains(estimate) || self.come[window].contains(estimate) {
                bail!("blend: the {estimate:?} estimate of window {window} does not enter, or has come before")
            }
        }
        let (found, c, h, w) = values.dims4()?;
        if found != len {
            bail!("blend: {found} frames for window {window}, which has {len}")
        }
        let frames = self.shares.len();
        let sum = match &self.sum {
            Some(sum) if sum.dims() == [frames, c, h, w] => sum.clone(),
            Some(sum) => bail!("blend: window {window} is {:?}, those before it make {:?}", values.dims(), sum.dims()),
            None => Tensor::zeros((frames, c, h, w), DType::F32, values.device())?, // [F, C, H, W]
        };
        let values = values.to_dtype(DType::F32)?.contiguous()?;
        for j in 0..len {
            let frame = start + j;
            let mine = self.shares[frame].iter().filter(|s| s.window == window && estimates.contains(&s.estimate));
            let weight: f64 = mine.map(|share| share.weight).sum();
            if weight == 0.0 {
                continue;
            }
            let mut value = values.narrow(0, j, 1)?; // [1, C, H, W]
            if weight != 1.0 {
                value = (value * weight)?;
            }
            if self.begun[frame] {
                value = (sum.narrow(0, frame, 1)? + value)?;
            }
            sum.slice_set(&value, 0, frame)?;
            self.begun[frame] = true;
        }
        self.come[window].extend(estimates);
        self.sum = Some(sum);
        Ok(())
    }

    /// The blended timeline `[F, C, H, W]` in f32. Fails, naming it, if an estimate has not come.
    pub fn finish(&mut self) -> Result<Tensor> {
        for (window, wanted) in self.estimates.iter().enumerate() {
            if let Some(missing) = wanted.iter().find(|estimate| !self.come[window].contains(estimate)) {
                bail!("blend: the {missing:?} estimate of window {window} is missing")
            }
        }
        self.come.iter_mut().for_each(Vec::clear);
        self.begun.fill(false);
        match self.sum.take() {
            Some(sum) => Ok(sum),
            None => bail!("blend: a plan without windows"),
        }
    }
}

/// The weight of frame `j` of a window of `n`: rises from the ends to 1 in the middle.
pub fn triangle(j: usize, n: usize) -> f64 {
    let rising = (j as f64 + 0.5) * 2.0 / n as f64;
    rising.min(2.0 - rising)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Some estimate `[len, C, H, W]` of a window.
    fn estimate(plan: &ChunkPlan, window: usize, kind: Estimate) -> Tensor {
        let count = plan.windows[window].len * 24;
        let first = 1 + window as u32 * 7919 + kind as u32 * 104_729;
        let values =
            std::iter::successors(Some(first), |x| Some(x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223)));
        let values: Vec<f32> = values.skip(1).take(count).map(|x| x as f32 / (1u64 << 31) as f32 - 1.0).collect();
        Tensor::from_vec(values, (plan.windows[window].len, 2, 3, 4), &Device::Cpu).unwrap() // [len, C, H, W]
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn bits(tensor: &Tensor) -> Vec<u32> {
        values(tensor).into_iter().map(f32::to_bits).collect()
    }

    /// The weight of a whole window in a frame.
    fn of_window(blend: &Blend, frame: usize, window: usize) -> f64 {
        blend.weights(frame).iter().filter(|share| share.window == window).map(|share| share.weight).sum()
    }

    fn assert_printed(got: f64, want: f64) {
        assert!((got - want).abs() <= 5.1e-4, "{got} not {want}");
    }

    #[test]
    fn weights_are_those_of_the_specification() {
        // spec/ditctrl.md 3, to the digits printed there
        const W: [f64; 13] =
            [0.0769, 0.2308, 0.3846, 0.5385, 0.6923, 0.8462, 1.0, 0.8462, 0.6923, 0.5385, 0.3846, 0.2308, 0.0769];
        for (j, want) in W.into_iter().enumerate() {
            assert!((triangle(j, 13) - want).abs() < 5.1e-5);
        }
        let three = Blend::new(&ChunkPlan::even(&[1, 1], 13, 6, 1), BlendMode::Reference);
        for (frame, want) in (7..13).zip([0.846, 0.600, 0.412, 0.263, 0.143, 0.043]) {
            assert_printed(of_window(&three, frame, 0), want);
            assert_printed(of_window(&three, frame, 1), 1.0 - want);
            // the other boundary mirrors it
            assert_printed(of_window(&three, 26 - frame, 2), want);
        }
        for mode in [BlendMode::Reference, BlendMode::Paper] {
            let two = Blend::new(&ChunkPlan::even(&[1, 1], 13, 6, 0), mode);
            for (frame, want) in (7..13).zip([0.917, 0.75, 0.583, 0.417, 0.25, 0.083]) {
                assert_printed(of_window(&two, frame, 0), want);
            }
        }
        let paper = Blend::new(&ChunkPlan::even(&[1, 1], 13, 6, 1), BlendMode::Paper);
        assert_printed(of_window(&paper, 7, 0), 0.917);
    }

    #[test]
    fn estimates_are_those_of_the_mode() {
        use Estimate::{Plain, Shared};
        let plan = ChunkPlan::even(&[1, 1], 13, 9, 2);
        let of = |mode| {
            let blend = Blend::new(&plan, mode);
            (0..4).map(|window| blend.estimates(window).to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(of(BlendMode::Reference), [vec![Plain], vec![Plain, Shared], vec![Plain, Shared], vec![Shared]]);
        assert_eq!(of(BlendMode::Paper), [vec![Plain], vec![Shared], vec![Shared], vec![Shared]]);
        assert_eq!(Blend::new(&ChunkPlan::single(5), BlendMode::Reference).estimates(0), [Plain]);
        for mode in [BlendMode::Reference, BlendMode::Paper] {
            assert_eq!(mode.to_string().parse::<BlendMode>().unwrap(), mode);
        }
        assert!("both".parse::<BlendMode>().unwrap_err().to_string().contains("(known: repo, paper)"));
    }

    #[test]
    fn blends_like_a_plain_loop() {
        for (prompts, overlap, transitions) in [(2, 6, 1), (2, 6, 0), (3, 9, 2), (2, 0, 1), (2, 12, 3), (1, 9, 2)] {
            let plan = ChunkPlan::even(&vec![1; prompts], 13, overlap, transitions);
            for mode in [BlendMode::Reference, BlendMode::Paper] {
                let mut blend = Blend::new(&plan, mode);
                let s = plan.windows.len();
                let mut above = vec![0.0f64; plan.frames * 24];
                let mut below = vec![0.0f64; plan.frames];
                for k in 0..s {
                    // the formula of the specification
                    let plain = if mode == BlendMode::Reference { k + 2 <= s || s == 1 } else { k == 0 };
                    let shared = k >= 1;
                    for (kind, enters) in [(Estimate::Plain, plain), (Estimate::Shared, shared)] {
                        if !enters {
                            continue;
                        }
                        let tensor = estimate(&plan, k, kind);
                        blend.accumulate_estimate(k, kind, &tensor).unwrap();
                        for (place, value) in values(&tensor).into_iter().enumerate() {
                            let j = place / 24;
                            let w = ((j as f64 + 0.5) * 2.0 / 13.0).min(2.0 - (j as f64 + 0.5) * 2.0 / 13.0);
                            above[plan.windows[k].start * 24 + place] += w * f64::from(value);
                            below[plan.windows[k].start + j] += if place % 24 == 0 { w } else { 0.0 };
                        }
                    }
                }
                let got = blend.finish().unwrap();
                assert_eq!(got.dims(), [plan.frames, 2, 3, 4]);
                for (place, got) in values(&got).into_iter().enumerate() {
                    let want = above[place] / below[place / 24];
                    assert!((f64::from(got) - want).abs() < 1e-6, "{prompts} {overlap} {mode}: {got} not {want}");
                }
            }
        }
    }

    #[test]
    fn equal_estimates_may_come_as_one() {
        let plan = ChunkPlan::even(&[1, 1], 13, 9, 2);
        let mut blend = Blend::new(&plan, BlendMode::Reference);
        // a second round starts from zero
        for _ in 0..2 {
            for k in 0..4 {
                blend.accumulate(k, &estimate(&plan, k, Estimate::Plain)).unwrap();
            }
            let once = blend.finish().unwrap();
            for k in 0..4 {
                for kind in blend.estimates(k).to_vec() {
                    blend.accumulate_estimate(k, kind, &estimate(&plan, k, Estimate::Plain)).unwrap();
                }
            }
            for (a, b) in values(&once).into_iter().zip(values(&blend.finish().unwrap())) {
                assert!((a - b).abs() < 1e-6, "{a} {b}");
            }
        }
    }

    #[test]
    fn frames_of_one_window_pass_through_bit_for_bit() {
        let negative_zero = |tensor: Tensor| (tensor * -0.0).unwrap();
        let alone = ChunkPlan::single(7);
        for mode in [BlendMode::Reference, BlendMode::Paper] {
            let mut blend = Blend::new(&alone, mode);
            let given = estimate(&alone, 0, Estimate::Plain);
            for given in [given.clone(), negative_zero(given)] {
                blend.accumulate(0, &given).unwrap();
                assert_eq!(bits(&blend.finish().unwrap()), bits(&given));
            }
            // three windows, of which frames 2..=10 belong to one each
            let plan = ChunkPlan::even(&[1, 1, 1], 13, 2, 0);
            let mut blend = Blend::new(&plan, mode);
            let given: Vec<Tensor> = (0..3).map(|k| estimate(&plan, k, Estimate::Plain)).collect();
            for (k, given) in given.iter().enumerate() {
                blend.accumulate(k, given).unwrap();
            }
            let got = blend.finish().unwrap();
            for (k, given) in given.iter().enumerate() {
                let mine = got.narrow(0, plan.windows[k].start + 2, 9).unwrap();
                assert_eq!(bits(&mine), bits(&given.narrow(0, 2, 9).unwrap()));
            }
        }
    }

    #[test]
    fn windows_are_written_over_each_other() {
        let plan = ChunkPlan::sliding(7, 4, 1);
        assert_eq!((plan.windows.len(), plan.shared()), (2, vec![1]));
        let plan = ChunkPlan::sliding(8, 4, 2);
        assert_eq!(plan.shared(), [2, 2]);
        let mut blend = Blend::overwriting(&plan);
        // every window's number, in all its places
        let mut made = |left: &[usize]| {
            blend.leave(left);
            for window in 0..3 {
                let values = Tensor::full(window as f32, (4, 1, 1, 1), &Device::Cpu).unwrap();
                blend.accumulate(window, &values).unwrap();
            }
            values(&blend.finish().unwrap())
        };
        assert_eq!(made(&[0, 0]), [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
        assert_eq!(made(&[1, 2]), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0]);
        assert_eq!(made(&[2, 0]), [0.0, 0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 2.0]);
    }

    #[test]
    fn misuse_is_refused() {
        let plan = ChunkPlan::even(&[1, 1], 13, 6, 0);
        let mut blend = Blend::new(&plan, BlendMode::Reference);
        let given = estimate(&plan, 0, Estimate::Plain);
        let text = |result: Result<()>| result.unwrap_err().to_string();
        assert!(text(blend.accumulate(2, &given)).contains("window 2 of 2"));
        assert!(text(blend.accumulate_estimate(0, Estimate::Shared, &given)).contains("Shared"));
        assert!(text(blend.accumulate(0, &given.narrow(0, 0, 5).unwrap())).contains("5 frames"));
        blend.accumulate(0, &given).unwrap();
        assert!(text(blend.accumulate(0, &given)).contains("come before"));
        assert!(text(blend.accumulate(1, &given.narrow(1, 0, 1).unwrap())).contains("window 1"));
        assert!(blend.finish().unwrap_err().to_string().contains("Shared estimate of window 1"));
        blend.accumulate(1, &given).unwrap();
        blend.finish().unwrap();
    }
}
