//! Where the files of a model are: in the binary or in a folder. What is above sees the same files either way.
//!
//! Paths inside a model are written with `/` and never leave it; the folder's own symbolic links are followed, because a
//! hub snapshot is a folder of links into the cache's blobs.

use super::error::{ModelError, Result, refuse};
use super::header::Header;
use super::single::Single;
use memmap2::{Mmap, MmapOptions};
#[cfg(feature = "hub")]
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::{Deref, Range};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// The files of a model in the binary: path inside the model, content.
pub(super) type Embedded = &'static [(&'static str, &'static [u8])];

#[derive(Debug, Clone)]
pub(super) enum Source {
    Embedded {
        name: &'static str,
        files: Embedded,
    },
    Folder(PathBuf),
    /// A model on the hub that is only looked at: its small files are in a folder of the cache.
    #[cfg(feature = "hub")]
    Remote(Arc<Remote>),
    /// A folder that has some of its parts from the one around it.
    Lent(Arc<Lent>),
    /// One file that stands for a folder.
    Single(Arc<Single>),
}

/// Two folders that are one model.
#[derive(Debug)]
pub(super) struct Lent {
    own: Source,
    around: Source,
    /// The parts that are the outer folder's.
    parts: Vec<String>,
}

impl Lent {
    /// Which of the two has a file or directory.
    fn of(&self, path: &str) -> &Source {
        let part = path.split('/').next().unwrap_or_default();
        if self.parts.iter().any(|lent| lent == part) { &self.around } else { &self.own }
    }
}

/// What is known of a model that is not downloaded.
#[cfg(feature = "hub")]
#[derive(Debug)]
pub(super) struct Remote {
    /// What has been fetched of it.
    pub folder: PathBuf,
    /// Weight files that have not.
    pub heads: BTreeMap<String, Head>,
}

/// The beginning of a weight file: its header.
#[cfg(feature = "hub")]
#[derive(Debug)]
pub(super) struct Head {
    pub bytes: Vec<u8>,
    /// Of the whole file.
    pub size: u64,
}

impl Source {
    /// This model with some parts of another.
    pub fn lent(self, around: Self, parts: Vec<String>) -> Self {
        Self::Lent(Arc::new(Lent { own: self, around, parts }))
    }

    /// The directory of this machine that a file is looked for in; none of what is not all on it.
    pub fn directory(&self, path: &str) -> Option<&Path> {
        match self {
            Self::Lent(lent) => lent.of(path).directory(path),
            Self::Folder(folder) => Some(folder),
            Self::Single(single) => Some(&single.folder),
            _ => None,
        }
    }

    /// The file's place, for messages.
    pub fn show(&self, path: &str) -> String {
        match self {
            Self::Lent(lent) => lent.of(path).show(path),
            Self::Single(single) if single.files.contains_key(path) => {
                format!("{} ({path})", single.folder.join(&single.file).display())
            }
            Self::Embedded { name, .. } => format!("{name} (embedded)/{path}"),
            _ => self.folder().join(path).display().to_string(),
        }
    }

    /// The place of the whole model, for messages.
    pub fn place(&self) -> String {
        match self {
            Self::Lent(lent) => lent.own.place(),
            Self::Single(single) => single.folder.join(&single.file).display().to_string(),
            Self::Embedded { name, .. } => format!("{name} (embedded)"),
            _ => self.folder().display().to_string(),
        }
    }

    /// The directory of the files; none of an embedded model.
    fn folder(&self) -> &Path {
        match self {
            Self::Embedded { .. } => Path::new(""),
            Self::Lent(lent) => lent.own.folder(),
            Self::Single(single) => &single.folder,
            Self::Folder(folder) => folder,
            #[cfg(feature = "hub")]
            Self::Remote(remote) => &remote.folder,
        }
    }

    /// Names and sizes of weight files that a run would have to fetch.
    pub fn absent(&self) -> impl Iterator<Item = (&str, u64)> {
        #[cfg(feature = "hub")]
        let heads = if let Self::Remote(remote) = self { Some(&remote.heads) } else { None };
        #[cfg(feature = "hub")]
        return heads.into_iter().flatten().map(|(path, head)| (path.as_str(), head.size));
        #[cfg(not(feature = "hub"))]
        std::iter::empty()
    }

    /// The header of a weight file and the size of the file.
    pub fn header(&self, path: &str) -> Result<(Header, u64)> {
        if let Self::Lent(lent) = self {
            return lent.of(path).header(path);
        }
        let named = |error: ModelError| error.within(&self.show(path));
        #[cfg(feature = "hub")]
        if let Self::Remote(remote) = self
            && let Some(head) = remote.heads.get(path)
        {
            return Ok((Header::parse_head(&head.bytes, head.size).map_err(named)?, head.size));
        }
        let file = self.map(path)?;
        Ok((Header::parse(&file).map_err(named)?, file.len() as u64))
    }

    /// Whether the model has this file (a broken link is none).
    pub fn has(&self, path: &str) -> bool {
        match self {
            Self::Lent(lent) => lent.of(path).has(path),
            Self::Single(single) if single.files.contains_key(path) => true,
            Self::Single(single) if !single.may_be_on_disk(path) => false,
            Self::Embedded { files, .. } => files.iter().any(|(name, _)| *name == path),
            _ => self.has_here(path) || self.absent().any(|(name, _)| name == path),
        }
    }

