//! `efibed kexec`: whether a second kernel finds firmware where the first one put it.

use std::path::{Path, PathBuf};

use clap::Args;

use super::input::{Options, ReadArguments, named};
use super::limits::Limits;
use super::mapper::Mapper;
use super::progress::{Watching, watched};
use super::results::{DrawnPlaces, Look, Results};
use super::sandbox::Sandbox;
use super::{Failure, Status};
use crate::bed::OwnMapper;
use crate::report::{Report, RunVerdict, html, json};
use crate::{EngineName, Progress, TestBed};

/// The arguments of `kexec`.
#[derive(Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The memory map that firmware gave the first kernel, in any known format, or a scenario
    #[arg(value_name = "FIRST")]
    first: PathBuf,

    /// The memory map that the second kernel sees; boot services are usually gone from it
    #[arg(value_name = "SECOND")]
    second: PathBuf,

    #[command(flatten)]
    read: ReadArguments,

    #[command(flatten)]
    options: Options,

    /// What executes and observes: a KVM guest, or only the software walk, which asks no MMU
    #[arg(long, value_name = "kvm|walker", value_parser = named::<EngineName>(EngineName::NAMES), default_value = "kvm")]
    engine: EngineName,

    #[command(flatten)]
    places: DrawnPlaces,

    #[command(flatten)]
    mapper: Mapper,

    #[command(flatten)]
    limits: Limits,

    #[command(flatten)]
    sandbox: Sandbox,

    #[command(flatten)]
    watching: Watching,
}

const ABOUT: &str = "\
Map a memory map, start a second kernel, and see whether it finds firmware where the first one put it

SetVirtualAddressMap works once: firmware's pointers hold the first kernel's addresses for good. The first kernel maps
FIRST and makes the call; the second maps SECOND without a call. With `--layout linux-fixed`, as in Linux, the first one
has layout `linux` and hands its addresses over, as in setup_data. With any other layout the second one computes its
own. A shorter map may shift them, which is the finding `kexec-moved`. With `--mapper` both kernels have the mapping code
of that file, and `--contract` is what each result is held to.";

const EXAMPLES: &str = "\
Examples:
  efibed kexec boot.log after.log            what each kernel computes by itself
  efibed kexec boot.log after.log --layout linux-fixed
                                             as in Linux: the first hands its addresses over
  efibed kexec boot.log after.log --html page.html --junit results.xml";

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    let Arguments { options, mapper, limits, engine, .. } = arguments;
    let scenario = options.apply(arguments.read.scenario(&arguments.first, mapper.own_mapper(options))?);
    let scenario = limits.apply(mapper.apply(scenario, *engine)?.engine(*engine));
    let second = arguments.read.scenario(&arguments.second, OwnMapper::LeftOut)?.map().clone();
    let maps = [arguments.first.as_path(), &arguments.second];
    let inputs: Vec<&Path> = maps.into_iter().chain(mapper.input(&scenario)).collect();
    let outputs = arguments.places.open(&inputs)?;
    let (look, wanted) = (Look::of_standard_output(), arguments.places.wanted());
    let scenario = scenario.dump_tables(wanted.html);
    let run = |bed: &TestBed, progress: &dyn Fn(Progress)| {
        let mut reports = bed.kexec_telling(&scenario, second, progress)?;
        let [first, second] = &reports;
        let page =
            if wanted.html { html::of_reports("kexec", &[(FIRST, first), (SECOND, second)]) } else { String::new() };
        // They are for the page alone.
        reports.iter_mut().for_each(|report| report.tables.clear());
        let [first, second] = &reports;
        let kernels = [(FIRST, first), (SECOND, second)];
        let text = kernels.iter().map(|(title, report)| format!("\n== {title}\n{}", look.text(report)));
        let text = [format!("{}\n", verdict_of(kernels))].into_iter().chain(text).collect();
        let status = Status::of_all(&reports.each_ref().map(Status::of));
        let results = Results::of(status, text, wanted, || json::kexec_to_json(first, second), &kernels);
        Ok(results.drawn(wanted, || page))
    };
    watched(arguments.watching, |progress| arguments.sandbox.run(*engine, run, progress))?.write(outputs)
}

/// What both come to, and which of them has it.
fn verdict_of(kernels: [(&str, &Report); 2]) -> String {
    let verdict = RunVerdict::of_all(&kernels.map(|(_, report)| report.verdict()));
    let has_it = kernels.iter().filter(|(_, report)| report.verdict() == verdict).map(|(title, _)| *title);
    format!("{verdict}: {}", has_it.collect::<Vec<_>>().join(" and "))
}

const FIRST: &str = "the first kernel";
const SECOND: &str = "the second kernel";
