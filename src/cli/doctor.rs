//! `doctor`: what is wrong with this installation; `devices`: what there is to compute with.

use super::{
    report,
    table::{aligned, headed},
};
use crate::estimate::{DeviceInfo, check_device, devices};
use crate::run::{self, Code, Failure, human_bytes, print, speed};
use crate::video;
use crate::weights::{self, ModelFolder};
use serde::Serialize;
use serde_json::json;
use std::path::{Path, PathBuf};

const DOCTOR: &str = "\
Examples:
  vidgen doctor
  vidgen doctor --json | jq '.checks[] | select(.state != \"ok\")'

The exit code is 1 where something does not work. Warnings are about what works, but not as well as it could.";

const DEVICES: &str = "\
Examples:
  vidgen devices
  vidgen devices --json | jq -r '.devices[] | select(.available) | .name'";

#[derive(Debug, clap::Args)]
#[command(after_help = DOCTOR)]
pub struct Doctor {}

#[derive(Debug, clap::Args)]
#[command(after_help = DEVICES)]
pub struct Devices {}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum CheckState {
    Ok,
    Warning,
    Failed,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: CheckState,
    detail: String,
}

/// Less than this is little for a run of a small model, in bytes.
const LITTLE_MEMORY: u64 = 500_000_000;
const LITTLE_DISK: u64 = 1_000_000_000;

/// Looks at everything a run relies on.
pub fn doctor(json: bool) -> Result<(), Failure> {
    let checks: Vec<Check> = [build(), cpu(), memory(), disk(), encoders(), model(), settings(), gpus()]
        .into_iter()
        .chain(caches())
        .collect();
    let failed = checks.iter().filter(|check| check.state == CheckState::Failed).count();
    if json {
        print(&format!("{}\n", json!({ "ok": failed == 0, "checks": checks })))?
    } else {
        let row = |check: &Check| {
            let state = match check.state {
                CheckState::Ok => "ok",
                CheckState::Warning => "warning",
                CheckState::Failed => "FAILED",
            };
            [check.name.to_owned(), state.to_owned(), check.detail.clone()]
        };
        print(&aligned(&checks.iter().map(row).collect::<Vec<_>>()))?;
    }
    match failed {
        0 => Ok(()),
        1 => Err(Failure::message(Code::Failed, "one check failed")),
        failed => Err(Failure::message(Code::Failed, format!("{failed} checks failed"))),
    }
}

fn check(name: &'static str, state: CheckState, detail: impl Into<String>) -> Check {
    Check { name, state, detail: detail.into() }
}

fn build() -> Check {
    let features = [("video", video::library().is_some()), ("hub", weights::downloads())];
    let on: Vec<&str> = features.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    let kind = if cfg!(debug_assertions) { "debug build, slow" } else { "release build" };
    let state = if cfg!(debug_assertions) { CheckState::Warning } else { CheckState::Ok };
    check("build", state, format!("vidgen {}, {kind}, features: {}", env!("CARGO_PKG_VERSION"), on.join(" ")))
}

fn cpu() -> Check {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let kernels = devices().into_iter().next().map(|cpu| cpu.detail).unwrap_or_default();
    let speed = match speed::kept(threads) {
        Some(speed) => format!("{:.0} GFLOP/s in the transformer", 2.0 * speed.linear / 1e9),
        None => "speed not measured yet (vidgen plan does)".to_owned(),
    };
    let plain = kernels.ends_with("plain");
    let state = if plain { CheckState::Warning } else { CheckState::Ok };
    check("processor", state, format!("{}, {kernels}, {threads} threads, {speed}", run::manifest::cpu()))
}

fn memory() -> Check {
    match run::available_memory() {
        None => check("memory", CheckState::Warning, "the system does not tell"),
        Some(bytes) if bytes < LITTLE_MEMORY => {
            check("memory", CheckState::Warning, format!("{} free", human_bytes(bytes)))
        }
        Some(bytes) => check("memory", CheckState::Ok, format!("{} free", human_bytes(bytes))),
    }
}

fn disk() -> Check {
    let here = PathBuf::from(".");
    if let Err(error) = run::writable(&here) {
        return check("disk", CheckState::Failed, format!("the working directory cannot be written: {error:#}"));
    }
    match run::free_disk(&here) {
        None => check("disk", CheckState::Ok, "the working directory can be written"),
        Some(bytes) => {
            let state = if bytes < LITTLE_DISK { CheckState::Warning } else { CheckState::Ok };
            check("disk", state, format!("{} free in the working directory", human_bytes(bytes)))
        }
    }
}

