//! CLIP as a judge of pictures: what a frame looks like, and how well it fits a text.

use super::resize::centre_square;
use crate::models::NotFinite;
use crate::models::clip::{Clip, ClipConfig};
use crate::text::Tokenizer;
use crate::video::Frame;
use crate::weights::{ModelError, NetworkFolder};
use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};

/// Frames that go through the network together.
pub const BATCH: usize = 8;
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_7];
const STD: [f32; 3] = [0.268_629_55, 0.261_302_6, 0.275_777_1];

/// CLIP with its tokenizer.
pub struct ClipEmbedder {
    clip: Clip,
    tokenizer: Tokenizer,
    config: ClipConfig,
    device: Device,
}

/// A frame in both of CLIP's spaces.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipFeatures {
    /// Pooler output, before the projection: what CSCV compares.
    pub pooled: Vec<f32>,
    /// Image embedding in the common space of images and texts; not normalised.
    pub projected: Vec<f32>,
}

impl ClipEmbedder {
    /// Loads a folder of kind `clip`, in f32. Errors that lie in the folder are [`ModelError`]s.
    pub fn open(folder: &NetworkFolder, device: &Device) -> Result<Self> {
        let place = folder.place();
        let damaged = |error: anyhow::Error| match error.downcast::<ModelError>() {
            Ok(error) => anyhow::Error::from(error),
            Err(error) => ModelError::new(format!("{place}: {error:#}")).into(),
        };
        let config: ClipConfig = folder.config()?;
        config.towers().map_err(anyhow::Error::from).context("config.json").map_err(damaged)?;
        let tokenizer = Tokenizer::from_folder("", &|name| folder.read(name)).map_err(damaged)?;
        let clip = Clip::new(&config, folder.var_builder(DType::F32, device)?)?;
        Ok(Self { clip, tokenizer, config, device: device.clone() })
    }

    /// What the network will see of a frame of any size: `image_size` x `image_size` pixels.
    pub fn square(&self, frame: &Frame) -> Result<Vec<u8>> {
        let (width, height) = (frame.width, frame.height);
        let bytes = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3));
        if width == 0 || height == 0 || bytes != Some(frame.data.len()) {
            bail!("{} bytes do not make a frame of {width}x{height} pixels", frame.data.len())
        }
        Ok(centre_square(frame, self.config.vision_config.image_size))
    }

    /// Looks at squares, together: at most [`BATCH`] for bounded memory.
    pub fn look(&self, squares: &[Vec<u8>]) -> Result<Vec<ClipFeatures>> {
        let side = self.config.vision_config.image_size;
        let mut pixels = Vec::with_capacity(squares.len() * 3 * side * side);
        for square in squares {
            for channel in 0..3 {
                let values = square.iter().skip(channel).step_by(3);
                pixels.extend(values.map(|&value| (f32::from(value) / 255.0 - MEAN[channel]) / STD[channel]));
            }
        }
        let pixels = Tensor::from_vec(pixels, (squares.len(), 3, side, side), &self.device)?;
        let features = self.clip.images(&pixels)?;
        let (pooled, projected) = (features.pooled.to_vec2::<f32>()?, features.projected.to_vec2::<f32>()?);
        let looks: Vec<ClipFeatures> =
            pooled.into_iter().zip(projected).map(|(pooled, projected)| ClipFeatures { pooled, projected }).collect();
        let finite = looks.iter().flat_map(|look| look.pooled.iter().chain(&look.projected)).all(|x| x.is_finite());
        ensure!(finite, NotFinite("CLIP"));
        Ok(looks)
    }

    /// A text in the common space; and whether words were cut off to fit.
    pub fn text(&self, text: &str) -> Result<(Vec<f32>, bool)> {
        let tokens = self.tokenizer.encode(text, self.config.text_config.max_position_embeddings)?;
        let ids = &tokens.ids[..tokens.pieces.len()]; // without the padding
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.config.text_config.vocab_size) {
            bail!(ModelError::new(format!("the tokenizer gives id {id}, which the text encoder does not have")))
        }
        let values = self.clip.text(ids)?.to_vec1::<f32>()?;
        ensure!(values.iter().all(|x| x.is_finite()), NotFinite("CLIP"));
        Ok((values, tokens.cut.is_some()))
    }
}
