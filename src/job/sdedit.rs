//! A given video made anew in part (`vidgen enhance`): its frames in another size, under part of the noise and denoised again
//! (SDEdit, arXiv 2108.01073) in overlapping windows over the whole of it, with the randomized blending of StreamingT2V
//! (arXiv 2403.14773; spec/streamingt2v.md 6).

use super::footage::Footage;
use super::plan::Segment;
use super::settings::Settings;
use super::source_video::{Kind, SourceFile};
use super::values::Size;
use crate::models::architecture::LatentGeometry;
use crate::recipe::{Recipe, SdEditRecipe};
use crate::timeline::{BlendMode, ChunkPlan};
use anyhow::{Context, Result, ensure};

/// The method on one job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SdEdit {
    /// Frames of a window, and those that neighbours share.
    pub window: usize,
    pub overlap: usize,
    /// The share of the steps that is taken.
    pub strength: f64,
    pub blend: BlendMode,
}

impl SdEdit {
    /// # Errors
    /// Windows, overlaps and strengths that cannot be, and a recipe that says nothing of the method.
    pub fn new(settings: &Settings, recipe: &SdEditRecipe, steps: usize) -> Result<Self> {
        let window = settings.window.unwrap_or(recipe.window);
        let overlap = settings.overlap.unwrap_or(recipe.overlap);
        let strength = settings.enhance_strength.unwrap_or(recipe.strength);
        ensure!((1..=4096).contains(&window), "--chunk {window}: give 1 to 4096 frames");
        ensure!(overlap < window, "--chunk-overlap {overlap}: give less than the {window} frames of --chunk");
        ensure!(strength > 0.0 && strength <= 1.0, "--strength {strength}: give more than 0, up to 1");
        ensure!(
            (steps as f64 * strength) as usize > 0,
            "--strength {strength}: of {steps} steps that is none: give {} or more",
            1.0 / steps as f64
        );
        Ok(Self { window, overlap, strength, blend: settings.blend.unwrap_or(BlendMode::Paper) })
    }

    /// All frames, in windows.
    pub fn segment(&self, frames: usize) -> Segment {
        let plan = ChunkPlan::sliding(frames, self.window, self.overlap);
        Segment { plan, padding: 0, context: 0, feed: None, frames, fade: 0, given: Vec::new(), relay: None }
    }
}

/// The section of a recipe that the method needs.
///
/// # Errors
/// Where it has none.
pub fn recipe(recipe: &Recipe) -> Result<&SdEditRecipe> {
    recipe.method.sdedit.as_ref().context(
        "enhance needs a text-to-video model of frames (ModelScope, ZeroScope): give its folder as --model, or a --recipe with \
         [method.sdedit]",
    )
}

/// What of a video is taken, and the settings with its size, rate and number of frames. Without `--size` frames have the shape
/// of the video and the area of the model's own, and are never made smaller.
///
/// # Errors
/// Those of [`Footage::new`].
pub fn footage(
    source: &SourceFile,
    settings: &Settings,
    latent: &LatentGeometry,
    warnings: &mut Vec<String>,
) -> Result<(Footage, Settings)> {
    let asked = settings.size.is_some() || settings.width.is_some() || settings.height.is_some();
    let size = match source.kind {
        Kind::Video { width, height } if !asked => Some(near(width, height, latent)),
        _ => settings.size,
    };
    Footage::new(source, &Settings { size, ..settings.clone() }, latent, warnings)
}

fn near(width: usize, height: usize, latent: &LatentGeometry) -> Size {
    let area = (latent.native.width * latent.native.height) as f64;
    let scale = (area / (width * height) as f64).sqrt().max(1.0);
    let unit = latent.unit();
    let side = |side: usize| {
        let near = (side as f64 * scale / unit as f64).round_ties_even() as usize * unit;
        if near < side { side.next_multiple_of(unit) } else { near }
    };
    Size { width: side(width), height: side(height) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::LatentTime;
    use crate::models::architecture::Native;

    #[test]
    fn sizes_have_the_shape_of_the_video_and_are_never_smaller() {
        let latent = LatentGeometry {
            time: LatentTime::PER_FRAME,
            spatial_ratio: 8,
            patch: 1,
            patch_t: 1,
            fills: false,
            channels: 4,
            window: 16,
            native: Native { width: 576, height: 320, frames: 24, fps: 8 },
        };
        let of = |width, height| {
            let Size { width, height } = near(width, height, &latent);
            (width, height)
        };
        assert_eq!(of(576, 320), (576, 320));
        assert_eq!(of(288, 160), (576, 320));
        assert_eq!(of(256, 256), (432, 432)); // 429.3 on each side
        assert_eq!(of(1280, 716), (1280, 720), "a larger one only reaches the next multiple");
        assert_eq!(of(100, 1), (4296, 40), "a line: an eighth of it would be nothing");
    }

    #[test]
    fn settings_are_checked() {
        let recipe =
            SdEditRecipe { window: 24, overlap: 8, strength: 0.6, steps: 50, guidance_scale: "15".parse().unwrap() };
        let with = |text: &str| SdEdit::new(&toml::from_str(text).unwrap(), &recipe, 50);
        let own = with("").unwrap();
        assert_eq!((own.window, own.overlap, own.strength, own.blend), (24, 8, 0.6, BlendMode::Paper));
        assert_eq!(own.segment(40).plan.shared(), [8]);
        for (text, word) in [
            ("overlap = 24", "--chunk-overlap 24"),
            ("window = 8", "--chunk-overlap 8"),
            ("window = 0", "--chunk 0"),
            ("enhance_strength = \"0\"", "--strength 0"),
            ("enhance_strength = \"1.5\"", "--strength 1.5"),
            ("enhance_strength = \"0.01\"", "give 0.02 or more"),
        ] {
            let error = with(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
