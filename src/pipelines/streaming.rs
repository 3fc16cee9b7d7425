//! A video made chunk by chunk, each going on from the last frames of the one before as they were decoded (StreamingT2V, arXiv
//! 2403.14773; spec/streamingt2v.md 5). A chunk is denoised, decoded and handed on before the next begins; of what came before
//! only those frames and the anchor's tokens are kept, so memory does not grow with the video.
//!
//! What a resumed run goes on from are the latents of the chunks that are done: decoded again they are the same frames.
//!
//! Differences from the reference: what is seen of the frames before is worked out once a chunk, what follows from the anchor and a
//! prompt once; both halves of guidance go through the networks together; noise belongs to seed, chunk and frame.

use super::checkpoint::Checkpointer;
use super::chunk_noise::ChunkNoise;
use super::control::features;
use super::controls;
use super::decode::{check_bright, to_frames};
use super::denoise::{Denoising, Input, MICRO_BATCH, Network, Reporting, Sampling, denoise};
use super::extend;
use super::footage;
use super::latents::kernel;
use super::loaded::{self, Loaded};
use super::preview::Previewer;
use super::segment::kept;
use super::texts::{Texts, encode};
use crate::attention::{AttentionProcessor, Branch, Hooks, Pass, Row};
use crate::estimate::work;
use crate::job::{Anchor, Job, Stage, Streaming};
use crate::models::architecture::Role;
use crate::models::continuation::Continuation;
use crate::models::{Autoencoder, Denoiser};
use crate::nn::sdpa::Sdpa;
use crate::processors::Residual;
use crate::processors::mix::{Kept, Mix};
use crate::run::{Code, Event, Failure, Observer, Phase, Speed, WithCode, speed};
use crate::timeline::{TextMix, mix};
use crate::video::{self, Frame};
use crate::weights::TensorWriter;
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// Where the frames of a video go as they come, and its latents.
pub struct Sinks<'a> {
    pub frames: &'a mut dyn FnMut(Frame) -> Result<()>,
    pub latents: Option<&'a mut TensorWriter>,
}

/// Makes stage `index` of a job, whose chunks go on from each other. Chunks that are done are decoded again.
pub fn stream(
    job: &Job,
    index: usize,
    loaded: &mut Loaded,
    checkpoints: &mut Checkpointer,
    sinks: &mut Sinks,
    observer: &mut dyn Observer,
) -> Result<(), Failure> {
    let stage = &job.stages[index];
    let streaming = stage.method.streaming.as_ref().context("no chunks")?;
    let noise = ChunkNoise::new(stage, streaming, job.seed).code(Code::Usage)?;
    let texts = encode(stage, &job.machine, observer)?;
    let what = stage.model.architecture.part(Role::Autoencoder).into();
    observer.event(&Event::Phase { phase: Phase::Load, of: 0, what })?;
    let vae = loaded.decoder(stage)?;
    let mut seen = Seen::new(streaming)?;
    given(stage, &*vae, &mut seen, sinks)?;
    let mut run = Run {
        job,
        stage,
        streaming,
        texts: &texts,
        noise: &noise,
        others: None,
        previewer: Previewer::new(job, stage),
        begins: true,
    };
    let mut brightest = 0;
    for index in 0..stage.segments.len() {
        let latents = match checkpoints.chunk(index, observer)? {
            Some(latents) => latents,
            None => {
                let latents = run.chunk(index, &seen, loaded, checkpoints, observer)?;
                checkpoints.latents(index, &latents, observer)?;
                latents
            }
        };
        if let Some(file) = &mut sinks.latents {
            file.push(&latents).code(Code::Failed)?;
        }
        decode(stage, &*vae, &latents, &mut |pixels, frames| {
            seen.take(pixels)?;
            for frame in frames {
                brightest = brightest.max(frame.data.iter().copied().max().unwrap_or(0));
                (sinks.frames)(frame)?;
            }
            Ok(())
        })
        .map_err(fault)?;
    }
    Ok(check_bright(brightest)?)
}

