//! Plain text: one prompt per line, in order. Blank lines and lines that begin with `#` are left out. Where lines begin with
//! times, as `[00:00-00:06] a red ball`, that is how long each scene is.

use super::scenes::{MOST_SCENES, check_count, plain, prompt};
use super::{Length, Storyboard};
use anyhow::{Context, Result, bail, ensure};

/// `name` is the file's, for messages.
pub(super) fn parse(name: &str, text: &str) -> Result<Storyboard> {
    let lines = text.split('\n').enumerate().map(|(index, line)| (index + 1, line.trim()));
    let lines: Vec<_> = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect();
    ensure!(!lines.is_empty(), "{name}: no prompt in it; write one prompt per line");
    check_count(lines.len()).with_context(|| format!("{name}:{}", lines[lines.len().min(MOST_SCENES + 1) - 1].0))?;
    let timed = times(lines[0].1).is_some();
    let mut before = 0.0; // seconds
    let mut scenes = Vec::with_capacity(lines.len());
    for (number, line) in lines {
        let mut scene = || {
            let (length, text) = match times(line) {
                Some((times, text)) if timed => {
                    let (start, end) = clocks(times)?;
                    ensure!(start == before, "the scene begins at {start} s and the one before it ends at {before} s");
                    before = end;
                    (Some(Length::Seconds(end - start)), text)
                }
                None if timed => {
                    bail!("no time before this prompt, and others have one: write [00:00-00:06] before it")
                }
                Some(_) => bail!("a time before this prompt, and others have none: give each line one, from 00:00 on"),
                None => (None, line),
            };
            let mut scene = plain(prompt(text)?);
            scene.length = length;
            Ok(scene)
        };
        scenes.push(scene().with_context(|| format!("{name}:{number}"))?);
    }
    Ok(Storyboard { scenes, ..Storyboard::default() })
}

const DASHES: [char; 3] = ['-', '\u{2013}', '\u{2014}'];

/// What stands in brackets before a prompt, where it can be nothing but times, and the prompt.
fn times(line: &str) -> Option<(&str, &str)> {
    let (times, text) = line.strip_prefix('[')?.split_once(']')?;
    let of_times = |c: char| c.is_ascii_digit() || c.is_whitespace() || ":.,".contains(c) || DASHES.contains(&c);
    (times.contains(':') && times.chars().all(of_times)).then_some((times, text))
}

/// Start and end in seconds.
fn clocks(times: &str) -> Result<(f64, f64)> {
    let Some((start, end)) = times.split_once(DASHES) else {
        bail!("[{times}] is not a stretch of time: write [00:00-00:06]")
    };
    let (start, end) = (clock(start)?, clock(end)?);
    ensure!(start < end, "[{times}] ends before it begins");
    Ok((start, end))
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
        let number: f64 = part.parse().ok().filter(|number| (0.0..1e6).contains(number)).with_context(wrong)?;
        ensure!(index == 0 || number < 60.0, wrong());
        seconds = seconds * 60.0 + number;
    }
    Ok(seconds)
}
