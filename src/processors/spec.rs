//! Specifications of controls: `--attn-proc 'kv-share:layers=25-29,steps=2-24'`, and recipes.
//!
//! A specification is a name, a colon and parameters `name=value` between commas; a comma not followed by a parameter's
//! name goes on with the list before it (`layers=2,5,7-9,steps=4`). Steps and layers count from 0, both ends of a range
//! count. [`super::stack::build`] makes the controls.

use super::attention_map::View;
use super::registry::{COMMON, ENTRIES, Entry};
use super::row_gather::Frame;
use super::when::{Ranges, kind_name};
use super::window::Window;
use crate::attention::SiteKind;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a control does where it acts.
#[derive(Debug, Clone, PartialEq)]
pub enum Control {
    KvShare { subject: Vec<String>, threshold: f64 },
    WordSwap,
    CrossFrame(Frame),
    Window { size: usize, stride: usize },
    Reweight(Vec<(String, f64)>),
    AttnMap { words: Vec<String>, views: Vec<View> },
}

/// A control, and the steps and layers it acts at. In files it is the string that `--attn-proc` takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Spec {
    pub control: Control,
    pub steps: Ranges,
    pub layers: Ranges,
}

/// Reads a specification.
///
/// # Errors
/// One line that names what is not known, with the nearest name there is, or the parameter whose value cannot be.
pub fn parse(spec: &str) -> Result<Spec> {
    let (name, rest) = spec.split_once(':').unwrap_or((spec, ""));
    let Some(entry) = ENTRIES.iter().find(|entry| entry.name == name.trim()) else {
        let names = ENTRIES.iter().map(|entry| entry.name);
        bail!("unknown attention processor '{}'{}", name.trim(), suggestion(name.trim(), names))
    };
    let values = Values::read(entry, rest).with_context(|| format!("in '{spec}'"))?;
    values.spec().with_context(|| format!("in '{spec}'"))
}

impl Spec {
    pub fn entry(&self) -> &'static Entry {
        let name = match self.control {
            Control::KvShare { .. } => "kv-share",
            Control::WordSwap => "word-swap",
            Control::CrossFrame(_) => "cross-frame",
            Control::Window { .. } => "window",
            Control::Reweight(_) => "reweight",
            Control::AttnMap { .. } => "attn-map",
        };
        ENTRIES.iter().find(|entry| entry.name == name).expect("every control has an entry (a test holds this)")
    }

    /// Refuses a control that could do nothing in a run: `sites` are the kinds of attention of the network and the number
    /// of layers of each.
    pub fn check(&self, steps: usize, sites: &[(SiteKind, usize)]) -> Result<()> {
        let entry = self.entry();
        let layers = sites.iter().filter(|(kind, _)| entry.sites.contains(kind)).map(|&(_, layers)| layers).max();
        let Some(layers) = layers else {
            let names =
                |kinds: &mut dyn Iterator<Item = SiteKind>| kinds.map(kind_name).collect::<Vec<_>>().join(" and ");
            bail!(
                "{} works on {} attention; this model has {}",
                entry.name,
                names(&mut entry.sites.iter().copied()),
                names(&mut sites.iter().map(|&(kind, _)| kind))
            )
        };
        self.steps.check("steps", steps).with_context(|| entry.name)?;
        self.layers.check("layers", layers).with_context(|| entry.name)
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

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:layers={},steps={}", self.entry().name, self.layers, self.steps)?;
        match &self.control {
            Control::KvShare { subject, .. } if subject.is_empty() => Ok(()),
            Control::KvShare { subject, threshold } => {
                write!(f, ",subject={},threshold={threshold}", subject.join(","))
            }
            Control::WordSwap => Ok(()),
            Control::CrossFrame(Frame::First) => f.write_str(",frame=first"),
            Control::CrossFrame(Frame::Previous) => f.write_str(",frame=previous"),
            Control::Window { size, stride } => write!(f, ",size={size},stride={stride}"),
            Control::Reweight(words) => {
                let words: Vec<String> = words.iter().map(|(word, factor)| format!("{word}:{factor}")).collect();
                write!(f, ",words={}", words.join(","))
            }
            Control::AttnMap { words, views } => {
                let views: Vec<String> = views.iter().filter_map(view_name).collect();
                let list = |name: &str, items: &[String]| match items {
                    [] => String::new(),
                    items => format!(",{name}={}", items.join(",")),
                };
                write!(f, "{}{}", list("words", words), list("views", &views))
            }
        }
    }
}

