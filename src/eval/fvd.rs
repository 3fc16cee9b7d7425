//! Fréchet video distance (arXiv 1812.01717): how far two sets of videos are from each other, as clouds of what a network sees in
//! them.
//!
//! d = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2) with the means m and covariances C (of n - 1) of the logits of I3D. The trace of the
//! root is the sum of the singular values of A1' A2, where C = A A': no root of a matrix is taken, and sets smaller than the
//! number of logits need no special care.

use crate::models::NotFinite;
use crate::models::i3d::{I3d, SIDE};
use crate::nn::resample::resize_bilinear;
use crate::video::Frame;
use crate::weights::Measure;
use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use std::path::Path;

/// The name of the network's file where `make metrics` leaves it.
const FILE: &str = "i3d-kinetics-400.safetensors";
/// For reports.
pub const NETWORK: &str = "I3D on Kinetics-400 (logits)";
/// Frames of each video that are seen: its first.
pub const FRAMES: usize = 16;

/// The network, loaded.
#[derive(Debug, Clone)]
pub struct Fvd {
    network: I3d,
    device: Device,
    /// Where it came from.
    pub file: String,
}

/// What the network sees in a video: a number for each class.
pub type Logits = Vec<f64>;

impl Fvd {
    /// From the given file, else from the one that `make metrics` left, if it did. Errors that lie in the file are
    /// [`crate::weights::ModelError`]s.
    pub fn open(given: Option<&Path>, device: &Device) -> Result<Option<Self>> {
        let Some(measure) = Measure::open(given, FILE)? else { return Ok(None) };
        let file = measure.path.display().to_string();
        Ok(Some(Self { network: measure.build(device, I3d::new)?, device: device.clone(), file }))
    }

    /// The first [`FRAMES`] of a video, each resized to 224 x 224, as `[T, 3, H, W]`; none of a shorter one. Errors: those of the
    /// frames.
    pub fn clip(&self, frames: &mut dyn Iterator<Item = Result<Frame>>) -> Result<Option<Tensor>> {
        let mut clip = Vec::with_capacity(FRAMES);
        for frame in frames.take(FRAMES) {
            let frame = frame?;
            let channel = |c: usize| frame.data.iter().skip(c).step_by(3).map(|&value| f32::from(value) / 127.5 - 1.0);
            let pixels: Vec<f32> = (0..3).flat_map(channel).collect();
            let pixels = Tensor::from_vec(pixels, (1, 3, frame.height, frame.width), &self.device)?;
            clip.push(resize_bilinear(&pixels, SIDE, SIDE)?);
        }
        Ok(if clip.len() == FRAMES { Some(Tensor::cat(&clip, 0)?) } else { None })
    }

    /// What is seen in such a clip.
    pub fn look(&self, clip: &Tensor) -> Result<Logits> {
        let logits = self.network.forward(clip)?.to_vec1::<f32>()?;
        ensure!(logits.iter().all(|value| value.is_finite()), NotFinite("I3D"));
        Ok(logits.into_iter().map(f64::from).collect())
    }
}

/// The distance of two sets, at least two videos each; none of smaller ones.
pub fn distance(a: &[Logits], b: &[Logits]) -> Option<f64> {
    if a.len() < 2 || b.len() < 2 {
        return None;
    }
    let ((mean_a, a), (mean_b, b)) = (centred(a), centred(b));
    let apart: f64 = mean_a.iter().zip(&mean_b).map(|(a, b)| (a - b).powi(2)).sum();
    let trace = |rows: &[Logits]| rows.iter().flatten().map(|x| x * x).sum::<f64>();
    let dot = |a: &Logits, b: &Logits| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    // columns are the fewer
    let (few, many) = if a.len() < b.len() { (&a, &b) } else { (&b, &a) };
    let products = few.iter().map(|x| many.iter().map(|y| dot(x, y)).collect()).collect();
    Some((apart + trace(&a) + trace(&b) - 2.0 * singular_values(products).iter().sum::<f64>()).max(0.0))
}

/// Mean, and the rows less it, over the root of n - 1.
fn centred(rows: &[Logits]) -> (Logits, Vec<Logits>) {
    let count = rows.len() as f64;
    let width = rows.iter().map(Vec::len).min().unwrap_or(0);
    let mean: Logits = (0..width).map(|i| rows.iter().map(|row| row[i]).sum::<f64>() / count).collect();
    let root = (count - 1.0).sqrt();
    let less = |row: &Logits| row.iter().zip(&mean).map(|(x, mean)| (x - mean) / root).collect();
    (mean.clone(), rows.iter().map(less).collect())
}

/// Of the matrix of these columns, by Hestenes' rotations: columns are turned in pairs until all are at right angles, and then
/// their lengths are the singular values.
fn singular_values(mut columns: Vec<Vec<f64>>) -> Vec<f64> {
    const MOST_SWEEPS: usize = 60;
    const RIGHT: f64 = 1e-12;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for _ in 0..MOST_SWEEPS {
        let mut turned = false;
        for i in 1..columns.len() {
            let (before, rest) = columns.split_at_mut(i);
            let b = &mut rest[0];
            for a in before {
                let (aa, bb, ab) = (dot(a, a), dot(b, b), dot(a, b));
                if ab.abs() <= RIGHT * (aa * bb).sqrt() || ab == 0.0 {
                    continue;
                }
                turned = true;
                let zeta = (bb - aa) / (2.0 * ab);
                let tangent = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
                let sine = cosine * tangent;
                for (x, y) in a.iter_mut().zip(b.iter_mut()) {
                    (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
                }
            }
        }
        if !turned {
            break;
        }
    }
    columns.iter().map(|column| dot(column, column).sqrt()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn singular_values_are_those_of_known_matrices() {
        let mut values = singular_values(vec![vec![3.0, 4.0], vec![0.0, 5.0]]);
        values.sort_by(f64::total_cmp);
        // A'A has the eigenvalues 45 and 5
        assert!((values[0] - 5f64.sqrt()).abs() < 1e-12 && (values[1] - 45f64.sqrt()).abs() < 1e-12, "{values:?}");
        assert_eq!(singular_values(vec![vec![0.0, 0.0], vec![0.0, 2.0]]), [0.0, 2.0]);
        let one = singular_values(vec![vec![1.0, 2.0], vec![2.0, 4.0]]).into_iter().sum::<f64>();
        assert!((one - 5.0).abs() < 1e-12, "of rank one: {one}");
    }

    #[test]
    fn the_distance_of_normal_clouds_is_its_formula() {
        // on one axis (m1 - m2)^2 + (s1 - s2)^2
        let line = |values: &[f64]| values.iter().map(|&x| vec![x, 1.0]).collect::<Vec<_>>();
        let (a, b) = (line(&[1.0, 3.0, 5.0]), line(&[10.0, 11.0, 12.0, 13.0]));
        let (s1, s2) = (2.0, (5f64 / 3.0).sqrt());
        let want = (11.5f64 - 3.0).powi(2) + (s1 - s2).powi(2);
        assert!((distance(&a, &b).unwrap() - want).abs() < 1e-9);
        assert!((distance(&b, &a).unwrap() - want).abs() < 1e-9);
        assert!(distance(&a, &a).unwrap() < 1e-9);
        assert_eq!(distance(&a[..1], &b), None);
    }
}
