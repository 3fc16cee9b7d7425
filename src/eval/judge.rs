//! What a Toyland video shows, frame by frame and as a whole.
//!
//! A small convolutional network, trained by `training/train_judge.py` on rendered videos and shipped in
//! `models/toyland-judge` (f16, computed in f32). It follows `training/judge.py`, whose page describes it, name by name:
//! each frame becomes 12 x 18 cells, the cells' belief to lie on the subject pools them, the pooled features become the
//! frame's embedding, and colour, shape, place and time are read from that. Motion is read from pairs of neighbouring
//! frames at half size and from the path of the box, in windows of [`WINDOW`] frames.
//!
//! Frames are taken as 8 per second. Other sizes than 96 x 144 are averaged to it (each new pixel is the mean of the pixels
//! it overlaps), so a video of another aspect is judged distorted.

use super::toyland::{COLOURS, CaptionFacts, HEIGHT, MOTIONS, PLACES, SHAPES, TIMES, WIDTH};
use crate::nn::conv::{Conv2d, conv2d};
use crate::nn::linear::{Linear, linear};
use crate::video::Frame;
use candle_core::{D, DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use candle_nn::ops::{sigmoid, softmax_last_dim};
use std::ops::Range;

static WEIGHTS: &[u8] = include_bytes!("../../models/toyland-judge/model.safetensors");

/// Numbers in the embedding of a frame.
pub const EMBEDDING: usize = 64;
/// Frames in one look at the motion; the looks begin every [`STRIDE`] frames, and the last one ends with the video.
pub const WINDOW: usize = 16;
pub const STRIDE: usize = 8;

/// Frames that go through the network together.
const BATCH: usize = 32;
const CELL: usize = 8; // pixels
const FEATURES: usize = 64;

/// The network; it keeps no state between videos.
#[derive(Debug, Clone)]
pub struct Judge {
    frame: Vec<Conv2d>,
    locate: Conv2d,
    subject: Linear,
    scene: Linear,
    colour: Linear,
    shape: Linear,
    place: Linear,
    time: Linear,
    pair: Vec<Conv2d>,
    window: Vec<(Tensor, Tensor)>, // weights [48, in, 3] and biases [1, 48, 1]
    motion: Linear,
    centres: Tensor, // [cells, 4]: x and y of the cell, then zeros
    device: Device,
}

/// The answer to one question about a video.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The most probable word.
    pub label: &'static str,
    pub probability: f32,
    /// Of every word, in the order of [`super::toyland`]'s list.
    pub probabilities: Vec<f32>,
}

/// What one frame shows.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameFindings {
    /// The subject's box: x0, y0, x1, y1 in units of the frame's width and height. Without a subject it means nothing.
    pub bounds: [f32; 4],
    /// Probability that a subject is there.
    pub presence: f32,
    /// Places that are taken for one, apart from each other.
    pub subjects: usize,
    /// What it looks like: [`EMBEDDING`] numbers, the first half about the subject, the second about the scene.
    pub embedding: Vec<f32>,
}

/// What a video shows.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoFindings {
    pub colour: Answer,
    pub shape: Answer,
    pub motion: Answer,
    pub place: Answer,
    pub time: Answer,
    /// One for each frame.
    pub frames: Vec<FrameFindings>,
}

impl VideoFindings {
    /// Share of the frames in which a subject is more probable than none.
    pub fn present(&self) -> f64 {
        let found = self.frames.iter().filter(|frame| frame.presence > 0.5).count();
        found as f64 / self.frames.len() as f64 // a verdict has at least two frames
    }
}

/// What the network says of some frames; logits where not said otherwise.
struct Logits {
    presence: Tensor, // [T]
    bounds: Tensor,   // [T, 4]: centre x and y, width, height
    subjects: Vec<usize>,
    embedding: Tensor, // [T, 64]
    colour: Tensor,    // [T, 8]
    shape: Tensor,
    place: Tensor,
    time: Tensor,
}

impl Judge {
    /// The judge inside the binary.
    pub fn embedded(device: &Device) -> Result<Self> {
        Self::new(VarBuilder::from_slice_safetensors(WEIGHTS, DType::F32, device)?)
    }

