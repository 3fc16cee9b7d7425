//! Windows over a long video, and the text of each.
//!
//! Layout as in DiTCtrl (spec/ditctrl.md 2): windows of one length at a fixed stride, one or more for each prompt, and
//! between prompts windows whose text is interpolated. Different on purpose: a layout of one window is plain sampling,
//! where the reference divides by zero; and a wanted length ([`ChunkPlan::cover`]) trims the end of the last window
//! rather than moving it, so a frame's place in its window does not depend on the length asked for.

use anyhow::{Result, bail};
use candle_core::{Tensor, bail as candle_bail};

/// Hours of video; a number beyond is a slip.
const MOST_WINDOWS: usize = 10_000;

/// The text of a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TextMix {
    /// One prompt, by index.
    Prompt(usize),
    /// Between two prompts; `weight` is that of `to`, in 0..=1.
    Between { from: usize, to: usize, weight: f64 },
}

/// The embedding of a text out of those of the prompts, all of one shape.
///
/// `E_from + weight (E_to - E_from)`, so that equal embeddings give themselves, bit for bit; from the reference's
/// `(1 - weight) E_from + weight E_to` it differs by rounding only.
pub fn mix(prompts: &[Tensor], text: &TextMix) -> candle_core::Result<Tensor> {
    let prompt = |index: usize| match prompts.get(index) {
        Some(prompt) => Ok(prompt),
        None => candle_bail!("text refers to prompt {index} of {}", prompts.len()),
    };
    match *text {
        TextMix::Prompt(index) => Ok(prompt(index)?.clone()),
        TextMix::Between { from, to, weight } => {
            let from = prompt(from)?;
            from + ((prompt(to)? - from)? * weight)?
        }
    }
}

/// Frames denoised together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First latent frame.
    pub start: usize,
    /// Latent frames.
    pub len: usize,
    /// Index into the plan's texts.
    pub text: usize,
    /// Whether attention may reach into the window before, where a control shares keys and values. Never for the first.
    pub joined: bool,
}

impl Window {
    /// The latent frame after the last.
    pub fn end(&self) -> usize {
        self.start + self.len
    }
}

/// Which windows make up a video.
#[derive(Debug, Clone, PartialEq)]
pub struct ChunkPlan {
    /// Latent frames that are denoised; the windows cover each of them at least once.
    pub frames: usize,
    /// Latent frames, from the start, that are wanted; what the windows cover beyond is cut off before decoding.
    pub keep: usize,
    /// In order of time.
    pub windows: Vec<Window>,
    /// Each text once, in the order of their first windows.
    pub texts: Vec<TextMix>,
    /// Latent frames that neighbouring windows share.
    pub overlap: usize,
}

impl ChunkPlan {
    /// One window of `frames` latent frames on prompt 0: plain sampling.
    pub fn single(frames: usize) -> Self {
        Self {
            frames,
            keep: frames,
            windows: vec![Window { start: 0, len: frames, text: 0, joined: false }],
            texts: vec![TextMix::Prompt(0)],
            overlap: 0,
        }
    }

    /// The reference's layout for `prompts` prompts: one window for each, `hold` more for each that is neither first nor
    /// last, and `transition_windows` between neighbours. Lengths in latent frames.
    pub fn segments(
        prompts: usize,
        window: usize,
        overlap: usize,
        transition_windows: usize,
        hold: usize,
    ) -> Result<Self> {
        windows_within_bounds(prompts, prompts.saturating_mul(hold.saturating_add(1)))?;
        let held = |index: usize| if index == 0 || index + 1 == prompts { 1 } else { 1 + hold };
        Self::scenes(&(0..prompts).map(held).collect::<Vec<_>>(), window, overlap, transition_windows)
    }

    /// At least `frames` latent frames for `prompts` prompts, in as few windows as that takes; the surplus at the end is
    /// not kept. What the transitions leave is shared out evenly. Lengths in latent frames.
    ///
    /// One prompt whose length fits a window gets [`ChunkPlan::single`]. Several prompts, or transitions, that need more
    /// windows than the length has are an error.
    pub fn cover(
        prompts: usize,
        frames: usize,
        window: usize,
        overlap: usize,
        transition_windows: usize,
    ) -> Result<Self> {
        check(prompts, window, overlap)?;
        if frames == 0 {
            bail!("no frames asked for")
        }
        if prompts == 1 && frames <= window {
            return Ok(Self::single(frames));
        }
        let stride = window - overlap;
        let count = frames.saturating_sub(window).div_ceil(stride) + 1;
        windows_within_bounds(prompts, count)?;
        let least = prompts.saturating_add(transition_windows.saturating_mul(prompts - 1));
        if count < least {
            windows_within_bounds(prompts, least)?;
            bail!(
                "{prompts} prompts with {transition_windows} transition windows take {least} windows, and {frames} latent \
                 frames hold {count}: ask for {} or more, or for fewer transition windows",
                (window + (least - 1) * stride).saturating_sub(stride) + 1
            )
        }
        let shared = count - transition_windows * (prompts - 1);
        let counts: Vec<usize> = (0..prompts).map(|p| shared * (p + 1) / prompts - shared * p / prompts).collect();
        Ok(Self { keep: frames, ..Self::scenes(&counts, window, overlap, transition_windows)? })
    }

