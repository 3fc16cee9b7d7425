//! Scene scripts (`schema = "vidgen.scene.v1"`): scenes with lengths and transitions, and settings of the run beside them. In
//! TOML; JSON and YAML have the same keys.
//!
//! The file is walked by hand rather than through serde, so that each error names its line. `[defaults]` ends up in two
//! places: its length in each scene, and its transition among the settings, where a flag still overrides it.

use super::node::{Node, Source, Syntax, Table, Value};
use super::scenes::{check_count, prompt};
use super::{Length, Scene, Storyboard, Times, Transition, TransitionInto};
use anyhow::{Error, Result, anyhow};
use std::collections::BTreeMap;

const SCHEMA: &str = "vidgen.scene.v1";
/// The keys that are no settings.
const OWN: [&str; 3] = ["schema", "defaults", "scene"];
const DEFAULTS: [&str; 3] = ["duration", "frames", "transition"];
const SCENE: [&str; 6] = ["prompt", "subject", "duration", "frames", "time", "transition"];
/// Keys that are named where there is no scene.
const SHOWN: usize = 8;
const TRANSITION: [&str; 4] = ["kind", "frames", "overlap", "windows"];

pub(super) fn read(source: Source, root: &Table) -> Result<Storyboard> {
    if let Some(node) = root.get("schema") {
        let schema = source.word("schema", node)?;
        if schema != SCHEMA {
            return Err(source.at(node.line, format!("schema {schema:?} is not supported ({SCHEMA:?} is)")));
        }
    }
    let (mut settings, mut places) = (toml::Table::new(), BTreeMap::new());
    for entry in root.entries().iter().filter(|entry| !OWN.contains(&entry.key.as_str())) {
        settings.insert(entry.key.clone(), source.setting(&entry.value)?);
        places.insert(entry.key.clone(), format!("{}:{}", source.name, entry.line));
    }
    let script = Script(source);
    let mut length = None;
    let top = settings.get("transition").and_then(toml::Value::as_str);
    let mut parted = top.and_then(|word| word.parse().ok()).filter(|kind: &Transition| kind.parts());
    if let Some(node) = root.get("defaults") {
        let Value::Table(defaults) = &node.value else {
            return Err(source.at(node.line, "defaults is not a table: write [defaults]"));
        };
        source.only("key of [defaults]", defaults, &DEFAULTS)?;
        length = source.length(defaults)?;
        if let Some(node) = defaults.get("transition") {
            let into = script.transition(node)?;
            parted = into.kind.filter(|kind| kind.parts()).or(parted);
            let number = |number: usize| toml::Value::Integer(number as i64);
            for (key, entry) in [
                ("transition", into.kind.map(|kind| toml::Value::String(kind.to_string()))),
                ("overlap", into.overlap.map(number)),
                ("transition_windows", into.windows.map(number)),
            ] {
                let Some(entry) = entry else { continue };
                if settings.insert(key.to_owned(), entry).is_some() {
                    let message = format!("{key} stands at the top of the script as well: leave out one");
                    return Err(source.at(node.line, message));
                }
                places.insert(key.to_owned(), format!("{}:{}", source.name, node.line));
            }
        }
    }
    let scenes = script.scenes(root, length, parted)?;
    Ok(Storyboard { scenes, settings, places, warnings: Vec::new() })
}

struct Script<'a>(Source<'a>);

