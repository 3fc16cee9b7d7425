//! Where scenes come from: arguments, a file, standard input. Files are of unknown origin, so they are read within bounds.

use super::node::{Source, Syntax, Value};
use super::scenes::{check_count, plain, prompt};
use super::{Scene, Storyboard, by_frame, ditctrl, foreign, from_json, from_toml, from_yaml, lines, mold, script};
use crate::run::{Code, WithCode};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

const MOST_BYTES: usize = 4 << 20;
/// Bytes that tell text from other files.
const SNIFFED: usize = 4096;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// By the suffix: `.toml`, `.json`, `.yaml` and `.yml` are scripts, everything else is lines. Standard input is lines
    /// unless it begins as a script does.
    Auto,
    /// One prompt per line.
    Lines,
    /// A scene script, by the suffix in TOML, JSON or YAML; without one of these by what it begins with.
    Script,
}

impl Storyboard {
    /// One scene for each prompt.
    ///
    /// # Errors
    ///
    /// With [`Code::Usage`]: no prompt, an empty one, one that is too long or holds control characters.
    pub fn from_prompts(prompts: &[String]) -> Result<Self> {
        Ok(Self::checked(prompts.iter().cloned().map(plain).collect()).code(Code::Usage)?)
    }

    /// One scene, of nothing in particular where the text is empty: a given video is what is seen.
    ///
    /// # Errors
    ///
    /// As [`Storyboard::from_prompts`].
    pub fn of_text(text: String) -> Result<Self> {
        if text.trim().is_empty() {
            return Ok(Self { scenes: vec![Scene::default()], ..Self::default() });
        }
        Self::from_prompts(&[text])
    }

    /// Scenes that come from a record: prompts are held to what every reader holds them to.
    pub fn checked(scenes: Vec<Scene>) -> Result<Self> {
        check_count(scenes.len())?;
        ensure!(!scenes.is_empty(), "no prompt: write what is to be seen");
        let scene = |(index, scene): (usize, Scene)| {
            let prompt = prompt(&scene.prompt).with_context(|| format!("prompt {}", index + 1))?;
            Ok(Scene { prompt, ..scene })
        };
        let scenes = scenes.into_iter().enumerate().map(scene).collect::<Result<_>>()?;
        Ok(Self { scenes, ..Self::default() })
    }

    /// Every prompt as several, one after the other, where `separator` stands between them.
    ///
    /// # Errors
    ///
    /// With [`Code::Usage`]: an empty separator or prompt, and scenes that say more than their prompts.
    pub fn split(self, separator: &str) -> Result<Self> {
        let split = || {
            ensure!(!separator.is_empty(), "--split: give what stands between prompts, as ';'");
            ensure!(
                self.settings.is_empty() && self.scenes.iter().all(|scene| *scene == plain(scene.prompt.clone())),
                "--split is for prompts in plain text: this file says where its scenes begin"
            );
            let mut scenes = Vec::new();
            for scene in &self.scenes {
                // one behind the last ends it
                let prompts = scene.prompt.strip_suffix(separator).unwrap_or(&scene.prompt).split(separator);
                for text in prompts {
                    let scene = prompt(text).map(plain);
                    scenes.push(scene.with_context(|| format!("--split {separator:?}: prompt {}", scenes.len() + 1))?);
                }
                check_count(scenes.len())?;
            }
            Ok(scenes)
        };
        let scenes: Result<_> = split();
        Ok(Self { scenes: scenes.code(Code::Usage)?, ..self })
    }

    /// The scenes of a file; `-` is standard input.
    ///
    /// # Errors
    ///
    /// With [`Code::Usage`] and the name of the file, and the line where there is one: a file that cannot be read, is too
    /// large or not text; no scenes, or too many; and whatever does not belong in a script.
    pub fn read(path: &Path, form: Form) -> Result<Self> {
        let (name, bytes) = if path.as_os_str() == "-" {
            ("standard input".to_owned(), bytes(std::io::stdin().lock()))
        } else if path.as_os_str().is_empty() {
            ("an empty file name".to_owned(), Err(anyhow!("give a file")))
        } else {
            (path.display().to_string(), open(path).and_then(bytes))
        };
        let storyboard = bytes.with_context(|| name.clone()).and_then(|bytes| named(&name, path, &bytes, form));
        Ok(storyboard.code(Code::Usage)?)
    }

    /// The scenes of a file's contents; `path` is its name, which decides how it is written where `form` does not.
    ///
    /// # Errors
    ///
    /// As [`Storyboard::read`].
    pub fn from_bytes(path: &Path, bytes: &[u8], form: Form) -> Result<Self> {
        Ok(named(&path.display().to_string(), path, bytes, form).code(Code::Usage)?)
    }
}

fn named(name: &str, path: &Path, bytes: &[u8], form: Form) -> Result<Storyboard> {
    let text = text(name, bytes)?;
    parse(name, text, syntax(path, form, text))
}

