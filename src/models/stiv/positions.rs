//! Rotary positions of STIV's tokens: rows and columns within a frame, frames in time. Each axis has its own pairs, `(j, j + n/2)`
//! of its n numbers of a head; a position is a plain index times the folder's factor, whatever the size of the video.

use super::config::StivConfig;
use crate::nn::rope::Halves;
use candle_core::{Device, Result, Tensor};

/// The tables of one grid of tokens.
#[derive(Debug, Clone)]
pub(super) struct Positions {
    /// Over the tokens of a frame, row by row.
    pub space: Halves,
    /// Over the frames.
    pub time: Halves,
}

impl Positions {
    /// `grid`: frames, height and width in tokens.
    pub fn new(config: &StivConfig, (frames, height, width): (usize, usize, usize), device: &Device) -> Result<Self> {
        let [in_time, in_rows, in_columns] = config.rope_interpolation;
        let [rows, columns] = config.rope_axes_dim;
        let angles = |position: usize, factor: f64, axis: usize| -> Vec<f64> {
            let angle = |j: usize| position as f64 * factor * config.rope_theta.powf(-2.0 * j as f64 / axis as f64);
            (0..axis / 2).map(angle).collect()
        };
        let head = config.attention_head_dim;
        let in_frame = (0..height * width).flat_map(|token| {
            let row = angles(token / width, in_rows, rows);
            row.into_iter().chain(angles(token % width, in_columns, columns))
        });
        let along = (0..frames).flat_map(|frame| angles(frame, in_time, head));
        Ok(Self {
            space: table(in_frame.collect(), (height * width, head / 2), vec![rows, columns], device)?,
            time: table(along.collect(), (frames, head / 2), vec![head], device)?,
        })
    }
}

fn table(angles: Vec<f64>, shape: (usize, usize), axes: Vec<usize>, device: &Device) -> Result<Halves> {
    let of = |f: fn(f64) -> f64| {
        let values: Vec<f32> = angles.iter().map(|&angle| f(angle) as f32).collect();
        Tensor::from_vec(values, shape, &Device::Cpu)?.to_device(device)
    };
    Ok(Halves { cos: of(f64::cos)?, sin: of(f64::sin)?, axes })
}
