//! Frames of a given video that a run works on, one for one: which of them, in which size and at which rate.

use super::settings::Settings;
use super::source_video::{Kind, SourceFile};
use super::values::Size;
use crate::models::architecture::LatentGeometry;
use crate::video::{Cut, Rate};
use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;

/// Frames of a given video.
#[derive(Debug, Clone, PartialEq)]
pub struct Footage {
    pub path: PathBuf,
    /// Their numbers in the file, rising; one may stand several times.
    pub frames: Vec<usize>,
}

/// Sides that nobody asked for are multiples of this, as in Text2Video-Zero's program.
const GRID: usize = 64;

impl Footage {
    /// What of a video is taken, and the settings with the size, the rate and the number of its frames.
    ///
    /// # Errors
    /// Latents, stretches without frames, and more frames than there are.
    pub fn new(
        source: &SourceFile,
        settings: &Settings,
        latent: &LatentGeometry,
        warnings: &mut Vec<String>,
    ) -> Result<(Self, Settings)> {
        let shown = source.path.display();
        let Kind::Video { width, height } = source.kind else {
            bail!("{shown}: holds latents, and a video is wanted whose frames are changed: give the video")
        };
        warnings.extend(source.lost.iter().cloned());
        let (frames, fps) = taken(source, settings).with_context(|| shown.to_string())?;
        let size = size(settings, (width, height), latent);
        warnings.extend(resampled(source, size, settings));
        let settings = Settings {
            size: Some(size),
            width: None,
            height: None,
            frames: Some(frames.len()),
            duration: None,
            fps,
            ..settings.clone()
        };
        Ok((Self { path: source.path.clone(), frames }, settings))
    }

    /// What of another video is taken beside it.
    ///
    /// # Errors
    /// As [`Footage::new`].
    pub fn beside(source: &SourceFile, settings: &Settings) -> Result<Self> {
        let (frames, _) = taken(source, settings).with_context(|| source.path.display().to_string())?;
        Ok(Self { path: source.path.clone(), frames })
    }

    /// A picture that stands for all frames.
    pub fn picture(source: &SourceFile) -> Self {
        Self { path: source.path.clone(), frames: vec![0] }
    }

    /// The settings with the size of a picture.
    pub fn of_picture(source: &SourceFile, settings: &Settings, latent: &LatentGeometry) -> Settings {
        let Kind::Video { width, height } = source.kind else { return settings.clone() };
        Settings { size: Some(size(settings, (width, height), latent)), width: None, height: None, ..settings.clone() }
    }
}

/// The warning about frames of another size than the video's, where they are.
pub fn resampled(source: &SourceFile, size: Size, settings: &Settings) -> Option<String> {
    let Kind::Video { width, height } = source.kind else { return None };
    let asked = settings.size.is_some() || settings.width.is_some() || settings.height.is_some();
    let how = if asked { "" } else { "; --size asks for another size" };
    let shown = source.path.display();
    let other = (size.width, size.height) != (width, height);
    other.then(|| format!("{shown} is {width}x{height}: its frames are resampled to {size}{how}"))
}

/// The frames that are taken, and the rate at which they are shown, where anyone says one.
fn taken(source: &SourceFile, settings: &Settings) -> Result<(Vec<usize>, Option<Rate>)> {
    let there = source.frames;
    let (start, end) = (settings.start.map_or(0.0, |start| start.0), settings.end.map(|end| end.0));
    let fps = settings.fps.or(source.fps);
    let mut frames = match (source.fps.or(settings.fps), start > 0.0 || end.is_some()) {
        // the pictures of a folder have the rate that they are given
        (Some(rate), _) => Cut { start, end, fps }.frames(there, rate)?,
        (None, false) => (0..there).collect(),
        (None, true) => bail!("has no frame rate, so that it has no seconds: give --fps"),
    };
    let wanted = match (settings.frames, settings.duration) {
        (Some(frames), _) => Some(frames),
        (None, Some(duration)) => {
            let rate = fps.context("has no frame rate, so that it has no seconds: give --fps, or --frames")?;
            Some((duration.0 * rate.as_f64()).round() as usize)
        }
        (None, None) => None,
    };
    if let Some(wanted) = wanted {
        ensure!(
            (1..=frames.len()).contains(&wanted),
            "{wanted} frames are wanted, and {} can be taken: give --frames 1 to {}",
            frames.len(),
            frames.len()
        );
        frames.truncate(wanted);
    }
    Ok((frames, fps))
}

