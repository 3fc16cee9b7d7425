//! Frames that are given of a clip: out of which files, and how guidance treats them (STIV, arXiv 2412.07730).

use super::Command;
use super::footage::Footage;
use super::given_values::{GuidanceMode, Keyframe, NullFrame, Renorm};
use super::settings::Settings;
use super::source_video::{Kind, SourceFile};
use crate::run::{Code, Failure, WithCode};
use crate::video::{self, Fit, Limits, Rate};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

/// The frames that are given of a stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    pub from: GivenFrom,
    /// Where they are, in the order of their latents; none where the stage before made them.
    pub files: Vec<Footage>,
    /// How those of another shape become those of the stage.
    pub fit: Fit,
}

/// How they are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenFrom {
    /// Files, in the place of noise.
    Files,
    /// A file, beside the noise.
    Beside,
    /// The latents of the stage before, in the place of noise.
    Before,
}

/// How guidance treats given frames, and what is done to its result.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GuidanceForm {
    pub mode: GuidanceMode,
    /// The scale of the given frames where they have one.
    pub image: f64,
    pub renorm: Renorm,
    /// What passes see that see no given frames.
    pub null_frame: NullFrame,
}

/// Files of frames that were named, before anything is known of the model.
#[derive(Debug, Clone, Default)]
pub struct GivenFiles {
    pub(super) image: Option<SourceFile>,
    pub(super) last_image: Option<SourceFile>,
    pub(super) keyframes: Vec<(usize, SourceFile)>,
}

impl GivenFiles {
    /// The pictures that settings name, for the commands that take some.
    ///
    /// # Errors
    /// Files that are no single picture, and pictures for other commands ([`Code::Usage`]).
    pub fn read(command: Command, settings: &Settings) -> Result<Self, Failure> {
        let named = [
            ("image", settings.image.is_some()),
            ("last-image", settings.last_image.is_some()),
            ("keyframe", settings.keyframe.is_some()),
            ("context", settings.context.is_some()),
        ];
        let takes = |flag: &str| match command {
            Command::Animate => true,
            Command::Extend => flag == "image",
            _ => false,
        };
        if let Some((flag, _)) = named.into_iter().find(|(flag, named)| *named && !takes(flag)) {
            let message = format!("--{flag} has no effect on {}: use animate, or leave it out", command.name());
            return Err(Failure::message(Code::Usage, message));
        }
        let picture = |path: &PathBuf| picture(path).code(Code::Usage);
        let keyframe = |keyframe: &Keyframe| Ok((keyframe.frame, picture(&keyframe.file)?));
        Ok(Self {
            image: settings.image.as_ref().map(picture).transpose()?,
            last_image: settings.last_image.as_ref().map(picture).transpose()?,
            keyframes: settings.keyframe.iter().flatten().map(keyframe).collect::<Result<_, Failure>>()?,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.image.is_none() && self.last_image.is_none() && self.keyframes.is_empty()
    }
}

/// A file of one picture.
fn picture(path: &Path) -> Result<SourceFile> {
    let mut reader = video::read(path, &Limits::default())?;
    let (width, height, lost) = (reader.width(), reader.height(), reader.lost().to_vec());
    let shown = path.display();
    reader.next().transpose()?.with_context(|| format!("{shown}: holds no picture"))?;
    ensure!(
        reader.next().transpose()?.is_none(),
        "{shown}: holds several frames, and one picture is wanted: --video {shown} goes on from its end; or save one of them as a PNG"
    );
    Ok(SourceFile { path: path.to_owned(), kind: Kind::Video { width, height }, frames: 1, fps: None, lost })
}

/// What is said of frames of another size.
pub(super) fn fitted(source: &SourceFile, fit: Fit, (width, height): (usize, usize)) -> Option<String> {
    let Kind::Video { width: w, height: h } = source.kind else { return None };
    if (w, h) == (width, height) {
        return None;
    }
    let placed = fit.placed((w, h), (width, height));
    let ((across, down), (x, y)) = (placed.scaled, placed.offset);
    let then = match fit {
        _ if (across, down) == (width, height) => String::new(),
        Fit::Pad => format!(" and black to {width}x{height}, {x} pixels on the left and {y} above"),
        _ => format!(" and cut to {width}x{height}, {x} pixels on the left and {y} above"),
    };
    Some(format!(
        "{} is {w}x{h}: it is scaled to {across}x{down}{then} (--fit crop, pad or stretch)",
        source.path.display()
    ))
}

/// The settings of a video with a frame between every two: at twice its rate.
///
/// # Errors
/// A rate that no file has.
pub fn twice_as_fast(source: &SourceFile, settings: &Settings) -> Result<Settings> {
    let Some(own) = source.fps.filter(|_| settings.fps.is_none()) else { return Ok(settings.clone()) };
    let fps = Rate::new(own.num.saturating_mul(2), own.den).context("twice the frames a second")?;
    Ok(Settings { fps: Some(fps), ..settings.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_a_picture_is_told() {
        let source = |width, height| SourceFile {
            path: "a.png".into(),
            kind: Kind::Video { width, height },
            frames: 1,
            fps: None,
            lost: Vec::new(),
        };
        assert_eq!(fitted(&source(48, 32), Fit::Crop, (48, 32)), None);
        let said = |fit| fitted(&source(100, 50), fit, (48, 32)).unwrap();
        assert!(said(Fit::Crop).contains("scaled to 64x32 and cut to 48x32, 8 pixels on the left and 0 above"));
        assert!(said(Fit::Pad).contains("scaled to 48x24 and black to 48x32, 0 pixels on the left and 4 above"));
        assert!(said(Fit::Stretch).contains("scaled to 48x32 (--fit"));
    }
}
