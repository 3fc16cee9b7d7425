//! A directory of frames under a temporary name.
//!
//! A new directory is made beside its destination and renamed in one step. If the destination is there already (empty, or
//! with frames to replace), the frames are collected in a hidden directory inside it and moved out at the end: it may be a
//! mounted volume, or be in a directory where nothing may be renamed. Old frames are set aside first and removed last, and
//! nothing but frames and the manifest is touched.

use super::fault::{failed, usage, write_failed};
use super::partial::{CommittedFile, TrackedFile, WriteStatus};
use super::partial::{destination, exists, free_name, moved_warning, shown, sync_directory};
use super::{Format, Output};
use anyhow::Result;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use vidgen_base::disk::{Partial, hidden, parent, sweep};

/// The manifest's name in a directory of frames.
pub(super) const MANIFEST: &str = "manifest.json";

/// The name of a frame's file.
pub(super) fn frame_name(number: u64) -> String {
    format!("frame-{number:06}.png")
}

/// True for the names that are written here.
fn is_ours(name: &str) -> bool {
    let number = name.strip_prefix("frame-").and_then(|rest| rest.strip_suffix(".png"));
    name == MANIFEST
        || number.is_some_and(|digits| digits.len() >= 6 && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The names in a directory.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Whether frames may go into a directory that is there: an empty one always, another only to replace, and never among
/// other images, with which they would be read as one video.
pub(super) fn check_content(output: &Output, directory: &Path) -> Result<()> {
    let shown = shown(output);
    let names = names(directory).map_err(|cause| usage(format!("cannot look into {shown}: {cause}")))?;
    let image = |name: &&String| {
        let suffix = Path::new(name).extension().map(|suffix| suffix.to_string_lossy().to_lowercase());
        matches!(suffix.as_deref(), Some("png" | "jpg" | "jpeg"))
    };
    if let Some(other) = names.iter().filter(|name| !is_ours(name)).find(image) {
        return Err(usage(format!("{shown} holds other images (such as {other}): choose another directory")));
    }
    // what a run that was killed has left is swept when the next one begins
    let empty = names.iter().all(|name| name.starts_with(".frames.partial-"));
    if empty || output.overwrite { Ok(()) } else { Err(exists(output)) }
}

/// What unfinished frames of a directory stand beside.
fn place(target: &Path) -> PathBuf {
    if target.is_dir() { target.join("frames") } else { target.to_path_buf() }
}

/// Removes what runs that were killed have left of an output; returns its paths. Frames that were set aside to be replaced
/// are not among it.
pub fn sweep_output(output: &Output) -> Vec<PathBuf> {
    let target = destination(&output.path);
    match output.format {
        Format::Y4mStdout => Vec::new(),
        Format::PngDir => {
            let mut swept = sweep(&target);
            if target.is_dir() {
                swept.extend(sweep(&place(&target)));
            }
            swept
        }
        _ => sweep(&target),
    }
}

/// A directory of frames in the making.
pub(super) struct PartialDir {
    partial: Partial,
    target: PathBuf,
    wanted: PathBuf,
    overwrite: bool,
    files: Vec<String>,
    bytes: u64,
    health: Arc<Mutex<WriteStatus>>,
}

impl PartialDir {
    pub fn create(output: &Output) -> Result<Self> {
        let target = destination(&output.path);
        let partial = Partial::directory(&place(&target)).map_err(|cause| write_failed(&shown(output), &cause))?;
        let (wanted, overwrite) = (output.path.clone(), output.overwrite);
        Ok(Self { partial, target, wanted, overwrite, files: Vec::new(), bytes: 0, health: WriteStatus::new() })
    }

    fn explain(&self, cause: &io::Error) -> anyhow::Error {
        write_failed(&self.wanted.display().to_string(), cause)
    }

    /// Writes one file of the directory, synced.
    pub fn write(&mut self, name: &str, data: &[u8]) -> Result<()> {
        let written = File::create_new(self.partial.path().join(name))
            .map(|file| TrackedFile::new(file, Arc::clone(&self.health)))
            .and_then(|mut file| file.write_all(data).and_then(|()| file.sync()));
        written.map_err(|cause| write_failed(&self.wanted.join(name).display().to_string(), &cause))?;
        self.files.push(name.to_string());
        self.bytes += data.len() as u64;
        Ok(())
    }

    /// Gives the frames their place.
    pub fn commit(self) -> Result<CommittedFile> {
        let (mut path, mut warning, bytes) = (self.wanted.clone(), None, self.bytes);
        let temp = self.partial.path();
        sync_directory(temp);
        if self.target.symlink_metadata().is_err() {
            fs::rename(temp, &self.target).map_err(|cause| self.explain(&cause))?;
        } else if self.overwrite || self.old().is_ok_and(|old| old.is_empty()) {
            warning = self.move_in()?;
        } else {
            let free = free_name(&self.target, |name| match name.symlink_metadata() {
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                Err(_) => fs::rename(temp, name),
            });
            path = free.map_err(|cause| self.explain(&cause))?;
            warning = Some(moved_warning(&self.wanted, &path));
        }
        sync_directory(parent(&self.target));
        Ok(CommittedFile { path, bytes, warning })
    }

    /// The frames and the manifest that are in the way.
    fn old(&self) -> io::Result<Vec<String>> {
        Ok(names(&self.target)?.into_iter().filter(|name| is_ours(name)).collect())
    }

    /// Moves the files into the directory that is there, in place of the old ones.
    fn move_in(&self) -> Result<Option<String>> {
        let old = self.old().map_err(|cause| self.explain(&cause))?;
        let aside = hidden(&self.target.join("frames"), "replaced");
        if !old.is_empty() {
            fs::create_dir(&aside).map_err(|cause| self.explain(&cause))?;
        }
        let move_all = |names: &[String], from: &Path, to: &Path| {
            names.iter().try_for_each(|name| fs::rename(from.join(name), to.join(name)))
        };
        let moved = move_all(&old, &self.target, &aside)
            .and_then(|()| move_all(&self.files, self.partial.path(), &self.target));
        if let Err(cause) = moved {
            // What was moved goes back; what was not is not found, which is as well.
            for name in &self.files {
                let _ = fs::rename(self.target.join(name), self.partial.path().join(name));
            }
            for name in &old {
                let _ = fs::rename(aside.join(name), self.target.join(name));
            }
            return Err(if old.is_empty() || fs::remove_dir(&aside).is_ok() {
                self.explain(&cause)
            } else {
                failed(format!(
                    "cannot write {}: {cause}; the frames that were there are in {}",
                    self.wanted.display(),
                    aside.display()
                ))
            });
        }
        sync_directory(&self.target);
        match if old.is_empty() { Ok(()) } else { fs::remove_dir_all(&aside) } {
            Ok(()) => Ok(None),
            Err(cause) => Ok(Some(format!("the replaced frames remain in {}: {cause}", aside.display()))),
        }
    }
}
