//! Rows that attend with other rows' keys and values, or queries and keys: one gather on the batch axis.
//!
//! Four techniques are this one operation:
//! - K/V sharing (DiTCtrl, arXiv 2412.18597): a row takes the whole keys and values, text tokens included, of the row it
//!   refers to. They replace its own. With rotary positions the keys come rotated by their own row's positions, which
//!   are local to each window.
//! - DiTCtrl's word swap is the same between two prompts that start from the same noise.
//! - Prompt-to-Prompt's word swap: a row takes the queries and keys of the row it refers to, so it uses that row's
//!   attention map on its own values.
//! - Cross-frame attention (Text2Video-Zero): each frame takes the keys and values of the first or the previous frame of
//!   its own branch.
//!
//! References to rows of other passes are served by [`super::kv_bank`]. [`Branch::reference`](crate::attention::Branch::reference)
//! says which row refers to which, so the planner decides which half of the guidance reads which. Nothing is kept between layers.

use crate::attention::{AttentionProcessor, AttentionSite, Next, Qkv, Reference, SiteKind};
use crate::nn::scores::Scores;
use candle_core::{Result, Tensor, bail};
use std::ops::Range;

/// The frame whose keys and values every frame takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    First,
    /// The one before; the first frame takes its own.
    Previous,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TakenFrom {
    /// The row referred to, for all rows or for those that see their text.
    Reference {
        text_only: bool,
    },
    Frame(Frame),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TakenPart {
    KeysValues,
    QueriesKeys,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct RowGather {
    part: TakenPart,
    source: TakenFrom,
    banked: bool,
}

impl RowGather {
    /// Rows with a reference attend to its keys and values instead of their own.
    pub fn kv_sharing() -> Self {
        Self { part: TakenPart::KeysValues, source: TakenFrom::Reference { text_only: false }, banked: false }
    }

    /// Behind a bank: rows that refer to one have got their keys and values there, and rows that refer to them read those.
    pub fn behind_bank(mut self) -> Self {
        self.banked = true;
        self
    }

    /// Rows that see their text and have a reference use its attention map (queries and keys) on their own values. The
    /// others stay as they are, as in Prompt-to-Prompt.
    pub fn word_swap() -> Self {
        Self { part: TakenPart::QueriesKeys, source: TakenFrom::Reference { text_only: true }, banked: false }
    }

    /// Frames attend to the keys and values of another frame of their branch. Acts where frames are rows of the batch, at
    /// spatial self-attention.
    pub fn cross_frame(frame: Frame) -> Self {
        Self { part: TakenPart::KeysValues, source: TakenFrom::Frame(frame), banked: false }
    }

    /// The batch entry that each batch entry takes from.
    fn sources(&self, site: &AttentionSite) -> Result<Vec<usize>> {
        let mut sources = Vec::with_capacity(site.inner.iter().map(Range::len).sum());
        for (index, branch) in site.batch().enumerate() {
            let (from, frame) = match self.source {
                TakenFrom::Reference { text_only } => match branch.reference {
                    Some(Reference::Banked { window, .. }) if !self.banked => {
                        bail!(
                            "{}: row {} refers to a bank for window {window}, and there is none",
                            site.path,
                            site.rows[index]
                        )
                    }
                    Some(Reference::Row(row)) if branch.half.text || !text_only => match site.reference_of(branch) {
                        Some(reference) => (reference, None),
                        None => bail!("{}: row {} refers to row {row}, not in its batch", site.path, site.rows[index]),
                    },
                    _ => (index, None),
                },
                TakenFrom::Frame(frame) => {
                    let has = self.banked && matches!(branch.reference, Some(Reference::Banked { .. }));
                    (index, (site.kind == SiteKind::SelfSpatial && !has).then_some(frame))
                }
            };
            let (own, of) = (&site.inner[index], &site.inner[from]);
            if own.len() != of.len() && of.len() != 1 {
                bail!(
                    "{}: row {} of {} frames cannot take from row {} of {}: one frame or as many",
                    site.path,
                    site.rows[index],
                    own.len(),
                    site.rows[from],
                    of.len()
                )
            }
            sources.extend((0..own.len()).map(|position| {
                let position = match frame {
                    Some(Frame::First) => 0,
                    Some(Frame::Previous) => position.saturating_sub(1),
                    None => position.min(of.len() - 1),
                };
                of.start + position
            }));
        }
        Ok(sources)
    }
}

impl AttentionProcessor for RowGather {
    fn attend(&mut self, qkv: Qkv, site: &AttentionSite, next: &mut Next) -> Result<Tensor> {
        let sources = self.sources(site)?;
        if sources.iter().enumerate().all(|(index, &source)| index == source) {
            return next.attend(qkv, site);
        }
        if sources.len() != qkv.q.dim(0)? {
            bail!(
                "{}: {} rows of {} entries give no batch of {}",
                site.path,
                site.rows.len(),
                sources.len(),
                qkv.q.dim(0)?
            )
        }
        // One entry that serves all of the batch needs no copy.
        let first = sources[0];
        let single = sources.iter().all(|&source| source == first);
        // Rows that follow each other are taken together, and only once, from strided tensors too.
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for source in sources {
            match runs.last_mut() {
                Some((start, len)) if *start + *len == source => *len += 1,
                _ => runs.push((source, 1)),
            }
        }
        let gather = |x: Tensor| {
            if single {
                return x.narrow(0, first, 1)?.broadcast_as(x.shape());
            }
            let parts = runs.iter().map(|&(start, len)| x.narrow(0, start, len)).collect::<Result<Vec<_>>>()?;
            Tensor::cat(&parts, 0) // [B, N, L, D]
        };
        let Qkv { q, k, v, scale, scores } = qkv;
        let qkv = match self.part {
            // what is added to the scores of a text's keys is by then that of the text which is read
            TakenPart::KeysValues => Qkv { q, k: gather(k)?, v: gather(v)?, scale, scores },
            TakenPart::QueriesKeys => {
                let bias = scores.bias.as_ref().map(|bias| bias.gather(|table| gather(table.clone()))).transpose()?;
                Qkv { q: gather(q)?, k: gather(k)?, v, scale, scores: Scores { bias, ..scores } }
            }
        };
        next.attend(qkv, site)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::attention::{Branch, Site, inner_ranges};

    fn pair() -> Vec<Branch> {
        vec![
            branch(UNCOND, 0, 0, None),
            branch(UNCOND, 1, 1, Some(0)),
            branch(COND, 0, 0, None),
            branch(COND, 1, 1, Some(2)),
        ]
    }

    #[test]
    fn targets_read_their_source_in_both_halves() {
        let toy = Toy::default();
        let qkv = toy.qkv(1, 4);
        let got = toy.attend(&qkv, &pair(), &mut [boxed(RowGather::kv_sharing())]).unwrap();
        for (row, source) in [(0, 0), (1, 0), (2, 2), (3, 2)] {
            let of = |x: &Tensor, row| x.narrow(0, row, 1).unwrap();
            let expected = Qkv {
                q: of(&qkv.q, row),
                k: of(&qkv.k, source),
                v: of(&qkv.v, source),
                scale: qkv.scale,
                scores: Scores::default(),
            };
            assert_near(&of(&got, row), &toy.plain(&expected), 1e-6);
        }
        assert!(distance(&got, &toy.plain(&qkv)) > 0.1);
    }

    #[test]
    fn word_swap_uses_the_source_map_on_own_values_in_the_cond_half() {
        let toy = Toy::default();
        let qkv = toy.qkv(2, 4);
        let got = toy.attend(&qkv, &pair(), &mut [boxed(RowGather::word_swap())]).unwrap();
        for (row, source) in [(0, 0), (1, 1), (2, 2), (3, 2)] {
            let of = |x: &Tensor, row| x.narrow(0, row, 1).unwrap();
            let expected = Qkv {
                q: of(&qkv.q, source),
                k: of(&qkv.k, source),
                v: of(&qkv.v, row),
                scale: qkv.scale,
                scores: Scores::default(),
            };
            assert_near(&of(&got, row), &toy.plain(&expected), 1e-6);
        }
    }

    #[test]
    fn frames_read_the_first_or_the_previous_frame_of_their_branch() {
        let toy = Toy::default();
        let (branches, frames) = ([branch(UNCOND, 0, 0, None), branch(COND, 0, 0, None)], 3);
        let (qkv, inner) = (toy.qkv(3, 2 * frames), inner_ranges([frames; 2]));
        for (frame, sources) in [(Frame::First, [0, 0, 0, 3, 3, 3]), (Frame::Previous, [0, 0, 1, 3, 3, 4])] {
            let mut stack = [boxed(RowGather::cross_frame(frame))];
            let at = |kind| Site { kind, inner: &inner, ..toy.site(0, &[0, 1]) };
            let got = toy.hooks(&branches, &mut stack).attend(qkv.clone(), &at(SiteKind::SelfSpatial)).unwrap();
            for (row, source) in sources.into_iter().enumerate() {
                let of = |x: &Tensor, row| x.narrow(0, row, 1).unwrap();
                let expected = Qkv {
                    q: of(&qkv.q, row),
                    k: of(&qkv.k, source),
                    v: of(&qkv.v, source),
                    scale: qkv.scale,
                    scores: Scores::default(),
                };
                assert_near(&of(&got, row), &toy.plain(&expected), 1e-6);
            }
            let temporal = toy.hooks(&branches, &mut stack).attend(qkv.clone(), &at(SiteKind::Temporal)).unwrap();
            assert_same(&temporal, &toy.plain(&qkv));
        }
    }

    #[test]
    fn inner_rows_of_a_reference_keep_their_order() {
        let toy = Toy::default();
        let branches = [branch(COND, 0, 0, None), branch(COND, 1, 1, Some(0))];
        let inner = inner_ranges([2, 2]);
        let site = Site { inner: &inner, kind: SiteKind::Cross, ..toy.site(0, &[0, 1]) };
        let qkv = toy.qkv(4, 4);
        let got = toy.hooks(&branches, &mut [boxed(RowGather::kv_sharing())]).attend(qkv.clone(), &site).unwrap();
        let index = Tensor::new(&[0u32, 1, 0, 1], &candle_core::Device::Cpu).unwrap();
        let take = |x: &Tensor| x.index_select(&index, 0).unwrap();
        let expected = Qkv { k: take(&qkv.k), v: take(&qkv.v), ..qkv };
        assert_same(&got, &toy.plain(&expected));
    }

    #[test]
    fn a_reference_of_one_frame_serves_all_frames() {
        let toy = Toy::default();
        let branches = [branch(COND, 0, 0, None), branch(COND, 1, 1, Some(0))];
        let (qkv, inner) = (toy.qkv(6, 4), inner_ranges([1, 3]));
        let site = Site { inner: &inner, kind: SiteKind::SelfSpatial, ..toy.site(0, &[0, 1]) };
        let got = toy.hooks(&branches, &mut [boxed(RowGather::kv_sharing())]).attend(qkv.clone(), &site).unwrap();
        let index = Tensor::new(&[0u32, 0, 0, 0], &candle_core::Device::Cpu).unwrap();
        let take = |x: &Tensor| x.index_select(&index, 0).unwrap();
        assert_same(&got, &toy.plain(&Qkv { k: take(&qkv.k), v: take(&qkv.v), ..qkv.clone() }));
        let inner = inner_ranges([3, 1]);
        let site = Site { inner: &inner, ..site };
        let error = toy.hooks(&branches, &mut [boxed(RowGather::kv_sharing())]).attend(qkv, &site).unwrap_err();
        assert!(error.to_string().contains("row 1 of 1 frames cannot take from row 0 of 3"), "{error}");
    }

    #[test]
    fn a_reference_outside_the_batch_is_an_error() {
        let toy = Toy::default();
        let mut stack = [boxed(RowGather::kv_sharing())];
        let error = toy.hooks(&pair(), &mut stack).attend(toy.qkv(5, 1), &toy.site(0, &[1])).unwrap_err().to_string();
        assert!(error.contains("toy: row 1 refers to row 0, not in its batch"), "{error}");
        let error =
            toy.hooks(&pair(), &mut stack).attend(toy.qkv(5, 3), &toy.site(0, &[0, 1])).unwrap_err().to_string();
        assert!(error.contains("2 rows of 2 entries give no batch of 3"), "{error}");
    }
}
