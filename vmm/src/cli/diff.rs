//! `efibed diff`: two memory maps, and what their differences break.

use std::path::{Path, PathBuf};

use clap::Args;

use super::input::ReadArguments;
use super::output::Outputs;
use super::results::Look;
use super::{Failure, Status};
use crate::bed::OwnMapper;
use crate::memory_map::read_bytes;
use crate::report::diff::Diff;
use crate::report::html;
use crate::report::run_diff::{RunDiff, ToldReport};

/// The arguments of `diff`.
#[derive(Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The first memory map, in any known format; or a run, as `efibed check MAP --json FILE` wrote it
    #[arg(value_name = "FIRST")]
    first: PathBuf,

    /// The second one, of the same kind
    #[arg(value_name = "SECOND")]
    second: PathBuf,

    #[command(flatten)]
    read: ReadArguments,

    /// Write everything as JSON to a file, or with `-` to standard output in place of the text
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,

    /// Of two runs, write a page for a browser: where regions were and where they are, and what is new or gone; `-` as with --json
    #[arg(long, value_name = "FILE|-")]
    html: Option<PathBuf>,
}

const ABOUT: &str = "\
Compare two memory maps: what is new, gone or other, and what breaks by that under kexec and hibernation; or two runs

Maps are compared address by address: how they are cut into descriptors, and their order, is no difference. What a kernel has \
for itself (ConventionalMemory, and what loaders and boot services had) changes with every boot, and is one sum.

SetVirtualAddressMap works once. A kernel that is started by kexec on the second map, and one that was hibernated on the first \
and resumes on the second, need every RUNTIME region where it was and as it was. A layout that computes addresses anew may come \
to others though no region moved. Linux resumes only if the e820 table that its boot stub makes of the map is the same.

Of two runs (files of `efibed check MAP --json FILE`) it says which regions moved, are gone or new, or have other rights or \
another cache type, and which findings are gone or new. A region is the same if its type and its first physical address are; a \
finding, if its rule, phase and region are. Rights and cache types are compared if both files have page tables (`--tables`).

The exit status is 0 if nothing of firmware's and nothing in the e820 table changed, or if two runs are the same; 3 if one run \
tells what the other leaves out, and all else is the same; and 1 otherwise.";

const EXAMPLES: &str = "\
Examples:
  efibed diff boot-1.log boot-2.log          two boots of one machine
  efibed diff before.txt after.txt --json -  before and after a driver was loaded
  efibed diff before.json after.json --html diff.html
                                             two runs of `efibed check MAP --tables --json FILE`";

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    match (told_run(&arguments.first)?, told_run(&arguments.second)?) {
        (None, None) => of_maps(arguments),
        (Some(first), Some(second)) => of_runs(arguments, &first, &second),
        (first, _) => {
            let (run, map) = match first {
                Some(_) => (&arguments.first, &arguments.second),
                None => (&arguments.second, &arguments.first),
            };
            Err(Failure::Input(miette::miette!(
                help = "compare two maps, or two runs: `efibed check MAP --json FILE` writes a run to a file",
                "{} is the report of a run, and {} is none",
                run.display(),
                map.display()
            )))
        }
    }
}

/// The run that a file has, if it is the report of one. What comes from standard input is a map.
fn told_run(path: &Path) -> Result<Option<ToldReport>, Failure> {
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = read_bytes(path).map_err(Failure::input)?;
    let Ok(text) = str::from_utf8(&bytes) else { return Ok(None) };
    ToldReport::read(&path.display().to_string(), text).transpose().map_err(Failure::input)
}

fn of_runs(arguments: &Arguments, first: &ToldReport, second: &ToldReport) -> Result<Status, Failure> {
    if let Some(option) = arguments.read.given().next() {
        let help = "leave it out: both files are reports of runs";
        return Err(Failure::Input(miette::miette!(help = help, "`{option}` is about how a memory map is read")));
    }
    let places = [arguments.json.as_deref(), arguments.html.as_deref()];
    let outputs = Outputs::open(places, &[&arguments.first, &arguments.second])?;
    let [first_name, second_name] = [&arguments.first, &arguments.second].map(|path| path.display().to_string());
    let diff = RunDiff::new((&first_name, first), (&second_name, second));
    let status = match diff.is_empty() {
        false => Status::Findings,
        true if diff.is_partial => Status::Unable,
        true => Status::Clean,
    };
    let results: [&dyn Fn() -> String; 2] = [&|| diff.to_json(), &|| html::of_diff(&diff)];
    outputs.write(|| diff.text(Look::of_standard_output().paint()), &results, status)
}

fn of_maps(arguments: &Arguments) -> Result<Status, Failure> {
    if arguments.html.is_some() {
        let help = "`efibed check MAP --json FILE` writes a run to a file; `efibed show MAP --html FILE` draws one map";
        return Err(Failure::Input(miette::miette!(help = help, "--html is for two runs, and these are maps")));
    }
    let [first, second] = [&arguments.first, &arguments.second];
    let [before, after] = [first, second].map(|path| arguments.read.scenario(path, OwnMapper::LeftOut));
    let (before, after) = (before?, after?);
    let outputs = Outputs::open([arguments.json.as_deref()], &[first, second])?;
    let diff = Diff::new(before.map(), after.map());
    let status = if diff.breaks() { Status::Findings } else { Status::Clean };
    outputs.write(|| diff.text(Look::of_standard_output().paint()), &[&|| diff.to_json()], status)
}
