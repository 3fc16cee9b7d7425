//! Tokenizers and text encoders.

mod special;
mod spiece;
mod tokenizer;
mod words;

pub use tokenizer::{Tokenizer, Tokens};
