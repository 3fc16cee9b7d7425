//! Places of words in a prompt, in bytes.
//!
//! Needed where a control names words (`--subject "dark knight"`), where words take the place of others
//! (`--swap "cat=>dog"`) and where a message names what was cut off a prompt.

use std::ops::Range;

/// A letter as it is compared, and where it stands.
struct Letter {
    letter: char,
    place: Range<usize>,
}

/// Lower-case letters, gaps as one space.
fn marks(text: &str) -> Vec<Letter> {
    let mut marks: Vec<Letter> = Vec::with_capacity(text.len());
    for (start, letter) in text.char_indices() {
        let place = start..start + letter.len_utf8();
        match marks.last_mut() {
            Some(last) if letter.is_whitespace() && last.letter == ' ' => last.place.end = place.end,
            _ if letter.is_whitespace() => marks.push(Letter { letter: ' ', place }),
            _ => marks.extend(letter.to_lowercase().map(|letter| Letter { letter, place: place.clone() })),
        }
    }
    marks
}

/// Whether a word goes on from one letter to the next. Scripts without letter case are often written without gaps, so
/// that every place in them counts as the end of a word.
fn joined(before: char, after: char) -> bool {
    let caseless = |letter: char| letter.is_alphabetic() && !letter.is_lowercase() && !letter.is_uppercase();
    before.is_alphanumeric() && after.is_alphanumeric() && !caseless(before) && !caseless(after)
}

/// Whether `words` stand in `text` at `start`, as a whole.
fn stand(text: &[Letter], words: &[Letter], start: usize) -> bool {
    let end = start + words.len();
    let (Some(first), Some(last), Some(place)) = (words.first(), words.last(), text.get(start..end)) else {
        return false;
    };
    place.iter().zip(words).all(|(a, b)| a.letter == b.letter)
        && !(start > 0 && joined(text[start - 1].letter, first.letter))
        && !text.get(end).is_some_and(|next| joined(last.letter, next.letter))
}

/// Where `words` first stand in `text`. Letter case and the width of gaps do not matter; the words match as a whole.
pub fn find(text: &str, words: &str) -> Option<Range<usize>> {
    let (text, words) = (marks(text), marks(words.trim()));
    let start = (0..text.len()).find(|&start| stand(&text, &words, start))?;
    Some(text[start].place.start..text[start + words.len() - 1].place.end)
}

/// `text` with other words in the place of some, wherever they stand, and how often each of the `swaps` (these words, those
/// in their place) was made. All are made at once: none sees what another has put in. Where two could begin, the first of
/// the list does. Words that nothing takes the place of take the gap after them along.
pub fn swapped(text: &str, swaps: &[(&str, &str)]) -> (String, Vec<usize>) {
    let letters = marks(text);
    let swaps: Vec<_> = swaps.iter().map(|(from, to)| (marks(from.trim()), to.trim())).collect();
    let (mut out, mut counts) = (String::with_capacity(text.len()), vec![0; swaps.len()]);
    let (mut at, mut copied) = (0, 0);
    while at < letters.len() {
        let Some(swap) = swaps.iter().position(|(from, _)| stand(&letters, from, at)) else {
            at += 1;
            continue;
        };
        let (from, to) = &swaps[swap];
        counts[swap] += 1;
        out.push_str(&text[copied..letters[at].place.start]);
        out.push_str(to);
        at += from.len();
        copied = letters[at - 1].place.end;
        if to.is_empty() {
            match letters.get(at).filter(|next| next.letter == ' ') {
                Some(gap) => (at, copied) = (at + 1, gap.place.end),
                None => out.truncate(out.trim_end().len()),
            }
        }
    }
    out.push_str(&text[copied..]);
    (out, counts)
}

/// The start of the word that `at` lies in.
pub fn start(text: &str, at: usize) -> usize {
    let (Some(before), Some(after)) = (text.get(..at), text.get(at..)) else { return at };
    let Some(mut next) = after.chars().next() else { return at };
    let mut start = at;
    for (index, letter) in before.char_indices().rev() {
        if !joined(letter, next) {
            break;
        }
        (start, next) = (index, letter);
    }
    start
}

/// A range without the white space at its ends.
pub fn trimmed(text: &str, range: Range<usize>) -> (usize, usize) {
    match text.get(range.clone()) {
        Some(part) => {
            let start = range.start + (part.len() - part.trim_start().len());
            (start, start + part.trim().len())
        }
        None => (range.start, range.end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'a>(text: &'a str, words: &str) -> Option<&'a str> {
        find(text, words).map(|range| &text[range])
    }

    #[test]
    fn words_match_as_a_whole() {
        assert_eq!(found("a balloon and a ball", "ball"), Some("ball"));
        assert_eq!(find("a balloon and a ball", "ball"), Some(16..20));
        assert_eq!(found("footballs", "ball"), None);
        assert_eq!(found("the knight's sword", "knight"), Some("knight"));
        assert_eq!(found("a dark, dark knight", "dark knight"), Some("dark knight"));
        assert_eq!(found("an x2 b", "x"), None);
    }

    #[test]
    fn case_and_gaps_do_not_matter() {
        assert_eq!(found("A Dark\t\n Knight rides", " dark knight "), Some("Dark\t\n Knight"));
        assert_eq!(found("Über ÉCOLE", "école"), Some("ÉCOLE"));
        assert_eq!(find("İ x", "x"), Some(3..4));
    }

    #[test]
    fn scripts_without_gaps() {
        assert_eq!(found("黑暗骑士骑马", "骑士"), Some("骑士"));
        assert_eq!(found("日本のball", "ball"), Some("ball"));
    }

    #[test]
    fn words_take_the_place_of_others_at_once() {
        for (text, swaps, swapped, counts) in [
            ("a cat, a Cat and a catalogue", &[("cat", "dog")][..], "a dog, a dog and a catalogue", vec![2]),
            ("red on blue", &[("red", "blue"), ("blue", "red")], "blue on red", vec![1, 1]),
            ("a  red ball", &[("red ball", "x"), ("ball", "y")], "a  x", vec![1, 0]),
            ("a red ball", &[(" red ", "")], "a ball", vec![1]),
            ("a red  ball, red", &[("red", "")], "a ball,", vec![2]),
            ("a red, round ball", &[("red", "")], "a, round ball", vec![1]),
            ("red", &[("red", "")], "", vec![1]),
            ("a ball", &[("", "x"), ("cat", "dog")], "a ball", vec![0, 0]),
            ("İ café İ", &[("CAFÉ", "bar")], "İ bar İ", vec![1]),
        ] {
            assert_eq!(super::swapped(text, swaps), (swapped.to_owned(), counts), "{text}");
        }
    }

    #[test]
    fn nothing_to_find() {
        for (text, words) in [("", "a"), ("a", ""), ("a", " \t"), ("a", "ab"), ("", "")] {
            assert_eq!(find(text, words), None, "{words:?} in {text:?}");
        }
    }

    #[test]
    fn starts_of_words() {
        assert_eq!(start("a red ball", 8), 6);
        assert_eq!(start("a red ball", 6), 6);
        assert_eq!(start("red,ball", 4), 4);
        assert_eq!(start("red", 3), 3);
        assert_eq!(start("é", 1), 1); // not a boundary of a letter
        assert_eq!(trimmed(" a b ", 0..5), (1, 4));
        assert_eq!(trimmed("   ", 1..3), (3, 3));
    }
}
