//! Prompts by the frame they begin at, in JSON or YAML: `{"0": "a red ball", "24": "a blue box"}`, as AnimateDiff's prompt
//! travel and Deforum have them. A scene lasts until the next begins; how long the last one is the file does not say.
//! Different: those programs interpolate from each prompt to the next all the way, here transitions do.

use super::node::{Source, Table};
use super::scenes::{check_count, prompt};
use super::{Length, Scene, Storyboard};
use anyhow::{Result, anyhow};

/// Whether a table is of this form.
pub(super) fn is_by_frame(table: &Table) -> bool {
    let number = |key: &str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_digit());
    !table.entries().is_empty() && table.entries().iter().all(|entry| number(&entry.key))
}

pub(super) fn read(source: Source, table: &Table) -> Result<Storyboard> {
    check_count(table.entries().len()).map_err(|error| anyhow!("{}: {error}", source.name))?;
    let mut starts = Vec::with_capacity(table.entries().len());
    for entry in table.entries() {
        let most = 1_000_000;
        let start: usize = entry.key.parse().ok().filter(|start| *start <= most).ok_or_else(|| {
            source.at(entry.line, format!("frame {:.20} is beyond {most}, where the longest video ends", entry.key))
        })?;
        let node = &entry.value;
        let text = prompt(source.word("the prompt of a frame", node)?).map_err(|error| source.at(node.line, error))?;
        starts.push((start, entry.line, text));
    }
    starts.sort_by_key(|(start, ..)| *start);
    if let Some((start, line, _)) = starts.first().filter(|(start, ..)| *start > 0) {
        return Err(source.at(*line, format!("the first prompt begins at frame {start}: give frame 0 a prompt")));
    }
    if let Some([_, (start, line, _)]) =
        starts.windows(2).find(|pair| pair[0].0 == pair[1].0).map(|pair| [&pair[0], &pair[1]])
    {
        return Err(source.at(*line, format!("frame {start} has two prompts")));
    }
    let ends: Vec<Option<usize>> = starts.iter().skip(1).map(|(start, ..)| Some(*start)).chain([None]).collect();
    let scenes = starts.into_iter().zip(ends).map(|((start, _, prompt), end)| Scene {
        prompt,
        length: end.map(|end| Length::Frames(end - start)),
        ..Scene::default()
    });
    Ok(Storyboard { scenes: scenes.collect(), ..Storyboard::default() })
}
