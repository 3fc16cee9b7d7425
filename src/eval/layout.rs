//! Which frames of a video belong to which prompt, and where its windows meet: out of the record in the video.
//!
//! A latent frame belongs to the prompt of the window that weighs most in it (triangular weights, spec of DiTCtrl), windows on
//! interpolated text left out; of equals the earlier. A frame that only such transition windows cover belongs to none.

use crate::models::LatentTime;
use crate::timeline::triangle;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::ops::Range;

/// Frames of video counted from 0.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Layout {
    pub frames: usize,
    /// In order of time, without overlap.
    pub scenes: Vec<Span>,
    /// Frames that differ from the one before in which windows they are made of: a window begins or ends there, or a cut.
    pub seams: Vec<usize>,
    /// The other frames with which a latent frame begins, to compare the seams with: within a latent frame neighbours are
    /// alike for another reason.
    pub others: Vec<usize>,
}

/// Neighbouring frames of one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    pub frames: Range<usize>,
    pub prompt: usize,
}

/// What a record says about windows, by segment (stretch between two cuts).
#[derive(Deserialize)]
struct Recorded {
    frames: usize,
    /// First latent frame, latent frames, index into the segment's texts.
    windows: Vec<Vec<(usize, usize, usize)>>,
    texts: Vec<Vec<Text>>,
    /// Frames of video, with those of the fades at both ends.
    segment_frames: Vec<usize>,
    /// Frames at its begin that are mixed with the end of the segment before; none where scenes follow by cuts.
    #[serde(default)]
    fades: Vec<usize>,
    /// Latent frames in front that are no video.
    padding: Vec<usize>,
    /// Latent frames after these that stand for the end of a given video.
    #[serde(default)]
    context_frames: Vec<usize>,
    /// Frames of a given video, before all segments.
    #[serde(default)]
    given_frames: usize,
    /// Frames of video for one latent frame, but the first.
    temporal_ratio: usize,
    /// Frames of the file for each one that was made but the last.
    interpolate: Option<usize>,
    /// Scenes whose windows have texts of several.
    relay: Option<RecordedRelay>,
}

#[derive(Deserialize)]
struct RecordedRelay {
    times: Vec<RecordedTime>,
}

/// When such a scene is seen, in frames of its segment and of what that is given.
#[derive(Deserialize)]
struct RecordedTime {
    #[serde(default)]
    segment: usize,
    scene: usize,
    frames: (usize, usize),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Prompt(usize),
    /// From, to, weight.
    Between(#[allow(dead_code)] (usize, usize, f64)),
}

/// Frames, and frames of windows, that a record may name; the longest video has fewer.
const MOST_FRAMES: usize = 1_000_000;
const MOST_WORK: usize = 100_000_000;
const MOST_RATIO: usize = 1000;

impl Layout {
    /// The frames shared out evenly among prompts, in order. Nothing is known of windows.
    pub fn even(frames: usize, prompts: usize) -> Self {
        let at = |prompt: usize| frames * prompt / prompts.max(1);
        let scenes = (0..prompts).map(|prompt| Span { frames: at(prompt)..at(prompt + 1), prompt });
        Self { frames, scenes: scenes.filter(|span| !span.frames.is_empty()).collect(), ..Self::default() }
    }

