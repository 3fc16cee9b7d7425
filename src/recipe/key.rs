//! What recipes are found by: the architecture of a network, and facts of it.

use crate::models::cogvideox::config::TransformerConfig;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;

/// What recipes are found by.
#[derive(Debug, Clone, PartialEq)]
pub struct RecipeKey {
    pub architecture: &'static str,
    pub facts: BTreeMap<&'static str, Fact>,
}

/// One thing that is so of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "true, false or a whole number")]
pub enum Fact {
    Flag(bool),
    Number(usize),
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl RecipeKey {
    /// What recipes are found by for a CogVideoX network.
    pub fn of(transformer: &TransformerConfig) -> Self {
        let facts = [
            ("layers", Fact::Number(transformer.num_layers)),
            ("heads", Fact::Number(transformer.num_attention_heads)),
            ("latent_channels", Fact::Number(transformer.in_channels)),
            ("patch_t", Fact::Number(transformer.patch_size_t.unwrap_or(1))),
            ("rotary", Fact::Flag(transformer.use_rotary_positional_embeddings)),
            ("window", Fact::Number(transformer.window())),
        ];
        Self { architecture: "cogvideox", facts: facts.into() }
    }
}

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

/// `cogvideox, rotary = true`.
impl fmt::Display for For {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.architecture)?;
        self.facts.iter().try_for_each(|(name, fact)| write!(f, ", {name} = {fact}"))
    }
}
