//! How a command talks: what was asked for by flags, environment and files, and what comes of it.

use super::usage;
use crate::job::{self, values::text};
use crate::run::log::{self, Log};
use crate::run::{Code, Failure, Observer, WithCode, config, progress};
use anyhow::Context;
use clap::ArgAction::Count;
use clap::builder::FalseyValueParser;
use serde::Deserialize;
use std::path::PathBuf;
use toml::Table;

/// What was asked for. As settings are, a field is a flag, its variable and its key in `vidgen.toml`.
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reporting {
    /// How progress is shown, on standard error: auto, bar, plain, json or none [default: auto]
    #[arg(long, global = true, value_name = "HOW", help_heading = "Reporting")]
    #[serde(with = "text")]
    progress: Option<progress::Mode>,
    /// No progress
    #[arg(long, global = true, hide = true, conflicts_with = "progress")]
    #[serde(skip)]
    no_progress: bool,
    /// Print the result as one JSON object on standard output
    #[arg(long, global = true, help_heading = "Reporting")]
    #[arg(num_args = 0, default_missing_value = "true", value_parser = FalseyValueParser::new())]
    json: Option<bool>,
    /// Errors only
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Reporting")]
    #[arg(num_args = 0, default_missing_value = "true", value_parser = FalseyValueParser::new())]
    quiet: Option<bool>,
    /// More about what happens
    #[arg(short, long, global = true, action = Count, help_heading = "Reporting")]
    verbose: u8,
    /// Colours on standard error: auto, always or never [default: auto]
    #[arg(long, global = true, value_name = "WHEN", help_heading = "Reporting")]
    #[serde(with = "text")]
    color: Option<progress::Color>,
    /// Write what happens to a file as well, at its end
    #[arg(long, global = true, value_name = "FILE", help_heading = "Reporting")]
    log_file: Option<PathBuf>,
    /// How much goes to the log file: error, warn, info or debug [default: info]
    #[arg(long, global = true, value_name = "LEVEL", help_heading = "Reporting")]
    #[serde(with = "text")]
    log_level: Option<log::Level>,
}

/// The keys of [`Reporting`] in files.
const KEYS: [&str; 7] = ["progress", "json", "quiet", "verbose", "color", "log_file", "log_level"];

/// How this command talks.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub progress: progress::Mode,
    pub json: bool,
    pub quiet: bool,
    pub verbose: bool,
    pub color: progress::Color,
    /// As it was given, and from anywhere.
    log_file: Option<(PathBuf, PathBuf)>,
    log_level: log::Level,
}

impl Reporting {
    /// With what the project's and the user's file say below it.
    pub fn settled(self) -> Result<Report, Failure> {
        let mut reporting = self;
        for (path, table) in files()? {
            let own: Table = table.into_iter().filter(|(key, _)| KEYS.contains(&key.as_str())).collect();
            let below = job::read_keys("setting", own).with_context(|| path.display().to_string()).code(Code::Usage)?;
            reporting = reporting.or(below);
        }
        reporting.report()
    }

    /// As it was typed, for commands that no file should keep from their work.
    pub fn report(self) -> Result<Report, Failure> {
        let mode = if self.no_progress { progress::Mode::None } else { self.progress.unwrap_or_default() };
        // a command may change its working directory
        let place = |path: PathBuf| std::path::absolute(&path).map(|absolute| (path, absolute));
        Ok(Report {
            progress: mode,
            json: self.json.unwrap_or(false),
            quiet: self.quiet.unwrap_or(false),
            verbose: self.verbose > 0,
            color: self.color.unwrap_or_default(),
            log_file: self.log_file.map(place).transpose()?,
            log_level: self.log_level.unwrap_or_default(),
        })
    }

    fn or(self, lower: Self) -> Self {
        // a flag that makes the program silent is not mixed with a file's that makes it loud
        let verbose = if self.verbose > 0 || self.quiet == Some(true) { self.verbose } else { lower.verbose };
        Self {
            progress: self.progress.or(lower.progress),
            no_progress: self.no_progress,
            json: self.json.or(lower.json),
            quiet: self.quiet.or(lower.quiet.filter(|_| self.verbose == 0)),
            verbose,
            color: self.color.or(lower.color),
            log_file: self.log_file.or(lower.log_file),
            log_level: self.log_level.or(lower.log_level),
        }
    }
}

impl Report {
    pub fn observer(&self) -> Result<Box<dyn Observer>, Failure> {
        let renderer = progress::renderer(self.progress, self.quiet, self.verbose, self.color);
        Ok(match self.log()? {
            Some(log) => Box::new(log::Logged::new(log, renderer)),
            None => renderer,
        })
    }

    pub fn log(&self) -> Result<Option<Log>, Failure> {
        let open = |(shown, path): &(PathBuf, PathBuf)| {
            Log::open(path, self.log_level).with_context(|| format!("--log-file {}", shown.display())).code(Code::Usage)
        };
        self.log_file.as_ref().map(open).transpose()
    }
}

/// The files of settings that exist, the one that counts more first.
///
/// # Errors
/// What cannot be read, and flags that are no settings: a file says how things are done, not what.
fn files() -> Result<Vec<(PathBuf, Table)>, Failure> {
    let files = config::read()?;
    for (path, table) in &files {
        if let Some((key, flag)) = table.keys().find_map(|key| Some((key, usage::no_setting(key)?))) {
            let message =
                format!("{}: {key} is no setting of a project: give {flag} on the command line", path.display());
            return Err(Failure::message(Code::Usage, message));
        }
    }
    Ok(files)
}

/// Those of the files, without what is said there about talking.
pub fn settings_files() -> Result<Vec<(PathBuf, Table)>, Failure> {
    let without = |(path, table): (PathBuf, Table)| {
        (path, table.into_iter().filter(|(key, _)| !KEYS.contains(&key.as_str())).collect())
    };
    Ok(files()?.into_iter().map(without).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_fields() {
        for key in KEYS {
            let value = match key {
                "progress" => "\"plain\"",
                "json" | "quiet" => "true",
                "verbose" => "1",
                "log_level" => "\"warn\"",
                _ => "\"never\"",
            };
            let table: Table = format!("{key} = {value}").parse().unwrap();
            job::read_keys::<Reporting>("setting", table).unwrap();
        }
        let fault = job::read_keys::<Reporting>("setting", "no_progress = true".parse().unwrap()).unwrap_err().line();
        for key in KEYS {
            assert!(fault.contains(key), "{key}: {fault}");
        }
    }

    #[test]
    fn the_nearer_word_counts() {
        let read = |text: &str| job::read_keys::<Reporting>("setting", text.parse().unwrap()).unwrap();
        let both =
            read("quiet = true\nlog_level = \"debug\"").or(read("verbose = 2\nlog_level = \"warn\"\njson = true"));
        let report = both.report().unwrap();
        assert_eq!((report.quiet, report.verbose, report.json), (true, false, true));
        assert_eq!(report.log_level, log::Level::Debug);
        let report = read("verbose = 1").or(read("quiet = true")).report().unwrap();
        assert_eq!((report.quiet, report.verbose), (false, true));
    }
}
