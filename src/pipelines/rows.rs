//! Which rows go through the network together, and which of its outputs are estimates of which window.
//!
//! Without sharing a pass is one window: its unconditional and its conditional row. Windows do not meet, so they go one
//! after the other and memory does not grow with the video.

use crate::attention::{Branch, Fork, Guidance};
use crate::timeline::{self, ChunkPlan};

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
    /// How it was made; none where it stands for all estimates of its window, because nothing is shared.
    pub kind: Option<timeline::Estimate>,
    /// Row of the unconditional half, where guidance needs it.
    pub uncond: Option<usize>,
    pub cond: usize,
}

/// A pass over one window that shares nothing. `guided`: with the unconditional half.
pub fn plain(plan: &ChunkPlan, window: usize, guided: bool) -> RowPlan {
    let halves = if guided { &[Guidance::Uncond, Guidance::Cond][..] } else { &[Guidance::Cond] };
    let prompt = plan.windows[window].text;
    let rows: Vec<Branch> =
        halves.iter().map(|&guidance| Branch { guidance, window, prompt, reference: None }).collect();
    let estimate = Estimate { window, kind: None, uncond: guided.then_some(0), cond: rows.len() - 1 };
    RowPlan { rows, forks: Vec::new(), estimates: vec![estimate] }
}
