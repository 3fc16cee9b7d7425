//! What DreamVideo-2 (arXiv 2410.13830, sections 4.1 to 4.3) puts beside a text-to-video UNet, so that a given subject moves where boxes say:
//! reference attention, in which frames look at the subject's features; the encoder of boxes, whose feature a ControlNet is given; and both of
//! them as one network beside the denoiser ([`BoxControl`]). The denoiser is [`super::UNet3DConditionModel`] itself: all of this acts at its sites.

use super::controlnet::{ControlNet, ControlNetConfig};
use super::{Row, UNet3DConfig, UNetConfig, work};
use crate::attention::{Hooks, SiteKind};
use crate::models::architecture::LayerShape;
use crate::models::control::{ControlNetwork, Residuals};
use crate::models::layers::LayerNorm;
use crate::models::placement::{SubjectAttention, SubjectKeys};
use crate::nn::act::{gelu, silu};
use crate::nn::compute_dtype;
use crate::nn::conv::{Conv2d, conv2d};
use crate::nn::linear::{Linear, linear, linear_joined};
use crate::nn::sdpa::Sdpa;
use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use serde::Deserialize;

/// Of the norms in the encoder.
const LAYER_NORM_EPS: f64 = 1e-5;
/// The most layers, channels and frames of an encoder.
const MOST: usize = 1 << 14;

/// A layer's own projections to what the same layer gives of the subject.
#[derive(Debug)]
struct Projections {
    to_q: Linear,
    to_kv: Linear,
    to_out: Linear, // to_out.0
    heads: usize,
}

impl Projections {
    fn load(width: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        let kv = [vb.pp("to_k"), vb.pp("to_v")];
        Ok(Self {
            to_q: linear(width, width, false, vb.pp("to_q"))?,
            to_kv: linear_joined(width, width, false, &kv)?,
            to_out: linear(width, width, true, vb.pp("to_out.0"))?,
            heads,
        })
    }

    /// Part `index` of `x` `[1, n, parts * C]` by heads, `[1, N, n, d]`.
    fn heads(&self, x: &Tensor, parts: usize, index: usize) -> Result<Tensor> {
        let (b, n, width) = x.dims3()?;
        let x = x.reshape((b, n, parts, self.heads, width / parts / self.heads))?;
        x.narrow(2, index, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous()
    }

    /// `subject` `[1, n, C]`.
    fn keys(&self, subject: &Tensor) -> Result<SubjectKeys> {
        let both = self.to_kv.forward(subject)?;
        Ok(SubjectKeys { k: self.heads(&both, 2, 0)?, v: self.heads(&both, 2, 1)? })
    }

    /// What `u` `[F, n, C]` finds. All frames see the same keys, so they are queries of one row.
    fn find(&self, u: &Tensor, keys: &SubjectKeys, kernel: &Sdpa) -> Result<Tensor> {
        let (frames, n, width) = u.dims3()?;
        let q = self.heads(&self.to_q.forward(&u.reshape((1, frames * n, width))?)?, 1, 0)?;
        let scale = 1.0 / ((width / self.heads) as f64).sqrt();
        let y = kernel.attend(&q, &keys.k, &keys.v, scale)?.transpose(1, 2)?.contiguous()?;
        self.to_out.forward(&y.reshape((frames, n, width))?)
    }
}

/// Multiply-adds of reference attention in one row: four products of each token, and attention to the subject's.
pub fn reference_work(unet: &UNetConfig, frames: usize, cells: (usize, usize)) -> f64 {
    let of = |layer: &LayerShape| {
        let (frames, height, width) = layer.grid;
        let (tokens, channels) = ((frames * height * width) as f64, layer.channels as f64);
        2.0 * (2.0 * tokens * channels * channels + 2.0 * tokens * (height * width) as f64 * channels)
    };
    work::layers(unet, frames, cells).iter().map(of).sum()
}

/// Reference attention behind both attentions of every spatial transformer block.
#[derive(Debug)]
pub struct ReferenceAttention {
    /// By layer: behind the attention of a frame on itself, and behind that on the text.
    layers: Vec<[Projections; 2]>,
}

fn which(kind: SiteKind) -> Result<usize> {
    match kind {
        SiteKind::SelfSpatial => Ok(0),
        SiteKind::Cross => Ok(1),
        SiteKind::Joint | SiteKind::Temporal => bail!("there is no reference attention behind {kind:?} attention"),
    }
}

impl ReferenceAttention {
    /// For a UNet of this form, from `{place}.transformer_blocks.0.{ref_attn1,ref_attn2}`.
    pub fn load(unet: &UNet3DConfig, vb: &VarBuilder) -> Result<Self> {
        let planar = unet.planar("unet")?;
        let shapes = work::layers(&planar, 1, (1, 1));
        let load = |(path, shape): (String, LayerShape)| {
            let block = vb.pp(path).pp("transformer_blocks.0");
            let part = |name: &str| Projections::load(shape.channels, shape.heads, block.pp(name));
            Ok([part("ref_attn1")?, part("ref_attn2")?])
        };
        let layers = planar.attention_paths().into_iter().zip(shapes).map(load).collect::<Result<_>>()?;
        Ok(Self { layers })
    }

