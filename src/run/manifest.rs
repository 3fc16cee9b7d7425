//! The record of a run: everything that decides the frames, so that a video can be rendered again, and facts about the
//! run itself.
//!
//! Two places hold it. Embedded in the video it says what decides the bytes and nothing else, so the same command writes
//! the same file. The sidecar `OUTPUT.json` also holds [`RunFacts`]: when, how long, on what.

use super::event::{Event, Observer, Phase};
use super::exit::{Code, Failure, WithCode};
use super::text::read_text;
use super::time;
use crate::disk;
use crate::video::{self, Fault};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

/// The `schema` of manifests that this version writes and reads.
pub const SCHEMA: &str = "vidgen.manifest.v1";

/// A record is some kilobytes; a thousand prompts make a megabyte.
const MOST_BYTES: u64 = 16 << 20;

/// What was run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub schema: String,
    /// Version of vidgen.
    pub version: String,
    /// `generate`, `multi-prompt`.
    pub command: String,
    /// Final texts in order, style included.
    pub prompts: Vec<String>,
    pub seed: u64,
    pub model: ModelRecord,
    /// Every effective setting, under the name of its flag with underscores.
    pub settings: Map<String, Value>,
    /// What was asked for, as `job::Request` writes it: resolved again it is the same run.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub request: Value,
    pub output: OutputRecord,
    /// How the run went; in sidecars only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunFacts>,
}

/// Which weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRecord {
    pub name: String,
    /// Commit of a hub model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Pipeline class.
    pub class: String,
    /// blake3 of the weights by part.
    pub hashes: BTreeMap<String, String>,
}

/// How the frames were compressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputRecord {
    /// The encoder's name: `libx264`, `gif`, `png`, ...
    pub codec: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pix_fmt: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crf: Option<u32>,
}

/// How a run went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFacts {
    /// RFC 3339, UTC.
    pub started: String,
    pub seconds: PhaseSeconds,
    /// Peak resident memory of the process in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory: Option<u64>,
    pub cpu: String,
    pub os: String,
    pub threads: usize,
    /// Where the weights were that were not at work, as `--offload` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offload: Option<String>,
}

/// Seconds of each stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseSeconds {
    pub load: f64,
    pub encode: f64,
    pub denoise: f64,
    /// Frames are compressed while others are decoded; this is until the last frame was decoded.
    pub decode: f64,
    /// From then until the file was whole.
    #[serde(default)]
    pub mux: f64,
    pub total: f64,
}

impl Manifest {
    /// What goes into the video: one line of JSON without [`RunFacts`].
    pub fn embedded_json(&self) -> Result<String> {
        Ok(serde_json::to_string(&Self { run: None, ..self.clone() })?)
    }

    /// What goes beside it: all of it, readable.
    pub fn sidecar_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Writes the sidecar of a video at `output`, whole or not at all; returns its path, none for standard output. One that
    /// is there already is replaced only with `overwrite`.
    pub fn write_sidecar(&self, output: &Path, overwrite: bool) -> Result<Option<PathBuf>> {
        let Some(path) = sidecar_path(output) else { return Ok(None) };
        if !overwrite && path.exists() {
            bail!("{} exists: use --overwrite (-y) or another output", path.display())
        }
        if let Err(error) = disk::write_whole(&path, self.sidecar_json()?.as_bytes(), true) {
            bail!("cannot write {}: {error}", path.display())
        }
        Ok(Some(path))
    }

    /// Reads the record of a video, or a sidecar itself (`.json`). What a video says about itself counts; how the run went
    /// comes from a sidecar that says the same. A video that holds no record (y4m, or `--manifest sidecar`) has its
    /// sidecar's.
    ///
    /// Errors: no such file, a file that is no video ([`Code::Usage`]); no record, or a damaged one ([`Code::Failed`]).
    pub fn read(path: &Path) -> Result<Self, Failure> {
        if path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("json")) {
            return Ok(Self::parse(&bounded(path).code(Code::Usage)?).with_context(|| path.display().to_string())?);
        }
        let embedded = video::metadata(path).map_err(|error| {
            let input = matches!(video::fault(&error), Some(Fault::Input | Fault::Usage));
            Failure::new(if input { Code::Usage } else { Code::Failed }, error)
        })?;
        // any program may have left a comment there
        let embedded = embedded.filter(|text| text.contains("vidgen.manifest."));
        let embedded =
            embedded.map(|text| Self::parse(&text)).transpose().with_context(|| path.display().to_string())?;
        let beside = sidecar_path(path).filter(|path| path.exists());
        let sidecar = beside
            .as_deref()
            .map(|path| bounded(path).and_then(|text| Self::parse(&text)).with_context(|| path.display().to_string()));
        match (embedded, sidecar) {
            (Some(embedded), Some(Ok(sidecar))) if (Self { run: None, ..sidecar.clone() }) == embedded => Ok(sidecar),
            (Some(embedded), _) => Ok(embedded),
            (None, Some(sidecar)) => Ok(sidecar?),
            (None, None) => Err(Failure::message(
                Code::Failed,
                format!(
                    "{}: no record of vidgen in it, nor beside it: another program made it, or it was made with --manifest \
                     none",
                    path.display()
                ),
            )),
        }
    }

    /// Reads a record. Errors name what is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("no record of vidgen: not JSON")?;
        match value["schema"].as_str() {
            Some(SCHEMA) => {}
            Some(other) if other.starts_with("vidgen.manifest.") => {
                bail!("written by another version of vidgen: schema {other:?}, this version reads {SCHEMA:?}")
            }
            _ => bail!("no record of vidgen: schema is not {SCHEMA:?}"),
        }
        serde_json::from_value(value).context("a damaged record")
    }
}

