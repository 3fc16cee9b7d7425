//! Previews of a run in progress: what is shown, how often, and where.

use super::settings::Settings;
use super::values::PreviewKind;
use crate::recipe::{LatentRgb, Recipe};
use crate::video::{self, Format, Output};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// Steps between two previews.
const EVERY: usize = 5;

/// The preview of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Preview {
    pub kind: PreviewKind,
    /// In steps; the last step is always shown.
    pub every: usize,
    /// Replaced by each preview.
    pub path: PathBuf,
    /// From latents to colours.
    pub map: LatentRgb,
}

impl Preview {
    /// Whether step `index` of `steps` is shown.
    pub fn due(&self, index: usize, steps: usize) -> bool {
        (index + 1).is_multiple_of(self.every) || index + 1 == steps
    }
}

/// The preview of a job, if one was asked for.
pub fn preview(settings: &Settings, recipe: &Recipe, channels: usize, output: &Output) -> Result<Option<Preview>> {
    let kind = settings.preview.unwrap_or(PreviewKind::Off);
    if kind == PreviewKind::Off {
        for (flag, given) in
            [("--preview-every", settings.preview_every.is_some()), ("--preview-path", settings.preview_path.is_some())]
        {
            ensure!(!given, "{flag} has no effect without --preview strip or video: add it, or leave this out");
        }
        return Ok(None);
    }
    let every = settings.preview_every.unwrap_or(EVERY);
    ensure!(every >= 1, "--preview-every {every}: give 1 step or more");
    let Some(map) = recipe.preview.clone().filter(|map| map.factors.len() == channels) else {
        bail!(
            "--preview {kind}: no colours are known for the {channels} channels of this model's latents: leave it out"
        )
    };
    let suffix = if kind == PreviewKind::Strip { "png" } else { "mp4" };
    let path = match &settings.preview_path {
        Some(path) => path.clone(),
        None => {
            beside(output, suffix).context("--preview: the video goes to standard output: say --preview-path FILE")?
        }
    };
    let given = settings.preview_path.is_some();
    ensure!(
        !given || !path.exists() || settings.overwrite.unwrap_or(false),
        "--preview-path {}: exists; use -y to replace it",
        path.display()
    );
    match kind {
        PreviewKind::Strip => {
            let png = path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("png"));
            ensure!(png, "--preview-path {}: a strip is a .png", path.display());
        }
        _ => {
            let shown = || format!("--preview-path {}", path.display());
            let video = Output { overwrite: true, ..Output::new(&path, 64, 64, output.fps).with_context(shown)? };
            let file = !matches!(video.format, Format::PngDir | Format::Y4mStdout);
            ensure!(file, "{}: a video preview is one file: .mp4, .webm, .gif or .y4m", shown());
            video::check(&video).with_context(shown)?;
        }
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(folder.is_dir(), "--preview-path {}: no such directory: {}", path.display(), folder.display());
    ensure!(path != output.path, "--preview-path {}: that is the output", path.display());
    Ok(Some(Preview { kind, every, path, map }))
}

/// `clip.preview.png` for `clip.mp4`; none beside standard output.
fn beside(output: &Output, suffix: &str) -> Option<PathBuf> {
    if output.format == Format::Y4mStdout {
        return None;
    }
    let plain: PathBuf = output.path.components().collect();
    let name = match output.format {
        Format::PngDir => plain.file_name()?,
        _ => plain.file_stem()?,
    };
    let mut name = name.to_owned();
    name.push(format!(".preview.{suffix}"));
    Some(plain.with_file_name(name))
}
