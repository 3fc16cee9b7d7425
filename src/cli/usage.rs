//! What all flags have in common, and what a wrong one is told.

use super::words;
use crate::job::Settings;
use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Args, Command, Error, Id};
use std::ffi::OsString;

/// Settings that stand for all in what is told below the help of commands that have some: the first one of a command's.
const EXAMPLES: [(&str, &str); 3] = [("steps", "20"), ("crf", "20"), ("keep", "true")];

/// Told below the help of commands with settings.
fn variables(command: &Command) -> Option<String> {
    let has = |name: &str| command.get_arguments().any(|arg| arg.get_id() == name && !arg.is_hide_set());
    let (name, value) = EXAMPLES.into_iter().find(|(name, _)| has(name))?;
    let typed = if value == "true" { String::new() } else { format!(" {value}") };
    let variable = variable(name);
    Some(format!(
        "Every flag has an environment variable, and a key in vidgen.toml where it is a setting: --{name}{typed} is {variable}={value} and \
         {name} = {value}."
    ))
}

/// Adds to the flags of a program what no single one should have to say: spellings with underscores, environment variables
/// `VIDGEN_<NAME>` (an empty one counts as none).
pub fn completed(command: Command) -> Command {
    let after = command.get_after_help().map(ToString::to_string);
    let command = match after.zip(variables(&command)) {
        Some((after, variables)) => command.after_help(format!("{after}\n\n{variables}")),
        None => command,
    };
    command.mut_args(completed_arg).mut_subcommands(completed)
}

/// Leaves a flag out of the help of a command that refuses it.
pub fn hidden(arg: Arg, refused: impl Fn(&Id) -> bool) -> Arg {
    let hide = refused(arg.get_id());
    if hide { arg.hide(true) } else { arg }
}

fn completed_arg(arg: Arg) -> Arg {
    let Some(long) = arg.get_long().map(str::to_owned) else { return arg };
    if ["help", "version"].contains(&long.as_str()) {
        return arg;
    }
    let mut names: Vec<String> = arg.get_all_aliases().unwrap_or_default().into_iter().map(str::to_owned).collect();
    names.insert(0, long.clone());
    let spelt = names.iter().map(|name| name.replace('-', "_"));
    let mut more: Vec<String> = spelt.filter(|name| !names.contains(name)).collect();
    more.dedup();
    let arg = arg.aliases(more.into_iter().map(fixed)).hide_env(true);
    // -1 is a value, for the flag to judge, and no flag of its own
    let valued = arg.get_action().takes_values() && arg.get_num_args().is_none_or(|range| range.max_values() > 0);
    let arg = if valued && !arg.is_allow_hyphen_values_set() { arg.allow_negative_numbers(true) } else { arg };
    let variable = variable(&long);
    match std::env::var_os(&variable) {
        Some(value) if !value.is_empty() => arg.env(fixed(variable)),
        _ => arg.env(Resettable::Reset),
    }
}

/// The flag of which `key` would be the key, where it is one of a command of the program and no setting.
pub fn no_setting(program: &Command, key: &str) -> Option<String> {
    let settings = Settings::augment_args(Command::new(""));
    // flags of the whole program say how it talks, and are settings as well
    if settings.get_arguments().chain(program.get_arguments()).any(|arg| arg.get_id() == key) {
        return None;
    }
    let long = key.replace('_', "-");
    let own = program.get_subcommands().flat_map(Command::get_arguments);
    own.into_iter().any(|arg| arg.get_long() == Some(&long)).then(|| format!("--{long} ({})", variable(&long)))
}

