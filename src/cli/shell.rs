//! `completions`, `man`: both made from the flags themselves.

use crate::run::{Code, Failure, print};
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man as Page;

const COMPLETIONS: &str = "\
Examples:
  vidgen completions bash > ~/.local/share/bash-completion/completions/vidgen
  vidgen completions zsh > ~/.zfunc/_vidgen
  vidgen completions fish > ~/.config/fish/completions/vidgen.fish";

const MAN: &str = "\
Examples:
  vidgen man | man -l -
  vidgen man generate | man -l -
  vidgen man > ~/.local/share/man/man1/vidgen.1";

#[derive(Debug, clap::Args)]
#[command(after_help = COMPLETIONS)]
pub struct Completions {
    /// Shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

#[derive(Debug, clap::Args)]
#[command(after_help = MAN)]
pub struct Man {
    /// The page of one command instead of the whole program's
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

/// Prints the completions of a shell for `command`, the whole program's.
pub fn completions(args: Completions, mut command: Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "vidgen", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Prints a manual page in roff.
pub fn man(args: Man, command: Command) -> Result<(), Failure> {
    print(&page(args.command.as_deref(), command)?)
}

fn page(name: Option<&str>, mut command: Command) -> Result<String, Failure> {
    // global flags reach the subcommands, and subcommands get their full names, only when the command is built
    command.build();
    let mut page = command.clone();
    if let Some(name) = name {
        let Some(found) = command.find_subcommand(name) else {
            let known: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
            let message = format!("there is no command {name:?}; known: {}", known.join(", "));
            return Err(Failure::message(Code::Usage, message));
        };
        let full = format!("vidgen-{}", found.get_name());
        page = found.clone().display_name(full);
    }
    let mut roff = Vec::new();
    Page::new(page).render(&mut roff)?;
    Ok(String::from_utf8_lossy(&roff).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, ValueEnum};

    #[derive(clap::Parser)]
    #[command(name = "vidgen", about = "videos")]
    enum Program {
        /// Prints completions
        Completions(Completions),
        Man(Man),
    }

    #[test]
    fn every_shell_has_completions() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Program::command(), "vidgen", &mut script);
            assert!(String::from_utf8(script).unwrap().contains("completions"), "{shell}");
        }
    }

    #[test]
    fn pages_are_roff() {
        let whole = page(None, Program::command()).unwrap();
        assert!(whole.contains(".TH vidgen 1") && whole.contains("Prints completions"), "{whole}");
        let one = page(Some("completions"), Program::command()).unwrap();
        assert!(one.contains(".TH vidgen-completions 1") && one.contains("SHELL"), "{one}");
        let failure = page(Some("complete"), Program::command()).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.line().contains("known: completions, man"), "{}", failure.line());
    }
}
