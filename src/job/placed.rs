//! A subject that is put into a video (DreamVideo-2, arXiv 2410.13830; spec/dreamvideo2.md 3, 4, 9): its picture, cut out and laid on white, and
//! where it is in each frame.

use super::Command;
use super::boxes::BoxesAsked;
use super::settings::{Group, Settings};
use crate::boxes::{Boxes, Rule, extent, warnings};
use crate::models::architecture::SubjectArchitecture;
use crate::models::placement::MaskRule;
use crate::run::{Code, WithCode};
use crate::video::pillow::{Filter, resize};
use crate::video::{Frame, Limits, cutout};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// Share of the frame that a subject fills that was cut out.
const FILLED: f64 = 0.8;

/// The method on one job.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    pub picture: Option<Picture>,
    pub boxes: Option<Boxes>,
    /// How much of the subject there is outside its boxes.
    pub outside: f64,
    pub rule: Rule,
}

/// The subject's picture, as the network sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// In the size of the video.
    pub frame: Frame,
    pub path: PathBuf,
    pub mask: Option<PathBuf>,
}

/// What was asked for in a setting that only such models have, for those that have none of it.
pub fn check_absent(settings: &Settings) -> Result<()> {
    match settings.clone().only(&[Group::Placed]).said().first() {
        None => Ok(()),
        Some(name) => bail!(
            "--{} is for models that put a subject into a video (DreamVideo2Pipeline), and this is none: leave it out, or give another --model",
            name.replace('_', "-")
        ),
    }
}

impl Placed {
    /// What the settings ask of a model, for a clip of so many frames of a size (width, height). Warnings are of boxes that a subject may
    /// not follow.
    ///
    /// # Errors
    /// What the folder cannot do, files that cannot be read, a picture without a subject, more frames than have boxes.
    pub fn new(
        settings: &Settings,
        architecture: &dyn SubjectArchitecture,
        frames: usize,
        size: (usize, usize),
        told: &mut Vec<String>,
    ) -> Result<Self> {
        let asked = BoxesAsked {
            boxes: settings.boxes.clone(),
            first_box: settings.first_box.clone(),
            last_box: settings.last_box.clone(),
            trajectory: settings.trajectory.clone(),
        };
        let reference = architecture.reference();
        let picture = match (&settings.subject_image, &settings.subject_mask) {
            (None, None) => None,
            (None, Some(mask)) => bail!(
                "--subject-mask {} has no effect without --subject-image IMG: add it, or leave this out",
                mask.display()
            ),
            (Some(path), mask) => {
                ensure!(
                    reference.is_some(),
                    "--subject-image: this folder has no reference_attention/, by which a subject is looked at: leave it out, or give \
                     another --model"
                );
                Some(Picture::read(path, mask.as_deref(), size).code(Code::Usage)?)
            }
        };
        let boxes = asked.read(frames)?;
        if let Some(boxes) = &boxes {
            let Some(most) = architecture.most_boxes() else {
                bail!(
                    "--boxes: this folder has no motion_encoder/, by which boxes are seen: leave them out, or give another --model"
                )
            };
            ensure!(
                frames <= most,
                "--frames {frames}: this model sees boxes of at most {most} frames (max_frames of motion_encoder/config.json)"
            );
            told.extend(warnings(boxes));
        }
        let own = reference.map(|reference| reference.outside_weight);
        let outside = match settings.lambda_m {
            None => own.unwrap_or(1.0),
            Some(outside) => {
                ensure!((0.0..=1.0).contains(&outside), "--lambda-m {outside}: give 0 to 1");
                ensure!(
                    picture.is_some() && boxes.is_some(),
                    "--lambda-m has no effect without --subject-image and boxes: add them, or leave this out"
                );
                outside
            }
        };
        let rule = match reference.map_or(MaskRule::Coverage, |reference| reference.mask_rule) {
            MaskRule::Coverage => Rule::Coverage,
            MaskRule::Nearest => Rule::Nearest,
        };
        Ok(Self { picture, boxes, outside, rule })
    }

    /// Refuses what the method has no use for.
    pub fn check(command: Command, scenes: usize, settings: &Settings) -> Result<()> {
        ensure!(
            command == Command::Generate && scenes == 1,
            "a model that puts a subject into a video makes one clip of one prompt: use vidgen generate"
        );
        ensure!(
            settings.attn_proc.iter().flatten().all(|spec| !spec.control.joins_windows),
            "--attn-proc: a single clip has no windows to join: leave it out"
        );
        Ok(())
    }
}

