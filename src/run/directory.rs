//! The directory of a run: its plan, its journal and the files it is resumed from.
//!
//! A directory is named by the hash of what decides the frames, so that the same command finds it again. Files are written
//! under a temporary name, synced and renamed; the journal has their length and hash, and both are checked before a file is
//! used. A lock excludes a second process; the system releases it with the process that holds it.

use super::journal::{self, Journal, Record, SCHEMA, StoredFile};
use super::time;
use crate::disk;
use crate::words::words;
use anyhow::{Context, Result, bail, ensure};
use blake3::Hasher;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const PLAN: &str = "plan";
const JOURNAL: &str = "journal";
const LOCK: &str = "lock";
/// Decoded frames, one after the other: red, green, blue of each pixel.
const FRAMES: &str = "frames.rgb";

/// The most that a plan or a journal may take: a journal line has some hundred bytes.
const MOST_BYTES: u64 = 64 << 20;

/// Digits of a directory's name, and how many of them are shown.
const DIGITS: usize = 32;
const SHOWN: usize = 8;

/// What is to be made, as it stands in the directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub schema: String,
    /// Of vidgen.
    pub version: String,
    /// RFC 3339, UTC.
    pub created: String,
    /// The working directory, in which relative paths of the request are meant.
    pub folder: PathBuf,
    pub prompts: Vec<String>,
    pub output: String,
    /// Of each timeline, in order.
    pub steps: Vec<usize>,
    pub threads: usize,
    /// All that decides the frames; its hash is the name.
    pub identity: Value,
    /// What was asked for, complete.
    pub request: Value,
}

impl Plan {
    /// The name of the run's directory.
    pub fn id(&self) -> String {
        id(&self.identity)
    }

    /// Steps of all timelines.
    pub fn all_steps(&self) -> usize {
        self.steps_before(self.steps.len())
    }

    /// Steps of the first timelines, so many.
    fn steps_before(&self, parts: usize) -> usize {
        self.steps.iter().take(parts).fold(0, |sum, &steps| sum.saturating_add(steps))
    }
}

/// The name of a run with this identity.
pub fn id(identity: &Value) -> String {
    blake3::hash(identity.to_string().as_bytes()).to_hex()[..DIGITS].to_owned()
}

/// As much of a name as people need.
pub fn short(id: &str) -> &str {
    id.get(..SHOWN).unwrap_or(id)
}

/// The default place of runs: `vidgen/runs` in the user's state directory; none without a home.
pub fn default_root() -> Option<PathBuf> {
    let base = dirs::state_dir().or_else(dirs::data_local_dir).or_else(dirs::cache_dir)?;
    Some(base.join("vidgen").join("runs"))
}

/// The directory of a run, held by this process.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    journal: File,
    /// Written but perhaps not on the disk yet.
    unsynced: Vec<PathBuf>,
    _lock: File,
}

/// Another process holds the directory.
#[derive(Debug)]
pub struct RunLocked(PathBuf);

impl std::fmt::Display for RunLocked {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}: another process is working on this run", self.0.display())
    }
}

impl std::error::Error for RunLocked {}

/// The directory is there and cannot be written: nothing is wrong with what it holds.
#[derive(Debug)]
pub struct RunReadOnly(PathBuf, io::Error);

impl std::fmt::Display for RunReadOnly {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}: {}: a run goes on where it can be written", self.0.display(), self.1)
    }
}

impl std::error::Error for RunReadOnly {}

/// An existing directory, and the undamaged part of its journal.
#[derive(Debug)]
pub struct OpenRun {
    pub dir: RunDir,
    pub plan: Plan,
    pub records: Vec<Record>,
    /// What is wrong with it, for the user.
    pub warnings: Vec<String>,
}

impl OpenRun {
    /// The piece with the latents of a part; the last one written counts.
    ///
    /// # Errors
    /// Latents that are not done.
    pub fn latents(&self, part: usize) -> Result<&StoredFile> {
        let piece = self.records.iter().rev().find_map(|record| match record {
            Record::Latents { part: found, file } if *found == part => Some(file),
            _ => None,
        });
        piece.with_context(|| {
            format!("the latents are not done: `vidgen resume {}` goes on with the run", self.dir.name())
        })
    }
}