/// Where the sidecar of an output is: `a.mp4.json` for `a.mp4`, `NAME.json` for a directory `NAME/`, none for standard
/// output.
pub fn sidecar_path(output: &Path) -> Option<PathBuf> {
    if output.as_os_str() == "-" {
        return None;
    }
    let plain: PathBuf = output.components().collect();
    let mut name = plain.file_name()?.to_owned();
    name.push(".json");
    Some(plain.with_file_name(name))
}

fn bounded(path: &Path) -> Result<String> {
    read_text(path, MOST_BYTES, "record of a run")
}

/// An observer that passes events on and measures the stages they begin.
pub struct Stopwatch<'a> {
    inner: &'a mut dyn Observer,
    started: SystemTime,
    begun: Instant,
    /// The stage that runs and when it began.
    current: Option<(Phase, Instant)>,
    seconds: PhaseSeconds,
}

impl<'a> Stopwatch<'a> {
    pub fn new(inner: &'a mut dyn Observer) -> Self {
        Self {
            inner,
            started: SystemTime::now(),
            begun: Instant::now(),
            current: None,
            seconds: PhaseSeconds::default(),
        }
    }

    /// Closes the stage that runs.
    fn lap(&mut self) {
        let now = Instant::now();
        self.seconds.total = (now - self.begun).as_secs_f64();
        let Some((phase, since)) = self.current.take() else { return };
        let slot = match phase {
            Phase::Load => &mut self.seconds.load,
            Phase::Encode => &mut self.seconds.encode,
            Phase::Denoise => &mut self.seconds.denoise,
            Phase::Decode => &mut self.seconds.decode,
            Phase::Mux => &mut self.seconds.mux,
        };
        *slot += (now - since).as_secs_f64();
    }

    /// Closes the last stage and says how the run went.
    pub fn facts(mut self, threads: usize) -> RunFacts {
        self.lap();
        RunFacts {
            started: time::rfc3339(self.started),
            seconds: self.seconds,
            peak_memory: super::peak_memory(),
            cpu: cpu(),
            os: sysinfo::System::long_os_version().unwrap_or_else(|| std::env::consts::OS.to_owned()),
            threads,
            offload: None,
        }
    }
}

impl Observer for Stopwatch<'_> {
    fn event(&mut self, event: &Event) -> Result<()> {
        if let Event::Phase { phase, .. } = event {
            self.lap();
            self.current = Some((*phase, Instant::now()));
        }
        self.inner.event(event)
    }
}

