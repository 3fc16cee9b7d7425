//! The jobs file: JSON lines, or TOML with `[defaults]` and `[[job]]`. Every mistake is found, with its line.

use super::{Entry, Fault, Scenes};
use crate::job::settings::{self, Settings};
use crate::job::{Command, read_settings};
use crate::job::{ControlAsked, Keyframe};
use crate::words::unknown;
use anyhow::{Result, anyhow, bail, ensure};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use toml::{Spanned, Table, Value};

/// Jobs of one file, sweeps multiplied out.
pub const MOST_JOBS: usize = 20_000;
/// Bytes of keys and values of all jobs, sweeps and defaults written out: a short file can ask for very many.
const MOST_BYTES: usize = 64 << 20;
/// Characters of an id.
const MOST_ID: usize = 120;

/// Keys of a job beside the settings.
const OWN: [&str; 5] = ["id", "command", "prompt", "script", "prompt_file"];
/// What a job shows, in one of these ways: a job's own takes the place of another in the defaults.
const SCENES: &[&str] = &["prompt", "script", "prompt_file"];
/// Settings whose one value is a list already: these are swept by a list of lists, as `prompt` is.
static LISTS: LazyLock<Vec<String>> = LazyLock::new(Settings::lists);

/// One job as it stands in the file.
struct Row {
    line: usize,
    table: Table,
}

/// Reads the jobs of a file, each of which is handed to `take` and not kept here: settings are large, and there may be very
/// many. `folder` is what `script` and `prompt_file` are relative to; `flags` are those of the command that are no settings,
/// and hold for all jobs.
pub fn read(text: &str, toml: bool, folder: &Path, flags: &[String], mut take: impl FnMut(Entry)) -> Vec<Fault> {
    let mut faults = Vec::new();
    let rows: Box<dyn Iterator<Item = Result<Row, Fault>>> = match toml.then(|| tables(text)) {
        None => Box::new(lines(text)),
        Some(Ok(rows)) => Box::new(rows.into_iter().map(Ok)),
        Some(Err(fault)) => Box::new(std::iter::once(Err(fault))),
    };
    let mut entries = 0;
    let mut position = 0;
    let mut room = MOST_BYTES;
    for row in rows {
        let row = match row {
            Ok(row) => row,
            Err(fault) => {
                faults.push(fault);
                continue;
            }
        };
        let line = row.line;
        position += 1;
        match swept(row, position - 1, &mut room) {
            Ok(jobs) if entries + jobs.len() > MOST_JOBS => {
                faults.push(Fault::at(line, too_much()));
                break;
            }
            Ok(jobs) => {
                for (id, table) in jobs {
                    match entry(line, id, table, folder, flags) {
                        Ok(entry) => {
                            entries += 1;
                            take(entry);
                        }
                        // what is wrong with one value of a sweep is often wrong with all
                        Err(error) => {
                            let fault = Fault::at(line, error);
                            if !faults.contains(&fault) {
                                faults.push(fault);
                            }
                        }
                    }
                }
            }
            Err(error) => faults.push(Fault::at(line, error)),
        }
    }
    faults
}

/// An entry again, from its [`Entry::text`].
pub fn again(line: usize, id: &str, text: &str) -> Result<Entry> {
    // paths have their folder in front already
    entry(line, id.to_owned(), object(serde_json::from_str(text)?)?, Path::new(""), &[])
}

/// JSON lines; blank lines and lines that begin with `#` are left out.
fn lines(text: &str) -> impl Iterator<Item = Result<Row, Fault>> {
    let wanted = text.lines().enumerate().filter(|(_, line)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    });
    wanted.take(MOST_JOBS + 1).enumerate().map(|(count, (index, line))| {
        let line_number = index + 1;
        if count == MOST_JOBS {
            return Err(Fault::at(line_number, too_much()));
        }
        let table = serde_json::from_str(line.trim()).map_err(|error| {
            let column = error.column();
            let message = error.to_string();
            let what = message.split(" at line ").next().unwrap_or_default();
            anyhow!("not JSON: {what} (column {column}); a job is {{\"prompt\": \"..\"}}, one on each line")
        });
        match table.and_then(|value: serde_json::Value| object(value)) {
            Ok(table) => Ok(Row { line: line_number, table }),
            Err(error) => Err(Fault::at(line_number, error)),
        }
    })
}