    /// From the tensors that `training/train_judge.py` writes.
    pub fn new(vb: VarBuilder) -> Result<Self> {
        let conv = |name: &str, index: usize, (input, output, kernel, stride): (usize, usize, usize, usize)| {
            let vb = vb.pp(name).pp(index).pp("conv");
            conv2d(input, output, kernel, stride, kernel / 2, true, vb)
        };
        let stack = |name: &str, layers: &[(usize, usize, usize, usize)]| {
            layers.iter().enumerate().map(|(index, layer)| conv(name, index, *layer)).collect::<Result<Vec<_>>>()
        };
        let frame =
            [(3, 16, 5, 2), (16, 32, 3, 2), (32, 32, 3, 1), (32, 64, 3, 2), (64, 64, 3, 1), (64, FEATURES, 3, 1)];
        let temporal = |index: usize, input: usize| {
            let vb = vb.pp("window").pp(index).pp("conv");
            Ok::<_, candle_core::Error>((vb.get((48, input, 3), "weight")?, vb.get(48, "bias")?.reshape((1, 48, 1))?))
        };
        let half = EMBEDDING / 2;
        let head = |name: &str, count: usize| linear(half, count, true, vb.pp("heads").pp(name));
        let device = vb.device().clone();
        let (rows, columns) = (HEIGHT / CELL, WIDTH / CELL);
        let centre = |cell: usize| {
            let (y, x) = (cell / columns, cell % columns);
            [(x as f32 + 0.5) / columns as f32, (y as f32 + 0.5) / rows as f32, 0.0, 0.0]
        };
        let centres: Vec<f32> = (0..rows * columns).flat_map(centre).collect();
        Ok(Self {
            frame: stack("frame", &frame)?,
            locate: conv2d(FEATURES, 5, 1, 1, 0, true, vb.pp("locate"))?,
            subject: linear(2 * FEATURES, half, true, vb.pp("subject"))?,
            scene: linear(FEATURES, half, true, vb.pp("scene"))?,
            colour: head("colour", COLOURS.len())?,
            shape: head("shape", SHAPES.len())?,
            place: head("place", PLACES.len())?,
            time: head("time", TIMES.len())?,
            pair: stack("pair", &[(6, 16, 3, 2), (16, 32, 3, 2), (32, 32, 3, 2)])?,
            window: vec![temporal(0, 36)?, temporal(1, 48)?],
            motion: linear(96, MOTIONS.len(), true, vb.pp("motion"))?,
            centres: Tensor::from_vec(centres, (rows * columns, 4), &device)?,
            device,
        })
    }

    /// Judges a video of at least two frames, of any one size.
    pub fn judge(&self, frames: &[Frame]) -> Result<VideoFindings> {
        let mut viewing = self.view();
        for frame in frames {
            viewing.push(frame)?;
        }
        viewing.end()?.verdict(0..frames.len())
    }

    /// [`Judge::judge`] of a video `[T, 3, H, W]` with values from -1 to 1.
    pub fn judge_tensor(&self, video: &Tensor) -> Result<VideoFindings> {
        let (count, channels, height, width) = video.dims4()?;
        if channels != 3 {
            bail!("a video has 3 channels, not {channels}");
        }
        let video = video.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let mut viewing = self.view();
        for frame in video.chunks((3 * height * width).max(1)) {
            for plane in frame.chunks((height * width).max(1)) {
                resize(&mut viewing.pending, height, width, |y, x| plane[y * width + x])?;
            }
            viewing.look_at(BATCH)?;
        }
        viewing.end()?.verdict(0..count)
    }

