//! Windows over a long video, and the text of each.
//!
//! Layout as in DiTCtrl (spec/ditctrl.md 2): windows of one length, one or more for each prompt, and between prompts windows
//! whose text is interpolated. Different on purpose: each boundary may have its own overlap and transition windows; a layout
//! of one window is plain sampling, where the reference divides by zero; and a wanted length ([`ChunkPlan::covering`]) trims
//! the end of the last window rather than moving it, so a frame's place in its window does not depend on the length asked
//! for.

use anyhow::{Result, anyhow, bail, ensure};
use candle_core::{Tensor, bail as candle_bail};

/// Days of video; a number beyond is a slip.
const MOST_WINDOWS: usize = 100_000;

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

/// How the windows of a prompt follow each other, and how those of the next prompt follow them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stride {
    /// Latent frames from the start of a window to that of the next, inside the prompt.
    pub inside: usize,
    /// The same from the prompt's last window over the transition windows to the next prompt's first.
    pub boundary: usize,
    /// Whether windows are joined inside the prompt, and across its boundary.
    pub joined: (bool, bool),
    /// Windows on interpolated text before the next prompt.
    pub transition_windows: usize,
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
    /// The text of each latent frame, where a window has several; a window's own is then that of its first.
    pub frame_texts: Option<Vec<usize>>,
}

/// Why a length cannot be covered.
#[derive(Debug)]
pub enum Short {
    /// The prompts and their transitions take at least so many latent frames.
    Least(usize),
    Other(anyhow::Error),
}

impl ChunkPlan {
    /// One window of `frames` latent frames on prompt 0: plain sampling.
    pub fn single(frames: usize) -> Self {
        Self {
            frames,
            keep: frames,
            windows: vec![Window { start: 0, len: frames, text: 0, joined: false }],
            texts: vec![TextMix::Prompt(0)],
            frame_texts: None,
        }
    }

    /// One window of frames that have texts of their own.
    pub fn single_of(frames: &[TextMix]) -> Self {
        let mut texts: Vec<TextMix> = Vec::new();
        let of = |text: &TextMix| {
            let known = texts.iter().position(|other| other == text);
            known.unwrap_or_else(|| {
                texts.push(*text);
                texts.len() - 1
            })
        };
        let frame_texts: Vec<usize> = frames.iter().map(of).collect();
        let frame_texts = Some(frame_texts).filter(|_| texts.len() > 1);
        Self { texts, frame_texts, ..Self::single(frames.len()) }
    }

    /// Windows of `window` frames every `window - overlap`, on prompt 0; the last ends with the video, nearer to the one before it
    /// where they do not come out even. A video no longer than a window is one. `overlap` is less than `window`.
    pub fn sliding(frames: usize, window: usize, overlap: usize) -> Self {
        if frames <= window {
            return Self::single(frames);
        }
        let starts = (0..frames - window).step_by((window - overlap).max(1)).chain([frames - window]);
        let windows = starts.map(|start| Window { start, len: window, text: 0, joined: false }).collect();
        Self { windows, ..Self::single(frames) }
    }

    /// Frames that each window after the first has with the one before it.
    pub fn shared(&self) -> Vec<usize> {
        self.windows.windows(2).map(|pair| pair[0].end().saturating_sub(pair[1].start)).collect()
    }

    /// The same windows on other texts: those whose prompts count from `first`.
    pub fn on_prompts_from(&self, first: usize) -> Self {
        let text = |text: &TextMix| match *text {
            TextMix::Prompt(prompt) => TextMix::Prompt(prompt + first),
            TextMix::Between { from, to, weight } => TextMix::Between { from: from + first, to: to + first, weight },
        };
        Self { texts: self.texts.iter().map(text).collect(), ..self.clone() }
    }

    /// `counts[p]` windows of `window` latent frames for prompt p, and its boundary's transition windows behind them.
    /// `strides`: one for each prompt; the last one's boundary leads nowhere.
    pub fn layout(counts: &[usize], strides: &[Stride], window: usize) -> Result<Self> {
        check(counts, strides, window)?;
        let transitions = strides[..counts.len() - 1].iter().map(|stride| stride.transition_windows);
        let total = counts.iter().copied().chain(transitions).fold(0usize, usize::saturating_add);
        ensure!(total <= MOST_WINDOWS, "{total} windows are more than the {MOST_WINDOWS} that a video may have");
        let (mut windows, mut texts): (Vec<Window>, Vec<TextMix>) = (Vec::with_capacity(total), Vec::new());
        let mut push = |text: usize, (stride, joined): (usize, bool)| {
            let start = windows.last().map_or(0, |last: &Window| last.start + stride);
            windows.push(Window { start, len: window, text, joined });
        };
        let mut into = (0, false);
        for (prompt, (&count, here)) in counts.iter().zip(strides).enumerate() {
            texts.push(TextMix::Prompt(prompt));
            for index in 0..count {
                push(texts.len() - 1, if index == 0 { into } else { (here.inside, here.joined.0) });
            }
            into = (here.boundary, here.joined.1);
            if prompt + 1 < counts.len() {
                for j in 1..=here.transition_windows {
                    let weight = j as f64 / (here.transition_windows + 1) as f64;
                    texts.push(TextMix::Between { from: prompt, to: prompt + 1, weight });
                    push(texts.len() - 1, into);
                }
            }
        }
        let frames = windows.last().map_or(0, Window::end);
        Ok(Self { frames, keep: frames, windows, texts, frame_texts: None })
    }

