//! Going on from a given video: its end becomes latent frames at the start of the timeline, which the loop leaves as they
//! are, and its frames come before the new ones.
//!
//! The encoder's most likely latents are taken (the mean of what it says), times the scaling factor, so nothing is drawn at
//! random. The new frames are decoded together with the latents before them, whose own frames are dropped: the decoder is
//! causal and sees what it would see in the middle of a video.

use super::encode::Encoder;
use super::footage;
use super::known::Known;
use crate::job::{Segment, SourceKind, SourceVideo, Stage};
use crate::run::{Code, Failure, Manifest, Observer, WithCode};
use crate::video::{self, Frame, Limits};
use crate::weights::read_tensors;
use anyhow::{Context as _, Result, ensure};
use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use std::ops::Range;

/// What a run knows of the video that it continues.
#[derive(Debug, Clone)]
pub struct Context {
    /// The source latent frames before those that the run looks at, `[F, C, H, W]`; only where latents were source.
    earlier: Option<Tensor>,
    /// Those it looks at.
    latents: Tensor,
}

impl Context {
    pub fn new(earlier: Option<Tensor>, latents: Tensor) -> Self {
        Self { earlier, latents }
    }

    /// The known frames of a timeline.
    pub fn known(&self, segment: &Segment, device: &Device) -> Result<Known> {
        Known::noised(segment.padding, self.latents.to_device(device)?)
    }

    /// A denoised timeline with the source latents before it, as far as they are not on it already.
    pub fn before(&self, timeline: Tensor) -> Result<Tensor> {
        Ok(match &self.earlier {
            Some(earlier) => Tensor::cat(&[earlier, &timeline], 0)?,
            None => timeline,
        })
    }

    /// What the record says of it, with the blake3 of the values in hexadecimal.
    fn record(&self, source: &SourceVideo) -> Result<Value> {
        let values = self.latents.flatten_all()?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Ok(json!({
            "video": source.path.to_string_lossy(),
            "frames": source.frames,
            "latent_frames": source.context,
            "only_new": source.only_new,
            "blake3": blake3::hash(&bytes).to_hex().to_string(),
        }))
    }
}

/// Puts what a run knows of the video that it continues into its record.
pub fn note(stage: &Stage, context: Option<&Context>, manifest: &mut Manifest) -> Result<()> {
    if let (Some(context), Some(source)) = (context, &stage.input.source_video) {
        manifest.settings.insert("context".to_owned(), context.record(source)?);
    }
    Ok(())
}

/// What is known of the first frame of a stage.
pub fn first_frame(stage: &Stage, observer: &mut dyn Observer) -> Result<Option<Context>, Failure> {
    let Some(picture) = &stage.input.first_frame else { return Ok(None) };
    Ok(Some(Context::new(None, footage::picture(stage, picture, observer)?)))
}

/// Reads, or encodes, the end of the video that a stage continues.
pub fn context(stage: &Stage, observer: &mut dyn Observer) -> Result<Option<Context>, Failure> {
    let source = stage.input.source_video.as_ref().filter(|_| stage.method.streaming.is_none());
    let Some(source) = source else { return Ok(None) };
    let (earlier, latents) = match source.kind {
        SourceKind::Latents { .. } => read(stage, source).code(Code::Usage)?,
        SourceKind::Video { .. } => (None, encode(stage, source, observer)?),
    };
    let values = latents.flatten_all()?.to_vec1::<f32>()?;
    if !values.iter().all(|value| value.is_finite()) {
        let message = format!("{}: NaN or infinity in its latents: try --dtype f32", source.path.display());
        return Err(Failure::message(Code::Numbers, message));
    }
    Ok(Some(Context::new(earlier, latents)))
}

fn read(stage: &Stage, source: &SourceVideo) -> Result<(Option<Tensor>, Tensor)> {
    let mut tensors = read_tensors(&source.path)?;
    let all = tensors.remove("latents").context("no latents")?.squeeze(0)?; // [F, C, H, W]
    let frames = all.dim(0)?;
    unchanged(stage.rules.video_frames(frames) == source.frames, source)?;
    let split = frames - source.context;
    let earlier = (split > 0).then(|| all.narrow(0, 0, split)).transpose()?;
    Ok((earlier, all.narrow(0, split, source.context)?.contiguous()?))
}