    /// Begins with a video whose frames come one by one.
    pub fn view(&self) -> JudgeStream<'_> {
        JudgeStream { judge: self, pending: Vec::new(), before: None, parts: Vec::new(), pairs: Vec::new() }
    }

    /// `x` is `[T, 3, 96, 144]`.
    fn frames(&self, x: &Tensor) -> Result<Logits> {
        let features = convolve(&self.frame, x)?; // [T, 64, 12, 18]
        let located = self.locate.forward(&features)?.flatten_from(2)?; // [T, 5, cells]
        let belief = located.narrow(1, 0, 1)?.contiguous()?; // [T, 1, cells]
        let share = softmax_last_dim(&belief)?;
        let features = features.flatten_from(2)?; // [T, 64, cells]
        let pooled = features.broadcast_mul(&share)?.sum(D::Minus1)?; // [T, 64]
        let mean = features.mean(D::Minus1)?;
        let offset = located.narrow(1, 1, 4)?.broadcast_mul(&share)?.sum(D::Minus1)?; // [T, 4]
        let bounds = (offset + share.squeeze(1)?.matmul(&self.centres)?)?;
        let subject = self.subject.forward(&Tensor::cat(&[&pooled, &mean], 1)?)?; // [T, 32]
        let scene = self.scene.forward(&mean)?;
        Ok(Logits {
            presence: belief.squeeze(1)?.max(D::Minus1)?,
            subjects: belief.squeeze(1)?.to_vec2::<f32>()?.iter().map(|cells| places(cells)).collect(),
            bounds,
            embedding: Tensor::cat(&[&subject, &scene], 1)?,
            colour: self.colour.forward(&subject)?,
            shape: self.shape.forward(&subject)?,
            place: self.place.forward(&scene)?,
            time: self.time.forward(&scene)?,
        })
    }

    /// Features `[T - 1, 32]` of the pairs of neighbours among frames at half size, `[T, 3, 48, 72]`.
    fn pairs(&self, small: &Tensor) -> Result<Tensor> {
        let count = small.dim(0)? - 1;
        let now = small.narrow(0, 0, count)?;
        let change = (small.narrow(0, 1, count)? - &now)?;
        let both = Tensor::cat(&[&now, &change], 1)?; // [T - 1, 6, 48, 72]
        convolve(&self.pair, &both)?.flatten_from(2)?.mean(D::Minus1)
    }

    /// Motion logits `[5]` of pairs `[T - 1, 32]` and boxes `[T, 4]`, averaged over the windows.
    fn moves(&self, pairs: &Tensor, bounds: &Tensor) -> Result<Tensor> {
        let count = bounds.dim(0)?;
        let centres = bounds.narrow(1, 0, 2)?;
        let now = centres.narrow(0, 0, count - 1)?;
        let steps = ((centres.narrow(0, 1, count - 1)? - &now)? * 20.0)?;
        let path = Tensor::cat(&[pairs, &((now * 2.0)? - 1.0)?, &steps], 1)?.t()?.contiguous()?; // [36, T - 1]
        let mut logits = Vec::new();
        for (start, length) in windows(count) {
            let mut x = path.narrow(1, start, length - 1)?.unsqueeze(0)?.contiguous()?;
            for (weight, bias) in &self.window {
                x = x.conv1d(weight, 1, 1, 1, 1)?.broadcast_add(bias)?.relu()?; // [1, 48, length - 1]
            }
            let pooled = Tensor::cat(&[&x.mean(D::Minus1)?, &x.max(D::Minus1)?], 1)?;
            logits.push(self.motion.forward(&pooled)?);
        }
        Tensor::cat(&logits, 0)?.mean(0)
    }
}

/// A video while its frames pass through the judge; little is kept of each frame.
pub struct JudgeStream<'a> {
    judge: &'a Judge,
    /// Frames not looked at yet, `[3, 96, 144]` each.
    pending: Vec<f32>,
    /// The last frame looked at, at half size `[1, 3, 48, 72]`.
    before: Option<Tensor>,
    parts: Vec<Logits>,
    pairs: Vec<Tensor>,
}

