//! Mask-guided K/V sharing (DiTCtrl, arXiv 2412.18597): a row's foreground reads the source's foreground, its background
//! the source's background.
//!
//! The foreground of a row is where the map of the subject's words ([`super::attention_map`]), scaled to 0..1 in each
//! frame by `(m - min) / (max - min + 1e-6)`, reaches a threshold. Video queries in the row's foreground attend to text
//! and the source's foreground keys, the others to text and the source's background keys; text queries attend to all.
//! The reference implementation runs the whole attention twice under dense masks and blends by the row's mask; each query
//! needs only one of the two, so here queries and keys are gathered: both calls together cost no more than one attention.
//!
//! Where frames attend each within itself (a UNet), a frame reads the source's frame in its place (or its only one): the
//! foreground reads foreground and the background background, all of the frame where the source's has nothing of that side. The
//! maps are of the text layers passed before; at the first layers, where there is none yet, nothing is masked.
//!
//! This control comes after the one that puts the source's keys and values in the row's place
//! ([`super::row_gather::RowGather::kv_sharing`], or [`super::kv_bank`]), and after the recorder. All halves of the
//! guidance use the masks of the rows that see their text: another row asks for those of its twin, the row with text of
//! the same window, prompt and source. Within a layer the groups with such rows go first
//! ([`crate::attention::Hooks::groups`]), so the twin's map holds the present layer; a wrong order is an error.
//!
//! Masks are kept, as bits, for the rest of the layer; those of rows whose keys go into a bank also until the end of the
//! step, for the pass that reads them.

use super::attention_map::AttentionMaps;
use crate::attention::{
    AttentionProcessor, AttentionSite, Branch, Next, Pass, Qkv, Queries, Reference, Row, Site, SiteKind, inner_ranges,
};
use candle_core::{Result, Tensor, bail};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

type Bits = Rc<Vec<bool>>;

/// See the module.
pub struct KeyMask {
    maps: AttentionMaps,
    threshold: f32,
    /// Foreground of conditional rows at the layer named; none where no map was recorded yet.
    bits: BTreeMap<usize, Option<Bits>>,
    layer: Option<(SiteKind, usize)>,
    /// Foreground of windows whose keys a bank holds, by layer, timeline and window, in the step named.
    banked: Option<HashMap<(usize, usize, usize), Option<Bits>>>,
    step: Option<usize>,
}

impl KeyMask {
    /// `maps` is the handle of a recorder earlier in the stack; a threshold of 0 makes everything foreground.
    pub fn new(maps: &AttentionMaps, threshold: f64) -> Self {
        let (maps, threshold) = (maps.clone(), threshold as f32);
        Self { maps, threshold, bits: BTreeMap::new(), layer: None, banked: None, step: None }
    }

    /// Beside a bank: the masks of rows without a reference are kept for later passes of the step.
    pub fn with_bank(mut self) -> Self {
        self.banked = Some(HashMap::new());
        self
    }

    /// The foreground of a row, from its conditional twin.
    fn foreground(&mut self, row: usize, site: &AttentionSite) -> Result<Option<Bits>> {
        let Some(twin) = cond_twin(site.branches, row) else {
            bail!("{}: row {row} has no conditional row whose mask it could use", site.path)
        };
        let layer = Some((site.kind, site.layer));
        if std::mem::replace(&mut self.layer, layer) != layer {
            self.bits.clear();
        }
        if let Some(bits) = self.bits.get(&twin) {
            return Ok(bits.clone());
        }
        let (_, height, width) = site.grid;
        let map = if site.kind == SiteKind::Joint {
            Some(self.maps.foreground(twin, site.layer, (height, width))?)
        } else if site.rows.contains(&twin) {
            self.maps.so_far(twin, (height, width))?
        } else {
            bail!("{}: row {row} asks for the mask of row {twin} before that row passed it", site.path)
        };
        let bits = map.map(|map| Rc::new(threshold_frames(&map, height * width, self.threshold)));
        self.bits.insert(twin, bits.clone());
        Ok(bits)
    }