impl Script<'_> {
    /// `length`: of scenes that do not say theirs. `parted`: how scenes follow that do not say it, where they share nothing.
    fn scenes(&self, root: &Table, length: Option<Length>, parted: Option<Transition>) -> Result<Vec<Scene>> {
        let source = self.0;
        let form = match source.syntax {
            Syntax::Json => "write \"scene\": [{\"prompt\": \"..\"}, ..]",
            Syntax::Yaml => "write scene: and below it - prompt: ..",
            Syntax::Toml | Syntax::Lines => "write [[scene]] and a prompt for each",
        };
        let none = || {
            let keys: Vec<&str> = root.entries().iter().map(|entry| entry.key.as_str()).take(SHOWN).collect();
            let keys = match source.syntax {
                Syntax::Json | Syntax::Yaml if !keys.is_empty() => format!(" (it has {})", keys.join(", ")),
                _ => String::new(),
            };
            anyhow!("{}: no scene in it{keys}; {form}", source.name)
        };
        let node = root.get("scene").ok_or_else(none)?;
        let not_tables = |node: &Node| match source.syntax {
            Syntax::Toml => source.at(node.line, "a scene is a table: write [[scene]], in two brackets"),
            _ => source.at(node.line, format!("scene is a list of tables: {form}")),
        };
        let Value::List(list) = &node.value else { return Err(not_tables(node)) };
        check_count(list.len()).map_err(|error| source.at(node.line, error))?;
        let mut scenes = Vec::with_capacity(list.len());
        for node in list {
            let Value::Table(table) = &node.value else { return Err(not_tables(node)) };
            source.only("key of [[scene]]", table, &SCENE)?;
            let text = table.get("prompt").ok_or_else(|| source.at(node.line, "this scene has no prompt"))?;
            let prompt = prompt(source.word("prompt", text)?).map_err(|error| source.at(text.line, error))?;
            let mut transition = TransitionInto::default();
            if let Some(node) = table.get("transition") {
                transition = self.transition(node)?;
                if scenes.is_empty() {
                    let message = "a transition leads into its scene, and before the first there is none: leave it out";
                    return Err(source.at(node.line, message));
                }
                if let (Some(kind), None) = (parted, transition.kind) {
                    let message = format!("scenes of this script follow by {kind}: add kind = \"blend\"");
                    return Err(source.at(node.line, message));
                }
            }
            let subject = table.get("subject").map(|node| self.subject(node)).transpose()?.unwrap_or_default();
            let own = source.length(table)?;
            let time = table.get("time").map(|node| self.time(node)).transpose()?;
            if let (Some(_), Some(node)) = (own, table.get("time")) {
                return Err(source.at(node.line, "time says how long the scene is: leave out frames and duration"));
            }
            let length = if time.is_some() { None } else { own.or(length) };
            scenes.push(Scene { prompt, subject, length, time, transition, ..Scene::default() });
        }
        if scenes.is_empty() { Err(none()) } else { Ok(scenes) }
    }

    /// `"0s-2s"`.
    fn time(&self, node: &Node) -> Result<Times> {
        self.0.word("time", node)?.parse().map_err(|error: Error| self.0.at(node.line, error))
    }

    fn transition(&self, node: &Node) -> Result<TransitionInto> {
        let source = self.0;
        let kind = |node: &Node| {
            let word = source.word("transition", node)?;
            word.parse::<Transition>().map_err(|error: Error| source.at(node.line, error))
        };
        let Value::Table(table) = &node.value else {
            return Ok(TransitionInto { kind: Some(kind(node)?), ..TransitionInto::default() });
        };
        source.only("key of a transition", table, &TRANSITION)?;
        let count = |key: &str| table.get(key).map(|node| source.count(key, node, 0)).transpose();
        let mut into = TransitionInto {
            kind: table.get("kind").map(kind).transpose()?,
            overlap: count("overlap")?,
            windows: count("windows")?,
        };
        if let Some(node) = table.get("frames") {
            into.kind = match into.kind {
                Some(Transition::Fade(None)) => {
                    let fade = format!("fade:{}", source.count("frames", node, 1)?);
                    Some(fade.parse().map_err(|error: Error| source.at(node.line, error))?)
                }
                Some(Transition::Fade(Some(_))) => {
                    return Err(source.at(node.line, "kind and frames both say the frames of the fade: leave out one"));
                }
                _ => {
                    return Err(
                        source.at(node.line, "frames are those of a fade: add kind = \"fade\", or leave them out")
                    );
                }
            };
        }
        if into.kind.is_some_and(|kind| kind.feed().is_some()) {
            if into.windows.is_some() {
                return Err(
                    source.at(node.line, "scenes that continue have no windows between them: leave out windows")
                );
            }
        } else if let Some(kind) = into.kind.filter(|kind| kind.parts())
            && (into.overlap.is_some() || into.windows.is_some())
        {
            return Err(source.at(node.line, format!("a {kind} shares nothing: leave out overlap and windows")));
        }
        Ok(into)
    }

    /// One text or several, none of them empty.
    fn subject(&self, node: &Node) -> Result<Vec<String>> {
        let words = |words: &str| match words.trim() {
            "" => Err(self.0.at(node.line, "an empty subject: write words of the prompt")),
            words => Ok(words.to_owned()),
        };
        self.0.words("subject", node)?.into_iter().map(words).collect()
    }
}
