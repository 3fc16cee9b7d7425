//! FreeTraj's text: `frame, y0, y1, x0, x1` in each line, rows before columns.

use crate::{Boxes, Rect, finished, mixed, path::checked};
use anyhow::{Context, Result, ensure};

pub fn read(content: &str, frames: usize) -> Result<Boxes> {
    let mut keys: Vec<(f64, Rect)> = Vec::new();
    for (number, line) in content.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = key(line).with_context(|| format!("line {}", number + 1))?;
        if let Some((before, _)) = keys.last() {
            ensure!(
                key.0 > *before,
                "line {}: frame {} comes after frame {before}; frames must rise",
                number + 1,
                key.0
            );
        }
        keys.push(key);
    }
    ensure!(!keys.is_empty(), "no boxes in it");
    finished((0..frames).map(|index| Some(at(&keys, index as f64))).collect())
}

fn key(line: &str) -> Result<(f64, Rect)> {
    let words: Vec<&str> =
        line.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty()).collect();
    let shown: String = line.chars().take(60).collect();
    ensure!(
        words.len() == 5,
        "{shown:?} has {} words; boxes as text have five numbers in a line: frame, top, bottom, left, right",
        words.len()
    );
    let number = |word: &str| {
        let value: f64 =
            word.parse().with_context(|| format!("{:?} is no number", word.chars().take(20).collect::<String>()))?;
        ensure!(value.is_finite(), "{word:?} is no finite number");
        Ok(value)
    };
    let values = words.iter().map(|word| number(word)).collect::<Result<Vec<f64>>>()?;
    ensure!(values[0] >= 0.0 && values[0].fract() == 0.0, "{:?} is no frame", words[0]);
    Ok((values[0], checked([values[3], values[1], values[4], values[2]])?))
}

/// Between two keys all edges move evenly; outside them the whole box moves on as its upper left corner moved last.
fn at(keys: &[(f64, Rect)], frame: f64) -> Rect {
    let on = |(from, a): &(f64, Rect), (to, b): &(f64, Rect), end: &(f64, Rect)| {
        let speed = [0, 1].map(|axis| (b[axis] - a[axis]) / (to - from) * (frame - end.0));
        [end.1[0] + speed[0], end.1[1] + speed[1], end.1[2] + speed[0], end.1[3] + speed[1]]
    };
    match keys {
        [only] => only.1,
        [first, second, ..] if frame < first.0 => on(first, second, first),
        [.., before, last] if frame > last.0 => on(before, last, last),
        _ => {
            let next = keys.iter().position(|(key, _)| *key >= frame).unwrap_or(keys.len() - 1);
            let ((a, from), (b, to)) = (&keys[next.saturating_sub(1)], &keys[next]);
            mixed(from, to, if b > a { (frame - a) / (b - a) } else { 0.0 })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_before_columns_and_the_box_goes_on_outside_the_keys() {
        let made = read("2, 0.0, 0.2, 0.1, 0.3\n\n4, 0.2, 0.8, 0.1, 0.5\n", 8).unwrap();
        let near = |index: usize, wanted: Rect| {
            let rect = made[index].unwrap();
            assert!(rect.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{index}: {rect:?} is not {wanted:?}");
        };
        near(2, [0.1, 0.0, 0.3, 0.2]);
        near(3, [0.1, 0.1, 0.4, 0.5]);
        near(4, [0.1, 0.2, 0.5, 0.8]);
        near(6, [0.1, 0.4, 0.5, 1.0]);
        assert_eq!(made[0], None, "moved out at the top");
        assert_eq!(read("7 0 1 0 1", 2).unwrap(), [Some([0.0, 0.0, 1.0, 1.0]); 2]);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, told) in [
            ("0 0 1 0 1\n1 0 1 0", "line 2: \"1 0 1 0\" has 4 words"),
            ("0 0 1 0 x", "line 1: \"x\" is no number"),
            ("3 0 1 0 1\n3 0 1 0 1", "frames must rise"),
            ("0 0.5 0.1 0 1", "line 1: the lower edge 0.1 lies above"),
            ("0.5 0 1 0 1", "is no frame"),
            ("0 inf 1 0 1", "no finite number"),
            ("", "no boxes"),
        ] {
            let error = format!("{:#}", read(text, 4).unwrap_err());
            assert!(error.contains(told), "{text:?}: {error}");
        }
    }
}