impl RunDir {
    /// Begins a run's directory under `root`. What an earlier run of the same plan left there goes.
    ///
    /// # Errors
    /// [`RunLocked`]; whatever the system says about the place.
    pub fn create(root: &Path, plan: &Plan) -> Result<Self> {
        let path = root.join(plan.id());
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        let lock = lock(&path)?;
        Self::fill(&path, lock, plan).inspect_err(|_| {
            let _ = fs::remove_dir_all(&path); // half a directory is of no use, and may take the last room
        })
    }

    fn fill(path: &Path, lock: File, plan: &Plan) -> Result<Self> {
        for entry in fs::read_dir(path)?.flatten() {
            if entry.file_name() != LOCK {
                fs::remove_file(entry.path()).with_context(|| entry.path().display().to_string())?;
            }
        }
        let journal = path.join(JOURNAL);
        let shown = || journal.display().to_string();
        let file = OpenOptions::new().append(true).create_new(true).open(&journal).with_context(shown)?;
        let mut dir = Self { path: path.to_owned(), journal: file, unsynced: Vec::new(), _lock: lock };
        dir.put(PLAN, journal::line(&serde_json::to_string(plan)?).as_bytes(), false)?;
        dir.note(&Record::Begun { schema: SCHEMA.into(), version: env!("CARGO_PKG_VERSION").into() }, false)?;
        Ok(dir)
    }

