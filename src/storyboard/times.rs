//! When scenes are seen, in the words that people have for it: `0s-2s`, `25%-50%`, `0f-24f`, `00:02-00:05`.

use anyhow::{Context, Error, Result, bail, ensure};
use std::fmt;
use std::str::FromStr;

/// A place on the timeline of a video.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mark {
    Seconds(f64),
    /// Of the whole video.
    Percent(f64),
    /// Frames before it.
    Frames(usize),
}

/// The time of a scene, as it was written; the end is not of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    pub start: Mark,
    pub end: Mark,
}

/// Seconds, or frames, that a file may ask for.
const MOST: f64 = 1e6;

const DASHES: [char; 3] = ['-', '\u{2013}', '\u{2014}'];

/// What stands in brackets before a prompt, where it can be nothing but times, and the prompt. Two bare numbers are no times.
pub(super) fn before(line: &str) -> Option<(&str, &str)> {
    let (times, text) = line.strip_prefix('[')?.split_once(']')?;
    let of_times = |c: char| c.is_ascii_digit() || c.is_whitespace() || ":.,%sf".contains(c) || DASHES.contains(&c);
    let end = times.trim_end();
    let unit = times.contains(':') || end.ends_with(['%', 's', 'f']) && times.contains(DASHES);
    (unit && times.starts_with(|c: char| c.is_ascii_digit() || c.is_whitespace()) && times.chars().all(of_times))
        .then_some((times, text))
}

impl FromStr for Times {
    type Err = Error;

    fn from_str(times: &str) -> Result<Self> {
        let Some((start, end)) = times.split_once(DASHES) else {
            bail!("[{times}] is not a stretch of time: write [00:00-00:06], [0s-6s], [0%-25%] or [0f-48f]")
        };
        let end = mark(end, None)?;
        let start = mark(start, Some(end))?;
        let falls = match (start, end) {
            (Mark::Seconds(start), Mark::Seconds(end)) | (Mark::Percent(start), Mark::Percent(end)) => start >= end,
            (Mark::Frames(start), Mark::Frames(end)) => start >= end,
            _ => false, // known with the length of the video
        };
        ensure!(!falls, "[{times}] ends before it begins");
        Ok(Self { start, end })
    }
}

/// `like`: what a number without a unit is.
fn mark(word: &str, like: Option<Mark>) -> Result<Mark> {
    let word = word.trim();
    let wrong = || anyhow::anyhow!("{word:?} is not a time: write 00:06 (01:30:00 for hours), 6s, 25% or 48f");
    let number = |digits: &str| {
        let number: Option<f64> = digits.trim().replace(',', ".").parse().ok();
        number.filter(|number| (0.0..MOST).contains(number)).with_context(wrong)
    };
    match (word.strip_suffix('s'), word.strip_suffix('%'), word.strip_suffix('f'), like) {
        (Some(seconds), ..) => number(seconds).map(Mark::Seconds),
        (_, Some(percent), ..) => {
            let percent = number(percent)?;
            ensure!(percent <= 100.0, "{word} is beyond the end of the video, which is 100%");
            Ok(Mark::Percent(percent))
        }
        (.., Some(frames), _) => {
            frames.trim().parse().ok().filter(|frames| *frames < MOST as usize).map(Mark::Frames).with_context(wrong)
        }
        (.., Some(Mark::Percent(_))) if !word.contains(':') => mark(&format!("{word}%"), None),
        (.., Some(Mark::Frames(_))) if !word.contains(':') => mark(&format!("{word}f"), None),
        _ => clock(word).map(Mark::Seconds),
    }
}

/// `SS`, `MM:SS` or `HH:MM:SS`, seconds with decimals.
fn clock(word: &str) -> Result<f64> {
    let wrong = || anyhow::anyhow!("{:?} is not a time: write 00:06, or 01:30:00 for hours", word.trim());
    let parts: Vec<&str> = word.trim().split(':').collect();
    ensure!(parts.len() <= 3, wrong());
    let mut seconds = 0.0;
    for (index, part) in parts.iter().enumerate() {
        let part = part.replace(',', ".");
        let whole = index + 1 < parts.len();
        ensure!(!whole || part.bytes().all(|byte| byte.is_ascii_digit()), wrong());
        let number: f64 = part.parse().ok().filter(|number| (0.0..MOST).contains(number)).with_context(wrong)?;
        ensure!(index == 0 || number < 60.0, wrong());
        seconds = seconds * 60.0 + number;
    }
    Ok(seconds)
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Seconds(seconds) => write!(f, "{seconds}s"),
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Frames(frames) => write!(f, "{frames}f"),
        }
    }
}

/// As it is read.
impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

impl Mark {
    /// Frames before it in a video of `fps` frames a second, `total` of them.
    pub fn frames(self, fps: f64, total: usize) -> usize {
        // what should come out whole is not rounded down for an error in the last digit
        let rounded = |frames: f64| (frames + 1e-6).round() as usize;
        match self {
            Self::Seconds(seconds) => rounded(seconds * fps),
            Self::Percent(percent) => rounded(percent / 100.0 * total as f64),
            Self::Frames(frames) => frames,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_unit_and_written_as_they_are_read() {
        let times = |start, end| Times { start, end };
        for (text, expected) in [
            ("0s-2.5s", times(Mark::Seconds(0.0), Mark::Seconds(2.5))),
            ("0-2s", times(Mark::Seconds(0.0), Mark::Seconds(2.0))),
            ("25%-50%", times(Mark::Percent(25.0), Mark::Percent(50.0))),
            ("25 \u{2013} 50%", times(Mark::Percent(25.0), Mark::Percent(50.0))),
            ("0f-24f", times(Mark::Frames(0), Mark::Frames(24))),
            ("0-24f", times(Mark::Frames(0), Mark::Frames(24))),
            ("00:02-01:00:00", times(Mark::Seconds(2.0), Mark::Seconds(3600.0))),
            ("00:02-50%", times(Mark::Seconds(2.0), Mark::Percent(50.0))),
        ] {
            let read: Times = text.parse().unwrap();
            assert_eq!(read, expected, "{text}");
            assert_eq!(read.to_string().parse::<Times>().unwrap(), expected, "{text}");
        }
        for (text, words) in [
            ("0s-200%", "200% is beyond the end"),
            ("2s-1s", "ends before it begins"),
            ("5f-5f", "ends before it begins"),
            ("1.5f-3f", "\"1.5f\" is not a time"),
            ("1s", "is not a stretch of time"),
            ("-1s-2s", "is not a time"),
            ("0s-1e9s", "is not a time"),
            ("0s-infs", "is not a time"),
        ] {
            let error = text.parse::<Times>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn marks_become_frames() {
        assert_eq!(Mark::Seconds(0.7).frames(10.0, 0), 7);
        assert_eq!(Mark::Percent(50.0).frames(8.0, 49), 25);
        assert_eq!(Mark::Frames(3).frames(8.0, 1), 3);
    }

    #[test]
    fn only_times_stand_before_prompts() {
        for line in ["[0s-2s] a", "[ 0 - 25% ] a", "[00:00-00:06] a", "[0f-8f]a", "[00:00] a"] {
            assert!(before(line).is_some(), "{line}");
        }
        for line in ["[2-3] balls", "[90s] a", "[a] star", "[s-f] a", "[night:0.5] a", "0s-2s a", "[%] a", "[]"] {
            assert!(before(line).is_none(), "{line}");
        }
    }
}
