//! One video through all metrics, frame by frame: what is kept of a frame that has passed is some hundred bytes.

use super::clip::{BATCH, ClipEmbedder, ClipFeatures};
use super::faces::{Faces, alike, reidentification};
use super::frames::{cosine, cscv, deviation, difference, flicker, mean, psnr, seam, squared_error, ssim};
use super::judge::{Judge, JudgeOutput, JudgeStream, VideoFindings};
use super::layout::Layout;
use super::motion;
use super::perceptual::{Perceptual, TOO_SMALL};
use super::report::{Evaluation, FrameComparison, JudgedQuestion, Metric, PerFrame, Requirement, Scene};
use super::scene_cuts::SceneCuts;
use super::toyland::{CaptionFacts, HEIGHT, WIDTH, asked};
use super::warping::{self, FlowSource, Warped};
use crate::interpolation::Interpolator;
use crate::models::NotFinite;
use crate::models::lpips::{Features, LEAST_SIDE};
use crate::video::Frame;
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

/// The networks that metrics ask, loaded once for all videos.
#[derive(Default)]
pub struct Evaluator {
    pub clip: Option<ClipEmbedder>,
    pub judge: Option<Judge>,
    pub lpips: Option<Perceptual>,
    /// Predicts the frames that motion smoothness compares, in place of block matching.
    pub rife: Option<Interpolator>,
    pub faces: Option<Faces>,
    /// By which frames are warped onto the next.
    pub flow: Option<FlowSource>,
}

/// What is known of a video beside its frames.
#[derive(Debug, Clone)]
pub struct Story {
    pub prompts: Vec<String>,
    /// Or why it is not known.
    pub layout: Result<Layout, String>,
}

const NO_WINDOWS: &str = "the video has no record of its windows";

impl Evaluator {
    /// Evaluates frames of one size. `file` is its name in the result. Errors: those of the frames, of the networks, and a video
    /// without a frame.
    pub fn evaluate(
        &self,
        file: &str,
        frames: &mut dyn Iterator<Item = Result<Frame>>,
        story: &Story,
        per_frame: bool,
    ) -> Result<Evaluation> {
        let mut passing = VideoPass::new(self, story)?;
        let (mut count, mut size) = (0, (0, 0));
        for frame in frames {
            let frame = frame?;
            ensure!(!frame.data.is_empty(), "frame {count} is empty");
            if count == 0 {
                size = (frame.width, frame.height);
            }
            ensure!((frame.width, frame.height) == size, "frame {count} has another size than those before");
            passing.push(frame)?;
            count += 1;
        }
        ensure!(count > 0, "no frames in it");
        passing.end(file, count, size, per_frame)
    }
}

/// A video while its frames are evaluated.
struct VideoPass<'a> {
    story: &'a Story,
    clip: Option<Clip<'a>>,
    viewing: Option<JudgeStream<'a>>,
    /// The last frames, at most three.
    last: VecDeque<Frame>,
    count: usize,
    differences: Vec<f64>,
    errors: Vec<f64>,
    lpips: Option<Neighbours<'a>>,
    rife: Option<&'a Interpolator>,
    /// Of neighbours, with it.
    flows: Vec<f64>,
    faces: Option<Persons<'a>>,
    cuts: SceneCuts,
    warping: Option<&'a FlowSource>,
    warped: Vec<warping::Pair>,
}

/// Whose faces are seen.
struct Persons<'a> {
    networks: &'a Faces,
    before: Option<Vec<Vec<f32>>>,
    with_faces: usize,
    pairs: Vec<f64>,
}

/// What LPIPS sees.
struct Neighbours<'a> {
    network: &'a Perceptual,
    before: Option<Features>,
    distances: Vec<f64>,
}

/// What CLIP sees.
struct Clip<'a> {
    embedder: &'a ClipEmbedder,
    /// By prompt.
    texts: Vec<Vec<f32>>,
    /// What it has yet to look at.
    waiting: Vec<Vec<u8>>,
    before: Option<ClipFeatures>,
    similarities: Vec<f64>,
    /// Cosine with the frame's own prompt; none for frames of none.
    fits: Vec<Option<f64>>,
    warnings: Vec<String>,
}

