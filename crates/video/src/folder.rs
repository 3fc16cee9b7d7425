//! Directories: of videos, or of the pictures of one.

use super::fault::input;
use super::png::{is_image, natural};
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};

/// Suffixes of files that are taken for videos; a file that is named alone may have any.
const SUFFIXES: [&str; 12] = ["mp4", "webm", "gif", "y4m", "mkv", "mov", "m4v", "avi", "ts", "m2ts", "flv", "mpg"];

/// More than anyone compares; a directory of more is another kind of directory.
const MOST: usize = 100_000;

/// The videos in a directory, in the order of their names, numbers by value: files by their suffix, and directories of
/// pictures. `None` where the path is one video itself: a file, or a directory of pictures without videos.
pub fn videos(path: &Path) -> Result<Option<Vec<PathBuf>>> {
    let explain = |cause| input(format!("cannot read {}: {cause}", path.display()));
    if !fs::metadata(path).map_err(explain)?.is_dir() {
        return Ok(None);
    }
    let (mut videos, mut images) = (Vec::new(), false);
    for entry in fs::read_dir(path).map_err(explain)? {
        let entry = entry.map_err(explain)?.path();
        if entry.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        let suffix = entry.extension().map(|suffix| suffix.to_string_lossy().to_lowercase());
        let named = suffix.is_some_and(|suffix| SUFFIXES.contains(&suffix.as_str()));
        images |= is_image(&entry);
        if (named && entry.is_file()) || (entry.is_dir() && holds_images(&entry)) {
            videos.push(entry);
        }
        if videos.len() > MOST {
            return Err(input(format!("{} has more than {MOST} videos", path.display())));
        }
    }
    match (videos.is_empty(), images) {
        (true, true) => Ok(None),
        (true, false) => Err(input(format!("{} holds neither videos nor pictures", path.display()))),
        (false, _) => {
            videos.sort_by(|a, b| natural(&a.to_string_lossy(), &b.to_string_lossy()));
            Ok(Some(videos))
        }
    }
}

fn holds_images(directory: &Path) -> bool {
    fs::read_dir(directory).into_iter().flatten().flatten().any(|entry| is_image(&entry.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_videos_are_told_from_videos() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, file) in [("set", "v10.mp4"), ("set", "v9.GIF"), ("set", "notes.txt"), ("set", ".hidden.mp4")] {
            fs::create_dir_all(path(name)).unwrap();
            fs::write(path(name).join(file), "").unwrap();
        }
        for name in ["set/a", "pictures", "set/empty"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        for name in ["set/a", "pictures"] {
            fs::write(path(name).join("frame-0.png"), "").unwrap();
        }
        let found = videos(&path("set")).unwrap().unwrap();
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a", "v9.GIF", "v10.mp4"]);
        assert!(videos(&path("pictures")).unwrap().is_none());
        assert!(videos(&path("set/v10.mp4")).unwrap().is_none());
        assert!(videos(&path("set/empty")).unwrap_err().to_string().contains("neither"));
        assert!(videos(&path("none")).is_err());
    }
}
