//! Positions of CogVideoX tokens: additive 3D sine tables (2B) and rotary tables (5B, 1.5).
//!
//! After diffusers' `get_3d_sincos_pos_embed` and `get_3d_rotary_pos_embed`. Positions are local to the window that a row
//! holds: the first latent frame of every window has time position 0.

use super::config::TransformerConfig;
use candle_core::{DType, Device, Result, Tensor, bail};
use std::f64::consts::TAU;

/// Frames, height and width of the token grid.
pub type Grid = (usize, usize, usize);

/// What a token grid adds to a network: one of the two tables.
#[derive(Debug, Clone)]
pub enum Positions {
    /// Added to the embedded tokens; `[1, L, D]` over the joint sequence, zero on text tokens.
    Sincos(Tensor),
    /// Rotates queries and keys; each `[L, D/2]` over the joint sequence, the identity on text tokens.
    Rotary { cos: Tensor, sin: Tensor },
}

impl Positions {
    /// Tables for `text` tokens followed by the grid's tokens in frame, row, column order.
    pub fn new(config: &TransformerConfig, text: usize, grid: Grid, dtype: DType, device: &Device) -> Result<Self> {
        if config.use_rotary_positional_embeddings {
            let (cos, sin) = rotary(config, text, grid)?;
            // the rotation itself runs in f32 whatever the dtype of the network, as in diffusers
            Ok(Self::Rotary { cos: cos.to_device(device)?, sin: sin.to_device(device)? })
        } else {
            Ok(Self::Sincos(sincos(config, text, grid)?.to_device(device)?.to_dtype(dtype)?))
        }
    }
}

/// `[sin(p w_0) .. sin(p w_{n-1}), cos(p w_0) ..]` with `w_j = 10000^(-j/n)`, n = width / 2.
fn sine_row(position: f64, width: usize, out: &mut Vec<f32>) {
    let half = width / 2;
    let angle = |j: usize| position * 10000f64.powf(-(j as f64) / half as f64);
    out.extend((0..half).map(|j| angle(j).sin() as f32));
    out.extend((0..half).map(|j| angle(j).cos() as f32));
}

/// Channels are a quarter time, then three eighths each for column and row: width comes before height, as in the reference.
fn sincos(config: &TransformerConfig, text: usize, (frames, height, width): Grid) -> Result<Tensor> {
    let dim = config.inner_dim();
    if !dim.is_multiple_of(16) {
        bail!("positions need a model width that is a multiple of 16, got {dim}")
    }
    let (time, space) = (dim / 4, dim / 4 * 3 / 2);
    let table = |count: usize, width: usize, scale: f64| -> Vec<Vec<f32>> {
        let row = |p| {
            let mut row = Vec::with_capacity(width);
            sine_row(p as f64 / scale, width, &mut row);
            row
        };
        (0..count).map(row).collect()
    };
    let times = table(frames, time, config.temporal_interpolation_scale);
    let columns = table(width, space, config.spatial_interpolation_scale);
    let rows = table(height, space, config.spatial_interpolation_scale);
    let mut values = vec![0f32; text * dim];
    values.reserve(frames * height * width * dim);
    for time in &times {
        for row in &rows {
            for column in &columns {
                values.extend_from_slice(time);
                values.extend_from_slice(column);
                values.extend_from_slice(row);
            }
        }
    }
    Tensor::from_vec(values, (1, text + frames * height * width, dim), &Device::Cpu)
}

/// `10000^(-2j/dim)`.
fn frequencies(dim: usize) -> Vec<f64> {
    (0..dim / 2).map(|j| 10000f64.powf(-((2 * j) as f64) / dim as f64)).collect()
}

/// The frequencies of rotary positions in time.
pub fn time_frequencies(config: &TransformerConfig) -> Vec<f64> {
    frequencies(config.attention_head_dim / 4)
}

