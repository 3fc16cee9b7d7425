//! The sampler of a stage.

use crate::schedulers::{ScheduleConfig, Scheduler, SchedulerKind, Table};
use anyhow::Result;

/// How noise becomes latents.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampler {
    pub schedule: ScheduleConfig,
    pub kind: SchedulerKind,
    pub table: Table,
    pub steps: usize,
    pub eta: f64,
}

impl Sampler {
    /// How often a step asks the network.
    pub fn looks(&self) -> usize {
        if self.kind == SchedulerKind::Heun { 2 } else { 1 }
    }

    /// # Errors
    /// Settings that do not go together.
    pub fn build(&self) -> Result<Box<dyn Scheduler>> {
        crate::schedulers::build(&self.schedule, self.kind, self.table, self.steps, self.eta)
    }
}
