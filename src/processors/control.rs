//! What a control says of itself: its name, the sites it works on, its parameters, and how it is built. One such entry, a
//! `static CONTROL` in the control's own file, is all that reading, help and building need; [`super::registry`] lists them.

use super::builder::Builder;
use super::when::Ranges;
use super::word::WordFactor;
use crate::attention::SiteKind;
use anyhow::{Context, Result, bail, ensure};
use std::fmt;
use std::ops::RangeInclusive;

/// A control that can be asked for by name.
#[derive(Debug)]
pub struct Control {
    pub name: &'static str,
    /// The kinds of attention it works on.
    pub sites: &'static [SiteKind],
    pub help: &'static str,
    /// Those of its own; every control has [`COMMON`] as well.
    pub parameters: &'static [Parameter],
    pub order: Order,
    /// It makes windows that are joined read each other, as the plan refers them: a run has at most one such control, one
    /// that is given replaces the recipe's, and without joined windows there is none.
    pub joins_windows: bool,
    /// It says which frames listen to which words, where scenes share a text: without such scenes it has no effect, and with them
    /// there is always one.
    pub routes_words: bool,
    /// It takes away the recipe's own controls, and does nothing else.
    pub clears: bool,
    /// Refuses values that do not go together; each by itself was checked by its [`Kind`].
    pub check: fn(&Values) -> Result<()>,
    /// Adds its attention processors to a stack.
    pub build: fn(&Values, &mut Builder) -> Result<()>,
}

impl Control {
    /// A control that does nothing, for what an entry leaves out (`..Control::PLAIN`).
    pub const PLAIN: Self = Self {
        name: "",
        sites: &[],
        help: "",
        parameters: &[],
        order: Order::AsGiven,
        joins_windows: false,
        routes_words: false,
        clears: false,
        check: |_| Ok(()),
        build: |_, _| Ok(()),
    };

    /// Its parameters, the common ones first.
    pub fn all_parameters(&self) -> impl Iterator<Item = &'static Parameter> {
        COMMON.iter().chain(self.parameters)
    }
}

/// Controls are compared by name.
impl PartialEq for Control {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// Where a control stands among those of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Where it was given.
    AsGiven,
    /// After all others; why.
    Last(&'static str),
}

/// A parameter of a control.
#[derive(Debug)]
pub struct Parameter {
    pub name: &'static str,
    pub kind: Kind,
    /// As it would be written; empty where there is none and the parameter must be given or its function stays off.
    pub default: &'static str,
    pub help: &'static str,
    /// It must be given.
    pub required: bool,
    /// Another parameter, a list, without which it has no meaning.
    pub of: Option<&'static str>,
}

impl Parameter {
    /// For what an entry leaves out (`..Parameter::PLAIN`).
    pub const PLAIN: Self = Self { name: "", kind: Kind::Words, default: "", help: "", required: false, of: None };
}

/// The parameters all controls have.
pub const COMMON: &[Parameter] = &[
    Parameter {
        name: "steps",
        kind: Kind::Ranges,
        default: "all",
        help: "denoising steps it acts at, from 0, as 2-24 or 2,5,7-9",
        ..Parameter::PLAIN
    },
    Parameter {
        name: "layers",
        kind: Kind::Ranges,
        default: "all",
        help: "attention layers it acts in, from 0",
        ..Parameter::PLAIN
    },
];

/// What a parameter can be.
#[derive(Debug)]
pub enum Kind {
    /// A number, both bounds included.
    Number(RangeInclusive<f64>),
    /// A number of things, whose name it has.
    Count(&'static str),
    /// One of some words.
    Choice(&'static [&'static str]),
    /// Words of the prompts, between commas.
    Words,
    /// `WORDS:FACTOR`, several between commas.
    Factors,
    /// Indices from 0, both ends of a range included.
    Ranges,
}

impl Kind {
    /// Reads the value of the parameter `name`.
    ///
    /// # Errors
    /// One line with the parameter, its value and what it could be.
    pub(super) fn read(&self, name: &str, text: &str) -> Result<Value> {
        let list = || text.split(',').map(str::trim).filter(|item| !item.is_empty());
        Ok(match self {
            Self::Number(within) => {
                let Ok(number) = text.parse::<f64>() else { bail!("{name}={text} is not a number") };
                let (least, most) = within.clone().into_inner();
                ensure!(within.contains(&number), "{name}={number} is not within {least} and {most}");
                Value::Number(number)
            }
            Self::Count(things) => match text.parse() {
                Ok(count) => Value::Count(count),
                Err(_) => bail!("{name}={text} is not a number of {things}"),
            },
            Self::Choice(choices) => match (choices.iter().find(|choice| **choice == text), choices) {
                (Some(choice), _) => Value::Choice(choice),
                (None, [one, other]) => bail!("{name}={text} is neither {one} nor {other}"),
                (None, _) => bail!("{name}={text} is none of {}", choices.join(", ")),
            },
            Self::Words => Value::Words(list().map(str::to_owned).collect()),
            Self::Factors => {
                let factors = list().map(|item| item.parse().map_err(|why| anyhow::anyhow!("{name}={why}")));
                Value::Factors(factors.collect::<Result<_>>()?)
            }
            Self::Ranges => Value::Ranges(text.parse().with_context(|| name.to_owned())?),
        })
    }

