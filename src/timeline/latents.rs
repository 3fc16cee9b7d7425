//! The latents of a whole video, and windows of it.

use super::{ChunkPlan, Window};
use candle_core::{DType, Device, Result, Tensor, bail};

/// The long latent video of a plan: `[F, C, H, W]` in f32.
#[derive(Debug, Clone)]
pub struct LatentTimeline {
    latents: Tensor,
}

impl LatentTimeline {
    /// Latents or noise of all frames of a plan, `[F, C, H, W]` or `[1, F, C, H, W]`; refused when the plan needs other
    /// sizes.
    pub fn new(plan: &ChunkPlan, latents: &Tensor, (c, h, w): (usize, usize, usize), device: &Device) -> Result<Self> {
        let latents = if latents.rank() == 5 && latents.dim(0)? == 1 { latents.squeeze(0)? } else { latents.clone() };
        if latents.dims() != [plan.frames, c, h, w] {
            bail!(
                "latents of shape {:?} where the plan needs {:?} (F, C, H, W)",
                latents.dims(),
                [plan.frames, c, h, w]
            )
        }
        Ok(Self { latents: latents.to_dtype(DType::F32)?.to_device(device)?.contiguous()? }) // [F, C, H, W]
    }

    /// All latents, `[F, C, H, W]`.
    pub fn latents(&self) -> &Tensor {
        &self.latents
    }

    /// What one window covers, `[len, C, H, W]`: a view.
    pub fn window(&self, window: &Window) -> Result<Tensor> {
        self.latents.narrow(0, window.start, window.len)
    }

    /// The latents after a step; their shape must stay.
    pub fn set(&mut self, latents: Tensor) -> Result<()> {
        if latents.shape() != self.latents.shape() {
            bail!("latents of shape {:?} in place of {:?}", latents.shape(), self.latents.shape())
        }
        self.latents = latents;
        Ok(())
    }

    /// The frames that the plan keeps, `[keep, C, H, W]`: a view.
    pub fn kept(&self, plan: &ChunkPlan) -> Result<Tensor> {
        self.latents.narrow(0, 0, plan.keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_kept_frames_are_views_by_absolute_frame() {
        let plan = ChunkPlan::cover(1, 24, 13, 9, 2).unwrap();
        let numbers = Tensor::arange(0f32, 25.0, &Device::Cpu).unwrap().reshape((25, 1, 1, 1)).unwrap(); // [F, 1, 1, 1]
        let mut timeline = LatentTimeline::new(&plan, &numbers, (1, 1, 1), &Device::Cpu).unwrap();
        let values = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let range = |from: usize, to: usize| (from..to).map(|x| x as f32).collect::<Vec<_>>();
        for (k, window) in plan.windows.iter().enumerate() {
            assert_eq!(values(timeline.window(window).unwrap()), range(4 * k, 4 * k + 13));
        }
        assert_eq!(values(timeline.kept(&plan).unwrap()), range(0, 24));
        timeline.set((numbers + 1.0).unwrap()).unwrap();
        assert_eq!(values(timeline.latents().clone()), range(1, 26));
    }

    #[test]
    fn given_latents_must_fit() {
        let plan = ChunkPlan::single(3);
        let given = Tensor::ones((1, 3, 2, 4, 5), DType::F64, &Device::Cpu).unwrap();
        let mut timeline = LatentTimeline::new(&plan, &given, (2, 4, 5), &Device::Cpu).unwrap();
        assert_eq!((timeline.latents().dims(), timeline.latents().dtype()), (&[3, 2, 4, 5][..], DType::F32));
        assert!(LatentTimeline::new(&plan, &given.squeeze(0).unwrap(), (2, 4, 5), &Device::Cpu).is_ok());
        let error = LatentTimeline::new(&plan, &given, (2, 5, 4), &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("[3, 2, 4, 5]") && error.contains("[3, 2, 5, 4]"), "{error}");
        assert!(timeline.set(given).is_err());
    }
}
