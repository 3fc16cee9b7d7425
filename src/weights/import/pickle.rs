//! Python pickles as inert values: opcodes build a tree, nothing is imported and nothing is called.
//!
//! A class stays its two names, a call stays what would be called with which arguments. Format: CPython's `pickletools`,
//! protocols 0 to 5. candle's own reader ([`candle_core::pickle`]) copies what is memoised each time it is used and nests values
//! without bound, so a small file can take all memory or the stack; here values live in one table and name each other by number.

use crate::weights::error::{Result, refuse};
use std::collections::HashMap;

/// Most values of a pickle; a checkpoint of 25 GB has less than a million.
const MOST_VALUES: usize = 1 << 23;

/// The number of a value in its [`Pickle`].
pub type Id = usize;

#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    Int(i64),
    Text(&'a str),
    /// Of a tuple or a list, which tensors do not tell apart.
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Class {
        module: &'a str,
        name: &'a str,
    },
    /// What Python would call, and its arguments.
    Call(Id, Id),
    /// Something outside of the pickle, here a storage of numbers.
    Persistent(Id),
    /// None, truth values, floats, bytes, and whatever else no tensor is made of.
    Other,
}

/// A pickle that was read to its end.
#[derive(Debug)]
pub struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// # Errors
    /// When it ends too early, has opcodes that do not exist or that find nothing to work on, or too many values.
    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        let mut machine =
            Machine { rest: bytes, values: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
        loop {
            if let Some(root) = machine.step()? {
                return Ok(Self { values: machine.values, root });
            }
        }
    }

    pub fn root(&self) -> &Value<'a> {
        &self.values[self.root]
    }

    pub fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id]
    }

    /// The values of a list, none of anything else.
    pub fn list(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    pub fn int(&self, id: Id) -> Option<i64> {
        match self.get(id) {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    pub fn text(&self, id: Id) -> Option<&'a str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

struct Machine<'a> {
    rest: &'a [u8],
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let Some((bytes, rest)) = self.rest.split_at_checked(count) else { refuse!("the pickle is cut short") };
        self.rest = rest;
        Ok(bytes)
    }

    /// A little-endian number of up to eight bytes.
    fn number(&mut self, bytes: usize) -> Result<u64> {
        let taken = self.take(bytes)?;
        Ok(taken.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// As many bytes as a number of `bytes` bytes says.
    fn counted(&mut self, bytes: usize) -> Result<&'a [u8]> {
        let count = self.number(bytes)?;
        self.take(usize::try_from(count).unwrap_or(usize::MAX))
    }

    fn line(&mut self) -> Result<&'a str> {
        let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') else { refuse!("the pickle is cut short") };
        let line = self.take(end + 1)?;
        text(line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]))
    }

    fn push(&mut self, value: Value<'a>) -> Result<()> {
        if self.values.len() >= MOST_VALUES {
            refuse!("the pickle holds more than {MOST_VALUES} values");
        }
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id> {
        match self.stack.pop() {
            // what is below a mark is not of the same call
            Some(id) if self.marks.last().is_none_or(|&mark| self.stack.len() >= mark) => Ok(id),
            _ => refuse!("the pickle takes more values than it has"),
        }
    }

    fn down_to_mark(&mut self) -> Result<Vec<Id>> {
        let Some(mark) = self.marks.pop() else { refuse!("the pickle misses a mark") };
        Ok(self.stack.split_off(mark))
    }

    fn last(&self) -> Result<Id> {
        let Some(&id) = self.stack.last() else { refuse!("the pickle takes more values than it has") };
        Ok(id)
    }

    fn put(&mut self, key: usize) -> Result<()> {
        let id = self.last()?;
        self.memo.insert(key, id);
        Ok(())
    }

    fn recall(&mut self, key: usize) -> Result<()> {
        let Some(&id) = self.memo.get(&key) else { refuse!("the pickle recalls value {key}, which it has not kept") };
        self.stack.push(id);
        Ok(())
    }

    /// Of anything but a list (an object of an unknown class) nothing is known afterwards either.
    fn append(&mut self, items: &[Id]) -> Result<()> {
        let onto = self.last()?;
        if let Value::List(list) = &mut self.values[onto] {
            list.extend(items);
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Result<()> {
        let onto = self.last()?;
        if let Value::Dict(entries) = &mut self.values[onto] {
            entries.extend(pairs(items)?);
        }
        Ok(())
    }

    /// What a call gives: an ordered dictionary is one, with the pairs that it is called with; all else stays a call.
    fn call(&mut self, what: Id, with: Id) -> Result<()> {
        if self.values[what] != (Value::Class { module: "collections", name: "OrderedDict" }) {
            return self.push(Value::Call(what, with));
        }
        let list = |id: Id| match &self.values[id] {
            Value::List(items) => items.as_slice(),
            _ => &[],
        };
        let given = list(with).first().map_or(&[][..], |&first| list(first));
        let entries = given.iter().filter_map(|&pair| match *list(pair) {
            [key, value] => Some((key, value)),
            _ => None,
        });
        let entries = entries.collect();
        self.push(Value::Dict(entries))
    }

    fn tuple(&mut self, count: usize) -> Result<()> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        self.push(Value::List(items))
    }

    /// One opcode; the value of the whole after the last.
    fn step(&mut self) -> Result<Option<Id>> {
        let opcode = self.take(1)?[0];
        match opcode {
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.down_to_mark()?;
            }
            b'2' => {
                let id = self.last()?;
                self.stack.push(id);
            }
            // protocol, frame, readonly buffer: nothing to do
            0x80 => _ = self.take(1)?,
            0x95 => _ = self.take(8)?,
            0x98 => {}
            b'p' | b'q' | b'r' | b'g' | b'h' | b'j' | 0x94 => self.memo_step(opcode)?,
            b'N' | 0x88 | 0x89 | 0x97 => self.push(Value::Other)?,
            b'I' | b'J' | b'K' | b'M' | b'L' | 0x8a | 0x8b => self.int_step(opcode)?,
            b'F' | b'G' | b'S' | b'T' | b'U' | b'V' | b'X' | b'B' | b'C' | 0x8c | 0x8d | 0x8e | 0x96 => {
                self.text_step(opcode)?;
            }
            b'P' | b'Q' | b'c' | b'i' | b'o' | b'R' | b'b' | 0x81 | 0x82 | 0x83 | 0x84 | 0x92 | 0x93 => {
                self.object_step(opcode)?;
            }
            _ => self.container_step(opcode)?,
        }
        Ok(None)
    }

    fn memo_step(&mut self, opcode: u8) -> Result<()> {
        let key = match opcode {
            b'p' | b'g' => self.line()?.parse().unwrap_or(usize::MAX),
            b'q' | b'h' => self.number(1)? as usize,
            b'r' | b'j' => self.number(4)? as usize,
            _ => self.memo.len(),
        };
        match opcode {
            b'g' | b'h' | b'j' => self.recall(key),
            _ => self.put(key),
        }
    }

    fn int_step(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            b'I' | b'L' => self.line()?.trim_end_matches('L').parse().ok(),
            b'J' => Some(i64::from(self.number(4)? as u32 as i32)),
            b'K' => Some(self.number(1)? as i64),
            b'M' => Some(self.number(2)? as i64),
            _ => {
                let bytes = self.counted(if opcode == 0x8a { 1 } else { 4 })?;
                let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
                let mut wide = [if negative { 0xff } else { 0 }; 8];
                // longer ones are no sizes
                (bytes.len() <= wide.len()).then(|| {
                    wide[..bytes.len()].copy_from_slice(bytes);
                    i64::from_le_bytes(wide)
                })
            }
        };
        self.push(value.map_or(Value::Other, Value::Int))
    }

    fn text_step(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            b'F' => {
                self.line()?;
                Value::Other
            }
            b'G' => {
                self.take(8)?;
                Value::Other
            }
            // Python 2's strings: those of protocol 0 stand in quotes
            b'S' => Value::Text(self.line()?.trim_matches(['\'', '"'])),
            b'V' => Value::Text(self.line()?),
            b'T' => text(self.counted(4)?).map_or(Value::Other, Value::Text),
            b'U' => text(self.counted(1)?).map_or(Value::Other, Value::Text),
            b'X' => Value::Text(text(self.counted(4)?)?),
            0x8c => Value::Text(text(self.counted(1)?)?),
            0x8d => Value::Text(text(self.counted(8)?)?),
            // bytes
            b'B' => self.counted(4).map(|_| Value::Other)?,
            b'C' => self.counted(1).map(|_| Value::Other)?,
            _ => self.counted(8).map(|_| Value::Other)?,
        };
        self.push(value)
    }

    fn object_step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            b'P' => {
                self.line()?;
                self.push(Value::Other)
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id))
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Class { module, name })
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let class = match (&self.values[module], &self.values[name]) {
                    (Value::Text(module), Value::Text(name)) => Value::Class { module, name },
                    _ => Value::Other,
                };
                self.push(class)
            }
            // objects of classes by other ways than a call: no tensor comes so
            b'i' => {
                self.line()?;
                self.line()?;
                self.down_to_mark()?;
                self.push(Value::Other)
            }
            b'o' => {
                self.down_to_mark()?;
                self.push(Value::Other)
            }
            0x82..=0x84 => {
                self.take(1 << (opcode - 0x82))?;
                self.push(Value::Other)
            }
            0x92 => {
                let (_, with, what) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(what, with)
            }
            // the state of an object: a dictionary's is beside its entries
            b'b' => self.pop().map(|_| ()),
            _ => {
                let (with, what) = (self.pop()?, self.pop()?);
                self.call(what, with)
            }
        }
    }

    fn container_step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            b')' | b']' | 0x8f => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            0x85..=0x87 => self.tuple(usize::from(opcode - 0x84)),
            b't' | b'l' | 0x91 => {
                let items = self.down_to_mark()?;
                self.push(Value::List(items))
            }
            b'd' => {
                let entries = self.down_to_mark()?;
                let entries = pairs(&entries)?.collect();
                self.push(Value::Dict(entries))
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])
            }
            b'e' | 0x90 => {
                let items = self.down_to_mark()?;
                self.append(&items)
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])
            }
            b'u' => {
                let items = self.down_to_mark()?;
                self.set(&items)
            }
            other => refuse!("the pickle has an opcode that does not exist: {other:#04x}"),
        }
    }
}

