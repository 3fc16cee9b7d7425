//! Some of the settings of a run, for commands in which the others are settled: the flags are the same ones, and a settled
//! one is refused by name rather than unknown.

use crate::job::Settings;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, Error, FromArgMatches};
use std::marker::PhantomData;

/// A choice of settings.
pub trait Choice {
    /// By the names of their fields.
    const NAMES: &'static [&'static str];
    /// What settles the others, as `the run`.
    const SETTLED: &'static str;
    /// The chosen ones alone: the others may come from the environment, for other commands.
    fn pick(settings: Settings) -> Settings;
}

/// The settings of a choice.
#[derive(Debug)]
pub struct Chosen<C>(pub Settings, PhantomData<C>);

fn others<C: Choice>() -> Vec<String> {
    let all = <Settings as clap::Args>::augment_args(Command::new(""));
    let names = all.get_arguments().map(|arg| arg.get_id().to_string());
    names.filter(|name| !C::NAMES.contains(&name.as_str())).collect()
}

impl<C: Choice> clap::Args for Chosen<C> {
    fn augment_args(command: Command) -> Command {
        let others = others::<C>();
        let hide = |arg: clap::Arg| match others.iter().any(|name| arg.get_id() == name.as_str()) {
            true => arg.hide(true),
            false => arg,
        };
        <Settings as clap::Args>::augment_args(command).mut_args(hide)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<C: Choice> FromArgMatches for Chosen<C> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let typed = |name: &String| matches.value_source(name) == Some(ValueSource::CommandLine);
        if let Some(name) = others::<C>().into_iter().find(typed) {
            let message = format!("--{} has no effect here: it is settled by {}", name.replace('_', "-"), C::SETTLED);
            return Err(Error::raw(ErrorKind::ArgumentConflict, message));
        }
        Ok(Self(C::pick(Settings::from_arg_matches(matches)?), PhantomData))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Makes a choice of settings.
macro_rules! choice {
    ($name:ident, $settled:literal, $($field:ident),* $(,)?) => {
        #[derive(Debug)]
        pub struct $name;

        impl $crate::cli::chosen::Choice for $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];
            const SETTLED: &'static str = $settled;

            fn pick(settings: $crate::job::Settings) -> $crate::job::Settings {
                $crate::job::Settings { $($field: settings.$field,)* ..Default::default() }
            }
        }
    };
}

pub(crate) use choice;
