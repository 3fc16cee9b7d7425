//! Convolutions of the autoencoder, built on candle's `conv2d` (candle has no three-dimensional one).

use super::resample::upsample_nearest_2x;
use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;

/// Two-dimensional convolution on `[T, C, H, W]`.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Tensor, // [Cout, Cin, K, K]
    bias: Option<Tensor>,
    stride: usize,
    padding: usize,
}

/// Weight `[out, in, kernel, kernel]`, bias `[out]`; `padding` zeros on each side.
pub fn conv2d(
    in_channels: usize,
    out_channels: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    bias: bool,
    vb: VarBuilder,
) -> Result<Conv2d> {
    let weight = vb.get((out_channels, in_channels, kernel, kernel), "weight")?;
    let bias = bias.then(|| vb.get(out_channels, "bias")).transpose()?;
    Ok(Conv2d { weight, bias, stride, padding })
}

impl Conv2d {
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = convolve(x, &self.weight, self.padding, self.stride)?;
        add_bias(y, self.bias.as_ref())
    }

    /// [`upsample_nearest_2x`], then the convolution: `[T, Cin, H, W]` to `[T, Cout, 2H, 2W]` for a 3x3 kernel with stride 1
    /// and padding 1.
    pub fn forward_upsampled(&self, x: &Tensor) -> Result<Tensor> {
        self.forward(&upsample_nearest_2x(x)?)
    }
}

/// Three-dimensional convolution on `[T, C, H, W]`: stride 1, zero padding `k/2` in space, no padding in time. The caller
/// supplies the `kt - 1` leading frames, which is also what a streamed decode carries from chunk to chunk.
#[derive(Debug, Clone)]
pub struct Conv3d {
    /// The temporal taps stacked in the output channels, `[kt * Cout, Cin, kh, kw]`: one conv2d serves all taps.
    taps: Tensor,
    bias: Option<Tensor>,
    kt: usize,
    padding: usize,
}

/// Weight `[out, in, kt, k, k]`, bias `[out]`, under the names the checkpoint has.
pub fn conv3d(in_channels: usize, out_channels: usize, kt: usize, kernel: usize, vb: VarBuilder) -> Result<Conv3d> {
    let weight = vb.get((out_channels, in_channels, kt, kernel, kernel), "weight")?;
    let bias = Some(vb.get(out_channels, "bias")?);
    let taps = weight.permute((2, 0, 1, 3, 4))?.contiguous()?; // [kt, Cout, Cin, k, k]
    let taps = taps.reshape((kt * out_channels, in_channels, kernel, kernel))?;
    Ok(Conv3d { taps, bias, kt, padding: kernel / 2 })
}

impl Conv3d {
    /// Frames that the convolution reads before its first output frame.
    pub fn context(&self) -> usize {
        self.kt - 1
    }

    /// `[T + kt - 1, Cin, H, W]` to `[T, Cout, H, W]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = convolve(x, &self.taps, self.padding, 1)?; // [T + kt - 1, kt * Cout, H, W]
        let frames = x.dim(0)? - self.context();
        let channels = self.taps.dim(0)? / self.kt;
        let mut sum = y.narrow(0, 0, frames)?.narrow(1, 0, channels)?;
        for tap in 1..self.kt {
            sum = (sum + y.narrow(0, tap, frames)?.narrow(1, tap * channels, channels)?)?;
        }
        add_bias(sum, self.bias.as_ref())
    }
}

/// candle's `conv2d`, which has no bf16 on the CPU: there it runs in f32.
fn convolve(x: &Tensor, weight: &Tensor, padding: usize, stride: usize) -> Result<Tensor> {
    if x.dtype() == DType::BF16 && x.device().is_cpu() {
        let y = x.to_dtype(DType::F32)?.conv2d(&weight.to_dtype(DType::F32)?, padding, stride, 1, 1)?;
        return y.to_dtype(DType::BF16);
    }
    x.conv2d(weight, padding, stride, 1, 1)
}

fn add_bias(y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape((1, (), 1, 1))?),
        None => Ok(y),
    }
}