impl<'a> VideoPass<'a> {
    fn new(evaluator: &'a Evaluator, story: &'a Story) -> Result<Self> {
        let clip = evaluator.clip.as_ref().map(|embedder| Clip::new(embedder, story)).transpose()?;
        Ok(Self {
            story,
            clip,
            viewing: evaluator.judge.as_ref().map(Judge::view),
            last: VecDeque::with_capacity(3),
            count: 0,
            differences: Vec::new(),
            errors: Vec::new(),
            lpips: evaluator.lpips.as_ref().map(|network| Neighbours { network, before: None, distances: Vec::new() }),
            rife: evaluator.rife.as_ref(),
            flows: Vec::new(),
            faces: evaluator.faces.as_ref().map(Persons::new),
            cuts: SceneCuts::default(),
            warping: evaluator.flow.as_ref(),
            warped: Vec::new(),
        })
    }

    fn push(&mut self, frame: Frame) -> Result<()> {
        if let Some(viewing) = &mut self.viewing {
            viewing.push(&frame)?;
        }
        if let Some(clip) = &mut self.clip {
            clip.push(&frame, self.story)?;
        }
        if let Some(lpips) = &mut self.lpips {
            lpips.push(&frame)?;
        }
        if let Some(persons) = &mut self.faces {
            persons.push(&frame)?;
        }
        self.cuts.push(&frame);
        if let Some(before) = self.last.back() {
            if let Some(source) = self.warping {
                self.warped.push(warping::pair(source, self.warped.len(), before, &frame)?);
            }
            self.differences.push(difference(before, &frame));
            if let Some(network) = self.rife {
                self.flows.push(network.flow(before, &frame)?);
            }
        }
        if self.last.len() == 3 {
            self.last.pop_front();
        }
        self.last.push_back(frame);
        self.count += 1;
        // even frames stay, odd ones are made of their neighbours
        if self.count >= 3 && self.count % 2 == 1 {
            let (before, middle, after) = (&self.last[0], &self.last[1], &self.last[2]);
            self.errors.push(match self.rife {
                Some(network) => difference(&network.middle(before, after)?, middle),
                None => motion::error(before, middle, after),
            });
        }
        Ok(())
    }