    /// What one row of the batch attends with.
    fn plan(&mut self, row: usize, branch: &Branch, site: &AttentionSite) -> Result<RowMask> {
        let source = match branch.reference {
            None => {
                if self.banked.is_some() && branch.half.text {
                    let bits = self.foreground(row, site)?;
                    self.banked.get_or_insert_default().insert((site.layer, branch.timeline, branch.window), bits);
                }
                return Ok(RowMask::Whole);
            }
            Some(Reference::Row(reference)) => self.foreground(reference, site)?,
            Some(Reference::Banked { timeline, window }) => {
                match self.banked.as_ref().and_then(|banked| banked.get(&(site.layer, timeline, window))) {
                    Some(bits) => bits.clone(),
                    None => bail!("{}: no earlier pass left a mask of window {window}", site.path),
                }
            }
        };
        let (Some(own), Some(source)) = (self.foreground(row, site)?, source) else { return Ok(RowMask::Whole) };
        // One mask over everything: every query's side holds every key.
        let whole = |bit| own.iter().chain(source.iter()).all(|&other| other == bit);
        Ok(if whole(true) || whole(false) { RowMask::Whole } else { RowMask::Split(own, source) })
    }
}

/// `(m - min) / (max - min + 1e-6) >= threshold`, frame by frame.
fn threshold_frames(map: &[f32], frame: usize, threshold: f32) -> Vec<bool> {
    let frames = map.chunks(frame).flat_map(|map| {
        let min = map.iter().copied().fold(f32::INFINITY, f32::min);
        let max = map.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        map.iter().map(move |m| (m - min) / (max - min + 1e-6) >= threshold)
    });
    frames.collect()
}

/// The conditional row that is to the other half what `row` is to its own: same window, same prompt, a source of the same
/// window and prompt. A conditional row is its own twin.
fn cond_twin(branches: &[Branch], row: usize) -> Option<usize> {
    let role = |branch: &Branch| {
        let place = |branch: &Branch| (branch.timeline, branch.window, branch.prompt);
        let source = match branch.reference {
            Some(Reference::Row(row)) => branches.get(row).map(place),
            Some(Reference::Banked { timeline, window }) => Some((timeline, window, usize::MAX)), // prompt unknown, and the same for all of them
            None => None,
        };
        (place(branch), source)
    };
    let branch = branches.get(row)?;
    if branch.half.text {
        return Some(row);
    }
    branches.iter().position(|other| other.half.text && role(other) == role(branch))
}

/// What one row of the batch attends with.
enum RowMask {
    /// All its queries on all keys.
    Whole,
    /// Foreground of the row, foreground of its source.
    Split(Bits, Bits),
}

impl AttentionProcessor for KeyMask {
    fn begin(&mut self, pass: &Pass, _branches: &[Branch], _rows: &[Row]) -> Result<()> {
        self.bits.clear();
        self.layer = None;
        if self.step.replace(pass.step) != Some(pass.step) {
            self.banked.iter_mut().for_each(HashMap::clear);
        }
        Ok(())
    }

    fn attend(&mut self, qkv: Qkv, site: &AttentionSite, next: &mut Next) -> Result<Tensor> {
        if !matches!(site.kind, SiteKind::Joint | SiteKind::SelfSpatial) || site.queries != Queries::All {
            return next.attend(qkv, site);
        }
        let mut plans = Vec::with_capacity(site.rows.len());
        for (&row, branch) in site.rows.iter().zip(site.batch()) {
            plans.push(self.plan(row, branch, site)?);
        }
        if plans.iter().all(|plan| matches!(plan, RowMask::Whole)) {
            return next.attend(qkv, site);
        }
        let mut done = Vec::with_capacity(plans.len());
        for (index, plan) in plans.iter().enumerate() {
            let row = qkv.narrow(&site.inner[index])?;
            let inner = inner_ranges([site.inner[index].len()]);
            let alone = Site { rows: &site.rows[index..=index], inner: &inner, ..site.site.clone() };
            let alone = AttentionSite { site: &alone, ..*site };
            done.push(match plan {
                RowMask::Whole => next.attend(row, &alone)?,
                RowMask::Split(own, source) => split_frames(row, own, source, &alone, next)?,
            });
        }
        Tensor::cat(&done, 0)
    }
}