    /// Opens a run's directory to resume it.
    ///
    /// # Errors
    /// [`RunLocked`]; [`RunReadOnly`]; no such directory; a plan that is damaged or of another version; something in it that is no plain file.
    pub fn open(path: &Path) -> Result<OpenRun> {
        let plan = plan(path)?; // before a lock file is made in a place that is no run
        all_plain(path)?;
        let lock = lock(path)?;
        remove_unfinished(path);
        let name = path.join(JOURNAL);
        let bytes = bounded(&name)?;
        let Journal { mut records, mut trusted, damaged } = Journal::read(&bytes);
        let mut warnings = Vec::new();
        match records.first() {
            Some(Record::Begun { schema, .. }) if schema == SCHEMA => {}
            Some(Record::Begun { schema, version }) => {
                bail!("{}: written by vidgen {version} ({schema}); this version reads {SCHEMA}", name.display())
            }
            _ => (records, trusted) = (Vec::new(), 0),
        }
        if let Some(line) = damaged {
            let rest = if records.len() > 1 { "what it says before that is used" } else { "nothing of it is used" };
            warnings.push(format!("{}: line {line} was cut short or damaged: {rest}", name.display()));
        }
        let journal =
            OpenOptions::new().append(true).create(true).open(&name).with_context(|| name.display().to_string())?;
        journal.set_len(trusted as u64)?;
        let mut dir = Self { path: path.to_owned(), journal, unsynced: Vec::new(), _lock: lock };
        if trusted == 0 {
            dir.note(&Record::Begun { schema: SCHEMA.into(), version: env!("CARGO_PKG_VERSION").into() }, false)?;
        }
        Ok(OpenRun { dir, plan, records, warnings })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name that `vidgen resume` takes.
    pub fn name(&self) -> String {
        short(&self.path.file_name().unwrap_or_default().to_string_lossy()).to_owned()
    }

    /// Writes a piece, whole or not at all. With `durable` it and everything before it is on the disk afterwards.
    pub fn put(&mut self, name: &str, bytes: &[u8], durable: bool) -> Result<StoredFile> {
        let path = self.path.join(name);
        disk::write_whole(&path, bytes, durable).with_context(|| path.display().to_string())?;
        if durable {
            self.sync()?
        } else {
            self.unsynced.push(path)
        }
        Ok(StoredFile {
            name: name.to_owned(),
            bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
        })
    }

    /// Adds a record to the journal, in one write.
    pub fn note(&mut self, record: &Record, durable: bool) -> Result<()> {
        let shown = || self.path.join(JOURNAL).display().to_string();
        let before = self.journal.metadata().with_context(shown)?.len();
        let line = journal::line(&serde_json::to_string(record)?);
        if let Err(error) = self.journal.write_all(line.as_bytes()) {
            let _ = self.journal.set_len(before); // a torn line would hide those that come later
            return Err(error).with_context(shown);
        }
        if durable {
            self.journal.sync_all().with_context(shown)?;
            self.sync()?;
        }
        Ok(())
    }

    /// Everything that was written is on the disk afterwards.
    fn sync(&mut self) -> Result<()> {
        for path in self.unsynced.drain(..) {
            match File::open(&path) {
                Ok(file) => file.sync_all().with_context(|| path.display().to_string())?,
                Err(error) if error.kind() == ErrorKind::NotFound => {} // it was replaced by a newer piece
                Err(error) => return Err(error).with_context(|| path.display().to_string()),
            }
        }
        for folder in [Some(self.path.as_path()), self.path.parent()].into_iter().flatten() {
            // not every system lets a directory be synced
            if let Ok(folder) = File::open(folder) {
                let _ = folder.sync_all();
            }
        }
        Ok(())
    }

    /// A piece, exactly as it was written.
    pub fn get(&self, piece: &StoredFile) -> Result<Vec<u8>> {
        ensure!(is_piece(&piece.name), "{:?} is no name of a piece", piece.name);
        let path = self.path.join(&piece.name);
        let read = || -> Result<Vec<u8>> {
            let file = File::open(&path)?;
            let length = file.metadata()?.len();
            ensure!(length == piece.bytes, "{length} bytes instead of {}", piece.bytes);
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(usize::try_from(length)?)?; // a file with holes may be of any length
            file.take(length).read_to_end(&mut bytes)?;
            ensure!(blake3::hash(&bytes).to_hex().as_str() == piece.blake3, "damaged: its hash is another");
            Ok(bytes)
        };
        read().with_context(|| path.display().to_string())
    }

    /// Removes a piece that nothing needs any more.
    pub fn drop_piece(&mut self, piece: &StoredFile) {
        if is_piece(&piece.name) {
            // a file too many does no harm
            let _ = fs::remove_file(self.path.join(&piece.name));
        }
    }

    /// The decoded frames for adding to them, behind the first `keep` bytes.
    pub fn frames_file(&mut self, keep: u64) -> Result<File> {
        let path = self.path.join(FRAMES);
        let open = || -> io::Result<File> {
            let file = OpenOptions::new().append(true).create(true).open(&path)?;
            file.set_len(keep)?;
            Ok(file)
        };
        let file = open().with_context(|| path.display().to_string())?;
        self.unsynced.retain(|known| *known != path);
        Ok(file)
    }

    /// Checks the first `bytes` bytes of the decoded frames; returns them for reading, with the state of their hash.
    pub fn frames(&self, bytes: u64, blake3: &str) -> Result<(File, Hasher)> {
        let path = self.path.join(FRAMES);
        let read = || -> Result<(File, Hasher)> {
            let file = File::open(&path)?;
            let mut hasher = Hasher::new();
            hasher.update_reader((&file).take(bytes))?;
            ensure!(hasher.count() == bytes, "{} bytes instead of {bytes}", hasher.count());
            ensure!(hasher.finalize().to_hex().as_str() == blake3, "damaged: its hash is another");
            Ok((File::open(&path)?, hasher))
        };
        read().with_context(|| path.display().to_string())
    }

    /// Leaves what `vidgen decode` needs: the frames and what led to the latents go.
    pub fn strip(&mut self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == FRAMES || name.starts_with("step-") || name.starts_with("caches-") {
                let _ = fs::remove_file(entry.path()); // it would only take room
            }
        }
    }

    /// Removes the directory.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.path).with_context(|| self.path.display().to_string())
    }
}

/// A name that a piece may have: without directories, and none of the directory's other files.
fn is_piece(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0'])
}

/// Refuses a directory with links, which would lead what is written to another place, and with pipes, which would wait.
fn all_plain(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).with_context(|| path.display().to_string())? {
        let entry = entry.with_context(|| path.display().to_string())?;
        let plain = entry.file_type().is_ok_and(|kind| kind.is_file());
        ensure!(plain, "{}: no plain file: a run's directory holds nothing else", entry.path().display());
    }
    Ok(())
}