fn object(value: serde_json::Value) -> Result<Table> {
    let serde_json::Value::Object(fields) = value else { bail!("not a JSON object: a job is {{\"prompt\": \"..\"}}") };
    let said = fields.into_iter().filter(|(_, value)| !value.is_null());
    said.map(|(key, value)| Ok((key, converted(value)?))).collect()
}

fn converted(value: serde_json::Value) -> Result<Value> {
    Ok(match value {
        serde_json::Value::Null => bail!("null in a list: leave it out"),
        serde_json::Value::Bool(value) => Value::Boolean(value),
        serde_json::Value::String(text) => Value::String(text),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Value::Integer(integer),
            // seeds go up to 2^64 - 1 and TOML's integers do not; settings are read from words as well
            _ if number.is_u64() => Value::String(number.to_string()),
            (None, float) => Value::Float(float.ok_or_else(|| anyhow!("{number} is no number"))?),
        },
        serde_json::Value::Array(values) => Value::Array(values.into_iter().map(converted).collect::<Result<_>>()?),
        serde_json::Value::Object(_) => bail!("an object where a value belongs"),
    })
}

/// `[defaults]` and `[[job]]`.
fn tables(text: &str) -> Result<Vec<Row>, Fault> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(default)]
        defaults: Table,
        #[serde(default)]
        job: Vec<Spanned<Table>>,
    }
    let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let file: File = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(1, |span| line(span.start));
        Fault::at(at, anyhow!("{}", error.message()))
    })?;
    let (mut rows, mut room) = (Vec::new(), MOST_BYTES);
    let (mut seen, mut at) = (0, 1);
    for job in file.job {
        // they stand in their order
        let start = job.span().start.clamp(seen, text.len());
        at += text[seen..start].matches('\n').count();
        seen = start;
        let table = job.into_inner();
        let replaced = |key: &str| either().any(|ways| ways.contains(&key) && says(&table, ways));
        let below = file.defaults.iter().filter(|(key, _)| !replaced(key) && !table.contains_key(*key));
        let below: Vec<(&String, &Value)> = below.collect();
        let bytes = below.iter().map(|(key, value)| key.len() + weight(value)).sum::<usize>();
        if rows.len() == MOST_JOBS || bytes > room {
            return Err(Fault::at(at, too_much()));
        }
        room -= bytes;
        let below = below.into_iter().map(|(key, value)| (key.clone(), value.clone()));
        rows.push(Row { line: at, table: below.chain(table).collect() });
    }
    Ok(rows)
}

/// Ways to say one thing.
fn either() -> impl Iterator<Item = &'static [&'static str]> {
    settings::EITHER.iter().map(|ways| &ways[..]).chain([SCENES])
}

fn too_much() -> anyhow::Error {
    anyhow!("with this the file has more than {MOST_JOBS} jobs, or {} MiB of them: split it", MOST_BYTES >> 20)
}

/// About as many bytes as a value takes.
fn weight(value: &Value) -> usize {
    let inside = match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(weight).sum(),
        Value::Table(table) => table.iter().map(|(key, value)| key.len() + weight(value)).sum(),
        _ => 0,
    };
    size_of::<Value>() + inside
}

fn says(table: &Table, keys: &[&str]) -> bool {
    keys.iter().any(|key| table.contains_key(*key))
}

