//! Settings of other programs' runs, for `--parity`.

use super::values::{Parity, Uncond};
use crate::guidance::GuidanceSchedule;
use crate::schedulers::{SchedulerKind, Table};
use crate::timeline::BlendMode;

/// The settings of another program's run.
pub struct Preset {
    pub uncond: Uncond,
    pub table: Table,
    pub guidance: GuidanceSchedule,
    pub scheduler: Option<SchedulerKind>,
    pub blend: BlendMode,
}

impl Preset {
    pub fn of(parity: Parity) -> Self {
        let sat = Self {
            uncond: Uncond::Zeros,
            table: Table::Sat,
            guidance: GuidanceSchedule::Wave(6.0),
            scheduler: Some(SchedulerKind::Dpmpp2mSde),
            blend: BlendMode::Reference,
        };
        match parity {
            Parity::Diffusers => Self {
                uncond: Uncond::Empty,
                table: Table::Diffusers,
                guidance: GuidanceSchedule::Constant(6.0),
                scheduler: None,
                blend: BlendMode::Reference,
            },
            Parity::Sat => sat,
            Parity::Paper => Self { blend: BlendMode::Paper, ..sat },
        }
    }
}