/// Removes unfinished files of a killed process; only the holder of the lock writes here.
fn remove_unfinished(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with('.') {
            let _ = fs::remove_file(entry.path()); // it would only take room
        }
    }
}

fn lock(path: &Path) -> Result<File> {
    let name = path.join(LOCK);
    let shown = || name.display().to_string();
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&name);
    let file = file.map_err(|cause| RunReadOnly(name.clone(), cause))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RunLocked(path.to_owned()).into()),
        Err(TryLockError::Error(error)) => Err(error).with_context(shown),
    }
}

fn bounded(path: &Path) -> Result<Vec<u8>> {
    let shown = || path.display().to_string();
    let mut bytes = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        file => {
            file.with_context(shown)?.take(MOST_BYTES + 1).read_to_end(&mut bytes).with_context(shown)?;
        }
    }
    ensure!(bytes.len() as u64 <= MOST_BYTES, "{}: longer than {MOST_BYTES} bytes", path.display());
    Ok(bytes)
}

/// An undamaged plan of this version or another.
fn plan_value(path: &Path) -> Result<Value> {
    let name = path.join(PLAN);
    let shown = name.display();
    ensure!(path.is_dir(), "{}: no such run", path.display());
    ensure!(name.is_file(), "{}: not the directory of a run: it has no plan", path.display());
    let bytes = bounded(&name)?;
    let text = std::str::from_utf8(&bytes).ok().and_then(journal::text);
    let Some(text) = text else { bail!("{shown}: the plan is damaged: this run cannot be continued") };
    serde_json::from_str(text).with_context(|| shown.to_string())
}

/// The plan of a run's directory.
pub fn plan(path: &Path) -> Result<Plan> {
    let name = path.join(PLAN);
    let shown = name.display();
    let value = plan_value(path)?;
    match value["schema"].as_str() {
        Some(SCHEMA) => Ok(serde_json::from_value(value).with_context(|| shown.to_string())?),
        other => bail!(
            "{shown}: written by vidgen {} ({}); this version reads {SCHEMA}",
            value["version"].as_str().unwrap_or("?"),
            other.unwrap_or("?")
        ),
    }
}

/// The file of a run's latents, whole, and its plan.
///
/// # Errors
/// [`RunLocked`]; latents that are damaged or not done; a video of several timelines, whose files are several.
pub fn latents(path: &Path) -> Result<(PathBuf, Plan)> {
    let opened = RunDir::open(path)?;
    let (shown, parts) = (path.display(), opened.plan.steps.len());
    ensure!(parts == 1, "{shown}: its scenes are of {parts} timelines, which no latents join: continue its video");
    let piece = opened.latents(0).with_context(|| shown.to_string())?;
    opened.dir.get(piece)?;
    Ok((path.join(&piece.name), opened.plan))
}

words!(
    /// The state of a run.
    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    RunState, "state", {
        /// A process works on it.
        Running = "running",
        /// It can be continued.
        Stopped = "stopped",
        /// The video is whole and the directory was to be kept.
        Finished = "finished",
        /// A version of vidgen with another form of runs began it: that version can continue it.
        OtherVersion = "other-version",
        /// It cannot be continued.
        Damaged = "damaged",
    }
);

/// A run in the list of `vidgen runs`.
#[derive(Debug, Clone)]
pub struct RunSummary {
    pub path: PathBuf,
    pub id: String,
    pub state: RunState,
    /// None where it cannot be read.
    pub plan: Option<Plan>,
    /// The version of vidgen that began it, where the plan is undamaged.
    pub version: Option<String>,
    /// Steps that are safe, of all timelines.
    pub steps: usize,
    /// Whether all latents are there.
    pub latents: bool,
    pub bytes: u64,
    pub modified: SystemTime,
}

/// The runs kept under `root`, the latest first. That there is no such directory is no error.
pub fn list(root: &Path) -> Result<Vec<RunSummary>> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| root.display().to_string())?,
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let runs = paths.filter(|path| [PLAN, JOURNAL].iter().any(|name| path.join(name).exists()));
    let mut runs: Vec<RunSummary> = runs.map(|path| listed(&path)).collect();
    runs.sort_by_key(|run| std::cmp::Reverse(run.modified));
    Ok(runs)
}

