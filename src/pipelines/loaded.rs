//! Networks that stay in memory from one job to the next, where a command has several.

use crate::job::Job;
use crate::job::values::Offload;
use crate::models::cogvideox::transformer::Transformer;
use crate::models::cogvideox::vae::Autoencoder;
use crate::run::{Code, Failure, WithCode};
use candle_core::DType;
use std::sync::Arc;

/// What was loaded for the last job. Each network is kept on its own, and only where more jobs follow and nothing is
/// offloaded: the peak memory of all others is that of the largest stage, not of all stages together.
#[derive(Default)]
pub struct Loaded {
    keep: bool,
    transformer: Option<(Key, Arc<Transformer>)>,
    decoder: Option<(Key, Arc<Autoencoder>)>,
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

    /// The transformer of a job.
    pub fn transformer(&mut self, job: &Job) -> Result<Arc<Transformer>, Failure> {
        let key = Key::of(job, job.dtype);
        if !self.keeps(job) {
            (self.transformer, self.decoder) = (None, None);
        }
        if let Some((_, network)) = self.transformer.as_ref().filter(|(loaded, _)| *loaded == key) {
            return Ok(network.clone());
        }
        self.transformer = None; // before the next takes memory
        let part = job.model.part("transformer").code(Code::Model)?;
        let vb = match job.offload {
            Offload::Block => part.var_builder_holding(job.dtype, &job.device),
            _ => part.var_builder_compact(job.dtype, &job.device),
        };
        let vb = vb.code(Code::Model)?;
        let network = match job.offload {
            Offload::Block | Offload::Disk => Transformer::load_streamed(&job.transformer, vb),
            Offload::Auto | Offload::None | Offload::Model => Transformer::load(&job.transformer, vb),
        };
        let network = Arc::new(network.code(Code::Model)?);
        self.transformer = self.keeps(job).then(|| (key, network.clone()));
        Ok(network)
    }

    /// The decoder of a job.
    pub fn decoder(&mut self, job: &Job) -> Result<Arc<Autoencoder>, Failure> {
        let key = Key::of(job, job.vae_dtype);
        if let Some((_, network)) = self.decoder.as_ref().filter(|(loaded, _)| *loaded == key) {
            return Ok(network.clone());
        }
        self.decoder = None;
        let part = job.model.part("vae").code(Code::Model)?;
        let vb = part.var_builder(job.vae_dtype, &job.device).code(Code::Model)?;
        let network = Arc::new(Autoencoder::load_decoder(&job.vae, vb).code(Code::Model)?);
        self.decoder = self.keeps(job).then(|| (key, network.clone()));
        Ok(network)
    }
}
