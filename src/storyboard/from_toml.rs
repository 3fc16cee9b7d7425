//! TOML, with the line of each value.

use super::node::{Entry, Node, Source, Table, Value};
use anyhow::Result;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(super) fn parse(source: Source, text: &str) -> Result<Node> {
    let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
    let lines = Lines { source, ends };
    let root = DeTable::parse(text)
        .map_err(|error| source.at(lines.line(error.span().unwrap_or_default().start), error.message()))?;
    Ok(Node { line: 1, value: Value::Table(lines.table(root.get_ref())?) })
}

struct Lines<'a> {
    source: Source<'a>,
    /// Where lines end, rising.
    ends: Vec<usize>,
}

impl Lines<'_> {
    fn line(&self, at: usize) -> usize {
        self.ends.partition_point(|&end| end < at) + 1
    }

    fn table(&self, table: &DeTable) -> Result<Table> {
        let entry = |(key, value): (&Spanned<_>, _)| {
            let key: &std::borrow::Cow<str> = key.get_ref();
            Ok(Entry { key: key.clone().into_owned(), line: 0, value: self.node(value)? })
        };
        let mut entries = table.iter().map(entry).collect::<Result<Vec<_>>>()?;
        for (entry, key) in entries.iter_mut().zip(table.keys()) {
            entry.line = self.line(key.span().start);
        }
        // the parser has refused keys that stand twice
        Table::new(entries).map_err(|twice| self.source.at(twice.line, format!("{} stands twice", twice.key)))
    }

    fn node(&self, value: &Spanned<DeValue>) -> Result<Node> {
        let line = self.line(value.span().start);
        let value = match value.get_ref() {
            DeValue::String(text) => Value::Text(text.clone().into_owned()),
            DeValue::Integer(number) => {
                let decimal = i128::from_str_radix(number.as_str(), number.radix());
                Value::Number(decimal.map_or_else(|_| number.to_string(), |decimal| decimal.to_string()))
            }
            DeValue::Float(number) => Value::Number(number.as_str().to_owned()),
            DeValue::Boolean(flag) => Value::Bool(*flag),
            DeValue::Datetime(time) => Value::Text(time.to_string()),
            DeValue::Array(list) => Value::List(list.iter().map(|value| self.node(value)).collect::<Result<_>>()?),
            DeValue::Table(table) => Value::Table(self.table(table)?),
        };
        Ok(Node { line, value })
    }
}
