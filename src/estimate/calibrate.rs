//! A short measurement of this machine, for estimates of time: the built-in networks at two or three sizes, and single
//! large operations for models that are not at hand.
//!
//! Each figure is the best of several: what a machine can do, without what others make it wait. On a machine that is busy a
//! run takes longer than its estimate.

use crate::attention::{Branch, Half, Hooks, Pass};
use crate::models::Row;
use crate::models::architecture::Role;
use crate::models::autoencoder::DecodeOptions;
use crate::nn::conv::conv3d;
use crate::nn::linear;
use crate::nn::sdpa::Sdpa;
use crate::run::Speed;
use crate::video::{self, Frame, Output, Rate};
use crate::weights::ModelFolder;
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use std::time::Instant;

/// Rounds of measurement.
const ROUNDS: usize = 4;
/// Seconds of a measurement that is made once: on slow machines, and in builds without optimisation.
const LONG: f64 = 0.25;
/// Latent cells of the larger decode, height and width: Toyland's own; less where nothing is optimised.
const CELLS: (usize, usize) = if cfg!(debug_assertions) { (6, 9) } else { (12, 18) };

/// Measures; takes a second or two.
pub fn calibrate() -> Result<Speed> {
    let model = ModelFolder::embedded();
    let device = Device::Cpu;
    let since = Instant::now();
    let architecture = model.architecture()?;
    let (channels, text) = (architecture.geometry().channels, architecture.text());
    let part = model.part(architecture.part(Role::Denoiser))?;
    let denoiser = architecture.load_denoiser(part.var_builder(DType::F32, &device)?, false)?;
    part.hash()?;
    let load = part.bytes() as f64 / since.elapsed().as_secs_f64();

    let denoise = |frames: usize, height: usize, width: usize| -> Result<TimedPass> {
        let latents = Tensor::zeros((frames, channels, height, width), DType::F32, &device)?;
        let text = Tensor::zeros((text.length, text.width), DType::F32, &device)?;
        let row = Row::new(latents, text, 500.0);
        let seconds = best(|| {
            let rows = [Half::UNCOND, Half::COND].map(|half| Branch::new(half, 0, 0)).to_vec();
            let pass = Pass { step: 0, steps: 1 };
            let mut hooks = Hooks::new(pass, rows, Vec::new(), &mut [], Sdpa::default(), 2)?;
            denoiser.forward(&[row.clone(), row.clone()], &mut hooks)?;
            hooks.finish()?;
            Ok(())
        })?;
        let row = architecture.row_work(frames, (height, width));
        let linear = 2.0 * (row.linear.small + row.linear.wide);
        Ok(TimedPass { linear, attention: 2.0 * row.attention, layers: row.layers as f64, seconds })
    };
    let passes = [denoise(2, 4, 6)?, denoise(7, 12, 18)?, denoise(13, 12, 18)?];
    let (linear, attention, layer) = solve(&passes);

    let vae = architecture
        .load_autoencoder(model.part(architecture.part(Role::Autoencoder))?.var_builder(DType::F32, &device)?, false)?;
    let decode = |height: usize, width: usize| -> Result<(f64, f64)> {
        let latents = Tensor::zeros((2, channels, height, width), DType::F32, &device)?;
        let mut session = vae.decoding(height, width, &DecodeOptions::default())?;
        session.decode(&latents)?; // the first chunk is another
        let seconds = best(|| Ok(session.decode(&latents)?))?;
        Ok((architecture.decoding_work(2, height * width, false).small, seconds))
    };
    let (small, large) = (decode(4, 6)?, decode(CELLS.0, CELLS.1)?);
    let conv = (large.0 - small.0) / (large.1 - small.1).max(1e-9);
    let chunk = (small.1 - small.0 / conv).max(0.0);

    let vb = VarBuilder::zeros(DType::F32, &device);
    let wide = linear::linear(1920, 1920, true, vb.clone())?;
    let rows = Tensor::zeros((512, 1920), DType::F32, &device)?;
    let linear_wide = 512.0 * 1920.0 * 1920.0 / best(|| Ok(wide.forward(&rows)?))?;
    let wide = conv3d(256, 256, 3, 1, vb)?;
    let map = Tensor::zeros((3, 256, 32, 32), DType::F32, &device)?;
    let conv_wide = 27.0 * 256.0 * 256.0 * 1024.0 / best(|| Ok(wide.forward(&map)?))?;

    Ok(Speed { linear, linear_wide, attention, layer, conv, conv_wide, chunk, load, pixel: pixel()? })
}

