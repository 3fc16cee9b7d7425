//! Models from a hub that runs in the test: what a look costs, and how a long download is told, stopped and gone on with.
#![cfg(feature = "hub")]

use crate::cli::program::Program;
use crate::common::tiny;
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Bytes that come at once, and the pause after them: about six megabytes a second.
const PIECE: usize = 64 << 10;
const PAUSE: Duration = Duration::from_millis(10);

/// Serves one model, `org/model`, on 127.0.0.1 until the test ends.
fn serve(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let folder = folder.clone();
            // a client that went away is its own affair
            std::thread::spawn(move || answer(stream.unwrap(), &folder).unwrap_or_default());
        }
    });
    endpoint
}

fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        match entry.path().is_dir() {
            true => found.extend(files(&entry.path()).into_iter().map(|inner| format!("{name}/{inner}"))),
            false => found.push(name),
        }
    }
    found
}

fn answer(mut stream: TcpStream, folder: &Path) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = Vec::new();
    for line in reader.by_ref().lines() {
        match line? {
            line if line.is_empty() => break,
            line => head.push(line),
        }
    }
    let path = head.first().and_then(|first| first.split(' ').nth(1)).unwrap_or_default();
    let resolve = format!("/org/model/resolve/{COMMIT}/");
    let Some(name) = path.strip_prefix(&resolve) else {
        let listed = files(folder).into_iter().map(|name| {
            let size = fs::metadata(folder.join(&name)).unwrap().len();
            serde_json::json!({ "rfilename": name, "size": size })
        });
        let body = serde_json::json!({ "sha": COMMIT, "siblings": listed.collect::<Vec<_>>() }).to_string();
        let length = body.len();
        return write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    };
    let data = fs::read(folder.join(name))?;
    let range = head.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    let (from, to) = range.as_deref().and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
    let from = from.parse::<usize>().unwrap().min(data.len());
    let to = to.parse::<usize>().map_or(data.len(), |last| (last + 1).min(data.len()));
    let tag = blake3::hash(name.as_bytes()).to_hex()[..40].to_owned();
    write!(stream, "HTTP/1.1 206 Partial\r\nConnection: close\r\nETag: \"{tag}\"\r\nX-Repo-Commit: {COMMIT}\r\n")?;
    write!(stream, "Content-Length: {}\r\n", to - from)?;
    write!(stream, "Content-Range: bytes {from}-{}/{}\r\n\r\n", to.saturating_sub(1), data.len())?;
    for piece in data[from..to].chunks(PIECE) {
        stream.write_all(piece)?;
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// A program, and a hub with a tiny model whose three networks have 5 MB more than they need.
fn program() -> (Program, String) {
    let program = Program::new();
    let folder = program.path("on-the-hub");
    tiny::write_folder("tiny-2b", "tiny-2b", &folder);
    let weights: Vec<String> = files(&folder).into_iter().filter(|name| name.ends_with(".safetensors")).collect();
    assert_eq!(weights.len(), 3, "{weights:?}");
    for name in weights {
        let mut tensors = candle_core::safetensors::load(folder.join(&name), &Device::Cpu).unwrap();
        tensors.insert("padding".to_owned(), Tensor::zeros(1_250_000, DType::F32, &Device::Cpu).unwrap());
        candle_core::safetensors::save(&tensors, folder.join(&name)).unwrap();
    }
    (program, serve(folder))
}

fn command(program: &Program, endpoint: &str, words: &[&str]) -> Command {
    let mut command = program.command(words);
    command.env("HF_ENDPOINT", endpoint).env("HF_HUB_CACHE", "~/hub");
    command
}

fn cached(program: &Program, name: &str) -> PathBuf {
    program.path("home/hub/models--org--model/snapshots").join(COMMIT).join(name)
}

const GENERATE: [&str; 12] =
    ["generate", "a ball", "-m", "org/model", "--steps", "1", "--frames", "1", "--size", "32x32", "-o", "a.gif"];

fn start(program: &Program, endpoint: &str, progress: &str) -> Child {
    let words = [&GENERATE[..], &["--progress", progress]].concat();
    command(program, endpoint, &words).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Waits for a line, interrupts, and returns the exit code and everything that was said.
fn interrupt_at(mut child: Child, signal: &str, wanted: impl Fn(&str) -> bool) -> (i32, String) {
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    loop {
        let mut line = String::new();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "ended before it was interrupted: {said}");
        said += &line;
        if wanted(&line) {
            break;
        }
    }
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    stderr.read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code().unwrap_or(-1), said)
}