    fn end(mut self, file: &str, count: usize, (width, height): (usize, usize), per_frame: bool) -> Result<Evaluation> {
        if let Some(clip) = &mut self.clip {
            clip.look(self.story)?;
        }
        let layout = match &self.story.layout {
            Ok(layout) if layout.frames != count => {
                Err(format!("the record speaks of {} frames, the video has {count}", layout.frames))
            }
            layout => layout.clone(),
        };
        let mut scenes: Vec<Scene> = layout
            .iter()
            .flat_map(|layout| &layout.scenes)
            .map(|span| Scene {
                prompt: self.story.prompts[span.prompt].clone(),
                frames: (span.frames.start, span.frames.end),
                text_image: None,
                judge: BTreeMap::new(),
            })
            .collect();
        let mut out = MetricValues::default();
        out.set(Metric::Flicker, flicker(&self.differences), "one frame has no neighbour");
        out.set(Metric::MotionSmoothness, motion::smoothness(&self.errors), "fewer than three frames");
        out.seams(&self.differences, &layout);
        out.set(Metric::Scuts, Some(self.cuts.cuts().len() as f64), "");
        if let Some(source) = self.warping {
            source.covers(count)?;
            out.warped(warping::summed(&self.warped));
        }

        if let Some(lpips) = &self.lpips {
            let why = if width.min(height) < LEAST_SIDE { TOO_SMALL } else { "one frame has no neighbour" };
            out.set(Metric::LpipsNeighbours, mean(&lpips.distances), why);
        }

        if self.rife.is_some() {
            out.set(Metric::Flow, mean(&self.flows), "one frame has no neighbour");
            out.set(Metric::FlowDeviation, deviation(&self.flows), "one frame has no neighbour");
        }

        if let Some(persons) = &self.faces {
            let score = reidentification(&persons.pairs, persons.with_faces);
            let why = if persons.pairs.is_empty() { "one frame has no neighbour" } else { "no frame shows a face" };
            out.set(Metric::Reidentification, score, why);
        }

        let (mut similarities, mut warnings) = (None, Vec::new());
        if let Some(clip) = self.clip {
            if scenes.is_empty() {
                let why = layout.as_ref().err().map_or("no frame belongs to a prompt", String::as_str);
                out.absent.insert(Metric::TextImage, why.to_owned());
            } else {
                for scene in &mut scenes {
                    let fits: Vec<f64> = clip.fits[scene.frames.0..scene.frames.1].iter().copied().flatten().collect();
                    scene.text_image = mean(&fits);
                }
                let fits: Vec<f64> = clip.fits.iter().copied().flatten().collect();
                out.set(Metric::TextImage, mean(&fits), "no frame belongs to a prompt");
            }
            warnings = clip.warnings;
            similarities = Some(clip.similarities);
        }
        if let Some(viewing) = self.viewing {
            if count < 2 {
                out.absent.extend(of_judge().map(|metric| (metric, "fewer than two frames".to_owned())));
            } else {
                let neighbours = out.viewed(&viewing.end()?, count, &mut scenes, &layout)?;
                similarities.get_or_insert(neighbours);
            }
        }
        if let Some(similarities) = &similarities {
            out.set(Metric::Cscv, cscv(similarities), "one frame has no neighbour");
        }
        out.needs();
        let per_frame = per_frame.then(|| PerFrame {
            difference: self.differences,
            similarity: similarities.unwrap_or_default(),
            interpolation_error: self.errors,
            lpips: self.lpips.map(|lpips| lpips.distances).unwrap_or_default(),
            flow: self.flows,
            faces: self.faces.map(|persons| persons.pairs).unwrap_or_default(),
        });
        let MetricValues { metrics, absent } = out;
        Ok(Evaluation {
            file: file.to_owned(),
            frames: count,
            width,
            height,
            metrics,
            absent,
            scenes,
            warnings,
            per_frame,
            against: None,
        })
    }
}

impl<'a> Persons<'a> {
    fn new(networks: &'a Faces) -> Self {
        Self { networks, before: None, with_faces: 0, pairs: Vec::new() }
    }

    fn push(&mut self, frame: &Frame) -> Result<()> {
        let now = self.networks.look(frame)?;
        self.with_faces += usize::from(!now.is_empty());
        if let Some(before) = &self.before {
            self.pairs.push(alike(before, &now));
        }
        self.before = Some(now);
        Ok(())
    }
}

impl Neighbours<'_> {
    fn push(&mut self, frame: &Frame) -> Result<()> {
        let Some(now) = self.network.look(frame)? else { return Ok(()) };
        if let Some(before) = &self.before {
            self.distances.push(self.network.distance(before, &now)?);
        }
        self.before = Some(now);
        Ok(())
    }
}

impl<'a> Clip<'a> {
    fn new(embedder: &'a ClipEmbedder, story: &Story) -> Result<Self> {
        let (mut texts, mut warnings) = (Vec::new(), Vec::new());
        for (index, prompt) in story.prompts.iter().enumerate() {
            let (text, cut) = embedder.text(prompt).with_context(|| format!("prompt {}", index + 1))?;
            if cut {
                warnings.push(format!("prompt {} is longer than CLIP reads: its end is left out", index + 1));
            }
            texts.push(text);
        }
        let (similarities, fits) = (Vec::new(), Vec::new());
        Ok(Self { embedder, texts, waiting: Vec::new(), before: None, similarities, fits, warnings })
    }

    fn push(&mut self, frame: &Frame, story: &Story) -> Result<()> {
        self.waiting.push(self.embedder.square(frame)?);
        if self.waiting.len() == BATCH { self.look(story) } else { Ok(()) }
    }

