//! The controls that can be asked for by name: what `vidgen processors` lists and `--attn-proc` takes. A new one is its file,
//! and a line here.

use super::control::Control;
use super::{cross_frame, kv_share, none, relay, reweight, ultravico, window, word_swap};

static CONTROLS: [&Control; 8] = [
    &kv_share::CONTROL,
    &relay::CONTROL,
    &word_swap::CONTROL,
    &cross_frame::CONTROL,
    &window::CONTROL,
    &ultravico::CONTROL,
    &reweight::CONTROL,
    &none::CONTROL,
];

/// The controls there are.
pub fn list() -> &'static [&'static Control] {
    &CONTROLS
}