/// A command line whose environment yields to what was typed: a variable of a flag that cannot stand beside a typed one is
/// not looked at.
pub fn yielding(command: Command, words: &[OsString]) -> Command {
    let (own, _) = asked(&command, words);
    let set = own.get_arguments().chain(command.get_arguments()).filter(|arg| arg.get_env().is_some());
    let set: Vec<Id> = set.map(|arg| arg.get_id().clone()).collect();
    let beaten = |id: &Id| {
        let alone = silenced(command.clone(), &|arg| arg.get_id() != id).try_get_matches_from(words);
        alone.is_err_and(|error| error.kind() == ErrorKind::ArgumentConflict)
    };
    let beaten: Vec<Id> = set.into_iter().filter(beaten).collect();
    silenced(command, &|arg| beaten.contains(arg.get_id()))
}

/// The command that words ask for, and its full name, as `vidgen model show`.
fn asked<'c>(program: &'c Command, words: &[OsString]) -> (&'c Command, String) {
    let (mut command, mut name) = (program, program.get_name().to_owned());
    for word in words.iter().skip(1) {
        if let Some(next) = word.to_str().and_then(|word| command.find_subcommand(word)) {
            (command, name) = (next, format!("{name} {}", next.get_name()));
        }
    }
    (command, name)
}

/// A command whose chosen flags have no environment variables.
fn silenced(command: Command, chosen: &dyn Fn(&Arg) -> bool) -> Command {
    let silent = |arg: Arg| if chosen(&arg) { arg.env(Resettable::Reset) } else { arg };
    command.mut_args(silent).mut_subcommands(|command| silenced(command, chosen))
}

/// The environment variable of a flag.
fn variable(long: &str) -> String {
    format!("VIDGEN_{}", long.to_ascii_uppercase().replace('-', "_"))
}

/// clap wants names that live as long as the program, and the command line is built once.
fn fixed(name: String) -> &'static str {
    Box::leak(name.into_boxed_str())
}

/// A wrong command line in one line: what is wrong, what would be right, where to look.
///
/// `args` are the words that were typed, the program's own name first.
pub fn line(mut error: Error, program: &Command, args: &[OsString]) -> String {
    // where to look is told at the end, and not as usage
    error.remove(ContextKind::Usage);
    let text = error.render().to_string();
    let mut line = String::new();
    for part in text.lines().map(str::trim).filter(|part| !part.is_empty() && !part.starts_with("For more information"))
    {
        let part = part.strip_prefix("error: ").unwrap_or(part);
        let part = part.strip_prefix("tip: ").unwrap_or(part);
        if !line.is_empty() {
            line.push_str(if line.ends_with(':') { " " } else { "; " });
        }
        line.push_str(part);
    }
    for (rust, words) in [
        ("invalid digit found in string", "not a whole number"),
        ("cannot parse integer from empty string", "not a whole number"),
        ("number too large to fit in target type", "too large"),
        ("invalid float literal", "not a number"),
    ] {
        line = line.replace(rust, words);
    }
    line.push_str(&unquoted(&error, args));
    if let Some(variable) = origin(&error, args) {
        line.push_str(&format!(" (from the environment: {variable})"));
    }
    format!("{line}; see {} --help", asked(program, args).1)
}

/// What is said where a word too many is part of a prompt, or another prompt.
fn unquoted(error: &Error, args: &[OsString]) -> String {
    let word = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) if error.kind() == ErrorKind::UnknownArgument && !word.starts_with('-') => {
            word
        }
        _ => return String::new(),
    };
    let mut words = args.iter().skip(1).filter_map(|arg| arg.to_str());
    let Some(command) = words.next() else { return String::new() };
    let plain: Vec<&str> = words.take_while(|word| !word.starts_with('-')).collect();
    if !plain.contains(&word.as_str()) || plain.len() < 2 {
        return String::new();
    }
    match command {
        "multi-prompt" | "multi_prompt" if plain.iter().any(|word| words::is_file(word)) => {
            format!("; one file at a time, or all of them as one: cat {} | vidgen {command} -", plain.join(" "))
        }
        // words without quotes, as each of them is one
        "multi-prompt" | "multi_prompt" if plain.iter().all(|word| !word.contains(char::is_whitespace)) => {
            format!("; each prompt takes its -p, in quotes: vidgen {command} -p {:?} -p ..", plain.join(" "))
        }
        "multi-prompt" | "multi_prompt" => {
            let prompts: Vec<String> = plain.iter().map(|prompt| format!("-p {prompt:?}")).collect();
            format!("; each prompt takes its -p: vidgen {command} {}", prompts.join(" "))
        }
        "generate" | "plan" | "edit" | "attn-map" => {
            format!("; a prompt of several words goes in quotes: vidgen {command} {:?}", plain.join(" "))
        }
        "extend" => {
            format!("; a prompt of several words goes in quotes: vidgen extend {} {:?}", plain[0], plain[1..].join(" "))
        }
        _ => String::new(),
    }
}