    fn look(&mut self, story: &Story) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        for look in self.embedder.look(&std::mem::take(&mut self.waiting))? {
            let prompt = story.layout.as_ref().ok().and_then(|layout| layout.prompt(self.fits.len()));
            self.fits.push(prompt.map(|prompt| cosine(&look.projected, &self.texts[prompt])));
            if let Some(before) = self.before.replace(look) {
                let now = self.before.as_ref().map_or(&[][..], |look| &look.pooled);
                self.similarities.push(cosine(&before.pooled, now));
            }
        }
        Ok(())
    }
}

/// Metrics, and why others are not there.
#[derive(Default)]
struct MetricValues {
    metrics: BTreeMap<Metric, f64>,
    absent: BTreeMap<Metric, String>,
}

/// Frames on each side of the border of two scenes that are looked at: a second and a half.
const AROUND: usize = 12;

/// Height of a frame of the world in its widths.
const ASPECT: f64 = HEIGHT as f64 / WIDTH as f64;

fn of_judge() -> impl Iterator<Item = Metric> {
    Metric::ALL.into_iter().filter(|metric| metric.needs() == Requirement::Judge)
}

impl MetricValues {
    fn set(&mut self, metric: Metric, value: Option<f64>, why: &str) {
        match value {
            Some(value) => drop(self.metrics.insert(metric, value)),
            None => drop(self.absent.insert(metric, why.to_owned())),
        }
    }

    fn warped(&mut self, warped: Option<Warped>) {
        const ONE: &str = "one frame has no neighbour";
        let still = if warped.is_some() { "nothing moves" } else { ONE };
        self.set(Metric::WarpError, warped.map(|warped| warped.error), ONE);
        self.set(Metric::FlowMean, warped.map(|warped| warped.motion), ONE);
        self.set(Metric::Mawe, warped.and_then(|warped| warped.mawe), still);
        self.set(Metric::MawePaper, warped.and_then(|warped| warped.mawe_paper), still);
    }

    fn seams(&mut self, differences: &[f64], layout: &Result<Layout, String>) {
        let (seam, why) = match layout {
            Ok(layout) if layout.seams.is_empty() && layout.others.is_empty() => (None, NO_WINDOWS),
            Ok(layout) if layout.seams.is_empty() => (None, "one window has no seam"),
            Ok(layout) => (seam(differences, layout), "windows meet at every latent frame: nothing to compare with"),
            Err(why) => (None, why.as_str()),
        };
        self.set(Metric::Seam, seam.map(|seam| seam.mean), why);
        self.set(Metric::WorstSeam, seam.map(|seam| seam.worst), why);
    }

    /// What the judge says of a video and of its scenes. Returns how alike neighbouring frames look to it.
    fn viewed(
        &mut self,
        viewed: &JudgeOutput,
        count: usize,
        scenes: &mut [Scene],
        layout: &Result<Layout, String>,
    ) -> Result<Vec<f64>> {
        let looks = viewed.embeddings()?;
        ensure!(looks.iter().flatten().all(|x| x.is_finite()), NotFinite("the judge"));
        let neighbours = looks.windows(2).map(|pair| cosine(&pair[0], &pair[1])).collect();
        let whole = viewed.verdict(0..count)?;
        self.set(Metric::Present, Some(whole.present()), "");
        self.borders(&whole, scenes);
        let mut counted = AnswerCounts::default();
        let mut shown = (0, 0);
        for scene in scenes.iter() {
            let shows = viewed.shows(scene.frames.0..scene.frames.1, &asked(&scene.prompt))?.unwrap_or_default();
            shown = (shown.0 + shows.iter().filter(|&&shows| shows).count(), shown.1 + shows.len());
        }
        let timing = (shown.1 > 0).then(|| shown.0 as f64 / shown.1 as f64);
        self.set(Metric::Timing, timing, "no frame belongs to a prompt in Toyland's words");
        for scene in scenes.iter_mut().filter(|scene| scene.frames.1 - scene.frames.0 >= 2) {
            let verdict = viewed.verdict(scene.frames.0..scene.frames.1)?;
            scene.judge = counted.compare(&asked(&scene.prompt), &verdict);
        }
        self.judged(&counted, layout.as_ref().err());
        Ok(neighbours)
    }