fn text(bytes: &[u8]) -> Result<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(_) => refuse!("the pickle has a text that is no UTF-8"),
    }
}

fn pairs(items: &[Id]) -> Result<impl Iterator<Item = (Id, Id)>> {
    let (pairs, []) = items.as_chunks::<2>() else { refuse!("the pickle has a key without a value") };
    Ok(pairs.iter().map(|&[key, value]| (key, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: &[u8]) -> String {
        Pickle::read(bytes).unwrap_err().to_string()
    }

    #[test]
    fn values_of_every_protocol_are_read() {
        // {'a': (1, -2, 258, 65536, 3)} with the integers of protocols 0 to 2, two ways to spell texts and a memo
        let bytes = b"}U\x01aq\x00(I1\nJ\xfe\xff\xff\xffM\x02\x01\x8a\x03\x00\x00\x01K\x03t\x94s.";
        let pickle = Pickle::read(bytes).unwrap();
        let Value::Dict(entries) = pickle.root() else { panic!("{:?}", pickle.root()) };
        let [(key, value)] = entries[..] else { panic!("{entries:?}") };
        assert_eq!(pickle.text(key), Some("a"));
        let numbers: Vec<_> = pickle.list(value).unwrap().iter().map(|&id| pickle.int(id).unwrap()).collect();
        assert_eq!(numbers, [1, -2, 258, 65536, 3]);
        assert!(Pickle::read(b"\x80\x04\x95\x03\x00\x00\x00\x00\x00\x00\x00\x8c\x01b.").is_ok());
    }

    #[test]
    fn ordered_dictionaries_are_dictionaries_and_other_calls_stay_calls() {
        let pickle = Pickle::read(b"ccollections\nOrderedDict\n)RX\x01\x00\x00\x00kK\x07s}b.").unwrap();
        assert!(matches!(pickle.root(), Value::Dict(entries) if entries.len() == 1));
        // with pairs, as Python 2 wrote it
        let pickle = Pickle::read(b"ccollections\nOrderedDict\n(](X\x01\x00\x00\x00kK\x07tatR.").unwrap();
        assert!(matches!(pickle.root(), Value::Dict(entries) if entries.len() == 1), "{pickle:?}");
        let pickle = Pickle::read(b"cbuiltins\nprint\n(X\x01\x00\x00\x00ktR.").unwrap();
        let Value::Call(what, _) = pickle.root() else { panic!("{:?}", pickle.root()) };
        assert_eq!(pickle.get(*what), &Value::Class { module: "builtins", name: "print" });
    }

    #[test]
    fn what_is_memoised_is_the_same_value() {
        // a dictionary that is filled after it was kept
        let pickle = Pickle::read(b"}q\x01X\x01\x00\x00\x00kK\x01s0h\x01.").unwrap();
        assert!(matches!(pickle.root(), Value::Dict(entries) if entries.len() == 1));
    }

    #[test]
    fn damaged_pickles_are_refused() {
        assert!(message(b"").contains("cut short"));
        assert!(message(b"K").contains("cut short"));
        assert!(message(b"X\xff\xff\xff\xffk").contains("cut short"));
        assert!(message(b"cmodule\nname").contains("cut short"));
        assert!(message(b"0").contains("more values than it has"));
        assert!(message(b"K\x01(\x85.").contains("more values than it has"));
        assert!(message(b"t").contains("mark"));
        assert!(message(b"(K\x01d.").contains("key without a value"));
        assert!(message(b"h\x05.").contains("has not kept"));
        assert!(message(b"\xff").contains("0xff"));
        assert!(message(b"X\x01\x00\x00\x00\xff.").contains("UTF-8"));
    }

    #[test]
    fn values_are_as_many_as_opcodes() {
        // each tuple holds the one before it twice: as a tree it would have a million million values
        let bytes: Vec<u8> = [&b")"[..], &b"2\x86".repeat(40), b"."].concat();
        assert_eq!(Pickle::read(&bytes).unwrap().values.len(), 41);
        let nested: Vec<u8> = [&b")"[..], &b"\x85".repeat(1_000_000), b"."].concat();
        drop(Pickle::read(&nested).unwrap());
        let many: Vec<u8> = [&b"N".repeat(MOST_VALUES + 1)[..], b"."].concat();
        assert!(message(&many).contains("more than"));
    }
}
