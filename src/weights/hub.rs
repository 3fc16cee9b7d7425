//! Downloads of models into the shared cache, through hf-hub (feature `hub`).
//!
//! Only what a run needs is fetched: the model index, the configurations, the tokenizer, and one form of each part's weights.
//! All files come from one commit. The file that a broken connection left behind goes on where it stopped. hf-hub 0.5 does not
//! check what it has written, so the size of each file is checked here; it also builds paths from what a server says, so
//! that is looked at first.

use super::cache::{Hub, HubId, is_commit};
use super::error::{ModelError, Result, refuse};
use super::files::{self, Index, Layout, SCHEDULER};
use super::header::Header;
use super::patience::{self, Reporter};
use super::source::{Head, Remote, Source, is_inside};
use super::{Download, Form, ModelFolder, Wanted, network};
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Times a file is asked for before giving up; what has arrived is kept between them.
const ATTEMPTS: usize = 3;
/// Wait after the first failure.
const PAUSE: Duration = Duration::from_millis(300);
/// Files of a tokenizer.
const TOKENIZER: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "spiece.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

/// The hub's description of a model at one commit.
#[derive(serde::Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(serde::Deserialize)]
struct Sibling {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
}

/// A download in progress.
struct Session<'a> {
    hub: &'a Hub,
    id: &'a HubId,
    api: Api,
    /// The model at its commit.
    repo: Repo,
    commit: String,
    snapshot: PathBuf,
    /// Size by path inside the model.
    files: BTreeMap<String, Option<u64>>,
}

/// Fetches a model, or of its weights the headers alone when it is only looked at. Returns the commit and the files.
pub(super) fn download(hub: &Hub, id: &HubId, form: Form, progress: &mut dyn Download) -> Result<(String, Source)> {
    let session = Session::open(hub, id)?;
    // nothing large is fetched for a model that this program cannot run
    session.fetch(&[form.index().to_owned()], &mut ())?;
    let source = Source::Folder(session.snapshot.clone());
    let parts: Vec<&str> = match form {
        Form::Pipeline => {
            let model = ModelFolder::from_source(id.name(), source.clone(), None)?;
            model.family().weighted().filter(|part| part.required).map(|part| part.name).collect()
        }
        Form::Network(kind) => {
            network::check(&source, kind)?;
            vec![""]
        }
    };
    let (mut wanted, indices) = session.wanted(form, &parts)?;
    session.fetch(&indices, &mut ())?;
    for path in &indices {
        let part = path.rsplit_once('/').map_or("", |(part, _)| part);
        let shards = Index::read(&source, path)?;
        wanted.extend(shards.shards().into_iter().map(|shard| files::inside(part, shard)));
    }
    if let Some(path) = wanted.iter().find(|path| !session.files.contains_key(*path)) {
        refuse!("{}: {path} is missing on {}; the model there is incomplete", id.name(), hub.endpoint);
    }
    if hub.look {
        let (weights, small): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|path| path.ends_with(".safetensors"));
        session.fetch(&small, &mut ())?;
        let absent = weights.into_iter().filter(|path| !session.snapshot.join(path).is_file());
        let heads = absent.map(|path| Ok((path.clone(), session.head(&path)?))).collect::<Result<_>>()?;
        let remote = Remote { folder: session.snapshot, heads };
        return Ok((session.commit, Source::Remote(Arc::new(remote))));
    }
    session.fetch(&wanted, progress)?;
    Ok((session.commit, source))
}

