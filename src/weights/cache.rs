//! Hub names, and the cache that every program of Hugging Face shares: looked into here without any network code.
//!
//! Layout of the cache: `models--ORG--NAME/refs/REVISION` holds a commit, `snapshots/COMMIT/` the files as links into `blobs/`.
//! The environment is read as huggingface_hub reads it (HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE), with
//! `~` and `$NAME` in its paths.

use super::source::is_inside;
use std::path::{Path, PathBuf};

/// Names for the models this program knows, with their places on the hub; the older name of the same model may be in a cache.
const SHORT_NAMES: [(&str, [&str; 2]); 5] = [
    ("cogvideox-2b", ["zai-org/CogVideoX-2b", "THUDM/CogVideoX-2b"]),
    ("cogvideox-5b", ["zai-org/CogVideoX-5b", "THUDM/CogVideoX-5b"]),
    ("cogvideox1.5-5b", ["zai-org/CogVideoX1.5-5B", "THUDM/CogVideoX1.5-5B"]),
    ("cogvideox-5b-i2v", ["zai-org/CogVideoX-5b-I2V", "THUDM/CogVideoX-5b-I2V"]),
    ("cogvideox1.5-5b-i2v", ["zai-org/CogVideoX1.5-5B-I2V", "THUDM/CogVideoX1.5-5B-I2V"]),
];

/// Short names of hub models.
pub fn short_names() -> impl Iterator<Item = &'static str> {
    SHORT_NAMES.iter().map(|(name, _)| *name)
}

/// A model on the hub.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct HubId {
    /// `org/name`.
    pub repo: String,
    /// Branch, tag or commit.
    pub revision: String,
}

impl HubId {
    /// The models that a spec can mean, the preferred one first: a short name (`cogvideox-2b`) or `org/name`, each with an
    /// optional `@revision`. None when the spec is neither.
    pub fn parse(spec: &str) -> Vec<Self> {
        let (name, revision) = spec.split_once('@').unwrap_or((spec, "main"));
        let legal = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
        if !is_inside(revision) || !legal(revision) {
            return Vec::new();
        }
        let id = |repo: &str| Self { repo: repo.to_owned(), revision: revision.to_owned() };
        if let Some((_, repos)) = SHORT_NAMES.iter().find(|(short, _)| short.eq_ignore_ascii_case(name)) {
            return repos.iter().map(|repo| id(repo)).collect();
        }
        // the hub's own rules for names
        let part = |text: &str| text.starts_with(|c: char| c.is_ascii_alphanumeric()) && !text.contains("..");
        match name.split_once('/') {
            Some((org, repo))
                if legal(name) && part(org) && part(repo) && !repo.contains('/') && !name.contains("--") =>
            {
                vec![id(name)]
            }
            _ => Vec::new(),
        }
    }

    /// How the model is written, for messages and the manifest.
    pub fn name(&self) -> String {
        if self.revision == "main" { self.repo.clone() } else { format!("{}@{}", self.repo, self.revision) }
    }
}

/// What the environment says about the hub.
#[derive(Clone, PartialEq)]
pub(super) struct Hub {
    /// The cache's directory.
    pub cache: PathBuf,
    pub endpoint: String,
    pub token: Option<String>,
    pub offline: bool,
    /// Weights are not fetched, their headers are looked at.
    pub look: bool,
    /// How long the hub may be silent.
    #[cfg(feature = "hub")]
    pub patience: super::patience::Patience,
}

impl Hub {
    pub fn from_env(offline: bool) -> Self {
        let hub = Self::from_lookup(offline, |key| std::env::var(key).ok(), dirs::home_dir());
        Self { look: super::looking(), ..hub }
    }