fn listed(path: &Path) -> RunSummary {
    let (mut bytes, mut modified) = (0, SystemTime::UNIX_EPOCH);
    for data in fs::read_dir(path).into_iter().flatten().flatten().filter_map(|entry| entry.metadata().ok()) {
        bytes += data.len();
        modified = modified.max(data.modified().unwrap_or(modified));
    }
    let value = plan_value(path).ok();
    let version = value.as_ref().and_then(|value| value["version"].as_str()).map(str::to_owned);
    let other = value.as_ref().and_then(|value| value["schema"].as_str()).is_some_and(|schema| schema != SCHEMA);
    let plan = plan(path).ok();
    let records = bounded(&path.join(JOURNAL)).map(|bytes| Journal::read(&bytes).records).unwrap_or_default();
    let lock = OpenOptions::new().write(true).open(path.join(LOCK));
    let held = lock.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
    let finished = records.iter().any(|record| matches!(record, Record::Finished { .. }));
    let state = match &plan {
        _ if held => RunState::Running,
        None if other => RunState::OtherVersion,
        None => RunState::Damaged,
        Some(_) if finished => RunState::Finished,
        Some(_) => RunState::Stopped,
    };
    let parts = records.iter().filter(|record| matches!(record, Record::Latents { .. })).count();
    let steps = plan.as_ref().map_or(0, |plan| {
        let safe = records.iter().map(|record| match record {
            Record::Step { part, done, .. } => plan.steps_before(*part).saturating_add(*done),
            Record::Latents { part, .. } => plan.steps_before(part.saturating_add(1)),
            _ => 0,
        });
        safe.max().unwrap_or(0)
    });
    RunSummary {
        path: path.to_owned(),
        id: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        state,
        latents: plan.as_ref().is_some_and(|plan| parts >= plan.steps.len()),
        plan,
        version,
        steps,
        bytes,
        modified,
    }
}

/// The directory that a word means: a path, the beginning of a run's name, or `last` for the latest that can be continued.
pub fn find(root: Option<&Path>, word: &str) -> Result<PathBuf> {
    let path = Path::new(word);
    if path.join(PLAN).exists() || path.join(JOURNAL).exists() {
        return Ok(std::path::absolute(path)?);
    }
    let runs = root.map(list).transpose()?.unwrap_or_default();
    let place = root.map_or_else(|| "anywhere".to_owned(), |root| format!("in {}", root.display()));
    if word == "last" {
        let last = runs.into_iter().find(|run| matches!(run.state, RunState::Stopped | RunState::Finished));
        return Ok(last.with_context(|| format!("no run is kept {place}"))?.path);
    }
    let mut named = runs.into_iter().filter(|run| !word.is_empty() && run.id.starts_with(word));
    match (named.next(), named.next()) {
        (Some(run), None) => Ok(run.path),
        (Some(one), Some(other)) => {
            bail!("{word:?} is the beginning of several runs ({}, {} ..): give more of it", one.id, other.id)
        }
        (None, _) => bail!("no run {word:?} is kept {place}: `vidgen runs` lists them"),
    }
}

/// Removes a run that no process works on.
pub fn remove(path: &Path) -> Result<()> {
    let _lock = lock(path)?;
    fs::remove_dir_all(path).with_context(|| path.display().to_string())
}

/// Whether a directory takes files; it is made if it is not there.
pub fn check_root(root: &Path) -> Result<()> {
    let make = || -> io::Result<()> {
        fs::create_dir_all(root)?;
        tempfile::NamedTempFile::new_in(root).map(drop)
    };
    make().with_context(|| format!("cannot write in {}", root.display()))
}

/// A hash of a given file, or of the files of a directory, in hexadecimal.
pub fn file_hash(path: &Path) -> Result<String> {
    let mut hasher = Hasher::new();
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = fs::read_dir(path).with_context(|| path.display().to_string())?;
        files = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        files.sort();
    }
    for path in files {
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        hasher.update_reader(file).with_context(|| path.display().to_string())?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Now, as plans say it.
pub fn now() -> String {
    time::rfc3339(SystemTime::now())
}