    /// `counts[p]` windows for prompt p, and `transition_windows` between neighbours. Lengths in latent frames.
    pub fn scenes(counts: &[usize], window: usize, overlap: usize, transition_windows: usize) -> Result<Self> {
        let prompts = counts.len();
        check(prompts, window, overlap)?;
        if let Some(prompt) = counts.iter().position(|&count| count == 0) {
            bail!("prompt {prompt} has no window")
        }
        let held = counts.iter().fold(0usize, |sum, &count| sum.saturating_add(count));
        let total = held.saturating_add(transition_windows.saturating_mul(prompts - 1));
        windows_within_bounds(prompts, total)?;

        let mut texts = Vec::new();
        let mut order = Vec::with_capacity(total); // the text of each window
        for (prompt, &count) in counts.iter().enumerate() {
            order.extend(std::iter::repeat_n(texts.len(), count));
            texts.push(TextMix::Prompt(prompt));
            if prompt + 1 < prompts {
                for j in 1..=transition_windows {
                    order.push(texts.len());
                    let weight = j as f64 / (transition_windows + 1) as f64;
                    texts.push(TextMix::Between { from: prompt, to: prompt + 1, weight });
                }
            }
        }
        let stride = window - overlap;
        let place = |(k, text)| Window { start: k * stride, len: window, text, joined: k > 0 };
        let windows: Vec<Window> = order.into_iter().enumerate().map(place).collect();
        let frames = window + (windows.len() - 1) * stride;
        Ok(Self { frames, keep: frames, windows, texts, overlap })
    }
}

/// A window no longer than this keeps every later product within bounds.
const LONGEST_WINDOW: usize = 1 << 20;

fn check(prompts: usize, window: usize, overlap: usize) -> Result<()> {
    if prompts == 0 {
        bail!("no prompt")
    }
    if !(1..=LONGEST_WINDOW).contains(&window) {
        bail!("a window of {window} latent frames: it must have 1 to {LONGEST_WINDOW}")
    }
    if overlap >= window {
        bail!("--overlap is {overlap}: it must be below the window's {window} latent frames")
    }
    Ok(())
}

