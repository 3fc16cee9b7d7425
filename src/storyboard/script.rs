//! Scene scripts in TOML (`schema = "vidgen.scene.v1"`): scenes with lengths and transitions, and settings of the run beside
//! them.
//!
//! The file is walked by hand rather than through serde, so that each complaint names its line. `[defaults]` ends up in two
//! places: its length in each scene, and its transition among the settings, where a flag can still outweigh it.

use super::read::{check_count, prompt};
use super::{Length, Scene, Storyboard, Transition, TransitionInto};
use crate::words::{Duration, unknown};
use anyhow::{Error, Result, anyhow, bail};
use std::fmt::Display;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

const SCHEMA: &str = "vidgen.scene.v1";
const DEFAULTS: [&str; 3] = ["duration", "frames", "transition"];
const SCENE: [&str; 5] = ["prompt", "subject", "duration", "frames", "transition"];
const TRANSITION: [&str; 3] = ["kind", "overlap", "windows"];

/// The largest number that a script may ask for; what a model can do is for the job to say.
const MOST: usize = 1_000_000;

/// `name` is the file's, for messages.
pub(super) fn parse(name: &str, text: &str) -> Result<Storyboard> {
    let script = Script { name, text };
    let syntax = |error: toml::de::Error| script.at(error.span().unwrap_or_default(), error.message());
    let root = DeTable::parse(text).map_err(syntax)?;
    let mut settings: toml::Table = toml::from_str(text).map_err(syntax)?;
    for key in ["schema", "defaults", "scene"] {
        settings.remove(key);
    }
    script.storyboard(root.get_ref(), settings)
}

struct Script<'a> {
    name: &'a str,
    text: &'a str,
}

type Table<'a> = DeTable<'a>;
type Value<'a> = Spanned<DeValue<'a>>;

