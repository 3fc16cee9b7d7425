//! Blocks on feature maps `[F, C, H, W]` of pictures, which a video's frames are: what diffusers' UNets and `AutoencoderKL`
//! are built from, under its names. Frames do not see each other here: a group norm's statistics are those of one frame.

use super::layers::affine;
use crate::nn::act::silu;
use crate::nn::conv::{Conv2d, conv2d};
use crate::nn::linear::{Linear, linear};
use crate::nn::{self, size};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// Group norm of each frame by itself.
#[derive(Debug)]
pub struct GroupNorm(nn::norm::GroupNorm);

impl GroupNorm {
    /// Of `channels` in `groups`, which divide them.
    pub fn load(channels: usize, groups: usize, eps: f64, vb: VarBuilder) -> Result<Self> {
        let (weight, bias) = affine(channels, &vb)?;
        Ok(Self(nn::norm::GroupNorm::new(groups, weight, bias, eps)?))
    }

    /// `[F, C, H, W]` to the same.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(x, x.dim(0)?)
    }

    /// The same, then SiLU.
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward_silu(x, x.dim(0)?)
    }
}

/// Sizes of a residual block.
#[derive(Debug, Clone, Copy)]
pub struct ResnetSizes {
    pub in_channels: usize,
    pub out_channels: usize,
    /// Width of the time's embedding, where the block has one.
    pub time: Option<usize>,
    pub groups: usize,
    pub eps: f64,
}

/// Norm, SiLU and convolution, twice, around which the input goes: diffusers' `ResnetBlock2D`.
#[derive(Debug)]
pub struct ResnetBlock2D {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock2D {
    /// From the weights at `resnets.N`.
    pub fn load(sizes: ResnetSizes, vb: VarBuilder) -> Result<Self> {
        let ResnetSizes { in_channels, out_channels, time, groups, eps } = sizes;
        let conv3x3 = |from, name: &str| conv2d(from, out_channels, 3, 1, 1, true, vb.pp(name));
        Ok(Self {
            norm1: GroupNorm::load(in_channels, groups, eps, vb.pp("norm1"))?,
            conv1: conv3x3(in_channels, "conv1")?,
            time_emb_proj: time.map(|time| linear(time, out_channels, true, vb.pp("time_emb_proj"))).transpose()?,
            norm2: GroupNorm::load(out_channels, groups, eps, vb.pp("norm2"))?,
            conv2: conv3x3(out_channels, "conv2")?,
            conv_shortcut: (in_channels != out_channels)
                .then(|| conv2d(in_channels, out_channels, 1, 1, 0, true, vb.pp("conv_shortcut")))
                .transpose()?,
        })
    }

    /// `[F, C, H, W]` to `[F, C', H, W]`; `time` is the embedding after its SiLU, `[1, E]` or one for each frame.
    pub fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Result<Tensor> {
        let mut hidden = self.conv1.forward(&self.norm1.forward_silu(x)?)?;
        if let (Some(projection), Some(time)) = (&self.time_emb_proj, time) {
            hidden = hidden.broadcast_add(&projection.forward(time)?.unsqueeze(2)?.unsqueeze(3)?)?;
        }
        let hidden = self.norm2.forward_silu(&hidden)?;
        match &self.conv_shortcut {
            Some(shortcut) => self.conv2.forward_adding(&hidden, Some(&shortcut.forward(x)?)),
            None => self.conv2.forward_adding(&hidden, Some(x)),
        }
    }
}

/// Doubles the sides: diffusers' `Upsample2D` with its convolution.
#[derive(Debug)]
pub struct Upsample2D {
    conv: Conv2d,
}

impl Upsample2D {
    /// From the weights at `upsamplers.0`.
    pub fn load(channels: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self { conv: conv2d(channels, channels, 3, 1, 1, true, vb.pp("conv"))? })
    }

    /// `[F, C, H, W]` to `[F, C, h, w]`, by the nearest pixel, or the one before it: floor(i H / h).
    pub fn forward(&self, x: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
        let (f, c, h, w) = x.dims4()?;
        if (height, width) == (2 * h, 2 * w) {
            return self.conv.forward_upsampled(x);
        }
        size::check("enlarged maps", x.device(), &[f, c, height, width])?;
        let pick = |x: &Tensor, axis: usize, from: usize, to: usize| {
            let sources = Tensor::from_iter((0..to).map(|i| (i * from / to) as u32), x.device())?;
            x.contiguous()?.index_select(&sources, axis)
        };
        self.conv.forward(&pick(&pick(x, 2, h, height)?, 3, w, width)?)
    }
}

/// Activation of an embedded time, once for all blocks that read it.
pub fn activated(time: &Tensor) -> Result<Tensor> {
    silu(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn maps_are_enlarged_to_any_size_by_the_pixel_at_the_floor() {
        // a convolution that passes the middle tap on
        let mut kernel = vec![0f32; 9];
        kernel[4] = 1.0;
        let weight = Tensor::from_vec(kernel, (1, 1, 3, 3), &Device::Cpu).unwrap();
        let tensors = [("conv.weight".to_owned(), weight)];
        let bias = ("conv.bias".to_owned(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
        let vb = VarBuilder::from_tensors(tensors.into_iter().chain([bias]).collect(), DType::F32, &Device::Cpu);
        let upsample = Upsample2D::load(1, vb).unwrap();
        let x = Tensor::arange(0f32, 6.0, &Device::Cpu).unwrap().reshape((1, 1, 2, 3)).unwrap();
        let row = |size| {
            let y = upsample.forward(&x, size).unwrap();
            assert_eq!(y.dims(), [1, 1, size.0, size.1]);
            y.flatten_all().unwrap().to_vec1::<f32>().unwrap()[..size.1].to_vec()
        };
        assert_eq!(row((4, 6)), [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]);
        assert_eq!(row((3, 5)), [0.0, 0.0, 1.0, 1.0, 2.0]);
    }

    #[test]
    fn statistics_are_those_of_one_frame() {
        let affine = |value: f32| Tensor::full(value, 4, &Device::Cpu).unwrap();
        let norm = GroupNorm(nn::norm::GroupNorm::new(2, affine(1.0), affine(0.0), 1e-5).unwrap());
        let x = Tensor::randn(0f32, 1.0, (3, 4, 5, 2), &Device::Cpu).unwrap();
        let x = (x * 3.0).unwrap();
        let all = norm.forward_silu(&x).unwrap();
        for frame in 0..3 {
            let one = norm.forward_silu(&x.narrow(0, frame, 1).unwrap()).unwrap();
            let same = all.narrow(0, frame, 1).unwrap();
            let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(&one), values(&same));
        }
    }
}
