//! The command line: what was typed. One file per command; what it means is `job`'s.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "speaks to the user")]

mod animate;
mod attn_map;
mod batch;
mod boxes;
mod calibrate;
mod chosen;
mod decode;
mod doctor;
mod downloads;
mod edit;
mod enhance;
mod eval;
mod extend;
mod inspect;
mod mask;
mod model;
mod plan;
mod processors;
mod recipes;
mod render;
mod report;
mod rerun;
mod resume;
mod settle;
mod shell;
mod source;
mod table;
mod usage;
mod words;

use crate::run::{Code, Event, Failure, progress};
use crate::video::{Fault, VideoError};
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use report::{Report, Reporting};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  vidgen generate \"a red ball rolls to the right in a green meadow on a sunny day\" -o ball.mp4
  vidgen multi-prompt prompts/seasons.txt -o seasons.mp4
  vidgen extend seasons.mp4 \"a red ball rests on a beach\" -o longer.mp4
  vidgen animate boat.png \"a boat drifts away\" --model org/image-to-video -o boat.mp4
  vidgen edit ball.mp4 --swap \"red=>blue\" -o blue.mp4
  vidgen generate --model org/model \"a panda plays the guitar in a bamboo forest\"
  vidgen inspect ball.mp4";

/// Long, controlled video generation.
#[derive(Debug, Parser)]
#[command(name = "vidgen", version, about, after_help = EXAMPLES, arg_required_else_help = true, infer_subcommands = false)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    reporting: Reporting,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One clip from one prompt
    Generate(Box<render::Generate>),
    /// One long video from several prompts, in order
    #[command(alias = "multi_prompt")]
    MultiPrompt(Box<render::MultiPrompt>),
    /// One long video from one prompt, or a given video continued
    Extend(Box<extend::Extend>),
    /// A video of given frames: a picture that moves, pictures that lead to each other, the end of a video
    Animate(Box<animate::Animate>),
    /// A given video with a frame between every two, by a video model
    Interpolate(Box<animate::Interpolate>),
    /// Go on with a run that was interrupted or failed
    Resume(Box<resume::Resume>),
    /// List the runs that are kept
    Runs(resume::Runs),
    /// Make the video of kept latents again, with other output settings
    Decode(Box<decode::Args>),
    /// What a video would take: windows, memory, time; nothing is rendered
    Plan(Box<plan::Args>),
    /// Measure what --cache decides by: how much a model's output changes from step to step
    Calibrate(Box<calibrate::Calibrate>),
    /// Many jobs from one file, each network loaded once
    Batch(Box<batch::Args>),
    /// A video again with words swapped or reweighted, or any video changed as it is told
    Edit(Box<edit::Edit>),
    /// A given video made anew in part by a video model: larger and finer, of any length
    Enhance(Box<enhance::Enhance>),
    /// What the network attends to in a run, as pictures and tensors
    #[command(alias = "attn_map")]
    AttnMap(Box<attn_map::AttnMap>),
    /// Print the record of the run that a video carries
    Inspect(inspect::Args),
    /// Make a video again from its record, and compare
    Rerun(Box<rerun::Args>),
    /// Measure videos: consistency, smoothness, fit to their prompts, seams, flicker
    Eval(Box<eval::Args>),
    /// The subject of a video or picture as masks and boxes
    Mask(mask::Args),
    /// Where a subject is to be in each frame: numbers, masks, or a video to look at
    Boxes(boxes::Args),
    /// Look at models
    Model(model::Args),
    /// List the controls of attention and their parameters
    #[command(after_help = processors::EXAMPLES)]
    Processors,
    /// List the recipes: what a run does where nobody says otherwise
    #[command(after_help = recipes::EXAMPLES)]
    Recipes,
    /// List the devices that runs may use
    Devices(doctor::Devices),
    /// Look for what is wrong with this installation
    Doctor(doctor::Doctor),
    /// Print the completions of a shell
    Completions(shell::Completions),
    /// Print the manual page
    Man(shell::Man),
}

/// The whole command line.
fn command() -> clap::Command {
    usage::completed(Cli::command())
}

fn parse() -> Result<Cli, clap::Error> {
    let words = words::typed();
    Cli::from_arg_matches(&usage::yielding(command(), &words).try_get_matches_from(words)?)
}

/// Parses, runs, reports: the exit status of the program.
pub fn main() -> ExitCode {
    words::settle_environment();
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => return not_parsed(error),
    };
    let report = match cli.command {
        // these are for finding out what is wrong, or have nothing to do with a project
        Command::Doctor(_) | Command::Completions(_) | Command::Man(_) => cli.reporting.report(),
        _ => cli.reporting.settled(&command()),
    };
    let report = match report {
        Ok(report) => report,
        Err(failure) => return fail(&failure, &Report::default()),
    };
    downloads::tell(&report);
    let done = match cli.command {
        Command::Generate(args) => args.run(&report),
        Command::MultiPrompt(args) => args.run(&report),
        Command::Extend(args) => args.run(&report),
        Command::Animate(args) => args.run(&report),
        Command::Interpolate(args) => args.run(&report),
        Command::Resume(args) => args.run(&report),
        Command::Runs(args) => args.run(&report),
        Command::Decode(args) => args.run(&report),
        Command::Rerun(args) => args.run(&report),
        Command::Plan(args) => plan::run(*args, &report),
        Command::Calibrate(args) => args.run(&report),
        Command::Batch(args) => batch::run(*args, &report),
        Command::Edit(args) => args.run(&report),
        Command::Enhance(args) => args.run(&report),
        Command::AttnMap(args) => args.run(&report),
        Command::Inspect(args) => inspect::run(args, report.json),
        Command::Eval(args) => eval::run(*args, &report),
        Command::Mask(args) => mask::run(args, &report),
        Command::Boxes(args) => boxes::run(args, &report),
        Command::Model(args) => model::run(args, &report),
        Command::Processors => processors::run(report.json),
        Command::Recipes => recipes::run(report.json),
        Command::Devices(_) => doctor::list(report.json),
        Command::Doctor(_) => doctor::doctor(report.json),
        Command::Completions(args) => shell::completions(args, command()),
        Command::Man(args) => shell::man(args, command()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure, &report),
    }
}

/// Help and version go to standard output and are no failure; a mistake gets one line.
fn not_parsed(error: clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // a reader that went away is no failure either
        let _ = error.print();
        return if error.use_stderr() { ExitCode::from(Code::Usage as u8) } else { ExitCode::SUCCESS };
    }
    let args: Vec<_> = std::env::args_os().collect();
    // nobody is left to tell when even standard error is closed
    let _ = writeln!(std::io::stderr(), "error: {}", usage::line(error, &command(), &args));
    ExitCode::from(Code::Usage as u8)
}

fn fail(failure: &Failure, report: &Report) -> ExitCode {
    if failure.find::<VideoError>().is_some_and(|error| error.fault == Fault::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    let event = Event::Error { code: failure.code as i32, message: failure.line() };
    // a log that cannot be opened has been complained about
    if let Ok(Some(mut log)) = report.log() {
        log.event(&event);
    }
    let line = match report.progress {
        progress::Mode::Json => event.json().to_string(),
        _ if report.color.on(std::io::stderr().is_terminal()) => {
            format!("\u{1b}[1;31merror\u{1b}[0m: {}", failure.line())
        }
        _ => format!("error: {}", failure.line()),
    };
    // nobody is left to tell when even standard error is closed
    let _ = writeln!(std::io::stderr(), "{line}");
    ExitCode::from(failure.code as u8)
}
