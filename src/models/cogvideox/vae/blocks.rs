//! Building blocks of the causal autoencoder: the causal convolution with its cache, the norms, the residual block.
//!
//! After diffusers' `autoencoder_kl_cogvideox.py` (`CogVideoXCausalConv3d`, `CogVideoXSpatialNorm3D`,
//! `CogVideoXResnetBlock3D`, `CogVideoXMidBlock3D`). Deliberately different: feature maps are `[T, C, H, W]`; the caches of
//! all layers live in one value, `ConvCache`; the maps a spatial norm multiplies with and adds are computed on the
//! latent's grid and enlarged afterwards (a 1x1x1 convolution commutes with nearest-neighbour enlarging).

use super::config::VaeConfig;
use crate::nn::compute_dtype;
use crate::nn::conv::{Conv3d, conv3d};
use crate::nn::norm::{group_norm_silu, spatial_norm_silu};
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

/// Epsilon of every norm that the configuration does not reach.
const EPS: f64 = 1e-6;

/// What the causal convolutions of one network remember of the frames before a chunk: for each layer, in the order in which
/// the layers run, its last input frames. One cache belongs to one video (or one tile of it) and one network.
#[derive(Debug, Default)]
pub(super) struct ConvCache {
    contexts: Vec<Tensor>, // [kt - 1, C, H, W] each
    next: usize,
}

impl ConvCache {
    /// Starts a chunk: the next layer to ask is the network's first.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
    }

    /// The remembered frames before `x` `[T, C, H, W]`, at the start of a video copies of its first frame: `[frames, C, H,
    /// W]`. Remembers the last frames of both.
    fn before(&mut self, x: &Tensor, frames: usize) -> Result<Tensor> {
        let (t, c, h, w) = x.dims4()?;
        let context = match self.contexts.get(self.next) {
            Some(context) => context.clone(),
            None => x.narrow(0, 0, 1)?.broadcast_as((frames, c, h, w))?,
        };
        // a copy: a view would keep the whole chunk alive
        let last = match frames.checked_sub(t) {
            None | Some(0) => x.narrow(0, t - frames, frames)?.force_contiguous()?,
            Some(missing) => Tensor::cat(&[&context.narrow(0, t, missing)?, x], 0)?,
        };
        match self.contexts.get_mut(self.next) {
            Some(context) => *context = last,
            None => self.contexts.push(last),
        }
        self.next += 1;
        Ok(context)
    }

    /// What is remembered, layer by layer.
    pub(super) fn contexts(&self) -> &[Tensor] {
        &self.contexts
    }

    /// Remembers what another cache of the same network did.
    pub(super) fn remember(contexts: Vec<Tensor>) -> Self {
        Self { contexts, next: 0 }
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.contexts.iter().map(|context| context.elem_count() * context.dtype().size_in_bytes()).sum()
    }
}

/// Convolution that sees no later frame; space is padded with zeros.
#[derive(Debug)]
pub(super) struct CausalConv3d {
    conv: Conv3d, // conv
}

impl CausalConv3d {
    /// 3x3x3.
    pub(super) fn load(in_channels: usize, out_channels: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self { conv: conv3d(in_channels, out_channels, 3, 3, vb.pp("conv"))? })
    }

    /// `[T, Cin, H, W]` to `[T, Cout, H, W]`.
    pub(super) fn forward(&self, x: &Tensor, cache: &mut ConvCache) -> Result<Tensor> {
        self.forward_parts(x, None, cache)
    }

    /// [`CausalConv3d::forward`] plus a residual of the shape of the result.
    fn forward_parts(&self, x: &Tensor, residual: Option<&Tensor>, cache: &mut ConvCache) -> Result<Tensor> {
        let context = cache.before(x, self.conv.context())?;
        self.conv.forward_parts(&[&context, x], residual)
    }
}

/// The latent that a decoder's norms look at, and where the frames of a feature map lie on it.
#[derive(Debug, Clone)]
pub(super) struct Condition<'a> {
    latent: &'a Tensor, // [f, Cz, h, w]
    first: bool,
}

impl<'a> Condition<'a> {
    /// `first`: the chunk begins the video, so its first latent frame is never repeated in time.
    pub(super) fn new(latent: &'a Tensor, first: bool) -> Self {
        Self { latent, first }
    }

