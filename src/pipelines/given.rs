//! Frames that are given of a video: pictures or frames of files become latents, and stand in the place of noise or beside it; or
//! they are those that the stage before has made.

use super::denoise::{NoiseSource, Told};
use super::encode::Encoder;
use super::footage::frames;
use super::known::{Known, Seen};
use super::texts::Texts;
use crate::job::{Footage, Given, GivenFrom, Segment, Stage};
use crate::models::given::{Clip, GivenFrames};
use crate::run::{Code, Event, Failure, Observer, Phase, WithCode};
use crate::timeline::{ChunkPlan, mix};
use crate::video::Frame;
use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};

/// Frames that are encoded at a time where each is encoded by itself.
const CHUNK: usize = 8;

/// The latents `[K, C, h, w]` of a stage's given frames, in the order in which its segments count them, in f32 on the CPU, scaled;
/// none where none are given in the place of noise. `before`: the latents of the stage before.
pub fn latents(stage: &Stage, before: &[Tensor], observer: &mut dyn Observer) -> Result<Option<Tensor>, Failure> {
    let Some(given) = &stage.method.given else { return Ok(None) };
    match given.from {
        GivenFrom::Before => Ok(Some(Tensor::cat(before, 0).map_err(anyhow::Error::from)?)),
        GivenFrom::Beside => Ok(None),
        GivenFrom::Files => {
            let mut parts = Vec::new();
            let encoder = Encoder::load(stage, observer)?;
            observer.event(&Event::Phase { phase: Phase::Encode, of: 0, what: "given frames".into() })?;
            for file in &given.files {
                let mut shown = fitted(stage, given, file)?;
                // an autoencoder of videos encodes them as one
                let at_once = if stage.rules.time.ratio == 1 { CHUNK } else { file.frames.len() };
                loop {
                    let some: Vec<Frame> = shown.by_ref().take(at_once).collect::<Result<_>>()?;
                    if some.is_empty() {
                        break;
                    }
                    parts.push(encoder.latents(&some)?);
                }
            }
            let latents = Tensor::cat(&parts, 0).map_err(anyhow::Error::from)?;
            finite(&latents, given)?;
            Ok(Some(latents))
        }
    }
}

/// The frames of a file in the size of the stage.
fn fitted<'a>(stage: &Stage, given: &'a Given, file: &'a Footage) -> Result<impl Iterator<Item = Result<Frame>> + 'a> {
    let (width, height, fit) = (stage.size.width, stage.size.height, given.fit);
    Ok(frames(file)?.map(move |frame| Ok(frame?.fitted_lanczos(width, height, fit))))
}

fn finite(latents: &Tensor, given: &Given) -> Result<(), Failure> {
    let values = latents.flatten_all().and_then(|all| all.to_vec1::<f32>()).map_err(anyhow::Error::from)?;
    if values.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    let shown = given.files.first().map(|file| file.path.display().to_string()).unwrap_or_default();
    Err(Failure::message(Code::Numbers, format!("{shown}: NaN or infinity in its latents: try --dtype f32")))
}

/// What stands beside the latents of a stage on the channel axis, `[F, C, h, w]` in f32 on the CPU, where a picture does: its
/// latents, as one draw, in the first of all frames, those included that only fill up patches in time; zeros in all others.
pub fn beside(stage: &Stage, noise: &NoiseSource, observer: &mut dyn Observer) -> Result<Option<Tensor>, Failure> {
    let Some(given) = stage.method.given.as_ref().filter(|given| given.from == GivenFrom::Beside) else {
        return Ok(None);
    };
    let encoder = Encoder::load(stage, observer)?;
    let file = given.files.first().context("no picture")?;
    let frame = fitted(stage, given, file)?.next().context("no picture")??;
    let latents = encoder.drawn(&frame, &noise.image(stage.size.latents).code(Code::Usage)?)?;
    finite(&latents, given)?;
    let on_timeline = || -> candle_core::Result<Tensor> {
        let frames: usize = stage.segments.iter().map(|segment| segment.plan.frames).sum();
        let all =
            Tensor::zeros((frames, latents.dim(1)?, latents.dim(2)?, latents.dim(3)?), latents.dtype(), &Device::Cpu)?;
        let mut start = 0;
        for segment in &stage.segments {
            all.slice_set(&latents.contiguous()?, 0, start)?;
            start += segment.plan.frames;
        }
        Ok(all)
    };
    Ok(Some(on_timeline().map_err(anyhow::Error::from)?))
}

/// The given frames of a segment's timeline, `latents` being those of the stage.
pub fn known(stage: &Stage, segment: &Segment, latents: Option<&Tensor>, device: &Device) -> Result<Option<Known>> {
    let Some(latents) = latents else { return Ok(None) };
    if segment.given.is_empty() {
        return Ok(None);
    }
    let (frames, of): (Vec<usize>, Vec<u32>) = segment.given.iter().map(|at| (at.frame, at.of as u32)).unzip();
    let count = latents.dim(0)?;
    ensure!(of.iter().all(|&of| (of as usize) < count), "{count} frames are given, and a clip takes more");
    let latents = latents.index_select(&Tensor::new(of, latents.device())?, 0)?.to_device(device)?;
    Ok(Some(seen(stage, Known { frames, latents, seen: Seen::Noised })))
}

/// Known frames of a video that is gone on with, as the network of a stage sees them.
pub fn seen(stage: &Stage, known: Known) -> Known {
    match stage.model.architecture.given_frames() {
        GivenFrames::InPlace(given) => {
            Known { seen: Seen::Clean { time: given.time, null: stage.method.guidance.null_frame }, ..known }
        }
        _ => known,
    }
}

/// What the network of a stage is told of a timeline beside time and text; none where it takes nothing.
pub fn told(stage: &Stage, plan: &ChunkPlan, texts: &Texts) -> Result<Option<Told>> {
    let architecture = &stage.model.architecture;
    let numbers = |frames: usize| {
        architecture.numbers(&Clip {
            height: stage.size.height,
            width: stage.size.width,
            frames: stage.rules.video_frames(frames),
            keyframes: stage.method.keyframes,
        })
    };
    let numbers: Vec<Vec<f64>> = plan.windows.iter().map(|window| numbers(window.len)).collect();
    if !architecture.text().pooled && numbers.iter().all(Vec::is_empty) {
        return Ok(None);
    }
    let pooled = plan.texts.iter().map(|text| mix(&texts.pooled, text)).collect::<candle_core::Result<_>>()?;
    Ok(Some(Told { pooled, no_text: texts.no_text.clone(), numbers }))
}