    /// How a value is written, for help and errors.
    pub fn form(&self) -> String {
        match self {
            Self::Number(within) => format!("{}..{}", within.start(), within.end()),
            Self::Count(things) => things.to_uppercase(),
            Self::Choice(choices) => choices.join("|"),
            Self::Words => "WORDS".to_owned(),
            Self::Factors => "WORDS:FACTOR".to_owned(),
            Self::Ranges => "A-B,C".to_owned(),
        }
    }
}

/// A value of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Number(f64),
    Count(usize),
    Choice(&'static str),
    Words(Vec<String>),
    Factors(Vec<WordFactor>),
    Ranges(Ranges),
}

impl Value {
    /// Whether it is a list of nothing.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Words(words) => words.is_empty(),
            Self::Factors(factors) => factors.is_empty(),
            _ => false,
        }
    }

    /// The words of the prompts that it names.
    pub(super) fn words(&self) -> Vec<&str> {
        match self {
            Self::Words(words) => words.iter().map(String::as_str).collect(),
            Self::Factors(factors) => factors.iter().map(|of| of.words.as_str()).collect(),
            _ => Vec::new(),
        }
    }
}

/// As it is read.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Count(count) => write!(f, "{count}"),
            Self::Choice(choice) => f.write_str(choice),
            Self::Words(words) => f.write_str(&words.join(",")),
            Self::Factors(factors) => {
                let factors: Vec<String> = factors.iter().map(WordFactor::to_string).collect();
                f.write_str(&factors.join(","))
            }
            Self::Ranges(ranges) => write!(f, "{ranges}"),
        }
    }
}

/// The values of all parameters of a control, defaults included, in the order of its entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Values(pub(super) Vec<(&'static str, Value)>);

impl Values {
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// A control that asks for what its entry does not have is at fault, not the user.
    fn of<'a, T>(&'a self, name: &str, what: &str, pick: impl Fn(&'a Value) -> Option<T>) -> Result<T> {
        self.get(name).and_then(pick).with_context(|| format!("the control has no {what} '{name}'"))
    }

    pub fn number(&self, name: &str) -> Result<f64> {
        self.of(name, "number", |value| if let Value::Number(number) = value { Some(*number) } else { None })
    }

    pub fn count(&self, name: &str) -> Result<usize> {
        self.of(name, "count", |value| if let Value::Count(count) = value { Some(*count) } else { None })
    }

    pub fn choice(&self, name: &str) -> Result<&'static str> {
        self.of(name, "choice", |value| if let Value::Choice(choice) = value { Some(*choice) } else { None })
    }

    pub fn words(&self, name: &str) -> Result<&[String]> {
        self.of(name, "words", |value| if let Value::Words(words) = value { Some(words.as_slice()) } else { None })
    }

    pub fn factors(&self, name: &str) -> Result<&[WordFactor]> {
        self.of(name, "factors", |value| if let Value::Factors(list) = value { Some(list.as_slice()) } else { None })
    }

    /// Takes a list of words out; none where it is empty.
    pub fn take_words(&mut self, name: &str) -> Option<Vec<String>> {
        let (_, value) = self.0.iter_mut().find(|(own, _)| *own == name)?;
        let Value::Words(words) = value else { return None };
        Some(std::mem::take(words)).filter(|words| !words.is_empty())
    }
}
