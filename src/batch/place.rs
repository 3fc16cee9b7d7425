//! Where a batch may write: below one directory, whatever its file says.

use crate::run::Folders;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::path::{Component, Path, PathBuf};

/// A path as all ways to write it are: without `.` in it, through links to directories.
pub fn one_name(path: &Path) -> PathBuf {
    let plain: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    let folder = plain.parent().filter(|folder| !folder.as_os_str().is_empty());
    match (folder.and_then(|folder| folder.canonicalize().ok()), plain.file_name()) {
        (Some(folder), Some(name)) => {
            let here = PathBuf::from(".").canonicalize().unwrap_or_default();
            let path = folder.join(name);
            path.strip_prefix(here).map(Path::to_path_buf).unwrap_or(path)
        }
        _ => plain,
    }
}

/// The directory below which all outputs lie.
pub struct Root {
    /// As it was given; empty for the working directory.
    shown: PathBuf,
    /// Without symbolic links.
    real: PathBuf,
    folders: Folders,
}

impl Root {
    /// The working directory where none is given; one that is given is made where it does not exist.
    pub fn new(given: Option<PathBuf>) -> Result<Self> {
        let mut folders = Folders::default();
        let shown = given.unwrap_or_default();
        let real = if shown.as_os_str().is_empty() {
            PathBuf::from(".").canonicalize().context("the working directory")?
        } else {
            folders.make(&shown).with_context(|| format!("--output-root {}", shown.display()))?;
            shown.canonicalize().with_context(|| format!("--output-root {}", shown.display()))?
        };
        Ok(Self { shown, real, folders })
    }

    /// The place of a file that a job names, `what` in its words; its directories are made. A trailing slash stays.
    ///
    /// # Errors
    /// A path that leads out of the root: absolute, by `..`, or over a symbolic link.
    pub fn place(&mut self, what: &str, path: &str) -> Result<String> {
        let given = Path::new(path);
        ensure!(!path.is_empty() && path != "-", "{what} {path:?}: a batch writes files");
        let inside = given.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        ensure!(inside && !given.is_absolute(), "{what} {path}: outputs stay below the output root: no / first, no ..");
        let folder = given.parent().unwrap_or(Path::new(""));
        if let Some(key) = folder.to_string_lossy().split('{').nth(1) {
            let key = key.split('}').next().unwrap_or_default();
            bail!("{what} {path}: {{{key}}} in the name of a directory (there: {{id}}, {{index}} and a given {{seed}})")
        }
        let folder = self.shown.join(folder);
        self.check(&folder)?;
        if !folder.as_os_str().is_empty() {
            self.folders.make(&folder).with_context(|| format!("{what} {path}"))?;
        }
        let joined = self.shown.join(given);
        let joined = joined.to_str().ok_or_else(|| anyhow!("{what} {path}: not a name in UTF-8"))?;
        Ok(if path.ends_with('/') && !joined.ends_with('/') { format!("{joined}/") } else { joined.to_owned() })
    }

    /// Refuses a path that leaves the root over a symbolic link.
    pub fn check(&self, path: &Path) -> Result<()> {
        let below = path.strip_prefix(&self.shown).unwrap_or(path);
        let mut reached = self.real.clone();
        for part in below.components() {
            reached.push(part);
            if reached.is_symlink() {
                let target = reached.canonicalize().ok().filter(|target| target.starts_with(&self.real));
                reached = target.ok_or_else(|| {
                    anyhow!("{}: {} is a symbolic link out of the output root", path.display(), reached.display())
                })?;
            }
        }
        Ok(())
    }

    /// Removes the directories that were made and are empty: nothing is going to be written.
    pub fn leave(self) {
        self.folders.unmake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_stay_inside() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("out");
        let mut place = Root::new(Some(root.clone())).unwrap();
        let shown = |name: &str| root.join(name).to_str().unwrap().to_owned();
        assert_eq!(place.place("output", "a.mp4").unwrap(), shown("a.mp4"));
        assert_eq!(place.place("output", "./x/y/frames/").unwrap(), shown("x/y/frames/").replace("out/x", "out/./x"));
        assert!(root.join("x/y").is_dir() && !root.join("x/y/frames").exists());
        for path in ["../a.mp4", "x/../../a.mp4", "/tmp/a.mp4", "-", "", "{slug}/a.mp4"] {
            assert!(place.place("output", path).is_err(), "{path}");
        }
        place.leave();
        assert!(!root.exists(), "nothing was written");
    }

    #[cfg(unix)]
    #[test]
    fn a_place_has_one_name() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("x")).unwrap();
        std::os::unix::fs::symlink(root.join("x"), root.join("same")).unwrap();
        for path in ["x/a.gif", "./x/./a.gif", "same/a.gif"] {
            assert_eq!(one_name(&root.join(path)), root.join("x/a.gif"), "{path}");
        }
        assert_eq!(one_name(Path::new("./a.gif")), Path::new("a.gif"));
        assert_eq!(one_name(Path::new("src/../src/./a.gif")), Path::new("src/a.gif"));
    }

    #[cfg(unix)]
    #[test]
    fn links_do_not_lead_out() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("out");
        let mut place = Root::new(Some(root.clone())).unwrap();
        std::os::unix::fs::symlink(temp.path(), root.join("up")).unwrap();
        std::os::unix::fs::symlink(temp.path().join("none"), root.join("dangling.mp4")).unwrap();
        std::os::unix::fs::symlink(root.join("x"), root.join("same")).unwrap();
        assert!(place.place("output", "up/a.mp4").unwrap_err().to_string().contains("symbolic link"));
        assert!(place.place("output", "up/new/a.mp4").is_err());
        assert!(!temp.path().join("new").exists());
        assert!(place.check(&root.join("dangling.mp4")).is_err());
        assert!(place.place("output", "x/a.mp4").is_ok());
        assert!(place.place("output", "same/b.mp4").is_ok(), "a link inside is a place inside");
    }
}
