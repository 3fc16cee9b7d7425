//! U²-Net (arXiv 2005.09007): salient object detection. A UNet of eleven stages, each of them a UNet itself.
//!
//! The layout is that of the exported network, in which batch norms are folded into the convolutions before them: every
//! `stageN.rebnconvM` is a 3x3 convolution with a bias and a ReLU. Widths come from the weights, so the small network (U²-Netp)
//! and the full one are the same code; heights are fixed.

use crate::nn::conv::{Conv2d, Form};
use crate::nn::pool::max_pool_2x2;
use crate::nn::resample::resize_bilinear;
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

/// Side of the square picture that the network was trained on.
pub const SIDE: usize = 320;

/// Stages on the way down, and how deep each is; `None` is a stage that dilates in place of pooling.
const DOWN: [Option<usize>; 6] = [Some(7), Some(6), Some(5), Some(4), None, None];
/// Dilations of the four convolutions of a stage without pooling.
const DILATIONS: [usize; 4] = [1, 2, 4, 8];

/// One stage, a residual U-block.
#[derive(Debug, Clone)]
struct Stage {
    input: Conv2d,        // rebnconvin
    encoder: Vec<Conv2d>, // rebnconv1 .. rebnconvL
    decoder: Vec<Conv2d>, // rebnconv(L-1)d .. rebnconv1d
    pooled: bool,
}

/// The network; weights in f32.
#[derive(Debug, Clone)]
pub struct U2Net {
    down: Vec<Stage>,  // stage1 .. stage6
    up: Vec<Stage>,    // stage5d .. stage1d
    side: Vec<Conv2d>, // side1 .. side6
    fuse: Conv2d,      // outconv
}

/// A 3x3 convolution whose channels are those of its weights.
fn conv(vb: VarBuilder, dilation: usize, make: Make) -> Result<Conv2d> {
    let weight = vb.get_unchecked("weight")?;
    let (output, _, rows, columns) = weight.dims4()?;
    if (rows, columns) != (3, 3) {
        bail!("{}: a kernel of {rows}x{columns}, not 3x3", vb.prefix())
    }
    make(&weight, Some(vb.get(output, "bias")?), Form { stride: 1, padding: dilation, dilation })
}

/// [`Conv2d::new`] or [`Conv2d::of_two`].
type Make = fn(&Tensor, Option<Tensor>, Form) -> Result<Conv2d>;

impl Stage {
    /// `make` is that of its first convolution.
    fn new(vb: VarBuilder, height: Option<usize>, make: Make) -> Result<Self> {
        let depth = height.unwrap_or(DILATIONS.len());
        let dilation = |i: usize| match height {
            None => DILATIONS[i],
            Some(_) if i + 1 == depth => 2,
            Some(_) => 1,
        };
        let layer = |name: String, dilation, make: Make| conv(vb.pp(name), dilation, make)?.with_relu();
        let encoding = |i: usize| layer(format!("rebnconv{}", i + 1), dilation(i), Conv2d::new);
        let decoding = |i: usize| {
            let dilation = if height.is_none() { dilation(i) } else { 1 };
            layer(format!("rebnconv{}d", i + 1), dilation, Conv2d::of_two)
        };
        Ok(Self {
            input: layer("rebnconvin".to_owned(), 1, make)?,
            encoder: (0..depth).map(encoding).collect::<Result<_>>()?,
            decoder: (0..depth - 1).rev().map(decoding).collect::<Result<_>>()?,
            pooled: height.is_some(),
        })
    }

    /// `[1, C, H, W]` to `[1, C', H, W]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_from(self.input.forward(x)?)
    }

    /// The same of what lies below, enlarged, and what was kept at this size.
    fn forward_two(&self, below: &Tensor, skip: &Tensor) -> Result<Tensor> {
        self.forward_from(self.input.forward_two([&to_size_of(below, skip)?, skip], None)?)
    }

    fn forward_from(&self, residual: Tensor) -> Result<Tensor> {
        let mut kept = Vec::with_capacity(self.encoder.len());
        let last = self.encoder.len() - 1;
        for (i, layer) in self.encoder.iter().enumerate() {
            let below = kept.last().unwrap_or(&residual);
            // the last convolution stays at the size of the one before
            let halved = self.pooled && i > 0 && i < last;
            kept.push(if halved { layer.forward(&max_pool_2x2(below)?)? } else { layer.forward(below)? });
        }
        let Some(mut x) = kept.pop() else { bail!("a stage without layers") };
        for (i, (layer, skip)) in self.decoder.iter().zip(kept.iter().rev()).enumerate() {
            let whole = (i + 1 == self.decoder.len()).then_some(&residual);
            x = layer.forward_two([&to_size_of(&x, skip)?, skip], whole)?;
        }
        Ok(x)
    }
}

fn to_size_of(x: &Tensor, other: &Tensor) -> Result<Tensor> {
    resize_bilinear(x, other.dim(2)?, other.dim(3)?)
}

impl U2Net {
    /// Errors: tensors that are missing or have another shape; they name it.
    pub fn new(vb: VarBuilder) -> Result<Self> {
        let down = DOWN
            .iter()
            .enumerate()
            .map(|(i, height)| Stage::new(vb.pp(format!("stage{}", i + 1)), *height, Conv2d::new));
        let up = DOWN[..5].iter().enumerate().rev();
        let up = up.map(|(i, height)| Stage::new(vb.pp(format!("stage{}d", i + 1)), *height, Conv2d::of_two));
        let fuse = vb.pp("outconv");
        let weight = fuse.get((1, DOWN.len(), 1, 1), "weight")?;
        Ok(Self {
            down: down.collect::<Result<_>>()?,
            up: up.collect::<Result<_>>()?,
            side: (1..=DOWN.len()).map(|i| conv(vb.pp(format!("side{i}")), 1, Conv2d::new)).collect::<Result<_>>()?,
            fuse: Conv2d::new(&weight, Some(fuse.get(1, "bias")?), Form::default())?,
        })
    }

    /// `[1, 3, H, W]`, normalised by ImageNet's mean and deviation, H and W multiples of 32, to the probability of standing out,
    /// `[1, 1, H, W]` in 0..1: the sigmoid of the fused map, the network's first output.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = x.dims4()?;
        if !h.is_multiple_of(32) || !w.is_multiple_of(32) || h == 0 || w == 0 {
            bail!("a picture of {h}x{w}: its sides have to be multiples of 32")
        }
        let mut x = x.clone();
        let mut kept = Vec::with_capacity(self.down.len());
        for (i, stage) in self.down.iter().enumerate() {
            if i > 0 {
                x = max_pool_2x2(&x)?;
            }
            x = stage.forward(&x)?;
            kept.push(x.clone());
        }
        kept.pop(); // it is where the way up begins
        let mut maps = vec![x];
        for (stage, skip) in self.up.iter().zip(kept.iter().rev()) {
            let below = maps.last().unwrap_or(skip);
            maps.push(stage.forward_two(below, skip)?);
        }
        let sides = self.side.iter().zip(maps.iter().rev()).map(|(side, map)| {
            let seen = side.forward(map)?;
            resize_bilinear(&seen, h, w)
        });
        let sides = Tensor::cat(&sides.collect::<Result<Vec<_>>>()?, 1)?; // [1, 6, H, W]
        candle_nn::ops::sigmoid(&self.fuse.forward(&sides)?)
    }
}
