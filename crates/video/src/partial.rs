//! Outputs under a temporary name: nothing appears under the final name until it is complete, and nothing is left after a failure.
//!
//! A file is written beside its destination ([`vidgen_base::disk`]), synced to disk, then renamed. If the wanted name was taken while
//! the video was being made and must not be replaced, the result goes to a free name beside it: hours of work are worth more
//! than the name.

use super::fault::{Fault, error, write_failed};
use super::{Format, Output};
use anyhow::Result;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vidgen_base::disk::{Partial, parent};

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of an output in messages.
pub(super) fn shown(output: &Output) -> String {
    match output.format {
        Format::Y4mStdout => "standard output".to_string(),
        _ => output.path.display().to_string(),
    }
}

/// Where the output really goes: without a trailing slash, and through a symbolic link to the thing it points at.
pub(super) fn destination(path: &Path) -> PathBuf {
    let plain: PathBuf = path.components().collect();
    if plain.is_symlink() { fs::canonicalize(&plain).unwrap_or(plain) } else { plain }
}

pub(super) fn exists(output: &Output) -> anyhow::Error {
    error(Fault::Exists, format!("{} exists: choose another name, or replace it with -y", shown(output)))
}

/// The first of `NAME-1.mp4`, `NAME-2.mp4`, ... that `take` takes; `take` answers `AlreadyExists` for a taken name.
pub(super) fn free_name(target: &Path, mut take: impl FnMut(&Path) -> io::Result<()>) -> io::Result<PathBuf> {
    let stem = target.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let suffix = target.extension().map(|suffix| format!(".{}", suffix.to_string_lossy())).unwrap_or_default();
    for number in 1..1000 {
        let name = parent(target).join(format!("{stem}-{number}{suffix}"));
        match take(&name) {
            Ok(()) => return Ok(name),
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {}
            Err(cause) => return Err(cause),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Gives `temp` the name `target` unless that is taken.
fn rename_new(temp: &Path, target: &Path) -> io::Result<()> {
    // A link fails where the name is taken, which a rename does not; some file systems have no links.
    match fs::hard_link(temp, target) {
        // A second name that stays is a blemish, and dropping the partial file tries again.
        Ok(()) => fs::remove_file(temp).or(Ok(())),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Err(cause),
        Err(_) if target.symlink_metadata().is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(temp, target),
    }
}

pub(super) fn sync_directory(path: &Path) {
    // Not every system lets a directory be opened and synced; the rename itself has happened by then.
    if let Ok(directory) = File::open(path) {
        let _ = directory.sync_all();
    }
}

/// What became of a committed output.
pub(super) struct CommittedFile {
    pub path: PathBuf,
    pub bytes: u64,
    pub warning: Option<String>,
}

pub(super) fn moved_warning(wanted: &Path, path: &Path) -> String {
    format!("{} was created by someone else during the run: saved as {}", wanted.display(), path.display())
}

/// A file under its temporary name.
pub(super) struct PartialFile {
    partial: Partial,
    target: PathBuf,
    wanted: PathBuf,
    overwrite: bool,
    file: File,
    health: Arc<Mutex<WriteStatus>>,
}

impl PartialFile {
    pub fn create(output: &Output) -> Result<Self> {
        let target = destination(&output.path);
        let (partial, file) = Partial::file(&target).map_err(|cause| write_failed(&shown(output), &cause))?;
        let (wanted, overwrite) = (output.path.clone(), output.overwrite);
        Ok(Self { partial, target, wanted, overwrite, file, health: WriteStatus::new() })
    }

    #[cfg(feature = "video")]
    pub fn temp(&self) -> &Path {
        self.partial.path()
    }

    /// A handle to write with; its errors are kept for [`PartialFile::check`].
    pub fn writer(&self) -> Result<TrackedFile> {
        let file = self.file.try_clone().map_err(|cause| self.explain(&cause))?;
        Ok(TrackedFile::new(file, Arc::clone(&self.health)))
    }

    /// The first write error, if there was one: libraries between us and the file lose or rename it.
    pub fn check(&self) -> Result<()> {
        match lock(&self.health).trouble.as_ref() {
            Some(cause) => Err(self.explain(cause)),
            None => Ok(()),
        }
    }

    pub fn explain(&self, cause: &io::Error) -> anyhow::Error {
        write_failed(&self.wanted.display().to_string(), cause)
    }

    /// Syncs the file and gives it its name.
    pub fn commit(self) -> Result<CommittedFile> {
        self.check()?;
        self.file.sync_all().map_err(|cause| self.explain(&cause))?;
        let temp = self.partial.path();
        let bytes = self.file.metadata().map_err(|cause| self.explain(&cause))?.len();
        let (mut path, mut warning) = (self.wanted.clone(), None);
        let renamed = if self.overwrite { fs::rename(temp, &self.target) } else { rename_new(temp, &self.target) };
        match renamed {
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists && !self.overwrite => {
                path = free_name(&self.target, |name| rename_new(temp, name)).map_err(|cause| self.explain(&cause))?;
                warning = Some(moved_warning(&self.wanted, &path));
            }
            other => other.map_err(|cause| self.explain(&cause))?,
        }
        sync_directory(parent(&self.target));
        Ok(CommittedFile { path, bytes, warning })
    }
}

/// What became of the writes to an output.
#[derive(Default)]
pub(super) struct WriteStatus {
    trouble: Option<io::Error>,
    /// Bytes until the device is full.
    #[cfg(test)]
    room: Option<u64>,
}

impl WriteStatus {
    pub fn new() -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            trouble: None,
            #[cfg(test)]
            room: ROOM.get(),
        }))
    }

    #[cfg(test)]
    fn take_room(&mut self, bytes: usize) -> io::Result<()> {
        match &mut self.room {
            Some(room) if *room < bytes as u64 => return Err(io::ErrorKind::StorageFull.into()),
            Some(room) => *room -= bytes as u64,
            None => {}
        }
        Ok(())
    }
}

/// A file that keeps its first write error.
pub(super) struct TrackedFile {
    file: File,
    health: Arc<Mutex<WriteStatus>>,
}

impl TrackedFile {
    pub fn new(file: File, health: Arc<Mutex<WriteStatus>>) -> Self {
        Self { file, health }
    }

    pub fn sync(&self) -> io::Result<()> {
        self.note(self.file.sync_all())
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(cause) = &result
            && cause.kind() != io::ErrorKind::Interrupted
        {
            lock(&self.health).trouble.get_or_insert_with(|| match cause.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(cause.kind(), cause.to_string()),
            });
        }
        result
    }
}

impl Write for TrackedFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        #[cfg(test)]
        {
            let room = lock(&self.health).take_room(data.len());
            self.note(room)?;
        }
        let written = self.file.write(data);
        self.note(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.file.flush();
        self.note(flushed)
    }
}

impl Seek for TrackedFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

#[cfg(test)]
thread_local! {
    /// Bytes each output opened on this thread may take before its device is full.
    pub(super) static ROOM: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
}
