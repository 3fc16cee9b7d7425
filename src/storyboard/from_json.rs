//! JSON, with the line of each value.

use super::node::{Budget, Entry, Node, Source, Table, Value};
use anyhow::Result;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, Read};

/// Depth is bounded by the parser, at 128.
pub(super) fn parse(source: Source, text: &str) -> Result<Node> {
    let place = Position { line: Cell::new(1), budget: RefCell::new(Budget::new()) };
    let reader = LineCounter { bytes: text.as_bytes(), line: &place.line, ended: false };
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    let node = Build(&place).deserialize(&mut deserializer);
    node.and_then(|node| deserializer.end().map(|()| node)).map_err(|error| {
        let message = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let message = match message.strip_suffix(&place).unwrap_or(&message) {
            "EOF while parsing a value" if text.trim().is_empty() => "the file is empty: write what is to be seen",
            "key must be a string" => {
                "a key begins without a double quotation mark: write \"0\": \"a red ball\"; JSON has no comments, and no single quotes"
            }
            message => message,
        };
        source.at(error.line().max(1), message)
    })
}

struct Position {
    line: Cell<usize>,
    budget: RefCell<Budget>,
}

/// Counts the lines of what was read, but for the last byte: the parser looks one ahead behind numbers.
struct LineCounter<'a> {
    bytes: &'a [u8],
    line: &'a Cell<usize>,
    /// The last byte ended a line.
    ended: bool,
}

impl Read for LineCounter<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let one = buffer.len().min(1);
        let read = self.bytes.read(&mut buffer[..one])?;
        if read == 1 {
            self.line.set(self.line.get() + usize::from(self.ended));
            self.ended = buffer[0] == b'\n';
        }
        Ok(read)
    }
}

#[derive(Clone, Copy)]
struct Build<'a>(&'a Position);

impl Build<'_> {
    fn node<E: Error>(self, line: usize, value: Value) -> Result<Node, E> {
        let text = match &value {
            Value::Text(text) | Value::Number(text) => text.len(),
            _ => 0,
        };
        self.0.budget.borrow_mut().take(Node::cost(text)).map_err(E::custom)?;
        Ok(Node { line, value })
    }

    fn here<E: Error>(self, value: Value) -> Result<Node, E> {
        self.node(self.0.line.get(), value)
    }
}

impl<'de> DeserializeSeed<'de> for Build<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Build<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        self.here(Value::Null)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Node, E> {
        self.here(Value::Bool(flag))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Node, E> {
        self.here(Value::Number(number.to_string()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Node, E> {
        self.here(Value::Number(number.to_string()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Node, E> {
        // {:?} keeps 1e300 short and 6.0 a fraction
        self.here(Value::Number(format!("{number:?}")))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Node, E> {
        self.here(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let line = self.0.line.get();
        let mut list = Vec::new();
        while let Some(node) = access.next_element_seed(self)? {
            list.push(node);
        }
        self.node(line, Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let line = self.0.line.get();
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<String>()? {
            let line = self.0.line.get();
            self.0.budget.borrow_mut().take(key.len()).map_err(A::Error::custom)?;
            entries.push(Entry { key, line, value: access.next_value_seed(self)? });
        }
        let twice = |entry: Entry| A::Error::custom(format!("the key {:?} stands twice", entry.key));
        self.node(line, Value::Table(Table::new(entries).map_err(twice)?))
    }
}
