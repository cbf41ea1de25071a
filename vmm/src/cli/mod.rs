//! The `efibed` command.
//!
//! Human text goes to standard output, notes and progress to standard error, colour only to a terminal unless `--color` says
//! otherwise. From 80 columns up text keeps to the terminal's width; elsewhere prose takes up to 100, and rows of tables stay
//! one line. Exit status: 0 clean, 1 findings, 2 bad input or usage, 3 something that was asked for could not be done, 4
//! internal error.

mod build;
mod check;
mod colour;
mod completions;
mod convert;
mod demo;
mod diff;
mod doctor;
mod explain;
#[cfg(feature = "fuzz")]
mod fuzz;
mod gdb;
mod input;
mod kexec;
mod limits;
mod man;
mod mapper;
mod matrix;
mod message;
mod museum;
mod oops;
mod output;
mod progress;
mod results;
mod sandbox;
mod schema;
mod several;
mod show;
mod shrink;
mod temporary;

use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use miette::{MietteHandlerOpts, ReportHandler as _};
use serde::{Deserialize, Serialize};

use self::colour::Colour;
#[cfg(feature = "unstable")]
pub use self::sandbox::{PIPE, confine};

use self::message::{Colours, tell_styled};
use crate::engine::EngineError;
use crate::guest::{ImageError, LoadError};
use crate::report::{Report, RunVerdict};

/// A test bed for EFI runtime-services mapping code.
///
/// A tiny KVM virtual machine gets a synthesized EFI memory map and a fake firmware. It runs mapping code, loads the page
/// tables that the code built, and asks its MMU about every page.
#[derive(Parser)]
#[command(name = "efibed", version = VERSION, max_term_width = 100, after_help = AFTER_HELP)]
struct Arguments {
    #[command(flatten)]
    colour: Colour,

    #[command(subcommand)]
    command: Option<Command>,
}

/// With the commit, if it was built in a checkout.
const VERSION: &str = env!("EFIBED_VERSION");

const AFTER_HELP: &str = "\
Exit status: 0 clean, 1 findings, 2 bad input or usage, 3 this machine cannot do it,
or something that was asked for was not done (verdict `incomplete`), 4 internal error.
If a scenario expects findings: 0 if exactly those were found, 1 if not.

Text keeps to the terminal's width, from 80 columns up. In a file or a pipe prose
takes up to 100 columns, and each row of a table stays on one line.

Start with:
  efibed                            what it does, shown on a bug of 2013
  efibed doctor                     what this machine's KVM can do
  efibed check MAP                  MAP: a boot log, `memmap` of the UEFI shell, TOML, ...
  efibed show MAP                   its regions, what is odd, and what would be mapped where; needs no KVM
  efibed kexec FIRST SECOND         whether a second kernel finds firmware where the first one put it
  efibed fuzz                       maps that break mapping code
  efibed shrink MAP                 the smallest map that still has the finding
  efibed convert MAP --to toml      a map to edit
  efibed diff FIRST SECOND          what changed from one map to another, and what that breaks
  efibed explain reserved-bit       what a finding means
  efibed oops LOG                   what a page fault in a log means
  efibed museum                     the known bugs of such code, and whether yours has them";

#[derive(Subcommand)]
enum Command {
    /// Show what efibed does, on the bug of October 2013, in a few seconds; `efibed` alone does the same
    Demo(demo::Arguments),
    /// Show a memory map: regions, holes, what is odd about it, and what would be mapped where
    Show(show::Arguments),
    /// Map a memory map in a guest, and ask its MMU about every page
    #[command(visible_alias = "replay")]
    Check(check::Arguments),
    /// Map a memory map, start a second kernel, and see whether it finds firmware where the first one put it
    Kexec(kexec::Arguments),
    /// Compile mapping code in C, C++ or assembler into a program for the guest
    Build(build::Arguments),
    /// Find the smallest map on which a run still has the same finding
    Shrink(shrink::Arguments),
    /// Try memory maps on mapping code, steered by what they show, and keep those that break it
    #[cfg(feature = "fuzz")]
    Fuzz(fuzz::Arguments),
    /// Write a memory map in another format
    Convert(convert::Arguments),
    /// Compare two memory maps: what is new, gone or other, and what breaks by that under kexec and hibernation
    Diff(diff::Arguments),
    /// Explain a rule, a page-fault error code, a table entry, or an address under a map
    Explain(explain::Arguments),
    /// Explain a page fault in a log: whose address, which right, who is to blame; and make the same access in a guest
    Oops(oops::Arguments),
    /// Known bugs of EFI mapping code: told, shown in a guest, and looked for in your code
    Museum(museum::Arguments),
    /// Try every combination of paging's bits in a guest, and compare the results with the SDM
    Matrix(matrix::Arguments),
    /// Print the JSON schema of scenario files: a map, how to map it, with what firmware, and what must be found
    Schema,
    /// Find out, by trying, what this machine's KVM does
    Doctor(doctor::Arguments),
    /// Print a script with which a shell completes commands and options
    Completions(completions::Arguments),
    /// Write manual pages, one for each command
    Man(man::Arguments),
}

