//! The UNet of Stable Diffusion 1.x and 2.x (arXiv 2112.10752), after diffusers' `UNet2DConditionModel`: an image network, for
//! which a video is a batch of frames. Frames do not see each other unless a control lets them. With layers in time between
//! its own it is the network of ModelScope's text-to-video model (arXiv 2308.06571), diffusers' `UNet3DConditionModel`.
//!
//! Sides may be odd: a level halves them rounding up, and the way up enlarges to the size of what the way down kept.

mod blocks;
pub mod config;
pub mod controlnet;
pub mod streaming;
pub mod subject;
mod temporal;
mod transformer;
mod unet3d;
mod walk;
pub mod work;

pub use config::UNetConfig;
pub use unet3d::{UNet3DConditionModel, UNet3DConfig};

use super::blocks2d::{GroupNorm, activated};
use super::layers::{TimestepEmbedding, timestep_sinusoid};
use super::stream::Stream;
use super::{Denoiser, Row};
use crate::attention::{Hooks, Reuse};
use crate::nn::compute_dtype;
use crate::nn::conv::{Conv2d, conv2d};
use blocks::Unit;
use candle_core::{D, DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use temporal::TransformerTemporal;
use walk::Walk;

/// Heads of attention in time before all other layers, whatever the width of the network.
const HEADS_IN: usize = 8;

/// What begins both a UNet and the networks beside it: the first convolution, attention in time where there is some, and the
/// time's embedding.
#[derive(Debug)]
struct Entrance {
    conv_in: Conv2d,
    transformer_in: Option<TransformerTemporal>,
    time_embedding: TimestepEmbedding,
    config: UNetConfig,
    dtype: DType,
    device: Device,
}

impl Entrance {
    fn load(config: &UNetConfig, vb: &VarBuilder) -> Result<Self> {
        let (channels, groups) = (config.block_out_channels[0], config.norm_num_groups);
        let in_time =
            |width| TransformerTemporal::load(channels, (HEADS_IN, width), groups, 0, vb.pp("transformer_in"));
        Ok(Self {
            conv_in: conv2d(config.in_channels, channels, 3, 1, 1, true, vb.pp("conv_in"))?,
            transformer_in: config.temporal_head_dim.map(in_time).transpose()?,
            time_embedding: TimestepEmbedding::load(channels, config.time_width(), vb.pp("time_embedding"))?,
            config: config.clone(),
            dtype: compute_dtype(vb.dtype(), vb.device()),
            device: vb.device().clone(),
        })
    }

    /// The latents of a row, what is concatenated to them included, after the first convolution: `[F, C, H, W]`.
    fn enter(&self, row: &Row) -> Result<Tensor> {
        let latents = match &row.concat {
            None => row.latents.clone(),
            Some(concat) => Tensor::cat(&[&row.latents, concat], 1)?,
        };
        let (frames, channels, height, width) = latents.dims4()?;
        let (wanted, text) = (self.config.in_channels, self.config.cross_attention_dim);
        if channels != wanted || frames == 0 || height == 0 || width == 0 {
            bail!("latents {:?} do not fit the UNet, which takes {wanted} channels", latents.dims())
        }
        if row.context.dim(D::Minus1)? != text || row.context.rank() != 2 + usize::from(row.frame_texts.is_some()) {
            bail!("a text of {:?} does not fit the UNet, which takes {text} values for a token", row.context.dims())
        }
        self.conv_in.forward(&latents.to_device(&self.device)?.to_dtype(self.dtype)?.contiguous()?)
    }

    /// The activated embedding of a time, `[1, E]`.
    fn time(&self, time: f64) -> Result<Tensor> {
        let UNetConfig { flip_sin_to_cos, freq_shift, .. } = self.config;
        let sinusoid = timestep_sinusoid(time, self.config.block_out_channels[0], flip_sin_to_cos, freq_shift)?;
        activated(&self.time_embedding.forward(&sinusoid.to_device(&self.device)?.to_dtype(self.dtype)?)?)
    }

    /// A pass that begins with the rows' hidden states. `network` is its index in the run, `layers` its attention layers.
    fn walk<'h, 'a>(
        &self,
        rows: &[Row],
        hidden: Vec<Tensor>,
        hooks: &'h mut Hooks<'a>,
        place: (usize, usize),
    ) -> Result<Walk<'h, 'a>> {
        self.walk_with(rows, hidden, None, hooks, place)
    }

    /// The same with something `added` to each row behind the first attention in time.
    fn walk_with<'h, 'a>(
        &self,
        rows: &[Row],
        hidden: Vec<Tensor>,
        added: Option<&Tensor>,
        hooks: &'h mut Hooks<'a>,
        (network, layers): (usize, usize),
    ) -> Result<Walk<'h, 'a>> {
        let mut walk = Walk::new(rows, hidden, hooks, (network, layers), |time| self.time(time))?;
        if let Some(transformer_in) = &self.transformer_in {
            walk.attend_in_time(transformer_in)?;
        }
        if let Some(added) = added {
            walk.each(|hidden| {
                if hidden.dims() != added.dims() {
                    bail!("frames of {:?} for latents of {:?}", added.dims(), hidden.dims())
                }
                hidden + added
            })?;
        }
        walk.keep();
        Ok(walk)
    }
}

/// `UNet2DConditionModel`.
#[derive(Debug)]
pub struct UNet2DConditionModel {
    entrance: Entrance,
    units: Stream<Unit>, // down_blocks, mid_block, up_blocks
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl UNet2DConditionModel {
    /// Loads the network; it computes in the dtype of `vb`, on the CPU in f32 but for products in bf16. With `streamed` no more
    /// than two of its units are in memory at a time. Errors name the configuration's key or the tensor.
    pub fn load(config: &UNetConfig, vb: VarBuilder<'static>, streamed: bool) -> Result<Self> {
        config.check("unet", true)?;
        let count = Unit::count(config, true);
        let channels = config.block_out_channels[0];
        let entrance = Entrance::load(config, &vb)?;
        let (eps, out) = (config.norm_eps, vb.clone());
        let units = {
            let (config, device) = (config.clone(), vb.device().clone());
            let load = move |index| Unit::load(&config, index, &vb);
            if streamed { Stream::streamed(count, &device, load)? } else { Stream::resident(count, load)? }
        };
        Ok(Self {
            entrance,
            units,
            conv_norm_out: GroupNorm::load(channels, config.norm_num_groups, eps, out.pp("conv_norm_out"))?,
            conv_out: conv2d(channels, config.out_channels, 3, 1, 1, true, out.pp("conv_out"))?,
        })
    }
}

impl Denoiser for UNet2DConditionModel {
    fn forward(&self, rows: &[Row], hooks: &mut Hooks) -> Result<Vec<Tensor>> {
        hooks.begin(rows)?;
        let hidden = rows.iter().map(|row| self.entrance.enter(row)).collect::<Result<Vec<_>>>()?;
        let config = &self.entrance.config;
        let takes = hooks.reuse() == Reuse::Take;
        let mut walk = self.entrance.walk(rows, hidden, hooks, (0, config.layers()))?;
        if takes {
            self.units.get(self.units.len() - 1)?.run_last(&mut walk)?;
        }
        for index in (0..self.units.len()).filter(|_| !takes) {
            let unit = self.units.get(index)?;
            if matches!(*unit, Unit::Mid { .. }) {
                walk.offer_skips()?;
            }
            unit.run(&mut walk)?;
            if matches!(*unit, Unit::Mid { .. }) {
                walk.offer_mid()?;
            }
        }
        let output = |(hidden, _): (Tensor, Vec<Tensor>)| {
            self.conv_out.forward(&self.conv_norm_out.forward_silu(&hidden)?)?.to_dtype(DType::F32)
        };
        walk.finish()?.into_iter().map(output).collect()
    }
}
