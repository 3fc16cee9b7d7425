//! One control per file, each an [`AttentionProcessor`](crate::attention::AttentionProcessor): middleware that works on
//! queries, keys and values and knows no model.
//!
//! | control | what it does |
//! |---|---|
//! | [`row_gather`] | rows take keys and values (or queries and keys) of other rows: K/V sharing, word swap, cross-frame |
//! | [`key_mask`] | rows see the source's foreground or background keys, by the maps of a word |
//! | [`attention_map`] | records a few columns or regions of the probabilities |
//! | [`reweight`] | scales what words contribute, after the softmax |
//! | [`window`] | attention in overlapping windows of frames, fused |
//! | [`kv_bank`] | keys and values of rows that are not in the batch: windows one after the other, anchor frames |
//! | [`when`] | any of these at chosen steps, layers and kinds of site |
//!
//! [`registry`] names those that a user can ask for, [`spec`] reads `--attn-proc`, [`stack`] makes the stack of a run.
//!
//! In a stack, the outermost control comes first: `[attention_map, row_gather, key_mask, reweight]`. The recorder must see
//! a row's own queries and keys, the key mask the source's keys, the reweighting what is really attended to.

pub mod attention_map;
pub mod key_mask;
pub mod kv_bank;
pub mod registry;
pub mod reweight;
pub mod row_gather;
pub mod spec;
pub mod stack;
pub mod when;
pub mod window;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod testing;

pub use attention_map::{AttentionMap, AttentionMaps};
pub use key_mask::KeyMask;
pub use kv_bank::{BankPlan, BankSize, KvBank, Purpose};
pub use registry::{COMMON, Parameter, list};
pub use reweight::{Keys, Reweight};
pub use row_gather::RowGather;
pub use spec::{Control, Spec, parse};
pub use stack::{Setting, Stack, build, check_order};
pub use when::{Ranges, When};
pub use window::Window;