/// A job for each combination of the values of its lists, with their ids: keys in alphabetical order, the last one turning
/// fastest. They take of the `room`, in bytes.
fn swept(row: Row, position: usize, room: &mut usize) -> Result<impl ExactSizeIterator<Item = (String, Table)>> {
    let mut table = row.table;
    let id = match table.remove("id") {
        None => format!("job{}", position + 1),
        Some(Value::String(id)) => id,
        Some(Value::Integer(id)) => id.to_string(),
        Some(other) => bail!("id: {other} is not a name"),
    };
    let lists = table.iter().map(|(key, value)| match value {
        Value::Array(values) if sweeps(key, values) => {
            (values.len(), key.len() + values.iter().map(weight).max().unwrap_or(0))
        }
        value => (1, key.len() + weight(value)),
    });
    let (count, bytes) =
        lists.fold((1usize, MOST_ID), |(count, sum), (values, bytes)| (count.saturating_mul(values), sum + bytes));
    ensure!(count <= MOST_JOBS, "{count} combinations are more than the {MOST_JOBS} jobs of a batch");
    *room = room.checked_sub(count.saturating_mul(bytes)).ok_or_else(too_much)?;
    let (mut fixed, mut lists) = (Table::new(), Vec::new());
    for (key, value) in table {
        match value {
            Value::Array(values) if sweeps(&key, &values) => {
                ensure!(!values.is_empty(), "{key}: an empty list leaves no job: leave it out");
                lists.push((key, values));
            }
            value => drop(fixed.insert(key, value)),
        }
    }
    // one after the other: all of them together are as large as their file is short
    Ok((0..count).map(move |number| {
        let (mut id, mut job, mut later) = (id.clone(), fixed.clone(), count);
        for (key, values) in &lists {
            later /= values.len();
            let index = number / later % values.len();
            id.push_str(&format!("-{key}{}", shown(index, &values[index])));
            job.insert(key.clone(), values[index].clone());
        }
        (id, job)
    }))
}

fn sweeps(key: &str, values: &[Value]) -> bool {
    !(key == "prompt" || LISTS.iter().any(|list| list == key))
        || (!values.is_empty() && values.iter().all(Value::is_array))
}

/// A value of a sweep as part of an id: itself where it is short and plain, else its number.
fn shown(index: usize, value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(_) => String::new(),
        other => other.to_string(),
    };
    let text = text.replace(':', "");
    if !text.is_empty() && text.len() <= 24 && text.chars().all(plain) { text } else { (index + 1).to_string() }
}

/// Ids become parts of file names.
fn plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

fn entry(line: usize, id: String, mut table: Table, folder: &Path, flags: &[String]) -> Result<Entry> {
    ensure!(
        !id.is_empty() && id.len() <= MOST_ID && id.chars().all(plain) && !id.starts_with('.'),
        "id {id:?}: an id is letters, digits, - _ and . (not first), up to {MOST_ID}"
    );
    let known: Vec<&str> = OWN.into_iter().chain(Settings::names()).collect();
    for key in ["script", "prompt_file", "init_noise", "mask", "first_frame", "image", "last_image", "video"] {
        if let Some(Value::String(path)) = table.get_mut(key)
            && !path.is_empty()
            && path != "-"
        {
            *path = folder.join(&*path).to_string_lossy().into_owned();
        }
    }
    match table.get_mut("keyframe") {
        Some(Value::Array(keyframes)) => keyframes.iter_mut().for_each(|keyframe| beside(keyframe, folder)),
        Some(keyframe) => beside(keyframe, folder),
        None => {}
    }
    match table.get_mut("control") {
        Some(Value::Array(controls)) => controls.iter_mut().for_each(|control| within(control, folder)),
        Some(control) => within(control, folder),
        None => {}
    }
    let text = serde_json::to_string(&table)?.into_boxed_str();
    for key in table.keys() {
        // pools of threads are made once in a process
        let flag = if key == "threads" { Some("threads") } else { flag(flags, key) };
        if let Some(flag) = flag {
            bail!("{key} holds for the whole batch: use --{flag} on the command line");
        }
        if !known.contains(&key.as_str()) {
            return Err(unknown("key", key, &known));
        }
    }
    let command = match table.remove("command") {
        None => Command::MultiPrompt,
        Some(Value::String(word)) if word == "generate" => Command::Generate,
        Some(Value::String(word)) if ["multi-prompt", "multi_prompt"].contains(&word.as_str()) => Command::MultiPrompt,
        Some(Value::String(word)) if word == "animate" => Command::Animate,
        Some(Value::String(word)) if word == "interpolate" => Command::Interpolate,
        Some(Value::String(word)) if word == "extend" => Command::Extend,
        Some(other) => bail!("command: {other} (known: generate, multi-prompt, animate, interpolate, extend)"),
    };
    let path = |key: &str, value: Value| match value {
        Value::String(path) if !path.is_empty() && path != "-" => Ok(PathBuf::from(path)),
        other => Err(anyhow!("{key}: {other} is not a file")),
    };
    let given = [table.remove("prompt"), table.remove("script"), table.remove("prompt_file")];
    let scenes = match given {
        [Some(prompt), None, None] => Scenes::Prompts(prompts(prompt)?),
        [None, Some(script), None] => Scenes::Script(path("script", script)?),
        [None, None, Some(file)] => Scenes::Lines(path("prompt_file", file)?),
        [None, None, None] if command == Command::Interpolate => Scenes::Prompts(Vec::new()),
        [None, None, None] => bail!("no prompt: say prompt, script or prompt_file"),
        _ => bail!("prompt, script and prompt_file all say what is to be seen: leave all out but one"),
    };
    let settings: Settings = read_settings(table)?;
    Ok(Entry { line, id, command, scenes, settings, text })
}

