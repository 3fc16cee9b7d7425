//! Convolutions of autoencoders and UNets. The plain versions use candle's `conv2d` (candle has no three-dimensional one). On
//! the CPU the weights are packed when the layer is made, and `cpu::conv` computes in f32; with weights in bf16 it rounds the
//! input and multiplies in bf16, where the CPU can. 3x3 convolutions of many channels take `cpu::winograd`, in f32 whatever the
//! weights.
//!
//! candle's `conv2d` on a GPU writes every pixel's neighbourhood out before it multiplies (but for cuDNN): 8 GB for eleven
//! frames of 480x720 and 128 channels. `convolve` goes by frames, and by bands of a frame, so that this buffer stays below
//! `COLUMNS` and all tensors below 2^31 numbers.

use super::cpu::winograd::{Kept, Winograd};
use super::cpu::{self, View, conv::After, conv::Packed};
use super::resample::upsample_nearest_2x;
use super::size;
use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

pub use super::cpu::conv::Form;

/// Most numbers in the column buffer of one `conv2d`.
const COLUMNS: usize = 1 << 28;

/// Least channels, of input and output, that are worth the transforms of `cpu::winograd`.
const MANY: usize = 128;

/// Two-dimensional convolution on `[T, C, H, W]`.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weights: Weights,
    form: Form,
    slopes: Option<Arc<Slopes>>,
}

/// Of a PReLU, one for each channel; zeros are a ReLU.
#[derive(Debug)]
struct Slopes {
    numbers: Vec<f32>,
    /// `[1, C, 1, 1]`.
    tensor: Tensor,
}

/// Three-dimensional convolution on `[T, C, H, W]`: stride 1, zero padding `k/2` in space, no padding in time. The caller
/// supplies the `kt - 1` leading frames, which is also what a streamed decode carries from chunk to chunk.
#[derive(Debug, Clone)]
pub struct Conv3d {
    weights: Weights,
    kt: usize,
    padding: usize,
}

/// The weights in one of three forms; the packed ones take the place of the tensor, not more memory.
#[derive(Debug, Clone)]
enum Weights {
    /// `kernel` is `[kt * Cout, Cin, k, k]`: the temporal taps stacked in the output channels, so that one conv2d serves all.
    Plain {
        kernel: Tensor,
        bias: Option<Tensor>,
    },
    /// `doubling` is made at the first use.
    Packed {
        packed: Arc<Packed>,
        doubling: Arc<OnceLock<Packed>>,
    },
    Winograd(Arc<Winograd>),
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
    Conv2d::new(&weight, bias, Form { stride, padding, dilation: 1 })
}

/// Weight `[out, in, kt, k, k]`, bias `[out]`, under the names the checkpoint has.
pub fn conv3d(in_channels: usize, out_channels: usize, kt: usize, kernel: usize, vb: VarBuilder) -> Result<Conv3d> {
    let weight = vb.get((out_channels, in_channels, kt, kernel, kernel), "weight")?;
    Conv3d::new(&weight, Some(vb.get(out_channels, "bias")?))
}

impl Weights {
    /// `weight` is `[Cout, Cin, kt, k, k]`.
    fn new(weight: &Tensor, bias: Option<Tensor>, form: Form) -> Result<Self> {
        if !weight.device().is_cpu() || !matches!(weight.dtype(), DType::F32 | DType::F16 | DType::BF16) {
            return Self::plain(weight, bias);
        }
        let (output, input, kt, k, _) = weight.dims5()?;
        let numbers = |x: &Tensor| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let bias = bias.as_ref().map(numbers).transpose()?.unwrap_or_default();
        // what sees one position of a few channels waits for memory, whatever multiplies
        let paired = weight.dtype() == DType::BF16 && (kt * k > 1 || input >= MANY) && cpu::bf16::name().is_some();
        let packed = Packed::new(&numbers(weight)?, &bias, (output, input, kt, k), form, paired);
        Ok(Self::Packed { packed: Arc::new(packed), doubling: Arc::default() })
    }

    /// Those of a 3x3 convolution of many channels on the CPU; `weight` is `[Cout, Cin, k, k]`.
    fn winograd(weight: &Tensor, bias: Option<&Tensor>, form: Form) -> Result<Option<Self>> {
        let (output, input, k, _) = weight.dims4()?;
        let kept = match weight.dtype() {
            DType::F32 => Kept::F32,
            DType::F16 => Kept::F16,
            DType::BF16 => Kept::Bf16,
            _ => return Ok(None),
        };
        let fits = matches!((k, form), (3, Form { stride: 1, padding: 1, dilation: 1 })) && input.min(output) >= MANY;
        if !fits || !weight.device().is_cpu() {
            return Ok(None);
        }
        let numbers = |x: &Tensor| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let bias = bias.map(numbers).transpose()?.unwrap_or_default();
        Ok(Some(Self::Winograd(Arc::new(Winograd::new(&numbers(weight)?, &bias, (output, input), kept)))))
    }