impl<'a> Session<'a> {
    fn open(hub: &'a Hub, id: &'a HubId) -> Result<Self> {
        if !hub.endpoint.starts_with("https://") && !hub.endpoint.starts_with("http://") {
            refuse!("HF_ENDPOINT: {:?} is not an http address", hub.endpoint);
        }
        let builder = ApiBuilder::from_cache(Cache::new(hub.cache.clone()))
            .with_endpoint(hub.endpoint.clone())
            .with_token(hub.token.clone())
            .with_progress(false)
            .with_user_agent("vidgen", env!("CARGO_PKG_VERSION"));
        let api = builder.build().map_err(|error| failed(hub, id, "", &error.to_string()))?;
        let named = Repo::with_revision(id.repo.clone(), RepoType::Model, id.revision.clone());
        let repo = api.repo(named.clone());
        let listing = heard(hub, id, &mut (), move |_: Reporter<_>| {
            let mut response = repo.info_request().query("blobs", "true").call()?;
            response.body_mut().read_to_string()
        })?;
        let listing = listing.map_err(|error: ureq::Error| failed(hub, id, "", &error.to_string()))?;
        let listing: Listing = serde_json::from_str(&listing).map_err(|error| {
            let (name, endpoint) = (id.name(), &hub.endpoint);
            ModelError::new(format!(
                "{name}: no folder of that name here, and {endpoint} does not answer as a hub does ({error}); check the network (a page \
                 to log in?) and HF_ENDPOINT"
            ))
        })?;
        if !is_commit(&listing.sha) {
            refuse!("{}: {} named the commit {:?}, which is none", id.name(), hub.endpoint, listing.sha);
        }
        let cache = Cache::new(hub.cache.clone()).repo(named);
        if id.revision != listing.sha {
            cache.create_ref(&listing.sha).map_err(|error| unwritable(hub, &error))?;
        }
        let commit = Repo::with_revision(id.repo.clone(), RepoType::Model, listing.sha.clone());
        Ok(Self {
            hub,
            id,
            repo: commit,
            api,
            snapshot: cache.pointer_path(&listing.sha),
            commit: listing.sha,
            files: listing
                .siblings
                .into_iter()
                .filter(|file| is_inside(&file.rfilename))
                .map(|file| (file.rfilename, file.size))
                .collect(),
        })
    }

    /// The files to fetch, but for the shards; and the indices that name those.
    fn wanted(&self, form: Form, parts: &[&str]) -> Result<(Vec<String>, Vec<String>)> {
        let (mut wanted, mut indices) = (Vec::new(), Vec::new());
        let tokenizer = if form == Form::Pipeline { "tokenizer" } else { "" };
        if form == Form::Pipeline {
            wanted.push(SCHEDULER.to_owned());
        }
        let tokenizer = TOKENIZER.iter().map(|name| files::inside(tokenizer, name));
        wanted.extend(tokenizer.filter(|path| self.files.contains_key(path)));
        for part in parts {
            wanted.push(files::inside(part, "config.json"));
            match files::locate(part, |path| self.files.contains_key(path)) {
                Some((Layout::Single(path), _)) => wanted.push(path),
                Some((Layout::Sharded(path), _)) => indices.push(path),
                None => {
                    let (name, endpoint) = (self.id.name(), &self.hub.endpoint);
                    let prefix = files::inside(part, "");
                    let pickle = self.files.keys().find(|path| path.starts_with(&prefix) && files::is_pickle(path));
                    match pickle {
                        Some(path) => return Err(super::part::pickled(&format!("{name} on {endpoint}: {path}"))),
                        None => {
                            let part = if part.is_empty() { "the model" } else { part };
                            refuse!("{name}: {part} has no safetensors weights on {endpoint}")
                        }
                    }
                }
            }
        }
        Ok((wanted, indices))
    }

    /// Fetches the files that are not in the cache yet.
    fn fetch(&self, paths: &[String], progress: &mut dyn Download) -> Result<()> {
        let absent: Vec<&String> = paths.iter().filter(|path| !self.snapshot.join(path).is_file()).collect();
        if absent.is_empty() {
            return Ok(());
        }
        let bytes = absent.iter().filter_map(|path| self.files.get(*path).copied().flatten()).sum();
        let (model, cache) = (self.id.name(), self.hub.cache.clone());
        progress.begin(&Wanted { model, files: absent.len(), bytes, cache });
        for path in absent {
            self.fetch_one(path, progress)?;
        }
        progress.end();
        Ok(())
    }

    fn fetch_one(&self, path: &str, progress: &mut dyn Download) -> Result<()> {
        let target = self.snapshot.join(path);
        // a link to a blob that was removed would be in the way
        if target.is_symlink() {
            std::fs::remove_file(&target).map_err(|error| unwritable(self.hub, &error))?;
        }
        let (mut failures, mut arrived) = (0, 0);
        loop {
            let problem = match self.attempt(path, &target, progress)? {
                None => return Ok(()),
                Some(problem) => problem,
            };
            // a connection that breaks now and then does not end a long download
            let parts = self.parts();
            failures = if parts > arrived { 1 } else { failures + 1 };
            arrived = parts;
            if failures == ATTEMPTS {
                let name = self.id.name();
                refuse!("{name}: the download of {path} broke off ({problem}); run again, it goes on where it stopped");
            }
            std::thread::sleep(PAUSE * failures as u32);
        }
    }

