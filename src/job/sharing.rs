//! Where and when rows read the keys and values of others.

use crate::processors::Ranges;
use std::ops::RangeInclusive;

/// Where and when joined windows share keys and values.
#[derive(Debug, Clone, PartialEq)]
pub struct Sharing {
    pub steps: Ranges,
    pub layers: Ranges,
    /// Layers of the network.
    pub depth: usize,
}

impl Sharing {
    /// The first and the last layer that share at a step; none at steps without sharing.
    pub fn at(&self, step: usize) -> Option<RangeInclusive<usize>> {
        let first = self.layers.first().filter(|_| self.steps.contains(step))?;
        Some(first..=self.layers.last()?.min(self.depth - 1))
    }
}