/// A failure of the encoder is one of its own kind.
fn fault(error: anyhow::Error) -> Failure {
    match video::fault(&error) {
        Some(_) => Failure::new(Code::Encoder, error),
        None => error.into(),
    }
}

/// Decodes latents `[F, C, h, w]` a few at a time; `take` gets them from -1 to 1, `[f, 3, H, W]` in f32 on the CPU, and as frames.
fn decode(
    stage: &Stage,
    vae: &dyn Autoencoder,
    latents: &Tensor,
    take: &mut dyn FnMut(&Tensor, Vec<Frame>) -> Result<()>,
) -> Result<()> {
    let (count, _, h, w) = latents.dims4()?;
    let latents = latents.to_device(&stage.compute.device)?;
    let mut session = vae.decoding(h, w, &stage.decode)?;
    for (index, chunk) in stage.decode.chunks(count).into_iter().enumerate() {
        let pixels = session.decode(&latents.narrow(0, chunk.start, chunk.len())?)?;
        let frames = to_frames(&pixels, index)?;
        take(&pixels.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.clamp(-1f32, 1f32)?, frames)?;
    }
    Ok(())
}

/// The frames of the video that is continued, where there is one: they come first, as far as they are wanted.
fn given(stage: &Stage, vae: &dyn Autoencoder, seen: &mut Seen, sinks: &mut Sinks) -> Result<(), Failure> {
    let Some(source) = &stage.input.source_video else { return Ok(()) };
    let mut take = |frame: Frame| if source.only_new { Ok(()) } else { (sinks.frames)(frame) };
    if let Some(latents) = extend::given_latents(stage).code(Code::Usage)? {
        let decoded = decode(stage, vae, &latents, &mut |pixels, frames| {
            seen.take(pixels)?;
            frames.into_iter().try_for_each(&mut take)
        });
        return decoded.map_err(fault);
    }
    let mut count = 0;
    for frame in extend::frames(stage, source, 0..source.frames)? {
        let frame = frame?;
        if source.frames - count <= seen.before || seen.wants(count) {
            seen.take(&signed(&frame)?)?;
        } else {
            seen.count += 1;
        }
        count += 1;
        take(frame).map_err(fault)?;
    }
    Ok(extend::unchanged(count == source.frames, source)?)
}

/// A frame from -1 to 1, `[1, 3, H, W]`.
fn signed(frame: &Frame) -> Result<Tensor> {
    let values: Vec<f32> = frame.planes().into_iter().map(|value| 2.0 * value - 1.0).collect();
    Ok(Tensor::from_vec(values, (1, 3, frame.height, frame.width), &Device::Cpu)?)
}

/// What of the frames so far is still needed.
struct Seen {
    /// Frames that the next chunk sees.
    before: usize,
    /// The frame that is the anchor, if it is one of the video.
    wanted: Option<usize>,
    /// Frames that have come.
    count: usize,
    /// The last of them, `[S, 3, H, W]` from -1 to 1.
    tail: Option<Tensor>,
    /// `[3, H, W]`, from -1 to 1.
    anchor: Option<Tensor>,
}

impl Seen {
    fn new(streaming: &Streaming) -> Result<Self> {
        let (mut wanted, mut anchor) = (None, None);
        match &streaming.anchor {
            Anchor::Frame(frame) => wanted = Some(*frame),
            Anchor::Image(picture) => {
                let frame = footage::frames(picture)?.next().context("no picture")??;
                anchor = Some(signed(&frame)?.squeeze(0)?);
            }
            Anchor::None => {}
        }
        Ok(Self { before: streaming.frames.before, wanted, count: 0, tail: None, anchor })
    }

    fn wants(&self, frame: usize) -> bool {
        self.wanted == Some(frame)
    }

    /// Takes the next frames, `[F, 3, H, W]`.
    fn take(&mut self, frames: &Tensor) -> Result<()> {
        let count = frames.dim(0)?;
        if let Some(at) = self.wanted.and_then(|wanted| wanted.checked_sub(self.count)).filter(|&at| at < count) {
            self.anchor = Some(frames.get(at)?.copy()?);
        }
        self.count += count;
        let all = match self.tail.take() {
            Some(tail) => Tensor::cat(&[&tail, frames], 0)?,
            None => frames.clone(),
        };
        let there = all.dim(0)?;
        let kept = there.min(self.before);
        self.tail = Some(all.narrow(0, there - kept, kept)?.copy()?);
        Ok(())
    }
}