/// The CPU's name.
pub fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn manifest() -> Manifest {
        let settings = json!({ "steps": 50, "guidance_scale": "6", "eta": 0.25, "overwrite": true });
        Manifest {
            schema: SCHEMA.to_owned(),
            version: "0.1.0".to_owned(),
            command: "generate".to_owned(),
            prompts: vec!["a \"ball\"\n\u{1f534}".to_owned()],
            seed: u64::MAX,
            model: ModelRecord {
                name: "toyland".to_owned(),
                revision: None,
                class: "ToyPipeline".to_owned(),
                hashes: BTreeMap::from([("vae".to_owned(), "ab".to_owned())]),
            },
            settings: settings.as_object().unwrap().clone(),
            request: json!({ "command": "generate" }),
            output: OutputRecord { codec: "gif".to_owned(), pix_fmt: None, crf: None },
            run: None,
        }
    }

    fn facts() -> RunFacts {
        Stopwatch::new(&mut ()).facts(2)
    }

    #[test]
    fn a_record_survives_both_forms() {
        let plain = manifest();
        let full = Manifest { run: Some(facts()), ..plain.clone() };
        assert_eq!(Manifest::parse(&full.sidecar_json().unwrap()).unwrap(), full);
        assert_eq!(Manifest::parse(&full.embedded_json().unwrap()).unwrap(), plain);
        assert_eq!(full.embedded_json().unwrap(), plain.embedded_json().unwrap(), "what is embedded knows no clock");
        assert!(!full.embedded_json().unwrap().contains('\n'));
    }

    #[test]
    fn other_json_is_refused() {
        let message = |text: &str| format!("{:#}", Manifest::parse(text).unwrap_err());
        assert!(message("{").contains("not JSON"));
        assert!(message("{}").contains("no record of vidgen"));
        assert!(message("[1]").contains("no record of vidgen"));
        assert!(message(r#"{"schema": "vidgen.manifest.v9"}"#).contains("another version"));
        assert!(message(r#"{"schema": "vidgen.manifest.v1"}"#).contains("missing field"));
    }

    #[test]
    fn sidecars_lie_beside_the_output() {
        let path = |output: &str| sidecar_path(Path::new(output)).map(|path| path.to_str().unwrap().to_owned());
        assert_eq!(path("out/a.mp4").as_deref(), Some("out/a.mp4.json"));
        assert_eq!(path("frames/").as_deref(), Some("frames.json"));
        assert_eq!(path("-"), None);
    }

    #[test]
    fn sidecars_are_whole_and_never_replaced_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("a.y4m");
        let first = Manifest { run: Some(facts()), ..manifest() };
        let path = first.write_sidecar(&output, false).unwrap().unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), first);
        let second = Manifest { seed: 1, ..first.clone() };
        assert!(second.write_sidecar(&output, false).unwrap_err().to_string().contains("exists"));
        assert_eq!(Manifest::read(&path).unwrap(), first);
        second.write_sidecar(&output, true).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), second);
        let nowhere = folder.path().join("none/a.y4m");
        assert!(first.write_sidecar(&nowhere, true).unwrap_err().to_string().contains("cannot write"));
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["a.y4m.json"], "no partial file stays");
        assert!(first.write_sidecar(Path::new("-"), false).unwrap().is_none());
    }

    #[test]
    fn a_video_tells_what_it_is_and_its_sidecar_how_it_was_made() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("a.gif");
        let full = Manifest { run: Some(facts()), ..manifest() };
        let write = |metadata: Option<String>| {
            let mut wanted = video::Output::new(&output, 16, 16, video::Rate { num: 8, den: 1 }).unwrap();
            wanted.metadata = metadata;
            wanted.overwrite = true;
            let mut writer = video::open(&wanted).unwrap();
            writer.write(video::Frame { width: 16, height: 16, data: vec![128; 768] }).unwrap();
            writer.finish().unwrap();
        };
        write(None);
        let failure = Manifest::read(&output).unwrap_err();
        assert_eq!(failure.code, Code::Failed);
        assert!(failure.line().contains("--manifest none"), "{}", failure.line());

        full.write_sidecar(&output, false).unwrap();
        assert_eq!(Manifest::read(&output).unwrap(), full, "the sidecar alone serves");

        write(Some(full.embedded_json().unwrap()));
        assert_eq!(Manifest::read(&output).unwrap(), full);

        Manifest { seed: 2, ..full.clone() }.write_sidecar(&output, true).unwrap();
        assert_eq!(Manifest::read(&output).unwrap(), manifest(), "a sidecar of another run says nothing");

        fs::remove_file(folder.path().join("a.gif.json")).unwrap();
        assert_eq!(Manifest::read(&output).unwrap(), manifest());

        write(Some("made by hand".to_owned()));
        assert!(Manifest::read(&output).unwrap_err().line().contains("another program made it"));
        write(Some(full.embedded_json().unwrap().replace("\"seed\"", "\"sed\"")));
        assert!(Manifest::read(&output).unwrap_err().line().contains("damaged record: missing field `seed`"));
    }

    #[test]
    fn what_cannot_be_read_is_bad_usage() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["none.gif", "none.json"] {
            let failure = Manifest::read(&folder.path().join(name)).unwrap_err();
            assert_eq!(failure.code, Code::Usage, "{}", failure.line());
        }
        let long = folder.path().join("long.json");
        fs::write(&long, vec![b' '; MOST_BYTES as usize + 1]).unwrap();
        assert!(Manifest::read(&long).unwrap_err().line().contains("longer than"));
    }

    #[test]
    fn stages_add_up() {
        let mut inner = ();
        let mut watch = Stopwatch::new(&mut inner);
        let phase = |phase| Event::Phase { phase, of: 0, what: String::new() };
        for stage in [Phase::Load, Phase::Denoise, Phase::Load] {
            watch.event(&phase(stage)).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let facts = watch.facts(3);
        let PhaseSeconds { load, encode, denoise, decode, mux, total } = facts.seconds;
        assert!(load >= 0.04 && denoise >= 0.02 && [encode, decode, mux] == [0.0; 3]);
        assert!(total >= load + denoise && total < load + denoise + 1.0);
        assert!(!facts.cpu.is_empty() && !facts.os.is_empty() && facts.threads == 3);
    }
}
