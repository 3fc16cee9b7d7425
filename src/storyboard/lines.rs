//! Plain text: one prompt per line, in order. Blank lines and lines that begin with `#` are left out. Where lines begin with
//! times, as `[00:00-00:06] a red ball` or `[0%-25%] a red ball`, that is when each scene is seen: one after the other, or so that they
//! overlap and leave gaps.

use super::scenes::{MOST_SCENES, check_count, plain, prompt};
use super::times::{self, Mark, Times};
use super::{Length, Storyboard};
use anyhow::{Context, Result, bail, ensure};

/// `name` is the file's, for messages.
pub(super) fn parse(name: &str, text: &str) -> Result<Storyboard> {
    let lines = text.split('\n').enumerate().map(|(index, line)| (index + 1, line.trim()));
    let lines: Vec<_> = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect();
    ensure!(!lines.is_empty(), "{name}: no prompt in it; write one prompt per line");
    check_count(lines.len()).with_context(|| format!("{name}:{}", lines[lines.len().min(MOST_SCENES + 1) - 1].0))?;
    let timed = times::before(lines[0].1).is_some();
    let mut scenes = Vec::with_capacity(lines.len());
    for (number, line) in lines {
        let scene = || {
            let (time, text) = match times::before(line) {
                Some((times, text)) if timed => (Some(times.parse::<Times>()?), text),
                None if timed => {
                    bail!("no time before this prompt, and others have one: write [00:00-00:06] before it")
                }
                Some(_) => bail!("a time before this prompt, and others have none: give each line one, from 00:00 on"),
                None => (None, line),
            };
            let mut scene = plain(prompt(text)?);
            scene.time = time;
            Ok(scene)
        };
        scenes.push(scene().with_context(|| format!("{name}:{number}"))?);
    }
    // in seconds, one after the other from the first frame on: that is how long each is
    let mut end = Mark::Seconds(0.0);
    let follow =
        |time: Times| matches!(time.end, Mark::Seconds(_)) && time.start == std::mem::replace(&mut end, time.end);
    if timed && scenes.iter().filter_map(|scene| scene.time).all(follow) {
        for scene in &mut scenes {
            if let Some(Times { start: Mark::Seconds(start), end: Mark::Seconds(end) }) = scene.time.take() {
                scene.length = Some(Length::Seconds(end - start));
            }
        }
    }
    Ok(Storyboard { scenes, ..Storyboard::default() })
}