/// The size of the frames: what was asked for, else their own where the model takes it, else the nearest that has its longest
/// side.
fn size(settings: &Settings, (width, height): (usize, usize), latent: &LatentGeometry) -> Size {
    let asked = match settings.size {
        Some(Size { width, height }) => (Some(width), Some(height)),
        None => (settings.width, settings.height),
    };
    if asked != (None, None) {
        return Size { width: asked.0.unwrap_or(width), height: asked.1.unwrap_or(height) };
    }
    let unit = latent.unit();
    let longest = latent.native.width.max(latent.native.height);
    if width.is_multiple_of(unit) && height.is_multiple_of(unit) && width.max(height) <= longest {
        return Size { width, height };
    }
    let scale = longest as f64 / width.max(height) as f64;
    let grid = GRID.max(unit); // both are powers of two
    let side = |side: usize| ((side as f64 * scale / grid as f64).round_ties_even() as usize).max(1) * grid;
    Size { width: side(width), height: side(height) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::values::Seconds;
    use crate::models::LatentTime;
    use crate::models::architecture::Native;

    fn latent(side: usize) -> LatentGeometry {
        LatentGeometry {
            time: LatentTime::PER_FRAME,
            spatial_ratio: 8,
            patch: 1,
            patch_t: 1,
            fills: false,
            channels: 4,
            window: 8,
            native: Native { width: side, height: side / 2, frames: 8, fps: 4 },
        }
    }

    #[test]
    fn sizes_are_the_videos_own_or_near_it() {
        let of = |width: usize, height: usize, settings: &Settings| {
            let Size { width, height } = size(settings, (width, height), &latent(512));
            (width, height)
        };
        let none = Settings::default();
        assert_eq!(of(512, 288, &none), (512, 288));
        assert_eq!(of(144, 96, &none), (144, 96), "a small one stays small");
        assert_eq!(of(1920, 1080, &none), (512, 256), "288 is as near to 256 as to 320, which are 4 and 5 of 64");
        assert_eq!(of(100, 100, &none), (512, 512));
        assert_eq!(of(520, 40, &none), (512, 64));
        let asked = Settings { width: Some(80), ..Settings::default() };
        assert_eq!(of(144, 96, &asked), (80, 96));
    }

    #[test]
    fn frames_are_cut_sampled_and_counted() {
        let source = |fps: Option<u32>| SourceFile {
            path: "a".into(),
            kind: Kind::Video { width: 16, height: 16 },
            frames: 16,
            fps: fps.map(|num| Rate { num, den: 1 }),
            lost: Vec::new(),
        };
        let settings = |text: &str| toml::from_str::<Settings>(text).unwrap();
        let frames = |fps: Option<u32>, text: &str| taken(&source(fps), &settings(text)).map(|(frames, _)| frames);
        assert_eq!(frames(Some(8), "start = 0.5\nend = \"1s\"").unwrap(), [4, 5, 6, 7]);
        assert_eq!(frames(Some(8), "fps = 4\nframes = 3").unwrap(), [0, 2, 4]);
        assert_eq!(frames(Some(8), "duration = \"0.5s\"").unwrap(), [0, 1, 2, 3]);
        assert_eq!(frames(None, "frames = 2").unwrap(), [0, 1]);
        assert_eq!(frames(None, "fps = 8\nstart = 1.5").unwrap(), [12, 13, 14, 15]);
        for (text, word) in
            [("frames = 17", "17 frames are wanted, and 16"), ("frames = 0", "0 frames"), ("end = 1", "--fps")]
        {
            let error = frames(None, text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert_eq!(Seconds(0.0).to_string(), "0s");
    }
}
