//! Specifications of controls: `--attn-proc 'kv-share:layers=25-29,steps=2-24'`, and recipes.
//!
//! A specification is a name, a colon and parameters `name=value` between commas; a comma not followed by a parameter's
//! name continues the list before it (`layers=2,5,7-9,steps=4`). Steps and layers count from 0, both ends of a range
//! are included. What names and parameters there are the controls' own entries say ([`Control`]); [`super::stack::build`] makes
//! the controls.

use super::builder::Builder;
use super::control::{Control, Value, Values};
use super::registry::list;
use super::when::{Ranges, kind_name};
use crate::attention::SiteKind;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A control with the values of its parameters, and the steps and layers it acts at. In files it is the string that
/// `--attn-proc` takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Spec {
    pub control: &'static Control,
    pub steps: Ranges,
    pub layers: Ranges,
    pub values: Values,
}

/// Reads a specification of one of the registry's controls.
///
/// # Errors
/// One line that names what is not known, with the nearest name there is, or the parameter whose value cannot be.
pub fn parse(spec: &str) -> Result<Spec> {
    Spec::parse_among(list(), spec)
}

impl Spec {
    /// As [`parse`], of controls in a list.
    pub fn parse_among(controls: &[&'static Control], spec: &str) -> Result<Self> {
        let (name, rest) = spec.split_once(':').unwrap_or((spec, ""));
        let Some(control) = controls.iter().find(|control| control.name == name.trim()) else {
            let names = controls.iter().map(|control| control.name);
            bail!("unknown attention processor '{}'{}", name.trim(), suggestion(name.trim(), names))
        };
        Self::read(control, rest).with_context(|| format!("in '{spec}'"))
    }

    /// `text`: the parameters.
    fn read(control: &'static Control, text: &str) -> Result<Self> {
        let mut given: Vec<(&'static str, String)> = Vec::new();
        for item in text.split(',').filter(|_| !text.trim().is_empty()) {
            match (item.split_once('='), given.last_mut()) {
                (Some((name, value)), _) => {
                    let known = || control.all_parameters().map(|parameter| parameter.name);
                    let Some(known) = known().find(|known| *known == name.trim()) else {
                        bail!("{} has no parameter '{}'{}", control.name, name.trim(), suggestion(name.trim(), known()))
                    };
                    ensure!(given.iter().all(|(other, _)| *other != known), "{known} is given twice");
                    given.push((known, value.trim().to_string()));
                }
                (None, Some((_, list))) => list.extend([",", item.trim()]),
                (None, None) => bail!("'{}' is not a parameter: write NAME=VALUE", item.trim()),
            }
        }
        let (mut steps, mut layers, mut values) = (Ranges::all(), Ranges::all(), Vec::new());
        for parameter in control.all_parameters() {
            let given = given.iter().find(|(name, _)| *name == parameter.name).map(|(_, text)| text.as_str());
            let value = parameter.kind.read(parameter.name, given.unwrap_or(parameter.default))?;
            if parameter.required && value.is_empty() {
                bail!("{} needs {}={}", control.name, parameter.name, parameter.kind.form())
            }
            match (parameter.name, value) {
                ("steps", Value::Ranges(ranges)) => steps = ranges,
                ("layers", Value::Ranges(ranges)) => layers = ranges,
                (name, value) => values.push((name, value)),
            }
        }
        let values = Values(values);
        (control.check)(&values)?;
        Ok(Self { control, steps, layers, values })
    }

    /// The words of the prompts that it names.
    pub fn words(&self) -> Vec<&str> {
        self.values.0.iter().flat_map(|(_, value)| value.words()).collect()
    }

    /// Adds the control to a stack, where it acts.
    pub fn build(&self, builder: &mut Builder) -> Result<()> {
        builder.at(&self.steps, &self.layers, self.control.sites);
        (self.control.build)(&self.values, builder)
    }

    /// Refuses a control that could do nothing in a run: `sites` are the kinds of attention of the network and the number
    /// of layers of each.
    pub fn check(&self, steps: usize, sites: &[(SiteKind, usize)]) -> Result<()> {
        let Control { name, sites: own, .. } = self.control;
        let layers = sites.iter().filter(|(kind, _)| own.contains(kind)).map(|&(_, layers)| layers).max();
        let Some(layers) = layers else {
            let names =
                |kinds: &mut dyn Iterator<Item = SiteKind>| kinds.map(kind_name).collect::<Vec<_>>().join(" and ");
            bail!(
                "{name} works on {} attention; this model has {}",
                names(&mut own.iter().copied()),
                names(&mut sites.iter().map(|&(kind, _)| kind))
            )
        };
        self.steps.check("steps", steps).with_context(|| *name)?;
        self.layers.check("layers", layers).with_context(|| *name)
    }
}

impl TryFrom<String> for Spec {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Spec> for String {
    fn from(spec: Spec) -> Self {
        spec.to_string()
    }
}

impl FromStr for Spec {
    type Err = anyhow::Error;

    /// As [`parse`], the whole reason in one message: those who read flags and files show no causes.
    fn from_str(text: &str) -> Result<Self> {
        parse(text).map_err(|error| anyhow::anyhow!("{error:#}"))
    }
}

/// All values are written, those too that are defaults today; what has no meaning is left out.
impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:layers={},steps={}", self.control.name, self.layers, self.steps)?;
        let said = |name: &str| self.values.get(name).is_some_and(|value| !value.is_empty());
        for parameter in self.control.parameters {
            let Some(value) = self.values.get(parameter.name).filter(|_| said(parameter.name)) else { continue };
            if parameter.of.is_none_or(said) {
                write!(f, ",{}={value}", parameter.name)?;
            }
        }
        Ok(())
    }
}

/// What to say after an unknown name.
fn suggestion<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let score = |other: &str| strsim::jaro_winkler(name, other);
    match known.iter().copied().max_by(|a, b| score(a).total_cmp(&score(b))).filter(|best| score(best) > 0.75) {
        Some(best) => format!("; did you mean {best}?"),
        None => format!("; there are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::kv_share::{self, THRESHOLD, take_subject};
    use super::*;

    fn error(spec: &str) -> String {
        format!("{:#}", parse(spec).unwrap_err())
    }

    #[test]
    fn specifications_read_and_write_themselves() {
        for (text, canonical) in [
            ("kv-share:layers=25-29,steps=2-24", "kv-share:layers=25-29,steps=2-24"),
            ("kv-share", "kv-share:layers=all,steps=all"),
            (" kv-share : steps=2,5,7-9 , layers=1", "kv-share:layers=1,steps=2,5,7-9"),
            (
                "kv-share:subject=dark knight,horse,steps=2-24",
                "kv-share:layers=all,steps=2-24,subject=dark knight,horse,threshold=0.3",
            ),
            ("word-swap:steps=0-9", "word-swap:layers=all,steps=0-9"),
            ("cross-frame:frame=previous", "cross-frame:layers=all,steps=all,frame=previous"),
            ("window:size=8", "window:layers=all,steps=all,size=8,stride=4"),
            ("reweight:words=night:0.5,big moon:-2", "reweight:layers=all,steps=all,words=night:0.5,big moon:-2"),
        ] {
            let spec = parse(text).unwrap();
            assert_eq!(spec.to_string(), canonical);
            assert_eq!(canonical.parse::<Spec>().unwrap(), spec);
        }
        let mut spec = parse("kv-share:subject=dark knight,horse,threshold=0.1").unwrap();
        assert_eq!(spec.words(), ["dark knight", "horse"]);
        let subject = vec!["dark knight".to_string(), "horse".to_string()];
        assert_eq!(take_subject(&mut spec.values).unwrap(), Some((subject, 0.1)));
        assert!(spec.words().is_empty() && take_subject(&mut spec.values).unwrap().is_none());
        assert_eq!(spec.to_string(), "kv-share:layers=all,steps=all");
        assert_eq!(parse("kv-share").unwrap().values.number("threshold").unwrap(), THRESHOLD);
        assert_eq!(parse("reweight:words=night:0.5,big moon:2").unwrap().words(), ["night", "big moon"]);
        assert!(parse("window").unwrap().words().is_empty());
    }

    #[test]
    fn errors_name_the_mistake_and_the_nearest_name() {
        for (spec, expected) in [
            ("kv-shar", "unknown attention processor 'kv-shar'; did you mean kv-share?"),
            (
                "",
                "unknown attention processor ''; there are kv-share, relay, word-swap, cross-frame, window, ultravico, reweight",
            ),
            ("kv-share:layer=3", "in 'kv-share:layer=3': kv-share has no parameter 'layer'; did you mean layers?"),
            ("kv-share:3", "'3' is not a parameter: write NAME=VALUE"),
            ("kv-share:steps=1,steps=2", "steps is given twice"),
            ("kv-share:layers=29-25", "layers: '29-25' falls; write 25-29"),
            ("kv-share:layers=last", "layers: 'last' is not a set of indices"),
            ("kv-share:threshold=much", "threshold=much is not a number"),
            ("kv-share:threshold=3", "threshold=3 is not within 0 and 1"),
            ("kv-share:threshold=nan", "threshold=NaN is not within 0 and 1"),
            ("cross-frame:frame=last", "frame=last is neither first nor previous"),
            ("window:size=4,stride=8", "a stride of 8 leaves frames between windows of 4"),
            ("window:size=-4", "size=-4 is not a number of frames"),
            ("reweight", "reweight needs words=WORDS:FACTOR"),
            ("reweight:words=night", "words=night is not WORDS:FACTOR, as in night:0.5"),
            ("reweight:words=night:inf", "is not WORDS:FACTOR"),
            ("reweight:words=:2", "is not WORDS:FACTOR"),
        ] {
            let error = error(spec);
            assert!(error.contains(expected), "{spec}: {error}");
            assert!(!error.contains('\n'));
        }
    }

    #[test]
    fn a_control_that_could_do_nothing_is_refused() {
        let joint = [(SiteKind::Joint, 30)];
        let check = |spec: &str| parse(spec).unwrap().check(50, &joint).map_err(|error| format!("{error:#}"));
        assert!(check("kv-share:layers=25-29,steps=2-24").is_ok());
        assert!(check("kv-share").is_ok());
        assert_eq!(check("kv-share:layers=25-30").unwrap_err(), "kv-share: layers=25-30: there are 30 layers, 0-29");
        assert_eq!(check("kv-share:steps=50").unwrap_err(), "kv-share: steps=50: there are 50 steps, 0-49");
        assert_eq!(check("window").unwrap_err(), "window works on temporal attention; this model has joint");
        let unet = [(SiteKind::SelfSpatial, 16), (SiteKind::Cross, 16)];
        let error = parse("window").unwrap().check(50, &unet).unwrap_err().to_string();
        assert_eq!(error, "window works on temporal attention; this model has spatial and cross");
        assert!(parse("word-swap:layers=15").unwrap().check(50, &unet).is_ok());
    }

    #[test]
    fn every_entry_is_complete() {
        for control in list() {
            let required = if control.name == "reweight" { ":words=night:0.5" } else { "" };
            let spec = parse(&format!("{}{required}", control.name)).unwrap();
            assert!(std::ptr::eq(spec.control, *control));
            assert_eq!(list().iter().filter(|other| other.name == control.name).count(), 1);
            assert!(!control.sites.is_empty() && !control.help.is_empty() && !control.help.contains('\n'));
            for parameter in control.all_parameters() {
                assert!(!parameter.help.is_empty());
                if !parameter.default.is_empty() {
                    let explicit = format!("{}:{}={}", control.name, parameter.name, parameter.default);
                    let others = required.replacen(':', ",", 1);
                    assert_eq!(parse(&format!("{explicit}{others}")).unwrap(), spec, "{explicit}: the default");
                }
            }
        }
        assert!(kv_share::CONTROL.joins_windows);
    }
}
