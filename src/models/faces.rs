//! Faces: where they are, their eyes and mouths, and whose they are. Three small networks, as npm's @vladmandic/face-api 1.7.15 runs
//! them: a tiny YOLO v2, a landmark network of dense blocks, and dlib's ResNet for recognition.
//!
//! A depthwise convolution and the pointwise one behind it have nothing between them: here they are one convolution with the product
//! of both kernels. Widths come from the weights. Kernels are `[out, in, k, k]`, depthwise ones `[1, C, k, k]`.

use crate::nn::conv::{Conv2d, Form};
use crate::nn::pool::{Window, max_pool};
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

/// Sides of the square pictures that the networks see.
pub const DETECTOR_SIDE: usize = 416;
pub const LANDMARKS_SIDE: usize = 112;
pub const FACE_SIDE: usize = 150;

/// Mean colours, and what is left is divided by 255.
pub const DETECTOR_MEAN: [f32; 3] = [117.001, 114.697, 97.404];
pub const FACE_MEAN: [f32; 3] = [122.782, 117.001, 104.298];

/// Width and height of the detector's boxes before it scales them, in cells.
const ANCHORS: [[f64; 2]; 5] =
    [[1.603231, 2.094468], [6.041143, 7.080126], [2.882459, 3.518061], [4.266906, 5.178857], [9.041765, 10.66308]];
/// Slope of the detector's activation below zero.
const SLOPE: f32 = 0.1;

/// A box: left, top, right and bottom in units of the square picture's side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    pub bounds: [f64; 4],
    /// 0 to 1.
    pub score: f64,
}

/// Weight and bias of a plain or a separable convolution.
fn kernel(vb: &VarBuilder) -> Result<(Tensor, Tensor)> {
    let weight = if vb.contains_tensor("filters") {
        vb.get_unchecked("filters")?
    } else {
        vb.get_unchecked("pointwise_filter")?.broadcast_mul(&vb.get_unchecked("depthwise_filter")?)?
    };
    let bias = vb.get(weight.dim(0)?, "bias")?;
    Ok((weight, bias))
}

fn form(stride: usize, padding: usize) -> Form {
    Form { stride, padding, dilation: 1 }
}

fn pool(x: &Tensor, window: Window) -> Result<Tensor> {
    max_pool(x, [Window::fitting(1, 1), window, window])
}

/// Where faces are.
#[derive(Debug, Clone)]
pub struct FaceDetector {
    layers: Vec<Conv2d>, // conv0 .. conv5
    last: Conv2d,        // conv8
}

impl FaceDetector {
    /// Errors: tensors that are missing or have another shape; they name it.
    pub fn new(vb: VarBuilder) -> Result<Self> {
        let layer = |i: usize| {
            let (weight, bias) = kernel(&vb.pp(format!("conv{i}")))?;
            let slopes = Tensor::full(SLOPE, weight.dim(0)?, weight.device())?;
            Conv2d::new(&weight, Some(bias), form(1, usize::from(i > 0)))?.with_prelu(&slopes)
        };
        let (weight, bias) = kernel(&vb.pp("conv8"))?;
        let outputs = 5 * ANCHORS.len();
        if weight.dim(0)? != outputs {
            bail!("conv8: {} outputs instead of {outputs}", weight.dim(0)?)
        }
        Ok(Self {
            layers: (0..6).map(layer).collect::<Result<_>>()?,
            last: Conv2d::new(&weight, Some(bias), form(1, 0))?,
        })
    }

    /// What the network gives for a picture `[1, 3, 416, 416]`, less its mean, divided by 255: `[1, 25, 13, 13]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            let stride = if i + 1 == self.layers.len() { 1 } else { 2 };
            x = pool(&layer.forward(&x)?, Window { kernel: 2, stride, same: true })?;
        }
        self.last.forward(&x)
    }

    /// The faces in what the network gave that score more than `least`; of those that overlap by more than `overlap` of their union the
    /// one that scores most, best first.
    pub fn faces(output: &Tensor, least: f64, overlap: f64) -> Result<Vec<Found>> {
        let (_, _, rows, columns) = output.dims4()?;
        let values = output.flatten_all()?.to_vec1::<f32>()?;
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let mut found = Vec::new();
        for (place, anchor) in (0..rows * columns).flat_map(|place| (0..ANCHORS.len()).map(move |a| (place, a))) {
            let at = |i: usize| f64::from(values[(anchor * 5 + i) * rows * columns + place]);
            let score = sigmoid(at(4));
            if score.is_nan() || score <= least {
                continue;
            }
            let (column, row) = ((place % columns) as f64, (place / columns) as f64);
            let (x, y) = ((column + sigmoid(at(0))) / columns as f64, (row + sigmoid(at(1))) / rows as f64);
            let width = at(2).exp() * ANCHORS[anchor][0] / columns as f64;
            let height = at(3).exp() * ANCHORS[anchor][1] / rows as f64;
            let bounds = [x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0];
            found.push(Found { bounds, score });
        }
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        let mut kept: Vec<Found> = Vec::new();
        for face in found {
            if kept.iter().all(|other| shared(&face.bounds, &other.bounds) <= overlap) {
                kept.push(face);
            }
        }
        Ok(kept)
    }
}