/// The environment variable that a wrong value came from, if it did.
fn origin(error: &Error, args: &[OsString]) -> Option<String> {
    let string = |kind| match error.get(kind) {
        Some(ContextValue::String(value)) => Some(value.as_str()),
        _ => None,
    };
    let (flag, value) = (string(ContextKind::InvalidArg)?, string(ContextKind::InvalidValue)?);
    let long = flag.strip_prefix("--")?.split([' ', '[', '=']).next()?;
    let variable = variable(long);
    let set = std::env::var(&variable).is_ok_and(|set| set == value);
    let typed = args.iter().any(|arg| arg.to_string_lossy().contains(value) && !value.is_empty());
    (set && !typed).then_some(variable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        let words = ["ddim", "dpm"];
        let generate = Command::new("generate")
            .arg(Arg::new("vae-chunk").long("vae-chunk").alias("a-b").value_parser(clap::value_parser!(usize)))
            .arg(Arg::new("scheduler").long("scheduler").value_parser(words))
            .arg(Arg::new("prompt").required(true));
        completed(Command::new("vidgen").subcommand_required(true).subcommand(generate))
    }

    fn fault(words: &[&str]) -> String {
        let words = [&["vidgen"], words].concat();
        let args: Vec<OsString> = words.iter().map(OsString::from).collect();
        line(command().try_get_matches_from(words).unwrap_err(), &command(), &args)
    }

    #[test]
    fn underscores_spell_the_same_flags() {
        for flag in ["--vae-chunk", "--vae_chunk", "--a-b", "--a_b"] {
            let matches = command().try_get_matches_from(["vidgen", "generate", "x", flag, "3"]).unwrap();
            let (_, matches) = matches.subcommand().unwrap();
            assert_eq!(matches.get_one::<usize>("vae-chunk"), Some(&3), "{flag}");
        }
        command().debug_assert();
    }

    #[test]
    fn faults_are_one_line() {
        assert_eq!(
            fault(&["generate", "x", "--schedular", "ddim"]),
            "unexpected argument '--schedular' found; a similar argument exists: '--scheduler'; see vidgen generate --help"
        );
        assert_eq!(
            fault(&["generate"]),
            "the following required arguments were not provided: <prompt>; see vidgen generate --help"
        );
        assert_eq!(
            fault(&["generate", "x", "--vae-chunk", "two"]),
            "invalid value 'two' for '--vae-chunk <vae-chunk>': not a whole number; see vidgen generate --help"
        );
        assert_eq!(
            fault(&["generate", "a", "red", "ball"]),
            "unexpected argument 'red' found; a prompt of several words goes in quotes: vidgen generate \"a red ball\"; see vidgen \
             generate --help"
        );
        let text = fault(&["generate", "x", "--vae-chunk", "-3"]);
        assert!(text.starts_with("invalid value '-3' for '--vae-chunk <vae-chunk>'"), "{text}");
        let text = fault(&["generate", "x", "--scheduler", "ddin"]);
        assert!(text.contains("[possible values: ddim, dpm]; a similar value exists: 'ddim'"), "{text}");
        assert!(
            fault(&["genrate"])
                .starts_with("unrecognized subcommand 'genrate'; a similar subcommand exists: 'generate'")
        );
    }
}
