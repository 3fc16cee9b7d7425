//! Metrics of frames and of their order that need no network.
//!
//! All scores are 1 at best but [`seam`], which is 1 where windows leave no trace, and [`psnr`], which is in decibels. The
//! formulas with their sources are in docs/eval.md.

use super::layout::Layout;
use crate::video::Frame;

/// Mean absolute difference of two frames of one size, in levels from 0 to 255.
pub fn difference(a: &Frame, b: &Frame) -> f64 {
    let sum: u64 = a.data.iter().zip(&b.data).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.data.len().max(1) as f64
}

/// Cosine of the angle between two vectors. Two zeros are alike; a zero is like nothing else.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let norm = (dot(a, a) * dot(b, b)).sqrt();
    if norm > 0.0 { dot(a, b) / norm } else { f64::from(u8::from(dot(a, a) == dot(b, b))) }
}

/// The mean; none of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Deviation of the population.
pub fn deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values)?;
    Some((values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt())
}

/// Clip Similarity Coefficient of Variation (DiTCtrl, arXiv 2412.18597) of the similarities of neighbouring frames:
/// 1 / (1 + 10 CV), CV their population deviation over their mean. Where neighbours are on average not alike at all (a
/// mean of 0 or less), CV has no meaning and the score is 0.
pub fn cscv(similarities: &[f64]) -> Option<f64> {
    const LAMBDA: f64 = 10.0;
    let mean = mean(similarities)?;
    if mean <= 0.0 {
        return Some(0.0);
    }
    Some(1.0 / (1.0 + LAMBDA * deviation(similarities)? / mean))
}

/// Temporal flickering of VBench (arXiv 2311.17982): (255 - mean difference of neighbours) / 255. Motion lowers it as
/// flicker does.
pub fn flicker(differences: &[f64]) -> Option<f64> {
    mean(differences).map(|mean| (255.0 - mean) / 255.0)
}

/// How much more neighbours differ at the seams of windows than elsewhere.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seam {
    /// Mean difference at seams over mean difference at the other borders of latent frames.
    pub mean: f64,
    /// The same of the seam with the largest difference.
    pub worst: f64,
}

/// Added to both differences, in levels: two near-zero differences are alike, however many times one is the other.
const LEAST: f64 = 0.1;

/// `differences[i]` is that of frames i and i + 1. None without a seam, or without another border to compare with.
pub fn seam(differences: &[f64], layout: &Layout) -> Option<Seam> {
    let at = |borders: &[usize]| borders.iter().filter_map(|&frame| differences.get(frame - 1).copied()).collect();
    let (seams, others): (Vec<f64>, Vec<f64>) = (at(&layout.seams), at(&layout.others));
    let usual = mean(&others)? + LEAST;
    let worst = seams.iter().copied().reduce(f64::max)?;
    Some(Seam { mean: (mean(&seams)? + LEAST) / usual, worst: (worst + LEAST) / usual })
}

/// Mean squared error of two frames of one size, in levels squared.
pub fn squared_error(a: &Frame, b: &Frame) -> f64 {
    let square = |a: u8, b: u8| u64::from(a.abs_diff(b)).pow(2);
    let sum: u64 = a.data.iter().zip(&b.data).map(|(&a, &b)| square(a, b)).sum();
    sum as f64 / a.data.len().max(1) as f64
}

/// Peak signal-to-noise ratio in decibels; none where there is no error.
pub fn psnr(squared_error: f64) -> Option<f64> {
    (squared_error > 0.0).then(|| 10.0 * (255.0 * 255.0 / squared_error).log10())
}

/// Red, green and blue as brightness (BT.601), 0 to 255.
fn luma(frame: &Frame) -> Vec<f64> {
    let weigh = |p: &[u8]| 0.299 * f64::from(p[0]) + 0.587 * f64::from(p[1]) + 0.114 * f64::from(p[2]);
    frame.data.chunks_exact(3).map(weigh).collect()
}

const SSIM_SIDE: usize = 11;
const SSIM_SIGMA: f64 = 1.5;

