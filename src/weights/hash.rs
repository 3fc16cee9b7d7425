//! Hashes of weight files, remembered between runs.
//!
//! Every run names the hash of its weights (text cache, manifest), and reading twenty gigabytes to find it takes longer than
//! opening the model. A hash is therefore kept in the user's cache directory under what identifies the files: path, size,
//! time of change and inode. The memory is only that: without it everything works, slower.

use super::source::Source;
use crate::disk;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Smaller files are hashed each time, in a fraction of a second.
pub(super) const WORTH_IT: u64 = 256 << 20;
/// A file changed so recently may change again within the resolution of its time stamp.
const SETTLED: Duration = Duration::from_secs(2);

/// Where hashes are kept.
pub(super) fn directory() -> Option<PathBuf> {
    Some(dirs::cache_dir()?.join("vidgen").join("hashes"))
}

/// The place in memory of the hash of these files of a model; none when it should not be kept.
pub(super) fn place<'a>(directory: &Path, source: &Source, files: impl Iterator<Item = &'a str>) -> Option<PathBuf> {
    let mut key = blake3::Hasher::new();
    for file in files {
        let folder = source.directory(file)?;
        // a snapshot's links change, the blobs behind them do not
        let path = folder.join(file).canonicalize().ok()?;
        let data = path.metadata().ok()?;
        let changed = data.modified().ok()?;
        if SystemTime::now().duration_since(changed).ok()? < SETTLED {
            return None;
        }
        let changed = changed.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos();
        key.update(format!("{path:?} {} {changed} {}\n", data.len(), inode(&data)).as_bytes());
    }
    Some(directory.join(key.finalize().to_hex().as_str()))
}

#[cfg(unix)]
fn inode(data: &std::fs::Metadata) -> String {
    use std::os::unix::fs::MetadataExt;
    format!("{} {}", data.dev(), data.ino())
}

#[cfg(not(unix))]
fn inode(_: &std::fs::Metadata) -> String {
    String::new()
}

/// The hash kept at a place; none when there is none or it is not one.
pub(super) fn recall(place: &Path) -> Option<String> {
    // read no more than a hash: whatever else lies there is not ours
    let data = place.metadata().ok()?;
    let hash = if data.is_file() && data.len() == 64 { std::fs::read_to_string(place).ok()? } else { return None };
    hash.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(hash)
}

/// Keeps a hash. A cache that cannot be written is no error.
pub(super) fn keep(place: &Path, hash: &str) -> Option<()> {
    let directory = place.parent()?;
    std::fs::create_dir_all(directory).ok()?;
    disk::write_whole(place, hash.as_bytes(), false).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_kept_for_as_long_as_its_files_are_the_same() {
        let (memory, model) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = Source::Folder(model.path().to_owned());
        let path = model.path().join("w");
        let old = |seconds| {
            std::fs::write(&path, "weights").unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
        };
        let at = || place(memory.path(), &source, ["w"].into_iter());
        old(0);
        assert_eq!(at(), None, "too new to be kept");
        old(100);
        let first = at().unwrap();
        assert_eq!(recall(&first), None);
        let hash = blake3::hash(b"weights").to_hex();
        keep(&first, &hash).unwrap();
        assert_eq!(recall(&at().unwrap()).as_deref(), Some(hash.as_str()));
        old(200);
        assert_ne!(at().unwrap(), first);
        // what is not a hash is not taken for one
        for junk in ["", "short", &"x".repeat(64), &"a".repeat(65)] {
            std::fs::write(&first, junk).unwrap();
            assert_eq!(recall(&first), None, "{junk:?}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(at(), None);
        // a place that cannot be written
        assert_eq!(keep(&first.join("x"), &hash), None);
    }
}
