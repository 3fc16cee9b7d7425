//! Many jobs from one file, all of them checked before the first is run.
//!
//! A batch is the same list of jobs wherever it is read: ids, seeds and outputs follow from the file alone, so any part of
//! it ([`Shard`]) can be made anywhere, again, and in any order.

mod place;
mod read;
mod shard;

pub use place::Root;
pub use read::{MOST_JOBS, folder, read};
pub use shard::{Asked, Shard};

use crate::job::values::Seed;
use crate::job::{
    Command, Job, OpenedModels, Request, Settings, StageModel, check_single, resolve_among, script_settings,
};
use crate::run::{Code, Failure, Manifest, WithCode};
use crate::storyboard::{Form, Storyboard};
use crate::weights::ToDownload;
use anyhow::{Result, anyhow};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// One job of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Line of the file, from 1.
    pub line: usize,
    pub id: String,
    pub command: Command,
    pub scenes: Scenes,
    pub settings: Settings,
    /// What `read::again` reads it from.
    pub text: Box<str>,
}

/// What a job shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Scenes {
    Prompts(Vec<String>),
    Script(PathBuf),
    Lines(PathBuf),
}

/// A mistake in the file.
#[derive(Debug)]
pub struct Fault {
    pub line: usize,
    failure: Failure,
}

impl Fault {
    /// With [`Code::Usage`] unless the error says otherwise.
    pub fn at(line: usize, error: impl Into<anyhow::Error>) -> Self {
        let failure = Failure::from(error.into());
        match failure.code {
            Code::Failed => Self { line, failure: Failure::message(Code::Usage, failure.line()) },
            _ => Self { line, failure },
        }
    }

    pub fn code(&self) -> Code {
        self.failure.code
    }

    /// `name:line: what is wrong`.
    pub fn line(&self, name: &str) -> String {
        format!("{name}:{}: {}", self.line, self.failure.line())
    }
}

impl PartialEq for Fault {
    fn eq(&self, other: &Self) -> bool {
        (self.line, self.failure.line()) == (other.line, other.failure.line())
    }
}

/// One video of the batch: what has to be known of it before its turn, in some hundred bytes. Its [`Item::job`] takes a
/// thousand times as much.
#[derive(Debug, Clone)]
pub struct Item {
    /// Among all of the batch, from 0.
    pub index: usize,
    pub line: usize,
    pub id: Box<str>,
    pub seed: u64,
    pub frames: usize,
    pub output: PathBuf,
    /// Other files that it writes.
    beside: Box<[PathBuf]>,
    pub loads: Rc<Loads>,
    /// How its entry is written, the length of its entry's id, and its number among the videos of the entry.
    text: Rc<str>,
    own: usize,
    number: usize,
}

/// What is loaded for a job: jobs of the same are run together.
#[derive(Debug, Clone, PartialEq)]
pub struct Loads {
    pub model: String,
    place: String,
    dtype: &'static str,
    device: String,
    /// What has to be fetched first.
    pub download: Option<ToDownload>,
}

/// What is to be done about an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Todo {
    Render,
    /// The output is there, and its record says that it is this very video (or `--skip-existing` that it does not matter).
    Skip,
}

/// Settings around those of the jobs.
#[derive(Debug, Clone, Default)]
pub struct Around {
    /// Flags and environment.
    pub above: Settings,
    /// Project and user file.
    pub below: Settings,
}

/// The jobs of a file, checked.
#[derive(Debug, Default)]
pub struct Checked {
    /// Those of the part, and what is to be done about each, in the order in which they are run.
    pub items: Vec<(Item, Todo)>,
    /// Of all parts.
    pub total: usize,
    pub faults: Vec<Fault>,
}

