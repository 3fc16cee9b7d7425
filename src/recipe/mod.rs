//! The defaults of a method on a model, as `configs/` has them. The files say where their numbers come from. [`find()`] says
//! which one a run follows.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "opens files")]

mod entries;
mod find;
mod key;

pub use entries::{
    CacheRecipe, ControlRecipe, DitCtrl, FrameNoise, FreeNoiseRecipe, InstructRecipe, LatentRgb, LongRecipe, Methods,
    Recipe, SdEditRecipe, StreamingRecipe, Uncond, ZeroShotRecipe,
};
pub use find::{Choice, Chosen, Listed, find, list};
pub use key::For;