/// One row: the entry of a joint sequence, or its frames one after the other.
fn split_frames(qkv: Qkv, own: &[bool], source: &[bool], site: &AttentionSite, next: &mut Next) -> Result<Tensor> {
    if site.kind == SiteKind::Joint {
        return split(qkv, own, source, site, next);
    }
    let (_, height, width) = site.grid;
    let (own, source): (Vec<_>, Vec<_>) =
        (own.chunks(height * width).collect(), source.chunks(height * width).collect());
    let frames = qkv.q.dim(0)?;
    if own.len() != frames || (source.len() != frames && source.len() != 1) {
        bail!("{}: masks of {} and {} frames for a row of {frames}", site.path, own.len(), source.len())
    }
    let inner = inner_ranges([1]);
    let of_frame = |frame: usize| {
        let alone = Site { inner: &inner, ..site.site.clone() };
        let alone = AttentionSite { site: &alone, ..*site };
        let source = source[frame.min(source.len() - 1)];
        split(qkv.narrow(&(frame..frame + 1))?, own[frame], source, &alone, next)
    };
    Tensor::cat(&(0..frames).map(of_frame).collect::<Result<Vec<_>>>()?, 0)
}

/// One entry `[1, N, L, D]`: text queries on all keys, each video query on text and its own side of the video keys.
fn split(qkv: Qkv, own: &[bool], source: &[bool], site: &AttentionSite, next: &mut Next) -> Result<Tensor> {
    let Qkv { q, k, v, scale, scores } = qkv;
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let (queries, keys) = (site.video_queries(q.dim(2)?)?, site.video_keys(k.dim(2)?)?);
    if queries.len() != own.len() || keys.len() != source.len() {
        bail!("{}: masks of {} and {} tokens for {queries:?} and {keys:?}", site.path, own.len(), source.len())
    }
    let side = |start: usize, mask: &[bool], bit: bool| -> Vec<u32> {
        let inside = mask.iter().enumerate().filter(|&(_, &other)| other == bit);
        inside.map(|(token, _)| (start + token) as u32).collect()
    };
    let select = |x: &Tensor, tokens: &[u32]| x.index_select(&Tensor::new(tokens, x.device())?, 2);

    let mut done = Vec::with_capacity(3);
    let mut order = Vec::with_capacity(q.dim(2)?); // the token of each result
    let text = site.text_queries(q.dim(2)?);
    if !text.is_empty() {
        let q = q.narrow(2, text.start, text.len())?;
        let site = AttentionSite { queries: Queries::Text, ..*site };
        let scores = scores.of_queries(text.clone())?;
        done.push(next.attend(Qkv { q, k: k.clone(), v: v.clone(), scale, scores }, &site)?);
        order.extend(text.map(|token| token as u32));
    }
    for bit in [true, false] {
        let tokens = side(queries.start, own, bit);
        if tokens.is_empty() {
            continue;
        }
        let mut video = side(keys.start, source, bit);
        if video.is_empty() && site.text.is_empty() {
            video = keys.clone().map(|token| token as u32).collect();
        }
        let text: Vec<u32> = site.text.clone().map(|token| token as u32).collect();
        let in_front = site.text.start < keys.start;
        let start = if in_front { 0 } else { video.len() };
        let here = Site { text: start..start + text.len(), ..site.site.clone() };
        let here = AttentionSite { site: &here, queries: Queries::Video, ..*site };
        let seen = if in_front { [text, video].concat() } else { [video, text].concat() };
        let scores = scores.of_queries(tokens.iter().map(|&token| token as usize))?;
        let scores = scores.of_keys(seen.iter().map(|&token| token as usize), start)?;
        let part = Qkv { q: select(&q, &tokens)?, k: select(&k, &seen)?, v: select(&v, &seen)?, scale, scores };
        done.push(next.attend(part, &here)?);
        order.extend(tokens);
    }
    let mut place = vec![0u32; order.len()];
    order.iter().enumerate().for_each(|(index, &token)| place[token as usize] = index as u32);
    select(&Tensor::cat(&done, 2)?.contiguous()?, &place)
}

#[cfg(test)]
mod tests {
    use super::super::attention_map::AttentionMap;
    use super::super::row_gather::RowGather;
    use super::super::testing::*;
    use super::super::word::Word;
    use super::*;
    use candle_core::Device;