fn encoders() -> Check {
    let Some(library) = video::library() else {
        return check("encoders", CheckState::Warning, "no FFmpeg in this build: .gif, .y4m and PNGs only");
    };
    let names = video::encoders();
    match video::h264_works() {
        Ok(codec) if codec == "libx264" => {
            check("encoders", CheckState::Ok, format!("FFmpeg {library}: {}", names.join(" ")))
        }
        Ok(codec) => {
            let detail = format!("FFmpeg {library} has no libx264, .mp4 is {codec}: {}", names.join(" "));
            check("encoders", CheckState::Warning, detail)
        }
        Err(error) => check("encoders", CheckState::Failed, format!("FFmpeg {library}: {error:#}")),
    }
}

fn model() -> Check {
    let model = ModelFolder::embedded();
    let info = weights::info(&model);
    if let Some(problem) = info.parts.iter().find_map(|part| part.problem.clone()) {
        return check("built-in model", CheckState::Failed, problem);
    }
    let hashes = model.family().weighted().map(|part| model.part(part.name).and_then(|part| part.hash()));
    match hashes.collect::<anyhow::Result<Vec<String>>>() {
        Ok(hashes) => {
            let short: Vec<&str> = hashes.iter().map(|hash| hash.get(..12).unwrap_or(hash)).collect();
            check("built-in model", CheckState::Ok, format!("{}, blake3 {}", human_bytes(info.bytes), short.join(" ")))
        }
        Err(error) => check("built-in model", CheckState::Failed, format!("{error:#}")),
    }
}

fn settings() -> Check {
    match (report::check_files(), run::config::read()) {
        (Ok(_), Ok(files)) if files.is_empty() => check("settings files", CheckState::Ok, "none"),
        (Ok(_), Ok(files)) => {
            let names: Vec<String> = files.iter().map(|(path, _)| path.display().to_string()).collect();
            check("settings files", CheckState::Ok, names.join(", "))
        }
        (Err(failure), _) | (_, Err(failure)) => check("settings files", CheckState::Failed, failure.line()),
    }
}

fn gpus() -> Check {
    let gpus: Vec<DeviceInfo> = devices().into_iter().filter(|device| device.name != "cpu").collect();
    let silent = gpus.iter().any(|device| device.built && !device.available);
    let mut state = if silent { CheckState::Warning } else { CheckState::Ok };
    let mut shown = Vec::with_capacity(gpus.len());
    for device in &gpus {
        let checked = device.available.then(|| check_device(&device.name)).flatten();
        let verdict = match checked {
            None => String::new(),
            Some(Ok(worst)) => {
                format!(", computes what the CPU does (at most {:.0} % of the margin)", 100.0 * worst)
            }
            Some(Err(wrong)) => {
                state = CheckState::Failed;
                format!(", DOES NOT COMPUTE WHAT THE CPU DOES: {wrong}")
            }
        };
        shown.push(format!("{}: {}{verdict}", device.name, device.detail));
    }
    check("gpu", state, shown.join("; "))
}

fn caches() -> Vec<Check> {
    let one = |name, folder: Option<PathBuf>| match folder {
        None => check(name, CheckState::Warning, "no home directory: nothing is kept from run to run"),
        Some(folder) => match run::writable(existing(&folder)) {
            Ok(()) => check(name, CheckState::Ok, folder.display().to_string()),
            Err(error) => {
                check(name, CheckState::Warning, format!("{} cannot be written: {error:#}", folder.display()))
            }
        },
    };
    let models = weights::list();
    let broken: Vec<&str> =
        models.iter().filter(|model| model.problem.is_some()).map(|model| model.name.as_str()).collect();
    let state = if broken.is_empty() { CheckState::Ok } else { CheckState::Warning };
    let detail = if broken.is_empty() {
        format!("{} ready", models.len())
    } else {
        format!("{} at hand; not whole: {}", models.len(), broken.join(", "))
    };
    vec![one("text cache", dirs::cache_dir().map(|folder| folder.join("vidgen"))), check("models", state, detail)]
}

/// The directory itself, or the nearest one above it that exists: where it would be made.
fn existing(folder: &Path) -> &Path {
    folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder)
}

/// Lists devices.
pub fn list(json: bool) -> Result<(), Failure> {
    let devices = devices();
    let memory = run::available_memory();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    if json {
        let object = json!({
            "devices": devices, "processor": run::manifest::cpu(), "threads": threads, "memory_available": memory,
        });
        return print(&format!("{object}\n"));
    }
    let head = ["device", "state", "detail"].map(str::to_owned);
    let row = |device: &DeviceInfo| {
        let state = if device.available { "available" } else { "absent" };
        let detail = match (device.name.as_str(), memory) {
            ("cpu", Some(bytes)) => {
                let cpu = run::manifest::cpu();
                format!("{cpu}, {}, {threads} threads, {} free", device.detail, human_bytes(bytes))
            }
            _ => device.detail.clone(),
        };
        [device.name.clone(), state.to_owned(), detail]
    };
    print(&headed(&std::iter::once(head).chain(devices.iter().map(row)).collect::<Vec<_>>()))
}