/// Resolves every job of a file, one after the other; what is wrong with any of them is among the faults.
pub fn check(file: File, around: &Around, root: &mut Root, shard: Shard) -> Checked {
    let mut checking = Checking {
        around,
        root,
        shard,
        models: OpenedModels::default(),
        items: Vec::new(),
        faults: Vec::new(),
        full: false,
    };
    let mut faults = read::read(file.text, file.toml, file.folder, file.flags, |entry| checking.take(entry));
    faults.append(&mut checking.faults);
    let items = checking.items;
    let total = items.len();
    clashes(&items, &mut faults);
    let mut items: Vec<(Item, Todo)> = items.into_iter().filter_map(|(item, todo)| Some((item, todo?))).collect();
    let mut keys: Vec<Rc<Loads>> = Vec::new();
    for (item, _) in &items {
        if !keys.contains(&item.loads) {
            keys.push(item.loads.clone());
        }
    }
    // those of one model together, so that it loads once; stable
    items.sort_by_key(|(item, _)| keys.iter().position(|key| *key == item.loads));
    Checked { items, total, faults }
}

/// What a jobs file holds.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    pub text: &'a str,
    pub toml: bool,
    /// What its paths are relative to.
    pub folder: &'a Path,
    /// Flags of the command that are no settings.
    pub flags: &'a [String],
}

struct Checking<'a> {
    around: &'a Around,
    root: &'a mut Root,
    shard: Shard,
    models: OpenedModels,
    /// Without what is to be done where another part does it.
    items: Vec<(Item, Option<Todo>)>,
    faults: Vec<Fault>,
    /// There are more than may be.
    full: bool,
}

impl Checking<'_> {
    fn take(&mut self, entry: Entry) {
        if self.full {
            return;
        }
        let line = entry.line;
        let videos = match videos(&entry, self.around) {
            Ok(videos) => videos,
            Err(error) => return self.fault(line, error),
        };
        if self.items.len() + videos.len() > MOST_JOBS {
            self.full = true;
            return self.fault(line, anyhow!("with this the batch has more than {MOST_JOBS} videos: split the file"));
        }
        let text: Rc<str> = entry.text.clone().into();
        for (number, video) in videos.enumerate() {
            let index = self.items.len();
            let last = self.items.last().map(|(item, _)| item.loads.clone());
            match resolved(index, &entry, video, self.root, &mut self.models) {
                Err(error) => self.fault(line, error),
                Ok(resolved) => {
                    let todo = match self.shard.has(index).then(|| resolved.todo()).transpose() {
                        Ok(todo) => todo,
                        Err(error) => {
                            self.fault(line, error);
                            None
                        }
                    };
                    let own = entry.id.len();
                    self.items
                        .push((resolved.item(index, line, Source { text: text.clone(), own, number }, last), todo));
                }
            }
        }
    }

    fn fault(&mut self, line: usize, error: anyhow::Error) {
        let fault = Fault::at(line, error);
        // all jobs of a sweep often have one mistake
        let told = self.faults.iter().rev().take_while(|other| other.line == line).any(|other| *other == fault);
        if !told {
            self.faults.push(fault);
        }
    }
}

/// How an item is found in the file again.
struct Source {
    text: Rc<str>,
    own: usize,
    number: usize,
}

/// A video that an entry asks for: its id, settings and scenes.
struct Video {
    id: String,
    settings: Settings,
    storyboard: Storyboard,
}

/// The videos of an entry: one, or as many as `num_videos` says, with consecutive seeds.
fn videos(entry: &Entry, around: &Around) -> Result<impl ExactSizeIterator<Item = Video>> {
    let mut storyboard = match &entry.scenes {
        // what is seen in a given video needs no prompt
        Scenes::Prompts(prompts) if prompts.is_empty() => Storyboard::of_text(String::new())?,
        Scenes::Prompts(prompts) => Storyboard::from_prompts(prompts)?,
        Scenes::Script(path) => Storyboard::read(path, Form::Script)?,
        Scenes::Lines(path) => Storyboard::read(path, Form::Lines)?,
    };
    let script = script_settings(&mut storyboard)?;
    let settings = around.above.clone().or(entry.settings.clone()).or(script).or(around.below.clone());
    if entry.command == Command::Generate {
        check_single(&storyboard.scenes, &settings)?;
    }
    let seed = settings.seed.unwrap_or_else(|| seed_of(&entry.id));
    let count = settings.num_videos.unwrap_or(1);
    if !(1..=10_000).contains(&count) {
        return Err(anyhow!("num_videos {count}: give 1 to 10000"));
    }
    if count > 1 && settings.init_noise.is_some() {
        return Err(anyhow!("init_noise makes every video the same: leave out num_videos"));
    }
    let own = entry.id.clone();
    let video = move |number: usize| {
        let (seed, suffix) = match seed {
            Seed::Fixed(seed) => {
                let seed = seed.wrapping_add(number as u64);
                (Seed::Fixed(seed), seed.to_string())
            }
            Seed::Random => (Seed::Random, (number + 1).to_string()),
        };
        let id = if count == 1 { own.clone() } else { format!("{own}-seed{suffix}") };
        let settings = Settings { seed: Some(seed), num_videos: None, ..settings.clone() };
        Video { id, settings, storyboard: storyboard.clone() }
    };
    Ok((0..count).map(video))
}