    /// What happens to the subject around the borders of scenes.
    fn borders(&mut self, whole: &VideoFindings, scenes: &[Scene]) {
        let (count, mut around) = (whole.frames.len(), Vec::new());
        for pair in scenes.windows(2) {
            let (from, to) = (pair[0].frames.1.saturating_sub(AROUND), (pair[1].frames.0 + AROUND).min(count));
            around.push(from.min(to)..to);
        }
        let frames: BTreeSet<usize> = around.iter().flat_map(|frames| frames.clone()).collect();
        let two = frames.iter().filter(|&&frame| whole.frames[frame].subjects > 1).count();
        let centre = |frame: usize| {
            let [left, top, right, bottom] = whole.frames[frame].bounds;
            (f64::from(left + right) / 2.0, f64::from(top + bottom) / 2.0 * ASPECT)
        };
        let apart = |frame: usize| {
            let (a, b) = (centre(frame - 1), centre(frame));
            (a.0 - b.0).hypot(a.1 - b.1)
        };
        let jump = |frames: &Range<usize>| frames.clone().skip(1).map(apart).fold(0.0, f64::max);
        let jumps: Vec<f64> = around.iter().map(jump).collect();
        const WHY: &str = "one scene has no border";
        self.set(Metric::TwoSubjects, (!frames.is_empty()).then(|| two as f64 / frames.len() as f64), WHY);
        self.set(Metric::SubjectJump, mean(&jumps), WHY);
    }

    fn judged(&mut self, counted: &AnswerCounts, no_layout: Option<&String>) {
        let why = no_layout.map_or("the prompts do not speak of it in Toyland's words", String::as_str);
        let share = |(right, all): (usize, usize)| (all > 0).then(|| right as f64 / all as f64);
        let sum = counted.0.iter().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
        self.set(Metric::Judge, share(sum), why);
        let questions =
            [Metric::JudgeColour, Metric::JudgeShape, Metric::JudgeMotion, Metric::JudgePlace, Metric::JudgeTime];
        for (metric, count) in questions.into_iter().zip(counted.0) {
            self.set(metric, share(count), why);
        }
    }

    /// Says of everything that is not there yet what it needs.
    fn needs(&mut self) {
        for metric in Metric::ALL {
            let needs = match metric.needs() {
                Requirement::Nothing | Requirement::Reference | Requirement::PerceptualReference => continue,
                Requirement::Embedder => "an embedder: --clip FOLDER, or --judge toyland for videos of Toyland",
                Requirement::Clip => "CLIP: --clip FOLDER",
                Requirement::Perceptual => "the network of LPIPS: --lpips FILE, or make metrics once",
                Requirement::Interpolator => "the network of RIFE: --rife FILE, or make metrics once",
                Requirement::Flow => "the flow from frame to frame: --flow builtin, or --flow FILE",
                Requirement::Faces => "the networks of faces: --faces FILE, or make metrics once",
                Requirement::Judge => "--judge toyland, for videos of Toyland",
            };
            if !self.metrics.contains_key(&metric) {
                self.absent.entry(metric).or_insert_with(|| format!("needs {needs}"));
            }
        }
    }
}

/// Right answers and all, by question: colour, shape, motion, place, time.
#[derive(Default)]
struct AnswerCounts([(usize, usize); 5]);

impl AnswerCounts {
    fn compare(&mut self, asked: &CaptionFacts, verdict: &VideoFindings) -> BTreeMap<String, JudgedQuestion> {
        let questions = [
            ("colour", asked.colour, &verdict.colour),
            ("shape", asked.shape, &verdict.shape),
            ("motion", asked.motion, &verdict.motion),
            ("place", asked.place, &verdict.place),
            ("time", asked.time, &verdict.time),
        ];
        let mut judged = BTreeMap::new();
        for ((name, asked, answer), count) in questions.into_iter().zip(&mut self.0) {
            if let Some(asked) = asked {
                count.0 += usize::from(asked == answer.label);
                count.1 += 1;
            }
            let (asked, seen) = (asked.map(str::to_owned), answer.label.to_owned());
            judged.insert(name.to_owned(), JudgedQuestion { asked, seen, probability: answer.probability });
        }
        judged
    }
}

