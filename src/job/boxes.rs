//! Where a subject is to be in each frame: what was typed, and the files it names.

use crate::boxes::{self, Boxes, MOST_FRAMES};
use crate::run::{Code, Failure, WithCode};
use crate::storyboard::read_text;
use crate::video::{self, Limits};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// The most bytes of a file of boxes.
const MOST_BYTES: usize = 64 << 20;
const PRESET: &str = "preset:";

/// What was asked for; nothing where boxes are not given at all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BoxesAsked {
    /// A file in any of the forms of docs/subject.md, a folder of masks, or `preset:NAME`.
    pub boxes: Option<PathBuf>,
    /// `x0,y0,x1,y1` in units of the frame's sides.
    pub first_box: Option<String>,
    pub last_box: Option<String>,
    /// `x,y;x,y;..`, the line that the centre follows.
    pub trajectory: Option<String>,
}

impl BoxesAsked {
    /// The boxes of a clip of so many frames; none where none are asked for.
    ///
    /// # Errors
    /// Several sources, a source that is not whole, and what cannot be read, by file, line or key.
    pub fn read(&self, frames: usize) -> Result<Option<Boxes>, Failure> {
        self.checked().code(Code::Usage)?;
        let made = match (&self.boxes, &self.first_box) {
            (Some(path), _) => of_path(path, frames)?,
            (None, Some(first)) => self.typed(first, frames).code(Code::Usage)?,
            (None, None) => return Ok(None),
        };
        Ok(Some(made))
    }

    /// Refuses what cannot be meant together, before any file is opened.
    fn checked(&self) -> Result<()> {
        let typed = [("first-box", &self.first_box), ("last-box", &self.last_box), ("trajectory", &self.trajectory)];
        if let (Some(path), Some((flag, _))) = (&self.boxes, typed.iter().find(|(_, value)| value.is_some())) {
            bail!("--boxes {} and --{flag}: both say where the subject is; leave out one", path.display())
        }
        ensure!(
            self.last_box.is_none() || self.trajectory.is_none(),
            "--last-box and --trajectory: both say where the first box goes; leave out one"
        );
        if self.first_box.is_none()
            && let Some((flag, _)) = typed[1..].iter().find(|(_, value)| value.is_some())
        {
            bail!("--{flag} has no effect without --first-box x0,y0,x1,y1: add it, or leave this out")
        }
        Ok(())
    }

    fn typed(&self, first: &str, frames: usize) -> Result<Boxes> {
        let first = boxes::rect(first).context("--first-box")?;
        match (&self.last_box, &self.trajectory) {
            (Some(last), _) => {
                let last = boxes::rect(last).context("--last-box")?;
                boxes::between(&first, &last, frames).context("--first-box and --last-box")
            }
            (None, Some(line)) => {
                let points = boxes::point_list(line).context("--trajectory")?;
                boxes::along(&first, &points, frames).context("--trajectory")
            }
            (None, None) => boxes::between(&first, &first, frames).context("--first-box"),
        }
    }
}

fn of_path(path: &Path, frames: usize) -> Result<Boxes, Failure> {
    let shown = path.display().to_string();
    if let Some(name) = shown.strip_prefix(PRESET) {
        return boxes::preset(name, frames).context("--boxes").code(Code::Usage);
    }
    if path.is_dir() {
        return masks(path, frames).with_context(|| shown).code(Code::Usage);
    }
    let known = ["mp4", "webm", "gif", "mov", "mkv", "avi", "y4m"];
    let is_video = path.extension().and_then(|end| end.to_str()).is_some_and(|end| known.contains(&end));
    if is_video && path.is_file() {
        let message = format!(
            "{shown} is a video: find the boxes of what stands out in it with vidgen mask {shown} --json > boxes.json, and give that file"
        );
        return Err(Failure::message(Code::Usage, message));
    }
    let (name, text) = read_text(path, MOST_BYTES)?;
    boxes::read(&text, frames).context(name).code(Code::Usage)
}