pub fn unchanged(same: bool, source: &SourceVideo) -> Result<()> {
    ensure!(same, "{}: has changed since the run began", source.path.display());
    Ok(())
}

/// `[K, C, H, W]` in f32 on the CPU, scaled.
fn encode(stage: &Stage, source: &SourceVideo, observer: &mut dyn Observer) -> Result<Tensor, Failure> {
    let mut encoder = Encoder::load(stage, observer)?;
    let tail = source.tail(stage.rules.time);
    let frames = frames(stage, source, source.frames - tail..source.frames)?;
    let latents = encoder.encode(frames, tail, "given video", observer)?;
    Ok(latents.with_context(|| format!("{}: has changed since the run began", source.path.display()))?)
}

/// Some frames of the given video in the size of the stage, one by one.
pub fn frames(stage: &Stage, source: &SourceVideo, range: Range<usize>) -> Result<impl Iterator<Item = Result<Frame>>> {
    let (width, height, fit) = (stage.size.width, stage.size.height, source.fit);
    let reader = video::read(&source.path, &Limits::default())?;
    Ok(reader.skip(range.start).take(range.len()).map(move |frame| Ok(frame?.fitted(width, height, fit))))
}

/// Puts the source frames before the new ones, where they belong into the output and are not decoded from latents.
pub fn write_given(stage: &Stage, take: &mut dyn FnMut(Frame) -> Result<()>) -> Result<()> {
    let Some(source) = stage.input.source_video.as_ref().filter(|source| !source.only_new) else { return Ok(()) };
    if let SourceKind::Latents { .. } = source.kind {
        return Ok(());
    }
    let mut written = 0;
    for frame in frames(stage, source, 0..source.frames)? {
        take(frame?)?;
        written += 1;
    }
    unchanged(written == source.frames, source)
}

/// Given latents `[F, C, H, W]` that are decoded by themselves, because no timeline begins with them.
pub fn given_latents(stage: &Stage) -> Result<Option<Tensor>> {
    let source = stage.input.source_video.as_ref().filter(|_| stage.method.streaming.is_some());
    let Some(source) = source.filter(|source| matches!(source.kind, SourceKind::Latents { .. })) else {
        return Ok(None);
    };
    let latents = read_tensors(&source.path)?.remove("latents").context("no latents")?.squeeze(0)?;
    unchanged(stage.rules.video_frames(latents.dim(0)?) == source.frames, source)?;
    Ok(Some(latents))
}