    /// As few windows as cover `keep` latent frames, shared out by `parts`, one for each prompt; the surplus at the end is
    /// not kept. A prompt has at least one window.
    pub fn covering(keep: usize, parts: &[usize], strides: &[Stride], window: usize) -> Result<Self, Short> {
        let mut counts = vec![1; parts.len()];
        let least = Self::layout(&counts, strides, window).map_err(Short::Other)?.frames;
        if keep == 0 {
            return Err(Short::Other(anyhow!("no frames asked for")));
        }
        // the last window may be cut off but for one frame
        if parts.len() > 1 && keep.saturating_add(strides[0].inside) <= least {
            return Err(Short::Least(least - strides[0].inside + 1));
        }
        let missing = keep.saturating_sub(least).div_ceil(strides[0].inside);
        let total: usize = parts.iter().sum();
        for _ in 0..missing.min(MOST_WINDOWS) {
            // to the prompt that is furthest behind its share
            let behind = |index: &usize| parts[*index] as f64 / total as f64 / counts[*index] as f64;
            let next = (0..parts.len()).max_by(|a, b| behind(a).total_cmp(&behind(b)).then(b.cmp(a))).unwrap_or(0);
            counts[next] += 1;
        }
        let plan = Self::layout(&counts, strides, window).map_err(Short::Other)?;
        if keep <= plan.frames {
            Ok(Self { keep, ..plan })
        } else {
            Err(Short::Other(anyhow!("{keep} latent frames are more than {MOST_WINDOWS} windows hold")))
        }
    }

    /// A layout with one overlap and one number of transition windows, all windows joined.
    #[cfg(test)]
    pub fn even(counts: &[usize], window: usize, overlap: usize, transition_windows: usize) -> Self {
        Self::layout(counts, &Stride::even(counts.len(), window, overlap, transition_windows), window).unwrap()
    }
}

#[cfg(test)]
impl Stride {
    pub fn even(prompts: usize, window: usize, overlap: usize, transition_windows: usize) -> Vec<Self> {
        let stride = window.wrapping_sub(overlap);
        vec![Self { inside: stride, boundary: stride, joined: (true, true), transition_windows }; prompts]
    }
}

/// A window no longer than this keeps every later product within bounds.
const LONGEST_WINDOW: usize = 1 << 20;