#[cfg(unix)]
#[test]
fn a_download_is_told_stopped_and_gone_on_with() {
    let (program, endpoint) = program();
    let (code, said) = interrupt_at(start(&program, &endpoint, "plain"), "-INT", |line| line.contains(" left"));
    assert_eq!(code, 130, "{said}");
    let begin = said.lines().next().unwrap();
    for words in ["download org/model", " files, ", " MB, to ", "/home/hub"] {
        assert!(begin.contains(words), "{words}: {said}");
    }
    let line = said.lines().find(|line| line.contains(" left")).unwrap();
    assert!(line.contains(" MB of ") && line.contains("MB/s, "), "{line}");
    assert!(said.contains("is kept in") && said.contains("goes on from there"), "{said}");

    let (code, said) = interrupt_at(start(&program, &endpoint, "json"), "-USR1", |line| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["event"] == "download" && event["eta"].is_number()
    });
    assert_eq!(code, 130, "{said}");
    let events: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = events.last().unwrap();
    assert!(last["event"] == "error" && last["message"].as_str().unwrap().contains("goes on from there"), "{last}");
    // it went on: what had arrived is counted at once
    let first = events.iter().find(|event| event["event"] == "download" && event["file"].is_string()).unwrap();
    // of a file, or of all: whole ones are not fetched again
    let arrived = first["bytes"].as_u64().unwrap() > 0 || first["files"].as_u64().unwrap() < 3;
    assert!(arrived && first["rate"].is_null(), "{first}");
    assert!(first["of"].as_u64().unwrap() > 5_000_000, "{first}");

    let done = start(&program, &endpoint, "bar").wait_with_output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success() && said.contains("download org/model"), "{said}");
    let folder = program.path("on-the-hub");
    for name in files(&folder) {
        assert!(fs::read(folder.join(&name)).unwrap() == fs::read(cached(&program, &name)).unwrap(), "{name}");
    }
    assert!(program.path("a.gif").exists());
}

/// Looking at a model fetches its small files, and of the weights the headers.
#[test]
fn a_look_costs_no_weights() {
    let (program, endpoint) = program();
    fs::write(program.path("jobs.jsonl"), "{\"prompt\": \"a ball\", \"model\": \"org/model\", \"size\": \"32x32\"}\n")
        .unwrap();
    let looks: [&[&str]; 5] = [
        &[&GENERATE[..], &["--dry-run"]].concat(),
        &["plan", "a ball", "-m", "org/model", "--size", "32x32"],
        &["multi-prompt", "-p", "a ball", "-p", "a box", "-m", "org/model", "--size", "32x32", "--dry-run"],
        &["batch", "jobs.jsonl", "--dry-run"],
        &["model", "info", "org/model"],
    ];
    for words in looks {
        let done = command(&program, &endpoint, words).output().unwrap();
        let (said, errors) = (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap());
        assert!(done.status.success(), "{words:?}: {errors}");
        assert!(
            said.contains("to download") && said.contains(" MB in 3 files") || said.contains(" MB, 3 files"),
            "{words:?}: {said}"
        );
        assert!(cached(&program, "model_index.json").exists());
        let weights = files(&program.path("home/hub")).into_iter().filter(|name| name.ends_with(".safetensors"));
        assert_eq!(weights.count(), 0, "{words:?}");
        let json = command(&program, &endpoint, &[words, &["--json"]].concat()).output().unwrap();
        let object: Value = serde_json::from_slice(&json.stdout).unwrap();
        let download = if words[0] == "batch" { &object["download"]["org/model"] } else { &object["download"] };
        assert_eq!(
            (download["files"].as_u64(), download["bytes"].as_u64().map(|bytes| bytes / 1_000_000)),
            (Some(3), Some(16))
        );
    }
}