/// The seed of a job that names none: its id's, so that it is the same whenever and wherever the job is run.
fn seed_of(id: &str) -> Seed {
    let hash = blake3::hash(id.as_bytes());
    let bytes = hash.as_bytes();
    Seed::Fixed(u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])))
}

/// A video of the batch with its job.
struct Resolved {
    id: String,
    job: Job,
    /// The seed is another one in every run.
    random: bool,
    overwrite: bool,
    skip: bool,
}

fn resolved(index: usize, entry: &Entry, video: Video, root: &mut Root, models: &mut OpenedModels) -> Result<Resolved> {
    let Video { id, mut settings, storyboard } = video;
    let filled = |template: &str| {
        let seed = match settings.seed {
            Some(Seed::Fixed(seed)) => seed.to_string(),
            _ => "{seed}".to_owned(),
        };
        template.replace("{id}", &id).replace("{index}", &index.to_string()).replace("{seed}", &seed)
    };
    let output = filled(settings.output.as_deref().unwrap_or("{id}.mp4"));
    let latents = settings.save_latents.as_ref().map(|path| filled(&path.to_string_lossy()));
    let preview = settings.preview_path.as_ref().map(|path| filled(&path.to_string_lossy()));
    let output = root.place("output", &output)?;
    let latents = latents.map(|path| root.place("save_latents", &path)).transpose()?;
    settings.output = Some(output);
    settings.save_latents = latents.map(PathBuf::from);
    settings.preview_path = preview.map(|path| root.place("preview_path", &path)).transpose()?.map(PathBuf::from);
    let random = settings.seed == Some(Seed::Random);
    let (overwrite, skip) = (settings.overwrite.unwrap_or(false), settings.skip_existing.unwrap_or(false));
    // what is there already is looked at by `todo`, job by job
    let jobs = resolve_among(models, entry.command, settings.over_existing(), storyboard)?;
    let job = jobs.into_iter().next().ok_or_else(|| anyhow!("no video"))?;
    root.check(&job.output.video.path)?;
    Ok(Resolved { id, job, random, overwrite, skip })
}

/// Two jobs of one id, or one place for two files.
fn clashes(items: &[(Item, Option<Todo>)], faults: &mut Vec<Fault>) {
    let mut ids: HashMap<&str, usize> = HashMap::new();
    for (item, _) in items {
        if let Some(other) = ids.insert(&item.id, item.line) {
            let message = format!("id {:?} is that of line {other} as well: ids tell jobs apart", item.id);
            faults.push(Fault::at(item.line, anyhow!(message)));
        }
    }
    drop(ids);
    let mut places: HashMap<PathBuf, usize> = HashMap::new();
    for (item, _) in items {
        let line = item.line;
        for path in std::iter::once(&item.output).chain(&item.beside) {
            let path = place::one_name(path);
            if let Some(other) = places.insert(path.clone(), line) {
                let shown = path.display();
                let message = if other == line {
                    format!("several of its jobs write {shown}: put {{id}} into the output")
                } else {
                    format!("writes {shown}, as line {other} does: give each job its own output")
                };
                let fault = Fault::at(line, anyhow!(message));
                if !faults.contains(&fault) {
                    faults.push(fault);
                }
            }
        }
    }
    for (path, line) in &places {
        let inside = path.ancestors().skip(1).find_map(|folder| Some((folder, places.get(folder)?)));
        if let Some((folder, other)) = inside {
            let message = format!("writes {} inside {}, which line {other} writes", path.display(), folder.display());
            faults.push(Fault::at(*line, anyhow!(message)));
        }
    }
}

