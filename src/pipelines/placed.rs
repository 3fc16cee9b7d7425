//! A subject at work: its features are kept once a run, and each pass is told where it is to be.

use super::control::features;
use super::denoise::MICRO_BATCH;
use super::encode::Encoder;
use super::texts::Texts;
use crate::attention::{AttentionProcessor, Branch, Half, Hooks, Pass, Row, SiteKind};
use crate::boxes::{Boxes, pixels};
use crate::job::{Compute, Placed, Stage};
use crate::models::Denoiser;
use crate::models::architecture::{Role, SubjectArchitecture};
use crate::models::control::ControlNetwork;
use crate::models::placement::{SubjectAttention, SubjectKeys};
use crate::nn::sdpa::Sdpa;
use crate::processors::Residual;
use crate::processors::reference::{Reference, Weights, Witness};
use crate::run::{Code, Event, Failure, Observer, Phase, WithCode};
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// What a run keeps of a subject and its boxes.
pub struct Subject<'a> {
    stage: &'a Stage,
    placed: &'a Placed,
    looked: Option<Looked>,
    boxes: Option<(Arc<dyn ControlNetwork>, Tensor)>,
}

/// Keys and values of the subject by layer and kind, and the layers that look for them.
type Looked = (Arc<dyn SubjectAttention>, Rc<HashMap<(usize, SiteKind), SubjectKeys>>);

fn architecture(stage: &Stage) -> Result<&dyn SubjectArchitecture> {
    stage.model.architecture.subject().context("this model puts no subject into a video")
}

/// The latents `[1, C, H, W]` of the subject's picture, in f32 on the CPU, scaled. None where there is none.
pub fn latents(stage: &Stage, observer: &mut dyn Observer) -> Result<Option<Tensor>, Failure> {
    let picture = stage.method.placed.as_ref().and_then(|placed| placed.picture.as_ref());
    let Some(picture) = picture else { return Ok(None) };
    let encoder = Encoder::load(stage, observer)?;
    observer.event(&Event::Phase { phase: Phase::Encode, of: 0, what: "subject".into() })?;
    Ok(Some(encoder.latents(std::slice::from_ref(&picture.frame))?))
}

impl<'a> Subject<'a> {
    /// Loads what looks at the subject and what sees its boxes, and looks once: the denoiser on the clean picture as a clip of one frame, at
    /// time 0, with the prompt. None where neither was asked for: then the model is the plain one.
    pub fn new(
        stage: &'a Stage,
        denoiser: &dyn Denoiser,
        texts: &Texts,
        latents: Option<&Tensor>,
        kernel: &Sdpa,
    ) -> Result<Option<Self>, Failure> {
        let Some(placed) =
            stage.method.placed.as_ref().filter(|placed| placed.picture.is_some() || placed.boxes.is_some())
        else {
            return Ok(None);
        };
        let Compute { dtype, device, .. } = &stage.compute;
        let vb = |role| stage.model.part(role)?.var_builder_compact(*dtype, device);
        let looked = match latents {
            None => None,
            Some(latents) => {
                let vb = vb(Role::Reference).code(Code::Model)?;
                let reference = architecture(stage)?.load_reference(&vb).code(Code::Model)?;
                let keys = look(&reference, denoiser, latents, &texts.prompts[0], (device, kernel))?;
                Some((reference, Rc::new(keys)))
            }
        };
        let boxes = match &placed.boxes {
            None => None,
            Some(boxes) => {
                let (encoder, control) =
                    (vb(Role::BoxEncoder).code(Code::Model)?, vb(Role::BoxControl).code(Code::Model)?);
                let network = architecture(stage)?.load_boxes(&encoder, control).code(Code::Model)?;
                let hint =
                    network.hint(&masks(boxes, (stage.size.height, stage.size.width))?).map_err(anyhow::Error::from)?;
                Some((network, hint))
            }
        };
        Ok(Some(Self { stage, placed, looked, boxes }))
    }