fn view_name(view: &View) -> Option<String> {
    match view {
        View::Words => None,
        View::Text => Some("text".into()),
        View::Frame(frame) => Some(format!("frame:{frame}")),
        View::Place { row, column } => Some(format!("place:{row}:{column}")),
    }
}

/// The values of a specification by the name of the parameter.
struct Values {
    entry: &'static Entry,
    given: Vec<(&'static str, String)>,
}

impl Values {
    fn read(entry: &'static Entry, text: &str) -> Result<Self> {
        let mut given: Vec<(&'static str, String)> = Vec::new();
        for item in text.split(',').filter(|_| !text.trim().is_empty()) {
            match (item.split_once('='), given.last_mut()) {
                (Some((name, value)), _) => {
                    let known = || COMMON.iter().chain(entry.parameters).map(|parameter| parameter.name);
                    let Some(known) = known().find(|known| *known == name.trim()) else {
                        bail!("{} has no parameter '{}'{}", entry.name, name.trim(), suggestion(name.trim(), known()))
                    };
                    ensure!(given.iter().all(|(other, _)| *other != known), "{known} is given twice");
                    given.push((known, value.trim().to_string()));
                }
                (None, Some((_, list))) => list.extend([",", item.trim()]),
                (None, None) => bail!("'{}' is not a parameter: write NAME=VALUE", item.trim()),
            }
        }
        Ok(Self { entry, given })
    }

    /// The value given, or the default.
    fn text(&self, name: &str) -> &str {
        let default = || COMMON.iter().chain(self.entry.parameters).find(|parameter| parameter.name == name);
        let given = self.given.iter().find(|(given, _)| *given == name).map(|(_, value)| value.as_str());
        given.or_else(|| default().map(|parameter| parameter.default)).unwrap_or_default()
    }

    fn value<T: FromStr>(&self, name: &str, what: &str) -> Result<T> {
        let text = self.text(name);
        text.parse().map_err(|_| anyhow::anyhow!("{name}={text} is not {what}"))
    }

    fn list(&self, name: &str) -> Vec<String> {
        self.text(name).split(',').map(|item| item.trim().to_string()).filter(|item| !item.is_empty()).collect()
    }

    fn ranges(&self, name: &str) -> Result<Ranges> {
        self.text(name).parse().with_context(|| name.to_string())
    }

    fn spec(&self) -> Result<Spec> {
        let control = match self.entry.name {
            "kv-share" => {
                let threshold: f64 = self.value("threshold", "a number")?;
                ensure!((0.0..=1.0).contains(&threshold), "threshold={threshold} is not within 0 and 1");
                Control::KvShare { subject: self.list("subject"), threshold }
            }
            "word-swap" => Control::WordSwap,
            "cross-frame" => Control::CrossFrame(match self.text("frame") {
                "first" => Frame::First,
                "previous" => Frame::Previous,
                other => bail!("frame={other} is neither first nor previous"),
            }),
            "window" => {
                let (size, stride) =
                    (self.value("size", "a number of frames")?, self.value("stride", "a number of frames")?);
                Window::new(size, stride)?;
                Control::Window { size, stride }
            }
            "reweight" => {
                let words = self.list("words").iter().map(|item| factor(item)).collect::<Result<Vec<_>>>()?;
                ensure!(!words.is_empty(), "reweight needs words=WORD:FACTOR");
                Control::Reweight(words)
            }
            _ => {
                let views = self.list("views").iter().map(|item| view(item)).collect::<Result<Vec<_>>>()?;
                let words = self.list("words");
                ensure!(!words.is_empty() || !views.is_empty(), "attn-map needs words=WORD or views=VIEW");
                Control::AttnMap { words, views }
            }
        };
        Ok(Spec { control, steps: self.ranges("steps")?, layers: self.ranges("layers")? })
    }
}

/// `WORD:FACTOR`.
fn factor(text: &str) -> Result<(String, f64)> {
    let wrong = || anyhow::anyhow!("words={text} is not WORD:FACTOR, as in night:0.5");
    let (word, factor) = text.rsplit_once(':').ok_or_else(wrong)?;
    let factor: f64 = factor.trim().parse().map_err(|_| wrong())?;
    ensure!(factor.is_finite() && !word.trim().is_empty(), wrong());
    Ok((word.trim().to_string(), factor))
}

fn view(text: &str) -> Result<View> {
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let parts: Vec<&str> = text.split(':').collect();
    let view = match parts.as_slice() {
        ["text"] => Some(View::Text),
        ["frame", frame] => number(frame).map(View::Frame),
        ["place", row, column] => number(row).zip(number(column)).map(|(row, column)| View::Place { row, column }),
        _ => None,
    };
    view.ok_or_else(|| anyhow::anyhow!("views={text} is none of text, frame:F, place:ROW:COLUMN"))
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
    use super::super::registry::list;
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
            (
                "attn-map:words=ball,layers=3,steps=25,views=text,frame:6,place:15:22",
                "attn-map:layers=3,steps=25,words=ball,views=text,frame:6,place:15:22",
            ),
        ] {
            let spec = parse(text).unwrap();
            assert_eq!(spec.to_string(), canonical);
            assert_eq!(canonical.parse::<Spec>().unwrap(), spec);
        }
        let spec = parse("kv-share:subject=dark knight,horse,threshold=0.1").unwrap();
        let subject = vec!["dark knight".to_string(), "horse".to_string()];
        assert_eq!(spec.control, Control::KvShare { subject, threshold: 0.1 });
    }

