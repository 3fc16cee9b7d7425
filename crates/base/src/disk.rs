//! Files that appear complete or not at all.
//!
//! Output is written under a hidden name beside its destination, `.STEM.partial-PID-N.SUFFIX` (the same file system, so that the last
//! step is one rename), and renamed when it is complete. Dropping an unfinished file removes it; [`remove_partials`] removes
//! all those of the process, for an exit that runs no destructors. A process that is killed removes nothing; therefore a writer locks
//! its unfinished file, and the system releases the lock with the process. A file of such a name that is not locked was left behind,
//! and [`sweep`] removes it. On a file system without locks nothing is removed.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

static LIVE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn live() -> MutexGuard<'static, Vec<PathBuf>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Words of unfinished files in their names.
const PARTIAL: &str = "partial";
/// Bytes of a file's name on nearly all systems, and of them those kept for the `.json` of what is written beside it.
const MOST_NAME: usize = 255;
const NAME_ROOM: usize = 5;

/// Refuses a name that could not be written in the end.
///
/// # Errors
/// With the length that a name may have.
pub fn check_name(path: &Path) -> io::Result<()> {
    let length = path.file_name().map_or(0, |name| name.as_encoded_bytes().len());
    if length <= MOST_NAME - NAME_ROOM {
        return Ok(());
    }
    let message = format!("{length} bytes are too long for the name of a file: give at most {}", MOST_NAME - NAME_ROOM);
    Err(io::Error::new(io::ErrorKind::InvalidFilename, message))
}
/// File systems allow 255 bytes for a name; what is added to a stem needs its share.
const LONGEST_STEM: usize = 180;

/// Writes a file, whole or not at all; one that is there is replaced. With `durable` its content is on the disk before it
/// has its name.
pub fn write_whole(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let (partial, mut file) = Partial::file(path)?;
    file.write_all(bytes)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(partial.path(), path)
}

/// The directory of a path.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What a hidden name beside `target` begins and ends with.
fn ends(target: &Path, what: &str) -> (String, String) {
    let mut stem = target.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    while stem.len() > LONGEST_STEM {
        stem.pop();
    }
    let suffix = target.extension().map(|suffix| format!(".{}", suffix.to_string_lossy())).unwrap_or_default();
    (format!(".{stem}.{what}-"), suffix)
}

/// A hidden name beside `target`.
pub fn hidden(target: &Path, what: &str) -> PathBuf {
    static COUNTER: AtomicUsize = AtomicUsize::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let (begin, end) = ends(target, what);
    parent(target).join(format!("{begin}{}-{number}{end}", std::process::id()))
}

/// A file or directory in the making. Dropped under its hidden name, it is removed.
#[derive(Debug)]
pub struct Partial {
    path: PathBuf,
    /// Of a directory; a file's is that of its writer.
    _lock: Option<File>,
}

impl Partial {
    /// Makes a file beside `target`, for writing and reading.
    pub fn file(target: &Path) -> io::Result<(Self, File)> {
        held(target, |path| OpenOptions::new().read(true).write(true).create_new(true).open(path))
            .map(|(path, file)| (Self { path, _lock: None }, file))
    }

    /// Makes a directory beside `target`.
    pub fn directory(target: &Path) -> io::Result<Self> {
        let made = held(target, |path| {
            fs::create_dir(path)?;
            // not every system opens directories; without a lock it is never swept
            Ok(File::open(path).ok())
        });
        made.map(|(path, lock)| Self { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        live().retain(|path| *path != self.path);
        if self.path.symlink_metadata().is_ok() {
            remove(&self.path);
        }
    }
}

/// Makes something under a hidden name and takes its lock.
fn held<T: Lockable>(target: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(PathBuf, T)> {
    loop {
        let path = hidden(target, PARTIAL);
        let made = make(&path)?;
        // between the two a sweep may have taken it for one that nobody holds
        if made.hold() != Some(false) && path.symlink_metadata().is_ok() {
            live().push(path.clone());
            return Ok((path, made));
        }
    }
}

trait Lockable {
    /// Takes the lock: false where another holds it, none where there are no locks.
    fn hold(&self) -> Option<bool>;
}

impl Lockable for File {
    #[cfg(unix)]
    fn hold(&self) -> Option<bool> {
        match self.try_lock() {
            Ok(()) => Some(true),
            Err(TryLockError::WouldBlock) => Some(false),
            Err(TryLockError::Error(_)) => None,
        }
    }

    /// Locks of other systems keep encoders out that open the file by its name.
    #[cfg(not(unix))]
    fn hold(&self) -> Option<bool> {
        None
    }
}

impl Lockable for Option<File> {
    fn hold(&self) -> Option<bool> {
        self.as_ref().and_then(Lockable::hold)
    }
}

/// Removes what processes that were killed have left of `target`; returns its paths.
pub fn sweep(target: &Path) -> Vec<PathBuf> {
    let (begin, end) = ends(target, PARTIAL);
    swept(parent(target), |name| name.strip_prefix(&begin)?.strip_suffix(&end))
}

/// Removes what processes that were killed have left in a folder, whatever it was to become; returns its paths.
pub fn sweep_folder(folder: &Path) -> Vec<PathBuf> {
    swept(folder, |name| {
        let (_, rest) = name.strip_prefix('.')?.rsplit_once(&format!(".{PARTIAL}-"))?;
        Some(rest.split_once('.').map_or(rest, |(numbers, _)| numbers))
    })
}

/// Removes the entries of a folder that nobody holds and in whose names `numbers` finds those of a process and of a file.
fn swept(folder: &Path, numbers: impl Fn(&str) -> Option<&str>) -> Vec<PathBuf> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let ours = |name: &OsString| {
        let name = name.to_string_lossy();
        numbers(&name)
            .and_then(|both| both.split_once('-'))
            .is_some_and(|(process, count)| number(process) && number(count))
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name()).filter(ours);
    names.map(|name| folder.join(name)).filter(|path| abandoned(path)).collect()
}

/// Removes a file or a directory that nobody holds, while holding it. False where it stays.
fn abandoned(path: &Path) -> bool {
    // neither a link, which leads elsewhere, nor a pipe, which would wait
    if !path.symlink_metadata().is_ok_and(|data| data.is_file() || data.is_dir()) {
        return false;
    }
    let Ok(file) = File::open(path) else { return false };
    file.hold() == Some(true) && remove(path)
}

fn remove(path: &Path) -> bool {
    // Nobody can do anything about a failure here, and the name says what the remains are.
    (if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }).is_ok()
}

/// Removes every unfinished file of this process. For a signal handler that ends the process at once; a writer that is
/// still at work fails afterwards.
pub fn remove_partials() {
    for path in live().drain(..) {
        remove(&path);
    }
}

/// Whether [`remove_partials`] would remove this.
pub fn is_registered(path: &Path) -> bool {
    live().iter().any(|live| live == path)
}

#[cfg(test)]
mod name_tests {
    use super::*;