impl Item {
    /// The job, resolved again.
    ///
    /// # Errors
    /// What has changed since it was checked and does not work any more.
    pub fn job(&self, around: &Around, root: &mut Root) -> Result<Job, Failure> {
        let mut job = || {
            let entry = read::again(self.line, &self.id[..self.own], &self.text)?;
            let mut video = videos(&entry, around)?.nth(self.number).ok_or_else(|| anyhow!("no video"))?;
            // one that was drawn has been told
            video.settings.seed = Some(Seed::Fixed(self.seed));
            Ok::<_, anyhow::Error>(resolved(self.index, &entry, video, root, &mut OpenedModels::default())?.job)
        };
        job().code(Code::Usage)
    }
}

impl Resolved {
    /// What is kept of it. `last`: what the job before it loads, which is often the same.
    fn item(self, index: usize, line: usize, source: Source, last: Option<Rc<Loads>>) -> Item {
        let job = self.job;
        let (StageModel { folder, .. }, compute) = (&job.first().model, &job.first().compute);
        let loads = Loads {
            model: folder.name().to_owned(),
            place: folder.place(),
            dtype: compute.dtype.as_str(),
            device: compute.device_name(),
            download: folder.to_download(),
        };
        let frames = job.output.frames(job.last().frames());
        let loads = last.filter(|last| **last == loads).unwrap_or_else(|| Rc::new(loads));
        let beside = job.output.latents.into_iter().chain(job.output.preview.map(|preview| preview.path)).collect();
        let (id, mut output) = (self.id.into_boxed_str(), job.output.video.path);
        output.shrink_to_fit();
        let Source { text, own, number } = source;
        Item { index, line, id, seed: job.seed, frames, output, beside, loads, text, own, number }
    }

    /// Looks whether the video is there already.
    ///
    /// # Errors
    /// Another video is: `-y` replaces it.
    fn todo(&self) -> Result<Todo> {
        let path = &self.job.output.video.path;
        if !path.exists() {
            return Ok(Todo::Render);
        }
        let why = match self.made() {
            Ok(true) => return Ok(Todo::Skip),
            Ok(false) => "was made from other settings".to_owned(),
            Err(failure) => failure.line(),
        };
        match (self.skip, self.overwrite) {
            (true, _) => Ok(Todo::Skip),
            (_, true) => Ok(Todo::Render),
            _ => Err(anyhow!("{} exists ({why}): use -y to replace it, --skip-existing to leave it", path.display())),
        }
    }

    /// Whether the video that is there is this one.
    fn made(&self) -> Result<bool, Failure> {
        let manifest = Manifest::read(&self.job.output.video.path)?;
        let mut there = Request::of_manifest(&manifest).code(Code::Failed)?;
        let mut here = self.job.request.of_frames();
        if self.random {
            there.settings.seed = None;
            here.settings.seed = None;
        }
        // a model is what its weights are, whatever it is called and wherever it stands
        let same_weights = manifest.model.hashes.iter().all(|(part, hash)| {
            self.job.first().model.folder.part(part).and_then(|part| part.hash()).is_ok_and(|found| found == *hash)
        });
        let called = there.settings.model.take() == here.settings.model.take();
        let weights = if manifest.model.hashes.is_empty() || self.job.first().model.folder.to_download().is_some() {
            called
        } else {
            same_weights
        };
        Ok(there == here && weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_of_jobs_without_one_are_their_ids() {
        assert_eq!(seed_of("a1"), seed_of("a1"));
        assert_ne!(seed_of("a1"), seed_of("a2"));
    }
}
