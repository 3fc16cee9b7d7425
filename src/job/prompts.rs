//! The prompts of a job and, where words are looked for, their tokens.

use super::scene_times::SharedText;
use crate::run::{Code, WithCode};
use crate::text::{Tokenizer, Tokens};
use crate::weights::ModelFolder;
use anyhow::{Result, bail};
use std::collections::BTreeSet;
use std::ops::Range;

/// Words, and their tokens, both by prompt.
pub(super) type NamedTokens = (Vec<Vec<String>>, Vec<Vec<u32>>);

/// How a prompt's subject is named.
pub(super) enum Named {
    Words(Vec<String>),
    Tokens(Vec<usize>),
}

/// The prompts of a job and, where words are looked for, their tokens.
pub(super) struct Prompts<'a> {
    pub texts: &'a [String],
    model: &'a ModelFolder,
    length: usize,
    tokens: Vec<Tokens>,
    /// The number of the first text that scenes share, and these.
    shared: (usize, &'a [SharedText]),
}

impl<'a> Prompts<'a> {
    pub fn new(texts: &'a [String], model: &'a ModelFolder, length: usize) -> Self {
        Self { texts, model, length, tokens: Vec::new(), shared: (0, &[]) }
    }

    /// From number `first` on, texts are such that scenes share: words are looked for in every scene.
    pub fn shared(mut self, first: usize, shared: &'a [SharedText]) -> Self {
        self.shared = (first, shared);
        self
    }

    pub fn tokens(&mut self) -> Result<&[Tokens]> {
        if self.tokens.is_empty() {
            let tokenizer = Tokenizer::open(self.model).code(Code::Model)?;
            let tokens = self.texts.iter().map(|text| tokenizer.encode(text, self.length)).collect::<Result<_>>();
            self.tokens = tokens.code(Code::Model)?;
        }
        Ok(&self.tokens)
    }

    /// The tokens of words in a prompt; none where they do not stand in it.
    fn find(&mut self, prompt: usize, words: &str) -> Result<Option<Vec<u32>>> {
        let (text, (first, shared)) = (&self.texts[prompt], self.shared);
        let scenes = prompt.checked_sub(first).and_then(|index| shared.get(index));
        let tokens = &self.tokens()?[prompt];
        let found: Vec<Range<usize>> = match scenes {
            Some(shared) => {
                let before = shared.scenes.first().map_or(text.len(), |(_, bytes)| bytes.start);
                let parts = std::iter::once(0..before).chain(shared.scenes.iter().map(|(_, bytes)| bytes.clone()));
                parts.filter_map(|part| tokens.find_within(text, words, part)).collect()
            }
            None => tokens.find(text, words).into_iter().collect(),
        };
        let found: BTreeSet<u32> = found.into_iter().flatten().map(|token| token as u32).collect();
        Ok(Some(found.into_iter().collect()).filter(|found: &Vec<u32>| !found.is_empty()))
    }

    /// What to say where they do not.
    fn absent(&self, prompt: usize, words: &str) -> String {
        let text = &self.texts[prompt];
        if words == "auto" {
            return "is for finished frames (vidgen mask makes masks of them): here masks follow words while the video is made, so name \
                    the subject's words in the prompt"
                .to_owned();
        }
        match self.tokens.get(prompt).and_then(|tokens| tokens.cut.as_ref()) {
            None => format!("is not in the prompt {text:?}"),
            Some(cut) => format!("is not in what is read of the prompt {text:?} (not read: {cut:?})"),
        }
    }

    /// The subject, by prompt as it is `named`.
    pub fn subject(&mut self, named: Vec<Named>) -> Result<NamedTokens> {
        let (mut words, mut positions) = (Vec::with_capacity(named.len()), Vec::with_capacity(named.len()));
        for (prompt, named) in named.into_iter().enumerate() {
            let (own, tokens) = match named {
                Named::Words(own) if own.is_empty() => {
                    bail!("the prompt {:?} has no subject, and others have: give each scene one", self.texts[prompt])
                }
                Named::Words(own) => {
                    let mut tokens = BTreeSet::new();
                    for words in &own {
                        match self.find(prompt, words)? {
                            Some(found) => tokens.extend(found),
                            None => bail!("subject {words:?} {}", self.absent(prompt, words)),
                        }
                    }
                    (own, tokens)
                }
                Named::Tokens(tokens) => {
                    let tokens: BTreeSet<u32> =
                        tokens.into_iter().map(|token| u32::try_from(token).unwrap_or(u32::MAX)).collect();
                    (self.words_at(prompt, &tokens)?, tokens)
                }
            };
            words.push(own);
            positions.push(tokens.into_iter().collect());
        }
        Ok((words, positions))
    }

    /// What stands at tokens of a prompt.
    fn words_at(&mut self, prompt: usize, tokens: &BTreeSet<u32>) -> Result<Vec<String>> {
        let text = &self.texts[prompt];
        let spans = &self.tokens()?[prompt].spans;
        let count = spans.iter().filter(|span| span.0 < span.1).count();
        let mut stretches: Vec<(usize, usize)> = Vec::new(); // in bytes
        let mut before = None;
        for &token in tokens {
            let Some(&(start, end)) = spans.get(token as usize).filter(|span| span.0 < span.1) else {
                bail!("subject: there is no token {token} in the prompt {text:?}, which has {count}, from 0")
            };
            match stretches.last_mut() {
                Some(last) if before == token.checked_sub(1) => last.1 = end,
                _ => stretches.push((start, end)),
            }
            before = Some(token);
        }
        Ok(stretches.into_iter().map(|(start, end)| text.get(start..end).unwrap_or_default().to_owned()).collect())
    }

    /// The tokens of a word by prompt; it must stand in one of those `among` them. `asked`: by what, for messages.
    pub fn word(&mut self, asked: &str, word: &str, among: Range<usize>) -> Result<Vec<Vec<u32>>> {
        let mut positions = Vec::with_capacity(self.texts.len());
        for prompt in 0..self.texts.len() {
            positions.push(self.find(prompt, word)?.unwrap_or_default());
        }
        if positions[among.clone()].iter().all(Vec::is_empty) {
            let others = match among.len() {
                1 => String::new(),
                several => format!(", nor in the other {}", several - 1),
            };
            bail!("{asked}: {word:?} {}{others}", self.absent(among.start, word))
        }
        Ok(positions)
    }
}