    /// Out of the settings of a record with so many prompts. Errors say why there is no layout.
    pub fn recorded(settings: &Map<String, Value>, prompts: usize) -> Result<Self, String> {
        let recorded: Recorded = serde_json::from_value(Value::Object(settings.clone()))
            .map_err(|error| format!("the record does not say which frames its windows cover ({error})"))?;
        let segments = recorded.windows.len();
        let mut fades = recorded.fades;
        fades.resize(segments + 1, 0);
        let mut contexts = recorded.context_frames;
        contexts.resize(segments, 0);
        let counted = [recorded.texts.len(), recorded.segment_frames.len(), recorded.padding.len()];
        // frames of a fade belong to two segments, and are counted once
        let counts = recorded.segment_frames.iter().zip(fades.windows(2));
        let given = recorded.given_frames;
        let sum = counts.clone().try_fold(given, |sum, (&frames, fade)| sum.checked_add(frames.checked_sub(fade[0])?));
        let apart = counts.into_iter().all(|(&frames, fade)| fade[0].saturating_add(fade[1]) <= frames);
        let factor = recorded.interpolate.unwrap_or(1);
        let file = |made: usize| made.checked_sub(1)?.checked_mul(factor)?.checked_add(1);
        let sound = counted.iter().all(|&count| count == segments) && sum.and_then(file) == Some(recorded.frames);
        let sound = sound && factor > 0 && apart && fades[0] == 0;
        let within = (1..=MOST_RATIO).contains(&recorded.temporal_ratio)
            && recorded.frames <= MOST_FRAMES
            && recorded.padding.iter().chain(&contexts).all(|&latents| latents <= MOST_FRAMES);
        if !sound || !within || recorded.segment_frames.contains(&0) {
            return Err("the segments in the record do not make up its video".to_owned());
        }
        let mut layout = Self { frames: recorded.frames, ..Self::default() };
        let (mut start, mut work) = (given, 0);
        for segment in 0..segments {
            let frames = recorded.segment_frames[segment];
            start -= fades[segment];
            let fade = (fades[segment], fades[segment + 1]);
            // what goes on from given latent frames has as many frames for its first latent frame as for the others
            let whole = LatentTime::new(recorded.temporal_ratio);
            let time = if contexts[segment] > 0 { whole.continued() } else { whole };
            let timeline = Timeline { start, frames, fade, time };
            let mut windows = Vec::new();
            for &(first, len, text) in &recorded.windows[segment] {
                let text = recorded.texts[segment].get(text);
                let end = first.checked_add(len).ok_or("a window in the record ends nowhere")?;
                let (Some(text), true) = (text, len > 0) else {
                    return Err("a window in the record has no text, or no frames".to_owned());
                };
                let prompt = match text {
                    Text::Prompt(prompt) if *prompt < prompts => Some(*prompt),
                    Text::Prompt(_) if recorded.relay.is_some() => None, // a text of several
                    Text::Prompt(_) => return Err("a window in the record has a prompt that is not there".to_owned()),
                    Text::Between(_) => None,
                };
                work += len.min(timeline.latents());
                if work > MOST_WORK {
                    return Err("the windows in the record are too many".to_owned());
                }
                windows.push(Window { first, end, prompt });
            }
            layout.add(&timeline, &windows, recorded.padding[segment] + contexts[segment]);
            let times = recorded.relay.iter().flat_map(|relay| &relay.times).filter(|time| time.segment == segment);
            let given = whole.checked_frames(contexts[segment]).unwrap_or(usize::MAX);
            layout.paint(&timeline, &times.collect::<Vec<_>>(), given, prompts)?;
            start += frames;
        }
        layout.stretch(factor);
        Ok(layout)
    }

    /// Frames that one scene alone is heard in belong to it.
    fn paint(
        &mut self,
        timeline: &Timeline,
        times: &[&RecordedTime],
        given: usize,
        prompts: usize,
    ) -> Result<(), String> {
        if times.is_empty() {
            return Ok(());
        }
        let own = timeline.start + timeline.fade.0..timeline.start + timeline.frames - timeline.fade.1;
        let mut of: Vec<Option<usize>> = own.clone().map(|frame| self.prompt(frame)).collect();
        let heard = |frame: usize| times.iter().filter(move |time| (time.frames.0..time.frames.1).contains(&frame));
        if times.iter().any(|time| time.scene >= prompts) || of.len().saturating_mul(times.len()) > MOST_WORK {
            return Err("a scene in the record has a prompt that is not there".to_owned());
        }
        for (index, prompt) in of.iter_mut().enumerate() {
            let mut heard = heard((own.start + index - timeline.start).saturating_add(given));
            if let Some(time) = heard.next() {
                *prompt = if heard.next().is_none() { Some(time.scene) } else { None };
            }
        }
        self.scenes.retain(|span| span.frames.start < own.start);
        for (index, prompt) in of.into_iter().enumerate() {
            let (Some(prompt), frame) = (prompt, own.start + index) else { continue };
            match self.scenes.last_mut().filter(|last| last.prompt == prompt && last.frames.end == frame) {
                Some(last) => last.frames.end = frame + 1,
                None => self.scenes.push(Span { frames: frame..frame + 1, prompt }),
            }
        }
        Ok(())
    }

    /// With `factor` frames for each one but the last: those put in behind a frame count as it does.
    fn stretch(&mut self, factor: usize) {
        for span in &mut self.scenes {
            span.frames = span.frames.start * factor..(span.frames.end * factor).min(self.frames);
        }
        self.seams.iter_mut().chain(&mut self.others).for_each(|frame| *frame *= factor);
    }

    /// The prompt of a frame.
    pub fn prompt(&self, frame: usize) -> Option<usize> {
        let after = self.scenes.partition_point(|span| span.frames.end <= frame);
        self.scenes.get(after).filter(|span| span.frames.contains(&frame)).map(|span| span.prompt)
    }

