//! CogVideoX (arXiv 2408.06072): the transformer and the causal autoencoder, after diffusers' `CogVideoXTransformer3DModel`
//! and `AutoencoderKLCogVideoX`.

mod architecture;
mod blocks;
pub mod config;
pub mod positions;
mod time;
pub mod transformer;
pub mod vae;

pub use architecture::FAMILY;
pub use vae::{AutoencoderKLCogVideoX, VaeConfig};

#[cfg(test)]
mod recipe_tests;