/// Intersection over union of two boxes.
fn shared(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let area = |[left, top, right, bottom]: [f64; 4]| (right - left).max(0.0) * (bottom - top).max(0.0);
    let both = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    both / (area(*a) + area(*b) - both).max(f64::MIN_POSITIVE)
}

/// Where eyes, nose and mouth of a face are: 68 points.
#[derive(Debug, Clone)]
pub struct FaceLandmarks {
    blocks: Vec<[Conv2d; 3]>, // dense0 .. dense2
    weight: Tensor,           // fc, [136, C]
    bias: Tensor,
}

impl FaceLandmarks {
    /// Errors: tensors that are missing or have another shape; they name it.
    pub fn new(vb: VarBuilder) -> Result<Self> {
        let block = |i: usize| {
            let vb = vb.pp(format!("dense{i}"));
            let layer = |i: usize, form| {
                let (weight, bias) = kernel(&vb.pp(format!("conv{i}")))?;
                Conv2d::new(&weight, Some(bias), form)
            };
            Ok([layer(0, form(2, 0))?.with_relu()?, layer(1, form(1, 1))?, layer(2, form(1, 1))?])
        };
        let fc = vb.pp("fc");
        let weight = fc.get_unchecked("weights")?;
        let bias = fc.get(136, "bias")?;
        Ok(Self { blocks: (0..3).map(block).collect::<Result<_>>()?, weight, bias })
    }

    /// A face `[1, 3, 112, 112]`, less its mean, divided by 255, to x and y of each point in units of its side: `[136]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for [first, second, third] in &self.blocks {
            // "same" for an even side: the odd place is at the end
            let a = first.forward(&x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?)?;
            let ab = second.forward_adding(&a, Some(&a))?;
            x = third.forward_adding(&ab.relu()?, Some(&ab))?.relu()?;
        }
        let mean = x.flatten_from(2)?.mean(2)?; // [1, C]
        mean.matmul(&self.weight.t()?)?.squeeze(0)? + &self.bias
    }
}

/// Two convolutions beside which the input goes on.
#[derive(Debug, Clone)]
struct Residual {
    first: Conv2d,
    second: Conv2d,
    down: bool,
}

/// Whose face it is: 128 numbers.
#[derive(Debug, Clone)]
pub struct FaceEmbedder {
    stem: Conv2d,          // conv32_down
    layers: Vec<Residual>, // conv32_1 .. conv256_down_out
    weight: Tensor,        // fc, [128, C]
}

/// The layers by their names; those that halve the sides are called so.
const LAYERS: [&str; 14] = [
    "conv32_1",
    "conv32_2",
    "conv32_3",
    "conv64_down",
    "conv64_1",
    "conv64_2",
    "conv64_3",
    "conv128_down",
    "conv128_1",
    "conv128_2",
    "conv256_down",
    "conv256_1",
    "conv256_2",
    "conv256_down_out",
];

/// A convolution with the scale behind it in its weights.
fn scaled(vb: VarBuilder, form: Form) -> Result<Conv2d> {
    let (weight, bias) = kernel(&vb.pp("conv"))?;
    let output = weight.dim(0)?;
    let (scale, shift) = (vb.get(output, "scale.weights")?, vb.get(output, "scale.biases")?);
    let bias = ((bias * &scale)? + shift)?;
    Conv2d::new(&weight.broadcast_mul(&scale.reshape((output, 1, 1, 1))?)?, Some(bias), form)
}

impl Residual {
    fn new(vb: VarBuilder, down: bool) -> Result<Self> {
        let first = if down { form(2, 0) } else { form(1, 1) };
        Ok(Self {
            first: scaled(vb.pp("conv1"), first)?.with_relu()?,
            second: scaled(vb.pp("conv2"), form(1, 1))?,
            down,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.first.forward(x)?;
        if !self.down {
            return self.second.forward_adding(&y, Some(x))?.relu();
        }
        let y = self.second.forward(&y)?;
        let beside = x.avg_pool2d(2)?;
        let (_, channels, rows, columns) = beside.dims4()?;
        // what is smaller goes on with zeros: the one in space, the other in channels
        let y = y.pad_with_zeros(2, 0, rows - y.dim(2)?)?.pad_with_zeros(3, 0, columns - y.dim(3)?)?;
        let beside = beside.pad_with_zeros(1, 0, y.dim(1)?.saturating_sub(channels))?;
        (y + beside)?.relu()
    }
}

impl FaceEmbedder {
    /// Errors: tensors that are missing or have another shape; they name it.
    pub fn new(vb: VarBuilder) -> Result<Self> {
        let layer = |name: &&str| Residual::new(vb.pp(*name), name.contains("down"));
        Ok(Self {
            stem: scaled(vb.pp("conv32_down"), form(2, 0))?.with_relu()?,
            layers: LAYERS.iter().map(layer).collect::<Result<_>>()?,
            weight: vb.get_unchecked("fc")?,
        })
    }

    /// A face `[1, 3, 150, 150]`, less its mean, divided by 255, to `[128]`. Those of one person are less than about 0.6 apart.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = pool(&self.stem.forward(x)?, Window::fitting(3, 2))?;
        let x = self.layers.iter().try_fold(x, |x, layer| layer.forward(&x))?;
        let mean = x.flatten_from(2)?.mean(2)?; // [1, C]
        mean.matmul(&self.weight.t()?)?.squeeze(0)
    }
}