/// What stands beside the denoiser of the chunks after the first.
struct Beside {
    network: Arc<dyn Continuation>,
    /// Of the anchor and of nothing, `[I, D]`; none where no anchor is looked at.
    tokens: Option<[Tensor; 2]>,
    /// Texts with them, of one prompt.
    mixed: Option<(TextMix, Kept)>,
}

/// A video at work.
struct Run<'a> {
    job: &'a Job,
    stage: &'a Stage,
    streaming: &'a Streaming,
    texts: &'a Texts,
    noise: &'a ChunkNoise,
    /// Loaded when the first of them is made.
    others: Option<(Arc<dyn Denoiser>, Beside)>,
    previewer: Previewer<'a>,
    /// Whether something was loaded since the last step.
    begins: bool,
}

impl Run<'_> {
    /// The new latents of a chunk, `[F, C, h, w]` on the CPU.
    fn chunk(
        &mut self,
        index: usize,
        seen: &Seen,
        loaded: &mut Loaded,
        checkpoints: &mut Checkpointer,
        observer: &mut dyn Observer,
    ) -> Result<Tensor, Failure> {
        checkpoints.heard()?;
        let segment = &self.stage.segments[index];
        let timelines = self.stage.timelines(segment);
        let mut stack = controls::stack(self.stage, &timelines, None)?;
        let of_first = self.stage.of_first_chunk().filter(|_| index == 0);
        let denoiser = match of_first {
            Some(_) => {
                self.begins = true;
                self.try_others(loaded, observer)?;
                let what = self.stage.model.architecture.part(Role::FirstDenoiser).into();
                observer.event(&Event::Phase { phase: Phase::Load, of: 0, what })?;
                loaded.first_denoiser(self.stage)?
            }
            None => {
                let denoiser = self.load(seen, loaded, observer)?;
                stack.processors.extend(self.beside(index, seen)?);
                denoiser
            }
        };
        checkpoints.heard()?;
        let from = checkpoints.point(index, &timelines, observer)?;
        let stage = of_first.as_ref().unwrap_or(self.stage);
        let (noise, start) = self.noise.of(index)?;
        let rule = stage.rule();
        let after = work::after(stage, &speed::kept(self.job.machine.threads).unwrap_or(Speed::TYPICAL));
        let parts = self.stage.segments.len();
        let input = Input {
            timeline: &timelines[0],
            texts: timelines[0]
                .plan
                .texts
                .iter()
                .map(|text| mix(&self.texts.prompts, text))
                .collect::<candle_core::Result<_>>()?,
            concat: None,
            told: None,
            start,
            known: None,
            refined: None,
            scheduler: stage.sampler.build()?,
        };
        let run = Denoising {
            network: Network {
                denoiser: &*denoiser,
                stack: &mut stack.processors,
                kernel: kernel(stage),
                micro_batch: MICRO_BATCH,
                device: &stage.compute.device,
            },
            sampling: Sampling {
                rule: &rule,
                table: stage.sampler.table,
                blend: stage.rules.blend,
                draws: None,
                sharing: None,
                noise: &noise,
                shape: stage.size.latents,
                first: 0,
                until: stage.sampler.steps,
                caching: None,
            },
            timelines: vec![input],
            uncond: &self.texts.uncond,
            from,
            reporting: Reporting {
                hook: &mut self.previewer.then(checkpoints),
                part: index,
                steps: (self.stage.steps_before(index), self.stage.steps_before(parts)),
                begins: std::mem::take(&mut self.begins),
                after: after * (parts - index) as f64 / parts as f64,
            },
        };
        Ok(kept(segment, &timelines, &denoise(run, observer)?)?)
    }

    /// Loads what the chunks after the first need, and drops it: what is damaged is to be told before the first one is made.
    fn try_others(&self, loaded: &mut Loaded, observer: &mut dyn Observer) -> Result<(), Failure> {
        if self.stage.segments.len() > 1 {
            let what = self.stage.model.architecture.part(Role::Denoiser).into();
            observer.event(&Event::Phase { phase: Phase::Load, of: 0, what })?;
            loaded.denoiser(self.stage)?;
            loaded.continuation(self.stage)?;
            if self.streaming.anchor != Anchor::None {
                loaded::anchors(self.stage)?;
            }
        }
        Ok(())
    }

    /// The denoiser of the chunks after the first, with what stands beside it.
    fn load(
        &mut self,
        seen: &Seen,
        loaded: &mut Loaded,
        observer: &mut dyn Observer,
    ) -> Result<Arc<dyn Denoiser>, Failure> {
        if let Some((denoiser, _)) = &self.others {
            return Ok(denoiser.clone());
        }
        self.begins = true;
        let stage = self.stage;
        let what = stage.model.architecture.part(Role::ImageEncoder).into();
        let mut tokens = None;
        if let Some(frame) = &seen.anchor {
            observer.event(&Event::Phase { phase: Phase::Load, of: 0, what })?;
            let anchors = loaded::anchors(stage)?;
            tokens = Some([anchors.tokens(frame)?, anchors.tokens(&frame.zeros_like()?)?]);
        } else if self.streaming.anchor != Anchor::None {
            return Err(anyhow::anyhow!("the anchor frame has not come").into());
        }
        let what = stage.model.architecture.part(Role::Denoiser).into();
        observer.event(&Event::Phase { phase: Phase::Load, of: 0, what })?;
        let denoiser = loaded.denoiser(stage)?;
        let network = loaded.continuation(stage)?;
        self.others = Some((denoiser.clone(), Beside { network, tokens, mixed: None }));
        Ok(denoiser)
    }

    /// What lets a chunk see the frames before it, and the anchor.
    fn beside(&mut self, index: usize, seen: &Seen) -> Result<Vec<Box<dyn AttentionProcessor>>> {
        let (_, beside) = self.others.as_mut().context("the networks are not loaded")?;
        let tail = seen.tail.as_ref().filter(|tail| tail.dim(0).is_ok_and(|frames| frames == seen.before));
        let look = beside.network.look(tail.context("too few frames before a chunk")?)?;
        let mut processors: Vec<Box<dyn AttentionProcessor>> =
            vec![Box::new(remembered(beside.network.clone(), look, seen.before, kernel(self.stage)))];
        if let Some([with_text, without]) = &beside.tokens {
            let text = self.stage.segments[index].plan.texts[0];
            let kept = match beside.mixed.take().filter(|(other, _)| *other == text) {
                Some((_, kept)) => kept,
                None => Kept::default(),
            };
            beside.mixed = Some((text, kept.clone()));
            let network = beside.network.clone();
            let mixer = Box::new(move |layer, text: &Tensor, tokens: &Tensor| network.mix(layer, text, tokens));
            processors.push(Box::new(Mix::new(with_text.clone(), without.clone(), mixer).keeping(kept)));
        }
        Ok(processors)
    }
}

/// What merges into a chunk's features what the network beside the denoiser remembers of the frames before. `look`: what it has seen of
/// them; there are `before`.
fn remembered(network: Arc<dyn Continuation>, look: Tensor, before: usize, kernel: Sdpa) -> Residual {
    let merger = network.clone();
    let source = move |pass: &Pass, branches: &[Branch], rows: &[Row]| {
        let first = |row: &Row| Ok(Row { latents: row.latents.narrow(0, 0, before)?, ..row.clone() });
        let rows = rows.iter().map(first).collect::<candle_core::Result<Vec<_>>>()?;
        let mut none: [Box<dyn AttentionProcessor>; 0] = [];
        let mut hooks = Hooks::new(*pass, branches.to_vec(), Vec::new(), &mut none, kernel.clone(), MICRO_BATCH)?;
        let memories = network.remember(&rows, &look, 1, &mut hooks)?;
        hooks.finish()?;
        Ok(memories.into_iter().map(features).collect())
    };
    Residual::read(Box::new(source), Box::new(move |feature, x, memory| merger.merge(feature, x, memory)))
}
