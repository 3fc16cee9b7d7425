//! Recorded attention maps of a run, brought together: by windows, and those of words on the timeline, where windows that overlap are
//! averaged with the weights of the blend.

use crate::job::{Stage, TimelineRole};
use crate::processors::attention_map::RecordedMap;
use crate::timeline::{Blend, BlendMode};
use anyhow::{Result, ensure};
use candle_core::Tensor;
use std::collections::{BTreeMap, BTreeSet};

/// The maps of the windows of a segment's output; of a window that went through a layer as source and as target the first.
pub fn of_windows(stage: &Stage, segment: usize, kept: Vec<RecordedMap>) -> Vec<(usize, RecordedMap)> {
    let timelines = stage.timelines(&stage.segments[segment]);
    let of_output =
        |kept: &RecordedMap| timelines.get(kept.branch.timeline).is_some_and(|of| of.role == TimelineRole::Output);
    let mut seen = BTreeSet::new();
    kept.into_iter()
        .filter(of_output)
        .filter(|kept| seen.insert((kept.step, kept.layer, kept.branch.window, format!("{:?}", kept.view))))
        .map(|kept| (kept.branch.window, kept))
        .collect()
}

/// By step and layer: the maps of all words in a segment, `[F, words, H, W]` by latent frames.
pub fn of_segment(stage: &Stage, index: usize, kept: Vec<RecordedMap>) -> Result<BTreeMap<(usize, usize), Tensor>> {
    let (segment, patch_t) = (&stage.segments[index], stage.model.architecture.geometry().patch_t);
    let mut blends: BTreeMap<(usize, usize), Blend> = BTreeMap::new();
    for (window, kept) in of_windows(stage, index, kept) {
        let blend = blends.entry((kept.step, kept.layer));
        let blend = blend.or_insert_with(|| Blend::new(&segment.plan, BlendMode::Paper));
        let map = kept.map.transpose(0, 1)?; // [F, words, H, W] by patches in time
        let frames = map.dim(0)?;
        let map = map.unsqueeze(1)?.repeat((1, patch_t, 1, 1, 1))?.flatten(0, 1)?;
        ensure!(map.dim(0)? == frames * patch_t, "maps of {frames} frames");
        blend.accumulate(window, &map)?;
    }
    let shown = segment.plan.keep - segment.padding;
    let line = |(place, mut blend): (_, Blend)| Ok((place, blend.finish()?.narrow(0, segment.padding, shown)?));
    blends.into_iter().map(line).collect()
}

/// By step and layer: the maps of all words on the whole timeline, `[words, F, H, W]` by latent frames.
pub fn of_words(stage: &Stage, kept: &[Vec<RecordedMap>]) -> Result<BTreeMap<(usize, usize), Tensor>> {
    let mut parts: BTreeMap<(usize, usize), Vec<Tensor>> = BTreeMap::new();
    for (index, kept) in kept.iter().enumerate() {
        for (place, line) in of_segment(stage, index, kept.clone())? {
            parts.entry(place).or_default().push(line);
        }
    }
    let joined =
        parts.into_iter().map(|(place, parts)| Ok((place, Tensor::cat(&parts, 0)?.transpose(0, 1)?.contiguous()?)));
    joined.collect()
}