/// Boxes around the masks of a folder of grey pictures.
fn masks(path: &Path, frames: usize) -> Result<Boxes> {
    let limits = Limits { max_frames: MOST_FRAMES as u64, ..Limits::default() };
    let mut found = Vec::new();
    for frame in video::read(path, &limits)? {
        let frame = frame?;
        let grey: Vec<u8> = frame.data.iter().step_by(3).copied().collect();
        found.push(boxes::bounds(&grey, frame.width));
    }
    boxes::held(&found, frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(asked: &BoxesAsked) -> String {
        asked.read(4).unwrap_err().line()
    }

    #[test]
    fn typed_boxes_are_read_and_contradictions_named() {
        let first = Some("0.1,0.1,0.4,0.4".to_owned());
        let asked =
            BoxesAsked { first_box: first.clone(), last_box: Some("0.5,0.5,0.8,0.8".into()), ..Default::default() };
        let boxes = asked.read(3).unwrap().unwrap();
        assert_eq!((boxes[0], boxes[2]), (Some([0.1, 0.1, 0.4, 0.4]), Some([0.5, 0.5, 0.8, 0.8])));
        let asked =
            BoxesAsked { first_box: first.clone(), trajectory: Some("0.2,0.2;0.6,0.2".into()), ..Default::default() };
        assert!((asked.read(3).unwrap().unwrap()[2].unwrap()[0] - 0.5).abs() < 1e-12);
        assert_eq!(BoxesAsked::default().read(3).unwrap(), None);
        let both = BoxesAsked { boxes: Some("x.json".into()), first_box: first.clone(), ..Default::default() };
        assert!(error(&both).contains("--boxes x.json and --first-box"));
        let alone = BoxesAsked { last_box: first.clone(), ..Default::default() };
        assert!(error(&alone).contains("--last-box has no effect without --first-box"));
        let two = BoxesAsked {
            first_box: first,
            last_box: Some("0,0,1,1".into()),
            trajectory: Some("0,0".into()),
            ..Default::default()
        };
        assert!(error(&two).contains("--last-box and --trajectory"));
        let wrong = BoxesAsked { first_box: Some("1,2".into()), ..Default::default() };
        assert!(error(&wrong).contains("--first-box") && error(&wrong).contains("2 numbers"));
    }

    #[test]
    fn files_and_presets_are_told_apart_by_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("path.txt");
        std::fs::write(&path, "0 0.1 0.4 0.1 0.4\n").unwrap();
        let of = |path: &Path| BoxesAsked { boxes: Some(path.to_owned()), ..Default::default() };
        assert_eq!(of(&path).read(2).unwrap().unwrap(), [Some([0.1, 0.1, 0.4, 0.4]); 2]);
        assert_eq!(of(Path::new("preset:l")).read(16).unwrap().unwrap().len(), 16);
        assert!(error(&of(Path::new("preset:m"))).contains("unknown preset"));
        assert!(error(&of(&folder.path().join("none.json"))).contains("none.json"));
        std::fs::write(&path, "0 0.1\n").unwrap();
        assert!(error(&of(&path)).contains("path.txt: line 1"));
        let video = folder.path().join("ball.mp4");
        std::fs::write(&video, "not looked at").unwrap();
        assert!(error(&of(&video)).contains("vidgen mask"));
        let masks = folder.path().join("masks");
        std::fs::create_dir(&masks).unwrap();
        let mut data = vec![0; 8 * 4 * 3];
        data[(2 * 8 + 4) * 3..(2 * 8 + 6) * 3].fill(255);
        crate::video::write_png(&masks.join("0.png"), &crate::video::Frame { width: 8, height: 4, data }).unwrap();
        assert_eq!(of(&masks).read(2).unwrap().unwrap(), [Some([0.5, 0.5, 0.75, 0.75]); 2]);
    }
}