    fn at(&self, layer: usize, kind: SiteKind) -> Result<&Projections> {
        match self.layers.get(layer) {
            Some(both) => Ok(&both[which(kind)?]),
            None => bail!("there is no reference attention at layer {layer}"),
        }
    }
}

impl SubjectAttention for ReferenceAttention {
    fn layers(&self) -> usize {
        self.layers.len()
    }

    fn keys(&self, layer: usize, kind: SiteKind, subject: &Tensor) -> Result<SubjectKeys> {
        self.at(layer, kind)?.keys(subject)
    }

    fn find(&self, layer: usize, kind: SiteKind, u: &Tensor, keys: &SubjectKeys, kernel: &Sdpa) -> Result<Tensor> {
        self.at(layer, kind)?.find(u, keys, kernel)
    }
}

/// The `config.json` of `motion_encoder`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct MotionEncoderConfig {
    #[serde(rename = "_class_name")]
    pub class_name: String,
    pub conditioning_channels: usize,
    pub block_out_channels: Vec<usize>,
    pub num_temporal_layers: usize,
    pub num_attention_heads: usize,
    pub max_frames: usize,
    pub out_channels: usize,
}

impl Default for MotionEncoderConfig {
    fn default() -> Self {
        Self {
            class_name: "BoxMotionEncoder".into(),
            conditioning_channels: 1,
            block_out_channels: vec![16, 32, 96, 256],
            num_temporal_layers: 2,
            num_attention_heads: 8,
            max_frames: 64,
            out_channels: 320,
        }
    }
}

impl MotionEncoderConfig {
    /// Refuses, in one line that names the key, what no such network has.
    pub fn check(&self) -> Result<()> {
        if self.class_name != "BoxMotionEncoder" {
            bail!("motion_encoder config: _class_name is {:?}; only BoxMotionEncoder is supported", self.class_name)
        }
        let widths = &self.block_out_channels;
        if !(1..=8).contains(&widths.len()) || widths.iter().any(|width| !(1..=MOST).contains(width)) {
            bail!("motion_encoder config: block_out_channels is {widths:?}; 1 to 8 widths are supported")
        }
        for (key, value, least) in [
            ("conditioning_channels", self.conditioning_channels, 1),
            ("num_temporal_layers", self.num_temporal_layers, 0),
            ("num_attention_heads", self.num_attention_heads, 1),
            ("max_frames", self.max_frames, 1),
            ("out_channels", self.out_channels, 1),
        ] {
            if !(least..=MOST).contains(&value) {
                bail!("motion_encoder config: {key} is {value}; it must lie between {least} and {MOST}")
            }
        }
        let last = widths[widths.len() - 1];
        if !last.is_multiple_of(self.num_attention_heads) {
            bail!(
                "motion_encoder config: num_attention_heads is {}, which does not divide {last} channels",
                self.num_attention_heads
            )
        }
        Ok(())
    }

    /// Pixels of a latent cell.
    pub fn ratio(&self) -> usize {
        1 << (self.block_out_channels.len().max(1) - 1)
    }
}

/// A layer over the frames of each place.
#[derive(Debug)]
struct TemporalLayer {
    norm1: LayerNorm,
    to_qkv: Linear, // attn1.to_q, attn1.to_k, attn1.to_v
    to_out: Linear, // attn1.to_out.0
    norm3: LayerNorm,
    proj: Linear, // ff.net.0.proj
    out: Linear,  // ff.net.2
    heads: usize,
}

impl TemporalLayer {
    fn load(width: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        let norm = |name: &str| LayerNorm::load(width, true, LAYER_NORM_EPS, vb.pp(name));
        let attn = vb.pp("attn1");
        Ok(Self {
            norm1: norm("norm1")?,
            to_qkv: linear_joined(width, width, false, &["to_q", "to_k", "to_v"].map(|name| attn.pp(name)))?,
            to_out: linear(width, width, true, attn.pp("to_out.0"))?,
            norm3: norm("norm3")?,
            proj: linear(width, 4 * width, true, vb.pp("ff.net.0.proj"))?,
            out: linear(4 * width, width, true, vb.pp("ff.net.2"))?,
            heads,
        })
    }

    /// `[P, F, C]` to the same.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (places, frames, width) = x.dims3()?;
        let d = width / self.heads;
        let all = self.to_qkv.forward(&self.norm1.forward(x)?)?.reshape((places, frames, 3, self.heads, d))?;
        let part = |index: usize| all.narrow(2, index, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous();
        let y = Sdpa::default().attend(&part(0)?, &part(1)?, &part(2)?, 1.0 / (d as f64).sqrt())?;
        let x = (x + self.to_out.forward(&y.transpose(1, 2)?.contiguous()?.reshape(x.shape())?)?)?;
        &x + self.out.forward(&gelu(&self.proj.forward(&self.norm3.forward(&x)?)?)?)?
    }
}

