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

use super::values::Seed;
use super::{Command, Job, Request, Settings, resolve};
use crate::run::{Code, Failure, Manifest, WithCode};
use crate::storyboard::{Form, Storyboard};
use anyhow::{Result, anyhow};
use std::collections::HashMap;
use std::path::PathBuf;

/// One job of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Line of the file, from 1.
    pub line: usize,
    pub id: String,
    pub command: Command,
    pub scenes: Scenes,
    pub settings: Settings,
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

/// One video of the batch.
#[derive(Debug, Clone)]
pub struct Item {
    /// Among all of the batch, from 0.
    pub index: usize,
    pub line: usize,
    pub id: String,
    pub job: Job,
    /// The seed is another one in every run.
    random: bool,
    overwrite: bool,
    skip: bool,
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

/// Resolves every job of a batch; what is wrong with any of them is added to `faults`.
pub fn items(entries: Vec<Entry>, around: &Around, root: &mut Root, faults: &mut Vec<Fault>) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let mut told: HashMap<usize, Vec<String>> = HashMap::new();
    let mut fault = |faults: &mut Vec<Fault>, line: usize, error: anyhow::Error| {
        let fault = Fault::at(line, error);
        let told = told.entry(line).or_default();
        // all jobs of a sweep often have one mistake
        if !told.contains(&fault.failure.line()) {
            told.push(fault.failure.line());
            faults.push(fault);
        }
    };
    for entry in entries {
        let line = entry.line;
        let videos = match videos(&entry, around) {
            Ok(videos) => videos,
            Err(error) => {
                fault(faults, line, error);
                continue;
            }
        };
        if items.len() + videos.len() > MOST_JOBS {
            fault(faults, line, anyhow!("with this the batch has more than {MOST_JOBS} videos: split the file"));
            break;
        }
        for video in videos {
            match item(items.len(), &entry, video, root) {
                Ok(item) => items.push(item),
                Err(error) => fault(faults, line, error),
            }
        }
    }
    clashes(&items, faults);
    items
}

/// A video that an entry asks for: its id, settings and scenes.
struct Video {
    id: String,
    settings: Settings,
    storyboard: Storyboard,
}

/// The videos of an entry: one, or as many as `num_videos` says, with consecutive seeds.
fn videos(entry: &Entry, around: &Around) -> Result<Vec<Video>> {
    let mut storyboard = match &entry.scenes {
        Scenes::Prompts(prompts) => Storyboard::from_prompts(prompts)?,
        Scenes::Script(path) => Storyboard::read(path, Form::Script)?,
        Scenes::Lines(path) => Storyboard::read(path, Form::Lines)?,
    };
    let script = super::script_settings(&mut storyboard)?;
    let settings = around.above.clone().or(entry.settings.clone()).or(script).or(around.below.clone());
    if entry.command == Command::Generate {
        super::check_single(&storyboard.scenes, &settings)?;
    }
    let seed = settings.seed.unwrap_or_else(|| seed_of(&entry.id));
    let count = settings.num_videos.unwrap_or(1);
    if !(1..=10_000).contains(&count) {
        return Err(anyhow!("num_videos {count}: give 1 to 10000"));
    }
    if count > 1 && settings.init_noise.is_some() {
        return Err(anyhow!("init_noise makes every video the same: leave out num_videos"));
    }
    let video = |number: usize| {
        let (seed, suffix) = match seed {
            Seed::Given(seed) => {
                let seed = seed.wrapping_add(number as u64);
                (Seed::Given(seed), seed.to_string())
            }
            Seed::Random => (Seed::Random, (number + 1).to_string()),
        };
        let id = if count == 1 { entry.id.clone() } else { format!("{}-seed{suffix}", entry.id) };
        let settings = Settings { seed: Some(seed), num_videos: None, ..settings.clone() };
        Video { id, settings, storyboard: storyboard.clone() }
    };
    Ok((0..count).map(video).collect())
}

/// The seed of a job that names none: its id's, so that it is the same whenever and wherever the job is run.
fn seed_of(id: &str) -> Seed {
    let hash = blake3::hash(id.as_bytes());
    let bytes = hash.as_bytes();
    Seed::Given(u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])))
}

fn item(index: usize, entry: &Entry, video: Video, root: &mut Root) -> Result<Item> {
    let Video { id, mut settings, storyboard } = video;
    let filled = |template: &str| {
        let seed = match settings.seed {
            Some(Seed::Given(seed)) => seed.to_string(),
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
    let settings = Settings { overwrite: Some(true), skip_existing: None, ..settings };
    let jobs = resolve(entry.command, settings, storyboard)?;
    let job = jobs.into_iter().next().ok_or_else(|| anyhow!("no video"))?;
    root.check(&job.output.path)?;
    Ok(Item { index, line: entry.line, id, job, random, overwrite, skip })
}

/// Two jobs of one id, or one place for two files.
fn clashes(items: &[Item], faults: &mut Vec<Fault>) {
    let mut ids: HashMap<&str, usize> = HashMap::new();
    let mut places: HashMap<PathBuf, usize> = HashMap::new();
    for item in items {
        let line = item.line;
        if let Some(other) = ids.insert(&item.id, line) {
            let message = format!("id {:?} is that of line {other} as well: ids tell jobs apart", item.id);
            faults.push(Fault::at(line, anyhow!(message)));
        }
        let job = &item.job;
        for path in std::iter::once(&job.output.path)
            .chain(&job.save_latents)
            .chain(job.preview.iter().map(|preview| &preview.path))
        {
            let path = place::one_name(path);
            if let Some(other) = places.insert(path.clone(), line) {
                let shown = path.display();
                let message = match other == line {
                    true => format!("several of its jobs write {shown}: put {{id}} into the output"),
                    false => format!("writes {shown}, as line {other} does: give each job its own output"),
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
    /// Looks whether the video is there already.
    ///
    /// # Errors
    /// Another video is: `-y` replaces it.
    pub fn todo(&self) -> Result<Todo> {
        let path = &self.job.output.path;
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
        let manifest = Manifest::read(&self.job.output.path)?;
        let mut there = Request::of_manifest(&manifest).code(Code::Failed)?;
        let mut here = self.job.request.of_frames();
        if self.random {
            there.settings.seed = None;
            here.settings.seed = None;
        }
        Ok(there == here)
    }
}

/// The order in which items are run: as they stand, but those of one model together, so that it loads once.
pub fn order(items: &mut [Item]) {
    let key = |item: &Item| (item.job.model.place(), item.job.dtype.as_str(), item.job.device_name());
    let mut keys = Vec::new();
    for item in items.iter() {
        if !keys.contains(&key(item)) {
            keys.push(key(item));
        }
    }
    items.sort_by_key(|item| keys.iter().position(|other| *other == key(item))); // stable
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
