//! Directories: those created for an output, and free disk space.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use sysinfo::Disks;

/// What was made, to be taken back where nothing was written.
#[derive(Debug, Default)]
pub struct Folders(Vec<PathBuf>);

impl Folders {
    /// Makes a directory and those above it.
    pub fn make(&mut self, folder: &Path) -> Result<()> {
        let missing: Vec<&Path> =
            folder.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).collect();
        fs::create_dir_all(folder).with_context(|| format!("cannot make the directory {}", folder.display()))?;
        self.0.extend(missing.into_iter().rev().map(Path::to_path_buf));
        Ok(())
    }

    /// Removes what was made and is still empty.
    pub fn unmake(self) {
        for folder in self.0.iter().rev() {
            let _ = fs::remove_dir(folder); // one that is not empty stays
        }
    }
}

/// A path that begins with `~/`, in the user's directory. None of another one, and where a directory is called `~`.
pub fn at_home(path: &str) -> Option<String> {
    let rest = path.strip_prefix("~/").filter(|_| !Path::new("~").exists())?;
    dirs::home_dir()?.join(rest).to_str().map(str::to_owned)
}

/// Tries to write into a directory.
pub fn writable(folder: &Path) -> Result<()> {
    tempfile::NamedTempFile::new_in(folder)?;
    Ok(())
}

/// Bytes that are free where a path is; none where the system does not tell.
pub fn free_disk(path: &Path) -> Option<u64> {
    let path = path.canonicalize().ok()?;
    let disks = Disks::new_with_refreshed_list();
    let over = disks.iter().filter(|disk| path.starts_with(disk.mount_point()));
    Some(over.max_by_key(|disk| disk.mount_point().as_os_str().len())?.available_space())
}