    /// The latent frame that each of `t` frames belongs to.
    fn frames(&self, t: usize) -> Result<Vec<u32>> {
        let f = self.latent.dim(0)?;
        let once = usize::from(self.first);
        let repeats = if f > once { (t - once) / (f - once) } else { 1 };
        if repeats * (f - once) + once != t {
            bail!("a map of {t} frames does not fit {f} latent frames")
        }
        let frames = (0..t).map(|t| if t < once { 0 } else { (t - once) / repeats + once });
        Ok(frames.map(|frame| frame as u32).collect())
    }
}

/// A norm and the SiLU that always follows it: group norm in the encoder, spatially conditioned norm (arXiv 2209.09002) in
/// the decoder. Statistics span all frames of the chunk.
#[derive(Debug)]
pub(super) struct Norm3D {
    groups: usize,
    eps: f64,
    weight: Tensor, // weight | norm_layer.weight, [C]
    bias: Tensor,
    spatial: Option<(Conv3d, Conv3d)>, // conv_y.conv, conv_b.conv: 1x1x1, Cz to C
}

impl Norm3D {
    pub(super) fn group(channels: usize, groups: usize, eps: f64, vb: VarBuilder) -> Result<Self> {
        let dtype = compute_dtype(vb.dtype(), vb.device());
        let [weight, bias] = ["weight", "bias"].map(|name| vb.get(channels, name)?.to_dtype(dtype));
        let (weight, bias) = (weight?, bias?);
        Ok(Self { groups, eps, weight, bias, spatial: None })
    }

    pub(super) fn spatial(channels: usize, zq_channels: usize, groups: usize, vb: VarBuilder) -> Result<Self> {
        let conv_y = conv3d(zq_channels, channels, 1, 1, vb.pp("conv_y").pp("conv"))?;
        let conv_b = conv3d(zq_channels, channels, 1, 1, vb.pp("conv_b").pp("conv"))?;
        let norm = Self::group(channels, groups, EPS, vb.pp("norm_layer"))?;
        Ok(Self { spatial: Some((conv_y, conv_b)), ..norm })
    }

    /// `[T, C, H, W]` to the same. The decoder's norms need the condition, the encoder's ignore it.
    pub(super) fn forward_silu(&self, x: &Tensor, condition: Option<&Condition>) -> Result<Tensor> {
        let (weight, bias) = (&self.weight, &self.bias);
        match (&self.spatial, condition) {
            (None, _) => group_norm_silu(x, self.groups, weight, bias, self.eps),
            (Some((conv_y, conv_b)), Some(condition)) => {
                let scale = conv_y.forward(condition.latent)?; // [f, C, h, w]
                let shift = conv_b.forward(condition.latent)?; // [f, C, h, w]
                let frames = condition.frames(x.dim(0)?)?;
                spatial_norm_silu(x, self.groups, weight, bias, self.eps, &scale, &shift, &frames)
            }
            (Some(_), None) => bail!("a spatial norm needs the latent it is conditioned on"),
        }
    }
}

/// Two normalised causal convolutions and a shortcut.
#[derive(Debug)]
pub(super) struct ResnetBlock3D {
    norm1: Norm3D,
    conv1: CausalConv3d,
    norm2: Norm3D,
    conv2: CausalConv3d,
    conv_shortcut: Option<Conv3d>, // 1x1x1, where the channels change
}

impl ResnetBlock3D {
    /// With `zq_channels` the norms are spatial (decoder), without they are plain (encoder).
    pub(super) fn load(
        in_channels: usize,
        out_channels: usize,
        zq_channels: Option<usize>,
        config: &VaeConfig,
        vb: VarBuilder,
    ) -> Result<Self> {
        let norm = |channels, vb| match zq_channels {
            Some(zq_channels) => Norm3D::spatial(channels, zq_channels, config.norm_num_groups, vb),
            None => Norm3D::group(channels, config.norm_num_groups, config.norm_eps, vb),
        };
        let conv_shortcut = (in_channels != out_channels)
            .then(|| conv3d(in_channels, out_channels, 1, 1, vb.pp("conv_shortcut")))
            .transpose()?;
        Ok(Self {
            norm1: norm(in_channels, vb.pp("norm1"))?,
            conv1: CausalConv3d::load(in_channels, out_channels, vb.pp("conv1"))?,
            norm2: norm(out_channels, vb.pp("norm2"))?,
            conv2: CausalConv3d::load(out_channels, out_channels, vb.pp("conv2"))?,
            conv_shortcut,
        })
    }

