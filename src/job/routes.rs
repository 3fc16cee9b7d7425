//! The texts that scenes share, and which tokens of them are whose ([`crate::processors::relay`]).

use super::plan::Segment;
use super::prompts::Prompts;
use super::scene_times::{SceneTime, SharedText};
use crate::processors::Route;
use crate::storyboard::Scene;
use anyhow::{Result, bail};

/// The texts that the scenes of windows share, of all segments: the style and the scenes, each behind a space.
pub fn shared_texts(segments: &[Segment], scenes: &[Scene], style: Option<&str>) -> Vec<SharedText> {
    let style = style.map(str::trim).unwrap_or_default();
    let text = |of: &Vec<usize>| {
        let mut shared = SharedText { text: style.to_owned(), scenes: Vec::with_capacity(of.len()) };
        for &scene in of {
            if !shared.text.is_empty() {
                shared.text.push(' ');
            }
            let start = shared.text.len();
            shared.text.push_str(&scenes[scene].prompt);
            shared.scenes.push((scene, start..shared.text.len()));
        }
        shared
    };
    segments
        .iter()
        .filter_map(|segment| segment.relay.as_ref())
        .flat_map(|relay| relay.texts.iter().map(text))
        .collect()
}

/// Which tokens of each shared text are whose, and when those scenes are seen. `prompts` holds them after the prompts of `scenes`
/// scenes.
///
/// # Errors
/// A text that is longer than the encoder reads: a scene would be silenced.
pub fn routes(
    segments: &[Segment],
    shared: &[SharedText],
    scenes: usize,
    (prompts, length): (&mut Prompts, usize),
) -> Result<Vec<Vec<Route>>> {
    let times: Vec<&SceneTime> =
        segments.iter().filter_map(|segment| segment.relay.as_ref()).flat_map(|relay| &relay.times).collect();
    let mut routes = Vec::with_capacity(shared.len());
    for (index, text) in shared.iter().enumerate() {
        let tokens = &prompts.tokens()?[scenes + index];
        if let Some(cut) = &tokens.cut {
            let kept = text.text.len() - cut.len();
            let over = text.scenes.iter().find(|(_, bytes)| bytes.end > kept).map_or(0, |(scene, _)| *scene);
            bail!(
                "scene {}: here the text of a window, {:?}, is longer than the {length} tokens that the model reads: give shorter \
                 prompts, longer scenes, or --transition blend",
                over + 1,
                text.text
            )
        }
        let mut of_text = Vec::with_capacity(text.scenes.len());
        for (scene, bytes) in &text.scenes {
            let own = tokens.spans.iter().enumerate().filter(|(_, span)| span.0 < span.1 && bytes.contains(&span.0));
            let tokens = own.map(|(token, _)| token as u32).collect();
            let time = times.iter().find(|time| time.scene == *scene);
            let Some(time) = time else { bail!("scene {} has no time", scene + 1) };
            of_text.push(Route { tokens, time: time.latent });
        }
        routes.push(of_text);
    }
    Ok(routes)
}