impl<'a> JudgeStream<'a> {
    /// Takes the next frame, of the size of the others.
    pub fn push(&mut self, frame: &Frame) -> Result<()> {
        let (width, height) = (frame.width, frame.height);
        if width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3)) != Some(frame.data.len()) {
            bail!("{} bytes do not make a frame of {width}x{height} pixels", frame.data.len());
        }
        for channel in 0..3 {
            let at = |y: usize, x: usize| f32::from(frame.data[(y * width + x) * 3 + channel]) / 127.5 - 1.0;
            resize(&mut self.pending, height, width, at)?;
        }
        self.look_at(BATCH)
    }

    /// Looks at the frames that wait, if they are `least` or more.
    fn look_at(&mut self, least: usize) -> Result<()> {
        let count = self.pending.len() / (3 * HEIGHT * WIDTH);
        if count < least {
            return Ok(());
        }
        let frames = std::mem::take(&mut self.pending);
        let frames = Tensor::from_vec(frames, (count, 3, HEIGHT, WIDTH), &self.judge.device)?;
        self.parts.push(self.judge.frames(&frames)?);
        let small = frames.avg_pool2d(2)?; // [count, 3, 48, 72]
        let last = small.narrow(0, count - 1, 1)?;
        let small = match self.before.replace(last) {
            Some(before) => Tensor::cat(&[&before, &small], 0)?,
            None => small,
        };
        if small.dim(0)? > 1 {
            self.pairs.push(self.judge.pairs(&small)?);
        }
        Ok(())
    }

    /// After the last frame. Errors: fewer than two frames.
    pub fn end(mut self) -> Result<JudgeOutput<'a>> {
        self.look_at(1)?;
        let count: usize = self.parts.iter().map(|part| part.presence.dim(0)).sum::<Result<usize>>()?;
        if count < 2 {
            bail!("the judge needs at least 2 frames, there are {count}");
        }
        let join = |part: fn(&Logits) -> &Tensor| Tensor::cat(&self.parts.iter().map(part).collect::<Vec<_>>(), 0);
        let seen = Logits {
            presence: sigmoid(&join(|p| &p.presence)?)?,
            subjects: self.parts.iter().flat_map(|part| part.subjects.iter().copied()).collect(),
            bounds: join(|p| &p.bounds)?,
            embedding: join(|p| &p.embedding)?,
            colour: join(|p| &p.colour)?,
            shape: join(|p| &p.shape)?,
            place: join(|p| &p.place)?,
            time: join(|p| &p.time)?,
        };
        Ok(JudgeOutput { judge: self.judge, seen, pairs: Tensor::cat(&self.pairs, 0)? })
    }
}

/// What the judge's network gave for all frames of a video.
pub struct JudgeOutput<'a> {
    judge: &'a Judge,
    /// Of all frames; `presence` as a probability.
    seen: Logits,
    pairs: Tensor, // [T - 1, 32]
}

impl JudgeOutput<'_> {
    /// The [`EMBEDDING`] numbers of each frame.
    pub fn embeddings(&self) -> Result<Vec<Vec<f32>>> {
        self.seen.embedding.to_vec2()
    }

    /// By frame of a range, whether it shows all that is asked of colour, shape, place and time of day; none where nothing is.
    pub fn shows(&self, frames: Range<usize>, asked: &CaptionFacts) -> Result<Option<Vec<bool>>> {
        let questions: [(Option<&str>, &[&str], &Tensor); 4] = [
            (asked.colour, &COLOURS, &self.seen.colour),
            (asked.shape, &SHAPES, &self.seen.shape),
            (asked.place, &PLACES, &self.seen.place),
            (asked.time, &TIMES, &self.seen.time),
        ];
        let mut shown: Option<Vec<bool>> = None;
        for (asked, words, logits) in questions {
            let Some(word) = asked.and_then(|asked| words.iter().position(|word| *word == asked)) else { continue };
            let best = logits.narrow(0, frames.start, frames.len())?.argmax(D::Minus1)?.to_vec1::<u32>()?;
            let all = shown.get_or_insert_with(|| vec![true; frames.len()]);
            all.iter_mut().zip(best).for_each(|(shown, best)| *shown &= best as usize == word);
        }
        Ok(shown)
    }

    /// What the frames of a range show, as if there were no others. Errors: fewer than two frames, or ones that are not
    /// there.
    pub fn verdict(&self, frames: Range<usize>) -> Result<VideoFindings> {
        let (start, count) = (frames.start, frames.len());
        if count < 2 || frames.end > self.seen.presence.dim(0)? {
            bail!("the judge needs at least 2 frames, there are {count}");
        }
        let of = |x: &Tensor| x.narrow(0, start, count);
        let (presence, bounds) = (of(&self.seen.presence)?, of(&self.seen.bounds)?);
        let weight = (&presence + 1e-4)?;
        let weight = weight.broadcast_div(&weight.sum_all()?)?.unsqueeze(1)?; // [count, 1]
        let of_subject = |logits: &Tensor| softmax_last_dim(&of(logits)?.broadcast_mul(&weight)?.sum(0)?);
        let of_scene = |logits: &Tensor| softmax_last_dim(&of(logits)?.mean(0)?);
        let motion = self.judge.moves(&self.pairs.narrow(0, start, count - 1)?, &bounds)?;
        Ok(VideoFindings {
            colour: answer(&COLOURS, &of_subject(&self.seen.colour)?)?,
            shape: answer(&SHAPES, &of_subject(&self.seen.shape)?)?,
            motion: answer(&MOTIONS, &softmax_last_dim(&motion)?)?,
            place: answer(&PLACES, &of_scene(&self.seen.place)?)?,
            time: answer(&TIMES, &of_scene(&self.seen.time)?)?,
            frames: seen(&presence, &bounds, &of(&self.seen.embedding)?, &self.seen.subjects[frames.clone()])?,
        })
    }
}

