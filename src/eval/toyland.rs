//! Toyland's words, the held-out rule, and the captions of its evaluation.
//!
//! The same lists and the same rule as `training/world.py`, which the models were trained by.

use candle_core::{Error, Result};
use serde::Deserialize;

pub const COLOURS: [&str; 8] = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "white"];
pub const SHAPES: [&str; 4] = ["ball", "box", "car", "star"];
pub const MOTIONS: [&str; 5] = ["right", "left", "bounce", "still", "follow"];
pub const PLACES: [&str; 5] = ["meadow", "desert", "snow", "sea", "city"];
pub const TIMES: [&str; 4] = ["sunny", "sunset", "night", "cloudy"];

/// Pixels of a frame of the world.
pub const HEIGHT: usize = 96;
pub const WIDTH: usize = 144;

static CAPTIONS: &str = include_str!("../../models/toyland-judge/captions.json");

/// A caption of the evaluation, with what a video of it must show.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caption {
    pub caption: String,
    pub colour: String,
    pub shape: String,
    pub motion: String,
    pub place: String,
    pub time: String,
    /// Whether its colour, shape, place and time were never trained on together.
    pub unseen: bool,
}

/// The 256 captions of the evaluation: seen and unseen combinations in turn, every word about equally often.
pub fn captions() -> Result<Vec<Caption>> {
    serde_json::from_str(CAPTIONS).map_err(|error| Error::msg(format!("the embedded captions: {error}")))
}

/// Whether training never saw this combination: a fifth of all, fixed by a hash of the four words.
pub fn held_out(colour: &str, shape: &str, place: &str, time: &str) -> bool {
    (fnv1a(&format!("{colour} {shape} {place} {time}")) >> 35).is_multiple_of(5)
}

/// FNV-1a in 64 bits, of the UTF-8 bytes.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv1a() {
        // the published test vectors
        assert_eq!(fnv1a(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_fifth_of_the_combinations_is_held_out() {
        let mut held = 0;
        for colour in COLOURS {
            for shape in SHAPES {
                for place in PLACES {
                    held += TIMES.iter().filter(|time| held_out(colour, shape, place, time)).count();
                }
            }
        }
        assert_eq!(held, 128);
    }

    #[test]
    fn captions_say_what_they_are_labelled_with() {
        let captions = captions().unwrap();
        assert_eq!(captions.len(), 256);
        assert_eq!(captions.iter().filter(|caption| caption.unseen).count(), 128);
        for c in &captions {
            // the list was written by training/world.py: both sides must agree on what is held out
            assert_eq!(held_out(&c.colour, &c.shape, &c.place, &c.time), c.unseen, "{}", c.caption);
            assert!(c.caption.contains(&format!("{} {}", c.colour, c.shape)), "{}", c.caption);
            for (word, known) in
                [(&c.motion, &MOTIONS[..]), (&c.place, &PLACES[..]), (&c.time, &TIMES[..]), (&c.colour, &COLOURS[..])]
            {
                assert!(known.contains(&word.as_str()), "{word}");
            }
        }
    }
}