    /// `before`: latent frames of the windows in front that are no video of the segment.
    fn add(&mut self, timeline: &Timeline, windows: &[Window], before: usize) {
        let latents = timeline.latents();
        let mut best: Vec<(f64, Option<usize>)> = vec![(0.0, None); latents];
        let mut seam = vec![false; latents];
        for window in windows {
            for edge in [window.first, window.end].into_iter().filter_map(|edge| edge.checked_sub(before)) {
                if (1..latents).contains(&edge) {
                    seam[edge] = true;
                }
            }
            let Some(prompt) = window.prompt else { continue };
            let len = window.end - window.first;
            let (first, end) = (window.first.saturating_sub(before), window.end.saturating_sub(before).min(latents));
            for (latent, best) in best.iter_mut().enumerate().take(end).skip(first) {
                let weight = triangle(latent + before - window.first, len);
                // the two ends of a window weigh the same but for rounding
                if weight > best.0 + 1e-9 {
                    *best = (weight, Some(prompt));
                }
            }
        }
        let own = timeline.start + timeline.fade.0..timeline.start + timeline.frames - timeline.fade.1;
        let begins = if timeline.start == 0 { 0..0 } else { timeline.start..own.start + 1 };
        self.seams.extend(begins.filter(|&frame| frame == timeline.start || frame == own.start));
        for (latent, (_, prompt)) in best.iter().enumerate() {
            let all = timeline.frames_of(latent);
            let frames = all.start.max(own.start)..all.end.min(own.end);
            if let (Some(prompt), false) = (*prompt, frames.is_empty()) {
                match self.scenes.last_mut().filter(|last| last.prompt == prompt && last.frames.end == frames.start) {
                    Some(last) => last.frames.end = frames.end,
                    None => self.scenes.push(Span { frames, prompt }),
                }
            }
            // the first frame is no border, and within a fade there is none
            if all.start > own.start && all.start < own.end {
                let borders = if seam[latent] { &mut self.seams } else { &mut self.others };
                borders.push(all.start);
            }
        }
    }
}

struct Window {
    /// Padding counted, as in the record.
    first: usize,
    end: usize,
    /// None on interpolated text.
    prompt: Option<usize>,
}

/// A stretch of video between two cuts.
struct Timeline {
    /// First frame of video.
    start: usize,
    frames: usize,
    /// Frames mixed with the segment before, and with the one after.
    fade: (usize, usize),
    time: LatentTime,
}

impl Timeline {
    /// Latent frames of which something is seen.
    fn latents(&self) -> usize {
        self.time.latent_frames(self.frames)
    }

