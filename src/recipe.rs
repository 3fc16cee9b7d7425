use crate::{
    guidance::GuidanceSchedule,
    schedulers::{SchedulerKind, Table},
    timeline::BlendMode,
    video::Rate,
};
pub struct Recipe {
    pub steps: usize,
    pub guidance_scale: GuidanceSchedule,
    pub overlap: Option<usize>,
    pub transition_windows: usize,
    pub hold: usize,
    pub fps: Rate,
    pub scheduler: Option<SchedulerKind>,
    pub schedule: Table,
    pub blend: BlendMode,
}
impl Recipe {
    pub fn for_model(_n: &str, _t: &crate::models::cogvideox::transformer::TransformerConfig) -> anyhow::Result<Self> {
        Ok(Self {
            steps: 10,
            guidance_scale: GuidanceSchedule::Constant(6.0),
            overlap: None,
            transition_windows: 2,
            hold: 0,
            fps: Rate::new(8, 1)?,
            scheduler: None,
            schedule: Table::Diffusers,
            blend: BlendMode::Repo,
        })
    }
}