/// Two videos frame by frame, as far as both go, with LPIPS where its network is given. Errors: those of the frames, and sizes that differ.
pub fn frame_by_frame(
    a: &mut dyn Iterator<Item = Result<Frame>>,
    b: &mut dyn Iterator<Item = Result<Frame>>,
    lpips: Option<&Perceptual>,
    keep: bool,
) -> Result<FrameComparison> {
    let (mut errors, mut similar, mut distances) = (Vec::new(), Vec::new(), Vec::new());
    while let (Some(a), Some(b)) = (a.next().transpose()?, b.next().transpose()?) {
        ensure!((a.width, a.height) == (b.width, b.height), "the sizes differ");
        errors.push(squared_error(&a, &b));
        similar.push(ssim(&a, &b));
        if let Some(network) = lpips
            && let (Some(a), Some(b)) = (network.look(&a)?, network.look(&b)?)
        {
            distances.push(network.distance(&a, &b)?);
        }
    }
    let whole = mean(&errors).context("no frames in it")?;
    let of_frames: Vec<f64> = similar.iter().copied().flatten().collect();
    Ok(FrameComparison {
        count: errors.len(),
        identical: whole == 0.0,
        psnr: psnr(whole),
        ssim: mean(&of_frames),
        psnr_by_frame: if keep { errors.iter().map(|&error| psnr(error)).collect() } else { Vec::new() },
        ssim_by_frame: if keep { similar } else { Vec::new() },
        lpips: mean(&distances),
        lpips_by_frame: if keep { distances } else { Vec::new() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: (usize, usize) = (48, 32);

    /// A textured picture that moves to the right; `scene` is another texture.
    fn frame(shift: usize, scene: usize) -> Result<Frame> {
        let (width, height) = SIZE;
        let level = |i: usize| {
            let (x, y, c) = ((i / 3 % width + 200 - shift) as f64, (i / 3 / width) as f64, (i % 3) as f64);
            let scene = 1.0 + scene as f64;
            (128.0 + 55.0 * (x * 0.31 * scene + c).sin() + 55.0 * (y * 0.47 + x * 0.2 + scene * 9.0).cos()) as u8
        };
        Ok(Frame { width, height, data: (0..width * height * 3).map(level).collect() })
    }

    /// 17 frames in two windows of three latent frames each that meet before frame 9; others begin at 1, 5 and 13.
    fn story() -> Story {
        let layout = Layout { frames: 17, seams: vec![9], others: vec![1, 5, 13], ..Layout::even(17, 2) };
        Story { prompts: vec!["a red ball rests".into(), "a red ball in the snow".into()], layout: Ok(layout) }
    }

    fn evaluate(frames: Vec<Result<Frame>>) -> Evaluation {
        let evaluator = Evaluator {
            clip: None,
            judge: Some(Judge::embedded(&candle_core::Device::Cpu).unwrap()),
            ..Evaluator::default()
        };
        evaluator.evaluate("x", &mut frames.into_iter(), &story(), true).unwrap()
    }

    #[test]
    fn a_constant_video_is_perfect_and_has_neutral_seams() {
        let got = evaluate((0..17).map(|_| frame(0, 0)).collect()).metrics;
        for metric in [Metric::Cscv, Metric::Flicker, Metric::MotionSmoothness, Metric::Seam, Metric::WorstSeam] {
            assert!((got[&metric] - 1.0).abs() < 1e-6, "{metric}: {}", got[&metric]);
        }
    }

    #[test]
    fn a_cut_at_a_seam_shows_in_the_seam_and_elsewhere_does_not() {
        let moving = evaluate((0..17).map(|t| frame(t, 0)).collect()).metrics;
        assert!((moving[&Metric::Seam] - 1.0).abs() < 0.1, "{}", moving[&Metric::Seam]);
        let cut = evaluate((0..17).map(|t| frame(t, usize::from(t >= 9))).collect()).metrics;
        assert!(cut[&Metric::Seam] > 2.0 * moving[&Metric::Seam], "{}", cut[&Metric::Seam]);
        let elsewhere = evaluate((0..17).map(|t| frame(t, usize::from(t >= 5))).collect()).metrics;
        assert!(elsewhere[&Metric::Seam] < 1.0, "{}", elsewhere[&Metric::Seam]);
        assert!(cut[&Metric::Flicker] < moving[&Metric::Flicker]);
        assert!(cut[&Metric::Cscv] < moving[&Metric::Cscv]);
    }

    #[test]
    fn shuffled_frames_are_less_smooth() {
        let smooth = evaluate((0..17).map(|t| frame(t, 0)).collect()).metrics;
        let shuffled = evaluate((0..17).map(|t| frame(t * 7 % 17, 0)).collect()).metrics;
        assert!(shuffled[&Metric::MotionSmoothness] < smooth[&Metric::MotionSmoothness] - 0.01);
        assert!(shuffled[&Metric::Flicker] < smooth[&Metric::Flicker]);
    }

    #[test]
    fn what_cannot_be_said_is_explained() {
        let one = evaluate(vec![frame(0, 0)]);
        assert_eq!(one.metrics, BTreeMap::from([(Metric::Scuts, 0.0)]));
        assert!(one.absent[&Metric::Seam].contains("speaks of 17 frames, the video has 1"));
        assert!(one.absent[&Metric::Judge].contains("two frames"));
        let all = evaluate((0..17).map(|t| frame(t, 0)).collect());
        let absent = [
            Metric::TextImage,
            Metric::JudgeTime,
            Metric::LpipsNeighbours,
            Metric::Flow,
            Metric::FlowDeviation,
            Metric::Reidentification,
            Metric::WarpError,
            Metric::FlowMean,
            Metric::Mawe,
            Metric::MawePaper,
        ];
        assert_eq!(all.absent.keys().copied().collect::<Vec<_>>(), absent);
        assert_eq!(all.scenes[0].judge["motion"].asked.as_deref(), Some("still"));
        assert_eq!(all.scenes[0].judge["place"].asked, None);
        let lists = all.per_frame.unwrap();
        assert_eq!((lists.difference.len(), lists.similarity.len(), lists.interpolation_error.len()), (16, 16, 8));
        let plain = Evaluator::default();
        let story = Story { prompts: Vec::new(), layout: Err("nothing known".into()) };
        let bare = plain.evaluate("x", &mut (0..4).map(|t| frame(t, 0)), &story, false).unwrap();
        let there = [Metric::MotionSmoothness, Metric::Flicker, Metric::Scuts];
        assert_eq!(bare.metrics.keys().copied().collect::<Vec<_>>(), there);
        assert!(bare.absent[&Metric::Cscv].contains("--clip"));
        assert_eq!(bare.absent[&Metric::Seam], "nothing known");
        assert!(plain.evaluate("x", &mut std::iter::empty(), &story, false).is_err());
    }

    #[test]
    fn videos_are_compared_as_far_as_both_go() {
        let frames = |count: usize, shift: usize| (0..count).map(move |t| frame(t + shift, 0));
        let same = frame_by_frame(&mut frames(4, 0), &mut frames(3, 0), None, true).unwrap();
        assert_eq!((same.count, same.identical, same.psnr), (3, true, None));
        assert!((same.ssim.unwrap() - 1.0).abs() < 1e-9);
        assert_eq!(same.psnr_by_frame, [None; 3]);
        let moved = frame_by_frame(&mut frames(4, 0), &mut frames(4, 1), None, false).unwrap();
        assert!(!moved.identical && moved.psnr.unwrap() < 40.0 && moved.ssim.unwrap() < 0.999);
        let other = Frame { width: 2, height: 1, data: vec![0; 6] };
        assert!(frame_by_frame(&mut frames(1, 0), &mut std::iter::once(Ok(other)), None, false).is_err());
    }
}