fn check(counts: &[usize], strides: &[Stride], window: usize) -> Result<()> {
    ensure!(!counts.is_empty(), "no prompt");
    ensure!(counts.len() == strides.len(), "{} prompts and {} strides", counts.len(), strides.len());
    if !(1..=LONGEST_WINDOW).contains(&window) {
        bail!("a window of {window} latent frames: it must have 1 to {LONGEST_WINDOW}")
    }
    let of_stride = |stride: &Stride| [stride.inside, stride.boundary];
    if let Some(stride) = strides.iter().flat_map(of_stride).find(|stride| !(1..=window).contains(stride)) {
        bail!("a stride of {stride} latent frames for windows of {window}")
    }
    if let Some(prompt) = counts.iter().position(|&count| count == 0) {
        bail!("prompt {prompt} has no window")
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
            let plan = ChunkPlan::even(&vec![1; prompts], 13, overlap, transitions);
            assert_eq!((plan.windows.len(), plan.frames, 4 * (plan.frames - 1) + 1), (s, l, frames));
            assert_eq!(plan.keep, plan.frames);
            for (k, window) in plan.windows.iter().enumerate() {
                assert_eq!((window.start, window.len, window.end()), (k * (13 - overlap), 13, k * (13 - overlap) + 13));
                assert_eq!(window.joined, k > 0);
            }
            assert_eq!(plan.windows[s - 1].end(), plan.frames);
        }
    }

    #[test]
    fn texts_come_in_the_order_of_the_specification() {
        let plan = ChunkPlan::even(&[1, 2, 1], 13, 9, 2);
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
        let order: Vec<usize> = plan.windows.iter().map(|window| window.text).collect();
        assert_eq!(order, [0, 1, 2, 3, 3, 4, 5, 6]);
    }

    #[test]
    fn overlap_may_be_nothing_or_all_but_one() {
        let apart = ChunkPlan::even(&[1, 1, 1], 13, 0, 0);
        assert_eq!(apart.windows.iter().map(|w| w.start).collect::<Vec<_>>(), [0, 13, 26]);
        assert_eq!(apart.frames, 39);
        let close = ChunkPlan::even(&[1, 1, 1], 13, 12, 1);
        assert_eq!(close.windows.iter().map(|w| w.start).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(close.frames, 17);
        assert_eq!(ChunkPlan::even(&[1], 13, 9, 2), ChunkPlan::single(13));
    }

    #[test]
    fn boundaries_may_differ() {
        let stride = |boundary, joined, transition_windows| Stride { inside: 4, boundary, joined, transition_windows };
        let strides = [stride(13, (true, false), 0), stride(6, (false, true), 1), stride(1, (true, true), 5)];
        let plan = ChunkPlan::layout(&[2, 2, 1], &strides, 13).unwrap();
        let starts: Vec<_> = plan.windows.iter().map(|window| (window.start, window.text, window.joined)).collect();
        assert_eq!(starts, [(0, 0, false), (4, 0, true), (17, 1, false), (21, 1, false), (27, 2, true), (33, 3, true)]);
        assert_eq!((plan.frames, plan.texts.len()), (46, 4));
    }

    fn covering(keep: usize, prompts: usize, overlap: usize, transitions: usize) -> Result<ChunkPlan, Short> {
        ChunkPlan::covering(keep, &vec![1; prompts], &Stride::even(prompts, 13, overlap, transitions), 13)
    }

    #[test]
    fn a_length_takes_as_few_windows_as_it_needs() {
        for keep in 1..200 {
            let plan = covering(keep, 1, 9, 2).unwrap();
            assert_eq!(plan.keep, keep);
            assert!(plan.frames == 13 || (plan.frames >= keep && plan.frames - keep < 4), "{keep}: {}", plan.frames);
            assert!(plan.windows.iter().all(|window| window.text == 0 && window.len == 13));
            assert_eq!(plan.texts, [TextMix::Prompt(0)]);
        }
    }

    #[test]
    fn windows_are_shared_out() {
        // the natural length of a layout gives that layout
        for prompts in 2..5 {
            let layout = ChunkPlan::even(&vec![1; prompts], 13, 9, 2);
            assert_eq!(covering(layout.frames, prompts, 9, 2).unwrap(), layout);
        }
        let plan = covering(60, 3, 9, 2).unwrap(); // 13 windows, 4 of them transitions
        let count = |plan: &ChunkPlan, text: usize| plan.windows.iter().filter(|window| window.text == text).count();
        assert_eq!([0, 3, 6].map(|text| count(&plan, text)), [3, 3, 3]);
        assert_eq!((plan.windows.len(), plan.frames, plan.keep), (13, 61, 60));
        let plan = ChunkPlan::covering(60, &[1, 2, 3], &Stride::even(3, 13, 9, 2), 13).unwrap();
        assert_eq!([0, 3, 6].map(|text| count(&plan, text)), [2, 3, 4]);
        // 97 frames need 4 windows of 22..=25 latent frames
        assert!(covering(22, 2, 9, 2).is_ok());
        assert!(matches!(covering(21, 2, 9, 2), Err(Short::Least(22))));
    }

    #[test]
    fn impossible_layouts_are_refused() {
        let text = |counts: &[usize], window, overlap, transitions| {
            let strides = Stride::even(counts.len(), window, overlap, transitions);
            ChunkPlan::layout(counts, &strides, window).unwrap_err().to_string()
        };
        assert!(text(&[1, 1], 13, 13, 2).contains("stride of 0"));
        assert!(text(&[], 13, 9, 2).contains("no prompt"));
        assert!(text(&[1, 1], 0, 0, 2).contains("window of 0"));
        assert!(text(&[1, 1], usize::MAX, 0, 2).contains("must have"));
        assert!(text(&[1, 0], 13, 9, 2).contains("prompt 1 has no window"));
        assert!(text(&[1, 1], 13, 9, usize::MAX).contains("more than the 100000"));
        assert!(text(&[1, usize::MAX], 13, 9, 2).contains("more than the 100000"));
        let other = |keep| match covering(keep, 1, 9, 2) {
            Err(Short::Other(error)) => error.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(other(0).contains("no frames"));
        assert!(other(usize::MAX).contains("more than the 100000"));
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
