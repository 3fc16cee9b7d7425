//! Networks that stay in memory from one job to the next, where a command has several.

use crate::job::Job;
use crate::job::values::Offload;
use crate::models::architecture::Role;
use crate::models::{Autoencoder, Denoiser};
use crate::run::{Code, Failure, WithCode};
use candle_core::DType;
use std::sync::Arc;

/// What was loaded for the last job. Each network is kept on its own, and only where more jobs follow and nothing is
/// offloaded: the peak memory of all others is that of the largest stage, not of all stages together.
#[derive(Default)]
pub struct Loaded {
    keep: bool,
    denoiser: Option<(Key, Arc<dyn Denoiser>)>,
    decoder: Option<(Key, Arc<dyn Autoencoder>)>,
}

/// The model, the numbers it computes with and where.
#[derive(PartialEq)]
struct Key(String, DType, String);

impl Key {
    fn of(job: &Job, dtype: DType) -> Self {
        Self(job.model.place(), dtype, job.device_name())
    }
}

impl Loaded {
    /// `several`: whether more than one job will ask.
    pub fn for_jobs(several: bool) -> Self {
        Self { keep: several, ..Self::default() }
    }

    /// Whether the networks of a job stay for the next one.
    fn keeps(&self, job: &Job) -> bool {
        self.keep && job.offload == Offload::None
    }

    /// The denoiser of a job.
    pub fn denoiser(&mut self, job: &Job) -> Result<Arc<dyn Denoiser>, Failure> {
        let key = Key::of(job, job.dtype);
        if !self.keeps(job) {
            (self.denoiser, self.decoder) = (None, None);
        }
        if let Some((_, network)) = self.denoiser.as_ref().filter(|(loaded, _)| *loaded == key) {
            return Ok(network.clone());
        }
        self.denoiser = None; // before the next takes memory
        let part = job.model.part(job.architecture.part(Role::Denoiser)).code(Code::Model)?;
        let vb = match job.offload {
            Offload::Block => part.var_builder_holding(job.dtype, &job.device),
            _ => part.var_builder_compact(job.dtype, &job.device),
        };
        let vb = vb.code(Code::Model)?;
        let streamed = matches!(job.offload, Offload::Block | Offload::Disk);
        let network = job.architecture.load_denoiser(vb, streamed).code(Code::Model)?;
        self.denoiser = self.keeps(job).then(|| (key, network.clone()));
        Ok(network)
    }

    /// The decoder of a job.
    pub fn decoder(&mut self, job: &Job) -> Result<Arc<dyn Autoencoder>, Failure> {
        let key = Key::of(job, job.vae_dtype);
        if let Some((_, network)) = self.decoder.as_ref().filter(|(loaded, _)| *loaded == key) {
            return Ok(network.clone());
        }
        self.decoder = None;
        let part = job.model.part(job.architecture.part(Role::Autoencoder)).code(Code::Model)?;
        let vb = part.var_builder(job.vae_dtype, &job.device).code(Code::Model)?;
        let network = job.architecture.load_autoencoder(vb, false).code(Code::Model)?;
        self.decoder = self.keeps(job).then(|| (key, network.clone()));
        Ok(network)
    }
}