/// How many places of more than one cell, apart from each other, are believed to lie on a subject.
fn places(belief: &[f32]) -> usize {
    let (rows, columns) = (HEIGHT / CELL, WIDTH / CELL);
    let mut open: Vec<bool> = belief.iter().map(|&logit| logit > 0.0).collect();
    let mut count = 0;
    for first in 0..open.len() {
        let (mut cells, mut waiting) = (0, vec![first]);
        while let Some(cell) = waiting.pop() {
            if !std::mem::take(&mut open[cell]) {
                continue;
            }
            cells += 1;
            let (y, x) = (cell / columns, cell % columns);
            for y in y.saturating_sub(1)..(y + 2).min(rows) {
                waiting.extend((x.saturating_sub(1)..(x + 2).min(columns)).map(|x| y * columns + x));
            }
        }
        count += usize::from(cells > 1);
    }
    count
}

fn convolve(layers: &[Conv2d], x: &Tensor) -> Result<Tensor> {
    layers.iter().try_fold(x.clone(), |x, layer| layer.forward(&x)?.relu())
}

/// Start and length of the windows in which the motion of a video is judged.
fn windows(frames: usize) -> Vec<(usize, usize)> {
    if frames <= WINDOW {
        return vec![(0, frames)];
    }
    let last = frames - WINDOW;
    let mut starts: Vec<usize> = (0..=last).step_by(STRIDE).collect();
    if starts.last() != Some(&last) {
        starts.push(last);
    }
    starts.into_iter().map(|start| (start, WINDOW)).collect()
}

/// Appends one plane at 96 x 144: each new pixel is the mean of the pixels it overlaps.
fn resize(into: &mut Vec<f32>, height: usize, width: usize, at: impl Fn(usize, usize) -> f32) -> Result<()> {
    if height == 0 || width == 0 {
        bail!("a frame of {width}x{height} pixels cannot be judged");
    }
    if (height, width) == (HEIGHT, WIDTH) {
        into.extend((0..HEIGHT * WIDTH).map(|i| at(i / WIDTH, i % WIDTH)));
        return Ok(());
    }
    let span = |i: usize, from: usize, to: usize| i * from / to..((i + 1) * from).div_ceil(to);
    for y in 0..HEIGHT {
        let rows = span(y, height, HEIGHT);
        for x in 0..WIDTH {
            let columns = span(x, width, WIDTH);
            let sum: f32 = rows.clone().flat_map(|y| columns.clone().map(move |x| (y, x))).map(|(y, x)| at(y, x)).sum();
            into.push(sum / (rows.len() * columns.len()) as f32);
        }
    }
    Ok(())
}

