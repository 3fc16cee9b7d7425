//! What recipes are found by: the architecture of a network, and facts of it.

use crate::models::architecture::{Fact, RecipeKey};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;

/// The networks a recipe is for.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct For {
    pub architecture: String,
    /// What must be so of the network.
    #[serde(flatten)]
    pub facts: BTreeMap<String, Fact>,
}

impl For {
    /// What is not so of a network of its architecture, in words; none where it fits.
    pub(super) fn misfit(&self, key: &RecipeKey) -> Option<String> {
        let wrong = |(name, fact): (&String, &Fact)| match key.facts.get(name.as_str()) {
            Some(own) if own == fact => None,
            Some(own) => Some(format!("{name} = {fact}, and this model has {own}")),
            None => {
                let known: Vec<&str> = key.facts.keys().copied().collect();
                Some(format!("{name} = {fact}, and what is known of models is {}", known.join(", ")))
            }
        };
        self.facts.iter().find_map(wrong)
    }

    pub(super) fn fits(&self, key: &RecipeKey) -> bool {
        self.architecture == key.architecture && self.misfit(key).is_none()
    }
}

/// The architecture, then the facts: `NAME, rotary = true`.
impl fmt::Display for For {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.architecture)?;
        self.facts.iter().try_for_each(|(name, fact)| write!(f, ", {name} = {fact}"))
    }
}