    fn plain(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (output, input, kt, k, _) = weight.dims5()?;
        let kernel = weight.permute((2, 0, 1, 3, 4))?.contiguous()?; // [kt, Cout, Cin, k, k]
        Ok(Self::Plain { kernel: kernel.reshape((kt * output, input, k, k))?, bias })
    }
}

impl Conv2d {
    /// `weight` is `[out, in, k, k]`, `bias` `[out]`.
    pub fn new(weight: &Tensor, bias: Option<Tensor>, form: Form) -> Result<Self> {
        check(form)?;
        let weights = match Weights::winograd(weight, bias.as_ref(), form)? {
            Some(weights) => weights,
            None => Weights::new(&weight.unsqueeze(2)?, bias, form)?,
        };
        Ok(Self { weights, form, slopes: None })
    }

    /// A convolution of two feature maps of one shape, `[T, C, H, W]` each, as of one with the channels of both; `weight` is
    /// `[out, 2C, k, k]`. Only [`Conv2d::forward_two`] takes both.
    pub fn of_two(weight: &Tensor, bias: Option<Tensor>, form: Form) -> Result<Self> {
        check(form)?;
        let (output, input, k, _) = weight.dims4()?;
        if input % 2 != 0 {
            bail!("a convolution of two feature maps with {input} channels in all")
        }
        // on the CPU the second map is what a second frame is to a convolution over time
        let taps = weight.reshape((output, 2, input / 2, k, k))?.transpose(1, 2)?.contiguous()?;
        let weights = match Weights::new(&taps, bias.clone(), form)? {
            Weights::Plain { .. } => Weights::plain(&weight.unsqueeze(2)?, bias)?,
            packed => packed,
        };
        Ok(Self { weights, form, slopes: None })
    }

    /// The same with a PReLU behind it, `slopes` `[out]`.
    pub fn with_prelu(self, slopes: &Tensor) -> Result<Self> {
        let (numbers, tensor) = (slopes.to_dtype(DType::F32)?.to_vec1()?, slopes.reshape((1, (), 1, 1))?);
        Ok(Self { slopes: Some(Arc::new(Slopes { numbers, tensor })), ..self })
    }

    /// The same with a ReLU behind it.
    pub fn with_relu(self) -> Result<Self> {
        let (channels, device) = match &self.weights {
            Weights::Plain { kernel, .. } => (kernel.dim(0)?, kernel.device().clone()),
            Weights::Packed { packed, .. } => (packed.output(), Device::Cpu),
            Weights::Winograd(winograd) => (winograd.output(), Device::Cpu),
        };
        let zeros = Tensor::zeros(channels, DType::F32, &device)?;
        self.with_prelu(&zeros)
    }

    /// `[T, Cin, H, W]` to `[T, Cout, H', W']`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_adding(x, None)
    }

    /// [`Conv2d::forward`] plus `residual`, of the shape of the result, which is added behind the activation.
    pub fn forward_adding(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        match &self.weights {
            Weights::Plain { kernel, bias } => {
                let mut done = Vec::new();
                convolve(x, kernel, self.form, COLUMNS, |_, y| {
                    done.push(y);
                    Ok(())
                })?;
                let y = self.activated(add_bias(joined(done, x.device())?, bias.as_ref())?)?;
                residual.map_or(Ok(y.clone()), |residual| y + residual)
            }
            Weights::Packed { packed, .. } => run(packed, &[x], self.numbers(), residual),
            Weights::Winograd(winograd) => run_winograd(winograd, x, self.numbers(), residual),
        }
    }

    /// [`Conv2d::forward_adding`] of a layer made by [`Conv2d::of_two`], for one frame each.
    pub fn forward_two(&self, [a, b]: [&Tensor; 2], residual: Option<&Tensor>) -> Result<Tensor> {
        match &self.weights {
            Weights::Plain { .. } => self.forward_adding(&Tensor::cat(&[a, b], 1)?, residual),
            Weights::Packed { packed, .. } if packed.taps() == 2 && a.dim(0)? == 1 && a.dims() == b.dims() => {
                run(packed, &[a, b], self.numbers(), residual)
            }
            _ => bail!("a convolution of two cannot take {:?} and {:?}", a.dims(), b.dims()),
        }
    }

    fn numbers(&self) -> Option<&[f32]> {
        self.slopes.as_ref().map(|slopes| &slopes.numbers[..])
    }

    fn activated(&self, y: Tensor) -> Result<Tensor> {
        let Some(slopes) = &self.slopes else { return Ok(y) };
        y.relu()? - y.neg()?.relu()?.broadcast_mul(&slopes.tensor.to_dtype(y.dtype())?)?
    }

    /// [`upsample_nearest_2x`], then the convolution: `[T, Cin, H, W]` to `[T, Cout, 2H, 2W]` for a 3x3 kernel with stride 1
    /// and padding 1.
    pub fn forward_upsampled(&self, x: &Tensor) -> Result<Tensor> {
        if let Weights::Packed { packed, doubling } = &self.weights
            && let Some(doubled) = packed.doubled()
        {
            return run(doubling.get_or_init(doubled), &[x], self.numbers(), None);
        }
        self.forward(&upsample_nearest_2x(x)?)
    }
}