    /// What passes can be written with everything that goes beside it.
    #[test]
    fn names_that_pass_can_be_written() {
        let temp = tempfile::tempdir().unwrap();
        let longest = "z".repeat(MOST_NAME - NAME_ROOM);
        let path = temp.path().join(&longest);
        check_name(&path).unwrap();
        write_whole(&path, b"x", false).unwrap();
        write_whole(&temp.path().join(format!("{longest}.json")), b"x", false).unwrap();
        let longer = temp.path().join(format!("{longest}z"));
        assert!(check_name(&longer).unwrap_err().to_string().contains("at most 250"));
        // bytes count, not letters
        assert!(check_name(&temp.path().join("é".repeat(126))).is_err());
        assert!(check_name(Path::new("frames/")).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_whole(&path, b"one", true).unwrap();
        write_whole(&path, b"two", false).unwrap();
        assert_eq!(
            (fs::read(&path).unwrap().as_slice(), names(folder.path())),
            (&b"two"[..], vec!["a.json".to_owned()])
        );
        assert!(write_whole(&folder.path().join("none/a.json"), b"", true).is_err());
        fs::create_dir(folder.path().join("d")).unwrap();
        assert!(write_whole(&folder.path().join("d"), b"", true).is_err());
        assert_eq!(names(folder.path()), ["a.json", "d"], "nothing half-written stays");
        let long = folder.path().join(format!("{}.json", "\u{e9}".repeat(120)));
        write_whole(&long, b"three", false).unwrap();
        assert_eq!(fs::read(&long).unwrap(), b"three");
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_what_the_mask_lets_them() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (plain, whole) = (folder.path().join("plain"), folder.path().join("whole"));
        fs::write(&plain, b"").unwrap();
        write_whole(&whole, b"", false).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
        assert_eq!(mode(&plain), mode(&whole));
    }

    #[cfg(unix)]
    #[test]
    fn only_what_nobody_holds_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let target = at("a.mp4");
        let (mine, _file) = Partial::file(&target).unwrap();
        let own = Partial::directory(&target).unwrap();
        for name in [
            ".a.partial-7-0.mp4",
            ".a.partial-7-0.gif",
            ".a.partial-x-0.mp4",
            ".a.partial-7.mp4",
            ".ab.partial-7-0.mp4",
        ] {
            fs::write(at(name), "x").unwrap();
        }
        fs::create_dir(at(".a.partial-8-1.mp4")).unwrap();
        fs::write(at(".a.partial-8-1.mp4/frame-000000.png"), "x").unwrap();
        fs::write(at("kept"), "x").unwrap();
        std::os::unix::fs::symlink(at("kept"), at(".a.partial-9-0.mp4")).unwrap();
        let mut swept = sweep(&target);
        swept.sort();
        assert_eq!(swept, [at(".a.partial-7-0.mp4"), at(".a.partial-8-1.mp4")]);
        assert!(mine.path().exists() && own.path().exists() && at("kept").exists(), "{:?}", names(folder.path()));
        for name in [
            ".a.partial-7-0.gif",
            ".a.partial-x-0.mp4",
            ".a.partial-7.mp4",
            ".ab.partial-7-0.mp4",
            ".a.partial-9-0.mp4",
        ] {
            assert!(at(name).symlink_metadata().is_ok(), "{name}");
        }
        assert_eq!(sweep(&at("a")), Vec::<PathBuf>::new());
        assert_eq!(sweep(&at("none/a.mp4")), Vec::<PathBuf>::new());
        fs::create_dir(at(".a.partial-8-1")).unwrap();
        assert_eq!(sweep(&at("a")), [at(".a.partial-8-1")], "a directory of frames has no suffix");
        let mut swept = sweep_folder(folder.path());
        swept.sort();
        assert_eq!(swept, [at(".a.partial-7-0.gif"), at(".ab.partial-7-0.mp4")]);
        assert!(mine.path().exists() && own.path().exists() && at("kept").exists(), "{:?}", names(folder.path()));
        let path = mine.path().to_owned();
        drop((mine, own));
        assert!(!path.exists());
    }
}
