//! Controls of attention. Each is an [`AttentionProcessor`](crate::attention::AttentionProcessor): middleware that works on
//! queries, keys and values and knows no model.
//!
//! | attention processor | what it does |
//! |---|---|
//! | [`row_gather`] | rows take keys and values (or queries and keys) of other rows |
//! | [`key_mask`] | rows see the source's foreground or background keys, by the maps of a word |
//! | [`attention_map`] | records a few columns or regions of the probabilities |
//! | [`kv_bank`] | keys and values of rows that are not in the batch: windows one after the other, anchor frames |
//! | [`relay`] | frames listen to the words of their own scene |
//! | [`reweight`] | scales what words contribute, after the softmax |
//! | [`mod@reference`] | frames look at the features of a subject, weighed by where it is to be |
//! | [`ultravico`] | attention between frames far apart is damped |
//! | [`window`] | attention in overlapping windows of frames, fused |
//! | [`when`] | any of these at chosen steps, layers and kinds of site |
//!
//! A control that can be asked for by name is one file with its [`Control`]: [`kv_share`], [`relay`], [`word_swap`], [`cross_frame`],
//! [`window`], [`reweight`]. [`registry`] is the list of them, [`spec`] reads `--attn-proc` by their entries, [`stack`] lets
//! each add what it is made of to a [`Builder`].
//!
//! In a stack, the outermost comes first: `[attention_map, row_gather, key_mask, reweight]`. The recorder must see a row's
//! own queries and keys, the key mask the source's keys, the reweighting what is really attended to.
//!
//! Files use each other one way: `when, word -> attention processors -> builder -> control -> controls -> registry -> spec
//! -> stack`.

pub mod attention_map;
pub mod builder;
pub mod control;
pub mod cross_frame;
pub mod key_mask;
pub mod kv_bank;
pub mod kv_share;
pub mod mix;
mod none;
pub mod reference;
pub mod registry;
pub mod relay;
pub mod residual;
pub mod reweight;
pub mod routes;
pub mod row_gather;
pub mod spec;
pub mod stack;
pub mod ultravico;
pub mod when;
pub mod window;
pub mod word;
pub mod word_swap;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod network_laws;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod toy_unet;

pub use attention_map::{AttentionMap, AttentionMaps, Recording};
pub use builder::{Builder, Setting, Stack, Subject};
pub use control::{COMMON, Control, Order, Parameter};
pub use key_mask::KeyMask;
pub use kv_bank::{BankPlan, BankSize, KvBank, LayerSize, Lifetime, Purpose};
pub use registry::list;
pub use residual::{FeatureResiduals, Residual};
pub use reweight::Reweight;
pub use routes::{Profile, Route, Routes};
pub use row_gather::RowGather;
pub use spec::{Spec, parse};
pub use stack::{build, check_order};
pub use when::{Ranges, When};
pub use window::Window;
pub use word::{Keys, Word, WordFactor};