    /// Asks for a file once. Errors are final; a returned text says why it is worth asking again.
    fn attempt(&self, path: &str, target: &Path, progress: &mut dyn Download) -> Result<Option<String>> {
        let (api, url) = (self.api.clone(), self.url(path));
        let remote = match heard(self.hub, self.id, progress, move |_: Reporter<_>| api.metadata(&url))? {
            Ok(remote) => remote,
            Err(error) => return self.judge(path, error),
        };
        self.check(path, remote.etag(), remote.commit_hash())?;
        let part = self.hub.folder(self.id).join("blobs").join(remote.etag()).with_extension("part");
        let size = remote.size() as u64;
        let resumed = size_of(&part).is_some_and(|found| found > 0);
        if size_of(&part).is_some_and(|found| found >= size) && !reopen(&part, remote.etag(), size) {
            discard(&part);
        }
        let (repo, name) = (self.api.repo(self.repo.clone()), path.to_owned());
        let fetched = move |reporter: Reporter<_>| repo.download_with_progress(&name, reporter).map(drop);
        if let Err(error) = heard(self.hub, self.id, progress, fetched)? {
            return self.judge(path, error);
        }
        let found = size_of(target).unwrap_or(0);
        if found != size {
            // a server that does not know how to go on sends everything again
            discard(target);
            return Ok(Some(format!("{found} bytes arrived of {size}")));
        }
        // what lay there for a while may have been damaged
        if resumed && is_sha256(remote.etag()) && sha256(target).is_none_or(|hash| hash != remote.etag()) {
            discard(target);
            return Ok(Some("what had arrived earlier was damaged".to_owned()));
        }
        Ok(None)
    }

    /// The header of a weight file: its beginning is asked for, and no more is read.
    fn head(&self, path: &str) -> Result<Head> {
        /// Enough for the header of most files.
        const FIRST: u64 = 64 << 10;
        let Some(Some(size)) = self.files.get(path).copied() else {
            refuse!("{}: {} does not say how large {path} is", self.id.name(), self.hub.endpoint);
        };
        let mut bytes = self.range(path, 0, FIRST.min(size))?;
        if let Some(end) = Header::end(&bytes)
            && bytes.len() as u64 == FIRST.min(size)
            && end > FIRST
            && end <= size
        {
            bytes.extend(self.range(path, FIRST, end)?);
        }
        Ok(Head { bytes, size })
    }

    /// Bytes `from..to` of a file.
    fn range(&self, path: &str, from: u64, to: u64) -> Result<Vec<u8>> {
        let failed = |text: &str| failed(self.hub, self.id, path, text);
        let agent = ureq::Agent::new_with_defaults();
        let mut request = agent.get(self.url(path)).header("Range", format!("bytes={from}-{}", to.saturating_sub(1)));
        if let Some(token) = &self.hub.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let fetched = heard(self.hub, self.id, &mut (), move |_: Reporter<_>| {
            let response = request.call().map_err(|error| error.to_string())?;
            // a server that knows no ranges sends everything from the start
            let skip = if response.status() == 206 { 0 } else { from };
            let mut reader = response.into_body().into_reader().take(skip + to - from);
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
            Ok(bytes.split_off((skip as usize).min(bytes.len())))
        })?;
        fetched.map_err(|error: String| failed(&error))
    }

    fn url(&self, path: &str) -> String {
        self.api.repo(self.repo.clone()).url(path)
    }

    /// hf-hub makes file names of these.
    fn check(&self, path: &str, etag: &str, commit: &str) -> Result<()> {
        let (name, endpoint) = (self.id.name(), &self.hub.endpoint);
        if !is_inside(etag) || !etag.bytes().all(|byte| byte.is_ascii_graphic()) {
            refuse!("{name}: {endpoint} gave {path} the tag {etag:?}, which cannot be stored");
        }
        if commit != self.commit {
            refuse!("{name}: {endpoint} gave {path} of commit {commit:?}, asked for was {}", self.commit);
        }
        Ok(())
    }

    /// Whether to ask again after an error.
    fn judge(&self, path: &str, error: ApiError) -> Result<Option<String>> {
        let text = error.to_string();
        match &error {
            ApiError::LockAcquisition(lock) => {
                let (name, lock) = (self.id.name(), lock.display());
                refuse!("{name}: another program is downloading it ({lock} is locked); wait for it to end")
            }
            ApiError::IoError(error) if is_local(error) => Err(unwritable(self.hub, error)),
            ApiError::RequestError(_) if status(&text).is_some_and(|code| code < 500) => {
                Err(failed(self.hub, self.id, path, &text))
            }
            // no hub says nothing of a file, however often it is asked
            ApiError::MissingHeader(_) | ApiError::InvalidHeader(_) => {
                let (name, endpoint) = (self.id.name(), &self.hub.endpoint);
                refuse!(
                    "{name}: {endpoint} does not answer for {path} as a hub does ({text}); check HF_ENDPOINT and the proxy"
                )
            }
            _ => Ok(Some(one_line(&text))),
        }
    }

