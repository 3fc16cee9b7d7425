//! Faces in frames, and whether those of neighbouring frames are one person's.
//!
//! A face is found on the whole frame, its 68 landmarks in the box that was found, and the picture that tells persons apart is cut out
//! so that the eyes are level: its side is the distance of eyes and mouth over 0.45, its middle 0.43 from above the mean of the three
//! (face-api's alignment for dlib's network, which does not turn the picture).

use super::frames::cosine;
use crate::models::NotFinite;
use crate::models::faces::{
    DETECTOR_MEAN, DETECTOR_SIDE, FACE_MEAN, FACE_SIDE, FaceDetector, FaceEmbedder, FaceLandmarks, LANDMARKS_SIDE,
};
use crate::nn::resample::resize_bilinear;
use crate::video::Frame;
use crate::weights::Measure;
use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use std::path::Path;

/// The name of the networks' file where `make metrics` leaves it.
const FILE: &str = "faces.safetensors";
/// For reports.
pub const NETWORK: &str = "face-api's detector and landmarks, dlib's recognition";
/// Score from which on a face is one.
const LEAST_SCORE: f64 = 0.5;
/// How many times finer than it is seen a part is cut out at most.
const MOST_TIMES: usize = 8;
/// Share of their union that boxes of two faces may have in common.
const OVERLAP: f64 = 0.4;

/// The networks, loaded.
#[derive(Debug, Clone)]
pub struct Faces {
    detector: FaceDetector,
    landmarks: FaceLandmarks,
    embedder: FaceEmbedder,
    device: Device,
    /// Where they came from.
    pub file: String,
}

/// A square part of a frame, turned: its middle and the way from it to the middle of its right edge, in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cut {
    middle: [f64; 2],
    right: [f64; 2],
}

impl Faces {
    /// From the given file, else from the one that `make metrics` left, if it did. Errors that lie in the file are
    /// [`crate::weights::ModelError`]s.
    pub fn open(given: Option<&Path>, device: &Device) -> Result<Option<Self>> {
        let Some(measure) = Measure::open(given, FILE)? else { return Ok(None) };
        let file = measure.path.display().to_string();
        let (detector, landmarks, embedder) = measure.build(device, |vb| {
            let detector = FaceDetector::new(vb.pp("detector"))?;
            Ok((detector, FaceLandmarks::new(vb.pp("landmarks"))?, FaceEmbedder::new(vb.pp("recognition"))?))
        })?;
        Ok(Some(Self { detector, landmarks, embedder, device: device.clone(), file }))
    }

    /// The embedding of each face in a frame, the clearest first.
    pub fn look(&self, frame: &Frame) -> Result<Vec<Vec<f32>>> {
        let side = frame.width.max(frame.height);
        // the frame in the upper left corner of a square
        let whole = Cut { middle: [side as f64 / 2.0; 2], right: [side as f64 / 2.0, 0.0] };
        let output = self.detector.forward(&self.seen(frame, whole, DETECTOR_SIDE, DETECTOR_MEAN)?)?;
        let found = FaceDetector::faces(&output, LEAST_SCORE, OVERLAP)?;
        let mut embeddings = Vec::with_capacity(found.len());
        for face in found {
            let [left, top, right, bottom] = face.bounds.map(|edge| edge * side as f64);
            let half = (right - left).max(bottom - top) / 2.0;
            let middle = [(left + right) / 2.0, (top + bottom) / 2.0];
            let inside = |at: f64, length: usize| (0.0..length as f64).contains(&at);
            if !((1.0..=side as f64).contains(&half)
                && inside(middle[0], frame.width)
                && inside(middle[1], frame.height))
            {
                continue;
            }
            let cut = Cut { middle, right: [half, 0.0] };
            let points =
                self.landmarks.forward(&self.seen(frame, cut, LANDMARKS_SIDE, FACE_MEAN)?)?.to_vec1::<f32>()?;
            ensure!(points.iter().all(|value| value.is_finite()), NotFinite("the face landmarks"));
            let embedding = self.embedder.forward(&self.seen(frame, upright(&points, cut), FACE_SIDE, FACE_MEAN)?)?;
            let embedding = embedding.to_vec1::<f32>()?;
            ensure!(embedding.iter().all(|value| value.is_finite()), NotFinite("the face embedding"));
            embeddings.push(embedding);
        }
        Ok(embeddings)
    }

    /// A part of a frame at `side`, less `mean`, divided by 255: `[1, 3, side, side]`. What is beyond the frame is black.
    fn seen(&self, frame: &Frame, cut: Cut, side: usize, mean: [f32; 3]) -> Result<Tensor> {
        // a part much larger than `side` is first cut at its own size, and then averaged down
        let own = (2.0 * cut.right[0].hypot(cut.right[1])).round().clamp(1.0, 4096.0) as usize;
        let times = (own / side).clamp(1, MOST_TIMES);
        let fine = side * times;
        let mut pixels = vec![0f32; 3 * fine * fine];
        for (i, (y, x)) in (0..fine * fine).map(|i| (i, (i / fine, i % fine))) {
            let of = |at: usize| (at as f64 + 0.5) / fine as f64 * 2.0 - 1.0;
            let ([across, down], [dx, dy]) = ([of(x), of(y)], cut.right);
            let at = [cut.middle[0] + across * dx - down * dy, cut.middle[1] + across * dy + down * dx];
            for (c, value) in colour(frame, at).into_iter().enumerate() {
                pixels[c * fine * fine + i] = (value - mean[c]) / 255.0;
            }
        }
        let mut pixels = Tensor::from_vec(pixels, (1, 3, fine, fine), &self.device)?;
        if times > 1 {
            pixels = pixels.avg_pool2d(times)?;
        }
        Ok(resize_bilinear(&pixels, side, side)?)
    }
}