/// The file of a keyframe from where the batch lies; what is none is told when the settings are read.
fn beside(keyframe: &mut Value, folder: &Path) {
    if let Value::String(text) = keyframe
        && let Ok(asked) = text.parse::<Keyframe>()
    {
        *text = Keyframe { file: folder.join(&asked.file), ..asked }.to_string();
    }
}

/// The file of a control from where the batch lies; what is no control is told when the settings are read.
fn within(control: &mut Value, folder: &Path) {
    if let Value::String(text) = control
        && let Ok(asked) = text.parse::<ControlAsked>()
    {
        *text = ControlAsked { file: folder.join(&asked.file), ..asked }.to_string();
    }
}

fn prompts(value: Value) -> Result<Vec<String>> {
    match value {
        Value::String(prompt) => Ok(vec![prompt]),
        Value::Array(prompts) => prompts
            .into_iter()
            .map(|prompt| match prompt {
                Value::String(prompt) => Ok(prompt),
                other => bail!("prompt: {other} is not a text"),
            })
            .collect(),
        other => bail!("prompt: {other} is neither a text nor a list of texts"),
    }
}

/// The flag of which a key would be the key.
fn flag<'f>(flags: &'f [String], key: &str) -> Option<&'f str> {
    flags.iter().find(|flag| flag.replace('-', "_") == key).map(String::as_str)
}

