//! Some groups of the settings, for commands in which the others are settled: the flags are the same ones, and a settled one is
//! refused by name rather than unknown.

use super::usage::hidden;
use crate::job::{Group, Settings};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, Error, FromArgMatches, Id};
use std::marker::PhantomData;

/// A choice of groups.
pub trait Choice {
    const GROUPS: &'static [Group];
    /// What settles the others, as `the run`.
    const SETTLED: &'static str;
}

/// The settings of a choice. What the environment says about the others is for other commands.
#[derive(Debug)]
pub struct Chosen<C>(pub Settings, PhantomData<C>);

fn settled<C: Choice>(id: &Id) -> bool {
    Settings::group(id.as_str()).is_some_and(|group| !C::GROUPS.contains(&group))
}

impl<C: Choice> clap::Args for Chosen<C> {
    fn augment_args(command: Command) -> Command {
        <Settings as clap::Args>::augment_args(command).mut_args(|arg| hidden(arg, |id| settled::<C>(id)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<C: Choice> FromArgMatches for Chosen<C> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let typed = |id: &&Id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
        if let Some(id) = matches.ids().filter(typed).find(|id| settled::<C>(id)) {
            let flag = id.as_str().replace('_', "-");
            let message = format!("--{flag} has no effect here: it is settled by {}", C::SETTLED);
            return Err(Error::raw(ErrorKind::ArgumentConflict, message));
        }
        Ok(Self(Settings::from_arg_matches(matches)?.only(C::GROUPS), PhantomData))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
