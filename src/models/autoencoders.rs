//! The autoencoders that a model may have whose pipeline does not fix which: by the class that `vae/config.json` names.

use super::architecture::{Configurations, Kinds, config};
use super::autoencoder::{Autoencoder, DecodeMemory, DecodeOptions, TileOptions};
use super::{LatentTime, autoencoder_kl, cogvideox};
use anyhow::Result;
use candle_nn::VarBuilder;
use serde::Deserialize;

/// The classes there are.
pub const CLASSES: &[&str] = &["AutoencoderKL", "AutoencoderKLCogVideoX"];

/// An autoencoder as its configuration describes it.
#[derive(Debug)]
pub enum AutoencoderConfig {
    /// Of pictures, frame by frame.
    Pictures(autoencoder_kl::VaeConfig),
    /// Of videos, causal.
    Videos(cogvideox::VaeConfig),
}

impl AutoencoderConfig {
    /// From `vae/config.json`.
    ///
    /// # Errors
    /// What is not computed, in one line that names the key.
    pub fn read(configurations: &Configurations) -> Result<Self> {
        #[derive(Deserialize)]
        struct Class {
            #[serde(default)]
            _class_name: String,
        }
        const PATH: &str = "vae/config.json";
        let Class { _class_name: class } = config(configurations, PATH)?;
        if class == CLASSES[1] {
            let vae: cogvideox::VaeConfig = config(configurations, PATH)?;
            vae.validate()?;
            return Ok(Self::Videos(vae));
        }
        let vae: autoencoder_kl::VaeConfig = config(configurations, PATH)?;
        vae.check()?; // names other classes
        Ok(Self::Pictures(vae))
    }

    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Pictures(vae) => vae.latent_channels,
            Self::Videos(vae) => vae.latent_channels,
        }
    }

    /// Pixels of a latent cell, in height and in width.
    pub fn spatial_ratio(&self) -> usize {
        match self {
            Self::Pictures(vae) => vae.spatial_ratio(),
            Self::Videos(vae) => vae.spatial_ratio(),
        }
    }

    pub fn time(&self) -> LatentTime {
        match self {
            Self::Pictures(_) => LatentTime::PER_FRAME,
            Self::Videos(vae) => LatentTime::new(vae.temporal_ratio()),
        }
    }

    /// [`super::Architecture::decoding_work`].
    pub fn decoding_work(&self, frames: usize, cells: usize, begins: bool) -> Kinds {
        match self {
            Self::Pictures(vae) => {
                let Kinds { small, wide } = vae.decoding_work(cells);
                Kinds { small: small * frames as f64, wide: wide * frames as f64 }
            }
            Self::Videos(vae) => vae.decoding_work(frames, cells, begins),
        }
    }

    /// [`super::Architecture::decoding_memory`].
    ///
    /// # Errors
    /// Impossible tiles.
    pub fn decoding_memory(
        &self,
        options: &DecodeOptions,
        frames: usize,
        (height, width): (usize, usize),
    ) -> candle_core::Result<DecodeMemory> {
        match self {
            Self::Pictures(vae) => vae.memory(options, height, width),
            Self::Videos(vae) => vae.memory(options, frames, height, width),
        }
    }

    /// The tiles where nobody asks for others.
    pub fn tile(&self) -> TileOptions {
        match self {
            Self::Pictures(vae) => vae.tile(),
            Self::Videos(vae) => vae.tile(),
        }
    }

    /// Loads it, with its encoder where that is wanted.
    ///
    /// # Errors
    /// Tensors that are missing or of another shape.
    pub fn load(&self, vb: VarBuilder, encoder: bool) -> candle_core::Result<Box<dyn Autoencoder>> {
        Ok(match self {
            Self::Pictures(vae) => Box::new(autoencoder_kl::AutoencoderKL::load(vae, vb, encoder)?),
            Self::Videos(vae) if encoder => Box::new(cogvideox::AutoencoderKLCogVideoX::load(vae, vb)?),
            Self::Videos(vae) => Box::new(cogvideox::AutoencoderKLCogVideoX::load_decoder(vae, vb)?),
        })
    }
}