impl Conv3d {
    /// `weight` is `[out, in, kt, k, k]`, `bias` `[out]`.
    pub fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (_, _, kt, k, _) = weight.dims5()?;
        let padding = k / 2;
        Ok(Self { weights: Weights::new(weight, bias, Form { padding, ..Form::default() })?, kt, padding })
    }

    /// Frames that the convolution reads before its first output frame.
    pub fn context(&self) -> usize {
        self.kt - 1
    }

    /// `[T + kt - 1, Cin, H, W]` to `[T, Cout, H, W]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_parts(&[x], None)
    }

    /// [`Conv3d::forward`] of the frames of all `parts` one after the other, without joining them, plus `residual` (of the
    /// shape of the result).
    pub fn forward_parts(&self, parts: &[&Tensor], residual: Option<&Tensor>) -> Result<Tensor> {
        let (kernel, bias) = match &self.weights {
            Weights::Plain { kernel, bias } => (kernel, bias),
            Weights::Packed { packed, .. } => return run(packed, parts, None, residual),
            Weights::Winograd(_) => bail!("the weights of a convolution over time are those of one frame"),
        };
        let Some(device) = parts.first().map(|part| part.device()) else { bail!("a convolution without frames") };
        let sum = add_bias(joined(self.taps(parts, kernel, COLUMNS)?, device)?, bias.as_ref())?;
        residual.map_or(Ok(sum.clone()), |residual| sum + residual)
    }

    /// The frames of the result, each from the `kt` products of its frames with the taps that meet there.
    fn taps(&self, parts: &[&Tensor], kernel: &Tensor, columns: usize) -> Result<Vec<Tensor>> {
        let channels = kernel.dim(0)? / self.kt;
        let mut window = VecDeque::with_capacity(self.kt); // of [1, kt * Cout, H, W]
        let mut done = Vec::new();
        for part in parts {
            let form = Form { padding: self.padding, ..Form::default() };
            convolve(part, kernel, form, columns, |frames, y| {
                for frame in 0..frames {
                    window.push_back(y.narrow(0, frame, 1)?);
                    if window.len() < self.kt {
                        continue;
                    }
                    let products = window.iter().enumerate();
                    let mut products = products.map(|(tap, y)| y.narrow(1, tap * channels, channels));
                    let first = products.next().unwrap_or_else(|| bail!("a convolution without taps"))?;
                    done.push(products.try_fold(first, |sum, product| sum + product?)?.contiguous()?);
                    window.pop_front();
                }
                Ok(())
            })?;
        }
        if done.is_empty() {
            let count: usize = parts.iter().map(|part| part.dim(0)).sum::<Result<_>>()?;
            bail!("a convolution over {} frames cannot take {count}", self.kt)
        }
        Ok(done)
    }
}

fn check(form: Form) -> Result<()> {
    if form.stride == 0 || form.dilation == 0 || form.stride > 1 && form.dilation > 1 {
        bail!("a convolution with stride {} and dilation {}", form.stride, form.dilation)
    }
    Ok(())
}

/// Tensors of frames as one.
fn joined(mut frames: Vec<Tensor>, device: &Device) -> Result<Tensor> {
    if frames.len() == 1 {
        return Ok(frames.remove(0));
    }
    let count: usize = frames.iter().map(|frame| frame.dim(0)).sum::<Result<_>>()?;
    if let Some(frame) = frames.first() {
        size::check("the output of a convolution", device, &[&[count], &frame.dims()[1..]].concat())?;
    }
    Tensor::cat(&frames, 0)
}

/// The convolution of `x` `[T, Cin, H, W]` with `weight` `[Cout, Cin, k, k]`, some frames at a time: `each` gets their number
/// and `[frames, Cout, H', W']`, in order. No column buffer has more than `columns` numbers, but that of one row must fit.
fn convolve(
    x: &Tensor,
    weight: &Tensor,
    Form { stride, padding, dilation }: Form,
    columns: usize,
    mut each: impl FnMut(usize, Tensor) -> Result<()>,
) -> Result<()> {
    let (frames, _, h, w) = x.dims4()?;
    let (output, input, kh, kw) = weight.dims4()?;
    let [span_h, span_w] = [kh, kw].map(|k| (k - 1) * dilation + 1);
    let out = |length: usize, kernel: usize| (length + 2 * padding).checked_sub(kernel).map(|room| room / stride + 1);
    let (Some(out_h), Some(out_w)) = (out(h, span_h), out(w, span_w)) else {
        bail!("frames of {h}x{w} are smaller than the kernel of a convolution, {span_h}x{span_w}")
    };
    // what the call writes counts as well: the columns, and the result with all its taps
    let row = out_w * (input * kh * kw).max(output);
    size::check("one row of a convolution", x.device(), &[row])?;
    let rows = (columns / row.max(1)).max(1);
    if rows >= out_h {
        let most = (rows / out_h.max(1)).max(1);
        for first in (0..frames).step_by(most) {
            let count = most.min(frames - first);
            each(count, x.narrow(0, first, count)?.conv2d(weight, padding, stride, dilation, 1)?)?;
        }
        return Ok(());
    }
    for frame in 0..frames {
        let x = x.narrow(0, frame, 1)?.pad_with_zeros(2, padding, padding)?.pad_with_zeros(3, padding, padding)?;
        let mut bands = Vec::with_capacity(out_h.div_ceil(rows));
        for first in (0..out_h).step_by(rows) {
            let count = rows.min(out_h - first);
            let band = x.narrow(2, first * stride, (count - 1) * stride + span_h)?.contiguous()?;
            bands.push(band.conv2d(weight, 0, stride, dilation, 1)?);
        }
        each(1, Tensor::cat(&bands, 2)?)?;
    }
    Ok(())
}

