//! Where the files of a model are: in the binary or in a folder. What is above sees the same files either way.
//!
//! Paths inside a model are written with `/` and never leave it; the folder's own symbolic links are followed, because a
//! hub snapshot is a folder of links into the cache's blobs.

use super::error::{ModelError, Result, refuse};
use memmap2::Mmap;
use std::fs::File;
use std::io::Read;
use std::ops::{Deref, Range};
use std::path::{Component, Path, PathBuf};

/// The files of a model in the binary: path inside the model, content.
pub(super) type Embedded = &'static [(&'static str, &'static [u8])];

#[derive(Debug, Clone)]
pub(super) enum Source {
    Embedded { name: &'static str, files: Embedded },
    Folder(PathBuf),
}

impl Source {
    /// The file's place, for messages.
    pub fn show(&self, path: &str) -> String {
        match self {
            Self::Embedded { name, .. } => format!("{name} (embedded)/{path}"),
            Self::Folder(folder) => folder.join(path).display().to_string(),
        }
    }

    /// The place of the whole model, for messages.
    pub fn place(&self) -> String {
        match self {
            Self::Embedded { name, .. } => format!("{name} (embedded)"),
            Self::Folder(folder) => folder.display().to_string(),
        }
    }

    /// Whether the model has this file (a broken link is none).
    pub fn has(&self, path: &str) -> bool {
        match self {
            Self::Embedded { files, .. } => files.iter().any(|(name, _)| *name == path),
            Self::Folder(folder) => is_inside(path) && folder.join(path).is_file(),
        }
    }

    /// Size of a file; none when there is no such file.
    pub fn size(&self, path: &str) -> Option<u64> {
        match self {
            Self::Embedded { files, .. } => self.embedded(files, path).ok().map(|bytes| bytes.len() as u64),
            Self::Folder(folder) => self.has(path).then(|| folder.join(path).metadata().ok())?.map(|data| data.len()),
        }
    }

    /// Names of the files of one directory of the model ("" for the model's own), sorted; none when there is no such one.
    pub fn list(&self, directory: &str) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Self::Embedded { files, .. } => files
                .iter()
                .filter_map(|(name, _)| name.strip_prefix(directory)?.strip_prefix('/'))
                .filter(|name| !name.contains('/'))
                .map(str::to_owned)
                .collect(),
            Self::Folder(folder) if directory.is_empty() || is_inside(directory) => {
                std::fs::read_dir(folder.join(directory))
                    .into_iter()
                    .flatten()
                    .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                    .collect()
            }
            Self::Folder(_) => Vec::new(),
        };
        names.sort();
        names
    }

    /// A small file as a whole.
    pub fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        match self {
            Self::Embedded { files, .. } => Ok(self.embedded(files, path)?.to_vec()),
            Self::Folder(folder) => {
                let file = self.open(folder, path)?;
                let mut bytes = Vec::new();
                let failed = |error| self.failed(&folder.join(path), path, &error);
                file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
                if bytes.len() as u64 > limit {
                    refuse!("{}: larger than {} MiB, which no file of its kind is", self.show(path), limit >> 20);
                }
                Ok(bytes)
            }
        }
    }

    /// A large file, mapped rather than read.
    pub fn map(&self, path: &str) -> Result<Bytes> {
        match self {
            Self::Embedded { files, .. } => Ok(Bytes::Static(self.embedded(files, path)?)),
            Self::Folder(folder) => {
                let file = self.open(folder, path)?;
                let failed = |error| self.failed(&folder.join(path), path, &error);
                // SAFETY: a mapping is a plain slice only as long as nobody changes the file. It is opened for reading, this
                // program never writes to a weight file in place, and neither do the tools that put files there (the hub's
                // cache and git write a new file and rename it). Another process that overwrites the file while it is
                // loaded can make wrong values or end this process; reading into memory instead would need the size
                // of the weights twice. No offset is trusted without a check against the length of this mapping.
                let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
                Ok(Bytes::Mapped(map))
            }
        }
    }

    fn embedded(&self, files: Embedded, path: &str) -> Result<&'static [u8]> {
        match files.iter().find(|(name, _)| *name == path) {
            Some((_, bytes)) => Ok(bytes),
            None => refuse!("{}: no such file", self.show(path)),
        }
    }

    fn open(&self, folder: &Path, path: &str) -> Result<File> {
        if !is_inside(path) {
            refuse!("{path:?} is not a path inside the model {}", self.place());
        }
        let full = folder.join(path);
        let failed = |error| self.failed(&full, path, &error);
        // opening a pipe or a device would wait for its other end
        if !full.metadata().map_err(failed)?.is_file() {
            refuse!("{}: not a file", self.show(path));
        }
        File::open(&full).map_err(failed)
    }

    fn failed(&self, full: &Path, path: &str, error: &std::io::Error) -> ModelError {
        let shown = self.show(path);
        let dangling = error.kind() == std::io::ErrorKind::NotFound && full.is_symlink();
        ModelError::new(match error.kind() {
            _ if dangling => format!("{shown}: a link to a file that is not there; download the model again"),
            std::io::ErrorKind::NotFound => format!("{shown}: no such file"),
            std::io::ErrorKind::PermissionDenied => format!("{shown}: no permission to read it"),
            _ => format!("{shown}: {error}"),
        })
    }
}

/// Whether a path names something inside a folder: relative, no `..`, no drive, written with `/`.
pub(super) fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', '\0'])
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// The content of a file.
#[derive(Debug)]
pub(super) enum Bytes {
    Static(&'static [u8]),
    Mapped(Mmap),
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Static(bytes) => bytes,
            Self::Mapped(map) => map,
        }
    }
}

/// Ranges shorter than this are not worth a call to the system.
#[cfg(unix)]
const ADVISED: usize = 1 << 20;

impl Bytes {
    /// Says that a range is about to be read, so that the disk reads ahead of the page faults.
    #[cfg_attr(not(unix), allow(unused_variables))]
    pub fn want(&self, range: &Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self
            && range.len() >= ADVISED
        {
            // only a hint: a system that refuses it reads all the same
            let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
        }
    }

    /// Says that a range has been read, so that weights already converted do not count as memory of this process.
    #[cfg_attr(not(unix), allow(unused_variables))]
    pub fn done(&self, range: &Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self
            && range.len() >= ADVISED
        {
            // SAFETY: the mapping is shared and read-only, of a file: dropped pages come back from the file with the same
            // content, also those at the ends that hold bytes of neighbouring tensors.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
    }
}
