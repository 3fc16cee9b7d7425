//! The values of a structured file, whatever its syntax, each with its line, and the errors about them.

use super::Length;
use crate::words::{Duration, unknown};
use anyhow::{Error, Result, anyhow, bail, ensure};
use std::collections::HashSet;
use std::fmt::Display;

/// The largest number that a file may ask for; what a model can do is for the job to say.
const MOST: usize = 1_000_000;

/// A value and the line it begins on, from 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub line: usize,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// In decimal, as Rust reads numbers; also `inf` and `NaN`.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Table(Table),
}

/// Entries in the order of the file, each key once.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table(Vec<Entry>);

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub key: String,
    /// The key's.
    pub line: usize,
    pub value: Node,
}

impl Table {
    /// Fails with the second entry of a key that stands there twice.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, Entry> {
        let mut seen = HashSet::with_capacity(entries.len());
        match entries.iter().position(|entry| !seen.insert(entry.key.as_str())) {
            Some(twice) => Err(entries.swap_remove(twice)),
            None => Ok(Self(entries)),
        }
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        self.0.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    pub fn entries(&self) -> &[Entry] {
        &self.0
    }
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Lines,
    Toml,
    Json,
    Yaml,
}

/// The file that values come from, for messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub name: &'a str,
    pub syntax: Syntax,
}

impl Source<'_> {
    pub fn at(&self, line: usize, message: impl Display) -> Error {
        anyhow!("{}:{line}: {message}", self.name)
    }

    /// How a text is written where a message asks for one.
    fn quoted(&self) -> &'static str {
        if self.syntax == Syntax::Yaml { "a text" } else { "a text in quotes" }
    }

    pub fn word<'t>(&self, key: &str, node: &'t Node) -> Result<&'t str> {
        match &node.value {
            Value::Text(word) => Ok(word),
            _ => Err(self.at(node.line, format!("{key} is not {}", self.quoted()))),
        }
    }

    pub fn table<'t>(&self, what: &str, node: &'t Node) -> Result<&'t Table> {
        match &node.value {
            Value::Table(table) => Ok(table),
            _ => Err(self.at(node.line, format!("{what} is not a table of keys"))),
        }
    }

    pub fn flag(&self, key: &str, node: &Node) -> Result<bool> {
        match &node.value {
            Value::Bool(flag) => Ok(*flag),
            _ => Err(self.at(node.line, format!("{key} is neither true nor false"))),
        }
    }

    /// A whole number.
    pub fn count(&self, key: &str, node: &Node, least: usize) -> Result<usize> {
        let number = match &node.value {
            Value::Number(number) => number.parse().ok(),
            _ => None,
        };
        number
            .filter(|number| (least..=MOST).contains(number))
            .ok_or_else(|| self.at(node.line, format!("{key} is not a whole number from {least} to {MOST}")))
    }

    pub fn number(&self, key: &str, node: &Node) -> Result<f64> {
        match &node.value {
            Value::Number(number) => number.parse().ok(),
            _ => None,
        }
        .filter(|number: &f64| number.is_finite())
        .ok_or_else(|| self.at(node.line, format!("{key} is not a number")))
    }

    /// Whole numbers: one or a list of them.
    pub fn counts(&self, key: &str, node: &Node) -> Result<Vec<usize>> {
        match &node.value {
            Value::List(list) => list.iter().map(|node| self.count(key, node, 0)).collect(),
            _ => Ok(vec![self.count(key, node, 0)?]),
        }
    }

    /// Texts: one or a list of them.
    pub fn words<'t>(&self, key: &str, node: &'t Node) -> Result<Vec<&'t str>> {
        match &node.value {
            Value::List(list) => list.iter().map(|node| self.word(key, node)).collect(),
            _ => Ok(vec![self.word(key, node)?]),
        }
    }

    /// `frames` or `duration` of a table.
    pub fn length(&self, table: &Table) -> Result<Option<Length>> {
        match (table.get("frames"), table.get("duration")) {
            (Some(_), Some(node)) => Err(self.at(node.line, "frames and duration both say the length: leave out one")),
            (Some(node), None) => Ok(Some(Length::Frames(self.count("frames", node, 1)?))),
            (None, Some(node)) => {
                let (Value::Text(word) | Value::Number(word)) = &node.value else {
                    bail!(self.at(node.line, "duration is neither a number of seconds nor a time, as \"6s\""))
                };
                let Duration(seconds) = word.parse().map_err(|error: Error| self.at(node.line, error))?;
                Ok(Some(Length::Seconds(seconds)))
            }
            (None, None) => Ok(None),
        }
    }

    /// Refuses keys that have no meaning.
    pub fn only(&self, what: &str, table: &Table, known: &[&str]) -> Result<()> {
        match table.entries().iter().find(|entry| !known.contains(&entry.key.as_str())) {
            Some(entry) => Err(self.at(entry.line, unknown(what, &entry.key, known))),
            None => Ok(()),
        }
    }

    /// A value for the job to read.
    pub fn setting(&self, node: &Node) -> Result<toml::Value> {
        Ok(match &node.value {
            Value::Null => bail!(self.at(node.line, "a key without a value: leave it out")),
            Value::Bool(flag) => toml::Value::Boolean(*flag),
            Value::Number(number) => match (number.parse(), number.parse()) {
                (Ok(whole), _) => toml::Value::Integer(whole),
                // a seed may be larger than what TOML holds
                (_, Ok(_)) if number.bytes().all(|byte| byte.is_ascii_digit()) => toml::Value::String(number.clone()),
                (_, Ok(number)) => toml::Value::Float(number),
                (_, Err(_)) => toml::Value::String(number.clone()),
            },
            Value::Text(text) => toml::Value::String(text.clone()),
            Value::List(list) => toml::Value::Array(list.iter().map(|node| self.setting(node)).collect::<Result<_>>()?),
            Value::Table(table) => {
                let entry = |entry: &Entry| Ok((entry.key.clone(), self.setting(&entry.value)?));
                toml::Value::Table(table.entries().iter().map(entry).collect::<Result<_>>()?)
            }
        })
    }
}

/// How much a file may say. Its size alone does not bound it: an alias of YAML stands for what may be much larger.
#[derive(Debug)]
pub(super) struct Budget(usize);

impl Budget {
    const MOST: usize = 64 << 20;

    pub fn new() -> Self {
        Self(Self::MOST)
    }

    /// Takes bytes of memory.
    pub fn take(&mut self, bytes: usize) -> Result<()> {
        ensure!(bytes <= self.0, "the file says more than {} MiB of memory hold", Self::MOST >> 20);
        self.0 -= bytes;
        Ok(())
    }
}

impl Node {
    /// Bytes of memory of a value with so many bytes of text.
    pub fn cost(text: usize) -> usize {
        size_of::<Entry>() + text
    }
}
