//! A directory for the results of a command: images, videos and other files.

use super::fault::usage;
use super::{Frame, write_png};
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};

/// A directory that results go into.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    overwrite: bool,
}

impl Folder {
    /// Makes the directory where it is not there.
    pub fn open(path: &Path, overwrite: bool) -> Result<Self> {
        let shown = path.display().to_string();
        if path.exists() && !path.is_dir() {
            return Err(usage(format!("{shown} is no directory")));
        }
        fs::create_dir_all(path).map_err(|cause| usage(format!("cannot make the directory {shown}: {cause}")))?;
        Ok(Self { path: path.to_path_buf(), overwrite })
    }

    /// The path of a file in it. One that is there already is an error, unless it may be replaced.
    pub fn place(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        if path.symlink_metadata().is_ok() && !self.overwrite {
            Err(usage(format!("{} exists: use --overwrite (-y), or another directory", path.display())))
        } else {
            Ok(path)
        }
    }

    /// Whether files that are there may be replaced.
    pub fn overwrites(&self) -> bool {
        self.overwrite
    }

    /// Writes a picture as PNG.
    pub fn png(&self, name: &str, picture: &Frame) -> Result<PathBuf> {
        let path = self.place(name)?;
        write_png(&path, picture)?;
        Ok(path)
    }
}
