//! How a command talks: what was asked for by flags, environment and files, and what comes of it.

use super::usage;
use crate::job::{self, Settings, values::text};
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
    /// What the project's and the user's file say beside it, the one that counts more first.
    files: Vec<(PathBuf, Table)>,
}

impl Reporting {
    /// With what the project's and the user's file say below it.
    ///
    /// # Errors
    /// Files that cannot be read, and flags of the `program` in them that are no settings: a file says how things are done,
    /// not what.
    pub fn settled(self, program: &clap::Command) -> Result<Report, Failure> {
        let (mut reporting, keys) = (self, keys());
        let mut files = Vec::new();
        for (path, table) in config::read()? {
            if let Some((key, flag)) = table.keys().find_map(|key| Some((key, usage::no_setting(program, key)?))) {
                let message =
                    format!("{}: {key} is no setting of a project: give {flag} on the command line", path.display());
                return Err(Failure::message(Code::Usage, message));
            }
            let (own, rest): (Table, Table) = table.into_iter().partition(|(key, _)| keys.contains(key));
            let below = job::read_keys("setting", own).with_context(|| path.display().to_string()).code(Code::Usage)?;
            reporting = reporting.or(below);
            files.push((path, rest));
        }
        Ok(Report { files, ..reporting.report()? })
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
            files: Vec::new(),
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
    /// The settings of the project's file, and below them the user's.
    pub fn settings(&self) -> Result<Settings, Failure> {
        settings_of(&self.files)
    }

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

/// The settings of some files, the upper ones first, each with what it says beside [`Reporting`].
fn settings_of(files: &[(PathBuf, Table)]) -> Result<Settings, Failure> {
    let read = |(path, table): &(PathBuf, Table)| {
        job::read_settings(table.clone()).with_context(|| path.display().to_string()).code(Code::Usage)
    };
    files.iter().try_fold(Settings::default(), |above, file| Ok(above.or(read(file)?)))
}

/// Reads the settings of the project's and the user's file, for a command that was not kept from its work by them.
pub fn check_files() -> Result<(), Failure> {
    let keys = keys();
    let files = config::read()?
        .into_iter()
        .map(|(path, table)| (path, table.into_iter().filter(|(key, _)| !keys.contains(key)).collect::<Table>()));
    settings_of(&files.collect::<Vec<_>>()).map(|_| ())
}

/// The keys of [`Reporting`] in files.
fn keys() -> Vec<String> {
    let flags = <Reporting as clap::Args>::augment_args(clap::Command::new(""));
    flags.get_arguments().filter(|arg| !arg.is_hide_set()).map(|arg| arg.get_id().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_fields() {
        for key in keys() {
            let value = match key.as_str() {
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
        for key in keys() {
            assert!(fault.contains(&key), "{key}: {fault}");
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