/// Between the pixels of a frame, by their middles; black outside.
fn colour(frame: &Frame, [x, y]: [f64; 2]) -> [f32; 3] {
    let (x, y) = (x - 0.5, y - 0.5);
    let (left, top) = (x.floor(), y.floor());
    let (across, down) = ((x - left) as f32, (y - top) as f32);
    let pixel = |dx: f64, dy: f64, c: usize| {
        let (x, y) = (left + dx, top + dy);
        let inside = x >= 0.0 && y >= 0.0 && x < frame.width as f64 && y < frame.height as f64;
        if inside { f32::from(frame.data[(y as usize * frame.width + x as usize) * 3 + c]) } else { 0.0 }
    };
    [0, 1, 2].map(|c| {
        let upper = pixel(0.0, 0.0, c) * (1.0 - across) + pixel(1.0, 0.0, c) * across;
        let lower = pixel(0.0, 1.0, c) * (1.0 - across) + pixel(1.0, 1.0, c) * across;
        upper * (1.0 - down) + lower * down
    })
}

/// The part that shows a face with its eyes level: `points` are x and y of its 68 landmarks in units of `seen`.
fn upright(points: &[f32], seen: Cut) -> Cut {
    let mean = |range: std::ops::Range<usize>| {
        let count = range.len() as f64;
        [0, 1].map(|axis| range.clone().map(|i| f64::from(points[2 * i + axis])).sum::<f64>() / count)
    };
    let (left, right, mouth) = (mean(36..42), mean(42..48), mean(48..68));
    let far = |a: [f64; 2], b: [f64; 2]| (a[0] - b[0]).hypot(a[1] - b[1]);
    // in units of the side that was seen
    let side = (far(left, mouth) + far(right, mouth)) / 2.0 / 0.45;
    let (dx, dy) = (right[0] - left[0], right[1] - left[1]);
    let apart = dx.hypot(dy).max(1e-6);
    let (cosine, sine) = (dx / apart, dy / apart);
    let reference = [0, 1].map(|axis| (left[axis] + right[axis] + mouth[axis]) / 3.0);
    // 0.43 of the side lies above the reference
    let middle = [reference[0] - 0.07 * side * sine, reference[1] + 0.07 * side * cosine];
    let [across, down] = middle.map(|at| 2.0 * at - 1.0);
    let [rx, ry] = seen.right;
    Cut {
        middle: [seen.middle[0] + across * rx - down * ry, seen.middle[1] + across * ry + down * rx],
        right: [side * (cosine * rx - sine * ry), side * (cosine * ry + sine * rx)],
    }
}

/// How alike the most alike faces of two frames are; 0 where one has none.
pub fn alike(before: &[Vec<f32>], now: &[Vec<f32>]) -> f64 {
    let pairs = before.iter().flat_map(|a| now.iter().map(move |b| cosine(a, b)));
    pairs.fold(None, |most: Option<f64>, pair| Some(most.map_or(pair, |most| most.max(pair)))).unwrap_or(0.0)
}

/// StreamingT2V's re-identification score: what neighbours have in common, summed, over the number of frames with a face. None without
/// a face.
pub fn reidentification(pairs: &[f64], with_faces: usize) -> Option<f64> {
    (with_faces > 0 && !pairs.is_empty()).then(|| pairs.iter().sum::<f64>() / with_faces as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_face_is_cut_out_upright() {
        let mut points = vec![0f32; 136];
        let mut set = |range: std::ops::Range<usize>, x: f32, y: f32| {
            range.for_each(|i| (points[2 * i], points[2 * i + 1]) = (x, y));
        };
        set(36..42, 0.4, 0.4);
        set(42..48, 0.6, 0.4);
        set(48..68, 0.5, 0.7);
        let seen = Cut { middle: [50.0, 60.0], right: [20.0, 0.0] };
        let cut = upright(&points, seen);
        let side = 0.1f64.hypot(0.3) / 0.45;
        assert!((cut.right[0] - 20.0 * side).abs() < 1e-5 && cut.right[1].abs() < 1e-5, "{cut:?}");
        assert!((cut.middle[0] - 50.0).abs() < 1e-5 && (cut.middle[1] - 60.0 - 40.0 * 0.07 * side).abs() < 1e-5);
        // the same face in a frame seen on its side
        let turned = upright(&points, Cut { right: [0.0, 20.0], ..seen });
        assert!((turned.right[1] - cut.right[0]).abs() < 1e-5 && turned.right[0].abs() < 1e-5, "{turned:?}");
    }

    #[test]
    fn colours_lie_between_pixels_and_are_black_outside() {
        let frame = Frame { width: 2, height: 1, data: vec![100, 0, 0, 200, 0, 0] };
        assert_eq!(colour(&frame, [1.0, 0.5])[0], 150.0);
        assert_eq!(colour(&frame, [0.5, 0.5])[0], 100.0);
        assert_eq!(colour(&frame, [-3.0, 0.5])[0], 0.0);
    }

    #[test]
    fn persons_are_told_apart_by_the_most_alike_faces() {
        let (a, b) = ([vec![1.0f32, 0.0]], [vec![0.0f32, 1.0]]);
        assert_eq!(alike(&[&a[..], &b].concat(), &b), 1.0);
        assert_eq!(alike(&a, &b), 0.0);
        assert_eq!(alike(&a, &[]), 0.0);
        assert_eq!(reidentification(&[1.0, 0.0, 0.5], 3), Some(0.5));
        assert_eq!(reidentification(&[0.0], 0), None);
    }
}