    /// The same from any environment.
    pub fn from_lookup(offline: bool, variable: impl Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Self {
        let variable = |key: &str| variable(key).filter(|value| !value.is_empty());
        let home = home.unwrap_or_default();
        let path = |key: &str| variable(key).map(|text| expanded(&text, &variable, &home));
        let cache_home = path("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache"));
        let hf_home = path("HF_HOME").unwrap_or_else(|| cache_home.join("huggingface"));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let cache = cache.unwrap_or_else(|| hf_home.join("hub"));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let token = variable("HF_TOKEN")
            .or_else(|| variable("HUGGING_FACE_HUB_TOKEN"))
            .or_else(|| std::fs::read_to_string(token_file).ok());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let yes = |value: String| ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str());
        Self {
            cache,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: offline
                || ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].iter().any(|key| variable(key).is_some_and(yes)),
            look: false,
            #[cfg(feature = "hub")]
            patience: super::patience::Patience::default(),
        }
    }

    /// The directory of a model in the cache.
    pub fn folder(&self, id: &HubId) -> PathBuf {
        self.cache.join(format!("models--{}", id.repo.replace('/', "--")))
    }

    /// The commit that the cache knows for a model's revision, and the directory of its files. They may be incomplete.
    pub fn snapshot(&self, id: &HubId) -> Option<(String, PathBuf)> {
        let folder = self.folder(id);
        let at = |commit: &str| {
            let path = folder.join("snapshots").join(commit);
            (is_commit(commit) && path.is_dir()).then(|| (commit.to_owned(), path))
        };
        // a revision that is a commit has no file among the refs
        at(&id.revision).or_else(|| at(std::fs::read_to_string(folder.join("refs").join(&id.revision)).ok()?.trim()))
    }
}

/// A path of the environment as Python's `expandvars(expanduser(..))` reads it: `~` or `~NAME` at its beginning, `$NAME` and
/// `${NAME}` anywhere; names without a value stay as they are.
fn expanded(text: &str, variable: &impl Fn(&str) -> Option<String>, home: &Path) -> PathBuf {
    let (user, rest) = text.split_at(text.find('/').unwrap_or(text.len()));
    let home = match user.strip_prefix('~') {
        Some("") => Some(variable("HOME").map_or_else(|| home.to_owned(), PathBuf::from)),
        Some(name) => home_of(name),
        None => None,
    };
    let text = home.map_or_else(|| text.to_owned(), |home| format!("{}{rest}", home.display()));
    let mut out = String::with_capacity(text.len());
    let mut left = text.as_str();
    while let Some(at) = left.find('$') {
        out.push_str(&left[..at]);
        let after = &left[at + 1..];
        let word = |c: char| c == '_' || c.is_ascii_alphanumeric();
        let (name, next) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(found) => found,
            None => after.split_at(after.find(|c| !word(c)).unwrap_or(after.len())),
        };
        match variable(name).filter(|_| !name.is_empty()) {
            Some(value) => out.push_str(&value),
            None => out.push_str(&left[at..left.len() - next.len()]),
        }
        left = next;
    }
    out.push_str(left);
    PathBuf::from(out)
}

