//! Where a control acts: at which steps, in which layers, at which kinds of site.
//!
//! Selection is a wrapper around any control, [`When`], not a field of each. Ranges are written `25-29`, `2,5,7-9`, `4-`,
//! `all` or `none`; they count from 0 and include both ends.

use crate::attention::{
    AttentionProcessor, AttentionSite, Branch, Feature, FeatureSite, Next, Pass, Qkv, Row, Site, SiteKind, Stretch,
};
use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A set of indices as inclusive ranges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ranges(Vec<(usize, usize)>); // rising, neither touching nor overlapping

impl Ranges {
    pub fn all() -> Self {
        Self(vec![(0, usize::MAX)])
    }

    pub fn none() -> Self {
        Self(Vec::new())
    }

    pub fn contains(&self, index: usize) -> bool {
        self.0.iter().any(|&(start, end)| (start..=end).contains(&index))
    }

    /// The smallest index of the set.
    pub fn first(&self) -> Option<usize> {
        self.0.first().map(|&(start, _)| start)
    }

    /// The largest index of the set; `usize::MAX` where it has no end.
    pub fn last(&self) -> Option<usize> {
        self.0.last().map(|&(_, end)| end)
    }

    /// The indices of the set below `count`, rising.
    pub fn below(&self, count: usize) -> impl Iterator<Item = usize> {
        self.0.iter().flat_map(move |&(start, end)| start..end.saturating_add(1).min(count))
    }

    /// The steps of a run of `to` steps that stand where these stand in one of `from`: each range `a..b`, with `b` the
    /// step after its last, becomes `a to/from .. b to/from`, both ends rounded to the nearest step. A range can so
    /// become empty; one without an end keeps none.
    pub fn scaled(&self, from: usize, to: usize) -> Self {
        let place = |index: usize| (2 * index * to + from) / (2 * from.max(1));
        let range = |&(start, end): &(usize, usize)| match end {
            usize::MAX => Some((place(start), end)),
            _ => Some((place(start), place(end + 1).checked_sub(1)?)),
        };
        Self::from_parts(self.0.iter().filter_map(range).filter(|(start, end)| start <= end).collect())
    }

    /// All indices up to the last of this set.
    pub fn filled(&self) -> Self {
        Self(self.last().map(|last| (0, last)).into_iter().collect())
    }

    /// Refuses a set that names an index the run does not have; `what` is `steps` or `layers`.
    pub fn check(&self, what: &str, count: usize) -> anyhow::Result<()> {
        let beyond =
            self.0.iter().map(|&(start, end)| if end == usize::MAX { start } else { end }).find(|&i| i >= count);
        match beyond {
            Some(_) if count == 0 => anyhow::bail!("{what}={self}: there are no {what}"),
            Some(_) => anyhow::bail!("{what}={self}: there are {count} {what}, 0-{}", count - 1),
            None => Ok(()),
        }
    }

