//! Which rows go through the network together in one step, and which of its outputs are estimates of which window.
//!
//! Without sharing a pass is one window: its unconditional and its conditional row. With sharing (DiTCtrl, arXiv
//! 2412.18597) a window is estimated twice, plainly and with the keys and values of the window before it. The two estimates
//! are equal up to the first sharing layer, so a pass holds each window once and forks there; in steps without sharing it
//! does not fork at all. The result is that of the reference's loop over pairs of windows at about half its work.

use crate::attention::{Branch, Fork, Guidance};
use crate::timeline::{BlendMode, ChunkPlan};
use std::ops::Range;

/// One forward pass of the network.
#[derive(Debug, Clone, PartialEq)]
pub struct RowPlan {
    /// The rows the pass begins with.
    pub rows: Vec<Branch>,
    pub forks: Vec<Fork>,
    /// What the rows it ends with are good for.
    pub estimates: Vec<Estimate>,
}

/// An estimate of one window, from rows of the network's output.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    pub window: usize,
    /// Row of the unconditional half, where guidance needs it.
    pub uncond: Option<usize>,
    pub cond: usize,
    /// How often the estimate counts in the blend.
    pub multiplicity: f64,
}

fn branch(plan: &ChunkPlan, window: usize, guidance: Guidance, reference: Option<usize>) -> Branch {
    Branch { guidance, window, prompt: plan.windows[window].text, reference }
}

/// How often the plain estimate of a window counts when nothing is shared.
///
/// DiTCtrl's code adds up two estimates of every window but the first and the last; without sharing they are equal, so one
/// counts twice (spec section 3).
pub fn multiplicity(mode: BlendMode, window: usize, windows: usize) -> f64 {
    match mode {
        BlendMode::Repo if window > 0 && window + 1 < windows => 2.0,
        _ => 1.0,
    }
}

/// A pass over `windows` that shares nothing. `guided`: with the unconditional half.
pub fn plain(plan: &ChunkPlan, windows: Range<usize>, guided: bool, mode: BlendMode) -> RowPlan {
    let mut rows = Vec::new();
    let mut estimates = Vec::new();
    for window in windows {
        let uncond = guided.then(|| {
            rows.push(branch(plan, window, Guidance::Uncond, None));
            rows.len() - 1
        });
        rows.push(branch(plan, window, Guidance::Cond, None));
        let multiplicity = multiplicity(mode, window, plan.windows.len());
        estimates.push(Estimate { window, uncond, cond: rows.len() - 1, multiplicity });
    }
    RowPlan { rows, forks: Vec::new(), estimates }
}