/// The home directory of a user of this machine.
fn home_of(name: &str) -> Option<PathBuf> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut lines = users.lines().map(|line| line.split(':'));
    let mut user = lines.find(|fields| fields.clone().next() == Some(name))?;
    user.nth(5).filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// Whether a text is the hash of a commit, and so a safe name of a directory.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn names_of_the_hub_and_nothing_else() {
        let names = |spec: &str| HubId::parse(spec).iter().map(HubId::name).collect::<Vec<_>>();
        assert_eq!(names("cogvideox-2b"), ["zai-org/CogVideoX-2b", "THUDM/CogVideoX-2b"]);
        assert_eq!(names("CogVideoX1.5-5B@v1")[0], "zai-org/CogVideoX1.5-5B@v1");
        assert_eq!(names("THUDM/CogVideoX-5b"), ["THUDM/CogVideoX-5b"]);
        assert_eq!(names("a/b@main"), ["a/b"]);
        assert_eq!(names("a/b@refs/pr/1"), ["a/b@refs/pr/1"]);
        for spec in [
            "",
            "a",
            "a/",
            "/b",
            "./a",
            "../a",
            "a/b/c",
            "a/..",
            "~/a",
            "a b/c",
            "a\\b",
            "a/b@",
            "a/b@../x",
            "a/b@/x",
            "a/b?x=1",
            "a--b/c",
            "ä/b",
            "a/b\n",
            "/etc/passwd",
        ] {
            assert!(names(spec).is_empty(), "{spec:?}");
        }
    }

    #[test]
    fn the_environment_is_read_as_huggingface_hub_reads_it() {
        let home = tempfile::tempdir().unwrap();
        let hub = |offline, variables: &[(&str, &str)]| {
            let map: HashMap<_, _> =
                variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            Hub::from_lookup(offline, |key| map.get(key).cloned(), Some(home.path().to_owned()))
        };
        let plain = hub(false, &[("HF_HOME", ""), ("HF_TOKEN", "")]);
        assert_eq!(plain.cache, home.path().join(".cache/huggingface/hub"));
        assert_eq!((plain.endpoint.as_str(), plain.token, plain.offline), ("https://huggingface.co", None, false));
        assert_eq!(hub(false, &[("XDG_CACHE_HOME", "/x")]).cache, PathBuf::from("/x/huggingface/hub"));
        assert_eq!(hub(false, &[("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/x")]).cache, PathBuf::from("/h/hub"));
        assert_eq!(hub(false, &[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/o")]).cache, PathBuf::from("/o"));
        assert_eq!(hub(false, &[("HF_HUB_CACHE", "/c"), ("HUGGINGFACE_HUB_CACHE", "/o")]).cache, PathBuf::from("/c"));
        assert_eq!(hub(false, &[("HF_ENDPOINT", "http://m:1/")]).endpoint, "http://m:1");
        for (value, cache) in [
            ("~/hf", home.path().join("hf/hub")),
            ("~", home.path().join("hub")),
            ("$D/x", PathBuf::from("/data/x/hub")),
            ("${D}y", PathBuf::from("/datay/hub")),
            ("/a/$NONE/$", PathBuf::from("/a/$NONE/$/hub")),
            ("/a~/${", PathBuf::from("/a~/${/hub")),
            ("~nobody-of-this-name/x", PathBuf::from("~nobody-of-this-name/x/hub")),
        ] {
            assert_eq!(hub(false, &[("HF_HOME", value), ("D", "/data")]).cache, cache, "{value}");
        }
        #[cfg(target_os = "linux")]
        assert_eq!(hub(false, &[("HF_HOME", "~root/x")]).cache, PathBuf::from("/root/x/hub"));
        let cache = home.path().join("c");
        for key in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"] {
            assert_eq!(hub(false, &[(key, "~/c")]).cache, cache, "{key}");
        }
        assert_eq!(hub(false, &[("XDG_CACHE_HOME", "~/x")]).cache, home.path().join("x/huggingface/hub"));
        // the home of the variable outweighs that of the user, as in Python
        assert_eq!(hub(false, &[("HF_HUB_CACHE", "~/c"), ("HOME", "/h")]).cache, PathBuf::from("/h/c"));
        for (value, offline) in [("1", true), ("True", true), ("yes", true), ("0", false), ("", false)] {
            assert_eq!(hub(false, &[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
            assert!(hub(true, &[("HF_HUB_OFFLINE", value)]).offline);
        }
        std::fs::write(home.path().join("token"), "from-file\n").unwrap();
        let path = home.path().to_str().unwrap();
        assert_eq!(hub(false, &[("HF_HOME", path)]).token.as_deref(), Some("from-file"));
        assert_eq!(hub(false, &[("HF_HOME", path), ("HF_TOKEN", " t ")]).token.as_deref(), Some("t"));
        let file = home.path().join("token");
        assert_eq!(hub(false, &[("HF_TOKEN_PATH", file.to_str().unwrap())]).token.as_deref(), Some("from-file"));
        assert_eq!(hub(false, &[("HF_TOKEN_PATH", "~/token")]).token.as_deref(), Some("from-file"));
    }
}