    fn pair() -> Vec<Branch> {
        vec![
            branch(UNCOND, 0, 0, None),
            branch(UNCOND, 1, 1, Some(0)),
            branch(COND, 0, 0, None),
            branch(COND, 1, 1, Some(2)),
        ]
    }

    /// Positions of the subject differ between the two prompts.
    fn subject() -> Vec<Word> {
        vec![Word { text: "knight".into(), positions: vec![vec![0, 1], vec![3]] }]
    }

    fn stack(threshold: f64) -> [Box<dyn AttentionProcessor>; 3] {
        let maps = AttentionMaps::default();
        let recorder = AttentionMap::new(&maps, subject());
        [boxed(recorder), boxed(RowGather::kv_sharing()), boxed(KeyMask::new(&maps, threshold))]
    }

    /// The reference's form: both attentions under dense masks, blended by the target's mask. One row, keys of the source.
    fn dense(toy: &Toy, qkv: &Qkv, own: &[bool], source: &[bool]) -> Tensor {
        let allowed = |bit: bool| {
            let video = source.iter().map(|&other| if other == bit { 0.0 } else { f32::NEG_INFINITY });
            let mut video: Vec<f32> = video.collect();
            let at = if toy.text_behind { video.len() } else { 0 };
            video.splice(at..at, vec![0.0; toy.text]);
            video
        };
        let attend = |bit| {
            let scores = dense_scores(qkv);
            let bias = Tensor::new(allowed(bit), &Device::Cpu).unwrap(); // over keys
            let biased = scores.broadcast_add(&bias).unwrap();
            let (text, video) = (toy.text_range(), toy.video_range());
            let parts = |a: &Tensor, range: &std::ops::Range<usize>| a.narrow(2, range.start, range.len()).unwrap();
            let mut parts = [(text.start, parts(&scores, &text)), (video.start, parts(&biased, &video))];
            parts.sort_by_key(|(start, _)| *start);
            let scores = Tensor::cat(&[&parts[0].1, &parts[1].1], 2).unwrap();
            candle_nn::ops::softmax_last_dim(&scores).unwrap().matmul(&qkv.v.contiguous().unwrap()).unwrap()
        };
        let mut m: Vec<f32> = own.iter().map(|&bit| f32::from(u8::from(bit))).collect();
        let at = if toy.text_behind { m.len() } else { 0 };
        m.splice(at..at, vec![1.0; toy.text]);
        let m = Tensor::from_vec(m, (toy.tokens(), 1), &Device::Cpu).unwrap();
        let (fg, bg) = (attend(true), attend(false));
        (fg.broadcast_mul(&m).unwrap() + bg.broadcast_mul(&(1.0 - &m).unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn gathered_masks_equal_dense_masks() {
        for (text_behind, threshold) in [(false, 0.3), (true, 0.3), (false, 0.7), (false, 0.05)] {
            let toy = Toy { text_behind, ..Toy::default() };
            let qkv = toy.qkv(11, 4);
            let got = toy.attend(&qkv, &pair(), &mut stack(threshold)).unwrap();
            let own = dense_mask(&toy, &qkv, 3, &[3], threshold as f32);
            let source = dense_mask(&toy, &qkv, 2, &[0, 1], threshold as f32);
            assert!([&own, &source].iter().all(|mask| mask.contains(&true) && mask.contains(&false)));
            let of = |x: &Tensor, row| x.narrow(0, row, 1).unwrap();
            for (row, from) in [(1, 0), (3, 2)] {
                let qkv = Qkv {
                    q: of(&qkv.q, row),
                    k: of(&qkv.k, from),
                    v: of(&qkv.v, from),
                    scale: qkv.scale,
                    scores: qkv.scores.clone(),
                };
                assert_near(&of(&got, row), &dense(&toy, &qkv, &own, &source), 2e-6);
                assert!(distance(&of(&got, row), &toy.plain(&qkv)) > 1e-2, "the mask does something");
            }
            for row in [0, 2] {
                assert_near(&of(&got, row), &of(&toy.plain(&qkv), row), 1e-6);
            }
        }
    }

    #[test]
    fn masks_are_made_anew_in_each_layer() {
        let toy = Toy::default();
        let (first, second) = (toy.qkv(14, 4), toy.qkv(15, 4));
        let mean = |row, columns: &[u32]| {
            let map = |qkv| dense_map(&toy, qkv, row, columns);
            let mean: Vec<f32> = map(&first).iter().zip(map(&second)).map(|(a, b)| (a + b) / 2.0).collect();
            threshold_frames(&mean, 6, 0.3)
        };
        let (own, source) = (mean(3, &[3]), mean(2, &[0, 1]));
        assert_ne!(own, dense_mask(&toy, &first, 3, &[3], 0.3));
        let (branches, mut stack) = (pair(), stack(0.3));
        let mut hooks = toy.hooks(&branches, &mut stack);
        hooks.attend(first.clone(), &toy.site(0, &[0, 1, 2, 3])).unwrap();
        let got = hooks.attend(second.clone(), &toy.site(1, &[0, 1, 2, 3])).unwrap();
        let of = |x: &Tensor, row| x.narrow(0, row, 1).unwrap();
        let shared = Qkv {
            q: of(&second.q, 3),
            k: of(&second.k, 2),
            v: of(&second.v, 2),
            scale: second.scale,
            scores: second.scores.clone(),
        };
        assert_near(&of(&got, 3), &dense(&toy, &shared, &own, &source), 2e-6);
    }

    #[test]
    fn all_foreground_equals_unmasked_sharing() {
        let toy = Toy::default();
        let qkv = toy.qkv(12, 4);
        let unmasked = toy.attend(&qkv, &pair(), &mut [boxed(RowGather::kv_sharing())]).unwrap();
        assert_same(&toy.attend(&qkv, &pair(), &mut stack(0.0)).unwrap(), &unmasked);
        // Nothing reaches a threshold above one: all background, which is everything again.
        assert_same(&toy.attend(&qkv, &pair(), &mut stack(1.5)).unwrap(), &unmasked);
    }

    /// One frame by itself: each query on the keys of its side, or on all where there are none.
    fn dense_frame(qkv: &Qkv, own: &[bool], source: &[bool]) -> Tensor {
        let mut bias = Vec::new();
        for own in own {
            let none = source.iter().all(|other| other != own);
            bias.extend(source.iter().map(|other| if none || other == own { 0.0 } else { f32::NEG_INFINITY }));
        }
        let bias = Tensor::from_vec(bias, (own.len(), source.len()), &Device::Cpu).unwrap();
        let scores = dense_scores(qkv).broadcast_add(&bias).unwrap();
        candle_nn::ops::softmax_last_dim(&scores).unwrap().matmul(&qkv.v.contiguous().unwrap()).unwrap()
    }

    /// A UNet's layer: the text first, then frames by themselves; the source has as many frames, or one.
    #[test]
    fn frames_by_themselves_read_their_side_of_the_sources_frame() {
        let toy = Toy::default();
        let (tokens, heads, width) = (toy.grid.1 * toy.grid.2, toy.heads, toy.width);
        let branches = [branch(COND, 0, 0, None), branch(COND, 1, 1, Some(0))];
        for source_frames in [3, 1] {
            let (inner, frames) = (inner_ranges([source_frames, 3]), source_frames + 3);
            let make = |seed, keys: usize| {
                let part = |seed, length| (random(seed, &[frames, heads, length, width]) * 2.0).unwrap();
                let (q, k, v) = (part(seed, tokens), part(seed + 1, keys), part(seed + 2, keys));
                Qkv { q, k, v, scale: 1.0 / (width as f64).sqrt(), scores: Default::default() }
            };
            let (cross, own) = (make(30, toy.text), make(40, tokens));
            let mut stack = stack(0.5);
            let mut hooks = toy.hooks(&branches, &mut stack);
            let site = |kind, layer, text| Site { kind, inner: &inner, text, ..toy.site(layer, &[0, 1]) };
            let spatial = |layer| site(SiteKind::SelfSpatial, layer, 0..0);
            let shared = |frame: usize, row: usize| {
                let from = if row == 0 { frame } else { frame.min(source_frames - 1) };
                let at = |x: &Tensor, entry| x.narrow(0, entry, 1).unwrap();
                let entry = inner[row].start + frame;
                Qkv {
                    q: at(&own.q, entry),
                    k: at(&own.k, from),
                    v: at(&own.v, from),
                    scale: own.scale,
                    scores: own.scores.clone(),
                }
            };
            let first = hooks.attend(own.clone(), &spatial(0)).unwrap();
            hooks.attend(cross.clone(), &site(SiteKind::Cross, 0, 0..5)).unwrap();
            let second = hooks.attend(own.clone(), &spatial(1)).unwrap();

            let p = dense_probabilities(&cross).mean(1).unwrap(); // [frames, tokens, text]
            let mask = |entry: usize, columns: &[usize]| {
                let map = p.get(entry).unwrap();
                let of_token = |token: usize| {
                    let row: Vec<f32> = map.get(token).unwrap().to_vec1().unwrap();
                    columns.iter().map(|&column| row[column]).sum()
                };
                threshold_frames(&(0..tokens).map(of_token).collect::<Vec<f32>>(), tokens, 0.5)
            };
            for (row, frame) in [(0, 0), (1, 0), (1, 1), (1, 2)] {
                let (entry, qkv) = (inner[row].start + frame, shared(frame, row));
                assert_near(&first.narrow(0, entry, 1).unwrap(), &toy.plain(&qkv), 1e-6);
                let expected = match row {
                    0 => toy.plain(&qkv),
                    _ => dense_frame(&qkv, &mask(entry, &[3]), &mask(frame.min(source_frames - 1), &[0, 1])),
                };
                assert_near(&second.narrow(0, entry, 1).unwrap(), &expected, 2e-6);
                assert_eq!(distance(&expected, &toy.plain(&qkv)) > 1e-3, row == 1);
            }
        }
    }

    #[test]
    fn halves_in_separate_groups_equal_one_batch() {
        let toy = Toy::default();
        let qkv = toy.qkv(13, 4);
        let together = toy.attend(&qkv, &pair(), &mut stack(0.3)).unwrap();
        let (branches, mut stack) = (pair(), stack(0.3));
        let mut hooks = toy.hooks(&branches, &mut stack);
        let groups = hooks.groups();
        assert_eq!(groups, [[2, 3], [0, 1]], "the conditional half goes first");
        for group in groups {
            let of = |x: &Tensor| x.narrow(0, group[0], 2).unwrap();
            let part =
                Qkv { q: of(&qkv.q), k: of(&qkv.k), v: of(&qkv.v), scale: qkv.scale, scores: qkv.scores.clone() };
            assert_near(&hooks.attend(part, &toy.site(0, &group)).unwrap(), &of(&together), 1e-6);
        }
        hooks.finish().unwrap();
    }

    #[test]
    fn the_wrong_order_and_missing_twins_are_errors() {
        let toy = Toy::default();
        let (branches, mut stack) = (pair(), stack(0.3));
        let mut hooks = toy.hooks(&branches, &mut stack);
        let error = hooks.attend(toy.qkv(1, 2), &toy.site(0, &[0, 1])).unwrap_err().to_string();
        assert!(error.contains("no attention map was recorded for row 2"), "{error}");
        drop(hooks);
        let error = toy.attend(&toy.qkv(1, 2), &pair()[..2], &mut stack).unwrap_err().to_string();
        assert!(error.contains("row 0 has no conditional row"), "{error}");
    }

    #[test]
    fn twins_have_the_same_window_prompt_and_source() {
        let branches = [
            branch(COND, 0, 0, None),
            branch(COND, 1, 1, None),
            branch(COND, 1, 1, Some(0)),
            branch(UNCOND, 0, 0, None),
            branch(UNCOND, 1, 1, None),
            branch(UNCOND, 1, 1, Some(3)),
            branch(UNCOND, 1, 1, Some(4)),
        ];
        let twins: Vec<_> = (0..7).map(|row| cond_twin(&branches, row)).collect();
        assert_eq!(twins, [Some(0), Some(1), Some(2), Some(0), Some(1), Some(2), None]);
    }

    #[test]
    fn the_threshold_is_taken_frame_by_frame() {
        let map = [0.0, 0.3, 1.0, 5.0, 5.0, 5.0, 2.0, 4.0, 3.0];
        // A flat frame is all zeros after scaling; the 1e-6 puts the exact middle below a half.
        assert_eq!(threshold_frames(&map, 3, 0.5), [false, false, true, false, false, false, false, true, false]);
    }
}