    fn has_here(&self, path: &str) -> bool {
        is_inside(path) && self.folder().join(path).is_file()
    }

    /// Size of a file; none when there is no such file.
    pub fn size(&self, path: &str) -> Option<u64> {
        match self {
            Self::Lent(lent) => lent.of(path).size(path),
            Self::Single(single) if single.files.contains_key(path) => {
                single.files.get(path).map(|bytes| bytes.len() as u64)
            }
            Self::Embedded { files, .. } => self.embedded(files, path).ok().map(|bytes| bytes.len() as u64),
            _ if self.has_here(path) => self.folder().join(path).metadata().ok().map(|data| data.len()),
            _ => self.absent().find(|(name, _)| *name == path).map(|(_, size)| size),
        }
    }

    /// Names of the files of one directory of the model ("" for the model's own), sorted; none when there is no such one.
    pub fn list(&self, directory: &str) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Self::Lent(lent) => lent.of(directory).list(directory),
            Self::Embedded { files, .. } => files
                .iter()
                .filter_map(|(name, _)| name.strip_prefix(directory)?.strip_prefix('/'))
                .filter(|name| !name.contains('/'))
                .map(str::to_owned)
                .collect(),
            Self::Single(single) if !single.may_be_on_disk(directory) => Vec::new(),
            _ if directory.is_empty() || is_inside(directory) => std::fs::read_dir(self.folder().join(directory))
                .into_iter()
                .flatten()
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .collect(),
            _ => Vec::new(),
        };
        if let Self::Single(single) = self {
            names.extend(single.names(directory));
        }
        names.sort();
        names.dedup();
        names
    }

    /// A small file as a whole.
    pub fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        match self {
            Self::Lent(lent) => lent.of(path).read(path, limit),
            Self::Single(single) if single.files.contains_key(path) => {
                Ok(single.files.get(path).cloned().unwrap_or_default())
            }
            Self::Embedded { files, .. } => Ok(self.embedded(files, path)?.to_vec()),
            _ => {
                let file = self.open(path)?;
                let mut bytes = Vec::new();
                let failed = |error| self.failed(&self.folder().join(path), path, &error);
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
            Self::Lent(lent) => lent.of(path).map(path),
            Self::Embedded { files, .. } => Ok(Bytes::Static(self.embedded(files, path)?)),
            _ => {
                let file = self.open(path)?;
                let failed = |error| self.failed(&self.folder().join(path), path, &error);
                // SAFETY: a mapping is a plain slice only as long as nobody changes the file. It is opened for reading, this
                // program never writes to a weight file in place, and neither do the tools that put files there (the hub's
                // cache and git write a new file and rename it). Another process that overwrites the file while it is
                // loaded can make wrong values or end this process; reading into memory instead would need the size
                // of the weights twice. No offset is trusted without a check against the length of this mapping.
                // The mapping is private: what is mapped is never written, and many network file systems and FUSE have no other.
                match unsafe { MmapOptions::new().map_copy_read_only(&file) } {
                    Ok(map) => Ok(Bytes::Mapped(map)),
                    // a file system without mappings: the weights come into memory as a whole
                    Err(error) if unmappable(&error) => {
                        let mut bytes = Vec::new();
                        (&file).read_to_end(&mut bytes).map_err(failed)?;
                        Ok(Bytes::Read(bytes))
                    }
                    Err(error) => Err(failed(error)),
                }
            }
        }
    }

    fn embedded(&self, files: Embedded, path: &str) -> Result<&'static [u8]> {
        match files.iter().find(|(name, _)| *name == path) {
            Some((_, bytes)) => Ok(bytes),
            None => refuse!("{}: no such file", self.show(path)),
        }
    }

    fn open(&self, path: &str) -> Result<File> {
        if !is_inside(path) {
            refuse!("{path:?} is not a path inside the model {}", self.place());
        }
        if let Self::Single(single) = self
            && !single.may_be_on_disk(path)
        {
            refuse!("{} ({path}): no such file", self.place());
        }
        if !self.has_here(path) && self.absent().any(|(name, _)| name == path) {
            refuse!("{}: not downloaded yet, and this was only a look", self.show(path));
        }
        let full = self.folder().join(path);
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

/// Whether a file cannot be mapped and may still be read.
fn unmappable(error: &std::io::Error) -> bool {
    #[cfg(unix)]
    return matches!(
        error.raw_os_error(),
        Some(libc::ENODEV | libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS | libc::EACCES)
    );
    #[cfg(not(unix))]
    return matches!(error.kind(), std::io::ErrorKind::Unsupported | std::io::ErrorKind::InvalidInput);
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
    /// Of a file system that cannot map.
    Read(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Static(bytes) => bytes,
            Self::Mapped(map) => map,
            Self::Read(bytes) => bytes,
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
            // SAFETY: the mapping is read-only, so no page of it is a changed copy, and of a file: dropped pages come back from
            // the file with the same content, also those at the ends that hold bytes of neighbouring tensors.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
    }
}