fn answer(words: &[&'static str], probabilities: &Tensor) -> Result<Answer> {
    let probabilities = probabilities.to_vec1::<f32>()?;
    let best = words.iter().zip(&probabilities).max_by(|a, b| a.1.total_cmp(b.1));
    let Some((&label, &probability)) = best else { bail!("a question without answers") };
    Ok(Answer { label, probability, probabilities })
}

/// `presence` `[T]`, `bounds` `[T, 4]` as centre and size, `embedding` `[T, 64]`.
fn seen(presence: &Tensor, bounds: &Tensor, embedding: &Tensor, subjects: &[usize]) -> Result<Vec<FrameFindings>> {
    let (centre, half) = (bounds.narrow(1, 0, 2)?, (bounds.narrow(1, 2, 2)? / 2.0)?);
    let corners = Tensor::cat(&[(&centre - &half)?, (centre + half)?], 1)?.to_vec2::<f32>()?;
    let (presence, embedding) = (presence.to_vec1::<f32>()?, embedding.to_vec2::<f32>()?);
    let frames = corners.into_iter().zip(presence).zip(embedding).zip(subjects);
    Ok(frames
        .map(|(((corners, presence), embedding), &subjects)| {
            let mut bounds = [0.0; 4];
            bounds.copy_from_slice(&corners);
            FrameFindings { bounds, presence, subjects, embedding }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_every_frame_and_are_no_longer_than_a_look() {
        for frames in [2, 13, 16, 17, 24, 49, 97, 600] {
            let mut seen = vec![false; frames];
            for (start, length) in windows(frames) {
                assert!(length <= WINDOW);
                seen[start..start + length].fill(true);
            }
            assert!(seen.iter().all(|&seen| seen), "{frames}");
        }
        assert_eq!(windows(49), [(0, 16), (8, 16), (16, 16), (24, 16), (32, 16), (33, 16)]);
    }

    #[test]
    fn resizing_keeps_means_and_repeats_upwards() {
        let mut small = Vec::new();
        resize(&mut small, 2, 3, |y, x| (y * 3 + x) as f32).unwrap();
        assert_eq!(small.len(), HEIGHT * WIDTH);
        assert_eq!((small[0], small[47 * WIDTH + 47], small[48 * WIDTH + 48]), (0.0, 0.0, 4.0));
        let mut large = Vec::new();
        resize(&mut large, 2 * HEIGHT, 3 * WIDTH, |y, x| ((y + x) % 6) as f32).unwrap();
        let mean = large.iter().sum::<f32>() / large.len() as f32;
        assert!((mean - 2.5).abs() < 1e-3, "{mean}");
        assert!(resize(&mut large, 0, 3, |_, _| 0.0).is_err());
    }

    #[test]
    fn what_cannot_be_judged_is_refused() {
        let judge = Judge::embedded(&Device::Cpu).unwrap();
        let frame = |width: usize, bytes: usize| Frame { width, height: 2, data: vec![0; bytes] };
        for frames in [vec![], vec![frame(4, 24)], vec![frame(4, 24), frame(4, 23)], vec![frame(0, 0), frame(0, 0)]] {
            assert!(judge.judge(&frames).is_err(), "{frames:?}");
        }
        assert!(judge.judge(&[frame(4, 24), frame(4, 24)]).is_ok());
    }

    #[test]
    fn a_part_of_a_video_is_judged_as_if_it_were_alone() {
        let judge = Judge::embedded(&Device::Cpu).unwrap();
        let byte = |t: usize, i: usize| ((t * t * 3 + i * 7) % 251) as u8;
        let frame = |t: usize| Frame { width: 36, height: 24, data: (0..36 * 24 * 3).map(|i| byte(t, i)).collect() };
        let frames: Vec<Frame> = (0..2 * BATCH + 5).map(frame).collect();
        let mut viewing = judge.view();
        frames.iter().for_each(|frame| viewing.push(frame).unwrap());
        let viewed = viewing.end().unwrap();
        // across two batches
        let range = BATCH - 3..2 * BATCH + 2;
        let (part, alone) = (viewed.verdict(range.clone()).unwrap(), judge.judge(&frames[range]).unwrap());
        let numbers = |verdict: &VideoFindings| -> Vec<f32> {
            let answers = [&verdict.colour, &verdict.shape, &verdict.motion, &verdict.place, &verdict.time];
            let answers = answers.into_iter().flat_map(|answer| answer.probabilities.clone());
            answers.chain(verdict.frames.iter().flat_map(|seen| seen.embedding.clone())).collect()
        };
        for (got, want) in numbers(&part).iter().zip(numbers(&alone)) {
            assert!((got - want).abs() <= 1e-5, "{got} {want}");
        }
        assert!(viewed.verdict(0..2 * BATCH + 6).is_err() && viewed.verdict(3..4).is_err());
        assert_eq!(viewed.embeddings().unwrap().len(), frames.len());
    }

    #[test]
    fn frames_and_tensors_are_judged_alike() {
        let judge = Judge::embedded(&Device::Cpu).unwrap();
        let (width, height) = (36, 24);
        let byte = |t: usize, i: usize| ((t * 31 + i * 7) % 251) as u8;
        let frames: Vec<Frame> = (0..3)
            .map(|t| Frame { width, height, data: (0..width * height * 3).map(|i| byte(t, i)).collect() })
            .collect();
        let mut values = Vec::new();
        for frame in &frames {
            for channel in 0..3 {
                values.extend(frame.data.iter().skip(channel).step_by(3).map(|&v| f32::from(v) / 127.5 - 1.0));
            }
        }
        let video = Tensor::from_vec(values, (3, 3, height, width), &Device::Cpu).unwrap();
        assert_eq!(judge.judge(&frames).unwrap(), judge.judge_tensor(&video).unwrap());
    }
}