/// How a command ended, as an exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
enum Status {
    Clean = 0,
    Findings = 1,
    BadInput = 2,
    Unable = 3,
    Internal = 4,
}

impl Status {
    /// The status of a run. Something that was asked for and not done has the status of what the machine cannot do.
    fn of(report: &Report) -> Self {
        match report.verdict() {
            RunVerdict::Incomplete => Self::Unable,
            _ if report.passes() => Self::Clean,
            _ => Self::Findings,
        }
    }

    /// Of several runs: findings in any come first.
    fn of_all(each: &[Self]) -> Self {
        let worst_first = [Self::Internal, Self::Findings, Self::BadInput, Self::Unable];
        worst_first.into_iter().find(|status| each.contains(status)).unwrap_or(Self::Clean)
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status as u8)
    }
}

/// Runs the command line; the first argument is the program's own name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    Colour::asked_for_in(&arguments).choose();
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            return usage(&error).unwrap_or_else(Failure::tell).into();
        }
    };
    arguments.colour.choose();
    let command = arguments.command.unwrap_or_else(|| Command::Demo(demo::Arguments::default()));
    let ended = match &command {
        Command::Demo(arguments) => demo::run(arguments),
        Command::Show(arguments) => show::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Kexec(arguments) => kexec::run(arguments),
        Command::Build(arguments) => build::run(arguments),
        Command::Shrink(arguments) => shrink::run(arguments),
        #[cfg(feature = "fuzz")]
        Command::Fuzz(arguments) => fuzz::run(arguments),
        Command::Convert(arguments) => convert::run(arguments),
        Command::Diff(arguments) => diff::run(arguments),
        Command::Explain(arguments) => explain::run(arguments),
        Command::Oops(arguments) => oops::run(arguments),
        Command::Museum(arguments) => museum::run(arguments),
        Command::Matrix(arguments) => matrix::run(arguments),
        Command::Schema => schema::run(),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Completions(arguments) => completions::run(arguments),
        Command::Man(arguments) => man::run(arguments),
    };
    ended.unwrap_or_else(|failure| failure.tell()).into()
}

/// Prints the help that was asked for, to standard output, or tells what is wrong with the arguments, which it quotes.
fn usage(error: &clap::Error) -> Result<Status, Failure> {
    let text = error.render();
    let shown = |colours| match colours {
        Colours::Some => text.ansi().to_string(),
        Colours::None => text.to_string(),
    };
    if error.use_stderr() {
        let colours = output::colours_of_errors();
        tell_styled(shown(colours).trim_end(), colours);
        return Ok(Status::BadInput);
    }
    output::print(&shown(output::colours()))?;
    Ok(Status::Clean)
}

/// Why a command failed.
enum Failure {
    /// The input, with the place that is wrong.
    Input(miette::Report),
    /// The machine or this program.
    Engine(EngineError),
    /// Standard output or a file could not be written.
    Output(String),
    /// A child process failed, or could not be made.
    Told { status: Status, words: String },
}

impl Failure {
    /// The input, with the place that is wrong.
    fn input(error: impl miette::Diagnostic + Send + Sync + 'static) -> Self {
        Self::Input(miette::Report::new(error))
    }

    fn tell(self) -> Status {
        let (status, words) = self.in_words();
        tell_styled(&words, output::colours_of_errors());
        status
    }

    /// What is wrong, in a sentence.
    fn in_short(&self) -> String {
        match self {
            Self::Input(report) => report.to_string(),
            Self::Engine(error) => error.to_string(),
            Self::Output(problem) => problem.clone(),
            Self::Told { words, .. } => words.lines().next().unwrap_or_default().trim_start_matches("efibed: ").into(),
        }
    }

    /// What to say of it.
    fn into_words(self) -> String {
        self.in_words().1
    }

    /// The status to end with, and what to say on standard error.
    fn in_words(self) -> (Status, String) {
        match self {
            Self::Input(report) => (Status::BadInput, Picture(report).to_string()),
            Self::Engine(error) => {
                let mut words = format!("efibed: {error:?}");
                if let EngineError::Open(_) = &error {
                    words += "\n  (`--engine walker` needs no KVM: it only walks the tables, and asks no MMU)";
                }
                (status_of(&error), words)
            }
            Self::Output(problem) => (Status::BadInput, format!("efibed: {problem}")),
            Self::Told { status, words } => (status, words),
        }
    }
}

/// An error with the place that is wrong, as miette draws it. Left alone, it finds out by itself whether there is a terminal.
struct Picture(miette::Report);

impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_coloured = output::colours_of_errors() == Colours::Some;
        MietteHandlerOpts::new().color(is_coloured).build().debug(&*self.0, f)
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

fn status_of(error: &EngineError) -> Status {
    match error {
        EngineError::Program(_) => Status::BadInput,
        // The machine has no memory left.
        EngineError::Image(ImageError::Memory(_)) | EngineError::Load(LoadError::Backing(_)) => Status::Unable,
        EngineError::Image(_) | EngineError::Load(_) => Status::Internal,
        _ => Status::Unable,
    }
}
