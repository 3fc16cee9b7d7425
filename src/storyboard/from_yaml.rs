//! YAML 1.2 with the scalars of its core schema, and the line of each value. One document; tags are not read. Aliases are,
//! within the [`Budget`] of the file.

use super::node::{Budget, Entry, Node, Source, Table, Value};
use anyhow::{Error, Result};
use saphyr_parser::{Event, Parser, ScalarStyle};
use std::collections::HashMap;

/// Lists and tables inside each other.
const DEEPEST: usize = 64;

pub(super) fn parse(source: Source, text: &str) -> Result<Node> {
    let mut build = Build { source, open: Vec::new(), anchors: HashMap::new(), budget: Budget::new(), root: None };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| source.at(error.marker().line().max(1), error.info()))?;
        build.event(event, span.start.line().max(1))?;
    }
    Ok(build.root.unwrap_or(Node { line: 1, value: Value::Null }))
}

struct Build<'a> {
    source: Source<'a>,
    /// Lists and tables that are not finished, the innermost last.
    open: Vec<Open>,
    /// What aliases stand for, with its cost.
    anchors: HashMap<usize, (Node, usize)>,
    budget: Budget,
    root: Option<Node>,
}

struct Open {
    line: usize,
    anchor: usize,
    inside: Container,
    /// Of what it holds.
    cost: usize,
}

enum Container {
    List(Vec<Node>),
    /// With the key whose value comes next.
    Table(Vec<Entry>, Option<(String, usize)>),
}

impl Build<'_> {
    fn event(&mut self, event: Event, line: usize) -> Result<()> {
        let (inside, anchor, tag) = match event {
            Event::Alias(anchor) => {
                let (node, cost) = match self.anchors.get(&anchor) {
                    Some((node, cost)) => (Node { line, ..node.clone() }, *cost),
                    None => return Err(self.at(line, "an alias of what it stands in")),
                };
                return self.put(node, 0, cost, cost);
            }
            Event::Scalar(text, style, anchor, tag) => {
                let string = tag.as_ref().is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
                if let (false, Some(tag)) = (string, &tag) {
                    return Err(self.at(line, format!("tags are not read: leave out {tag}")));
                }
                let key = matches!(self.open.last(), Some(Open { inside: Container::Table(_, None), .. }));
                let value = match style {
                    ScalarStyle::Plain if !string && !key => plain(&text),
                    _ => Value::Text(text.clone().into_owned()),
                };
                let cost = Node::cost(text.len());
                return self.put(Node { line, value }, anchor, cost, cost);
            }
            Event::SequenceStart(anchor, tag) => (Container::List(Vec::new()), anchor, tag),
            Event::MappingStart(anchor, tag) => (Container::Table(Vec::new(), None), anchor, tag),
            Event::SequenceEnd | Event::MappingEnd => return self.close(),
            Event::DocumentStart(_) if self.root.is_some() => {
                return Err(self.at(line, "a second document: one file is one video"));
            }
            _ => return Ok(()),
        };
        if let Some(tag) = tag {
            return Err(self.at(line, format!("tags are not read: leave out {tag}")));
        }
        if self.open.len() == DEEPEST {
            return Err(self.at(line, format!("more than {DEEPEST} lists and tables inside each other")));
        }
        self.open.push(Open { line, anchor, inside, cost: Node::cost(0) });
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(Open { line, anchor, inside, cost }) = self.open.pop() else { return Ok(()) };
        let value = match inside {
            Container::List(list) => Value::List(list),
            Container::Table(entries, _) => Value::Table(
                Table::new(entries)
                    .map_err(|twice| self.at(twice.line, format!("the key {:?} stands twice", twice.key)))?,
            ),
        };
        self.put(Node { line, value }, anchor, cost, Node::cost(0)) // what it holds was taken when it came
    }

    /// Puts a finished value where it belongs. `new`: the part of its cost that was not taken yet.
    fn put(&mut self, node: Node, anchor: usize, cost: usize, new: usize) -> Result<()> {
        let line = node.line;
        let kept = if anchor == 0 { 0 } else { cost };
        self.budget.take(new.saturating_add(kept)).map_err(|error| self.source.at(line, error))?;
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), cost));
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.cost += cost;
        match &mut open.inside {
            Container::List(list) => list.push(node),
            Container::Table(entries, key) => match key.take() {
                Some((key, line)) => entries.push(Entry { key, line, value: node }),
                None => {
                    let Value::Text(text) = node.value else { return Err(self.at(line, "a key that is not a text")) };
                    *key = Some((text, line));
                }
            },
        }
        Ok(())
    }

    fn at(&self, line: usize, message: impl std::fmt::Display) -> Error {
        self.source.at(line, message)
    }
}

/// A scalar without quotes. Truth is also read in the words of YAML 1.1, which Python writes and reads.
fn plain(text: &str) -> Value {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let number = unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        && unsigned.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte))
        && text.parse::<f64>().is_ok();
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Value::Bool(false),
        _ if number => Value::Number(text.strip_prefix('+').unwrap_or(text).to_owned()),
        _ => match unsigned {
            ".inf" | ".Inf" | ".INF" => Value::Number(format!("{}inf", if text.starts_with('-') { "-" } else { "" })),
            ".nan" | ".NaN" | ".NAN" => Value::Number("NaN".to_owned()),
            _ => Value::Text(text.to_owned()),
        },
    }
}