/// The encoder of boxes: masks of all frames to a feature of the latents' size.
#[derive(Debug)]
pub struct BoxMotionEncoder {
    conv_in: Conv2d,
    blocks: Vec<Conv2d>,
    pos_embed: Tensor,
    layers: Vec<TemporalLayer>,
    conv_out: Conv2d,
    channels: usize,
    dtype: DType,
    device: Device,
}

impl BoxMotionEncoder {
    /// Loads the network; errors name the configuration's key or the tensor.
    pub fn load(config: &MotionEncoderConfig, vb: &VarBuilder) -> Result<Self> {
        config.check()?;
        let widths = &config.block_out_channels;
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let conv = |from, to, stride, vb| conv2d(from, to, 3, stride, 1, true, vb);
        let mut blocks = Vec::with_capacity(2 * widths.len());
        for pair in widths.windows(2) {
            let at = |index: usize| vb.pp("blocks").pp(index);
            blocks.push(conv(pair[0], pair[0], 1, at(blocks.len()))?);
            blocks.push(conv(pair[0], pair[1], 2, at(blocks.len()))?);
        }
        let dtype = compute_dtype(vb.dtype(), vb.device());
        let layers = (0..config.num_temporal_layers)
            .map(|index| TemporalLayer::load(last, config.num_attention_heads, vb.pp("transformer_blocks").pp(index)));
        Ok(Self {
            conv_in: conv(config.conditioning_channels, first, 1, vb.pp("conv_in"))?,
            blocks,
            pos_embed: vb.get((config.max_frames, last), "pos_embed")?.to_dtype(dtype)?,
            layers: layers.collect::<Result<_>>()?,
            conv_out: conv(last, config.out_channels, 1, vb.pp("conv_out"))?,
            channels: config.conditioning_channels,
            dtype,
            device: vb.device().clone(),
        })
    }

    /// `[F, C, h, w]` of masks `[F, 1, H, W]`, 1 inside the boxes.
    ///
    /// # Errors
    /// More frames than the network has positions for.
    pub fn forward(&self, masks: &Tensor) -> Result<Tensor> {
        let (frames, _, height, width) = masks.dims4()?;
        let most = self.pos_embed.dim(0)?;
        if frames > most {
            bail!("boxes of {frames} frames for an encoder of at most {most}")
        }
        let outside = masks.to_device(&self.device)?.to_dtype(self.dtype)?.affine(-1.0, 1.0)?;
        let outside = outside.broadcast_as((frames, self.channels, height, width))?.contiguous()?;
        let mut x = silu(&self.conv_in.forward(&outside)?)?;
        for block in &self.blocks {
            x = silu(&block.forward(&x)?)?;
        }
        let (_, c, h, w) = x.dims4()?;
        let places = x.flatten_from(2)?.permute((2, 0, 1))?.contiguous()?; // [hw, F, C]
        let mut places = places.broadcast_add(&self.pos_embed.narrow(0, 0, frames)?)?;
        for layer in &self.layers {
            places = layer.forward(&places)?;
        }
        self.conv_out.forward(&places.permute((1, 2, 0))?.contiguous()?.reshape((frames, c, h, w))?)
    }
}

/// Boxes as a network beside the denoiser: the encoder, and the ControlNet that is given what it makes.
#[derive(Debug)]
pub struct BoxControl {
    encoder: BoxMotionEncoder,
    controlnet: ControlNet,
}

impl BoxControl {
    /// From the weights of `motion_encoder` and of `controlnet`.
    pub fn load(
        (encoder, encoder_weights): (&MotionEncoderConfig, &VarBuilder),
        (controlnet, weights): (&ControlNetConfig, VarBuilder),
    ) -> Result<Self> {
        let encoder = BoxMotionEncoder::load(encoder, encoder_weights)?;
        Ok(Self { encoder, controlnet: ControlNet::load_without_hint(controlnet, weights)? })
    }
}

impl ControlNetwork for BoxControl {
    /// Of masks of all frames at once, the same in all channels: frames see each other.
    fn hint(&self, pictures: &Tensor) -> Result<Tensor> {
        self.encoder.forward(&pictures.narrow(1, 0, 1)?)
    }

    fn forward(
        &self,
        rows: &[Row],
        hints: &[Tensor],
        conditioning_scale: f64,
        network: usize,
        hooks: &mut Hooks,
    ) -> Result<Vec<Residuals>> {
        self.controlnet.forward(rows, hints, conditioning_scale, network, hooks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_such_network_has_is_refused_by_name() {
        let encoder = |changes: &str| serde_json::from_str::<MotionEncoderConfig>(&format!("{{{changes}}}"));
        encoder("").unwrap().check().unwrap();
        for (changes, named) in [
            (r#""block_out_channels": []"#, "block_out_channels is []"),
            (r#""block_out_channels": [16, 30]"#, "num_attention_heads is 8, which does not divide 30"),
            (r#""max_frames": 0"#, "max_frames is 0"),
            (r#""max_frames": 100000000"#, "max_frames is 100000000"),
            (r#""_class_name": "Encoder""#, "\"Encoder\""),
        ] {
            let error = encoder(changes).unwrap().check().unwrap_err().to_string();
            assert!(error.contains(named) && error.starts_with("motion_encoder config: "), "{changes}: {error}");
        }
    }
}
