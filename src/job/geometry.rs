//! Sizes and lengths: pixels, latents, frames.

use super::plan::MOST_FRAMES;
use super::settings::Settings;
use super::values::{Size, Tiling};
use crate::models::Architecture;
use crate::models::architecture::LatentGeometry;
use crate::models::autoencoder::DecodeOptions;
use crate::recipe::Recipe;
use crate::video::Rate;
use anyhow::{Result, bail, ensure};

/// Longest side in pixels.
const MOST_PIXELS: usize = 8192;

/// The size of a video.
#[derive(Debug, Clone)]
pub struct Geometry {
    /// Pixels.
    pub width: usize,
    pub height: usize,
    pub latent_width: usize,
    pub latent_height: usize,
    pub fps: Rate,
    /// Frames, where they were asked for.
    pub frames: Option<usize>,
}

impl Geometry {
    pub fn new(settings: &Settings, latent: &LatentGeometry, recipe: &Recipe) -> Result<Self> {
        let ratio = latent.spatial_ratio;
        let (width, height) = match settings.size {
            Some(Size { width, height }) => (Some(width), Some(height)),
            None => (settings.width, settings.height),
        };
        let width = width.unwrap_or(latent.native.width);
        let height = height.unwrap_or(latent.native.height);
        let unit = latent.unit();
        check_side("width", width, unit)?;
        check_side("height", height, unit)?;

        let fps = settings.fps.unwrap_or(recipe.fps);
        let frames = match (settings.frames, settings.duration) {
            (Some(frames), _) => Some(("--frames", frames)),
            (None, Some(duration)) => Some(("--duration", (duration.0 * fps.as_f64()).round() as usize)),
            (None, None) => None,
        };
        if let Some((flag, frames)) = frames
            && !(1..=MOST_FRAMES).contains(&frames)
        {
            bail!("{flag}: {frames} frames; a video has 1 to {MOST_FRAMES}")
        }
        Ok(Self {
            width,
            height,
            latent_width: width / ratio,
            latent_height: height / ratio,
            fps,
            frames: frames.map(|(_, frames)| frames),
        })
    }

    /// How the frames are decoded. In tiles by itself only where diffusers' documentation advises it, far above what an
    /// embedded model makes.
    pub fn decode(&self, settings: &Settings, architecture: &dyn Architecture) -> Result<DecodeOptions> {
        let chunk = settings.vae_chunk.unwrap_or(DecodeOptions::default().chunk);
        ensure!((1..=1024).contains(&chunk), "--vae-chunk {chunk}: give 1 to 1024 latent frames");
        let tiling = settings.vae_tiling.unwrap_or(Tiling::Auto);
        if let (Some(_), Tiling::Off) = (settings.vae_tile_size, tiling) {
            bail!("--vae-tile-size has no effect with --vae-tiling off: leave out one")
        }
        let mut options = architecture.tile();
        if let Some(Size { width, height }) = settings.vae_tile_size {
            let least = 4 * architecture.geometry().spatial_ratio;
            ensure!(
                width >= least && height >= least,
                "--vae-tile-size {width}x{height}: tiles are at least {least}x{least} pixels"
            );
            (options.sample_width, options.sample_height) = (width, height);
        }
        let large = self.width * self.height > LARGE;
        let tile = match tiling {
            Tiling::On => true,
            Tiling::Off => false,
            Tiling::Auto => large || settings.vae_tile_size.is_some(),
        };
        Ok(DecodeOptions { chunk, tile: tile.then_some(options), ..DecodeOptions::default() })
    }
}

/// Above these pixels a decode without tiles needs more than ten gigabytes.
const LARGE: usize = 720 * 480;

fn check_side(name: &str, side: usize, unit: usize) -> Result<()> {
    ensure!(side <= MOST_PIXELS, "--{name} {side}: sides go up to {MOST_PIXELS} pixels");
    if side == 0 || !side.is_multiple_of(unit) {
        let below = side / unit * unit;
        let near = match below {
            0 => format!("{unit}"),
            _ => format!("{below} or {}", below + unit),
        };
        bail!("--{name} {side} is not a multiple of {unit}, which this model needs: try {near}")
    }
    Ok(())
}