    fn from_parts(mut parts: Vec<(usize, usize)>) -> Self {
        parts.sort_unstable();
        let mut merged: Vec<(usize, usize)> = Vec::with_capacity(parts.len());
        for (start, end) in parts {
            match merged.last_mut() {
                Some(last) if start <= last.1.saturating_add(1) => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        Self(merged)
    }
}

impl From<std::ops::RangeInclusive<usize>> for Ranges {
    fn from(range: std::ops::RangeInclusive<usize>) -> Self {
        Self::from_parts(if range.is_empty() { Vec::new() } else { vec![range.into_inner()] })
    }
}

impl FromIterator<usize> for Ranges {
    fn from_iter<I: IntoIterator<Item = usize>>(indices: I) -> Self {
        Self::from_parts(indices.into_iter().map(|index| (index, index)).collect())
    }
}

impl FromStr for Ranges {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text.trim() {
            "all" => return Ok(Self::all()),
            "none" => return Ok(Self::none()),
            _ => {}
        }
        let number = |digits: &str| {
            digits.trim().parse::<usize>().map_err(|_| {
                anyhow::anyhow!("'{text}' is not a set of indices: write 25-29, 2,5,7-9, 4- or all (both ends count)")
            })
        };
        let mut parts = Vec::new();
        for part in text.split(',') {
            let (start, end) = match part.split_once('-') {
                Some((start, end)) if end.trim().is_empty() => (number(start)?, usize::MAX),
                Some((start, end)) => (number(start)?, number(end)?),
                None => (number(part)?, number(part)?),
            };
            anyhow::ensure!(start <= end, "'{}' falls; write {end}-{start}", part.trim());
            parts.push((start, end));
        }
        Ok(Self::from_parts(parts))
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0.as_slice() {
            [] => return f.write_str("none"),
            [(0, usize::MAX)] => return f.write_str("all"),
            _ => {}
        }
        for (index, &(start, end)) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            match end {
                usize::MAX => write!(f, "{start}-")?,
                _ if start == end => write!(f, "{start}")?,
                _ => write!(f, "{start}-{end}")?,
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for Ranges {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        text.parse()
    }
}

impl From<Ranges> for String {
    fn from(ranges: Ranges) -> Self {
        ranges.to_string()
    }
}

/// Name of a kind of site in specifications.
pub fn kind_name(kind: SiteKind) -> &'static str {
    match kind {
        SiteKind::Joint => "joint",
        SiteKind::SelfSpatial => "spatial",
        SiteKind::Cross => "cross",
        SiteKind::Temporal => "temporal",
    }
}

/// A control that acts at chosen places only; elsewhere it is as if it were not there.
pub struct When {
    pub steps: Ranges,
    pub layers: Ranges,
    /// Kinds of site; none given means all. Features that belong to no attention layer have none.
    pub kinds: Vec<SiteKind>,
    /// Whether it acts in networks beside the denoiser as well, by their own layers.
    pub everywhere: bool,
    inner: Box<dyn AttentionProcessor>,
}

impl When {
    pub fn new(steps: Ranges, layers: Ranges, kinds: &[SiteKind], inner: impl AttentionProcessor + 'static) -> Self {
        Self::new_boxed(steps, layers, kinds, Box::new(inner))
    }

    pub fn new_boxed(steps: Ranges, layers: Ranges, kinds: &[SiteKind], inner: Box<dyn AttentionProcessor>) -> Self {
        Self { steps, layers, kinds: kinds.to_vec(), everywhere: false, inner }
    }

    /// `number` counts the attention layers of a kind, or the features of a sort.
    fn holds(&self, pass: &Pass, site: &Site, kind: Option<SiteKind>, number: usize) -> bool {
        let kind = self.kinds.is_empty() || kind.is_none_or(|kind| self.kinds.contains(&kind));
        let network = self.everywhere || site.network == 0;
        kind && network && self.steps.contains(pass.step) && self.layers.contains(number)
    }
}

impl AttentionProcessor for When {
    fn begin(&mut self, pass: &Pass, branches: &[Branch], rows: &[Row]) -> Result<()> {
        self.inner.begin(pass, branches, rows)
    }

    fn context(&mut self, context: Tensor, site: &AttentionSite) -> Result<Tensor> {
        if self.holds(site.pass, site, Some(site.kind), site.layer) {
            self.inner.context(context, site)
        } else {
            Ok(context)
        }
    }

    fn attend(&mut self, qkv: Qkv, site: &AttentionSite, next: &mut Next) -> Result<Tensor> {
        if self.holds(site.pass, site, Some(site.kind), site.layer) {
            self.inner.attend(qkv, site, next)
        } else {
            next.attend(qkv, site)
        }
    }

    fn stretches(&mut self, frames: usize, site: &AttentionSite) -> Option<Vec<Stretch>> {
        let holds = self.holds(site.pass, site, Some(site.kind), site.layer);
        holds.then(|| self.inner.stretches(frames, site)).flatten()
    }

    fn inject(&mut self, hidden: Tensor, site: &FeatureSite) -> Result<Tensor> {
        let kind = match site.feature {
            Feature::Attended(kind) => Some(kind),
            _ => None,
        };
        if self.holds(site.pass, site.site, kind, site.number()) { self.inner.inject(hidden, site) } else { Ok(hidden) }
    }

    fn fork(&mut self, sources: &[usize], branches: &[Branch]) -> Result<()> {
        self.inner.fork(sources, branches)
    }

    fn end(&mut self, pass: &Pass) -> Result<()> {
        self.inner.end(pass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str) -> Ranges {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_read_and_write_themselves() {
        for (text, canonical) in [
            ("25-29", "25-29"),
            ("2,5,7-9", "2,5,7-9"),
            (" 7-9 , 2, 5", "2,5,7-9"),
            ("3,4,5", "3-5"),
            ("0-4,2-9", "0-9"),
            ("4-", "4-"),
            ("0-", "all"),
            ("all", "all"),
            ("none", "none"),
            ("6-6", "6"),
            ("1-,18446744073709551615", "1-"),
        ] {
            assert_eq!(ranges(text).to_string(), canonical, "{text}");
            assert_eq!(ranges(canonical), ranges(text));
        }
    }

    #[test]
    fn both_ends_count() {
        let set = ranges("2,5,7-9");
        let inside: Vec<usize> = (0..12).filter(|&index| set.contains(index)).collect();
        assert_eq!(inside, [2, 5, 7, 8, 9]);
        assert_eq!(set.below(9).collect::<Vec<_>>(), [2, 5, 7, 8]);
        assert_eq!((set.first(), set.last()), (Some(2), Some(9)));
        assert_eq!(set.filled(), ranges("0-9"));
        assert_eq!(inside.into_iter().collect::<Ranges>(), set);
        assert_eq!(Ranges::from(2..=4), ranges("2-4"));
        assert_eq!(Ranges::all().below(3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(Ranges::none().below(3).count(), 0);
    }

    #[test]
    fn wrong_ranges_are_refused() {
        for text in ["", "a", "2-x", "-3", "1,,2", "1.5", "9999999999999999999999"] {
            let error = text.parse::<Ranges>().unwrap_err().to_string();
            assert!(error.contains("both ends count"), "{text}: {error}");
        }
        assert_eq!("29-25".parse::<Ranges>().unwrap_err().to_string(), "'29-25' falls; write 25-29");
    }

    #[test]
    fn ranges_beyond_the_run_are_refused() {
        let error = ranges("25-29").check("layers", 8).unwrap_err().to_string();
        assert_eq!(error, "layers=25-29: there are 8 layers, 0-7");
        assert!(ranges("25-29").check("layers", 30).is_ok());
        assert!(ranges("25-29").check("layers", 29).is_err());
        assert!(ranges("all").check("layers", 1).is_ok());
        assert!(ranges("8-").check("steps", 8).is_err());
        assert!(ranges("none").check("steps", 0).is_ok());
    }

    #[test]
    fn steps_scale_with_the_run() {
        for (text, from, to, scaled) in [
            ("2-24", 50, 50, "2-24"),
            ("2-24", 50, 25, "1-12"),
            ("2-24", 50, 20, "1-9"),
            ("2-24", 50, 10, "0-4"),
            ("2-24", 50, 100, "4-49"),
            ("2-24", 50, 4, "0-1"),
            ("2-24", 50, 1, "0"),
            ("0-1", 50, 10, "none"),
            ("0-1,30-", 50, 100, "0-3,60-"),
            ("all", 50, 7, "all"),
            ("none", 50, 7, "none"),
        ] {
            assert_eq!(ranges(text).scaled(from, to).to_string(), scaled, "{text} of {from} for {to}");
        }
    }

    #[test]
    fn ranges_are_strings_in_files() {
        let set: Ranges = serde_json::from_str("\"2-24\"").unwrap();
        assert_eq!(serde_json::to_string(&set).unwrap(), "\"2-24\"");
        assert!(serde_json::from_str::<Ranges>("\"24-2\"").is_err());
    }
}
