//! Downloads from a hub that runs in this test: what is fetched, what is not, and what each failure says.

#![allow(clippy::unwrap_used)]

use super::tests::{message, model_index, pipeline, safetensors, small};
use super::*;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server does instead of sending a file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// Answers with this status.
    Status(u16),
    /// Announces the whole and closes after half, this many times; then sends nothing after the head.
    Break(usize),
    /// Closes after half once, then is well again.
    Hiccup,
    /// Sends everything, whatever range was asked for.
    IgnoreRange,
    /// A tag that would be a path outside the cache.
    Tag(&'static str),
    Commit(&'static str),
    /// Sends the file and nothing about it, as a plain web server.
    Bare,
    /// A page in place of the answer.
    Page,
    /// Sends the client on to another address, as the hub does for large files.
    Redirect,
    /// Falls silent after half, with the connection open.
    Silence,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    faults: BTreeMap<String, Fault>,
    /// `PATH` or `PATH token` of each request.
    log: Vec<String>,
}

/// A hub of one model, `org/model`, on 127.0.0.1. Stops when dropped.
struct Server {
    endpoint: String,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let files = files.iter().map(|(path, content)| ((*path).to_owned(), content.clone())).collect();
        let state = Arc::new(Mutex::new(State { files, faults: BTreeMap::new(), log: Vec::new() }));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, ended, base) = (state.clone(), stop.clone(), endpoint.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                // a client that went away is its own affair
                let _ = answer(stream.unwrap(), &shared, &base);
            }
        });
        Self { endpoint, state, stop, thread: Some(thread) }
    }

    fn fault(&self, path: &str, fault: Option<Fault>) {
        let mut state = self.state.lock().unwrap();
        state.faults.remove(path);
        state.faults.extend(fault.map(|fault| (path.to_owned(), fault)));
    }

    fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    fn hub(&self, cache: &TempDir) -> Hub {
        let cache = cache.path().to_owned();
        let patience = patience::Patience::default();
        Hub {
            cache,
            endpoint: self.endpoint.clone(),
            token: Some("secret".into()),
            offline: false,
            look: false,
            patience,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.endpoint.trim_start_matches("http://"));
        let _ = self.thread.take().map(|thread| thread.join());
    }
}