/// The least of several measurements in seconds; the first, which fills caches, counts only where it is all there is time for.
fn best<T>(mut work: impl FnMut() -> Result<T>) -> Result<f64> {
    let since = Instant::now();
    work()?;
    let first = since.elapsed().as_secs_f64();
    if first > LONG {
        return Ok(first);
    }
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let since = Instant::now();
        work()?;
        best = best.min(since.elapsed().as_secs_f64());
    }
    Ok(best.max(1e-9))
}

/// One pass of two rows through the transformer.
struct TimedPass {
    linear: f64,
    attention: f64,
    layers: f64,
    seconds: f64,
}

/// Speeds of products and of attention and seconds for a layer, from passes of three lengths. Where the lengths tell the two
/// speeds apart badly (a measurement was disturbed), one speed does for both.
fn solve([short, middle, long]: &[TimedPass; 3]) -> (f64, f64, f64) {
    let row = |pass: &TimedPass| [pass.linear, pass.attention, pass.layers];
    let determinant = |m: [[f64; 3]; 3]| {
        m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
            + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
    };
    let matrix = [row(short), row(middle), row(long)];
    let seconds = [short.seconds, middle.seconds, long.seconds];
    let whole = determinant(matrix);
    let unknown: [f64; 3] = std::array::from_fn(|column| {
        let mut replaced = matrix;
        replaced.iter_mut().zip(seconds).for_each(|(row, seconds)| row[column] = seconds);
        determinant(replaced) / whole
    });
    let [linear, attention, layer] = unknown;
    // attention is neither free nor five times as costly as products
    if linear > 0.0 && layer >= 0.0 && (linear / 3.0..linear * 5.0).contains(&attention) {
        return (1.0 / linear, 1.0 / attention, layer);
    }
    let (few, many) = (short.linear + short.attention, long.linear + long.attention);
    let each = ((long.seconds - short.seconds) / (many - few)).max(1e-15);
    (1.0 / each, 1.0 / each, ((short.seconds - few * each) / short.layers).max(0.0))
}

/// Seconds for a pixel of a written video, in the encoder that outputs get by themselves.
fn pixel() -> Result<f64> {
    let (width, height, frames) = (144, 96, 25);
    let folder = tempfile::tempdir()?;
    let rate = Rate::new(8, 1)?;
    let mp4 = Output::new(&folder.path().join("speed.mp4"), width, height, rate)?;
    let output = match video::check(&mp4) {
        Ok(_) => mp4,
        Err(_) => Output::new(&folder.path().join("speed.gif"), width, height, rate)?,
    };
    let frame = |index: usize| {
        let value = |at: usize| ((at / 3 % width + at / 3 / width + 3 * index) * 2 % 256) as u8;
        Frame { width, height, data: (0..width * height * 3).map(value).collect() }
    };
    let pictures: Vec<Frame> = (0..frames).map(frame).collect();
    let since = Instant::now();
    let mut writer = video::open(&output)?;
    for picture in pictures {
        writer.write(picture)?;
    }
    writer.finish()?;
    Ok(since.elapsed().as_secs_f64() / (width * height * frames) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_found_from_three_lengths() {
        let pass = |tokens: f64| {
            let (linear, attention, layers) = (tokens * 1e6, tokens * tokens * 1e4, 6.0);
            TimedPass { linear, attention, layers, seconds: linear / 50e9 + attention / 40e9 + layers * 1e-4 }
        };
        let (linear, attention, layer) = solve(&[pass(44.0), pass(410.0), pass(734.0)]);
        assert!((linear / 50e9 - 1.0).abs() < 1e-6 && (attention / 40e9 - 1.0).abs() < 1e-6, "{linear} {attention}");
        assert!((layer / 1e-4 - 1.0).abs() < 1e-6, "{layer}");
        // a disturbed measurement gives speeds all the same
        let slow = TimedPass { seconds: 1.0, ..pass(410.0) };
        let (linear, attention, layer) = solve(&[pass(44.0), slow, pass(734.0)]);
        assert!(linear > 0.0 && attention == linear && layer >= 0.0);
    }
}