/// Where the paths in a jobs file begin.
pub fn folder(file: &Path) -> PathBuf {
    if file.as_os_str() == "-" { PathBuf::new() } else { file.parent().map(Path::to_path_buf).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(text: &str, toml: bool) -> Vec<Entry> {
        let mut entries = Vec::new();
        let faults = read(text, toml, Path::new("there"), &[], |entry| entries.push(entry));
        assert!(faults.is_empty(), "{faults:?}");
        for entry in &entries {
            assert_eq!(again(entry.line, &entry.id, &entry.text).unwrap(), *entry);
        }
        entries
    }

    fn faults(text: &str, toml: bool) -> Vec<String> {
        read(text, toml, Path::new(""), &["dry-run".to_owned()], drop).iter().map(|fault| fault.line("f")).collect()
    }

    #[test]
    fn lines_are_jobs() {
        let text = "# two jobs\n\n{\"id\": \"a1\", \"prompt\": [\"x\", \"y\"], \"seed\": 18446744073709551615}\n\
                    {\"script\": \"s.toml\", \"steps\": 3, \"output\": null}\n";
        let jobs = jobs(text, false);
        assert_eq!((jobs[0].line, jobs[0].id.as_str()), (3, "a1"));
        assert_eq!(jobs[0].scenes, Scenes::Prompts(vec!["x".into(), "y".into()]));
        assert_eq!(jobs[0].settings.seed.unwrap().to_string(), u64::MAX.to_string());
        assert_eq!((jobs[1].line, jobs[1].id.as_str()), (4, "job2"));
        assert_eq!(jobs[1].scenes, Scenes::Script("there/s.toml".into()));
        assert_eq!((jobs[1].settings.steps, &jobs[1].settings.output), (Some(3), &None));
    }

    #[test]
    fn lists_are_swept_in_one_order() {
        let text = "[defaults]\nsteps = 3\nframes = 5\nprompt = \"x\"\n\n[[job]]\nid = \"a\"\nseed = [1, 2]\n\
                    guidance_scale = [4, \"wave:6\"]\n\n[[job]]\nid = \"b\"\nduration = \"2s\"\n\
                    prompt = [[\"p\", \"q\"], [\"r\"]]\nsubject = [\"ball\", \"box\"]\n";
        let jobs = jobs(text, true);
        let ids: Vec<&str> = jobs.iter().map(|job| job.id.as_str()).collect();
        let sweep = ["4-seed1", "4-seed2", "wave6-seed1", "wave6-seed2"].map(|rest| format!("a-guidance_scale{rest}"));
        assert_eq!(ids, [&sweep[0], &sweep[1], &sweep[2], &sweep[3], "b-prompt1", "b-prompt2"]);
        assert_eq!(jobs.iter().map(|job| job.line).collect::<Vec<_>>(), [6, 6, 6, 6, 11, 11]);
        assert_eq!(jobs[4].scenes, Scenes::Prompts(vec!["p".into(), "q".into()]));
        assert_eq!(jobs[4].settings.subject.as_ref().unwrap().len(), 2);
        assert!(jobs.iter().all(|job| job.settings.steps == Some(3)));
        assert!(jobs[4].settings.frames.is_none(), "the job's duration takes the place of the defaults' frames");
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let text = "{\"prompt\": \"x\", \"step\": 3}\n{\"prompt\": \"x\"\n[1]\n{\"steps\": 3}\n{\"prompt\": \"x\", \"steps\": []}\n\
                    {\"prompt\": \"x\", \"threads\": 3}\n{\"id\": \"a/b\", \"prompt\": \"x\"}\n{\"prompt\": 3}\n\
                    {\"prompt\": \"x\", \"steps\": \"many\"}\n{\"prompt\": \"x\", \"script\": \"y\"}\n\
                    {\"prompt\": \"x\", \"dry_run\": true}\n";
        let faults = faults(text, false);
        for (line, word) in [
            (1, "did you mean steps?"),
            (2, "a job is {"),
            (3, "not a JSON object"),
            (4, "no prompt"),
            (5, "an empty list"),
            (6, "--threads"),
            (11, "--dry-run"),
            (7, "an id is"),
            (8, "neither a text"),
            (9, "steps: invalid type"),
            (10, "leave all out but one"),
        ] {
            let start = format!("f:{line}: ");
            let told = faults.iter().find(|fault| fault.starts_with(&start)).unwrap_or_else(|| panic!("{faults:?}"));
            assert!(told.contains(word), "{told}");
        }
        assert_eq!(faults.len(), 11, "{faults:?}");
    }

    #[test]
    fn mistakes_in_toml_have_lines() {
        assert!(self::faults("[[job]]\nprompt = \"x\"\nsteps = = 2\n", true)[0].starts_with("f:3: "));
        assert!(self::faults("[default]\nsteps = 2\n", true)[0].starts_with("f:1: unknown field"));
        let swept = self::faults("\n[[job]]\nprompt = \"x\"\nseed = [1, 2]\nstep = 3\n", true);
        assert_eq!(swept.len(), 1, "{swept:?}");
        let wide = format!("[[job]]\nprompt = \"x\"\nseed = {0:?}\nsteps = {0:?}\n", (1..400).collect::<Vec<_>>());
        assert!(self::faults(&wide, true)[0].contains("combinations"));
    }

    #[test]
    fn short_files_that_ask_for_very_much_are_refused() {
        let list = (0..100).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
        let long = "x".repeat(60_000);
        let swept = format!("[[job]]\nprompt = \"{long}\"\nseed = [{list}]\nsteps = [{list}]\n");
        assert!(self::faults(&swept, true)[0].contains("MiB"), "10,000 copies of a long prompt");
        let jobs = "\n[[job]]".repeat(3000);
        let defaults = format!("[defaults]\nprompt = \"{long}\"\n{jobs}\n");
        let told = self::faults(&defaults, true);
        assert!(told.len() == 1 && told[0].contains("MiB"), "{}", told[0]);
        let line = 3 + (MOST_BYTES / long.len()); // about
        let at: usize = told[0].split(':').nth(1).unwrap().parse().unwrap();
        assert!(at > line / 2 && at < line + 2, "{at}");
        let lines = "{\"prompt\": \"x\"}\n".repeat(MOST_JOBS + 1);
        let told = self::faults(&lines, false);
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with(&format!("f:{}: ", MOST_JOBS + 1)), "{}", told[0]);
    }
}