fn windows_within_bounds(prompts: usize, windows: usize) -> Result<()> {
    if windows > MOST_WINDOWS {
        bail!("{prompts} prompts at this length, overlap and hold take {windows} windows, more than {MOST_WINDOWS}")
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn layout_is_that_of_the_specification() {
        // spec/ditctrl.md 2: (overlap, transition windows), prompts, S, L, frames
        for (overlap, transitions, prompts, s, l, frames) in [
            (6, 1, 2, 3, 27, 105),
            (6, 1, 3, 5, 41, 161),
            (6, 1, 4, 7, 55, 217),
            (9, 2, 2, 4, 25, 97),
            (9, 2, 3, 7, 37, 145),
            (9, 2, 4, 10, 49, 193),
            (9, 2, 5, 13, 61, 241),
        ] {
            let plan = ChunkPlan::segments(prompts, 13, overlap, transitions, 0).unwrap();
            assert_eq!((plan.windows.len(), plan.frames, 4 * (plan.frames - 1) + 1), (s, l, frames));
            assert_eq!(plan.keep, plan.frames);
            for (k, window) in plan.windows.iter().enumerate() {
                assert_eq!((window.start, window.len, window.end()), (k * (13 - overlap), 13, k * (13 - overlap) + 13));
            }
            assert_eq!(plan.windows[s - 1].end(), plan.frames);
        }
    }

    #[test]
    fn texts_come_in_the_order_of_the_specification() {
        let plan = ChunkPlan::segments(3, 13, 9, 2, 1).unwrap();
        let between = |from, weight| TextMix::Between { from, to: from + 1, weight };
        let third = 1.0 / 3.0;
        assert_eq!(
            plan.texts,
            [
                TextMix::Prompt(0),
                between(0, third),
                between(0, 2.0 * third),
                TextMix::Prompt(1),
                between(1, third),
                between(1, 2.0 * third),
                TextMix::Prompt(2),
            ]
        );
        // S = P + n_t (P - 1) + m (P - 2) = 3 + 4 + 1
        let order: Vec<usize> = plan.windows.iter().map(|window| window.text).collect();
        assert_eq!(order, [0, 1, 2, 3, 3, 4, 5, 6]);
        // hold counts only from three prompts on
        assert_eq!(ChunkPlan::segments(2, 13, 9, 2, 5).unwrap().windows.len(), 4);
    }

    #[test]
    fn overlap_may_be_nothing_or_all_but_one() {
        let apart = ChunkPlan::segments(3, 13, 0, 0, 0).unwrap();
        assert_eq!(apart.windows.iter().map(|w| w.start).collect::<Vec<_>>(), [0, 13, 26]);
        assert_eq!(apart.frames, 39);
        let close = ChunkPlan::segments(3, 13, 12, 1, 0).unwrap();
        assert_eq!(close.windows.iter().map(|w| w.start).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(close.frames, 17);
        let one = ChunkPlan::segments(1, 13, 9, 2, 3).unwrap();
        assert_eq!(
            (one.windows.clone(), one.frames, one.texts),
            (ChunkPlan::single(13).windows, 13, vec![TextMix::Prompt(0)])
        );
    }

    #[test]
    fn cover_takes_as_few_windows_as_the_length_needs() {
        for frames in 1..200 {
            let plan = ChunkPlan::cover(1, frames, 13, 9, 2).unwrap();
            assert_eq!(plan.keep, frames);
            if frames <= 13 {
                assert_eq!(plan, ChunkPlan::single(frames));
            } else {
                assert!(plan.frames >= frames && plan.frames - frames < 4, "{frames}: {}", plan.frames);
                assert!(plan.windows.iter().all(|window| window.text == 0 && window.len == 13));
                assert_eq!(plan.texts, [TextMix::Prompt(0)]);
            }
        }
    }

    #[test]
    fn cover_shares_windows_out_evenly() {
        // the natural length of a layout gives that layout
        for prompts in 2..5 {
            let segments = ChunkPlan::segments(prompts, 13, 9, 2, 0).unwrap();
            assert_eq!(ChunkPlan::cover(prompts, segments.frames, 13, 9, 2).unwrap(), segments);
        }
        let plan = ChunkPlan::cover(3, 60, 13, 9, 2).unwrap(); // 13 windows, 4 of them transitions
        let of = |text: usize| plan.windows.iter().filter(|window| window.text == text).count();
        assert_eq!([of(0), of(3), of(6)], [3, 3, 3]);
        assert_eq!((plan.windows.len(), plan.frames, plan.keep), (13, 61, 60));
        // 97 frames need 4 windows of 22..=25 latent frames
        assert!(ChunkPlan::cover(2, 22, 13, 9, 2).is_ok());
        let error = ChunkPlan::cover(2, 21, 13, 9, 2).unwrap_err().to_string();
        assert!(error.contains("ask for 22 or more"), "{error}");
    }

    #[test]
    fn impossible_layouts_are_refused() {
        let text = |plan: Result<ChunkPlan>| plan.unwrap_err().to_string();
        assert!(text(ChunkPlan::segments(2, 13, 13, 2, 0)).contains("--overlap is 13"));
        assert!(text(ChunkPlan::segments(1, 13, 13, 2, 0)).contains("--overlap is 13"));
        assert!(text(ChunkPlan::segments(0, 13, 9, 2, 0)).contains("no prompt"));
        assert!(text(ChunkPlan::segments(2, 0, 0, 2, 0)).contains("window of 0"));
        assert!(text(ChunkPlan::segments(2, usize::MAX, 0, 2, 0)).contains("must have"));
        for plan in [
            ChunkPlan::segments(2, 13, 9, usize::MAX, 0),
            ChunkPlan::segments(3, 13, 9, 2, usize::MAX),
            ChunkPlan::segments(usize::MAX, 13, 9, 2, 0),
            ChunkPlan::cover(1, usize::MAX, 13, 9, 2),
            ChunkPlan::cover(2, 100, 13, 9, usize::MAX),
        ] {
            assert!(text(plan).contains("more than 10000"));
        }
        assert!(text(ChunkPlan::cover(1, 0, 13, 9, 2)).contains("no frames"));
        assert!(text(ChunkPlan::scenes(&[1, 0], 13, 9, 2)).contains("prompt 1"));
    }

    #[test]
    fn texts_are_mixed_by_weight() {
        let embedding = |values: [f32; 3]| Tensor::new(&[values], &Device::Cpu).unwrap(); // [1, 3]
        let prompts = [embedding([1.0, 0.1, -3.0]), embedding([2.0, 0.1, 3.0])];
        let mixed = |text| mix(&prompts, &text).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(mixed(TextMix::Prompt(1)), [2.0, 0.1, 3.0]);
        assert_eq!(mixed(TextMix::Between { from: 0, to: 1, weight: 0.25 }), [1.25, 0.1, -1.5]);
        assert_eq!(mixed(TextMix::Between { from: 0, to: 1, weight: 0.0 }), [1.0, 0.1, -3.0]);
        assert!(mix(&prompts, &TextMix::Prompt(2)).is_err());

        let values: Vec<f32> = (1..1000).map(|i| (i as f32).sqrt() - 17.3).collect();
        let equal = [Tensor::new(&values[..], &Device::Cpu).unwrap(), Tensor::new(&values[..], &Device::Cpu).unwrap()];
        let between = mix(&equal, &TextMix::Between { from: 0, to: 1, weight: 1.0 / 3.0 }).unwrap();
        assert_eq!(between.to_vec1::<f32>().unwrap(), values);
    }
}