    /// What acts in the denoiser.
    pub fn processors(&self, kernel: &Sdpa) -> Vec<Box<dyn AttentionProcessor>> {
        let mut made: Vec<Box<dyn AttentionProcessor>> = Vec::new();
        if let Some((network, hint)) = &self.boxes {
            made.push(Box::new(residual(network.clone(), hint.clone(), kernel.clone())));
        }
        if let Some((reference, keys)) = &self.looked {
            let (reference, keys, kernel) = (reference.clone(), keys.clone(), kernel.clone());
            let seeker = move |layer: usize, kind: SiteKind, u: &Tensor| match keys.get(&(layer, kind)) {
                Some(keys) => reference.find(layer, kind, u, keys, &kernel),
                None => candle_core::bail!("nothing was kept of the subject at layer {layer}"),
            };
            made.push(Box::new(Reference::new(Box::new(seeker), self.weights())));
        }
        made
    }

    /// The weights of a grid, each made once.
    fn weights(&self) -> Weights {
        let Placed { boxes, outside, rule, .. } = self.placed;
        let (boxes, outside, rule) = (boxes.clone(), *outside as f32, *rule);
        let (size, device) = ((self.stage.size.height, self.stage.size.width), self.stage.compute.device.clone());
        let mut made: HashMap<(usize, usize), Tensor> = HashMap::new();
        Box::new(move |(rows, columns)| {
            let Some(boxes) = &boxes else { return Ok(None) };
            if let Some(weights) = made.get(&(rows, columns)) {
                return Ok(Some(weights.clone()));
            }
            let inside = boxes.iter().flat_map(|rect| rule.grid(rect.as_ref(), rows, columns, size));
            let values: Vec<f32> = inside.map(|inside| if inside { 1.0 } else { outside }).collect();
            let weights = Tensor::from_vec(values, (boxes.len(), rows * columns, 1), &device)?;
            made.insert((rows, columns), weights.clone());
            Ok(Some(weights))
        })
    }
}

/// What all layers give of the subject, as keys and values.
fn look(
    reference: &Arc<dyn SubjectAttention>,
    denoiser: &dyn Denoiser,
    latents: &Tensor,
    text: &Tensor,
    (device, kernel): (&Device, &Sdpa),
) -> Result<HashMap<(usize, SiteKind), SubjectKeys>> {
    let kept = Rc::new(RefCell::new(HashMap::new()));
    let (held, projections) = (kept.clone(), reference.clone());
    let witness = Witness::new(Box::new(move |layer, kind, u| {
        held.borrow_mut().insert((layer, kind), projections.keys(layer, kind, u)?);
        Ok(())
    }));
    let mut stack: [Box<dyn AttentionProcessor>; 1] = [Box::new(witness)];
    let (pass, branch) = (Pass { step: 0, steps: 1 }, Branch::new(Half::COND, 0, 0));
    let mut hooks = Hooks::new(pass, vec![branch], Vec::new(), &mut stack, kernel.clone(), 1)?;
    let row = Row::new(latents.to_device(device)?, text.to_device(device)?, 0.0);
    denoiser.forward(&[row], &mut hooks)?;
    hooks.finish()?;
    let kept = kept.take();
    anyhow::ensure!(
        kept.len() == 2 * reference.layers(),
        "{} of {} layers saw the subject",
        kept.len(),
        2 * reference.layers()
    );
    Ok(kept)
}

/// Masks `[F, 3, H, W]` of boxes, 1 inside.
fn masks(boxes: &Boxes, (height, width): (usize, usize)) -> Result<Tensor> {
    let values: Vec<u8> =
        boxes.iter().flat_map(|rect| pixels(rect.as_ref(), height, width)).map(|value| value / 255).collect();
    let masks = Tensor::from_vec(values, (boxes.len(), 1, height, width), &Device::Cpu)?.to_dtype(DType::F32)?;
    Ok(masks.broadcast_as((boxes.len(), 3, height, width))?.contiguous()?)
}

/// What the network beside the denoiser adds to its features, all rows being the whole clip.
fn residual(network: Arc<dyn ControlNetwork>, hint: Tensor, kernel: Sdpa) -> Residual {
    Residual::new(Box::new(move |pass: &Pass, branches: &[Branch], rows: &[Row]| {
        let mut none: [Box<dyn AttentionProcessor>; 0] = [];
        let mut hooks = Hooks::new(*pass, branches.to_vec(), Vec::new(), &mut none, kernel.clone(), MICRO_BATCH)?;
        let hints = vec![hint.clone(); rows.len()];
        let made = network.forward(rows, &hints, 1.0, 1, &mut hooks)?;
        hooks.finish()?;
        Ok(made.into_iter().map(features).collect())
    }))
}
