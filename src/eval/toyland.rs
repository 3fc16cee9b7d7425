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

/// What a prompt asks for, in the world's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CaptionFacts {
    pub colour: Option<&'static str>,
    pub shape: Option<&'static str>,
    pub motion: Option<&'static str>,
    pub place: Option<&'static str>,
    pub time: Option<&'static str>,
}

const MOTION_WORDS: [(&str, &[&str]); 5] = [
    ("right", &["right"]),
    ("left", &["left"]),
    ("bounce", &["bounce", "bounces", "jumps", "hops"]),
    ("still", &["still", "rests", "does not move", "stays"]),
    ("follow", &["camera"]),
];
const PLACE_WORDS: [(&str, &[&str]); 5] = [
    ("meadow", &["meadow", "grass"]),
    ("desert", &["desert", "sand", "sandy"]),
    ("snow", &["snow", "snowy"]),
    ("sea", &["sea", "water"]),
    ("city", &["city", "street"]),
];
const TIME_WORDS: [(&str, &[&str]); 4] = [
    ("sunny", &["sunny", "sun", "clear blue sky", "noon"]),
    ("sunset", &["sunset", "evening"]),
    ("night", &["night", "stars"]),
    ("cloudy", &["cloudy", "clouds", "grey sky"]),
];

/// Reads a prompt in the words that the world is captioned with. What it does not say, or says in two ways, is `None`.
pub fn asked(prompt: &str) -> CaptionFacts {
    let lower = prompt.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let count = |phrase: &str| {
        let phrase: Vec<&str> = phrase.split(' ').collect();
        words.windows(phrase.len()).filter(|window| *window == phrase).count()
    };
    let meant = |table: &[(&'static str, &[&str])]| {
        let mut found = table.iter().filter(|(_, phrases)| phrases.iter().any(|phrase| count(phrase) > 0));
        let first = found.next()?.0;
        found.next().is_none().then_some(first)
    };
    let motion = match (count("left to right"), count("right to left")) {
        (0, 0) => meant(&MOTION_WORDS),
        (_, 0) => Some("right"),
        (0, _) => Some("left"),
        _ => None,
    };
    let known = |list: &[&'static str], word: &str| list.iter().copied().find(|known| *known == word);
    // "the blue water" has a colour, but it is no subject's
    let subject = words.iter().enumerate().find_map(|(at, word)| Some((at, known(&SHAPES, word)?)));
    let colour = subject.and_then(|(at, _)| known(&COLOURS, words.get(at.checked_sub(1)?)?));
    let shape = subject.map(|(_, shape)| shape);
    CaptionFacts { colour, shape, motion, place: meant(&PLACE_WORDS), time: meant(&TIME_WORDS) }
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
    fn captions_ask_for_their_labels() {
        for c in captions().unwrap() {
            let asked = asked(&c.caption);
            let found =
                [asked.colour, asked.shape, asked.motion, asked.place, asked.time].map(Option::unwrap_or_default);
            assert_eq!(found, [c.colour, c.shape, c.motion, c.place, c.time], "{}", c.caption);
        }
    }

    #[test]
    fn what_a_prompt_does_not_say_is_not_asked_for() {
        let motion = |prompt| asked(prompt).motion;
        assert_eq!(motion("a red ball travels from left to right"), Some("right"));
        assert_eq!(motion("a red ball travels from right to left"), Some("left"));
        assert_eq!(motion("The Camera follows"), Some("follow"));
        let star = asked("under the stars, a yellow star bounces over the blue water");
        assert_eq!(
            (star.colour, star.shape, star.place, star.time),
            (Some("yellow"), Some("star"), Some("sea"), Some("night"))
        );
        assert_eq!(asked("a panda plays the guitar"), CaptionFacts::default());
        assert_eq!(asked("the car on the street in the snow").place, None);
        assert_eq!(asked("ball").shape, Some("ball"));
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
