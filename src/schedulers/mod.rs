//! Noise schedules and samplers. A scheduler knows the noise levels and how to take a step; it draws no random numbers
//! (noise is an argument) and works on the whole timeline in f32.

use candle_core::{Result, Tensor};

/// A sampler over a fixed list of timesteps.
pub trait Scheduler {
    /// Timesteps in the order they are visited; what the network gets.
    fn timesteps(&self) -> &[f64];

    /// Factor on the initial unit noise.
    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    /// Whether step `index` adds fresh noise.
    fn needs_noise(&self, index: usize) -> bool;

    /// One step: `prediction` is the (guided) network output for `sample` at `timesteps()[index]`, all `[F, C, H, W]` in
    /// f32. Steps are taken in order; `noise` is unit noise of the same shape where [`Scheduler::needs_noise`] says so.
    fn step(&mut self, index: usize, prediction: &Tensor, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor>;

    /// The estimate of the clean sample at step `index`.
    fn predict_x0(&self, index: usize, prediction: &Tensor, sample: &Tensor) -> Result<Tensor>;

    /// What must be kept to go on after `index` steps (multi-step samplers keep the last estimate).
    fn state(&self) -> Option<Tensor>;

    /// Goes on from a kept state.
    fn restore(&mut self, state: Option<Tensor>);
}