/// A head is a quarter time, three eighths rows, three eighths columns; theta 10000.
fn rotary(config: &TransformerConfig, text: usize, (frames, height, width): Grid) -> Result<(Tensor, Tensor)> {
    let dim = config.attention_head_dim;
    if !dim.is_multiple_of(16) {
        bail!("rotary positions need a head width that is a multiple of 16, got {dim}")
    }
    let (time, space) = (dim / 4, dim / 8 * 3);
    let (row_positions, column_positions) = match config.patch_size_t {
        // CogVideoX: the grid is fitted into the training grid, so that other sizes span the same range
        None => {
            let base = (config.sample_height / config.patch_size, config.sample_width / config.patch_size);
            let ((top, left), (bottom, right)) = crop_region((height, width), base);
            (linspace(top, bottom, height), linspace(left, right, width))
        }
        // CogVideoX 1.5: plain indices
        Some(_) => ((0..height).map(|i| i as f64).collect(), (0..width).map(|i| i as f64).collect()),
    };
    let angles = |positions: &[f64], frequencies: &[f64]| -> Vec<Vec<f64>> {
        positions.iter().map(|p| frequencies.iter().map(|f| p * f).collect()).collect()
    };
    let mut in_time = frequencies(time);
    if let Some(lowered) = config.riflex.and_then(|k| in_time.get_mut(k.wrapping_sub(1))) {
        // a window that is longer than a period would repeat itself
        if frames as f64 > (TAU / *lowered).round() {
            *lowered = 0.9 * TAU / frames as f64;
        }
    }
    let times = angles(&(0..frames).map(|i| i as f64).collect::<Vec<_>>(), &in_time);
    let rows = angles(&row_positions, &frequencies(space));
    let columns = angles(&column_positions, &frequencies(space));
    let mut values = vec![0f64; text * dim / 2];
    values.reserve(frames * height * width * dim / 2);
    for time in &times {
        for row in &rows {
            for column in &columns {
                values.extend_from_slice(time);
                values.extend_from_slice(row);
                values.extend_from_slice(column);
            }
        }
    }
    let shape = (text + frames * height * width, dim / 2);
    let cos = values.iter().map(|angle| angle.cos() as f32).collect();
    let sin = values.iter().map(|angle| angle.sin() as f32).collect();
    Ok((Tensor::from_vec(cos, shape, &Device::Cpu)?, Tensor::from_vec(sin, shape, &Device::Cpu)?))
}

/// `count` positions from `start`, evenly, `stop` itself excluded.
fn linspace(start: f64, stop: f64, count: usize) -> Vec<f64> {
    let last = stop * (count as f64 - 1.0) / count as f64;
    let step = if count > 1 { (last - start) / (count as f64 - 1.0) } else { 0.0 };
    (0..count).map(|i| start + step * i as f64).collect()
}

/// Where a grid lies in the training grid when it is scaled to fit and centred: top left and bottom right.
fn crop_region((height, width): (usize, usize), base: (usize, usize)) -> ((f64, f64), (f64, f64)) {
    let (base_height, base_width) = (base.0 as f64, base.1 as f64);
    let (height, width) = (height as f64, width as f64);
    let (fit_height, fit_width) = if height / width > base_height / base_width {
        (base_height, (base_height / height * width).round_ties_even())
    } else {
        ((base_width / width * height).round_ties_even(), base_width)
    };
    let top = ((base_height - fit_height) / 2.0).round_ties_even();
    let left = ((base_width - fit_width) / 2.0).round_ties_even();
    ((top, left), (top + fit_height, left + fit_width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_training_grid_maps_to_itself() {
        assert_eq!(crop_region((30, 45), (30, 45)), ((0.0, 0.0), (30.0, 45.0)));
        assert_eq!(linspace(0.0, 30.0, 30), (0..30).map(f64::from).collect::<Vec<_>>());
    }

    #[test]
    fn another_aspect_is_centred_in_the_training_grid() {
        // 45 x 30 (portrait) scaled to height 30: width 20, so columns 12 to 32 (round half to even of 12.5)
        assert_eq!(crop_region((45, 30), (30, 45)), ((0.0, 12.0), (30.0, 32.0)));
    }
}