/// Which of the frames that a segment decodes to belong into the output.
pub fn wanted(stage: &Stage, index: usize) -> Range<usize> {
    let Segment { frames, context, .. } = stage.segments[index];
    if stage.method.streaming.is_some() {
        return 0..frames; // what was given is no latents of the segment
    }
    match &stage.input.source_video {
        Some(source) if index == 0 => {
            let (decoded, dropped) = source.decoded(stage.rules.time);
            dropped..decoded + frames
        }
        _ => {
            let known = stage.rules.video_frames(context);
            known..known + frames
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::denoise::{Denoising, Input, Network, NoiseSource, Reporting, Sampling, denoise};
    use super::*;
    use crate::attention::Hooks;
    use crate::guidance::{GuidanceSchedule, Rule};
    use crate::job::Timeline;
    use crate::models::{Denoiser, Row};
    use crate::nn::sdpa::Sdpa;
    use crate::noise::{Noise, Stream};
    use crate::schedulers::{self, ScheduleConfig, Scheduler, SchedulerKind, Table};
    use crate::timeline::{BlendMode, ChunkPlan};
    use candle_core::DType;
    use std::sync::Mutex;

    const SHAPE: (usize, usize, usize) = (2, 3, 4);
    /// A divisor of 1000: with others diffusers' steps do not end at the levels where the next begin.
    const STEPS: usize = 5;

    /// Answers with something that has nothing to do with what is known, and remembers what it was asked about.
    #[derive(Default)]
    struct Witness(Mutex<Vec<Tensor>>);

    impl Denoiser for Witness {
        fn forward(&self, rows: &[Row], _: &mut Hooks) -> candle_core::Result<Vec<Tensor>> {
            self.0.lock().unwrap().push(rows[0].latents.copy()?);
            rows.iter().map(|row| row.latents.sin()? + 0.3).collect()
        }
    }

    fn run(scheduler: Box<dyn Scheduler>, blend: BlendMode, known: Option<&Known>) -> (Tensor, Witness) {
        let witness = Witness::default();
        let text = Tensor::zeros((1, 1), DType::F32, &Device::Cpu).unwrap();
        let timeline = Timeline::output(ChunkPlan::even(&[3], 5, 2, 0));
        let texts = vec![text.clone()];
        let run = Denoising {
            network: Network {
                denoiser: &witness,
                stack: &mut [],
                kernel: Sdpa::default(),
                micro_batch: 2,
                device: &Device::Cpu,
            },
            sampling: Sampling {
                rule: &Rule::classifier_free(GuidanceSchedule::Constant(3.0)),
                table: Table::Diffusers,
                draws: None,
                blend,
                sharing: None,
                noise: &NoiseSource::Seeded(Noise::new(1)),
                shape: SHAPE,
                first: 0,
                until: usize::MAX,
                caching: None,
            },
            timelines: vec![Input {
                timeline: &timeline,
                texts,
                concat: None,
                told: None,
                start: 0,
                known: known.cloned(),
                refined: None,
                scheduler,
            }],
            uncond: &text,
            from: None,
            reporting: Reporting { hook: &mut (), part: 0, steps: (0, 1000), begins: true, after: 0.0 },
        };
        let timeline = denoise(run, &mut ()).unwrap().remove(0);
        (timeline, witness)
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Known frames come out bit for bit, and every window sees them under the noise of the step: with DDIM that is the one
    /// noise they began with.
    #[test]
    fn known_frames_stay_and_are_seen_under_the_right_noise() {
        let (c, h, w) = SHAPE;
        let zero = ScheduleConfig::zero_snr(3.0);
        let some_signal = ScheduleConfig { rescale_betas_zero_snr: false, ..zero.clone() };
        for config in [zero, some_signal] {
            for table in [Table::Diffusers, Table::Sat] {
                for (kind, eta) in
                    [(SchedulerKind::Ddim, 0.0), (SchedulerKind::Ddim, 0.7), (SchedulerKind::Dpmpp2mSde, 0.0)]
                {
                    for blend in [BlendMode::Reference, BlendMode::Paper] {
                        for (start, count) in [(0, 2), (1, 4)] {
                            let latents = Noise::new(7).latents(Stream::Encode, 0..count, 0, SHAPE, &Device::Cpu);
                            let known = Known::noised(start, latents.unwrap()).unwrap();
                            let scheduler = || schedulers::build(&config, kind, table, STEPS, eta).unwrap();
                            let (timeline, witness) = run(scheduler(), blend, Some(&known));
                            assert_eq!(timeline.dims(), [11, c, h, w]);
                            assert_eq!(values(&known.of(&timeline).unwrap()), values(&known.latents));
                            let (free, _) = run(scheduler(), blend, None);
                            assert_ne!(values(&known.of(&free).unwrap()), values(&known.latents));
                            if (kind, eta) != (SchedulerKind::Ddim, 0.0) {
                                continue;
                            }
                            let noise = Noise::new(1).latents(Stream::Initial, 0..11, 0, SHAPE, &Device::Cpu).unwrap();
                            let noise = known.of(&noise).unwrap();
                            let passes = witness.0.into_inner().unwrap();
                            assert_eq!(passes.len(), STEPS * 3);
                            for (pass, row) in passes.iter().enumerate() {
                                let want = scheduler().noised(pass / 3, &known.latents, &noise).unwrap();
                                let window = 3 * (pass % 3)..3 * (pass % 3) + 5;
                                for frame in (start..start + count).filter(|frame| window.contains(frame)) {
                                    let seen = values(&row.get(frame - window.start).unwrap());
                                    let want = values(&want.get(frame - start).unwrap());
                                    let apart = seen.iter().zip(want).map(|(a, b)| (a - b).abs());
                                    let worst = apart.fold(0f32, f32::max);
                                    assert!(worst < 1e-5, "{table} pass {pass} frame {frame}: {worst}");
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
