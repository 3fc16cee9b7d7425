//! Places of words in a prompt, in bytes.
//!
//! Needed where a control names words (`--subject "dark knight"`) and where a message names what was cut off a prompt.

use std::ops::Range;

/// A letter as it is compared, and where it stands.
struct Mark {
    letter: char,
    place: Range<usize>,
}

/// Lower-case letters, gaps as one space.
fn marks(text: &str) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::with_capacity(text.len());
    for (start, letter) in text.char_indices() {
        let place = start..start + letter.len_utf8();
        match marks.last_mut() {
            Some(last) if letter.is_whitespace() && last.letter == ' ' => last.place.end = place.end,
            _ if letter.is_whitespace() => marks.push(Mark { letter: ' ', place }),
            _ => marks.extend(letter.to_lowercase().map(|letter| Mark { letter, place: place.clone() })),
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

/// Where `words` first stand in `text`. Letter case and the width of gaps do not matter; the words match as a whole.
pub fn find(text: &str, words: &str) -> Option<Range<usize>> {
    let (text, words) = (marks(text), marks(words.trim()));
    let (first, last) = (words.first()?.letter, words.last()?.letter);
    let matches = |&start: &usize| {
        let end = start + words.len();
        text[start..end].iter().zip(&words).all(|(a, b)| a.letter == b.letter)
            && !(start > 0 && joined(text[start - 1].letter, first))
            && !text.get(end).is_some_and(|next| joined(last, next.letter))
    };
    let start = (0..(text.len() + 1).saturating_sub(words.len())).find(matches)?;
    Some(text[start].place.start..text[start + words.len() - 1].place.end)
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