fn add_bias(y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape((1, (), 1, 1))?),
        None => Ok(y),
    }
}

/// The fast version on the frames of all `parts`.
fn run(packed: &Packed, parts: &[&Tensor], slopes: Option<&[f32]>, residual: Option<&Tensor>) -> Result<Tensor> {
    let (_, c, h, w) = parts.first().map_or(Ok((0, 0, 0, 0)), |part| part.dims4())?;
    let frames: usize = parts.iter().map(|part| part.dims4().map(|(frames, ..)| frames)).sum::<Result<_>>()?;
    let (input, output, kt) = (packed.input(), packed.output(), packed.taps());
    let Some((out_h, out_w)) = packed.size(h, w).filter(|_| c == input && frames >= kt) else {
        bail!("a convolution of {input} channels and {kt} frames cannot take [{frames}, {c}, {h}, {w}]")
    };
    let shape = (frames + 1 - kt, output, out_h, out_w);
    let values = with_frames(parts, residual, |frames, add| packed.run(frames, After { slopes, add }))?;
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// The fast version of a 3x3 convolution of many channels.
fn run_winograd(winograd: &Winograd, x: &Tensor, slopes: Option<&[f32]>, residual: Option<&Tensor>) -> Result<Tensor> {
    let (frames, c, h, w) = x.dims4()?;
    let (input, output) = (winograd.input(), winograd.output());
    if c != input || frames * h * w == 0 {
        bail!("a convolution of {input} channels cannot take [{frames}, {c}, {h}, {w}]")
    }
    let values = with_frames(&[x], residual, |frames, add| winograd.run(frames, After { slopes, add }))?;
    Tensor::from_vec(values, (frames, output, h, w), &Device::Cpu)
}

/// Runs `f` on the frames `[C, H, W]` of all `parts` and on the numbers of a residual.
fn with_frames(
    parts: &[&Tensor],
    residual: Option<&Tensor>,
    f: impl FnOnce(&[View], Option<&[f32]>) -> Option<Vec<f32>>,
) -> Result<Vec<f32>> {
    let residual = residual.map(|residual| residual.contiguous()).transpose()?;
    let mut tensors = parts.to_vec();
    tensors.extend(&residual);
    cpu::with_views(&tensors, |views| {
        let (parts, residual) = views.split_at(parts.len());
        let mut frames = Vec::new();
        for part in parts {
            let (&[count, ..], &[along, ..]) = (part.dims, part.strides) else { bail!("frames without an axis") };
            let (dims, strides) = (&part.dims[1..], &part.strides[1..]);
            let frame = |i| View { data: part.data.get(i * along..).unwrap_or_default(), dims, strides };
            frames.extend((0..count).map(frame));
        }
        f(&frames, residual.first().and_then(View::contiguous))
            .ok_or_else(|| candle_core::Error::msg("frames or residual of a convolution differ in shape"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::on_each_isa;
    use crate::cpu::tests::{assert_close, random};

    /// Both forms of one layer.
    fn layers(cout: usize, cin: usize, kt: usize, k: usize, stride: usize, padding: usize) -> (Weights, Weights) {
        let weight = random(&[cout, cin, kt, k, k]);
        let bias = random(&[cout]);
        let form = Form { stride, padding, dilation: 1 };
        let packed = Weights::new(&weight, Some(bias.clone()), form).unwrap();
        (packed, Weights::plain(&weight, Some(bias)).unwrap())
    }

    fn of(weights: Weights, stride: usize, padding: usize) -> Conv2d {
        Conv2d { weights, form: Form { stride, padding, dilation: 1 }, slopes: None }
    }

    #[test]
    fn conv3d_equals_its_plain_version() {
        on_each_isa(|isa| {
            for (cin, cout, kt, k, t, h, w) in [
                (1, 1, 1, 1, 1, 1, 1),
                (3, 5, 3, 3, 1, 1, 1),
                (16, 16, 3, 3, 2, 6, 9),
                (5, 3, 3, 3, 3, 7, 50),
                (8, 20, 1, 1, 2, 5, 11),
                (2, 9, 3, 1, 2, 4, 3),
                (4, 12, 2, 5, 1, 9, 33),
                (100, 8, 3, 3, 1, 40, 200), // several bands and strips
            ] {
                let (packed, plain) = layers(cout, cin, kt, k, 1, k / 2);
                let [packed, plain] = [packed, plain].map(|weights| Conv3d { weights, kt, padding: k / 2 });
                let x = random(&[t + kt - 1, cin, h, w]);
                let what = format!("{isa:?} {cin} to {cout}, {kt}x{k}x{k} on {t}x{h}x{w}");
                let want = plain.forward(&x).unwrap();
                assert_close(&what, &packed.forward(&x).unwrap(), &want, 1e-6);
                // Other strides: frames repeated, channels and width exchanged, frames from two tensors.
                let first = x.narrow(0, 0, 1).unwrap();
                let still = first.broadcast_as((t + kt - 1, cin, h, w)).unwrap();
                let want = plain.forward(&still.contiguous().unwrap()).unwrap();
                assert_close(&what, &packed.forward(&still).unwrap(), &want, 1e-6);
                let turned = random(&[t + kt - 1, w, h, cin]).transpose(1, 3).unwrap();
                let residual = random(&[t, cout, h, w]);
                let want = (plain.forward(&turned.contiguous().unwrap()).unwrap() + &residual).unwrap();
                let (head, tail) = (turned.narrow(0, 0, kt - 1), turned.narrow(0, kt - 1, t).unwrap());
                let got = match head {
                    Ok(head) if kt > 1 => packed.forward_parts(&[&head, &tail], Some(&residual)).unwrap(),
                    _ => packed.forward_parts(&[&tail], Some(&residual)).unwrap(),
                };
                assert_close(&what, &got, &want, 1e-6);
            }
        });
    }

    /// The sum of its definition.
    fn by_definition(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
        let (frames, input, h, w) = x.dims4().unwrap();
        let (output, _, kt, k, _) = weight.dims5().unwrap();
        let [x, weight, bias] = [x, weight, bias].map(|x| x.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        let mut y = Vec::new();
        for (t, o) in (0..frames + 1 - kt).flat_map(|t| (0..output).map(move |o| (t, o))) {
            for (i, j) in (0..h).flat_map(|i| (0..w).map(move |j| (i, j))) {
                let mut sum = f64::from(bias[o]);
                for (c, dt) in (0..input).flat_map(|c| (0..kt).map(move |dt| (c, dt))) {
                    for (di, dj) in (0..k).flat_map(|di| (0..k).map(move |dj| (di, dj))) {
                        let (Some(i), Some(j)) = ((i + di).checked_sub(k / 2), (j + dj).checked_sub(k / 2)) else {
                            continue;
                        };
                        if i < h && j < w {
                            let at = (((t + dt) * input + c) * h + i) * w + j;
                            let tap = (((o * input + c) * kt + dt) * k + di) * k + dj;
                            sum += f64::from(x[at]) * f64::from(weight[tap]);
                        }
                    }
                }
                y.push(sum as f32);
            }
        }
        Tensor::from_vec(y, (frames + 1 - kt, output, h, w), &Device::Cpu).unwrap()
    }

    #[test]
    fn the_plain_conv3d_is_the_definition_in_slices_of_any_size() {
        for (cin, cout, kt, k, t, h, w) in
            [(3, 5, 3, 3, 4, 6, 7), (2, 3, 1, 3, 3, 5, 4), (4, 2, 3, 1, 2, 3, 9), (2, 2, 2, 5, 2, 7, 6)]
        {
            let (weight, bias) = (random(&[cout, cin, kt, k, k]), random(&[cout]));
            let weights = Weights::plain(&weight, Some(bias.clone())).unwrap();
            let Weights::Plain { kernel, .. } = &weights else { panic!("asked for the plain form") };
            let conv = Conv3d { weights: weights.clone(), kt, padding: k / 2 };
            let x = random(&[t + kt - 1, cin, h, w]);
            let want = by_definition(&x, &weight, &bias);
            let what = format!("{cin} to {cout}, {kt}x{k}x{k} on {t}x{h}x{w}");
            assert_close(&what, &conv.forward(&x).unwrap(), &want, 1e-6);
            let row = w * (cin * k * k).max(kt * cout);
            // all at once, two frames, one frame, three rows, one row, less than a row
            for columns in [usize::MAX / 2, 2 * h * row, h * row, 3 * row, row, 1] {
                let split = x.dim(0).unwrap() / 2;
                let (head, tail) = (x.narrow(0, 0, split).unwrap(), x.narrow(0, split, t + kt - 1 - split).unwrap());
                for parts in [&[&x][..], &[&head, &tail]] {
                    let done = conv.taps(parts, kernel, columns).unwrap();
                    let got = add_bias(joined(done, &Device::Cpu).unwrap(), Some(&bias)).unwrap();
                    assert_close(&format!("{what}, {columns} columns"), &got, &want, 1e-6);
                }
            }
            if kt > 1 {
                assert!(conv.forward(&x.narrow(0, 0, kt - 1).unwrap()).unwrap_err().to_string().contains("frames"));
            }
        }
    }

    #[test]
    fn strided_convolutions_may_be_cut_into_bands() {
        for (k, stride, padding, h, w) in [(3, 2, 0, 11, 13), (3, 2, 1, 12, 9), (4, 3, 2, 20, 23), (1, 2, 0, 7, 5)] {
            let (x, weight) = (random(&[3, 2, h, w]), random(&[4, 2, k, k]));
            let want = x.conv2d(&weight, padding, stride, 1, 1).unwrap();
            let row = want.dim(3).unwrap() * 2 * k * k;
            for columns in [1, row, 4 * row, usize::MAX / 2] {
                let mut done = Vec::new();
                let each = |frames: usize, y: Tensor| {
                    assert_eq!(y.dim(0)?, frames);
                    done.push(y);
                    Ok(())
                };
                convolve(&x, &weight, Form { stride, padding, dilation: 1 }, columns, each).unwrap();
                let got = joined(done, &Device::Cpu).unwrap();
                assert_close(&format!("{k}x{k}/{stride} on {h}x{w}, {columns}"), &got, &want, 1e-6);
            }
        }
        let (x, weight) = (random(&[1, 2, 2, 9]), random(&[4, 2, 3, 3]));
        assert!(convolve(&x, &weight, Form::default(), 64, |_, _| Ok(())).is_err());
    }

    #[test]
    fn conv2d_equals_its_plain_version() {
        on_each_isa(|isa| {
            for (cin, cout, k, stride, padding, t, h, w) in [
                (3, 16, 3, 1, 1, 2, 10, 12),
                (3, 7, 3, 2, 0, 2, 11, 13),
                (4, 8, 3, 2, 0, 1, 13, 37),
                (6, 6, 3, 2, 1, 1, 12, 34),
                (5, 4, 4, 3, 2, 1, 20, 23),
                (2, 3, 2, 2, 0, 1, 8, 6),
                (7, 9, 1, 2, 0, 1, 7, 5),
                (130, 2, 3, 2, 0, 1, 31, 301),
                (1, 1, 3, 1, 1, 1, 1, 1),
                (2, 2, 3, 1, 0, 1, 3, 3),
                (40, 16, 1, 1, 0, 2, 9, 11),
                (300, 20, 1, 1, 0, 3, 7, 150),
                (5, 3, 1, 1, 0, 1, 1, 4),
            ] {
                let (packed, plain) = layers(cout, cin, 1, k, stride, padding);
                let [packed, plain] = [packed, plain].map(|weights| of(weights, stride, padding));
                let gaps = random(&[t, cin, h, w + 3]).narrow(3, 1, w).unwrap();
                let repeated = random(&[t, cin, h, 1]).broadcast_as((t, cin, h, w)).unwrap();
                for x in [random(&[t, cin, h, w]), gaps, repeated] {
                    let what = format!("{isa:?} {cin} to {cout}, {k}x{k}/{stride} on {t}x{h}x{w}, {:?}", x.stride());
                    let want = plain.forward(&x.contiguous().unwrap()).unwrap();
                    assert_close(&what, &packed.forward(&x).unwrap(), &want, 1e-6);
                }
            }
        });
    }

    #[test]
    fn dilation_activation_and_residual_equal_their_plain_versions() {
        on_each_isa(|isa| {
            for (cin, cout, k, stride, dilation, t, h, w) in [
                (3, 16, 3, 1, 1, 2, 10, 12),
                (16, 16, 3, 1, 2, 1, 10, 10),
                (20, 9, 3, 1, 4, 2, 20, 21),
                (5, 32, 3, 1, 8, 1, 20, 20),
                (4, 3, 3, 1, 8, 1, 2, 3),
                (2, 5, 5, 1, 3, 1, 14, 40),
                (7, 12, 3, 2, 1, 1, 9, 33),
                (130, 4, 3, 1, 2, 1, 31, 301),
            ] {
                let form = Form { stride, padding: (k - 1) / 2 * dilation, dilation };
                let (weight, bias, slopes) = (random(&[cout, cin, k, k]), random(&[cout]), random(&[cout]));
                let fast = Conv2d::new(&weight, Some(bias.clone()), form).unwrap();
                assert!(matches!(fast.weights, Weights::Packed { .. }));
                let weights = Weights::plain(&weight.unsqueeze(2).unwrap(), Some(bias)).unwrap();
                let plain = Conv2d { weights, form, slopes: None };
                let x = random(&[t, cin, h, w]);
                let residual = plain.forward(&x).unwrap().sin().unwrap();
                for (what, slopes) in [("plain", None), ("PReLU", Some(&slopes))] {
                    let with = |conv: &Conv2d| match slopes {
                        Some(slopes) => conv.clone().with_prelu(slopes),
                        None => conv.clone().with_relu(),
                    };
                    let [fast, plain] = [&fast, &plain].map(|conv| with(conv).unwrap());
                    let what = format!("{isa:?} {what} {cin} to {cout}, {k}x{k}/{stride} by {dilation} on {t}x{h}x{w}");
                    assert_close(&what, &fast.forward(&x).unwrap(), &plain.forward(&x).unwrap(), 1e-6);
                    let want = plain.forward_adding(&x, Some(&residual)).unwrap();
                    assert_close(&what, &fast.forward_adding(&x, Some(&residual)).unwrap(), &want, 1e-6);
                }
            }
        });
        let (weight, bias) = (random(&[5, 6, 3, 3]), random(&[5]));
        let (a, b) = (random(&[1, 3, 9, 10]), random(&[1, 3, 9, 10]).sin().unwrap());
        let form = Form { padding: 2, dilation: 2, ..Form::default() };
        let two = Conv2d::of_two(&weight, Some(bias.clone()), form).unwrap().with_relu().unwrap();
        let one = Conv2d::new(&weight, Some(bias), form).unwrap().with_relu().unwrap();
        let want = one.forward(&Tensor::cat(&[&a, &b], 1).unwrap()).unwrap();
        assert_close("two as one", &two.forward_two([&a, &b], None).unwrap(), &want, 1e-6);
        assert!(two.forward_two([&a, &random(&[1, 3, 9, 11])], None).is_err() && two.forward(&a).is_err());
        let (weight, x) = (random(&[4, 3, 3, 3]), random(&[1, 3, 4, 4]));
        let form = Form { dilation: 2, ..Form::default() };
        assert!(Conv2d::new(&weight, None, form).unwrap().forward(&x).is_err(), "five positions in four");
        assert!(Conv2d::new(&weight, None, Form { stride: 2, ..form }).is_err());
    }

    /// Balanced points keep it within a few times the error of a plain sum.
    #[test]
    fn convolutions_of_many_channels_equal_their_plain_version() {
        on_each_isa(|isa| {
            for (cin, cout, t, h, w) in [
                (128, 128, 1, 1, 1),
                (128, 144, 2, 8, 8),
                (133, 130, 1, 9, 23),
                (200, 128, 3, 5, 2),
                (128, 160, 1, 64, 65),  // several panels in a task, and tasks
                (1100, 128, 1, 12, 70), // more than is held at a time
            ] {
                let (weight, bias, slopes) = (random(&[cout, cin, 3, 3]), random(&[cout]), random(&[cout]));
                let form = Form { padding: 1, ..Form::default() };
                let fast = Conv2d::new(&weight, Some(bias.clone()), form).unwrap();
                assert!(matches!(fast.weights, Weights::Winograd { .. }));
                let plain = of(Weights::plain(&weight.unsqueeze(2).unwrap(), Some(bias)).unwrap(), 1, 1);
                let gaps = random(&[t, cin, h, w + 3]).narrow(3, 1, w).unwrap();
                let repeated = random(&[t, cin, h, 1]).broadcast_as((t, cin, h, w)).unwrap();
                let turned = random(&[t, w, h, cin]).transpose(1, 3).unwrap();
                for x in [random(&[t, cin, h, w]), gaps, repeated, turned] {
                    let what = format!("{isa:?} {cin} to {cout} on {t}x{h}x{w}, {:?}", x.stride());
                    let want = plain.forward(&x.contiguous().unwrap()).unwrap();
                    assert_close(&what, &fast.forward(&x).unwrap(), &want, 4e-6);
                }
                let x = random(&[t, cin, h, w]);
                let [fast, plain] = [fast, plain].map(|conv| conv.with_prelu(&slopes).unwrap());
                let residual = plain.forward(&x).unwrap().sin().unwrap();
                let want = plain.forward_adding(&x, Some(&residual)).unwrap();
                let what = format!("{isa:?} PReLU, {cin} to {cout} on {t}x{h}x{w}");
                assert_close(&what, &fast.forward_adding(&x, Some(&residual)).unwrap(), &want, 4e-6);
                let want = plain.forward_upsampled(&x).unwrap();
                assert_close(&what, &fast.forward_upsampled(&x).unwrap(), &want, 4e-6);
            }
        });
        let weight = random(&[128, 128, 3, 3]);
        let form = Form { padding: 1, ..Form::default() };
        for dtype in [DType::F16, DType::BF16] {
            let weight = weight.to_dtype(dtype).unwrap();
            let [fast, wide] = [weight.clone(), weight.to_dtype(DType::F32).unwrap()]
                .map(|weight| Conv2d::new(&weight, None, form).unwrap());
            let x = random(&[1, 128, 6, 7]);
            assert_close("half", &fast.forward(&x).unwrap(), &wide.forward(&x).unwrap(), 0.0);
        }
        let conv = Conv2d::new(&weight, None, form).unwrap();
        let error = conv.forward(&random(&[1, 127, 4, 4])).unwrap_err().to_string();
        assert!(error.contains("128 channels cannot take [1, 127, 4, 4]"), "{error}");
        assert!(conv.forward(&random(&[1, 128, 0, 4])).is_err());
        assert!(conv.forward_adding(&random(&[1, 128, 4, 4]), Some(&random(&[1, 128, 4, 5]))).is_err());
    }

    #[test]
    fn doubling_and_convolving_in_one_equals_doing_both() {
        on_each_isa(|isa| {
            for (cin, cout, t, h, w) in [(1, 1, 1, 1, 1), (3, 9, 2, 5, 7), (16, 3, 1, 12, 18), (200, 8, 1, 40, 150)] {
                let (packed, plain) = layers(cout, cin, 1, 3, 1, 1);
                let [packed, plain] = [packed, plain].map(|weights| of(weights, 1, 1));
                let x = random(&[t, cin, h, w]);
                let want = plain.forward_upsampled(&x).unwrap();
                assert_close(
                    &format!("{isa:?} {cin} to {cout} on {h}x{w}"),
                    &packed.forward_upsampled(&x).unwrap(),
                    &want,
                    1e-6,
                );
            }
        });
    }

    #[test]
    fn convolutions_in_bf16_are_those_of_the_rounded_numbers() {
        let rounded = |dims: &[usize]| random(dims).to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
        on_each_isa(|isa| {
            for (cin, cout, kt, k, stride, t, h, w) in [
                (1, 1, 1, 3, 1, 1, 1, 1),
                (3, 5, 3, 3, 1, 1, 1, 1),
                (16, 16, 3, 3, 1, 2, 6, 9),
                (5, 3, 3, 3, 1, 3, 7, 50),
                (2, 9, 3, 1, 1, 2, 4, 3),
                (7, 12, 1, 3, 2, 2, 9, 33),
                (130, 9, 1, 1, 1, 2, 12, 20),  // one position, rows that follow each other
                (100, 8, 3, 3, 1, 1, 20, 200), // several bands, strips and slices
            ] {
                let padding = if stride == 1 { k / 2 } else { 0 };
                let (weight, bias) = (rounded(&[cout, cin, kt, k, k]), random(&[cout]));
                let [values, biases] = [&weight, &bias].map(|x| x.flatten_all().unwrap().to_vec1::<f32>().unwrap());
                let packed =
                    Packed::new(&values, &biases, (cout, cin, kt, k), Form { stride, padding, dilation: 1 }, true);
                let packed = Weights::Packed { packed: Arc::new(packed), doubling: Arc::default() };
                let plain = Weights::plain(&weight, Some(bias)).unwrap();
                let x = rounded(&[t + kt - 1, cin, h, w]);
                let what = format!("{isa:?} {cin} to {cout}, {kt}x{k}x{k}/{stride} on {t}x{h}x{w}");
                if stride == 1 {
                    let [got, want] = [&packed, &plain].map(|weights| {
                        let conv = Conv3d { weights: weights.clone(), kt, padding };
                        conv.forward_parts(&[&x], Some(&random(&[t, cout, h, w]))).unwrap()
                    });
                    assert_close(&what, &got, &want, 1e-6);
                }
                if kt == 1 {
                    let [packed, plain] = [packed, plain].map(|weights| of(weights, stride, padding));
                    assert_close(&what, &packed.forward(&x).unwrap(), &plain.forward(&x).unwrap(), 1e-6);
                    if stride == 1 {
                        // the summed weights of a phase are rounded once more
                        let want = plain.forward_upsampled(&x).unwrap();
                        assert_close(&what, &packed.forward_upsampled(&x).unwrap(), &want, 4e-3);
                    }
                }
            }
        });
    }

    #[test]
    fn weights_in_half_numbers_take_f32() {
        let (weight, x) = (random(&[16, 8, 3, 3, 3]), random(&[4, 8, 9, 11]));
        let conv = |dtype| Conv3d {
            weights: Weights::new(
                &weight.to_dtype(dtype).unwrap(),
                Some(random(&[16])),
                Form { padding: 1, ..Form::default() },
            )
            .unwrap(),
            kt: 3,
            padding: 1,
        };
        let want = conv(DType::F32).forward(&x).unwrap();
        assert_close("f16", &conv(DType::F16).forward(&x).unwrap(), &want, 1e-3);
        assert_close("bf16", &conv(DType::BF16).forward(&x).unwrap(), &want, 5e-3);
    }

    #[test]
    fn a_wrong_shape_is_an_error() {
        let (packed, _) = layers(4, 3, 3, 3, 1, 1);
        let conv = Conv3d { weights: packed, kt: 3, padding: 1 };
        let error = conv.forward(&random(&[2, 3, 4, 4])).unwrap_err().to_string();
        assert!(error.contains("[2, 3, 4, 4]"), "{error}");
        assert!(conv.forward(&random(&[3, 2, 4, 4])).is_err());
        assert!(conv.forward_parts(&[&random(&[2, 3, 4, 4]), &random(&[2, 3, 4, 5])], None).is_err());
        assert!(conv.forward_parts(&[&random(&[3, 3, 4, 4])], Some(&random(&[1, 4, 4, 5]))).is_err());
        assert!(conv.forward(&random(&[3, 3, 0, 4])).is_err());
    }
}
