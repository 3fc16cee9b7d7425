//! Where scenes come from: arguments, a file, standard input. Files are of unknown origin, so they are read within bounds.

use super::{Scene, Storyboard, TransitionInto, lines, script};
use crate::run::{Code, WithCode};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

const MOST_BYTES: usize = 4 << 20;
/// Bytes of one prompt, and of one line of a file of prompts. Text encoders read a few hundred words.
pub(super) const MOST_PROMPT: usize = 16 << 10;
pub(super) const MOST_SCENES: usize = 10_000;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// By the suffix: `.toml` is a script, everything else is lines. Standard input is lines.
    Auto,
    /// One prompt per line.
    Lines,
    /// A scene script in TOML.
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

    /// Scenes that come from a record: prompts are held to what every reader holds them to.
    pub fn checked(scenes: Vec<Scene>) -> Result<Self> {
        check_count(scenes.len())?;
        ensure!(!scenes.is_empty(), "no prompt: write what is to be seen");
        let scene = |(index, scene): (usize, Scene)| {
            let prompt = prompt(&scene.prompt).with_context(|| format!("prompt {}", index + 1))?;
            Ok(Scene { prompt, ..scene })
        };
        let scenes = scenes.into_iter().enumerate().map(scene).collect::<Result<_>>()?;
        Ok(Self { scenes, settings: toml::Table::new() })
    }

    /// The scenes of a file; `-` is standard input.
    ///
    /// # Errors
    ///
    /// With [`Code::Usage`] and the name of the file, and the line where there is one: a file that cannot be read, is too
    /// large or not text; no scenes, or too many; and whatever does not belong in a script.
    pub fn read(path: &Path, form: Form) -> Result<Self> {
        let (name, bytes) = match path.as_os_str() == "-" {
            true => ("standard input".to_owned(), bytes(std::io::stdin().lock())),
            false if path.as_os_str().is_empty() => ("an empty file name".to_owned(), Err(anyhow!("give a file"))),
            false => (path.display().to_string(), open(path).and_then(bytes)),
        };
        let script = match form {
            Form::Auto => path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("toml")),
            Form::Lines => false,
            Form::Script => true,
        };
        let storyboard = bytes.with_context(|| name.clone()).and_then(|bytes| parse(&name, &bytes, script));
        Ok(storyboard.code(Code::Usage)?)
    }
}

/// The scenes of a file's contents; `name` is the file's, for messages.
pub(super) fn parse(name: &str, bytes: &[u8], script: bool) -> Result<Storyboard> {
    let text = text(name, bytes)?;
    match script {
        true => script::parse(name, text),
        false => lines::parse(name, text),
    }
}

fn open(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow!("no such file"),
        _ => error.into(),
    })?;
    ensure!(
        !file.metadata()?.is_dir(),
        "is a directory: give a file of prompts, one per line, or a scene script (.toml)"
    );
    Ok(file)
}

fn bytes(source: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() <= MOST_BYTES, "more than {MOST_BYTES} bytes: prompt files go up to that");
    Ok(bytes)
}

fn text<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
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

/// A prompt as it will be used: trimmed, on one line.
pub(super) fn prompt(text: &str) -> Result<String> {
    ensure!(
        text.len() <= MOST_PROMPT,
        "{} bytes are too long for a prompt: prompts go up to {MOST_PROMPT}",
        text.len()
    );
    let prompt = match text.contains(['\n', '\r']) {
        true => text.split_whitespace().collect::<Vec<_>>().join(" "),
        false => text.trim().to_owned(),
    };
    ensure!(!prompt.is_empty(), "an empty prompt: write what is to be seen");
    if let Some(control) = prompt.chars().find(|c| c.is_control() && *c != '\t') {
        bail!("control character U+{:04X} in a prompt: is this a text file?", u32::from(control))
    }
    Ok(prompt)
}

pub(super) fn check_count(scenes: usize) -> Result<()> {
    ensure!(scenes <= MOST_SCENES, "{scenes} scenes are more than the {MOST_SCENES} that a video may have");
    Ok(())
}

/// A scene that says nothing but its prompt.
pub(super) fn plain(prompt: String) -> Scene {
    Scene { prompt, subject: Vec::new(), length: None, transition: TransitionInto::default() }
}