/// Structural similarity (Wang et al. 2004) of two frames of one size: mean over the brightness, Gaussian window of 11 x 11
/// with deviation 1.5, only where it fits. None for frames that it does not fit.
pub fn ssim(a: &Frame, b: &Frame) -> Option<f64> {
    let (width, height) = (a.width, a.height);
    if width < SSIM_SIDE || height < SSIM_SIDE {
        return None;
    }
    let (a, b) = (luma(a), luma(b));
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<_>>();
    let smooth = |values: &[f64]| smoothed(values, width, height);
    let (ma, mb) = (smooth(&a), smooth(&b));
    let (aa, bb, ab) = (smooth(&product(&a, &a)), smooth(&product(&b, &b)), smooth(&product(&a, &b)));
    let (c1, c2) = ((0.01f64 * 255.0).powi(2), (0.03f64 * 255.0).powi(2));
    let at = |i: usize| {
        let (va, vb, cov) = (aa[i] - ma[i] * ma[i], bb[i] - mb[i] * mb[i], ab[i] - ma[i] * mb[i]);
        (2.0 * ma[i] * mb[i] + c1) * (2.0 * cov + c2) / ((ma[i].powi(2) + mb[i].powi(2) + c1) * (va + vb + c2))
    };
    Some((0..ma.len()).map(at).sum::<f64>() / ma.len() as f64)
}

/// The Gaussian mean around each place where the window fits.
fn smoothed(values: &[f64], width: usize, height: usize) -> Vec<f64> {
    let half = (SSIM_SIDE / 2) as f64;
    let raw: Vec<f64> =
        (0..SSIM_SIDE).map(|i| (-(i as f64 - half).powi(2) / (2.0 * SSIM_SIGMA * SSIM_SIGMA)).exp()).collect();
    let sum: f64 = raw.iter().sum();
    let kernel: Vec<f64> = raw.iter().map(|weight| weight / sum).collect();
    let columns = width - SSIM_SIDE + 1;
    let weigh = |window: &mut dyn Iterator<Item = &f64>| window.zip(&kernel).map(|(v, w)| v * w).sum::<f64>();
    let rows: Vec<f64> = values
        .chunks_exact(width)
        .flat_map(|row| (0..columns).map(|x| weigh(&mut row[x..].iter())).collect::<Vec<_>>())
        .collect();
    let down = |i: usize| weigh(&mut rows[i..].iter().step_by(columns));
    (0..columns * (height - SSIM_SIDE + 1)).map(down).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(level: u8) -> Frame {
        Frame { width: 16, height: 12, data: vec![level; 16 * 12 * 3] }
    }

    fn pattern(shift: usize) -> Frame {
        let byte = |i: usize| ((i / 3 % 16 + shift) * 13 % 200) as u8;
        Frame { data: (0..16 * 12 * 3).map(byte).collect(), ..grey(0) }
    }

    #[test]
    fn differences_are_in_levels() {
        assert_eq!(difference(&grey(10), &grey(13)), 3.0);
        assert_eq!(squared_error(&grey(13), &grey(10)), 9.0);
        assert_eq!(flicker(&[0.0, 51.0]), Some(0.9));
        assert_eq!(flicker(&[]), None);
    }

    #[test]
    fn cscv_is_one_where_nothing_varies_and_falls_with_the_spread() {
        assert!((cscv(&[0.8, 0.8, 0.8]).unwrap() - 1.0).abs() < 1e-12);
        // mean 0.75, deviation 0.25: 1 / (1 + 10 / 3)
        assert!((cscv(&[1.0, 0.5]).unwrap() - 3.0 / 13.0).abs() < 1e-12);
        assert_eq!(cscv(&[-0.5, 0.1]), Some(0.0));
        assert_eq!(cscv(&[]), None);
    }

    #[test]
    fn cosines() {
        assert!((cosine(&[1.0, 2.0], &[2.0, 4.0]) - 1.0).abs() < 1e-12);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 3.0]), 0.0);
        assert_eq!((cosine(&[0.0], &[0.0]), cosine(&[0.0], &[1.0])), (1.0, 0.0));
    }

    #[test]
    fn psnr_and_ssim_know_equal_frames_and_unequal_ones() {
        assert_eq!(psnr(0.0), None);
        assert!((psnr(255.0 * 255.0).unwrap()).abs() < 1e-12);
        assert!((psnr(1.0).unwrap() - 48.1308).abs() < 1e-4);
        assert!((ssim(&pattern(0), &pattern(0)).unwrap() - 1.0).abs() < 1e-12);
        // of two flat frames only the means count: (2ab + c1) / (a^2 + b^2 + c1)
        let want = (2.0 * 100.0 * 50.0 + 6.5025) / (10_000.0 + 2_500.0 + 6.5025);
        assert!((ssim(&grey(100), &grey(50)).unwrap() - want).abs() < 1e-9);
        assert!(ssim(&pattern(0), &pattern(3)).unwrap() < 0.9);
        assert_eq!(ssim(&Frame { width: 4, height: 4, data: vec![0; 48] }, &grey(0)), None);
    }
}
