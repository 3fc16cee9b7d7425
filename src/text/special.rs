//! The special tokens of a `tokenizer/` folder: which there are and how they are found in a text.
//!
//! Follows what transformers 5.23 does with `tokenizer_config.json` and, where that lists no `added_tokens_decoder`, with
//! the older `special_tokens_map.json` and `added_tokens.json`. Only what bears on the ids of a text is read.

use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, HashSet};
use tokenizers::AddedToken;

/// `tokenizer_config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    #[serde(flatten)]
    pub named: SpecialTokens,
    pub extra_ids: Option<usize>,
    pub padding_side: Option<String>,
    pub split_special_tokens: Option<bool>,
    added_tokens_decoder: Option<BTreeMap<u32, Token>>,
    #[serde(deserialize_with = "list")]
    extra_special_tokens: Option<Vec<Token>>,
    #[serde(deserialize_with = "list")]
    additional_special_tokens: Option<Vec<Token>>,
}

/// The tokens with a name; also what is read of `special_tokens_map.json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SpecialTokens {
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    unk_token: Option<Token>,
    sep_token: Option<Token>,
    pad_token: Option<Token>,
    cls_token: Option<Token>,
    mask_token: Option<Token>,
}

/// The named tokens of a kind of tokenizers, where its files do not name them.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    pub bos: Option<&'static str>,
    pub eos: &'static str,
    pub unk: &'static str,
    pub pad: &'static str,
}

/// A token as the configurations write it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Token {
    Text(String),
    Full {
        content: String,
        #[serde(default)]
        single_word: bool,
        #[serde(default)]
        lstrip: bool,
        #[serde(default)]
        rstrip: bool,
        normalized: Option<bool>,
        #[serde(default)]
        special: bool,
    },
}

/// Newer files have a map of named tokens where older ones have a list.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Token>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        List(Vec<Token>),
        #[allow(dead_code)] // only told apart
        Other(serde_json::Value),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::List(tokens) => Some(tokens),
        Either::Other(_) => None,
    })
}

impl Token {
    pub fn content(&self) -> &str {
        match self {
            Self::Text(content) | Self::Full { content, .. } => content,
        }
    }

    fn added(&self) -> AddedToken {
        match self {
            Self::Text(content) => AddedToken::from(content.as_str(), true),
            Self::Full { content, single_word, lstrip, rstrip, normalized, special } => {
                AddedToken::from(content.as_str(), *special)
                    .single_word(*single_word)
                    .lstrip(*lstrip)
                    .rstrip(*rstrip)
                    .normalized(normalized.unwrap_or(!special))
            }
        }
    }
}

impl SpecialTokens {
    pub fn bos(&self) -> Option<&str> {
        self.bos_token.as_ref().map(Token::content)
    }

    pub fn pad(&self) -> &str {
        self.pad_token.as_ref().map_or("", Token::content)
    }

    pub fn eos(&self) -> &str {
        self.eos_token.as_ref().map_or("", Token::content)
    }

    pub fn unk(&self) -> &str {
        self.unk_token.as_ref().map_or("", Token::content)
    }

    fn or(self, other: Self) -> Self {
        Self {
            bos_token: self.bos_token.or(other.bos_token),
            eos_token: self.eos_token.or(other.eos_token),
            unk_token: self.unk_token.or(other.unk_token),
            sep_token: self.sep_token.or(other.sep_token),
            pad_token: self.pad_token.or(other.pad_token),
            cls_token: self.cls_token.or(other.cls_token),
            mask_token: self.mask_token.or(other.mask_token),
        }
    }

    /// In transformers' order.
    fn all(&self) -> impl Iterator<Item = &Token> {
        let Self { bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token } = self;
        [bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token].into_iter().flatten()
    }
}

impl Config {
    /// Takes in `special_tokens_map.json`, which goes before this file where this one lists no added tokens.
    pub fn with_map(mut self, map: SpecialTokens) -> Self {
        if self.added_tokens_decoder.is_none() {
            self.named = map.or(self.named);
        }
        self
    }

    /// With the names of its kind where it has none of its own.
    pub fn or_defaults(mut self, defaults: &Defaults) -> Self {
        let text = |text: &str| Some(Token::Text(text.to_owned()));
        self.named = self.named.or(SpecialTokens {
            bos_token: defaults.bos.and_then(text),
            eos_token: text(defaults.eos),
            unk_token: text(defaults.unk),
            pad_token: text(defaults.pad),
            ..SpecialTokens::default()
        });
        self
    }

    pub fn extra_ids(&self) -> usize {
        self.extra_ids.unwrap_or(100)
    }

    /// The tokens that are looked for in a text before it is split, in the order in which they are added: those listed
    /// with their ids (`older` is `added_tokens.json`), the named ones, then the listed special ones or, without such a
    /// list, `others`.
    pub fn added_tokens(&self, older: BTreeMap<String, u64>, others: Vec<AddedToken>) -> Vec<AddedToken> {
        let some = self.extra_special_tokens.as_ref().filter(|tokens| !tokens.is_empty());
        let listed = some.or(self.additional_special_tokens.as_ref()).or(self.extra_special_tokens.as_ref());

        let mut tokens: Vec<AddedToken> = match &self.added_tokens_decoder {
            Some(decoder) => decoder.values().map(Token::added).collect(),
            None => {
                let mut older: Vec<_> = older.into_iter().collect();
                older.sort_by_key(|&(_, id)| id);
                let special = |text: &str| {
                    self.named.all().chain(listed.into_iter().flatten()).any(|token| token.content() == text)
                };
                older
                    .into_iter()
                    .map(|(text, _)| (special(&text), text))
                    .map(|(is, text)| AddedToken::from(text, is))
                    .collect()
            }
        };
        let mut known: HashSet<String> = tokens.iter().map(|token| token.content.clone()).collect();
        let mut add = |token: AddedToken| {
            if known.insert(token.content.clone()) {
                tokens.push(token);
            }
        };
        self.named.all().for_each(|token| add(AddedToken { special: true, ..token.added() }));
        match listed {
            Some(listed) => listed.iter().map(Token::added).for_each(add),
            None => others.into_iter().for_each(add),
        }
        tokens
    }
}