fn syntax(path: &Path, form: Form, text: &str) -> Syntax {
    let suffix = path.extension().and_then(|suffix| suffix.to_str()).map(str::to_ascii_lowercase);
    let by_suffix = match suffix.as_deref() {
        Some("toml") => Some(Syntax::Toml),
        Some("json") => Some(Syntax::Json),
        Some("yaml" | "yml") => Some(Syntax::Yaml),
        _ => None,
    };
    match form {
        Form::Lines => Syntax::Lines,
        Form::Auto if path.as_os_str() != "-" => by_suffix.unwrap_or(Syntax::Lines),
        Form::Auto => beginning(text).unwrap_or(Syntax::Lines),
        Form::Script => by_suffix.or_else(|| beginning(text)).unwrap_or(Syntax::Toml),
    }
}

/// The syntax of a script that begins as no prompt does.
fn beginning(text: &str) -> Option<Syntax> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let line = lines.next()?;
    let key = |end: char| {
        let key = line.split_once(end)?.0.trim_end();
        let bare = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        (!key.is_empty() && key.chars().all(bare)).then_some(key)
    };
    match line {
        _ if line.starts_with('{') || line.starts_with("[\"") => Some(Syntax::Json),
        "[defaults]" | "[chain]" => Some(Syntax::Toml),
        _ if line.starts_with("[[") || key('=').is_some() => Some(Syntax::Toml),
        _ if line.starts_with("---") || line.starts_with("%YAML") => Some(Syntax::Yaml),
        _ if ["args", "schema", "scene", "defaults"].contains(&key(':')?) => Some(Syntax::Yaml),
        _ => None,
    }
}

/// The text of a file of any kind, `-` is standard input, with its name for messages.
///
/// # Errors
///
/// With [`Code::Usage`]: a file that cannot be read, is longer than `most` bytes, or is not UTF-8.
pub fn read_text(path: &Path, most: usize) -> Result<(String, String)> {
    let (name, bytes) = if path.as_os_str() == "-" {
        ("standard input".to_owned(), bytes_up_to(std::io::stdin().lock(), most))
    } else {
        (path.display().to_string(), open(path).and_then(|file| bytes_up_to(file, most)))
    };
    let read = || Ok(text(&name, &bytes.with_context(|| name.clone())?)?.to_owned());
    let text: Result<String> = read();
    Ok((name, text.code(Code::Usage)?))
}

/// The scenes of a file's contents; `name` is the file's, for messages.
pub(super) fn parse(name: &str, text: &str, syntax: Syntax) -> Result<Storyboard> {
    let keyed = if matches!(syntax, Syntax::Lines | Syntax::Json) { foreign::by_frame_text(text) } else { None };
    let syntax = if keyed.is_some() { Syntax::Json } else { syntax };
    let source = Source { name, syntax };
    let root = match syntax {
        Syntax::Lines => {
            foreign::refuse(name, text)?;
            return lines::parse(name, text);
        }
        Syntax::Toml => from_toml::parse(source, text)?,
        Syntax::Json => from_json::parse(source, &foreign::without_trailing_commas(keyed.as_deref().unwrap_or(text)))?,
        Syntax::Yaml => from_yaml::parse(source, text)?,
    };
    let table = match &root.value {
        Value::Table(table) => table,
        Value::List(list) if matches!(syntax, Syntax::Json | Syntax::Yaml) && !list.is_empty() => {
            return foreign::list(source, list);
        }
        _ => bail!("{name}: not a table of keys: see docs/scripts.md for what a script holds"),
    };
    if let Some(storyboard) = foreign::read(source, table)? {
        return Ok(storyboard);
    }
    if table.get("args").is_some() {
        ditctrl::read(source, table)
    } else if table.get("stage").is_some() || table.get("chain").is_some() {
        mold::read(source, table)
    } else if by_frame::is_by_frame(table) {
        by_frame::read(source, table)
    } else {
        script::read(source, table)
    }
}

fn open(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow!("no such file"),
        _ => error.into(),
    })?;
    ensure!(
        !file.metadata()?.is_dir(),
        "is a directory: give a file of prompts, one per line, or a scene script (.toml, .yaml, .json)"
    );
    Ok(file)
}

fn bytes(source: impl Read) -> Result<Vec<u8>> {
    bytes_up_to(source, MOST_BYTES)
}

fn bytes_up_to(source: impl Read, most: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(most as u64 + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() <= most, "more than {most} bytes: such files go up to that");
    Ok(bytes)
}

pub(super) fn text<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(_) if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) => {
            bail!("{name}: this is UTF-16 and not UTF-8, as PowerShell and some editors write: save the file as UTF-8")
        }
        // no text has one, and nearly every other file has one early
        Err(_) if bytes.iter().take(SNIFFED).any(|byte| *byte == 0) => {
            bail!(
                "{name}: this is no text: give a file of prompts, one per line, or a scene script (.toml, .yaml, .json)"
            )
        }
        Err(error) => {
            let before = &bytes[..error.valid_up_to()];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            bail!(
                "{name}:{line}: byte {} of the line (0x{:02x}) is not UTF-8: save the file as UTF-8",
                before.len() - start + 1,
                bytes[before.len()]
            )
        }
    }
}