    /// Bytes of unfinished downloads of this model.
    fn parts(&self) -> u64 {
        let entries = std::fs::read_dir(self.hub.folder(self.id).join("blobs")).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "part"))
            .filter_map(|entry| size_of(&entry.path()))
            .sum()
    }
}

/// What is done at the hub, unless it falls silent.
fn heard<T: Send + 'static>(
    hub: &Hub,
    id: &HubId,
    progress: &mut dyn Download,
    work: impl FnOnce(Reporter<T>) -> T + Send + 'static,
) -> Result<T> {
    patience::wait(hub.patience, progress, work).ok_or_else(|| {
        let (name, endpoint, time) = (id.name(), &hub.endpoint, hub.patience.most.as_secs());
        ModelError::new(format!(
            "{name}: nothing has arrived from {endpoint} for {time} s; check the network and run again, it goes on where it stopped"
        ))
    })
}

/// Makes a part file that is as long as its file one that a download goes on from: hf-hub asks behind its end and is refused
/// for ever. A right one gives back its last byte. False for one that is wrong, or cannot be checked.
fn reopen(part: &Path, etag: &str, size: u64) -> bool {
    let whole =
        size > 0 && size_of(part) == Some(size) && is_sha256(etag) && sha256(part).is_some_and(|hash| hash == etag);
    let cut = || std::fs::File::options().write(true).open(part)?.set_len(size - 1);
    whole && cut().is_ok()
}

/// Whether a tag is a hash of the content: the hub's is for files of Git LFS, which all large ones are.
fn is_sha256(etag: &str) -> bool {
    etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// SHA-256 of a file in hexadecimal; none of one that cannot be read.
fn sha256(path: &Path) -> Option<String> {
    let mut hasher = Sha256::new();
    let mut file = std::io::BufReader::with_capacity(1 << 20, std::fs::File::open(path).ok()?);
    std::io::copy(&mut file, &mut hasher).ok()?;
    Some(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The size of a file, through links.
fn size_of(path: &Path) -> Option<u64> {
    path.metadata().ok().map(|data| data.len())
}

/// Removes a file, and what it links to.
fn discard(path: &Path) {
    if let Ok(blob) = path.canonicalize() {
        // what cannot be removed is noticed by the next attempt
        let _ = std::fs::remove_file(blob);
    }
    let _ = std::fs::remove_file(path);
}

/// Whether an error is of this machine's disk rather than of the network.
fn is_local(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as Kind;
    let local =
        [Kind::StorageFull, Kind::QuotaExceeded, Kind::PermissionDenied, Kind::ReadOnlyFilesystem, Kind::NotADirectory];
    local.contains(&error.kind())
}

fn unwritable(hub: &Hub, error: &std::io::Error) -> ModelError {
    let cache = hub.cache.display();
    ModelError::new(format!("{cache}: cannot write to the hub's cache ({error}); HF_HUB_CACHE names another directory"))
}

/// The status code in the text of a request's error.
fn status(text: &str) -> Option<u16> {
    let (_, code) = text.split_once("http status: ")?;
    code.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// What a request's error means, in words.
fn failed(hub: &Hub, id: &HubId, path: &str, text: &str) -> ModelError {
    let (endpoint, repo) = (&hub.endpoint, &id.repo);
    let what = if path.is_empty() { id.name() } else { format!("{}: {path}", id.name()) };
    ModelError::new(match status(text) {
        Some(code @ (401 | 403)) if hub.token.is_none() => format!(
            "{what}: {endpoint} refuses access ({code}): no such model, or one that needs a token; set HF_TOKEN to yours"
        ),
        Some(code @ (401 | 403)) => format!(
            "{what}: {endpoint} refuses access ({code}) with the token given; accept the model's terms at {endpoint}/{repo}"
        ),
        Some(404) => format!(
            "{what}: no folder of that name here, and not found on {endpoint} (404); check the name and the revision {:?}",
            id.revision
        ),
        Some(code) => format!("{what}: {endpoint} answered {code}; try again later"),
        None => {
            let here = if path.is_empty() { "no folder of that name here, and " } else { "" };
            let text = one_line(text);
            format!("{what}: {here}{endpoint} cannot be reached ({text}); check the network, or give a folder")
        }
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
