//! LPIPS (arXiv 1801.03924) on AlexNet: how different two pictures look. As PyPI's `lpips` 0.1.4 (v0.1, `net="alex"`) computes it.
//!
//! The features after each of AlexNet's five ReLUs are brought to unit length over channels, their squared differences weighted
//! by a number for each channel, averaged over places, and summed over the five. Widths come from the weights.

use crate::nn::conv::{Conv2d, Form};
use crate::nn::pool::{Window, max_pool};
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

/// Kernel, stride and padding of the five convolutions.
const LAYERS: [(usize, usize, usize); 5] = [(11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1)];
/// The shortest side of a picture that two poolings leave something of.
pub const LEAST_SIDE: usize = 31;

const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];

/// The network; weights in f32.
#[derive(Debug, Clone)]
pub struct Lpips {
    layers: Vec<Conv2d>, // conv0 .. conv4
    heads: Vec<Tensor>,  // lin0 .. lin4, [1, C, 1, 1]
    shift: Tensor,       // [1, 3, 1, 1]
    scale: Tensor,
}

/// A picture as the network sees it: five feature maps of unit length over channels.
#[derive(Debug, Clone)]
pub struct Features(Vec<Tensor>);

impl Lpips {
    /// Errors: tensors that are missing or have another shape; they name it.
    pub fn new(vb: VarBuilder) -> Result<Self> {
        let (mut layers, mut heads, mut channels) = (Vec::new(), Vec::new(), 3);
        for (index, (kernel, stride, padding)) in LAYERS.into_iter().enumerate() {
            let layer = vb.pp(format!("conv{index}"));
            let bias = layer.get_unchecked("bias")?;
            let width = bias.dim(0)?;
            let weight = layer.get((width, channels, kernel, kernel), "weight")?;
            layers.push(Conv2d::new(&weight, Some(bias), Form { stride, padding, dilation: 1 })?.with_relu()?);
            heads.push(vb.get((1, width, 1, 1), &format!("lin{index}.weight"))?);
            channels = width;
        }
        let numbers = |numbers: [f32; 3]| Tensor::new(&numbers, vb.device())?.reshape((1, 3, 1, 1));
        Ok(Self { layers, heads, shift: numbers(SHIFT)?, scale: numbers(SCALE)? })
    }

    /// `[1, 3, H, W]` in -1..1, both sides at least [`LEAST_SIDE`].
    pub fn features(&self, x: &Tensor) -> Result<Features> {
        let (_, _, h, w) = x.dims4()?;
        if h.min(w) < LEAST_SIDE {
            bail!("LPIPS of a picture of {w}x{h}: it needs {LEAST_SIDE} pixels on each side")
        }
        let mut x = x.broadcast_sub(&self.shift)?.broadcast_div(&self.scale)?;
        let mut features = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            if index == 1 || index == 2 {
                x = max_pool(&x, [Window::fitting(1, 1), Window::fitting(3, 2), Window::fitting(3, 2)])?;
            }
            x = layer.forward(&x)?;
            let length = (x.sqr()?.sum_keepdim(1)?.sqrt()? + 1e-10)?;
            features.push(x.broadcast_div(&length)?);
        }
        Ok(Features(features))
    }

    /// The distance of two pictures of one size: 0 for equal ones.
    pub fn distance(&self, a: &Features, b: &Features) -> Result<f64> {
        let mut sum = 0.0;
        for ((a, b), head) in a.0.iter().zip(&b.0).zip(&self.heads) {
            let weighted = (a - b)?.sqr()?.broadcast_mul(head)?.sum(1)?; // [1, H, W]
            sum += f64::from(weighted.mean_all()?.to_scalar::<f32>()?);
        }
        Ok(sum)
    }
}