fn answer(stream: TcpStream, state: &Mutex<State>, base: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut head, mut line) = (Vec::new(), String::new());
    while reader.read_line(&mut line)? > 2 {
        head.push(std::mem::take(&mut line).trim().to_owned());
    }
    let Some(path) = head.first().and_then(|first| first.split(' ').nth(1)).map(str::to_owned) else { return Ok(()) };
    let header = |name: &str| {
        let found =
            head[1..].iter().filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim().to_owned())
    };
    let mut state = state.lock().unwrap();
    let token = header("authorization").map(|token| format!(" {token}")).unwrap_or_default();
    state.log.push(format!("{path}{token}"));

    let mut stream = stream;
    let plain = |stream: &mut TcpStream, status: u16, headers: &str, body: &[u8]| {
        write!(stream, "HTTP/1.1 {status} X\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n", body.len())?;
        stream.write_all(body)
    };
    if let Some(revision) = path.strip_prefix("/api/models/org/model/revision/") {
        if let Some(Fault::Status(status)) = state.faults.get("listing") {
            return plain(&mut stream, *status, "", b"");
        }
        if state.faults.get("listing") == Some(&Fault::Page) {
            return plain(&mut stream, 200, "", b"<html>log in</html>");
        }
        if revision != "main?blobs=true" {
            return plain(&mut stream, 404, "", b"");
        }
        let listed =
            state.files.iter().map(|(name, file)| format!(r#"{{"rfilename":"{name}","size":{}}}"#, file.len()));
        let body = format!(r#"{{"sha":"{COMMIT}","siblings":[{}]}}"#, listed.collect::<Vec<_>>().join(","));
        return plain(&mut stream, 200, "Content-Type: application/json\r\n", body.as_bytes());
    }
    let moved = path.strip_prefix("/moved/");
    let Some(name) = moved.or_else(|| path.strip_prefix(&format!("/org/model/resolve/{COMMIT}/")[..])) else {
        return plain(&mut stream, 404, "", b"");
    };
    let name = name.to_owned();
    let Some(file) = state.files.get(&name).cloned() else { return plain(&mut stream, 404, "", b"") };
    let fault = state.faults.get(&name).copied();
    let tag = if let Some(Fault::Tag(tag)) = fault { tag.to_owned() } else { sha256(&file) };
    let commit = if let Some(Fault::Commit(commit)) = fault { commit } else { COMMIT };
    let mut headers = match fault {
        Some(Fault::Bare) => String::new(),
        _ => format!("ETag: \"{tag}\"\r\nX-Repo-Commit: {commit}\r\n"),
    };
    match fault {
        Some(Fault::Status(status)) => return plain(&mut stream, status, "", b""),
        Some(Fault::Redirect) if moved.is_none() => {
            headers += &format!("X-Linked-ETag: \"{tag}\"\r\nLocation: {base}/moved/{name}\r\n");
            return plain(&mut stream, 302, &headers, b"");
        }
        _ => {}
    }
    let range = header("range").unwrap_or_else(|| "bytes=0-".into());
    let (from, to) = range.trim_start_matches("bytes=").split_once('-').unwrap();
    let probe = to == "0";
    let end = to.parse::<usize>().map_or(usize::MAX, |last| last + 1);
    let from: usize = if fault == Some(Fault::IgnoreRange) && !probe { 0 } else { from.parse().unwrap() };
    let to = end.min(file.len());
    if from >= file.len() && !file.is_empty() {
        return plain(&mut stream, 416, "", b"");
    }
    let body = &file[from.min(to)..to];
    write!(stream, "HTTP/1.1 206 X\r\nConnection: close\r\n{headers}Content-Length: {}\r\n", body.len())?;
    write!(stream, "Content-Range: bytes {from}-{}/{}\r\n\r\n", to.saturating_sub(1), file.len())?;
    match fault {
        Some(Fault::Break(times)) if !probe => {
            state.faults.insert(name, Fault::Break(times.saturating_sub(1)));
            stream.write_all(if times > 0 { &body[..body.len() / 2] } else { &[] })
        }
        Some(Fault::Silence) if !probe => {
            stream.write_all(&body[..body.len() / 2])?;
            std::mem::forget(stream);
            Ok(())
        }
        Some(Fault::Hiccup) if !probe => {
            state.faults.remove(&name);
            stream.write_all(&body[..body.len() / 2])
        }
        _ => stream.write_all(body),
    }
}

/// The hub's tag of a large file.
fn sha256(file: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(file).iter().map(|byte| format!("{byte:02x}")).collect()
}

const TRANSFORMER: &str = "transformer/diffusion_pytorch_model-00001-of-00002.safetensors";

type Files = Vec<(&'static str, Vec<u8>)>;

/// A model as it lies on the hub: sharded transformer, and files that no run needs.
fn files() -> Files {
    let shard = |name: &str| {
        let header = format!(r#"{{"{name}":{{"dtype":"F16","shape":[50000],"data_offsets":[0,100000]}}}}"#);
        safetensors(&header, &vec![1; 100_000])
    };
    let index = r#"{"weight_map":{"a":"diffusion_pytorch_model-00001-of-00002.safetensors",
        "b":"diffusion_pytorch_model-00002-of-00002.safetensors"}}"#;
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        ("model_index.json", model_index().into_bytes()),
        ("README.md", text("a card")),
        ("preview.mp4", vec![0; 1000]),
        ("transformer/config.json", text(r#"{"sample_width":6,"sample_height":4,"sample_frames":9}"#)),
        ("transformer/diffusion_pytorch_model.safetensors.index.json", text(index)),
        (TRANSFORMER, shard("a")),
        ("transformer/diffusion_pytorch_model-00002-of-00002.safetensors", shard("b")),
        ("transformer/diffusion_pytorch_model.bin", vec![0; 1000]),
        ("vae/config.json", text(r#"{"block_out_channels":[1,2,3,4]}"#)),
        ("vae/diffusion_pytorch_model.safetensors", small()),
        ("vae/diffusion_pytorch_model.fp16.safetensors", small()),
        ("text_encoder/config.json", text(r#"{"model_type":"t5","architectures":["T5EncoderModel"]}"#)),
        ("text_encoder/model.safetensors", small()),
        ("tokenizer/spiece.model", vec![1; 10]),
        ("tokenizer/tokenizer_config.json", text("{}")),
        ("scheduler/scheduler_config.json", text(r#"{"_class_name":"DDIMScheduler"}"#)),
    ]
}

fn open(hub: &Hub) -> anyhow::Result<ModelFolder> {
    Ok(ModelFolder::resolve("org/model", || hub.clone(), &mut ())?)
}

#[track_caller]
fn assert_says<T>(result: anyhow::Result<T>, parts: &[&str]) -> String {
    let text = message(result);
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    text
}

/// Counts what it is told.
#[derive(Default)]
struct Counted {
    begun: Vec<(usize, u64)>,
    files: Vec<String>,
    arrived: Vec<u64>,
    bytes: u64,
    ended: usize,
}

impl Download for Counted {
    fn begin(&mut self, wanted: &Wanted) {
        assert_eq!(wanted.model, "org/model");
        self.begun.push((wanted.files, wanted.bytes));
    }
    fn file(&mut self, path: &str, _: u64, arrived: u64) {
        self.files.push(path.to_owned());
        self.arrived.push(arrived);
    }
    fn advance(&mut self, bytes: u64) {
        self.bytes += bytes;
    }
    fn end(&mut self) {
        self.ended += 1;
    }
}

#[test]
fn a_model_is_fetched_once_and_only_what_a_run_needs() {
    let (server, cache) = (Server::new(&files()), tempfile::tempdir().unwrap());
    server.fault(TRANSFORMER, Some(Fault::Redirect));
    let mut counted = Counted::default();
    let model = ModelFolder::resolve("org/model", || server.hub(&cache), &mut counted).unwrap();
    assert_eq!((model.name(), model.revision()), ("org/model", Some(COMMIT)));
    let info = info(&model);
    assert!(info.complete, "{info:?}");
    assert_eq!(info.native, Some(Native { width: 48, height: 32, frames: 9, fps: 8 }));
    assert_eq!(info.parameters, 100_000 + 2 * 7);

    let fetched = cache.path().join("models--org--model/snapshots").join(COMMIT);
    for (path, content) in files() {
        let unused = ["README.md", "preview.mp4", "transformer/diffusion_pytorch_model.bin"].contains(&path)
            || path.contains(".fp16.");
        let found = std::fs::read(fetched.join(path)).ok();
        assert_eq!(found, (!unused).then_some(content), "{path}");
    }
    // the index files before are small and not reported
    let reported: Vec<_> =
        files().into_iter().filter(|(path, _)| counted.files.iter().any(|file| file == path)).collect();
    let bytes = reported.iter().map(|(_, content)| content.len() as u64).sum();
    assert_eq!((&counted.begun[..], counted.ended), (&[(10, bytes)][..], 1));
    assert_eq!(counted.bytes, bytes);
    let log = server.take_log();
    assert!(log.iter().all(|line| line.ends_with(" Bearer secret")), "{log:?}");

    // the second time nothing is asked, also with another name for the same commit
    assert!(open(&server.hub(&cache)).is_ok());
    let offline = Hub { offline: true, endpoint: "http://127.0.0.1:1".into(), ..server.hub(&cache) };
    assert!(open(&offline).is_ok());
    let pinned = format!("org/model@{COMMIT}");
    assert_eq!(ModelFolder::resolve(&pinned, || offline, &mut ()).unwrap().name(), pinned);
    assert!(server.take_log().is_empty());
}

#[test]
fn what_the_cache_lacks_is_fetched_and_offline_it_is_named() {
    let (server, cache) = (Server::new(&files()), tempfile::tempdir().unwrap());
    let offline = Hub { offline: true, ..server.hub(&cache) };
    assert_says(open(&offline).map(drop), &["org/model", "no such folder", "not in the cache", "network is off"]);
    assert!(server.take_log().is_empty());
    open(&server.hub(&cache)).unwrap();
    server.take_log();
    let snapshot = cache.path().join("models--org--model/snapshots").join(COMMIT);
    // one link gone, one link without its blob
    std::fs::remove_file(snapshot.join(TRANSFORMER)).unwrap();
    let blob = snapshot.join("scheduler/scheduler_config.json").canonicalize().unwrap();
    std::fs::remove_file(blob).unwrap();
    assert_says(open(&offline).map(drop), &["incomplete", TRANSFORMER, "scheduler_config.json", "network is off"]);
    assert!(info(&open(&server.hub(&cache)).unwrap()).complete);
    let asked: Vec<_> = server.take_log().into_iter().filter(|line| line.contains("/resolve/")).collect();
    assert!(asked.iter().all(|line| line.contains(TRANSFORMER) || line.contains("scheduler_config")), "{asked:?}");
}

#[test]
fn refusals_say_what_to_do() {
    let (server, cache) = (Server::new(&files()), tempfile::tempdir().unwrap());
    let (hub, open) = (server.hub(&cache), |hub: &Hub| open(hub).map(drop));
    let nameless = Hub { token: None, ..hub.clone() };
    server.fault("listing", Some(Fault::Status(401)));
    assert_says(open(&nameless), &["org/model", &server.endpoint, "401", "set HF_TOKEN"]);
    assert_says(open(&hub), &["org/model", "401", "accept the model's terms"]);
    server.fault("listing", Some(Fault::Status(404)));
    assert_says(open(&hub), &["org/model", "no folder of that name", "not found", "404", "\"main\""]);
    server.fault("listing", Some(Fault::Status(503)));
    assert_says(open(&hub), &["org/model", "503", "again later"]);
    server.fault("listing", None);
    assert_says(
        ModelFolder::resolve("org/model@v9", || hub.clone(), &mut ()).map(drop).map_err(Into::into),
        &["org/model@v9", "404", "\"v9\""],
    );
    server.fault("vae/config.json", Some(Fault::Status(403)));
    assert_says(open(&hub), &["org/model: vae/config.json", "403"]);
    server.fault("vae/config.json", None);

    server.fault("listing", Some(Fault::Page));
    assert_says(open(&hub), &["org/model", "does not answer as a hub does", "HF_ENDPOINT"]);
    server.fault("listing", None);
    // nobody there
    let dead = Hub { endpoint: "http://127.0.0.1:1".into(), ..hub.clone() };
    assert_says(open(&dead), &["org/model", "no folder of that name", "http://127.0.0.1:1", "check the network"]);
    assert_says(open(&Hub { endpoint: "ftp://x".into(), ..hub.clone() }), &["HF_ENDPOINT", "ftp://x"]);
    // a cache that cannot be written
    let file = cache.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert_says(open(&Hub { cache: file, ..hub.clone() }), &["cannot write to the hub's cache", "HF_HUB_CACHE"]);

    // what a server says is not believed
    for (fault, says) in [
        (Fault::Tag("../../../../escaped"), "cannot be stored"),
        (Fault::Tag("/tmp/escaped"), "cannot be stored"),
        (Fault::Commit("../../escaped"), "asked for was"),
        (Fault::Bare, "as a hub does"),
    ] {
        let cache = tempfile::tempdir().unwrap();
        server.fault("model_index.json", Some(fault));
        assert_says(open(&server.hub(&cache)), &["org/model", "model_index.json", says]);
    }
}

#[test]
fn models_that_cannot_run_are_not_fetched() {
    let without = |gone: &str| files().into_iter().filter(|(path, _)| !path.contains(gone)).collect::<Vec<_>>();
    let mut other = files();
    other[0].1 = br#"{"_class_name":"WanPipeline"}"#.to_vec();
    let pickled: Vec<_> = files()
        .into_iter()
        .filter(|(path, _)| !path.starts_with("transformer/") || !path.contains("safetensors"))
        .collect();
    let supported = format!("supported: {}", pipeline());
    let cases: [(Files, &[&str]); 5] = [
        (other, &["WanPipeline", &supported]),
        (pickled, &["transformer/diffusion_pytorch_model.bin", "never opened"]),
        (without("text_encoder/model"), &["text_encoder has no safetensors"]),
        (without("-00002-of"), &["-00002-of-00002.safetensors is missing"]),
        (without("model_index"), &["model_index.json", "404"]),
    ];
    for (files, says) in cases {
        let (server, cache) = (Server::new(&files), tempfile::tempdir().unwrap());
        assert_says(open(&server.hub(&cache)).map(drop), says);
        let log = server.take_log();
        assert!(!log.iter().any(|line| line.contains("00001-of") || line.contains("spiece")), "{log:?}");
    }
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let (server, cache) = (Server::new(&files()), tempfile::tempdir().unwrap());
    let hub = server.hub(&cache);
    // the first two connections bring something, those after them nothing
    server.fault(TRANSFORMER, Some(Fault::Break(2)));
    assert_says(open(&hub).map(drop), &["org/model", TRANSFORMER, "broke off", "run again"]);
    let parts = || -> Vec<PathBuf> {
        let blobs = std::fs::read_dir(cache.path().join("models--org--model/blobs")).unwrap();
        blobs.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "part")).collect()
    };
    let stored = std::fs::metadata(&parts()[0]).unwrap().len();
    let whole = files().iter().find(|(path, _)| *path == TRANSFORMER).unwrap().1.clone();
    assert_eq!(stored, (whole.len() / 2 + whole.len().div_ceil(2) / 2) as u64);
    // what is there is not taken for the whole
    assert_says(open(&Hub { offline: true, ..hub.clone() }).map(drop), &["incomplete", TRANSFORMER]);

    // a server that sends everything again: the sizes tell, and the file is fetched anew
    server.fault(TRANSFORMER, Some(Fault::IgnoreRange));
    assert!(info(&open(&hub).unwrap()).complete);
    assert!(parts().is_empty());

    // with a server that can go on, the second run sends the rest only
    let cache = tempfile::tempdir().unwrap();
    server.fault(TRANSFORMER, Some(Fault::Break(1)));
    assert_says(open(&server.hub(&cache)).map(drop), &["broke off"]);
    server.fault(TRANSFORMER, None);
    let mut counted = Counted::default();
    let model = ModelFolder::resolve("org/model", || server.hub(&cache), &mut counted).unwrap();
    assert!(counted.arrived.contains(&(whole.len() as u64 / 2)), "{:?}", counted.arrived);
    let fetched = |cache: &TempDir| {
        let snapshot = cache.path().join("models--org--model/snapshots").join(COMMIT);
        std::fs::read(snapshot.join(TRANSFORMER)).unwrap()
    };
    assert!(fetched(&cache) == whole && info(&model).complete);

    // one break in between is mended without a second run
    let cache = tempfile::tempdir().unwrap();
    server.fault(TRANSFORMER, Some(Fault::Hiccup));
    assert!(info(&open(&server.hub(&cache)).unwrap()).complete);
    assert_eq!(server.state.lock().unwrap().faults.get(TRANSFORMER), None);
    assert!(fetched(&cache) == whole);
}

/// A run that was killed between the last byte and the rename leaves a part file of full length.
#[test]
fn a_part_file_of_full_length_is_checked_and_taken_or_fetched_again() {
    let server = Server::new(&files());
    let whole = files().iter().find(|(path, _)| *path == TRANSFORMER).unwrap().1.clone();
    let mut damaged = whole.clone();
    damaged[60_000] ^= 1;
    let longer = [whole.as_slice(), b"x"].concat();
    let half_damaged = damaged[..whole.len() - 9].to_vec();
    for (part, fetched) in
        [(&whole, 1), (&damaged, whole.len()), (&longer, whole.len()), (&half_damaged, 9 + whole.len())]
    {
        let cache = tempfile::tempdir().unwrap();
        let blobs = cache.path().join("models--org--model/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join(sha256(&whole)).with_extension("part"), part).unwrap();
        let mut counted = Counted::default();
        let model = ModelFolder::resolve("org/model", || server.hub(&cache), &mut counted).unwrap();
        assert!(info(&model).complete);
        let snapshot = cache.path().join("models--org--model/snapshots").join(COMMIT);
        assert!(std::fs::read(snapshot.join(TRANSFORMER)).unwrap() == whole);
        let rest: u64 = counted.begun[0].1 - whole.len() as u64;
        assert_eq!(counted.bytes, rest + fetched as u64);
    }
}

#[test]
fn a_look_fetches_no_weights_and_says_how_much_a_run_would() {
    let (server, cache) = (Server::new(&files()), tempfile::tempdir().unwrap());
    let look = Hub { look: true, ..server.hub(&cache) };
    server.fault(TRANSFORMER, Some(Fault::Redirect));
    let mut counted = Counted::default();
    let model = ModelFolder::resolve("org/model", || look.clone(), &mut counted).unwrap();
    let found = info(&model);
    assert!(found.complete && counted.begun.is_empty(), "{found:?}");
    assert_eq!((found.parameters, found.native.map(|native| native.frames)), (100_000 + 2 * 7, Some(9)));
    let weights = files().into_iter().filter(|(path, _)| path.ends_with(".safetensors") && !path.contains(".fp16."));
    let sizes: Vec<u64> = weights.map(|(_, content)| content.len() as u64).collect();
    assert_eq!(found.download, Some(ToDownload { files: sizes.len(), bytes: sizes.iter().sum() }));
    let snapshot = cache.path().join("models--org--model/snapshots").join(COMMIT);
    for (path, content) in files() {
        let small = !path.contains("safetensors") || path.ends_with(".json");
        let unused = ["README.md", "preview.mp4", "transformer/diffusion_pytorch_model.bin"].contains(&path);
        assert_eq!(std::fs::read(snapshot.join(path)).ok(), (small && !unused).then_some(content), "{path}");
    }
    let part = model.part("transformer").unwrap();
    assert_says(part.hash(), &["not downloaded"]);
    // a server without ranges is read no further than the header
    server.fault(TRANSFORMER, Some(Fault::IgnoreRange));
    assert_eq!(ModelFolder::resolve("org/model", || look.clone(), &mut ()).unwrap().to_download(), found.download);
    // what is there already is not counted, and a run fetches the rest
    server.fault(TRANSFORMER, None);
    open(&server.hub(&cache)).unwrap();
    let there = ModelFolder::resolve("org/model", || look, &mut ()).unwrap();
    assert_eq!(there.to_download(), None);
}

#[test]
fn a_network_of_transformers_is_fetched_without_the_rest() {
    let clip = br#"{"model_type":"clip"}"#.to_vec();
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("config.json", clip.clone()),
        ("model.safetensors", small()),
        ("tokenizer.json", b"{}".to_vec()),
        ("pytorch_model.bin", vec![0; 1000]),
        ("README.md", b"a card".to_vec()),
    ];
    let (server, cache) = (Server::new(&files), tempfile::tempdir().unwrap());
    let open = |server: &Server, cache: &TempDir, kind| {
        let network = NetworkFolder::resolve("org/model", kind, || server.hub(cache), &mut ());
        network.map_err(anyhow::Error::from)
    };
    let network = open(&server, &cache, "clip").unwrap();
    assert_eq!((network.name(), network.revision()), ("org/model", Some(COMMIT)));
    assert_eq!(network.read("tokenizer.json").unwrap().as_deref(), Some(&b"{}"[..]));
    assert_eq!(network.read("merges.txt").unwrap(), None);
    let a = network.var_builder(candle_core::DType::F32, &candle_core::Device::Cpu).unwrap().get((2, 2), "a").unwrap();
    assert_eq!(a.to_vec2::<f32>().unwrap(), [[1.0, 2.0], [3.0, 4.0]]);
    let fetched = cache.path().join("models--org--model/snapshots").join(COMMIT);
    assert!(!fetched.join("pytorch_model.bin").exists() && !fetched.join("README.md").exists());
    server.take_log();
    open(&server, &cache, "clip").unwrap();
    assert!(server.take_log().is_empty(), "the second time nothing is asked");

    // another kind of network, and one of pickles alone: refused before anything large is fetched
    let other = tempfile::tempdir().unwrap();
    assert_says(open(&server, &other, "siglip"), &["model_type", "clip", "siglip"]);
    assert!(!server.take_log().iter().any(|line| line.contains("model.safetensors")));
    let pickled = Server::new(&[("config.json", clip), ("pytorch_model.bin", vec![0; 10])]);
    assert_says(open(&pickled, &other, "clip"), &["pytorch_model.bin", "pickled"]);
}

#[test]
fn a_hub_that_falls_silent_is_told_and_given_up() {
    #[derive(Default)]
    struct Silent(usize, u64);
    impl Download for Silent {
        fn silent(&mut self, _: Duration) {
            self.0 += 1;
        }
        fn advance(&mut self, bytes: u64) {
            self.1 += bytes;
        }
    }
    let (server, cache) = (Server::new(&files()), tempfile::tempdir().unwrap());
    let patience = patience::Patience { told: Duration::from_millis(100), most: Duration::from_millis(300) };
    let hub = Hub { patience, ..server.hub(&cache) };
    server.fault(TRANSFORMER, Some(Fault::Silence));
    let mut silent = Silent::default();
    let opened = ModelFolder::resolve("org/model", || hub.clone(), &mut silent).map_err(anyhow::Error::from);
    assert_says(opened, &["nothing has arrived from", "run again"]);
    // what had come is counted, and the silence told until it was too long
    assert!(silent.0 == 2 && silent.1 > 40_000, "{} {}", silent.0, silent.1);
    let parts = std::fs::read_dir(cache.path().join("models--org--model/blobs")).unwrap().flatten();
    assert!(parts.into_iter().any(|file| file.path().extension().is_some_and(|end| end == "part")));
}