    #[test]
    fn errors_name_the_mistake_and_the_nearest_name() {
        for (spec, expected) in [
            ("kv-shar", "unknown attention processor 'kv-shar'; did you mean kv-share?"),
            (
                "",
                "unknown attention processor ''; there are kv-share, word-swap, cross-frame, window, reweight, attn-map",
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
            ("reweight", "reweight needs words=WORD:FACTOR"),
            ("reweight:words=night", "words=night is not WORD:FACTOR, as in night:0.5"),
            ("reweight:words=night:inf", "is not WORD:FACTOR"),
            ("reweight:words=:2", "is not WORD:FACTOR"),
            ("attn-map", "attn-map needs words=WORD or views=VIEW"),
            ("attn-map:views=place:1", "views=place:1 is none of text, frame:F, place:ROW:COLUMN"),
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
    fn every_entry_is_complete_and_has_its_control() {
        for entry in list() {
            let required = match entry.name {
                "reweight" => ":words=night:0.5",
                "attn-map" => ":words=night",
                _ => "",
            };
            let spec = parse(&format!("{}{required}", entry.name)).unwrap();
            assert!(std::ptr::eq(spec.entry(), entry));
            assert!(!entry.sites.is_empty() && !entry.help.is_empty() && !entry.help.contains('\n'));
            for parameter in COMMON.iter().chain(entry.parameters) {
                assert!(!parameter.help.is_empty());
                if !parameter.default.is_empty() {
                    let explicit = format!("{}:{}={}", entry.name, parameter.name, parameter.default);
                    let others = required.replacen(':', ",", 1);
                    assert_eq!(parse(&format!("{explicit}{others}")).unwrap(), spec, "{explicit}: the default");
                }
            }
        }
    }
}
