//! `efibed diff`: two memory maps, and what their differences break.

use std::path::PathBuf;

use clap::Args;

use super::input::ReadArguments;
use super::output::Outputs;
use super::results::Look;
use super::{Failure, Status};
use crate::bed::OwnMapper;
use crate::report::diff::Diff;

/// The arguments of `diff`.
#[derive(Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The first memory map, in any known format
    #[arg(value_name = "FIRST")]
    first: PathBuf,

    /// The second one
    #[arg(value_name = "SECOND")]
    second: PathBuf,

    #[command(flatten)]
    read: ReadArguments,

    /// Write everything as JSON to a file, or with `-` to standard output in place of the text
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
}

const ABOUT: &str = "\
Compare two memory maps: what is new, gone or other, and what breaks by that under kexec and hibernation

Maps are compared address by address: how they are cut into descriptors, and their order, is no difference. What a kernel has \
for itself (ConventionalMemory, and what loaders and boot services had) changes with every boot, and is one sum.

SetVirtualAddressMap works once. A kernel that is started by kexec on the second map, and one that was hibernated on the first \
and resumes on the second, need every RUNTIME region where it was and as it was. A layout that computes addresses anew may come \
to others though no region moved. Linux resumes only if the e820 table that its boot stub makes of the map is the same.

The exit status is 0 if nothing of firmware's and nothing in the e820 table changed, and 1 otherwise.";

const EXAMPLES: &str = "\
Examples:
  efibed diff boot-1.log boot-2.log          two boots of one machine
  efibed diff before.txt after.txt --json -  before and after a driver was loaded";

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    let [first, second] = [&arguments.first, &arguments.second];
    let [before, after] = [first, second].map(|path| arguments.read.scenario(path, OwnMapper::LeftOut));
    let (before, after) = (before?, after?);
    let outputs = Outputs::open([arguments.json.as_deref()], &[first, second])?;
    let diff = Diff::new(before.map(), after.map());
    let status = if diff.breaks() { Status::Findings } else { Status::Clean };
    outputs.write(|| diff.text(Look::of_standard_output().paint()), &[&|| diff.to_json()], status)
}