    /// `[T, Cin, H, W]` to `[T, Cout, H, W]`.
    pub(super) fn forward(&self, x: Tensor, condition: Option<&Condition>, cache: &mut ConvCache) -> Result<Tensor> {
        let h = self.norm1.forward_silu(&x, condition)?;
        let h = self.conv1.forward(&h, cache)?;
        let h = self.norm2.forward_silu(&h, condition)?;
        let shortcut = match &self.conv_shortcut {
            Some(conv) => conv.forward(&x)?,
            None => x,
        };
        self.conv2.forward_parts(&h, Some(&shortcut), cache)
    }
}

/// Residual blocks `resnets.0 ..` in a row; the first changes the channels.
pub(super) fn load_resnets(
    count: usize,
    in_channels: usize,
    out_channels: usize,
    zq_channels: Option<usize>,
    config: &VaeConfig,
    vb: &VarBuilder,
) -> Result<Vec<ResnetBlock3D>> {
    let vb = vb.pp("resnets");
    (0..count)
        .map(|i| {
            let in_channels = if i == 0 { in_channels } else { out_channels };
            ResnetBlock3D::load(in_channels, out_channels, zq_channels, config, vb.pp(i))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn conv() -> CausalConv3d {
        let weight = Tensor::randn(0f32, 0.3, (4, 3, 3, 3, 3), &Device::Cpu).unwrap();
        let bias = Tensor::randn(0f32, 0.3, 4, &Device::Cpu).unwrap();
        let tensors = [("conv.weight".to_string(), weight), ("conv.bias".to_string(), bias)];
        let vb = VarBuilder::from_tensors(tensors.into_iter().collect(), DType::F32, &Device::Cpu);
        CausalConv3d::load(3, 4, vb).unwrap()
    }

    fn run(conv: &CausalConv3d, x: &Tensor, plan: &[usize]) -> (Vec<f32>, usize) {
        let mut cache = ConvCache::default();
        let mut start = 0;
        let mut parts = Vec::new();
        for &frames in plan {
            cache.rewind();
            parts.push(conv.forward(&x.narrow(0, start, frames).unwrap(), &mut cache).unwrap());
            start += frames;
        }
        let y = Tensor::cat(&parts, 0).unwrap();
        assert_eq!(y.dims(), [x.dim(0).unwrap(), 4, 4, 5]);
        (y.flatten_all().unwrap().to_vec1().unwrap(), cache.bytes())
    }

    #[test]
    fn a_causal_convolution_does_not_depend_on_the_chunks() {
        let conv = conv();
        let x = Tensor::randn(0f32, 1.0, (6, 3, 4, 5), &Device::Cpu).unwrap();
        let (whole, bytes) = run(&conv, &x, &[6]);
        assert_eq!(bytes, 2 * 3 * 4 * 5 * 4);
        for plan in [vec![1, 5], vec![3, 2, 1], vec![1; 6], vec![2, 4]] {
            let (chunked, held) = run(&conv, &x, &plan);
            let worst = whole.iter().zip(&chunked).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(worst < 1e-5, "{plan:?}: {worst}");
            assert_eq!(held, bytes, "{plan:?}");
        }
    }

    #[test]
    fn a_causal_convolution_sees_no_later_frame() {
        let conv = conv();
        let x = Tensor::randn(0f32, 1.0, (4, 3, 4, 5), &Device::Cpu).unwrap();
        let other = Tensor::cat(&[&x.narrow(0, 0, 3).unwrap(), &x.narrow(0, 3, 1).unwrap().neg().unwrap()], 0).unwrap();
        let (a, b) = (run(&conv, &x, &[4]).0, run(&conv, &other, &[4]).0);
        let frame = 4 * 4 * 5;
        assert_eq!(a[..3 * frame], b[..3 * frame]);
        assert_ne!(a[3 * frame..], b[3 * frame..]);
    }

    #[test]
    fn frames_belong_to_latent_frames() {
        let latent = |f: usize| Tensor::zeros((f, 1, 1, 1), DType::F32, &Device::Cpu).unwrap();
        let frames = |f, first, t| Condition::new(&latent(f), first).frames(t);
        assert_eq!(frames(1, true, 1).unwrap(), [0]);
        assert_eq!(frames(3, true, 5).unwrap(), [0, 1, 1, 2, 2]);
        assert_eq!(frames(2, true, 5).unwrap(), [0, 1, 1, 1, 1]);
        assert_eq!(frames(2, false, 4).unwrap(), [0, 0, 1, 1]);
        assert_eq!(frames(1, false, 4).unwrap(), [0, 0, 0, 0]);
        assert!(frames(3, true, 4).is_err());
        assert!(frames(1, true, 2).is_err());
    }
}
