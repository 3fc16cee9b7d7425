//! What `edit` and `attn-map` begin from: a prompt, or the record in a video of vidgen.

use super::Report;
use crate::job::{Command, Group, Request, Settings, check_single};
use crate::run::{Code, Failure, Manifest, WithCode};
use crate::storyboard::Storyboard;
use std::path::Path;

/// A run that is to be repeated, changed or looked into.
pub struct Source {
    pub request: Request,
    /// The record it comes from.
    pub record: Option<Manifest>,
}

impl Source {
    /// `what`: a file or a prompt; `prompt`: one by a flag of its own. Flags outweigh what a record says; of the project's
    /// and the user's settings a record leaves only where things go.
    pub fn new(
        what: Option<String>,
        prompt: Option<String>,
        flags: Settings,
        report: &Report,
    ) -> Result<Self, Failure> {
        let file = what.as_deref().map(Path::new).filter(|path| path.exists() || is_name(path));
        if let Some(path) = file {
            let record = Manifest::read(path)?;
            let mut request = Request::of_manifest(&record).code(Code::Failed)?;
            if request.command == Command::Generate {
                check_single(&request.scenes, &unshared(&flags))?;
            }
            request.settings = flags.or(request.settings).or(report.settings()?.only(Group::ASIDE));
            return Ok(Self { request, record: Some(record) });
        }
        let prompts: Vec<String> = what.into_iter().chain(prompt).collect();
        let scenes = Storyboard::from_prompts(&prompts)?.scenes;
        check_single(&scenes, &unshared(&flags))?;
        let settings = flags.or(report.settings()?);
        Ok(Self { request: Request { command: Command::Generate, settings, scenes, edit: None }, record: None })
    }
}

/// Adds to a failure what to do about a model that is not where a record says.
pub fn moved(failure: Failure) -> Failure {
    if failure.code == Code::Model && failure.line().contains("no such folder") {
        return Failure::message(
            Code::Model,
            format!("{}; if it was moved, give its place by --model", failure.line()),
        );
    }
    failure
}

/// Settings without where keys and values are shared, which has a meaning for an edit of a single window as well.
fn unshared(settings: &Settings) -> Settings {
    Settings { attn_proc: None, ..settings.clone() }
}

/// Whether words can only be meant as a file: one word with the suffix of a video or a record.
fn is_name(path: &Path) -> bool {
    let suffix = path.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default().to_ascii_lowercase();
    let known = ["mp4", "webm", "gif", "y4m", "json", "mov", "mkv"].contains(&suffix.as_str());
    let text = path.to_string_lossy();
    (known || text.ends_with('/')) && !text.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_told_from_prompts() {
        for name in ["clip.mp4", "a/b.WEBM", "clip.mp4.json", "frames/"] {
            assert!(is_name(Path::new(name)), "{name}");
        }
        for prompt in ["a red ball", "ball", "a film on tape.mp4 plays", "e.g. a ball", "ball."] {
            assert!(!is_name(Path::new(prompt)), "{prompt}");
        }
    }
}