impl Picture {
    /// Reads a picture and cuts the subject out.
    fn read(path: &Path, mask: Option<&Path>, (width, height): (usize, usize)) -> Result<Self> {
        let limits = Limits::default();
        let (frame, own) = cutout(path, &limits).context("--subject-image")?;
        let alpha = match mask {
            None => own,
            Some(mask) => {
                let (grey, _) = cutout(mask, &limits).context("--subject-mask")?;
                ensure!(
                    (grey.width, grey.height) == (frame.width, frame.height),
                    "--subject-mask {}: {}x{}, and the picture has {}x{}: give a mask of the picture's size",
                    mask.display(),
                    grey.width,
                    grey.height,
                    frame.width,
                    frame.height
                );
                Some(grey.data.iter().step_by(3).copied().collect())
            }
        };
        let whole = alpha.is_none() && (frame.width, frame.height) == (width, height);
        let frame = if whole { Some(frame) } else { placed(&frame, alpha.as_deref(), (width, height)) };
        let what = if mask.is_some() { "its mask" } else { "it" };
        let frame = frame.with_context(|| {
            format!("--subject-image {}: there is no subject: {what} is nowhere opaque by half or more", path.display())
        })?;
        Ok(Self { frame, path: path.to_owned(), mask: mask.map(Path::to_owned) })
    }
}

/// The subject cut out, on white, in the middle of a frame of which it fills four fifths at most. None where nothing is opaque.
fn placed(frame: &Frame, alpha: Option<&[u8]>, (width, height): (usize, usize)) -> Option<Frame> {
    let at = |x: usize, y: usize| alpha.map_or(u8::MAX, |alpha| alpha[y * frame.width + x]);
    let [x0, y0, x1, y1] = match alpha {
        Some(alpha) => extent(alpha, frame.width)?,
        None => [0, 0, frame.width, frame.height],
    };
    let on_white = |value: u8, a: u8| {
        let (value, a) = (u32::from(value), u32::from(a));
        ((value * a + 255 * (255 - a) + 127) / 255) as u8
    };
    let pixel = |y: usize, x: usize| {
        let values = &frame.data[3 * (y * frame.width + x)..][..3];
        [0, 1, 2].map(|channel| on_white(values[channel], at(x, y)))
    };
    let cut: Vec<u8> = (y0..y1).flat_map(|y| (x0..x1).flat_map(move |x| pixel(y, x))).collect();
    let old = (x1 - x0, y1 - y0);
    let scale = (FILLED * width as f64 / old.0 as f64).min(FILLED * height as f64 / old.1 as f64);
    let side = |side: usize| ((scale * side as f64 + 0.5).floor() as usize).max(1);
    let new = (side(old.0), side(old.1));
    let cut = resize(&cut, old, new, Filter::Bicubic);
    let mut data = vec![u8::MAX; 3 * width * height];
    let (left, top) = ((width - new.0) / 2, (height - new.1) / 2);
    for (row, values) in cut.chunks_exact(3 * new.0).enumerate() {
        data[3 * ((top + row) * width + left)..][..values.len()].copy_from_slice(values);
    }
    Some(Frame { width, height, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, safetensors};

    /// `tests/reference/tiny.py`'s values in bytes.
    fn bytes(name: &str, count: usize) -> Vec<u8> {
        let seed = name
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325u64, |seed, byte| (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
        let value = |index: usize| {
            let mut z = seed.wrapping_add((index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let unit = ((z ^ (z >> 31)) >> 40) as f64 / 8_388_608.0 - 1.0;
            (((unit as f32) + 1.0) * 127.5).round_ties_even().clamp(0.0, 255.0) as u8
        };
        (0..count).map(value).collect()
    }

    #[test]
    fn subjects_are_cut_out_as_pillow_does_it() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/dreamvideo2/pictures.safetensors");
        let golden = safetensors::load(golden, &Device::Cpu).unwrap();
        for (name, (h, w), kind, (height, width)) in [
            ("wide", (20, 50), false, (48, 80)),
            ("ellipse", (64, 40), true, (40, 56)),
            ("corner", (33, 47), true, (64, 48)),
            ("tiny", (3, 2), false, (40, 56)),
        ] {
            let frame = Frame { width: w, height: h, data: bytes(&format!("dv2/picture/{name}"), h * w * 3) };
            let alpha = golden[&format!("{name}/alpha")].flatten_all().unwrap().to_vec1::<u8>().unwrap();
            let made = placed(&frame, kind.then_some(&alpha[..]), (width, height)).unwrap();
            let wanted = golden[&format!("{name}/placed")].to_vec1::<f32>().unwrap();
            // every p-th value was kept
            let every = (1..).find(|every| made.data.len().div_ceil(*every) == wanted.len()).unwrap();
            let kept: Vec<f32> = made.data.iter().step_by(every).map(|&value| f32::from(value)).collect();
            assert_eq!(kept, wanted, "{name}");
        }
        let nothing = Frame { width: 2, height: 2, data: vec![9; 12] };
        assert_eq!(placed(&nothing, Some(&[127; 4]), (8, 8)), None);
    }
}