impl Script<'_> {
    fn storyboard(&self, root: &Table, mut settings: toml::Table) -> Result<Storyboard> {
        if let Some(value) = field(root, "schema") {
            let schema = self.word("schema", value)?;
            if schema != SCHEMA {
                return Err(self.at(value.span(), format!("schema {schema:?} is not supported ({SCHEMA:?} is)")));
            }
        }
        let mut length = None;
        let mut cut = settings.get("transition").and_then(toml::Value::as_str) == Some("cut");
        if let Some(value) = field(root, "defaults") {
            let DeValue::Table(defaults) = value.get_ref() else {
                return Err(self.at(value.span(), "defaults is not a table: write [defaults]"));
            };
            self.only("key of [defaults]", defaults, &DEFAULTS)?;
            length = self.length(defaults)?;
            if let Some(value) = field(defaults, "transition") {
                let into = self.transition(value)?;
                cut |= into.kind == Some(Transition::Cut);
                let number = |number: usize| toml::Value::Integer(number as i64);
                for (key, entry) in [
                    ("transition", into.kind.map(|kind| toml::Value::String(kind.to_string()))),
                    ("overlap", into.overlap.map(number)),
                    ("transition_windows", into.windows.map(number)),
                ] {
                    let Some(entry) = entry else { continue };
                    if settings.insert(key.to_owned(), entry).is_some() {
                        let message = format!("{key} stands at the top of the script as well: leave out one");
                        return Err(self.at(value.span(), message));
                    }
                }
            }
        }
        let scenes = self.scenes(root, length, cut)?;
        Ok(Storyboard { scenes, settings })
    }

    /// `length`: of scenes that do not say theirs. `cut`: scenes that do not say their transition follow by a cut.
    fn scenes(&self, root: &Table, length: Option<Length>, cut: bool) -> Result<Vec<Scene>> {
        let none = || anyhow!("{}: no scene in it; write [[scene]] and a prompt for each", self.name);
        let value = field(root, "scene").ok_or_else(none)?;
        let not_tables = |value: &Value| self.at(value.span(), "a scene is a table: write [[scene]], in two brackets");
        let DeValue::Array(array) = value.get_ref() else { return Err(not_tables(value)) };
        check_count(array.len()).map_err(|error| self.at(value.span(), error))?;
        let mut scenes = Vec::with_capacity(array.len());
        for value in array.iter() {
            let DeValue::Table(table) = value.get_ref() else { return Err(not_tables(value)) };
            self.only("key of [[scene]]", table, &SCENE)?;
            let text = field(table, "prompt").ok_or_else(|| self.at(value.span(), "this scene has no prompt"))?;
            let prompt = prompt(self.word("prompt", text)?).map_err(|error| self.at(text.span(), error))?;
            let mut transition = TransitionInto::default();
            if let Some(value) = field(table, "transition") {
                transition = self.transition(value)?;
                if scenes.is_empty() {
                    let message = "a transition leads into its scene, and before the first there is none: leave it out";
                    return Err(self.at(value.span(), message));
                }
                if cut && transition.kind.is_none() {
                    return Err(self.at(value.span(), "scenes of this script follow by cuts: add kind = \"blend\""));
                }
            }
            let subject = field(table, "subject").map(|value| self.subject(value)).transpose()?.unwrap_or_default();
            scenes.push(Scene { prompt, subject, length: self.length(table)?.or(length), transition });
        }
        if scenes.is_empty() { Err(none()) } else { Ok(scenes) }
    }

    fn length(&self, table: &Table) -> Result<Option<Length>> {
        match (field(table, "frames"), field(table, "duration")) {
            (Some(_), Some(value)) => {
                Err(self.at(value.span(), "frames and duration both say the length: leave out one"))
            }
            (Some(value), None) => Ok(Some(Length::Frames(self.count("frames", value, 1)?))),
            (None, Some(value)) => {
                let word = match value.get_ref() {
                    DeValue::String(word) => word.as_ref().to_owned(),
                    DeValue::Integer(number) => number.to_string(),
                    DeValue::Float(number) => number.to_string(),
                    _ => bail!(self.at(value.span(), "duration is neither a number of seconds nor a time, as \"6s\"")),
                };
                let Duration(seconds) = word.parse().map_err(|error: Error| self.at(value.span(), error))?;
                Ok(Some(Length::Seconds(seconds)))
            }
            (None, None) => Ok(None),
        }
    }

    fn transition(&self, value: &Value) -> Result<TransitionInto> {
        let kind = |value: &Value| {
            let word = self.word("transition", value)?;
            word.parse::<Transition>().map_err(|error| self.at(value.span(), error))
        };
        let DeValue::Table(table) = value.get_ref() else {
            return Ok(TransitionInto { kind: Some(kind(value)?), ..TransitionInto::default() });
        };
        self.only("key of a transition", table, &TRANSITION)?;
        let into = TransitionInto {
            kind: field(table, "kind").map(kind).transpose()?,
            overlap: field(table, "overlap").map(|value| self.count("overlap", value, 0)).transpose()?,
            windows: field(table, "windows").map(|value| self.count("windows", value, 0)).transpose()?,
        };
        if into.kind == Some(Transition::Cut) && (into.overlap.is_some() || into.windows.is_some()) {
            return Err(self.at(value.span(), "a cut shares nothing: leave out overlap and windows"));
        }
        Ok(into)
    }

    /// One text or several, none of them empty.
    fn subject(&self, value: &Value) -> Result<Vec<String>> {
        let words = |value: &Value| match self.word("subject", value)?.trim() {
            "" => Err(self.at(value.span(), "an empty subject: write words of the prompt")),
            words => Ok(words.to_owned()),
        };
        match value.get_ref() {
            DeValue::Array(array) => array.iter().map(words).collect(),
            _ => Ok(vec![words(value)?]),
        }
    }

    /// A whole number.
    fn count(&self, key: &str, value: &Value, least: usize) -> Result<usize> {
        let number = match value.get_ref() {
            DeValue::Integer(number) => usize::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        number
            .filter(|number| (least..=MOST).contains(number))
            .ok_or_else(|| self.at(value.span(), format!("{key} is not a whole number from {least} to {MOST}")))
    }

    fn word<'t>(&self, key: &str, value: &'t Value) -> Result<&'t str> {
        match value.get_ref() {
            DeValue::String(word) => Ok(word),
            _ => Err(self.at(value.span(), format!("{key} is not a text in quotes"))),
        }
    }

    /// Refuses keys that have no meaning.
    fn only(&self, what: &str, table: &Table, known: &[&str]) -> Result<()> {
        match table.keys().find(|key| !known.contains(&key.get_ref().as_ref())) {
            Some(key) => Err(self.at(key.span(), unknown(what, key.get_ref(), known))),
            None => Ok(()),
        }
    }

    fn at(&self, span: Range<usize>, message: impl Display) -> Error {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        anyhow!("{}:{line}: {message}", self.name)
    }
}

fn field<'t, 'i>(table: &'t Table<'i>, key: &str) -> Option<&'t Value<'i>> {
    table.get(key)
}