    fn frames_of(&self, latent: usize) -> Range<usize> {
        let Range { start, end } = self.time.span(latent);
        self.start + start.min(self.frames)..self.start + end.min(self.frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn recorded(settings: Value, prompts: usize) -> Result<Layout, String> {
        Layout::recorded(settings.as_object().unwrap(), prompts)
    }

    fn spans(layout: &Layout) -> Vec<(usize, usize, usize)> {
        layout.scenes.iter().map(|span| (span.frames.start, span.frames.end, span.prompt)).collect()
    }

    #[test]
    fn frames_belong_to_the_window_that_weighs_most() {
        // two prompts, overlap 9, two transition windows: the second prompt begins where the first one ends
        let layout = recorded(
            json!({
                "frames": 97, "segment_frames": [97], "padding": [0], "temporal_ratio": 4,
                "windows": [[[0, 13, 0], [4, 13, 1], [8, 13, 2], [12, 13, 3]]],
                "texts": [[0, [0, 1, 0.333], [0, 1, 0.667], 1]]
            }),
            2,
        )
        .unwrap();
        // latent frame 12 is the last of the first and the first of the last, with equal weights: the earlier has it
        assert_eq!(spans(&layout), [(0, 49, 0), (49, 97, 1)]);
        assert_eq!((layout.prompt(48), layout.prompt(49), layout.prompt(97)), (Some(0), Some(1), None));
        // windows begin at latents 4, 8, 12 and end at 13, 17, 21
        assert_eq!(layout.seams, [13, 29, 45, 49, 65, 81]);
        assert_eq!(layout.seams.len() + layout.others.len(), 24);
    }

    #[test]
    fn frames_of_transition_windows_alone_belong_to_none() {
        let layout = recorded(
            json!({
                "frames": 105, "segment_frames": [105], "padding": [0], "temporal_ratio": 4,
                "windows": [[[0, 13, 0], [7, 13, 1], [14, 13, 2]]], "texts": [[0, [0, 1, 0.5], 1]]
            }),
            2,
        )
        .unwrap();
        assert_eq!(spans(&layout), [(0, 49, 0), (53, 105, 1)]);
        assert_eq!(layout.prompt(50), None);
    }

    #[test]
    fn cuts_are_seams_and_padding_is_no_video() {
        let layout = recorded(
            json!({
                "frames": 10, "segment_frames": [5, 5], "padding": [0, 1], "temporal_ratio": 4,
                "windows": [[[0, 2, 0]], [[0, 3, 0]]], "texts": [[0], [1]]
            }),
            2,
        )
        .unwrap();
        assert_eq!(spans(&layout), [(0, 5, 0), (5, 10, 1)]);
        assert_eq!((layout.seams, layout.others), (vec![5], vec![1, 6]));
    }

    #[test]
    fn given_frames_belong_to_no_prompt() {
        // nine latent frames of a given video are looked at, and two more are made
        let layout = recorded(
            json!({
                "frames": 48, "given_frames": 40, "context_frames": [9], "segment_frames": [8], "padding": [0],
                "temporal_ratio": 4, "windows": [[[0, 11, 0]]], "texts": [[0]]
            }),
            1,
        )
        .unwrap();
        assert_eq!(spans(&layout), [(40, 48, 0)]);
        assert_eq!((layout.seams, layout.others), (vec![40], vec![44]));
    }

    #[test]
    fn frames_between_frames_belong_to_the_one_before() {
        let mut record = json!({
            "frames": 10, "segment_frames": [5, 5], "padding": [0, 1], "temporal_ratio": 4,
            "windows": [[[0, 2, 0]], [[0, 3, 0]]], "texts": [[0], [1]]
        });
        let plain = recorded(record.clone(), 2).unwrap();
        (record["interpolate"], record["frames"]) = (json!(4), json!(37));
        let layout = recorded(record.clone(), 2).unwrap();
        assert_eq!((spans(&plain), spans(&layout)), (vec![(0, 5, 0), (5, 10, 1)], vec![(0, 20, 0), (20, 37, 1)]));
        assert_eq!((plain.seams, layout.seams), (vec![5], vec![20]));
        for (factor, frames) in [(4, 40), (0, 10), (usize::MAX, 37)] {
            (record["interpolate"], record["frames"]) = (json!(factor), json!(frames));
            assert!(recorded(record.clone(), 2).unwrap_err().contains("do not make up"));
        }
    }

    #[test]
    fn frames_of_a_fade_belong_to_no_prompt() {
        let layout = recorded(
            json!({
                "frames": 16, "segment_frames": [9, 9], "fades": [0, 2], "padding": [0, 0], "temporal_ratio": 4,
                "windows": [[[0, 3, 0]], [[0, 3, 0]]], "texts": [[0], [1]]
            }),
            2,
        )
        .unwrap();
        assert_eq!(spans(&layout), [(0, 7, 0), (9, 16, 1)]);
        assert_eq!((layout.seams, layout.others), (vec![7, 9], vec![1, 5, 12]));
    }

    #[test]
    fn records_that_do_not_add_up_are_refused() {
        let sound = json!({
            "frames": 5, "segment_frames": [5], "padding": [0], "temporal_ratio": 4, "windows": [[[0, 2, 0]]],
            "texts": [[0]]
        });
        assert!(recorded(sound.clone(), 1).is_ok());
        for (key, value) in [
            ("frames", json!(6)),
            ("segment_frames", json!([0])),
            ("segment_frames", json!([usize::MAX, 6])),
            ("padding", json!([])),
            ("fades", json!([1])),
            ("fades", json!([0, 9])),
            ("padding", json!([usize::MAX])),
            ("temporal_ratio", json!(0)),
            ("temporal_ratio", json!(usize::MAX)),
            ("windows", json!([[[usize::MAX, 2, 0]]])),
            ("windows", json!([[[0, 0, 0]]])),
            ("windows", json!([[[0, 2, 7]]])),
            ("texts", json!([[3]])),
            ("texts", json!(null)),
        ] {
            let mut settings = sound.clone();
            settings[key] = value;
            assert!(recorded(settings, 1).is_err(), "{key}");
        }
    }

    #[test]
    fn prompts_share_frames_evenly_where_nothing_is_known() {
        let layout = Layout::even(7, 3);
        assert_eq!(spans(&layout), [(0, 2, 0), (2, 4, 1), (4, 7, 2)]);
        assert!(layout.seams.is_empty());
        assert_eq!(Layout::even(1, 2).scenes.len(), 1);
        assert!(Layout::even(4, 0).scenes.is_empty());
    }
}
